package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"pilotlight/cmd/pilotlight/process"
	"pilotlight/symbolize"
)

const (
	// Symbol tables of all files together, in bytes; the least recently used
	// go when it is more, and are read again when they are wanted.
	maxTableBytes = 24 << 20
	// They may be so much more until the window is named: evicting them at once
	// would have files whose addresses alternate read again and again. Files past
	// that have no names in this window.
	extraTableBytes = 16 << 20
	// Named addresses that are remembered, over all files, and as many of the kernel's.
	maxNamed = 1 << 16
	// A file that no sample has hit for so long is closed.
	fileIdle = 5 * time.Minute
	// Kernel symbols are read again for an address they do not have (a module or
	// BPF program loaded since), at most this often.
	kernelInterval = time.Minute
)

// MaxOpenFiles is how many binaries are open at once: any user can map as many as
// there are descriptors, which the agent needs for /proc too.
const MaxOpenFiles = 2048

// symbols names addresses of files and of the kernel. The draining goroutine
// offers files while their process lives; the publishing one resolves.
type symbols struct {
	vdso *symbolize.File // nil if the kernel has none

	mu    sync.Mutex // guards files and what has and offer touch of them
	files map[process.FileKey]*symbolFile

	// Of the publishing goroutine.
	tableBytes int
	named      int
	kernel     kernelSymbols
}

// symbolFile is a file that samples hit.
type symbolFile struct {
	file  *process.OpenFile
	used  time.Time
	table *symbolize.File // nil: not read, or let go
	err   error           // why there is no table
	named map[uint64][]symbolize.Frame
}

// newSymbols reads the kernel's own names from proc and sys, the roots of
// /proc and /sys. What cannot be read it logs: those frames have no names.
func newSymbols(proc, sys fs.FS, log *slog.Logger) *symbols {
	s := &symbols{files: make(map[process.FileKey]*symbolFile), kernel: kernelSymbols{proc: proc, log: log}}
	image, err := symbolize.VDSO()
	if err == nil {
		s.vdso, err = symbolize.Open(bytes.NewReader(image), int64(len(image)))
	}
	if err != nil {
		log.Warn("functions of the vDSO will have no names", "err", err)
	}
	notes, err := fs.ReadFile(sys, "kernel/notes")
	if err != nil {
		log.Warn("profiles will not name the kernel's build ID", "err", err)
	}
	s.kernel.buildID = kernelBuildID(notes)
	return s
}

// has reports whether the file with this key can be resolved, and keeps it from
// being closed for a while.
func (s *symbols) has(key process.FileKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[key]
	if f == nil {
		return false
	}
	f.used = time.Now()
	return true
}

// errManyFiles is the error of a file that is one too many.
var errManyFiles = fmt.Errorf("%d files are open already", MaxOpenFiles)

// offer hands over an open file.
func (s *symbols) offer(file *process.OpenFile) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files[file.Key] != nil {
		return file.Close()
	}
	if len(s.files) >= MaxOpenFiles {
		return errors.Join(errManyFiles, file.Close())
	}
	s.files[file.Key] = &symbolFile{file: file, used: time.Now(), named: make(map[uint64][]symbolize.Frame)}
	return nil
}

// frameKind says what a frame is, as metrics tell it.
type frameKind string

const (
	kernelFrame  frameKind = "kernel"
	fileFrame    frameKind = "file"    // of an ELF file, or the vDSO
	jitFrame     frameKind = "jit"     // in anonymous memory
	unknownFrame frameKind = "unknown" // of a process of which nothing is known
	markerFrame  frameKind = "marker"  // where a stack was cut
)

// resolve returns what a location is and its frames, innermost first. There is
// always at least one; if no symbol is there, it says where the code lies.
func (s *symbols) resolve(b *codeBinary, l location) (frameKind, []symbolize.Frame) {
	switch {
	case l.marker.Truncated():
		return markerFrame, unnamed("[truncated: " + l.marker.Words() + "]")
	case l.binary == noBinary:
		return unknownFrame, unnamed(fmt.Sprintf("%#x", l.addr))
	case l.binary == kernelBinary:
		return kernelFrame, s.kernel.resolve(l.addr)
	}
	var frames []symbolize.Frame
	switch {
	case b.kind == process.VDSO && s.vdso != nil:
		frames = s.vdso.Resolve(nil, l.addr)
	case b.opened:
		frames = s.resolveFile(b.key, l.addr)
	case b.kind == process.Anonymous:
		return jitFrame, unnamed("[jit]")
	}
	if len(frames) == 0 {
		frames = unnamed(fmt.Sprintf("%s+%#x", path.Base(b.path), l.addr))
	}
	return fileFrame, frames
}

// unnamed is code that no symbol names. Its empty SystemName tells it from a function.
func unnamed(what string) []symbolize.Frame {
	return []symbolize.Frame{{Function: what}}
}

// leafHasNoFrame reports whether the function at addr keeps its return address
// on top of the stack there.
func (s *symbols) leafHasNoFrame(b *codeBinary, addr uint64) bool {
	if !b.opened {
		return false
	}
	f := s.file(b.key)
	if f == nil || f.table == nil {
		return false
	}
	size, ok := f.table.FrameSize(addr)
	return ok && size == 0
}

func (s *symbols) resolveFile(key process.FileKey, addr uint64) []symbolize.Frame {
	f := s.file(key)
	if f == nil {
		return nil
	}
	if frames, ok := f.named[addr]; ok {
		return frames
	}
	if f.table == nil {
		return nil
	}
	frames := f.table.Resolve(nil, addr)
	for i := range frames {
		frames[i] = validUTF8(frames[i])
	}
	f.named[addr] = frames
	s.named++
	return frames
}

// validUTF8 mends names that pprof, a protobuf, could not carry.
func validUTF8(f symbolize.Frame) symbolize.Frame {
	for _, name := range []*string{&f.Function, &f.SystemName, &f.File} {
		*name = strings.ToValidUTF8(*name, "\uFFFD")
	}
	return f
}

// file returns the file with its symbol table, if it can be read.
func (s *symbols) file(key process.FileKey) *symbolFile {
	s.mu.Lock()
	f := s.files[key]
	s.mu.Unlock()
	if f == nil || f.table != nil || f.err != nil || s.tableBytes > maxTableBytes+extraTableBytes {
		return f
	}
	f.table, f.err = symbolize.Open(io.NewSectionReader(f.file, 0, f.file.Size), f.file.Size)
	if f.table != nil {
		s.tableBytes += f.table.MemoryBytes()
	}
	return f
}

// trim lets go of what was not used lately, down to the limits.
func (s *symbols) trim() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	byUse := make([]*symbolFile, 0, len(s.files))
	for key, f := range s.files {
		if time.Since(f.used) > fileIdle {
			err = errors.Join(err, s.release(f), f.file.Close())
			s.named -= len(f.named)
			delete(s.files, key)
			continue
		}
		byUse = append(byUse, f)
	}
	slices.SortFunc(byUse, func(a, b *symbolFile) int { return a.used.Compare(b.used) })
	for _, f := range byUse {
		if s.tableBytes > maxTableBytes {
			err = errors.Join(err, s.release(f))
		}
		if s.named > maxNamed {
			s.named -= len(f.named)
			clear(f.named)
		}
	}
	return err
}

// release lets go of a file's symbol table. The file stays open.
func (s *symbols) release(f *symbolFile) error {
	if f.table == nil {
		return nil
	}
	s.tableBytes -= f.table.MemoryBytes()
	err := f.table.Close()
	f.table = nil
	return err
}

func (s *symbols) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for _, f := range s.files {
		err = errors.Join(err, s.release(f), f.file.Close())
	}
	clear(s.files)
	return err
}
