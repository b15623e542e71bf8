package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"pilotlight/cmd/pilotlight/agent"
	"pilotlight/cmd/pilotlight/hotspot"
	"pilotlight/cmd/pilotlight/process"
)

// A JVM answers its own user alone, whom the agent half cannot become. With --jvm-names it starts, before it gives up
// root, jvms-child, which can become others and do no more than this: when it is told a process it makes sure that a JVM
// runs there, and starts jvm-child as the user of that, with no privileges, which speaks with it.

// jvmsCapabilities are what jvms-child keeps: to become others, to end what it started as others, who may have stopped it,
// and to reach the root directories of processes.
var jvmsCapabilities = []cap.Value{cap.SETUID, cap.SETGID, cap.KILL, cap.SYS_PTRACE}

const (
	// jvmTime bounds how long one JVM may take, jvmCPU and jvmMemory what the child that asks it may. The Go runtime
	// has mapped 80 MB to write to before it does anything.
	jvmTime   = 12 * time.Second
	jvmCPU    = 2 * time.Second
	jvmMemory = 192 << 20
	// jvmDelay is how long one is waited for that was killed, and maxHeld how many may go on not to end: a user can hold one
	// in a file system of its own, or by a debugger, where no signal ends it.
	jvmDelay = time.Second
	maxHeld  = 8
	// What jvm-child inherits.
	jvmRootFD, jvmProcessFD = 3, 4
)

// jvmAnswer is what jvms-child says of a process that it was told.
type jvmAnswer struct {
	Err string
	CPU time.Duration
}

// jvmAsker is the agent half's end of jvms-child. A nil one has no JVM asked.
type jvmAsker struct {
	cmd *exec.Cmd
	in  io.WriteCloser

	mu  sync.Mutex // held while one is asked
	out *json.Decoder
}

func startJVMAsker() (*jvmAsker, error) {
	if !holds(cap.SETUID, cap.SETGID, cap.KILL) {
		return nil, errors.New("--jvm-names: JVMs answer their own users alone: start as root, or with CAP_SETUID, CAP_SETGID and CAP_KILL")
	}
	cmd := exec.Command("/proc/self/exe", "jvms-child")
	cmd.Args[0] = "pilotlight"
	cmd.Env = []string{}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("--jvm-names: %w", err)
	}
	return &jvmAsker{cmd: cmd, in: in, out: json.NewDecoder(out)}, nil
}

// asker returns what asks one JVM after the other; nil for a nil *jvmAsker.
func (j *jvmAsker) asker() agent.AskJVM {
	if j == nil {
		return nil
	}
	return func(ctx context.Context, p process.Key) (time.Duration, error) {
		j.mu.Lock()
		defer j.mu.Unlock()
		defer context.AfterFunc(ctx, func() { j.in.Close() })() // which has jvms-child end
		var answer jvmAnswer
		err := json.NewEncoder(j.in).Encode(p)
		if err == nil {
			err = j.out.Decode(&answer) // takes little longer than jvmTime
		}
		if err != nil {
			return 0, fmt.Errorf("jvms-child: %w", err)
		}
		if answer.Err != "" {
			err = errors.New(answer.Err)
		}
		return answer.CPU, err
	}
}

// stop ends jvms-child.
func (j *jvmAsker) stop() error {
	if j == nil {
		return nil
	}
	err := j.in.Close()
	if errors.Is(err, os.ErrClosed) {
		err = nil // asking was ended
	}
	return errors.Join(err, j.cmd.Wait())
}

// jvmsChildCmd is jvms-child.
type jvmsChildCmd struct{}

func (c *jvmsChildCmd) Run(g *globals) error {
	// The agent half decides when to end. The end of stdin tells.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	runtime.GOMAXPROCS(1)
	if err := keepCapabilities(jvmsCapabilities, nil); err != nil {
		return fmt.Errorf("jvms-child: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	asked, ended := make(chan process.Key), make(chan error, 1)
	go func() {
		defer close(asked)
		defer cancel() // nobody waits for the answer any more
		in := json.NewDecoder(os.Stdin)
		for {
			var p process.Key
			if err := in.Decode(&p); err != nil {
				ended <- err
				return
			}
			asked <- p
		}
	}()
	out, room := json.NewEncoder(g.stdout), make(chan struct{}, maxHeld)
	for p := range asked {
		var answer jvmAnswer
		var err error
		if answer.CPU, err = askJVM(ctx, p, room); err != nil {
			answer.Err = oneLine(err)
		}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
	if err := <-ended; err != io.EOF {
		return fmt.Errorf("jvms-child is started by others: %w", err)
	}
	return nil
}

// askJVM has the JVM of a process asked by its own user, until ctx is done, and returns the CPU time that it took. A child
// takes a place in room until it ends.
func askJVM(ctx context.Context, p process.Key, room chan struct{}) (time.Duration, error) {
	// The descriptor before the look at what it is of: a later bearer of the pid has another start.
	fd, err := unix.PidfdOpen(int(p.PID), 0)
	if err != nil {
		return 0, fmt.Errorf("open process %d: %w", p.PID, err)
	}
	pidfd := os.NewFile(uintptr(fd), "process")
	defer pidfd.Close()
	proc := os.DirFS("/proc")
	root, err := process.OpenRoot(proc, "/proc", p)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	jvm, err := process.FindJVM(proc, p)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, jvmTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "jvm-child", jvm.PID)
	cmd.Args[0] = "pilotlight"
	cmd.Env = []string{}
	diagnosis := capped{limit: 1 << 10}
	cmd.Stderr = &diagnosis
	cmd.ExtraFiles = []*os.File{root.Dir(), pidfd}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &jvm.User}
	if len(room) == maxHeld {
		return 0, fmt.Errorf("%d children that were killed do not end", maxHeld)
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start jvm-child as user %d: %w", jvm.User.Uid, err)
	}
	room <- struct{}{}
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		<-room
		ended <- err
	}()
	select {
	case err = <-ended:
	case <-ctx.Done():
		select {
		case err = <-ended:
		case <-time.After(jvmDelay):
			return 0, fmt.Errorf("jvm-child: %w, and it does not end", ctx.Err())
		}
	}
	cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	switch {
	case err != nil && ctx.Err() != nil: // it was killed
		err = fmt.Errorf("jvm-child: %w", ctx.Err())
	case err != nil:
		err = fmt.Errorf("%w: %s", err, diagnosis.Bytes())
	}
	return cpu, err
}

// jvmChildCmd is jvm-child.
type jvmChildCmd struct {
	PID string `arg:"" help:"What the JVM calls itself."`
}

// jvmCalls are the system calls that the child needs besides: to find the JVM's socket, and to wake it.
var jvmCalls = []uint32{unix.SYS_OPENAT2, unix.SYS_UNLINKAT, unix.SYS_PIDFD_SEND_SIGNAL, unix.SYS_CONNECT}

func (c *jvmChildCmd) Run(*globals) error {
	if err := keepCapabilities(nil, nil); err != nil { // a JVM may run as root
		return fmt.Errorf("jvm-child: %w", err)
	}
	root, process := os.NewFile(jvmRootFD, "root"), os.NewFile(jvmProcessFD, "process")
	if root == nil || process == nil {
		return errors.New("jvm-child is started by others")
	}
	machine, err := hotspot.New(root, process, c.PID)
	if err != nil {
		return err
	}
	debug.SetMemoryLimit(jvmMemory / 2)
	limits := childLimits{cpu: jvmCPU, data: jvmMemory}
	if err := limits.confine(slices.Concat(childCalls, jvmCalls)); err != nil {
		return fmt.Errorf("jvm-child: %w", err)
	}
	return errors.Join(machine.WritePerfMap(), machine.Close())
}
