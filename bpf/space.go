package bpf

import (
	"cmp"
	"slices"
)

const (
	shardWords = 1 << 16 // SHARD_WORDS of sampler.h
	// unitWords is what pieces of a shard are rounded up to: a struct process or a struct mapping.
	unitWords = 8
)

// position is where something lies in the shards: the shard's number << 16 | word.
type position uint32

func (p position) shard() int { return int(p >> 16) }
func (p position) word() int  { return int(p & (shardWords - 1)) }

// piece is a range of words within one shard.
type piece struct {
	at    position
	words int
}

// space is the free space of the shards. The zero value has no shard.
type space struct {
	shards []freeList
	used   int // words
}

// freeList is the free space of one shard, by address; ranges that touch are one.
type freeList struct {
	present bool
	ranges  []wordRange
}

// wordRange is a range of words [from, to).
type wordRange struct{ from, to int }

// roundUp returns the words that a piece of n words takes.
func roundUp(n int) int { return (n + unitWords - 1) / unitWords * unitWords }

// vacant returns the n lowest numbers without a shard.
func (s *space) vacant(n int) []int {
	var numbers []int
	for i := 0; len(numbers) < n; i++ {
		if i >= len(s.shards) || !s.shards[i].present {
			numbers = append(numbers, i)
		}
	}
	return numbers
}

// add makes the space of the shard with a number available that was vacant.
func (s *space) add(number int) {
	for number >= len(s.shards) {
		s.shards = append(s.shards, freeList{})
	}
	s.shards[number] = freeList{present: true, ranges: []wordRange{{0, shardWords}}}
}

// remove takes back a shard of which nothing is in use.
func (s *space) remove(shard int) { s.shards[shard] = freeList{} }

// unused returns the shards of which nothing is in use.
func (s *space) unused() []int {
	var shards []int
	for i, f := range s.shards {
		if f.present && len(f.ranges) == 1 && f.ranges[0] == (wordRange{0, shardWords}) {
			shards = append(shards, i)
		}
	}
	return shards
}

// alloc returns a piece of n words, at most shardWords, from the first place that it fits into. Low places first, so
// that the last shards empty.
func (s *space) alloc(n int) (piece, bool) {
	n = roundUp(n)
	for i := range s.shards {
		f := &s.shards[i]
		for j, r := range f.ranges {
			if r.to-r.from < n {
				continue
			}
			if f.ranges[j].from += n; f.ranges[j].from == r.to {
				f.ranges = slices.Delete(f.ranges, j, j+1)
			}
			s.used += n
			return piece{position(i<<16 | r.from), n}, true
		}
	}
	return piece{}, false
}

// free gives back a piece that alloc returned.
func (s *space) free(p piece) {
	f := &s.shards[p.at.shard()]
	s.used -= p.words
	r := wordRange{p.at.word(), p.at.word() + p.words}
	i, _ := slices.BinarySearchFunc(f.ranges, r, func(x, y wordRange) int { return cmp.Compare(x.from, y.from) })
	if i < len(f.ranges) && f.ranges[i].from == r.to {
		r.to = f.ranges[i].to
		f.ranges = slices.Delete(f.ranges, i, i+1)
	}
	if i > 0 && f.ranges[i-1].to == r.from {
		f.ranges[i-1].to = r.to
		return
	}
	f.ranges = slices.Insert(f.ranges, i, r)
}
