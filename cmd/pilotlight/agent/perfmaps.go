package agent

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"pilotlight/cmd/pilotlight/process"
	"pilotlight/symbolize"
)

const (
	// maxPerfMaps is how many files are open, and maxPerfMapBytes what is kept of all
	// in memory; the least recently used have no names when it is more.
	maxPerfMaps     = 256
	maxPerfMapBytes = 12 << 20
)

// perfMaps names code that processes compiled while they run, by the perf-PID.map
// or the jitdump of each. The draining goroutine opens the files while their processes live; the
// publishing one reads them.
type perfMaps struct {
	proc fs.FS
	log  *slog.Logger

	mu    sync.Mutex // guards files and what open touches of them
	files map[process.Key]*perfMapFile

	windows uint64 // of the publishing goroutine: counts them
}

// perfMapFile is the file of a process.
type perfMapFile struct {
	used    time.Time
	offered *os.File // the file as it was opened last; nil once it is taken
	info    fs.FileInfo

	// Of the publishing goroutine.
	file  *os.File
	table *symbolize.PerfMap
	read  uint64 // the window in which it was read last
	large bool   // no names: there was no room for it
}

// open opens the file of a process, if it has one: another than before if that was
// replaced.
func (m *perfMaps) open(of *process.Process) {
	p := of.Key
	file, err := process.OpenPerfMap(m.proc, "/proc", of)
	var info fs.FileInfo
	if err == nil {
		info, err = file.Stat()
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			m.log.Debug("open perf map", "pid", p.PID, "err", err)
		}
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	known := m.files[p]
	if known == nil && len(m.files) >= maxPerfMaps || known != nil && os.SameFile(known.info, info) {
		m.closeFile(file)
		if known != nil {
			known.used = time.Now()
		}
		return
	}
	if known == nil {
		known = new(perfMapFile)
		m.files[p] = known
	}
	m.closeFile(known.offered)
	known.used, known.offered, known.info = time.Now(), file, info
}

func (m *perfMaps) closeFile(f *os.File) {
	if f == nil {
		return
	}
	if err := f.Close(); err != nil {
		m.log.Warn("close perf map", "err", err)
	}
}

// resolve returns the frame at pc in a process, or none. A file is read once a window.
func (m *perfMaps) resolve(p process.Key, pc uint64) []symbolize.Frame {
	m.mu.Lock()
	f := m.files[p]
	if f != nil && f.offered != nil {
		m.closeFile(f.file)
		f.file, f.offered, f.table, f.large = f.offered, nil, symbolize.NewPerfMap(f.offered), false
		f.read = 0
	}
	m.mu.Unlock()
	if f == nil || f.large {
		return nil
	}
	if f.read != m.windows {
		f.read = m.windows
		info, err := f.file.Stat()
		if err == nil {
			err = f.table.Update(info.Size())
		}
		if err != nil {
			m.log.Debug("read perf map", "pid", p.PID, "err", err)
		}
	}
	frames := f.table.Resolve(nil, pc)
	for i := range frames {
		frames[i] = validUTF8(frames[i])
	}
	return frames
}

// trim begins a new window, and lets go of what was not used lately.
func (m *perfMaps) trim() {
	m.windows++
	m.mu.Lock()
	defer m.mu.Unlock()
	var byUse []*perfMapFile
	bytes := 0
	for p, f := range m.files {
		if time.Since(f.used) > fileIdle {
			m.closeFile(f.file)
			m.closeFile(f.offered)
			delete(m.files, p)
		} else if f.table != nil {
			bytes += f.table.MemoryBytes()
			byUse = append(byUse, f)
		}
	}
	slices.SortFunc(byUse, func(a, b *perfMapFile) int { return a.used.Compare(b.used) })
	for _, f := range byUse {
		if bytes <= maxPerfMapBytes {
			return
		}
		bytes -= f.table.MemoryBytes()
		f.table, f.large = symbolize.NewPerfMap(f.file), true
	}
}

func (m *perfMaps) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.files {
		m.closeFile(f.file)
		m.closeFile(f.offered)
	}
	clear(m.files)
}
