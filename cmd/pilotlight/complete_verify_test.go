//go:build verify

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"pilotlight/cmd/pilotlight/agent"
	"pilotlight/profilestore/httpapi"
	"pilotlight/testdata/loads"
	"pilotlight/testdata/stacks"
)

// target is a program whose stacks are to be whole.
type target struct {
	name    string
	stacks  bool          // one of testdata/stacks, not of testdata/loads
	windows int           // for how many windows it is observed
	gate    float64       // percent of its samples that have to be whole, or to end where it may
	mayEnd  string        // the words of an outcome that is no loss, such as "jit end"
	throws  bool          // constantly: what ends in libgcc's unwinder is a class of its own
	cost    time.Duration // wanted of the BPF program for a sample; printed beside the figure, not a gate
}

const minute = int(time.Minute / agent.Window)

var targets = []target{
	{name: "deep", windows: minute, gate: 99.9, cost: 12 * time.Microsecond},
	{name: "libraries", windows: minute, gate: 99.9},
	{name: "rust", windows: minute, gate: 99.9},
	{name: "exceptions", stacks: true, windows: minute, gate: 99.9, throws: true},
	{name: "python", windows: minute, gate: 99.9},
	{name: "clang", stacks: true, windows: minute, gate: 99.9},
	{name: "go", windows: minute, gate: 99.9, cost: 12 * time.Microsecond},
	{name: "node", windows: minute, gate: 99.9, mayEnd: "jit end"},
	{name: "java", windows: minute, gate: 99.9, mayEnd: "jit end"},
	{name: "recursion-100", stacks: true, windows: 1, gate: 100},
	{name: "recursion-200", stacks: true, windows: 1, gate: 100},
	{name: "recursion-400", stacks: true, windows: 1, gate: 100},
	{name: "recursion-500", stacks: true, windows: 1, gate: 100},
}

// perfTime is for how long perf records a program beside its observation: it writes 8 KiB a sample.
const perfTime = 10 * time.Second

// TestVerifyComplete says for each program what share of its stacks is whole, and what a sample costs, and holds the
// first to what the project promises.
func TestVerifyComplete(t *testing.T) {
	needRoot(t)
	s := start(t, filepath.Join(makeDir(t), "data"), "127.0.0.1:0", 99)
	for _, target := range targets {
		t.Run(target.name, func(t *testing.T) {
			pid, stop := target.start(t)
			defer stop()
			o := s.observeProcess(t, pid, target.windows)
			byPerf := perfComplete(t, pid, perfTime)
			t.Logf("%v; perf --call-graph dwarf: %s", o, byPerf)
			if target.cost > 0 {
				t.Logf("%v a sample in the BPF program, wanted: at most %v", o.cost().Round(100*time.Nanosecond), target.cost)
			}
			right := o.complete + o.ended[target.mayEnd]
			if target.throws {
				t.Logf("%d stacks, %.2f %%, were cut while libgcc's unwinder rewrote the registers that its own frames had saved", o.rethrown, 100*float64(o.rethrown)/float64(max(o.samples, 1)))
				right += o.rethrown
			}
			if share := 100 * float64(right) / float64(o.samples); o.samples == 0 || share < target.gate {
				t.Errorf("%.2f %% of %d stacks are complete, want %.1f %%; the others by where they end: %v", share, o.samples, target.gate, o.ended)
			}
			for i, where := range byCount(o.where) {
				if i == 10 {
					t.Logf("and %d others", len(o.where)-i)
					break
				}
				t.Logf("%5d %s", o.where[where], where)
			}
			if o.shallowest < target.depth() {
				t.Errorf("the shallowest complete stack has %d frames, the program is %d deep", o.shallowest, target.depth())
			}
		})
	}
}

// depth is the least number of frames of any stack of the program, if it has one.
func (g target) depth() int {
	if _, n, ok := strings.Cut(g.name, "recursion-"); ok {
		depth, _ := strconv.Atoi(n)
		return depth
	}
	return 1
}

// start starts the program. It runs until stop.
func (g target) start(t *testing.T) (pid int, stop func()) {
	t.Helper()
	if g.stacks {
		if err := stacks.Build(t.Context(), g.name); err != nil {
			t.Fatal(err)
		}
		running, err := stacks.Start(g.name)
		if err != nil {
			t.Fatal(err)
		}
		return running.PID, func() {
			if err := running.Stop(); err != nil {
				t.Error(err)
			}
		}
	}
	if err := loads.Build(t.Context(), g.name); err != nil {
		t.Fatal(err)
	}
	// Windows before and after those that are observed, and perf.
	d := time.Duration(g.windows+2)*agent.Window + 2*perfTime
	ctx, cancel := context.WithCancel(t.Context())
	load, err := loads.Start(ctx, g.name, d)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	return load.PIDs()[0], func() {
		cancel()
		var killed *exec.ExitError
		if _, err := load.Wait(); err != nil && !errors.As(err, &killed) {
			t.Error(err)
		}
	}
}

// observation is what became of one process's samples in some windows.
type observation struct {
	samples    int64
	complete   int64
	ended      map[string]int64 // the others, by the words of the outcome
	where      map[string]int64 // and by the frames before it, the outermost first
	rethrown   int64            // of them, those with a frame that throws
	roots      map[string]int64 // the outermost frames of those that are complete
	frames     int64            // of the user stacks, markers left out
	shallowest int              // user frames of the shallowest complete stack
	machine    httpapi.Account  // of all processes in these windows
}

func newObservation() *observation {
	return &observation{ended: map[string]int64{}, where: map[string]int64{}, roots: map[string]int64{}, shallowest: 1 << 20}
}

// share is how many percent of the samples are complete.
func (o *observation) share() float64 { return 100 * float64(o.complete) / float64(max(o.samples, 1)) }

// cost is the BPF program's time for a sample, of whatever ran: beside the observed process that is little.
func (o *observation) cost() time.Duration {
	return time.Duration(o.machine.BPFSeconds / float64(max(o.machine.SamplesTaken, 1)) * 1e9)
}

func (o *observation) String() string {
	var b strings.Builder
	n := float64(max(o.samples, 1))
	fmt.Fprintf(&b, "%d samples, complete %.2f %%, %.1f frames, BPF %v a sample", o.samples, 100*float64(o.complete)/n, float64(o.frames)/n, o.cost().Round(100*time.Nanosecond))
	for _, words := range byCount(o.ended) {
		fmt.Fprintf(&b, ", %s %.2f %%", words, 100*float64(o.ended[words])/n)
	}
	b.WriteString("; roots")
	for i, root := range byCount(o.roots) {
		if i == 5 {
			fmt.Fprintf(&b, ", %d others", len(o.roots)-i)
			break
		}
		fmt.Fprintf(&b, " %s %d", root, o.roots[root])
	}
	return b.String()
}

// byCount returns the keys, those with the highest count first.
func byCount(counts map[string]int64) []string {
	return slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
}

// observeProcess lets some whole windows pass and reads what was stored of a process in them.
func (s *server) observeProcess(t *testing.T, pid, windows int) *observation {
	t.Helper()
	from := time.Now().Add(time.Second).Truncate(agent.Window).Add(agent.Window) // the start of a process is not its work
	to := from.Add(time.Duration(windows) * agent.Window)
	o := newObservation()
	o.machine = s.accountOf(t, from, to)
	o.add(s.profileOf(t, pid, from, to))
	return o
}

// accountOf waits for the agent's reports at both ends of some windows and returns what came between.
func (s *server) accountOf(t *testing.T, from, to time.Time) httpapi.Account {
	t.Helper()
	first, last := s.reportAt(t, from), s.reportAt(t, to)
	return httpapi.Account{
		SamplesTaken: last.Total.SamplesTaken - first.Total.SamplesTaken,
		CPUSeconds:   last.Total.CPUSeconds - first.Total.CPUSeconds,
		BPFSeconds:   last.Total.BPFSeconds - first.Total.BPFSeconds,
	}
}

// reportAt waits for the report about the window that ends at end.
func (s *server) reportAt(t *testing.T, end time.Time) *httpapi.AgentReport {
	t.Helper()
	time.Sleep(time.Until(end)) // what is measured has the machine to itself: asking takes CPU time, and caches
	var report *httpapi.AgentReport
	err := eventually(15*time.Second, "the agent reported", func() bool {
		r, err := s.lastReport()
		report = r
		return err == nil && !windowEnd(r).Before(end)
	})
	if err != nil {
		t.Fatal(err)
	}
	if !windowEnd(report).Equal(end) {
		t.Fatalf("the report of the window until %v is gone, the last is of that until %v", end, windowEnd(report))
	}
	return report
}

// profileOf returns what is stored of one process, or of all if pid is 0.
func (s *server) profileOf(t *testing.T, pid int, from, to time.Time) *profile.Profile {
	t.Helper()
	query := "{}"
	if pid != 0 {
		query = fmt.Sprintf(`{pid="%d"}`, pid)
	}
	body, err := get(s.endpoint("pprof", "query", query, "from", strconv.FormatInt(from.Unix(), 10), "to", strconv.FormatInt(to.Unix(), 10)))
	if err != nil {
		t.Fatal(err)
	}
	p, err := profile.ParseData(body)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (o *observation) add(p *profile.Profile) {
	for _, sample := range p.Sample {
		st := stackOf(sample)
		o.samples += st.count
		o.frames += st.count * int64(st.user)
		if st.marker != "" {
			o.ended[st.marker] += st.count
			o.where[st.marker+" < "+st.outer] += st.count
			if st.throws {
				o.rethrown += st.count
			}
			continue
		}
		o.complete += st.count
		o.roots[st.root] += st.count
		o.shallowest = min(o.shallowest, st.user)
	}
}

// sampledStack is what matters here of a sample of a profile.
type sampledStack struct {
	count  int64
	user   int    // frames of user space
	root   string // the outermost of them
	marker string // the words of the outcome if the stack was cut
	outer  string // the outermost frames if it was, with the files of their code
	throws bool   // and one of its frames throws
}

func stackOf(sample *profile.Sample) sampledStack {
	st := sampledStack{count: sample.Value[0]}
	for i, l := range sample.Location {
		name := l.Line[len(l.Line)-1].Function.Name
		if words, ok := strings.CutPrefix(name, "[truncated: "); ok && i == len(sample.Location)-1 {
			st.marker = strings.TrimSuffix(words, "]")
			st.outer = outermost(sample.Location[:i])
			st.throws = slices.ContainsFunc(sample.Location[:i], isThrow)
			return st
		}
		if l.Mapping == nil || !strings.HasPrefix(l.Mapping.File, "[kernel") {
			st.user++
			st.root = name
		}
	}
	return st
}

// isThrow reports whether a frame is one of those of libgcc that end in another function than they were called from. On their
// way they put that one's registers where they have saved their own (__builtin_eh_return), so that for some instructions
// their caller cannot be found: gdb gives up there too.
func isThrow(l *profile.Location) bool {
	throws := []string{"_Unwind_RaiseException", "_Unwind_Resume", "_Unwind_Resume_or_Rethrow", "_Unwind_ForcedUnwind"}
	return l.Mapping != nil && strings.HasPrefix(filepath.Base(l.Mapping.File), "libgcc_s.so") && slices.Contains(throws, l.Line[len(l.Line)-1].Function.Name)
}

// outermost names the last frames of a stack, the outermost first, with the files of their code.
func outermost(frames []*profile.Location) string {
	const most = 3
	var names []string
	for _, l := range slices.Backward(frames[max(0, len(frames)-most):]) {
		name := l.Line[len(l.Line)-1].Function.Name
		if l.Mapping != nil {
			name += " (" + filepath.Base(l.Mapping.File) + ")"
		}
		names = append(names, name)
	}
	return strings.Join(names, " < ")
}

// perfComplete records a process with perf, which copies pieces of its stacks and unwinds them later by DWARF, and says
// what share of the stacks ends at a thread's entry.
func perfComplete(t *testing.T, pid int, d time.Duration) string {
	t.Helper()
	data := filepath.Join(t.TempDir(), "perf.data")
	record := exec.CommandContext(t.Context(), "perf", "record", "-q", "-e", "cpu-clock", "-F", "99", "--call-graph", "dwarf",
		"--no-buildid", "-p", strconv.Itoa(pid), "-o", data, "--", "sleep", strconv.FormatFloat(d.Seconds(), 'f', -1, 64))
	if out, err := record.CombinedOutput(); err != nil {
		return fmt.Sprintf("perf record: %v %s", err, bytes.TrimSpace(out))
	}
	// Names of inlined functions take perf minutes and are not what it is asked for.
	script := exec.CommandContext(t.Context(), "perf", "script", "-i", data, "-F", "ip,sym", "--no-inline", "--max-stack", "1024")
	out, err := script.Output()
	if err != nil {
		return fmt.Sprintf("perf script: %v", err)
	}
	samples, complete := perfStacks(out)
	return fmt.Sprintf("complete %.2f %% of %d", 100*float64(complete)/float64(max(samples, 1)), samples)
}

// perfStacks counts the stacks that perf script printed, and those of them whose last frame is a thread's entry. That has
// no name where the program is stripped; then what it calls has: libc's first function.
func perfStacks(script []byte) (samples, complete int) {
	entries := []string{"_start", "clone3", "__clone3", "__clone", "runtime.goexit", "runtime.goexit.abi0", "runtime.mstart", "runtime.mstart.abi0", "runtime.mcall"}
	var stack []string
	flush := func() {
		if len(stack) == 0 {
			return
		}
		samples++
		last := stack[len(stack)-1]
		if slices.Contains(entries, last) || len(stack) > 1 && strings.HasPrefix(stack[len(stack)-2], "__libc_start_main") {
			complete++
		}
		stack = stack[:0]
	}
	for lines := bufio.NewScanner(bytes.NewReader(script)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			flush()
			continue
		}
		name := strings.Join(fields[1:], " ")
		if plus := strings.LastIndex(name, "+0x"); plus > 0 {
			name = name[:plus]
		}
		stack = append(stack, name)
	}
	flush()
	return samples, complete
}

// commands has for each command of the forkstorm load the names of the programs that it runs.
var commands = map[string][]string{
	"true":    {"true"},
	"ls /":    {"ls"},
	"gcc -O2": {"gcc", "cc1", "as", "collect2", "ld"},
}

// TestVerifyForkStorm holds the profiles of processes that are gone before anybody can look at them to the log of the
// load that ran them.
func TestVerifyForkStorm(t *testing.T) {
	const (
		attributedGate = 98.0
		completeGate   = 90.0
		agentWanted    = 5.0 // percent of a core
	)
	needRoot(t)
	if err := loads.Build(t.Context(), "forkstorm"); err != nil {
		t.Fatal(err)
	}
	// At 99 Hz a storm is more than an agent may take of two CPUs.
	s, err := startServer(filepath.Join(makeDir(t), "data"), "127.0.0.1:0", 99, "--cpu-limit", "10%")
	if err != nil {
		t.Fatal(err)
	}
	s.killAtEnd(t)
	from := time.Now().Add(time.Second).Truncate(agent.Window).Add(agent.Window)
	to := from.Add(time.Minute + agent.Window)
	time.Sleep(time.Until(from.Add(agent.Window / 2)))
	load, err := loads.Start(t.Context(), "forkstorm", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	storeBefore := cpuOf(t, s.other)
	machine := s.accountOf(t, from, to)
	storeCPU := cpuOf(t, s.other) - storeBefore
	report, err := load.Wait()
	if err != nil {
		t.Fatal(err)
	}
	storm := new(loads.ForkStorm)
	if err := json.Unmarshal(report.Parts[0].Output, storm); err != nil {
		t.Fatal(err)
	}
	c := attribute(storm, s.profileOf(t, 0, from, to))
	for _, line := range c.lines {
		t.Log(line)
	}
	attributed, complete := 100*c.attributed/c.due, 100*float64(c.complete)/float64(max(c.samples, 1))
	t.Logf("attributed to the right command %.2f %% of %.0f samples due; with a complete user stack %.2f %% of %d; without one, between two programs, %.2f %%; the others %v",
		attributed, c.due, complete, c.samples, 100*float64(c.kernelOnly)/float64(max(c.samples, 1)), c.ended)
	t.Logf("agent half %.2f %% of a core (wanted: at most %.0f), store half %.2f %%, BPF %.2f %%, %v a sample",
		100*machine.CPUSeconds/60, agentWanted, 100*storeCPU.Seconds()/60, 100*machine.BPFSeconds/60, (&observation{machine: machine}).cost().Round(100*time.Nanosecond))
	if attributed < attributedGate {
		t.Errorf("%.2f %% of busy time x 99 is attributed to the right command, want %.0f %%", attributed, attributedGate)
	}
	if complete < completeGate {
		t.Errorf("%.2f %% of the samples have a complete user stack, want %.0f %%; the others end in %v", complete, completeGate, c.ended)
	}
}

// attribution compares a profile with the log of the forkstorm load.
type attribution struct {
	due        float64 // samples, by the log
	attributed float64 // of them, those that are there under the right name: what one name has too much is no other's
	samples    int64   // under any of the load's names
	complete   int64   // of them, those with a user stack to its root
	kernelOnly int64   // of them, those without a user stack that say nothing of a loss
	ended      map[string]int64
	lines      []string
}

func attribute(storm *loads.ForkStorm, p *profile.Profile) *attribution {
	c := &attribution{ended: map[string]int64{}}
	const self = "forkstorm" // the name of the loops, and of their children until exec
	due := map[string]float64{self: 99 * float64(storm.Loops) / 1e9}
	nameOf := map[string]string{self: self}
	for _, command := range storm.Commands {
		due[self] += 99 * float64(command.Forked) / 1e9
		due[command.Command] = 99 * float64(command.NS-command.Forked) / 1e9
		for _, comm := range commands[command.Command] {
			nameOf[comm] = command.Command
		}
	}
	taken := map[string]int64{}
	for _, sample := range p.Sample {
		name, ok := nameOf[sample.Label["comm"][0]]
		if !ok {
			continue
		}
		st := stackOf(sample)
		taken[name] += st.count
		c.samples += st.count
		switch {
		case st.marker != "":
			c.ended[st.marker] += st.count
		case st.user == 0:
			c.kernelOnly += st.count
		default:
			c.complete += st.count
		}
	}
	for _, name := range slices.Sorted(maps.Keys(due)) {
		c.due += due[name]
		c.attributed += min(due[name], float64(taken[name]))
		c.lines = append(c.lines, fmt.Sprintf("%-9s %6.0f samples due, %5d taken, %.1f %%", name, due[name], taken[name], 100*float64(taken[name])/due[name]))
	}
	return c
}

// cpuOf is the user and system time of a process so far.
func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(text, []byte(") "))
	fields := strings.Fields(string(rest))
	var ticks int64
	for _, field := range fields[11:13] { // utime and stime, proc(5)
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	const hz = 100 // USER_HZ
	return time.Duration(ticks) * time.Second / hz
}
