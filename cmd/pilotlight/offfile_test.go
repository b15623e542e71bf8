package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
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
