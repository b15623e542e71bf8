package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestOffFile makes and removes the file under each form of its path, at last faster than anybody could follow.
func TestOffFile(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, path := range []string{filepath.Join(dir, "off"), "off", dir + "//off"} {
		switched := make(chan bool, 10_000)
		stop, err := watchOffFile(path, func(on bool) { switched <- on }, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		flip := func(off bool) {
			t.Helper()
			err := os.Remove(path)
			if off {
				err = os.WriteFile(path, nil, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		until := func(want bool) {
			t.Helper()
			for deadline := time.After(5 * time.Second); ; {
				select {
				case on := <-switched:
					if on == want && len(switched) == 0 {
						return
					}
				case <-deadline:
					t.Fatalf("%s: sampling is not %t", path, want)
				}
			}
		}
		flip(true)
		until(false)
		flip(false)
		until(true)
		for range 1000 {
			flip(true)
			flip(false)
		}
		flip(true)
		until(false)
		stop()
		flip(false)
	}
	// One that is there already counts; one whose directory is not there, never.
	if err := os.WriteFile("off", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"off": 1, "absent/off": 0} {
		calls := 0
		stop, err := watchOffFile(path, func(bool) { calls++ }, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		stop()
		if calls != want {
			t.Errorf("%s: switched %d times at the start, want %d", path, calls, want)
		}
	}
}

// TestOffFileForbidden has the directory be one that only others may read: the agent starts all the same.
func TestOffFileForbidden(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "others")
	if err := os.Mkdir(dir, 0o300); err != nil {
		t.Fatal(err)
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and lost with this goroutine
		if os.Geteuid() == 0 {
			if err := unix.Setfsuid(65534); err != nil {
				result <- err
				return
			}
		}
		stop, err := watchOffFile(filepath.Join(dir, "off"), func(bool) {}, slog.New(slog.DiscardHandler))
		if err == nil {
			stop()
		}
		result <- err
	}()
	if err := <-result; err != nil {
		t.Error(err)
	}
}
