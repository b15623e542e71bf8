package profilestore

import (
	"bytes"
	"maps"
	"testing"
	"time"

	"github.com/google/pprof/profile"
)

// TestTreesOfADictionary: with little memory a dictionary begins trees of stacks again and again, and goes on with its
// names. Answers are those of a store with much memory, before and after merges and a restart.
func TestTreesOfADictionary(t *testing.T) {
	t.Run("made", func(t *testing.T) { treesOfADictionary(t, newLoadService(t, 1, 1, 0.3), 3<<20) })
	t.Run("recorded", func(t *testing.T) { treesOfADictionary(t, newRecordedService(t, 2, 0.3), 11<<20) })
}

func treesOfADictionary(t *testing.T, load profileSource, memory int64) {
	o := testOptions()
	o.MemoryBytes = memory
	dir := t.TempDir()
	little, much := open(t, dir, o), open(t, t.TempDir(), testOptions())
	for i := range 12 {
		e := Encoded{ID: ID{1, byte(i)}, Name: "process_cpu", Labels: loadLabels(1, 0), Time: start.Add(time.Duration(i*7-90) * time.Minute).UnixNano(), Pprof: load.profile(t, 0)}
		mustAppend(t, little, e)
		mustAppend(t, much, e)
		if i%2 == 0 {
			settle(t, little)
		}
		if i%4 == 3 {
			equalAnswers(t, little, much)
		}
	}
	settle(t, little)
	ids, trees := make(map[uint32]bool), 1
	for _, seg := range little.segments {
		for _, d := range seg.meta.Dictionaries {
			ids[d.ID] = true
			trees += len(d.Trees)
		}
	}
	if len(ids) != 1 || trees < 3 {
		t.Errorf("%d dictionaries, %d trees", len(ids), trees)
	}
	equalAnswers(t, little, much)
	// Trees that are cached and names that are read anew have other numbers for strings.
	little.mu.Lock()
	clear(little.open)
	little.forgetDictionaries()
	if len(little.inMemory) > 0 {
		t.Errorf("%d dictionaries in memory", len(little.inMemory))
	}
	little.mu.Unlock()
	equalAnswers(t, little, much)
	if err := little.Close(); err != nil {
		t.Fatal(err)
	}
	equalAnswers(t, open(t, dir, o), much)
}

func equalAnswers(t *testing.T, a, b *Store) {
	t.Helper()
	for _, minutes := range [][2]int{{0, 120}, {0, 10}, {20, 50}, {60, 61}, {70, 84}} {
		for _, selector := range []string{``, `{thread="main"}`} {
			q := all(t, selector)
			q.From, q.To = start.Add(time.Duration(minutes[0]-90)*time.Minute).UnixNano(), start.Add(time.Duration(minutes[1]-90)*time.Minute).UnixNano()
			var stacks [2]map[string]int64
			var sums [2]map[string]int64
			for i, s := range []*Store{a, b} {
				res, err := s.Select(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				if stacks[i] = folded(res.Stacks); res.Damaged > 0 {
					t.Errorf("%d damaged", res.Damaged)
				}
				sums[i] = byStack(t, s, q)
			}
			if !maps.Equal(stacks[0], stacks[1]) || !maps.Equal(sums[0], sums[1]) {
				t.Errorf("minutes %v of %s: %d stacks and %d samples, %d and %d with much memory", minutes, selector, len(stacks[0]), len(sums[0]), len(stacks[1]), len(sums[1]))
			}
		}
	}
}

// byStack are the sums of a download by stack and thread.
func byStack(t *testing.T, s *Store, q Query) map[string]int64 {
	t.Helper()
	var b bytes.Buffer
	if err := s.WriteMerged(t.Context(), q, &b); err != nil {
		t.Fatal(err)
	}
	p, err := profile.ParseUncompressed(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	sums := make(map[string]int64)
	for _, sample := range p.Sample {
		var key []byte
		for _, l := range sample.Location {
			for _, line := range l.Line {
				key = appendString(appendString(key, line.Function.Name), line.Function.Filename)
			}
			if l.Mapping != nil {
				key = appendString(key, l.Mapping.File)
			}
			key = appendVarint(key, l.Address)
		}
		sums[string(appendString(key, sample.Label["thread"][0]))] += sample.Value[1]
	}
	return sums
}
