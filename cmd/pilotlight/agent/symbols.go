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
	// Indexes of debug information that are open, in bytes of memory. The least
	// recently used go when it is more; they stay on disk.
	maxIndexBytes = 4 << 20
	// Frames of named addresses that are remembered, over all files, and as many of
	// the kernel's.
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
	vdso      *symbolize.File // nil if the kernel has none
	indexes   *indexes        // nil: names come from symbol tables alone
	allowance *allowance      // for symbol tables of large files
	maps      perfMaps
	log       *slog.Logger

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
	owner owner // one of late
	used  time.Time
	table *symbolize.File // nil: not read, or let go
	err   error           // why there is no table
	named map[uint64][]symbolize.Frame

	index   *symbolize.Index // nil: there is none, or it is not there yet
	indexed indexState
	samples uint64 // that an index would have told more about
	needs   uint64 // how many those have to be for an index to be built
	doubted bool   // an index of it could not be read
}

// newSymbols reads the kernel's own names from proc and sys, the roots of
// /proc and /sys. What cannot be read it logs: those frames have no names.
func newSymbols(proc, sys fs.FS, log *slog.Logger) *symbols {
	s := &symbols{files: make(map[process.FileKey]*symbolFile), kernel: kernelSymbols{proc: proc, log: log}, log: log}
	s.maps = perfMaps{proc: proc, log: log, files: make(map[process.Key]*perfMapFile), windows: 1}
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
// being closed for a while. by is who uses it.
func (s *symbols) has(key process.FileKey, by owner) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[key]
	if f == nil {
		return false
	}
	f.used, f.owner = time.Now(), by
	return true
}

// errManyFiles is the error of a file that is one too many.
var errManyFiles = fmt.Errorf("%d files are open already", MaxOpenFiles)

// offer hands over an open file. by is who uses it.
func (s *symbols) offer(file *process.OpenFile, by owner) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files[file.Key] != nil {
		return file.Close()
	}
	if len(s.files) >= MaxOpenFiles {
		return errors.Join(errManyFiles, file.Close())
	}
	s.files[file.Key] = &symbolFile{file: file, owner: by, used: time.Now(), named: make(map[uint64][]symbolize.Frame)}
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
		if frames = s.maps.resolve(b.process, l.addr); len(frames) == 0 {
			frames = unnamed("[jit]")
		}
		return jitFrame, frames
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
	s.mu.Lock()
	f := s.files[key]
	s.mu.Unlock()
	if f == nil {
		return nil
	}
	if frames, ok := f.named[addr]; ok {
		return frames
	}
	frames := s.bestNames(f, addr)
	if frames == nil && f.table == nil {
		return nil // there may be another answer later
	}
	for i := range frames {
		frames[i] = validUTF8(frames[i])
	}
	f.named[addr] = frames
	s.named += max(1, len(frames))
	return frames
}

// bestNames returns the frames at addr by the best source there is. Programs in Go
// are asked for Go's own names first: debug information has no more, and Go's tools
// know functions by those.
func (s *symbols) bestNames(f *symbolFile, addr uint64) []symbolize.Frame {
	var frames []symbolize.Frame
	if f.index == nil || f.file.Go {
		if s.open(f); f.table != nil {
			frames = f.table.Resolve(nil, addr)
		}
		if f.index == nil || len(frames) > 0 && frames[0].Source == symbolize.Pclntab {
			return frames
		}
	}
	if indexed := withNames(f.index.Resolve(nil, addr)); len(indexed) > 0 {
		return indexed
	}
	if s.open(f); len(frames) == 0 && f.table != nil {
		frames = f.table.Resolve(nil, addr)
	}
	return frames
}

// withNames leaves out inlined calls without a name: it was in a file that is not
// there. Without the name of the function itself there are no frames.
func withNames(frames []symbolize.Frame) []symbolize.Frame {
	if len(frames) == 0 || frames[len(frames)-1].Function == "" {
		return nil
	}
	return slices.DeleteFunc(frames, func(f symbolize.Frame) bool { return f.Function == "" })
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
	if f != nil {
		s.open(f)
	}
	return f
}

// open reads the symbol table of a file, unless it is there or cannot be had.
func (s *symbols) open(f *symbolFile) {
	if f.table != nil || f.err != nil || s.tableBytes > maxTableBytes+extraTableBytes {
		return
	}
	if f.file.Size > largeFile {
		if !s.allowance.affords(time.Duration(f.file.Size / 8)) { // ns: it takes a tenth of what the unwind table does
			return // in another window
		}
		defer s.allowance.spending()()
	}
	f.table, f.err = symbolize.Open(io.NewSectionReader(f.file, 0, f.file.Size), f.file.Size)
	if f.table != nil {
		s.tableBytes += f.table.MemoryBytes()
	}
}

// trim lets go of what was not used lately, down to the limits.
func (s *symbols) trim() error {
	s.maps.trim()
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	byUse := make([]*symbolFile, 0, len(s.files))
	indexBytes := 0
	for key, f := range s.files {
		if time.Since(f.used) > fileIdle && s.withdraw(f) {
			err = errors.Join(err, s.release(f), f.closeIndex(), f.file.Close())
			s.forget(f)
			delete(s.files, key)
			continue
		}
		err = errors.Join(err, s.doubt(f))
		if f.index != nil {
			indexBytes += f.index.MemoryBytes()
		}
		byUse = append(byUse, f)
	}
	slices.SortFunc(byUse, func(a, b *symbolFile) int { return a.used.Compare(b.used) })
	for _, f := range byUse {
		if s.tableBytes > maxTableBytes {
			err = errors.Join(err, s.release(f))
		}
		if f.index != nil && indexBytes > maxIndexBytes {
			indexBytes -= f.index.MemoryBytes()
			err = errors.Join(err, f.closeIndex())
		}
		if s.named > maxNamed {
			s.forget(f)
		}
	}
	return err
}

// forget forgets the addresses of a file that were named.
func (s *symbols) forget(f *symbolFile) {
	for _, frames := range f.named {
		s.named -= max(1, len(frames))
	}
	clear(f.named)
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
	s.maps.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for _, f := range s.files {
		err = errors.Join(err, s.release(f), f.closeIndex(), f.file.Close())
	}
	clear(s.files)
	return err
}
