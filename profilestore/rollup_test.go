package profilestore

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/pprof/profile"
)

// bodies makes profiles of stacks that come again, and of some that do not.
func bodies(t testing.TB, r *rand.Rand, empty func() *profile.Profile) [][]byte {
	var all [][]byte
	for range 40 {
		p := empty()
		for i := range 20 {
			id := uint64(i + 1)
			p.Function = append(p.Function, &profile.Function{ID: id, Name: fmt.Sprint("f", i)})
			p.Location = append(p.Location, &profile.Location{ID: id, Address: id, Line: []profile.Line{{Function: p.Function[i]}}})
		}
		for i := range 8 {
			first := i
			if r.IntN(20) == 0 {
				first = 8 + r.IntN(10)
			}
			values := []int64{1 + r.Int64N(3)}
			if len(p.SampleType) == 2 {
				values = append(values, values[0]*p.Period)
			}
			thread := map[string][]string{"thread": {fmt.Sprint("t", i%2)}}
			p.Sample = append(p.Sample, &profile.Sample{Location: []*profile.Location{p.Location[first], p.Location[19-i]}, Value: values, Label: thread})
		}
		all = append(all, encode(t, p))
	}
	return all
}

func memoryProfile() *profile.Profile {
	return &profile.Profile{SampleType: []*profile.ValueType{{Type: "inuse", Unit: "bytes"}}, PeriodType: &profile.ValueType{Type: "space", Unit: "bytes"}, Period: 1}
}

// fleet makes a profile of CPU time for each of some pods every ten seconds, and one of memory every minute.
func fleet(t testing.TB, r *rand.Rand, from time.Time, steps int) []Encoded {
	cpu, memory := bodies(t, r, cpuProfile), bodies(t, r, memoryProfile)
	var batch []Encoded
	for step := range steps {
		at := from.Add(time.Duration(step) * 10 * time.Second)
		for i, service := range []string{"api", "db"} {
			for pod := range 4 {
				e := Encoded{Name: "process_cpu", Labels: NewLabels(map[string]string{"service_name": service, "pod": fmt.Sprint(pod)}), Duration: 10 * time.Second}
				e.ID = ID{1, byte(step >> 8), byte(step), byte(i), byte(pod), byte(from.Unix() >> 8), byte(from.Unix())}
				e.Time, e.Pprof = at.Add(time.Duration(pod)*time.Millisecond).UnixNano(), cpu[r.IntN(len(cpu))]
				batch = append(batch, e)
				if step%6 == 0 {
					e.ID[0]++
					e.Name, e.Time, e.Pprof = "memory", at.UnixNano(), memory[r.IntN(len(memory))]
					batch = append(batch, e)
				}
			}
		}
	}
	return batch
}

// fleetStore has two hours in blocks, the second of them in several, and some minutes in the head.
func fleetStore(t testing.TB) *Store {
	r := rand.New(rand.NewPCG(31, 32))
	s := open(t, t.TempDir(), testOptions())
	for _, steps := range [][2]int{{-360, 360}, {0, 100}, {100, 150}, {250, 110}} {
		mustAppend(t, s, fleet(t, r, start.Add(time.Duration(steps[0])*10*time.Second), steps[1])...)
		settle(t, s)
	}
	mustAppend(t, s, fleet(t, r, start.Add(time.Hour), 12)...)
	return s
}

func TestRollupsEqualSamples(t *testing.T) {
	s := fleetStore(t)
	hours, windows := 0, 0
	for _, b := range s.blocks {
		for _, section := range b.meta.Sections {
			hours += len(section.Hours)
			windows += len(section.Windows)
		}
	}
	if hours == 0 || windows == 0 {
		t.Fatalf("%d rollups of hours, %d of windows", hours, windows)
	}
	r := rand.New(rand.NewPCG(33, 34))
	memory := ProfileType{"memory", "inuse", "bytes", "space", "bytes"}
	for _, selector := range []string{``, `{service_name="api"}`, `{service_name!="api"}`, `{pod="1"}`, `{service_name="db", pod=~"[12]"}`, `{thread="t1"}`, `{service_name="nobody"}`} {
		for i := range 20 {
			q := all(t, selector)
			q.From = start.Add(-time.Hour + time.Duration(r.IntN(7200))*time.Second).UnixNano()
			q.To = q.From + int64(r.IntN(7200))*int64(time.Second)
			switch i {
			case 0:
				q.From, q.To = start.Add(-time.Hour).UnixNano(), start.Add(2*time.Hour).UnixNano()
			case 1:
				q.From, q.To = start.UnixNano(), start.Add(time.Hour).UnixNano()
			case 2:
				q.From, q.To = start.Add(3*time.Millisecond).UnixNano(), start.Add(time.Hour+2*time.Millisecond).UnixNano() // in a window
			}
			if i%4 == 3 {
				q.Type = memory
			}
			var got [2]*Result
			for without := range got {
				for _, b := range s.blocks {
					b.noRollups.Store(without == 1)
				}
				forgetSums(s)
				var err error
				if got[without], err = s.Select(t.Context(), q); err != nil {
					t.Fatal(err)
				}
			}
			if a, b := folded(got[0].Stacks), folded(got[1].Stacks); !maps.Equal(a, b) || got[0].Profiles != got[1].Profiles {
				t.Errorf("%s from %s to %s: %d profiles %v, samples say %d, %v", selector, time.Unix(0, q.From).UTC(), time.Unix(0, q.To).UTC(), got[0].Profiles, a, got[1].Profiles, b)
			}
		}
	}
}

// Where rollups have all that is asked for no samples are read, and where rollups are damaged samples are.
func TestRollupsAlone(t *testing.T) {
	s := fleetStore(t)
	dir := s.dir
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, selector, file string
		from, to             time.Duration
		flip, damaged        bool
	}{
		{"whole hour", `{service_name="api"}`, "samples", -time.Hour, time.Hour, false, false},
		{"windows", `{service_name="api"}`, "samples", -10 * time.Minute, 10 * time.Minute, false, false},
		{"one pod", `{pod="1"}`, "samples", -time.Hour, time.Hour, false, true},
		{"no hours", ``, "hours", -time.Hour, time.Hour, false, false},
		{"a wrong bit in hours", ``, "hours", -time.Hour, time.Hour, true, false},
		{"a wrong bit in windows", ``, "windows", -10 * time.Minute, 10 * time.Minute, true, false},
		{"no windows", ``, "windows", -10 * time.Minute, 10 * time.Minute, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := copied(t, dir)
			q := all(t, test.selector)
			q.From, q.To = start.Add(test.from).UnixNano(), start.Add(test.to).UnixNano()
			want, err := s.Select(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			s = reopen(t, s, testOptions())
			paths, err := filepath.Glob(filepath.Join(s.dir, blocksDir, "*", test.file+".parquet"))
			if err != nil || len(paths) == 0 {
				t.Fatal(paths, err)
			}
			for _, path := range paths {
				b := []byte("nothing")
				if test.flip {
					if b, err = os.ReadFile(path); err != nil {
						t.Fatal(err)
					}
					b[len(b)/3] ^= 4
				}
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := s.Select(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			if test.damaged {
				if got.Damaged == 0 {
					t.Error("samples were not needed")
				}
				return
			}
			if !maps.Equal(folded(got.Stacks), folded(want.Stacks)) || got.Damaged > 0 {
				t.Errorf("%d damaged, %v\nwant %v", got.Damaged, folded(got.Stacks), folded(want.Stacks))
			}
			if n := len(s.Damage()); (n > 0) != (test.file != "samples") {
				t.Errorf("%d damages: %v", n, s.Damage())
			}
		})
	}
}

// copied opens a copy of a store.
func copied(t *testing.T, from string) *Store {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return open(t, dir, testOptions())
}

// Format 2 had no rollups and no kinds of series, and like format 3 one tree of stacks for each dictionary.
func TestFormat2(t *testing.T) {
	s := fleetStore(t)
	want, err := s.Select(t.Context(), all(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(s.dir, blocksDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		var meta blockMeta
		err := errors.Join(readMeta(osFS{}, path, &meta), os.Remove(filepath.Join(path, metaFile)))
		meta.Hours, meta.Windows = tableInfo{}, tableInfo{}
		for i := range meta.Sections {
			meta.Sections[i].Hours, meta.Sections[i].Windows, meta.Sections[i].Least = nil, nil, 0
		}
		err = errors.Join(err, writeMeta(osFS{}, path, &meta), os.RemoveAll(filepath.Join(path, "hours.parquet")), os.RemoveAll(filepath.Join(path, "windows.parquet")))
		if err != nil {
			t.Fatal(err)
		}
	}
	format := filepath.Join(s.dir, formatFile)
	if err := os.WriteFile(format, []byte(formatText+"2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, s.dir, testOptions())
	got, err := s.Select(t.Context(), all(t, ""))
	if err != nil || !maps.Equal(folded(got.Stacks), folded(want.Stacks)) {
		t.Errorf("%v, got %v\nwant %v", err, folded(got.Stacks), folded(want.Stacks))
	}
	if b, err := os.ReadFile(format); err != nil || string(b) != formatText+"4\n" {
		t.Errorf("%q, %v", b, err)
	}
}
