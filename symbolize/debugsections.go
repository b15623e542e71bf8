package symbolize

import (
	"bufio"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// ReadWriterAt is the spill file: what is written to it can be read again.
type ReadWriterAt interface {
	io.ReaderAt
	io.WriterAt
}

// errLimit is wrapped by the errors of what would take more than its Limits allow.
var errLimit = errors.New("over the limit")

// blob is a piece of a file: a section as it is when nothing is compressed. The zero value is empty.
type blob struct {
	in source
	at extent
}

func (b blob) size() uint64 { return b.at.size }

// window reads pieces of a blob through a buffer, for readers that do not know how much they need.
type window struct {
	blob blob
	// least is the least that is read; 0 is windowSize.
	least int
	buf   []byte
	start uint64 // offset of buf in the blob
}

// windowSize is the least that a window reads where strings are, and other things that are short and anywhere:
// copying a page costs as much as the system call. aheadSize is for what is read from front to back.
const (
	windowSize = 4 << 10
	aheadSize  = 64 << 10
)

// maxWindow bounds what is parsed as one piece through a window: an abbreviation table, a list of ranges. The
// longest in Linux and LLVM have 50 KB.
const maxWindow = 8 << 20

// bytes returns what lies at off: at least n bytes, or all up to the end of the blob. It is valid until the next call.
func (w *window) bytes(off uint64, n int) ([]byte, error) {
	if off >= w.start && off-w.start <= uint64(len(w.buf)) {
		have := w.buf[off-w.start:]
		if len(have) >= n || off+uint64(len(have)) == w.blob.size() {
			return have, nil
		}
	}
	if off > w.blob.size() {
		return nil, fmt.Errorf("offset %#x is past a section of %d bytes", off, w.blob.size())
	}
	size := min(uint64(max(n, windowSize, w.least)), w.blob.size()-off)
	if uint64(cap(w.buf)) < size {
		w.buf = make([]byte, size)
	}
	w.buf, w.start = w.buf[:size], off
	if err := w.blob.in.read(w.blob.at, off, w.buf); err != nil {
		w.buf = w.buf[:0]
		return nil, err
	}
	return w.buf, nil
}

// parse calls f with a cursor at off, and again with a longer piece for as long as f runs into its end.
func (w *window) parse(off uint64, f func(c *cursor) error) error {
	for n := 1; ; n *= 4 {
		b, err := w.bytes(off, n)
		if err != nil {
			return err
		}
		n = max(n, len(b))
		c := cursor{b: b}
		err = f(&c)
		if !c.short {
			return err
		}
		if off+uint64(len(b)) == w.blob.size() {
			return fmt.Errorf("at %#x: %w", off, io.ErrUnexpectedEOF)
		}
		if n >= maxWindow {
			return fmt.Errorf("at %#x: no end within %d bytes: %w", off, n, errLimit)
		}
	}
}

// cstring returns the string at off without its NUL. It is valid until the next use of the window.
func (w *window) cstring(off uint64) ([]byte, error) {
	const most = 256
	for n := most; ; n *= 4 {
		b, err := w.bytes(off, n)
		if err != nil {
			return nil, err
		}
		for i, c := range b {
			if c == 0 {
				return b[:i], nil
			}
		}
		if n >= maxString || off+uint64(len(b)) == w.blob.size() {
			return nil, fmt.Errorf("string at %#x: %w within %d bytes", off, errTooLong, len(b))
		}
	}
}

// cursor reads numbers from bytes. Past their end it reads zeroes and says so in short.
type cursor struct {
	b     []byte
	off   int
	short bool
}

func (c *cursor) fail() uint64 {
	c.short = true
	c.off = len(c.b)
	return 0
}

func (c *cursor) skip(n uint64) {
	if n > uint64(len(c.b)-c.off) {
		c.fail()
		return
	}
	c.off += int(n)
}

func (c *cursor) u8() uint64 {
	if c.off >= len(c.b) {
		return c.fail()
	}
	c.off++
	return uint64(c.b[c.off-1])
}

func (c *cursor) u16() uint64 {
	if len(c.b)-c.off < 2 {
		return c.fail()
	}
	c.off += 2
	return uint64(binary.LittleEndian.Uint16(c.b[c.off-2:]))
}

func (c *cursor) u32() uint64 {
	if len(c.b)-c.off < 4 {
		return c.fail()
	}
	c.off += 4
	return uint64(binary.LittleEndian.Uint32(c.b[c.off-4:]))
}

func (c *cursor) u64() uint64 {
	if len(c.b)-c.off < 8 {
		return c.fail()
	}
	c.off += 8
	return binary.LittleEndian.Uint64(c.b[c.off-8:])
}

// uint reads an unsigned number of size bytes, 1 to 8.
func (c *cursor) uint(size int) uint64 {
	switch size {
	case 1:
		return c.u8()
	case 2:
		return c.u16()
	case 4:
		return c.u32()
	case 8:
		return c.u64()
	}
	if len(c.b)-c.off < size {
		return c.fail()
	}
	var v uint64
	for i := range size {
		v |= uint64(c.b[c.off+i]) << (8 * i)
	}
	c.off += size
	return v
}

// uleb reads an unsigned LEB128 (DWARF 5 section 7.6). Bits past the 64th are dropped.
func (c *cursor) uleb() uint64 {
	if c.off < len(c.b) && c.b[c.off] < 0x80 {
		c.off++
		return uint64(c.b[c.off-1])
	}
	var v uint64
	for shift := uint(0); c.off < len(c.b); shift += 7 {
		b := c.b[c.off]
		c.off++
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
	return c.fail()
}

// sleb reads a signed LEB128.
func (c *cursor) sleb() int64 {
	var v int64
	for shift := uint(0); c.off < len(c.b); shift += 7 {
		b := c.b[c.off]
		c.off++
		v |= int64(b&0x7f) << shift
		if b < 0x80 {
			if b&0x40 != 0 && shift < 57 {
				v |= -1 << (shift + 7)
			}
			return v
		}
	}
	return int64(c.fail())
}

// cstring returns the bytes up to a NUL.
func (c *cursor) cstring() []byte {
	for i := c.off; i < len(c.b); i++ {
		if c.b[i] == 0 {
			s := c.b[c.off:i]
			c.off = i + 1
			return s
		}
	}
	c.fail()
	return nil
}

// unpacker makes blobs of sections, whether they are compressed or not.
type unpacker struct {
	spill   ReadWriterAt
	used    uint64 // bytes of spill
	limit   uint64
	streams []*aheadReader
}

// open returns a section, inflated to the spill file if it is compressed (gABI chapter 4, "Section Compression").
// A section that is not there is empty.
func (u *unpacker) open(m *image, name string) (blob, error) {
	s := m.section(name)
	if s == nil || s.typ == elf.SHT_NOBITS {
		return blob{}, nil
	}
	if s.flags&elf.SHF_COMPRESSED == 0 {
		e, err := m.extentOf(s)
		return blob{m.source, e}, err
	}
	b, err := u.inflate(m, s)
	if err != nil {
		return blob{}, fmt.Errorf("section %s: %w", name, err)
	}
	return b, nil
}

// compressionHead is how a section is compressed.
type compressionHead struct {
	method elf.CompressionType
	size   uint64 // when it is inflated, as it says
	data   extent
}

func (m *image) compressionHead(s *section) (compressionHead, error) {
	packed, err := m.extent(s.off, s.size)
	if err != nil {
		return compressionHead{}, err
	}
	n := 3 * m.ptrSize()
	head := make([]byte, n)
	if err := m.read(packed, 0, head); err != nil {
		return compressionHead{}, err
	}
	data, _ := packed.slice(n, packed.size-n)
	method := elf.CompressionType(binary.LittleEndian.Uint32(head))
	return compressionHead{method, m.word(head[m.ptrSize():]), data}, nil
}

// maxInflated bounds what is believed of the size of one section.
const maxInflated = 1 << 40

// debugSections are the sections that an index is made of, in the order in which openDebug takes them.
var debugSections = []string{
	".debug_info", ".debug_abbrev", ".debug_str", ".debug_line_str", ".debug_line", ".debug_ranges", ".debug_rnglists", ".debug_addr",
	".debug_str_offsets",
}

func (u *unpacker) inflate(m *image, s *section) (blob, error) {
	head, err := m.compressionHead(s)
	if err != nil {
		return blob{}, err
	}
	r, err := m.inflater(head)
	if err != nil {
		return blob{}, err
	}
	defer r.Close() // which has no error but that of reading
	return u.keep(r, head.size)
}

// inflater returns what a section is when it is inflated.
func (m *image) inflater(head compressionHead) (io.ReadCloser, error) {
	r := io.NewSectionReader(m.r, int64(head.data.off), int64(head.data.size))
	switch head.method {
	case elf.COMPRESS_ZLIB:
		// Without the checksum at its end (RFC 1950): what reads the section bounds-checks it anyway.
		return flate.NewReader(bufio.NewReaderSize(io.NewSectionReader(r, 2, r.Size()), 64<<10)), nil
	case elf.COMPRESS_ZSTD:
		// A window as large as ld and objcopy use for any level; one decoder, as there is one CPU to use.
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(32<<20), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return nil, fmt.Errorf("compressed with method %v: zlib and zstd are read", head.method)
}

// openAhead is open for a section that is read from front to back, mostly: it is inflated as it is read, and to the
// spill file only if what is wanted is farther back than is kept.
func (u *unpacker) openAhead(m *image, name string) (blob, error) {
	s := m.section(name)
	if s == nil || s.typ == elf.SHT_NOBITS || s.flags&elf.SHF_COMPRESSED == 0 {
		return u.open(m, name)
	}
	head, err := m.compressionHead(s)
	if err != nil {
		return blob{}, fmt.Errorf("section %s: %w", name, err)
	}
	r, err := m.inflater(head)
	if err != nil {
		return blob{}, fmt.Errorf("section %s: %w", name, err)
	}
	if head.size > maxInflated {
		return blob{}, fmt.Errorf("section %s: %d bytes when inflated: %w", name, head.size, errLimit)
	}
	a := &aheadReader{u: u, m: m, s: s, r: r}
	u.streams = append(u.streams, a)
	return blob{source{a, head.size}, extent{0, head.size}}, nil
}

// aheadReader is a section that is inflated as it is read.
type aheadReader struct {
	u   *unpacker
	m   *image
	s   *section
	r   io.ReadCloser
	pos uint64 // how far r is
	// back is what was read last, up to pos.
	back    []byte
	discard []byte
	spilled *blob // all of it, once something farther back was wanted
}

// aheadKept is how much is kept of what was read.
const aheadKept = 64 << 10

// ReadAt implements io.ReaderAt.
func (a *aheadReader) ReadAt(b []byte, off int64) (int, error) {
	at := uint64(off)
	if a.spilled == nil && at < a.pos-uint64(len(a.back)) {
		all, err := a.u.inflate(a.m, a.s)
		if err != nil {
			return 0, err
		}
		a.spilled = &all
	}
	if a.spilled != nil {
		if err := a.spilled.in.read(a.spilled.at, at, b); err != nil {
			return 0, err
		}
		return len(b), nil
	}
	for a.pos < at {
		if a.discard == nil {
			a.discard = make([]byte, aheadKept)
		}
		if err := a.next(a.discard[:min(at-a.pos, aheadKept)]); err != nil {
			return 0, err
		}
	}
	n := 0
	if at < a.pos {
		n = copy(b, a.back[uint64(len(a.back))-(a.pos-at):])
	}
	if err := a.next(b[n:]); err != nil {
		return n, err
	}
	return len(b), nil
}

// next reads what follows.
func (a *aheadReader) next(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if _, err := io.ReadFull(a.r, b); err != nil {
		return fmt.Errorf("inflate: %w", err)
	}
	a.pos += uint64(len(b))
	if len(b) >= aheadKept {
		a.back = append(a.back[:0], b[len(b)-aheadKept:]...)
		return nil
	}
	if over := len(a.back) + len(b) - aheadKept; over > 0 {
		a.back = a.back[:copy(a.back, a.back[over:])]
	}
	a.back = append(a.back, b...)
	return nil
}

// inflated returns how many bytes have been inflated.
func (u *unpacker) inflated() uint64 {
	n := u.used
	for _, a := range u.streams {
		n += a.pos
	}
	return n
}

// close ends what is being inflated.
func (u *unpacker) close() {
	for _, a := range u.streams {
		a.r.Close() // which has no error but that of reading
	}
}

// keep writes size bytes of r to the spill file.
func (u *unpacker) keep(r io.Reader, size uint64) (blob, error) {
	if u.spill == nil {
		return blob{}, errors.New("compressed, and there is no file to inflate it to")
	}
	if size > u.limit-u.used {
		return blob{}, fmt.Errorf("%d bytes when inflated, %d are left: %w", size, u.limit-u.used, errLimit)
	}
	w := spillWriter{u: u, left: size}
	start := u.used
	if _, err := io.Copy(&w, r); err != nil && !errors.Is(err, errEnough) {
		return blob{}, fmt.Errorf("inflate: %w", err)
	}
	if w.left > 0 {
		return blob{}, fmt.Errorf("inflate: %w, %d bytes are missing", io.ErrUnexpectedEOF, w.left)
	}
	return blob{source{u.spill, u.used}, extent{start, size}}, nil
}

// spillWriter appends to the spill file.
type spillWriter struct {
	u    *unpacker
	left uint64
}

// errEnough ends a copy when what was asked for is there.
var errEnough = errors.New("enough")

func (w *spillWriter) Write(b []byte) (int, error) {
	n := min(uint64(len(b)), w.left)
	if _, err := w.u.spill.WriteAt(b[:n], int64(w.u.used)); err != nil {
		return 0, err
	}
	w.u.used += n
	w.left -= n
	if w.left == 0 {
		return int(n), errEnough
	}
	return len(b), nil
}
