package debuginfod

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A Cache's directory has, named by build IDs:
//
//	HEX.debug    debug information; the time of its last use is its modification time
//	HEX.absent   empty: no server had it at its modification time
//	part-*       what is being got
//
// What has other names is left alone.
const (
	debugSuffix  = ".debug"
	absentSuffix = ".absent"
	partPrefix   = "part-"
)

const (
	// maxAbsent bounds the build IDs that are remembered as absent: anybody can make files with new ones.
	maxAbsent = 4096
	// partLife is after how long a part belongs to nobody any more: Timeout is far less.
	partLife = 24 * time.Hour
)

// Fetch writes the debug information of a build ID to out, an empty file. The error is ErrNotFound if the servers
// that there are say that they have none.
type Fetch func(ctx context.Context, id BuildID, out *os.File) error

// CacheOptions are the bounds of a Cache.
type CacheOptions struct {
	MaxBytes int64         // of all files, without the one that is being got; 0 is 4 GiB
	Absent   time.Duration // for how long nobody is asked for what was not there; 0 is 24 hours
	// Rest is the least time between the ends of two requests, and Retry that after one that failed for another reason
	// than ErrNotFound, as servers that do not answer do so for all files. 0 is one second, and one minute.
	Rest, Retry time.Duration
}

// ErrUnavailable is wrapped by the error of what was not asked for because the servers failed shortly before.
var ErrUnavailable = errors.New("debuginfod servers failed shortly before")

// Cache keeps debug information in a directory. It gets one file at a time, and may be used by several goroutines
// and processes at once.
type Cache struct {
	dir   string
	fetch Fetch
	opts  CacheOptions
	turn  chan struct{} // has a value while nobody fetches

	// What follows belongs to who has the turn.
	rested    time.Time // when the next request may go out
	retry     time.Time // when that may be tried again which failed last
	lastError error
}

// OpenCache returns the cache in a directory, which it makes if it is not there. The directory must be writable for
// the caller alone.
func OpenCache(dir string, fetch Fetch, opts CacheOptions) (*Cache, error) {
	if opts.MaxBytes == 0 {
		opts.MaxBytes = 4 << 30
	}
	opts.Absent = cmp.Or(opts.Absent, 24*time.Hour)
	opts.Rest = cmp.Or(opts.Rest, time.Second)
	opts.Retry = cmp.Or(opts.Retry, time.Minute)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make debuginfod cache: %w", err)
	}
	c := &Cache{dir: dir, fetch: fetch, opts: opts, turn: make(chan struct{}, 1)}
	c.turn <- struct{}{}
	return c, nil
}

// Open returns the debug information of the file with this build ID, from the directory or from the servers. The error
// wraps fs.ErrNotExist if the servers have none, now or when they were asked last, and ErrUnavailable if they were not
// asked. The caller closes the file.
func (c *Cache) Open(ctx context.Context, note []byte) (*os.File, error) {
	id, err := NewBuildID(note)
	if err != nil {
		return nil, err
	}
	if f, err := c.kept(id); f != nil || err != nil {
		return f, err
	}
	select {
	case <-c.turn:
		defer func() { c.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	// Somebody may have got it meanwhile.
	if f, err := c.kept(id); f != nil || err != nil {
		return f, err
	}
	return c.get(ctx, id)
}

// kept returns what the directory has, nil if that is nothing.
func (c *Cache) kept(id BuildID) (*os.File, error) {
	path := c.path(id, debugSuffix)
	f, err := os.Open(path)
	if err == nil {
		// The time is for eviction only, which goes wrong mildly without.
		now := time.Now()
		_ = os.Chtimes(path, now, now)
		return f, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("debuginfod cache: %w", err)
	}
	info, err := os.Stat(c.path(id, absentSuffix))
	if err == nil && time.Since(info.ModTime()) < c.opts.Absent {
		return nil, fmt.Errorf("build ID %s: %w", id, ErrNotFound)
	}
	return nil, nil
}

func (c *Cache) path(id BuildID, suffix string) string {
	return filepath.Join(c.dir, string(id)+suffix)
}

// get asks the servers. The caller has the turn.
func (c *Cache) get(ctx context.Context, id BuildID) (_ *os.File, err error) {
	if time.Now().Before(c.retry) {
		return nil, fmt.Errorf("build ID %s: %w: %w", id, ErrUnavailable, c.lastError)
	}
	select {
	case <-time.After(time.Until(c.rested)):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	part, err := os.CreateTemp(c.dir, partPrefix)
	if err != nil {
		return nil, fmt.Errorf("debuginfod cache: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, part.Close(), removeIfThere(part.Name()))
		}
	}()
	err = c.fetch(ctx, id, part)
	c.rested = time.Now().Add(c.opts.Rest)
	switch {
	case errors.Is(err, ErrNotFound):
		err = errors.Join(err, os.WriteFile(c.path(id, absentSuffix), nil, 0o600), c.trim(id))
		return nil, fmt.Errorf("build ID %s: %w", id, err)
	case err != nil:
		if ctx.Err() == nil && !errors.Is(err, ErrTooLarge) {
			c.retry, c.lastError = time.Now().Add(c.opts.Retry), err
		}
		return nil, fmt.Errorf("build ID %s: %w", id, err)
	}
	if err := c.keep(part, id); err != nil {
		return nil, fmt.Errorf("debuginfod cache: %w", err)
	}
	return part, nil
}

// keep gives what was got its name, and makes room for it.
func (c *Cache) keep(part *os.File, id BuildID) error {
	// A file that lost its end in a crash would be found for as long as it is used.
	if err := part.Sync(); err != nil {
		return err
	}
	if err := os.Rename(part.Name(), c.path(id, debugSuffix)); err != nil {
		return err
	}
	return errors.Join(removeIfThere(c.path(id, absentSuffix)), c.trim(id))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// entry is a file of the cache.
type entry struct {
	name string
	size int64
	used time.Time
}

// trim removes what was not used for longest until the rest is within the bounds. What is new stays.
func (c *Cache) trim(fresh BuildID) error {
	all, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	var debug, absent []entry
	for _, e := range all {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue // it has gone, or is not the cache's
		}
		is := entry{e.Name(), info.Size(), info.ModTime()}
		name, suffix, _ := strings.Cut(is.name, ".")
		switch id, err := ParseBuildID(name); {
		case strings.HasPrefix(is.name, partPrefix) && time.Since(is.used) > partLife:
			if err := removeIfThere(filepath.Join(c.dir, is.name)); err != nil {
				return err
			}
		case err != nil || id == fresh:
		case "."+suffix == debugSuffix:
			debug = append(debug, is)
		case "."+suffix == absentSuffix:
			absent = append(absent, is)
		}
	}
	room := c.opts.MaxBytes
	if info, err := os.Stat(c.path(fresh, debugSuffix)); err == nil {
		room -= info.Size()
	}
	err = c.removeOldest(debug, func(n int, bytes int64) bool { return bytes <= room })
	return errors.Join(err, c.removeOldest(absent, func(n int, _ int64) bool { return n < maxAbsent }))
}

// removeOldest removes entries until fits holds of the number and the bytes of the others.
func (c *Cache) removeOldest(entries []entry, fits func(n int, bytes int64) bool) error {
	slices.SortFunc(entries, func(a, b entry) int { return a.used.Compare(b.used) })
	bytes := int64(0)
	for _, e := range entries {
		bytes += e.size
	}
	for i, e := range entries {
		if fits(len(entries)-i, bytes) {
			return nil
		}
		if err := removeIfThere(filepath.Join(c.dir, e.name)); err != nil {
			return err
		}
		bytes -= e.size
	}
	return nil
}
