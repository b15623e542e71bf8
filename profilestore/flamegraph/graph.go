package flamegraph

import (
	"context"
	"slices"
)

// Options say what is wanted. The zero value is all of one thing.
type Options struct {
	Unit      string   // copied into the answer
	MaxNodes  int      // of a graph, besides node 0; the lightest are pruned; 0: all, 2 million at most
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
// Options.Root, siblings that have a name of the path in different binaries are taken together (node 0 has the first of
// them by name); a path that leads nowhere gives a tree with the total 0. The error is [ErrTooLarge] or that of ctx.
func Build(ctx context.Context, s *Stacks, o Options) (*Graph, error) {
	f := newForest(ctx, o.rootName(), &o, o.sides(s))
	f.addSides()
	f.begin(f.follow(o.Root))
	return f.graph()
}

// graph writes the tree in columns, unless the context has ended or there are too many nodes.
func (f *forest) graph() (*Graph, error) {
	defer f.leave()
	g := &Graph{Unit: f.o.Unit, Total: f.nodes[0].totals[0], FileNames: []string{""}}
	if len(f.whole) > 1 {
		g.GraphB = &GraphB{TotalB: f.nodes[0].totals[1]}
	}
	var names []int32 // by function: index of g.Names, +1; 0: not there yet
	files := map[string]int32{"": 0}
	l := f.heaviest(f.o.MaxNodes)
	g.grow(1 + min(f.o.MaxNodes, len(f.nodes)-1))
	for n := range f.preorder(l) {
		if missing := len(f.functions) - len(names); missing > 0 {
			names = append(names, make([]int32, missing)...)
		}
		name := &names[n.function]
		if *name == 0 {
			fn := f.named(n.function)
			file, ok := files[fn.binary]
			if !ok {
				file = int32(len(g.FileNames))
				files[fn.binary] = file
				g.FileNames = append(g.FileNames, fn.binary)
			}
			g.Names = append(g.Names, fn.name)
			g.Files = append(g.Files, file)
			*name = int32(len(g.Names))
		}
		g.add(&n, *name-1)
	}
	if err := f.ctx.Err(); err != nil {
		return nil, err
	}
	if f.tooLarge() {
		return nil, ErrTooLarge
	}
	return g, nil
}

// grow makes room for so many nodes.
func (g *Graph) grow(nodes int) {
	g.Depth, g.Name, g.PrunedCount = slices.Grow(g.Depth, nodes), slices.Grow(g.Name, nodes), slices.Grow(g.PrunedCount, nodes)
	g.Self, g.PrunedValue = slices.Grow(g.Self, nodes), slices.Grow(g.PrunedValue, nodes)
	if g.GraphB != nil {
		g.SelfB, g.PrunedValueB = slices.Grow(g.SelfB, nodes), slices.Grow(g.PrunedValueB, nodes)
	}
}

// add appends a node, whose children are all pruned until they come.
func (g *Graph) add(n *survivor, name int32) {
	depth, parent := int32(0), n.parent
	if parent >= 0 {
		depth = g.Depth[parent] + 1
		g.PrunedCount[parent]--
		g.PrunedValue[parent] -= n.totals[0]
	}
	g.Depth = append(g.Depth, depth)
	g.Name = append(g.Name, name)
	g.Self = append(g.Self, n.totals[0]-n.children.totals[0])
	g.PrunedCount = append(g.PrunedCount, n.children.count)
	g.PrunedValue = append(g.PrunedValue, n.children.totals[0])
	if g.GraphB == nil {
		return
	}
	if parent >= 0 {
		g.PrunedValueB[parent] -= n.totals[1]
	}
	g.SelfB = append(g.SelfB, n.totals[1]-n.children.totals[1])
	g.PrunedValueB = append(g.PrunedValueB, n.children.totals[1])
}
