package profilestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// listing is what a directory holds, with times and sizes.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			fmt.Fprintln(&b, path, info.Size(), info.ModTime().UnixNano())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func openReadOnly(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := OpenReadOnly(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestOpenReadOnly reads the directory of a store that goes on working.
func TestOpenReadOnly(t *testing.T) {
	g := newSource(41)
	dir := t.TempDir()
	s := open(t, dir, testOptions())
	var batch []Encoded
	for range 3 {
		more := g.batch(t, 8)
		mustAppend(t, s, more...)
		settle(t, s)
		batch = append(batch, more...)
	}
	inLog := g.batch(t, 8)
	mustAppend(t, s, inLog...)
	batch = append(batch, inLog...)
	before := listing(t, dir)
	r := openReadOnly(t, dir)
	for range 2 {
		for _, selector := range selectors {
			checkQuery(context.Background(), t, r, batch, all(t, selector))
		}
		wantStored(t, r, batch...)
		if now := listing(t, dir); now != before {
			t.Fatalf("the directory was\n%s, is\n%s", before, now)
		}
		// What was read above is deleted: blocks and segments are merged, the log is dropped.
		later := g.batch(t, 8)
		mustAppend(t, s, later...)
		settle(t, s)
		before = listing(t, dir)
	}
	err := r.Append(context.Background(), g.batch(t, 1))
	if e := (*Error)(nil); !errors.As(err, &e) || e.Code != Unavailable {
		t.Errorf("append: %v", err)
	}
	if d := r.Damage(); len(d) > 0 {
		t.Error(d)
	}
}

func TestOpenReadOnlyRefused(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, "old")
	if err := os.CopyFS(old, os.DirFS(filepath.Join("testdata", "format1"))); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o750); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		old: "format 1", empty: "not a profile store", filepath.Join(dir, "none"): "no such file",
		filepath.Join(old, formatFile): "not a directory",
	} {
		before := listing(t, dir)
		if _, err := OpenReadOnly(path, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
		if now := listing(t, dir); now != before {
			t.Errorf("%s: the directory was\n%s, is\n%s", path, before, now)
		}
	}
}
