package symbolize

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// names returns the system names at addr, the innermost first, joined by spaces.
func names(r Resolver, addr uint64) string {
	var s []string
	for _, f := range r.Resolve(nil, addr) {
		s = append(s, f.SystemName)
	}
	return strings.Join(s, " ")
}

func TestSymbolTable(t *testing.T) {
	const (
		global, local, weak   = elf.STB_GLOBAL, elf.STB_LOCAL, elf.STB_WEAK
		function, none, ifunc = elf.STT_FUNC, elf.STT_NOTYPE, elf.STT_GNU_IFUNC
	)
	for _, tt := range []struct {
		name    string
		machine elf.Machine
		symbols []testSymbol
		want    map[uint64]string
	}{
		{
			name:    "a sized symbol ends where it says",
			symbols: []testSymbol{{"f", 0x1010, 0x10, global, function, 1}},
			want:    map[uint64]string{0: "", 0x100f: "", 0x1010: "f", 0x101f: "f", 0x1020: "", math.MaxUint64: ""},
		},
		{
			name:    "an unsized symbol reaches to the next",
			symbols: []testSymbol{{"f", 0x1000, 0, global, function, 1}, {"g", 0x1100, 0x10, global, function, 1}},
			want:    map[uint64]string{0x1000: "f", 0x10ff: "f", 0x1100: "g", 0x1110: ""},
		},
		{
			name:    "no symbol reaches past its section",
			symbols: []testSymbol{{"f", 0x1f00, 0, global, function, 1}, {"g", 0x1e00, 0xf0000, global, function, 1}},
			want:    map[uint64]string{0x1eff: "g", 0x1f00: "g", 0x1fff: "g", 0x2000: ""},
		},
		{
			name: "nested symbols: the inner one names its range, the outer one what is around it",
			symbols: []testSymbol{
				{"outer", 0x1000, 0x100, global, function, 1}, {"inner", 0x1040, 0x20, local, function, 1},
				{"innermost", 0x1050, 8, local, function, 1},
			},
			want: map[uint64]string{0x103f: "outer", 0x1040: "inner", 0x1050: "innermost", 0x1058: "inner", 0x1060: "outer", 0x10ff: "outer", 0x1100: ""},
		},
		{
			name:    "overlapping symbols: the later one wins",
			symbols: []testSymbol{{"a", 0x1000, 0x80, global, function, 1}, {"b", 0x1040, 0x80, global, function, 1}},
			want:    map[uint64]string{0x103f: "a", 0x1040: "b", 0x10bf: "b", 0x10c0: ""},
		},
		{
			name:    "a label inside a function is no function",
			symbols: []testSymbol{{"f", 0x1000, 0x80, global, function, 1}, {"loop", 0x1040, 0, local, none, 1}},
			want:    map[uint64]string{0x1000: "f", 0x1040: "f", 0x107f: "f", 0x1080: ""},
		},
		{
			name: "of aliases, functions come before labels, exported ones before local ones",
			symbols: []testSymbol{
				{"a", 0x1000, 8, local, function, 1}, {"l", 0x1000, 8, global, none, 1}, {"exported", 0x1000, 8, weak, function, 1},
			},
			want: map[uint64]string{0x1000: "exported"},
		},
		{
			name: "then fewer underscores, then the shorter",
			symbols: []testSymbol{
				{"__read", 0x1000, 8, global, function, 1}, {"read_nocancel", 0x1000, 8, global, function, 1},
				{"read@@GLIBC_2.2.5", 0x1000, 8, weak, function, 1}, {"_r", 0x1000, 8, global, function, 1},
			},
			want: map[uint64]string{0x1000: "read_nocancel"},
		},
		{
			name: "aliases with different sizes: the largest counts, and a function without code has no say",
			symbols: []testSymbol{
				{"f", 0x1000, 0, global, function, 1}, {"longer", 0x1000, 0x10, global, function, 1}, {"local", 0x1000, 0x20, local, function, 1},
			},
			want: map[uint64]string{0x1000: "longer", 0x101f: "longer", 0x1020: ""},
		},
		{
			name: "data, undefined, absolute and nameless symbols name no code",
			symbols: []testSymbol{
				{"data", 0x1000, 8, global, elf.STT_OBJECT, 1}, {"undef", 0x1000, 8, global, function, 0},
				{"abs", 0x1000, 8, global, function, uint16(elf.SHN_ABS)}, {"", 0x1000, 8, global, function, 1},
				{"tls", 0x1000, 8, global, elf.STT_TLS, 1}, {"elsewhere", 0x1000, 8, global, function, 2},
				{"etext", 0x2000, 0, global, none, 1},
			},
			want: map[uint64]string{0x1000: "", 0x1004: "", 0x2000: ""},
		},
		{
			name:    "an indirect function is a function",
			symbols: []testSymbol{{"memcpy", 0x1000, 8, global, ifunc, 1}},
			want:    map[uint64]string{0x1000: "memcpy"},
		},
		{
			name:    "mapping symbols of arm64",
			machine: elf.EM_AARCH64,
			symbols: []testSymbol{{"$x", 0x1000, 0, local, none, 1}, {"$d.1", 0x1010, 0, local, none, 1}, {"f", 0x1000, 0x40, global, function, 1}, {"$x.2", 0x1800, 0, local, none, 1}},
			want:    map[uint64]string{0x1000: "f", 0x1010: "f", 0x1800: "", 0x1ffc: ""},
		},
		{
			name:    "Thumb code",
			machine: elf.EM_ARM,
			symbols: []testSymbol{{"f", 0x1001, 4, global, function, 1}},
			want:    map[uint64]string{0x1000: "f", 0x1003: "f", 0x1004: ""},
		},
	} {
		for _, class := range []elf.Class{elf.ELFCLASS64, elf.ELFCLASS32} {
			t.Run(fmt.Sprintf("%s/%v", tt.name, class), func(t *testing.T) {
				machine := tt.machine
				if machine == 0 {
					machine = elf.EM_X86_64
				}
				f := mustOpen(t, makeSymbols(class, machine, tt.symbols...))
				for addr, want := range tt.want {
					if got := names(f, addr); got != want {
						t.Errorf("%#x: got %q, want %q", addr, got, want)
					}
				}
				if err := f.Err(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestFarSections covers code that 32 bits do not span.
func TestFarSections(t *testing.T) {
	far := text
	far.name, far.addr = ".far", 0x7fff_0000_0000
	symbols := []testSymbol{
		{"near", 0x1000, 0x10, elf.STB_GLOBAL, elf.STT_FUNC, 1},
		{"far", far.addr + 8, 0x10, elf.STB_GLOBAL, elf.STT_FUNC, 2},
	}
	f := mustOpen(t, makeELF(elf.ELFCLASS64, elf.EM_X86_64,
		append([]testSection{text, far}, symbolSections(elf.ELFCLASS64, elf.SHT_SYMTAB, 3, symbols)...)...))
	for addr, want := range map[uint64]string{
		0x1000: "near", 0x1010: "", 0x1_0000_1000: "", far.addr: "", far.addr + 8: "far", far.addr + 0x17: "far", far.addr + 0x18: "",
	} {
		if got := names(f, addr); got != want {
			t.Errorf("%#x: got %q, want %q", addr, got, want)
		}
	}
}

func TestDynsymFillsWhatSymtabLeaves(t *testing.T) {
	const class = elf.ELFCLASS64
	full := []testSymbol{{"kept", 0x1000, 0x10, elf.STB_GLOBAL, elf.STT_FUNC, 1}}
	dynamic := []testSymbol{
		{"kept_alias", 0x1000, 0x10, elf.STB_GLOBAL, elf.STT_FUNC, 1},
		{"_ZN3foo3barEi", 0x1100, 0x10, elf.STB_GLOBAL, elf.STT_FUNC, 1},
	}
	sections := append([]testSection{text}, symbolSections(class, elf.SHT_SYMTAB, 2, full)...)
	f := mustOpen(t, makeELF(class, elf.EM_X86_64, append(sections, symbolSections(class, elf.SHT_DYNSYM, 4, dynamic)...)...))
	want := []Source{{Symtab, 1}, {Dynsym, 1}}
	if got := f.Sources(); !reflect.DeepEqual(got, want) {
		t.Errorf("sources: got %v, want %v", got, want)
	}
	if got := names(f, 0x1000); got != "kept" {
		t.Errorf("got %q, want kept", got)
	}
	got := f.Resolve(make([]Frame, 1), 0x1104)
	if want := []Frame{{}, {Function: "foo::bar(int)", SystemName: "_ZN3foo3barEi", Source: Dynsym}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestGoImage(t *testing.T) {
	f := mustOpen(t, makeGo(goImage{}))
	if err := f.Err(); err != nil {
		t.Fatal(err)
	}
	frame := func(function, file string, line, start int) Frame {
		return Frame{function, function, file, line, start, Pclntab}
	}
	for _, tt := range []struct {
		addr uint64
		want []Frame
	}{
		{0xfff, nil},
		{0x1000, []Frame{frame("main.outer", "outer.go", 12, 9)}},
		{0x100f, []Frame{frame("main.outer", "outer.go", 12, 9)}},
		{0x1010, []Frame{frame("main.inner", "inner.go", 20, 19), frame("main.outer", "outer.go", 12, 9)}},
		{0x1020, []Frame{frame("main.outer", "outer.go", 10, 9)}},
		{0x1080, []Frame{frame("main.outer", "", 0, 9)}},
		{0x1100, []Frame{frame("main.plain", "outer.go", 30, 29)}},
		{0x1200, nil},
	} {
		if got := f.Resolve(nil, tt.addr); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%#x:\ngot  %+v\nwant %+v", tt.addr, got, tt.want)
		}
	}
}

// TestDamagedGo holds that damage in a pclntab is told and costs no more than the names.
func TestDamagedGo(t *testing.T) {
	for _, tt := range []struct {
		name  string
		image goImage
		want  string
	}{
		{"inlined calls in a circle", goImage{inlineLoop: true}, "pclntab: resolve 0x1010: more than 256 inlined calls"},
		{"more pcdata than record", goImage{npcdata: 1 << 30}, "1073741824 pcdata tables"},
		{"more functions than table", goImage{nfunc: 1 << 20}, "function table: 1048576 entries in"},
		{"more functions than anything", goImage{nfunc: 1 << 61}, "2305843009213693952 functions"},
		{"old magic", goImage{magic: 0xfffffffa}, "magic 0xfffffffa: programs of Go 1.18 and later are read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := mustOpen(t, makeGo(tt.image))
			if got := f.Resolve(nil, 0x1010); got != nil {
				t.Errorf("got %+v", got)
			}
			if err := f.Err(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want %q", err, tt.want)
			}
		})
	}
}

// zeros is a sparse file: bytes at its start and end, zeros between.
type zeros struct {
	head, tail []byte
	size       int64
}

func (z zeros) ReadAt(b []byte, off int64) (int, error) {
	n := len(b)
	if off >= z.size {
		return 0, io.EOF
	}
	if int64(n) > z.size-off {
		n = int(z.size - off)
	}
	clear(b[:n])
	if off < int64(len(z.head)) {
		copy(b[:n], z.head[off:])
	}
	if at := z.size - int64(len(z.tail)) - off; at < int64(n) {
		copy(b[max(at, 0):n], z.tail[max(-at, 0):])
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// claim returns an image whose sections of a name claim a size.
func claim(name string, size uint64) []byte {
	sections := append([]testSection{text}, symbolSections(elf.ELFCLASS64, elf.SHT_SYMTAB, 2, []testSymbol{{"f", 0x1000, 8, elf.STB_GLOBAL, elf.STT_FUNC, 1}})...)
	sections = append(sections, testSection{name: ".gopclntab", typ: elf.SHT_PROGBITS, flags: elf.SHF_ALLOC, addr: 0x8000, data: make([]byte, 256)})
	for i := range sections {
		if sections[i].name == name {
			sections[i].size = size
		}
	}
	return makeELF(elf.ELFCLASS64, elf.EM_X86_64, sections...)
}

// TestHostileFiles opens files that claim more than they have, and holds the memory that Open allocates for them.
func TestHostileFiles(t *testing.T) {
	good := makeSymbols(elf.ELFCLASS64, elf.EM_X86_64, testSymbol{"f", 0x1000, 8, elf.STB_GLOBAL, elf.STT_FUNC, 1})
	patched := func(image []byte, off int, b ...byte) []byte {
		image = bytes.Clone(image)
		copy(image[off:], b)
		return image
	}
	const gib = 1 << 30
	for _, tt := range []struct {
		name  string
		image []byte
		size  int64 // of the file, if not that of the image: zeros follow
		want  string
	}{
		{name: "empty", want: "not an ELF file"},
		{name: "short", image: good[:40], want: "ELF header: file ends after 40 bytes"},
		{name: "text", image: []byte("#!/bin/sh\nexec true # and a line that is longer than an ELF header is"), want: "not an ELF file"},
		{name: "negative size", image: good, size: -1, want: "file size -1"},
		{name: "big-endian", image: patched(good, 5, 2), want: "byte order ELFDATA2MSB"},
		{name: "class", image: patched(good, 4, 7), want: "ELF class ELFCLASS64+5"},
		{name: "object file", image: patched(good, 16, 1), want: "ELF type ET_REL"},
		{name: "section table past the end", image: patched(good, 40, 0, 0, 0, 0x7f), want: "section table: 320 bytes at 0x7f000000 reach past the end of the file"},
		{name: "section table far past the end", image: patched(good, 40, 255, 255, 255, 255, 255, 255, 255, 255), want: "section table: 320 bytes at 0xffffffffffffffff"},
		{name: "section entries", image: patched(good, 58, 1), want: "section table: entries of 1 bytes, want 64"},
		{name: "too many sections", image: patched(good, 60, 255, 255), want: "section table: more than 65280 sections"},
		{name: "65,000 sections of zeros", image: patched(good, 60, 0xe8, 0xfd), size: gib},
		{name: "cut", image: good[:len(good)-10], want: "reach past the end of the file"},
		{name: "symbols of 1 GiB that are not there", image: claim("syms", gib), want: "section syms: 1073741824 bytes at"},
		{name: "symbols of 1 GiB", image: claim("syms", gib), size: 4 * gib, want: "section syms: 44739242 symbols, at most 8388608 are read"},
		{name: "192 MiB of symbols", image: claim("syms", 192<<20), size: gib},
		{name: "names of 1 GiB", image: claim("strs", gib), size: 4 * gib},
		{name: "section names of 1 GiB", image: patched(good, len(good)-32, 0, 0, 0, 0x40), size: 4 * gib},
	} {
		t.Run(tt.name, func(t *testing.T) {
			size := tt.size
			if size == 0 {
				size = int64(len(tt.image))
			}
			r := zeros{head: tt.image, size: max(size, int64(len(tt.image)))}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			f, err := Open(r, size)
			if err == nil {
				f.Resolve(nil, 0x1000)
			}
			runtime.ReadMemStats(&after)
			if got := fmt.Sprint(err); tt.want == "" && err != nil || !strings.Contains(got, tt.want) {
				t.Errorf("got error %v, want %q", err, tt.want)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 40<<20 {
				t.Errorf("%d bytes allocated", n)
			}
		})
	}
}

// TestHostilePclntab holds the memory and the reading that a pclntab of 1 GiB in a sparse file can cost.
func TestHostilePclntab(t *testing.T) {
	image := makeGo(goImage{nfunc: maxGoFunctions})
	// The names of sections come last before the section table, in which .gopclntab is the second.
	entry := len(image) - 3*64
	copy(image[entry+32:], put(nil, uint64(1<<30)))
	r := zeros{head: image, size: 2 << 30}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f, err := Open(r, r.size)
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Err(); err == nil || !strings.Contains(err.Error(), "pclntab: function table: entries are not in order") {
		t.Errorf("got error %v", err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
		t.Errorf("%d bytes allocated", n)
	}
}

// TestManyFunctions holds the memory that the largest symbol tables take.
func TestManyFunctions(t *testing.T) {
	for _, tt := range []struct {
		n    int
		want string
	}{
		{maxFunctions, ""},
		{maxFunctions + 1, "section syms: more than 2097152 functions"},
	} {
		code := text
		code.size = uint64(16 * tt.n)
		symtab := symbolSections(elf.ELFCLASS64, elf.SHT_SYMTAB, 2, []testSymbol{{"f", 0, 0, elf.STB_GLOBAL, elf.STT_FUNC, 1}})
		one := symtab[0].data[24:]
		symtab[0].data = bytes.Repeat(one, tt.n)
		for i := range tt.n {
			// In falling order, so that there is something to sort.
			binary.LittleEndian.PutUint64(symtab[0].data[24*i+8:], text.addr+uint64(16*(tt.n-1-i)))
		}
		image := makeELF(elf.ELFCLASS64, elf.EM_X86_64, append([]testSection{code}, symtab...)...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f, err := Open(bytes.NewReader(image), int64(len(image)))
		runtime.ReadMemStats(&after)
		if got := fmt.Sprint(err); tt.want == "" && err != nil || !strings.Contains(got, tt.want) {
			t.Errorf("got error %v, want %q", err, tt.want)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
			t.Errorf("%d bytes allocated", n)
		}
		if err == nil {
			if n := f.MemoryBytes(); n > 13*tt.n {
				t.Errorf("holds %d bytes for %d functions", n, tt.n)
			}
			if got := names(f, text.addr+16*1000+15); got != "f" {
				t.Errorf("got %q, want f", got)
			}
		}
	}
}

// TestConcurrentResolve is for the race detector, and holds that scratch memory is not shared.
func TestConcurrentResolve(t *testing.T) {
	f := mustOpen(t, makeGo(goImage{}))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				if got := names(f, 0x1010); got != "main.inner main.outer" {
					t.Errorf("got %q", got)
				}
				if got := names(f, 0x1100); got != "main.plain" {
					t.Errorf("got %q", got)
				}
			}
		})
	}
	wg.Wait()
}

// failing is a file that cannot be read once fail is set.
type failing struct {
	bytes.Reader
	fail error
}

func (f *failing) ReadAt(b []byte, off int64) (int, error) {
	if f.fail != nil {
		return 0, f.fail
	}
	return f.Reader.ReadAt(b, off)
}

func TestErrKeepsTheFirst(t *testing.T) {
	image := makeSymbols(elf.ELFCLASS64, elf.EM_X86_64, testSymbol{"f", 0x1000, 8, elf.STB_GLOBAL, elf.STT_FUNC, 1})
	r := &failing{Reader: *bytes.NewReader(image)}
	f, err := Open(r, int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	r.fail = errors.New("disk on fire")
	if got := f.Resolve(nil, 0x1000); got != nil {
		t.Errorf("got %v", got)
	}
	if err := f.Err(); !errors.Is(err, r.fail) || !strings.Contains(err.Error(), "symtab: name of the symbol at 0x1000: read ") {
		t.Errorf("got error %v", err)
	}
}
