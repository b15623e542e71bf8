//go:build verify

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"pilotlight/cmd/pilotlight/agent"
	"pilotlight/testdata/loads"
)

// TestVerifyGovernor gives an agent 0.5 % of the machine's CPU time and has a fork storm and a program with 600 MB of debug
// information run for minutes: no minute takes more, all children and the sampler's program included; the agent says what
// it does not do, in its metrics, to its server and in the period of profiles; and when the storm is over it sheds no more than
// before, which is nothing where the machine does little else.
func TestVerifyGovernor(t *testing.T) {
	const (
		limit  = 0.005 // of all CPUs
		before = 2 * time.Minute
		storm  = 4 * time.Minute
		after  = 4 * time.Minute
	)
	needRoot(t)
	root := unpackCeph(t)
	if err := loads.Build(t.Context(), "forkstorm"); err != nil {
		t.Fatal(err)
	}
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		t.Fatal(err)
	}
	defer stats.Close()
	dir := makeDir(t)
	store := startStore(t, filepath.Join(dir, "store"), "127.0.0.1:0")
	a := startAgent(t, filepath.Join(dir, "agent"), store.url, "--frequency", "19", "--cpu-limit", fmt.Sprintf("%g%%", 100*limit), "--cache", filepath.Join(dir, "cache"))
	w := &spendingWatch{server: a}
	budget := limit * float64(runtime.NumCPU()) * time.Minute.Seconds()
	w.begin(t)
	w.watch(t, before, "before the storm")
	usual := w.levels[len(w.levels)-1]

	load, err := loads.Start(t.Context(), "forkstorm", storm)
	if err != nil {
		t.Fatal(err)
	}
	startSpinning(t, root, "/usr/bin/ceph-osd")
	from := len(w.levels)
	w.watch(t, storm, "storm")
	if _, err := load.Wait(); err != nil {
		t.Fatal(err)
	}
	if during := w.levels[from:]; slices.Max(during) <= usual {
		t.Errorf("in a storm no more is shed than before: levels %v, before it %d", during, usual)
	}
	a.wantSaid(t, store)
	w.watch(t, after, "after the storm")
	if least := slices.Min(w.levels[len(w.levels)-4:]); least > usual {
		t.Errorf("%v after the storm the level is %v, before it was %d", after, least, usual)
	}
	if !strings.Contains(a.log.String(), "less work is shed") {
		t.Errorf("the log does not say that less is shed again\n%s", a.log)
	}
	most, at := w.mostInAMinute()
	t.Logf("most in any minute: %.3f s of CPU, %.2f %% of the machine, limit %.1f %%; the minute that ended after %v", most, 100*most/60/float64(runtime.NumCPU()), 100*limit, at)
	if most > budget {
		t.Errorf("%.3f s of CPU in a minute, want at most %.3f", most, budget)
	}
}

// wantSaid wants that an agent that sheds work has said so everywhere.
func (s *server) wantSaid(t *testing.T, store *server) {
	t.Helper()
	if !strings.Contains(s.log.String(), "work is shed to keep to the limits") {
		t.Errorf("the log does not say that work is shed\n%s", s.log)
	}
	report, err := store.lastReport()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("report: level %d, sheds %v, %d Hz, limit %.2f s a minute", report.Level, report.Sheds, report.FrequencyHz, report.CPULimit)
	if report.Level == 0 || len(report.Sheds) == 0 || report.CPULimit == 0 {
		t.Errorf("the agent reports level %d, sheds %v, with a limit of %v s a minute", report.Level, report.Sheds, report.CPULimit)
	}
	for _, work := range report.Sheds {
		// What is shed may change between a report and the metrics that come with it.
		if work == "finishing" && s.metric(t, "pilotlight_agent_sheds", fmt.Sprintf("work=%q", work)) != 1 {
			t.Errorf("the metrics do not say that %s is shed", work)
		}
	}
	if raised := s.metric(t, "pilotlight_agent_governor_raised_total", `short="cpu"`); raised < 1 {
		t.Errorf("the metrics count %v steps for want of CPU time", raised)
	}
	// A profile has the frequency with which its window began.
	begun := time.UnixMilli(report.WindowMS)
	p := store.profileOf(t, 0, begun, begun.Add(agent.Window))
	if want := int64(time.Second) / int64(report.FrequencyHz); p.Period != want {
		t.Errorf("the profiles of a window at %d Hz have a period of %d ns, want %d", report.FrequencyHz, p.Period, want)
	}
}

// spendingWatch looks once a second at what an agent has taken.
type spendingWatch struct {
	*server
	begun  time.Time
	totals []float64 // CPU seconds
	times  []time.Duration
	levels []int
}

func (w *spendingWatch) begin(t *testing.T) {
	w.begun = time.Now()
	w.look(t)
}

func (w *spendingWatch) look(t *testing.T) {
	t.Helper()
	total, err := cpuWithChildren(w.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	total += bpfTime(w.cmd.Process.Pid)
	if n := len(w.totals); n > 0 {
		total = max(total, w.totals[n-1])
	}
	w.totals = append(w.totals, total)
	w.times = append(w.times, time.Since(w.begun))
}

// watch looks for d, and says what each half minute took.
func (w *spendingWatch) watch(t *testing.T, d time.Duration, what string) {
	t.Helper()
	last := len(w.totals) - 1
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(time.Second)
		w.look(t)
		if w.times[len(w.times)-1]-w.times[last] < 30*time.Second {
			continue
		}
		level := int(w.metric(t, "pilotlight_agent_governor_level", ""))
		w.levels = append(w.levels, level)
		took := w.totals[len(w.totals)-1] - w.totals[last]
		t.Logf("%v, %s: %.3f s of CPU in half a minute, level %d", w.times[len(w.times)-1].Round(time.Second), what, took, level)
		last = len(w.totals) - 1
	}
}

// mostInAMinute is the most CPU time that any minute took, in seconds, and when that ended.
func (w *spendingWatch) mostInAMinute() (most float64, end time.Duration) {
	first := 0
	for i := range w.totals {
		for w.times[i]-w.times[first] > time.Minute {
			first++
		}
		if took := w.totals[i] - w.totals[first]; took > most {
			most, end = took, w.times[i]
		}
	}
	return most, end.Round(time.Second)
}

// cpuWithChildren is the CPU time in seconds of a process, of the children that it waited for, and of those that there are.
func cpuWithChildren(pid int) (float64, error) {
	own, err := cpuTime(pid)
	if err != nil {
		return 0, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	const cutime, cstime, firstField = 16, 17, 3 // proc_pid_stat(5)
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	sum := own.Seconds()
	for _, n := range []int{cutime, cstime} {
		ticks, err := strconv.ParseFloat(fields[n-firstField], 64)
		if err != nil {
			return 0, err
		}
		sum += ticks / 100
	}
	for _, child := range childrenOf(pid) {
		if cpu, err := cpuWithChildren(child); err == nil { // else it has just ended
			sum += cpu
		}
	}
	return sum, nil
}

// bpfTime is for how long the BPF programs have run of which a process has descriptors, in seconds, as the kernel tells:
// bpf_prog_show_fdinfo in kernel/bpf/syscall.c.
func bpfTime(pid int) (sum float64) {
	seen := make(map[string]bool)
	descriptors, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	for _, path := range descriptors {
		text, _ := os.ReadFile(path) // one may have been closed
		info := make(map[string]string)
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			info[name] = strings.TrimSpace(value)
		}
		ns, err := strconv.ParseFloat(info["run_time_ns"], 64)
		if err == nil && !seen[info["prog_id"]] {
			seen[info["prog_id"]] = true
			sum += ns / 1e9
		}
	}
	return sum
}
