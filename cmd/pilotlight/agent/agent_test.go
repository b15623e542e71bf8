package agent

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/pprof/profile"
	"go.uber.org/goleak"

	"pilotlight/bpf"
	"pilotlight/cmd/pilotlight/process"
	"pilotlight/profilestore"
	"pilotlight/unwind"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// replay is a Sampler that plays batches.
type replay struct {
	batches    []bpf.Batch
	stats      bpf.Stats
	frequency  int // 0: 100
	off        bool
	unrecorded bool
}

func (r *replay) Read(b *bpf.Batch, _ uint64) error {
	if len(r.batches) == 0 {
		return os.ErrClosed
	}
	*b, r.batches = r.batches[0], r.batches[1:]
	r.stats.Taken += uint64(len(b.Samples))
	return nil
}
func (r *replay) Stop() error                                  { r.batches = nil; return nil }
func (r *replay) Stats() (bpf.Stats, error)                    { return r.stats, nil }
func (r *replay) Frequency() int                               { return cmp.Or(r.frequency, 100) }
func (r *replay) LoadTable(*unwind.Table) (bpf.TableID, error) { return 1, nil }
func (r *replay) UnloadTable(bpf.TableID) error                { return nil }
func (r *replay) SetProcess(bpf.ProcessID, []bpf.Code) error   { return nil }
func (r *replay) Forget(uint32) error                          { return nil }
func (r *replay) Wake()                                        {}
func (r *replay) SetSampling(on bool) error                    { r.off = !on; return nil }
func (r *replay) SetRecords(on bool) error                     { r.unrecorded = !on; return nil }
func (r *replay) SetFrequency(hz int) error                    { r.frequency = hz; return nil }

// collector is an Appender that keeps everything, unless fail is set.
type collector struct {
	mu    sync.Mutex
	batch []profilestore.Encoded
	fail  error
	// refuse is the service of a profile for which a batch is refused.
	refuse string
}

func (c *collector) Append(_ context.Context, batch []profilestore.Encoded) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range batch {
		if c.refuse != "" && e.Labels.Get("service_name") == c.refuse {
			return &profilestore.Error{Code: profilestore.PayloadTooLarge, Message: "more than 1 strings"}
		}
	}
	if c.fail == nil {
		c.batch = append(c.batch, batch...)
	}
	return c.fail
}

// The wall clock of tests at monotonic 0: one second before a window's end.
var wallStart = time.Date(2026, 1, 2, 3, 4, 59, 0, time.UTC)

// play runs an agent over batches. Its clock stands at the Upto of the last
// batch it read.
func play(t *testing.T, to *collector, batches ...bpf.Batch) Report {
	t.Helper()
	return playWith(t, Options{}, to, batches...)
}

// playWith does it with options.
func playWith(t *testing.T, o Options, to *collector, batches ...bpf.Batch) Report {
	t.Helper()
	r := &replay{batches: batches}
	var last Report
	o.Version, o.Hostname, o.Logger = "test", "host", slog.New(slog.DiscardHandler)
	o.OnReport = func(r Report) { last = r }
	a, err := New(r, to, o)
	if err != nil {
		t.Fatal(err)
	}
	a.clock = func() (uint64, time.Time) {
		now := uint64(0)
		if played := len(batches) - len(r.batches); played > 0 {
			now = batches[played-1].Upto
		}
		return now, wallStart.Add(time.Duration(now))
	}
	ctx, cancel := context.WithCancel(t.Context())
	if to.fail != nil {
		cancel() // else a failing append is tried again for seconds
	}
	defer cancel()
	if to.fail != nil {
		a.sampler = &unstoppable{r}
	}
	if err := a.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return last
}

// unstoppable plays to the end although Run's context is done.
type unstoppable struct{ *replay }

func (unstoppable) Stop() error { return nil }

func parse(t *testing.T, e profilestore.Encoded) *profile.Profile {
	t.Helper()
	p, err := profile.ParseData(e.Pprof)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// functions are the names along a sample's stack, leaf first, inlined calls included.
func functions(s *profile.Sample) []string {
	var names []string
	for _, l := range s.Location {
		for _, line := range l.Line {
			names = append(names, line.Function.Name)
		}
	}
	return names
}

// self is a sample of this very process at the caller's place.
func self(t *testing.T, now uint64) bpf.Sample {
	t.Helper()
	p, err := process.Read(os.DirFS("/proc"), uint32(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	pcs := make([]uintptr, 64)
	pcs = pcs[:runtime.Callers(2, pcs)]
	s := bpf.Sample{Time: now, PID: p.PID, TID: p.PID, ProcessStart: p.Start, Outcome: bpf.Complete, Comm: comm("agent.test"), Thread: comm("worker")}
	for _, pc := range pcs {
		s.User = append(s.User, uint64(pc))
	}
	s.User[0]-- // the leaf's is no return address
	return s
}

func comm(name string) (c bpf.Comm) {
	copy(c[:], name)
	return c
}

const second = uint64(time.Second)

func TestProfileOfThisProcess(t *testing.T) {
	var to collector
	s := self(t, second/2)
	again := s
	again.Time++
	report := play(t, &to, bpf.Batch{Samples: []bpf.Sample{s, again}, Upto: second * 9 / 10})

	if len(to.batch) != 1 {
		t.Fatalf("%d profiles, want 1", len(to.batch))
	}
	e := to.batch[0]
	if e.Name != ProfileName || e.Labels.Get("service_name") != "agent.test" || e.Labels.Get("hostname") != "host" {
		t.Errorf("profile %q with labels %v", e.Name, e.Labels)
	}
	if want := wallStart.UnixNano(); e.Time != want || e.Duration != 900*time.Millisecond {
		t.Errorf("profile of %d, %v; want %d, 0.9 s", e.Time, e.Duration, want)
	}
	p := parse(t, e)
	if err := p.CheckValid(); err != nil {
		t.Fatal(err)
	}
	if len(p.Sample) != 1 || !slices.Equal(p.Sample[0].Value, []int64{2, 20_000_000}) {
		t.Fatalf("samples %v, want one stack with 2 samples of 10 ms", p.Sample)
	}
	if got, want := functions(p.Sample[0]), []string{"pilotlight/cmd/pilotlight/agent.TestProfileOfThisProcess", "testing.tRunner"}; !slices.Equal(got[:2], want) {
		t.Errorf("stack %v, want it to begin with %v", got, want)
	}
	wantLabels := map[string][]string{"pid": {p.Sample[0].Label["pid"][0]}, "comm": {"agent.test"}, "thread": {"worker"}}
	if !reflect.DeepEqual(p.Sample[0].Label, wantLabels) {
		t.Errorf("labels %v, want %v", p.Sample[0].Label, wantLabels)
	}
	m := p.Sample[0].Location[0].Mapping
	if m == nil || !strings.HasSuffix(m.File, "agent.test") || m.BuildID == "" || !m.HasFunctions || !m.HasInlineFrames {
		t.Errorf("mapping %+v", m)
	}
	for _, l := range p.Location {
		if l.Mapping != nil && (l.Address < l.Mapping.Start || l.Address >= l.Mapping.Limit) {
			t.Errorf("address %#x is outside its mapping [%#x, %#x)", l.Address, l.Mapping.Start, l.Mapping.Limit)
		}
	}
	if !slices.ContainsFunc(p.Comments, func(c string) bool { return strings.HasPrefix(c, "file_key 1 ") }) {
		t.Errorf("comments %q name no file key", p.Comments)
	}
	if report.Total.Taken != 2 || report.Total.Outcomes[bpf.Complete] != 2 || report.Total.Frames == 0 || report.Total.Unnamed != 0 {
		t.Errorf("report %+v", report.Total)
	}
}

func TestWindowsFollowTheWallClock(t *testing.T) {
	var to collector
	at := func(times ...uint64) (samples []bpf.Sample) {
		for _, now := range times {
			samples = append(samples, self(t, now))
		}
		return samples
	}
	play(t, &to,
		bpf.Batch{Samples: at(second/2, second*3/4), Upto: second * 8 / 10},
		bpf.Batch{Samples: at(second * 9 / 10), Upto: second},           // the window's end
		bpf.Batch{Samples: at(second * 2), Upto: second * 3},            // in the next
		bpf.Batch{Samples: at(second*10, second*13), Upto: second * 14}, // over the end of that
		bpf.Batch{Samples: at(second * 35), Upto: second * 36},          // nothing was read for a whole window
	)
	var times, lengths []time.Duration
	var counts []int64
	ids := map[profilestore.ID]bool{}
	for _, e := range to.batch {
		times = append(times, time.Unix(0, e.Time).Sub(wallStart))
		lengths = append(lengths, e.Duration)
		counts = append(counts, sum(parse(t, e)))
		ids[e.ID] = true
	}
	if want := []time.Duration{0, time.Second, 11 * time.Second, 31 * time.Second}; !slices.Equal(times, want) {
		t.Errorf("windows begin at %v, want %v", times, want)
	}
	// The last is cut short when the sampler ends.
	if want := []time.Duration{time.Second, Window, Window, 5 * time.Second}; !slices.Equal(lengths, want) {
		t.Errorf("windows last %v, want %v", lengths, want)
	}
	if want := []int64{3, 2, 1, 1}; !slices.Equal(counts, want) {
		t.Errorf("samples %v, want %v", counts, want)
	}
	if len(ids) != len(to.batch) {
		t.Errorf("%d profiles share %d IDs", len(to.batch), len(ids))
	}
}

func sum(p *profile.Profile) (n int64) {
	for _, s := range p.Sample {
		n += s.Value[0]
	}
	return n
}

// A pid that nobody has: above the highest that the kernel gives.
const nobody = 1 << 23

func TestProcessThatIsGone(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	own, err := process.Read(os.DirFS("/proc"), uint32(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	m, ok := own.Mappings.Find(uint64(reflect.ValueOf(TestProcessThatIsGone).Pointer()))
	if !ok {
		t.Fatal("own code is not mapped")
	}
	dead := self(t, 30)
	dead.PID, dead.TID, dead.ProcessStart, dead.Comm, dead.ExecID = nobody, nobody, 12345, comm("sh"), 7
	execed := dead
	execed.Time, execed.Comm, execed.ExecID = 60, comm("worker"), 8
	mmap := bpf.Event{Kind: bpf.EventMmap, PID: nobody, TID: nobody, Mapping: bpf.Mapping{Start: m.Start, End: m.End, Offset: m.Offset, Path: exe}}
	at := func(now uint64, ev bpf.Event) bpf.Event { ev.Time = now; return ev }

	var to collector
	play(t, &to, bpf.Batch{
		Samples: []bpf.Sample{dead, execed},
		Events: []bpf.Event{
			{Time: 10, Kind: bpf.EventFork, PID: nobody, TID: nobody, PPID: 1},
			{Time: 20, Kind: bpf.EventExec, PID: nobody, TID: nobody, Comm: "sh"},
			at(21, mmap),
			{Time: 50, Kind: bpf.EventExec, PID: nobody, TID: nobody, Comm: "worker"},
			at(51, mmap),
			{Time: 70, Kind: bpf.EventExit, PID: nobody, TID: nobody},
		},
		Upto: 100,
	})
	if len(to.batch) != 2 {
		t.Fatalf("%d profiles of one pid that called exec, want 2", len(to.batch))
	}
	for i, want := range []string{"sh", "worker"} {
		s := parse(t, to.batch[i]).Sample[0]
		if s.Label["comm"][0] != want {
			t.Errorf("profile %d is of %v, want %s", i, s.Label["comm"], want)
		}
		if got := to.batch[i].Labels.Get("exe"); got != exe {
			t.Errorf("profile %d: exe %q, want %q", i, got, exe)
		}
		// The file may not be believed to be the one that was mapped, as the
		// record had no build ID: it is named by path and offset.
		if l := s.Location[0]; l.Mapping == nil || l.Mapping.File != exe || !strings.HasPrefix(l.Line[0].Function.Name, "agent.test+0x") {
			t.Errorf("profile %d: leaf %v in %+v", i, l.Line[0].Function.Name, l.Mapping)
		}
	}
}

func TestUnknownProcess(t *testing.T) {
	var to collector
	play(t, &to, bpf.Batch{Upto: 100, Samples: []bpf.Sample{{
		Time: 50, PID: nobody, TID: nobody, Comm: comm("ghost"), Outcome: bpf.NoTable, User: []uint64{0x1000, 0x2001},
	}}})
	if len(to.batch) != 1 {
		t.Fatalf("%d profiles, want 1", len(to.batch))
	}
	s := parse(t, to.batch[0]).Sample[0]
	if got, want := functions(s), []string{"0x1000", "0x2000", "[truncated: no mapping]"}; !slices.Equal(got, want) {
		t.Errorf("stack %v, want %v", got, want)
	}
	if s.Label["comm"][0] != "ghost" {
		t.Errorf("comm %v, want ghost", s.Label["comm"])
	}
}

func TestWalkThatWentAstray(t *testing.T) {
	s := self(t, 50)
	s.User = append(s.User[:2:2], 0x10, s.User[2])
	var to collector
	report := play(t, &to, bpf.Batch{Upto: 100, Samples: []bpf.Sample{s}})
	got := functions(parse(t, to.batch[0]).Sample[0])
	if len(got) != 3 || got[2] != "[truncated: no mapping]" {
		t.Errorf("stack %v, want its two frames and the marker", got)
	}
	if report.Total.Outcomes[bpf.NoMapping] != 1 || report.Total.Unnamed != 1 {
		t.Errorf("report %+v, want one no_mapping and its marker unnamed", report.Total)
	}
}

//go:noinline
func leaf(n int) int { return n * 3 }

// TestLeafWithoutFrame samples leaf, whose caller frame pointers do not know.
func TestLeafWithoutFrame(t *testing.T) {
	inLeaf := self(t, 50)
	inLeaf.User = append([]uint64{uint64(reflect.ValueOf(leaf).Pointer())}, inLeaf.User[1:]...)
	inFrame := self(t, 60)
	ret := uint64(reflect.ValueOf(sum).Pointer()) + 1
	for _, s := range []*bpf.Sample{&inLeaf, &inFrame} {
		s.Stack = make([]byte, 16)
		for i := range 8 {
			s.Stack[i] = byte(ret >> (8 * i))
		}
	}
	var to collector
	play(t, &to, bpf.Batch{Upto: 100, Samples: []bpf.Sample{inLeaf, inFrame}})
	p := parse(t, to.batch[0])
	const pkg = "pilotlight/cmd/pilotlight/agent."
	if got := functions(p.Sample[0])[:3]; !slices.Equal(got, []string{pkg + "leaf", pkg + "sum", "testing.tRunner"}) {
		t.Errorf("stack %v, want leaf, sum (on top of the stack), tRunner", got)
	}
	if got := functions(p.Sample[1])[:2]; !slices.Equal(got, []string{pkg + "TestLeafWithoutFrame", "testing.tRunner"}) {
		t.Errorf("stack %v, want no caller from the stack of a function with a frame", got)
	}
}

func TestKernelThreadAndKernelFrames(t *testing.T) {
	s := self(t, 50)
	s.Kernel = []uint64{0xffffffff00000010}
	thread := bpf.Sample{Time: 51, PID: 2, TID: 2, Comm: comm("kthreadd"), Thread: comm("kthreadd"), Outcome: bpf.KernelOnly, InKernel: true, Kernel: []uint64{0xffffffff00000010}}
	if st, err := process.Read(os.DirFS("/proc"), 2); err == nil {
		thread.ProcessStart = st.Start
	}
	var to collector
	report := play(t, &to, bpf.Batch{Upto: 100, Samples: []bpf.Sample{s, thread}})
	if len(to.batch) != 2 {
		t.Fatalf("%d profiles, want 2", len(to.batch))
	}
	if got := functions(parse(t, to.batch[0]).Sample[0]); got[0] != "[kernel]+0xffffffff00000010" || !strings.HasSuffix(got[1], "TestKernelThreadAndKernelFrames") {
		t.Errorf("stack %v, want the kernel's frame on top of the user's", got)
	}
	if got := to.batch[1].Labels.Get("service_name"); got != "kernel" {
		t.Errorf("service of a kernel thread: %q", got)
	}
	if report.Total.Outcomes[bpf.KernelOnly] != 1 {
		t.Errorf("report %+v, want one kernel_only", report.Total)
	}
}

func TestRefusedProfileCostsNoOther(t *testing.T) {
	var samples []bpf.Sample
	for i, name := range []string{"a", "b", "hostile", "hostile", "c"} {
		samples = append(samples, bpf.Sample{Time: 50, PID: nobody + uint32(i), TID: nobody, Comm: comm(name), Outcome: bpf.NoTable})
	}
	to := collector{refuse: "hostile"}
	report := play(t, &to, bpf.Batch{Upto: 100, Samples: samples})
	var got []string
	for _, e := range to.batch {
		got = append(got, e.Labels.Get("service_name"))
	}
	if want := []string{"a", "b", "c"}; !slices.Equal(got, want) {
		t.Errorf("profiles of %v were appended, want %v", got, want)
	}
	if o := report.Total.Outcomes; o[bpf.NoTable] != 3 || o[bpf.DroppedUser] != 2 {
		t.Errorf("outcomes %v, want 3 no_table and 2 dropped_user", o)
	}
}

// TestSamplingOff has an agent that is off from the start.
func TestSamplingOff(t *testing.T) {
	sampler := &replay{batches: []bpf.Batch{{Upto: second / 2}, {Upto: second}}}
	var last Report
	a, err := New(sampler, new(collector), Options{Hostname: "host", Logger: slog.New(slog.DiscardHandler), OnReport: func(r Report) { last = r }})
	if err != nil {
		t.Fatal(err)
	}
	a.clock = func() (uint64, time.Time) { return 0, wallStart }
	a.SetSampling(false)
	if err := a.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !sampler.off || !last.Off {
		t.Errorf("sampler off %v, report %+v", sampler.off, last)
	}
}

func TestLostWindowIsCounted(t *testing.T) {
	to := collector{fail: errors.New("disk on fire")}
	report := play(t, &to, bpf.Batch{Upto: 100, Samples: []bpf.Sample{self(t, 50), self(t, 60)}})
	if report.Total.Taken != 2 || report.Total.Outcomes[bpf.DroppedUser] != 2 || report.Total.Outcomes[bpf.Complete] != 0 {
		t.Errorf("report %+v, want both samples as dropped_user", report.Total)
	}
}

// stalled is an Appender whose disk does not answer until it is released.
type stalled struct {
	collector
	t       *testing.T
	reached chan struct{} // closed by the first Append
	release chan struct{}
	once    sync.Once
}

func (s *stalled) Append(ctx context.Context, batch []profilestore.Encoded) error {
	if at, ok := ctx.Deadline(); ok {
		s.t.Errorf("Append is to end at %v: what it keeps after that would be counted as dropped too", at)
	}
	s.once.Do(func() { close(s.reached) })
	select {
	case <-s.release:
		return s.collector.Append(ctx, batch)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestStalledAppender(t *testing.T) {
	const taken = 12
	for _, tc := range []struct {
		name string
		end  func(*stalled, context.CancelFunc)
		kept bool
	}{
		{"recovers", func(s *stalled, _ context.CancelFunc) { close(s.release) }, true},
		{"does not recover before the end", func(_ *stalled, stop context.CancelFunc) { stop() }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			to := &stalled{t: t, reached: make(chan struct{}), release: make(chan struct{})}
			r := &replay{}
			for i := range uint64(taken) {
				r.batches = append(r.batches, bpf.Batch{Samples: []bpf.Sample{self(t, i*10*second)}, Upto: i*10*second + second})
			}
			var last Report
			a, err := New(&unstoppable{r}, to, Options{Hostname: "host", Logger: quiet, OnReport: func(r Report) { last = r }})
			if err != nil {
				t.Fatal(err)
			}
			var now uint64
			a.clock = func() (uint64, time.Time) { // each sample in a window of its own
				defer func() { now += 10 * second }()
				return now, wallStart.Add(time.Duration(now))
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				<-to.reached
				tc.end(to, cancel)
			}()
			if err := a.Run(ctx); err != nil {
				t.Fatal(err)
			}
			var kept int64
			for _, e := range to.batch {
				kept += sum(parse(t, e))
			}
			dropped := int64(last.Total.Outcomes[bpf.DroppedUser])
			if kept+dropped != taken || tc.kept && kept == 0 || !tc.kept && kept > 0 {
				t.Errorf("%d samples kept and %d counted as dropped, of %d", kept, dropped, taken)
			}
		})
	}
}
