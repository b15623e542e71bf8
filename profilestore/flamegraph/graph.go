package flamegraph

import (
	"cmp"
	"slices"
	"sort"
	"strings"
)

// Options say which part of the tree is wanted. The zero value is all of it.
type Options struct {
	Unit     string   // copied into the answer
	MaxNodes int      // nodes besides node 0; the lightest are pruned; 0: no limit
	Root     []string // functions from the root to the node wanted, see ParsePath; empty: everything
}

// Graph is a call tree in preorder, the heaviest child first (ties by function, then by binary), one slice per
// column. Node 0 is the root: "total", or the function that Options.Root leads to. The total of a node is
// Self + PrunedValue + the totals of its children; that of node 0 is Total.
type Graph struct {
	Unit      string   `json:"unit"`
	Total     int64    `json:"total"`
	Names     []string `json:"names"`      // of functions
	Files     []int32  `json:"files"`      // for each of Names its binary, an index of FileNames
	FileNames []string `json:"file_names"` // the first is "": unknown

	Depth       []int32 `json:"depth"` // 0 is node 0
	Name        []int32 `json:"name"`  // index of Names
	Self        []int64 `json:"self"`
	PrunedCount []int32 `json:"pruned_count"` // children left out
	PrunedValue []int64 `json:"pruned_value"` // their totals
}

// function is what makes two frames the same node.
type function struct{ name, binary string }

// Build makes the call tree of functions: frames that differ only in source file or line are one node. With
// Options.Root, siblings that have a name of the path in different binaries are taken together; a path that
// leads nowhere gives a tree with the total 0.
func Build(s *Stacks, o Options) *Graph {
	t := newTree(s, o.Root)
	order := t.preorder(o.MaxNodes)

	g := &Graph{
		Unit:        o.Unit,
		Total:       t.total[0],
		FileNames:   []string{""},
		Depth:       make([]int32, len(order)),
		Name:        make([]int32, len(order)),
		Self:        make([]int64, len(order)),
		PrunedCount: make([]int32, len(order)),
		PrunedValue: make([]int64, len(order)),
	}
	const unseen = -1
	position := slices.Repeat([]int32{unseen}, len(t.parent)) // in order; unseen: pruned
	names := slices.Repeat([]int32{unseen}, len(t.functions))
	files := map[string]int32{"": 0}
	for i, node := range order {
		position[node] = int32(i)
		if i > 0 {
			g.Depth[i] = g.Depth[position[t.parent[node]]] + 1
		}
		f := t.function[node]
		if names[f] == unseen {
			file, ok := files[t.functions[f].binary]
			if !ok {
				file = int32(len(g.FileNames))
				files[t.functions[f].binary] = file
				g.FileNames = append(g.FileNames, t.functions[f].binary)
			}
			names[f] = int32(len(g.Names))
			g.Names = append(g.Names, t.functions[f].name)
			g.Files = append(g.Files, file)
		}
		g.Name[i] = names[f]
		g.Self[i] = t.self[node]
	}
	for node := 1; node < len(t.parent); node++ {
		if position[node] != unseen {
			continue
		}
		if p := position[t.parent[node]]; p != unseen {
			g.PrunedCount[p]++
			g.PrunedValue[p] += t.total[node]
		}
	}
	return g
}

// tree is Stacks with frames reduced to functions, below one node. A parent comes before its children.
type tree struct {
	functions []function
	parent    []int32 // of node 0: 0
	function  []int32
	self      []int64
	total     []int64
}

func newTree(s *Stacks, root []string) *tree {
	t := &tree{functions: []function{{name: "total"}}, parent: []int32{0}, function: []int32{0}, self: []int64{0}}
	ids := map[function]int32{}
	functionOf := make([]int32, len(s.frames))
	for i, f := range s.frames {
		fn := function{f.Function, f.Binary}
		id, ok := ids[fn]
		if !ok {
			id = int32(len(t.functions))
			ids[fn] = id
			t.functions = append(t.functions, fn)
		}
		functionOf[i] = id
	}
	if len(root) == 0 {
		t.self[0] = s.root
	} else {
		t.functions[0].name = root[len(root)-1] // stands if the path leads nowhere
	}

	// For each node of s: the node of t, or if it lies on the path to the root wanted -1-(functions of the path
	// that are behind it), or elsewhere.
	const elsewhere = -1 << 31
	at := make([]int32, len(s.parent))
	children := make(map[edge]int32)
	for i, p := range s.parent {
		above := int32(0)
		if p >= 0 {
			above = at[p]
		} else if len(root) > 0 {
			above = -1
		}
		fn := functionOf[s.frame[i]]
		var node int32
		switch {
		case above == elsewhere:
			at[i] = elsewhere
			continue
		case above < 0:
			matched := int(-1 - above)
			if t.functions[fn].name != root[matched] {
				at[i] = elsewhere
				continue
			}
			if matched+1 < len(root) {
				at[i] = above - 1
				continue
			}
			if t.function[0] == 0 {
				t.function[0] = fn
			}
		default:
			e := edge{above, fn}
			var ok bool
			if node, ok = children[e]; !ok {
				node = int32(len(t.parent))
				children[e] = node
				t.parent = append(t.parent, above)
				t.function = append(t.function, fn)
				t.self = append(t.self, 0)
			}
		}
		at[i] = node
		t.self[node] += s.self[i]
	}
	t.total = slices.Clone(t.self)
	for node := len(t.parent) - 1; node > 0; node-- {
		t.total[t.parent[node]] += t.total[node]
	}
	return t
}

// preorder lists the nodes that survive, in the order of Graph. Of nodes that are equally heavy the first
// in preorder survive: so a parent always does when its child does, and the order of Add does not matter.
func (t *tree) preorder(maxNodes int) []int32 {
	lightest, ties := int64(0), len(t.parent)
	if maxNodes > 0 && maxNodes < len(t.parent)-1 {
		totals := slices.Clone(t.total[1:])
		slices.Sort(totals)
		lightest = totals[len(totals)-maxNodes]
		heavier := sort.Search(len(totals), func(i int) bool { return totals[i] > lightest })
		ties = maxNodes - (len(totals) - heavier)
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
		if t.total[node] >= lightest {
			end[t.parent[node]]++
		}
	}
	for node := 1; node < len(end); node++ {
		end[node] += end[node-1]
	}
	list := make([]int32, end[len(end)-1])
	fill := slices.Clone(end)
	for node := 1; node < len(t.parent); node++ {
		if t.total[node] >= lightest {
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
		if node != 0 && t.total[node] == lightest {
			if ties == 0 {
				continue // its children are no heavier and come later
			}
			ties--
		}
		order = append(order, node)
		children := list[fill[node]:end[node]]
		slices.SortFunc(children, func(a, b int32) int {
			return cmp.Or(cmp.Compare(t.total[a], t.total[b]), cmp.Compare(rank[t.function[b]], rank[t.function[a]]))
		})
		stack = append(stack, children...)
	}
	return order
}
