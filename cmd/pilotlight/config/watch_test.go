package config

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestWatch changes a file in the ways in which files are changed.
func TestWatch(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "pilotlight.yaml")
	write := func(path string) error { return os.WriteFile(path, []byte("read_environ: true\n"), 0o600) }
	ctx, cancel := context.WithCancel(t.Context())
	changes := make(chan struct{}, 100)
	ended := make(chan error, 1)
	go func() { ended <- Watch(ctx, path, func() { changes <- struct{}{} }) }()
	wait := func(what string) {
		t.Helper()
		select {
		case <-changes:
		case <-time.After(3 * settle):
			t.Fatalf("%s: not noticed", what)
		case err := <-ended:
			t.Fatal(err)
		}
	}
	wait("begun")
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"comes to be", func() error { return write(path) }},
		{"written", func() error { return write(path) }},
		{"replaced", func() error {
			if err := write(path + ".new"); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		}},
		{"becomes a link", func() error {
			if err := write(filepath.Join(elsewhere, "a.yaml")); err != nil {
				return err
			}
			if err := os.Symlink(filepath.Join(elsewhere, "a.yaml"), path+".link"); err != nil {
				return err
			}
			return os.Rename(path+".link", path)
		}},
		{"written behind the link", func() error { return write(filepath.Join(elsewhere, "a.yaml")) }},
		{"removed", func() error { return os.Remove(path) }},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		wait(step.name)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := Watch(t.Context(), filepath.Join(dir, "absent", "a.yaml"), func() {}); err == nil {
		t.Error("no error for a directory that is not there")
	}
}
