package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// loader returns the dynamic linker: a small program with most kinds of rules.
func loader(t *testing.T) string {
	t.Helper()
	for _, path := range []string{"/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	if os.Getenv("REQUIRE_ALL") == "1" {
		t.Fatal("no glibc on this machine")
	}
	t.Skip("no glibc on this machine")
	return ""
}

// readelfRows returns the rows of readelf --debug-dump=frames-interp: by address, the columns by their names. An FDE
// without instructions has no rows there, and none here.
func readelfRows(t *testing.T, path string) map[string]map[string]string {
	t.Helper()
	if _, err := exec.LookPath("readelf"); err != nil && os.Getenv("REQUIRE_ALL") != "1" {
		t.Skip("readelf is not installed")
	}
	out, err := exec.Command("readelf", "--wide", "--debug-dump=frames-interp,no-follow-links", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]map[string]string{}
	var columns []string
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		switch {
		case len(fields) > 1 && fields[0] == "LOC":
			columns = fields[1:]
		case len(fields) == len(columns)+1 && len(fields[0]) == 16:
			row := map[string]string{}
			for i, c := range columns {
				row[c] = fields[i+1]
			}
			rows[fields[0]] = row
		}
	}
	return rows
}

// TestInspectUnwind compares what is printed with readelf.
func TestInspectUnwind(t *testing.T) {
	path := loader(t)
	want := readelfRows(t, path)
	out, err := inspect(t, "unwind", path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	columns := strings.Fields(lines[0])[1:]
	compared := 0
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		row, ok := want[fields[0]]
		if !ok || len(fields) != len(columns)+1 || row["CFA"] == "exp" {
			continue // a gap, an end of a page, or in words that readelf does not have
		}
		compared++
		for i, column := range columns {
			place := row[column]
			if place == "" {
				place = "u" // not saved in the whole function
			}
			if fields[i+1] != place {
				t.Errorf("%q: %s is %s for readelf", line, column, place)
			}
		}
	}
	if compared < 1000 || compared < len(lines)/2 {
		t.Errorf("%d of %d lines are rows of readelf's %d", compared, len(lines), len(want))
	}
}

func TestInspectUnwindAddress(t *testing.T) {
	path := loader(t)
	out, err := inspect(t, "unwind", path)
	if err != nil {
		t.Fatal(err)
	}
	// A row in the middle of the output, by the address that it begins with.
	lines := strings.SplitAfter(out, "\n")
	header, row := lines[0], lines[len(lines)/2]
	got, err := inspect(t, "unwind", path, "0x"+row[:16])
	if err != nil || got != header+row {
		t.Errorf("got %v\n%s\nwant\n%s", err, got, header+row)
	}
	got, err = inspect(t, "unwind", path, "ffffffff00000000", row[:16])
	if want := header + "ffffffff00000000 not code of this file\n" + row; err != nil || got != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, got, want)
	}
	// A file that brings nothing new changes nothing.
	if again, err := inspect(t, "unwind", "--debug", path, path); err != nil || again != out {
		t.Errorf("with itself as its debug file: %v, or other rows", err)
	}
}

func TestInspectUnwindErrors(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(dir, "cut")
	if err := os.WriteFile(cut, []byte("\x7fELF\x02\x01\x01 and no more"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"no file", []string{filepath.Join(dir, "none")}, "none: no such file or directory"},
		{"directory", []string{dir}, dir + ": not a regular file: give an executable"},
		{"text", []string{text}, "text: not an ELF file: give an executable"},
		{"cut", []string{cut}, "read unwind information of " + cut},
		{"debug file", []string{"--debug", text, loader(t)}, "debug file: not an ELF file"},
		{"name for address", []string{loader(t), "main"}, `address "main": give up to 16 hexadecimal digits`},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := inspect(t, append([]string{"unwind"}, test.args...)...)
			if out != "" {
				t.Errorf("printed %q", out)
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line with %q", err, test.want)
			}
		})
	}
}
