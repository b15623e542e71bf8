package main

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTerminal prints a name that would have a terminal do things to one, and to a pipe.
func TestTerminal(t *testing.T) {
	const name, plain = "\x1b]0;title\x07 \u009b2J ä\tb\r\n", "\ufffd]0;title\ufffd \ufffd2J ä\tb\ufffd\n"
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	theirs, _, errno := unix.Syscall(unix.SYS_IOCTL, ours.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY)
	if errno != 0 {
		t.Fatal(errno)
	}
	terminal := os.NewFile(theirs, "terminal")
	defer terminal.Close()
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
