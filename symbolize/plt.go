package symbolize

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// Stubs of the procedure linkage table (System V ABI, AMD64 supplement, section 5.2; ELF for the Arm 64-bit Architecture,
// "Procedure Linkage Table") have no symbols. Each jumps to where a word of the global offset table says, and a
// relocation says whose address the dynamic linker puts there: the stub is called as that function, with @plt after it
// as disassemblers print it. Linkers lay stubs out in several ways and sections (.plt, .plt.sec, .plt.got); the jump
// tells them all.

const (
	// pltSuffix follows the name of what a stub leads to.
	pltSuffix = "@plt"
	// maxStubBytes bounds the stubs of a file, which have 8 to 24 bytes each, and maxStubRelocations what is looked through
	// for what they lead to.
	maxStubBytes       = 1 << 20
	maxStubRelocations = 4 << 20
)

// stub is a stub of the procedure linkage table.
type stub struct {
	span
	slot     uint64 // address of the word of the global offset table that it jumps by
	symbol   uint32 // in .dynsym; 0 if it leads to target
	target   uint64 // the resolver of a function that is chosen when the program starts; 0 if it leads to symbol
	resolved bool
}

// readStubs reads the names of the stubs in m.
func (f *File) readStubs(m *image) error {
	stubs, err := m.stubs()
	if err != nil || len(stubs) == 0 {
		return err
	}
	dynamic := m.sectionOf(elf.SHT_DYNSYM)
	if err := m.relocate(stubs, dynamic); err != nil {
		return err
	}
	names, err := m.stubNames(stubs, dynamic)
	if err != nil {
		return err
	}
	if names != nil {
		f.stubs = append(f.stubs, names)
	}
	// The others lead to functions of this file, named where its symbols are.
	for _, t := range f.tables {
		names, err := t.stubNames(stubs)
		if err != nil {
			return err
		}
		if names != nil {
			f.stubs = append(f.stubs, names)
		}
	}
	return nil
}

// stubs returns the stubs of m by the address of their slots, as yet without what they lead to.
func (m *image) stubs() ([]stub, error) {
	decode := map[elf.Machine]func(code []byte, addr uint64) (size int, slot uint64){
		elf.EM_X86_64:  decodeStubAMD64,
		elf.EM_AARCH64: decodeStubARM64,
	}[m.machine]
	if decode == nil || !m.is64 {
		return nil, nil
	}
	var stubs []stub
	left := uint64(maxStubBytes)
	for i := range m.sections {
		s := &m.sections[i]
		if !s.code() || s.typ == elf.SHT_NOBITS || !strings.HasPrefix(s.name, ".plt") {
			continue
		}
		if s.size > left {
			return nil, fmt.Errorf("section %s: more than %d bytes of stubs", s.name, maxStubBytes)
		}
		left -= s.size
		e, err := m.extentOf(s)
		if err != nil {
			return nil, err
		}
		code := make([]byte, e.size)
		if err := m.read(e, 0, code); err != nil {
			return nil, fmt.Errorf("section %s: %w", s.name, err)
		}
		for off := 0; off < len(code); {
			size, slot := decode(code[off:], s.addr+uint64(off))
			if size > 0 {
				lo := s.addr + uint64(off)
				stubs = append(stubs, stub{span: span{lo, lo + uint64(size)}, slot: slot})
			}
			off += max(size, 4) // stubs are aligned to 8 bytes on x86-64, to 4 on arm64
		}
	}
	slices.SortFunc(stubs, func(a, b stub) int { return cmp.Compare(a.slot, b.slot) })
	return stubs, nil
}

// decodeStubAMD64 returns the size of the stub that code begins with, and the slot that it jumps by; size is 0 if that is none.
//
//	[endbr64] [bnd] jmp *slot(%rip)
func decodeStubAMD64(code []byte, addr uint64) (size int, slot uint64) {
	if addr%8 != 0 {
		return 0, 0
	}
	rest := bytes.TrimPrefix(code, []byte{0xf3, 0x0f, 0x1e, 0xfa})
	rest = bytes.TrimPrefix(rest, []byte{0xf2})
	if len(rest) < 6 || rest[0] != 0xff || rest[1] != 0x25 {
		return 0, 0
	}
	end := len(code) - len(rest) + 6
	slot = addr + uint64(end) + uint64(int64(int32(binary.LittleEndian.Uint32(rest[2:]))))
	// What follows, up to where the next may begin, is a push and a jump to the dynamic linker, or filling.
	size = 16
	if addr%16 != 0 || end < 8 && len(code) >= 16 && code[8] == 0xff && code[9] == 0x25 {
		size = 8
	}
	return min(size, len(code)), slot
}

// decodeStubARM64 is decodeStubAMD64 for arm64.
//
//	[bti c]; adrp x16, page; ldr x17, [x16, #off]; add x16, x16, #off; br x17
func decodeStubARM64(code []byte, addr uint64) (size int, slot uint64) {
	const (
		btiC     = 0xd503245f
		adrpX16  = 0x90000010
		adrpMask = 0x9f00001f
		ldrX17   = 0xf9400211
		ldrMask  = 0xffc003ff
	)
	word := func(i int) uint32 {
		if len(code) < 4*i+4 {
			return 0
		}
		return binary.LittleEndian.Uint32(code[4*i:])
	}
	at := 0
	if word(0) == btiC {
		at = 1
	}
	adrp, ldr := word(at), word(at+1)
	if adrp&adrpMask != adrpX16 || ldr&ldrMask != ldrX17 {
		return 0, 0
	}
	pages := int64(int32(adrp<<8)>>13<<2) | int64(adrp>>29&3)
	slot = (addr+uint64(4*at))&^0xfff + uint64(pages<<12) + uint64(ldr>>10&0xfff)*8
	return min(4*at+16, len(code)), slot
}

// relocation types that put the address of a function in a slot.
var slotRelocations = map[elf.Machine][3]uint32{
	elf.EM_X86_64:  {uint32(elf.R_X86_64_JMP_SLOT), uint32(elf.R_X86_64_GLOB_DAT), uint32(elf.R_X86_64_IRELATIVE)},
	elf.EM_AARCH64: {uint32(elf.R_AARCH64_JUMP_SLOT), uint32(elf.R_AARCH64_GLOB_DAT), uint32(elf.R_AARCH64_IRELATIVE)},
}

// relocate finds what stubs, which are sorted by slot, lead to.
func (m *image) relocate(stubs []stub, dynamic *section) error {
	types := slotRelocations[m.machine]
	missing := len(stubs)
	const size = 24 // of an Elf64_Rela
	left := uint64(maxStubRelocations)
	le := binary.LittleEndian
	for _, s := range m.relocations() {
		e, err := m.extentOf(s)
		if err != nil {
			return err
		}
		if e.size/size > left {
			return fmt.Errorf("more than %d relocations", maxStubRelocations)
		}
		left -= e.size / size
		ofDynamic := dynamic != nil && uint64(s.link) < uint64(len(m.sections)) && &m.sections[s.link] == dynamic
		err = m.chunks(e, make([]byte, chunkSize/size*size), func(_ uint64, piece []byte) bool {
			for b := piece; len(b) >= size; b = b[size:] {
				kind := le.Uint32(b[8:])
				if kind != types[0] && kind != types[1] && kind != types[2] {
					continue
				}
				slot := le.Uint64(b)
				i := sort.Search(len(stubs), func(i int) bool { return stubs[i].slot >= slot })
				for ; i < len(stubs) && stubs[i].slot == slot && !stubs[i].resolved; i++ {
					if kind == types[2] {
						stubs[i].target = le.Uint64(b[16:])
					} else if ofDynamic {
						stubs[i].symbol = le.Uint32(b[12:])
					}
					stubs[i].resolved = true
					missing--
				}
			}
			return missing > 0
		})
		if err != nil {
			return fmt.Errorf("section %s: %w", s.name, err)
		}
		if missing == 0 {
			return nil
		}
	}
	return nil
}

// relocations returns the tables of relocations of a linked file, that of the stubs first.
func (m *image) relocations() []*section {
	var tables []*section
	for i := range m.sections {
		switch s := &m.sections[i]; {
		case s.typ != elf.SHT_RELA || s.flags&elf.SHF_ALLOC == 0:
		case s.name == ".rela.plt":
			tables = slices.Insert(tables, 0, s)
		default:
			tables = append(tables, s)
		}
	}
	return tables
}

// stubNames returns the names of the stubs that lead to symbols of the table of dynamic symbols; nil if there are none.
func (m *image) stubNames(stubs []stub, dynamic *section) (*symtab, error) {
	if dynamic == nil {
		return nil, nil
	}
	e, strings, err := m.symbols(dynamic)
	if err != nil {
		return nil, err
	}
	const size = 24 // of an Elf64_Sym
	w := window{blob: blob{m.source, e}, least: chunkSize}
	slices.SortFunc(stubs, func(a, b stub) int { return cmp.Compare(a.symbol, b.symbol) })
	var names []symbol
	for _, s := range stubs {
		if s.symbol == 0 || (uint64(s.symbol)+1)*size > e.size {
			continue
		}
		b, err := w.bytes(uint64(s.symbol)*size, size)
		if err != nil {
			return nil, err
		}
		if name := binary.LittleEndian.Uint32(b); name != 0 && name <= maxName && uint64(name) < strings.size {
			names = append(names, newSymbol(s.lo, s.hi-s.lo, classSized, name))
		}
	}
	return newStubTable(m.source, Dynsym, names, strings), nil
}

// stubNames returns the names of the stubs that lead to functions of a table; nil if there are none.
func (t *symtab) stubNames(stubs []stub) (*symtab, error) {
	buf := make([]byte, scratchSize)
	var names []symbol
	for _, s := range stubs {
		if s.target == 0 {
			continue
		}
		i, ok := t.table.find(s.target)
		if !ok {
			continue
		}
		at, _, err := t.bestName(i, buf)
		if err != nil {
			return nil, err
		}
		names = append(names, newSymbol(s.lo, s.hi-s.lo, classSized, at))
	}
	return newStubTable(t.source, t.rank, names, t.strings), nil
}

func newStubTable(in source, rank Rank, names []symbol, strings extent) *symtab {
	if len(names) == 0 {
		return nil
	}
	return &symtab{source: in, rank: rank, table: newTable(names), strings: strings, entries: len(names), suffix: pltSuffix}
}
