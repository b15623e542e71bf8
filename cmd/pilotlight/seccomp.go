package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// childLimits are what a child may take that reads what others made.
type childLimits struct {
	cpu        time.Duration
	data, file uint64 // bytes of memory that it writes to, and of each file
}

// confine gives up what a child does not need: resources, time that others want, and system calls other than allowed.
func (l childLimits) confine(allowed []uint32) error {
	debug.SetTraceback("none") // whose addresses help nobody
	for _, limit := range []struct {
		what int
		max  uint64
	}{
		{unix.RLIMIT_CPU, uint64((l.cpu + time.Second - 1) / time.Second)}, {unix.RLIMIT_DATA, l.data}, {unix.RLIMIT_FSIZE, l.file}, {unix.RLIMIT_CORE, 0},
	} {
		if err := unix.Setrlimit(limit.what, &unix.Rlimit{Cur: limit.max, Max: limit.max}); err != nil {
			return fmt.Errorf("limit resource %d: %w", limit.what, err)
		}
	}
	// A nice value counts within a session's or a control group's share only.
	idle := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_BATCH, Nice: 19}
	if err := schedule(&idle); err != nil {
		return err
	}
	return denySystemCalls(allowed)
}

// childCalls are the system calls that a child has left: to read and write what it was given, and what the Go
// runtime needs. What it has not it is refused with EPERM.
var childCalls = []uint32{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_FSTAT, unix.SYS_LSEEK, unix.SYS_CLOSE, unix.SYS_FCNTL,
	unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MPROTECT, unix.SYS_MINCORE, unix.SYS_BRK,
	unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY, unix.SYS_SCHED_YIELD,
	unix.SYS_SCHED_GETAFFINITY, unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK,
	unix.SYS_RESTART_SYSCALL, unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_TGKILL, unix.SYS_CLONE, unix.SYS_CLONE3, unix.SYS_SET_ROBUST_LIST,
	unix.SYS_RSEQ, unix.SYS_PRCTL, unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_GETRANDOM, unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL,
	unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2, unix.SYS_GETRUSAGE, unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE,
}

// networkCalls are those that a child needs besides which asks a server: sockets, though not to programs of this machine
// (its groups may be those of a container runtime's), and files that say where the server is and whom to trust.
var networkCalls = []uint32{
	unix.SYS_SOCKET, unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_SETSOCKOPT, unix.SYS_GETSOCKOPT,
	unix.SYS_SENDTO, unix.SYS_RECVFROM, unix.SYS_SENDMSG, unix.SYS_RECVMSG, unix.SYS_OPENAT, unix.SYS_GETDENTS64, unix.SYS_READLINKAT,
	unix.SYS_FTRUNCATE, unix.SYS_UNAME,
}

// denySystemCalls has the kernel refuse all threads of the process what is not in allowed (seccomp(2)). A kernel
// without seccomp is no error: the child has no privileges either way.
func denySystemCalls(allowed []uint32) error {
	arch := uint32(unix.AUDIT_ARCH_X86_64)
	if runtime.GOARCH == "arm64" {
		arch = unix.AUDIT_ARCH_AARCH64
	}
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret   = unix.BPF_RET | unix.BPF_K
		// Offsets in struct seccomp_data.
		number, architecture, argument = 0, 4, 16
	)
	deny := unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
	filter := []unix.SockFilter{
		{Code: load, K: architecture}, {Code: equal, K: arch, Jt: 1}, deny,
		{Code: load, K: number},
	}
	allow := unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW}
	for _, call := range allowed {
		if call == unix.SYS_SOCKET {
			filter = append(filter, unix.SockFilter{Code: equal, K: call, Jf: 4},
				unix.SockFilter{Code: load, K: argument}, unix.SockFilter{Code: equal, K: unix.AF_UNIX, Jf: 1}, deny, allow)
			continue
		}
		filter = append(filter, unix.SockFilter{Code: equal, K: call, Jf: 1}, allow)
	}
	filter = append(filter, deny)
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new privileges: %w", err)
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 && errno != unix.ENOSYS && errno != unix.EINVAL {
		return fmt.Errorf("filter system calls: %w", errno)
	}
	return nil
}
