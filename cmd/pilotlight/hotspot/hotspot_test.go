package hotspot

import (
	"errors"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const pid = "47"

// open returns the machine that this process plays, below a root directory of its own.
func open(t *testing.T) (m *Machine, tmp string) {
	t.Helper()
	dir := t.TempDir()
	tmp = filepath.Join(dir, "tmp")
	if err := os.Mkdir(tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	process := os.NewFile(uintptr(fd), "process")
	if m, err = New(root, process, pid); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		process.Close()
		root.Close()
	})
	return m, tmp
}

// listen is a JVM that answers one question, and returns what it was asked.
func listen(t *testing.T, tmp, answer string) <-chan string {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(tmp, ".java_pid"+pid))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	asked := make(chan string, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return // the test has ended
		}
		defer conn.Close()
		question := make([]byte, 100)
		n, _ := conn.Read(question) // a question that cannot be read is another than is wanted
		asked <- string(question[:n])
		conn.Write([]byte(answer)) // as is an answer that does not arrive
	}()
	return asked
}

const question = "1\x00jcmd\x00Compiler.perfmap\x00\x00\x00"

func TestWritePerfMap(t *testing.T) {
	for _, tc := range []struct{ name, answer, err string }{
		{"written", "0\nwritten", ""},
		{"written, without a word", "0", ""},
		{"refused", "-1\njava.lang.IllegalArgumentException: Unknown diagnostic command\n", "Unknown diagnostic command"},
		{"nothing", "", `status ""`},
		{"a long answer", strings.Repeat("x", 1<<20), `status "xxxxxxxxxxxxxxxxxxxx"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m, tmp := open(t)
			asked := listen(t, tmp, tc.answer)
			err := m.WritePerfMap()
			if got := <-asked; got != question {
				t.Errorf("asked %q", got)
			}
			if (err == nil) != (tc.err == "") || err != nil && (!strings.Contains(err.Error(), tc.err) || len(err.Error()) > 1000) {
				t.Errorf("error %v, want %q", err, tc.err)
			}
		})
	}
}

// TestSlowAnswer has a machine tell a byte now and then.
func TestSlowAnswer(t *testing.T) {
	m, tmp := open(t)
	l, err := net.Listen("unix", filepath.Join(tmp, ".java_pid"+pid))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		for err == nil { // until the other end is closed
			_, err = conn.Write([]byte("0"))
			time.Sleep(patience / 10)
		}
	}()
	if err := m.WritePerfMap(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

// TestWake asks a machine that listens only once it is sent SIGQUIT while the file is there that says why.
func TestWake(t *testing.T) {
	m, tmp := open(t)
	quit := make(chan os.Signal, 1)
	signal.Notify(quit, unix.SIGQUIT)
	defer signal.Stop(quit)
	asked := make(chan (<-chan string), 1)
	go func() {
		<-quit
		if _, err := os.Stat(filepath.Join(tmp, ".attach_pid"+pid)); err != nil {
			t.Errorf("sent SIGQUIT: %v", err)
		}
		asked <- listen(t, tmp, "0\n")
	}()
	if err := m.WritePerfMap(); err != nil {
		t.Fatal(err)
	}
	if got := <-<-asked; got != question {
		t.Errorf("asked %q", got)
	}
	left, err := filepath.Glob(filepath.Join(tmp, ".attach*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestRefuses does not speak with what is not the machine's.
func TestRefuses(t *testing.T) {
	for _, tc := range []struct {
		name string
		make func(t *testing.T, path string)
	}{
		{"a file", func(t *testing.T, path string) {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"a link", func(t *testing.T, path string) {
			if err := os.Symlink("/run/docker.sock", path); err != nil {
				t.Fatal(err)
			}
		}},
		{"another user's", func(t *testing.T, path string) {
			if os.Geteuid() != 0 {
				if os.Getenv("REQUIRE_ALL") == "1" {
					t.Fatal("giving a file to another user needs root")
				}
				t.Skip("giving a file to another user needs root")
			}
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			if err := os.Chown(path, 65534, 65534); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m, tmp := open(t)
			tc.make(t, filepath.Join(tmp, ".java_pid"+pid))
			if err := m.WritePerfMap(); err == nil || !strings.Contains(err.Error(), "is no socket of user") {
				t.Errorf("error %v", err)
			}
		})
	}
}
