//go:build verify

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"pilotlight/testdata/loads"
)

var soakTime = flag.Duration("soak", 2*time.Hour, "how long TestVerifySoak runs")

// size is what a process holds on to, by what it is.
type size struct {
	goroutines, threads, fds float64
	rss, heap, bpf           float64 // bytes: in memory, the server's heap after a collection, of the sampler's BPF maps
	entries                  float64 // of the BPF maps that grow with processes and with their files
}

// TestVerifySoak runs agent and server, built with the race detector, while a thousand processes a second come and go, the
// server is asked and the configuration read again: no race is found, and what each process holds on to stays as it is.
func TestVerifySoak(t *testing.T) {
	needRoot(t)
	if err := loads.Build(t.Context(), "churn"); err != nil {
		t.Fatal(err)
	}
	binary := raceBinary(t)
	command := func(args []string) *exec.Cmd {
		cmd, err := pilotlight(context.Background(), args...)
		if err != nil {
			t.Fatal(err)
		}
		cmd.Path = binary
		return cmd
	}
	dir := makeDir(t)
	config := filepath.Join(dir, "pilotlight.yaml")
	if err := os.WriteFile(config, []byte("relabel_configs: [{target_label: team, replacement: soak}]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// Data are kept for a part of the time, so that what is deleted is part of what is looked at, and the store has so little
	// memory that it is full, and dictionaries begin anew, before the first look that counts: at its default that takes an hour.
	s, err := launch(command(storeArgs(filepath.Join(dir, "store"), "127.0.0.1:0", "--retention", fmt.Sprintf("%dm", max(1, int(soakTime.Minutes()/8))), "--store-memory", "48MiB")), servingURL, "")
	if err != nil {
		t.Fatal(err)
	}
	s.killAtEnd(t)
	// With the race detector it takes ten times as much as it may: it would rest.
	a, err := launch(command(agentArgs(filepath.Join(dir, "agent"), s.url, "--config", config, "--cpu-limit", "100%", "--memory-limit", "4GiB")), metricsURL, "send-half")
	if err != nil {
		t.Fatal(err)
	}
	a.killAtEnd(t)
	load, err := loads.Start(t.Context(), "churn", *soakTime)
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() {
		for _, p := range []*server{a, s} {
			if text := p.log.String(); t.Failed() {
				t.Logf("%s said last:\n%s", p.cmd.Args[1], text[max(0, len(text)-8<<10):])
			}
		}
	})

	const looks = 24
	halves := []string{"agent half", "send half", "server"}
	seen := make(map[string][]size)
	for range looks {
		for end := time.Now().Add(*soakTime / looks); time.Now().Before(end); time.Sleep(10 * time.Second) {
			for _, path := range []string{"flamegraph?from=now-5m&query={}", "top?from=now-5m&query={}", "pprof?from=now-5m&query={}"} {
				if _, err := get(s.url + "/api/v1/" + path); err != nil {
					t.Error(err)
				}
			}
			a.signal(unix.SIGHUP)
		}
		if _, err := get(s.url + "/debug/pprof/heap?gc=1"); err != nil {
			t.Error(err)
		}
		now := []size{
			{goroutines: a.metric(t, "pilotlight_agent_goroutines", ""), bpf: a.metric(t, "pilotlight_bpf_memory_bytes", ""), entries: mapEntries(t, a.cmd.Process.Pid)},
			{goroutines: a.metric(t, "go_goroutines", "")},
			{goroutines: s.metric(t, "go_goroutines", ""), heap: s.metric(t, "go_memstats_heap_alloc_bytes", "")},
		}
		for i, pid := range []int{a.cmd.Process.Pid, a.other, s.cmd.Process.Pid} {
			now[i].measure(t, pid)
			t.Logf("%s: %+v", halves[i], now[i])
			seen[halves[i]] = append(seen[halves[i]], now[i])
		}
	}
	if _, err := load.Wait(); err != nil {
		t.Error(err)
	}
	for half, sizes := range seen {
		wantFlat(t, half, sizes)
	}
	if raised := a.metric(t, "pilotlight_agent_governor_raised_total", `short="cpu"`) + a.metric(t, "pilotlight_agent_governor_raised_total", `short="memory"`); raised > 0 {
		t.Errorf("the agent did less than all: it was short of CPU time or memory %v times", raised)
	}
	if err := a.stop(); err != nil {
		t.Errorf("the agent ended with %v", err)
	}
	if err := s.stop(); err != nil {
		t.Errorf("the server ended with %v", err)
	}
	for _, p := range []*server{a, s} {
		if text := p.log.String(); strings.Contains(text, "DATA RACE") || strings.Contains(text, "panic") {
			t.Errorf("in the log of %s:\n%s", p.cmd.Args[1], text[max(0, strings.Index(text, "DATA RACE")-200):])
		}
	}
}

// raceBinary builds the binary with the race detector, for which alone cgo is needed.
func raceBinary(t *testing.T) string {
	t.Helper()
	path := filepath.Join(makeDir(t), "pilotlight")
	build := exec.CommandContext(t.Context(), "go", "build", "-race", "-buildvcs=false", "-ldflags", "-X main.version=race", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build with the race detector: %v\n%s", err, out)
	}
	return path
}

// measure adds what /proc says of a process.
func (s *size) measure(t *testing.T, pid int) {
	t.Helper()
	for into, dir := range map[*float64]string{&s.threads: "task", &s.fds: "fd"} {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/%s", pid, dir))
		if err != nil {
			t.Fatal(err)
		}
		*into = float64(len(entries))
	}
	s.rss = float64(rssOf(t, pid))
}

// mapEntries counts what is in the BPF maps that a process has open, but for those that are always full.
func mapEntries(t *testing.T, pid int) float64 {
	t.Helper()
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	maps, n := 0, 0
	for _, path := range infos {
		text, err := os.ReadFile(path)
		_, after, is := strings.Cut(string(text), "\nmap_id:\t")
		if err != nil || !is { // another descriptor, or one that was closed meanwhile
			continue
		}
		var id uint32
		if _, err := fmt.Sscan(after, &id); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		m, err := ebpf.NewMapFromID(ebpf.MapID(id))
		if err != nil {
			continue
		}
		if m.Type() == ebpf.Hash || m.Type() == ebpf.ArrayOfMaps {
			maps++
			var key, value []byte
			entries := m.Iterate()
			for entries.Next(&key, &value) {
				n++
			}
			if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) { // it changed too much meanwhile, after as many steps as it has room for
				t.Errorf("count the entries of %v: %v", m, err)
			}
		}
		m.Close()
	}
	if maps == 0 {
		t.Errorf("process %d has no BPF map of processes open", pid)
	}
	return float64(n)
}

// wantFlat compares the last quarter of what was seen with the second one: what grows with each process, window or request
// grows by far more than is allowed here. It compares medians, but of RSS the lowest: with the race detector it follows the
// most that was on the heap at once, not what stays there.
func wantFlat(t *testing.T, half string, seen []size) {
	t.Helper()
	for _, part := range []struct {
		name         string
		of           func(size) float64
		by           func([]float64) float64
		factor, plus float64
	}{
		{"goroutines", func(s size) float64 { return s.goroutines }, median, 1, 10},
		{"threads", func(s size) float64 { return s.threads }, median, 1, 5},
		{"descriptors", func(s size) float64 { return s.fds }, median, 1, 16},
		{"RSS", func(s size) float64 { return s.rss }, slices.Min[[]float64], 1.15, 8e6},
		{"heap", func(s size) float64 { return s.heap }, median, 1.15, 8e6},
		{"BPF memory", func(s size) float64 { return s.bpf }, median, 1.1, 1e6},
		{"BPF map entries", func(s size) float64 { return s.entries }, median, 1.1, 200},
	} {
		var values []float64
		for _, s := range seen {
			values = append(values, part.of(s))
		}
		quarter := len(values) / 4
		before, after := part.by(values[quarter:2*quarter]), part.by(values[3*quarter:])
		t.Logf("%s: %s %.0f, later %.0f", half, part.name, before, after)
		if before < 0 || after > part.factor*before+part.plus {
			t.Errorf("%s: %s went from %.0f to %.0f", half, part.name, before, after)
		}
	}
}

func median(values []float64) float64 { return slices.Sorted(slices.Values(values))[len(values)/2] }
