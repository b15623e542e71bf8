package flamegraph

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// plainNode is a node of a call tree that is made with nothing of what makes the others.
type plainNode struct {
	function
	depth    int
	totals   [2]int64
	self     [2]int64
	weight   int64
	children []*plainNode
	survives bool
}

// plainStack is one with its value on one of the sides.
type plainStack struct {
	path  []function
	side  int
	value int64
}

// plainTree lists all nodes in preorder, and says which are the heaviest ones besides the first.
func plainTree(stacks []plainStack, most int, weigh func([2]int64) int64) []*plainNode {
	top := &plainNode{function: function{name: "total"}}
	for _, s := range stacks {
		n := top
		n.totals[s.side] += s.value
		for _, fn := range s.path {
			i := slices.IndexFunc(n.children, func(c *plainNode) bool { return c.function == fn })
			if i < 0 {
				i = len(n.children)
				n.children = append(n.children, &plainNode{function: fn, depth: n.depth + 1})
			}
			n = n.children[i]
			n.totals[s.side] += s.value
		}
		n.self[s.side] += s.value
	}
	var all []*plainNode
	var list func(n *plainNode)
	list = func(n *plainNode) {
		all = append(all, n)
		for _, c := range n.children {
			c.weight = weigh(c.totals)
		}
		slices.SortFunc(n.children, func(a, b *plainNode) int {
			return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(a.name, b.name), cmp.Compare(a.binary, b.binary))
		})
		for _, c := range n.children {
			list(c)
		}
	}
	list(top)
	heaviest := slices.Clone(all[1:])
	slices.SortStableFunc(heaviest, func(a, b *plainNode) int { return cmp.Compare(b.weight, a.weight) })
	if most > 0 {
		heaviest = heaviest[:min(most, len(heaviest))]
	}
	top.survives = true
	for _, n := range heaviest {
		n.survives = true
	}
	return all
}

// drawPlain writes what of a tree survives, as drawSides writes a graph.
func drawPlain(all []*plainNode) string {
	var b strings.Builder
	for _, n := range all {
		if !n.survives {
			continue
		}
		var pruned [2]int64
		count := 0
		for _, c := range n.children {
			if !c.survives {
				count++
				pruned[0], pruned[1] = pruned[0]+c.totals[0], pruned[1]+c.totals[1]
			}
		}
		fmt.Fprintln(&b, n.depth, n.function, n.self, count, pruned)
	}
	return b.String()
}

func drawSides(g *Graph) string {
	var b strings.Builder
	for i := range g.Depth {
		self, pruned := [2]int64{g.Self[i]}, [2]int64{g.PrunedValue[i]}
		if g.GraphB != nil {
			self[1], pruned[1] = g.SelfB[i], g.PrunedValueB[i]
		}
		fmt.Fprintln(&b, g.Depth[i], function{g.Names[g.Name[i]], g.FileNames[g.Files[g.Name[i]]]}, self, g.PrunedCount[i], pruned)
	}
	return b.String()
}

// deepTrees adds stacks to s that go a part of one of the ways, and rarely elsewhere then: as trees, of which some are merged,
// with a legend of their own. A label is one to three frames, cut off each time anew. It returns the same stacks.
func deepTrees(r *rand.Rand, s *Stacks, side int, ways [][]function) (plain []plainStack) {
	var chains [][]function
	var trees []*Tree
	unit := 1 + r.Int64N(3)
	for range 1 + r.IntN(4) {
		type step struct{ caller, label uint32 }
		known := make(map[step]uint32)
		callers, labels, values := []uint32{0}, []uint32{0}, []int64{0}
		for range 1 + r.IntN(6) {
			way := ways[r.IntN(len(ways))]
			stack := slices.Clone(way[:r.IntN(len(way)+1)])
			if r.IntN(3) == 0 {
				stack = append(stack, way[0])
			}
			at := uint32(0)
			for rest := stack; len(rest) > 0; {
				n := min(len(rest), max(1, r.IntN(6)-2))
				l := slices.IndexFunc(chains, func(c []function) bool { return slices.Equal(c, rest[:n]) })
				if l < 0 {
					l = len(chains)
					chains = append(chains, rest[:n])
				}
				rest = rest[n:]
				next := step{at, uint32(l)}
				if known[next] == 0 {
					known[next] = uint32(len(callers))
					callers, labels, values = append(callers, at), append(labels, uint32(l)), append(values, 0)
				}
				at = known[next]
			}
			value := 1 + r.Int64N(4)
			values[at] += value
			plain = append(plain, plainStack{stack, side, value * unit})
		}
		trees = append(trees, new(TreeWriter).Write(callers, labels, values, unit))
	}
	if r.IntN(3) == 0 {
		trees = []*Tree{new(TreeMerger).Merge(trees)}
	}
	frames := func(label uint32) (frames []int32) {
		for _, fn := range chains[label] {
			frames = append(frames, s.Frame(Frame{Function: fn.name, Binary: fn.binary}))
		}
		return frames
	}
	s.AddTrees(legend(s, frames, len(chains)), trees...)
	return plain
}

func TestBuildEqualsPlainTree(t *testing.T) {
	r := rand.New(rand.NewPCG(17, 18))
	for round := range 3000 {
		ways := make([][]function, 1+r.IntN(3))
		functions := 2 + r.IntN(8)
		for i := range ways {
			if i > 0 {
				ways[i] = slices.Clone(ways[0][:r.IntN(len(ways[0]))])
			}
			for range 1 + r.IntN(60) {
				ways[i] = append(ways[i], function{fmt.Sprint("f", r.IntN(functions)), fmt.Sprint("lib", r.IntN(2))})
			}
		}
		a, o := new(Stacks), Options{MaxNodes: r.IntN(100), Normalize: r.IntN(2) == 0}
		var plain []plainStack
		for range 1 + r.IntN(2) {
			plain = append(plain, deepTrees(r, a, 0, ways)...)
		}
		weigh := func(totals [2]int64) int64 { return totals[0] }
		if r.IntN(2) == 0 {
			o.B = new(Stacks)
			plain = append(plain, deepTrees(r, o.B, 1, ways)...)
			weigh = func(totals [2]int64) int64 { return max(o.scaled(totals[0], totals[1], o.sides(a))) }
		}
		if got, want := drawSides(build(t, a, o)), drawPlain(plainTree(plain, o.MaxNodes, weigh)); got != want {
			t.Fatalf("round %d, %d nodes:\n%s\nwant\n%s", round, o.MaxNodes, got, want)
		}
	}
}
