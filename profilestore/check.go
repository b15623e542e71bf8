package profilestore

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/klauspost/compress/gzip"
)

// maxAhead is how far a sender's clock may be ahead.
const maxAhead = 10 * time.Minute

// maxBatch is the pprof bytes of one batch as sent: a batch is one record, and is written at once.
const maxBatch = 64 << 20

// checked is a profile that may be stored: series is not interned, offset is not set.
type checked struct {
	profileMeta
	pprof []byte // gzipped
}

// check refuses what could not be stored or queried later. The error is an *Error without the profile's name.
func (s *Store) check(e *Encoded) (*checked, error) {
	c, err := s.checkProfile(e)
	if err == nil {
		return c, nil
	}
	code := BadRequest
	if limit := (*limitError)(nil); errors.As(err, &limit) {
		code = PayloadTooLarge
	}
	return nil, &Error{Code: code, Message: err.Error(), Err: err}
}

func (s *Store) checkProfile(e *Encoded) (*checked, error) {
	if !validName(e.Name) || len(e.Name) > maxLabelName {
		return nil, fmt.Errorf("profile name %.40q: use [a-zA-Z_][a-zA-Z0-9_]*, as in process_cpu", e.Name)
	}
	if err := e.Labels.check(); err != nil {
		return nil, err
	}
	now := s.now()
	at := time.Unix(0, e.Time).UTC()
	switch {
	case e.Time < now.Add(-s.o.Retention).UnixNano():
		return nil, fmt.Errorf("it starts at %s, before the retention of %s: it would be deleted at once", at.Format(time.RFC3339), s.o.Retention)
	case e.Time > now.Add(maxAhead).UnixNano():
		return nil, fmt.Errorf("it starts at %s, more than %s ahead of the server's clock: set the sender's clock", at.Format(time.RFC3339), maxAhead)
	case e.Duration < 0 || e.Duration > s.o.Retention:
		return nil, fmt.Errorf("its duration is %s: it must not be negative or longer than the retention of %s", e.Duration, s.o.Retention)
	case len(e.Pprof) > maxBatch:
		return nil, &limitError{"bytes", maxBatch}
	}

	c := &checked{profileMeta: profileMeta{id: e.ID, time: e.Time, duration: int64(e.Duration)}, pprof: e.Pprof}
	if c.id == (ID{}) {
		c.id = contentID(e)
	}
	err := inflate(e.Pprof, func(raw []byte) error {
		t, err := readPprof(raw)
		if err != nil {
			return err
		}
		c.series = &series{labels: slices.Clone(e.Labels), types: t.schema(e.Name)}
		c.totals = make([]int64, len(t.types))
		sets := newSetList()
		err = t.samples(func(p *pprofSample) error {
			for i, v := range p.values {
				if v > maxTotal-c.totals[i] {
					return fmt.Errorf("the values of sample type %s sum to more than 2^53", c.series.types[i].SampleType)
				}
				c.totals[i] += v
			}
			sets.add(p.labels)
			return nil
		})
		if err != nil {
			return err
		}
		c.sets, c.many = sets.sets, sets.many
		if !isGzip(e.Pprof) {
			c.pprof, err = deflate(raw)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	c.length, c.crc = uint32(len(c.pprof)), checksum(c.pprof)
	return c, nil
}

// contentID names a profile that came without an ID, so that sending the same again is no second profile.
func contentID(e *Encoded) ID {
	h := sha256.New()
	h.Write(MarshalBatch(nil, []Encoded{*e}))
	var id ID
	copy(id[:], h.Sum(nil))
	return id
}

func deflate(raw []byte) ([]byte, error) {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(raw); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// setList collects the distinct label sets of a profile.
type setList struct {
	seen map[string]struct{}
	sets []Labels
	many bool
	key  []byte
}

func newSetList() *setList { return &setList{seen: make(map[string]struct{})} }

func (l *setList) add(labels []pprofLabel) {
	l.key = l.key[:0]
	for _, p := range labels {
		l.key = appendString(l.key, p.name)
		l.key = appendString(l.key, p.value)
	}
	if _, ok := l.seen[string(l.key)]; ok || l.many {
		return
	}
	if len(l.seen) == maxSets {
		l.sets, l.many = nil, true
		return
	}
	l.seen[string(l.key)] = struct{}{}
	m := make(map[string]string, len(labels))
	for _, p := range labels {
		m[p.name] = p.value
	}
	l.sets = append(l.sets, NewLabels(m))
}
