package symbolize

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"syscall"
	"testing"
	"time"
)

// mutantSubject is a program whose files are damaged: itself, and those that have parts of its debug information.
type mutantSubject struct {
	name  string
	files map[string][]byte // the program is ""; .dwo files have their names
	spots map[string][]spot
}

// spot is a piece of a file that is read for names.
type spot struct{ off, size uint64 }

const (
	mutantAlt     = "alternate"
	mutantPackage = "package"
	mutantIndex   = "index"
)

// mutantMemory is how much one mutant may allocate in all: what the index child may have.
const mutantMemory = 300 << 20

// newMutantSubject takes the files of a form of DWARF.
func newMutantSubject(t *testing.T, form dwarfForm) *mutantSubject {
	t.Helper()
	var opts IndexOptions
	path, _ := form.build(t, &opts)
	s := &mutantSubject{name: form.name, files: make(map[string][]byte)}
	s.add(t, "", path)
	dwo, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*.dwo"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range dwo {
		s.add(t, filepath.Base(path), path)
	}
	if opts.Alt != nil {
		s.add(t, mutantAlt, filepath.Join(filepath.Dir(path), "common"))
	}
	if opts.Package != nil {
		s.add(t, mutantPackage, path+".dwp")
	}
	return s
}

func (s *mutantSubject) add(t *testing.T, name, path string) {
	t.Helper()
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s.addBytes(t, name, image)
}

func (s *mutantSubject) addBytes(t *testing.T, name string, image []byte) {
	t.Helper()
	s.files[name] = image
	if s.spots == nil {
		s.spots = make(map[string][]spot)
	}
	if f, err := elf.NewFile(bytes.NewReader(image)); err == nil {
		for _, section := range f.Sections {
			switch {
			case section.Type == elf.SHT_NOBITS || section.FileSize == 0:
			case len(section.Name) > 6 && section.Name[:6] == ".debug", section.Name == ".symtab", section.Name == ".gnu_debugdata", section.Name == ".gopclntab":
				s.spots[name] = append(s.spots[name], spot{section.Offset, section.FileSize})
			}
		}
	}
	s.spots[name] = append(s.spots[name], spot{0, uint64(len(image))})
}

// damage returns a damaged copy of an image, and what was done to it.
func damage(rng *rand.Rand, image []byte, spots []spot) ([]byte, string) {
	b := bytes.Clone(image)
	odd := func() byte { return []byte{0, 1, 0x7f, 0x80, 0xff, byte(rng.Uint32())}[rng.IntN(6)] }
	switch kind := rng.IntN(10); kind {
	case 0:
		n := rng.IntN(len(b))
		return b[:n], fmt.Sprintf("cut to %d bytes", n)
	case 1, 2: // a word of the section table
		at, count := binary.LittleEndian.Uint64(b[40:]), uint64(binary.LittleEndian.Uint16(b[60:]))
		if string(b[:4]) != elf.ELFMAG || count == 0 || at+64*count > uint64(len(b)) {
			break
		}
		at += 8 * rng.Uint64N(8*count)
		v := []uint64{0, 1, uint64(len(b)), 1 << 31, 1 << 40, 1<<63 - 1, ^uint64(0), rng.Uint64N(uint64(len(b))), compressedFlag}[rng.IntN(9)]
		binary.LittleEndian.PutUint64(b[at:], v)
		return b, fmt.Sprintf("section table: %#x at %#x", v, at)
	case 3: // a piece from somewhere else
		n := min(1+rng.IntN(64), len(b))
		from, to := rng.IntN(len(b)-n+1), place(rng, spots)
		copy(b[to:], image[from:from+n])
		return b, fmt.Sprintf("%d bytes of %#x at %#x", n, from, to)
	}
	what := ""
	for range 1 + rng.IntN(4) {
		at, v := place(rng, spots), odd()
		b[at] = v
		what += fmt.Sprintf("%#x at %#x ", v, at)
	}
	return b, what
}

// compressedFlag is the word of flags that makes a section of any kind one that is to be inflated.
const compressedFlag = uint64(elf.SHF_COMPRESSED)

func place(rng *rand.Rand, spots []spot) uint64 {
	s := spots[rng.IntN(len(spots))]
	return s.off + rng.Uint64N(s.size)
}

// mutantRun counts what came of mutants.
type mutantRun struct {
	all, refused, skipped int
	allocated             uint64        // by the one that allocated most
	slowest               time.Duration // CPU time
	slow                  string        // which that was
}

// tryMutants damages files of the subjects, a different one each time, and does with each all that is done with files
// of others: opening its symbols, reading its links, making an index, and naming addresses with what came of it. It
// panics if there is a panic to be found, and holds that each stays within its memory.
func tryMutants(t *testing.T, subjects []*mutantSubject, count int) mutantRun {
	t.Helper()
	runtime.LockOSThread() // whose CPU time is taken
	defer runtime.UnlockOSThread()
	spill, err := os.Create(filepath.Join(t.TempDir(), "spill"))
	if err != nil {
		t.Fatal(err)
	}
	defer spill.Close()
	var r mutantRun
	for seed := range count {
		rng := rand.New(rand.NewPCG(uint64(seed), 0))
		s := subjects[seed%len(subjects)]
		names := s.names()
		name := names[rng.IntN(len(names))]
		image, what := damage(rng, s.files[name], s.spots[name])
		which := fmt.Sprintf("mutant %d, %s of %s: %s", seed, name, s.name, what)
		allocated, cpu := allocatedBytes(), threadTime(t)
		err := s.try(name, image, spill, &r)
		allocated, cpu = allocatedBytes()-allocated, threadTime(t)-cpu
		if err != nil {
			t.Fatalf("%s: %v", which, err)
		}
		if allocated > mutantMemory {
			t.Errorf("%s: %d MB allocated", which, allocated>>20)
		}
		r.all++
		r.allocated = max(r.allocated, allocated)
		if cpu > r.slowest {
			r.slowest, r.slow = cpu, which
		}
	}
	t.Logf("%d mutants of %d programs: %d refused, %d with parts skipped, at most %d MB allocated and %v of CPU (%s)",
		r.all, len(subjects), r.refused, r.skipped, r.allocated>>20, r.slowest, r.slow)
	return r
}

func (s *mutantSubject) names() []string {
	var names []string
	for _, name := range []string{"", mutantAlt, mutantPackage, mutantIndex, "main.dwo", "other.dwo"} {
		if s.files[name] != nil {
			names = append(names, name)
		}
	}
	return names
}

// try has image in the place of the file with a name.
func (s *mutantSubject) try(name string, image []byte, spill *os.File, r *mutantRun) error {
	file := func(n string) *DebugFile {
		b := s.files[n]
		if n == name {
			b = image
		}
		if b == nil {
			return nil
		}
		return &DebugFile{bytes.NewReader(b), int64(len(b))}
	}
	if name == mutantIndex {
		seal(image)
		x, err := OpenIndex(bytes.NewReader(image), int64(len(image)))
		if err != nil {
			r.refused++
			return nil
		}
		return resolveSome(x, x.trailer.Base)
	}
	main := file("")
	if f, err := Open(main, main.Size); err == nil {
		if err := resolveSome(f, 0x1000); err != nil {
			return err
		}
	}
	if _, err := ReadDebugLinks(main, main.Size); err != nil {
		r.refused++ // and so does BuildIndex
	}
	if err := spill.Truncate(0); err != nil {
		return err
	}
	var out bytes.Buffer
	stats, err := BuildIndex(context.Background(), main, main.Size, &out, IndexOptions{
		Spill: spill, SpillBytes: 1 << 30, Alt: file(mutantAlt), Package: file(mutantPackage),
		OpenSplit: func(_, n string) (*DebugFile, error) {
			if f := file(filepath.Base(n)); f != nil {
				return f, nil
			}
			return nil, fs.ErrNotExist
		},
	})
	if err != nil {
		return nil
	}
	if stats.Skipped != nil {
		r.skipped++
	}
	x, err := OpenIndex(bytes.NewReader(out.Bytes()), int64(out.Len()))
	if err != nil {
		return fmt.Errorf("open the index that was made: %w", err)
	}
	return errors.Join(resolveSome(x, x.trailer.Base), x.Err())
}

func resolveSome(r Resolver, base uint64) error {
	var frames []Frame
	for off := uint64(0); off < 1<<14; off += 331 {
		if frames = r.Resolve(frames[:0], base+off); len(frames) > maxInline {
			return fmt.Errorf("%d frames at %#x", len(frames), base+off)
		}
	}
	return nil
}

func allocatedBytes() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// threadTime is the CPU time of this thread.
func threadTime(t *testing.T) time.Duration {
	t.Helper()
	const thisThread = 1 // RUSAGE_THREAD
	var u syscall.Rusage
	if err := syscall.Getrusage(thisThread, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// miniDebugSubject is a program as Fedora ships them, with its symbols packed by xz.
func miniDebugSubject(t *testing.T) *mutantSubject {
	t.Helper()
	path := compileInline(t, "g++", "-O2")
	dir := filepath.Dir(path)
	run(t, dir, "objcopy", "--strip-debug", path, "mini")
	run(t, dir, "xz", "-k", "-f", "mini")
	run(t, dir, "objcopy", "--strip-all", "--add-section", ".gnu_debugdata=mini.xz", path, "stripped")
	s := &mutantSubject{name: "symbols in .gnu_debugdata", files: make(map[string][]byte)}
	s.add(t, "", filepath.Join(dir, "stripped"))
	return s
}

// indexSubject is an index, whose checksum is mended after damage.
func indexSubject(t *testing.T) *mutantSubject {
	t.Helper()
	_, raw := mustIndex(t, sample())
	s := &mutantSubject{name: "an index", files: make(map[string][]byte)}
	s.addBytes(t, mutantIndex, raw)
	return s
}

// goSubject is a Go program.
func goSubject(t *testing.T) *mutantSubject {
	t.Helper()
	s := &mutantSubject{name: "a Go image", files: make(map[string][]byte)}
	s.addBytes(t, "", makeGo(goImage{}))
	return s
}

// TestMutants is a small part of TestVerifySymbolsMutants.
func TestMutants(t *testing.T) {
	subjects := []*mutantSubject{miniDebugSubject(t), indexSubject(t), goSubject(t)}
	for _, form := range dwarfForms() {
		switch form.name {
		case "DWARF 5", "zlib", "split", "split package", "dwz, alternate file":
			subjects = append(subjects, newMutantSubject(t, form))
		}
	}
	if r := tryMutants(t, subjects, 2000); r.refused == 0 || r.skipped == 0 {
		t.Errorf("no damage was found: %+v", r)
	}
}
