package httpapi

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/klauspost/compress/gzip"
)

// Fields of pprof's Profile message (google/pprof, proto/profile.proto), and protobuf's wire types.
const (
	fieldSampleType = 1
	fieldString     = 6

	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

// sampleTypes are the names of the sample types of a pprof profile, gzipped or plain. It passes over everything else,
// keeps nothing in memory, and gives up past maxInflated bytes.
func sampleTypes(pprof []byte) ([]string, error) {
	var indexes []uint64
	inflated, err := scanProfile(pprof, func(field uint64) func([]byte) error {
		if field != fieldSampleType {
			return nil
		}
		return func(b []byte) error {
			if len(indexes) == 64 {
				return errors.New("more than 64 sample types")
			}
			return scanFields(bufio.NewReader(bytes.NewReader(b)), func(field, v uint64) {
				if field == 1 {
					indexes = append(indexes, v)
				}
			}, nil)
		}
	})
	if inflated > maxInflated {
		return nil, tooLarge("inflated profile is", maxInflated)
	}
	if err != nil {
		return nil, badRequest("", "not a pprof profile: %v", err)
	}
	names := make([]string, len(indexes))
	at := uint64(0)
	_, err = scanProfile(pprof, func(field uint64) func([]byte) error {
		if field != fieldString {
			return nil
		}
		index := at
		at++
		if !slices.Contains(indexes, index) {
			return nil
		}
		return func(b []byte) error {
			for i := range indexes {
				if indexes[i] == index {
					names[i] = string(b)
				}
			}
			return nil
		}
	})
	if err != nil {
		return nil, badRequest("", "not a pprof profile: %v", err)
	}
	return names, nil
}

// scanProfile walks the fields of a profile, and says how many bytes it read, maxInflated+1 at most.
func scanProfile(pprof []byte, keep func(field uint64) func([]byte) error) (inflated int64, err error) {
	var rd io.Reader = bytes.NewReader(pprof)
	if bytes.HasPrefix(pprof, []byte{0x1f, 0x8b}) {
		if rd, err = gzip.NewReader(rd); err != nil {
			return 0, fmt.Errorf("read gzip header: %w", err)
		}
	}
	lr := &io.LimitedReader{R: rd, N: maxInflated + 1}
	err = scanFields(bufio.NewReader(lr), nil, keep)
	return maxInflated + 1 - lr.N, err
}

// maxKept is how long a field may be that is not passed over.
const maxKept = 256

// scanFields calls number for each varint, and keep for each field of bytes: what it returns gets the bytes,
// nil has them passed over. Both may be nil.
func scanFields(rd *bufio.Reader, number func(field, v uint64), keep func(field uint64) func([]byte) error) error {
	for fields := 0; ; fields++ {
		tag, err := binary.ReadUvarint(rd)
		if err == io.EOF && fields > 0 {
			return nil
		}
		if err == io.EOF {
			return errors.New("empty")
		}
		if err != nil {
			return fmt.Errorf("read tag: %w", err)
		}
		var skip uint64
		var take func([]byte) error
		switch tag & 7 {
		case wireVarint:
			var v uint64
			if v, err = binary.ReadUvarint(rd); err == nil && number != nil {
				number(tag>>3, v)
			}
		case wireFixed64:
			skip = 8
		case wireFixed32:
			skip = 4
		case wireBytes:
			skip, err = binary.ReadUvarint(rd)
			if keep != nil {
				take = keep(tag >> 3)
			}
		default:
			return fmt.Errorf("field %d has wire type %d", tag>>3, tag&7)
		}
		switch {
		case err != nil:
		case skip > math.MaxInt32 || take != nil && skip > maxKept:
			err = fmt.Errorf("%d bytes long", skip)
		case take != nil:
			b := make([]byte, skip)
			if _, err = io.ReadFull(rd, b); err == nil {
				err = take(b)
			}
		default:
			_, err = rd.Discard(int(skip))
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("read field %d: %w", tag>>3, err)
		}
	}
}
