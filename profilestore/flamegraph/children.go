package flamegraph

// listed is how many children of a node are found by looking at one after the other, which is faster than a map as
// long as they are few; nearly all nodes have one or two.
const listed = 8

// edge leads from a node to its child for one label: a frame, or a function.
type edge struct{ node, label int32 }

// children finds the child of a node by its label. Nodes are numbered in the order in which they are added; -1 is
// the root.
type children struct {
	labels []int32 // of each node
	first  []int32 // child of each node, the root first; 0: none, else its number+1
	next   []int32 // sibling of each node, likewise
	more   map[edge]int32
}

// find returns a node's child, and adds it when it is not there.
func (c *children) find(node, label int32) (child int32, added bool) {
	if c.first == nil {
		c.first = []int32{0}
	}
	link := &c.first[node+1]
	for n := 0; *link > 0; n++ {
		at := *link - 1
		if c.labels[at] == label {
			return at, false
		}
		if n == listed-1 {
			return c.findMore(edge{node, label})
		}
		link = &c.next[at]
	}
	*link = int32(len(c.labels)) + 1
	return c.add(label), true
}

func (c *children) findMore(e edge) (child int32, added bool) {
	if child, ok := c.more[e]; ok {
		return child, false
	}
	if c.more == nil {
		c.more = make(map[edge]int32)
	}
	child = c.add(e.label)
	c.more[e] = child
	return child, true
}

func (c *children) add(label int32) int32 {
	c.labels = append(c.labels, label)
	c.first = append(c.first, 0)
	c.next = append(c.next, 0)
	return int32(len(c.labels)) - 1
}

// size estimates the memory held, in bytes, half of it in reserve.
func (c *children) size() int64 { return 2 * (12*int64(len(c.labels)) + 12*int64(len(c.more))) }
