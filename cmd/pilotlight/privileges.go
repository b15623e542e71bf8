package main

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// agentCapabilities are all that sampling takes, and all that the agent half keeps. What each is for, `needed` says.
var agentCapabilities = []cap.Value{cap.BPF, cap.PERFMON, cap.SYS_PTRACE, cap.DAC_READ_SEARCH, cap.CHECKPOINT_RESTORE, cap.SYSLOG}

// keepCapabilities has this process, with all its threads, give up all others for good, and go without those that it does
// not have. Root becomes user, with its groups; nil: it stays who it is.
func keepCapabilities(capabilities []cap.Value, user *syscall.Credential) error {
	has, keep := cap.GetProc(), cap.NewSet()
	for _, capability := range capabilities {
		held, err := has.GetFlag(cap.Permitted, capability)
		if err == nil && held {
			err = errors.Join(keep.SetFlag(cap.Permitted, true, capability), keep.SetFlag(cap.Effective, true, capability))
		}
		if err != nil {
			return fmt.Errorf("give up privileges: %w", err)
		}
	}
	err := limitBoundingSet(capabilities)
	if err == nil && user != nil {
		groups := make([]int, len(user.Groups))
		for i, g := range user.Groups {
			groups[i] = int(g)
		}
		if err = cap.SetGroups(int(user.Gid), groups...); err == nil {
			err = cap.SetUID(int(user.Uid))
		}
	}
	if err == nil {
		err = keep.SetProc() // nothing inheritable, and so nothing ambient
	}
	if err == nil {
		_, err = cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1)
	}
	if err != nil {
		return fmt.Errorf("give up privileges: %w", err)
	}
	return nil
}

// limitBoundingSet leaves these in the bounding set. Who may not do that has no_new_privs, which is as good.
func limitBoundingSet(capabilities []cap.Value) error {
	for capability := cap.Value(0); capability < cap.MaxBits(); capability++ {
		if slices.Contains(capabilities, capability) {
			continue
		}
		if err := cap.DropBound(capability); errors.Is(err, unix.EPERM) {
			return nil
		} else if err != nil {
			return fmt.Errorf("drop %v from the bounding set: %w", capability, err)
		}
	}
	return nil
}

// mayChangeUser reports whether this process can become another user. Root in a container often cannot.
func mayChangeUser() bool { return holds(cap.SETUID, cap.SETGID) }

// holds reports whether this process has these capabilities.
func holds(capabilities ...cap.Value) bool {
	has := cap.GetProc()
	for _, capability := range capabilities {
		if held, err := has.GetFlag(cap.Effective, capability); err != nil || !held {
			return false
		}
	}
	return true
}

// startWithoutPrivileges starts cmd without capabilities, and so that no setuid or file capability can give it any. cmd
// may name another user.
func startWithoutPrivileges(cmd *exec.Cmd) error {
	becomesOther := cmd.SysProcAttr != nil && cmd.SysProcAttr.Credential != nil
	return onLostThread(func() error {
		if err := giveUpThreadsPrivileges(becomesOther); err != nil {
			return err
		}
		return cmd.Start()
	})
}

// onLostThread calls f on a thread that ends with it: what a thread may do is its own, and is inherited by what it
// starts.
func onLostThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread never ends, and what /proc says of the process is what that may do.
			// While this goroutine has it, another is taken.
			defer runtime.UnlockOSThread()
			result <- onLostThread(f)
			return
		}
		result <- f()
	}()
	return <-result
}

// giveUpThreadsPrivileges leaves this thread, and what it starts, without capabilities. One that is yet to become another
// user keeps them until then, and loses them by that.
func giveUpThreadsPrivileges(becomesOther bool) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	if err == nil {
		err = emptyBoundingSet()
	}
	if err == nil && becomesOther {
		err = unix.Capget(&header, &sets[0])
	}
	for i := range sets {
		sets[i].Inheritable = 0 // nor ambient
	}
	if err == nil {
		err = unix.Capset(&header, &sets[0])
	}
	if err != nil {
		return fmt.Errorf("give up privileges: %w", err)
	}
	return nil
}

// emptyBoundingSet drops every capability that the kernel knows from the bounding set of the thread. Who may not do
// that starts what has no capabilities anyway.
func emptyBoundingSet() error {
	for capability := uintptr(0); ; capability++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0)
		switch {
		case errors.Is(err, unix.EINVAL) && capability > 0: // the last one was
			return nil
		case errors.Is(err, unix.EPERM):
			return nil
		case err != nil:
			return fmt.Errorf("drop capability %d: %w", capability, err)
		}
	}
}
