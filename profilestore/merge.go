package profilestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/google/pprof/profile"
)

// WriteMerged merges the matching samples into one pprof profile, and writes it as a protobuf that is not compressed: with
// all sample types that the matching profiles share, the labels of the samples, addresses, mappings and comments kept, and
// the query's type as the default. Its time is the start of the first profile, its duration reaches to the end of the last.
// Without a matching sample the profile is valid and empty. A stack that is stored more than once, as by several services or
// on several days, has a sample for each. The comments "file_key ..." are left out: they name mappings by numbers that a
// merge changes. A damaged profile is left out. Memory above Options.QueryBytes is an [Unprocessable] error; what was
// written before an error is no profile.
func (s *Store) WriteMerged(ctx context.Context, q Query, out io.Writer) error {
	return s.writeMerged(ctx, q, newPprofWriter(out), func(*pprofWriter) int64 { return 0 })
}

// Merge is WriteMerged for who needs the profile in memory, which takes many times as much as to write it. Samples with
// the same stack and labels are one.
func (s *Store) Merge(ctx context.Context, q Query) (*profile.Profile, error) {
	var b bytes.Buffer
	// What pprof makes of a sample: the sample, three maps for its labels, and each location as a number and as a pointer.
	const each, location = 800, 16
	w := newPprofWriter(&b)
	if err := s.writeMerged(ctx, q, w, func(w *pprofWriter) int64 { return 2*w.bytes + each*w.samples + location*w.depths }); err != nil {
		return nil, err
	}
	p, err := profile.ParseUncompressed(b.Bytes())
	if err != nil {
		return nil, fmt.Errorf("read merged profile: %w", err)
	}
	if w.trees > 1 {
		p = p.Compact()
	}
	return p, nil
}

// writeMerged counts what others need for the profile to the memory that the query may use.
func (s *Store) writeMerged(ctx context.Context, q Query, out *pprofWriter, others func(*pprofWriter) int64) (err error) {
	v, err := s.view(q)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.release()) }()
	w, err := v.choose(ctx)
	if err != nil {
		return err
	}
	types := w.sharedTypes()
	if len(types) == 0 {
		types = []ProfileType{v.q.Type}
	}
	out.writeTypes(types)
	w.describe(out)
	for _, d := range w.dictionaries() {
		if err := w.merge(ctx, d, types, out, func() int64 { return w.size.Load() + out.size() + others(out) }); err != nil {
			return err
		}
	}
	return out.close()
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

// merge writes the samples of one dictionary, or none if it is damaged. held is the memory that the query has beside the
// rows.
func (w *work) merge(ctx context.Context, d *dictionaryWork, types []ProfileType, out *pprofWriter, held func() int64) error {
	names, err := w.v.names(ctx, &d.chosen[0])
	if names == nil {
		return err
	}
	if whole, err := w.wholeTrees(d); !whole {
		return err
	}
	var rows *mergedRows
	bad := make(map[int]bool) // parts that turned out to be damaged
	for again := true; again; {
		rows, err = w.mergeRows(ctx, d, names, types, w.v.limit-held(), bad)
		damage := (*damageError)(nil)
		again = errors.As(err, &damage) // without that part
	}
	if err != nil || len(rows.stack) == 0 {
		return err
	}
	var room tree
	for i, base := range d.bases {
		syms, err := w.v.tree(ctx, &d.chosen[0], base, &room)
		if syms == nil {
			return err
		}
		if i == 0 {
			out.begin(syms)
		} else {
			out.goOn(syms)
		}
		if main := d.chosen[0].row.header.mapping; main > 0 && int(main) <= len(syms.mappings) {
			out.mapping(main - 1) // pprof takes the first mapping for the program
		}
		err = out.add(rows, func() error {
			if rows.size()+held() > w.v.limit {
				return w.v.s.errQueryBytes()
			}
			return ctx.Err()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// wholeTrees looks at the checksums of all trees of a dictionary before samples of one are written.
func (w *work) wholeTrees(d *dictionaryWork) (whole bool, err error) {
	some, err := w.v.undamaged(&d.chosen[0], new(symbols), w.v.s.checkTrees(d.id, d.bases))
	return some != nil, err
}

// mergedRows are the sums of each type by stack and label set.
type mergedRows struct {
	index  stackTable // rows, +1, by rowHash
	seed   uint64
	stack  []uint32
	labels []uint32
	values [][]int64 // by type
}

func newMergedRows(types int) *mergedRows {
	return &mergedRows{seed: rand.Uint64(), values: make([][]int64, types)}
}

func (m *mergedRows) size() int64 {
	return m.index.size() + int64(cap(m.stack))*int64(8+8*len(m.values))
}

// row is the row of a stack and a label set.
func (m *mergedRows) row(stack, labels uint32) uint32 {
	hash := mix(m.seed, uint64(stack)<<32|uint64(labels))
	for row, next := m.index.find(hash, 0); row != 0; row, next = m.index.find(hash, next) {
		if m.stack[row-1] == stack && m.labels[row-1] == labels {
			return row - 1
		}
	}
	m.stack, m.labels = append(m.stack, stack), append(m.labels, labels)
	for t := range m.values {
		m.values[t] = append(m.values[t], 0)
	}
	m.index.add(hash, uint32(len(m.stack)))
	return uint32(len(m.stack)) - 1
}

// mergeRows reads all columns of a dictionary. The part of a damage is added to bad.
func (w *work) mergeRows(ctx context.Context, d *dictionaryWork, syms *symbols, types []ProfileType, limit int64, bad map[int]bool) (*mergedRows, error) {
	m := newMergedRows(len(types))
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
		if int(number) >= len(profiles) || int(r.stack[i]) >= syms.stacks || int(r.labels[i]) >= len(syms.setEnds) {
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
		at := m.row(r.stack[i], r.labels[i])
		for t, column := range plan {
			v := r.values[column.column][i] * column.factor
			if m.values[t][at] += v; m.values[t][at] < 0 {
				return errOverflow
			}
		}
	}
	return nil
}

// describe writes what all profiles of the answer say of themselves.
func (w *work) describe(out *pprofWriter) {
	var from, to, period int64
	var comments []string
	seen := make(map[string]bool)
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
				out.writeText(fieldDropFrames, h.dropFrames)
				out.writeText(fieldKeepFrames, h.keepFrames)
				out.writeText(fieldDocURL, h.docURL)
			}
			first = false
			period = max(period, h.period)
			if h.comments == "" || seen[h.comments] {
				continue
			}
			seen[h.comments] = true
			for _, c := range splitComments(h.comments) {
				if !strings.HasPrefix(c, "file_key ") && !slices.Contains(comments, c) {
					comments = append(comments, c)
				}
			}
		}
	}
	out.writeTexts(fieldComment, comments)
	out.writeNumber(fieldTime, from)
	out.writeNumber(fieldDuration, to-from)
	out.writeNumber(fieldPeriod, period)
	out.writeText(fieldDefaultSampleType, w.v.q.Type.SampleType)
}
