package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSystemCallFilter has a child try what one may do that asks a server.
func TestSystemCallFilter(t *testing.T) {
	const child = "PILOTLIGHT_TEST_FILTER"
	if os.Getenv(child) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestSystemCallFilter$")
		cmd.Env = append(os.Environ(), child+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "tried") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if err := denySystemCalls(slices.Concat(childCalls, networkCalls)); err != nil {
		t.Fatal(err)
	}
	for domain, want := range map[int]error{unix.AF_INET: nil, unix.AF_INET6: nil, unix.AF_UNIX: unix.EPERM} {
		fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if !errors.Is(err, want) && !errors.Is(err, unix.EAFNOSUPPORT) {
			t.Errorf("socket of domain %d: %v, want %v", domain, err, want)
		}
		if err == nil {
			if err := unix.Close(fd); err != nil {
				t.Error(err)
			}
		}
	}
	if err := unix.Kill(unix.Getpid(), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("kill: %v", err)
	}
	fmt.Println("tried")
}
