package profilestore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// copyStore copies a directory as cp does, one file after the other: what a directory held when it was listed, and of
// what is gone by then nothing. between is called when the directory goes on working.
func copyStore(t *testing.T, from, to string, dirs []string, between func()) {
	t.Helper()
	copyFile := func(name string) error {
		in, err := os.Open(filepath.Join(from, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		out, err := os.Create(filepath.Join(to, name))
		if err == nil {
			_, err = io.Copy(out, in)
			err = errors.Join(err, out.Close())
		}
		return errors.Join(err, in.Close())
	}
	var walk func(name string) error
	walk = func(name string) error {
		entries, err := os.ReadDir(filepath.Join(from, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := os.Mkdir(filepath.Join(to, name), 0o750); err != nil {
			return err
		}
		if filepath.Dir(name) == "." { // blocks, symbols, wal
			between()
		}
		for _, e := range entries {
			own := filepath.Join(name, e.Name())
			if e.IsDir() {
				err = walk(own)
			} else {
				err = copyFile(own)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err := copyFile(formatFile); err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if err := walk(dir); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBackup copies a directory while its store writes and merges blocks, in each order that a tool may take: all that
// was acknowledged before is in the copy, once.
func TestBackup(t *testing.T) {
	for i, dirs := range [][]string{
		{walDir, symbolsDir, blocksDir}, {walDir, blocksDir, symbolsDir}, {symbolsDir, walDir, blocksDir},
		{symbolsDir, blocksDir, walDir}, {blocksDir, walDir, symbolsDir}, {blocksDir, symbolsDir, walDir},
	} {
		t.Run(fmt.Sprint(dirs), func(t *testing.T) {
			o := testOptions()
			o.linger = time.Hour
			s := open(t, t.TempDir(), o)
			g := newSource(uint64(50 + i))
			work := func() {
				for range 3 {
					mustAppend(t, s, g.batch(t, 4)...)
					settle(t, s)
				}
				mustAppend(t, s, g.batch(t, 2)...)
			}
			work()
			work()
			before := stored(t, s)
			to := filepath.Join(t.TempDir(), "copy")
			if err := os.Mkdir(to, 0o750); err != nil {
				t.Fatal(err)
			}
			copyStore(t, s.dir, to, dirs, work)
			check := func(s *Store) {
				t.Helper()
				got := stored(t, s)
				for id := range before {
					if !got[id] {
						t.Errorf("%s is not in the copy", id)
					}
				}
			}
			check(openReadOnly(t, to))
			restored := open(t, to, testOptions())
			check(restored)
			settle(t, restored)
			mustAppend(t, restored, g.batch(t, 3)...)
			settle(t, restored)
			check(reopen(t, restored, testOptions()))
			t.Logf("%d profiles were there before, %d after; %d in the copy", len(before), len(stored(t, s)), len(stored(t, openReadOnly(t, to))))
		})
	}
}

// TestLingering removes what was replaced when its time is over, when it is too much and when the disk is full.
func TestLingering(t *testing.T) {
	g := newSource(57)
	o := testOptions()
	o.linger = time.Hour
	o.RetentionBytes = 1 << 30
	s := open(t, t.TempDir(), o)
	fill := func() {
		for range fanIn {
			mustAppend(t, s, g.batch(t, 4)...)
			settle(t, s)
		}
	}
	count := func() int {
		return len(files(t, s, blocksDir)) + len(files(t, s, symbolsDir)) + len(files(t, s, walDir))
	}
	served := func() int { return len(s.blocks) + len(s.segments) + 1 }
	fill()
	if count() < served()+fanIn*3 {
		t.Errorf("%d files and directories, %d are served", count(), served())
	}
	s.full.Store(true)
	settle(t, s)
	if count() != served() {
		t.Errorf("the disk is full: %d, %d are served", count(), served())
	}
	fill()
	s.o.RetentionBytes = 10 << 10 // as if what lingers were a thousand times as large
	if err := s.removeLingering(); err != nil {
		t.Error(err)
	}
	sum := int64(0)
	for _, l := range s.lingering {
		if !l.log {
			sum += l.bytes
		}
	}
	if sum > s.largestMerge() || len(s.lingering) == 0 {
		t.Errorf("%d bytes of %d files linger, at most %d may", sum, len(s.lingering), s.largestMerge())
	}
	s.o.RetentionBytes = 1 << 30
	s.o.linger = time.Nanosecond
	settle(t, s)
	if count() != served() {
		t.Errorf("time is over: %d, %d are served", count(), served())
	}
}
