package flamegraph

import "slices"

// Options say what is wanted. The zero value is all of one thing.
type Options struct {
	Unit      string   // copied into the answer
	MaxNodes  int      // of a graph, besides node 0; the lightest are pruned; 0: no limit
	Root      []string // of Build and Invert: functions from the root to the node wanted, see ParsePath; empty: everything
	B         *Stacks  // what is compared with the stacks given; nil: nothing
	Normalize bool     // weigh each side of a diff as shares of its total; the values in the answer stay as they are
}

// sides are A and, in a diff, B.
func (o *Options) sides(s *Stacks) []*Stacks {
	if o.B == nil {
		return []*Stacks{s}
	}
	return []*Stacks{s, o.B}
}

// rootName is what node 0 is called, also if the path leads nowhere.
func (o *Options) rootName() string {
	if len(o.Root) == 0 {
		return "total"
	}
	return o.Root[len(o.Root)-1]
}

// Graph is a call tree in preorder, the heaviest child first (ties by function, then by binary), one slice per
// column. Node 0 is the root: "total", or the function that the graph was asked for. The total of a node is
// Self + PrunedValue + the totals of its children; that of node 0 is Total. A node of a diff weighs as much as
// the heavier of its two sides.
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

	*GraphB
}

// GraphB are the columns that a diff has besides; in another graph they are nil. The same sums hold for them.
type GraphB struct {
	TotalB       int64   `json:"total_b"`
	SelfB        []int64 `json:"self_b"`
	PrunedValueB []int64 `json:"pruned_value_b"`
}

// Build makes the call tree of functions: frames that differ only in source file or line are one node. With
// Options.Root, siblings that have a name of the path in different binaries are taken together; a path that
// leads nowhere gives a tree with the total 0.
func Build(s *Stacks, o Options) *Graph {
	sides := o.sides(s)
	t := newTree(o.rootName(), len(sides))
	for i, sd := range sides {
		t.addBelow(i, sd, o.Root)
	}
	t.finish(&o, sides...)
	return t.graph(&o)
}

// graph writes the tree in columns.
func (t *tree) graph(o *Options) *Graph {
	order := t.preorder(o.MaxNodes)
	g := &Graph{
		Unit:        o.Unit,
		Total:       t.sides[0].total[0],
		FileNames:   []string{""},
		Depth:       make([]int32, len(order)),
		Name:        make([]int32, len(order)),
		PrunedCount: make([]int32, len(order)),
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
	}
	for node := 1; node < len(t.parent); node++ {
		if p := position[t.parent[node]]; position[node] == unseen && p != unseen {
			g.PrunedCount[p]++
		}
	}
	g.Self, g.PrunedValue = t.values(0, order, position)
	if len(t.sides) > 1 {
		g.GraphB = &GraphB{TotalB: t.sides[1].total[0]}
		g.SelfB, g.PrunedValueB = t.values(1, order, position)
	}
	return g
}

// values are the columns of one side. position is negative for a node that was pruned.
func (t *tree) values(of int, order, position []int32) (self, pruned []int64) {
	sd := t.sides[of]
	self, pruned = make([]int64, len(order)), make([]int64, len(order))
	for i, node := range order {
		self[i] = sd.self[node]
	}
	for node := 1; node < len(t.parent); node++ {
		if p := position[t.parent[node]]; position[node] < 0 && p >= 0 {
			pruned[p] += sd.total[node]
		}
	}
	return self, pruned
}
