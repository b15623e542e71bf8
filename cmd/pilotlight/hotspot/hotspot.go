// Package hotspot asks Java virtual machines for what profilers cannot see from outside. It speaks HotSpot's attach
// protocol, version 1, as jcmd does (attachListener_posix.cpp of OpenJDK), in place of the user whom the machine runs as:
// it talks to nobody else.
package hotspot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// patience bounds each step: until the machine listens, takes the question, and answers; and each single read.
	patience = 3 * time.Second
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 16 << 10
	// maxSaid bounds what of a refusal is told.
	maxSaid = 200
)

// Machine is one that can be asked. It belongs to one goroutine.
type Machine struct {
	root, process, socket int
	pid                   string
	uid                   uint32
}

// New returns the machine whose root directory root is, process a descriptor of its process, as of pidfd_open(2), and pid
// what it calls itself. The caller closes both after Close. From then on no descriptors are made but of files.
func New(root, process *os.File, pid string) (*Machine, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	timeout := unix.NsecToTimeval(patience.Nanoseconds())
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &timeout); err != nil {
			return nil, errors.Join(fmt.Errorf("bound the time of a socket: %w", err), unix.Close(fd))
		}
	}
	return &Machine{int(root.Fd()), int(process.Fd()), fd, pid, uint32(os.Geteuid())}, nil
}

// Close closes the connection.
func (m *Machine) Close() error { return unix.Close(m.socket) }

// WritePerfMap has the machine write /tmp/perf-PID.map, in which are the names of all that it has compiled so far. JDK 17
// and later can. It is called once.
func (m *Machine) WritePerfMap() error {
	if err := m.connect(); err != nil {
		return err
	}
	// Protocol version, command and three arguments.
	if _, err := unix.Write(m.socket, []byte("1\x00jcmd\x00Compiler.perfmap\x00\x00\x00")); err != nil {
		return fmt.Errorf("ask the JVM: %w", err)
	}
	answer, err := io.ReadAll(io.LimitReader(reader{m.socket, time.Now().Add(patience)}, maxAnswer))
	if err != nil {
		return fmt.Errorf("hear the JVM: %w", err)
	}
	status, said, _ := bytes.Cut(answer, []byte("\n"))
	if string(status) != "0" {
		return fmt.Errorf("the JVM refused with status %.20q: %.*q", status, maxSaid, bytes.TrimSpace(said))
	}
	return nil
}

// reader reads a descriptor, and begins no read after a time: one that tells a byte now and then would keep it for hours.
type reader struct {
	fd    int
	until time.Time
}

// Read implements io.Reader.
func (r reader) Read(b []byte) (int, error) {
	for {
		if time.Now().After(r.until) {
			return 0, os.ErrDeadlineExceeded
		}
		n, err := unix.Read(r.fd, b)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// connect connects to the machine's socket, and has it listen first if it does not yet.
func (m *Machine) connect() error {
	err := m.tryConnect()
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	// It begins to listen when it is sent SIGQUIT while this file is there; else it prints its threads.
	name := "tmp/.attach_pid" + m.pid
	how := unix.OpenHow{Flags: unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC, Mode: 0o600, Resolve: inRoot}
	fd, err := unix.Openat2(m.root, name, &how)
	if err == nil {
		dir, derr := unix.Openat2(m.root, "tmp", &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: inRoot})
		if err := errors.Join(derr, unix.Close(fd)); err != nil {
			return fmt.Errorf("make /%s: %w", name, err)
		}
		defer unix.Close(dir)
		defer unix.Unlinkat(dir, ".attach_pid"+m.pid, 0) // nothing depends on it from here on
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make /%s: %w", name, err)
	}
	if err := unix.PidfdSendSignal(m.process, unix.SIGQUIT, nil, 0); err != nil {
		return fmt.Errorf("wake the JVM: %w", err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := m.tryConnect()
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// inRoot keeps a path below the root of the process, whatever links it made.
const inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// tryConnect connects to the socket if there is one, and if it is of the user whom the machine runs as: anybody can make
// one of that name.
func (m *Machine) tryConnect() error {
	name := "tmp/.java_pid" + m.pid
	fd, err := unix.Openat2(m.root, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: inRoot})
	if err != nil {
		return fmt.Errorf("find /%s of the JVM: %w", name, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("look at /%s: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK || st.Uid != m.uid {
		return fmt.Errorf("/%s is no socket of user %d, whom the JVM runs as", name, m.uid)
	}
	if err := unix.Connect(m.socket, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d", fd)}); err != nil {
		return fmt.Errorf("connect to /%s: %w", name, err)
	}
	return nil
}
