package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestInspectStack looks at a program of Debian's that sleeps, compiled without frame pointers, and at one in Go.
func TestInspectStack(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("REQUIRE_ALL") != "1" {
		t.Skip("tracing a process that is not one's own child may need root")
	}
	sleep := exec.Command("sleep", "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := sleep.Process.Kill(); err != nil {
			t.Error(err)
		}
		sleep.Wait() // it was killed
	}()
	for _, tc := range []struct {
		name string
		pid  int
		want string
	}{
		{"sleep", sleep.Process.Pid, "__libc_start_main"},
		{"this test, in Go", os.Getpid(), "runtime.goexit"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd, err := pilotlight(t.Context(), "inspect", "stack", "--json", fmt.Sprint(tc.pid))
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			var got struct {
				PID     int
				Threads []threadStack
			}
			if err := json.Unmarshal(out, &got); err != nil {
				t.Fatal(err)
			}
			if got.PID != tc.pid || len(got.Threads) == 0 {
				t.Fatalf("printed %s", out)
			}
			found := false
			for _, thread := range got.Threads {
				if thread.Outcome != "complete" {
					t.Errorf("thread %d %s: %s, %d frames", thread.TID, thread.Comm, thread.Outcome, len(thread.Frames))
				}
				for _, f := range thread.Frames {
					found = found || slices.ContainsFunc(f.Functions, func(fn stackFunction) bool { return fn.Function == tc.want })
				}
			}
			if !found {
				t.Errorf("no frame in %s: %s", tc.want, out)
			}
			if n, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tc.pid)); err != nil || !strings.Contains(string(n), "TracerPid:\t0") {
				t.Errorf("still traced: %v", err)
			}
		})
	}
}
