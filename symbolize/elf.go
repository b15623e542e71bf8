package symbolize

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// debug/elf lends its constants here and no more: elf.NewFile reads the section name table whole, at whatever size
// a sparse file claims for it.

// maxSections bounds the section table. Executables and shared libraries have some forty sections.
const maxSections = uint64(elf.SHN_LORESERVE)

// maxSectionNames bounds what is read of the names of sections.
const maxSectionNames = 1 << 20

// ErrNotELF is the error of a file that is not an ELF file at all.
var ErrNotELF = errors.New("not an ELF file")

// section is an entry of the section table (gABI chapter 4, "Sections").
type section struct {
	nameOff   uint32
	name      string
	typ       elf.SectionType
	flags     elf.SectionFlag
	addr      uint64
	off, size uint64
	link      uint32
}

// contains reports whether the section occupies addr in memory.
func (s *section) contains(addr uint64) bool {
	return s.flags&elf.SHF_ALLOC != 0 && addr >= s.addr && addr-s.addr < s.size
}

// code reports whether the section is executed.
func (s *section) code() bool {
	const want = elf.SHF_ALLOC | elf.SHF_EXECINSTR
	return s.flags&want == want
}

// image is the skeleton of an ELF file.
type image struct {
	source
	is64     bool
	typ      elf.Type
	machine  elf.Machine
	sections []section
}

// extentOf returns the bytes of a section in the file.
func (m *image) extentOf(s *section) (extent, error) {
	if s.typ == elf.SHT_NOBITS {
		return extent{}, fmt.Errorf("section %s has no bytes in this file", s.name)
	}
	if s.flags&elf.SHF_COMPRESSED != 0 {
		return extent{}, fmt.Errorf("section %s is compressed", s.name)
	}
	e, err := m.extent(s.off, s.size)
	if err != nil {
		return extent{}, fmt.Errorf("section %s: %w", s.name, err)
	}
	return e, nil
}

// section returns the section with a name, or nil.
func (m *image) section(name string) *section {
	for i := range m.sections {
		if m.sections[i].name == name {
			return &m.sections[i]
		}
	}
	return nil
}

// sectionOf returns the first section of a type, or nil.
func (m *image) sectionOf(typ elf.SectionType) *section {
	for i := range m.sections {
		if m.sections[i].typ == typ {
			return &m.sections[i]
		}
	}
	return nil
}

// ptrSize returns the size of an address in the file.
func (m *image) ptrSize() uint64 {
	if m.is64 {
		return 8
	}
	return 4
}

// readImage reads the header and the section table of an ELF file that was linked.
func readImage(r io.ReaderAt, size int64) (*image, error) {
	m, err := readAnyImage(r, size)
	if err == nil && m.typ != elf.ET_EXEC && m.typ != elf.ET_DYN {
		return nil, fmt.Errorf("ELF type %v: addresses are fixed in executables and shared objects only", m.typ)
	}
	return m, err
}

// readAnyImage is readImage for files of any type: what split DWARF and dwz make are not executables.
func readAnyImage(r io.ReaderAt, size int64) (*image, error) {
	if size < 0 {
		return nil, fmt.Errorf("file size %d is negative", size)
	}
	m := &image{source: source{r, uint64(size)}}
	all := extent{0, m.size}
	head, err := m.readSome(all, 0, make([]byte, 64))
	if err != nil && size > 0 {
		return nil, fmt.Errorf("read ELF header: %w", err)
	}
	if len(head) < elf.EI_NIDENT || !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return nil, ErrNotELF
	}
	if d := elf.Data(head[elf.EI_DATA]); d != elf.ELFDATA2LSB {
		return nil, fmt.Errorf("byte order %v: only little-endian files are read", d)
	}
	switch c := elf.Class(head[elf.EI_CLASS]); c {
	case elf.ELFCLASS32:
	case elf.ELFCLASS64:
		m.is64 = true
	default:
		return nil, fmt.Errorf("ELF class %v: only 32-bit and 64-bit files are read", c)
	}
	var shoff uint64
	var entSize, count, names uint16
	le := binary.LittleEndian
	switch {
	case m.is64 && len(head) >= 64:
		shoff, entSize, count, names = le.Uint64(head[40:]), le.Uint16(head[58:]), le.Uint16(head[60:]), le.Uint16(head[62:])
	case !m.is64 && len(head) >= 52:
		shoff, entSize, count, names = uint64(le.Uint32(head[32:])), le.Uint16(head[46:]), le.Uint16(head[48:]), le.Uint16(head[50:])
	default:
		return nil, fmt.Errorf("ELF header: file ends after %d bytes", len(head))
	}
	m.typ = elf.Type(le.Uint16(head[16:]))
	m.machine = elf.Machine(le.Uint16(head[18:]))
	if shoff == 0 {
		return m, nil
	}
	if err := m.readSections(shoff, uint64(entSize), uint64(count), uint32(names)); err != nil {
		return nil, fmt.Errorf("section table: %w", err)
	}
	return m, nil
}

func (m *image) readSections(shoff, entSize, count uint64, names uint32) error {
	want := uint64(40)
	if m.is64 {
		want = 64
	}
	if entSize != want {
		return fmt.Errorf("entries of %d bytes, want %d", entSize, want)
	}
	if count == 0 || count >= maxSections {
		// From 0xff00 on the count is elsewhere (gABI, "ELF Header"): object files have so many, not what is linked.
		return fmt.Errorf("more than %d sections", maxSections)
	}
	sections, err := m.sectionsAt(shoff, entSize, count)
	if err != nil {
		return err
	}
	m.sections = sections
	if uint64(names) >= count || names == 0 {
		return nil
	}
	strtab := sections[names]
	strtab.name, strtab.size = "of names", min(strtab.size, maxSectionNames)
	e, err := m.extentOf(&strtab)
	if err != nil {
		return err
	}
	text := make([]byte, e.size)
	if err := m.read(e, 0, text); err != nil {
		return err
	}
	for i := range sections {
		if off := uint64(sections[i].nameOff); off < e.size {
			name, _, _ := bytes.Cut(text[off:], []byte{0})
			// No name that means anything here is as long; a hostile table could make them all a megabyte.
			sections[i].name = string(name[:min(len(name), 64)])
		}
	}
	return nil
}

func (m *image) sectionsAt(shoff, entSize, count uint64) ([]section, error) {
	e, err := m.extent(shoff, entSize*count)
	if err != nil {
		return nil, err
	}
	raw := make([]byte, e.size)
	if err := m.read(e, 0, raw); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	sections := make([]section, count)
	for i := range sections {
		b := raw[uint64(i)*entSize:]
		s := &sections[i]
		s.nameOff, s.typ = le.Uint32(b), elf.SectionType(le.Uint32(b[4:]))
		if m.is64 {
			s.flags = elf.SectionFlag(le.Uint64(b[8:]))
			s.addr, s.off, s.size = le.Uint64(b[16:]), le.Uint64(b[24:]), le.Uint64(b[32:])
			s.link = le.Uint32(b[40:])
		} else {
			s.flags = elf.SectionFlag(le.Uint32(b[8:]))
			s.addr, s.off, s.size = uint64(le.Uint32(b[12:])), uint64(le.Uint32(b[16:])), uint64(le.Uint32(b[20:]))
			s.link = le.Uint32(b[24:])
		}
	}
	return sections, nil
}
