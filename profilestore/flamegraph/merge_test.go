package flamegraph

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// grown is stacks of which each goes on from another one, few have values, and many go straight on.
func grown(r *rand.Rand, n int) (callers, labels []uint32, values []int64) {
	callers, labels, values = make([]uint32, n), make([]uint32, n), make([]int64, n)
	taken := make(map[[2]uint32]bool)
	for i := 1; i < n; i++ {
		for ok := false; !ok; {
			callers[i], labels[i] = uint32(i-1), uint32(r.IntN(300))
			if r.IntN(5) == 0 {
				callers[i] = uint32(r.IntN(i))
			}
			key := [2]uint32{callers[i], labels[i]}
			ok = !taken[key]
			taken[key] = true
		}
	}
	return callers, labels, values
}

// Trees of the same stacks with other values each, and some stacks that only one has, become the tree that is written of all
// their stacks and the sums of their values.
func TestMerge(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	m := new(TreeMerger)
	for round := range 300 {
		n, unit := 1+r.IntN(2000), int64(1+r.IntN(3))
		callers, labels, sum := grown(r, n)
		all := slices.Clone(callers)
		allLabels := slices.Clone(labels)
		var trees []*Tree
		for range 1 + r.IntN(6) {
			own, ownLabels, values := slices.Clone(callers), slices.Clone(labels), make([]int64, n)
			for range r.IntN(n) {
				i := r.IntN(n)
				v := r.Int64N(300)
				values[i] += v
				sum[i] += v
			}
			first := len(all) - n // of its own stacks: how much later they come in the tree of all
			for range r.IntN(20) {
				at, label, value := r.IntN(len(own)), uint32(300+len(all)), r.Int64N(3)
				own, ownLabels, values = append(own, uint32(at)), append(ownLabels, label), append(values, value)
				if at >= n {
					at += first
				}
				all, allLabels, sum = append(all, uint32(at)), append(allLabels, label), append(sum, value)
			}
			trees = append(trees, new(TreeWriter).Write(own, ownLabels, values, unit))
		}
		var before [][]byte
		for _, tree := range trees {
			before = append(before, slices.Clone(tree.bytes))
		}
		got, want := m.Merge(trees), new(TreeWriter).Write(all, allLabels, sum, unit)
		if got.total != want.total || got.count != want.count || got.unit != want.unit && got.total > 0 {
			t.Fatalf("round %d: total %d of %d stacks, want %d of %d", round, got.total, got.count, want.total, want.count)
		}
		if g, w := listing(t, got), listing(t, want); !slices.Equal(g, w) {
			t.Fatalf("round %d:\n%v\nwant\n%v", round, g, w)
		}
		for i, tree := range trees {
			if !bytes.Equal(tree.bytes, before[i]) {
				t.Fatalf("round %d: tree %d has changed", round, i)
			}
		}
		if limit := 2*len(want.bytes) + 16; len(got.bytes) > limit {
			t.Errorf("round %d: %d bytes, want %d at most", round, len(got.bytes), limit)
		}
	}
}

// listing is the stacks of a tree with their values, sorted.
func listing(t *testing.T, tree *Tree) (all []string) {
	t.Helper()
	path := []int32{}
	tree.walk(t.Context(), func(label int32, self, total int64) {
		path = append(path, label)
		all = append(all, fmt.Sprint(path, self, total))
	}, func(int32) { path = path[:len(path)-1] })
	slices.Sort(all)
	return all
}

func BenchmarkMerge(b *testing.B) {
	r := rand.New(rand.NewPCG(15, 16))
	callers, labels, _ := grown(r, 30_000)
	var trees []*Tree
	for range 20 {
		c, l := slices.Clone(callers), slices.Clone(labels)
		values := make([]int64, len(c))
		for i := range values {
			if r.IntN(10) == 0 {
				values[i] = 60
			}
		}
		for range 5000 { // stacks that no other tree has
			at := uint32(r.IntN(len(callers)))
			for range 5 {
				c, l, values = append(c, at), append(l, 300+uint32(r.IntN(9000))), append(values, 0)
				at = uint32(len(c) - 1)
			}
			values[at] = 1
		}
		trees = append(trees, new(TreeWriter).Write(c, l, values, 1))
	}
	m := new(TreeMerger)
	b.ReportAllocs()
	count := 0
	for b.Loop() {
		count = m.Merge(trees).count
	}
	b.ReportMetric(float64(count), "stacks")
}
