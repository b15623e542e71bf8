package profilestore

import (
	"context"
	"errors"
	"fmt"
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
		if len(d.sums) == 0 {
			continue
		}
		names := &namer{symbols: *d.symbols, stacks: res.Stacks}
		names.tree = tree{} // sums have their own
		res.Stacks.AddTrees(&flamegraph.Legend{Frames: names.frames, Functions: d.symbols.functionsOf()}, d.sums...)
	}
	return res, nil
}

// work is what a query reads samples for: weights of profiles, by part.
type work struct {
	v       *view
	size    atomic.Int64 // bytes
	trees   atomic.Int64 // those of them that are trees of the answer
	pieces  atomic.Int64 // bytes of the trees that those were made of
	byID    map[uint32]*dictionaryWork
	passes  []*pass
	tables  []*profileTable // by part; of those that something was chosen from
	damaged int
	total   int64
	unit    int64 // what all values of the answer are multiples of
}

// pass is the profiles whose values are in one column and whose samples are matched by the same rest.
type pass struct {
	column  int
	rest    *rest
	weights [][]int64 // by part and profile: 0, or what the values are multiplied with, in units
}

// dictionaryWork is what is read of one dictionary.
type dictionaryWork struct {
	id     uint32
	parts  []int // ascending
	chosen []chosen
	passes []*pass
	bases  []uint32 // of the trees that its samples are in

	// What addUp finds.
	profiles int // with a matching sample
	damaged  int
	symbols  *symbols
	sums     []*flamegraph.Tree // by portion; none: the dictionary is damaged, or all that is wanted of it
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
		w.unit = divisor(w.unit, column.factor)
		if w.size.Add(48) > v.limit {
			return v.s.errQueryBytes()
		}
		return w.count(&c)
	})
	for _, p := range w.passes {
		for _, weights := range p.weights {
			for i := range weights {
				weights[i] /= w.unit
			}
		}
	}
	stacks := 0
	for _, d := range w.byID {
		stacks += w.findTrees(d)
	}
	v.passing = !v.s.fits(stacks)
	return w, err
}

// divisor is the greatest one that two numbers have in common, one of which may be 0.
func divisor(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// findTrees finds the trees that the samples of a dictionary are in, and says how many stacks those have.
func (w *work) findTrees(d *dictionaryWork) (stacks int) {
	least, end := math.MaxInt, 0
	for _, part := range d.parts {
		switch p := w.v.parts[part].(type) {
		case *block:
			for s := range p.sections(d.id, w.v.q.From, w.v.q.To) {
				least, end = min(least, s.Least), max(end, s.Stacks)
			}
		case *headView:
			for _, r := range p.rows[d.id] {
				if len(r.stack) > 0 {
					least, end = min(least, int(slices.Min(r.stack))), max(end, int(slices.Max(r.stack))+1)
				}
			}
		}
	}
	trees := w.v.s.treesOf(d.id)
	for i, first := range trees {
		next := end
		if i+1 < len(trees) {
			next = int(trees[i+1])
		}
		if int(first) < end && next > least {
			d.bases = append(d.bases, max(first, 1)-1)
			stacks += next - int(first)
		}
	}
	return stacks
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
	tree    tree        // the last one that was not in the cache
	writer  flamegraph.TreeWriter
	merger  flamegraph.TreeMerger
	sums    []*flamegraph.Tree // of a portion, by tree
	covered covered            // what is not of the portion that is added up
	waiting int64              // bytes of sums
	kept    int64              // bytes of all these
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

// What ends an attempt to add up a dictionary.
var (
	errAgain      = errors.New("a part turned out to be damaged, and is noted as bad")
	errDictionary = errors.New("the dictionary is damaged")
)

// add makes the trees of a dictionary. A part that turns out to be damaged counts in none of them.
func (a *adder) add(ctx context.Context, d *dictionaryWork) error {
	bad := make(map[int]bool)
	err := a.addPortions(ctx, d, bad)
	for errors.Is(err, errAgain) {
		err = a.addPortions(ctx, d, bad)
	}
	if errors.Is(err, errDictionary) {
		d.damaged, d.sums = len(d.chosen), nil
		return nil
	}
	if err != nil {
		return err
	}
	if len(d.sums) > 0 {
		d.symbols.functionsOf() // while others look for those of other dictionaries
	}
	for i := range d.chosen {
		if bad[d.chosen[i].part] {
			d.damaged++
		} else {
			d.profiles++
		}
	}
	return nil
}

// addPortions is add without the parts that are known to be bad. Its trees are loaded beside its names.
func (a *adder) addPortions(ctx context.Context, d *dictionaryWork, bad map[int]bool) error {
	var portions []*portionWork
	for p := steady; p <= fresh; p++ {
		portions = append(portions, d.portion(p, bad))
		a.findTreesOf(portions[p])
	}
	loading, cancel := context.WithCancel(ctx)
	var ahead sync.WaitGroup
	ahead.Go(func() { a.loadAhead(loading, portions) })
	defer func() { cancel(); ahead.Wait() }()
	names, err := a.v.names(ctx, &d.chosen[0])
	if err != nil {
		return err
	}
	if names == nil {
		return errDictionary
	}
	d.symbols, d.sums = names, d.sums[:0]
	for _, p := range portions {
		if err := a.addPortion(ctx, p, names.stacks); err != nil {
			return err
		}
	}
	return nil
}

// addPortion makes what a portion of a dictionary, of so many stacks, adds up to: one tree of all trees that it has stacks in.
// What blocks add up to is kept for the next query, as long as all that this one needs can stay.
func (a *adder) addPortion(ctx context.Context, p *portionWork, stacks int) error {
	if len(p.trees) == 0 {
		return nil
	}
	if found := p.kept(a.v.s); found != nil {
		return a.answer(p, found)
	}
	defer func() { clear(a.sums); a.sums, a.waiting = a.sums[:0], 0 }()
	for _, t := range p.trees {
		sums, err := a.addTree(ctx, t, stacks)
		if err != nil {
			return err
		}
		a.sums = append(a.sums, sums)
		a.waiting += sums.Size()
	}
	sums := a.merger.Merge(a.sums)
	if p.portion != fresh && a.trees.Load()+sums.Size() <= a.v.s.cacheLimit()*5/8 {
		a.v.s.keepSums(p.key, p.blocks, sums)
	}
	return a.answer(p, sums)
}

// loadAhead has trees in the cache by the time that they are added up. What goes wrong is found again then.
func (a *adder) loadAhead(ctx context.Context, portions []*portionWork) {
	for _, p := range portions {
		if p.kept(a.v.s) != nil {
			continue
		}
		for _, t := range p.trees {
			if t.kept(a.v.s) == nil {
				a.load(ctx, t)
			}
		}
	}
}

// load has a tree in the cache, unless it is read past it. Others may push it out, so that it is read again.
func (a *adder) load(ctx context.Context, t *treeWork) {
	if !a.v.passing {
		t.loaded.Do(func() { _, _ = a.v.s.treeAlone(ctx, t.id, t.base, nil) })
	}
}

// addTree makes what a portion of one of the trees of a dictionary adds up to.
func (a *adder) addTree(ctx context.Context, t *treeWork, stacks int) (*flamegraph.Tree, error) {
	if found := t.kept(a.v.s); found != nil {
		return found, nil
	}
	a.load(ctx, t)
	a.narrow(t)
	defer a.covered.giveBack()
	var err error
	if t.syms, err = a.v.tree(ctx, &t.chosen[0], t.base, &a.tree); err != nil {
		return nil, err
	}
	if t.syms == nil {
		return nil, errDictionary
	}
	if len(t.syms.locations) > len(t.symbols.locations) {
		t.symbols = t.syms // it was added to meanwhile
	}
	if err := a.sum(ctx, t, stacks); err != nil {
		return nil, err
	}
	sums := a.writer.Write(t.syms.callers, t.syms.leaf, a.room, a.unit)
	if t.hasOwnKey() && a.pieces.Add(sums.Size()) <= a.v.s.cacheLimit()/8 {
		a.v.s.keepSums(t.key, t.blocks, sums)
	}
	return sums, nil
}

// answer takes a tree into the answer.
func (a *adder) answer(p *portionWork, sums *flamegraph.Tree) error {
	p.sums = append(p.sums, sums)
	a.trees.Add(sums.Size())
	return a.take(sums.Size())
}

// take counts memory that the answer needs, and what is kept for the next dictionary.
func (a *adder) take(bytes int64) error {
	kept := 8*int64(cap(a.room)) + 16*int64(cap(a.covered)) + 4*int64(cap(a.tree.callers)+cap(a.tree.leaf)) + a.writer.Size() + a.merger.Size() + a.waiting
	bytes += kept - a.kept
	a.kept = kept
	if a.size.Add(bytes) > a.v.limit {
		return a.v.s.errQueryBytes()
	}
	return nil
}

// sum adds up the values of each stack of a tree, of a dictionary with so many stacks, over the portion that narrow left.
// The error may be errAgain.
func (a *adder) sum(ctx context.Context, t *treeWork, stacks int) error {
	a.room = zeroed(a.room, len(t.syms.callers))
	if err := a.take(0); err != nil {
		return err
	}
	into := newSums(&t.syms.tree, a.room, stacks)
	for _, part := range t.parts {
		err := a.sumPart(ctx, t, part, into)
		if damage := (*damageError)(nil); errors.As(err, &damage) {
			a.v.s.noteDamage(a.v.parts[part], damage)
			if b, ok := a.v.parts[part].(*block); ok && b.isRollup(damage.Path) {
				b.noRollups.Store(true)
			} else {
				t.bad[part] = true
			}
			return errAgain
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sums are the values of the stacks of a tree.
type sums struct {
	values       []int64 // by place in the tree
	base         uint32
	first, count uint32 // ids in it
	stacks       uint32 // in all trees
}

func newSums(t *tree, values []int64, stacks int) *sums {
	first, count := t.ids()
	return &sums{values, t.base, first, count, uint32(stacks)}
}

// sumPart adds what a part has of a dictionary.
func (a *adder) sumPart(ctx context.Context, t *treeWork, part int, sums *sums) error {
	add := func(r *rows, passes []*pass) error {
		for _, p := range passes {
			if err := p.add(t.id, part, t.syms, r, sums); err != nil {
				return err
			}
		}
		return ctx.Err()
	}
	reader, ok := a.reader(part).(*blockReader)
	if !ok {
		return a.reader(part).scan(t.id, a.v.q.From, a.v.q.To, func(r *rows) error { return add(r, t.passes) })
	}
	var left []*pass
	return reader.eachSection(t.id, a.v.q.From, a.v.q.To, func(s *section) error {
		if s.Stacks <= int(sums.first) || s.Least >= int(sums.first+sums.count) {
			return nil
		}
		defer reader.covered.giveBack()
		left = left[:0]
		for _, p := range t.passes {
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
func (p *pass) add(dictionary uint32, part int, syms *symbols, r *rows, sums *sums) error {
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
		if s-sums.first >= sums.count {
			if s >= sums.stacks {
				return errRows
			}
			continue // it is in another tree
		}
		if int(profile[i]) >= len(weights) {
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
		sums.values[s-sums.base] += values[i] * weight
	}
	return nil
}

// namer gives the locations of a dictionary their frames in an answer.
type namer struct {
	symbols
	stacks *flamegraph.Stacks

	names  []int32        // of strings in the answer, +1; 0: not there yet
	last   [2][]lastFrame // of functions, and of those that are inlined
	known  []int32        // of locations, one after the other, outermost first
	ends   []int32        // of a location in known; 0: not there yet
	starts []int32
}

// lastFrame is the last frame that was made of a function: nearly always it is in one binary alone.
type lastFrame struct {
	binary uint32
	frame  int32 // +1; 0: none
}

// frames are those of a location, outermost first.
func (t *namer) frames(l uint32) []int32 {
	if t.ends == nil {
		t.starts, t.ends, t.names = make([]int32, len(t.locations)), make([]int32, len(t.locations)), make([]int32, len(t.strings))
		t.last = [2][]lastFrame{make([]lastFrame, len(t.functions)), make([]lastFrame, len(t.functions))}
	}
	if t.ends[l] == 0 {
		t.starts[l] = int32(len(t.known))
		named := t.named(l)
		lines := t.linesOf(named)
		binary := t.binary(l)
		for i, line := range slices.Backward(lines) {
			t.known = append(t.known, t.frame(line.function, binary, i < len(lines)-1))
		}
		if len(lines) == 0 {
			t.known = append(t.known, t.stacks.Frame(flamegraph.Frame{Function: t.address(l), Binary: t.strings[binary]}))
		}
		t.ends[l] = int32(len(t.known))
	}
	return t.known[t.starts[l]:t.ends[l]]
}

func (t *namer) frame(function, binary uint32, inlined bool) int32 {
	kind := 0
	if inlined {
		kind = 1
	}
	last := &t.last[kind][function]
	if last.frame == 0 || last.binary != binary {
		f := &t.functions[function]
		*last = lastFrame{binary, t.stacks.FrameOf(t.name(f.name), t.name(binary), t.name(f.file), 0, inlined) + 1}
	}
	return last.frame - 1
}

// name is the number of a string in the answer.
func (t *namer) name(s uint32) int32 {
	if t.names[s] == 0 {
		t.names[s] = t.stacks.Name(t.strings[s]) + 1
	}
	return t.names[s] - 1
}

// binary is the file of a location's mapping, a string.
func (s *symbols) binary(l uint32) uint32 {
	if m := s.locations[l].mapping; m > 0 {
		return s.mappings[m-1].file
	}
	return 0
}

// address names a location without lines.
func (s *symbols) address(l uint32) string {
	name := fmt.Sprintf("%#x", s.locations[l].address)
	if binary := s.strings[s.binary(l)]; binary != "" {
		name = path.Base(binary) + "+" + name
	}
	return name
}
