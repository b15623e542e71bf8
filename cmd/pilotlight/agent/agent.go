// Package agent turns the samples of the whole machine into one pprof profile
// per process and window.
//
// Four goroutines share the work. One drains the sampler: it merges samples with
// what happened to processes meanwhile, finishes stacks that the sampler could
// not, turns each program counter into an address of a file, and counts equal
// stacks; it also tells the sampler which code processes run, and how to unwind
// it. Another reads or builds the unwind tables for that. The third, once a
// window, names the addresses, encodes the profiles and appends them as one batch.
// The fourth has debug information indexed, for better names in later windows.
// What the first must do at once (open a file before its process is gone) and what
// may take its time (read a symbol table) so never wait for each other.
package agent

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	timerate "golang.org/x/time/rate"

	"pilotlight/bpf"
	"pilotlight/cmd/pilotlight/containers"
	"pilotlight/cmd/pilotlight/process"
	"pilotlight/profilestore"
	"pilotlight/unwind"
)

// Window is the time that one profile covers. Windows are aligned to the wall
// clock; the first and the last are shorter.
const Window = 10 * time.Second

// queuedWindows is how many windows may wait to be appended. When the appender
// is slower for longer than that, whole windows are dropped and counted.
const queuedWindows = 6

// earlyProcesses is how many processes are looked at, those first that have used
// most CPU time, to have their tables made before they are sampled.
const earlyProcesses = 32

// lastTables is how long the last samples may wait for their tables when
// sampling has ended.
const lastTables = time.Second

// What is known about processes is read anew after records were lost, and where
// that goes on, which any user can see to, after pauses of this length.
const (
	shortestSnapshotPause = time.Second
	longestSnapshotPause  = 30 * time.Second
)

// Sampler is where samples come from: a bpf.Sampler, or a replay of recorded
// batches.
type Sampler interface {
	Read(b *bpf.Batch, upto uint64) error // os.ErrClosed after Stop, once all was read
	Wake()                                // has a Read that waits return early
	Stop() error
	Stats() (bpf.Stats, error)
	Frequency() int // Hz
	SetFrequency(hz int) error
	SetSampling(on bool) error // off: no samples are taken; what becomes of processes is told all the same
	SetRecords(on bool) error  // off: nothing is told of what becomes of processes

	// As of bpf.Sampler: what the kernel knows of code.
	LoadTable(*unwind.Table) (bpf.TableID, error)
	UnloadTable(bpf.TableID) error
	SetProcess(bpf.ProcessID, []bpf.Code) error
	Forget(pid uint32) error
}

// Appender takes the profiles of a window, all or none. What it has acknowledged
// is its responsibility. A [profilestore.Error] says which batches are refused for
// what is in them.
type Appender interface {
	Append(context.Context, []profilestore.Encoded) error
}

// Options configure an Agent. The zero value is the default.
type Options struct {
	Version     string  // of the agent, in profiles and reports
	Hostname    string  // empty: the machine's
	PID         uint32  // keep samples of this process and its descendants only; 0: of all
	CacheDir    string  // where unwind tables and indexes of symbols are kept from one run to the next; empty: nowhere
	CPULimit    float64 // share of all CPUs that the agent may take in any minute; 0: 2 %; negative: no limit
	MemoryLimit int64   // bytes that the agent and the sampler's maps may take; 0: 256 MiB; negative: no limit
	// Beside returns what works for the agent in another process has taken since it started, and its memory in bytes. The
	// limits are of that too. nil: there is nothing.
	Beside   func() (cpu time.Duration, memory uint64, err error)
	OnReport func(Report) // called once a window; nil: nobody wants to know

	Settings Settings          // until Configure is called
	Names    *containers.Names // of containers; nil: they have none but those that a path has

	// Index builds the index of a file's debug information, bounded in time and
	// memory; nil, or without a CacheDir: there are no inlined calls and lines of
	// other languages than Go. It is called by one goroutine, with what governs the
	// agent's own CPU time allowing.
	Index func(context.Context, IndexRequest) (IndexResult, error)
	// FetchDebug gets debug information that is not on this machine; nil: nobody does.
	FetchDebug FetchDebug
	// AskJVM is asked for the names of what JVMs compile; nil: they have those that are there without it.
	AskJVM AskJVM
	// IndexWait is how long the profiles may be kept back, all together, until
	// indexes that they want are built, whatever CPU time that takes; 0: what is
	// found later is for the windows to come.
	IndexWait time.Duration

	Registerer prometheus.Registerer // nil: metrics are kept and not registered
	Logger     *slog.Logger          // nil: slog.Default()
}

// Agent profiles one machine.
type Agent struct {
	sampler  Sampler
	appender Appender
	opts     Options
	log      *slog.Logger
	clock    clock

	// Of the goroutine that drains.
	table     *process.Table
	files     *process.Files
	tables    *tables
	unwinder  *unwinder
	finisher  *finisher
	window    *window
	rates     rates
	governor  *governor
	jvms      *jvms
	full      int    // Hz, at which is sampled unless the governor objects
	follows   bool   // what becomes of processes; else the governor objects
	rests     bool   // nothing is sampled, as the governor objects
	followed  uint64 // records of processes
	lost      bool   // records were lost since the last snapshot
	records   uint64 // that were lost in this window
	snapshots backoff

	symbols   *symbols
	allowance *allowance
	labeler   *labeler
	account   *account
	refusals  timerate.Sometimes // that are logged: a wrong clock has all profiles refused
	run       [16]byte           // names this run of the agent in profile IDs

	off         atomic.Bool // what SetSampling was told last
	readEnviron atomic.Bool // as of Settings, for the goroutine that drains
}

// clock tells the time on both clocks, so that tests can tell another.
type clock func() (monotonic uint64, wall time.Time)

func systemClock() (uint64, time.Time) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(fmt.Sprintf("read CLOCK_MONOTONIC: %v", err)) // documented never to fail on Linux
	}
	return uint64(ts.Nano()), time.Now()
}

// New returns an agent that takes samples from s and hands profiles to a. The
// sampler must have been started, so that no process can come between what the
// agent reads in /proc and what the sampler tells.
func New(s Sampler, a Appender, opts Options) (*Agent, error) {
	proc := os.DirFS("/proc")
	if opts.Hostname == "" {
		name, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("read host name: %w", err)
		}
		opts.Hostname = name
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	boot, err := process.BootID(proc)
	if err != nil {
		return nil, err
	}
	ag := &Agent{
		sampler:   s,
		appender:  a,
		opts:      opts,
		log:       opts.Logger,
		clock:     systemClock,
		rates:     rates{{hz: s.Frequency()}},
		follows:   true,
		table:     process.NewTable(proc, process.Options{ReadEnviron: opts.Settings.ReadEnviron}),
		files:     process.NewFiles(proc, "/proc", process.Host{}),
		symbols:   newSymbols(proc, os.DirFS("/sys"), opts.Logger),
		allowance: newAllowance(),
		refusals:  timerate.Sometimes{First: 3, Interval: time.Minute},
	}
	ag.symbols.allowance = ag.allowance
	ag.tables = newTables(ag.files, s.Wake, ag.allowance, ag.log)
	ag.unwinder = newUnwinder(s, ag.table, ag.tables, ag.log)
	ag.finisher = &finisher{tables: ag.tables}
	now, _ := ag.clock()
	run := sha256.Sum256(binary.NativeEndian.AppendUint64([]byte(boot), now))
	copy(ag.run[:], run[:])
	if ag.account, err = newAccount(s, proc, ag.allowance, opts); err != nil {
		return nil, err
	}
	if ag.jvms, err = newJVMs(opts); err != nil {
		return nil, err
	}
	ag.account.jvms = ag.jvms
	if ag.labeler, err = newLabeler(opts); err != nil {
		return nil, err
	}
	ag.readEnviron.Store(opts.Settings.ReadEnviron)
	return ag, nil
}

// Configure has other settings apply, to what has not been published yet. It may
// be called while the agent runs.
func (a *Agent) Configure(s Settings) {
	a.labeler.configure(s)
	a.readEnviron.Store(s.ReadEnviron)
}

// Run samples until ctx is done, then flushes what was sampled and returns nil.
// It returns early with an error if sampling fails; a failing appender only
// costs windows, which are counted.
func (a *Agent) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		if err := a.sampler.Stop(); err != nil {
			a.log.Error("stop sampler", "err", err)
		}
	})
	defer stop()
	if err := a.table.Snapshot(); err != nil {
		return fmt.Errorf("read processes: %w", err)
	}
	if err := a.account.begin(); err != nil {
		return err
	}

	enc, err := newEncoder(a.symbols, a.labeler, a.opts)
	if err != nil {
		return err
	}
	stopIndexes, stopAsking := a.makeIndexes(), a.askJVMs()
	windows := make(chan *window, queuedWindows)
	published := make(chan struct{})
	go func() {
		defer close(published)
		a.publish(ctx, enc, windows)
	}()
	stopTables := a.makeTables()
	if a.opts.PID == 0 {
		a.tables.early(a.table.Busiest(earlyProcesses))
	}
	err = a.drain(windows)
	close(windows)
	<-published
	return errors.Join(err, stopTables(), stopAsking(), stopIndexes(), a.symbols.close())
}

// askJVMs begins to ask JVMs, and returns what ends that.
func (a *Agent) askJVMs() (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.jvms.run(ctx)
	}()
	return func() error {
		cancel()
		<-done
		return nil
	}
}

// makeIndexes begins to make indexes of debug information, and returns what ends that.
func (a *Agent) makeIndexes() (stop func() error) {
	if a.opts.Index == nil || a.opts.CacheDir == "" {
		return func() error { return nil }
	}
	x, err := openIndexes(a.opts.CacheDir, os.DirFS("/proc"), a.allowance, a.opts)
	if err != nil {
		a.log.Warn("no inlined calls and lines but in Go: name another directory with --cache", "err", err)
		return func() error { return nil }
	}
	a.symbols.indexes = x
	a.account.indexes.Store(x)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		x.run(ctx)
	}()
	return func() error {
		cancel()
		<-done
		return x.close()
	}
}

// makeTables begins to make unwind tables, and returns what ends that.
func (a *Agent) makeTables() (stop func() error) {
	var cache *tableCache
	if a.opts.CacheDir != "" {
		var err error
		if cache, err = openTableCache(a.opts.CacheDir, cacheBytes); err != nil {
			a.log.Warn("unwind tables are built anew each time: name another directory with --cache", "err", err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.tables.run(cache)
	}()
	return func() error {
		err := a.tables.close()
		<-done
		if cache != nil {
			err = errors.Join(err, cache.close())
		}
		return err
	}
}

// drain reads the sampler until it is closed.
func (a *Agent) drain(windows chan *window) error {
	begin, _ := a.clock()
	a.window = a.newWindow(begin, begin)
	if err := a.beginGoverning(begin); err != nil {
		return err
	}
	var b bpf.Batch
	for {
		err := a.sampler.Read(&b, a.window.monoEnd)
		if errors.Is(err, os.ErrClosed) {
			mono, _ := a.clock()
			a.window.end(mono)
			return a.send(windows, lastTables)
		}
		if err != nil {
			return fmt.Errorf("read samples: %w", err)
		}
		if err := a.take(&b, windows); err != nil {
			return err
		}
	}
}

// SetSampling has no samples taken while it is off. Windows go on to end, without profiles. It may be called from any
// goroutine, before and during Run, and does not wait for its effect.
func (a *Agent) SetSampling(on bool) {
	a.off.Store(!on)
	a.sampler.Wake()
}

// switchSampling does what SetSampling was told.
func (a *Agent) switchSampling() error {
	on := !a.off.Load()
	if on == a.account.sampling() {
		return nil
	}
	if err := a.account.count(); err != nil {
		return err
	}
	if err := a.sampler.SetSampling(on && !a.rests); err != nil {
		return err
	}
	a.account.setSampling(on)
	return nil
}

// take does what is to be done after each read.
func (a *Agent) take(b *bpf.Batch, windows chan *window) error {
	if err := a.switchSampling(); err != nil {
		return err
	}
	a.table.ReadEnviron(a.readEnviron.Load())
	if a.tables.collect() {
		a.unwinder.arrived()
		a.finisher.retry(false, a.add)
	}
	a.followed += uint64(len(b.Events))
	if err := a.merge(b, windows); err != nil {
		return err
	}
	a.unwinder.flush(b.Upto)
	a.tables.evict(maxUnwindBytes)
	a.table.Expire(b.Upto)
	if err := a.govern(b.Upto); err != nil {
		return err
	}
	if a.lost && a.snapshots.ready(b.Upto) {
		a.lost = false
		a.snapshots.done(b.Upto, shortestSnapshotPause, longestSnapshotPause)
		a.table.Lost()
		if err := a.table.Snapshot(); err != nil {
			return fmt.Errorf("read processes again: %w", err)
		}
		a.unwinder.check()
	}
	return nil
}

// merge applies the samples and events of b in the order of their time.
func (a *Agent) merge(b *bpf.Batch, windows chan *window) error {
	events := b.Events
	for i := range b.Samples {
		s := &b.Samples[i]
		for len(events) > 0 && events[0].Time <= s.Time {
			a.event(&events[0])
			events = events[1:]
		}
		if err := a.turn(s.Time, windows); err != nil {
			return err
		}
		a.sample(s)
	}
	for i := range events {
		a.event(&events[i])
	}
	return a.turn(b.Upto, windows)
}

// turn ends the window if now lies behind it, and begins the next.
func (a *Agent) turn(now uint64, windows chan *window) error {
	if now < a.window.monoEnd {
		return nil
	}
	if err := a.send(windows, 0); err != nil {
		return err
	}
	a.window = a.newWindow(a.window.monoEnd, now)
	return nil
}

// send closes the books of the window and queues it. Its samples that wait for
// tables are given so long to be finished.
func (a *Agent) send(windows chan *window, wait time.Duration) error {
	if err := a.account.end(a.window, a.table.Stats()); err != nil {
		return fmt.Errorf("account for window: %w", err)
	}
	if wait > 0 && len(a.finisher.pending) > 0 {
		a.tables.wait(wait)
	}
	a.finisher.retry(true, a.add)
	if !a.follows { // no record tells which processes have ended, and what became of the others
		if err := a.table.Reap(); err != nil {
			a.log.Warn("processes that have ended are kept", "err", err)
		}
		a.table.Lost() // what is sampled in the next window is looked at once
	}
	a.unwinder.trim(a.window.monoEnd)
	a.tables.trim()
	a.account.unwound(unwindStats{a.tables.stats, a.unwinder.stats, a.finisher.counts})
	a.window.level, a.window.sheds = a.governor.level, a.governor.sheds().words()
	if a.records > 0 { // once a window: any user can make more than there is room for
		a.log.Warn("process records lost: /proc was read again", "records", a.records)
		a.records = 0
	}
	select {
	case windows <- a.window:
	default:
		a.account.settle(a.window)
		a.log.Warn("window dropped: profiles are not taken fast enough", "samples", a.window.samples)
	}
	return nil
}

func (a *Agent) event(ev *bpf.Event) {
	switch ev.Kind {
	case bpf.EventFork:
		a.table.Fork(ev.Time, ev.PPID, ev.PID)
	case bpf.EventExec:
		a.table.Exec(ev.Time, ev.PID, ev.Comm)
		a.unwinder.forget(ev.PID)
	case bpf.EventComm:
		a.table.Comm(ev.Time, ev.PID, ev.TID, ev.Comm)
	case bpf.EventMmap:
		a.table.Mmap(ev.Time, ev.PID, process.Record{
			Start: ev.Mapping.Start, End: ev.Mapping.End, Offset: ev.Mapping.Offset,
			Path: ev.Mapping.Path, BuildID: ev.Mapping.BuildID,
			Inode: process.Inode{Dev: ev.Mapping.Dev, Number: ev.Mapping.Inode, Generation: ev.Mapping.Generation},
		})
		a.unwinder.mapped(ev.PID)
	case bpf.EventExit:
		a.table.Exit(ev.Time, ev.PID, ev.TID)
		if ev.TID == ev.PID {
			a.unwinder.forget(ev.PID)
		}
	case bpf.EventKernelCode:
		a.symbols.kernel.changed.Store(true)
	case bpf.EventLost:
		if !a.lost && a.snapshots.ready(ev.Time) {
			a.table.Lost() // for the samples until then
		}
		a.lost = true
		a.records += ev.Lost
		a.account.lost.Add(float64(ev.Lost))
	}
}

// sample adds one sample to the window, or has it wait until it can be finished.
func (a *Agent) sample(s *bpf.Sample) {
	p := a.table.Lookup(s.Time, process.Sample{
		PID: s.PID, TID: s.TID, Start: s.ProcessStart, Exec: s.ExecID, Comm: s.Comm.String(),
	})
	if a.opts.PID != 0 && !a.table.Descends(p, a.opts.PID) {
		a.window.skipped++
		return
	}
	if a.labeler.drops(p) {
		a.window.skipped++
		return
	}
	if s.Outcome == bpf.NoMapping || s.Outcome == bpf.NoTable {
		a.unwinder.unfinished(p, s)
	}
	if len(s.Registers) > 0 {
		switch {
		case !a.governor.finishes():
			a.finisher.counts[finishShed]++
		case a.finisher.finish(p, s):
		case a.finisher.wait(p, s):
			return
		}
	}
	a.add(p, s)
}

// add adds one sample to the window.
func (a *Agent) add(p *process.Process, s *bpf.Sample) {
	w := a.window
	w.begin(p, s, period(a.rates.at(s.Time)))
	for i, pc := range s.Kernel {
		if i > 0 {
			pc-- // a return address
		}
		w.add(kernelBinary, pc)
	}
	outcome := a.addUser(w, p, s)
	w.commit(outcome)
}

// addUser adds the user part of a stack, leaf first, and returns how its walk
// ended as far as can be told now: the kernel did not know what its program
// counters point at.
func (a *Agent) addUser(w *window, p *process.Process, s *bpf.Sample) bpf.Outcome {
	outcome := s.Outcome
	compiled := false // the frame before was made at run time
	for i, pc := range s.User {
		caller := i > 0
		at := pc
		if caller {
			at-- // a return address: the call is before it
		}
		m, ok := p.Mappings.Find(at)
		if !ok {
			outcome = bpf.NoMapping
			// Raw addresses are all there is of a process nobody knows. In a
			// known one, a caller outside its code is some other word of its
			// stack: the walk went astray.
			if len(p.Mappings) == 0 {
				w.add(noBinary, at)
				continue
			}
			if !caller {
				w.add(noBinary, at)
			}
			if compiled {
				outcome = bpf.JITEnd
			}
			break
		}
		bin := a.binary(w, p, m)
		compiled = m.Kind == process.Anonymous
		addr, ok := m.Addr(at)
		if !ok {
			addr = at - m.Start + m.Offset
		}
		w.add(bin, addr)
		if compiled && i == len(s.User)-1 && outcome.Truncated() && outcome != bpf.TooDeep {
			outcome = bpf.JITEnd
		}
		if !caller && len(s.Stack) >= 8 && (len(s.Registers) == 0 || len(s.User) == 1) {
			a.addLeafCaller(w, p, m, binary.NativeEndian.Uint64(s.Stack)-1)
		}
	}
	return outcome
}

// addLeafCaller notes the word on top of the stack, at, as the caller of the
// leaf, in case the leaf turns out to have no frame of its own. Only code of
// the same binary counts: that leaves out nearly all words that are none.
func (a *Agent) addLeafCaller(w *window, p *process.Process, leaf process.Mapping, at uint64) {
	m, ok := p.Mappings.Find(at)
	if !ok || m.Object != leaf.Object || m.Kind != process.FileBacked {
		return
	}
	if addr, ok := m.Addr(at); ok {
		w.addLeafCaller(addr)
	}
}

// binary returns the window's number of the binary that m maps, and sees to it
// that its symbols can be read when the window ends.
func (a *Agent) binary(w *window, p *process.Process, m process.Mapping) uint32 {
	part := mapped{object: m.Object, offset: m.Offset}
	if m.Kind == process.Anonymous {
		part.process = p.Key
	}
	if bin, ok := w.mapped[part]; ok {
		return bin
	}
	by := owner{p.Key, m.Path}
	if file, err := m.File(); m.Openable() && (file == nil && err == nil || file != nil && !a.symbols.has(file.Key, by)) {
		open, err := a.files.Open(p, m)
		if err == nil {
			err = a.symbols.offer(open, by)
		}
		if err != nil {
			a.account.unopened.Inc()
			a.log.Debug("open binary", "pid", p.PID, "path", m.Path, "err", err)
		}
	}
	b := binaryOf(m)
	if b.kind == process.Anonymous && !b.opened {
		b.process = p.Key
		if !w.compiling[p.Key] {
			w.compiling[p.Key] = true
			a.symbols.maps.open(p)
			a.jvms.seen(p, time.Now())
		}
	}
	bin := w.binary(b)
	w.mapped[part] = bin
	return bin
}

// profileID names the profile of a process in a window, the same each time it
// is sent.
func (a *Agent) profileID(w *window, k process.Key) profilestore.ID {
	b := slices.Clone(a.run[:])
	for _, v := range []uint64{w.monoStart, uint64(k.PID), k.Start, uint64(k.Exec)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	sum := sha256.Sum256(b)
	return profilestore.ID(sum[:16])
}
