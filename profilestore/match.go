package profilestore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
)

// view is a segment as it was when a query began.
type view struct {
	index // a copy: the writer only appends to what it shares
	seg   *segment
}

// views takes a reference to each segment that a range can be in; release gives them back.
func (s *Store) views(q *Query) (views []*view, release func() error, err error) {
	if q.From > q.To {
		return nil, nil, &Error{Code: BadRequest, Param: "from", Message: "from is after to: swap them"}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.segments == nil {
		return nil, nil, s.errClosed()
	}
	for _, seg := range s.segments {
		if x := seg.index; len(x.entries) > 0 && x.minTime < q.To && x.maxTime >= q.From {
			seg.refs.Add(1)
			views = append(views, &view{index: *x, seg: seg})
		}
	}
	return views, func() error {
		var errs []error
		for _, v := range views {
			errs = append(errs, v.seg.release())
		}
		return errors.Join(errs...)
	}, nil
}

// match is a profile of which at least one sample may match.
type match struct {
	v     *view
	e     *entry
	value int               // index of the query's type among the values of a sample
	rest  []*labels.Matcher // what the series does not decide; nil: all samples match
	sets  []uint32          // label sets that match; those of all samples if rest is nil; see listed
	// listed is false when the samples must be looked at to know their label sets.
	listed bool
}

// eachMatch calls fn for the profiles of a query, in the order of their segments.
func (s *Store) eachMatch(ctx context.Context, q *Query, views []*view, anyType bool, fn func(m match) error) error {
	typ := q.Type
	if typ == (ProfileType{}) {
		typ = DefaultType
	}
	for _, v := range views {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := v.eachMatch(q, typ, anyType, fn); err != nil {
			return err
		}
	}
	return nil
}

// seriesMatch is what the matchers say of a series.
type seriesMatch struct {
	ok    bool
	value int
	rest  []*labels.Matcher
	sets  map[uint32]bool // what rest says of label sets
}

func (v *view) eachMatch(q *Query, typ ProfileType, anyType bool, fn func(m match) error) error {
	bySeries := make([]seriesMatch, len(v.series))
	for i, own := range v.series {
		sm := &bySeries[i]
		sm.value = own.typeIndex(typ)
		sm.ok = anyType || sm.value >= 0
		for _, m := range q.Matchers {
			if value := own.labels.Get(m.Name); value == "" {
				sm.rest = append(sm.rest, m)
			} else if !m.Matches(value) {
				sm.ok = false
			}
		}
		if sm.rest != nil {
			sm.sets = make(map[uint32]bool)
		}
	}
	for i := range v.entries {
		e := &v.entries[i]
		sm := &bySeries[e.series]
		if e.time < q.From || e.time >= q.To || !sm.ok {
			continue
		}
		m := match{v: v, e: e, value: sm.value, rest: sm.rest}
		m.sets, m.listed = v.setsOf(e)
		if m.listed && m.rest != nil {
			all := len(m.sets)
			m.sets = slices.DeleteFunc(slices.Clone(m.sets), func(set uint32) bool { return !v.setMatches(sm, set) })
			if len(m.sets) == 0 {
				continue
			}
			if len(m.sets) == all {
				m.rest = nil
			}
		} else if m.listed && len(m.sets) == 0 {
			continue // no samples
		}
		if err := fn(m); err != nil {
			return err
		}
	}
	return nil
}

func (v *view) setMatches(sm *seriesMatch, set uint32) bool {
	ok, known := sm.sets[set]
	if !known {
		ok = matchAll(sm.rest, func(name string) string { return v.setValue(set, name) })
		sm.sets[set] = ok
	}
	return ok
}

// setValue is the value of a label in a set, "" when it is absent.
func (v *view) setValue(set uint32, name string) string {
	for pairs := v.set(set); len(pairs) > 0; pairs = pairs[2:] {
		if v.strings[pairs[0]] == name {
			return v.strings[pairs[1]]
		}
	}
	return ""
}

func matchAll(ms []*labels.Matcher, get func(name string) string) bool {
	for _, m := range ms {
		if !m.Matches(get(m.Name)) {
			return false
		}
	}
	return true
}

func (m *match) series() *series { return m.v.series[m.e.series] }

// exact says that the index knows the label sets of the matching samples and the sum of their values.
func (m *match) exact() bool { return m.listed && m.rest == nil }

func (m *match) total() int64 { return m.v.totalsOf(m.e)[m.value] }

// errDamaged is the kind of error of pprof when the stored bytes are not what was written.
var errDamaged = errors.New("stored profile is damaged")

// pprof gives the plain pprof to fn, valid until it returns. Damage is quarantined and gives errDamaged.
func (s *Store) pprof(m *match, buf []byte, fn func(raw []byte) error) ([]byte, error) {
	b, err := m.v.seg.read(m.e, buf)
	if err == nil {
		return b, inflate(b, fn)
	}
	seg := m.v.seg
	seg.mu.Lock()
	known := seg.damaged[m.e.offset]
	seg.damaged[m.e.offset] = true
	seg.mu.Unlock()
	if !known {
		s.quarantine(Damage{seg.path, int64(m.e.offset), int64(m.e.length), err.Error()})
	}
	return b, fmt.Errorf("%w: %w", errDamaged, err)
}

// reader looks at the samples of one profile after the other, and reuses the memory.
type reader struct {
	s   *Store
	buf []byte
}

// samples calls fn for each matching sample.
func (r *reader) samples(ctx context.Context, m *match, fn func(t *pprofTables, p *pprofSample) error) error {
	var err error
	r.buf, err = r.s.pprof(m, r.buf, func(raw []byte) error {
		t, err := readPprof(raw)
		if err != nil {
			return err
		}
		n := 0
		return t.samples(func(p *pprofSample) error {
			if n++; n%256 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			if !matchAll(m.rest, p.get) {
				return nil
			}
			return fn(t, p)
		})
	})
	return err
}
