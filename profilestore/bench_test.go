package profilestore

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/pprof/profile"
)

// serviceProfile makes a profile of the size used in the figures: 797 stacks, mean depth 38, two sample
// types; 89 KB gzipped, for its names are random. Profiles of one seed have the same stacks with other values.
func serviceProfile(t testing.TB, seed, values uint64) []byte {
	const functions, stacks, depth = 1500, 797, 38
	r := rand.New(rand.NewPCG(seed, 1))
	p := cpuProfile()
	p.Mapping = []*profile.Mapping{{ID: 1, Limit: 1 << 30, File: "/usr/bin/service", BuildID: "0123456789abcdef"}}
	for i := range uint64(functions) {
		f := &profile.Function{ID: i + 1, Name: fmt.Sprintf("service/%x.(*Handler%d).Do%x", r.Uint32(), i, r.Uint32()), Filename: fmt.Sprintf("/src/service/%x/file%d.go", r.Uint32(), i)}
		p.Function = append(p.Function, f)
		p.Location = append(p.Location, &profile.Location{ID: i + 1, Mapping: p.Mapping[0], Address: i * 64, Line: []profile.Line{{Function: f, Line: r.Int64N(1000)}}})
	}
	v := rand.New(rand.NewPCG(seed, values))
	stack := make([]*profile.Location, depth)
	for i := range stack {
		stack[i] = p.Location[i]
	}
	for range stacks {
		for i := r.IntN(depth); i < depth; i++ { // stacks share their callers
			stack[depth-1-i] = p.Location[r.IntN(functions)]
		}
		n := 1 + v.Int64N(9)
		p.Sample = append(p.Sample, &profile.Sample{Location: append([]*profile.Location(nil), stack...), Value: []int64{n, n * 10_000_000}, Label: map[string][]string{"pid": {"4711"}, "comm": {"service"}}})
	}
	return encode(t, p)
}

// BenchmarkAppend appends profiles of 89 KB from 8 senders, each batch one profile.
func BenchmarkAppend(b *testing.B) {
	s := open(b, b.TempDir(), testOptions())
	body := serviceProfile(b, 1, 1)
	var n atomic.Uint64
	b.SetBytes(int64(len(body)))
	b.SetParallelism(8 / min(8, runtime.GOMAXPROCS(0)))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			e := Encoded{ID: ID{1, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}, Name: "process_cpu", Labels: Labels{{"service_name", "api"}}, Time: start.Add(time.Duration(i)).UnixNano(), Pprof: body}
			if err := s.Append(context.Background(), []Encoded{e}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkCheck is the part of Append before the disk.
func BenchmarkCheck(b *testing.B) {
	s := open(b, b.TempDir(), testOptions())
	body := serviceProfile(b, 1, 1)
	e := Encoded{Name: "process_cpu", ID: ID{1}, Time: start.UnixNano(), Pprof: body}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.check(&e); err != nil {
			b.Fatal(err)
		}
	}
}

// hour fills a store with the last hour of one service, a profile every 10 s.
func hour(b *testing.B) *Store {
	s := open(b, b.TempDir(), testOptions())
	for i := range 360 {
		mustAppend(b, s, Encoded{Name: "process_cpu", Labels: Labels{{"service_name", "api"}}, Time: start.Add(time.Duration(i) * 10 * time.Second).UnixNano(), Duration: 10 * time.Second, Pprof: serviceProfile(b, 1, uint64(i))})
	}
	return s
}

func BenchmarkQuery(b *testing.B) {
	s := hour(b)
	ctx := context.Background()
	byPID := all(b, `{service_name="api", pid="4711"}`)
	for _, bench := range []struct {
		name string
		run  func() error
	}{
		{"Select", func() error { _, err := s.Select(ctx, byPID); return err }},
		{"Merge", func() error { _, err := s.Merge(ctx, byPID); return err }},
		{"Series", func() error { _, err := s.Series(ctx, byPID, []string{"pid"}, time.Minute); return err }},
		{"LabelValues", func() error { _, err := s.LabelValues(ctx, all(b, ""), "comm"); return err }},
	} {
		b.Run(bench.name+"/profiles=360", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := bench.run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkIndex shows what a week of 30 processes needs in memory and how fast it is read: 1.8 million
// profiles in segments of 10,000.
func BenchmarkIndex(b *testing.B) {
	const segments, profiles = 181, 10_000
	tables := make([][]byte, segments)
	for i := range tables {
		x := newIndexBuilder()
		own := make([]*series, 30)
		for j := range own {
			own[j] = &series{labels: Labels{{"service_name", fmt.Sprint("s", j)}}, types: []ProfileType{DefaultType, DefaultType}}
		}
		for j := range profiles {
			pid := fmt.Sprint(1000 + j%30)
			x.add(&profileMeta{id: ID{byte(i), byte(j >> 8), byte(j)}, time: int64(i*profiles + j), duration: 1e10, offset: uint32(j) * 3000, length: 3000, series: own[j%30], totals: []int64{19, 1e9},
				sets: []Labels{{{"comm", "c"}, {"pid", pid}, {"thread", "a"}}, {{"comm", "c"}, {"pid", pid}, {"thread", "b"}}}})
		}
		tables[i] = appendIndex(nil, &x.index)
	}
	for b.Loop() {
		before := heap()
		all := make([]*segment, segments)
		for i, table := range tables {
			x, err := readIndex(bytes.Clone(table))
			if err != nil {
				b.Fatal(err)
			}
			x.clip()
			all[i] = &segment{index: x, byID: x.byID()}
		}
		b.ReportMetric(float64(heap()-before)/(1<<20), "MB")
		runtime.KeepAlive(all)
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
