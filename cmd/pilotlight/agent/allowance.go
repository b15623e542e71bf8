package agent

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// unlimited is CPU time without end.
const unlimited = time.Duration(math.MaxInt64)

// leastGrant is below what there is no use in beginning: it takes that much to start and to stop.
const leastGrant = 20 * time.Millisecond

// allowance is CPU time for work that can wait, as the governor has it to spare: reading of debug information, of large
// symbol tables and of large unwind tables. What is not spent when there is another grant is gone. A nil allowance has no
// end. It may be used by several goroutines.
type allowance struct {
	mu      sync.Mutex // guards what follows
	left    time.Duration
	reserve time.Duration // besides, for what samples wait for
	used    time.Duration // since the beginning
	more    chan struct{} // closed when there is another grant
}

// newAllowance returns one of which nothing may be spent yet.
func newAllowance() *allowance { return &allowance{more: make(chan struct{})} }

// grant says how much may be spent from now on, and how much more on what samples wait for: unwind tables, and names.
func (a *allowance) grant(d, reserve time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.left, a.reserve = d, reserve
	close(a.more)
	a.more = make(chan struct{})
}

// spend takes what was spent off what is left, also where that was less.
func (a *allowance) spend(d time.Duration) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.used += d
	if a.left != unlimited {
		a.left -= d
	}
}

// spending spends the CPU time that the calling goroutine takes from now on, until it calls end. Time on the clock would be
// more: of a busy machine, and of a disk.
func (a *allowance) spending() (end func()) {
	runtime.LockOSThread()
	begun := threadCPU()
	return func() {
		a.spend(threadCPU() - begun)
		runtime.UnlockOSThread()
	}
}

// threadCPU returns the CPU time that this thread used.
func threadCPU() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(fmt.Sprintf("read CLOCK_THREAD_CPUTIME_ID: %v", err)) // documented never to fail on Linux
	}
	return time.Duration(ts.Nano())
}

// spent is all that has been.
func (a *allowance) spent() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.used
}

// enough reports whether something may be begun.
func (a *allowance) enough() bool {
	if a == nil {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.left >= leastGrant
}

// affords reports whether about d may be spent on what samples wait for. Where something is left for all work that can wait
// it may take more than that: half of a minute's is behind it.
func (a *allowance) affords(d time.Duration) bool {
	if a == nil {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.left >= leastGrant || a.left+a.reserve >= leastGrant+d
}

// wait waits until something may be spent, and returns how much. Its error is that of ctx.
func (a *allowance) wait(ctx context.Context) (time.Duration, error) {
	if a == nil {
		return unlimited, ctx.Err()
	}
	for {
		a.mu.Lock()
		left, more := a.left, a.more
		a.mu.Unlock()
		if err := ctx.Err(); err != nil || left >= leastGrant {
			return left, err
		}
		select {
		case <-more:
		case <-ctx.Done():
		}
	}
}
