package symbolize

import (
	"debug/elf"
	"fmt"
	"io"
	"slices"
	"sync"
)

// File names the addresses of one ELF file: an executable, a shared object, the vDSO. It keeps in memory where
// functions begin and end, 12 bytes each, and reads what else a name takes from the file when it is asked.
//
// Go functions come from the pclntab, with inlined calls, files and lines; all else comes from .symtab, and from
// .dynsym where .symtab has nothing. Stubs of the procedure linkage table are called as what they lead to, with @plt
// behind it. Any other address that no symbol covers has no name: the nearest exported function before it is most likely
// a different one.
//
// A File may be used by several goroutines at once if its ReaderAt may.
type File struct {
	closer io.Closer
	golang *pclntab
	tables []*symtab
	stubs  []*symtab
	// scratch holds *[]byte of scratchSize for reads, which would else be an allocation each.
	scratch sync.Pool

	mu  sync.Mutex
	err error
}

// scratchSize holds most names, and a Go function's record with its tables.
const scratchSize = 512

// Open reads the symbols of the ELF file of size bytes in r: 32-bit or 64-bit, little-endian, linked. A file
// without symbols is no error; it names nothing. ErrNotELF is the error of a file that is not ELF; other errors
// say which table is damaged.
//
// The File reads from r for as long as it is used. Close closes r if it is an io.Closer; on error r stays the
// caller's.
//
// Open holds at most 64 MiB while it works, whatever the file claims.
func Open(r io.ReaderAt, size int64) (*File, error) {
	m, err := readImage(r, size)
	if err != nil {
		return nil, err
	}
	f := new(File)
	f.scratch.New = func() any { b := make([]byte, scratchSize); return &b }
	// A pclntab of a form that is not known yet must not cost the symbols beside it.
	if f.golang, err = readPclntab(m); err != nil {
		f.err = fmt.Errorf("pclntab: %w", err)
	}
	if err := f.readSymtab(m, elf.SHT_SYMTAB, Symtab); err != nil {
		return nil, err
	}
	if err := f.readSymtab(m, elf.SHT_DYNSYM, Dynsym); err != nil {
		return nil, err
	}
	// Nor may what is wrong with stubs.
	if err := f.readStubs(m); err != nil && f.err == nil {
		f.err = fmt.Errorf("procedure linkage table: %w", err)
	}
	f.closer, _ = r.(io.Closer)
	return f, nil
}

func (f *File) readSymtab(m *image, typ elf.SectionType, rank Rank) error {
	t, err := readSymtab(m, typ, rank, f.covers, nil)
	if err != nil {
		return err
	}
	if t != nil {
		f.tables = append(f.tables, t)
	}
	return nil
}

// covers reports whether the tables that are open name addr. The full symbol table of a Go program repeats its
// pclntab, and the dynamic symbols repeat the full table: what is there already is not kept again.
func (f *File) covers(addr uint64) bool {
	if f.golang != nil && f.golang.covers(addr) {
		return true
	}
	for _, t := range f.tables {
		if _, ok := t.table.find(addr); ok {
			return true
		}
	}
	return false
}

// Close closes the reader that Open was given, if it can be closed. No Resolve may be under way or follow.
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}

// Resolve implements Resolver for ELF virtual addresses. What cannot be read any more is not named; Err tells why.
func (f *File) Resolve(dst []Frame, addr uint64) []Frame {
	p := f.scratch.Get().(*[]byte)
	defer f.scratch.Put(p)
	if f.golang != nil {
		frames, err := f.golang.resolve(dst, addr, *p)
		if err != nil {
			f.note(fmt.Errorf("pclntab: resolve %#x: %w", addr, err))
		} else if len(frames) > len(dst) {
			return frames
		}
	}
	for _, tables := range [][]*symtab{f.tables, f.stubs} {
		for _, t := range tables {
			frames, err := t.resolve(dst, addr, *p)
			if err != nil {
				f.note(err)
			} else if len(frames) > len(dst) {
				return frames
			}
		}
	}
	return dst
}

func (f *File) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

// Err returns the first thing that kept the file from naming an address that its tables cover: a Go pclntab that
// is damaged or newer than this package, a name that could not be read. It is nil for a sound file, also one
// without symbols.
func (f *File) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// MemoryBytes returns how much memory the File holds, for caches that are bounded in bytes.
func (f *File) MemoryBytes() int {
	const fixed = 512 // the structs themselves and a scratch buffer
	n := fixed
	if f.golang != nil {
		n += f.golang.memoryBytes()
	}
	for _, t := range slices.Concat(f.tables, f.stubs) {
		n += t.table.memoryBytes()
	}
	return n
}

// Source is a table of a File that names functions.
type Source struct {
	Rank Rank
	// Functions is the number of entries that name code, without those that a table of higher rank has.
	Functions int
}

// Sources returns the tables that the File has, those of the higher rank first. There are none in a stripped file.
func (f *File) Sources() []Source {
	var s []Source
	if f.golang != nil {
		s = append(s, Source{Pclntab, int(f.golang.nfunc)})
	}
	for _, t := range f.tables {
		s = append(s, Source{t.rank, t.entries})
	}
	return s
}
