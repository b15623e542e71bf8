package profilestore

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"
)

// described is a way in which a place in a file is described: "name", "name:line", with inlined calls before it, or ""
// for an address alone.
type described struct {
	build, names string
	address      uint64
}

// describe makes a profile of one sample, whose stack has these places, leaf first.
func describe(t *testing.T, n int, places ...described) Encoded {
	t.Helper()
	p := cpuProfile()
	s := &profile.Sample{Value: []int64{1, 50}}
	for i, d := range places {
		m := &profile.Mapping{ID: uint64(i + 1), Start: 0x1000, Limit: 0x9000, Offset: 0x1000, File: "/bin/app", BuildID: d.build}
		l := &profile.Location{ID: uint64(i + 1), Mapping: m, Address: d.address}
		for _, one := range strings.Fields(d.names) {
			name, line, lined := strings.Cut(one, ":")
			f := &profile.Function{ID: uint64(len(p.Function) + 1), Name: name}
			l.Line = append(l.Line, profile.Line{Function: f})
			if lined {
				f.Filename = "app.c"
				if _, err := fmt.Sscan(line, &l.Line[len(l.Line)-1].Line); err != nil {
					t.Fatal(err)
				}
			}
			p.Function = append(p.Function, f)
		}
		p.Mapping, p.Location, s.Location = append(p.Mapping, m), append(p.Location, l), append(s.Location, l)
	}
	p.Sample = []*profile.Sample{s}
	p.TimeNanos = start.Add(time.Duration(n) * time.Minute).UnixNano()
	e := Encoded{Name: "process_cpu", Labels: NewLabels(map[string]string{"service_name": "app"}), Time: p.TimeNanos, Duration: 10 * time.Second, Pprof: encode(t, p)}
	e.ID[0] = byte(n + 1)
	return e
}

// shown is the one stack of the n-th profile, outermost first, as a flame graph and as a download have it.
func shown(t *testing.T, s *Store, n int) (graph, download string) {
	t.Helper()
	from := start.Add(time.Duration(n) * time.Minute).UnixNano()
	q := Query{From: from, To: from + int64(time.Minute)}
	res, err := s.Select(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	for stack := range folded(res.Stacks) {
		graph = strings.ReplaceAll(stack, ";", " ")
	}
	p, err := s.Merge(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Sample) != 1 {
		t.Fatalf("%d samples, want 1", len(p.Sample))
	}
	var names []string
	for _, l := range slices.Backward(p.Sample[0].Location) {
		for _, one := range slices.Backward(l.Line) {
			names = append(names, one.Function.Name)
		}
		if len(l.Line) == 0 {
			names = append(names, fmt.Sprintf("app+%#x", l.Address))
		}
	}
	return graph, strings.Join(names, " ")
}

func TestBetterNames(t *testing.T) {
	const build, other = "b1", "b2"
	for _, test := range []struct {
		what     string
		profiles []described // each of one profile
		want     []string
	}{
		{"lines and inlined calls replace a symbol", []described{{build, "outer", 0x1234}, {build, "inlined:3 outer:7", 0x1234}}, []string{"outer inlined", "outer inlined"}},
		{"whichever comes first", []described{{build, "inlined:3 outer:7", 0x1234}, {build, "outer", 0x1234}}, []string{"outer inlined", "outer inlined"}},
		{"a symbol replaces an address", []described{{build, "", 0x1234}, {build, "outer", 0x1234}}, []string{"outer", "outer"}},
		{"and one that was written as a name", []described{{build, "app+0x1234", 0x1234}, {build, "outer", 0x1234}}, []string{"outer", "outer"}},
		{"in two steps", []described{{build, "", 0x1234}, {build, "outer", 0x1234}, {build, "inlined:3 outer:7", 0x1234}}, []string{"outer inlined", "outer inlined", "outer inlined"}},
		{"what is as good stays", []described{{build, "alias", 0x1234}, {build, "outer", 0x1234}}, []string{"alias", "outer"}},
		{"another address is another place", []described{{build, "", 0x1234}, {build, "outer", 0x1235}}, []string{"app+0x1234", "outer"}},
		{"another build is another file", []described{{build, "", 0x1234}, {other, "outer", 0x1234}}, []string{"app+0x1234", "outer"}},
		{"without a build nothing is known", []described{{"", "", 0x1234}, {"", "outer", 0x1234}}, []string{"app+0x1234", "outer"}},
	} {
		t.Run(test.what, func(t *testing.T) {
			s := open(t, t.TempDir(), testOptions())
			for n, d := range test.profiles {
				mustAppend(t, s, describe(t, n, d))
				shown(t, s, n) // what is known so far must not answer what is asked later
			}
			check := func(where string) {
				t.Helper()
				for n, want := range test.want {
					if graph, download := shown(t, s, n); graph != want || download != want {
						t.Errorf("%s, profile %d: %q in the flame graph, %q in the download, want %q", where, n, graph, download, want)
					}
				}
			}
			check("head")
			settle(t, s)
			check("files")
			s = reopen(t, s, testOptions())
			check("reopened")
		})
	}
}

// The same names with other flags of the mapping are another location, whose names a third replaces all the same.
func TestBetterNamesOfTheSame(t *testing.T) {
	s := open(t, t.TempDir(), testOptions())
	for n, d := range []described{{"b", "outer", 0x1234}, {"b", "outer", 0x1234}, {"b", "inlined:3 outer:7", 0x1234}} {
		e := describe(t, n, d)
		if n == 1 {
			p, err := profile.ParseData(e.Pprof)
			if err != nil {
				t.Fatal(err)
			}
			p.Mapping[0].HasFilenames = true
			e.Pprof = encode(t, p)
		}
		mustAppend(t, s, e)
	}
	for n := range 3 {
		if graph, _ := shown(t, s, n); graph != "outer inlined" {
			t.Errorf("profile %d: %q, want the inlined call", n, graph)
		}
	}
}
