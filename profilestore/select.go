package profilestore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"path"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"pilotlight/profilestore/flamegraph"
)

// errQueryBytes says how to ask for less.
func (s *Store) errQueryBytes() error {
	return &Error{Code: Unprocessable, Message: fmt.Sprintf("the query needs more than the %d MB it may use: take a shorter range, or name a service in the query", s.o.QueryBytes>>20)}
}

var errOverflow = &Error{Code: Unprocessable, Message: "the sum of the values exceeds 2^63: take a shorter range"}

// Select merges the stacks of all matching samples. Frames of a function that differ in their line are one. Memory
// above Options.QueryBytes is an [Unprocessable] error.
func (s *Store) Select(ctx context.Context, q Query) (_ *Result, err error) {
	v, err := s.view(q)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, v.release()) }()
	w, err := v.choose(ctx)
	if err != nil {
		return nil, err
	}
	res := &Result{Unit: v.q.Type.SampleUnit, Stacks: new(flamegraph.Stacks)}
	all := w.dictionaries()
	if err := w.addUp(ctx, all); err != nil {
		return nil, err
	}
	res.Damaged = w.damaged
	for _, d := range all {
		res.Profiles += d.profiles
		res.Damaged += d.damaged
		if d.tree != nil {
			names := &namer{symbols: *d.symbols, stacks: res.Stacks}
			names.callers, names.leaf = nil, nil // the tree has its own
			res.Stacks.AddTree(d.tree, names.frames)
		}
	}
	return res, nil
}

// work is what a query reads samples for: weights of profiles, by part.
type work struct {
	v       *view
	size    atomic.Int64 // bytes
	byID    map[uint32]*dictionaryWork
	passes  []*pass
	tables  []*profileTable // by part; of those that something was chosen from
	damaged int
	total   int64
}

// pass is the profiles whose values are in one column and whose samples are matched by the same rest.
type pass struct {
	column  int
	rest    *rest
	weights [][]int64 // by part and profile: 0, or what the values are multiplied with
}

// dictionaryWork is what is read of one dictionary.
type dictionaryWork struct {
	id     uint32
	parts  []int // ascending
	chosen []chosen
	passes []*pass

	// What addUp finds.
	profiles int // with a matching sample
	damaged  int
	symbols  *symbols
	tree     *flamegraph.Tree // nil: the dictionary is damaged
}

// choose finds the profiles of a query.
func (v *view) choose(ctx context.Context) (*work, error) {
	w := &work{v: v, byID: make(map[uint32]*dictionaryWork), tables: make([]*profileTable, len(v.parts))}
	var last *dictionaryWork
	err := v.each(ctx, false, func(c chosen) error {
		ok, damaged, err := v.any(ctx, &c)
		if damaged {
			w.damaged++
		}
		if !ok {
			return err
		}
		if last == nil || last.id != c.row.dictionary {
			last = w.byID[c.row.dictionary]
		}
		if last == nil {
			last = &dictionaryWork{id: c.row.dictionary}
			w.byID[last.id] = last
		}
		w.tables[c.part] = c.table
		last.chosen = append(last.chosen, c)
		if n := len(last.parts); n == 0 || last.parts[n-1] != c.part {
			last.parts = append(last.parts, c.part)
		}
		column := c.match.own.columns[c.match.typ]
		p := w.pass(column.column, c.match.rest)
		if !slices.Contains(last.passes, p) {
			last.passes = append(last.passes, p)
		}
		if p.weights[c.part] == nil {
			p.weights[c.part] = make([]int64, len(c.table.rows))
			w.size.Add(8 * int64(len(c.table.rows)))
		}
		p.weights[c.part][c.number] = column.factor
		if w.size.Add(48) > v.limit {
			return v.s.errQueryBytes()
		}
		return w.count(&c)
	})
	v.passing = !v.s.fits(maps.Keys(w.byID))
	return w, err
}

// count sees to it that no sum can overflow.
func (w *work) count(c *chosen) error {
	for i := c.row.total; i < c.row.end; i++ {
		n := c.total(i, c.match.typ)
		if n > math.MaxInt64-w.total {
			return errOverflow
		}
		w.total += n
	}
	return nil
}

func (w *work) pass(column int, r *rest) *pass {
	for _, p := range w.passes {
		if p.column == column && p.rest == r {
			return p
		}
	}
	p := &pass{column, r, make([][]int64, len(w.v.parts))}
	w.passes = append(w.passes, p)
	return p
}

// dictionaries are in ascending order, as the rows in blocks are.
func (w *work) dictionaries() []*dictionaryWork {
	all := make([]*dictionaryWork, 0, len(w.byID))
	for _, d := range w.byID {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b *dictionaryWork) int { return int(a.id) - int(b.id) })
	return all
}

// addUp makes the tree of each dictionary, several at once.
func (w *work) addUp(ctx context.Context, all []*dictionaryWork) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	for _, share := range shares(all, runtime.GOMAXPROCS(0)) {
		group.Go(func() {
			a := &adder{work: w, readers: make([]rowReader, len(w.v.parts))}
			defer a.close()
			for _, d := range share {
				if err := a.add(ctx, d); err != nil {
					cancel(err) // of all shares; the first error counts
					return
				}
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}

// shares cuts dictionaries into at most n runs with about as many profiles. Neighbours often have row groups in common.
func shares(all []*dictionaryWork, n int) [][]*dictionaryWork {
	profiles := 0
	for _, d := range all {
		profiles += len(d.chosen)
	}
	var runs [][]*dictionaryWork
	first, count := 0, 0
	for i, d := range all {
		count += len(d.chosen)
		if i == len(all)-1 || count*n >= profiles*(len(runs)+1) {
			runs = append(runs, all[first:i+1])
			first = i + 1
		}
	}
	return runs
}

// adder adds up the samples of one dictionary after the other. It is for one goroutine.
type adder struct {
	*work
	readers []rowReader // by part; nil until needed
	room    []int64     // of sums
	writer  flamegraph.TreeWriter
	kept    int64 // bytes of room and writer
}

func (a *adder) close() {
	for _, r := range a.readers {
		if r != nil {
			r.close()
		}
	}
}

// reader reads the columns that the passes need.
func (a *adder) reader(part int) rowReader {
	if a.readers[part] == nil {
		var want columns
		for _, p := range a.passes {
			want.labels = want.labels || p.rest != nil
			want.values = append(want.values, p.column)
		}
		slices.Sort(want.values)
		want.values = slices.Compact(want.values)
		a.readers[part] = a.v.parts[part].reader(want)
	}
	return a.readers[part]
}

func (a *adder) add(ctx context.Context, d *dictionaryWork) error {
	syms, sums, err := a.sum(ctx, d)
	if syms == nil {
		return err
	}
	d.symbols = syms
	d.tree = a.writer.Write(syms.callers[:len(sums)], syms.leaf[:len(sums)], sums)
	return a.take(d.tree.Size())
}

// take counts memory that the answer needs, and what is kept for the next dictionary.
func (a *adder) take(bytes int64) error {
	kept := 8*int64(cap(a.room)) + a.writer.Size()
	bytes += kept - a.kept
	a.kept = kept
	if a.size.Add(bytes) > a.v.limit {
		return a.v.s.errQueryBytes()
	}
	return nil
}

// sum adds up the values of each stack of a dictionary. Symbols are nil when it is damaged.
func (a *adder) sum(ctx context.Context, d *dictionaryWork) (*symbols, []int64, error) {
	syms, err := a.v.symbols(ctx, &d.chosen[0])
	if syms == nil {
		d.damaged = len(d.chosen)
		return nil, nil, err
	}
	a.room = zeroed(a.room, len(syms.callers))
	if err := a.take(0); err != nil {
		return nil, nil, err
	}
	bad := make(map[int]bool) // parts that turned out to be damaged
	for {
		again := false
		for _, part := range d.parts {
			if bad[part] {
				continue
			}
			err := a.sumPart(ctx, d, part, syms, a.room)
			if damage := (*damageError)(nil); errors.As(err, &damage) {
				// Some of its rows are in the sums already: a part counts whole or not at all.
				a.v.s.noteDamage(a.v.parts[part], damage)
				if b, ok := a.v.parts[part].(*block); ok && b.isRollup(damage.Path) {
					b.noRollups.Store(true)
				} else {
					bad[part] = true
				}
				again = true
				break
			}
			if err != nil {
				return nil, nil, err
			}
		}
		if !again {
			break
		}
		clear(a.room)
	}
	for i := range d.chosen {
		if bad[d.chosen[i].part] {
			d.damaged++
		} else {
			d.profiles++
		}
	}
	return syms, a.room, nil
}

// sumPart adds what a part has of a dictionary.
func (a *adder) sumPart(ctx context.Context, d *dictionaryWork, part int, syms *symbols, sums []int64) error {
	add := func(r *rows, passes []*pass) error {
		for _, p := range passes {
			if err := p.add(d.id, part, syms, r, sums); err != nil {
				return err
			}
		}
		return ctx.Err()
	}
	reader, ok := a.reader(part).(*blockReader)
	if !ok {
		return a.reader(part).scan(d.id, a.v.q.From, a.v.q.To, func(r *rows) error { return add(r, d.passes) })
	}
	var left []*pass
	return reader.eachSection(d.id, a.v.q.From, a.v.q.To, func(s *section) error {
		defer reader.uncover()
		left = left[:0]
		for _, p := range d.passes {
			more, err := reader.cover(p, part, s, a.tables[part], sums)
			if err != nil {
				return err
			}
			if more {
				left = append(left, p)
			}
		}
		if len(left) == 0 {
			return ctx.Err()
		}
		r, err := reader.read(s)
		if err != nil {
			return err
		}
		return add(&r, left)
	})
}

var errRows = errors.New("a row points to nothing")

// add is the inner loop of every flame graph.
func (p *pass) add(dictionary uint32, part int, syms *symbols, r *rows, sums []int64) error {
	weights := p.weights[part]
	if weights == nil || p.column >= len(r.values) {
		return nil
	}
	n := len(r.stack)
	stack, profile, values := r.stack, r.profile[:n], r.values[p.column][:n]
	var known []int8
	if p.rest != nil {
		known = p.rest.known(dictionary, syms)
	}
	for i, s := range stack {
		if int(s) >= len(sums) || int(profile[i]) >= len(weights) {
			return errRows
		}
		weight := weights[profile[i]]
		if weight == 0 {
			continue
		}
		if p.rest != nil {
			if int(r.labels[i]) >= len(syms.setEnds) {
				return errRows
			}
			if !p.rest.matches(known, syms, r.labels[i]) {
				continue
			}
		}
		sums[s] += values[i] * weight
	}
	return nil
}

// namer gives the locations of a dictionary their frames in an answer.
type namer struct {
	symbols
	stacks *flamegraph.Stacks

	known  []int32 // of locations, one after the other, outermost first
	ends   []int32 // of a location in known; 0: not there yet
	starts []int32
}

// frames are those of a location, outermost first.
func (t *namer) frames(l uint32) []int32 {
	if t.ends == nil {
		t.starts, t.ends = make([]int32, len(t.locations)), make([]int32, len(t.locations))
	}
	if t.ends[l] == 0 {
		t.starts[l] = int32(len(t.known))
		lines := t.linesOf(t.named(l))
		for i := len(lines) - 1; i >= 0; i-- {
			f := t.frame(l, &lines[i])
			f.Inlined = i < len(lines)-1
			t.known = append(t.known, t.stacks.Frame(f))
		}
		if len(lines) == 0 {
			t.known = append(t.known, t.stacks.Frame(t.frame(l, nil)))
		}
		t.ends[l] = int32(len(t.known))
	}
	return t.known[t.starts[l]:t.ends[l]]
}

// frame names a line of a location. One without a line is named by its address.
func (s *symbols) frame(l uint32, one *line) flamegraph.Frame {
	at := &s.locations[l]
	var binary string
	if at.mapping > 0 {
		binary = s.strings[s.mappings[at.mapping-1].file]
	}
	if one == nil {
		name := fmt.Sprintf("%#x", at.address)
		if binary != "" {
			name = path.Base(binary) + "+" + name
		}
		return flamegraph.Frame{Function: name, Binary: binary}
	}
	f := &s.functions[one.function]
	return flamegraph.Frame{Function: s.strings[f.name], Binary: binary, File: s.strings[f.file]}
}
