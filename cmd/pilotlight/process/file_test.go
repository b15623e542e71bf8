package process

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// need skips a test that a missing tool makes impossible.
func need(t *testing.T, tool string) string {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		if os.Getenv("REQUIRE_ALL") == "1" {
			t.Fatalf("%s is not installed, and REQUIRE_ALL=1", tool)
		}
		t.Skipf("%s is not installed", tool)
	}
	return path
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// binaries returns ELF files of many shapes, by name.
func binaries(t *testing.T) map[string]string {
	t.Helper()
	cc := need(t, "gcc")
	dir := t.TempDir()
	src := filepath.Join(dir, "x.c")
	if err := os.WriteFile(src, []byte("int data[9000] = {1};\nint twice(int x) { return 2 * x; }\n#ifndef LIB\nint main(void) { return twice(data[1]); }\n#endif\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"go": self}
	for name, flags := range map[string][]string{
		"pie":     {"-pie", "-fPIE", "-Wl,--build-id=sha1"},
		"non-pie": {"-no-pie", "-fno-pie", "-Wl,--build-id=md5"},
		"static":  {"-static", "-Wl,--build-id=none"},
		"library": {"-shared", "-fPIC", "-DLIB", "-Wl,--build-id=sha1"},
		// As lld lays files out: p_offset and p_vaddr of the code differ.
		"shifted": {"-shared", "-fPIC", "-DLIB", "-Wl,--build-id=sha1", "-Wl,-Ttext-segment=0x200000", "-Wl,-z,separate-code", "-Wl,--section-start=.text=0x345000"},
		// Code in one segment with the read-only data.
		"one segment": {"-no-pie", "-Wl,-z,noseparate-code", "-Wl,--build-id=sha1"},
	} {
		files[name] = filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		run(t, cc, append(flags, "-O1", "-o", files[name], src)...)
	}
	return files
}

// TestSegmentsReadelf compares segments, build IDs and addresses with readelf.
func TestSegmentsReadelf(t *testing.T) {
	readelf := need(t, "readelf")
	load := regexp.MustCompile(`(?m)^  LOAD +0x([0-9a-f]+) 0x([0-9a-f]+) 0x[0-9a-f]+ 0x([0-9a-f]+) 0x[0-9a-f]+ (...) `)
	gnuID := regexp.MustCompile(`Build ID: ([0-9a-f]+)`)
	symbol := regexp.MustCompile(`(?m)^ *\d+: ([0-9a-f]+) +\d+ FUNC +GLOBAL DEFAULT +(\d+) (twice|main\.main|runtime\.main)$`)
	section := regexp.MustCompile(`(?m)^ +\[ *(\d+)\] \S+ +PROGBITS +([0-9a-f]+) ([0-9a-f]+) `)
	for name, path := range binaries(t) {
		t.Run(name, func(t *testing.T) {
			f := identifyPath(t, path)
			var want []Segment
			for _, m := range load.FindAllStringSubmatch(run(t, readelf, "-lW", path), -1) {
				if strings.Contains(m[4], "E") {
					want = append(want, Segment{fromHex(t, m[1]), fromHex(t, m[2]), fromHex(t, m[3])})
				}
			}
			if len(want) == 0 || len(want) != len(f.Segments) {
				t.Fatalf("got %x, want %x", f.Segments, want)
			}
			for i := range want {
				if f.Segments[i] != want[i] {
					t.Errorf("got %x, want %x", f.Segments, want)
				}
			}
			wantID := ""
			if m := gnuID.FindStringSubmatch(run(t, readelf, "-nW", path)); m != nil {
				wantID = m[1]
			}
			if name == "go" {
				wantID = strings.TrimSpace(run(t, need(t, "go"), "tool", "buildid", path))
			}
			if f.BuildID != wantID {
				t.Errorf("build ID %q, want %q", f.BuildID, wantID)
			}
			if name == "shifted" && f.Segments[0].Offset == f.Segments[0].Addr {
				t.Error("the file does not test what it is for")
			}
			// A function's address by way of its offset in the file and a mapping
			// that the kernel could make.
			sections := map[string][2]uint64{}
			for _, m := range section.FindAllStringSubmatch(run(t, readelf, "-SW", path), -1) {
				sections[m[1]] = [2]uint64{fromHex(t, m[2]), fromHex(t, m[3])}
			}
			symbols := symbol.FindAllStringSubmatch(run(t, readelf, "-sW", path), -1)
			if len(symbols) == 0 && name != "go" {
				t.Fatal("no symbol")
			}
			for _, m := range symbols {
				addr := fromHex(t, m[1])
				s := sections[m[2]]
				offset := addr - s[0] + s[1]
				const base = 0x7f1200000000
				start := offset &^ 0xfff
				mapping := Mapping{Start: base, End: base + 0x1000, Offset: start, Object: &Object{file: f}}
				if got, ok := mapping.Addr(base + offset - start); !ok || got != addr {
					t.Errorf("%s: address %#x, want %#x", m[3], got, addr)
				}
			}
		})
	}
}

func fromHex(t *testing.T, s string) uint64 {
	t.Helper()
	v, err := strconv.ParseUint(s, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func identifyPath(t *testing.T, path string) *File {
	t.Helper()
	h, err := Host{}.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	info, err := h.Stat()
	if err != nil {
		t.Fatal(err)
	}
	f, err := identify(h, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestInstalledPrograms checks binaries of other linkers (gold, lld, rustc's)
// with debug/elf, if they are there.
func TestInstalledPrograms(t *testing.T) {
	checked := 0
	for _, path := range []string{"/usr/bin/node", "/usr/lib/chromium/chromium", "/bin/bash", "/usr/lib/llvm-19/bin/clang"} {
		file, err := elf.Open(path)
		if err != nil {
			continue
		}
		f := identifyPath(t, path)
		for _, s := range f.Segments {
			for pc := s.Offset; pc < s.Offset+s.FileSize; pc += max(1, s.FileSize/100) {
				m := Mapping{Start: 1 << 40, End: 1 << 50, Object: &Object{file: f}}
				got, ok := m.Addr(1<<40 + pc)
				want := uint64(0)
				for _, p := range file.Progs {
					if p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 && pc-p.Off < p.Filesz {
						want = pc - p.Off + p.Vaddr
					}
				}
				if !ok || got != want {
					t.Fatalf("%s: offset %#x is address %#x, want %#x", path, pc, got, want)
				}
				checked++
			}
			t.Logf("%s: offset %#x, address %#x", path, s.Offset, s.Addr)
		}
		file.Close()
	}
	if checked == 0 {
		t.Error("not even bash is installed")
	}
}

func TestAddrWithoutFile(t *testing.T) {
	m, _ := newMapping(0x1000, 0x2000, 0x5000, "/lib/a", "", Inode{Dev: 1, Number: 1})
	vdso, _ := newMapping(0x1000, 0x2000, 0, "[vdso]", "", Inode{})
	jit, _ := newMapping(0x1000, 0x2000, 0x1000, "//anon", "", Inode{})
	data := m
	data.Object = &Object{file: &File{Segments: []Segment{{Offset: 0x40000, Addr: 0x40000, FileSize: 0x100}}}}
	for _, tc := range []struct {
		m    Mapping
		want uint64
		ok   bool
	}{{m, 0x5234, true}, {vdso, 0x234, true}, {jit, 0x1234, true}, {data, 0, false}} {
		if got, ok := tc.m.Addr(0x1234); ok != tc.ok || ok && got != tc.want {
			t.Errorf("%+v: address %#x, %t", tc.m.Object, got, ok)
		}
	}
}

func TestFileKey(t *testing.T) {
	original, err := os.ReadFile(binaries(t)["pie"])
	if err != nil {
		t.Fatal(err)
	}
	key := func(data []byte) FileKey {
		f, err := identify(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		return f.Key
	}
	want := key(original)
	if key(bytes.Clone(original)) != want {
		t.Error("the same bytes give another key")
	}
	f, err := identify(bytes.NewReader(original), int64(len(original)))
	if err != nil {
		t.Fatal(err)
	}
	id := bytes.Index(original, mustDecode(t, f.BuildID))
	for name, change := range map[string]func([]byte) []byte{
		"build ID":       func(b []byte) []byte { b[id]++; return b },
		"size":           func(b []byte) []byte { return append(b, 0) },
		"program header": func(b []byte) []byte { b[64+24]++; return b }, // p_paddr of the first
		"code":           func(b []byte) []byte { b[f.Segments[0].Offset]++; return b },
	} {
		if key(change(bytes.Clone(original))) == want {
			t.Errorf("another %s gives the same key", name)
		}
	}
}

func mustDecode(t *testing.T, s string) []byte {
	t.Helper()
	var b []byte
	for ; len(s) >= 2; s = s[2:] {
		b = append(b, byte(fromHex(t, s[:2])))
	}
	return b
}

// tinyELF is an ELF file of one executable segment and a note.
func tinyELF(class elf.Class, order binary.ByteOrder, note []byte) []byte {
	var b bytes.Buffer
	ident := [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(class), byte(elf.ELFDATA2LSB), 1}
	if order == binary.ByteOrder(binary.BigEndian) {
		ident[elf.EI_DATA] = byte(elf.ELFDATA2MSB)
	}
	var all []any
	if class == elf.ELFCLASS64 {
		all = []any{
			elf.Header64{Ident: ident, Phoff: 64, Phentsize: 56, Phnum: 2},
			elf.Prog64{Type: uint32(elf.PT_NOTE), Off: 0x100, Filesz: uint64(len(note)), Align: 4},
			elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_X), Off: 0x80, Vaddr: 0x2080, Filesz: 0x40},
		}
	} else {
		all = []any{
			elf.Header32{Ident: ident, Phoff: 52, Phentsize: 32, Phnum: 2},
			elf.Prog32{Type: uint32(elf.PT_NOTE), Off: 0x100, Filesz: uint32(len(note)), Align: 4},
			elf.Prog32{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_X), Off: 0x80, Vaddr: 0x2080, Filesz: 0x40},
		}
	}
	for _, v := range all {
		_ = binary.Write(&b, order, v) // to memory
	}
	data := append(b.Bytes(), make([]byte, 0x100)...)[:0x100]
	return append(data, note...)
}

func noteOf(order binary.AppendByteOrder, kind uint32, name, desc string) []byte {
	pad := func(s string) string { return s + strings.Repeat("\x00", -len(s)&3) }
	var b []byte
	b = order.AppendUint32(b, uint32(len(name)))
	b = order.AppendUint32(b, uint32(len(desc)))
	b = order.AppendUint32(b, kind)
	return append(b, pad(name)+pad(desc)...)
}

func TestIdentifyClassesAndNotes(t *testing.T) {
	little := binary.LittleEndian
	gnu := noteOf(little, 3, "GNU\x00", "\x01\x02\x03")
	golang := noteOf(little, 4, "Go\x00\x00", "a/b")
	for _, tc := range []struct {
		name string
		data []byte
		want string
	}{
		{"64 bit", tinyELF(elf.ELFCLASS64, little, gnu), "010203"},
		{"32 bit", tinyELF(elf.ELFCLASS32, little, gnu), "010203"},
		{"big-endian", tinyELF(elf.ELFCLASS64, binary.BigEndian, noteOf(binary.BigEndian, 3, "GNU\x00", "\x01\x02\x03")), "010203"},
		{"32 bit, big-endian", tinyELF(elf.ELFCLASS32, binary.BigEndian, noteOf(binary.BigEndian, 3, "GNU\x00", "\x01")), "01"},
		{"Go only", tinyELF(elf.ELFCLASS64, little, golang), "a/b"},
		{"Go first", tinyELF(elf.ELFCLASS64, little, append(bytes.Clone(golang), gnu...)), "010203"},
		{"another note first", tinyELF(elf.ELFCLASS64, little, append(noteOf(little, 1, "GNU\x00", "abcdef"), gnu...)), "010203"},
		{"another name", tinyELF(elf.ELFCLASS64, little, noteOf(little, 3, "XYZ\x00", "abc")), ""},
		{"too long", tinyELF(elf.ELFCLASS64, little, noteOf(little, 3, "GNU\x00", strings.Repeat("a", 257))), ""},
		{"cut", tinyELF(elf.ELFCLASS64, little, gnu[:13]), ""},
		{"sizes that overflow", tinyELF(elf.ELFCLASS64, little, append([]byte("\xff\xff\xff\xff\xff\xff\xff\xff"), gnu...)), ""},
	} {
		f, err := identify(bytes.NewReader(tc.data), int64(len(tc.data)))
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if f.BuildID != tc.want || len(f.Segments) != 1 || f.Segments[0] != (Segment{0x80, 0x2080, 0x40}) {
			t.Errorf("%s: got %+v, want build ID %q", tc.name, f, tc.want)
		}
		if want := strings.HasPrefix(tc.name, "Go"); f.Go != want {
			t.Errorf("%s: Go is %v, want %v", tc.name, f.Go, want)
		}
	}
}

func TestIdentifyErrors(t *testing.T) {
	good := tinyELF(elf.ELFCLASS64, binary.LittleEndian, nil)
	change := func(at int, b ...byte) []byte {
		data := bytes.Clone(good)
		copy(data[at:], b)
		return data
	}
	for _, tc := range []struct {
		name   string
		data   []byte
		notELF bool
	}{
		{"empty", nil, true},
		{"text", []byte("#!/bin/sh\nexit 0\n"), true},
		{"magic only", good[:4], true},
		{"header cut", good[:40], false},
		{"program headers cut", good[:100], false},
		{"class", change(4, 9), false},
		{"byte order", change(5, 9), false},
		{"offset of program headers", change(32, 0, 0, 0, 0, 0, 0, 0, 0xff), false},
		{"size of a program header", change(54, 1), false},
		{"no program headers", change(56, 0), false},
		{"too many program headers", change(56, 0xff, 0xff), false},
	} {
		f, err := identify(bytes.NewReader(tc.data), int64(len(tc.data)))
		if err == nil {
			t.Errorf("%s: got %+v", tc.name, f)
		} else if errors.Is(err, ErrNotELF) != tc.notELF {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// counting counts what is read of a file.
type counting struct {
	*bytes.Reader
	n int
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.Reader.ReadAt(p, off)
	c.n += n
	return n, err
}

func FuzzIdentify(f *testing.F) {
	note := noteOf(binary.LittleEndian, 3, "GNU\x00", "\x01\x02\x03")
	f.Add(tinyELF(elf.ELFCLASS64, binary.LittleEndian, note), uint64(0x90))
	f.Add(tinyELF(elf.ELFCLASS32, binary.LittleEndian, note), uint64(0))
	f.Add(tinyELF(elf.ELFCLASS64, binary.BigEndian, note), uint64(1<<63))
	f.Fuzz(func(t *testing.T, data []byte, offset uint64) {
		c := &counting{Reader: bytes.NewReader(data)}
		file, err := identify(c, int64(len(data)))
		if c.n > maxSegments*(maxNotes+56)+3*sampleSize+64 {
			t.Errorf("%d bytes were read", c.n)
		}
		if err == nil {
			file.Segment(offset)
		}
	})
}

func BenchmarkIdentify(b *testing.B) {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	f, err := os.Open(self)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := identify(f, info.Size()); err != nil {
			b.Fatal(err)
		}
	}
}
