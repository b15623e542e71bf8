//go:build verify

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"pilotlight/cmd/pilotlight/agent"
	"pilotlight/testdata/loads"
)

// unnamedGate is the share of frames that may be without a function's name, in percent.
const unnamedGate = 0.5

// namedFrames counts the frames of a program, with and without a name, and where the latter are.
type namedFrames struct {
	all, unnamed int64
	where        map[string]int64
}

// count counts the frames of a process in the profiles of some time. A truncated stack has one more without a name.
func (s *server) countFrames(t *testing.T, pid int, from, to time.Time) namedFrames {
	t.Helper()
	c := namedFrames{where: map[string]int64{}}
	for _, sample := range s.profileOf(t, pid, from, to).Sample {
		for _, l := range sample.Location {
			c.all += sample.Value[0]
			if len(l.Line) > 0 && l.Line[0].Function.SystemName != "" {
				continue
			}
			where := ""
			if l.Mapping != nil {
				where = l.Mapping.File
			}
			if len(l.Line) > 0 && (l.Mapping == nil || where == "//anon") {
				where = l.Line[0].Function.Name
			}
			c.unnamed += sample.Value[0]
			c.where[where] += sample.Value[0]
		}
	}
	return c
}

// unnamedByWindow says how many frames of a process had no name in each window: names that come late are another matter
// than those that do not come.
func (s *server) unnamedByWindow(t *testing.T, pid int, from, to time.Time) string {
	t.Helper()
	var b strings.Builder
	for at := from; at.Before(to); at = at.Add(agent.Window) {
		fmt.Fprintf(&b, "%d ", s.countFrames(t, pid, at, at.Add(agent.Window)).unnamed)
	}
	return b.String()
}

// TestVerifyNames says what share of frames has no name, of programs in several languages, their time in the kernel
// included. Names that come later are for later windows: it counts from 40 s after the start on.
func TestVerifyNames(t *testing.T) {
	needRoot(t)
	if err := loads.Build(t.Context(), "named"); err != nil {
		t.Fatal(err)
	}
	s, err := startServer(filepath.Join(makeDir(t), "data"), "127.0.0.1:0", 99, "--jvm-names")
	if err != nil {
		t.Fatal(err)
	}
	s.killAtEnd(t)
	const warm, counted = 40 * time.Second, 2 * time.Minute
	begun := time.Now()
	load, err := loads.Start(t.Context(), "named", warm+counted)
	if err != nil {
		t.Fatal(err)
	}
	pids := load.PIDs()
	java, node := pids[len(pids)-1], pids[len(pids)-2]
	t.Cleanup(func() {
		for _, pid := range []int{java, node} {
			os.Remove(fmt.Sprintf("/tmp/perf-%d.map", pid)) // may not have been made
		}
	})
	report, err := load.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.waitWindow(begun.Add(warm + counted)); err != nil {
		t.Fatal(err)
	}
	var sum namedFrames
	for _, part := range report.Parts {
		c := s.countFrames(t, part.PID, begun.Add(warm), begun.Add(warm+counted))
		t.Logf("%-10s %8d frames, without a name %6d = %5.2f %%", part.Name, c.all, c.unnamed, 100*float64(c.unnamed)/float64(c.all))
		for _, where := range byCount(c.where) {
			t.Logf("%20d %s", c.where[where], where)
		}
		if c.unnamed > 0 {
			t.Logf("%20s in windows from %v on: %s", "", warm, s.unnamedByWindow(t, part.PID, begun.Add(warm), begun.Add(warm+counted)))
		}
		sum.all += c.all
		sum.unnamed += c.unnamed
	}
	share := 100 * float64(sum.unnamed) / float64(sum.all)
	t.Logf("in all: %d frames, %.2f %% without a name, wanted: at most %.1f %%", sum.all, share, unnamedGate)
	if sum.all == 0 || share > unnamedGate {
		t.Errorf("%.2f %% of %d frames have no name", share, sum.all)
	}
	metrics, err := get(s.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range regexp.MustCompile(`(?m)^pilotlight_(frames|symbol_indexes)_total.*`).FindAllString(string(metrics), -1) {
		t.Log(line)
	}
}
