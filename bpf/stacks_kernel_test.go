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
	if os.Geteuid() != 0 && os.Getenv("REQUIRE_ALL") == "" {
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
			time.Sleep(500 * time.Millisecond)
			samples, _ := finish(t, s)
			samples = slices.DeleteFunc(samples, func(s Sample) bool { return s.PID != uint32(running.PID) || s.Time < from })
			holdTo(t, samples, running.Depth, mayEnd[program])
		})
	}
}

// mayEnd has the outcomes other than Complete that are right for some programs.
var mayEnd = map[string][]Outcome{
	"deep-musl": {NoTable},            // the code that calls its main has no unwind information
	"deep-32":   {NoTable},            // and of this one no frame pointer
	"plt":       {NoMapping, NoTable}, // it loads a library anew again and again, which nobody tells the sampler here
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
		if len(s.User) < depth {
			shallow++
		}
		if len(s.User) > 0 {
			withUser++
		}
	}
	t.Logf("%d samples by outcome: %v", len(samples), outcomes)
	if len(samples) < 10 || withUser < len(samples) {
		t.Errorf("%d samples of a program that runs all the time, %d with a user stack: want all of about 99", len(samples), withUser)
	}
	if withTables && (whole < len(samples) || shallow > 0) {
		t.Errorf("%d of %d stacks are complete or end where they may, %d have fewer than %d frames: want all and none", whole, len(samples), shallow, depth)
	}
}
