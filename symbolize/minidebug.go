package symbolize

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/ulikunitz/xz"
)

const (
	// maxXZDict bounds the dictionary that an xz stream may ask for: 64 MiB, that of xz -9.
	maxXZDict = 64 << 20
	// maxMiniDebug bounds the symbol table of .gnu_debugdata when it is inflated. Large programs have some MB.
	maxMiniDebug = 256 << 20
)

// openMiniDebug opens the ELF file in .gnu_debugdata, which has the symbols that distributions strip else (GDB's
// documentation, "MiniDebugInfo"). It is nil if there is none.
func (u *unpacker) openMiniDebug(m *image) (*image, error) {
	s := m.section(".gnu_debugdata")
	if s == nil {
		return nil, nil
	}
	e, err := m.extentOf(s)
	if err != nil {
		return nil, err
	}
	b, err := u.keepXZ(blob{m.source, e})
	if err != nil {
		return nil, fmt.Errorf("section .gnu_debugdata: %w", err)
	}
	return readAnyImage(io.NewSectionReader(b.in.r, int64(b.at.off), int64(b.at.size)), int64(b.at.size))
}

// keepXZ inflates an xz stream to the spill file.
func (u *unpacker) keepXZ(packed blob) (blob, error) {
	size, err := xzSize(&window{blob: packed, least: aheadSize})
	if err != nil {
		return blob{}, err
	}
	if size > maxMiniDebug {
		return blob{}, fmt.Errorf("%d bytes when inflated: %w", size, errLimit)
	}
	r, err := xz.ReaderConfig{SingleStream: true}.NewReader(io.NewSectionReader(packed.in.r, int64(packed.at.off), int64(packed.at.size)))
	if err != nil {
		return blob{}, err
	}
	return u.keep(r, size)
}

var errXZ = errors.New("not an xz stream as MiniDebugInfo has")

// xzSize returns what an xz stream becomes when it is inflated. The library allocates the dictionary that each block
// asks for, so that this goes from header to header first and refuses large ones. See "The .xz File Format", 1.2.1;
// the chunks of LZMA2 are as XZ Embedded documents them.
func xzSize(w *window) (uint64, error) {
	head, err := w.bytes(0, 12)
	if err != nil || len(head) < 12 || !bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")) {
		return 0, errors.Join(errXZ, err)
	}
	checkSize := xzCheckSize(head[7])
	total := uint64(0)
	for off := uint64(12); ; {
		b, err := w.bytes(off, 1)
		if err != nil || len(b) == 0 {
			return 0, errors.Join(errXZ, err)
		}
		if b[0] == 0 { // the index follows
			return total, nil
		}
		headSize := (uint64(b[0]) + 1) * 4
		if b, err = w.bytes(off, int(headSize)); err != nil || uint64(len(b)) < headSize {
			return 0, errors.Join(errXZ, err)
		}
		if err := checkXZBlock(b[:headSize]); err != nil {
			return 0, err
		}
		start := off + headSize
		off = start
		var size uint64
		if size, off, err = xzChunks(w, off); err != nil {
			return 0, err
		}
		if total += size; total > maxMiniDebug {
			return total, nil
		}
		off += -(off - start) & 3
		off += checkSize
	}
}

// checkXZBlock reads the header of a block: LZMA2 with a dictionary that is small enough.
func checkXZBlock(b []byte) error {
	c := cursor{b: b, off: 1}
	flags := c.u8()
	if flags&0x40 != 0 {
		c.uleb() // compressed size
	}
	if flags&0x80 != 0 {
		c.uleb() // uncompressed size
	}
	const lzma2 = 0x21
	if flags&3 != 0 || c.uleb() != lzma2 || c.uleb() != 1 {
		return fmt.Errorf("%w: filters other than LZMA2", errXZ)
	}
	bits := c.u8()
	if c.short || bits > 40 {
		return errXZ
	}
	dict := (2 | bits&1) << (bits/2 + 11)
	if bits == 40 || dict > maxXZDict {
		return fmt.Errorf("dictionary of %d bytes: %w", dict, errLimit)
	}
	return nil
}

// xzChunks goes over the chunks of a block and returns what they become, and where the last one ends.
func xzChunks(w *window, off uint64) (size, end uint64, err error) {
	for size <= maxMiniDebug {
		b, err := w.bytes(off, 6)
		if err != nil || len(b) == 0 {
			return 0, 0, errors.Join(errXZ, err)
		}
		control := b[0]
		switch {
		case control == 0:
			return size, off + 1, nil
		case len(b) < 6:
			return 0, 0, errXZ
		case control >= 0x80: // compressed
			size += (uint64(control&0x1f)<<16 | uint64(b[1])<<8 | uint64(b[2])) + 1
			off += 5 + (uint64(b[3])<<8 | uint64(b[4])) + 1
			if control >= 0xc0 { // with new properties
				off++
			}
		case control <= 2: // as it is
			n := uint64(b[1])<<8 | uint64(b[2]) + 1
			size += n
			off += 3 + n
		default:
			return 0, 0, errXZ
		}
	}
	return size, off, nil
}

// xzCheckSize returns the size of a block's checksum (section 2.1.1.2).
func xzCheckSize(kind byte) uint64 {
	switch kind & 0xf {
	case 0:
		return 0
	case 1, 2, 3:
		return 4
	case 4, 5, 6:
		return 8
	case 7, 8, 9:
		return 16
	case 10, 11, 12:
		return 32
	}
	return 64
}
