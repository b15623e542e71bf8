package flamegraph

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/google/pprof/profile"
)

func filters(t testing.TB, list ...string) []Filter {
	t.Helper()
	fs := make([]Filter, len(list))
	for i, s := range list {
		var err error
		if fs[i], err = ParseFilter(s); err != nil {
			t.Fatal(err)
		}
	}
	return fs
}

func filtered(t testing.TB, s *Stacks, fs ...Filter) *Stacks {
	t.Helper()
	s, err := s.Filter(context.Background(), fs...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A request that is over ends its filters, and a name of megabytes is looked at from its beginning alone.
func TestFilterBounds(t *testing.T) {
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	s := parse(t, "main 1\n")
	if _, err := s.Filter(gone, filters(t, "focus:main")...); err != context.Canceled {
		t.Errorf("canceled: %v", err)
	}
	s.Add([]int32{s.Frame(Frame{Function: strings.Repeat("x", 1<<20) + "end"})}, 2)
	if got := filtered(t, s, filters(t, "ignore:end$")...).Total(); got != 3 {
		t.Errorf("%d is left", got)
	}
}

func TestFilter(t *testing.T) {
	const app = "main@app;parse@app;read@libc 1\nmain@app;print@app;write@libc 2\nidle@kernel 4\n- 8\n"
	for _, tt := range []struct {
		name, stacks string
		filters      []string
		want         string
	}{
		{"none", app, nil, "total 8\n idle@kernel 4\n main@app 0\n  print@app 0\n   write@libc 2\n  parse@app 0\n   read@libc 1\n"},
		{"focus", app, []string{"focus:^parse$"}, "total 0\n main@app 0\n  parse@app 0\n   read@libc 1\n"},
		{"focus by binary", app, []string{"focus:kernel"}, "total 0\n idle@kernel 4\n"},
		{"ignore drops empty stacks as pprof does", app, []string{"ignore:main"}, "total 0\n idle@kernel 4\n"},
		{"hide joins what it had parted", "a;x;b 1\na;y;b 2\n", []string{"hide:^[xy]$"}, "total 0\n a 0\n  b 3\n"},
		{"hide everything", app, []string{"hide:."}, "total 0\n"},
		{"hide leaves what is below", app, []string{"hide:app"}, "total 0\n idle@kernel 4\n write@libc 2\n read@libc 1\n"},
		{"show_from the outermost", "a;f;b;f;c 1\na;b 2\n", []string{"show_from:^f$"}, "total 0\n f 0\n  b 0\n   f 0\n    c 1\n"},
		{"in the order given: hide, then focus", "a;b 1\nb 2\n", []string{"hide:^a$", "focus:a"}, "total 0\n"},
		{"in the order given: focus, then hide", "a;b 1\nb 2\n", []string{"focus:a", "hide:^a$"}, "total 0\n b 1\n"},
		{"collapse direct recursion", "a;f;f;f;b 1\na;f;c 2\na;f;g;f 4\n", []string{"collapse:."}, "total 0\n a 0\n  f 0\n   g 0\n    f 4\n   c 2\n   b 1\n"},
		{"collapse what matches", "f;f 1\ng;g 2\n", []string{"collapse:^g$"}, "total 0\n g 2\n f 0\n  f 1\n"},
		{"recursion over two binaries is none", "f@x;f@y 1\n", []string{"collapse:."}, "total 0\n f@x 0\n  f@y 1\n"},
		{"a source file", "f@x:3 1\ng@x:4 2\n", []string{`focus:^f\.c$`}, "total 0\n f@x 1\n"},
		{"nothing matches", app, []string{"focus:nowhere"}, "total 0\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := parse(t, tt.stacks)
			before := draw(build(t, s, Options{}))
			if got := draw(build(t, filtered(t, s, filters(t, tt.filters...)...), Options{})); got != tt.want {
				t.Errorf("got\n%swant\n%s", got, tt.want)
			}
			if after := draw(build(t, s, Options{})); after != before {
				t.Errorf("the stacks were changed:\n%s\n%s", before, after)
			}
		})
	}
}

func TestParseFilter(t *testing.T) {
	if f, err := ParseFilter(`focus:std::vector<(int|long)>`); err != nil || f.Kind != Focus || f.Regexp.String() != "std::vector<(int|long)>" {
		t.Errorf("%+v, %v", f, err)
	}
	for in, want := range map[string]string{
		"":                     "write focus:, ignore:",
		"main":                 "write focus:, ignore:",
		"show:main":            "write focus:, ignore:",
		"focus:":               "after the colon",
		"focus:(":              "missing closing )",
		"focus:(?=a)":          "RE2",
		"hide:" + longer(5000): "at most 4096",
	} {
		if _, err := ParseFilter(in); err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 200 {
			t.Errorf("%.40q: %v, want %q in it", in, err, want)
		}
	}
}

func longer(n int) string { return strings.Repeat("x", n) }

// randomProfile has what makes filters hard: locations of several inlined calls, some of the same function,
// without lines, without a mapping; and stacks without a frame.
func randomProfile(r *rand.Rand) *profile.Profile {
	p := &profile.Profile{SampleType: []*profile.ValueType{{Type: "cpu", Unit: "nanoseconds"}}, PeriodType: &profile.ValueType{}}
	for i := range 3 {
		p.Mapping = append(p.Mapping, &profile.Mapping{ID: uint64(i + 1), File: fmt.Sprintf("/lib/lib%d", i)})
	}
	for i := range 7 {
		p.Function = append(p.Function, &profile.Function{ID: uint64(i + 1), Name: fmt.Sprintf("f%d", i), Filename: fmt.Sprintf("src%d.c", i%4)})
	}
	for i := range 12 {
		l := &profile.Location{ID: uint64(i + 1), Address: uint64(i)}
		if m := r.IntN(len(p.Mapping) + 1); m < len(p.Mapping) {
			l.Mapping = p.Mapping[m]
		}
		for range r.IntN(4) {
			l.Line = append(l.Line, profile.Line{Function: p.Function[r.IntN(len(p.Function))], Line: int64(r.IntN(3))})
		}
		p.Location = append(p.Location, l)
	}
	for range 1 + r.IntN(20) {
		s := &profile.Sample{Value: []int64{1 + r.Int64N(100)}}
		for range r.IntN(6) {
			s.Location = append(s.Location, p.Location[r.IntN(len(p.Location))])
		}
		p.Sample = append(p.Sample, s)
	}
	return p
}

func fromProfile(t *testing.T, p *profile.Profile) *Stacks {
	t.Helper()
	s, err := FromProfile(p, 0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFromProfile(t *testing.T) {
	m := &profile.Mapping{ID: 1, File: "/lib/libx.so"}
	f, g := &profile.Function{ID: 1, Name: "f", Filename: "f.c"}, &profile.Function{ID: 2, Name: "g"}
	p := &profile.Profile{SampleType: []*profile.ValueType{{Type: "n", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}}}
	p.Sample = []*profile.Sample{
		{Value: []int64{1, 10}, Location: []*profile.Location{{Mapping: m, Line: []profile.Line{{Function: g, Line: 3}, {Function: f, Line: 7}}}, {Mapping: m, Address: 0x12}, {Address: 0x34}}},
		{Value: []int64{2, 0}},
	}
	s, err := FromProfile(p, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int64{"": 2, "0x34@ :0 false;libx.so+0x12@/lib/libx.so :0 false;f@/lib/libx.so f.c:7 false;g@/lib/libx.so :3 true": 1}
	if got := folded(s); !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if s, err := FromProfile(p, 1); err != nil || s.Total() != 10 {
		t.Errorf("%v, %v", s, err)
	}
	for _, values := range [][]int64{{-1}, {1 << 62, 1 << 62}} {
		p.Sample = nil
		for _, v := range values {
			p.Sample = append(p.Sample, &profile.Sample{Value: []int64{v, 0}})
		}
		if _, err := FromProfile(p, 0); err == nil {
			t.Errorf("%d was taken", values)
		}
	}
}

// folded lists the stacks with all that filters look at.
func folded(s *Stacks) map[string]int64 {
	stacks := make(map[string]int64)
	if s.root > 0 {
		stacks[""] = s.root
	}
	paths := make([]string, len(s.parent))
	for i, p := range s.parent {
		f := s.frames[s.labels[i]]
		paths[i] = fmt.Sprintf("%s@%s %s:%d %v", f.Function, f.Binary, f.File, f.Line, f.Inlined)
		if p >= 0 {
			paths[i] = paths[p] + ";" + paths[i]
		}
		if s.self[i] > 0 {
			stacks[paths[i]] += s.self[i]
		}
	}
	return stacks
}

// TestFilterAsPprof compares with the functions that pprof's options of the same names call.
func TestFilterAsPprof(t *testing.T) {
	expressions := []string{"f0", "f[12]$", "f3|f4", "src1", "src[23]", "lib0", "lib[12]", "^f5$|lib2", "nowhere", "f"}
	r := rand.New(rand.NewPCG(3, 4))
	changed := 0
	for round := range 3000 {
		p := randomProfile(r)
		s := fromProfile(t, p)
		whole := folded(s)
		var fs []Filter
		for range 1 + r.IntN(3) {
			kind := []FilterKind{Focus, Ignore, Hide, ShowFrom}[r.IntN(4)]
			fs = append(fs, Filter{kind, regexp.MustCompile(expressions[r.IntN(len(expressions))])})
		}
		for _, f := range fs {
			switch f.Kind {
			case Focus:
				p.FilterSamplesByName(f.Regexp, nil, nil, nil)
			case Ignore:
				p.FilterSamplesByName(nil, f.Regexp, nil, nil)
			case Hide:
				p.FilterSamplesByName(nil, nil, f.Regexp, nil)
			case ShowFrom:
				p.ShowFrom(f.Regexp)
			}
		}
		after := filtered(t, s, fs...)
		got, want := folded(after), folded(fromProfile(t, p))
		if !maps.Equal(got, want) {
			t.Fatalf("round %d, %v:\nfrom %v\ngot  %v\nwant %v", round, fs, whole, got, want)
		}
		if sum := build(t, after, Options{}); sum.Total != after.Total() || len(got) == 0 && len(sum.Depth) != 1 {
			t.Fatalf("total %d, %d nodes; want %d", sum.Total, len(sum.Depth), after.Total())
		}
		if !maps.Equal(got, whole) && len(got) > 0 {
			changed++
		}
	}
	if changed < 1000 {
		t.Errorf("only %d of 3000 filters left some and took some", changed)
	}
}

// TestFilterInPprofsOrder applies focus, ignore, hide and show_from all at once, as pprof's driver does.
func TestFilterInPprofsOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 500 {
		p := randomProfile(r)
		s := fromProfile(t, p)
		focus, ignore := regexp.MustCompile("f[0-4]"), regexp.MustCompile("f5|src3")
		hide, from := regexp.MustCompile("f1|lib2"), regexp.MustCompile("f[23]")
		p.FilterSamplesByName(focus, ignore, hide, nil)
		p.ShowFrom(from)
		got, want := folded(filtered(t, s, Filter{Focus, focus}, Filter{Ignore, ignore}, Filter{Hide, hide}, Filter{ShowFrom, from})), folded(fromProfile(t, p))
		if !maps.Equal(got, want) {
			t.Fatalf("got  %v\nwant %v", got, want)
		}
	}
}

func BenchmarkFilter(b *testing.B) {
	s := million()
	for _, f := range []string{"focus:function7", "hide:function7", "show_from:function7"} {
		b.Run(f, func(b *testing.B) {
			fs := filters(b, f)
			for b.Loop() {
				filtered(b, s, fs...)
			}
		})
	}
}
