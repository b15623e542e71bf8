package profilestore

import (
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/pprof/profile"
)

// forgetSums has the next query add up all that it needs.
func forgetSums(s *Store) {
	for key := range maps.Clone(s.kept.trees) {
		s.dropSums(key)
	}
}

// Whatever was asked before, in ranges that move on or begin elsewhere, and while blocks come and are merged: answers are those
// of a store that keeps nothing.
func TestKeptSumsEqualSamples(t *testing.T) {
	keeps, forgets := fleetStore(t), fleetStore(t)
	r := rand.New(rand.NewPCG(35, 36))
	q := all(t, "")
	for i := range 300 {
		switch i % 10 {
		case 0: // another question
			selectors := []string{``, `{service_name="api"}`, `{pod="1"}`, `{service_name="db", pod=~"[12]"}`, `{thread="t1"}`, `{thread="t1", pod="3"}`}
			q = all(t, selectors[r.IntN(len(selectors))])
			q.From = start.Add(-time.Hour + time.Duration(r.IntN(3600))*time.Second).UnixNano()
			q.To = q.From + int64(r.IntN(7200))*int64(time.Second)
		case 3, 6: // the same again
		case 9:
			q.From, q.To = q.From+int64(steadyStep), q.To+int64(steadyStep)
		default:
			move := int64(r.IntN(20)) * int64(time.Second)
			q.From, q.To = q.From+move, q.To+move
		}
		if i == 150 { // what was in the head is in blocks
			settle(t, keeps)
		}
		forgetSums(forgets)
		got, err := keeps.Select(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		want, err := forgets.Select(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if a, b := folded(got.Stacks), folded(want.Stacks); !maps.Equal(a, b) || got.Profiles != want.Profiles {
			t.Fatalf("query %d: %d profiles %v, want %d, %v", i, got.Profiles, a, want.Profiles, b)
		}
	}
	if len(keeps.kept.trees) == 0 {
		t.Error("nothing is kept")
	}
	forgetSums(forgets)
	if n := forgets.cacheBytes.Load(); n < 0 || n > keeps.cacheBytes.Load() {
		t.Errorf("%d bytes in caches without sums, %d with them", n, keeps.cacheBytes.Load())
	}
}

// What was asked once is answered again without a look at the samples, and a range that has moved on needs no more than those
// at its ends.
func TestKeptSumsAreUsed(t *testing.T) {
	s := fleetStore(t)
	settle(t, s)
	ask := func(q Query) *Result {
		t.Helper()
		res, err := s.Select(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	q := all(t, `{service_name="api"}`)
	q.From, q.To = start.Add(-3*time.Minute).UnixNano(), start.Add(2*time.Hour).UnixNano()
	before := ask(q)
	kept := len(s.kept.trees)
	q.From += int64(10 * time.Second)
	moved := ask(q)
	if more := len(s.kept.trees) - kept; more > 1 {
		t.Errorf("a range that moved on by ten seconds was added up in %d pieces", more)
	}
	for _, name := range []string{"samples", "hours", "windows"} {
		paths, err := filepath.Glob(filepath.Join(s.dir, blocksDir, "*", name+".parquet"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	if again := ask(q); !maps.Equal(folded(again.Stacks), folded(moved.Stacks)) || again.Damaged > 0 {
		t.Errorf("asked again: %d damaged, %v, want %v", again.Damaged, folded(again.Stacks), folded(moved.Stacks))
	}
	q.From -= int64(10 * time.Second)
	if again := ask(q); !maps.Equal(folded(again.Stacks), folded(before.Stacks)) || again.Damaged > 0 {
		t.Errorf("asked again: %d damaged, %v, want %v", again.Damaged, folded(again.Stacks), folded(before.Stacks))
	}
	s = reopen(t, s, testOptions())
	if res := ask(q); res.Damaged == 0 {
		t.Error("a store that has just begun does without samples")
	}
}

// Two questions whose profiles differ only in the column that their values are in are not the same.
func TestKeptSumsOfSeveralTypes(t *testing.T) {
	s := open(t, t.TempDir(), testOptions())
	at := start.Truncate(time.Hour)
	add := func(pod, function string, swap bool, after time.Duration, a, b int64) {
		p := memoryProfile()
		p.SampleType = []*profile.ValueType{{Type: "a", Unit: "count"}, {Type: "b", Unit: "count"}}
		values := []int64{a, b}
		if swap {
			slices.Reverse(p.SampleType)
			slices.Reverse(values)
		}
		p.Function = []*profile.Function{{ID: 1, Name: function}}
		p.Location = []*profile.Location{{ID: 1, Address: 1, Line: []profile.Line{{Function: p.Function[0]}}}}
		p.Sample = []*profile.Sample{{Location: p.Location, Value: values}}
		e := Encoded{ID: ID{1, byte(a)}, Name: "memory", Duration: time.Second, Time: at.Add(after).UnixNano(), Pprof: encode(t, p)}
		e.Labels = NewLabels(map[string]string{"service_name": "api", "pod": pod})
		mustAppend(t, s, e)
	}
	add("9", "early", false, -30*time.Minute, 1, 2)
	add("1", "x0", false, 3*time.Minute, 10, 1000)
	add("2", "y0", true, 4*time.Minute, 20, 2000)
	settle(t, s)
	add("3", "x1", false, 20*time.Minute, 7, 70000)
	settle(t, s)
	add("3", "y1", true, 30*time.Minute, 5, 50)
	for _, test := range []struct {
		typ, selector string
		want          map[string]int64
	}{
		{"a", `{pod=~"1|3"}`, map[string]int64{"x0": 10, "x1": 7, "y1": 5}},
		{"b", `{pod=~"2|3"}`, map[string]int64{"y0": 2000, "x1": 70000, "y1": 50}},
	} {
		q := all(t, test.selector)
		q.Type = ProfileType{"memory", test.typ, "count", "space", "bytes"}
		q.From, q.To = at.Add(2*time.Minute).UnixNano(), at.Add(time.Hour).UnixNano()
		res, err := s.Select(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if got := folded(res.Stacks); !maps.Equal(got, test.want) {
			t.Errorf("%s of %s: %v, want %v", test.typ, test.selector, got, test.want)
		}
	}
}

// Queries that push each other's tables out of the caches wait for each other, but not for ever.
func TestQueriesInLittleMemory(t *testing.T) {
	s := fleetStore(t)
	s.o.MemoryBytes = 600 << 10
	queries, want := make([]Query, 24), make([]map[string]int64, 24)
	for i := range queries {
		q := all(t, []string{``, `{service_name="api"}`, `{pod="1"}`, `{thread="t1"}`}[i%4])
		q.From = start.Add(-time.Hour + time.Duration(i*137%3600)*time.Second).UnixNano()
		q.To = q.From + int64(i*911%7200)*int64(time.Second)
		forgetSums(s)
		res, err := s.Select(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		queries[i], want[i] = q, folded(res.Stacks)
	}
	var group sync.WaitGroup
	for first := range 3 {
		group.Go(func() {
			for n := range 60 {
				i := (n*7 + first*5) % len(queries)
				res, err := s.Select(t.Context(), queries[i])
				if err != nil {
					t.Error(err)
				} else if got := folded(res.Stacks); !maps.Equal(got, want[i]) {
					t.Errorf("query %d: %v, want %v", i, got, want[i])
				}
			}
		})
	}
	settle(t, s)
	group.Wait()
	if bytes := s.cacheBytes.Load(); bytes > s.cacheLimit() {
		t.Errorf("%d bytes in caches, %d are allowed", bytes, s.cacheLimit())
	}
}
