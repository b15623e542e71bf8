package main

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// The policy of start-up must not stay with any thread.
func TestKernelHurry(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("REQUIRE_ALL") == "1" {
			t.Fatal("real-time scheduling needs root")
		}
		t.Skip("real-time scheduling needs root")
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
	before := policies(t)
	slowDown, err := hurry()
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
	for tid, policy := range policies(t) {
		if policy != realTime.Policy {
			t.Errorf("thread %d has policy %d at start-up", tid, policy)
		}
	}
	if err := slowDown(); err != nil {
		t.Fatal(err)
	}
	for tid, policy := range policies(t) {
		if policy != before[os.Getpid()] {
			t.Errorf("thread %d has policy %d in the end, the first one had %d in the beginning", tid, policy, before[os.Getpid()])
		}
	}
	close(end)
}

// policies returns the scheduling policies of all threads.
func policies(t *testing.T) map[int]uint32 {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[int]uint32)
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		attr, err := unix.SchedGetAttr(tid, 0)
		if err != nil {
			t.Fatal(err)
		}
		found[tid] = attr.Policy
	}
	return found
}
