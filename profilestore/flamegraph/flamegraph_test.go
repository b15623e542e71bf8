package flamegraph

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// parse makes Stacks from lines "main;b;c 4". A frame is written name@binary:line; binary and line may be
// missing.
func build(t testing.TB, s *Stacks, o Options) *Graph {
	t.Helper()
	g, err := Build(t.Context(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func top(t testing.TB, s *Stacks, o Options) *Table {
	t.Helper()
	table, err := Top(t.Context(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func parse(t testing.TB, folded string) *Stacks {
	t.Helper()
	s := new(Stacks)
	for line := range strings.Lines(folded) {
		var names string
		var value int64
		if n, err := fmt.Sscan(line, &names, &value); n != 2 {
			t.Fatalf("line %q: %v", line, err)
		}
		var stack []int32
		for part := range strings.SplitSeq(names, ";") {
			if part == "-" {
				continue // the empty stack
			}
			var f Frame
			var rest string
			f.Function, rest, _ = strings.Cut(part, "@")
			f.Binary, rest, _ = strings.Cut(rest, ":")
			if rest != "" {
				f.File = f.Function + ".c"
				fmt.Sscan(rest, &f.Line)
			}
			stack = append(stack, s.Frame(f))
		}
		s.Add(stack, value)
	}
	return s
}

// fiveNodes is the example of the HTTP API's description: two light functions below c are pruned.
const fiveNodes = `main@app;a@app 2
main@app 1
main@app;b@app 1
main@app;b@app;c@app 4
main@app;b@app;c@app;d@app 1
main@app;b@app;c@app;e@app 1
`

func TestGraphJSON(t *testing.T) {
	got, err := json.Marshal(build(t, parse(t, fiveNodes), Options{Unit: "nanoseconds", MaxNodes: 4}))
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "five_nodes.json")
	if *update {
		if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != strings.TrimSpace(string(want)) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// draw writes a graph as an indented list: function@binary self [pruned count, pruned value].
func draw(g *Graph) string {
	var b strings.Builder
	for i, depth := range g.Depth {
		fmt.Fprintf(&b, "%s%s", strings.Repeat(" ", int(depth)), g.Names[g.Name[i]])
		if f := g.FileNames[g.Files[g.Name[i]]]; f != "" {
			fmt.Fprintf(&b, "@%s", f)
		}
		fmt.Fprintf(&b, " %d", g.Self[i])
		if g.PrunedCount[i] > 0 {
			fmt.Fprintf(&b, " [%d, %d]", g.PrunedCount[i], g.PrunedValue[i])
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestBuild(t *testing.T) {
	tests := []struct {
		name, stacks string
		options      Options
		want         string
	}{
		{"empty", "", Options{}, "total 0\n"},
		{"empty stack", "- 3", Options{}, "total 3\n"},
		{"lines of a function are one node", "main@a:1;f@a:7 1\nmain@a:2;f@a:8 2\n", Options{}, "total 0\n main@a 0\n  f@a 3\n"},
		{"ties by function, then by binary", "b 1\na@y 1\na@x 1\nc 2\n", Options{}, "total 0\n c 2\n a@x 1\n a@y 1\n b 1\n"},
		{"a chain of one weight is cut at its end", "a;b;c;d 1", Options{MaxNodes: 2}, "total 0\n a 0\n  b 0 [1, 1]\n"},
		{"equal nodes survive in preorder", "b;y 1\na;x 1\n", Options{MaxNodes: 3}, "total 0\n a 0\n  x 1\n b 0 [1, 1]\n"},
		{"limit at the size", "a;b 1", Options{MaxNodes: 2}, "total 0\n a 0\n  b 1\n"},
		{"limit above all sizes", "a;b 1", Options{MaxNodes: math.MaxInt}, "total 0\n a 0\n  b 1\n"},
		{"all but one pruned", fiveNodes, Options{MaxNodes: 1}, "total 0\n main@app 1 [2, 9]\n"},
		{"root", fiveNodes, Options{Root: []string{"main", "b"}}, "b@app 1\n c@app 4\n  d@app 1\n  e@app 1\n"},
		{"root in two binaries", "main@x;f@x;g 1\nmain@x;f@y;h 2\nf@x;g 4\n", Options{Root: []string{"main", "f"}}, "f@x 0\n h 2\n g 1\n"},
		{"root of a recursion", "f;f;f 1\nf;g 2\n", Options{Root: []string{"f", "f"}}, "f 0\n f 1\n"},
		{"root elsewhere", fiveNodes, Options{Root: []string{"main", "x"}}, "x 0\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := draw(build(t, parse(t, test.stacks), test.options)); got != test.want {
				t.Errorf("got\n%swant\n%s", got, test.want)
			}
		})
	}
}

// random makes n stacks of few functions, so that they overlap and recur.
func random(r *rand.Rand, n int) []string {
	lines := make([]string, n)
	for i := range lines {
		stack := make([]string, 1+r.IntN(8))
		for j := range stack {
			stack[j] = fmt.Sprintf("f%d@lib%d:%d", r.IntN(6), r.IntN(2), 1+r.IntN(3))
		}
		lines[i] = fmt.Sprintf("%s %d\n", strings.Join(stack, ";"), 1+r.IntN(5))
	}
	return lines
}

func TestBuildProperties(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		lines := random(r, 1+r.IntN(60))
		s := parse(t, strings.Join(lines, ""))
		whole := build(t, s, Options{})
		most := r.IntN(len(whole.Depth) + 2)
		g := build(t, s, Options{MaxNodes: most})
		if most > 0 && len(g.Depth)-1 != min(most, len(whole.Depth)-1) {
			t.Fatalf("%d nodes of %d, asked for %d", len(g.Depth)-1, len(whole.Depth)-1, most)
		}
		checkSums(t, g)
		if g.Total != s.Total() {
			t.Fatalf("total %d, want %d", g.Total, s.Total())
		}
		r.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
		if again := build(t, parse(t, strings.Join(lines, "")), Options{MaxNodes: most}); !reflect.DeepEqual(g, again) {
			t.Fatalf("order of Add matters:\n%s\n%s", draw(g), draw(again))
		}
		decoded, err := DecodeColumns(g.AppendColumns(nil))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(g, decoded) {
			t.Fatalf("columns:\n%s\n%s", draw(g), draw(decoded))
		}
		checkTop(t, lines, top(t, s, Options{}))
	}
}

// checkSums checks what Graph promises: totals, and the heaviest child first.
func checkSums(t *testing.T, g *Graph) {
	t.Helper()
	total := make([]int64, len(g.Depth))
	before := map[int32]int64{} // depth: total of the sibling before
	var children func(i int) int
	children = func(i int) int {
		total[i] = g.Self[i] + g.PrunedValue[i]
		next := i + 1
		for next < len(g.Depth) && g.Depth[next] == g.Depth[i]+1 {
			child := next
			next = children(child)
			total[i] += total[child]
		}
		return next
	}
	if end := children(0); end != len(g.Depth) || total[0] != g.Total {
		t.Fatalf("%d of %d nodes, root %d, total %d", end, len(g.Depth), total[0], g.Total)
	}
	for i, d := range g.Depth {
		for deeper := range before {
			if deeper > d {
				delete(before, deeper)
			}
		}
		if heavier, ok := before[d]; ok && heavier < total[i] {
			t.Fatalf("node %d is heavier than its sibling before:\n%s", i, draw(g))
		}
		before[d] = total[i]
	}
}

// checkTop counts again from the lines.
func checkTop(t *testing.T, lines []string, table *Table) {
	t.Helper()
	self, total := map[string]int64{}, map[string]int64{}
	for _, line := range lines {
		names, count, _ := strings.Cut(strings.TrimSpace(line), " ")
		var value int64
		fmt.Sscan(count, &value)
		var stack []string
		for f := range strings.SplitSeq(names, ";") {
			name, _, _ := strings.Cut(f, "@")
			stack = append(stack, name)
		}
		self[stack[len(stack)-1]] += value
		slices.Sort(stack)
		for _, name := range slices.Compact(stack) {
			total[name] += value
		}
	}
	if len(table.Rows) != len(total) {
		t.Fatalf("%d rows, want %d", len(table.Rows), len(total))
	}
	for _, r := range table.Rows {
		if r.Self != self[r.Function] || r.Total != total[r.Function] {
			t.Fatalf("%+v, want self %d, total %d", r, self[r.Function], total[r.Function])
		}
	}
}

func TestTop(t *testing.T) {
	s := parse(t, "main@app:1;f@app:2 3\nmain@app:1;f@lib:9;f@lib:8 4\nstart;g@app:1 1\n")
	want := &Table{Unit: "count", Total: 8, Rows: []Row{
		{Function: "f", Binary: "lib", File: "f.c", Self: 7, Total: 7},
		{Function: "g", Binary: "app", File: "g.c", Self: 1, Total: 1},
		{Function: "main", Binary: "app", File: "main.c", Total: 7},
		{Function: "start", Total: 1},
	}}
	if got := top(t, s, Options{Unit: "count"}); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestPath(t *testing.T) {
	for _, functions := range [][]string{nil, {"main"}, {"main", "a"}, {"La;", `b\`, `\;`}, {"", ""}, {"x", ""}} {
		if got := ParsePath(FormatPath(functions)); !slices.Equal(got, functions) {
			t.Errorf("%q: %q: %q", functions, FormatPath(functions), got)
		}
	}
	if got := FormatPath([]string{"La;b", `c\d`}); got != `La\;b;c\\d` {
		t.Errorf("got %s", got)
	}
}

func TestDeepStack(t *testing.T) {
	const depth = 8192
	s := new(Stacks)
	stack := make([]int32, depth)
	for i := range stack {
		stack[i] = s.Frame(Frame{Function: fmt.Sprint("f", i%100)})
	}
	s.Add(stack, 1)
	g := build(t, s, Options{})
	if len(g.Depth) != depth+1 || g.Depth[depth] != depth || g.Self[depth] != 1 {
		t.Errorf("%d nodes", len(g.Depth))
	}
	if top := top(t, s, Options{}); len(top.Rows) != 100 || top.Rows[99].Total != 1 {
		t.Errorf("%d rows", len(top.Rows))
	}
}

func FuzzDecodeColumns(f *testing.F) {
	s := parse(f, fiveNodes)
	f.Add(build(f, s, Options{Unit: "nanoseconds", MaxNodes: 4}).AppendColumns(nil))
	f.Add(build(f, new(Stacks), Options{}).AppendColumns(nil))
	f.Add(build(f, s, Options{B: parse(f, "main@app;z 3")}).AppendColumns(nil))
	f.Add([]byte{columnsVersion, 1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := DecodeColumns(b)
		if err != nil {
			return
		}
		again, err := DecodeColumns(g.AppendColumns(nil))
		if err != nil || !reflect.DeepEqual(g, again) {
			t.Fatalf("%v: %+v, %+v", err, g, again)
		}
	})
}

// million makes stacks with a million nodes: 40 deep, 1,000 functions.
func million() *Stacks {
	s := new(Stacks)
	r := rand.New(rand.NewPCG(1, 2))
	frames := make([]int32, 1000)
	for i := range frames {
		frames[i] = s.Frame(Frame{Function: fmt.Sprint("function", i), Binary: fmt.Sprint("lib", i%20), Line: i})
	}
	stack := make([]int32, 40)
	for s.Nodes() < 1_000_000 {
		for i := r.IntN(len(stack)); i < len(stack); i++ {
			stack[i] = frames[r.IntN(len(frames))]
		}
		s.Add(stack, 1+r.Int64N(100))
	}
	return s
}

func BenchmarkAdd(b *testing.B) {
	s := million()
	stack := make([]int32, 40)
	for i := range stack {
		stack[i] = int32(i)
	}
	for b.Loop() {
		s.Add(stack, 1)
	}
}

func BenchmarkBuild(b *testing.B) {
	s := million()
	for _, most := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("nodes=1M/max=%d", most), func(b *testing.B) {
			for b.Loop() {
				build(b, s, Options{MaxNodes: most})
			}
		})
	}
}

func BenchmarkTop(b *testing.B) {
	s := million()
	for b.Loop() {
		top(b, s, Options{})
	}
}

// BenchmarkColumns says how large a million nodes are on the wire.
func BenchmarkColumns(b *testing.B) {
	g := build(b, million(), Options{})
	var packed bytes.Buffer
	for b.Loop() {
		packed.Reset()
		w := gzip.NewWriter(&packed)
		if _, err := w.Write(g.AppendColumns(nil)); err != nil {
			b.Fatal(err)
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(packed.Len())/float64(len(g.Depth)), "B/node")
}

func TestInvert(t *testing.T) {
	s := parse(t, "main@app;a@app;read@libc 1\nmain@app;b@app;read@libc 2\nmain@app;b@app 4\n- 8\n")
	for _, tt := range []struct {
		root []string
		want string
	}{
		{nil, "total 8\n b@app 0\n  main@app 4\n read@libc 0\n  b@app 0\n   main@app 2\n  a@app 0\n   main@app 1\n"},
		{[]string{"read"}, "read@libc 0\n b@app 0\n  main@app 2\n a@app 0\n  main@app 1\n"},
		{[]string{"read", "b"}, "b@app 0\n main@app 2\n"},
		{[]string{"main"}, "main 0\n"},
	} {
		g, err := Invert(t.Context(), s, Options{Root: tt.root})
		if err != nil {
			t.Fatal(err)
		}
		if got := draw(g); got != tt.want {
			t.Errorf("root %q: got\n%swant\n%s", tt.root, got, tt.want)
		}
	}
	rare, err := Invert(t.Context(), s, Options{MaxNodes: 2})
	if err != nil {
		t.Fatal(err)
	}
	if rare.Total != 15 {
		t.Errorf("pruned, the total is %d", rare.Total)
	}
}
