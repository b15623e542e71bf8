package httpapi

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"

	"pilotlight/profilestore"
)

// maxParts bounds the series, labels and profiles of a push together: each takes two bytes as it is sent, and some
// hundred in memory. An agent's batch of ten thousand processes has 120,000.
const maxParts = 500_000

// counted refuses a push of too many parts before it is unmarshalled.
func counted(next bodyFunc) bodyFunc {
	return func(w http.ResponseWriter, r *http.Request, b *body) error {
		count := countMessages
		if messageType(r) == messageJSON {
			count = countObjects
		}
		parts, err := count(b)
		switch {
		case err != nil:
			return badRequest("", "unmarshal message: %v", err)
		case parts > maxParts:
			return &profilestore.Error{Code: profilestore.PayloadTooLarge, Message: fmt.Sprintf("the push has more than %d series, labels and profiles: send fewer in one push", maxParts)}
		}
		return next(w, r, b)
	}
}

// countObjects counts the parts of a push in JSON. Braces in strings count too; in profiles there are none.
func countObjects(b *body) (parts int, err error) {
	for _, chunk := range b.chunks {
		parts += bytes.Count(chunk, []byte("{"))
	}
	return parts - 1, nil // one is the message itself
}

// Fields of the messages of a push.
const (
	fieldSeries  = 1 // of PushRequest
	fieldLabels  = 1 // of RawProfileSeries
	fieldSamples = 2
)

// countMessages counts the parts of a push in protobuf, and stops when there are too many.
func countMessages(b *body) (parts int, err error) {
	rd := &pieces{left: slices.Clone(b.chunks)}
	series := int64(0) // where the one that is being read ends
	for rd.at < b.size && parts <= maxParts {
		inside, end := rd.at < series, b.size
		if inside {
			end = series
		}
		tag, err := binary.ReadUvarint(rd)
		if err != nil {
			return 0, err
		}
		skip, enter := uint64(0), false
		switch tag & 7 {
		case wireVarint:
			_, err = binary.ReadUvarint(rd)
		case wireFixed64:
			skip = 8
		case wireFixed32:
			skip = 4
		case wireBytes:
			skip, err = binary.ReadUvarint(rd)
			enter = !inside && tag>>3 == fieldSeries
			if enter || inside && (tag>>3 == fieldLabels || tag>>3 == fieldSamples) {
				parts++
			}
		default:
			err = fmt.Errorf("field %d has wire type %d", tag>>3, tag&7)
		}
		switch {
		case err != nil:
			return 0, err
		case rd.at > end || skip > uint64(end-rd.at):
			return 0, io.ErrUnexpectedEOF
		case enter:
			series = rd.at + int64(skip)
		default:
			rd.skip(int64(skip))
		}
	}
	return parts, nil
}

// pieces reads chunks, and leaves them as they are.
type pieces struct {
	left net.Buffers // a copy
	at   int64
}

func (p *pieces) ReadByte() (byte, error) {
	for len(p.left) > 0 && len(p.left[0]) == 0 {
		p.left = p.left[1:]
	}
	if len(p.left) == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	c := p.left[0][0]
	p.left[0] = p.left[0][1:]
	p.at++
	return c, nil
}

// skip passes over n bytes, which are there.
func (p *pieces) skip(n int64) {
	p.at += n
	for n > 0 {
		m := min(n, int64(len(p.left[0])))
		p.left[0] = p.left[0][m:]
		if n -= m; n > 0 {
			p.left = p.left[1:]
		}
	}
}
