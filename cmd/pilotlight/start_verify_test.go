//go:build verify

package main

import (
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pilotlight/cmd/pilotlight/agent"
)

// TestVerifyStart starts the agent on a machine that is busy with large programs, of none of which it has the tables, so
// many seconds before a window ends. By then it is to have them all: the next window is whole.
func TestVerifyStart(t *testing.T) {
	const (
		attachWanted = 300 * time.Millisecond
		gate         = 99.9 // percent
	)
	needRoot(t)
	pids := map[string]int{}
	for _, name := range []string{"deep", "libraries", "go", "rust", "python"} {
		pid, stop := target{name: name, windows: 12}.start(t)
		defer stop()
		pids[name] = pid
	}
	for _, early := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second} {
		t.Run(early.String(), func(t *testing.T) {
			dir := makeDir(t)
			end := time.Now().Add(early + time.Second).Truncate(agent.Window).Add(agent.Window)
			time.Sleep(time.Until(end.Add(-early)))
			s, err := startServer(filepath.Join(dir, "data"), "127.0.0.1:0", 99, "--cache", filepath.Join(dir, "cache"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				s.signal(unix.SIGKILL)
				<-s.ended
			}()
			s.reportAt(t, end.Add(agent.Window))
			attached := attachTime(t, s)
			t.Logf("attached %v after the start, wanted: at most %v", attached, attachWanted)
			for name, pid := range pids {
				before, after := newObservation(), newObservation()
				before.add(s.profileOf(t, pid, end.Add(-agent.Window), end))
				after.add(s.profileOf(t, pid, end, end.Add(agent.Window)))
				t.Logf("%-9s until %v after the start %.2f %% of %d complete, the others %v; then %.2f %% of %d, %v",
					name, early, before.share(), before.samples, before.ended, after.share(), after.samples, after.where)
				if early == 3*time.Second && (after.samples == 0 || after.share() < gate) {
					t.Errorf("%s: %.2f %% of %d stacks are complete %v after the start, want %.1f %%", name, after.share(), after.samples, early, gate)
				}
			}
		})
	}
}

var attachedAfter = regexp.MustCompile(`attached_after=(\S+)`)

// attachTime is how long it took a run to begin sampling.
func attachTime(t *testing.T, s *server) time.Duration {
	t.Helper()
	found := attachedAfter.FindStringSubmatch(s.log.String())
	if found == nil {
		t.Fatalf("the log does not say when sampling began:\n%s", s.log)
	}
	d, err := time.ParseDuration(found[1])
	if err != nil {
		t.Fatal(err)
	}
	return d
}
