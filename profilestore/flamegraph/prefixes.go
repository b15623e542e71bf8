package flamegraph

import (
	"context"
	"encoding/binary"
	"slices"
)

// prefixes is a tree of stacks, made of runs: stacks each of which is all that goes on from the one before it, which has no
// value of its own. It never changes.
//
// Runs stand in bytes as varints:
//
//	count*4+more, total, label...                of stacks; nothing goes on from the last one
//	count*4+more+1, total, self, below, label... self is the value of the last one alone
//
// A label is what one of the stacks has called last. more is 2 when the next run goes on from the same stack, 0 when it does
// not. The runs that go on from this one begin `below` bytes before it. So those of heavy stacks, which come early and have
// many, are near each other. With many distinct stacks runs are long: a tree takes some 4 bytes a stack, and there may be
// millions.
type prefixes struct {
	bytes []byte
	root  uint32 // where the run of the empty stack begins, which has no label
	unit  int64  // of the values in bytes
	total int64  // value of all stacks
	count int    // of stacks, without the empty one

	legend *Legend // nil: a label is the number of a frame
}

// longestRun bounds the stacks in a run, so that a place in it takes little memory, and longestHead the bytes before its labels.
const (
	longestRun  = 16
	longestHead = 1 + 2*binary.MaxVarintLen64 + binary.MaxVarintLen32
)

// What is added to 4 times the number of stacks in a run.
const (
	forks = 1 << iota
	more
)

const _ = uint(0x7f - (4*longestRun + forks + more)) // the sum takes one byte, see read

// run is some stacks as they stand in the bytes of a tree.
type run struct {
	total, self int64 // of all that begins with one of the stacks, of the last one alone
	span
	links
}

// span is the labels of a run. It and links are types so that a run has few enough fields to be kept in registers.
type span struct {
	count  int32  // of stacks
	labels uint32 // where those of the stacks begin
}

// links are runs that go on from one, and from what that one goes on from; 0: none.
type links struct{ below, next uint32 }

// read gives the run that begins at a place in the bytes.
func (p *prefixes) read(at uint32) run {
	head := p.bytes[at] // one byte, for no run is longer than longestRun
	total, to := p.varint(at + 1)
	r := run{total: int64(total) * p.unit, span: span{count: int32(head >> 2)}}
	r.self = r.total
	if head&forks != 0 {
		var self, below uint64
		self, to = p.varint(to)
		below, to = p.varint(to)
		r.self, r.below = int64(self)*p.unit, at-uint32(below)
	}
	r.labels = to
	if head&more != 0 {
		r.next = p.skip(to, int(r.count))
	}
	return r
}

// skip is where n labels end that begin at a place.
func (p *prefixes) skip(to uint32, n int) uint32 {
	for range n {
		for p.bytes[to] >= 0x80 {
			to++
		}
		to++
	}
	return to
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
	below []uint32 // by stack: a run that goes on from it, as index of runs; 0: none
	runs  []unwritten
	bytes []byte
}

// unwritten is a run that is written when all others that go on from the same stack are known.
type unwritten struct {
	first, last uint32 // stacks
	total       int64
	below       uint32 // where the runs that go on from it are written; 0: nowhere
	next        uint32 // run that goes on from the same stack; 0: none
}

// Size is the memory that is kept for the next tree, in bytes.
func (w *TreeWriter) Size() int64 {
	return 4*int64(cap(w.below)) + 24*int64(cap(w.runs)) + int64(cap(w.bytes))
}

// Write makes a tree: stack i is stack callers[i], a smaller number, and what it called, labels[i]; stack 0 is the empty
// one. values, times unit, are those of the stacks themselves, as [Stacks.Add] takes them; small ones make small trees. None
// of the three slices is kept.
func (w *TreeWriter) Write(callers, labels []uint32, values []int64, unit int64) *Tree {
	return &Tree{*w.write(callers, labels, values, unit)}
}

// write leaves out stacks without a value of which none with one begins. It goes from callees to callers: when it comes to
// a stack, all that goes on from it is known.
func (w *TreeWriter) write(callers, labels []uint32, values []int64, unit int64) *prefixes {
	w.below = slices.Grow(w.below[:0], len(callers))[:len(callers)]
	clear(w.below)
	w.runs = append(w.runs[:0], unwritten{})
	const perStack = 4                                                   // bytes, roughly: growing bit by bit would take several times as much
	w.bytes = append(slices.Grow(w.bytes[:0], perStack*len(callers)), 0) // so that no run begins at 0
	p := &prefixes{unit: unit}
	below := w.below
	for i := len(callers) - 1; i > 0; i-- {
		r := unwritten{last: uint32(i), total: values[i]}
		if below[i] > 0 {
			total := int64(0)
			total, r.below = w.place(below[i], labels, values)
			r.total += total
		}
		if r.total == 0 {
			continue
		}
		for i > 1 && callers[i] == uint32(i-1) && values[i-1] == 0 && below[i-1] == 0 && int(r.last)-i < longestRun-1 {
			i--
		}
		r.first, r.next = uint32(i), below[callers[i]]
		below[callers[i]] = uint32(len(w.runs))
		w.runs = append(w.runs, r)
		p.count += int(r.last-r.first) + 1
	}
	top := unwritten{first: 1}
	if below[0] > 0 {
		top.total, top.below = w.place(below[0], labels, values)
	}
	top.total += values[0]
	p.total, p.root = top.total*unit, uint32(len(w.bytes))
	w.bytes = top.append(w.bytes, labels, values)
	p.bytes = slices.Clone(w.bytes)
	return p
}

// place writes the runs that go on from a stack.
func (w *TreeWriter) place(first uint32, labels []uint32, values []int64) (total int64, at uint32) {
	dst := w.bytes
	at = uint32(len(dst))
	for next := first; next > 0; {
		r := &w.runs[next]
		next = r.next
		total += r.total
		dst = r.append(dst, labels, values)
	}
	w.bytes = dst
	return total, at
}

func (r *unwritten) append(dst []byte, labels []uint32, values []int64) []byte {
	self := r.total
	if r.below > 0 {
		self = values[r.last]
	}
	dst = appendHead(dst, int(r.last+1-r.first), r.next > 0, r.total, self, r.below)
	return appendLabels(dst, labels[r.first:r.last+1])
}

// appendHead appends all of a run but its labels.
func appendHead(dst []byte, count int, others bool, total, self int64, below uint32) []byte {
	at := uint32(len(dst))
	head := 4 * uint64(count)
	if others {
		head += more
	}
	if below == 0 {
		dst = appendVarint(dst, head)
		return appendVarint(dst, uint64(total))
	}
	dst = appendVarint(dst, head+forks)
	dst = appendVarint(dst, uint64(total))
	dst = appendVarint(dst, uint64(self))
	return appendVarint(dst, uint64(at-below))
}

func appendLabels(dst []byte, labels []uint32) []byte {
	for _, l := range labels {
		if l < 1<<14 {
			dst = append(dst, byte(l)|0x80, byte(l>>7)) // the few that need one byte would cost more time than they take
		} else {
			dst = binary.AppendUvarint(dst, uint64(l))
		}
	}
	return dst
}

// appendVarint is binary.AppendUvarint, faster for small numbers.
func appendVarint(b []byte, v uint64) []byte {
	if v < 0x80 {
		return append(b, byte(v))
	}
	return binary.AppendUvarint(b, v)
}

func (p *prefixes) size() int64 { return int64(len(p.bytes)) }

// framesOf are the frames of a label.
func (p *prefixes) framesOf(label uint32, one *[1]int32) []int32 {
	if p.legend == nil {
		one[0] = int32(label)
		return one[:]
	}
	return p.legend.Frames(label)
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
	for at := p.read(p.root).below; ; {
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
		if count += int(r.count); count >= stacksBetween {
			count = 0
			if ctx.Err() != nil {
				return
			}
		}
		before := len(path)
		for i, to := int32(0), r.labels; i < r.count; i++ {
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
		at = r.below
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
