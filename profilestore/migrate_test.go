package profilestore

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// format1 copies testdata/format1: the first 12 profiles of newSource(50), written by the last program of format 1 in
// a sealed file of 6 and an active one of two batches of 3.
func format1(t *testing.T) (dir string, profiles []Encoded) {
	t.Helper()
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "format1"))); err != nil {
		t.Fatal(err)
	}
	return dir, newSource(50).batch(t, 12)
}

func TestMigrate(t *testing.T) {
	dir, profiles := format1(t)
	s := open(t, dir, testOptions())
	wantStored(t, s, profiles...)
	for _, selector := range selectors[:9] {
		checkQuery(t.Context(), t, s, profiles, all(t, selector))
	}
	s = reopen(t, s, testOptions())
	wantStored(t, s, profiles...)
	mustAppend(t, s, profiles...) // IDs came along
	wantStored(t, s, profiles...)
	if left, err := filepath.Glob(filepath.Join(dir, "*.*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, formatFile)); err != nil || string(b) != formatText+"4\n" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestMigrateTwice begins again after a crash at each operation.
func TestMigrateTwice(t *testing.T) {
	dir, profiles := format1(t)
	for n := 1; ; n += 5 {
		disk := newCrashFS()
		for _, name := range []string{formatFile, "000000000001.seg", "000000000001.idx", "000000000002.seg"} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err == nil {
				err = writeFile(disk, "/"+name, b)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		disk.ops, disk.failAt = 0, n
		s, err := Open("/", crashOptions(disk))
		if err == nil {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return // it needs no more operations
		}
		if !errors.Is(err, errCrashed) {
			t.Fatal(err)
		}
		s = open(t, "/", crashOptions(disk.crash()))
		if wantStored(t, s, profiles...); t.Failed() {
			t.Fatalf("crash at operation %d", n)
		}
	}
}

// TestMigrateDamage: a bit that is wrong costs what it is in, and the file is kept.
func TestMigrateDamage(t *testing.T) {
	dir, profiles := format1(t)
	path := filepath.Join(dir, "000000000001.seg")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[bytes.Index(b, profiles[2].Pprof)+20] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, testOptions())
	wantStored(t, s, append(profiles[:2:2], profiles[3:]...)...)
	if aside := files(t, s, quarantineDir); len(aside) != 1 || len(s.Damage()) != 1 {
		t.Errorf("%q, %v", aside, s.Damage())
	}
}
