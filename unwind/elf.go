package unwind

import (
	"bytes"
	"compress/zlib"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// debug/elf lends its constants here and no more: elf.NewFile reads the section name table whole, at whatever size
// a sparse file claims for it.

const (
	// maxHeaders bounds the program headers and the sections. Linked files have some ten and some forty.
	maxHeaders = 1 << 12
	// maxSectionNames bounds what is read of the names of sections.
	maxSectionNames = 1 << 16
	// maxText bounds the addresses from the first byte of code to the last. Code refers to code by offsets of 31 bits.
	maxText = 1 << 30
	// maxFrames bounds a section of unwind information. Browsers have 30 MB.
	maxFrames = 64 << 20
	// maxInflated bounds .debug_frame where it is compressed, and maxRatio to how much more: unwind information shrinks to
	// a third or so.
	maxInflated = 32 << 20
	maxRatio    = 16
)

// ErrNotELF is the error of a file that is not an ELF file at all.
var ErrNotELF = errors.New("not an ELF file")

// segment is a part of the file that is loaded (gABI chapter 5, "Program Header").
type segment struct {
	typ       elf.ProgType
	flags     elf.ProgFlag
	off, size uint64 // in the file
	addr      uint64
}

func (s segment) end() uint64 { return s.addr + s.size }

// section is an entry of the section table (gABI chapter 4, "Sections").
type section struct {
	name      string
	nameOff   uint32
	typ       elf.SectionType
	flags     elf.SectionFlag
	addr      uint64
	off, size uint64
}

// image is the skeleton of an ELF file of which nothing is trusted.
type image struct {
	r        io.ReaderAt
	size     uint64
	arch     Arch
	entry    uint64
	segments []segment // those that lie within the file
	sections []section // likewise, or without bytes
}

// readImage reads the header, the program headers and the section table of an ELF file.
func readImage(r io.ReaderAt, size int64) (*image, error) {
	if size < 0 {
		return nil, fmt.Errorf("file size %d is negative", size)
	}
	m := &image{r: r, size: uint64(size)}
	head := make([]byte, min(64, m.size))
	if err := m.read(head, 0); err != nil {
		return nil, fmt.Errorf("ELF header: %w", err)
	}
	if len(head) < elf.EI_NIDENT || !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return nil, ErrNotELF
	}
	if elf.Class(head[elf.EI_CLASS]) != elf.ELFCLASS64 || elf.Data(head[elf.EI_DATA]) != elf.ELFDATA2LSB {
		return nil, errors.New("not a 64-bit little-endian ELF file")
	}
	if len(head) < 64 {
		return nil, fmt.Errorf("ELF header: file ends after %d bytes", len(head))
	}
	le := binary.LittleEndian
	switch machine := elf.Machine(le.Uint16(head[18:])); machine {
	case elf.EM_X86_64:
		m.arch = AMD64
	case elf.EM_AARCH64:
		m.arch = ARM64
	default:
		return nil, fmt.Errorf("machine %v has no tables", machine)
	}
	m.entry = le.Uint64(head[24:])
	if err := m.readSegments(le.Uint64(head[32:]), le.Uint16(head[54:]), le.Uint16(head[56:])); err != nil {
		return nil, fmt.Errorf("program headers: %w", err)
	}
	// The sections only add to what the program headers say: the loader does without them, and so can a file.
	if err := m.readSections(le.Uint64(head[40:]), le.Uint16(head[58:]), le.Uint16(head[60:]), le.Uint16(head[62:])); err != nil {
		m.sections = nil
	}
	return m, nil
}

// holds reports whether the file has size bytes at off.
func (m *image) holds(off, size uint64) bool { return off <= m.size && size <= m.size-off }

// read fills b from off.
func (m *image) read(b []byte, off uint64) error {
	if !m.holds(off, uint64(len(b))) {
		return fmt.Errorf("%d bytes at %#x reach past the end of the file at %#x", len(b), off, m.size)
	}
	n, err := m.r.ReadAt(b, int64(off))
	if n == len(b) {
		return nil // ReadAt may report io.EOF beside the last bytes of a file
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %#x: %w", len(b), off, err)
}

// table reads count entries of entSize bytes.
func (m *image) table(off uint64, entSize, count, want uint16) ([]byte, error) {
	if count == 0 {
		return nil, nil
	}
	if entSize != want || count > maxHeaders {
		return nil, fmt.Errorf("%d entries of %d bytes", count, entSize)
	}
	b := make([]byte, int(count)*int(entSize))
	return b, m.read(b, off)
}

func (m *image) readSegments(off uint64, entSize, count uint16) error {
	raw, err := m.table(off, entSize, count, 56)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	for b := raw; len(b) > 0; b = b[56:] {
		s := segment{
			typ: elf.ProgType(le.Uint32(b)), flags: elf.ProgFlag(le.Uint32(b[4:])),
			off: le.Uint64(b[8:]), addr: le.Uint64(b[16:]), size: le.Uint64(b[32:]),
		}
		if m.holds(s.off, s.size) && s.addr <= s.end() {
			m.segments = append(m.segments, s)
		}
	}
	return nil
}

func (m *image) readSections(off uint64, entSize, count, names uint16) error {
	raw, err := m.table(off, entSize, count, 64)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	for b := raw; len(b) > 0; b = b[64:] {
		m.sections = append(m.sections, section{
			nameOff: le.Uint32(b), typ: elf.SectionType(le.Uint32(b[4:])), flags: elf.SectionFlag(le.Uint64(b[8:])),
			addr: le.Uint64(b[16:]), off: le.Uint64(b[24:]), size: le.Uint64(b[32:]),
		})
	}
	if int(names) >= len(m.sections) {
		return errors.New("no section names")
	}
	s := m.sections[names]
	text := make([]byte, min(s.size, maxSectionNames))
	if err := m.read(text, s.off); err != nil {
		return err
	}
	for i := range m.sections {
		if o := uint64(m.sections[i].nameOff); o < uint64(len(text)) {
			name, _, _ := bytes.Cut(text[o:], []byte{0})
			// No name that means anything here is as long; a hostile table could make them all 64 KB.
			m.sections[i].name = string(name[:min(len(name), 32)])
		}
	}
	m.sections = slices.DeleteFunc(m.sections, func(s section) bool {
		return s.typ != elf.SHT_NOBITS && !m.holds(s.off, s.size)
	})
	return nil
}

// section returns the section with a name and bytes in the file, or nil.
func (m *image) section(name string) *section {
	for i := range m.sections {
		if s := &m.sections[i]; s.name == name && s.typ != elf.SHT_NOBITS {
			return s
		}
	}
	return nil
}

// text returns the executable segments in the order of their addresses, as far as they have code. They do not overlap.
func (m *image) text() ([]segment, error) {
	var text []segment
	for _, s := range m.segments {
		if s.typ == elf.PT_LOAD && s.flags&elf.PF_X != 0 {
			if s = m.trim(s); s.size > 0 {
				text = append(text, s)
			}
		}
	}
	if len(text) == 0 {
		return nil, nil
	}
	slices.SortFunc(text, func(a, b segment) int { return compare(a.addr, b.addr) })
	total := text[0].size
	for i, s := range text[1:] {
		if s.addr < text[i].end() {
			return nil, fmt.Errorf("executable segments overlap at %#x", s.addr)
		}
		total += s.size
	}
	if total > m.size { // the same bytes again and again: work without end for a small file
		return nil, fmt.Errorf("%d bytes of code in a file of %d", total, m.size)
	}
	if first, last := text[0].addr, text[len(text)-1].end(); last-first > maxText || last > 1<<63 {
		return nil, fmt.Errorf("code from %#x to %#x: more than %d MiB", first, last, maxText>>20)
	}
	return text, nil
}

// trim cuts from an executable segment what its sections say is data before or after the code: older linkers put all that
// is not written into one segment. A segment that no section is in stays whole.
func (m *image) trim(s segment) segment {
	first, last := s.end(), s.addr
	for _, c := range m.sections {
		if c.flags&elf.SHF_EXECINSTR != 0 && c.addr >= s.addr && c.addr < s.end() && c.size <= s.end()-c.addr {
			first, last = min(first, c.addr), max(last, c.addr+c.size)
		}
	}
	if first >= last {
		return s
	}
	return segment{s.typ, s.flags, s.off + (first - s.addr), last - first, first}
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}

// loaded returns the rest of the loaded segment that has addr, as bytes of the file.
func (m *image) loaded(addr uint64) (off, size uint64, ok bool) {
	for _, s := range m.segments {
		if s.typ == elf.PT_LOAD && addr >= s.addr && addr < s.end() {
			return s.off + (addr - s.addr), s.end() - addr, true
		}
	}
	return 0, 0, false
}

// frames is a section of unwind information.
type frames struct {
	data lazyBytes
	addr uint64 // of its first byte when it is loaded
	eh   bool   // .eh_frame, not .debug_frame
	name string
}

// ehFrame finds .eh_frame by the section table, or as the runtime does, through PT_GNU_EH_FRAME. It returns nil
// if the file has none.
func (m *image) ehFrame() (*frames, error) {
	f := &frames{eh: true, name: ".eh_frame"}
	if s := m.section(".eh_frame"); s != nil {
		if s.size > maxFrames {
			return nil, fmt.Errorf(".eh_frame has %d bytes, at most %d are read", s.size, maxFrames)
		}
		f.data, f.addr = lazyBytes{m: m, off: s.off, size: s.size}, s.addr
		return f, nil
	}
	for _, s := range m.segments {
		if s.typ == elf.PT_GNU_EH_FRAME {
			addr, err := m.ehFramePtr(s)
			if err != nil {
				return nil, fmt.Errorf(".eh_frame_hdr: %w", err)
			}
			off, size, ok := m.loaded(addr)
			if !ok {
				return nil, fmt.Errorf(".eh_frame_hdr: points to %#x, which is not in the file", addr)
			}
			f.data, f.addr = lazyBytes{m: m, off: off, size: min(size, maxFrames)}, addr
			return f, nil
		}
	}
	return nil, nil
}

// ehFramePtr reads the address of .eh_frame from .eh_frame_hdr (LSB Core, section 10.6.2).
func (m *image) ehFramePtr(s segment) (uint64, error) {
	b := make([]byte, min(s.size, 16))
	if err := m.read(b, s.off); err != nil {
		return 0, err
	}
	if len(b) < 4 || b[0] != 1 {
		return 0, errors.New("unknown version")
	}
	r := reader{data: b, pos: 4}
	addr, ok := r.pointer(b[1], s.addr)
	if !ok {
		return 0, fmt.Errorf("pointer of encoding %#x", b[1])
	}
	return addr, nil
}

// debugFrame finds .debug_frame. It returns nil if the file has none.
func (m *image) debugFrame() (*frames, error) {
	s := m.section(".debug_frame")
	if s == nil {
		return nil, nil
	}
	f := &frames{name: ".debug_frame", data: lazyBytes{m: m, off: s.off, size: s.size}}
	if s.flags&elf.SHF_COMPRESSED != 0 {
		inflated, err := m.inflate(s)
		if err != nil {
			return nil, fmt.Errorf(".debug_frame: %w", err)
		}
		f.data = lazyBytes{b: inflated, have: len(inflated), size: uint64(len(inflated))}
	}
	if f.data.size > maxFrames {
		return nil, fmt.Errorf(".debug_frame has %d bytes, at most %d are read", s.size, maxFrames)
	}
	return f, nil
}

// inflate reads a section compressed with zlib (gABI chapter 4, "Section Compression").
func (m *image) inflate(s *section) ([]byte, error) {
	const chdr = 24
	head := make([]byte, chdr)
	if s.size < chdr {
		return nil, errors.New("compressed section without a header")
	}
	if err := m.read(head, s.off); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if typ := elf.CompressionType(le.Uint32(head)); typ != elf.COMPRESS_ZLIB {
		return nil, fmt.Errorf("compression %v is not read", typ)
	}
	size := le.Uint64(head[8:])
	if size > maxInflated || size/maxRatio > s.size {
		return nil, fmt.Errorf("%d bytes compressed to %d", size, s.size)
	}
	z, err := zlib.NewReader(io.NewSectionReader(m.r, int64(s.off+chdr), int64(s.size-chdr)))
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(z, b); err != nil {
		return nil, err
	}
	return b, nil
}

// lazyBytes is a piece of a file that is read in order as far as it is asked for, so that the size that a file claims
// for a section costs nothing by itself: memory that is never written takes no space.
type lazyBytes struct {
	m         *image
	off, size uint64
	b         []byte
	have      int
}

// upTo returns the first n bytes, or fewer where they end.
func (l *lazyBytes) upTo(n uint64) ([]byte, error) {
	const ahead = 256 << 10
	n = min(n, l.size)
	if n > uint64(l.have) {
		if l.b == nil {
			l.b = make([]byte, l.size)
		}
		end := min(n+ahead, l.size)
		if err := l.m.read(l.b[l.have:end], l.off+uint64(l.have)); err != nil {
			return nil, err
		}
		l.have = int(end)
	}
	return l.b[:l.have], nil
}
