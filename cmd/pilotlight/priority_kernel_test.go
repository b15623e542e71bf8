package main

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// The priority of start-up must not stay with any thread.
func TestKernelHurry(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("REQUIRE_ALL") == "1" {
			t.Fatal("raising a priority needs root")
		}
		t.Skip("raising a priority needs root")
	}
	// In a process of its own, whose threads no other test starts.
	if os.Getenv("PILOTLIGHT_TEST_HURRY") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run", "^TestKernelHurry$")
		cmd.Env = append(os.Environ(), "PILOTLIGHT_TEST_HURRY=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	before := niceOfThreads(t)
	back, err := hurry()
	if err != nil {
		t.Fatal(err)
	}
	started, end := make(chan bool), make(chan bool)
	for range 8 {
		go func() {
			runtime.LockOSThread() // a thread of its own
			started <- true
			<-end
		}()
		<-started
	}
	for tid, nice := range niceOfThreads(t) {
		if nice != startNice {
			t.Errorf("thread %d has nice %d at start-up", tid, nice)
		}
	}
	if err := back(); err != nil {
		t.Fatal(err)
	}
	for tid, nice := range niceOfThreads(t) {
		if nice != before[os.Getpid()] {
			t.Errorf("thread %d has nice %d in the end, %d in the beginning", tid, nice, before[os.Getpid()])
		}
	}
	close(end)
}

func niceOfThreads(t *testing.T) map[int]int {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	nice := make(map[int]int)
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		value, err := unix.Getpriority(unix.PRIO_PROCESS, tid)
		if err != nil {
			t.Fatal(err)
		}
		nice[tid] = 20 - value
	}
	return nice
}
