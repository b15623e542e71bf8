package symbolize

import (
	"bytes"
	"compress/zlib"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// The tests' programs have one text section at 0x1000, and entries of these kinds.
const (
	codeUnit      = 1 // name, low_pc, stmt_list
	codeFunction  = 2 // name, low_pc, high_pc (length), decl_line
	codeAbstract  = 3 // name, decl_line
	codeInlined   = 4 // origin, low_pc, high_pc (length), call_file, call_line
	codeOrigin    = 5 // origin
	codeRanges    = 6 // function: name, ranges
	codeNamespace = 7 // nothing
	codeSibling   = 8 // subprogram: sibling
)

// testAbbrevs are their abbreviations.
func testAbbrevs() []byte {
	var b []byte
	add := func(code, tag int, children byte, attrs ...uint64) {
		b = binary.AppendUvarint(b, uint64(code))
		b = binary.AppendUvarint(b, uint64(tag))
		b = append(b, children)
		for _, a := range append(attrs, 0, 0) {
			b = binary.AppendUvarint(b, a)
		}
	}
	add(codeUnit, tagCompileUnit, 1, attrName, formString, attrLowPC, formAddr, attrStmtList, formSecOffset)
	add(codeFunction, tagSubprogram, 1, attrName, formString, attrLowPC, formAddr, attrHighPC, formData4, attrDeclLine, formData1)
	add(codeAbstract, tagSubprogram, 0, attrName, formString, attrDeclLine, formData1)
	add(codeInlined, tagInlinedSubroutine, 1, attrAbstractOrigin, formRef4, attrLowPC, formAddr, attrHighPC, formData4,
		attrCallFile, formData1, attrCallLine, formUdata)
	add(codeOrigin, tagSubprogram, 0, attrAbstractOrigin, formRef4)
	add(codeRanges, tagSubprogram, 0, attrName, formString, attrRanges, formSecOffset)
	add(codeNamespace, tagNamespace, 1)
	add(codeSibling, tagEnumeration, 1, attrSibling, formRef4)
	return append(b, 0)
}

const tagEnumeration = 0x04

// testInfo puts entries together.
type testInfo struct{ b []byte }

func (i *testInfo) unit() {
	i.b = put(i.b, uint32(0), uint16(5), byte(unitCompile), byte(8), uint32(0))
	i.add(byte(codeUnit), "unit.c", uint64(0x1000), uint32(0))
}

// add appends numbers in their own widths and strings with their NUL, and returns where they begin.
func (i *testInfo) add(values ...any) uint32 {
	at := uint32(len(i.b))
	for _, v := range values {
		if s, ok := v.(string); ok {
			i.b = append(append(i.b, s...), 0)
			continue
		}
		i.b = put(i.b, v)
	}
	return at
}

// bytes ends the unit.
func (i *testInfo) bytes() []byte {
	binary.LittleEndian.PutUint32(i.b, uint32(len(i.b)-4))
	return i.b
}

// testLines is a program of DWARF 4: a line each 16 bytes from 0x1000 on, numbered from 1, in /src/a.c.
func testLines(rows int) []byte {
	head := []byte{1, 1, 1, 0xfb, 14, 13, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1}
	head = append(head, "/src\x00\x00a.c\x00\x01\x00\x00\x00"...)
	program := put(nil, byte(0), byte(9), byte(2), uint64(0x1000))
	for range rows {
		program = append(program, 1, 3, 1, 2, 16) // copy, line += 1, address += 16
	}
	program = append(program, 0, 1, 1)
	b := put(nil, uint16(4), uint32(len(head)))
	b = append(append(b, head...), program...)
	return append(put(nil, uint32(len(b))), b...)
}

// makeDWARF makes an ELF file with these sections.
func makeDWARF(info, abbrev, line, rnglists []byte) []byte {
	sections := []testSection{text}
	for _, s := range []struct {
		name string
		data []byte
	}{{".debug_info", info}, {".debug_abbrev", abbrev}, {".debug_line", line}, {".debug_rnglists", rnglists}} {
		sections = append(sections, testSection{name: s.name, typ: elf.SHT_PROGBITS, data: s.data})
	}
	sections = append(sections, symbolSections(elf.ELFCLASS64, elf.SHT_SYMTAB, uint32(len(sections)+1), []testSymbol{
		{"outer", 0x1000, 0x80, elf.STB_GLOBAL, elf.STT_FUNC, 1},
		{"plain.cold", 0x1180, 0x10, elf.STB_LOCAL, elf.STT_FUNC, 1},
		{"assembly", 0x1200, 0x20, elf.STB_GLOBAL, elf.STT_FUNC, 1},
	})...)
	return makeELF(elf.ELFCLASS64, elf.EM_X86_64, sections...)
}

// sampleInfo is a function with inlined calls, a function in two pieces, and one in a namespace.
func sampleInfo() []byte {
	var i testInfo
	i.unit()
	inner := i.add(byte(codeAbstract), "inner", byte(50))
	middle := i.add(byte(codeOrigin), inner) // a copy of inner
	i.add(byte(codeFunction), "outer", uint64(0x1000), uint32(0x80), byte(10))
	i.add(byte(codeInlined), middle, uint64(0x1010), uint32(0x30), byte(1), byte(77))
	i.add(byte(codeInlined), inner, uint64(0x1020), uint32(0x10), byte(1), byte(88), byte(0))
	i.add(byte(0), byte(0))
	i.add(byte(codeRanges), "plain", uint32(0))
	i.add(byte(codeNamespace), byte(codeFunction), "spaced", uint64(0x1300), uint32(0x10), byte(30), byte(0), byte(0))
	i.add(byte(0))
	return i.bytes()
}

// sampleRanges is 0x1100 to 0x1110 and 0x1180 to 0x1190.
func sampleRanges() []byte {
	return []byte{4, 0x80, 2, 0x90, 2, 4, 0x80, 3, 0x90, 3, 0}
}

// indexOf builds the index of an image in memory.
func indexOf(image []byte, opts IndexOptions) (*Index, []byte, IndexStats, error) {
	var out bytes.Buffer
	stats, err := BuildIndex(context.Background(), bytes.NewReader(image), int64(len(image)), &out, opts)
	if err != nil {
		return nil, nil, stats, err
	}
	x, err := OpenIndex(bytes.NewReader(out.Bytes()), int64(out.Len()))
	return x, out.Bytes(), stats, err
}

func mustIndex(t testing.TB, image []byte) (*Index, []byte) {
	t.Helper()
	x, raw, stats, err := indexOf(image, IndexOptions{})
	if err = errors.Join(err, stats.Skipped); err != nil {
		t.Fatal(err)
	}
	return x, raw
}

func sample() []byte { return makeDWARF(sampleInfo(), testAbbrevs(), testLines(64), sampleRanges()) }

// brief writes frames as function@file:line, the symbol after a slash where it is another.
func brief(frames []Frame) string {
	var s []string
	for _, f := range frames {
		name := f.Function
		if f.SystemName != f.Function {
			name += "/" + f.SystemName
		}
		s = append(s, fmt.Sprintf("%s@%s:%d", name, f.File, f.Line))
	}
	return strings.Join(s, " ")
}

func TestIndexResolve(t *testing.T) {
	x, _ := mustIndex(t, sample())
	for addr, want := range map[uint64]string{
		0xfff:   "",
		0x1000:  "outer@/src/a.c:1",
		0x100f:  "outer@/src/a.c:1",
		0x1010:  "inner@/src/a.c:2 outer@/src/a.c:77",
		0x1020:  "inner@/src/a.c:3 inner@/src/a.c:88 outer@/src/a.c:77",
		0x1030:  "inner@/src/a.c:4 outer@/src/a.c:77",
		0x1040:  "outer@/src/a.c:5",
		0x107f:  "outer@/src/a.c:8",
		0x1080:  "",
		0x1100:  "plain@/src/a.c:17",
		0x1110:  "",
		0x1180:  "plain/plain.cold@/src/a.c:25",
		0x1200:  "assembly@/src/a.c:33",
		0x1210:  "assembly@/src/a.c:34",
		0x1220:  "",
		0x1300:  "spaced@/src/a.c:49",
		0x1310:  "",
		1 << 63: "",
	} {
		if got := brief(x.Resolve(nil, addr)); got != want {
			t.Errorf("%#x: got %q, want %q", addr, got, want)
		}
		// As in a large index, whose addresses stay in the file.
		large := &Index{in: x.in, trailer: x.trailer, records: x.records, strings: x.strings, functions: x.functions,
			files: x.files, addresses: x.addresses, sparse: x.sparse, names: x.names, paths: x.paths}
		large.scratch.New = x.scratch.New
		if got := brief(large.Resolve(nil, addr)); got != want {
			t.Errorf("%#x in a large index: got %q, want %q", addr, got, want)
		}
	}
	if err := x.Err(); err != nil {
		t.Error(err)
	}
	frames := x.Resolve(nil, 0x1020)
	if frames[0].StartLine != 50 || frames[2].StartLine != 10 || frames[0].Source != DWARF {
		t.Errorf("got %+v", frames)
	}
	if f := x.Resolve(nil, 0x1200); f[0].Source != Symtab {
		t.Errorf("assembly has source %v, its name is a symbol", f[0].Source)
	}
}

// TestIndexOnly makes indexes for one address each.
func TestIndexOnly(t *testing.T) {
	whole, _ := mustIndex(t, sample())
	for addr := uint64(0xff8); addr < 0x1320; addr += 8 {
		x, _, stats, err := indexOf(sample(), IndexOptions{Only: []uint64{addr}})
		if err = errors.Join(err, stats.Skipped); err != nil {
			t.Fatal(err)
		}
		if got, want := brief(x.Resolve(nil, addr)), brief(whole.Resolve(nil, addr)); got != want {
			t.Errorf("%#x: got %q, want %q", addr, got, want)
		}
	}
}

// TestIndexWithoutDWARF names what the symbols name.
func TestIndexWithoutDWARF(t *testing.T) {
	x, _ := mustIndex(t, makeDWARF(nil, nil, nil, nil))
	for addr, want := range map[uint64]string{0x1000: "outer@:0", 0x1080: "", 0x1180: "plain.cold@:0", 0x121f: "assembly@:0"} {
		if got := brief(x.Resolve(nil, addr)); got != want {
			t.Errorf("%#x: got %q, want %q", addr, got, want)
		}
	}
}

// TestHostileDWARF has files that readers of DWARF go wrong at: they cost the unit at most.
func TestHostileDWARF(t *testing.T) {
	build := func(f func(i *testInfo)) []byte {
		var i testInfo
		i.unit()
		f(&i)
		return i.bytes()
	}
	function := []any{byte(codeFunction), "f", uint64(0x1000), uint32(0x10), byte(1)}
	for _, tt := range []struct {
		name string
		info []byte
		line []byte
		want string // of 0x1000
		err  string // in IndexStats.Skipped
	}{
		{name: "an origin that is itself", info: build(func(i *testInfo) {
			i.add(append(function, byte(codeInlined), uint32(len(i.b)+16), uint64(0x1000), uint32(4), byte(1), byte(2), byte(0), byte(0), byte(0))...)
		}), want: "@/src/a.c:1 f/outer@/src/a.c:2"},
		{name: "origins in a circle", info: build(func(i *testInfo) {
			a := i.add(byte(codeOrigin), uint32(len(i.b)+5))
			i.add(byte(codeOrigin), a)
			i.add(append(function, byte(codeInlined), a, uint64(0x1000), uint32(4), byte(1), byte(2), byte(0), byte(0), byte(0))...)
		}), want: "@/src/a.c:1 f/outer@/src/a.c:2"},
		{name: "an origin outside of all units", info: build(func(i *testInfo) {
			i.add(append(function, byte(codeInlined), uint32(1<<31), uint64(0x1000), uint32(4), byte(1), byte(2), byte(0), byte(0), byte(0))...)
		}), want: "@/src/a.c:1 f/outer@/src/a.c:2"},
		{name: "a sibling that is before", info: build(func(i *testInfo) {
			i.add(append(function, byte(0))...)
			i.add(byte(codeSibling), uint32(20), byte(0))
		}), want: "f/outer@/src/a.c:1", err: "sibling"},
		{name: "entries nested without end", info: build(func(i *testInfo) {
			i.add(append(function, byte(0))...)
			i.add(bytes.Repeat([]byte{codeNamespace}, maxDepth+10))
		}), want: "f/outer@/src/a.c:1", err: "over the limit"},
		{name: "more inlined calls than are told", info: build(func(i *testInfo) {
			callee := i.add(byte(codeAbstract), "g", byte(1))
			i.add(function...)
			for range 2 * maxInline {
				i.add(byte(codeInlined), callee, uint64(0x1000), uint32(4), byte(1), byte(2))
			}
			i.add(bytes.Repeat([]byte{0}, 2*maxInline+2))
		}), want: "g@/src/a.c:1" + strings.Repeat(" g@/src/a.c:2", maxInline-2) + " f/outer@/src/a.c:2"},
		{name: "an abbreviation that is not there", info: build(func(i *testInfo) {
			i.add(append(function, byte(0), byte(99))...)
		}), want: "f/outer@/src/a.c:1", err: "no abbreviation 99"},
		{name: "entries cut short", info: build(func(i *testInfo) {
			i.add(append(function, byte(0))...)
			i.add(byte(codeFunction), "g", uint64(0x1010))
		}), want: "f/outer@/src/a.c:1", err: "past their unit"},
		{name: "a unit longer than the section", info: append(put(nil, uint32(1<<30), uint16(5), byte(1), byte(8), uint32(0)), 0), want: "outer@:0", err: "are left"},
		{name: "DWARF 6", info: append(put(nil, uint32(20), uint16(6)), make([]byte, 18)...), want: "outer@:0", err: "versions 2 to 5"},
		{name: "a line program without a range of lines", info: build(func(i *testInfo) { i.add(append(function, byte(0), byte(0))...) }),
			line: func() []byte { l := testLines(4); l[14] = 0; return append(l, 0xff) }(), want: "f/outer@/src/a.c:1"},
		{name: "a line program that goes back", info: build(func(i *testInfo) { i.add(append(function, byte(0), byte(0))...) }),
			line: func() []byte {
				back := append(put([]byte{1, 0, 9, 2}, uint64(0x1000)), 3, 9, 1, 0, 1, 1)
				l := bytes.Replace(testLines(4), []byte{1, 3, 1, 2, 16, 0, 1, 1}, back, 1)
				binary.LittleEndian.PutUint32(l, uint32(len(l)-4))
				return l
			}(), want: "f/outer@/src/a.c:13"},
		{name: "a function as large as the address space", info: build(func(i *testInfo) {
			i.add(byte(codeFunction), "f", uint64(0), uint32(1<<32-1), byte(1), byte(0), byte(0))
		}), want: "outer@/src/a.c:1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.line == nil {
				tt.line = testLines(64)
			}
			x, _, stats, err := indexOf(makeDWARF(tt.info, testAbbrevs(), tt.line, nil), IndexOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if tt.err == "" && stats.Skipped != nil || tt.err != "" && (stats.Skipped == nil || !strings.Contains(stats.Skipped.Error(), tt.err)) {
				t.Errorf("skipped: %v, want %q", stats.Skipped, tt.err)
			}
			if got := brief(x.Resolve(nil, 0x1000)); tt.want != "" && got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestDamagedPackage has packages of split DWARF of which there is nothing to be had.
func TestDamagedPackage(t *testing.T) {
	index := put(nil, uint32(2), uint32(0), uint32(0), uint32(0))
	for _, tt := range []struct {
		name, want string
		sections   []testSection
	}{
		{"no index", "version 0", nil},
		{"an index without bytes", "version 0", []testSection{{name: ".debug_cu_index", typ: elf.SHT_NOBITS}}},
		{"a section that is too short to be compressed", "reach past a table", []testSection{
			{name: ".debug_cu_index", typ: elf.SHT_PROGBITS, data: index},
			{name: ".debug_info.dwo", typ: elf.SHT_PROGBITS, flags: elf.SHF_COMPRESSED, data: []byte{1}},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			image := makeELF(elf.ELFCLASS64, elf.EM_X86_64, tt.sections...)
			p, err := new(indexBuilder).openPackage(&DebugFile{bytes.NewReader(image), int64(len(image))})
			if p != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, %v, want %q", p, err, tt.want)
			}
		})
	}
}

// compressed makes a compressed section that claims a size.
func compressed(typ elf.CompressionType, packed []byte, claim uint64) []byte {
	return append(put(nil, uint32(typ), uint32(0), claim, uint64(1)), packed...)
}

func TestCompressedBomb(t *testing.T) {
	var packed bytes.Buffer
	w := zlib.NewWriter(&packed)
	if _, err := w.Write(make([]byte, 8<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		claim uint64
		spill int64 // what may be written
		want  string
	}{
		{"more than there is", 9 << 20, 8 << 20, "unexpected EOF, 1048576 bytes are missing"},
		{"more than may be", 1 << 40, 0, "over the limit"},
		{"less than there is", 1 << 10, 1 << 10, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			image := makeELF(elf.ELFCLASS64, elf.EM_X86_64, text, testSection{
				name: ".debug_str", typ: elf.SHT_PROGBITS, flags: elf.SHF_COMPRESSED, data: compressed(elf.COMPRESS_ZLIB, packed.Bytes(), tt.claim),
			})
			spill, err := os.Create(filepath.Join(t.TempDir(), "spill"))
			if err != nil {
				t.Fatal(err)
			}
			defer spill.Close()
			_, _, _, err = indexOf(image, IndexOptions{Spill: spill, SpillBytes: 16 << 20})
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if info, err := spill.Stat(); err != nil || info.Size() > tt.spill {
				t.Errorf("%d bytes spilled, want at most %d: %v", info.Size(), tt.spill, err)
			}
		})
	}
}

// TestInflateAhead reads a compressed section in rising steps, a little back now and then, and at last far back.
func TestInflateAhead(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 0))
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(rng.IntN(8))
	}
	var packed bytes.Buffer
	w := zlib.NewWriter(&packed)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	image := makeELF(elf.ELFCLASS64, elf.EM_X86_64, text, testSection{
		name: "packed", typ: elf.SHT_PROGBITS, flags: elf.SHF_COMPRESSED, data: compressed(elf.COMPRESS_ZLIB, packed.Bytes(), uint64(len(data))),
	})
	m, err := readAnyImage(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	var spill memoryFile
	u := unpacker{spill: &spill, limit: 1 << 30}
	defer u.close()
	b, err := u.openAhead(m, "packed")
	if err != nil {
		t.Fatal(err)
	}
	check := func(at, n int) {
		t.Helper()
		got := make([]byte, min(n, len(data)-at))
		if err := b.in.read(b.at, uint64(at), got); err != nil || !bytes.Equal(got, data[at:at+len(got)]) {
			t.Fatalf("%d bytes at %d: %v", n, at, err)
		}
	}
	// What was read last stays readable, and nothing farther back is asked for.
	for at := 0; at < len(data); at += rng.IntN(100 << 10) {
		n := rng.IntN(80 << 10)
		check(at, n)
		end := min(at+n, len(data))
		back := rng.IntN(min(end, aheadKept) + 1)
		check(end-back, rng.IntN(back+1))
		at = end
	}
	if len(spill.b) != 0 {
		t.Errorf("%d bytes were spilled", len(spill.b))
	}
	for range 100 {
		check(rng.IntN(len(data)), rng.IntN(100<<10))
	}
	if len(spill.b) != len(data) {
		t.Errorf("%d bytes were spilled, want all", len(spill.b))
	}
}

func TestBuildIndexEnds(t *testing.T) {
	image := sample()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := BuildIndex(ctx, bytes.NewReader(image), int64(len(image)), new(bytes.Buffer), IndexOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, _, _, err := indexOf(image, IndexOptions{IndexBytes: 100}); !errors.Is(err, errLimit) {
		t.Errorf("index of more than 100 bytes: %v", err)
	}
}

func TestPaint(t *testing.T) {
	spanOf := func(lo, hi uint64, node int32) nodeSpan { return nodeSpan{span{lo, hi}, node} }
	for _, tt := range []struct {
		name     string
		in, want []nodeSpan
	}{
		{"one", []nodeSpan{spanOf(0, 10, 0)}, []nodeSpan{spanOf(0, 10, 0)}},
		{"within", []nodeSpan{spanOf(0, 10, 0), spanOf(2, 4, 1)}, []nodeSpan{spanOf(0, 2, 0), spanOf(2, 4, 1), spanOf(4, 10, 0)}},
		{"at both ends", []nodeSpan{spanOf(0, 10, 0), spanOf(0, 4, 1), spanOf(8, 10, 2)}, []nodeSpan{spanOf(0, 4, 1), spanOf(4, 8, 0), spanOf(8, 10, 2)}},
		{"the same twice", []nodeSpan{spanOf(0, 10, 0), spanOf(0, 10, 1), spanOf(0, 10, 2)}, []nodeSpan{spanOf(0, 10, 2)}},
		{"crossing", []nodeSpan{spanOf(0, 10, 0), spanOf(2, 6, 1), spanOf(4, 8, 2)},
			[]nodeSpan{spanOf(0, 2, 0), spanOf(2, 4, 1), spanOf(4, 8, 2), spanOf(8, 10, 0)}},
		{"in two pieces", []nodeSpan{spanOf(20, 30, 0), spanOf(0, 10, 0), spanOf(5, 25, 1)},
			[]nodeSpan{spanOf(0, 5, 0), spanOf(5, 25, 1), spanOf(25, 30, 0)}},
		{"apart", []nodeSpan{spanOf(0, 2, 0), spanOf(4, 6, 0)}, []nodeSpan{spanOf(0, 2, 0), spanOf(4, 6, 0)}},
	} {
		if got := paint(nil, tt.in); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestIndexDamaged(t *testing.T) {
	_, raw := mustIndex(t, sample())
	open := func(b []byte) error {
		_, err := OpenIndex(bytes.NewReader(b), int64(len(b)))
		return err
	}
	for i := range raw {
		b := bytes.Clone(raw)
		b[i] ^= 1 << (i % 8)
		if err := open(b); err == nil {
			t.Errorf("byte %d changed: no error", i)
		}
		if err := open(raw[:i]); err == nil {
			t.Errorf("cut to %d bytes: no error", i)
		}
	}
	other := bytes.Clone(raw)
	other[6]++
	if err := open(other); !errors.Is(err, ErrIndexVersion) {
		t.Errorf("another version: %v", err)
	}
}

// seal gives an index that was tampered with its checksum.
func seal(b []byte) {
	if len(b) > 4 {
		binary.LittleEndian.PutUint32(b[len(b)-4:], crc32.Checksum(b[:len(b)-4], castagnoli))
	}
}

// TestIndexMutants holds that an index whose checksum is right can be resolved whatever is in it.
func TestIndexMutants(t *testing.T) {
	_, raw := mustIndex(t, sample())
	failed := 0
	for i := len(indexMagic); i < len(raw)-4; i++ {
		for _, v := range []byte{0, 1, 0x7f, 0x80, 0xff, raw[i] + 1, raw[i] - 1} {
			b := bytes.Clone(raw)
			b[i] = v
			seal(b)
			x, err := OpenIndex(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				failed++
				continue
			}
			for addr := uint64(0xff0); addr < 0x1400; addr += 8 {
				if n := len(x.Resolve(nil, addr)); n > maxInline {
					t.Fatalf("byte %d is %#x: %d frames at %#x", i, v, n, addr)
				}
			}
			if x.Err() != nil {
				failed++
			}
		}
	}
	if failed == 0 {
		t.Error("no mutant was found out")
	}
}

func TestIndexLookupAllocates(t *testing.T) {
	x, _ := mustIndex(t, sample())
	frames := x.Resolve(nil, 0x1020)
	if n := testing.AllocsPerRun(100, func() { frames = x.Resolve(frames[:0], 0x1020) }); n != 0 {
		t.Errorf("%v allocations for %d frames", n, len(frames))
	}
}
