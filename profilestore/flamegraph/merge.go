package flamegraph

import "slices"

// TreeMerger makes one tree of several that have much in common, as those have that a service's stacks were begun in one after
// the other: what they have in common is then looked at once by all that reads the tree. The zero value is ready. It is for
// one goroutine.
type TreeMerger struct {
	trees  []prefixes
	heads  []head
	runs   []mergedRun
	slot   []int32 // by label: index of runs, +1, of the one of a list that begins with it
	labels []uint32
	copied []copiedRun
	bytes  []byte
	count  int
}

// head is a stack in one of the trees.
type head struct {
	total, self int64
	label       uint32 // its last one
	to          uint32 // where the labels of the stacks that follow in its run begin
	left        int32  // how many these are
	below       uint32 // runs that go on from the last of them
	tree        int32
	next        int32 // another one of the same stack, +1
}

// mergedRun is one that is written when all others that go on from the same stack are known.
type mergedRun struct {
	first, last int32 // of the heads that begin it
	labels, end int
	total, self int64
	below       uint32
}

// copiedRun is one of which only one tree has the beginning.
type copiedRun struct {
	run
	end, below uint32 // of its labels; where the runs that go on from it are in the new tree
}

// Size is the memory that is kept for the next trees, in bytes.
func (m *TreeMerger) Size() int64 {
	return 48*int64(cap(m.heads)+cap(m.runs)+cap(m.copied)) + 4*int64(cap(m.slot)+cap(m.labels)) + int64(cap(m.bytes))
}

// Merge makes the tree of all stacks of some trees, at least one, whose labels mean the same and whose values have the same
// unit. Where only one of them has stacks it is that one.
func (m *TreeMerger) Merge(trees []*Tree) *Tree {
	m.trees = m.trees[:0]
	only := trees[0]
	for _, t := range trees {
		if t.total > 0 {
			only = t
			p := t.prefixes
			p.unit = 1
			m.trees = append(m.trees, p)
		}
	}
	defer clear(m.trees)
	if len(m.trees) <= 1 {
		return only
	}
	m.count = 0
	m.bytes = append(m.bytes[:0], 0) // so that no run begins at 0
	var total, self int64
	for i := range m.trees {
		top := m.trees[i].read(m.trees[i].root)
		total, self = total+top.total, self+top.self
		m.addHeads(int32(i), top.below)
	}
	below := m.write(0)
	p := prefixes{unit: only.unit, total: total * only.unit, root: uint32(len(m.bytes)), count: m.count}
	m.bytes = appendHead(m.bytes, 0, false, total, self, below)
	p.bytes = slices.Clone(m.bytes)
	return &Tree{p}
}

// addHeads adds the first stacks of the runs that go on from a stack.
func (m *TreeMerger) addHeads(tree int32, at uint32) {
	p := &m.trees[tree]
	for at > 0 {
		r := p.read(at)
		label, to := p.varint(r.labels)
		m.heads = append(m.heads, head{total: r.total, self: r.self, label: uint32(label), to: to, left: r.count - 1, below: r.below, tree: tree})
		at = r.next
	}
}

// write takes the heads from first on, which go on from the same stack, and writes their runs.
func (m *TreeMerger) write(first int) (at uint32) {
	if first == len(m.heads) {
		return 0
	}
	begin, labels := len(m.runs), len(m.labels)
	for i := first; i < len(m.heads); i++ {
		label := m.heads[i].label
		if missing := int(label) + 1 - len(m.slot); missing > 0 {
			m.slot = append(m.slot, make([]int32, missing)...)
		}
		if known := m.slot[label]; known > 0 {
			r := &m.runs[known-1]
			m.heads[r.last].next = int32(i) + 1
			r.last = int32(i)
			continue
		}
		m.runs = append(m.runs, mergedRun{first: int32(i), last: int32(i)})
		m.slot[label] = int32(len(m.runs))
	}
	end := len(m.runs)
	for i := begin; i < end; i++ {
		m.slot[m.heads[m.runs[i].first].label] = 0
	}
	for i := begin; i < end; i++ {
		m.finish(i)
	}
	at = uint32(len(m.bytes))
	for i := begin; i < end; i++ {
		r := &m.runs[i]
		m.bytes = appendHead(m.bytes, r.end-r.labels, i < end-1, r.total, r.self, r.below)
		m.bytes = appendLabels(m.bytes, m.labels[r.labels:r.end])
		m.count += r.end - r.labels
	}
	m.heads, m.runs, m.labels = m.heads[:first], m.runs[:begin], m.labels[:labels]
	return at
}

// finish makes a run as long as it can be, and writes those that go on from it.
func (m *TreeMerger) finish(i int) {
	r := m.runs[i]
	r.labels = len(m.labels)
	own := len(m.heads) // heads of the last stack of the run begin here
	for h := r.first + 1; h > 0; h = m.heads[h-1].next {
		m.heads = append(m.heads, m.heads[h-1])
		r.total += m.heads[h-1].total
	}
	m.labels = append(m.labels, m.heads[own].label)
	for {
		next := len(m.heads)
		if next == own+1 && m.heads[own].left == 0 {
			r.self, r.below = m.heads[own].self, m.copy(&m.trees[m.heads[own].tree], m.heads[own].below)
			break
		}
		r.self = m.goOn(own)
		if r.self == 0 && len(m.labels)-r.labels < longestRun && m.alike(next) {
			m.labels = append(m.labels, m.heads[next].label)
			m.heads = append(m.heads[:own], m.heads[next:]...)
			continue
		}
		r.below = m.write(next)
		break
	}
	r.end = len(m.labels)
	m.heads = m.heads[:own]
	m.runs[i] = r
}

// goOn adds what goes on from the heads from first on, which are of one stack, and says what that has itself.
func (m *TreeMerger) goOn(first int) (self int64) {
	for i, end := first, len(m.heads); i < end; i++ {
		h := m.heads[i]
		if h.left == 0 {
			self += h.self
			m.addHeads(h.tree, h.below)
			continue
		}
		label, to := m.trees[h.tree].varint(h.to)
		h.label, h.to, h.left, h.next = uint32(label), to, h.left-1, 0
		m.heads = append(m.heads, h)
	}
	return self
}

// alike says whether there are heads from first on, and all are of one stack.
func (m *TreeMerger) alike(first int) bool {
	for i := first + 1; i < len(m.heads); i++ {
		if m.heads[i].label != m.heads[first].label {
			return false
		}
	}
	return first < len(m.heads)
}

// copy writes runs that go on from a stack that only one tree has.
func (m *TreeMerger) copy(p *prefixes, at uint32) uint32 {
	if at == 0 {
		return 0
	}
	begin := len(m.copied)
	for at > 0 {
		r := p.read(at)
		at = r.next
		c := copiedRun{run: r, end: p.skip(r.labels, int(r.count)), below: m.copy(p, r.below)}
		m.copied = append(m.copied, c)
	}
	at = uint32(len(m.bytes))
	for i, c := range m.copied[begin:] {
		m.bytes = appendHead(m.bytes, int(c.count), begin+i < len(m.copied)-1, c.total, c.self, c.below)
		m.bytes = append(m.bytes, p.bytes[c.labels:c.end]...)
		m.count += int(c.count)
	}
	m.copied = m.copied[:begin]
	return at
}
