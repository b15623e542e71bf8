package symbolize

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"testing"
)

// testSection is a section of an ELF file that a test makes.
type testSection struct {
	name  string
	typ   elf.SectionType
	flags elf.SectionFlag
	addr  uint64
	data  []byte
	size  uint64 // what the table claims, if not len(data)
	link  uint32
}

type testSymbol struct {
	name        string
	value, size uint64
	bind        elf.SymBind
	typ         elf.SymType
	section     uint16
}

// text is section 1 of every image: 4 KiB of code at 0x1000. Code is not read, so that the file has none of it.
var text = testSection{
	name: ".text", typ: elf.SHT_PROGBITS, flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, addr: 0x1000, size: 0x1000,
}

// put appends values in their own widths.
func put(b []byte, values ...any) []byte {
	w := bytes.NewBuffer(b)
	for _, v := range values {
		if err := binary.Write(w, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	return w.Bytes()
}

// makeELF lays out an ELF file: header, contents of the sections, section names, section table.
func makeELF(class elf.Class, machine elf.Machine, sections ...testSection) []byte {
	headSize := 52
	if class == elf.ELFCLASS64 {
		headSize = 64
	}
	body := make([]byte, headSize)
	sections = append([]testSection{{}}, sections...)
	names := []byte{0}
	offsets := make([]uint64, len(sections)+1)
	for i, s := range sections {
		body = append(body, make([]byte, -len(body)&15)...)
		offsets[i] = uint64(len(body))
		body = append(body, s.data...)
	}
	var nameOffs []uint32
	for _, s := range append(sections, testSection{name: ".shstrtab"}) {
		nameOffs = append(nameOffs, uint32(len(names)))
		names = append(append(names, s.name...), 0)
	}
	offsets[len(sections)] = uint64(len(body))
	sections = append(sections, testSection{name: ".shstrtab", typ: elf.SHT_STRTAB, data: names})
	body = append(body, names...)
	body = append(body, make([]byte, -len(body)&15)...)
	shoff := uint64(len(body))
	for i, s := range sections {
		size := s.size
		if size == 0 {
			size = uint64(len(s.data))
		}
		if class == elf.ELFCLASS64 {
			body = put(body, elf.Section64{
				Name: nameOffs[i], Type: uint32(s.typ), Flags: uint64(s.flags), Addr: s.addr, Off: offsets[i], Size: size, Link: s.link,
			})
		} else {
			body = put(body, elf.Section32{
				Name: nameOffs[i], Type: uint32(s.typ), Flags: uint32(s.flags), Addr: uint32(s.addr), Off: uint32(offsets[i]), Size: uint32(size), Link: s.link,
			})
		}
	}
	ident := [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(class), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
	n := uint16(len(sections))
	if class == elf.ELFCLASS64 {
		copy(body, put(nil, elf.Header64{
			Ident: ident, Type: uint16(elf.ET_DYN), Machine: uint16(machine), Shoff: shoff, Ehsize: 64, Shentsize: 64, Shnum: n, Shstrndx: n - 1,
		}))
	} else {
		copy(body, put(nil, elf.Header32{
			Ident: ident, Type: uint16(elf.ET_DYN), Machine: uint16(machine), Shoff: uint32(shoff), Ehsize: 52, Shentsize: 40, Shnum: n, Shstrndx: n - 1,
		}))
	}
	return body
}

// symbolSections returns a symbol table and its names, to stand at index and index+1 of an image.
func symbolSections(class elf.Class, typ elf.SectionType, index uint32, symbols []testSymbol) []testSection {
	names := []byte{0}
	var table []byte
	for _, s := range append([]testSymbol{{}}, symbols...) {
		off := uint32(0)
		if s.name != "" {
			off = uint32(len(names))
			names = append(append(names, s.name...), 0)
		}
		if class == elf.ELFCLASS64 {
			table = put(table, elf.Sym64{Name: off, Info: elf.ST_INFO(s.bind, s.typ), Shndx: s.section, Value: s.value, Size: s.size})
		} else {
			table = put(table, elf.Sym32{Name: off, Info: elf.ST_INFO(s.bind, s.typ), Shndx: s.section, Value: uint32(s.value), Size: uint32(s.size)})
		}
	}
	return []testSection{
		{name: "syms", typ: typ, data: table, link: index + 1},
		{name: "strs", typ: elf.SHT_STRTAB, data: names},
	}
}

// makeSymbols makes an image with a .symtab.
func makeSymbols(class elf.Class, machine elf.Machine, symbols ...testSymbol) []byte {
	return makeELF(class, machine, append([]testSection{text}, symbolSections(class, elf.SHT_SYMTAB, 2, symbols)...)...)
}

// goImage describes a Go program with two functions at 0x1000 and 0x1100, main.outer and main.plain. In main.outer
// main.inner is inlined from 0x1010 to 0x1020, on line 20, called on line 12; other lines are 10 and 30.
type goImage struct {
	parentPC   uint32 // of the inlined call
	inlineLoop bool   // the inline table says that all of main.outer is inlined
	npcdata    uint32
	nfunc      uint64 // 0: 2
	magic      uint32 // 0: Go 1.20
}

func makeGo(g goImage) []byte {
	if g.nfunc == 0 {
		g.nfunc = 2
	}
	if g.magic == 0 {
		g.magic = magicGo120
	}
	if g.npcdata == 0 {
		g.npcdata = 3
	}
	names := []byte("\x00main.outer\x00main.inner\x00main.plain\x00")
	files := []byte("\x00outer.go\x00inner.go\x00")
	cutab := put(nil, uint32(1), uint32(10))
	// Each table starts at value -1: a zigzag value delta and a pc delta, up to a zero delta.
	zigzag := func(v int32) byte { return byte(uint32(v)<<1 ^ uint32(v>>31)) }
	pctab := []byte{0}
	add := func(pairs ...byte) uint32 {
		off := len(pctab)
		pctab = append(append(pctab, pairs...), 0)
		return uint32(off)
	}
	pcfile := add(zigzag(1), 0x10, zigzag(1), 0x10, zigzag(-1), 0x60)
	pcline := add(zigzag(13), 0x10, zigzag(8), 0x10, zigzag(-10), 0x60)
	pcline2 := add(zigzag(31), 0x40)
	pcinline := add(zigzag(0), 0x10, zigzag(1), 0x10, zigzag(-1), 0x60)
	if g.inlineLoop {
		pcinline = add(zigzag(1), 0x70)
	}
	function := func(entry, name, file, line, inline, tree uint32, startLine int32) []byte {
		return put(nil, entry, name, uint32(0), uint32(0), uint32(0), file, line, g.npcdata, uint32(0), startLine,
			[4]byte{0, 0, 0, 4}, uint32(0), uint32(0), inline, ^uint32(0), ^uint32(0), ^uint32(0), tree)
	}
	f1 := function(0, 1, pcfile, pcline, pcinline, 0, 9)
	f2 := function(0x100, 23, pcfile, pcline2, 0, noFuncdata, 29)
	funcs := put(nil, uint32(0), uint32(24), uint32(0x100), uint32(24+len(f1)), uint32(0x200), uint32(0))
	funcs = append(append(funcs, f1...), f2...)
	tree := put(nil, [4]byte{}, uint32(12), g.parentPC, int32(19))

	var tables []byte
	offsets := []uint64{g.nfunc, 2, 0}
	for _, b := range [][]byte{names, cutab, files, pctab, funcs} {
		offsets = append(offsets, uint64(72+len(tables)))
		tables = append(tables, b...)
		tables = append(tables, make([]byte, -len(tables)&7)...)
	}
	head := put(nil, g.magic, uint16(0), byte(1), byte(8), offsets)
	const tabAddr = 0x5000
	gofunc := uint64(tabAddr + len(head) + len(tables))
	var md moduledata
	md[moduledataPcHeader], md[moduledataFuncnametab] = tabAddr, tabAddr+offsets[3]
	md[moduledataText], md[moduledataGofunc120], md[moduledataGofunc118] = text.addr, gofunc, gofunc
	return makeELF(elf.ELFCLASS64, elf.EM_X86_64, text,
		testSection{name: ".gopclntab", typ: elf.SHT_PROGBITS, flags: elf.SHF_ALLOC, addr: tabAddr, data: append(append(head, tables...), tree...)},
		testSection{name: ".go.module", typ: elf.SHT_PROGBITS, flags: elf.SHF_ALLOC | elf.SHF_WRITE, addr: 0x9000, data: put(nil, md)},
	)
}

// mustOpen opens an image that a test made.
func mustOpen(t testing.TB, image []byte) *File {
	t.Helper()
	f, err := Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}
