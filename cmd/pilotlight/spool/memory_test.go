package spool

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"syscall"
)

// memory is a fileSystem that fills up, fails from its n-th change on, and loses at a power loss what was not synced:
// the harshest of what POSIX allows.
type memory struct {
	mu      sync.Mutex
	live    map[string][]byte
	durable map[string][]byte // what would be there after a power loss
	synced  map[string]bool   // content of live files
	free    int               // bytes that may still be written
	changes int
	failAt  int    // change that fails, and all that follow; 0: none
	bad     string // file that cannot be read
	writes  int    // files that were written
}

var errGone = errors.New("disk is gone")

func newMemory() *memory {
	return &memory{live: map[string][]byte{}, durable: map[string][]byte{}, synced: map[string]bool{}, free: 1 << 30}
}

// afterKill is what is there after a kill -9: all that was done.
func (m *memory) afterKill() *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &memory{live: maps.Clone(m.live), durable: maps.Clone(m.live), synced: maps.Clone(m.synced), free: m.free}
}

// afterPowerLoss is what is there after a power loss.
func (m *memory) afterPowerLoss() *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &memory{live: maps.Clone(m.durable), durable: maps.Clone(m.durable), synced: map[string]bool{}, free: m.free}
}

func (m *memory) change() error {
	m.changes++
	if m.failAt > 0 && m.changes >= m.failAt {
		return errGone
	}
	return nil
}

func (m *memory) list() ([]entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var entries []entry
	for _, name := range slices.Sorted(maps.Keys(m.live)) {
		entries = append(entries, entry{name, int64(len(m.live[name]))})
	}
	return entries, nil
}

func (m *memory) write(name string, b []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.change(); err != nil {
		return err
	}
	if m.live[name] != nil {
		return fs.ErrExist
	}
	m.live[name] = []byte{}
	if n := min(len(b), m.free); n < len(b) {
		m.live[name] = b[:n]
		m.free -= n
		return syscall.ENOSPC
	}
	if err := m.change(); err != nil { // half of it is written
		m.live[name] = b[:len(b)/2]
		return err
	}
	m.live[name] = b
	m.free -= len(b)
	if err := m.change(); err != nil { // it is not synced
		return err
	}
	m.synced[name] = true
	m.writes++
	return nil
}

func (m *memory) read(name string, atMost int64) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.live[name]
	switch {
	case !ok:
		return nil, fs.ErrNotExist
	case name == m.bad:
		return nil, syscall.EIO
	}
	return slices.Clone(b[:min(int64(len(b)), atMost)]), nil
}

func (m *memory) rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.change(); err != nil {
		return err
	}
	b, ok := m.live[from]
	if !ok {
		return fs.ErrNotExist
	}
	m.live[to], m.synced[to] = b, m.synced[from]
	delete(m.live, from)
	return nil
}

func (m *memory) remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.change(); err != nil {
		return err
	}
	m.free += len(m.live[name])
	delete(m.live, name)
	return nil
}

func (m *memory) sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.change(); err != nil {
		return err
	}
	clear(m.durable)
	for name, b := range m.live {
		if !m.synced[name] {
			b = b[:0]
		}
		m.durable[name] = b
	}
	return nil
}

func (m *memory) close() error { return nil }

// flip changes a byte of a file.
func (m *memory) flip(name string, at int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := slices.Clone(m.live[name])
	b[at] ^= 0x10
	m.live[name] = b
}

func (m *memory) names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.live))
}
