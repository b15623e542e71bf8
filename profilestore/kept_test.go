package profilestore

import (
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
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
			q.From, q.To = q.From+int64(step), q.To+int64(step)
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
