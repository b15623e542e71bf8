package symbolize

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
)

// The pclntab has no addresses of its own; those that it is relative to are in runtime.moduledata. In a program
// that is linked at a fixed address, and in all that Go's own linker writes, the words stand there; in what
// another linker made position-independent they are in the relocations that the loader applies.

// Words of runtime.moduledata (runtime/symtab.go). The first 22, up to text, are the same in all versions; Go 1.20
// put two before gofunc.
const (
	moduledataPcHeader    = 0
	moduledataFuncnametab = 1
	moduledataText        = 22
	moduledataGofunc118   = 38
	moduledataGofunc120   = 40
	moduledataWords       = 41
)

type moduledata [moduledataWords]uint64

// maxModuledataScan bounds what is searched for the moduledata: the initialised data of the program.
const maxModuledataScan = 64 << 20

// maxRelocations bounds how many bytes of relocations are searched for it.
const maxRelocations = 64 << 20

var errNoModuledata = errors.New("no moduledata found: the program is damaged, or newer than what is known here")

// findModuledata returns the moduledata of the pclntab at address pclntab with its function names at names.
func findModuledata(m *image, pclntab, names uint64) (moduledata, error) {
	matches := func(md moduledata) bool {
		return md[moduledataPcHeader] == pclntab && md[moduledataFuncnametab] == names
	}
	word := m.ptrSize()
	scanned := uint64(0)
	for i := range m.sections {
		s := &m.sections[i]
		if !mayHoldModuledata(s) {
			continue
		}
		e, err := m.extentOf(s)
		if err != nil {
			return moduledata{}, err
		}
		if scanned += e.size; scanned > maxModuledataScan {
			return moduledata{}, fmt.Errorf("more than %d bytes of data to search for the moduledata", maxModuledataScan)
		}
		var found []uint64
		err = m.chunks(e, make([]byte, chunkSize), func(off uint64, b []byte) bool {
			for i := uint64(0); i+word <= uint64(len(b)); i += word {
				if m.word(b[i:]) == pclntab && len(found) < 16 {
					found = append(found, off+i)
				}
			}
			return true
		})
		if err != nil {
			return moduledata{}, fmt.Errorf("section %s: %w", s.name, err)
		}
		for _, off := range found {
			raw := make([]byte, moduledataWords*word)
			if m.read(e, off, raw) != nil {
				continue // some other pointer to the pclntab, at the end of the section
			}
			var md moduledata
			for i := range md {
				md[i] = m.word(raw[uint64(i)*word:])
			}
			if matches(md) {
				return md, nil
			}
		}
	}
	if m.is64 {
		// 32-bit targets of Go keep addends in place.
		return relocatedModuledata(m, pclntab, matches)
	}
	return moduledata{}, errNoModuledata
}

// mayHoldModuledata reports whether Go puts its moduledata into a section of this name: .go.module from 1.26 on,
// .noptrdata before, .data or .data.rel.ro in plugins and shared libraries.
func mayHoldModuledata(s *section) bool {
	switch s.name {
	case ".go.module", ".noptrdata", ".data", ".data.rel.ro":
		return s.typ == elf.SHT_PROGBITS && s.flags&elf.SHF_ALLOC != 0
	default:
		return false
	}
}

// relocatedModuledata finds the moduledata in the relative relocations of the file.
func relocatedModuledata(m *image, pclntab uint64, matches func(moduledata) bool) (moduledata, error) {
	var starts []uint64
	err := m.relativeRelocations(func(addr, value uint64) {
		if value == pclntab && len(starts) < 16 {
			starts = append(starts, addr)
		}
	})
	if err != nil || len(starts) == 0 {
		return moduledata{}, errors.Join(errNoModuledata, err)
	}
	candidates := make([]moduledata, len(starts))
	err = m.relativeRelocations(func(addr, value uint64) {
		for i, start := range starts {
			if addr >= start && addr-start < moduledataWords*8 && (addr-start)%8 == 0 {
				candidates[i][(addr-start)/8] = value
			}
		}
	})
	if err != nil {
		return moduledata{}, err
	}
	for _, md := range candidates {
		if matches(md) {
			return md, nil
		}
	}
	return moduledata{}, errNoModuledata
}

// relativeRelocations calls f for each R_*_RELATIVE relocation with the address it fills in and the value.
func (m *image) relativeRelocations(f func(addr, value uint64)) error {
	relative := uint32(elf.R_X86_64_RELATIVE)
	if m.machine == elf.EM_AARCH64 {
		relative = uint32(elf.R_AARCH64_RELATIVE)
	}
	le := binary.LittleEndian
	left := uint64(maxRelocations)
	for i := range m.sections {
		s := &m.sections[i]
		if s.typ != elf.SHT_RELA || s.flags&elf.SHF_ALLOC == 0 {
			continue
		}
		e, err := m.extentOf(s)
		if err != nil {
			return err
		}
		if e.size > left {
			return fmt.Errorf("more than %d bytes of relocations", maxRelocations)
		}
		left -= e.size
		err = m.chunks(e, make([]byte, chunkSize/24*24), func(_ uint64, b []byte) bool {
			for ; len(b) >= 24; b = b[24:] {
				if uint32(le.Uint64(b[8:])) == relative {
					f(le.Uint64(b), le.Uint64(b[16:]))
				}
			}
			return true
		})
		if err != nil {
			return fmt.Errorf("section %s: %w", s.name, err)
		}
	}
	return nil
}

// word decodes an address.
func (m *image) word(b []byte) uint64 {
	if m.is64 {
		return binary.LittleEndian.Uint64(b)
	}
	return uint64(binary.LittleEndian.Uint32(b))
}

// extentAt returns the bytes of the file from an address to the end of its section.
func (m *image) extentAt(addr uint64) (extent, error) {
	for i := range m.sections {
		s := &m.sections[i]
		if !s.contains(addr) {
			continue
		}
		e, err := m.extentOf(s)
		if err != nil {
			return extent{}, err
		}
		if rest, ok := e.from(addr - s.addr); ok {
			return rest, nil
		}
	}
	return extent{}, fmt.Errorf("no section holds address %#x", addr)
}
