package main

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"
)

// inspect runs the command line `inspect args...`.
func inspect(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var c inspectCmd
	parser, err := kong.New(&c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := parser.Parse(args)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	err = ctx.Run(&globals{stdout: &out, stderr: io.Discard})
	return out.String(), err
}

// here returns the program counters of its caller and of its caller's caller, as runtime.Callers does.
func here() []uintptr {
	pcs := make([]uintptr, 2)
	runtime.Callers(2, pcs)
	return pcs
}

func inlined() []uintptr { return here() }

//go:noinline
func caller() []uintptr { return inlined() }

// TestInspectSymbols compares with what the Go runtime says about this program.
func TestInspectSymbols(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file, err := elf.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if file.Type != elf.ET_EXEC {
		t.Fatal("this test takes pcs for addresses: build it without -buildmode=pie")
	}
	pcs := caller()
	// What precedes a return address belongs to the call.
	addr := fmt.Sprintf("%#x", pcs[0]-1)
	type frame struct {
		Function   string `json:"function"`
		SystemName string `json:"system_name"`
		File       string `json:"file"`
		Line       int    `json:"line"`
		StartLine  int    `json:"start_line"`
		Source     string `json:"source"`
	}
	type address struct {
		Address string  `json:"address"`
		Frames  []frame `json:"frames"`
	}
	want := address{Address: addr}
	text := addr + ": "
	for frames, more := runtime.CallersFrames(pcs), true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		start := f.Line // the functions here are written on one line
		want.Frames = append(want.Frames, frame{f.Function, f.Function, f.File, f.Line, start, "pclntab"})
		if len(want.Frames) > 1 {
			text += " (inlined by) "
		}
		text += fmt.Sprintf("%s at %s:%d\n", f.Function, f.File, f.Line)
	}
	if len(want.Frames) != 2 {
		t.Fatalf("the runtime sees %+v, want an inlined call and its caller", want.Frames)
	}

	for _, arg := range []string{addr, strings.TrimPrefix(addr, "0x"), strings.ToUpper(addr)} {
		got, err := inspect(t, "symbols", self, arg, "1")
		if err != nil || got != text+"0x1: ??\n" {
			t.Errorf("%s: got %v\n%s\nwant\n%s", arg, err, got, text)
		}
	}
	out, err := inspect(t, "symbols", "--json", self, addr, "1")
	if err != nil {
		t.Fatal(err)
	}
	var got []address
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if wants := []address{want, {"0x1", []frame{}}}; fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", wants) {
		t.Errorf("got  %+v\nwant %+v", got, wants)
	}
	if strings.Contains(out, "null") {
		t.Errorf("an address without a name has null for frames: %s", out)
	}
}

func TestInspectSymbolsErrors(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, file, addr, want string }{
		{"no file", filepath.Join(dir, "none"), "1", "none: no such file or directory"},
		{"directory", dir, "1", dir + ": not a regular file: give an executable"},
		{"pipe", pipe, "1", "pipe: not a regular file: give an executable"},
		{"text", write("text", "#!/bin/sh\n"), "1", "text: not an ELF file: give an executable"},
		{"empty", write("empty", ""), "1", "empty: not an ELF file: give an executable"},
		{"truncated", write("truncated", "\x7fELF\x02\x01\x01"), "1", "truncated"},
		{"name for address", "any", "main", `address "main": give up to 16 hexadecimal digits`},
		{"sign", "any", "+1", `address "+1": give`},
		{"0x alone", "any", "0x", `address "0x": give`},
		{"large address", "any", "10000000000000000", `address "10000000000000000": give up to 16`},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := inspect(t, "symbols", test.file, test.addr)
			if out != "" {
				t.Errorf("printed %q", out)
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line with %q", err, test.want)
			}
		})
	}
}
