package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pilotlight/cmd/pilotlight/agent"
	"pilotlight/symbolize"
)

// Debug information is read in a child: any user may have made it, and what it takes to read it is bounded by
// nothing in it. The child gets open files and can open no others; it has no privileges, little memory, and CPU time
// by the size of the file. It runs when nothing else wants to.

// Descriptors that the child is given.
const (
	indexInFD      = 3 // the file
	indexOutFD     = 4 // the index
	indexSpillFD   = 5 // inflated sections
	indexAltFD     = 6 // with --alt: what dwz took out of the file
	indexPackageFD = 7 // with --package: the .dwp file
)

const (
	// indexMemory bounds the child's heap and all else that it may write to.
	indexMemory = 300 << 20
	// indexHeap is from where on the child collects garbage at any price.
	indexHeap = 200 << 20
	// indexSpill bounds what is inflated.
	indexSpill = 4 << 30
	// indexBase and indexPerGB are the CPU time that the child has.
	indexBase  = 2 * time.Second
	indexPerGB = 12 * time.Second
	// indexPatience is how much longer than its CPU time the child may take on a busy machine.
	indexPatience = 30
	// maxIndexReport bounds what is read of the child's report.
	maxIndexReport = 64 << 10
)

// indexReport is what the child says about how it went.
type indexReport struct {
	Bytes   int64
	Skipped string // the first thing that could not be read
}

// budget is how much CPU time a file of so much debug information may take.
func budget(debugBytes uint64) time.Duration {
	return indexBase + time.Duration(float64(min(debugBytes, indexSpill))/(1<<30)*float64(indexPerGB))
}

// indexFile writes the index of a file in a child. The error wraps agent.ErrIndexBudget if the child was ended for what
// it took, and says else what the child said. What is in r.Out after an error is of no use. The files are read from and
// written to with pread and pwrite, which leaves their positions as they are, but for r.Out, which is written from its
// position on.
func indexFile(ctx context.Context, r agent.IndexRequest) (agent.IndexResult, error) {
	limit := budget(r.Bytes)
	ctx, cancel := context.WithTimeout(ctx, indexPatience*limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "index-child", "--cpu", limit.String())
	cmd.Args[0] = "pilotlight"
	cmd.Env = []string{}
	cmd.ExtraFiles = []*os.File{r.In, r.Out, r.Spill, nil, nil}
	if r.Alt != nil {
		cmd.Args, cmd.ExtraFiles[indexAltFD-3] = append(cmd.Args, "--alt"), r.Alt
	}
	if r.Package != nil {
		cmd.Args, cmd.ExtraFiles[indexPackageFD-3] = append(cmd.Args, "--package"), r.Package
	}
	out, diagnosis := capped{limit: maxIndexReport}, capped{limit: 4 << 10}
	cmd.Stdout, cmd.Stderr = &out, &diagnosis
	owner, err := storeUser()
	if err != nil {
		return agent.IndexResult{}, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	if err := startWithoutNewPrivileges(cmd); err != nil {
		return agent.IndexResult{}, fmt.Errorf("start index child: %w", err)
	}
	err = cmd.Wait()
	report, rerr := readIndexReport(out.Bytes())
	result := agent.IndexResult{Bytes: report.Bytes, Skipped: report.Skipped}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		result.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		result.Peak = usage.Maxrss << 10
	}
	switch status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus); {
	case err == nil:
		return result, rerr
	case ctx.Err() != nil: // killed for want of time on the clock, or because nobody wants the index any more
		return result, fmt.Errorf("index child: %w", ctx.Err())
	case status.Signaled() && (status.Signal() == unix.SIGKILL || status.Signal() == unix.SIGXCPU):
		return result, fmt.Errorf("%w: ended after %v of CPU time, %v allowed", agent.ErrIndexBudget, result.CPU, limit)
	case bytes.Contains(diagnosis.Bytes(), []byte("out of memory")) || bytes.Contains(diagnosis.Bytes(), []byte("cannot allocate memory")):
		return result, fmt.Errorf("%w: out of memory, %d MB allowed", agent.ErrIndexBudget, indexMemory>>20)
	}
	return result, fmt.Errorf("index child: %w: %q", err, diagnosis.Bytes())
}

func readIndexReport(raw []byte) (indexReport, error) {
	var r indexReport
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("index child's report: %w", err)
	}
	return r, nil
}

// capped keeps the first bytes that are written to it.
type capped struct {
	bytes.Buffer
	limit int
}

// Write implements io.Writer.
func (c *capped) Write(b []byte) (int, error) {
	c.Buffer.Write(b[:min(len(b), c.limit-c.Len())])
	return len(b), nil
}

// indexChildCmd is the child.
type indexChildCmd struct {
	CPU     time.Duration `required:""`
	Alt     bool
	Package bool
}

func (c *indexChildCmd) Run(g *globals) error {
	if err := c.confine(); err != nil {
		return fmt.Errorf("index-child: %w", err)
	}
	opts := symbolize.IndexOptions{Spill: os.NewFile(indexSpillFD, "spill"), SpillBytes: indexSpill}
	var err error
	if c.Alt {
		if opts.Alt, err = inherited(indexAltFD); err != nil {
			return err
		}
	}
	if c.Package {
		if opts.Package, err = inherited(indexPackageFD); err != nil {
			return err
		}
	}
	in, err := inherited(indexInFD)
	if err != nil {
		return fmt.Errorf("%w: index-child is started by others", err)
	}
	stats, err := symbolize.BuildIndex(context.Background(), in, in.Size, os.NewFile(indexOutFD, "index"), opts)
	if err != nil {
		return err
	}
	report := indexReport{Bytes: stats.Bytes}
	if stats.Skipped != nil {
		report.Skipped = stats.Skipped.Error()
	}
	return json.NewEncoder(g.stdout).Encode(report)
}

// inherited returns a file that the parent opened.
func inherited(fd uintptr) (*symbolize.DebugFile, error) {
	f := os.NewFile(fd, fmt.Sprintf("descriptor %d", fd))
	if f == nil {
		return nil, os.ErrInvalid
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return &symbolize.DebugFile{ReaderAt: f, Size: info.Size()}, nil
}

// confine gives up what the child does not need, before it has read a byte of the file.
func (c *indexChildCmd) confine() error {
	debug.SetMemoryLimit(indexHeap)
	debug.SetTraceback("none") // whose addresses help nobody
	seconds := uint64((c.CPU + time.Second - 1) / time.Second)
	for _, limit := range []struct {
		what int
		max  uint64
	}{
		{unix.RLIMIT_CPU, seconds}, {unix.RLIMIT_DATA, indexMemory}, {unix.RLIMIT_FSIZE, indexSpill}, {unix.RLIMIT_CORE, 0},
	} {
		if err := unix.Setrlimit(limit.what, &unix.Rlimit{Cur: limit.max, Max: limit.max}); err != nil {
			return fmt.Errorf("limit resource %d: %w", limit.what, err)
		}
	}
	// A nice value counts within a session's or a control group's share only.
	idle := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_BATCH, Nice: 19}
	if err := schedule(&idle); err != nil {
		return err
	}
	return denySystemCalls()
}
