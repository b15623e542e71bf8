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
	bytes  []byte
	count  int
}

// head is a stack in one of the trees.
type head struct {
	total, self int64
	label, at   uint32 // its last one, and where that stands
	left        int32  // how many labels of stacks follow in its run
	below       uint32 // runs that go on from the last of them
	tree        int32
	next        int32 // another one of the same stack, +1
}

// mergedRun is one that is written when all others that go on from the same stack are known.
type mergedRun struct {
	first, last int32 // of the heads that begin it
	labelRange
	total, self int64
	below       uint32
}

// labelRange is where labels are found: in a list of those of several trees, or in the bytes of the only tree that has them.
type labelRange struct {
	tree        int32 // -1: the list
	count       int32
	labels, end uint32
}

// rangeOf is some labels in the bytes of a tree.
func (m *TreeMerger) rangeOf(tree int32, labels uint32, count int32) labelRange {
	return labelRange{tree, count, labels, m.trees[tree].skip(labels, int(count))}
}

// Size is the memory that is kept for the next trees, in bytes.
func (m *TreeMerger) Size() int64 {
	return 48*int64(cap(m.runs)) + 40*int64(cap(m.heads)) + 4*int64(cap(m.slot)+cap(m.labels)) + int64(cap(m.bytes))
}

// Merge makes the tree of all stacks of some trees, at least one, whose labels mean the same and whose values have the same
// unit. Where only one of them has stacks it is that one.
func (m *TreeMerger) Merge(trees []*Tree) *Tree {
	m.trees = m.trees[:0]
	only, largest := trees[0], 0
	for _, t := range trees {
		if t.total > 0 {
			only = t
			largest = max(largest, len(t.bytes))
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
	m.bytes = append(slices.Grow(m.bytes[:0], 2*largest), 0) // so that no run begins at 0
	var total, self int64
	for i := range m.trees {
		top := m.trees[i].read(m.trees[i].root)
		total, self = total+top.total, self+top.self
		m.addHeads(int32(i), top.below)
	}
	below := m.merge(0)
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
		label, _ := p.varint(r.labels)
		m.heads = append(m.heads, head{total: r.total, self: r.self, label: uint32(label), at: r.labels, left: r.count - 1, below: r.below, tree: tree})
		at = r.next
	}
}

// merge takes the heads from first on, which go on from the same stack, and writes their runs.
func (m *TreeMerger) merge(first int) (at uint32) {
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
		if r := &m.runs[i]; r.first == r.last {
			m.take(i)
		} else {
			m.finish(i)
		}
	}
	m.heads = m.heads[:first]
	at = m.write(begin)
	m.labels = m.labels[:labels]
	return at
}

// write writes the runs from begin on.
func (m *TreeMerger) write(begin int) (at uint32) {
	if begin == len(m.runs) {
		return 0
	}
	at = uint32(len(m.bytes))
	for i := begin; i < len(m.runs); i++ {
		r := &m.runs[i]
		m.bytes = appendHead(m.bytes, int(r.count), i < len(m.runs)-1, r.total, r.self, r.below)
		if r.tree < 0 {
			m.bytes = appendLabels(m.bytes, m.labels[r.labels:r.end])
		} else {
			m.bytes = append(m.bytes, m.trees[r.tree].bytes[r.labels:r.end]...)
		}
		m.count += int(r.count)
	}
	m.runs = m.runs[:begin]
	return at
}

// take makes a run of the rest of one that only one tree has, as it is there, and writes all that goes on from it.
func (m *TreeMerger) take(i int) {
	h := m.heads[m.runs[i].first]
	below := m.copyRuns(h.tree, h.below)
	m.runs[i] = mergedRun{total: h.total, self: h.self, labelRange: m.rangeOf(h.tree, h.at, h.left+1), below: below}
}

// copyRuns writes runs that go on from a stack that only one tree has.
func (m *TreeMerger) copyRuns(tree int32, at uint32) uint32 {
	p := &m.trees[tree]
	begin := len(m.runs)
	for at > 0 {
		r := p.read(at)
		below := m.copyRuns(tree, r.below)
		m.runs = append(m.runs, mergedRun{total: r.total, self: r.self, labelRange: m.rangeOf(tree, r.labels, r.count), below: below})
		at = r.next
	}
	return m.write(begin)
}

// finish makes a run that several trees have as long as it can be, and writes those that go on from it.
func (m *TreeMerger) finish(i int) {
	r := m.runs[i]
	own := len(m.heads) // heads of the last stack of the run begin here
	r.labelRange = labelRange{tree: -1, labels: uint32(len(m.labels))}
	for h := r.first + 1; h > 0; h = m.heads[h-1].next {
		m.heads = append(m.heads, m.heads[h-1])
		r.total += m.heads[h-1].total
	}
	m.labels = append(m.labels, m.heads[own].label)
	for {
		r.count++
		next := len(m.heads)
		r.self = m.goOn(own)
		if r.self > 0 || r.count == longestRun || !m.alike(next) {
			r.below = m.merge(next)
			break
		}
		m.labels = append(m.labels, m.heads[next].label)
		m.heads = append(m.heads[:own], m.heads[next:]...)
	}
	r.end = uint32(len(m.labels))
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
		p := &m.trees[h.tree]
		h.at = p.skip(h.at, 1)
		label, _ := p.varint(h.at)
		h.label, h.left, h.next = uint32(label), h.left-1, 0
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
