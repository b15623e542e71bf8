package profilestore

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/pprof/profile"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start is the time of the tests' first profile; their clock stands an hour later.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// testOptions remove at once what is replaced, so that files can be counted.
func testOptions() Options {
	return Options{now: func() time.Time { return start.Add(time.Hour) }, tick: make(chan time.Time), linger: -1}
}

func open(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// reopen closes s and opens its directory again.
func reopen(t testing.TB, s *Store, o Options) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, s.dir, o)
}

func cpuProfile() *profile.Profile {
	return &profile.Profile{
		SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}},
		PeriodType: &profile.ValueType{Type: "cpu", Unit: "nanoseconds"},
		Period:     52631578,
		TimeNanos:  start.UnixNano(),
	}
}

func encode(t testing.TB, p *profile.Profile) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := p.Write(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// source makes random profiles that resemble those of a machine: services with processes and threads.
type source struct {
	r *rand.Rand
	n int
}

func newSource(seed uint64) *source { return &source{r: rand.New(rand.NewPCG(seed, 1))} }

// profile makes the next one, 10 s after the one before.
func (g *source) profile(t testing.TB) Encoded {
	p := cpuProfile()
	var ids uint64
	var functions []*profile.Function
	var locations []*profile.Location
	for i := range 2 {
		p.Mapping = append(p.Mapping, &profile.Mapping{ID: uint64(i + 1), Start: uint64(i) << 20, Limit: uint64(i+1) << 20, File: fmt.Sprint("/lib", i)})
	}
	for i := range 8 {
		functions = append(functions, &profile.Function{ID: uint64(i + 1), Name: fmt.Sprint("f", i), SystemName: fmt.Sprint("_f", i), Filename: "f.c"})
	}
	for range 12 {
		ids++
		l := &profile.Location{ID: ids, Mapping: p.Mapping[g.r.IntN(2)]}
		l.Address = l.Mapping.Start + uint64(g.r.IntN(1000))
		for range g.r.IntN(3) {
			l.Line = append(l.Line, profile.Line{Function: functions[g.r.IntN(len(functions))], Line: int64(g.r.IntN(3))})
		}
		locations = append(locations, l)
	}
	p.Function, p.Location = functions, locations
	pid := fmt.Sprint(100 + g.r.IntN(3))
	for range 1 + g.r.IntN(6) {
		n := int64(1 + g.r.IntN(5))
		s := &profile.Sample{Value: []int64{n, n * 50}, Label: map[string][]string{"pid": {pid}, "thread": {fmt.Sprint("t", g.r.IntN(3))}}}
		if g.r.IntN(4) == 0 {
			s.Label = nil
		}
		for range g.r.IntN(6) {
			s.Location = append(s.Location, locations[g.r.IntN(len(locations))])
		}
		p.Sample = append(p.Sample, s)
	}
	g.n++
	e := Encoded{
		Name:     "process_cpu",
		Labels:   NewLabels(map[string]string{"service_name": []string{"api", "db", "web"}[g.r.IntN(3)], "hostname": "h"}),
		Time:     start.Add(time.Duration(g.n) * 10 * time.Second).UnixNano(),
		Duration: 10 * time.Second,
		Pprof:    encode(t, p),
	}
	e.ID[0], e.ID[1], e.ID[2] = 1, byte(g.n>>8), byte(g.n)
	return e
}

func (g *source) batch(t testing.TB, n int) []Encoded {
	batch := make([]Encoded, n)
	for i := range batch {
		batch[i] = g.profile(t)
	}
	return batch
}

func mustAppend(t testing.TB, s *Store, batch ...Encoded) {
	t.Helper()
	if err := s.Append(context.Background(), batch); err != nil {
		t.Fatal(err)
	}
}

// all selects everything.
func all(t testing.TB, selector string) Query {
	t.Helper()
	ms, err := ParseSelector(selector)
	if err != nil {
		t.Fatal(err)
	}
	return Query{Matchers: ms, From: start.Add(-24 * time.Hour).UnixNano(), To: start.Add(24 * time.Hour).UnixNano()}
}

// stored lists the IDs in the store, and reads every profile to see that it is whole.
func stored(t testing.TB, s *Store) map[ID]bool {
	t.Helper()
	infos, err := s.Profiles(context.Background(), all(t, ""), 1_000_000)
	if err != nil {
		t.Fatal(err)
	}
	ids := make(map[ID]bool)
	for _, i := range infos {
		if ids[i.ID] {
			t.Errorf("%s is there twice", i.ID)
		}
		ids[i.ID] = true
	}
	res, err := s.Select(context.Background(), all(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	if res.Profiles+res.Damaged != len(ids) {
		t.Errorf("%d profiles listed, %d selected, %d damaged", len(ids), res.Profiles, res.Damaged)
	}
	return ids
}

func wantStored(t testing.TB, s *Store, want ...Encoded) {
	t.Helper()
	got := stored(t, s)
	for _, e := range want {
		if !got[e.ID] {
			t.Errorf("%s is lost", e.ID)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d profiles, want %d", len(got), len(want))
	}
}

// settle has everything in memory written as blocks, and merges and deletes what is to be merged and deleted.
func settle(t testing.TB, s *Store) {
	t.Helper()
	for range 2 { // the first one may have met a head that waited already
		r := request{make(chan struct{})}
		s.requests <- r
		<-r.done
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
}

// files lists what a directory of a store holds.
func files(t testing.TB, s *Store, dir string) []string {
	t.Helper()
	names, err := s.fs.ReadDir(filepath.Join(s.dir, dir))
	if err != nil {
		t.Fatal(err)
	}
	return names
}
