package main

import (
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"pilotlight/symbolize/debuginfod"
)

// separateDebug builds a C program with a build ID whose debug information is in a file of its own, and returns both
// and the build ID.
func separateDebug(t *testing.T) (program, debug, id string) {
	t.Helper()
	program = compileC(t, "-g", "-Wl,--build-id=sha1")
	debug = filepath.Join(t.TempDir(), "debug") // where nobody looks for it
	for _, args := range [][]string{{"--only-keep-debug", program, debug}, {"--strip-debug", program}} {
		if out, err := exec.Command("objcopy", args...).CombinedOutput(); err != nil {
			t.Fatalf("objcopy %v: %v\n%s", args, err, out)
		}
	}
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	note, err := f.Section(".note.gnu.build-id").Data()
	if err != nil {
		t.Fatal(err)
	}
	return program, debug, fmt.Sprintf("%x", note[16:])
}

// serveDebug starts a server that has these files by build ID, and has DEBUGINFOD_URLS name it.
func serveDebug(t *testing.T, files map[string]http.HandlerFunc) (requests *atomic.Int32) {
	t.Helper()
	requests = new(atomic.Int32)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		id, kind := filepath.Split(strings.TrimPrefix(r.URL.Path, "/buildid/"))
		if serve := files[strings.Trim(id, "/")]; serve != nil && kind == "debuginfo" {
			serve(w, r)
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(s.Close)
	t.Setenv("DEBUGINFOD_URLS", s.URL)
	return requests
}

// TestInspectSymbolsDebuginfod gets what is not on the machine if it is told to, once.
func TestInspectSymbolsDebuginfod(t *testing.T) {
	program, debug, id := separateDebug(t)
	requests := serveDebug(t, map[string]http.HandlerFunc{
		id: func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, debug) },
	})
	addr := symbolAddress(t, program, "main")
	args := []string{"symbols", "--cache", t.TempDir(), program}
	for off := range uint64(12) {
		args = append(args, fmt.Sprintf("%#x", addr+off))
	}
	const want = " (inlined by) main at "
	if out, err := inspect(t, args...); err != nil || strings.Contains(out, want) || requests.Load() != 0 {
		t.Errorf("without --debuginfod there were %d requests, %v:\n%s", requests.Load(), err, out)
	}
	args = append(args, "--debuginfod")
	for range 2 {
		if out, err := inspect(t, args...); err != nil || !strings.Contains(out, want) {
			t.Errorf("%v\n%s\nhas no %q", err, out, want)
		}
	}
	if requests.Load() != 1 {
		t.Errorf("%d requests, want one", requests.Load())
	}
	t.Setenv("DEBUGINFOD_URLS", "")
	if _, err := inspect(t, args...); err == nil || !strings.Contains(err.Error(), "set it, or leave out --debuginfod") {
		t.Errorf("without servers: %v", err)
	}
}

// withBuildID makes an ELF file with a build ID.
func withBuildID(id []byte) []byte {
	note := binary.LittleEndian.AppendUint32(nil, 4)
	note = binary.LittleEndian.AppendUint32(note, uint32(len(id)))
	note = binary.LittleEndian.AppendUint32(note, 3)
	note = append(append(note, "GNU\x00"...), id...)
	return elfWith(map[string][]byte{".note.gnu.build-id": note})
}

// TestFetchFile has servers send what they should not.
func TestFetchFile(t *testing.T) {
	const id = "0011223344556677"
	sound := withBuildID([]byte{0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77})
	send := func(b []byte) http.HandlerFunc { return func(w http.ResponseWriter, _ *http.Request) { w.Write(b) } }
	for _, tt := range []struct {
		name  string
		serve http.HandlerFunc
		is    error
		err   string
	}{
		{name: "sound", serve: send(sound)},
		{name: "none", is: debuginfod.ErrNotFound},
		{name: "not ELF", serve: send([]byte("<html>welcome")), err: "not an ELF file"},
		{name: "of another", serve: send(withBuildID([]byte{1, 2, 3, 4, 5, 6, 7, 8})), err: "sent the file with build ID 0102030405060708 for " + id},
		{name: "without build ID", serve: send(elfWith(nil)), err: "sent the file with build ID  for "},
		{name: "endless, by its own account", is: debuginfod.ErrTooLarge, serve: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000000000000000")
			w.Write(sound)
		}},
		{name: "out of order", serve: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, err: "500 Internal Server Error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			serveDebug(t, map[string]http.HandlerFunc{id: tt.serve})
			out, err := unnamedFile()
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			err = fetchFile(t.Context(), id, out, "test")
			switch {
			case tt.is == nil && tt.err == "":
				got, rerr := io.ReadAll(io.NewSectionReader(out, 0, 1<<20))
				if err != nil || rerr != nil || string(got) != string(sound) {
					t.Errorf("got %d bytes, %v, %v, want %d", len(got), err, rerr, len(sound))
				}
			case err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.err):
				t.Errorf("got %v, want %q %v", err, tt.err, tt.is)
			}
		})
	}
}

// TestFetchChild looks at the child while it waits for a server, and ends it.
func TestFetchChild(t *testing.T) {
	const id = "0011223344556677"
	serveDebug(t, map[string]http.HandlerFunc{id: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }})
	out, err := unnamedFile()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- fetchFile(ctx, id, out, "test") }()
	checkConfined(t, childWith(t, os.Getpid(), "fetch-child"), fetchMemory)
	cancel()
	if err := <-ended; err == nil {
		t.Error("no error")
	}
}
