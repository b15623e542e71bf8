//go:build verify

package bpf

import (
	"testing"
	"time"
)

// TestVerifyGDB compares 5,000 stacks with gdb's: of each program as many, at moments spread over its work.
func TestVerifyGDB(t *testing.T) {
	const (
		samples = 5000
		gate    = 0.999
		// Of stacks that are not compared there must be few, or the threads do not stop where they are sampled.
		ranOnGate = 0.005
	)
	programs := []struct {
		name  string
		pause time.Duration // up to which it runs between two samples
	}{
		{"deep", 5 * time.Millisecond},
		{"deep-frames", 5 * time.Millisecond},
		{"deep-static-pie", 5 * time.Millisecond},
		{"deep-no-pie", 5 * time.Millisecond},
		{"deep-musl", 5 * time.Millisecond},
		{"deep-32", 5 * time.Millisecond},
		{"recursion-100", 2 * time.Millisecond},
		{"recursion-500", 2 * time.Millisecond},
		{"altstack", 5 * time.Millisecond},
		{"plt", 5 * time.Millisecond},
		{"callbacks", 5 * time.Millisecond},
		{"crypto", 10 * time.Millisecond},
		{"vdso", 5 * time.Millisecond},
		{"aligned", 5 * time.Millisecond},
		{"threads", 5 * time.Millisecond},
		{"exceptions", 5 * time.Millisecond},
		{"rust", 10 * time.Millisecond},
		{"python", 20 * time.Millisecond},
		{"native", 20 * time.Millisecond},
		{"clang", 200 * time.Millisecond},
	}
	compared, notCompared := 0, 0
	each := (samples + len(programs) - 1) / len(programs)
	taken, equal, right := 0, 0, 0
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			start := time.Now()
			c := identity(t, p.name, each, p.pause)
			t.Logf("%v; %.0f s", c, time.Since(start).Seconds())
			for _, stack := range c.show {
				t.Logf("%s: %s", p.name, stack)
			}
			compared, notCompared = compared+c.compared, notCompared+c.allowed[ranOn]
			taken, equal, right = taken+c.samples, equal+c.equal, right+c.right()
		})
	}
	t.Logf("all: %d samples, %d pcs compared, %d equal (%.2f %%), %d with what is allowed (%.2f %%)", taken, compared,
		equal, 100*float64(equal)/float64(taken), right, 100*float64(right)/float64(taken))
	if float64(notCompared) > ranOnGate*float64(taken) {
		t.Errorf("%d of %d threads ran on before they stopped, want at most %.1f %%", notCompared, taken, 100*ranOnGate)
	}
	if taken < samples || float64(right) < gate*float64(taken) {
		t.Errorf("%d of %d stacks are gdb's, want %.1f %% of %d", right, taken, 100*gate, samples)
	}
}
