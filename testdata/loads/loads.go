// Package loads builds and runs the programs that tests and figures are taken on, and holds what they print.
// README.md beside it says what each load is for.
package loads

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Shares is what the programs of the shares load print: where their CPU time went, measured by themselves.
type Shares struct {
	Program    string  `json:"program"`
	PID        int     `json:"pid"`
	Seconds    float64 `json:"seconds"` // wall clock
	Iterations uint64  `json:"iterations"`
	Stacks     []Stack `json:"stacks"`
}

// Stack is one call path of the shares load.
type Stack struct {
	Functions []string `json:"functions"` // root first
	Percent   int      `json:"percent"`   // the share of all CPU time that it is meant to have
	CPU       int64    `json:"cpu_ns"`    // nanoseconds with exactly this stack, measured
}

// Total returns the CPU time of all stacks in nanoseconds.
func (s *Shares) Total() int64 {
	var ns int64
	for _, stack := range s.Stacks {
		ns += stack.CPU
	}
	return ns
}

// Under returns the CPU time in nanoseconds of all stacks that hold the given functions as a run of callers
// and callees: Under("hash") is the total of hash, Under("encode", "checksum") what encode spent in checksum.
func (s *Shares) Under(functions ...string) int64 {
	var ns int64
	for _, stack := range s.Stacks {
		for i := range stack.Functions {
			if i+len(functions) <= len(stack.Functions) && slices.Equal(stack.Functions[i:i+len(functions)], functions) {
				ns += stack.CPU
				break
			}
		}
	}
	return ns
}

// Burners is what the burners load prints.
type Burners struct {
	PID     int     `json:"pid"`
	Seconds float64 `json:"seconds"`
	Burners []struct {
		PID int   `json:"pid"`
		CPU int   `json:"cpu"`    // the CPU it was pinned to
		NS  int64 `json:"cpu_ns"` // CPU time that the kernel charged it
	} `json:"burners"`
}

// ForkStorm is what the forkstorm load prints.
type ForkStorm struct {
	PID      int     `json:"pid"`
	Seconds  float64 `json:"seconds"`
	Loops    int64   `json:"loops_ns"` // CPU time of the loops themselves
	Commands []struct {
		Command string `json:"command"`
		Runs    uint64 `json:"runs"`
		NS      int64  `json:"cpu_ns"`  // CPU time of all runs and their children, as wait4 told it
		Forked  int64  `json:"fork_ns"` // of NS, what passed between fork and exec
	} `json:"commands"`
}

// Work is what the loads print of which only the amount counts: compute, calls, sleepers, churn, idle.
type Work struct {
	PID        int     `json:"pid"`
	Seconds    float64 `json:"seconds"` // wall clock
	Iterations uint64  `json:"iterations"`
}

// A program is one process of a load. Its last argument, the seconds to run for, is left out.
type program struct {
	target string   // for make, in build/; empty if there is nothing to build
	argv   []string // a name without a slash is looked up in build/, then in PATH
}

var programs = map[string]program{
	"idle":      {"idle", []string{"idle"}},
	"shares-c":  {"shares-c", []string{"shares-c"}},
	"shares-go": {"shares-go", []string{"shares-go"}},
	"burners":   {"burners", []string{"burners"}},
	"forkstorm": {"forkstorm", []string{"forkstorm"}},
	"churn":     {"churn", []string{"churn"}},
	"sleepers":  {"sleepers", []string{"sleepers"}},
	"compute":   {"compute", []string{"compute"}},
	"calls":     {"calls", []string{"calls"}},
	"deep":      {"deep", []string{"deep"}},
	"libraries": {"libraries", []string{"libraries"}},
	"go":        {"mix-go", []string{"mix-go"}},
	"rust":      {"mix-rust", []string{"mix-rust"}},
	"java":      {"Worker.class", []string{"java", "-cp", "build", "Worker"}},
	"python":    {"", []string{"/usr/bin/python3.11", "mix/worker.py"}},
	"node":      {"", []string{"node", "mix/worker.js"}},
	// The same with names for what they compile; Java's on request alone.
	"java-named": {"Worker.class", []string{"java", "-XX:+PreserveFramePointer", "-cp", "build", "Worker"}},
	"node-named": {"", []string{"node", "--perf-basic-prof", "--no-logfile-per-isolate", "--logfile=build/v8.log", "mix/worker.js"}},
}

// Loads that are several programs at once.
var sets = map[string][]string{
	"shares": {"shares-c", "shares-go"},
	"mix":    {"deep", "libraries", "go", "rust", "python", "node", "java"},
	"named":  {"deep", "libraries", "go", "rust", "python", "node-named", "java-named"},
}

// Names returns what Build and Start take, sorted: the loads, and the single programs of which they consist.
func Names() []string {
	names := slices.AppendSeq(slices.Collect(maps.Keys(programs)), maps.Keys(sets))
	slices.Sort(names)
	return names
}

func members(name string) ([]string, error) {
	if set, ok := sets[name]; ok {
		return set, nil
	}
	if _, ok := programs[name]; ok {
		return []string{name}, nil
	}
	return nil, fmt.Errorf("no load %q: choose one of %s", name, strings.Join(Names(), " "))
}

// directory finds the folder of this package from the working directory, which for tests and `go run` is in
// the module.
func directory() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "testdata", "loads"), nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod above %s: run from within the repository", wd)
		}
	}
}

// Build brings the programs of a load up to date with make. Processes may call it at the same time.
func Build(ctx context.Context, name string) error {
	names, err := members(name)
	if err != nil {
		return err
	}
	dir, err := directory()
	if err != nil {
		return err
	}
	args := []string{"--no-print-directory", "-C", dir}
	for _, n := range names {
		if target := programs[n].target; target != "" {
			args = append(args, "build/"+target)
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
		return fmt.Errorf("build load %s: %w\n%s", name, err, out)
	}
	return nil
}

// Load is a load that runs.
type Load struct {
	name  string
	start time.Time
	parts []*part
}

type part struct {
	name           string
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
}

// Report is what a load did.
type Report struct {
	Load    string       `json:"load"`
	Seconds float64      `json:"seconds"` // wall clock, from start to the end of the last part
	Parts   []PartReport `json:"parts"`
}

// PartReport is what one program of a load did.
type PartReport struct {
	Name       string          `json:"name"`
	PID        int             `json:"pid"`
	CPUSeconds float64         `json:"cpu_seconds"` // user and system time of the process and the children it waited for
	Output     json.RawMessage `json:"output"`      // what the program printed
}

// Start starts the built programs of a load, each to run for d and then to end by itself. When ctx ends before,
// they and their children are killed. The caller must call Wait.
func Start(ctx context.Context, name string, d time.Duration) (*Load, error) {
	names, err := members(name)
	if err != nil {
		return nil, err
	}
	dir, err := directory()
	if err != nil {
		return nil, err
	}
	load := &Load{name: name, start: time.Now()}
	for _, n := range names {
		p := &part{name: n}
		argv := append(slices.Clone(programs[n].argv), strconv.FormatFloat(d.Seconds(), 'f', -1, 64))
		if built := filepath.Join(dir, "build", argv[0]); executable(built) {
			argv[0] = built
		}
		p.cmd = exec.CommandContext(ctx, argv[0], argv[1:]...)
		p.cmd.Dir = dir
		p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		p.cmd.Cancel = func() error { return syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) }
		if err := p.cmd.Start(); err != nil {
			err = fmt.Errorf("start %s: %w (is it built? make -C testdata/loads all)", n, err)
			return nil, errors.Join(err, load.kill())
		}
		load.parts = append(load.parts, p)
	}
	return load, nil
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// kill ends the parts that were started when another could not be.
func (l *Load) kill() error {
	var errs []error
	for _, p := range l.parts {
		errs = append(errs, p.cmd.Cancel())
		var killed *exec.ExitError
		if err := p.cmd.Wait(); !errors.As(err, &killed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// PIDs returns the process of each part, in order of start. For burners and forkstorm it is the parent's.
func (l *Load) PIDs() []int {
	pids := make([]int, len(l.parts))
	for i, p := range l.parts {
		pids[i] = p.cmd.Process.Pid
	}
	return pids
}

// Wait waits until all parts have ended and returns what they did, or why one of them failed.
func (l *Load) Wait() (*Report, error) {
	report := &Report{Load: l.name}
	var errs []error
	for _, p := range l.parts {
		if err := p.cmd.Wait(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w\n%s", p.name, err, p.stderr.Bytes()))
			continue
		}
		if !json.Valid(p.stdout.Bytes()) {
			errs = append(errs, fmt.Errorf("%s printed %q, which is not JSON", p.name, p.stdout.Bytes()))
			continue
		}
		state := p.cmd.ProcessState
		report.Parts = append(report.Parts, PartReport{
			Name:       p.name,
			PID:        p.cmd.Process.Pid,
			CPUSeconds: (state.UserTime() + state.SystemTime()).Seconds(),
			Output:     bytes.TrimSpace(p.stdout.Bytes()),
		})
	}
	report.Seconds = time.Since(l.start).Seconds()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return report, nil
}
