package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"pilotlight/bpf"
	"pilotlight/cmd/pilotlight/agent"
	"pilotlight/cmd/pilotlight/process"
	"pilotlight/symbolize"
	"pilotlight/unwind"
)

// inspectStackCmd shows the user-space stacks of a process's threads as they are now, unwound and named as the profiler
// does. Each thread is stopped while its stack is read. For each thread it prints how its stack ends, and a line for
// each frame, the innermost first:
//
//	thread 4711 worker: complete
//	  0x7f3a5c0e8a47 clock_nanosleep libc.so.6+0xcfa47
//	  0x55d0c2a3f1b2 main.sleep app+0x11b2 at /src/app.c:31
//
// With --json it prints one object:
//
//	{"pid": 4711, "threads": [{"tid": 4711, "comm": "worker", "outcome": "complete", "frames": [
//	  {"pc": "0x7f3a5c0e8a47", "path": "/lib/libc.so.6", "address": "0xcfa47", "functions": [
//	    {"function": "clock_nanosleep", "file": "", "line": 0}]}]}]}
//
// An outcome is one of a sample's, as the metric pilotlight_samples_total has them. functions has the innermost inlined call
// first and is empty for code without a name; path and address are those of the file mapped at pc, and empty where
// there is none.
type inspectStackCmd struct {
	JSON bool   `name:"json" help:"Print JSON."`
	PID  uint32 `arg:"" name:"pid" help:"Process."`
}

// threadStack is the stack of one thread.
type threadStack struct {
	TID     uint32       `json:"tid"`
	Comm    string       `json:"comm"`
	Outcome string       `json:"outcome"`
	Frames  []stackFrame `json:"frames"`
}

type stackFrame struct {
	PC        string          `json:"pc"`
	Path      string          `json:"path"`
	Address   string          `json:"address"`
	Functions []stackFunction `json:"functions"`
}

type stackFunction struct {
	Function string `json:"function"`
	File     string `json:"file"`
	Line     int    `json:"line"`
}

// Run prints the stacks.
func (c *inspectStackCmd) Run(g *globals) (err error) {
	view, err := openProcess(c.PID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, view.close()) }()
	threads, err := view.threads()
	if err != nil {
		return err
	}
	if c.JSON {
		out := json.NewEncoder(g.stdout)
		out.SetEscapeHTML(false)
		out.SetIndent("", "  ")
		err = out.Encode(struct {
			PID     uint32        `json:"pid"`
			Threads []threadStack `json:"threads"`
		}{c.PID, threads})
	} else {
		err = printStacks(g.stdout, threads)
	}
	if err != nil {
		return fmt.Errorf("print stacks: %w", err)
	}
	return nil
}

func printStacks(w io.Writer, threads []threadStack) error {
	out := bufio.NewWriter(w)
	for _, t := range threads {
		fmt.Fprintf(out, "thread %d %s: %s\n", t.TID, t.Comm, strings.ReplaceAll(t.Outcome, "_", " "))
		for _, f := range t.Frames {
			where := ""
			if f.Path != "" {
				where = " " + path.Base(f.Path) + "+" + f.Address
			}
			if len(f.Functions) == 0 {
				fmt.Fprintf(out, "  %s%s\n", f.PC, cmp.Or(where, " ??"))
			}
			for i, fn := range f.Functions {
				line := ""
				if fn.File != "" {
					line = fmt.Sprintf(" at %s:%d", fn.File, fn.Line)
				}
				if i == 0 {
					fmt.Fprintf(out, "  %s %s%s%s\n", f.PC, fn.Function, where, line)
				} else {
					fmt.Fprintf(out, "    (inlined by) %s%s\n", fn.Function, line)
				}
			}
		}
	}
	return out.Flush()
}

// processView is a process whose stacks are to be looked at.
type processView struct {
	*process.Process
	memory *os.File
	files  map[process.FileKey]*viewedFile
	vdso   *viewedFile
}

// viewedFile is a file that the process runs.
type viewedFile struct {
	handle  io.Closer // nil for the vDSO
	table   *unwind.Table
	symbols *symbolize.File // nil if it has none
}

// openProcess reads the tables of all that the process has mapped, so that no thread has to be stopped for as long as
// that takes.
func openProcess(pid uint32) (v *processView, err error) {
	proc := os.DirFS("/proc")
	p, err := process.Read(proc, pid)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no process %d: give the pid of one that runs", pid)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: run as root", err)
	case err != nil:
		return nil, err
	case p.KernelThread:
		return nil, fmt.Errorf("process %d is a kernel thread, which has no stack in user space", pid)
	}
	v = &processView{Process: p, files: make(map[process.FileKey]*viewedFile)}
	if v.memory, err = os.Open(fmt.Sprintf("/proc/%d/mem", pid)); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w: run as root", err)
		}
		return nil, err
	}
	files := process.NewFiles(proc, "/proc", process.Host{})
	for _, m := range p.Mappings {
		switch {
		case m.Kind == process.VDSO:
			v.vdso = viewVDSO()
		case m.Openable():
			if file, err := files.Open(p, m); err == nil { // else its frames are walked by frame pointers and have no names
				err = v.add(file)
				if err != nil {
					return nil, errors.Join(err, v.close())
				}
			}
		}
	}
	return v, nil
}

func viewVDSO() *viewedFile {
	image, err := symbolize.VDSO()
	if err != nil {
		return nil
	}
	f := &viewedFile{}
	f.read(bytes.NewReader(image), int64(len(image)))
	return f
}

func (v *processView) add(file *process.OpenFile) error {
	if v.files[file.Key] != nil {
		return file.Close()
	}
	f := &viewedFile{handle: file}
	f.read(file, file.Size)
	v.files[file.Key] = f
	return nil
}

// read reads what there is: a file may have no unwind information, or no names.
func (f *viewedFile) read(r io.ReaderAt, size int64) {
	in := io.NewSectionReader(r, 0, size)
	if table, err := unwind.Build(in, size, unwind.Options{}); err == nil {
		f.table = table
	}
	if symbols, err := symbolize.Open(in, size); err == nil {
		f.symbols = symbols
	}
}

func (v *processView) close() error {
	err := v.memory.Close()
	for _, f := range v.files {
		if f.symbols != nil {
			err = errors.Join(err, f.symbols.Close())
		}
		err = errors.Join(err, f.handle.Close())
	}
	return err
}

// file returns the file behind a mapping, or nil if it could not be read.
func (v *processView) file(m process.Mapping) *viewedFile {
	if m.Kind == process.VDSO {
		return v.vdso
	}
	if file, _ := m.File(); file != nil {
		return v.files[file.Key]
	}
	return nil
}

// threads returns the stacks of all threads, in the order of their ids. One that ends meanwhile is left out.
func (v *processView) threads() ([]threadStack, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", v.PID))
	if err != nil {
		return nil, fmt.Errorf("list threads: %w", err)
	}
	var stacks []threadStack
	for _, e := range entries {
		tid, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil {
			continue
		}
		st, err := v.thread(int(tid))
		if errors.Is(err, unix.ESRCH) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if errors.Is(err, unix.EPERM) {
			return nil, fmt.Errorf("%w: run as root; a process that is being traced cannot be looked at", err)
		}
		if err != nil {
			return nil, err
		}
		stacks = append(stacks, st)
	}
	slices.SortFunc(stacks, func(a, b threadStack) int { return cmp.Compare(a.TID, b.TID) })
	return stacks, nil
}

func (v *processView) thread(tid int) (threadStack, error) {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/comm", v.PID, tid))
	if err != nil {
		return threadStack{}, err
	}
	st := threadStack{TID: uint32(tid), Comm: strings.TrimSuffix(string(comm), "\n"), Frames: []stackFrame{}}
	err = stopped(tid, func(words []uint64) {
		regs, ok := agent.Registers(words)
		if !ok {
			st.Outcome = bpf.BadRule.String()
			return
		}
		pcs, outcome := agent.Walk(regs, v.memory, []uint64{regs.PC}, v.code)
		st.Outcome = outcome.String()
		for i, pc := range pcs {
			st.Frames = append(st.Frames, v.frame(pc, i > 0))
		}
	})
	return st, err
}

// code is what agent.Walk asks for.
func (v *processView) code(pc uint64) (agent.Code, bpf.Outcome) {
	m, ok := v.Mappings.Find(pc)
	if !ok {
		return agent.Code{}, bpf.NoMapping
	}
	f := v.file(m)
	if f == nil && m.Kind == process.Anonymous {
		if !v.FramePointers() {
			return agent.Code{}, bpf.JITEnd
		}
		return agent.Code{JIT: true}, bpf.Complete
	}
	addr, ok := m.Addr(pc)
	if f == nil || !ok {
		return agent.Code{}, bpf.Complete
	}
	file, _ := m.File()
	return agent.Code{Table: f.table, Bias: pc - addr, FramePointers: file != nil && file.Go, Start: m.Start, End: m.End}, bpf.Complete
}

// frame names pc. That of a caller is a return address: the call is before it.
func (v *processView) frame(pc uint64, caller bool) stackFrame {
	f := stackFrame{PC: fmt.Sprintf("%#x", pc), Functions: []stackFunction{}}
	if caller {
		pc--
	}
	m, ok := v.Mappings.Find(pc)
	if !ok {
		return f
	}
	addr, ok := m.Addr(pc)
	file := v.file(m)
	f.Path = cmp.Or(m.Path, "[anon]")
	f.Address = fmt.Sprintf("%#x", addr)
	if !ok || file == nil || file.symbols == nil {
		return f
	}
	for _, fn := range file.symbols.Resolve(nil, addr) {
		f.Functions = append(f.Functions, stackFunction{fn.Function, fn.File, fn.Line})
	}
	return f
}

// threadStopTimeout is how long a thread may take to stop; one that waits in the kernel for a disk does not.
const threadStopTimeout = 2 * time.Second

// stopped stops a thread, calls look with its registers in the order of struct pt_regs, and lets it go on.
func stopped(tid int, look func(registers []uint64)) (err error) {
	runtime.LockOSThread() // the kernel knows the tracer by its thread
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(tid); err != nil {
		return fmt.Errorf("trace thread %d: %w", tid, err)
	}
	if err := unix.PtraceInterrupt(tid); err != nil {
		return fmt.Errorf("stop thread %d: %w", tid, err)
	}
	deadline := time.Now().Add(threadStopTimeout)
	for pause := 50 * time.Microsecond; ; pause *= 2 {
		var status unix.WaitStatus
		stoppedTID, err := unix.Wait4(tid, &status, unix.WNOHANG|unix.WALL, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("stop thread %d: %w", tid, err)
		}
		if stoppedTID == tid && status.Stopped() {
			break
		}
		if stoppedTID == tid {
			return unix.ESRCH // it ended
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("thread %d does not stop: it waits in the kernel, which cannot be interrupted", tid)
		}
		time.Sleep(pause)
	}
	defer func() { err = errors.Join(err, unix.PtraceDetach(tid)) }()
	registers, err := registersOf(tid)
	if err != nil {
		return err
	}
	look(registers)
	return nil
}

// registersOf returns the general registers of a thread that is stopped: NT_PRSTATUS of PTRACE_GETREGSET, ptrace(2).
func registersOf(tid int) ([]uint64, error) {
	const ntPrstatus = 1
	buf := make([]byte, 64*8) // more than any architecture has
	iov := unix.Iovec{Base: &buf[0]}
	iov.SetLen(len(buf))
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GETREGSET, uintptr(tid), ntPrstatus, uintptr(unsafe.Pointer(&iov)), 0, 0); errno != 0 {
		return nil, fmt.Errorf("read registers of thread %d: %w", tid, errno)
	}
	words := make([]uint64, iov.Len/8)
	for i := range words {
		words[i] = binary.NativeEndian.Uint64(buf[8*i:])
	}
	return words, nil
}
