package flamegraph

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// flat makes the table of one side of a diff.
func flat(rows []Row, b bool) map[string][2]int64 {
	m := make(map[string][2]int64)
	for _, r := range rows {
		v := [2]int64{r.Self, r.Total}
		if b {
			v = [2]int64{r.SelfB, r.RowB.TotalB}
		}
		if v != [2]int64{} {
			m[r.Function] = v
		}
	}
	return m
}

// sideB is the graph of B alone that a diff has in it.
func sideB(g *Graph) *Graph {
	b := *g
	b.Total, b.Self, b.PrunedValue, b.GraphB = g.TotalB, g.SelfB, g.PrunedValueB, nil
	return &b
}

// totals adds up each node as Graph says.
func totals(g *Graph) []int64 {
	total := make([]int64, len(g.Depth))
	var path []int
	for i, d := range g.Depth {
		path = append(path[:d], i)
		for _, p := range path {
			total[p] += g.Self[i] + g.PrunedValue[i]
		}
	}
	return total
}

func TestDiffProperties(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 200 {
		a := parse(t, strings.Join(random(r, 1+r.IntN(40)), ""))
		b := parse(t, strings.Join(random(r, r.IntN(40)), ""))
		for _, normalize := range []bool{false, true} {
			whole := build(t, a, Options{B: b, Normalize: normalize})
			g := build(t, a, Options{B: b, Normalize: normalize, MaxNodes: 1 + r.IntN(len(whole.Depth))})
			if g.Total != a.Total() || g.TotalB != b.Total() {
				t.Fatalf("totals %d and %d, want %d and %d", g.Total, g.TotalB, a.Total(), b.Total())
			}
			ta, tb := totals(g), totals(sideB(g))
			if ta[0] != g.Total || tb[0] != g.TotalB {
				t.Fatalf("root %d and %d, totals %d and %d", ta[0], tb[0], g.Total, g.TotalB)
			}
			decoded, err := DecodeColumns(g.AppendColumns(nil))
			if err != nil || !reflect.DeepEqual(g, decoded) {
				t.Fatalf("columns: %v\n%+v\n%+v", err, g, decoded)
			}

			// Swapped, it is the same tree with the sides changed.
			swapped := build(t, b, Options{B: a, Normalize: normalize, MaxNodes: len(g.Depth) - 1})
			if !slices.Equal(swapped.Self, g.SelfB) || !slices.Equal(swapped.SelfB, g.Self) || !slices.Equal(swapped.Depth, g.Depth) {
				t.Fatalf("swapped:\n%s\n%s", draw(g), draw(swapped))
			}

			table := top(t, a, Options{B: b, Normalize: normalize})
			if got, want := flat(table.Rows, false), flat(top(t, a, Options{}).Rows, false); !reflect.DeepEqual(got, want) {
				t.Fatalf("A: %v, want %v", got, want)
			}
			if got, want := flat(table.Rows, true), flat(top(t, b, Options{}).Rows, false); !reflect.DeepEqual(got, want) {
				t.Fatalf("B: %v, want %v", got, want)
			}
		}
	}
}

// Of two runs of different length each function has the same share: absolute, the longest is pruned last;
// normalised, the one whose share changed most.
func TestNormalize(t *testing.T) {
	a := parse(t, "big 900\nsmall 10\n")
	b := parse(t, "big 90\nsmall 9\n")
	if rows := top(t, a, Options{B: b}).Rows; rows[0].Function != "big" {
		t.Errorf("absolute: %+v", rows)
	}
	a, b = parse(t, "same 500\ngrown 100\nshrunk 400\n"), parse(t, "same 50\ngrown 40\nshrunk 10\n")
	if rows := top(t, a, Options{B: b, Normalize: true}).Rows; rows[2].Function != "same" || rows[2].Self != 500 || rows[2].SelfB != 50 {
		t.Errorf("normalised: %+v", rows)
	}
	g := build(t, a, Options{B: b, Normalize: true, MaxNodes: 1})
	if g.Names[g.Name[1]] != "same" || g.PrunedValueB[0] != 50 || g.PrunedCount[0] != 2 {
		t.Errorf("%s", draw(g))
	}
	if g := build(t, a, Options{B: new(Stacks), Normalize: true}); g.Total != 1000 || g.TotalB != 0 {
		t.Errorf("against nothing: %+v", g)
	}
}

func TestDiffJSON(t *testing.T) {
	got, err := json.Marshal(build(t, parse(t, "main;a 3\n"), Options{Unit: "count", B: parse(t, "main;b 2\n"), MaxNodes: 2}))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"unit":"count","total":3,"names":["total","main","a"],"files":[0,0,0],"file_names":[""],"depth":[0,1,2],` +
		`"name":[0,1,2],"self":[0,0,3],"pruned_count":[0,1,0],"pruned_value":[0,0,0],"total_b":2,"self_b":[0,0,0],"pruned_value_b":[0,2,0]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var back Graph
	if err := json.Unmarshal(got, &back); err != nil || back.TotalB != 2 || len(back.SelfB) != 3 {
		t.Errorf("%v: %+v", err, back)
	}
}

// calls writes edges as "name value" in their order.
func calls(cs []Call) string {
	var list []string
	for _, c := range cs {
		s := fmt.Sprint(c.Function, " ", c.Value)
		if c.CallB != nil {
			s += fmt.Sprint("/", c.ValueB)
		}
		list = append(list, s)
	}
	return strings.Join(list, ", ")
}

func TestSandwich(t *testing.T) {
	const stacks = "main;f;g 1\nmain;h;f 2\nmain;f;x;f;g;f;g 4\nother 8\n"
	for _, tt := range []struct {
		name, stacks, b, function string
		row                       string
		callers, callees          string
		callerGraph, calleeGraph  string
	}{
		{"in the middle", stacks, "", "f", "2 7", "main 5, g 4, x 4, h 2", "g 5, x 4",
			"f 0\n main 5\n h 0\n  main 2\n", "f 2\n x 0\n  f 0\n   g 0\n    f 0\n     g 4\n g 1\n"},
		{"a root", stacks, "", "main", "0 7", "", "f 5, h 2", "main 7\n", "main 0\n f 0\n  x 0\n   f 0\n    g 0\n     f 0\n      g 4\n  g 1\n h 0\n  f 2\n"},
		{"a leaf", stacks, "", "other", "8 8", "", "", "other 8\n", "other 8\n"},
		{"nowhere", stacks, "", "z", "0 0", "", "", "z 0\n", "z 0\n"},
		{"recursion alone", "f;f;f 1\n", "", "f", "1 1", "", "", "f 1\n", "f 0\n f 0\n  f 1\n"},
		{"of two binaries", "m@a;f@x;g 1\nm@b;f@y;h 2\n", "", "f", "0 3", "m 3", "h 2, g 1", "f@x 0\n m@b 2\n m@a 1\n", "f@x 0\n h 2\n g 1\n"},
		{"a diff", "m;f;g 5\n", "m;f;h 9\nz 1\n", "f", "0 5 / 0 9", "m 5/9", "h 0/9, g 5/0", "f 0\n m 5\n", "f 0\n h 0\n g 5\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := Options{}
			if tt.b != "" {
				o.B = parse(t, tt.b)
			}
			w, err := BuildSandwich(t.Context(), parse(t, tt.stacks), tt.function, o)
			if err != nil {
				t.Fatal(err)
			}
			row := fmt.Sprint(w.Function.Self, " ", w.Function.Total)
			if o.B != nil {
				row += fmt.Sprint(" / ", w.Function.SelfB, " ", w.Function.RowB.TotalB)
			}
			if row != tt.row || w.Function.Function != tt.function {
				t.Errorf("function %s %s, want %s", w.Function.Function, row, tt.row)
			}
			if got := calls(w.Callers); got != tt.callers {
				t.Errorf("callers %s, want %s", got, tt.callers)
			}
			if got := calls(w.Callees); got != tt.callees {
				t.Errorf("callees %s, want %s", got, tt.callees)
			}
			if got := draw(w.CallerGraph); got != tt.callerGraph {
				t.Errorf("caller graph\n%swant\n%s", got, tt.callerGraph)
			}
			if got := draw(w.CalleeGraph); got != tt.calleeGraph {
				t.Errorf("callee graph\n%swant\n%s", got, tt.calleeGraph)
			}
			if w.CallerGraph.Total != w.Function.Total || w.CalleeGraph.Total != w.Function.Total {
				t.Errorf("totals %d, %d, %d", w.Function.Total, w.CallerGraph.Total, w.CalleeGraph.Total)
			}
		})
	}
}

// TestSandwichCounts counts again from the lines, each pair once a stack.
func TestSandwichCounts(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	for range 200 {
		lines := random(r, 1+r.IntN(40))
		wantIn, wantOut := map[string]int64{}, map[string]int64{}
		for _, line := range lines {
			names, count, _ := strings.Cut(strings.TrimSpace(line), " ")
			var value int64
			fmt.Sscan(count, &value)
			in, out := map[string]bool{}, map[string]bool{}
			before := ""
			for f := range strings.SplitSeq(names, ";") {
				name, _, _ := strings.Cut(f, "@")
				if name == "f1" && before != "" && before != "f1" {
					in[before] = true
				}
				if before == "f1" && name != "f1" {
					out[name] = true
				}
				before = name
			}
			for name := range in {
				wantIn[name] += value
			}
			for name := range out {
				wantOut[name] += value
			}
		}
		w, err := BuildSandwich(t.Context(), parse(t, strings.Join(lines, "")), "f1", Options{})
		if err != nil {
			t.Fatal(err)
		}
		gotIn, gotOut := map[string]int64{}, map[string]int64{}
		for _, c := range w.Callers {
			gotIn[c.Function] = c.Value
		}
		for _, c := range w.Callees {
			gotOut[c.Function] = c.Value
		}
		if !reflect.DeepEqual(gotIn, wantIn) || !reflect.DeepEqual(gotOut, wantOut) {
			t.Fatalf("callers %v, want %v; callees %v, want %v:\n%s", gotIn, wantIn, gotOut, wantOut, strings.Join(lines, ""))
		}
		checkSums(t, w.CallerGraph)
		checkSums(t, w.CalleeGraph)
	}
}

// A stack that calls the function at each of its levels: 2,100 of them have 2.2 million above them.
func TestSandwichTooLarge(t *testing.T) {
	s := new(Stacks)
	f := s.Frame(Frame{Function: "f"})
	var stack []int32
	for i := range 2100 {
		stack = append(stack, s.Frame(Frame{Function: fmt.Sprint("level", i)}))
		s.Add(append(slices.Clone(stack), f), 1)
	}
	if _, err := BuildSandwich(t.Context(), s, "f", Options{}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("error %v", err)
	}
}

func BenchmarkSandwich(b *testing.B) {
	s := million()
	for b.Loop() {
		if _, err := BuildSandwich(b.Context(), s, "function7", Options{MaxNodes: 10_000}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDiff(b *testing.B) {
	s := million()
	for b.Loop() {
		build(b, s, Options{B: s, MaxNodes: 10_000, Normalize: true})
	}
}
