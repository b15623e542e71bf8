package debuginfod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// note returns a build ID as files have it.
func note(n byte) []byte { return []byte{n, 1, 2, 3, 4, 5, 6, 7} }

// counted is a Fetch that counts, and answers what it has.
type counted struct {
	mu    sync.Mutex
	asked []BuildID
	has   map[BuildID]string
	err   error // for all others; nil: ErrNotFound
}

func (c *counted) fetch(_ context.Context, id BuildID, out *os.File) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, id)
	text, ok := c.has[id]
	if !ok && c.err != nil {
		return c.err
	}
	if !ok {
		return ErrNotFound
	}
	_, err := out.WriteString(text)
	return err
}

func newCache(t *testing.T, f *counted, opts CacheOptions) *Cache {
	t.Helper()
	if opts.Rest == 0 {
		opts.Rest = time.Nanosecond
	}
	c, err := OpenCache(filepath.Join(t.TempDir(), "debuginfod"), f.fetch, opts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// read opens and closes a file and returns what is in it.
func (c *Cache) read(t *testing.T, n byte) (string, error) {
	t.Helper()
	f, err := c.Open(t.Context(), note(n))
	if err != nil {
		return "", err
	}
	defer f.Close()
	return content(t, f), nil
}

func (c *Cache) names(t *testing.T) []string {
	t.Helper()
	all, err := os.ReadDir(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

func (c *Cache) age(t *testing.T, name string, by time.Duration) {
	t.Helper()
	at := time.Now().Add(-by)
	if err := os.Chtimes(filepath.Join(c.dir, name), at, at); err != nil {
		t.Fatal(err)
	}
}

func TestCache(t *testing.T) {
	f := &counted{has: map[BuildID]string{"0101020304050607": "one"}}
	c := newCache(t, f, CacheOptions{})
	for range 3 {
		if got, err := c.read(t, 1); got != "one" || err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
		if _, err := c.read(t, 2); !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, ErrNotFound) {
			t.Fatalf("got %v, want ErrNotFound", err)
		}
	}
	if len(f.asked) != 2 {
		t.Errorf("asked for %v, want each once", f.asked)
	}
	if got, want := c.names(t), []string{"0101020304050607.debug", "0201020304050607.absent"}; !slices.Equal(got, want) {
		t.Errorf("there are %v, want %v", got, want)
	}
	if info, err := os.Stat(c.dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v: others may look into it", info.Mode(), err)
	}
	// A day later the servers may have it.
	c.age(t, "0201020304050607.absent", 25*time.Hour)
	f.has["0201020304050607"] = "two"
	if got, err := c.read(t, 2); got != "two" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if got, want := c.names(t), []string{"0101020304050607.debug", "0201020304050607.debug"}; !slices.Equal(got, want) {
		t.Errorf("there are %v, want %v", got, want)
	}
	if _, err := c.Open(t.Context(), []byte("short")); err == nil {
		t.Error("a build ID of five bytes is asked for")
	}
}

// TestCacheLimit has room for two files, and leaves alone what is not its own.
func TestCacheLimit(t *testing.T) {
	f := &counted{has: make(map[BuildID]string)}
	c := newCache(t, f, CacheOptions{MaxBytes: 25})
	for n := range byte(5) {
		id, err := NewBuildID(note(n))
		if err != nil {
			t.Fatal(err)
		}
		f.has[id] = strings.Repeat("x", 10)
	}
	for _, name := range []string{"notes.txt", partPrefix + "young", partPrefix + "old"} {
		if err := os.WriteFile(filepath.Join(c.dir, name), make([]byte, 100), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.age(t, partPrefix+"old", 48*time.Hour)
	for n := range byte(3) {
		if _, err := c.read(t, n); err != nil {
			t.Fatal(err)
		}
		c.age(t, fmt.Sprintf("%02x01020304050607.debug", n), time.Duration(10-n)*time.Hour)
	}
	if _, err := c.read(t, 1); err != nil { // which makes it the one that was used last
		t.Fatal(err)
	}
	if _, err := c.read(t, 3); err != nil {
		t.Fatal(err)
	}
	want := []string{"0101020304050607.debug", "0301020304050607.debug", "notes.txt", partPrefix + "young"}
	if got := c.names(t); !slices.Equal(got, want) {
		t.Errorf("there are %v, want %v", got, want)
	}
	// One that is larger than all may be is kept alone: it was asked for.
	f.has["0401020304050607"] = strings.Repeat("x", 30)
	if got, err := c.read(t, 4); len(got) != 30 || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if got, want := c.names(t), []string{"0401020304050607.debug", "notes.txt", partPrefix + "young"}; !slices.Equal(got, want) {
		t.Errorf("there are %v, want %v", got, want)
	}
}

// TestCacheAbsentLimit holds that files with build IDs that somebody makes up do not fill the directory.
func TestCacheAbsentLimit(t *testing.T) {
	c := newCache(t, new(counted), CacheOptions{})
	for i := range maxAbsent + 10 {
		name := fmt.Sprintf("%016x%s", i, absentSuffix)
		if err := os.WriteFile(filepath.Join(c.dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.read(t, 0xff); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	if n := len(c.names(t)); n != maxAbsent {
		t.Errorf("%d files, want %d", n, maxAbsent)
	}
}

// TestCacheFailure does not ask servers that are out of order about each file.
func TestCacheFailure(t *testing.T) {
	f := &counted{err: errors.New("connection refused")}
	c := newCache(t, f, CacheOptions{Retry: time.Hour})
	if _, err := c.read(t, 1); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v", err)
	}
	if _, err := c.read(t, 2); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	if len(f.asked) != 1 || len(c.names(t)) != 0 {
		t.Errorf("asked for %v, %v are there", f.asked, c.names(t))
	}
	c.retry = time.Time{}
	f.err = ErrTooLarge // is for this file alone
	for n := range byte(2) {
		if _, err := c.read(t, n); !errors.Is(err, ErrTooLarge) {
			t.Errorf("got %v, want ErrTooLarge", err)
		}
	}
}

// TestCacheConcurrent asks once for what many want, and lets go of those who wait no longer.
func TestCacheConcurrent(t *testing.T) {
	f := &counted{has: map[BuildID]string{"0101020304050607": "one"}}
	c := newCache(t, f, CacheOptions{})
	<-c.turn
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Open(ctx, note(1)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			file, err := c.Open(t.Context(), note(1))
			if err != nil {
				t.Error(err)
				return
			}
			file.Close()
		})
	}
	c.turn <- struct{}{}
	all.Wait()
	if len(f.asked) != 1 {
		t.Errorf("asked for %v, want once", f.asked)
	}
}
