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
	order := f.preorder(f.o.MaxNodes)
	if err := f.ctx.Err(); err != nil {
		return nil, err
	}
	if f.tooLarge() {
		return nil, ErrTooLarge
	}
	g := &Graph{
		Unit:        f.o.Unit,
		Total:       f.nodes[0].totals[0],
		FileNames:   []string{""},
		Depth:       make([]int32, len(order)),
		Name:        make([]int32, len(order)),
		PrunedCount: make([]int32, len(order)),
	}
	const unseen = -1
	names := slices.Repeat([]int32{unseen}, len(f.functions))
	files := map[string]int32{"": 0}
	for i, id := range order {
		n := &f.nodes[id]
		if i > 0 {
			g.Depth[i] = g.Depth[f.nodes[n.parent].order-1] + 1
		}
		if names[n.function] == unseen {
			fn := f.named(n.function)
			file, ok := files[fn.binary]
			if !ok {
				file = int32(len(g.FileNames))
				files[fn.binary] = file
				g.FileNames = append(g.FileNames, fn.binary)
			}
			names[n.function] = int32(len(g.Names))
			g.Names = append(g.Names, fn.name)
			g.Files = append(g.Files, file)
		}
		g.Name[i] = names[n.function]
		g.PrunedCount[i] = f.droppedOf(n).count
		for c := n.child; c < n.childEnd; c++ {
			if f.nodes[c].order == 0 {
				g.PrunedCount[i]++
			}
		}
	}
	g.Self, g.PrunedValue = f.values(0, order)
	if len(f.whole) > 1 {
		g.GraphB = &GraphB{TotalB: f.nodes[0].totals[1]}
		g.SelfB, g.PrunedValueB = f.values(1, order)
	}
	return g, nil
}

// values are the columns of one side.
func (f *forest) values(side int, order []int32) (self, pruned []int64) {
	self, pruned = make([]int64, len(order)), make([]int64, len(order))
	for i, id := range order {
		n := &f.nodes[id]
		pruned[i] = f.droppedOf(n).totals[side]
		self[i] = n.totals[side] - pruned[i]
		for c := n.child; c < n.childEnd; c++ {
			self[i] -= f.nodes[c].totals[side]
			if f.nodes[c].order == 0 {
				pruned[i] += f.nodes[c].totals[side]
			}
		}
	}
	return self, pruned
}
