package bpf

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Tests named TestKernel load the sampler into the running kernel.

// open returns a started sampler, or skips where the machine cannot have one.
func open(t testing.TB, opts Options) *Sampler {
	t.Helper()
	if os.Geteuid() != 0 && os.Getenv("REQUIRE_ALL") != "1" {
		t.Skip("loading BPF programs needs root")
	}
	s, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	return s
}

// readSoon reads what there is, within a DrainInterval.
func readSoon(s *Sampler, b *Batch) error {
	now, err := monotonic()
	if err != nil {
		return err
	}
	return s.Read(b, now+uint64(DrainInterval))
}

// follow reads all samples and events from now on. What it returns stops the sampler and returns copies of them.
func follow(t testing.TB, s *Sampler) (finish func() ([]Sample, []Event)) {
	var samples []Sample
	var events []Event
	ended := make(chan error)
	go func() {
		for b := new(Batch); ; {
			if err := readSoon(s, b); err != nil {
				ended <- err
				return
			}
			for _, sample := range b.Samples {
				sample.User, sample.Kernel, sample.Stack = slices.Clone(sample.User), slices.Clone(sample.Kernel), slices.Clone(sample.Stack)
				samples = append(samples, sample)
			}
			events = append(events, b.Events...)
		}
	}()
	return func() ([]Sample, []Event) {
		t.Helper()
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, os.ErrClosed) {
			t.Fatal(err)
		}
		return samples, events
	}
}

// burnAt calls itself depth times and then computes until done says so.
//
//go:noinline
func burnAt(depth int, done func() bool) int {
	if depth > 0 {
		return burnAt(depth-1, done) + 1
	}
	n := 0
	for !done() {
		n += burnLeaf(n)
	}
	return n
}

//go:noinline
func burnLeaf(n int) int {
	for i := range 100_000 {
		n = n*31 + i
	}
	return n
}

// burn spends d of CPU time depth calls deep on a thread of its own, whose id it returns.
func burn(depth int, d time.Duration) (tid uint32) {
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		tid = uint32(unix.Gettid())
		start := threadCPU() // the thread may have run other goroutines before
		burnAt(depth, func() bool { return threadCPU()-start > d })
	}()
	<-finished
	return tid
}

func threadCPU() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

func functionOf(pc uint64) string {
	f := runtime.FuncForPC(uintptr(pc))
	if f == nil {
		return fmt.Sprintf("%#x", pc)
	}
	_, name, _ := strings.Cut(f.Name(), ".")
	return name
}

func TestKernelWholeStack(t *testing.T) {
	const depth = 5
	s := open(t, Options{Frequency: 199})
	runSelf(t, s)
	finish := follow(t, s)
	start, err := monotonic()
	if err != nil {
		t.Fatal(err)
	}
	tid := burn(depth, 500*time.Millisecond)
	samples, _ := finish()

	taken, whole := 0, 0
	var other []string
	// burnLeaf has no frame of its own: its caller is on top of the stack.
	want := slices.Concat([]string{"burnLeaf"}, slices.Repeat([]string{"burnAt"}, depth+1), []string{"burn.func1", "goexit"})
	for _, sample := range samples {
		if sample.TID != tid || sample.Time < start {
			continue
		}
		taken++
		if sample.PID != uint32(os.Getpid()) {
			t.Errorf("PID = %d, want %d", sample.PID, os.Getpid())
		}
		if got := sample.Comm.String(); !strings.HasPrefix("bpf.test", got) {
			t.Errorf("Comm = %q, want bpf.test", got)
		}
		var stack []string
		for i, pc := range sample.User {
			if i > 0 {
				pc-- // a return address
			}
			stack = append(stack, functionOf(pc))
		}
		if len(stack) > 0 && stack[0] == "burnLeaf" && len(sample.Stack) >= 8 {
			stack = slices.Insert(stack, 1, functionOf(binary.NativeEndian.Uint64(sample.Stack)-1))
		}
		if slices.Equal(stack, want) && sample.Outcome == Complete {
			whole++
		}
		other = stack
	}
	// 0.5 s of CPU at 199 Hz are 99 samples, fewer where a hypervisor takes time
	// away that the thread's clock counts.
	if taken == 0 || taken > 108 {
		t.Errorf("%d samples of 0.5 s of CPU at 199 Hz, want up to 99", taken)
	}
	if whole < taken*8/10 {
		t.Errorf("%d of %d samples are whole, %v; the last is %v", whole, taken, want, other)
	}
}

func TestKernelDepth(t *testing.T) {
	for _, tc := range []struct {
		depth int
		want  Outcome
	}{{100, Complete}, {500, Complete}, {2000, TooDeep}} {
		t.Run(fmt.Sprint(tc.depth), func(t *testing.T) {
			s := open(t, Options{Frequency: 199})
			runSelf(t, s)
			finish := follow(t, s)
			tid := burn(tc.depth, 200*time.Millisecond)
			samples, _ := finish()
			deep := map[Outcome]int{}
			for _, sample := range samples {
				// A thread that has not come so deep yet is not meant.
				if sample.TID == tid && len(sample.User) >= min(tc.depth, maxUserFrames) {
					deep[sample.Outcome]++
				}
			}
			if deep[tc.want] < 10 || len(deep) > 1 {
				t.Errorf("outcomes of stacks %d deep: %v, want about 40 times %v", tc.depth, deep, tc.want)
			}
		})
	}
}

// TestKernelFrequencyChanges compares how far apart the samples of a thread are
// before and after.
func TestKernelFrequencyChanges(t *testing.T) {
	s := open(t, Options{Frequency: 997})
	runSelf(t, s)
	finish := follow(t, s) // or the rings would be full before the frequency changes
	fast := burn(1, 500*time.Millisecond)
	if err := s.SetFrequency(97); err != nil {
		t.Fatal(err)
	}
	if got := s.Frequency(); got != 97 {
		t.Errorf("frequency is %d Hz, want 97", got)
	}
	changed, err := monotonic()
	if err != nil {
		t.Fatal(err)
	}
	slow := burn(1, 500*time.Millisecond)
	samples, _ := finish()
	// A thread may have run another goroutine before.
	first := slices.IndexFunc(samples, func(s Sample) bool { return s.Time > changed })
	if first < 0 {
		t.Fatal("no samples at 97 Hz")
	}
	before, after := gap(samples[:first], fast), gap(samples[first:], slow)
	// About 1 and 10.3 ms. A busy machine makes gaps longer, and nothing shorter.
	if after < 9*time.Millisecond || before > after/2 {
		t.Errorf("samples are %v apart at 997 Hz, %v at 97 Hz", before, after)
	}
}

// TestKernelSampling switches sampling off and on.
func TestKernelSampling(t *testing.T) {
	s := open(t, Options{Frequency: 997})
	finish := follow(t, s)
	taken := func() uint64 {
		t.Helper()
		st, err := s.Stats()
		if err != nil {
			t.Fatal(err)
		}
		return st.Taken
	}
	for range 2 {
		if err := s.SetSampling(false); err != nil {
			t.Fatal(err)
		}
		before := taken()
		burn(1, 200*time.Millisecond)
		if n := taken() - before; n > 0 {
			t.Errorf("%d samples while sampling was off", n)
		}
		if err := s.SetSampling(true); err != nil {
			t.Fatal(err)
		}
		before = taken()
		burn(1, 200*time.Millisecond)
		if taken() == before {
			t.Error("no sample while sampling was on")
		}
	}
	finish()
}

// gap returns the median time between samples of a thread that follow each other
// on one CPU.
func gap(samples []Sample, tid uint32) time.Duration {
	var gaps []time.Duration
	last := map[uint32]uint64{}
	for _, s := range samples {
		if s.TID != tid {
			continue
		}
		if last[s.CPU] != 0 {
			gaps = append(gaps, time.Duration(s.Time-last[s.CPU]))
		}
		last[s.CPU] = s.Time
	}
	slices.Sort(gaps)
	if len(gaps) == 0 {
		return 0
	}
	return gaps[len(gaps)/2]
}

// maxUserFrames is MAX_USER_FRAMES of sampler.h.
const maxUserFrames = 896

func TestKernelSystemCalls(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s := open(t, Options{Frequency: 199})
	runSelf(t, s)
	finish := follow(t, s)
	zero, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer zero.Close()
	buf := make([]byte, 1<<20)
	for start := time.Now(); time.Since(start) < 500*time.Millisecond; {
		if _, err := zero.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
	samples, _ := finish()
	calls, found := 0, 0
	for _, sample := range samples {
		if sample.TID != uint32(unix.Gettid()) || !sample.InKernel || len(sample.Kernel) == 0 {
			continue
		}
		calls++
		var stack []string
		for _, pc := range sample.User {
			stack = append(stack, functionOf(pc))
		}
		if slices.Contains(stack, "TestKernelSystemCalls") {
			found++
		}
	}
	if calls == 0 || found < calls/2 { // page faults and signals are in the kernel too
		t.Errorf("%d of %d samples in system calls show the caller too", found, calls)
	}
}

func TestKernelSidebandTellsALife(t *testing.T) {
	s := open(t, Options{})
	finish := follow(t, s)
	true_, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	if true_, err = filepath.EvalSymlinks(true_); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(true_)
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	_, events := finish()
	pid := uint32(cmd.Process.Pid)
	var life []EventKind
	for _, ev := range events {
		if ev.PID != pid {
			continue
		}
		switch {
		case ev.Kind == EventFork && ev.PPID != uint32(os.Getpid()):
			t.Errorf("fork: parent %d, want %d", ev.PPID, os.Getpid())
		case ev.Kind == EventExec && ev.Comm != filepath.Base(true_):
			t.Errorf("exec: comm %q, want %q", ev.Comm, filepath.Base(true_))
		case ev.Kind == EventMmap && ev.Mapping.Path != true_:
			continue // the loader's and libraries' mappings
		case ev.Kind == EventMmap && len(ev.Mapping.BuildID) == 0:
			t.Errorf("mapping of %s has no build ID", true_)
		}
		life = append(life, ev.Kind)
	}
	if want := []EventKind{EventFork, EventExec, EventMmap, EventExit}; !slices.Equal(life, want) {
		t.Errorf("events of one process: %v, want %v", life, want)
	}
	if !slices.IsSortedFunc(events, func(a, b Event) int { return int(int64(a.Time - b.Time)) }) {
		t.Error("events are not sorted by time")
	}
}

// TestKernelExecAndReuse tells two programs of one process apart by their samples alone.
func TestKernelExecID(t *testing.T) {
	s := open(t, Options{Frequency: 499})
	finish := follow(t, s)
	const spin = `i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done`
	cmd := exec.Command("sh", "-c", spin+`; exec sh -c '`+spin+`'`)
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	samples, _ := finish()
	programs := map[[2]uint64]int{}
	for _, sample := range samples {
		if sample.PID == uint32(cmd.Process.Pid) && sample.Comm.String() == "sh" {
			programs[[2]uint64{sample.ProcessStart, uint64(sample.ExecID)}]++
		}
	}
	if len(programs) != 2 {
		t.Errorf("samples of two programs in one process carry identities %v, want 2", programs)
	}
}

// TestKernelExecInProgress samples programs that replace each other. Between two of them there is no user stack, and the
// registers are those of the program that is gone.
func TestKernelExecInProgress(t *testing.T) {
	name := kernelFunctions(t)
	s := open(t, Options{Frequency: MaxFrequency})
	finish := follow(t, s)
	const spin = `i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i+1)); done`
	if err := exec.Command("sh", "-c", spin).Run(); err != nil {
		t.Fatal(err)
	}
	samples, _ := finish()
	// Where the old program's memory is given back, and what is called once the new one's is in place.
	after := []string{"exit_mmap", "setup_arg_pages", "elf_load", "elf_map"}
	between, inExec := 0, 0
	for _, sample := range samples {
		var functions []string
		for _, pc := range sample.Kernel {
			functions = append(functions, name(pc))
		}
		if !slices.Contains(functions, "load_elf_binary") {
			continue
		}
		inExec++
		if !slices.ContainsFunc(functions, func(f string) bool { return slices.Contains(after, f) }) {
			continue
		}
		between++
		if sample.Outcome != KernelOnly || len(sample.User) > 0 {
			t.Fatalf("%v with user frames %#x; in the kernel %v", sample.Outcome, sample.User, functions)
		}
	}
	t.Logf("%d samples, %d in load_elf_binary, %d of them between two programs", len(samples), inExec, between)
	if between == 0 {
		t.Error("no sample was taken between two programs")
	}
}

// kernelFunctions returns the function that names kernel program counters.
func kernelFunctions(t *testing.T) func(pc uint64) string {
	t.Helper()
	text, err := os.ReadFile("/proc/kallsyms")
	if err != nil {
		t.Fatal(err)
	}
	var all []symbol
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if start, err := strconv.ParseUint(fields[0], 16, 64); err == nil && strings.EqualFold(fields[1], "t") {
			all = append(all, symbol{start: start, name: fields[2]})
		}
	}
	slices.SortFunc(all, func(a, b symbol) int { return cmp.Compare(a.start, b.start) })
	return func(pc uint64) string {
		i, _ := slices.BinarySearchFunc(all, pc, func(s symbol, pc uint64) int { return cmp.Compare(s.start, pc+1) })
		if i == 0 {
			return ""
		}
		return all[i-1].name
	}
}

func TestKernelFullRing(t *testing.T) {
	s := open(t, Options{Frequency: MaxFrequency})
	burn(2000, time.Second) // 8 KB a sample and nobody reads
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	st, err := s.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if st.Outcomes[DroppedRing] == 0 {
		t.Error("no sample was counted as dropped by a ring that nobody reads")
	}
	samples, _ := follow(t, s)()
	if got := uint64(len(samples)) + st.Outcomes[DroppedRing]; got != st.Taken {
		t.Errorf("%d samples read + %d dropped = %d, want all %d taken", len(samples), st.Outcomes[DroppedRing], got, st.Taken)
	}
	var sum uint64
	for _, n := range st.Outcomes {
		sum += n
	}
	if sum != st.Taken {
		t.Errorf("outcomes sum to %d, want the %d taken", sum, st.Taken)
	}
	if rings := uint64(s.ringBytes * len(s.cpus)); st.Run <= 0 || st.Memory < rings {
		t.Errorf("run time %v, memory %d: want some, and at least the %d bytes of the rings", st.Run, st.Memory, rings)
	}
}

func TestKernelReadReturnsWithoutSamples(t *testing.T) {
	s := open(t, Options{Frequency: 1})
	var b Batch
	before := uint64(0)
	for range 2 {
		if err := readSoon(s, &b); err != nil {
			t.Fatal(err)
		}
		if b.Upto <= before {
			t.Errorf("a batch reaches up to %d after one up to %d", b.Upto, before)
		}
		before = b.Upto
	}
}

// rested returns when the reader rests, with sampling on.
func rested(t *testing.T, s *Sampler) {
	t.Helper()
	if err := s.SetSampling(false); err != nil {
		t.Fatal(err)
	}
	for b := new(Batch); !s.resting; {
		if err := readSoon(s, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SetSampling(true); err != nil {
		t.Fatal(err)
	}
}

func TestKernelUnknownProcessEndsRest(t *testing.T) {
	s := open(t, Options{Frequency: MaxFrequency})
	rested(t, s)
	done := make(chan struct{})
	defer close(done)
	go burnAt(0, func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
	for b := new(Batch); len(b.Samples) == 0 || s.resting; {
		if err := s.Read(b, math.MaxUint64); err != nil { // nothing but a sample ends this
			t.Fatal(err)
		}
	}
}

func TestKernelKnownProcessDoesNotEndRest(t *testing.T) {
	s := open(t, Options{Frequency: 99})
	p := run(t, s, compile(t, "recursion"), "9")
	p.publish(t)
	rested(t, s)
	now, err := monotonic()
	if err != nil {
		t.Fatal(err)
	}
	var b Batch
	then := now + uint64(time.Second)
	if err := s.Read(&b, then); err != nil {
		t.Fatal(err)
	}
	// What else runs on this machine may have to be looked at.
	urgent := func(s Sample) bool { return s.Outcome == NoMapping || s.Outcome == NoTable }
	if b.Upto < then && !slices.ContainsFunc(b.Samples, urgent) {
		t.Errorf("the reader was woken %v early by %d samples of what the sampler knows", time.Duration(then-b.Upto), len(b.Samples))
	}
}

func TestKernelWakeEndsOneRead(t *testing.T) {
	s := open(t, Options{Frequency: 1})
	// So that no ring wakes it.
	if err := errors.Join(s.SetSampling(false), s.SetRecords(false)); err != nil {
		t.Fatal(err)
	}
	var b Batch
	read := func() time.Duration {
		t.Helper()
		start := time.Now()
		if err := readSoon(s, &b); err != nil {
			t.Fatal(err)
		}
		return time.Since(start)
	}
	for read() < DrainInterval*8/10 { // what was on the rings before may still wake it
	}
	s.resting = false // as on a busy machine
	wake := time.AfterFunc(DrainInterval/10, s.Wake)
	defer wake.Stop()
	if err := s.Read(&b, math.MaxUint64); err != nil {
		t.Fatal(err)
	}
	if s.resting {
		t.Error("a drain soon after the last one, without samples, has the reader rest")
	}
	if took := read(); took < DrainInterval*8/10 {
		t.Errorf("the read after the one that Wake ended took %v, want %v", took, DrainInterval)
	}
}

func TestKernelWakeBetweenReads(t *testing.T) {
	s := open(t, Options{Frequency: 1})
	rested(t, s)
	if err := errors.Join(s.SetSampling(false), s.SetRecords(false)); err != nil {
		t.Fatal(err)
	}
	s.Wake()
	var b Batch
	if err := s.Read(&b, math.MaxUint64); err != nil { // nothing but Wake ends this
		t.Fatal(err)
	}
}

func TestKernelCloseEndsRead(t *testing.T) {
	s := open(t, Options{})
	ended := make(chan error)
	go func() {
		var b Batch
		for {
			if err := readSoon(s, &b); err != nil {
				ended <- err
				return
			}
		}
	}()
	time.Sleep(10 * time.Millisecond)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read returned %v, want os.ErrClosed", err)
	}
	if err := s.Start(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Start after Close returned %v, want os.ErrClosed", err)
	}
}

func TestOpenRefusesFrequency(t *testing.T) {
	for _, hz := range []int{-1, MaxFrequency + 1} {
		if s, err := Open(Options{Frequency: hz}); err == nil {
			s.Close()
			t.Errorf("Open accepted %d Hz", hz)
		}
	}
}

// TestKernelFollowsCPUs has all CPUs go and come back, with one among them that is
// offline after all, where the machine has such a one.
func TestKernelFollowsCPUs(t *testing.T) {
	s := open(t, Options{Frequency: 199})
	finish := follow(t, s)
	online := slices.Clone(s.online)
	listed := slices.Clone(online)
	if offline := online[len(online)-1] + 1; offline < int(s.objs.Rings.MaxEntries()) {
		listed = append(listed, offline)
	}
	s.mu.Lock()
	err := errors.Join(s.attach(nil), s.attach(listed))
	s.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.online, online) {
		t.Errorf("CPUs %v are sampled, want %v", s.online, online)
	}
	tid := burn(5, 200*time.Millisecond)
	samples, _ := finish()
	if !slices.ContainsFunc(samples, func(sample Sample) bool { return sample.TID == tid }) {
		t.Error("no sample after all CPUs had gone and come back")
	}
}

// TestKernelFollowsCPUsThatWereAway takes the events of a CPU off behind the sampler's back. A CPU that goes offline and
// comes back between two looks leaves them like that (TestVerifyFollowsCPUThatWasAway).
func TestKernelFollowsCPUsThatWereAway(t *testing.T) {
	for _, tc := range []struct {
		name            string
		clock, sideband bool // goes off
		paused          bool
	}{
		{"both", true, true, false},
		{"clock event", true, false, false},
		{"side-band event", false, true, false},
		{"paused", true, true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := open(t, Options{Frequency: 199})
			if err := s.SetSampling(!tc.paused); err != nil {
				t.Fatal(err)
			}
			if lost := look(t, s); lost != 0 {
				t.Errorf("%d records lost on CPUs that were there all the time", lost)
			}
			c := s.cpus[len(s.cpus)-1]
			if tc.clock {
				if err := unix.IoctlSetInt(c.event, unix.PERF_EVENT_IOC_DISABLE, 0); err != nil {
					t.Fatal(err)
				}
			}
			if tc.sideband {
				if err := c.sideband.enable(false); err != nil {
					t.Fatal(err)
				}
			}
			if lost := look(t, s); lost != 1 {
				t.Errorf("%d records lost on a CPU that was away, want 1", lost)
			}
			if err := s.SetSampling(true); err != nil {
				t.Fatal(err)
			}
			checkFollowed(t, s, c.id)
		})
	}
}

// TestKernelFollowsNothing looks for CPUs while nothing of them is to be told.
func TestKernelFollowsNothing(t *testing.T) {
	s := open(t, Options{Frequency: 199})
	if err := errors.Join(s.SetSampling(false), s.SetRecords(false)); err != nil {
		t.Fatal(err)
	}
	c := s.cpus[0]
	before := c.event
	if lost := look(t, s); lost != 0 || c.event != before {
		t.Errorf("%d records lost, and event %d is %d now: want none, and the same", lost, before, c.event)
	}
	if err := errors.Join(s.SetRecords(true), s.SetSampling(true)); err != nil {
		t.Fatal(err)
	}
	if lost := look(t, s); lost != 0 || c.event != before {
		t.Errorf("switched on again: %d records lost, and event %d is %d now: want none, and the same", lost, before, c.event)
	}
}

// look has the sampler look for CPUs that came and went, and returns how many records it says were lost by that.
func look(t *testing.T, s *Sampler) (lost uint64) {
	t.Helper()
	s.nextFollow = time.Time{}
	var b Batch
	if err := readSoon(s, &b); err != nil {
		t.Fatal(err)
	}
	for _, ev := range b.Events {
		if ev.Kind == EventLost && ev.Time == b.Upto { // what a full ring lost has an earlier time
			lost += ev.Lost
		}
	}
	return lost
}

// checkFollowed has a thread compute and map code on a CPU: there must be samples and records of it.
func checkFollowed(t *testing.T, s *Sampler, id int) {
	t.Helper()
	finish := follow(t, s)
	worked := make(chan error)
	var tid uint32
	go func() {
		runtime.LockOSThread() // not unlocked: the thread stays on its CPU
		tid = uint32(unix.Gettid())
		var only unix.CPUSet
		only.Set(id)
		if err := unix.SchedSetaffinity(0, &only); err != nil {
			worked <- err
			return
		}
		start := threadCPU()
		burnAt(1, func() bool { return threadCPU()-start > 200*time.Millisecond })
		code, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err == nil {
			err = unix.Munmap(code)
		}
		worked <- err
	}()
	if err := <-worked; err != nil {
		t.Fatal(err)
	}
	samples, events := finish()
	if !slices.ContainsFunc(samples, func(sample Sample) bool { return sample.TID == tid && sample.CPU == uint32(id) }) {
		t.Errorf("no sample of CPU %d", id)
	}
	if !slices.ContainsFunc(events, func(ev Event) bool { return ev.TID == tid && ev.Kind == EventMmap }) {
		t.Errorf("no record of CPU %d", id)
	}
}
