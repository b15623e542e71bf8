package profilestore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/gzip"
)

// isGzip looks at the magic of RFC 1952.
func isGzip(b []byte) bool { return len(b) >= 2 && b[0] == 0x1f && b[1] == 0x8b }

// profileReader unpacks and decodes one profile at a time and keeps its memory for the next.
type profileReader struct {
	gzip gzip.Reader
	src  bytes.Reader
	buf  []byte
	decoded
}

// read makes the decoded profile of a gzipped or plain pprof. It is valid until the next call, and shares memory
// with b.
func (r *profileReader) read(b []byte) error {
	const keep = 4 << 20 // what a rare huge profile needed is given back
	if cap(r.buf) > keep {
		r.buf = nil
	}
	if r.decoded.size() > keep {
		r.decoded = decoded{}
	}
	r.decoded.reset()
	if isGzip(b) {
		var err error
		if b, err = r.inflate(b); err != nil {
			return err
		}
	} else if err := new(outline).scan(b, true); err != nil {
		return err
	}
	return r.decode(b)
}

// atOnce is how much is inflated before it is known whether the profile is to be refused.
const atOnce = 4 << 20

// inflate stops at the first byte that makes the profile one to refuse. Of a large one all that can be counted is
// counted before there is memory for it: a bomb costs no more than a small profile.
func (r *profileReader) inflate(b []byte) ([]byte, error) {
	if err := r.rewind(b); err != nil {
		return nil, err
	}
	// The last four bytes say the size, if they say the truth.
	said := int(binary.LittleEndian.Uint32(b[max(0, len(b)-4):]))
	buf := slices.Grow(r.buf[:0], min(said, 16*len(b), atOnce)+bytes.MinRead)
	var o outline
	for len(buf) < atOnce {
		if len(buf) == cap(buf) {
			buf = slices.Grow(buf, len(buf))
		}
		n, err := r.gzip.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		r.buf = buf
		if errors.Is(err, io.EOF) {
			return buf, o.scan(buf, true)
		}
		if err != nil {
			return nil, fmt.Errorf("inflate: %w", err)
		}
		if err := o.scan(buf, false); err != nil {
			return nil, err
		}
	}
	return r.inflateLarge(b, &o)
}

// inflateLarge goes on counting without keeping anything, and inflates once more when nothing is wrong.
func (r *profileReader) inflateLarge(b []byte, o *outline) ([]byte, error) {
	window := slices.Clone(r.buf[min(o.next, len(r.buf)):])
	size := len(r.buf)
	o.next = max(0, o.next-len(r.buf))
	for whole := false; !whole; {
		window = slices.Grow(window, 64<<10)
		n, err := r.gzip.Read(window[len(window):cap(window)])
		window, size = window[:len(window)+n], size+n
		if size > maxInflated {
			return nil, &limitError{"bytes inflated", maxInflated}
		}
		whole = errors.Is(err, io.EOF)
		if err != nil && !whole {
			return nil, fmt.Errorf("inflate: %w", err)
		}
		if err := o.scan(window, whole); err != nil {
			return nil, err
		}
		done := min(o.next, len(window))
		window = append(window[:0], window[done:]...)
		o.next -= done
	}
	if err := r.rewind(b); err != nil {
		return nil, err
	}
	r.buf = make([]byte, size)
	if _, err := io.ReadFull(&r.gzip, r.buf); err != nil {
		return nil, fmt.Errorf("inflate: %w", err)
	}
	return r.buf, nil
}

func (r *profileReader) rewind(b []byte) error {
	r.src.Reset(b)
	if err := r.gzip.Reset(&r.src); err != nil {
		return fmt.Errorf("inflate: %w", err)
	}
	return nil
}

// outline counts the fields of a profile while its bytes come, and looks into none.
type outline struct {
	next        int // where the next field begins: maybe behind the bytes that are there
	counts      [fieldString + 1]int
	stringBytes int
}

var fieldLimits = [fieldString + 1]limitError{
	fieldSampleType: {"sample types", maxSampleTypes},
	fieldSample:     {"samples", maxSamples},
	fieldMapping:    {"mappings", maxMappings},
	fieldLocation:   {"locations", maxLocations},
	fieldFunction:   {"functions", maxFunctions},
	fieldString:     {"strings", maxStrings},
}

// scan goes on to the end of b, which is the profile so far, or all of it.
func (o *outline) scan(b []byte, whole bool) error {
	if whole && len(b) > maxInflated {
		return &limitError{"bytes", maxInflated}
	}
	const longestHead = 2 * binary.MaxVarintLen64
	for o.next < len(b) && (whole || o.next+longestHead <= len(b)) {
		c := cursor{b: b, i: o.next}
		tag := c.varint()
		n := tag >> 3
		length := uint64(0)
		switch tag & 7 {
		case wireVarint:
			c.varint()
		case wireBytes:
			length = c.varint()
		case wireFixed64:
			length = 8
		case wireFixed32:
			length = 4
		default:
			return errWire
		}
		if c.bad || n == 0 || length > maxInflated {
			return errWire
		}
		o.next = c.i + int(length)
		if n > fieldString {
			continue
		}
		if limit := &fieldLimits[n]; o.counts[n] == limit.most {
			return limit
		}
		o.counts[n]++
		if n == fieldString {
			if o.stringBytes += int(length); o.stringBytes > maxStringBytes {
				return &limitError{"bytes of strings", maxStringBytes}
			}
		}
	}
	return nil
}
