package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// openTerminal returns a terminal, and the end that gets what is written to it.
func openTerminal(t *testing.T) (ours, terminal *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	theirs, _, errno := unix.Syscall(unix.SYS_IOCTL, ours.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY)
	if errno != 0 {
		t.Fatal(errno)
	}
	terminal = os.NewFile(theirs, "terminal")
	t.Cleanup(func() { terminal.Close() })
	return ours, terminal
}

// TestTerminal prints a name that would have a terminal do things to one, and to a pipe.
func TestTerminal(t *testing.T) {
	const name, plain = "\x1b]0;title\x07 \u009b2J ä\tb\r\n", "\ufffd]0;title\ufffd \ufffd2J ä\tb\ufffd\n"
	ours, terminal := openTerminal(t)
	if n, err := forTerminal(terminal).Write([]byte(name)); n != len(name) || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	b := make([]byte, 256)
	n, err := ours.Read(b)
	if got := strings.ReplaceAll(string(b[:n]), "\r\n", "\n"); err != nil || got != plain {
		t.Errorf("the terminal gets %q, %v, want %q", got, err, plain)
	}

	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if forTerminal(w) != w {
		t.Error("a pipe does not get what was printed")
	}
}

// TestKernelRecordProgress records on a terminal. A command has that for itself.
func TestKernelRecordProgress(t *testing.T) {
	needRoot(t)
	const loop = "while :; do :; done"
	busy := exec.CommandContext(t.Context(), "sh", "-c", loop)
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		busy.Process.Kill()
		busy.Wait()
	}()
	for _, test := range []struct {
		name string
		whom []string
		want int // 1: it is shown
	}{{"process", []string{"-p", strconv.Itoa(busy.Process.Pid)}, 1}, {"command", []string{"--", "timeout", "2", "sh", "-c", loop}, 0}} {
		ours, terminal := openTerminal(t)
		cmd, err := pilotlight(t.Context(), append([]string{"record", "-d", "3s", "-o", filepath.Join(makeDir(t), "profile.pb.gz")}, test.whom...)...)
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = terminal
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		terminal.Close()
		var got []byte
		for b := make([]byte, 4096); err == nil; { // until nobody has the terminal
			var n int
			n, err = ours.Read(b)
			got = append(got, b[:n]...)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		shown := regexp.MustCompile(`\r[1-3]s, \d+ samples\x1b\[K`).FindAll(got, 1)
		if len(shown) != test.want || !strings.Contains(string(got), " truncated, ") {
			t.Errorf("%s: the terminal gets %q", test.name, got)
		}
	}
}
