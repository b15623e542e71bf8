package agent

import (
	"testing"
	"time"
)

// TestSpending has work take CPU time, and then wait.
func TestSpending(t *testing.T) {
	a := newAllowance()
	begun := time.Now()
	end := a.spending()
	for used := threadCPU(); threadCPU() == used; {
	}
	working := time.Since(begun)
	const pause = 100 * time.Millisecond
	time.Sleep(pause)
	end()
	if spent := a.spent(); spent <= 0 || spent > working+pause/2 {
		t.Errorf("spent %v, of %v of work and %v of waiting", spent, working, pause)
	}
}
