package profilestore

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"sync"

	"github.com/prometheus/prometheus/model/labels"

	"pilotlight/profilestore/flamegraph"
)

// keptSums has trees that queries made of samples in blocks. Neither ever changes: who asks for the table of functions of
// what a flame graph showed, or for a range that has moved on by seconds, finds them added up.
type keptSums struct {
	mu    sync.Mutex
	trees map[sumsKey]*keptTree
}

// sumsKey is a hash of all that a tree was made from: dictionary, sections of blocks, and what is wanted of them.
type sumsKey [sha256.Size]byte

type keptTree struct {
	tree   *flamegraph.Tree
	blocks []uint64 // that it is of
	used   int64    // when, by the store's clock of cache use
}

// bytes estimates the memory held.
func (k *keptTree) bytes() int64 { return k.tree.Size() + 8*int64(len(k.blocks)) + 300 }

// sumsOf finds a tree.
func (s *Store) sumsOf(key sumsKey) *flamegraph.Tree {
	s.kept.mu.Lock()
	defer s.kept.mu.Unlock()
	k := s.kept.trees[key]
	if k == nil {
		return nil
	}
	k.used = s.uses.Add(1)
	return k.tree
}

// keepSums keeps a tree until its memory is needed, or one of the blocks that it is of has gone.
func (s *Store) keepSums(key sumsKey, blocks []uint64, t *flamegraph.Tree) {
	s.kept.mu.Lock()
	defer s.kept.mu.Unlock()
	if s.kept.trees[key] != nil {
		return
	}
	k := &keptTree{tree: t, blocks: blocks, used: s.uses.Add(1)}
	s.kept.trees[key] = k
	s.cacheBytes.Add(k.bytes())
}

// dropSums forgets a tree.
func (s *Store) dropSums(key sumsKey) {
	s.kept.mu.Lock()
	defer s.kept.mu.Unlock()
	if k := s.kept.trees[key]; k != nil {
		delete(s.kept.trees, key)
		s.cacheBytes.Add(-k.bytes())
	}
}

// dropSumsOf forgets the trees that are of a block.
func (s *Store) dropSumsOf(b *block) {
	s.kept.mu.Lock()
	defer s.kept.mu.Unlock()
	for key, k := range s.kept.trees {
		if slices.Contains(k.blocks, b.meta.Sequence) {
			delete(s.kept.trees, key)
			s.cacheBytes.Add(-k.bytes())
		}
	}
}

// portion is a part of what a query adds up.
type portion int

const (
	steady portion = iota // of blocks, what stays the same while the range moves on by less than steadyStep
	edges                 // of blocks, the rest
	fresh                 // of heads
)

const steadyStep = hour / 6

// steadyTimes is when profiles of a block are steady: always, if the range cuts nothing off the block.
func (v *view) steadyTimes(m *blockMeta) (from, to int64) {
	from, to = math.MinInt64, math.MaxInt64
	if m.MinTime < v.q.From {
		from = (floorDiv(v.q.From-1, steadyStep) + 1) * steadyStep
	}
	if m.MaxTime >= v.q.To {
		to = floorDiv(v.q.To, steadyStep) * steadyStep
	}
	return from, to
}

// portionWork is what is to be added up of a portion of a dictionary.
type portionWork struct {
	*dictionaryWork
	portion portion
	bad     map[int]bool // parts that turned out to be damaged
	trees   []*treeWork  // that it has stacks in
	key     sumsKey      // of what blocks add up to
	blocks  []uint64
}

func (d *dictionaryWork) portion(p portion, bad map[int]bool) *portionWork {
	return &portionWork{dictionaryWork: d, portion: p, bad: bad}
}

// treeWork is the part of it that is in one of the trees: the portion's profiles are the only ones with a weight.
type treeWork struct {
	*portionWork
	base       uint32
	first, end int   // ids of its stacks
	parts      []int // that may have something of it
	loaded     sync.Once
	syms       *symbols // with the tree
	key        sumsKey  // of what blocks add up to
	blocks     []uint64
}

// hasOwnKey says whether what it adds up to may be kept under a key of its own: if it is all of the portion, that is under the
// portion's.
func (t *treeWork) hasOwnKey() bool { return t.portion != fresh && len(t.trees) > 1 }

// kept is what it adds up to, if a query before found that; nil if not.
func (t *treeWork) kept(s *Store) *flamegraph.Tree {
	if !t.hasOwnKey() {
		return nil
	}
	return s.sumsOf(t.key)
}

// kept is what a portion adds up to, if a query before found that; nil if not.
func (p *portionWork) kept(s *Store) *flamegraph.Tree {
	if p.portion == fresh {
		return nil
	}
	return s.sumsOf(p.key)
}

func (p *portionWork) treeWork(i int) *treeWork {
	t := &treeWork{portionWork: p, base: p.bases[i], end: math.MaxInt}
	if t.base > 0 {
		t.first = int(t.base) + 1
	}
	if i+1 < len(p.bases) {
		t.end = int(p.bases[i+1]) + 1
	}
	return t
}

// findTreesOf finds the trees that a portion has stacks in, and the key of what they add up to.
func (a *adder) findTreesOf(p *portionWork) {
	var keys []byte
	for i := range p.bases {
		t := p.treeWork(i)
		if some := a.narrow(t); some {
			p.trees = append(p.trees, t)
			if p.portion != fresh {
				t.key, t.blocks = a.sumsKey(t)
				keys = append(keys, t.key[:]...)
				p.blocks = append(p.blocks, t.blocks...)
			}
		}
		a.covered.giveBack()
	}
	if p.key = sha256.Sum256(keys); len(p.trees) == 1 {
		p.key = p.trees[0].key
	}
	slices.Sort(p.blocks)
	p.blocks = slices.Compact(p.blocks)
}

// overlaps says whether a section may have stacks of the tree.
func (t *treeWork) overlaps(s *section) bool { return s.Least < t.end && s.Stacks > t.first }

// wants says whether a part that is not damaged may have something of the portion in the tree.
func (t *treeWork) wants(v *view, part int) bool {
	if t.bad[part] {
		return false
	}
	switch p := v.parts[part].(type) {
	case *block:
		if t.portion == fresh {
			return false
		}
		for s := range p.sections(t.id, v.q.From, v.q.To) {
			if t.overlaps(s) {
				return true
			}
		}
	case *headView:
		return t.portion == fresh && slices.ContainsFunc(p.rows[t.id], func(r rows) bool {
			return slices.ContainsFunc(r.stack, func(s uint32) bool { return int(s) >= t.first && int(s) < t.end })
		})
	}
	return false
}

// narrow leaves of the weights of a dictionary those of the portion, until a.covered gives the others back. It says whether
// there are any.
func (a *adder) narrow(t *treeWork) (some bool) {
	t.parts = t.parts[:0]
	for _, part := range t.dictionaryWork.parts {
		if !t.wants(a.v, part) {
			continue
		}
		t.parts = append(t.parts, part)
		b, ok := a.v.parts[part].(*block)
		if !ok {
			some = true
			continue
		}
		table := a.tables[part]
		least, end := a.v.steadyTimes(&b.meta)
		cover := func(from, to int, all bool) {
			for _, p := range t.passes {
				weights := p.weights[part]
				for n := from; n < to && weights != nil; n++ {
					if time := table.rows[n].time; all || (time >= least && time < end) != (t.portion == steady) {
						a.covered.take(&weights[n])
					} else if weights[n] != 0 {
						some = true
					}
				}
			}
		}
		next, to := table.spanOf(t.id)
		for s := range b.sections(t.id, math.MinInt64, math.MaxInt64) {
			if !t.overlaps(s) {
				continue
			}
			from, to := table.span(t.id, s.Hour)
			cover(next, from, true) // these have nothing in the tree
			cover(max(next, from), to, false)
			next = max(next, to)
		}
		cover(next, to, true)
	}
	return some
}

// sumsKey is the key of the sums over what narrow left, and the blocks that this is of.
func (a *adder) sumsKey(t *treeWork) (sumsKey, []uint64) {
	b := binary.AppendUvarint(nil, uint64(t.id))
	b = binary.AppendUvarint(b, uint64(t.base))
	b = binary.AppendVarint(b, a.unit)
	b = binary.AppendUvarint(b, uint64(len(t.passes)))
	for _, p := range t.passes {
		b = binary.AppendUvarint(b, uint64(p.column))
		var matchers []*labels.Matcher
		if p.rest != nil {
			matchers = p.rest.matchers
		}
		b = binary.AppendUvarint(b, uint64(len(matchers)))
		for _, m := range matchers {
			b = appendString(b, m.String())
		}
	}
	var blocks []uint64
	for _, part := range t.parts {
		sequence := a.v.parts[part].(*block).meta.Sequence
		from, to := a.tables[part].spanOf(t.id)
		for i, p := range t.passes {
			weights := p.weights[part]
			if weights == nil || !slices.ContainsFunc(weights[from:to], isWeight) {
				continue
			}
			b = binary.AppendUvarint(b, sequence)
			b = binary.AppendUvarint(b, uint64(i))
			b = appendRuns(b, weights[from:to])
			if !slices.Contains(blocks, sequence) {
				blocks = append(blocks, sequence)
			}
		}
	}
	return sha256.Sum256(b), blocks
}

func isWeight(w int64) bool { return w != 0 }

// appendRuns appends the weights of profiles: how many one after the other have the same, and which; 0 ends them.
func appendRuns(b []byte, weights []int64) []byte {
	for len(weights) > 0 {
		n := 1
		for n < len(weights) && weights[n] == weights[0] {
			n++
		}
		b = binary.AppendUvarint(b, uint64(n))
		b = binary.AppendVarint(b, weights[0])
		weights = weights[n:]
	}
	return append(b, 0)
}

// covered are weights that are 0 for a while.
type covered []coveredWeight

type coveredWeight struct {
	weight  *int64
	restore int64
}

func (c *covered) take(weight *int64) {
	if *weight != 0 {
		*c = append(*c, coveredWeight{weight, *weight})
		*weight = 0
	}
}

func (c *covered) giveBack() {
	for _, w := range *c {
		*w.weight = w.restore
	}
	*c = (*c)[:0]
}
