package symbolize

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// errTooLong is the answer to a string that has no end within the bound its reader set.
var errTooLong = errors.New("string has no end")

// source is a file of known size of which nothing is trusted.
type source struct {
	r    io.ReaderAt
	size uint64
}

// extent is a piece of a source. Extents are made by source.extent alone, so that one in hand lies within the file.
type extent struct {
	off, size uint64
}

// extent returns the piece at off, or an error if the file ends before it does.
func (s source) extent(off, size uint64) (extent, error) {
	if off > s.size || size > s.size-off {
		return extent{}, fmt.Errorf("%d bytes at %#x reach past the end of the file at %#x", size, off, s.size)
	}
	return extent{off, size}, nil
}

// slice returns the piece of e that starts at off and has size bytes; ok is false if e does not hold it.
func (e extent) slice(off, size uint64) (piece extent, ok bool) {
	if off > e.size || size > e.size-off {
		return extent{}, false
	}
	return extent{e.off + off, size}, true
}

// from returns what e holds from off on; ok is false if that is nothing.
func (e extent) from(off uint64) (rest extent, ok bool) {
	if off >= e.size {
		return extent{}, false
	}
	return extent{e.off + off, e.size - off}, true
}

// read fills buf from offset off of e.
func (s source) read(e extent, off uint64, buf []byte) error {
	p, ok := e.slice(off, uint64(len(buf)))
	if !ok {
		return fmt.Errorf("%d bytes at %#x reach past a table of %d bytes", len(buf), off, e.size)
	}
	if len(buf) == 0 {
		return nil // a section that is not there has no reader
	}
	n, err := s.r.ReadAt(buf, int64(p.off))
	if n == len(buf) {
		// ReadAt may report io.EOF beside the last bytes of a file.
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %#x: %w", len(buf), p.off, err)
}

// readSome reads at off of e what is there, at most len(buf) bytes.
func (s source) readSome(e extent, off uint64, buf []byte) ([]byte, error) {
	rest, ok := e.from(off)
	if !ok {
		return nil, fmt.Errorf("offset %#x is past a table of %d bytes", off, e.size)
	}
	buf = buf[:min(uint64(len(buf)), rest.size)]
	return buf, s.read(e, off, buf)
}

// chunks calls f with each piece of e in order, each but the last len(buf) bytes long, until f returns false.
func (s source) chunks(e extent, buf []byte, f func(off uint64, piece []byte) bool) error {
	for off := uint64(0); off < e.size; off += uint64(len(buf)) {
		piece, err := s.readSome(e, off, buf)
		if err != nil {
			return err
		}
		if !f(off, piece) {
			return nil
		}
	}
	return nil
}

// cstring reads the string at off of e up to its NUL. buf is scratch for the common, short string; a longer one
// is read in growing pieces up to maxString.
func (s source) cstring(e extent, off uint64, buf []byte) (string, error) {
	for {
		piece, err := s.readSome(e, off, buf)
		if err != nil {
			return "", err
		}
		if n := bytes.IndexByte(piece, 0); n >= 0 {
			return string(piece[:n]), nil
		}
		if len(piece) < len(buf) || len(buf) >= maxString {
			return "", fmt.Errorf("string at %#x: %w within %d bytes", off, errTooLong, len(piece))
		}
		buf = make([]byte, min(4*len(buf), maxString))
	}
}
