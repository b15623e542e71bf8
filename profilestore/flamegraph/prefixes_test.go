package flamegraph

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// forests adds stacks to trees of which each label is one to three frames, and to one set frame by frame.
func forests(r *rand.Rand) (trees, flat *Stacks) {
	trees, flat = new(Stacks), new(Stacks)
	chains := make([][]Frame, 8)
	for i := range chains {
		for j := range 1 + r.IntN(3) {
			n := r.IntN(6)
			chains[i] = append(chains[i], Frame{Function: fmt.Sprint("f", n), Binary: fmt.Sprint("lib", r.IntN(2)), File: fmt.Sprint("src", n), Inlined: j > 0})
		}
	}
	named := func(label uint32) (frames []int32) {
		for _, f := range chains[label] {
			frames = append(frames, trees.Frame(f))
		}
		return frames
	}
	var several []*Tree
	for range r.IntN(4) {
		n := 1 + r.IntN(60)
		callers, labels, values := make([]uint32, n), make([]uint32, n), make([]int64, n)
		stacks := make([][]int32, n)
		for i := range n {
			if i > 0 {
				callers[i], labels[i] = uint32(r.IntN(i)), uint32(r.IntN(len(chains)))
				stacks[i] = append(stacks[i], stacks[callers[i]]...)
				for _, f := range chains[labels[i]] {
					stacks[i] = append(stacks[i], flat.Frame(f))
				}
			}
			if r.IntN(2) == 0 {
				values[i] = r.Int64N(5)
			}
			flat.Add(stacks[i], values[i])
		}
		several = append(several, new(TreeWriter).Write(callers, labels, values, 1))
	}
	if len(several) > 0 && r.IntN(2) == 0 {
		several = []*Tree{new(TreeMerger).Merge(several)}
	}
	trees.AddTrees(legend(trees, named, len(chains)), several...)
	if r.IntN(3) == 0 {
		f := Frame{Function: "f1", File: "src1"}
		trees.Add([]int32{trees.Frame(f)}, 3)
		flat.Add([]int32{flat.Frame(f)}, 3)
	}
	return trees, flat
}

// legend is what labels mean that stand for frames of s.
func legend(s *Stacks, frames func(label uint32) []int32, labels int) *Legend {
	var list []function
	f := &Functions{Name: func(n int32) (name, binary string) { return list[n].name, list[n].binary }}
	number := func(frame int32) int32 {
		own := function{s.frames[frame].Function, s.frames[frame].Binary}
		if !slices.Contains(list, own) {
			list = append(list, own)
			f.Hashes = append(f.Hashes, HashFunction(own.name, own.binary))
		}
		return int32(slices.Index(list, own))
	}
	for l := range labels {
		var chain []int32
		for _, frame := range frames(uint32(l)) {
			chain = append(chain, number(frame))
		}
		if len(chain) == 1 {
			f.Of = append(f.Of, chain[0])
			continue
		}
		f.Chains = append(f.Chains, chain)
		f.Of = append(f.Of, -int32(len(f.Chains)))
	}
	return &Legend{frames, f}
}

func TestTreesEqualStacks(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	for range 2000 {
		trees, flat := forests(r)
		otherTrees, otherFlat := forests(r)
		var a, b Options
		a.MaxNodes = r.IntN(30)
		for range r.IntN(3) {
			a.Root = append(a.Root, fmt.Sprint("f", r.IntN(6)))
		}
		b = a
		if r.IntN(2) == 0 {
			a.B, b.B = otherTrees, otherFlat
			a.Normalize = r.IntN(2) == 0
			b.Normalize = a.Normalize
		}
		check := func(trees, flat *Stacks) {
			t.Helper()
			if trees.Total() != flat.Total() {
				t.Fatalf("total %d, want %d", trees.Total(), flat.Total())
			}
			if got, want := build(t, trees, a), build(t, flat, b); !reflect.DeepEqual(got, want) {
				t.Fatalf("Build:\n%s\nwant\n%s", draw(got), draw(want))
			}
			if got, want := top(t, trees, a), top(t, flat, b); !reflect.DeepEqual(got, want) {
				t.Fatalf("Top:\n%+v\nwant\n%+v", got, want)
			}
			got, err := BuildSandwich(t.Context(), trees, "f1", a)
			if err != nil {
				t.Fatal(err)
			}
			want, err := BuildSandwich(t.Context(), flat, "f1", b)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("BuildSandwich:\n%+v\nwant\n%+v", got, want)
			}
		}
		check(trees, flat)
		fs := filters(t, []string{"focus:f1", "ignore:f2", "hide:f3", "show_from:f[45]", "hide:src1"}[r.IntN(5)], []string{"focus:f", "hide:lib0", "show_from:lib1"}[r.IntN(3)])
		check(filtered(t, trees, fs...), filtered(t, flat, fs...))
	}
}

// Trees with long chains, large labels and large values are written and read again.
func TestTreeWriter(t *testing.T) {
	type step struct {
		label       int32
		self, total int64
	}
	r := rand.New(rand.NewPCG(15, 16))
	var w TreeWriter
	for range 2000 {
		n := 1 + r.IntN(100)
		callers, labels, own, values := make([]uint32, n), make([]uint32, n), make([]int64, n), make([]int64, n)
		unit := 1 + r.Int64N(3)
		totals := make([]int64, n)
		below := make([][]int, n)
		straight, rare := r.IntN(20), r.IntN(20)
		for i := range n {
			if i > 0 {
				callers[i], labels[i] = uint32(i-1), r.Uint32N(1<<r.IntN(31))
				if r.IntN(20) > straight {
					callers[i] = uint32(r.IntN(i))
				}
				below[callers[i]] = append(below[callers[i]], i)
			}
			if r.IntN(20) > rare {
				own[i] = r.Int64N(1 << r.IntN(50))
				values[i] = own[i] * unit
			}
		}
		count := 0
		for i := n - 1; i >= 0; i-- {
			totals[i] += values[i]
			if i > 0 {
				totals[callers[i]] += totals[i]
				if totals[i] > 0 {
					count++
				}
			}
		}
		var want, got []step
		var visit func(i int)
		visit = func(i int) {
			for _, c := range below[i] {
				if totals[c] > 0 {
					want = append(want, step{int32(labels[c]), values[c], totals[c]})
					visit(c)
					want = append(want, step{label: -1})
				}
			}
		}
		visit(0)
		p := w.write(callers, labels, own, unit)
		p.walk(t.Context(), func(frame int32, self, total int64) { got = append(got, step{frame, self, total}) }, func(int32) { got = append(got, step{label: -1}) })
		if !slices.Equal(got, want) {
			t.Fatalf("callers %v, labels %v, values %v: %v, want %v", callers, labels, values, got, want)
		}
		if root := p.read(p.root); p.count != count || p.total != totals[0] || root.total != totals[0] || root.self != values[0] || root.count != 0 {
			t.Fatalf("count %d, total %d, root %+v; want %d, %d, %d of its own", p.count, p.total, root, count, totals[0], values[0])
		}
	}
}

// The heaviest nodes are found class by class; here they are sorted.
func TestHeaviest(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	for range 300 {
		var lines []string
		for range 1 + r.IntN(80) {
			var stack []string
			for range 1 + r.IntN(5) {
				stack = append(stack, fmt.Sprint("f", r.IntN(4)))
			}
			lines = append(lines, fmt.Sprintf("%s %d\n", strings.Join(stack, ";"), 1+r.Int64N(1<<(1+r.IntN(20)))))
		}
		s := parse(t, strings.Join(lines, ""))
		whole := build(t, s, Options{})
		most := 1 + r.IntN(len(whole.Depth))
		kept := make(map[int64]int) // weights
		lightest := int64(1 << 62)
		weights := totals(build(t, s, Options{MaxNodes: most}))[1:]
		for _, w := range weights {
			kept[w]++
			lightest = min(lightest, w)
		}
		want := make(map[int64]int)
		for _, w := range totals(whole)[1:] {
			if w > lightest {
				want[w]++
			}
		}
		want[lightest] = kept[lightest]
		if !maps.Equal(kept, want) {
			t.Fatalf("most %d: weights %v, want %v", most, kept, want)
		}
	}
}

func TestRank(t *testing.T) {
	last := -1
	for _, w := range []int64{0, 1, 2, 7, 8, 9, 15, 16, 17, 18, 31, 32, 1 << 20, 1<<20 + 1<<17, 1<<62 - 1, 1 << 62, 1<<63 - 1} {
		if r := rank(w); r < last || r >= ranks {
			t.Errorf("rank of %d is %d after %d", w, r, last)
		} else {
			last = r
		}
	}
}

func TestCanceled(t *testing.T) {
	n := 4 * stacksBetween
	callers, labels, values := make([]uint32, n), make([]uint32, n), make([]int64, n)
	for i := range n {
		labels[i], values[i] = uint32(i%7), 1
	}
	s := new(Stacks)
	for i := range 7 {
		s.Frame(Frame{Function: fmt.Sprint("f", i)})
	}
	s.AddTrees(legend(s, func(label uint32) []int32 { return []int32{int32(label)} }, len(s.frames)), new(TreeWriter).Write(callers, labels, values, 1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, run := range map[string]func() error{
		"Build":         func() error { _, err := Build(ctx, s, Options{MaxNodes: 3}); return err },
		"Top":           func() error { _, err := Top(ctx, s, Options{}); return err },
		"BuildSandwich": func() error { _, err := BuildSandwich(ctx, s, "f1", Options{}); return err },
		"Invert":        func() error { _, err := Invert(ctx, s, Options{}); return err },
		"Filter":        func() error { _, err := s.Filter(ctx, filters(t, "focus:f1")...); return err },
		"Export":        func() error { return Export(ctx, io.Discard, s, Folded, "") },
	} {
		if err := run(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	walked := 0
	s.trees[0].walk(ctx, func(int32, int64, int64) { walked++ }, func(int32) {})
	if walked > stacksBetween {
		t.Errorf("%d of %d stacks were walked", walked, n)
	}
}

// BenchmarkTreeWriter writes a tree as profiles with many new stacks make it: most stacks are the only ones that go on from
// the one before.
func BenchmarkTreeWriter(b *testing.B) {
	const n = 1 << 17
	r := rand.New(rand.NewPCG(19, 20))
	callers, labels, values := make([]uint32, n), make([]uint32, n), make([]int64, n)
	for i := 1; i < n; i++ {
		callers[i], labels[i] = uint32(i-1), r.Uint32N(1000)
		if r.IntN(7) == 0 {
			values[i-1] = 1 + r.Int64N(9)
			callers[i] = uint32(r.IntN(i))
		}
	}
	b.SetBytes(n)
	var w TreeWriter
	for b.Loop() {
		w.Write(callers, labels, values, 1)
	}
}
