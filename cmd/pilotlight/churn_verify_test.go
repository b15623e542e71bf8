//go:build verify

package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pilotlight/testdata/loads"
)

var churnTime = flag.Duration("churn", 10*time.Minute, "how long TestVerifyChurn starts processes")

// held is what the agent half holds on to.
type held struct {
	rss, fds, bpfMemory, tables float64 // bytes but for fds
}

// TestVerifyChurn has a thousand processes a second come and go, and what the agent half holds stay as it is.
func TestVerifyChurn(t *testing.T) {
	needRoot(t)
	if err := loads.Build(t.Context(), "churn"); err != nil {
		t.Fatal(err)
	}
	s := start(t, filepath.Join(makeDir(t), "data"), "127.0.0.1:0", 99)
	load, err := loads.Start(t.Context(), "churn", *churnTime)
	if err != nil {
		t.Fatal(err)
	}
	// The first minute warms up caches that have bounds.
	const looks = 10
	var seen [looks]held
	time.Sleep(min(time.Minute, *churnTime/looks))
	for i := range seen {
		seen[i] = s.holds(t)
		t.Logf("RSS %.1f MB, %.0f descriptors, BPF memory %.2f MB, of it tables %.2f MB", seen[i].rss/1e6, seen[i].fds, seen[i].bpfMemory/1e6, seen[i].tables/1e6)
		time.Sleep((*churnTime - min(time.Minute, *churnTime/looks)) / looks)
	}
	report, err := load.Wait()
	if err != nil {
		t.Fatal(err)
	}
	var churn struct{ Iterations, Seconds float64 }
	if err := json.Unmarshal(report.Parts[0].Output, &churn); err != nil {
		t.Fatal(err)
	}
	t.Logf("%.0f processes, %.0f a second", churn.Iterations, churn.Iterations/churn.Seconds)

	// What grows with each process grows by far more than this: a hundred bytes a process are 60 MB in ten minutes.
	first, last := seen[0], seen[looks-1]
	for _, h := range seen[looks-3:] { // the collector may just not have run
		last.rss = min(last.rss, h.rss)
	}
	if last.rss > 1.15*first.rss+4e6 {
		t.Errorf("RSS went from %.1f to %.1f MB", first.rss/1e6, last.rss/1e6)
	}
	if last.fds > first.fds+32 {
		t.Errorf("descriptors went from %.0f to %.0f", first.fds, last.fds)
	}
	if last.bpfMemory > first.bpfMemory+8e6 {
		t.Errorf("BPF memory went from %.1f to %.1f MB", first.bpfMemory/1e6, last.bpfMemory/1e6)
	}
}

func (s *server) holds(t *testing.T) held {
	t.Helper()
	pid := s.cmd.Process.Pid
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	text, err := get(s.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	h := held{rss: float64(rssOf(t, pid)), fds: float64(len(fds))}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		into := map[string]*float64{"pilotlight_bpf_memory_bytes": &h.bpfMemory, "pilotlight_unwind_table_bytes": &h.tables}[name]
		if into == nil {
			continue
		}
		if *into, err = strconv.ParseFloat(value, 64); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	if h.bpfMemory == 0 {
		t.Fatalf("no BPF memory in %s", text)
	}
	return h
}
