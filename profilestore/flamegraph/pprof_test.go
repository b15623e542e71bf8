package flamegraph

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/pprof/profile"
)

// realProfiles are ten files that profilers wrote: those of testdata/real, whose README says what each is, and three of
// google/pprof's own tests.
func realProfiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "real", "*.pb.gz"))
	if err != nil {
		t.Fatal(err)
	}
	dir := strings.TrimSpace(goTool(t, "list", "-m", "-f", "{{.Dir}}", "github.com/google/pprof"))
	for _, name := range []string{"java.cpu", "java.heap", "java.contention"} {
		files = append(files, filepath.Join(dir, "profile", "testdata", name))
	}
	if len(files) < 10 {
		t.Fatalf("%d profiles, want ten", len(files))
	}
	return files
}

func goTool(t *testing.T, args ...string) string {
	t.Helper()
	tool, err := exec.LookPath("go")
	if err != nil {
		if os.Getenv("REQUIRE_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skip("no go command to run `go tool pprof` with")
	}
	cmd := exec.CommandContext(t.Context(), tool, args...)
	cmd.Env = append(os.Environ(), "PPROF_TMPDIR="+t.TempDir())
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, &stderr)
	}
	return string(out)
}

// pprofUnits make the tool print whole numbers of what the profile counts.
var pprofUnits = map[string]string{"nanoseconds": "ns", "microseconds": "us", "milliseconds": "ms", "bytes": "B", "count": "count"}

// readReal parses a file as the tool does before it filters, and gives code without a name the one that the tool prints.
func readReal(t *testing.T, file string) *profile.Profile {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p, err := profile.ParseData(content)
	if err != nil {
		t.Fatal(err)
	}
	p.RemoveUninteresting()
	for _, l := range p.Location {
		if len(l.Line) > 0 {
			continue
		}
		name := "<unknown>"
		if l.Mapping != nil && l.Mapping.File != "" {
			name = "[" + path.Base(l.Mapping.File) + "]"
		}
		l.Line = []profile.Line{{Function: &profile.Function{Name: name}}}
	}
	return p
}

// nearest is an expression for the function whose total is nearest to a share of the whole.
func nearest(table *Table, share float64) string {
	best := slices.MinFunc(table.Rows, func(a, b Row) int {
		far := func(r Row) float64 { return math.Abs(float64(r.Total) - share*float64(table.Total)) }
		return cmp.Or(cmp.Compare(far(a), far(b)), strings.Compare(a.Function, b.Function))
	})
	return "^" + regexp.QuoteMeta(best.Function) + "$"
}

var (
	pprofTop  = regexp.MustCompile(`(?m)^ *(\d+)[a-zA-Z]* +[\d.]+% +[\d.]+% +(\d+)[a-zA-Z]* +[\d.]+%  (.*?)(?: \((?:partial-)?inline\))?$`)
	pprofEdge = regexp.MustCompile(`^ +(\d+)[a-zA-Z]* +[\d.]+% \|   (.*?)(?: \(inline\))?$`)
	pprofNode = regexp.MustCompile(`^.*% {16}\| (.*)$`)
)

// TestRealProfilesAsPprof compares tables and sandwiches with what `go tool pprof` itself makes of the same files with
// its options of the same names.
func TestRealProfilesAsPprof(t *testing.T) {
	for _, file := range realProfiles(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			p := readReal(t, file)
			index := len(p.SampleType) - 1
			whole, err := FromProfile(p, index)
			if err != nil {
				t.Fatal(err)
			}
			st := p.SampleType[index]
			pprof := func(args ...string) string {
				return goTool(t, append(append([]string{"tool", "pprof", "-symbolize=none", "-nodecount=0", "-nodefraction=0", "-edgefraction=0",
					"-unit=" + pprofUnits[st.Unit], "-sample_index=" + st.Type}, args...), file)...)
			}
			table := top(t, whole, Options{})
			focus, ignore, hide, from := "focus:"+nearest(table, 0.5), "ignore:"+nearest(table, 0.2), "hide:"+nearest(table, 0.75), "show_from:"+nearest(table, 0.4)
			changed := 0
			for _, texts := range [][]string{{}, {focus}, {ignore}, {hide}, {from}, {focus, ignore, hide, from}} {
				args := []string{"-top"}
				for _, text := range texts {
					kind, expression, _ := strings.Cut(text, ":")
					args = append(args, "-"+kind+"="+expression)
				}
				var got, want []string
				for _, r := range top(t, filtered(t, whole, filters(t, texts...)...), Options{}).Rows {
					got = append(got, fmt.Sprint(r.Function, " ", r.Self, " ", r.Total))
				}
				for _, m := range pprofTop.FindAllStringSubmatch(pprof(args...), -1) {
					want = append(want, m[3]+" "+m[1]+" "+m[2])
				}
				same(t, fmt.Sprint(texts), got, want)
				if len(got) > 0 && len(got) < len(table.Rows) {
					changed++
				}
			}
			if changed < 3 {
				t.Errorf("only %d of the filters left some functions and took some", changed)
			}
			edges := pprofEdges(pprof("-peek=."))
			for _, r := range table.Rows[:min(len(table.Rows), 60)] {
				w, err := BuildSandwich(t.Context(), whole, r.Function, Options{MaxNodes: 1})
				if err != nil {
					t.Fatal(err)
				}
				same(t, "callers of "+r.Function, callTexts(w.Callers), edges[0][r.Function])
				same(t, "callees of "+r.Function, callTexts(w.Callees), edges[1][r.Function])
			}
		})
	}
}

// pprofEdges reads -peek: for each function its callers, and its callees.
func pprofEdges(out string) (edges [2]map[string][]string) {
	for _, block := range strings.Split(out, "----------------------------------------------------------+-------------\n") {
		var calls [2][]string
		side, name := 0, ""
		for line := range strings.Lines(block) {
			line = strings.TrimSuffix(line, "\n")
			if m := pprofEdge.FindStringSubmatch(line); m != nil {
				calls[side] = append(calls[side], m[2]+" "+m[1])
			} else if m := pprofNode.FindStringSubmatch(line); m != nil {
				side, name = 1, m[1]
			}
		}
		for side := range calls {
			if edges[side] == nil {
				edges[side] = make(map[string][]string)
			}
			edges[side][name] = calls[side]
		}
	}
	return edges
}

func callTexts(calls []Call) []string {
	var texts []string
	for _, c := range calls {
		texts = append(texts, fmt.Sprint(c.Function, " ", c.Value))
	}
	return texts
}

// same compares lists in any order.
func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if slices.Equal(got, want) {
		return
	}
	only := func(a, b []string) []string {
		return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
	}
	t.Errorf("%s: %d rows, want %d; only here %.500q, only in pprof %.500q", what, len(got), len(want), only(got, want), only(want, got))
}
