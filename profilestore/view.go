package profilestore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"

	"github.com/prometheus/prometheus/model/labels"
)

// view is what a query sees: heads and blocks as they were when it began.
type view struct {
	s     *Store
	q     Query
	parts []part
	held  []*block
	limit int64 // bytes that the query may use

	series map[*series]*seriesMatch
	rests  []*rest

	// passing is whether trees are read past the cache: together they do not fit, and each would only push out
	// what others use, and itself before it is asked for again.
	passing bool

	dictionary uint32 // that isForeign is about; no dictionary has the number 0
	isForeign  bool
}

// seriesMatch is what a query says of a series.
type seriesMatch struct {
	own  *series
	ok   bool
	typ  int   // index of the query's type among the series' types, -1: it has none of that type
	rest *rest // what the series does not decide; nil: all samples match
}

// rest is matchers on sample labels. Series that leave the same ones undecided share it.
type rest struct {
	matchers []*labels.Matcher

	mu   sync.Mutex
	sets map[uint32][]int8 // by dictionary, then by label set: 0 not known, 1 matches, -1 does not
}

// view takes references to what the range may be in; release gives them back.
func (s *Store) view(q Query) (*view, error) {
	if q.From > q.To {
		return nil, &Error{Code: BadRequest, Param: "from", Message: "from is after to: swap them"}
	}
	if q.Type == (ProfileType{}) {
		q.Type = DefaultType
	}
	v := &view{s: s, q: q, limit: s.o.QueryBytes - q.Held, series: make(map[*series]*seriesMatch)}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.stopped {
		return nil, s.errClosed()
	}
	for _, b := range s.blocks {
		if b.meta.MinTime < q.To && b.meta.MaxTime >= q.From {
			b.refs.Add(1)
			v.held = append(v.held, b)
			v.parts = append(v.parts, b)
		}
	}
	for _, h := range append(slices.Clone(s.flushing), s.head) {
		if hv := h.view(q.From, q.To); hv != nil {
			v.parts = append(v.parts, hv)
		}
	}
	return v, nil
}

func (v *view) release() error {
	var errs []error
	for _, b := range v.held {
		errs = append(errs, b.release())
	}
	v.s.trim()
	return errors.Join(errs...)
}

// match says what the query wants of a series.
func (v *view) match(own *series) *seriesMatch {
	if m := v.series[own]; m != nil {
		return m
	}
	m := &seriesMatch{own: own, ok: true, typ: own.typeIndex(v.q.Type)}
	var undecided []*labels.Matcher
	for _, matcher := range v.q.Matchers {
		if value := own.labels.Get(matcher.Name); value == "" {
			undecided = append(undecided, matcher)
		} else if !matcher.Matches(value) {
			m.ok = false
		}
	}
	if undecided != nil {
		for _, r := range v.rests {
			if slices.Equal(r.matchers, undecided) {
				m.rest = r
			}
		}
		if m.rest == nil {
			m.rest = &rest{matchers: undecided, sets: make(map[uint32][]int8)}
			v.rests = append(v.rests, m.rest)
		}
	}
	v.series[own] = m
	return m
}

// known is what is known of the label sets of a dictionary, which is for one goroutine.
func (r *rest) known(dictionary uint32, syms *symbols) []int8 {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.sets[dictionary]
	if missing := len(syms.setEnds) - len(known); missing > 0 {
		known = append(known, make([]int8, missing)...)
		r.sets[dictionary] = known
	}
	return known
}

// matches says whether samples with a label set match, and takes note of it in what is known.
func (r *rest) matches(known []int8, syms *symbols, set uint32) bool {
	if known[set] == 0 {
		known[set] = 1
		for _, m := range r.matchers {
			if !m.Matches(syms.value(set, m.Name)) {
				known[set] = -1
			}
		}
	}
	return known[set] > 0
}

// chosen is a profile of which samples may match.
type chosen struct {
	part   int
	number uint32 // in its part
	row    *profileRow
	table  *profileTable
	match  *seriesMatch
}

// each calls fn for the profiles in the range whose series matches. A part whose profiles cannot be read for damage is
// left out, and so are profiles of a dictionary that lacks something.
func (v *view) each(ctx context.Context, anyType bool, fn func(c chosen) error) error {
	for i, p := range v.parts {
		if err := ctx.Err(); err != nil {
			return err
		}
		t, err := p.profiles()
		if d := (*damageError)(nil); errors.As(err, &d) {
			v.s.noteDamage(p, d)
			continue
		}
		if err != nil {
			return err
		}
		var short map[uint32]bool
		if b, ok := p.(*block); ok {
			short = b.short
		}
		var last *seriesMatch
		for j := v.next(t, 0); j < len(t.rows); j = v.next(t, j+1) {
			r := &t.rows[j]
			if short[r.dictionary] {
				continue
			}
			if last == nil || last.own != r.series {
				last = v.match(r.series)
			}
			if !last.ok || last.typ < 0 && !anyType {
				continue
			}
			if err := fn(chosen{i, uint32(j), r, t, last}); err != nil {
				return err
			}
		}
	}
	return nil
}

// next is the first profile from j on that is in the range. In a sorted table it passes over what is not, and over
// dictionaries of other services, without looking at each.
func (v *view) next(t *profileTable, j int) int {
	for ; j < len(t.rows); j++ {
		r := &t.rows[j]
		in := r.time >= v.q.From && r.time < v.q.To
		if !t.sorted {
			if in {
				return j
			}
			continue
		}
		foreign := v.foreign(r)
		if in && !foreign {
			return j
		}
		rest := t.rows[j+1:]
		over := foreign || r.time >= v.q.To
		j += sort.Search(len(rest), func(i int) bool {
			return rest[i].dictionary != r.dictionary || !over && rest[i].time >= v.q.From
		})
	}
	return j
}

// foreign says whether the service of a profile does not match. A dictionary has profiles of one service.
func (v *view) foreign(r *profileRow) bool {
	if v.dictionary != r.dictionary {
		const name = "service_name"
		value := r.series.labels.Get(name)
		v.dictionary = r.dictionary
		v.isForeign = value != "" && slices.ContainsFunc(v.q.Matchers, func(m *labels.Matcher) bool { return m.Name == name && !m.Matches(value) })
	}
	return v.isForeign
}

// names reads a dictionary without its stacks; nil without an error when it is damaged.
func (v *view) names(ctx context.Context, c *chosen) (*symbols, error) {
	syms, err := v.s.namesOf(ctx, c.row.dictionary, false)
	return v.undamaged(c, syms, err)
}

// labelSets is names with label sets alone.
func (v *view) labelSets(ctx context.Context, c *chosen) (*symbols, error) {
	syms, err := v.s.namesOf(ctx, c.row.dictionary, true)
	return v.undamaged(c, syms, err)
}

// tree reads a dictionary with one of its trees. One that is read past the cache takes the memory of room, and is valid until
// the next one does.
func (v *view) tree(ctx context.Context, c *chosen, base uint32, room *tree) (*symbols, error) {
	if !v.passing {
		room = nil
	}
	syms, err := v.s.treeOf(ctx, c.row.dictionary, base, room)
	return v.undamaged(c, syms, err)
}

func (v *view) undamaged(c *chosen, syms *symbols, err error) (*symbols, error) {
	if d := (*damageError)(nil); errors.As(err, &d) {
		v.s.noteDamage(v.parts[c.part], d)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what profile %s refers to: %w", c.row.id, err)
	}
	return syms, nil
}

// sets calls fn for each label set of the matching samples of a profile with the line of the totals that it has.
// damaged is true when it cannot be told which match.
func (v *view) sets(ctx context.Context, c *chosen, fn func(set, total uint32) error) (damaged bool, err error) {
	var syms *symbols
	var known []int8
	if c.match.rest != nil {
		if syms, err = v.labelSets(ctx, c); syms == nil {
			return true, err
		}
		known = c.match.rest.known(c.row.dictionary, syms)
	}
	for i := c.row.total; i < c.row.end; i++ {
		set := c.table.labels[i]
		if c.match.rest != nil && !c.match.rest.matches(known, syms, set) {
			continue
		}
		if err := fn(set, i); err != nil {
			return false, err
		}
	}
	return false, nil
}

// any says whether at least one sample of a profile matches; damaged is true when it cannot be told.
func (v *view) any(ctx context.Context, c *chosen) (ok, damaged bool, err error) {
	if c.match.rest == nil {
		return c.row.total < c.row.end, false, nil
	}
	damaged, err = v.sets(ctx, c, func(uint32, uint32) error { ok = true; return nil })
	return ok, damaged && err == nil, err
}

// total is the sum of a type in one line of the totals.
func (c *chosen) total(line uint32, typ int) int64 {
	column := c.match.own.columns[typ]
	return c.table.values[column.column][line] * column.factor
}
