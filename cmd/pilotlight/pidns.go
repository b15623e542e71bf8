package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// initialPIDNamespace is PROC_PID_INIT_INO of include/linux/proc_ns.h.
const initialPIDNamespace = 0xEFFFFFFC

// checkInitialPIDNamespace refuses a container's pid namespace, in which perf
// and BPF would not count processes alike.
func checkInitialPIDNamespace() error {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &st); err != nil {
		return fmt.Errorf("find own pid namespace: %w", &os.PathError{Op: "stat", Path: "/proc/self/ns/pid", Err: err})
	}
	if st.Ino != initialPIDNamespace {
		return fmt.Errorf("this is a pid namespace of its own, in which processes cannot be told apart: run on the host, or the container with --pid=host")
	}
	return nil
}
