package symbolize

import (
	"bytes"
	"debug/elf"
	"testing"
)

// FuzzOpen opens what may be an ELF file, with symbols or with a pclntab, and resolves addresses in it.
func FuzzOpen(f *testing.F) {
	for _, class := range []elf.Class{elf.ELFCLASS64, elf.ELFCLASS32} {
		f.Add(makeSymbols(class, elf.EM_X86_64,
			testSymbol{"outer", 0x1000, 0x100, elf.STB_GLOBAL, elf.STT_FUNC, 1},
			testSymbol{"inner", 0x1010, 0x10, elf.STB_LOCAL, elf.STT_FUNC, 1},
			testSymbol{"_ZN3foo3barEv", 0x1010, 0, elf.STB_LOCAL, elf.STT_NOTYPE, 1},
		), uint64(0x1014))
	}
	f.Add(stubsAMD64(), uint64(0x2010))
	f.Add(stubsARM64(), uint64(0x2010))
	f.Add(makeGo(goImage{}), uint64(0x1010))
	f.Add(makeGo(goImage{magic: magicGo118}), uint64(0x1010))
	f.Add(makeGo(goImage{inlineLoop: true}), uint64(0x1010))
	f.Fuzz(func(t *testing.T, image []byte, addr uint64) {
		file, err := Open(bytes.NewReader(image), int64(len(image)))
		if err != nil {
			return
		}
		addrs := []uint64{addr, 0x1000, 0x1010, 0x1100, ^uint64(0)}
		for _, table := range file.tables {
			for i, start := range table.table.starts[:min(8, len(table.table.starts))] {
				// Ranges are in order and do not overlap; their own starts find them.
				if i > 0 && len(table.table.regions) == 1 && uint64(table.table.starts[i-1])+uint64(table.table.sizes[i-1]) > uint64(start) {
					t.Fatalf("range %d overlaps the one before", i)
				}
				addrs = append(addrs, table.table.regions[0].base+uint64(start))
			}
		}
		for _, a := range addrs {
			frames := file.Resolve(nil, a)
			if len(frames) > maxInline {
				t.Fatalf("%#x: %d frames", a, len(frames))
			}
			for _, frame := range frames {
				if frame.Source == None {
					t.Fatalf("%#x: a frame without a source: %+v", a, frame)
				}
			}
		}
		// Twice the image holds the ranges, 24 bytes a symbol in the file.
		if n := file.MemoryBytes(); n > 4096+2*len(image) {
			t.Fatalf("%d bytes held for a file of %d", n, len(image))
		}
	})
}

// FuzzBuildIndex makes an index of what may be DWARF, and resolves addresses with it.
func FuzzBuildIndex(f *testing.F) {
	f.Add(sampleInfo(), testAbbrevs(), testLines(64), sampleRanges())
	f.Add(sampleInfo(), testAbbrevs(), []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, info, abbrev, line, rnglists []byte) {
		// Many entries may refer to one long list, which costs time and nothing else.
		if len(info)+len(abbrev)+len(line)+len(rnglists) > 1<<14 {
			return
		}
		x, raw, _, err := indexOf(makeDWARF(info, abbrev, line, rnglists), IndexOptions{IndexBytes: 64 << 20})
		if err != nil {
			return
		}
		for addr := text.addr - 1; addr <= text.addr+text.size; addr += 7 {
			for _, frame := range x.Resolve(nil, addr) {
				if frame.Source == None {
					t.Fatalf("%#x: a frame without a source: %+v", addr, frame)
				}
			}
		}
		if err := x.Err(); err != nil {
			t.Fatalf("%d bytes: %v", len(raw), err)
		}
	})
}

// FuzzLineProgram runs what may be a line program.
func FuzzLineProgram(f *testing.F) {
	f.Add(testLines(3))
	f.Fuzz(func(t *testing.T, program []byte) {
		d := &debugInfo{line: window{blob: blob{source{bytes.NewReader(program), uint64(len(program))}, extent{0, uint64(len(program))}}}}
		d.lineSource = 1
		var lines lineTable
		// An error leaves the rows before it to be used.
		_ = lines.read(d, 0, 8, func(s span) bool { return s.lo < s.hi })
		for _, s := range lines.sequences {
			for addr := s.lo; addr < s.hi && addr-s.lo < 64; addr++ {
				// Sequences that overlap hide one another, so that there may be no row.
				if row, until := lines.at(addr); until <= addr || row >= 0 && lines.rows[row].addr > addr {
					t.Fatalf("%#x of %#x to %#x has row %d up to %#x", addr, s.lo, s.hi, row, until)
				}
				if row, until := lines.seek(addr); until <= addr || row >= 0 && lines.rows[row].addr > addr {
					t.Fatalf("%#x of %#x to %#x: seek has row %d up to %#x", addr, s.lo, s.hi, row, until)
				}
			}
		}
	})
}

// FuzzPackage opens what may be a package of split DWARF, and the units that it says it has.
func FuzzPackage(f *testing.F) {
	// Two units in four slots; columns of .debug_info.dwo, .debug_abbrev.dwo and .debug_str_offsets.dwo.
	index := put(nil, uint32(5), uint32(3), uint32(2), uint32(4),
		uint64(0x10), uint64(0), uint64(0x12), uint64(0), uint32(1), uint32(0), uint32(2), uint32(0),
		uint32(1), uint32(3), uint32(6), uint32(0), uint32(0), uint32(0), uint32(8), uint32(4), uint32(0), uint32(8), uint32(4), uint32(0), uint32(8), uint32(4), uint32(0))
	f.Add(index, sampleInfo(), testAbbrevs())
	f.Fuzz(func(t *testing.T, index, info, abbrev []byte) {
		image := makeELF(elf.ELFCLASS64, elf.EM_X86_64,
			testSection{name: ".debug_cu_index", typ: elf.SHT_PROGBITS, data: index},
			testSection{name: ".debug_info.dwo", typ: elf.SHT_PROGBITS, data: info},
			testSection{name: ".debug_abbrev.dwo", typ: elf.SHT_PROGBITS, data: abbrev})
		p, err := new(indexBuilder).openPackage(&DebugFile{bytes.NewReader(image), int64(len(image))})
		if err != nil {
			return
		}
		for id := range p.units {
			d, err := p.unit(id)
			if err != nil {
				continue
			}
			if d.info.blob.size() > uint64(len(info)) {
				t.Fatalf("unit %#x has %d bytes of %d", id, d.info.blob.size(), len(info))
			}
			_ = d.list() // an error leaves the units before it
		}
	})
}

// FuzzOpenIndex resolves addresses with what may be an index. Its checksum is mended, which fuzzing would not find.
func FuzzOpenIndex(f *testing.F) {
	_, raw := mustIndex(f, sample())
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		raw = bytes.Clone(raw)
		seal(raw)
		x, err := OpenIndex(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		for addr := x.trailer.Base; addr < x.trailer.Base+0x400; addr += 8 {
			if n := len(x.Resolve(nil, addr)); n > maxInline {
				t.Fatalf("%#x: %d frames", addr, n)
			}
		}
	})
}

// FuzzKallsyms reads what may be a kallsyms.
func FuzzKallsyms(f *testing.F) {
	f.Add([]byte(kallsyms), uint64(0xffffffffc0000001))
	f.Add([]byte("0000000000000000 T _text\n"), uint64(0))
	f.Add([]byte("ffffffffffffffff t last\n1 T first\t[m]\n"), ^uint64(0))
	f.Fuzz(func(t *testing.T, text []byte, addr uint64) {
		k, err := ReadKallsyms(bytes.NewReader(text))
		if err != nil {
			return
		}
		if len(k.Resolve(nil, addr)) > 1 {
			t.Fatalf("%#x: more than one frame", addr)
		}
		if m, ok := k.Module(addr); ok && (addr < m.Start || addr >= m.End) {
			t.Fatalf("%#x: module %+v does not hold it", addr, m)
		}
	})
}

// FuzzDemangle holds that no name makes the demangler panic or print without bounds.
func FuzzDemangle(f *testing.F) {
	for _, name := range []string{
		"_ZNSt6vectorIiSaIiEE9push_backERKi", "_ZN4core3fmt9Formatter3pad17h0123456789abcdefE", "_RNvNtCs1234_7mycrate3foo3bar",
		"_Z1f1PIiiES_IS0_S0_ES_IS1_S1_E", "read@@GLIBC_2.2.5", "___Z3foov_block_invoke", "_GLOBAL__sub_I__ZN3foo3barE",
	} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if got := demangled(name); len(got) > max(len(name), 1<<maxDemangledPow) {
			t.Fatalf("%d bytes", len(got))
		}
	})
}
