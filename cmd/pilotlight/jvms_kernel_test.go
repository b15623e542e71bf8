package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pilotlight/cmd/pilotlight/process"
)

// TestKernelJVMNames has a process of another user asked that speaks as a JVM does, and others that are to be left alone.
func TestKernelJVMNames(t *testing.T) {
	needRoot(t)
	dir := buildJVM(t)
	asker, err := startJVMAsker()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := asker.stop(); err != nil {
			t.Errorf("jvms-child ended with %v", err)
		}
	}()
	for _, tc := range []struct {
		name  string
		args  []string
		stops bool // the child that asks it
		err   string
	}{
		{"a JVM", []string{"libjvm.so"}, false, ""},
		{"one that does not listen", []string{"libjvm.so", "-mute"}, false, "no such file"},
		{"one whose user stops the child", []string{"libjvm.so", "-mute"}, true, "deadline exceeded"},
		{"one that SIGQUIT ends", []string{"libjvm.so", "-Xrs"}, false, "does not take SIGQUIT"},
		{"no JVM", []string{"jvm"}, false, "runs no JVM"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd, p := startJVM(t, dir, tc.args...)
			asked := make(chan error, 1)
			go func() {
				_, err := asker.asker()(t.Context(), p)
				asked <- err
			}()
			if slices.Contains(tc.args, "-mute") { // which the child waits for
				child := childWith(t, asker.cmd.Process.Pid, "jvm-child")
				checkConfined(t, child, jvmMemory)
				if tc.stops {
					stop(t, child)
				}
			}
			err := <-asked
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("asked with %v, want %q", err, tc.err)
				}
				if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
					t.Fatal(err)
				}
				if status := cmd.Wait().(*exec.ExitError).Sys().(syscall.WaitStatus); status.Signal() != unix.SIGTERM {
					t.Errorf("it was ended by %v, not by the test", status.Signal())
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			name := fmt.Sprintf("/tmp/perf-%d.map", p.PID)
			t.Cleanup(func() { os.Remove(name) }) // may not have been made
			text, err := os.ReadFile(name)
			if err != nil || string(text) != "1000 10 jcmd\n" {
				t.Errorf("it was asked %q, %v", text, err)
			}
		})
	}
}

// TestKernelJVMsEnd ends the asking while a JVM is asked, whose user has stopped the child that does, and holds it. What ends a session or
// a service is for the agent half, and no business of its child.
func TestKernelJVMsEnd(t *testing.T) {
	needRoot(t)
	dir := buildJVM(t)
	asker, err := startJVMAsker()
	if err != nil {
		t.Fatal(err)
	}
	_, p := startJVM(t, dir, "libjvm.so", "-mute")
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error, 1)
	go func() {
		_, err := asker.asker()(ctx, p)
		asked <- err
	}()
	child := childWith(t, asker.cmd.Process.Pid, "jvm-child")
	checkConfined(t, child, jvmMemory)
	stop(t, child)
	fd, err := unix.PidfdOpen(child, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	held, err := unix.PidfdGetfd(fd, 2, 0) // its output, so that it seems not to end
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(held)
	for _, sig := range []syscall.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} {
		if err := asker.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-asked; err == nil || !strings.Contains(err.Error(), "does not end") {
		t.Errorf("asked with %v", err)
	}
	if err := asker.stop(); err != nil {
		t.Errorf("jvms-child ended with %v", err)
	}
	if err := unix.Kill(child, 0); err != unix.ESRCH {
		t.Errorf("the child that was stopped is still there: %v", err)
	}
}

// buildJVM makes what speaks as a JVM does, and returns where it is.
func buildJVM(t *testing.T) (dir string) {
	t.Helper()
	source, err := filepath.Abs("testdata/jvm/jvm.c")
	if err != nil {
		t.Fatal(err)
	}
	dir = makeDir(t)
	inDir(t, dir, "gcc", "-O1", "-o", "jvm", source)
	inDir(t, dir, "cp", "jvm", "libjvm.so")
	return dir
}

// startJVM starts that as another user, until the test ends.
func startJVM(t *testing.T, dir string, args ...string) (*exec.Cmd, process.Key) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "jvm"), args...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "runs\n" {
		t.Fatalf("it said %q, %v", line, err)
	}
	p, err := process.Read(os.DirFS("/proc"), uint32(cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(fmt.Sprintf("/tmp/.attach_pid%d", p.PID)) }) // of a child that was killed
	return cmd, p.Key
}

// stop stops a process, and returns when it has.
func stop(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("it does not stop: %v", err)
		}
		if strings.Contains(string(text), "State:\tT") {
			return
		}
	}
}
