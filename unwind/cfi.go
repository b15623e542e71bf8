package unwind

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Pointer encodings (LSB Core, section 10.5.1): the form in the low four bits, what it is relative to above.
const (
	pePtr     = 0x00
	peUdata2  = 0x02
	peUdata4  = 0x03
	peUdata8  = 0x04
	peSdata2  = 0x0a
	peSdata4  = 0x0b
	peSdata8  = 0x0c
	peForm    = 0x0f
	pePCRel   = 0x10
	peRelMask = 0x70
	peOmit    = 0xff
)

// reader reads a byte slice. A read past its end gives zero and sets short.
type reader struct {
	data  []byte
	pos   int
	short bool
}

func (r *reader) u8() uint8 {
	if r.pos >= len(r.data) {
		r.short = true
		return 0
	}
	b := r.data[r.pos]
	r.pos++
	return b
}

func (r *reader) u16() uint16 {
	b := r.bytes(2)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint16(b)
}

func (r *reader) u32() uint32 {
	b := r.bytes(4)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint32(b)
}

func (r *reader) u64() uint64 {
	b := r.bytes(8)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

// bytes returns the next n bytes, or nil if there are fewer.
func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.data)-r.pos) {
		r.short = true
		r.pos = len(r.data)
		return nil
	}
	b := r.data[r.pos : r.pos+int(n)]
	r.pos += int(n)
	return b
}

// maxLEB bounds the bytes of a number: ten hold 64 bits, and some linkers pad. A longer one ends the data, so that what
// is read again and again, from tables that functions share, is read in constant time.
const maxLEB = 16

func (r *reader) uleb() uint64 {
	if r.pos < len(r.data) && r.data[r.pos] < 0x80 {
		r.pos++
		return uint64(r.data[r.pos-1])
	}
	v, _ := r.leb()
	return v
}

func (r *reader) sleb() int64 {
	v, bits := r.leb()
	if bits < 64 && v>>(bits-1)&1 != 0 {
		v |= math.MaxUint64 << bits
	}
	return int64(v)
}

// leb reads a number in LEB128 (DWARF 5 section 7.6), and how many bits it was given with.
func (r *reader) leb() (v uint64, bits int) {
	for range maxLEB {
		b := r.u8()
		if bits < 64 {
			v |= uint64(b&0x7f) << bits
		}
		bits += 7
		if b < 0x80 {
			return v, bits
		}
	}
	r.short = true
	r.pos = len(r.data)
	return 0, bits
}

// cstring returns the bytes up to a NUL.
func (r *reader) cstring() []byte {
	start := r.pos
	for r.u8() != 0 {
	}
	if r.short {
		return nil
	}
	return r.data[start : r.pos-1]
}

// value reads a value in the form of a pointer encoding.
func (r *reader) value(enc uint8) (v uint64, ok bool) {
	switch enc & peForm {
	case pePtr, peUdata8, peSdata8:
		v = r.u64()
	case peUdata2:
		v = uint64(r.u16())
	case peUdata4:
		v = uint64(r.u32())
	case peSdata2:
		v = uint64(int64(int16(r.u16())))
	case peSdata4:
		v = uint64(int64(int32(r.u32())))
	default:
		return 0, false
	}
	return v, !r.short
}

// pointer reads an encoded address. base is the address of the reader's first byte.
func (r *reader) pointer(enc uint8, base uint64) (addr uint64, ok bool) {
	at := base + uint64(r.pos)
	v, ok := r.value(enc)
	switch enc & (peRelMask | 0x80) {
	case 0:
		return v, ok
	case pePCRel:
		return at + v, ok
	default:
		return 0, false
	}
}

const (
	// maxCIE bounds the bytes of a CIE, and maxCIEs their number in a file: FDEs may name any place of a section as their
	// CIE, and so have the same bytes read for each. Compilers make some 24 bytes, and linkers keep one of the same.
	maxCIE  = 1 << 10
	maxCIEs = 1 << 16
)

// cie is what the descriptions of functions (FDEs) share (DWARF 5 section 6.4.1; LSB Core section 10.6.1).
type cie struct {
	section   *frames
	data      []byte // of the section
	codeAlign uint64
	dataAlign int64
	encoding  uint8 // of addresses in FDEs
	augmented bool  // FDEs have augmentation data
	signal    bool
	usable    bool // its FDEs can be read
	regs      tracked
	initial   state
}

// fde is a function, or rather a range of code, with its instructions in the bytes of its CIE's section.
type fde struct {
	start, end uint64
	from, to   uint32
	cie        uint32
}

// fixedCIE is in place of a CIE for code whose rule does not come from unwind information; from is then an index into
// builder.fixed.
const fixedCIE = math.MaxUint32

// scanner lists the FDEs of a section.
type scanner struct {
	arch    Arch
	section *frames
	cies    *[]cie
	byOff   map[uint64]uint32 // position of a CIE -> index
	lastOff uint64
	last    uint32
	found   func(fde)
}

// scan calls found with each FDE that can be read, in the order of the section. An entry that cannot is left out, and a
// section that ends in the middle of one ends before it.
func (s *scanner) scan() error {
	s.byOff = map[uint64]uint32{}
	s.lastOff = math.MaxUint64
	const longest = 12 // of the fields that say how long an entry is
	pos := uint64(0)
	for {
		data, err := s.section.data.upTo(pos + longest)
		if err != nil {
			return fmt.Errorf("%s: %w", s.section.name, err)
		}
		if pos+4 > uint64(len(data)) {
			return nil
		}
		r := reader{data: data, pos: int(pos)}
		length := uint64(r.u32())
		if length == 0 && s.section.eh {
			return nil // the terminator
		}
		long := length == math.MaxUint32
		if long {
			length = r.u64()
		}
		start := uint64(r.pos)
		if r.short || length > s.section.data.size-start {
			return nil
		}
		end := start + length
		if data, err = s.section.data.upTo(end); err != nil {
			return fmt.Errorf("%s: %w", s.section.name, err)
		}
		s.entry(reader{data: data[:end], pos: int(start)}, long)
		pos = end
	}
}

// entry reads a CIE or an FDE from its ID on.
func (s *scanner) entry(r reader, long bool) {
	start := uint64(r.pos)
	var id, cieOff uint64
	switch {
	case s.section.eh && long:
		return // no compiler makes them, and tools do not agree on the size of the ID
	case s.section.eh:
		id = uint64(r.u32())
		cieOff = start - id // wraps for nonsense, which no CIE is at
		if id == 0 {
			return // a CIE is read when an FDE needs it
		}
	case long:
		id = r.u64()
		cieOff = id
		if id == math.MaxUint64 {
			return
		}
	default:
		id = uint64(r.u32())
		cieOff = id
		if id == math.MaxUint32 {
			return
		}
	}
	index, ok := s.cieAt(cieOff)
	if !ok {
		return
	}
	c := &(*s.cies)[index]
	begin, ok := r.pointer(c.encoding, s.section.addr)
	if !ok {
		return
	}
	// The length has the form of the address, and is never relative to anything or negative.
	enc := c.encoding & peForm
	if enc >= peSdata2 {
		enc -= peSdata2 - peUdata2
	}
	size, ok := r.value(enc)
	if !ok || size == 0 || begin+size < begin {
		return
	}
	if c.augmented {
		r.bytes(r.uleb())
	}
	if r.short {
		return
	}
	s.found(fde{begin, begin + size, uint32(r.pos), uint32(len(r.data)), index})
}

// cieAt returns the index of the CIE at a position of the section.
func (s *scanner) cieAt(off uint64) (uint32, bool) {
	if off != s.lastOff {
		index, ok := s.byOff[off]
		if !ok {
			c, ok := s.readCIE(off)
			if !ok {
				return 0, false
			}
			index = uint32(len(*s.cies))
			*s.cies = append(*s.cies, c)
			s.byOff[off] = index
		}
		s.lastOff, s.last = off, index
	}
	return s.last, (*s.cies)[s.last].usable
}

// readCIE reads the CIE at a position. It reports false if there is none.
func (s *scanner) readCIE(off uint64) (cie, bool) {
	if off >= s.section.data.size || len(*s.cies) == maxCIEs {
		return cie{}, false
	}
	// CIEs precede their FDEs nearly always, and then this reads nothing.
	data, err := s.section.data.upTo(off + 16)
	if err != nil || off+16 > uint64(len(data)) {
		return cie{}, false
	}
	r := reader{data: data, pos: int(off)}
	length := uint64(r.u32())
	long := length == math.MaxUint32
	if long {
		length = r.u64()
	}
	end := uint64(r.pos) + length
	if long && s.section.eh || length > maxCIE || length > s.section.data.size-uint64(r.pos) {
		return cie{}, false
	}
	if data, err = s.section.data.upTo(end); err != nil {
		return cie{}, false
	}
	r.data = data[:end]
	id, want := uint64(r.u32()), uint64(0)
	if !s.section.eh {
		want = math.MaxUint32
		if long {
			id |= uint64(r.u32()) << 32
			want = math.MaxUint64
		}
	}
	if r.short || id != want {
		return cie{}, false
	}
	// All of it, for the FDEs; the section's bytes stay where they are.
	c := cie{section: s.section, data: s.section.data.b}
	c.usable = c.read(&r, s.arch)
	return c, true
}

// read reads a CIE from its version on. It reports false if its FDEs could not be read.
func (c *cie) read(r *reader, arch Arch) bool {
	version := r.u8()
	if version != 1 && version != 3 && version != 4 {
		return false
	}
	augmentation := string(r.cstring())
	if version == 4 && (r.u8() != 8 || r.u8() != 0) { // sizes of addresses and of segment selectors
		return false
	}
	c.codeAlign, c.dataAlign = r.uleb(), r.sleb()
	ra := uint64(r.u8())
	if version > 1 {
		r.pos--
		ra = r.uleb()
	}
	if r.short || !c.readAugmentation(r, augmentation) {
		return false
	}
	// Alignments are 1, 4, -4 or -8.
	if c.codeAlign > math.MaxUint8 || c.dataAlign != int64(int8(c.dataAlign)) {
		return false
	}
	c.start(arch, ra)
	in := interpreter{cie: c, state: c.initial, end: 1, row: func(uint64) {}}
	if !in.run(r) {
		in.state = state{ra: save{kind: saveUnsupported}}
	}
	c.initial = in.state
	return true
}

// start sets which registers FDEs speak of, and the state before all instructions. ra is the column of DWARF's table that
// has the return address.
func (c *cie) start(arch Arch, ra uint64) {
	c.regs = registersOf(arch)
	if ra == uint64(c.regs.ra) {
		return
	}
	c.regs.ra, c.initial.ra.kind = math.MaxUint8, saveUnsupported
	if arch == ARM64 && ra < arm64SP { // glibc's vfork keeps it in x15
		c.regs.ra, c.initial.ra = uint8(ra), registerSave(ra)
	}
}

// readAugmentation reads what a string of letters announces.
func (c *cie) readAugmentation(r *reader, letters string) bool {
	if letters == "" {
		return true
	}
	if letters[0] != 'z' {
		return false
	}
	c.augmented = true
	n := r.uleb()
	b := r.bytes(n)
	if r.short {
		return false
	}
	a := reader{data: b}
	for _, letter := range letters[1:] {
		switch letter {
		case 'R':
			c.encoding = a.u8()
		case 'P': // the personality routine
			if _, ok := a.value(a.u8()); !ok {
				return false
			}
		case 'L': // how FDEs encode their exception tables
			a.u8()
		case 'S':
			c.signal = true
		case 'B', 'G': // return addresses are signed with key B; memory tags. Neither moves anything.
		default:
			return false
		}
	}
	return !a.short && c.encoding != peOmit
}
