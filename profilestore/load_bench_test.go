//go:build benchstore

package profilestore

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/pgzip"

	"pilotlight/profilestore/flamegraph"
)

// The load in time: each pod has a profile every 10 min for 22 h 20 min, then one every 30 s for 62 min, so that a
// service of three pods has one every 10 s.
const (
	sparseProfiles = 134
	denseProfiles  = 124
	loadServices   = 20
	loadPods       = 3
)

// cpuTime is what this process has used.
func cpuTime(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peakRSS is the most memory since the last call, in MB.
func peakRSS(t *testing.T) int {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
	return kb >> 10
}

// load is a kind of profiles to store.
type load struct {
	name    string
	what    string
	thread  string // a selector of some of the samples of service07
	service func(t testing.TB, number int) profileSource
}

var benchLoads = []load{
	{"steady", "made, the same stacks in all", `thread="main"`, func(t testing.TB, number int) profileSource {
		return newLoadService(t, number, loadPods, 0)
	}},
	{"new", "made, 30 % new stacks in each", `thread="main"`, func(t testing.TB, number int) profileSource {
		return newLoadService(t, number, loadPods, 0.3)
	}},
	{"recorded", "recorded, 30 % new stacks in each", `thread="node"`, func(t testing.TB, number int) profileSource {
		return newRecordedService(t, number, 0.3)
	}},
}

// recordedSum is a checksum of what was recorded.
func recordedSum(t *testing.T) uint32 {
	files, err := filepath.Glob("testdata/recorded/*.pb.gz")
	if err != nil {
		t.Fatal(err)
	}
	sum := uint32(0)
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		sum = crc32Update(sum, b)
	}
	return sum
}

// file has the profiles of all pods in the order of their times: length and bytes of each.
func (l load) file(t *testing.T) string {
	path := filepath.Join(os.TempDir(), fmt.Sprintf("pilotlight-load-%d-%s-%08x.bin", os.Getuid(), l.name, recordedSum(t)))
	if _, err := os.Stat(path); err == nil {
		return path
	}
	f, err := os.Create(path + tmpSuffix)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	services := make([]profileSource, loadServices)
	for i := range services {
		services[i] = l.service(t, i)
	}
	for range sparseProfiles + denseProfiles {
		for pod := range loadPods {
			for _, s := range services {
				body := s.profile(t, pod)
				var length [4]byte
				binary.LittleEndian.PutUint32(length[:], uint32(len(body)))
				w.Write(length[:])
				w.Write(body)
			}
		}
	}
	if err := errors.Join(w.Flush(), f.Close(), os.Rename(path+tmpSuffix, path)); err != nil {
		t.Fatal(err)
	}
	return path
}

// loadReader gives the profiles of a load file with their times. With more pods than the file has, pods share the
// bodies of a window.
type loadReader struct {
	r     *bufio.Reader
	start time.Time
	scale int
	step  int
}

func (l *loadReader) time(pod int) time.Time {
	stagger := time.Duration(pod) * 10 * time.Second
	if l.step < sparseProfiles {
		return l.start.Add(time.Duration(l.step)*10*time.Minute + stagger)
	}
	return l.start.Add(sparseProfiles*10*time.Minute + time.Duration(l.step-sparseProfiles)*30*time.Second + stagger)
}

// loadBodies are read into again when their profiles are stored: the load is to cost as little as a socket that is read from.
var loadBodies = sync.Pool{New: func() any { return new([]byte) }}

// window calls fn for the profiles of the next step, which calls stored when they are.
func (l *loadReader) window(t *testing.T, fn func(e Encoded, stored func())) {
	for pod := range loadPods {
		for service := range loadServices {
			var length [4]byte
			if _, err := io.ReadFull(l.r, length[:]); err != nil {
				t.Fatal(err)
			}
			body := loadBodies.Get().(*[]byte)
			size := int(binary.LittleEndian.Uint32(length[:]))
			*body = slices.Grow((*body)[:0], size)[:size]
			if _, err := io.ReadFull(l.r, *body); err != nil {
				t.Fatal(err)
			}
			var left atomic.Int32
			left.Store(int32(l.scale))
			stored := func() {
				if left.Add(-1) == 0 {
					loadBodies.Put(body)
				}
			}
			for k := range l.scale {
				e := Encoded{Name: "process_cpu", Labels: loadLabels(service, pod+loadPods*k), Time: l.time(pod).UnixNano(), Duration: 10 * time.Second, Pprof: *body}
				binary.BigEndian.PutUint64(e.ID[:], uint64(l.step+1))
				binary.BigEndian.PutUint64(e.ID[8:], uint64(service)<<32|uint64(pod+loadPods*k))
				fn(e, stored)
			}
		}
	}
	l.step++
}

// TestBenchStore prints the figures of the store beside those to reach. BENCH_SCALES and BENCH_LOADS choose.
func TestBenchStore(t *testing.T) {
	scales := []int{1}
	if text := os.Getenv("BENCH_SCALES"); text != "" {
		scales = nil
		for part := range strings.SplitSeq(text, ",") {
			n, err := strconv.Atoi(part)
			if err != nil {
				t.Fatal(err)
			}
			scales = append(scales, n)
		}
	}
	names := []string{"steady"}
	if text := os.Getenv("BENCH_LOADS"); text != "" {
		names = strings.Split(text, ",")
	}
	for _, name := range names {
		i := slices.IndexFunc(benchLoads, func(l load) bool { return l.name == name })
		if i < 0 {
			t.Fatalf("BENCH_LOADS: %q is none of steady, new and recorded", name)
		}
		for _, scale := range scales {
			benchStore(t, benchLoads[i], scale)
		}
	}
}

func benchStore(t *testing.T, load load, scale int) {
	path := load.file(t)
	debug.FreeOSMemory()
	fmt.Printf("\n%d services x %d pods, profiles %s\n", loadServices, loadPods*scale, load.what)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := t.TempDir()
	end := time.Now().Truncate(time.Minute)
	l := &loadReader{r: bufio.NewReaderSize(f, 1<<20), scale: scale, start: end.Add(-sparseProfiles*10*time.Minute - denseProfiles*30*time.Second)}
	s, err := Open(dir, Options{tick: make(chan time.Time)})
	if err != nil {
		t.Fatal(err)
	}
	row := func(what, got, target string) { fmt.Printf("  %-52s %16s   to reach %s\n", what, got, target) }

	peakRSS(t)
	count, sent := 0, int64(0)
	cpu, began := cpuTime(t), time.Now()
	ingest := func(steps int) {
		type job struct {
			Encoded
			stored func()
		}
		jobs := make(chan job)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for j := range jobs {
					if err := s.Append(context.Background(), []Encoded{j.Encoded}); err != nil {
						t.Error(err)
					}
					j.stored()
				}
			})
		}
		for range steps {
			l.window(t, func(e Encoded, stored func()) {
				count++
				sent += int64(len(e.Pprof))
				jobs <- job{e, stored}
			})
		}
		close(jobs)
		wg.Wait()
	}
	ingest(sparseProfiles)
	settle(t, s)
	sparse, sparseCount := storeSize(s), count
	ingest(denseProfiles - 4)
	settle(t, s)
	used, wall := cpuTime(t)-cpu, time.Since(began)
	row("profiles, mean size", fmt.Sprintf("%d, %.1f KB", count, float64(sent)/float64(count)/1000), "49.7 KB")
	row("ingest CPU per profile, blocks and merges included", fmt.Sprintf("%.2f ms", used.Seconds()*1000/float64(count)), "<= 2.0 ms")
	row("ingest wall, 8 senders", fmt.Sprintf("%.0f/s", float64(count)/wall.Seconds()), "-")
	row("peak RSS of ingest", fmt.Sprintf("%d MB", peakRSS(t)), "<= 400 MB")
	row("disk per profile, dense hour", fmt.Sprintf("%.2f KB", float64(storeSize(s)-sparse)/float64(count-sparseCount)/1000), "<= 4 KB; 30 % new: <= 12 KB")
	row("disk per profile, all", fmt.Sprintf("%.2f KB", float64(storeSize(s))/float64(count)/1000), "-")

	// The last windows come at 200 profiles a second, on the clock.
	var took []time.Duration
	var mu sync.Mutex
	var wg sync.WaitGroup
	ticker := time.NewTicker(time.Second / 200)
	for range 4 {
		l.window(t, func(e Encoded, stored func()) {
			<-ticker.C
			wg.Go(func() {
				defer stored()
				start := time.Now()
				if err := s.Append(context.Background(), []Encoded{e}); err != nil {
					t.Error(err)
				}
				mu.Lock()
				took = append(took, time.Since(start))
				mu.Unlock()
			})
		})
	}
	wg.Wait()
	ticker.Stop()
	slices.Sort(took)
	row("push p50, p95 at 200 profiles/s, after fsync", fmt.Sprintf("%.1f, %.1f ms", took[len(took)/2].Seconds()*1000, took[len(took)*95/100].Seconds()*1000), "p95 <= 25 ms")

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = nil
	debug.FreeOSMemory() // a process that starts has no garbage to collect, and no memory yet
	start := time.Now()
	if s, err = Open(dir, Options{tick: make(chan time.Time)}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	row("restart to ready", fmt.Sprintf("%.2f s", time.Since(start).Seconds()), "<= 5 s at 16x")
	fmt.Printf("  %d blocks, %d segments\n", len(s.blocks), len(s.segments))

	query := func(selector string, last time.Duration) Query {
		ms, err := ParseSelector(selector)
		if err != nil {
			t.Fatal(err)
		}
		to := end.Add(time.Minute)
		return Query{Matchers: ms, From: to.Add(-last).UnixNano(), To: to.UnixNano()}
	}
	ctx := context.Background()
	flame := func(q Query) func() error {
		return func() error {
			res, err := s.Select(ctx, q)
			if err != nil {
				return err
			}
			_, err = flamegraph.Build(ctx, res.Stacks, flamegraph.Options{MaxNodes: 1 << 14})
			return err
		}
	}
	moving := func(q Query) func() error { // as of a page that loads again, and again
		return func() error {
			q.From, q.To = q.From+int64(10*time.Second), q.To+int64(10*time.Second)
			return flame(q)()
		}
	}
	const aDay = 24 * time.Hour
	one := `{service_name="service07"}`
	peakRSS(t)
	for _, q := range []struct {
		what, target string
		rounds       int
		run          func() error
	}{
		{"flame, one service, last hour", "<= 10 ms, cold <= 50", 20, flame(query(one, time.Hour))},
		{"  each time ten seconds later", "-", 20, moving(query(one, time.Hour))},
		{"flame, one service, 23 h", "<= 25 ms", 20, flame(query(one, aDay))},
		{"flame, one pod by a sample label, last hour", "-", 20, flame(query(`{service_name="service07", `+load.thread+`}`, time.Hour))},
		{"flame, all services, 23 h", "<= 150 ms, cold <= 1 s", 7, flame(query(``, aDay))},
		{"  each time ten seconds later", "-", 7, moving(query(``, aDay))},
		{"pprof download, one service, last hour", "<= 60 ms", 9, func() error {
			z, err := pgzip.NewWriterLevel(io.Discard, pgzip.BestSpeed) // as httpapi does
			if err != nil {
				return err
			}
			if err := z.SetConcurrency(256<<10, min(runtime.GOMAXPROCS(0), 4)); err != nil {
				return err
			}
			return errors.Join(s.WriteMerged(ctx, query(one, time.Hour), z), z.Close())
		}},
		{"total CPU by service, 23 h", "<= 10 ms", 20, func() error {
			_, err := s.Series(ctx, query(``, aDay), []string{"service_name"}, 5*time.Minute)
			return err
		}},
		{"total CPU by thread, 23 h", "-", 20, func() error {
			_, err := s.Series(ctx, query(``, aDay), []string{"thread"}, 5*time.Minute)
			return err
		}},
		{"label values", "<= 1 ms", 20, func() error { _, err := s.LabelValues(ctx, query(``, aDay), "pod"); return err }},
	} {
		var cpus, walls []time.Duration
		refused := ""
		for range q.rounds + 1 {
			c, w := cpuTime(t), time.Now()
			err := q.run()
			if e := (*Error)(nil); errors.As(err, &e) && e.Code == Unprocessable {
				refused = e.Message
				break
			}
			if err != nil {
				t.Fatal(q.what, err)
			}
			cpus, walls = append(cpus, cpuTime(t)-c), append(walls, time.Since(w))
		}
		if refused != "" {
			row(q.what, "refused", q.target+"   "+refused)
			continue
		}
		first := fmt.Sprintf("first %.0f ms, CPU %.0f", walls[0].Seconds()*1000, cpus[0].Seconds()*1000)
		slices.Sort(cpus)
		slices.Sort(walls)
		ms := func(d time.Duration) float64 { return d.Seconds() * 1000 }
		row(q.what, fmt.Sprintf("%.1f ms", ms(walls[len(walls)/2])), fmt.Sprintf("%s   (CPU %.1f ms; %s)", q.target, ms(cpus[len(cpus)/2]), first))
	}
	row("peak RSS of queries", fmt.Sprintf("%d MB", peakRSS(t)), "<= 600 MB")
}

func storeSize(s *Store) int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	size := int64(0)
	for _, b := range s.blocks {
		size += b.meta.size()
	}
	for _, seg := range s.segments {
		size += seg.meta.size()
	}
	return size
}
