package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
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
	indexSplitFD   = 8 // with --split: .dwo files, from here on
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
	// indexSlice is how long a child runs at most until what it took is looked at.
	indexSlice = 500 * time.Millisecond
	// maxIndexReport bounds what is read of the child's report.
	maxIndexReport = 2 << 20
)

// indexReport is what the child says about how it went.
type indexReport struct {
	Bytes   int64
	Skipped string // the first thing that could not be read
	Splits  []splitName
}

// budget is how much CPU time a file of so much debug information may take.
func budget(debugBytes uint64) time.Duration {
	return indexBase + time.Duration(float64(min(debugBytes, indexSpill))/(1<<30)*float64(indexPerGB))
}

// indexFile writes the index of a file in a child. The error wraps agent.ErrIndexBudget if the child was ended for what
// it took, and says else what the child said. What is in r.Out after an error is of no use. The files are read from and
// written to with pread and pwrite, which leaves their positions as they are, but for r.Out, which is written from its
// position on.
//
// Split debug information is in files that r.In alone names, and that the child cannot open. So it is run again with
// those that it asked for and that are there.
func indexFile(ctx context.Context, r agent.IndexRequest) (agent.IndexResult, error) {
	result, report, err := runIndexChild(ctx, r, nil)
	if err != nil || len(report.Splits) == 0 || r.Split == nil {
		return result, err
	}
	splits, err := openSplits(r.Split, report.Splits)
	defer func() {
		for _, s := range splits {
			s.Close() // only read
		}
	}()
	if err != nil || len(splits) == 0 {
		return result, err
	}
	if _, err := r.Out.Seek(0, io.SeekStart); err != nil {
		return result, err
	}
	if err := r.Out.Truncate(0); err != nil {
		return result, err
	}
	again, _, err := runIndexChild(ctx, r, splits)
	again.CPU += result.CPU
	again.Peak = max(again.Peak, result.Peak)
	return again, err
}

// splitName is how debug information names a .dwo file.
type splitName struct{ Dir, Name string }

// splitFile is a .dwo file that is handed to the child.
type splitFile struct {
	*os.File
	number int // of the child's question
}

const (
	// maxSplits is how many .dwo files are handed to the child: it has 1024 descriptors.
	maxSplits = 512
	// maxSplitName bounds the names of one.
	maxSplitName = 1 << 10
)

// openSplits opens those of the files below root that are there.
func openSplits(root fs.FS, names []splitName) (files []splitFile, err error) {
	for i, s := range names[:min(len(names), maxSplits)] {
		path := s.Name
		if !filepath.IsAbs(path) {
			path = filepath.Join("/", s.Dir, path)
		}
		f, err := root.Open(strings.TrimPrefix(filepath.Clean(path), "/"))
		if err != nil {
			continue // its unit will have the names of the symbol table
		}
		file, ok := f.(*os.File)
		if !ok {
			return files, errors.Join(fmt.Errorf("a file of type %T cannot be handed on", f), f.Close())
		}
		files = append(files, splitFile{file, i})
	}
	return files, nil
}

// runIndexChild has a child write the index of a file, with these .dwo files.
func runIndexChild(ctx context.Context, r agent.IndexRequest, splits []splitFile) (agent.IndexResult, indexReport, error) {
	size := r.Bytes
	for _, s := range splits {
		info, err := s.Stat()
		if err != nil {
			return agent.IndexResult{}, indexReport{}, err
		}
		size += uint64(info.Size())
	}
	limit := budget(size)
	ctx, cancel := context.WithCancel(ctx)
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
	for _, s := range splits {
		cmd.Args, cmd.ExtraFiles = append(cmd.Args, "--split", strconv.Itoa(s.number)), append(cmd.ExtraFiles, s.File)
	}
	if r.Only != nil {
		cmd.Args = append(cmd.Args, "--only")
		cmd.Stdin = bytes.NewReader(appendAddresses(nil, r.Only))
	}
	out, diagnosis := capped{limit: maxIndexReport}, capped{limit: 4 << 10}
	cmd.Stdout, cmd.Stderr = &out, &diagnosis
	owner, err := otherUser()
	if err != nil {
		return agent.IndexResult{}, indexReport{}, err
	}
	// A process group of its own has the kernel let the child go on, or end, when the agent dies that had stopped it: it
	// is then an orphaned one (setpgid(2)).
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner, Setpgid: true}
	if r.Wait != nil {
		if _, err := r.Wait(ctx); err != nil {
			return agent.IndexResult{}, indexReport{}, fmt.Errorf("start index child: %w", err)
		}
	}
	if err := startWithoutPrivileges(cmd); err != nil {
		return agent.IndexResult{}, indexReport{}, fmt.Errorf("start index child: %w", err)
	}
	var stop func()
	if r.Wait != nil {
		stop = pace(ctx, cmd.Process, r, indexPatience*limit, cancel)
	} else {
		patience := time.AfterFunc(indexPatience*limit, cancel)
		stop = func() { patience.Stop() }
	}
	err = cmd.Wait()
	stop()
	report, rerr := readIndexReport(out.Bytes())
	result := agent.IndexResult{Bytes: report.Bytes, Skipped: report.Skipped}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		result.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		result.Peak = usage.Maxrss << 10
	}
	switch status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus); {
	case err == nil:
		err = rerr
	case ctx.Err() != nil: // killed for want of time on the clock, or because nobody wants the index any more
		err = fmt.Errorf("index child: %w", ctx.Err())
	case status.Signaled() && (status.Signal() == unix.SIGKILL || status.Signal() == unix.SIGXCPU):
		err = fmt.Errorf("%w: ended after %v of CPU time, %v allowed", agent.ErrIndexBudget, result.CPU, limit)
	case bytes.Contains(diagnosis.Bytes(), []byte("out of memory")) || bytes.Contains(diagnosis.Bytes(), []byte("cannot allocate memory")):
		err = fmt.Errorf("%w: out of memory, %d MB allowed", agent.ErrIndexBudget, indexMemory>>20)
	default:
		err = fmt.Errorf("index child: %w: %q", err, diagnosis.Bytes())
	}
	return result, report, err
}

// pace has a child run only while there is CPU time for it, which it spends, and at most for patience; expired is called
// when that is over. It returns what ends the pacing.
func pace(ctx context.Context, child *os.Process, r agent.IndexRequest, patience time.Duration, expired func()) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var spent time.Duration
		for ; patience > 0; patience -= indexSlice {
			if child.Signal(unix.SIGSTOP) != nil {
				return // it has ended
			}
			left, err := r.Wait(ctx)
			if err != nil || child.Signal(unix.SIGCONT) != nil || !pause(ctx, min(left, indexSlice)) {
				return
			}
			used, err := cpuTime(child.Pid)
			if err != nil {
				return // it has ended
			}
			r.Spend(used - spent)
			spent = used
		}
		expired()
	}()
	return func() {
		cancel()
		<-done
	}
}

// pause waits, and reports false if ctx was done before.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// cpuTime reads the CPU clock of a process. Its number is made as in clock_getcpuclockid(3): the complement of the pid, and
// CPUCLOCK_SCHED of linux/posix-timers.h.
func cpuTime(pid int) (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// appendAddresses appends addresses as the child reads them from its standard input: 8 bytes each, little-endian.
func appendAddresses(b []byte, addrs []uint64) []byte {
	for _, addr := range addrs {
		b = binary.LittleEndian.AppendUint64(b, addr)
	}
	return b
}

func readAddresses(r io.Reader) ([]uint64, error) {
	raw, err := io.ReadAll(r)
	addrs := make([]uint64, 0, len(raw)/8)
	for ; len(raw) >= 8; raw = raw[8:] {
		addrs = append(addrs, binary.LittleEndian.Uint64(raw))
	}
	return addrs, err
}

func readIndexReport(raw []byte) (indexReport, error) {
	var r indexReport
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("index child's report: %w", err)
	}
	return r, nil
}

// capped keeps the first bytes that are written to it. The buffer has methods by which io.Copy would go round that, so it
// has a name.
type capped struct {
	buffer bytes.Buffer
	limit  int
}

// Write implements io.Writer.
func (c *capped) Write(b []byte) (int, error) {
	c.buffer.Write(b[:min(len(b), c.limit-c.buffer.Len())])
	return len(b), nil
}

// Bytes returns them.
func (c *capped) Bytes() []byte { return c.buffer.Bytes() }

// indexChildCmd is the child.
type indexChildCmd struct {
	CPU     time.Duration `required:""`
	Alt     bool
	Package bool
	Split   []int
	Only    bool
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
	splits := splitQuestions{numbers: make(map[splitName]int), given: c.Split}
	opts.OpenSplit = splits.open
	if c.Only {
		if opts.Only, err = readAddresses(os.Stdin); err != nil {
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
	report := indexReport{Bytes: stats.Bytes, Splits: splits.names}
	if stats.Skipped != nil {
		report.Skipped = stats.Skipped.Error()
	}
	return json.NewEncoder(g.stdout).Encode(report)
}

// splitQuestions numbers the .dwo files that are asked for, in the order in which they are: that is the same each time.
type splitQuestions struct {
	numbers map[splitName]int
	names   []splitName
	given   []int // numbers of those that are there, in the order of their descriptors
}

// open opens one, or notes that it is missing.
func (q *splitQuestions) open(dir, name string) (*symbolize.DebugFile, error) {
	s := splitName{dir, name}
	n, ok := q.numbers[s]
	if !ok {
		if len(q.names) == maxSplits || len(dir)+len(name) > maxSplitName {
			return nil, fmt.Errorf("%.200s: more than %d split files, or a long name", name, maxSplits)
		}
		n = len(q.names)
		q.numbers[s], q.names = n, append(q.names, s)
	}
	if i := slices.Index(q.given, n); i >= 0 {
		return inherited(uintptr(indexSplitFD + i))
	}
	return nil, fmt.Errorf("%.200s is not there", name)
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
	limits := childLimits{cpu: c.CPU, data: indexMemory, file: indexSpill}
	return limits.confine(childCalls)
}
