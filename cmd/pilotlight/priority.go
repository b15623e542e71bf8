package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

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

// schedule sets the scheduling policy of all threads.
func schedule(attr *unix.SchedAttr) error {
	err := onEachThread(func(tid int) error { return unix.SchedSetAttr(tid, attr, 0) })
	if err != nil {
		return fmt.Errorf("set scheduling policy: %w", err)
	}
	return nil
}

// timerSlack is how much later than asked for timers may go off. While anything runs, the thread with which Go watches
// over the others naps for 20 us at a time: of an agent at rest that was most of its wake-ups. With this it has one nap
// for all that there is to do at the end of a window.
const timerSlack = 20 * time.Millisecond

// relaxTimers has the kernel delay timers of this process, and of those that it starts, by up to timerSlack, proc(5). A
// process that may not do so, or has a /proc that is read-only, keeps what it was started with.
func relaxTimers() error {
	err := onEachThread(func(tid int) error {
		return os.WriteFile(fmt.Sprintf("/proc/%d/timerslack_ns", tid), strconv.AppendInt(nil, timerSlack.Nanoseconds(), 10), 0)
	})
	if err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("relax timers: %w", err)
	}
	return nil
}

// onEachThread calls f for all threads: what it sets belongs to each, and those to come have it from the one that starts
// them.
func onEachThread(f func(tid int) error) error {
	done := make(map[string]bool)
	for {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		missed := false // one that was started since the last look
		for _, task := range tasks {
			if done[task.Name()] {
				continue
			}
			done[task.Name()], missed = true, true
			tid, err := strconv.Atoi(task.Name())
			if err != nil {
				return fmt.Errorf("thread %q: %w", task.Name(), err)
			}
			if err := f(tid); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("thread %d: %w", tid, err)
			}
		}
		if !missed {
			return nil
		}
	}
}
