package symbolize

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sort"
)

const (
	// maxSymbols bounds the entries of a symbol table that are looked at.
	maxSymbols = 8 << 20
	// maxFunctions bounds those that are kept.
	maxFunctions = 2 << 20
	// chunkSize is how much of a table is read at a time.
	chunkSize = 64 << 10
)

// symtab names addresses from a symbol table of an ELF file (gABI chapter 4, "Symbol Table"). The names stay in
// the file.
type symtab struct {
	source
	rank    Rank
	table   *table
	strings extent
	// entries is the number of symbols that name code.
	entries int
	// suffix is put behind each name.
	suffix string
}

// readSymtab reads the symbol table of a type, or returns nil if the file has none. Symbols at addresses that are
// covered already are left out. The source files of the others go to files, unless that is nil.
func readSymtab(m *image, typ elf.SectionType, rank Rank, covered func(addr uint64) bool, files *symbolFiles) (*symtab, error) {
	s := m.sectionOf(typ)
	if s == nil || s.size == 0 {
		return nil, nil
	}
	e, strings, err := m.symbols(s)
	if err != nil {
		return nil, err
	}
	syms, err := m.functions(e, strings.size, covered, files)
	if err != nil {
		return nil, fmt.Errorf("section %s: %w", s.name, err)
	}
	if len(syms) == 0 {
		return nil, nil
	}
	return &symtab{source: m.source, rank: rank, table: newTable(syms), strings: strings, entries: len(syms)}, nil
}

// symbols returns where the symbols of a table are, and their names.
func (m *image) symbols(s *section) (entries, strings extent, err error) {
	if entries, err = m.extentOf(s); err != nil {
		return entries, strings, err
	}
	if uint64(s.link) >= uint64(len(m.sections)) {
		return entries, strings, fmt.Errorf("section %s: names are in section %d of %d", s.name, s.link, len(m.sections))
	}
	if strings, err = m.extentOf(&m.sections[s.link]); err != nil {
		return entries, strings, fmt.Errorf("section %s: %w", s.name, err)
	}
	return entries, strings, nil
}

// functions returns the symbols of code in the symbol table at e.
func (m *image) functions(e extent, stringsSize uint64, covered func(addr uint64) bool, files *symbolFiles) ([]symbol, error) {
	entSize := uint64(16)
	if m.is64 {
		entSize = 24
	}
	n := e.size / entSize
	if n > maxSymbols {
		return nil, fmt.Errorf("%d symbols, at most %d are read", n, maxSymbols)
	}
	// On ARM a local symbol without a type is a mapping symbol ($x, $d), which says where code and data begin and
	// names nothing (AAELF64, "Mapping symbols").
	arm := m.machine == elf.EM_AARCH64 || m.machine == elf.EM_ARM
	syms := make([]symbol, 0, min(n, maxFunctions))
	full := false
	le := binary.LittleEndian
	err := m.chunks(e, make([]byte, chunkSize/entSize*entSize), func(_ uint64, piece []byte) bool {
		for b := piece; uint64(len(b)) >= entSize; b = b[entSize:] {
			var info byte
			var index elf.SectionIndex
			var value, size uint64
			if m.is64 {
				info, index, value, size = b[4], elf.SectionIndex(le.Uint16(b[6:])), le.Uint64(b[8:]), le.Uint64(b[16:])
			} else {
				info, index, value, size = b[12], elf.SectionIndex(le.Uint16(b[14:])), uint64(le.Uint32(b[4:])), uint64(le.Uint32(b[8:]))
			}
			name := le.Uint32(b)
			if elf.ST_TYPE(info) == elf.STT_FILE {
				files.begin(name)
				continue
			}
			if name == 0 || name > maxName || uint64(name) >= stringsSize {
				continue // without a name, or damaged
			}
			class := uint32(0)
			bind := elf.ST_BIND(info)
			switch elf.ST_TYPE(info) {
			case elf.STT_FUNC, elf.STT_GNU_IFUNC:
				class |= classFunction
			case elf.STT_NOTYPE:
				if arm && bind == elf.STB_LOCAL {
					continue
				}
			default:
				continue
			}
			if bind != elf.STB_LOCAL {
				class |= classExported
			}
			if m.machine == elf.EM_ARM {
				value &^= 1 // set for Thumb code
			}
			s := m.codeAt(index, value)
			if s == nil || covered(value) {
				continue
			}
			rest := s.size - (value - s.addr)
			if size != 0 {
				class |= classSized
				rest = min(rest, size)
			}
			if len(syms) == maxFunctions {
				full = true
				return false
			}
			syms = append(syms, newSymbol(value, rest, class, name))
			if bind == elf.STB_LOCAL {
				files.add(value, rest, name)
			}
		}
		return true
	})
	if full {
		return nil, fmt.Errorf("more than %d functions", maxFunctions)
	}
	return syms, err
}

// symbolFiles says which source files local symbols are of: each follows the STT_FILE symbol of its own (gABI
// chapter 4, "Symbol Table"). A nil symbolFiles keeps nothing.
type symbolFiles struct {
	current uint32
	symbols []localSymbol
}

// localSymbol is a local symbol; name and file are offsets of strings.
type localSymbol struct {
	start      uint64
	size       uint32
	name, file uint32
}

func (f *symbolFiles) begin(file uint32) {
	if f != nil {
		f.current = file
	}
}

func (f *symbolFiles) add(start, size uint64, name uint32) {
	if f != nil && f.current != 0 {
		f.symbols = append(f.symbols, localSymbol{start, uint32(min(size, math.MaxUint32)), name, f.current})
	}
}

// sort makes find work.
func (f *symbolFiles) sort() {
	slices.SortFunc(f.symbols, func(a, b localSymbol) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.start, b.start))
	})
}

// find returns the file of the symbol with a name that holds addr, 0 if that is not a local one.
func (f *symbolFiles) find(addr uint64, name uint32) uint32 {
	i := sort.Search(len(f.symbols), func(i int) bool {
		s := &f.symbols[i]
		return s.name > name || s.name == name && s.start > addr
	}) - 1
	if i < 0 || f.symbols[i].name != name || addr-f.symbols[i].start >= uint64(f.symbols[i].size) {
		return 0
	}
	return f.symbols[i].file
}

// codeAt returns the section of code that holds a symbol, or nil if the symbol is not one of code.
func (m *image) codeAt(index elf.SectionIndex, addr uint64) *section {
	if index == elf.SHN_UNDEF || int(index) >= len(m.sections) {
		return nil
	}
	if s := &m.sections[index]; s.code() && s.contains(addr) {
		return s
	}
	return nil
}

// resolve appends the frame at addr, or returns dst unchanged if the table does not name it.
func (t *symtab) resolve(dst []Frame, addr uint64, buf []byte) ([]Frame, error) {
	i, ok := t.table.find(addr)
	if !ok {
		return dst, nil
	}
	_, name, err := t.bestName(i, buf)
	if err != nil {
		return dst, fmt.Errorf("%s: name of the symbol at %#x: %w", t.rank, addr, err)
	}
	if name == "" {
		return dst, nil
	}
	return append(dst, Frame{Function: demangled(name) + t.suffix, SystemName: name + t.suffix, Source: t.rank}), nil
}

// bestName returns the name of range i of the table, and where it is in the strings.
func (t *symtab) bestName(i int, buf []byte) (at uint32, best string, err error) {
	t.table.namesOf(i, func(off uint32) {
		name, nerr := t.cstring(t.strings, uint64(off), buf)
		switch {
		case nerr != nil:
			err = nerr
		case best == "" || compareNames([]byte(name), []byte(best)) < 0:
			at, best = off, name
		}
	})
	return at, best, err
}
