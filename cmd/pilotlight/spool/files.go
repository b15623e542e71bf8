package spool

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"pilotlight/profilestore"
)

// files are those of the directory, within their limit. All methods may be called
// from many goroutines.
type files struct {
	fs      fileSystem
	max     int64
	metrics *metrics
	log     *slog.Logger
	drops   rate.Sometimes // that are logged

	writing sync.Mutex // held while a file is written: they appear in the order of their numbers

	mu     sync.Mutex // guards what follows
	list   []*file    // batches, by number
	aside  []*file    // damaged ones, by number
	bytes  int64      // of both
	number uint64     // of the last that was made
}

// errFull is the error of a batch that there is no room for, even without all others.
var errFull = errors.New("spool is full")

// openFiles finds out what is there, and removes what was not finished.
func openFiles(fs fileSystem, limit int64, m *metrics, log *slog.Logger) (*files, error) {
	c := &files{fs: fs, max: limit, metrics: m, log: log, drops: rate.Sometimes{First: 3, Interval: time.Minute}}
	entries, err := fs.list()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.name, tmpSuffix) {
			if err := fs.remove(e.name); err != nil {
				return nil, err
			}
			continue
		}
		f, ok := parseName(e.name)
		if !ok {
			continue // not one of these
		}
		f.bytes = e.bytes
		c.number = max(c.number, f.number)
		c.bytes += f.bytes
		if f.suffix == damagedSuffix {
			c.aside = append(c.aside, &f)
			continue
		}
		c.list = append(c.list, &f)
		head, err := fs.read(e.name, headBytes)
		if err == nil {
			f.profiles, err = decodeHead(head, f.bytes)
		}
		if err != nil {
			c.setAside(&f, err)
		}
	}
	for _, list := range [][]*file{c.list, c.aside} {
		slices.SortFunc(list, func(a, b *file) int { return cmp.Compare(a.number, b.number) })
	}
	c.makeRoom(0) // the limit may be another
	return c, nil
}

// put writes a batch. When it returns, the file is there whatever happens. One that is held is not taken until it is
// released.
func (c *files) put(batch []profilestore.Encoded, held bool) (*file, error) {
	b := encode(batch)
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	c.number++
	f := &file{number: c.number, suffix: batchSuffix, bytes: int64(len(b)), profiles: len(batch), held: held}
	c.mu.Unlock()
	if f.bytes > c.max || !c.makeRoom(f.bytes) {
		return nil, errFull
	}
	for {
		err := c.write(f, b)
		if err == nil {
			break
		}
		// A full disk is as a lower limit: the oldest go.
		if (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)) && c.dropOldest() {
			continue
		}
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, f)
	c.bytes += f.bytes
	return f, nil
}

func (c *files) write(f *file, b []byte) error {
	tmp := f.name() + tmpSuffix
	if err := c.fs.write(tmp, b); err != nil {
		return errors.Join(err, c.fs.remove(tmp))
	}
	if err := c.fs.rename(tmp, f.name()); err != nil {
		return errors.Join(err, c.fs.remove(tmp))
	}
	if err := c.fs.sync(); err != nil {
		// It is there, but may not be after a crash: it was not kept.
		return errors.Join(err, c.fs.remove(f.name()))
	}
	return nil
}

// makeRoom drops the oldest files until there is room for so many bytes, and reports whether there is.
func (c *files) makeRoom(bytes int64) bool {
	for c.size()+bytes > c.max {
		if !c.dropOldest() {
			return false
		}
	}
	return true
}

// dropOldest removes what is the least loss: a damaged file, else the oldest that nobody sends. It returns false if
// there is none.
func (c *files) dropOldest() bool {
	c.mu.Lock()
	list := &c.aside
	if len(c.aside) == 0 {
		list = &c.list
	}
	at := slices.IndexFunc(*list, func(f *file) bool { return !f.held })
	if at < 0 {
		c.mu.Unlock()
		return false
	}
	f := (*list)[at]
	*list = slices.Delete(*list, at, at+1)
	c.bytes -= f.bytes
	c.mu.Unlock()
	if f.suffix == batchSuffix {
		c.metrics.dropped.Add(float64(f.profiles))
		c.drops.Do(func() {
			c.log.Warn("spooled profiles dropped: there is no room for all", "profiles", f.profiles, "limit", c.max)
		})
	}
	c.unlink(f)
	return true
}

// unlink removes what is no file of the spool any more. One that stays is sent once more after the next start.
func (c *files) unlink(f *file) {
	if err := c.fs.remove(f.name()); err != nil {
		c.log.Warn("remove spooled profiles", "file", f.name(), "err", err)
	}
}

// forget takes a file off the list of batches. It returns false if it was not there.
func (c *files) forget(f *file) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := slices.Index(c.list, f)
	if at < 0 {
		return false
	}
	c.list = slices.Delete(c.list, at, at+1)
	c.bytes -= f.bytes
	return true
}

// remove removes a file whose profiles are on the server.
func (c *files) remove(f *file) {
	if c.forget(f) {
		c.unlink(f)
	}
}

// take returns the file with the next number after last, else the oldest, for the caller alone; nil if there is none.
func (c *files) take(last uint64) *file {
	c.mu.Lock()
	defer c.mu.Unlock()
	var oldest *file
	for _, f := range c.list {
		if f.held {
			continue
		}
		if f.number > last {
			f.held = true
			return f
		}
		if oldest == nil {
			oldest = f
		}
	}
	if oldest != nil {
		oldest.held = true
	}
	return oldest
}

// release lets others take a file; nil: there was none.
func (c *files) release(f *file) {
	if f == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f.held = false
}

// waiting reports whether there is a file to be taken.
func (c *files) waiting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.list, func(f *file) bool { return !f.held })
}

func (c *files) read(f *file) ([]profilestore.Encoded, error) {
	b, err := c.fs.read(f.name(), f.bytes+1)
	if err != nil {
		return nil, err
	}
	return decode(b)
}

// setAside keeps a damaged file, and counts it, but sends it no more.
func (c *files) setAside(f *file, why error) {
	c.metrics.damaged.Inc()
	c.log.Error("spooled profiles are damaged: the file is set aside", "file", f.name(), "err", why)
	if !c.forget(f) {
		return
	}
	kept := &file{number: f.number, suffix: damagedSuffix, bytes: f.bytes}
	if err := c.fs.rename(f.name(), kept.name()); err != nil {
		c.log.Warn("set damaged profiles aside", "file", f.name(), "err", err)
		return // after the next start it is looked at again
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.aside = append(c.aside, kept)
	c.bytes += kept.bytes
}

func (c *files) size() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes
}

// batches is how many files wait.
func (c *files) batches() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.list)
}

func (c *files) close() error {
	if err := c.fs.close(); err != nil {
		return fmt.Errorf("close spool: %w", err)
	}
	return nil
}
