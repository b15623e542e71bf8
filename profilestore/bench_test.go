package profilestore

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkAppend appends profiles of 54 KB from 8 senders, each batch one profile.
func BenchmarkAppend(b *testing.B) {
	s := open(b, b.TempDir(), testOptions())
	body := newLoadService(b, 1, 1, 0).profile(b, 0)
	var n atomic.Uint64
	b.SetBytes(int64(len(body)))
	b.SetParallelism(8 / min(8, runtime.GOMAXPROCS(0)))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			e := Encoded{ID: ID{1, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}, Name: "process_cpu", Labels: loadLabels(1, 0), Time: start.Add(time.Duration(i)).UnixNano(), Pprof: body}
			if err := s.Append(context.Background(), []Encoded{e}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkDecode is the parts of Append before the disk: from the bytes of a profile to its tables, and from those to
// dense ids.
func BenchmarkDecode(b *testing.B) {
	body := newLoadService(b, 1, 1, 0).profile(b, 0)
	var r profileReader
	b.Run("tables", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := r.read(body); err != nil {
				b.Fatal(err)
			}
		}
	})
	d := newDictionary(1, "", 0, new(atomic.Int64))
	var stacks, sets []uint32
	b.Run("ids", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			stacks, sets, _ = d.add(&r.decoded, stacks[:0], sets[:0])
		}
	})
}

// BenchmarkQuery asks for the last hour of one service, a profile every 10 s: from a head, and from a block.
func BenchmarkQuery(b *testing.B) {
	s := open(b, b.TempDir(), testOptions())
	load := newLoadService(b, 1, 1, 0)
	for i := range 360 {
		mustAppend(b, s, Encoded{Name: "process_cpu", Labels: loadLabels(1, 0), Time: start.Add(time.Duration(i) * 10 * time.Second).UnixNano(), Duration: 10 * time.Second, Pprof: load.profile(b, 0)})
	}
	ctx := context.Background()
	one, byThread := all(b, `{service_name="service01"}`), all(b, `{service_name="service01", thread="main"}`)
	for _, where := range []string{"head", "block"} {
		for _, bench := range []struct {
			name string
			run  func() error
		}{
			{"Select", func() error { _, err := s.Select(ctx, one); return err }},
			{"Select by thread", func() error { _, err := s.Select(ctx, byThread); return err }},
			{"Merge", func() error { _, err := s.Merge(ctx, one); return err }},
			{"Series", func() error { _, err := s.Series(ctx, one, []string{"thread"}, time.Minute); return err }},
			{"LabelValues", func() error { _, err := s.LabelValues(ctx, all(b, ""), "comm"); return err }},
		} {
			b.Run(bench.name+"/"+where, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := bench.run(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		settle(b, s)
	}
}
