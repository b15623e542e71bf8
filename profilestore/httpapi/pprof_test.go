package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"pilotlight/profilestore"
	"pilotlight/profilestore/flamegraph"
)

// goToolPprof runs the tool as a user does, with values in milliseconds.
func goToolPprof(t *testing.T, args ...string) string {
	t.Helper()
	goTool, err := exec.LookPath("go")
	if err != nil {
		if os.Getenv("REQUIRE_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skip("no go command to run `go tool pprof` with")
	}
	cmd := exec.CommandContext(t.Context(), goTool, append([]string{"tool", "pprof", "-unit=ms"}, args...)...)
	cmd.Env = append(os.Environ(), "PPROF_TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return string(out)
}

var topRow = regexp.MustCompile(`(?m)^\s*(\S+)ms\s+\S+%\s+\S+%\s+(\S+)ms\s+\S+%\s+(\S+)`)

// topRows reads -top: function self total, in its order.
func topRows(out string) []string {
	var rows []string
	for _, m := range topRow.FindAllStringSubmatch(strings.ReplaceAll(out, " 0 ", " 0ms "), -1) {
		rows = append(rows, m[3]+" "+m[1]+" "+m[2])
	}
	return rows
}

// TestGoToolPprof lets the tool itself read the URL that the page offers for copying.
func TestGoToolPprof(t *testing.T) {
	s := newTestServer(t, newTestStore(t), Options{})
	base := testBase()
	fill(t, s, base)
	for _, tt := range []struct {
		name string
		args []string
		want string // function self total
	}{
		{"whole", []string{s.URL + "/api/v1/pprof" + during(base, 0, 60)},
			"parse 50 50, scan 40 40, encode 10 10, tick 10 10, handle 0 60, main 0 110"},
		{"selector as typed in a shell", []string{s.URL + `/api/v1/pprof?query={service_name="api"}&from=now-30m&to=now`},
			"parse 50 50, encode 10 10, handle 0 60, main 0 60"},
		{"-seconds", []string{"-seconds=15", s.URL + "/api/v1/pprof" + during(base, 0, 20)},
			"scan 40 40, parse 20 20, handle 0 20, main 0 60"},
		{"-sample_index", []string{"-sample_index=samples", "-unit=auto", s.URL + "/api/v1/pprof" + during(base, 0, 60)}, ""},
		{"-diff_base", []string{
			"-diff_base", s.URL + "/api/v1/pprof" + during(base, 0, 10, "query", `{service_name="api"}`),
			s.URL + "/api/v1/pprof" + during(base, 10, 20, "query", `{service_name="api"}`),
		}, "encode -10 -10, parse -10 -10, handle 0 -20, main 0 -20"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := goToolPprof(t, append([]string{"-top"}, tt.args...)...)
			if tt.want == "" {
				if !strings.Contains(out, "Type: samples") || !strings.Contains(out, "11 total") {
					t.Errorf("\n%s", out)
				}
				return
			}
			got := topRows(out)
			if strings.Join(got, ", ") != tt.want {
				t.Errorf("got %s\nwant %s\n%s", strings.Join(got, ", "), tt.want, out)
			}
		})
	}
}

// TestAsGoToolPprof compares the answers of the API with what the tool makes of the whole download by itself.
func TestAsGoToolPprof(t *testing.T) {
	s := newTestServer(t, newTestStore(t), Options{})
	base := testBase()
	fill(t, s, base)
	whole := s.URL + "/api/v1/pprof" + during(base, 0, 60)
	for _, filters := range [][]string{
		{}, {"focus:parse|scan"}, {"ignore:handle"}, {"hide:^main$"}, {"show_from:handle"}, {"focus:db"}, {"focus:nothing.*like_it"},
		{"focus:main", "ignore:tick", "hide:handle|scan", "show_from:parse|main"},
	} {
		var args, params []string
		for _, f := range filters {
			kind, expr, _ := strings.Cut(f, ":")
			args, params = append(args, "-"+kind+"="+expr), append(params, "filter", f)
		}
		out := goToolPprof(t, append(append([]string{"-top"}, args...), whole)...)
		_, body := get(t, s, "/api/v1/top"+during(base, 0, 60, params...))
		var top TopAnswer
		if err := json.Unmarshal(body, &top); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range top.Rows {
			got = append(got, fmt.Sprint(r.Function, " ", r.Self/ms, " ", r.Total/ms))
		}
		want := topRows(out)
		slices.Sort(got) // rows that are equal are in another order
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%v: got %q, want %q\n%s", filters, got, want, out)
		}
		filtered := topRows(goToolPprof(t, "-top", s.URL+"/api/v1/pprof"+during(base, 0, 60, params...)))
		if slices.Sort(filtered); !slices.Equal(filtered, want) {
			t.Errorf("%v: the download that is filtered has %q, want %q", filters, filtered, want)
		}
	}
	peek := regexp.MustCompile(`(?m)^\s+(\d+)ms\s+\S+% \|   (\S+)`)
	for _, function := range []string{"main", "handle", "parse"} {
		var want []string
		for _, m := range peek.FindAllStringSubmatch(goToolPprof(t, "-peek=^"+function+"$", whole), -1) {
			want = append(want, m[2]+" "+m[1])
		}
		_, body := get(t, s, "/api/v1/sandwich"+during(base, 0, 60, "function", function))
		var w SandwichAnswer
		if err := json.Unmarshal(body, &w); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range append(w.Callers, w.Callees...) {
			got = append(got, fmt.Sprint(c.Function, " ", c.Value/ms))
		}
		slices.Sort(got)
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", function, got, want)
		}
	}
}

// TestCollapse compares the filter of profiles with that of stacks.
func TestCollapse(t *testing.T) {
	f := []*profile.Function{{ID: 1, Name: "f"}, {ID: 2, Name: "g"}, {ID: 3, Name: "h"}}
	bin := &profile.Mapping{ID: 1, File: "/bin/a"}
	var locations []*profile.Location // one for each pair of a call and what is inlined into it, and one for each alone
	for _, outer := range f {
		locations = append(locations, &profile.Location{Mapping: bin, Line: []profile.Line{{Function: outer}}})
		for _, inner := range f {
			locations = append(locations, &profile.Location{Mapping: bin, Line: []profile.Line{{Function: inner}, {Function: outer}}})
		}
	}
	for i, l := range locations {
		l.ID, l.Address = uint64(i)+1, uint64(i)*16
	}
	p := &profile.Profile{SampleType: []*profile.ValueType{{Type: "cpu", Unit: "nanoseconds"}}, Mapping: []*profile.Mapping{bin}, Function: f, Location: locations}
	for _, a := range locations {
		for _, b := range locations {
			for _, c := range locations {
				p.Sample = append(p.Sample, &profile.Sample{Location: []*profile.Location{a, b, c}, Value: []int64{int64(len(p.Sample)) + 1}})
			}
		}
	}
	for _, filter := range []string{"collapse:.", "collapse:^[fg]$", "collapse:/bin/a", "collapse:nothing"} {
		own, err := flamegraph.ParseFilter(filter)
		if err != nil {
			t.Fatal(err)
		}
		whole, err := flamegraph.FromProfile(p, 0)
		if err != nil {
			t.Fatal(err)
		}
		want, err := whole.Filter(t.Context(), own)
		if err != nil {
			t.Fatal(err)
		}
		changed, err := filterProfile(t.Context(), p.Copy(), []flamegraph.Filter{own})
		if err != nil {
			t.Fatal(err)
		}
		if err := changed.CheckValid(); err != nil {
			t.Fatal(err)
		}
		got, err := flamegraph.FromProfile(changed, 0)
		if err != nil {
			t.Fatal(err)
		}
		g, err := flamegraph.Build(t.Context(), got, flamegraph.Options{})
		if err != nil {
			t.Fatal(err)
		}
		w, err := flamegraph.Build(t.Context(), want, flamegraph.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(g, w) {
			t.Errorf("%s: got %+v, want %+v", filter, g, w)
		}
	}
}

// TestFilterProfile filters by the beginning of long names, leaves names as they are, and ends with its context.
func TestFilterProfile(t *testing.T) {
	long := strings.Repeat("a", 2*flamegraph.MaxMatched) + "needle"
	f := []*profile.Function{{ID: 1, Name: long, Filename: "a.c"}, {ID: 2, Name: "g", Filename: long}, {ID: 3, Name: "needle"}}
	bins := []*profile.Mapping{{ID: 1, File: "/bin/a"}, {ID: 2, File: long}, {ID: 3, File: "/bin/needle"}}
	p := &profile.Profile{SampleType: []*profile.ValueType{{Type: "cpu", Unit: "nanoseconds"}}, Mapping: bins, Function: f}
	for _, bin := range bins {
		for _, fn := range f {
			l := &profile.Location{ID: uint64(len(p.Location)) + 1, Mapping: bin, Line: []profile.Line{{Function: fn}}}
			p.Location = append(p.Location, l)
			p.Sample = append(p.Sample, &profile.Sample{Location: []*profile.Location{l}, Value: []int64{1}})
		}
	}
	for filter, samples := range map[string]int{"focus:needle": 5, "ignore:needle": 4, "hide:needle": 4, "show_from:needle": 5, "focus:^a": 7, "focus:x": 0, "hide:^$": 6} {
		own, err := flamegraph.ParseFilter(filter)
		if err != nil {
			t.Fatal(err)
		}
		got, err := filterProfile(t.Context(), p.Copy(), []flamegraph.Filter{own})
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Sample) != samples {
			t.Errorf("%s: %d samples, want %d", filter, len(got.Sample), samples)
		}
		for _, fn := range got.Function {
			if !slices.ContainsFunc(f, func(own *profile.Function) bool { return own.Name == fn.Name && own.Filename == fn.Filename }) {
				t.Errorf("%s: function %d has become %.20q, %.20q", filter, fn.ID, fn.Name, fn.Filename)
			}
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := filterProfile(ended, p.Copy(), []flamegraph.Filter{own}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v", filter, err)
		}
	}
}

func TestFileName(t *testing.T) {
	const sec = 1_000_000_000
	for _, tt := range []struct{ query, want string }{
		{"", "all"},
		{`{service_name="api"}`, "api"},
		{`{service_name="api", pid="4711"}`, "api-4711"},
		{`{service_name=~"api|db"}`, "selection"},
		{`{service_name="../../etc/passwd\"\n"}`, ".._.._etc_passwd__"},
		{`{service_name="` + strings.Repeat("ü", 300) + `"}`, strings.Repeat("_", 100)},
	} {
		ms, err := profilestore.ParseSelector(tt.query)
		if err != nil {
			t.Fatal(err)
		}
		got := fileName(profilestore.Query{Matchers: ms, From: 1_763_690_400 * sec, To: 1_763_694_000 * sec})
		if want := "pilotlight-" + tt.want + "-20251121T020000Z-20251121T030000Z.pb.gz"; got != want {
			t.Errorf("%s: %s, want %s", tt.query, got, want)
		}
		if url.PathEscape(got) != got {
			t.Errorf("%s: %s needs escaping", tt.query, got)
		}
	}
}

// TestSecondsOfTheNewestWindow asks for less time than has passed since the last window ended.
func TestSecondsOfTheNewestWindow(t *testing.T) {
	store := newTestStore(t)
	s := newTestServer(t, store, Options{})
	ended := time.Now().Add(-8 * time.Second)
	if err := store.Append(t.Context(), []profilestore.Encoded{
		encode(t, "api", "100", ended.Add(-20*time.Second), stacks{"main;old": 1}),
		encode(t, "api", "100", ended.Add(-10*time.Second), stacks{"main;new": 1}),
	}); err != nil {
		t.Fatal(err)
	}
	for seconds, want := range map[string][]string{"5": {"new"}, "10": {"new"}, "15": {"new"}, "20": {"new", "old"}} {
		_, body := get(t, s, "/api/v1/pprof?seconds="+seconds)
		p, err := profile.ParseData(body)
		if err != nil {
			t.Fatal(err)
		}
		var leaves []string
		for _, sample := range p.Sample {
			leaves = append(leaves, sample.Location[0].Line[0].Function.Name)
		}
		slices.Sort(leaves)
		if !slices.Equal(leaves, want) {
			t.Errorf("seconds=%s gives %v, want %v", seconds, leaves, want)
		}
	}
}
