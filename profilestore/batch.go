package profilestore

import (
	"encoding/binary"
	"fmt"
	"time"
)

// batchVersion opens every marshalled batch.
const batchVersion = 1

// MarshalBatch appends the encoding of a batch to dst: what one process hands to another that has the store.
//
//	batch:   version (1 byte), number of profiles, profile...
//	profile: ID (16 bytes), name, number of labels, (name, value)..., time (zigzag), duration (zigzag), pprof
//
// Numbers are varints; strings and pprof carry their length in front.
func MarshalBatch(dst []byte, batch []Encoded) []byte {
	dst = append(dst, batchVersion)
	dst = binary.AppendUvarint(dst, uint64(len(batch)))
	for i := range batch {
		e := &batch[i]
		dst = append(dst, e.ID[:]...)
		dst = appendString(dst, e.Name)
		dst = binary.AppendUvarint(dst, uint64(len(e.Labels)))
		for _, l := range e.Labels {
			dst = appendString(dst, l.Name)
			dst = appendString(dst, l.Value)
		}
		dst = binary.AppendVarint(dst, e.Time)
		dst = binary.AppendVarint(dst, int64(e.Duration))
		dst = appendString(dst, e.Pprof)
	}
	return dst
}

// UnmarshalBatch reads what MarshalBatch wrote. The Pprof of the result shares its memory with b.
func UnmarshalBatch(b []byte) ([]Encoded, error) {
	d := decoder{b: b}
	if v := d.byte(); d.err == nil && v != batchVersion {
		return nil, fmt.Errorf("read batch: version %d, this program knows %d", v, batchVersion)
	}
	const minProfile = len(ID{}) + 5 // a profile with all lengths zero
	batch := make([]Encoded, 0, d.count(minProfile))
	for range cap(batch) {
		var e Encoded
		copy(e.ID[:], d.take(len(e.ID)))
		e.Name = string(d.bytes())
		for range d.count(2) {
			e.Labels = append(e.Labels, Label{string(d.bytes()), string(d.bytes())})
		}
		e.Time = d.varint()
		e.Duration = time.Duration(d.varint())
		e.Pprof = d.bytes()
		batch = append(batch, e)
	}
	if d.err == nil && len(d.b) > 0 {
		d.err = fmt.Errorf("%d bytes too many", len(d.b))
	}
	if d.err != nil {
		return nil, fmt.Errorf("read batch: %w", d.err)
	}
	return batch, nil
}
