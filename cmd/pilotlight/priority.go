package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// realTime is how start-up is scheduled. It takes some 50 ms of CPU time once,
// and everything that runs meanwhile is not sampled: on a busy machine it would
// take five times as long. A nice value would not do: it counts within a
// session or a control group only.
var realTime = unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1}

// hurry has this process run before all ordinary ones and returns what ends
// that. A process that may not do so starts as it is.
func hurry() (slowDown func() error, err error) {
	before, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return nil, fmt.Errorf("read scheduling policy: %w", err)
	}
	err = schedule(&realTime)
	if errors.Is(err, unix.EPERM) {
		return func() error { return nil }, nil
	}
	return func() error { return schedule(before) }, err
}

// schedule sets the scheduling policy of all threads: it belongs to each, and
// those to come have it from the one that starts them.
func schedule(attr *unix.SchedAttr) error {
	done := make(map[string]bool)
	for {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("set scheduling policy: %w", err)
		}
		missed := false // one that was started since the last look
		for _, task := range tasks {
			if done[task.Name()] {
				continue
			}
			done[task.Name()], missed = true, true
			tid, err := strconv.Atoi(task.Name())
			if err != nil {
				return fmt.Errorf("set scheduling policy of thread %q: %w", task.Name(), err)
			}
			if err := unix.SchedSetAttr(tid, attr, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("set scheduling policy of thread %d: %w", tid, err)
			}
		}
		if !missed {
			return nil
		}
	}
}
