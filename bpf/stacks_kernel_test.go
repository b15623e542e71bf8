package bpf

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	"pilotlight/testdata/stacks"
)

// TestKernelStacks holds stacks to what the programs say of themselves. It needs no debugger, so it runs on any kernel.
func TestKernelStacks(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("REQUIRE_ALL") != "1" {
		t.Skip("loading BPF programs needs root")
	}
	programs := []string{"deep-frames"}
	if withTables {
		programs = []string{"deep", "deep-frames", "deep-static-pie", "deep-no-pie", "deep-musl", "deep-32", "recursion-100", "recursion-500",
			"altstack", "plt", "callbacks", "crypto", "vdso", "aligned", "threads", "exceptions"}
	}
	if err := stacks.Build(context.Background(), programs...); err != nil {
		t.Fatal(err)
	}
	for _, program := range programs {
		t.Run(program, func(t *testing.T) {
			running, err := stacks.Start(program)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := running.Stop(); err != nil {
					t.Error(err)
				}
			}()
			s := open(t, Options{Frequency: 199})
			publish(t, s, running.PID)
			from, err := monotonic()
			if err != nil {
				t.Fatal(err)
			}
			samples := samplesOf(t, s, running.PID, from, 100)
			holdTo(t, samples, running.Depth, mayEnd[program])
		})
	}
}

// samplesOf returns n samples of a process from a time on, CLOCK_MONOTONIC in ns.
func samplesOf(t *testing.T, s *Sampler, pid int, from uint64, n int) []Sample {
	t.Helper()
	var samples []Sample
	deadline := time.Now().Add(20 * time.Second)
	for b := new(Batch); len(samples) < n; {
		if err := readSoon(s, b); err != nil {
			t.Fatal(err)
		}
		for _, sample := range b.Samples {
			// A thread at its end has no user stack any more.
			if sample.PID == uint32(pid) && sample.Time >= from && sample.Outcome != KernelOnly {
				sample.User = slices.Clone(sample.User)
				samples = append(samples, sample)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d samples within 20 s of a program that runs all the time, want %d", len(samples), n)
		}
	}
	return samples
}

// mayEnd has the outcomes other than Complete that are right for some programs.
var mayEnd = map[string][]Outcome{
	"deep-musl":  {NoMapping, NoTable}, // the code that calls its main has no unwind information
	"deep-32":    {NoTable},            // and of this one no frame pointer
	"plt":        {NoMapping, NoTable}, // it loads a library anew again and again, which nobody tells the sampler here
	"exceptions": {BadRule},            // libgcc's step from a throw to its catch: gdb gives up there too
}

// holdTo wants all samples to be whole and as deep as the program says that it is, if the sampler has tables.
func holdTo(t *testing.T, samples []Sample, depth int, mayEnd []Outcome) {
	t.Helper()
	outcomes := map[Outcome]int{}
	whole, shallow, withUser := 0, 0, 0
	for _, s := range samples {
		outcomes[s.Outcome]++
		if s.Outcome == Complete || slices.Contains(mayEnd, s.Outcome) {
			whole++
		}
		if s.Outcome == Complete && len(s.User) < depth {
			shallow++
		}
		if len(s.User) > 0 {
			withUser++
		}
	}
	t.Logf("%d samples by outcome: %v", len(samples), outcomes)
	if withUser < len(samples) {
		t.Errorf("%d of %d samples have a user stack, want all", withUser, len(samples))
	}
	// The first samples are of the way to the work, and some places cannot be unwound.
	const gate = 97 // percent
	if withTables && (whole*100 < len(samples)*gate || shallow > 0) {
		t.Errorf("%d of %d stacks are complete or end where they may, %d have fewer than %d frames: want %d %% and none", whole, len(samples), shallow, depth, gate)
	}
}
