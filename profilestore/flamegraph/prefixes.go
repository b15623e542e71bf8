package flamegraph

import (
	"context"
	"encoding/binary"
	"math/bits"
	"slices"
)

// prefixes is a tree of stacks in preorder: all stacks that begin with one follow it. It never changes.
//
// Each stack is a header of varints, with what it has called last, its label:
//
//	label*4+chained                      all that begins with it begins with the next one
//	label*4+ends, total                  nothing goes on from it
//	label*4+forks, total, self, length   of what goes on from it, in bytes
//
// With many distinct stacks nearly all are chained: a tree takes some 4 bytes a stack, and there may be millions.
type prefixes struct {
	bytes []byte
	total int64 // value of all stacks
	count int   // of stacks, without the empty one

	names *labelNames // nil: a label is the number of a frame
}

// labelNames says which frames a label stands for, in one tree or in several.
type labelNames struct {
	frames func(label uint32) []int32
}

const (
	forks = iota
	ends
	chained
)

// longestChain bounds what it costs to find the total of a stack.
const longestChain = 8

// prefix is a stack as it stands in the bytes of a tree. The first is the empty one, whose label says nothing.
type prefix struct {
	label       uint32
	total, self int64
	below, end  uint32 // what goes on from it is in bytes[below:end]
	chained     bool
}

// read gives the stack that begins at a place in the bytes.
func (p *prefixes) read(at uint32) prefix {
	head, at := p.varint(at)
	n := prefix{label: uint32(head >> 2), below: at, chained: head&3 == chained}
	for head&3 == chained {
		head, at = p.varint(at)
	}
	total, at := p.varint(at)
	self := total
	n.total, n.end = int64(total), at
	if head&3 == forks {
		var length uint64
		self, at = p.varint(at)
		length, at = p.varint(at)
		n.end = at + uint32(length)
	}
	if !n.chained {
		n.self, n.below = int64(self), at
	}
	return n
}

// next gives the stack that follows n. One that is chained to it needs no search for its total.
func (p *prefixes) next(n *prefix) prefix {
	if n.chained {
		if head, at := p.varint(n.below); head&3 == chained {
			return prefix{label: uint32(head >> 2), total: n.total, below: at, end: n.end, chained: true}
		}
	}
	return p.read(n.below)
}

func (p *prefixes) varint(at uint32) (v uint64, next uint32) {
	b := p.bytes[at:]
	if b[0] < 0x80 {
		return uint64(b[0]), at + 1
	}
	if b[1] < 0x80 { // as in most labels
		return uint64(b[0])&0x7f | uint64(b[1])<<7, at + 2
	}
	v, n := binary.Uvarint(b)
	return v, at + uint32(n)
}

func varintLen(v uint64) uint32 { return uint32(bits.Len64(v|1)+6) / 7 }

// Tree is stacks for [Stacks.AddTrees]. It never changes.
type Tree struct{ prefixes }

// Size is the memory held, in bytes.
func (t *Tree) Size() int64 { return t.size() }

// TreeWriter makes trees, one after the other in the same memory. The zero value is ready. It is for one goroutine.
type TreeWriter struct{ stacks []written }

// written is a stack while its tree is written. What is looked up for a stack is in one place: stacks that go on from the
// same one may be far from it.
type written struct {
	total  int64
	below  uint32 // bytes of what goes on from it; once it has its place: that of the next one which it calls
	chain  uint8  // how many stacks in a row are chained, this one included; 0: nothing goes on from it
	valued bool
}

const forked = longestChain + 1 // in written.chain: it forks

// Size is the memory that is kept for the next tree, in bytes.
func (w *TreeWriter) Size() int64 { return 16 * int64(cap(w.stacks)) }

// Write makes a tree: stack i is stack callers[i], a smaller number, and what it called, labels[i]; stack 0 is the empty
// one. values are those of the stacks themselves, as [Stacks.Add] takes them; none of the three slices is kept.
func (w *TreeWriter) Write(callers, labels []uint32, values []int64) *Tree {
	return &Tree{*w.write(callers, labels, values)}
}

// write leaves out stacks without a value of which none with one begins.
func (w *TreeWriter) write(callers, labels []uint32, values []int64) *prefixes {
	w.stacks = slices.Grow(w.stacks[:0], len(callers))[:len(callers)]
	for i, v := range values {
		w.stacks[i] = written{total: v, valued: v > 0}
	}
	p := &prefixes{count: w.addUp(callers, labels, values)}
	top := &w.stacks[0]
	top.chain = forked
	p.total = top.total
	p.bytes = make([]byte, 0, top.header(0, values[0])+top.below)
	p.bytes = top.append(p.bytes, 0, values[0])
	top.below = uint32(len(p.bytes))
	p.bytes = p.bytes[:cap(p.bytes)]
	w.place(p.bytes, callers, labels, values)
	return p
}

// addUp finds the totals of all stacks, and how long what goes on from them will be.
func (w *TreeWriter) addUp(callers, labels []uint32, values []int64) (count int) {
	for i := len(callers) - 1; i > 0; i-- {
		s := &w.stacks[i]
		if s.total == 0 {
			continue
		}
		count++
		c := &w.stacks[callers[i]]
		switch {
		case c.chain > 0 || c.valued || callers[i] == 0 || s.chain == longestChain:
			c.chain = forked
		case s.chain == forked:
			c.chain = 1
		default:
			c.chain = s.chain + 1
		}
		c.below += s.header(labels[i], values[i]) + s.below
		c.total += s.total
	}
	return count
}

// place writes the stacks, each behind those that go on from its callers and came before it.
func (w *TreeWriter) place(dst []byte, callers, labels []uint32, values []int64) {
	n := len(callers)
	for i := 1; i < n; i++ {
		s := &w.stacks[i]
		if s.total == 0 {
			continue
		}
		c := &w.stacks[callers[i]]
		at := len(s.append(dst[:c.below], labels[i], values[i]))
		c.below = uint32(at) + s.below
		// Nearly all stacks that are chained are followed by what goes on from them.
		for s.chain-1 < longestChain && i+1 < n && callers[i+1] == uint32(i) && w.stacks[i+1].total > 0 {
			i++
			s = &w.stacks[i]
			at = len(s.append(dst[:at], labels[i], values[i]))
		}
		s.below = uint32(at)
	}
}

// header is the length of the header of a stack of which all that goes on from it is known.
func (s *written) header(label uint32, self int64) uint32 {
	length := varintLen(uint64(label) << 2)
	switch s.chain {
	case forked:
		return length + varintLen(uint64(s.total)) + varintLen(uint64(self)) + varintLen(uint64(s.below))
	case 0:
		return length + varintLen(uint64(s.total))
	}
	return length
}

func (s *written) append(dst []byte, label uint32, self int64) []byte {
	head := uint64(label) << 2
	switch s.chain {
	case forked:
		dst = binary.AppendUvarint(dst, head+forks)
		dst = binary.AppendUvarint(dst, uint64(s.total))
		dst = binary.AppendUvarint(dst, uint64(self))
		return binary.AppendUvarint(dst, uint64(s.below))
	case 0:
		dst = binary.AppendUvarint(dst, head+ends)
		return binary.AppendUvarint(dst, uint64(s.total))
	}
	if head += chained; head >= 0x80 && head < 1<<14 { // as in most labels
		return append(dst, byte(head)|0x80, byte(head>>7))
	}
	return binary.AppendUvarint(dst, head)
}

func (p *prefixes) size() int64 { return int64(len(p.bytes)) }

// framesOf are the frames of a label.
func (p *prefixes) framesOf(label uint32, one *[1]int32) []int32 {
	if p.names == nil {
		one[0] = int32(label)
		return one[:]
	}
	return p.names.frames(label)
}

// stacksBetween is how many stacks are walked until it is looked whether the context has ended: some milliseconds.
const stacksBetween = 1 << 16

// walk calls enter for each frame, callers first, with the value of the stack that ends there and of those that
// begin so; and leave when it has done so for all below it. It stops where it is when ctx ends.
func (p *prefixes) walk(ctx context.Context, enter func(frame int32, self, total int64), leave func(frame int32)) {
	type open struct {
		end    uint32
		frames int // of the call, the last ones on the path
	}
	var calls []open
	var path []int32
	var one [1]int32
	pop := func() {
		last := calls[len(calls)-1]
		calls = calls[:len(calls)-1]
		for range last.frames {
			leave(path[len(path)-1])
			path = path[:len(path)-1]
		}
	}
	count := 0
	for n := p.read(0); n.below < uint32(len(p.bytes)); {
		if count++; count%stacksBetween == 0 && ctx.Err() != nil {
			return
		}
		for len(calls) > 0 && calls[len(calls)-1].end <= n.below {
			pop()
		}
		n = p.next(&n)
		frames := p.framesOf(n.label, &one)
		for i, f := range frames {
			own := int64(0)
			if i == len(frames)-1 {
				own = n.self
			}
			path = append(path, f)
			enter(f, own, n.total)
		}
		calls = append(calls, open{n.end, len(frames)})
	}
	for len(calls) > 0 {
		pop()
	}
}

// flatten makes the tree one of frames, as Stacks.Add does, but does not look for what is there already.
func (p *prefixes) flatten(ctx context.Context) (parent, frame []int32, self []int64) {
	n := p.count
	parent, frame, self = make([]int32, 0, n), make([]int32, 0, n), make([]int64, 0, n)
	var path []int32
	above := func() int32 {
		if len(path) == 0 {
			return -1
		}
		return path[len(path)-1]
	}
	p.walk(ctx, func(f int32, own, _ int64) {
		parent, frame, self = append(parent, above()), append(frame, f), append(self, own)
		path = append(path, int32(len(parent)-1))
	}, func(int32) { path = path[:len(path)-1] })
	return parent, frame, self
}
