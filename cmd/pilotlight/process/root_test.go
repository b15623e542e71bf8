package process

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRootKeepsInside opens what a process may put in its root to be opened.
func TestRootKeepsInside(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "secret")
	root := filepath.Join(dir, "root")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(outside, []byte("outside"), 0o600))
	must(os.MkdirAll(filepath.Join(root, "usr"), 0o755))
	must(os.WriteFile(filepath.Join(root, "usr/file"), []byte("inside"), 0o600))
	must(os.Symlink("/usr/file", filepath.Join(root, "link")))
	must(os.Symlink(outside, filepath.Join(root, "out")))
	must(os.Symlink("../../../../../../../.."+outside, filepath.Join(root, "up")))
	must(unix.Mkfifo(filepath.Join(root, "pipe"), 0o600))
	r, err := OpenRootDir(root)
	must(err)
	defer r.Close()
	for _, tt := range []struct {
		name string
		want error
	}{
		{"/usr/file", nil},
		{"usr/file", nil},
		{"link", nil},
		{"out", fs.ErrNotExist},
		{"up", fs.ErrNotExist},
		{"pipe", errNotRegular},
		{"usr", errNotRegular},
	} {
		f, err := r.Open(tt.name)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
		if err == nil {
			text := make([]byte, 10)
			if n, _ := f.Read(text); string(text[:n]) != "inside" {
				t.Errorf("%s holds %q", tt.name, text[:n])
			}
			f.Close()
		}
	}
}

func TestOpenRoot(t *testing.T) {
	proc := os.DirFS("/proc")
	p, err := Read(proc, uint32(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	r, err := OpenRoot(proc, "/proc", p.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	another := p.Key
	another.Start += 1e9
	if _, err := OpenRoot(proc, "/proc", another); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another process of that pid: got %v, want fs.ErrNotExist", err)
	}
}
