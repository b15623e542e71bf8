package profilestore

import (
	"encoding/binary"
	"errors"
	"io"
)

func appendString[S []byte | string](dst []byte, s S) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

var (
	errVarint = errors.New("malformed varint")
	errRange  = errors.New("index out of range")
)

// decoder reads what appendString and binary.Append... wrote. The first error sticks, and everything read
// after it is zero: callers look at err once, at their end.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.b = nil
}

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.fail(io.ErrUnexpectedEOF)
		return nil
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) byte() byte {
	if p := d.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail(errVarint)
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail(errVarint)
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail(io.ErrUnexpectedEOF)
		return nil
	}
	return d.take(int(n))
}

// count reads a number of things of at least size bytes each, and refuses more than can follow, so that
// memory for them may be allocated at once.
func (d *decoder) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.b)/size) {
		d.fail(io.ErrUnexpectedEOF)
		return 0
	}
	return int(n)
}

// below reads an index of a table with n rows.
func (d *decoder) below(n int) uint32 {
	v := d.uvarint()
	if v >= uint64(n) {
		d.fail(errRange)
		return 0
	}
	return uint32(v)
}
