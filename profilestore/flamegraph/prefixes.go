package flamegraph

import (
	"context"
	"encoding/binary"
	"slices"
)

// prefixes is a tree of stacks, made of runs: stacks each of which is all that goes on from the one before it, which has no
// value of its own. It never changes.
//
// Runs stand in bytes as varints, those that go on from one before it:
//
//	count*2, next, total, label...                of stacks; nothing goes on from the last one
//	count*2+1, next, total, self, first, label... self is the value of the last one alone
//
// A label is what one of the stacks has called last. next leads to another run that goes on from the same stack, first to one
// that goes on from this: so many bytes before this one it begins. 0: there is none. With many distinct stacks runs are
// long: a tree takes some 5 bytes a stack, and there may be millions.
type prefixes struct {
	bytes []byte
	root  uint32 // where the run of the empty stack begins, which has no label
	total int64  // value of all stacks
	count int    // of stacks, without the empty one

	names *labelNames // nil: a label is the number of a frame
}

// labelNames says which frames a label stands for, in one tree or in several.
type labelNames struct {
	frames func(label uint32) []int32
}

// longestRun bounds what it costs to find a stack in the middle of one.
const longestRun = 16

// run is some stacks as they stand in the bytes of a tree.
type run struct {
	count       int    // of stacks
	labels      uint32 // where those of the stacks begin
	total, self int64  // of all that begins with one of the stacks, of the last one alone
	first, next uint32 // runs that go on from this one, and from what this one goes on from; 0: none
}

// read gives the run that begins at a place in the bytes.
func (p *prefixes) read(at uint32) run {
	head, to := p.varint(at)
	next, to := p.varint(to)
	total, to := p.varint(to)
	r := run{count: int(head >> 1), labels: to, total: int64(total), self: int64(total), next: back(at, next)}
	if head&1 != 0 {
		self, to := p.varint(to)
		first, to := p.varint(to)
		r.self, r.first, r.labels = int64(self), back(at, first), to
	}
	return r
}

// distance is how many bytes before a run another one begins; back is where that is.
func distance(at, other uint32) uint64 {
	if other == 0 {
		return 0
	}
	return uint64(at - other)
}

func back(at uint32, distance uint64) uint32 {
	if distance == 0 {
		return 0
	}
	return at - uint32(distance)
}

// label is that of one of the stacks of a run.
func (p *prefixes) label(r *run, i int) uint32 {
	label, to := p.varint(r.labels)
	for range i {
		label, to = p.varint(to)
	}
	return uint32(label)
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

// Tree is stacks for [Stacks.AddTrees]. It never changes.
type Tree struct{ prefixes }

// Size is the memory held, in bytes.
func (t *Tree) Size() int64 { return t.size() }

// TreeWriter makes trees, one after the other in the same memory. The zero value is ready. It is for one goroutine.
type TreeWriter struct {
	below []uint32 // by stack: what goes on from it, as index of forks; 0: nothing yet
	forks []fork   // the first is nothing
	bytes []byte
}

// fork is what goes on from a stack, of that which is written already.
type fork struct {
	total int64
	first uint32 // run
}

// Size is the memory that is kept for the next tree, in bytes.
func (w *TreeWriter) Size() int64 {
	return 4*int64(cap(w.below)) + 16*int64(cap(w.forks)) + int64(cap(w.bytes))
}

// Write makes a tree: stack i is stack callers[i], a smaller number, and what it called, labels[i]; stack 0 is the empty
// one. values are those of the stacks themselves, as [Stacks.Add] takes them; none of the three slices is kept.
func (w *TreeWriter) Write(callers, labels []uint32, values []int64) *Tree {
	return &Tree{*w.write(callers, labels, values)}
}

// write leaves out stacks without a value of which none with one begins. It goes from callees to callers: when it comes to
// a stack, all that goes on from it is written.
func (w *TreeWriter) write(callers, labels []uint32, values []int64) *prefixes {
	w.below = slices.Grow(w.below[:0], len(callers))[:len(callers)]
	clear(w.below)
	w.forks = append(w.forks[:0], fork{})
	dst := append(w.bytes[:0], 0) // so that no run begins at 0
	p := new(prefixes)
	below := w.below
	for i := len(callers) - 1; i > 0; i-- {
		last, own := i, w.forks[below[i]]
		own.total += values[i]
		if own.total == 0 {
			continue
		}
		for i > 1 && callers[i] == uint32(i-1) && values[i-1] == 0 && below[i-1] == 0 && last-i < longestRun-1 {
			i--
		}
		p.count += last - i + 1
		above := w.forkOf(callers[i])
		next := above.first
		above.first = uint32(len(dst))
		above.total += own.total
		dst = own.append(dst, labels[i:last+1], values[last], next)
	}
	top := w.forks[below[0]]
	top.total += values[0]
	p.total, p.root = top.total, uint32(len(dst))
	w.bytes = top.append(dst, nil, values[0], 0)
	p.bytes = slices.Clone(w.bytes)
	return p
}

// forkOf is valid until the next call.
func (w *TreeWriter) forkOf(stack uint32) *fork {
	own := &w.below[stack]
	if *own == 0 {
		*own = uint32(len(w.forks))
		w.forks = append(w.forks, fork{})
	}
	return &w.forks[*own]
}

// append writes the run that f goes on from; total is that of the run.
func (f *fork) append(dst []byte, labels []uint32, self int64, next uint32) []byte {
	at := uint32(len(dst))
	head := 2 * uint64(len(labels))
	if f.first > 0 {
		head++
	}
	dst = appendVarint(dst, head)
	dst = appendVarint(dst, distance(at, next))
	dst = appendVarint(dst, uint64(f.total))
	if f.first > 0 {
		dst = appendVarint(dst, uint64(self))
		dst = appendVarint(dst, distance(at, f.first))
	}
	for _, l := range labels {
		dst = appendVarint(dst, uint64(l))
	}
	return dst
}

// appendVarint is binary.AppendUvarint, faster for labels.
func appendVarint(b []byte, v uint64) []byte {
	switch {
	case v < 1<<7:
		return append(b, byte(v))
	case v < 1<<14:
		return append(b, byte(v)|0x80, byte(v>>7))
	}
	return binary.AppendUvarint(b, v)
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
		next   uint32
		frames int // of the run, the last ones on the path
	}
	var runs []open
	var path []int32
	var one [1]int32
	count := 0
	for at := p.read(p.root).first; ; {
		for ; at == 0; runs = runs[:len(runs)-1] {
			if len(runs) == 0 {
				return
			}
			last := runs[len(runs)-1]
			for range last.frames {
				leave(path[len(path)-1])
				path = path[:len(path)-1]
			}
			at = last.next
		}
		r := p.read(at)
		if count += r.count; count >= stacksBetween {
			count = 0
			if ctx.Err() != nil {
				return
			}
		}
		before := len(path)
		for i, to := 0, r.labels; i < r.count; i++ {
			var label uint64
			label, to = p.varint(to)
			frames := p.framesOf(uint32(label), &one)
			for j, f := range frames {
				own := int64(0)
				if i == r.count-1 && j == len(frames)-1 {
					own = r.self
				}
				path = append(path, f)
				enter(f, own, r.total)
			}
		}
		runs = append(runs, open{r.next, len(path) - before})
		at = r.first
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
