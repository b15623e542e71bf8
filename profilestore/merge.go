package profilestore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/pprof/profile"
)

// Merge merges the matching samples into one pprof profile with all sample types that the matching profiles
// share, the labels of the samples, addresses, mappings and comments kept, and the query's type as the default.
// Its time is the start of the first profile, its duration reaches to the end of the last. Without a matching
// sample the profile is valid and empty. The comments "file_key ..." are left out: they name mappings by numbers
// that a merge changes. Samples with the same labels may share them. A damaged profile is left out. Memory above Options.QueryBytes is an [Unprocessable] error.
func (s *Store) Merge(ctx context.Context, q Query) (_ *profile.Profile, err error) {
	v, err := s.view(q)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, v.release()) }()
	w, err := v.choose(ctx)
	if err != nil {
		return nil, err
	}
	types := w.sharedTypes()
	var merged []*profile.Profile
	size := int64(0)
	for _, d := range w.dictionaries() {
		p, n, err := w.merge(ctx, d, types, s.o.QueryBytes-size)
		if err != nil {
			return nil, err
		}
		if p != nil {
			merged = append(merged, p)
			size += n
		}
	}
	switch len(merged) {
	case 0:
		t := v.q.Type
		p := &profile.Profile{PeriodType: &profile.ValueType{Type: t.PeriodType, Unit: t.PeriodUnit}, DefaultSampleType: t.SampleType}
		p.SampleType = []*profile.ValueType{{Type: t.SampleType, Unit: t.SampleUnit}}
		return p, nil
	case 1:
		w.describe(merged[0])
		return merged[0], nil
	}
	p, err := profile.Merge(merged)
	if err != nil {
		return nil, fmt.Errorf("merge profiles of %d dictionaries: %w", len(merged), err)
	}
	w.describe(p)
	return p, nil
}

// sharedTypes are the types that all series of the answer have, in the order of the first one.
func (w *work) sharedTypes() []ProfileType {
	var shared []ProfileType
	seen := make(map[*series]bool)
	for _, d := range w.dictionaries() {
		for i := range d.chosen {
			own := d.chosen[i].row.series
			if seen[own] {
				continue
			}
			seen[own] = true
			if len(seen) == 1 {
				shared = slices.Clone(own.types)
			} else {
				shared = slices.DeleteFunc(shared, func(t ProfileType) bool { return own.typeIndex(t) < 0 })
			}
		}
	}
	return shared
}

// sampleKey is a row of the answer: a stack with a label set.
type sampleKey struct{ stack, labels uint32 }

// merge makes the profile of one dictionary; nil without an error when it is damaged. size is what it takes in
// memory, in bytes.
func (w *work) merge(ctx context.Context, d *dictionaryWork, types []ProfileType, limit int64) (_ *profile.Profile, size int64, err error) {
	syms, err := w.v.symbols(ctx, &d.chosen[0])
	if syms == nil {
		return nil, 0, err
	}
	bad := make(map[int]bool) // parts that turned out to be damaged
	for {
		rows, err := w.mergeRows(ctx, d, syms, types, limit, bad)
		if damage := (*damageError)(nil); errors.As(err, &damage) {
			continue // without that part
		}
		if err != nil || len(rows.index) == 0 {
			return nil, 0, err
		}
		b := newPprofBuilder(syms)
		if main := d.chosen[0].row.header.mapping; main > 0 && int(main) <= len(syms.mappings) {
			b.mapping(main - 1) // pprof takes the first mapping for the program
		}
		p, err := b.build(ctx, rows, types)
		if err != nil {
			return nil, 0, err
		}
		if size = rows.size() + b.size(); size > limit {
			return nil, 0, w.v.s.errQueryBytes()
		}
		return p, size, nil
	}
}

// mergedRows are the sums of each type by stack and label set.
type mergedRows struct {
	index  map[sampleKey]int32
	keys   []sampleKey
	values [][]int64 // by type
}

func (m *mergedRows) size() int64 { return int64(len(m.keys)) * int64(800+16*len(m.values)) }

// mergeRows reads all columns of a dictionary. The part of a damage is added to bad.
func (w *work) mergeRows(ctx context.Context, d *dictionaryWork, syms *symbols, types []ProfileType, limit int64, bad map[int]bool) (*mergedRows, error) {
	m := &mergedRows{index: make(map[sampleKey]int32), values: make([][]int64, len(types))}
	plans := make(map[*series][]valueColumn)
	for _, part := range d.parts {
		if bad[part] {
			continue
		}
		var profiles []*chosen // by number
		want := columns{labels: true}
		for i := range d.chosen {
			c := &d.chosen[i]
			if c.part != part {
				continue
			}
			if profiles == nil {
				profiles = make([]*chosen, len(c.table.rows))
			}
			profiles[c.number] = c
			if plans[c.row.series] == nil {
				for _, t := range types {
					plans[c.row.series] = append(plans[c.row.series], c.row.series.columns[c.row.series.typeIndex(t)])
				}
			}
			for _, column := range plans[c.row.series] {
				want.values = append(want.values, column.column)
			}
		}
		slices.Sort(want.values)
		want.values = slices.Compact(want.values)
		reader := w.v.parts[part].reader(want)
		err := reader.scan(d.id, w.v.q.From, w.v.q.To, func(r *rows) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if m.size() > limit {
				return w.v.s.errQueryBytes()
			}
			return m.add(r, d.id, syms, profiles, plans)
		})
		reader.close()
		if damage := (*damageError)(nil); errors.As(err, &damage) {
			w.v.s.noteDamage(w.v.parts[part], damage)
			bad[part] = true
		}
		if err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *mergedRows) add(r *rows, dictionary uint32, syms *symbols, profiles []*chosen, plans map[*series][]valueColumn) error {
	var last *series
	var plan []valueColumn
	var known []int8
	for i, number := range r.profile {
		if int(number) >= len(profiles) || int(r.stack[i]) >= len(syms.callers) || int(r.labels[i]) >= len(syms.setEnds) {
			return errRows
		}
		c := profiles[number]
		if c == nil {
			continue
		}
		if c.row.series != last {
			last = c.row.series
			plan = plans[last]
			if c.match.rest != nil {
				known = c.match.rest.known(dictionary, syms)
			}
		}
		if c.match.rest != nil && !c.match.rest.matches(known, syms, r.labels[i]) {
			continue
		}
		key := sampleKey{r.stack[i], r.labels[i]}
		at, ok := m.index[key]
		if !ok {
			at = int32(len(m.keys))
			m.index[key] = at
			m.keys = append(m.keys, key)
			for t := range m.values {
				m.values[t] = append(m.values[t], 0)
			}
		}
		for t, column := range plan {
			v := r.values[column.column][i] * column.factor
			if m.values[t][at] += v; m.values[t][at] < 0 {
				return errOverflow
			}
		}
	}
	return nil
}

// describe adds what all profiles of the answer say of themselves.
func (w *work) describe(p *profile.Profile) {
	var from, to int64
	seen := make(map[string]bool)
	p.Comments = nil
	first := true
	for _, d := range w.dictionaries() {
		for i := range d.chosen {
			r := d.chosen[i].row
			if first || r.time < from {
				from = r.time
			}
			to = max(to, r.time+r.duration)
			h := r.header
			if first {
				p.DropFrames, p.KeepFrames, p.DocURL = h.dropFrames, h.keepFrames, h.docURL
			}
			first = false
			p.Period = max(p.Period, h.period)
			if h.comments == "" || seen[h.comments] {
				continue
			}
			seen[h.comments] = true
			for _, c := range splitComments(h.comments) {
				if !strings.HasPrefix(c, "file_key ") && !slices.Contains(p.Comments, c) {
					p.Comments = append(p.Comments, c)
				}
			}
		}
	}
	p.TimeNanos, p.DurationNanos = from, to-from
	p.DefaultSampleType = w.v.q.Type.SampleType
}

// pprofBuilder makes a profile of symbols; what no sample needs is left out.
type pprofBuilder struct {
	*symbols
	profile   *profile.Profile
	mappings  []*profile.Mapping
	functions []*profile.Function
	locations []*profile.Location
	stacks    int64                // locations in all of them
	room      []*profile.Location  // for those of the next samples
	labels    map[uint32]sampleSet // by label set
}

// sampleSet is a label set as pprof has it. Samples with the same one share it: nobody changes labels.
type sampleSet struct {
	text    map[string][]string
	numbers map[string][]int64
	units   map[string][]string
}

func newPprofBuilder(s *symbols) *pprofBuilder {
	return &pprofBuilder{
		symbols: s, profile: new(profile.Profile),
		mappings:  make([]*profile.Mapping, len(s.mappings)),
		functions: make([]*profile.Function, len(s.functions)),
		locations: make([]*profile.Location, len(s.locations)),
		labels:    make(map[uint32]sampleSet),
	}
}

func (b *pprofBuilder) size() int64 {
	return 300*int64(len(b.profile.Location)+len(b.profile.Function)) + 8*b.stacks + 8*int64(len(b.locations)+len(b.functions))
}

func (b *pprofBuilder) build(ctx context.Context, rows *mergedRows, types []ProfileType) (*profile.Profile, error) {
	b.profile.PeriodType = &profile.ValueType{Type: types[0].PeriodType, Unit: types[0].PeriodUnit}
	for _, t := range types {
		b.profile.SampleType = append(b.profile.SampleType, &profile.ValueType{Type: t.SampleType, Unit: t.SampleUnit})
	}
	const samplesBetween = 1 << 12 // until it is looked whether the context has ended
	for i, key := range rows.keys {
		if i%samplesBetween == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		sample := &profile.Sample{Value: make([]int64, len(types))}
		for t := range types {
			sample.Value[t] = rows.values[t][i]
		}
		sample.Location = b.stack(key.stack)
		b.stacks += int64(len(sample.Location))
		set, ok := b.labels[key.labels]
		if !ok {
			set = b.sampleSet(key.labels)
			b.labels[key.labels] = set
		}
		sample.Label, sample.NumLabel, sample.NumUnit = set.text, set.numbers, set.units
		b.profile.Sample = append(b.profile.Sample, sample)
	}
	return b.profile, nil
}

// stack gives the locations of a stack, leaf first, in memory that has no more room than they need.
func (b *pprofBuilder) stack(stack uint32) []*profile.Location {
	depth := 0
	for node := stack; node != 0; node = b.callers[node] {
		depth++
	}
	const piece = 4 << 10
	if len(b.room) < depth {
		b.room = make([]*profile.Location, max(depth, piece))
	}
	var all []*profile.Location
	all, b.room = b.room[:depth:depth], b.room[depth:]
	for i := range all {
		all[i] = b.location(b.leaf[stack])
		stack = b.callers[stack]
	}
	return all
}

func (b *pprofBuilder) sampleSet(set uint32) (s sampleSet) {
	for _, l := range b.set(set) {
		name := b.strings[l.name]
		if l.text {
			if s.text == nil {
				s.text = make(map[string][]string)
			}
			s.text[name] = append(s.text[name], b.strings[l.str])
			continue
		}
		if s.numbers == nil {
			s.numbers = make(map[string][]int64)
		}
		s.numbers[name] = append(s.numbers[name], l.num)
		unit := b.strings[l.unit]
		if unit == "" && s.units[name] == nil {
			continue
		}
		if s.units == nil {
			s.units = make(map[string][]string)
		}
		for len(s.units[name]) < len(s.numbers[name])-1 {
			s.units[name] = append(s.units[name], "")
		}
		s.units[name] = append(s.units[name], unit)
	}
	return s
}

func (b *pprofBuilder) location(id uint32) *profile.Location {
	if l := b.locations[id]; l != nil {
		return l
	}
	at := &b.symbols.locations[id]
	l := &profile.Location{ID: uint64(len(b.profile.Location) + 1), Address: at.address, IsFolded: at.folded}
	if at.mapping > 0 {
		l.Mapping = b.mapping(at.mapping - 1)
	}
	best := b.named(id)
	for _, one := range b.linesOf(best) {
		l.Line = append(l.Line, profile.Line{Function: b.function(one.function), Line: one.line, Column: one.column})
	}
	if best != id && len(l.Line) > 0 {
		l.Mapping.HasFunctions = true // or pprof would look for names itself
	}
	b.locations[id] = l
	b.profile.Location = append(b.profile.Location, l)
	return l
}

func (b *pprofBuilder) mapping(id uint32) *profile.Mapping {
	if m := b.mappings[id]; m != nil {
		return m
	}
	at := &b.symbols.mappings[id]
	m := &profile.Mapping{
		ID: uint64(len(b.profile.Mapping) + 1), Start: at.start, Limit: at.limit, Offset: at.offset,
		File: b.strings[at.file], BuildID: b.strings[at.buildID],
		HasFunctions: at.flags&hasFunctions != 0, HasFilenames: at.flags&hasFilenames != 0,
		HasLineNumbers: at.flags&hasLineNumbers != 0, HasInlineFrames: at.flags&hasInlineFrames != 0,
	}
	b.mappings[id] = m
	b.profile.Mapping = append(b.profile.Mapping, m)
	return m
}

func (b *pprofBuilder) function(id uint32) *profile.Function {
	if f := b.functions[id]; f != nil {
		return f
	}
	at := &b.symbols.functions[id]
	f := &profile.Function{
		ID: uint64(len(b.profile.Function) + 1), Name: b.strings[at.name], SystemName: b.strings[at.systemName],
		Filename: b.strings[at.file], StartLine: at.startLine,
	}
	b.functions[id] = f
	b.profile.Function = append(b.profile.Function, f)
	return f
}
