package profilestore

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"sync"

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
func (k *keptTree) bytes() int64 { return k.tree.Size() + 8*int64(len(k.blocks)) + 200 }

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
	k := &keptTree{tree: t, blocks: slices.Clone(blocks), used: s.uses.Add(1)}
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
	steady portion = iota // of blocks, what stays the same while the range moves on by less than a step
	edges                 // of blocks, the rest
	fresh                 // of heads
)

const step = hour / 6

// steadyTimes is when profiles of a block are steady: always, if the range cuts nothing off the block.
func (v *view) steadyTimes(m *blockMeta) (from, to int64) {
	from, to = math.MinInt64, math.MaxInt64
	if m.MinTime < v.q.From {
		from = (floorDiv(v.q.From-1, step) + 1) * step
	}
	if m.MaxTime >= v.q.To {
		to = floorDiv(v.q.To, step) * step
	}
	return from, to
}

// cover leaves of the weights of a dictionary those of a portion. key says all that the sums over it are made from; ok is
// false when there is nothing. uncover gives the others back.
func (a *adder) cover(d *dictionaryWork, base uint32, of portion, bad map[int]bool) (key sumsKey, ok bool) {
	b := binary.AppendUvarint(nil, uint64(d.id))
	b = binary.AppendUvarint(b, uint64(base))
	b = binary.AppendVarint(b, a.unit)
	for _, p := range d.passes {
		b = binary.AppendUvarint(b, uint64(p.column))
		if p.rest != nil {
			for _, m := range p.rest.matchers {
				b = appendString(b, m.String())
			}
		}
		b = append(b, 0)
	}
	a.blocks = a.blocks[:0]
	for _, part := range d.parts {
		block, is := a.v.parts[part].(*block)
		if is == (of == fresh) || bad[part] {
			continue
		}
		if !is {
			ok = true
			continue
		}
		t := a.tables[part]
		from, to := t.spanOf(d.id)
		least, end := a.v.steadyTimes(&block.meta)
		b = binary.AppendUvarint(b, block.meta.Sequence)
		a.blocks = append(a.blocks, block.meta.Sequence)
		for _, p := range d.passes {
			weights := p.weights[part]
			if weights == nil {
				continue
			}
			for n := from; n < to; n++ {
				if time := t.rows[n].time; (time >= least && time < end) != (of == steady) {
					a.covered.take(&weights[n])
				} else if weights[n] != 0 {
					ok = true
				}
			}
			b = appendRuns(b, weights[from:to])
		}
	}
	return sha256.Sum256(b), ok
}

// appendRuns appends the weights of profiles: how many one after the other have the same, and which.
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
