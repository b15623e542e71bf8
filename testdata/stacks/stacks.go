// Package stacks builds and runs the programs on which unwinding is proved. README.md beside it says what each is for.
package stacks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Program is one program, which runs until it is killed or at least for minutes.
type Program struct {
	Name   string
	Target string   // for make, in build/; empty if there is nothing to build
	Argv   []string // $STACKS is this folder, $BUILD that of what make built in it, $LOADS that of the loads
	says   bool     // prints a line at the start of its work
}

// forever is the seconds that a load is told to run for.
const forever = "100000"

var programs = []Program{
	{"deep", "deep", []string{"$BUILD/deep", forever}, false},
	{"deep-frames", "deep-frames", []string{"$BUILD/deep-frames", forever}, false},
	{"deep-static-pie", "deep-static-pie", []string{"$BUILD/deep-static-pie", forever}, false},
	{"deep-no-pie", "deep-no-pie", []string{"$BUILD/deep-no-pie", forever}, false},
	{"deep-musl", "deep-musl", []string{"$BUILD/deep-musl", forever}, false},
	{"deep-32", "deep-32", []string{"$BUILD/deep-32", forever}, false},
	{"recursion-100", "recursion", []string{"$BUILD/recursion", "100"}, true},
	{"recursion-200", "recursion", []string{"$BUILD/recursion", "200"}, true},
	{"recursion-400", "recursion", []string{"$BUILD/recursion", "400"}, true},
	{"recursion-500", "recursion", []string{"$BUILD/recursion", "500"}, true},
	{"altstack", "altstack", []string{"$BUILD/altstack"}, true},
	{"plt", "plt", []string{"$BUILD/plt", "$BUILD/liblazy.so"}, true},
	{"callbacks", "callbacks", []string{"$BUILD/callbacks"}, true},
	{"crypto", "crypto", []string{"$BUILD/crypto"}, true},
	{"vdso", "vdso", []string{"$BUILD/vdso"}, true},
	{"aligned", "aligned", []string{"$BUILD/aligned"}, true},
	{"threads", "threads", []string{"$BUILD/threads"}, true},
	{"exceptions", "exceptions", []string{"$BUILD/exceptions"}, true},
	{"rust", "rust", []string{"$BUILD/rust", forever}, false},
	{"python", "", []string{"/usr/bin/python3.11", "$LOADS/mix/worker.py", forever}, false},
	{"node", "", []string{"node", "$LOADS/mix/worker.js", forever}, false},
	{"native", "", []string{"node", "$STACKS/native.js"}, false},
	{"clang", "large.cc", []string{"clang-19", "-O2", "-c", "$BUILD/large.cc", "-o", "/dev/null"}, false},
}

// Programs returns all programs.
func Programs() []Program { return slices.Clone(programs) }

func find(name string) (*Program, error) {
	at := slices.IndexFunc(programs, func(p Program) bool { return p.Name == name })
	if at < 0 {
		return nil, fmt.Errorf("no program %q among the stacks", name)
	}
	return &programs[at], nil
}

// testdata finds the folder above this package's from the working directory, which for tests is in the module.
func testdata() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "testdata", "stacks")); err == nil {
			return filepath.Join(dir, "testdata"), nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no testdata/stacks above %s: run from within the repository", wd)
		}
	}
}

// Build brings the named programs up to date with make; where PREBUILT=1 is set there is no make, and they are as up to
// date as they can be. Processes may call it at the same time.
func Build(ctx context.Context, names ...string) error {
	if os.Getenv("PREBUILT") == "1" {
		return nil
	}
	dir, err := testdata()
	if err != nil {
		return err
	}
	dir = filepath.Join(dir, "stacks")
	args := []string{"--no-print-directory", "-C", dir}
	for _, name := range names {
		p, err := find(name)
		if err != nil {
			return err
		}
		if p.Target != "" {
			args = append(args, "build/"+p.Target)
		}
		if p.Name == "plt" {
			args = append(args, "build/liblazy.so")
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "build"), 0o755); err != nil {
		return err
	}
	// Tests of several packages run at once, and two makes must not write one file.
	lock, err := os.Create(filepath.Join(dir, "build", ".lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if out, err := exec.CommandContext(ctx, "make", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", strings.Join(names, " "), err, out)
	}
	return nil
}

// Running is a program that runs.
type Running struct {
	Program
	PID   int
	Depth int // every stack of its work has at least so many frames, main's included

	cmd    *exec.Cmd
	stderr bytes.Buffer
	ended  chan struct{}
	err    error // how it ended, once ended is closed
}

// settle is how long programs that print nothing are given from their start to their work.
const settle = 300 * time.Millisecond

// Start starts a built program and returns when it is at its work. The caller must call Stop.
func Start(name string) (*Running, error) {
	p, err := find(name)
	if err != nil {
		return nil, err
	}
	dir, err := testdata()
	if err != nil {
		return nil, err
	}
	folders := strings.NewReplacer("$STACKS", filepath.Join(dir, "stacks"), "$BUILD", filepath.Join(dir, "stacks", "build"), "$LOADS", filepath.Join(dir, "loads"))
	var argv []string
	for _, arg := range p.Argv {
		argv = append(argv, folders.Replace(arg))
	}
	r := &Running{Program: *p, Depth: 1, cmd: exec.Command(argv[0], argv[1:]...), ended: make(chan struct{})}
	said, stdout, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer said.Close()
	r.cmd.Stdout, r.cmd.Stderr = stdout, &r.stderr
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := errors.Join(r.cmd.Start(), stdout.Close()); err != nil {
		return nil, fmt.Errorf("start %s: %w (is it built? make -C testdata/stacks all)", name, err)
	}
	r.PID = r.cmd.Process.Pid
	go func() {
		r.err = r.cmd.Wait()
		close(r.ended)
	}()
	if !p.says {
		time.Sleep(settle)
		return r, nil
	}
	if err := json.NewDecoder(said).Decode(r); err != nil {
		return nil, errors.Join(fmt.Errorf("%s says nothing: %w", name, err), r.Stop())
	}
	return r, nil
}

// Stop kills the program and its children. It returns an error if the program had ended by itself.
func (r *Running) Stop() error {
	select {
	case <-r.ended:
		return fmt.Errorf("%s ended early: %w\n%s", r.Name, errors.Join(r.err, os.ErrProcessDone), r.stderr.Bytes())
	default:
	}
	err := syscall.Kill(-r.PID, syscall.SIGKILL)
	<-r.ended
	return err
}
