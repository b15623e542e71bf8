//go:build verify

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"pilotlight/testdata/loads"
)

// restTime is for how long the cost of a machine at rest is measured.
const restTime = time.Minute

// TestVerifyIdleCost holds what `agent` and `run` cost on a machine that does nothing, and on one with 5,000 processes that
// do nothing. A wake-up is a voluntary context switch of any thread of either half, by /proc/PID/task/TID/status: each time
// one goes to sleep it was awake.
func TestVerifyIdleCost(t *testing.T) {
	const (
		wakeUpsGate = 2.0       // a second
		cpuGate     = 0.2       // percent of a core, with the sampler's program
		memoryGate  = 100 << 20 // bytes of both halves
		restGate    = 5.0       // percent of a core that the rest of the machine may take for it to be at rest
	)
	needRoot(t)
	if err := loads.Build(t.Context(), "sleepers"); err != nil {
		t.Fatal(err)
	}
	for _, beside := range []string{"", "sleepers"} {
		for _, command := range []string{"agent", "run"} {
			t.Run(strings.TrimSuffix(command+"/"+beside, "/"), func(t *testing.T) {
				if beside != "" {
					ctx, cancel := context.WithCancel(context.Background())
					load, err := loads.Start(ctx, beside, 3*time.Minute)
					if err != nil {
						cancel()
						t.Fatal(err)
					}
					t.Cleanup(func() {
						cancel()
						load.Wait() // it was killed
					})
					time.Sleep(5 * time.Second)
				}
				s := startQuietly(t, command)
				time.Sleep(2 * time.Minute) // the memory that starting took has been given back by then, and what runs here is known
				was := s.holdsNow(t)
				time.Sleep(restTime)
				is := s.holdsNow(t)
				wakeUps := float64(is.switches()-was.switches()) / is.at.Sub(was.at).Seconds()
				cpu := 100 * (is.cpu - was.cpu).Seconds() / is.at.Sub(was.at).Seconds()
				others := 100*(is.busy-was.busy)/is.at.Sub(was.at).Seconds() - cpu
				t.Logf("%s beside %q: %.2f wake-ups a second, %.3f %% of a core, RSS %.1f MB; all else took %.1f %% of a core", command, beside, wakeUps, cpu, mb(is.rss), others)
				if cpu > cpuGate || is.rss > memoryGate {
					t.Errorf("%.3f %% of a core and %.1f MB, want at most %.1f and %d", cpu, mb(is.rss), cpuGate, memoryGate>>20)
				}
				if wakeUps > wakeUpsGate {
					t.Errorf("%.2f wake-ups a second, want at most %.0f%s", wakeUps, wakeUpsGate, is.threadsSince(was))
				}
				if others > restGate {
					t.Errorf("the machine was not at rest: all else took %.1f %% of a core", others)
				}
			})
		}
	}
}

// startQuietly starts an agent with a server beside, or a run, at the frequency that they have by themselves.
func startQuietly(t *testing.T, command string, more ...string) *server {
	t.Helper()
	dir := makeDir(t)
	args := []string{command, "--data", filepath.Join(dir, "data"), "--listen", "127.0.0.1:0", "--off-file", filepath.Join(dir, "off")}
	said, half := servingURL, "store-half"
	if command == "agent" {
		store := startStore(t, filepath.Join(dir, "store"), "127.0.0.1:0")
		args = append(args, "--server", store.url)
		said, half = metricsURL, "send-half"
	}
	cmd, err := pilotlight(t.Context(), append(args, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	s, err := launch(cmd, said, half)
	if err != nil {
		t.Fatal(err)
	}
	s.data = filepath.Join(dir, "data")
	s.killAtEnd(t)
	return s
}

// holding is what both halves have taken up to a moment.
type holding struct {
	at      time.Time
	cpu     time.Duration // with the sampler's program, as the last window told
	rss     uint64
	threads map[string]uint64 // voluntary context switches, by half, number and name
	busy    float64           // CPU seconds of the whole machine
}

func (s *server) holdsNow(t *testing.T) *holding {
	t.Helper()
	program := s.metric(t, "pilotlight_bpf_run_seconds_total", "")
	h := &holding{at: time.Now(), threads: make(map[string]uint64), cpu: time.Duration(program * float64(time.Second))}
	for half, pid := range map[string]int{"agent half": s.cmd.Process.Pid, "other half": s.other} {
		h.cpu += cpuOf(t, pid)
		h.rss += rssOf(t, pid)
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, thread := range threads {
			tid := filepath.Base(filepath.Dir(thread))
			status, err := procStatus(pid, "task", tid)
			if errors.Is(err, fs.ErrNotExist) {
				continue // it has ended; Go's seldom do
			}
			if err != nil {
				t.Fatal(err)
			}
			n, err := strconv.ParseUint(status["voluntary_ctxt_switches"], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			h.threads[half+" "+tid] = n
		}
	}
	var err error
	if h.busy, err = busySeconds(); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *holding) switches() (sum uint64) {
	for _, n := range h.threads {
		sum += n
	}
	return sum
}

// threadsSince lists the threads that were awake, most often first.
func (h *holding) threadsSince(was *holding) string {
	var lines []string
	for name, n := range h.threads {
		if n > was.threads[name] {
			lines = append(lines, fmt.Sprintf("\n%6d %s", n-was.threads[name], name))
		}
	}
	sort.Sort(sort.Reverse(sort.StringSlice(lines)))
	return strings.Join(lines, "")
}

// busySeconds is for how long the CPUs of this machine have been busy, proc_stat(5).
func busySeconds() (float64, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	const idle, ioWait, guest = 4, 5, 9 // fields; guest time is in that of users
	ticks := 0.0
	for i, field := range strings.Fields(line) {
		if i == 0 || i == idle || i == ioWait || i >= guest {
			continue
		}
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return ticks / 100, nil
}
