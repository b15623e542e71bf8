package agent

import (
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"pilotlight/bpf"
	"pilotlight/cmd/pilotlight/process"
	"pilotlight/symbolize"
)

// Report is what an agent says about itself once a window.
type Report struct {
	Version     string
	Hostname    string
	Started     time.Time
	WindowStart time.Time
	Frequency   int      // Hz, when the window began
	Level       int      // of what is shed to keep to the limits, when the window ended; 0: nothing
	Sheds       []string // which work that is: finishing, records, samples, all
	CPULimit    float64  // CPU seconds that the agent may take in a minute; 0: as many as it likes
	MemoryLimit uint64   // bytes that it may take; 0: as many as it likes
	Off         bool     // no samples are taken, as SetSampling was told
	CPUs        int      // online
	RSS         uint64   // bytes
	BPFMemory   uint64   // bytes
	TableBytes  uint64   // of the unwind tables that the sampler has
	Window      Account  // since the report before
	Total       Account  // since the agent started
}

// Account is what became of the samples of some time, and what they cost.
type Account struct {
	Taken    uint64                  // samples the kernel took
	Missed   uint64                  // samples it did not take: busy CPU time x frequency, less Taken
	Outcomes [bpf.NumOutcomes]uint64 // of the samples; sums to Taken but for those still on their way
	Skipped  uint64                  // left out by Options.PID or a relabeling rule
	Frames   uint64                  // of the samples kept, weighted
	Unnamed  uint64                  // of Frames, those that no symbol names
	// Unfinished are the samples whose stack the kernel could not walk to its end for want of a table or a mapping, and
	// Finished those of them whose stack was walked here, to its end or to where that is cut.
	Unfinished, Finished uint64
	CPU                  time.Duration // of the agent and its children, in user space and in the kernel
	BPF                  time.Duration // of the sampler's programs
}

// less returns what came since earlier.
func (a Account) less(earlier Account) Account {
	a.Taken -= earlier.Taken
	a.Missed -= earlier.Missed
	for o := range a.Outcomes {
		a.Outcomes[o] -= earlier.Outcomes[o]
	}
	a.Skipped -= earlier.Skipped
	a.Frames -= earlier.Frames
	a.Unnamed -= earlier.Unnamed
	a.Unfinished -= earlier.Unfinished
	a.Finished -= earlier.Finished
	a.CPU -= earlier.CPU
	a.BPF -= earlier.BPF
	return a
}

// frameCounts counts frames by kind, by whether a symbol names them, and by what
// their process runs.
type frameCounts map[frameCount]uint64

type frameCount struct {
	kind     frameKind
	named    bool
	language string
}

func (c frameCounts) add(n *named, language string, samples uint64) {
	c[frameCount{n.kind, n.frames[0].Source > symbolize.None, language}] += samples
}

// account keeps the books: where each sample went. It is a prometheus.Collector.
type account struct {
	sampler   Sampler
	proc      fs.FS
	opts      Options
	unopened  prometheus.Counter
	indexes   atomic.Pointer[indexes] // nil: there are none; set before the first window
	jvms      *jvms
	allowance *allowance
	lost      prometheus.Counter

	started time.Time

	mu         sync.Mutex // guards what follows
	busy       float64    // CPU seconds that have been busy, as counted last
	due        float64    // samples that should have been taken since sampling began
	takenStart uint64     // samples taken by then
	outcomes   [bpf.NumOutcomes]uint64
	skipped    uint64
	frames     frameCounts
	missed     uint64
	reported   Account
	table      process.TableStats
	limits     limits
	off        bool // no samples are taken
	unwind     unwindStats
}

// limits are those of the agent, and what it does to keep to them.
type limits struct {
	level  int
	sheds  []string
	spent  time.Duration     // CPU time of the last minute
	worth  time.Duration     // CPU time that a minute may take; unlimited: as much as it likes
	used   uint64            // bytes of memory
	memory uint64            // that may be used; 0: as many as it likes
	raised map[string]uint64 // how often more was shed, by what was short
}

// unwindStats are what tables, unwinder and finisher count.
type unwindStats struct {
	tables    tableStats
	published unwinderStats
	finished  [finishOutcomes]uint64
}

var (
	descTaken       = prometheus.NewDesc("pilotlight_samples_taken_total", "Samples that the kernel took.", nil, nil)
	descMissed      = prometheus.NewDesc("pilotlight_samples_missed_total", "Samples that the kernel did not take: busy CPU seconds x frequency, less those taken.", nil, nil)
	descOutcomes    = prometheus.NewDesc("pilotlight_samples_total", "Samples by how they ended.", []string{"outcome"}, nil)
	descSkipped     = prometheus.NewDesc("pilotlight_samples_skipped_total", "Samples of processes that a filter leaves out. They have no outcome.", nil, nil)
	descFrames      = prometheus.NewDesc("pilotlight_frames_total", "Frames of samples by kind, by whether a symbol names them, and by what their process runs: an interpreter, go, native or kernel.", []string{"kind", "named", "language"}, nil)
	descCPU         = prometheus.NewDesc("pilotlight_agent_cpu_seconds_total", "CPU time of the agent and of the children that read debug information and ask container runtimes and JVMs for it, in user space and in the kernel.", nil, nil)
	descBPFRun      = prometheus.NewDesc("pilotlight_bpf_run_seconds_total", "CPU time of the sampler's BPF program.", nil, nil)
	descTable       = prometheus.NewDesc("pilotlight_agent_process_failures_total", "What the table of processes could not hold or read, so that samples may lack names.", []string{"kind"}, nil)
	descLevel       = prometheus.NewDesc("pilotlight_agent_governor_level", "How much work the agent sheds to keep to its limits of CPU and memory: 0 none, 1 and 2 finishing of stacks, 3 and above records of processes too, 4 and above lower frequencies, 8 everything.", nil, nil)
	descSheds       = prometheus.NewDesc("pilotlight_agent_sheds", "1 for work of which less is done, or none, to keep to the limits: finishing of stacks, records of what becomes of processes, samples, all.", []string{"work"}, nil)
	descRaised      = prometheus.NewDesc("pilotlight_agent_governor_raised_total", "How often more work was shed, by what was short.", []string{"short"}, nil)
	descSpent       = prometheus.NewDesc("pilotlight_agent_governor_cpu_seconds", "CPU time that the agent took in the last minute, of what its limit is of.", nil, nil)
	descCPULimit    = prometheus.NewDesc("pilotlight_agent_governor_cpu_limit_seconds", "CPU time that the agent may take in any minute; +Inf without a limit.", nil, nil)
	descMemory      = prometheus.NewDesc("pilotlight_agent_governor_memory_bytes", "Memory of what its limit is of: the agent's and the kernel's for it.", nil, nil)
	descMemoryLimit = prometheus.NewDesc("pilotlight_agent_governor_memory_limit_bytes", "Memory that may be taken; +Inf without a limit.", nil, nil)
	descSampling    = prometheus.NewDesc("pilotlight_sampling", "1 while samples are taken, 0 while the off file is there.", nil, nil)
	descFrequency   = prometheus.NewDesc("pilotlight_agent_frequency_hertz", "Samples per second of each busy CPU, at present.", nil, nil)
	descTables      = prometheus.NewDesc("pilotlight_unwind_tables_total", "Unwind tables by where they came from; of a failed one, frames are walked by frame pointers; a damaged one was on disk and is built again.", []string{"source"}, nil)
	descFinished    = prometheus.NewDesc("pilotlight_unwind_finished_total", "Samples whose stack the kernel could not walk to its end, by what became of them here.", []string{"result"}, nil)
	descRefused     = prometheus.NewDesc("pilotlight_unwind_refused_total", "Tables and processes that the sampler had no room for.", []string{"kind"}, nil)
	descDelayed     = prometheus.NewDesc("pilotlight_unwind_delayed_total", "Changes of a process's code that the sampler was told later, because the process changes it all the time.", nil, nil)
	descTabBytes    = prometheus.NewDesc("pilotlight_unwind_table_bytes", "Memory of the unwind tables that the sampler has.", nil, nil)
	descIndexes     = prometheus.NewDesc("pilotlight_symbol_indexes_total", "Files whose debug information was looked for, by what came of it: an index built or cached on disk, none for want of it, killed for what its reading took, failed; a damaged one was on disk and is built again.", []string{"result"}, nil)
	descIdxBytes    = prometheus.NewDesc("pilotlight_symbol_cache_bytes", "Indexes of debug information on disk.", nil, nil)
	descBPFMemory   = prometheus.NewDesc("pilotlight_bpf_memory_bytes", "Memory of the sampler's BPF maps.", nil, nil)
)

func newAccount(s Sampler, proc fs.FS, spare *allowance, o Options) (*account, error) {
	a := &account{
		sampler: s, proc: proc, allowance: spare, opts: o, limits: limits{raised: map[string]uint64{shortCPU: 0, shortMemory: 0}}, started: time.Now(), frames: frameCounts{},
		unopened: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pilotlight_agent_unopened_binaries_total",
			Help: "Mapped files that could not be opened, so that their frames have no names.",
		}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pilotlight_agent_process_records_lost_total",
			Help: "Records of forks, execs, mappings and ends that the kernel had no room for; what they said is read from /proc where it still can be.",
		}),
	}
	if o.Registerer == nil {
		return a, nil
	}
	// The half that answers /metrics says its own by go_goroutines.
	goroutines := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pilotlight_agent_goroutines", Help: "Goroutines of the half that samples.",
	}, func() float64 { return float64(runtime.NumGoroutine()) })
	for _, c := range []prometheus.Collector{a, a.unopened, a.lost, goroutines} {
		if err := o.Registerer.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return a, nil
}

// begin starts to count missed samples.
func (a *account) begin() error {
	busy, err := process.ReadBusy(a.proc)
	if err != nil {
		return err
	}
	st, err := a.sampler.Stats()
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.busy, a.takenStart = busy.Total, st.Taken
	return nil
}

// count adds what has become due since it was called last. The frequency must
// not have changed in between, nor whether samples are taken.
func (a *account) count() error {
	busy, err := process.ReadBusy(a.proc)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.off {
		a.due += max(0, busy.Total-a.busy) * float64(a.sampler.Frequency())
	}
	a.busy = busy.Total
	return nil
}

// unwound tells what was counted of unwinding.
func (a *account) unwound(st unwindStats) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unwind = st
}

// end reads what was taken, and what should have been, when w ended. table is
// the process table's at that time.
func (a *account) end(w *window, table process.TableStats) error {
	if err := a.count(); err != nil {
		return err
	}
	st, err := a.sampler.Stats()
	if err != nil {
		return err
	}
	w.stats = st
	a.mu.Lock()
	defer a.mu.Unlock()
	a.table = table
	a.missed = max(a.missed, uint64(max(0, a.due-float64(st.Taken-a.takenStart))))
	return nil
}

// cost returns what the agent and the sampler have taken so far.
func (a *account) cost() (cost, error) {
	st, err := a.sampler.Stats()
	if err != nil {
		return cost{}, err
	}
	own, err := ownCPU()
	if err != nil {
		return cost{}, err
	}
	cpu, rss, err := a.taken()
	if x := a.indexes.Load(); x != nil && x.waited {
		cpu -= a.indexed().cpu
	}
	return cost{own: own, cpu: cpu + st.Run, spare: a.allowance.spent(), memory: rss + st.Memory}, err
}

// taken returns the CPU time of the agent and of what works for it, and their memory.
func (a *account) taken() (cpu time.Duration, rss uint64, err error) {
	if cpu, err = ownCPU(); err != nil {
		return 0, 0, err
	}
	if rss, err = ResidentBytes(a.proc, "self"); err != nil {
		return 0, 0, err
	}
	cpu += a.indexed().cpu + a.opts.Names.CPU() + a.jvms.CPU()
	if a.opts.Beside == nil {
		return cpu, rss, nil
	}
	otherCPU, otherRSS, err := a.opts.Beside()
	return cpu + otherCPU, rss + otherRSS, err
}

// indexed returns what was counted of indexes.
func (a *account) indexed() indexStats {
	x := a.indexes.Load()
	if x == nil {
		return indexStats{}
	}
	return x.current()
}

// settle counts what became of the samples of a window: those of a profile that
// was not kept are lost.
func (a *account) settle(w *window) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, st := range w.order {
		if !st.kept {
			a.outcomes[bpf.DroppedUser] += st.samples
			continue
		}
		for o, n := range st.outcomes {
			a.outcomes[o] += n
		}
		for k, n := range st.frames {
			a.frames[k] += n
		}
	}
	a.skipped += w.skipped
}

// sampling reports whether samples are taken.
func (a *account) sampling() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.off
}

// setSampling tells whether samples are taken.
func (a *account) setSampling(on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.off = !on
}

// What may be short.
const (
	shortCPU    = "cpu"
	shortMemory = "memory"
)

// governed tells what the governor has found, and which of the two made it raise the level, if one did.
func (a *account) governed(g *governor, short string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := &a.limits
	l.level, l.sheds = g.level, g.sheds().words()
	l.spent, l.worth = g.spent(), g.worth(budgetSpan)
	l.used, l.memory = g.last().memory, g.memory
	if short != "" {
		l.raised[short]++
	}
}

// report closes the books of a window.
func (a *account) report(w *window) (Report, error) {
	cpu, rss, err := a.taken()
	if err != nil {
		return Report{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	st := w.stats
	total := Account{
		Taken: st.Taken, Missed: a.missed, Outcomes: a.totals(st), Skipped: a.skipped, CPU: cpu, BPF: st.Run,
	}
	for k, n := range a.frames {
		total.Frames += n
		if !k.named {
			total.Unnamed += n
		}
	}
	for _, n := range a.unwind.finished {
		total.Unfinished += n
	}
	total.Finished = a.unwind.finished[finishedWhole] + a.unwind.finished[finishedCut]
	window := total.less(a.reported)
	a.reported = total
	cpuLimit := 0.0
	if a.limits.worth != unlimited {
		cpuLimit = a.limits.worth.Seconds() / counted
	}
	return Report{
		Version:     a.opts.Version,
		Hostname:    a.opts.Hostname,
		Started:     a.started,
		WindowStart: w.start,
		Frequency:   w.frequency,
		Level:       w.level,
		Sheds:       w.sheds,
		CPULimit:    cpuLimit,
		MemoryLimit: a.limits.memory,
		Off:         a.off,
		CPUs:        runtime.NumCPU(),
		RSS:         rss,
		BPFMemory:   st.Memory,
		TableBytes:  st.TableBytes,
		Window:      window,
		Total:       total,
	}, nil
}

// totals are the samples by outcome: those that the ring had no room for never
// came this far.
func (a *account) totals(st bpf.Stats) [bpf.NumOutcomes]uint64 {
	sum := a.outcomes
	sum[bpf.DroppedRing] += st.Outcomes[bpf.DroppedRing]
	return sum
}

// Describe implements prometheus.Collector.
func (a *account) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descTaken, descMissed, descOutcomes, descSkipped, descFrames, descCPU, descBPFRun, descBPFMemory, descTable, descLevel, descSheds, descRaised, descSpent, descCPULimit, descMemory, descMemoryLimit, descSampling, descFrequency, descTables, descFinished, descRefused, descDelayed, descTabBytes, descIndexes, descIdxBytes} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (a *account) Collect(ch chan<- prometheus.Metric) {
	st, err := a.sampler.Stats()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(descTaken, err)
		return
	}
	cpu, _, err := a.taken()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(descCPU, err)
		return
	}
	a.mu.Lock()
	missed, skipped, totals, frames, table, limits, off, unwind := a.missed, a.skipped, a.totals(st), maps.Clone(a.frames), a.table, a.limits, a.off, a.unwind
	limits.raised = maps.Clone(limits.raised)
	a.mu.Unlock()
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	counter(descTaken, float64(st.Taken))
	counter(descMissed, float64(missed))
	counter(descSkipped, float64(skipped))
	for o, n := range totals {
		counter(descOutcomes, float64(n), bpf.Outcome(o).String())
	}
	for k, n := range frames {
		counter(descFrames, float64(n), string(k.kind), strconv.FormatBool(k.named), k.language)
	}
	counter(descTable, float64(table.RefusedProcesses), "refused_process")
	counter(descTable, float64(table.RefusedMappings), "refused_mapping")
	counter(descTable, float64(table.ExpiredEarly), "expired_early")
	counter(descTable, float64(table.ReadErrors), "read_error")
	counter(descTables, float64(unwind.tables.built), "built")
	counter(descTables, float64(unwind.tables.cached), "cached")
	counter(descTables, float64(unwind.tables.failed), "failed")
	counter(descTables, float64(unwind.tables.damaged), "damaged")
	for i, n := range unwind.finished {
		counter(descFinished, float64(n), finishNames[i])
	}
	counter(descRefused, float64(unwind.published.refusedTables), "table")
	counter(descRefused, float64(unwind.published.refusedProcesses), "process")
	counter(descDelayed, float64(unwind.published.delayed))
	indexed := a.indexed()
	counter(descIndexes, float64(indexed.built), "built")
	counter(descIndexes, float64(indexed.cached), "cached")
	counter(descIndexes, float64(indexed.absent), "none")
	counter(descIndexes, float64(indexed.killed), "killed")
	counter(descIndexes, float64(indexed.failed), "failed")
	counter(descIndexes, float64(indexed.damaged), "damaged")
	counter(descCPU, cpu.Seconds())
	counter(descBPFRun, st.Run.Seconds())
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	gauge(descBPFMemory, float64(st.Memory))
	gauge(descTabBytes, float64(st.TableBytes))
	gauge(descIdxBytes, float64(indexed.bytes))
	limits.collect(ch)
	sampling := 1.0
	if off {
		sampling = 0
	}
	gauge(descSampling, sampling)
	gauge(descFrequency, float64(a.sampler.Frequency()))
}

// collect sends the metrics of limits.
func (l *limits) collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(descLevel, float64(l.level))
	for _, work := range []string{shedFinishing, shedRecords, shedSamples, shedAll} {
		sheds := 0.0
		if slices.Contains(l.sheds, work) {
			sheds = 1
		}
		gauge(descSheds, sheds, work)
	}
	for short, n := range l.raised {
		ch <- prometheus.MustNewConstMetric(descRaised, prometheus.CounterValue, float64(n), short)
	}
	cpu, memory := math.Inf(1), math.Inf(1)
	if l.worth != unlimited {
		cpu = l.worth.Seconds() / counted
	}
	if l.memory > 0 {
		memory = float64(l.memory)
	}
	gauge(descSpent, l.spent.Seconds())
	gauge(descCPULimit, cpu)
	gauge(descMemory, float64(l.used))
	gauge(descMemoryLimit, memory)
}

// ownCPU returns the CPU time that this process used.
func ownCPU() (time.Duration, error) {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		return 0, fmt.Errorf("read own CPU time: %w", err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano()), nil
}

// ResidentBytes returns the resident memory of a process in bytes, proc_pid_statm(5). who is its pid, or "self".
func ResidentBytes(proc fs.FS, who string) (uint64, error) {
	statm, err := fs.ReadFile(proc, who+"/statm")
	if err != nil {
		return 0, fmt.Errorf("read memory of process %s: %w", who, err)
	}
	fields := strings.Fields(string(statm))
	if len(fields) < 2 {
		return 0, fmt.Errorf("read memory of process %s: statm is %q", who, statm)
	}
	pages, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read memory of process %s: %w", who, err)
	}
	return pages * uint64(os.Getpagesize()), nil
}
