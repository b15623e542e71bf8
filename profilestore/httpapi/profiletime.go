package httpapi

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/klauspost/compress/gzip"
)

// Fields of pprof's Profile message (google/pprof, proto/profile.proto), and protobuf's wire types.
const (
	fieldTimeNanos     = 9
	fieldDurationNanos = 10

	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

// profileTime finds start (Unix nanoseconds, 0 if not set) and duration of a pprof profile, gzipped or plain. It
// passes over everything else, keeps nothing in memory, and gives up past limit bytes. inflated is how many
// bytes it read, limit+1 at most.
func profileTime(pprof []byte, limit int64) (start int64, duration time.Duration, inflated int64, err error) {
	var rd io.Reader = bytes.NewReader(pprof)
	if bytes.HasPrefix(pprof, []byte{0x1f, 0x8b}) {
		if rd, err = gzip.NewReader(rd); err != nil {
			return 0, 0, 0, fmt.Errorf("read gzip header: %w", err)
		}
	}
	lr := &io.LimitedReader{R: rd, N: limit + 1}
	start, duration, err = scanTime(bufio.NewReader(lr))
	return start, duration, limit + 1 - lr.N, err
}

func scanTime(rd *bufio.Reader) (start int64, duration time.Duration, err error) {
	for fields := 0; ; fields++ {
		tag, err := binary.ReadUvarint(rd)
		if err == io.EOF && fields > 0 {
			return start, duration, nil
		}
		if err == io.EOF {
			return 0, 0, errors.New("empty")
		}
		if err != nil {
			return 0, 0, fmt.Errorf("read tag: %w", err)
		}
		var skip uint64
		switch tag & 7 {
		case wireVarint:
			var v uint64
			v, err = binary.ReadUvarint(rd)
			switch tag >> 3 {
			case fieldTimeNanos:
				start = int64(v)
			case fieldDurationNanos:
				duration = time.Duration(v)
			}
		case wireFixed64:
			skip = 8
		case wireFixed32:
			skip = 4
		case wireBytes:
			skip, err = binary.ReadUvarint(rd)
		default:
			return 0, 0, fmt.Errorf("field %d has wire type %d", tag>>3, tag&7)
		}
		if err == nil && skip > math.MaxInt32 {
			err = fmt.Errorf("%d bytes long", skip)
		}
		if err == nil {
			_, err = rd.Discard(int(skip))
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return 0, 0, fmt.Errorf("read field %d: %w", tag>>3, err)
		}
	}
}
