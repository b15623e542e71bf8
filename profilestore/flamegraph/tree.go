package flamegraph

import (
	"cmp"
	"math/bits"
	"slices"
	"sort"
	"strings"
)

// function is what makes two frames the same node.
type function struct{ name, binary string }

// side is one of the two things that a diff compares.
type side struct{ self, total []int64 } // by node

// tree is what some stacks have in common when frames are reduced to functions, below one node. A parent comes
// before its children.
type tree struct {
	functions []function
	ids       map[function]int32
	parent    []int32 // of node 0: 0
	function  []int32
	children  children // labelled by function; node 0 is their root
	sides     []side   // A, and B in a diff
	weight    []int64  // what nodes are ordered and pruned by; no parent has less than its child
}

// newTree makes a tree of a node 0 with this name.
func newTree(name string, sides int) *tree {
	t := &tree{
		functions: []function{{name: name}},
		ids:       make(map[function]int32),
		parent:    []int32{0},
		function:  []int32{0},
		sides:     make([]side, sides),
	}
	for i := range t.sides {
		t.sides[i].self = []int64{0}
	}
	return t
}

// functionsOf numbers the functions of the frames of s.
func (t *tree) functionsOf(s *Stacks) []int32 {
	of := make([]int32, len(s.frames))
	for i, f := range s.frames {
		fn := function{f.Function, f.Binary}
		id, ok := t.ids[fn]
		if !ok {
			id = int32(len(t.functions))
			t.ids[fn] = id
			t.functions = append(t.functions, fn)
		}
		of[i] = id
	}
	return of
}

// child returns the child of a node for a function.
func (t *tree) child(node, fn int32) int32 {
	below, added := t.children.find(node-1, fn)
	if added {
		t.parent = append(t.parent, node)
		t.function = append(t.function, fn)
		for i := range t.sides {
			t.sides[i].self = append(t.sides[i].self, 0)
		}
	}
	return below + 1
}

// found gives node 0 the function that was looked for by its name, of the first binary that has it.
func (t *tree) found(fn int32) {
	if t.function[0] == 0 {
		t.function[0] = fn
	}
}

// elsewhere marks the prefixes that do not lead to or from the node wanted.
const elsewhere = -1 << 31

// addBelow adds what lies below the path root, or everything.
func (t *tree) addBelow(to int, s *Stacks, root []string) {
	functionOf := t.functionsOf(s)
	if len(root) == 0 {
		t.sides[to].self[0] += s.root
	}
	// For each prefix its node, or if it lies on the path -1-(functions of the path that are behind it), or
	// elsewhere.
	at := make([]int32, len(s.parent))
	for i, p := range s.parent {
		above := int32(0)
		if p >= 0 {
			above = at[p]
		} else if len(root) > 0 {
			above = -1
		}
		fn := functionOf[s.labels[i]]
		switch {
		case above == elsewhere:
			at[i] = elsewhere
			continue
		case above >= 0:
			at[i] = t.child(above, fn)
		default:
			matched := int(-1 - above)
			if t.functions[fn].name != root[matched] {
				at[i] = elsewhere
				continue
			}
			if matched+1 < len(root) {
				at[i] = above - 1
				continue
			}
			t.found(fn)
		}
		t.sides[to].self[at[i]] += s.self[i]
	}
}

// finish sums up the totals and weighs the nodes.
func (t *tree) finish(o *Options, whole ...*Stacks) {
	for i := range t.sides {
		sd := &t.sides[i]
		sd.total = slices.Clone(sd.self)
		for node := len(t.parent) - 1; node > 0; node-- {
			sd.total[t.parent[node]] += sd.total[node]
		}
	}
	t.weight = t.sides[0].total
	if len(t.sides) == 1 {
		return
	}
	t.weight = make([]int64, len(t.parent))
	for node := range t.weight {
		a, b := o.scaled(t.sides[0].total[node], t.sides[1].total[node], whole)
		t.weight[node] = max(a, b)
	}
}

// scaled makes values of the two sides comparable: as they are, or in 2^-62 of all that their side has.
func (o *Options) scaled(a, b int64, whole []*Stacks) (int64, int64) {
	if !o.Normalize {
		return a, b
	}
	return share(a, whole[0].total), share(b, whole[1].total)
}

func share(value, total int64) int64 {
	if total == 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(value), 1<<62)
	quotient, _ := bits.Div64(hi, lo, uint64(total)) // value <= total, so that it fits
	return int64(quotient)
}

// preorder lists the nodes that survive, in the order of Graph. Of nodes that are equally heavy the first
// in preorder survive: so a parent always does when its child does, and the order of Add does not matter.
func (t *tree) preorder(maxNodes int) []int32 {
	lightest, ties := int64(0), len(t.parent)
	if maxNodes > 0 && maxNodes < len(t.parent)-1 {
		weights := slices.Clone(t.weight[1:])
		slices.Sort(weights)
		lightest = weights[len(weights)-maxNodes]
		heavier := sort.Search(len(weights), func(i int) bool { return weights[i] > lightest })
		ties = maxNodes - (len(weights) - heavier)
	}

	rank := make([]int32, len(t.functions)) // by function, then binary
	byName := make([]int32, len(t.functions))
	for i := range byName {
		byName[i] = int32(i)
	}
	slices.SortFunc(byName, func(a, b int32) int {
		fa, fb := t.functions[a], t.functions[b]
		return cmp.Or(strings.Compare(fa.name, fb.name), strings.Compare(fa.binary, fb.binary), cmp.Compare(a, b))
	})
	for r, f := range byName {
		rank[f] = int32(r)
	}

	// The children of node n that are heavy enough are list[end[n-1]:end[n]], the next to visit last, so that
	// they can be pushed as they stand.
	end := make([]int32, len(t.parent))
	for node := 1; node < len(t.parent); node++ {
		if t.weight[node] >= lightest {
			end[t.parent[node]]++
		}
	}
	for node := 1; node < len(end); node++ {
		end[node] += end[node-1]
	}
	list := make([]int32, end[len(end)-1])
	fill := slices.Clone(end)
	for node := 1; node < len(t.parent); node++ {
		if t.weight[node] >= lightest {
			p := t.parent[node]
			fill[p]--
			list[fill[p]] = int32(node)
		}
	}

	order := make([]int32, 0, len(list)+1)
	stack := []int32{0}
	for len(stack) > 0 {
		node := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if node != 0 && t.weight[node] == lightest {
			if ties == 0 {
				continue // its children are no heavier and come later
			}
			ties--
		}
		order = append(order, node)
		children := list[fill[node]:end[node]]
		slices.SortFunc(children, func(a, b int32) int {
			return cmp.Or(cmp.Compare(t.weight[a], t.weight[b]), cmp.Compare(rank[t.function[b]], rank[t.function[a]]))
		})
		stack = append(stack, children...)
	}
	return order
}

// walk calls enter for each node below node 0 before those below it, and leave after them.
func (t *tree) walk(enter, leave func(node int32)) {
	var path []int32
	for _, node := range t.preorder(0)[1:] {
		for len(path) > 0 && path[len(path)-1] != t.parent[node] {
			leave(path[len(path)-1])
			path = path[:len(path)-1]
		}
		path = append(path, node)
		enter(node)
	}
	for _, node := range slices.Backward(path) {
		leave(node)
	}
}
