package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"pilotlight/cmd/pilotlight/process"
)

// TestKernelJVMNames has a process of another user asked that speaks as a JVM does, and others that are to be left alone.
func TestKernelJVMNames(t *testing.T) {
	needRoot(t)
	source, err := filepath.Abs("testdata/jvm/jvm.c")
	if err != nil {
		t.Fatal(err)
	}
	dir := makeDir(t)
	inDir(t, dir, "gcc", "-O1", "-o", "jvm", source)
	inDir(t, dir, "cp", "jvm", "libjvm.so")
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
		name string
		args []string
		err  string
	}{
		{"a JVM", []string{"libjvm.so"}, ""},
		{"one that does not listen", []string{"libjvm.so", "-mute"}, "no such file"},
		{"one that SIGQUIT ends", []string{"libjvm.so", "-Xrs"}, "does not take SIGQUIT"},
		{"no JVM", []string{"jvm"}, "runs no JVM"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "jvm"), tc.args...)
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
			asked := make(chan error, 1)
			go func() {
				_, err := asker.asker()(t.Context(), p.Key)
				asked <- err
			}()
			if slices.Contains(tc.args, "-mute") { // which the child waits for
				checkConfined(t, childWith(t, asker.cmd.Process.Pid, "jvm-child"), jvmMemory)
			}
			err = <-asked
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
