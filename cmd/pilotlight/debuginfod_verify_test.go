//go:build verify

package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestVerifyDebuginfod takes debug information from the server of elfutils, as Debian has it.
func TestVerifyDebuginfod(t *testing.T) {
	if _, err := exec.LookPath("debuginfod"); err != nil && os.Getenv("REQUIRE_ALL") != "1" {
		t.Skip("debuginfod is not installed")
	}
	program, debug, id := separateDebug(t)
	base := startDebuginfod(t, filepath.Dir(debug), id)
	t.Setenv("DEBUGINFOD_URLS", base)
	cache := t.TempDir()
	addr := symbolAddress(t, program, "main")
	args := []string{"symbols", "--debuginfod", "--cache", cache, program}
	for off := range uint64(12) {
		args = append(args, fmt.Sprintf("%#x", addr+off))
	}
	out, err := inspect(t, args...)
	if err != nil || !strings.Contains(out, " (inlined by) main at ") {
		t.Errorf("%v\n%s", err, out)
	}
	got, err := os.ReadFile(filepath.Join(cache, "debuginfod", id+".debug"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(debug)
	if err != nil || string(got) != string(want) {
		t.Errorf("got %d bytes, want %d, %v", len(got), len(want), err)
	}
	// It has none of the C library here.
	if out, err := inspect(t, "symbols", "--debuginfod", "--cache", cache, "/bin/true", "0x3000"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	absent, err := filepath.Glob(filepath.Join(cache, "debuginfod", "*.absent"))
	if err != nil || len(absent) != 1 {
		t.Errorf("absent is %v, %v, want that of /bin/true", absent, err)
	}
	t.Logf("debuginfod: %d bytes of debug information of build ID %s got, inlined calls named; an absent one remembered", len(got), id)
}

// startDebuginfod starts a server of what is below a directory, and returns its URL once it has a build ID.
func startDebuginfod(t *testing.T, dir, id string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "debuginfod", "-d", filepath.Join(t.TempDir(), "db"), "-p", port, "-F", dir)
	cmd.Env = append(os.Environ(), "DEBUGINFOD_URLS=") // else it asks those
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		cmd.Wait() // it was killed
	})
	base := "http://127.0.0.1:" + port
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		answer, err := http.Get(base + "/buildid/" + id + "/debuginfo")
		if err != nil {
			continue
		}
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			return base
		}
	}
	cancel()
	cmd.Wait()
	t.Fatalf("debuginfod does not have %s:\n%s", id, &said)
	return ""
}
