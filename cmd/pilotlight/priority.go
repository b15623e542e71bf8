package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// startNice is the nice value of start-up. It takes some 50 ms of CPU time once,
// and everything that runs meanwhile is not sampled: among busy programs of the
// same priority it would take three times as long.
const startNice = -20

// hurry raises the priority of this process and returns what lowers it again. A
// process that may not raise it starts as it is.
func hurry() (back func() error, err error) {
	// The kernel returns 20 less the nice value, so that no priority looks like an error.
	before, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		return nil, fmt.Errorf("read priority: %w", err)
	}
	err = setNice(startNice)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return func() error { return nil }, nil
	}
	return func() error { return setNice(20 - before) }, err
}

// setNice sets the nice value of all threads: it belongs to each, and those to
// come have it from the one that starts them.
func setNice(nice int) error {
	done := make(map[string]bool)
	for {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("set priority: %w", err)
		}
		missed := false // one that was started since the last look
		for _, task := range tasks {
			if done[task.Name()] {
				continue
			}
			done[task.Name()], missed = true, true
			tid, err := strconv.Atoi(task.Name())
			if err != nil {
				return fmt.Errorf("set priority of thread %q: %w", task.Name(), err)
			}
			if err := unix.Setpriority(unix.PRIO_PROCESS, tid, nice); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("set priority of thread %d: %w", tid, err)
			}
		}
		if !missed {
			return nil
		}
	}
}
