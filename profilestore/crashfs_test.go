package profilestore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// crashFS is a file system in memory that loses at a crash what was not synced: bytes of files, and names in
// directories. It can fill up, and fail at the n-th operation that changes something.
//
// What is lost is the harshest of what POSIX allows: of a file all bytes behind its last sync, of a directory all
// names created, renamed or removed since its last sync.
type crashFS struct {
	mu      sync.Mutex
	live    map[string]*crashNode // by path
	durable map[string]*crashNode // names that would be there after a crash
	free    int64                 // bytes that may still be written
	ops     int
	failAt  int  // operation that fails, and all that follow; 0: none
	once    bool // only that one fails
}

var errCrashed = errors.New("disk is gone")

type crashNode struct {
	dir     bool
	data    []byte
	durable []byte
}

func newCrashFS() *crashFS {
	root := &crashNode{dir: true}
	return &crashFS{live: map[string]*crashNode{"/": root}, durable: map[string]*crashNode{"/": root}, free: 1 << 40}
}

// crash gives the file system as it is after a power loss.
func (c *crashFS) crash() *crashFS {
	c.mu.Lock()
	defer c.mu.Unlock()
	after := newCrashFS()
	clear(after.live)
	for name, n := range c.durable {
		if name != "/" && c.durable[filepath.Dir(name)] == nil {
			continue // its directory is lost
		}
		own := &crashNode{dir: n.dir, data: slices.Clone(n.durable), durable: slices.Clone(n.durable)}
		after.live[name] = own
	}
	after.durable = make(map[string]*crashNode, len(after.live))
	for name, n := range after.live {
		after.durable[name] = n
	}
	return after
}

// op counts a change, which may be the one to fail.
func (c *crashFS) op(what, name string) error {
	c.ops++
	if c.failAt > 0 && (c.ops == c.failAt || c.ops > c.failAt && !c.once) {
		return &fs.PathError{Op: what, Path: name, Err: errCrashed}
	}
	return nil
}

func (c *crashFS) Create(name string) (file, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.op("create", name); err != nil {
		return nil, err
	}
	if c.live[name] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	if c.live[filepath.Dir(name)] == nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrNotExist}
	}
	n := new(crashNode)
	c.live[name] = n
	return &crashFile{c, n, name}, nil
}

func (c *crashFS) Open(name string) (file, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.live[name]
	if n == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &crashFile{c, n, name}, nil
}

func (c *crashFS) ReadFile(name string) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.live[name]
	if n == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return slices.Clone(n.data), nil
}

func (c *crashFS) ReadDir(name string) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live[name] == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	var names []string
	for path := range c.live {
		if path != "/" && filepath.Dir(path) == name {
			names = append(names, filepath.Base(path))
		}
	}
	slices.Sort(names)
	return names, nil
}

func (c *crashFS) Mkdir(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.op("mkdir", name); err != nil {
		return err
	}
	if c.live[name] == nil {
		c.live[name] = &crashNode{dir: true}
	}
	return nil
}

func (c *crashFS) Rename(from, to string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.op("rename", from); err != nil {
		return err
	}
	if c.live[from] == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	if c.live[to] != nil && c.live[to].dir {
		return &fs.PathError{Op: "rename", Path: to, Err: fs.ErrExist}
	}
	for path, n := range c.live {
		if path == from || strings.HasPrefix(path, from+"/") {
			delete(c.live, path)
			c.live[to+path[len(from):]] = n
		}
	}
	// What a directory held durably it holds under its new name, once that is durable.
	for path, n := range c.durable {
		if strings.HasPrefix(path, from+"/") {
			c.durable[to+path[len(from):]] = n
		}
	}
	return nil
}

func (c *crashFS) Remove(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.op("remove", name); err != nil {
		return err
	}
	c.reclaim(name)
	return nil
}

func (c *crashFS) reclaim(name string) {
	if n := c.live[name]; n != nil {
		c.free += int64(len(n.data))
		delete(c.live, name)
	}
}

func (c *crashFS) RemoveAll(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.op("remove", name); err != nil {
		return err
	}
	for path := range c.live {
		if path == name || strings.HasPrefix(path, name+"/") {
			c.reclaim(path)
		}
	}
	return nil
}

func (c *crashFS) SyncDir(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.op("sync", name); err != nil {
		return err
	}
	for path := range c.durable {
		if path != "/" && filepath.Dir(path) == name && c.live[path] == nil {
			delete(c.durable, path)
		}
	}
	for path, n := range c.live {
		if path != "/" && filepath.Dir(path) == name {
			c.durable[path] = n
		}
	}
	return nil
}

// hookFS calls before for what is asked of a file system: it may wait, or give the error that comes of it.
type hookFS struct {
	fileSystem
	before func(op, name string) error
}

func (h hookFS) Mkdir(name string) error {
	if err := h.before("mkdir", name); err != nil {
		return err
	}
	return h.fileSystem.Mkdir(name)
}

func (h hookFS) Open(name string) (file, error) {
	if err := h.before("open", name); err != nil {
		return nil, err
	}
	return h.fileSystem.Open(name)
}

func (h hookFS) Rename(from, to string) error {
	if err := h.before("rename", from); err != nil {
		return err
	}
	return h.fileSystem.Rename(from, to)
}

type crashFile struct {
	fs   *crashFS
	node *crashNode
	name string
}

func (f *crashFile) Write(b []byte) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.op("write", f.name); err != nil {
		half := len(b) / 2
		f.node.data = append(f.node.data, b[:half]...)
		return half, err
	}
	if n := int(min(int64(len(b)), f.fs.free)); n < len(b) {
		f.node.data = append(f.node.data, b[:n]...)
		f.fs.free -= int64(n)
		return n, &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
	}
	f.fs.free -= int64(len(b))
	f.node.data = append(f.node.data, b...)
	return len(b), nil
}

func (f *crashFile) ReadAt(b []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if off >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(b, f.node.data[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *crashFile) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.op("truncate", f.name); err != nil {
		return err
	}
	if size > int64(len(f.node.data)) {
		return fmt.Errorf("truncate %s to %d: it has %d", f.name, size, len(f.node.data))
	}
	f.fs.free += int64(len(f.node.data)) - size
	f.node.data = f.node.data[:size:size]
	return nil
}

func (f *crashFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.op("sync", f.name); err != nil {
		return err
	}
	f.node.durable = slices.Clone(f.node.data)
	return nil
}

func (f *crashFile) Size() (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return int64(len(f.node.data)), nil
}

func (f *crashFile) Close() error { return nil }
