// Package process knows what /proc and the kernel's perf side-band records say
// about processes: which code each has mapped, what it is called, in which
// cgroup and container it runs, and which file lies behind a mapping.
//
// [Read] takes one process from /proc. A [Table] follows all of them: it is
// filled by one snapshot of /proc and kept up by FORK, COMM, MMAP2 and EXIT
// records, so that a process that lived a few milliseconds is still attributed.
// [Files] opens and identifies the files behind mappings, and [Mapping.Addr] is
// the one place where a pc of a process becomes an address of an ELF file.
//
// Every byte read here may have been chosen by a hostile user, so every read is
// bounded and every parser returns errors.
package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"syscall"
)

// Bounds on what one process can make the reader hold. The kernel allows a
// command line of megabytes; the longest honest ones are Java class paths.
const (
	maxStat    = 4 << 10
	maxCgroup  = 64 << 10
	maxCmdline = 64 << 10
	maxEnviron = 256 << 10
	// keptCmdline is what stays in memory of a command line; the program that
	// an interpreter runs is looked for in all of maxCmdline before.
	keptCmdline = 4 << 10
)

// tick is the unit of times in /proc/PID/stat and /proc/stat in nanoseconds:
// USER_HZ is 100 on every architecture that Go supports.
const tick = 10_000_000

// Key tells processes apart for as long as the machine runs, across reuse of
// pids and across exec.
type Key struct {
	// PID is the process ID (the kernel's tgid) in the initial pid namespace.
	PID uint32
	// Start is the group leader's start_boottime in nanoseconds. In a Process
	// from Read it is what /proc/PID/stat says, cut to whole ticks of 10 ms.
	Start uint64
	// Exec is the group leader's self_exec_id, which grows by one with each
	// exec and is inherited by fork. /proc does not show it: it is 0 in a
	// Process from Read.
	Exec uint32
}

// Process is a process between two execs.
type Process struct {
	Key
	// PPID is the process that forked this one, or 0 if that is not known.
	PPID uint32
	// Comm is the group leader's name, at most 15 bytes for user processes.
	Comm string
	// Exe is the path of the executable as the process sees it, without the
	// " (deleted)" that the kernel appends; empty for kernel threads and for a
	// process of which only samples were seen.
	Exe string
	// Cmdline is the beginning (4 KiB) of the argument list; empty for kernel
	// threads and for processes that were gone before it could be read.
	Cmdline []string
	// Program is the base name of the script, the name of the module or the
	// class that an interpreter runs; empty if Exe is no known interpreter or
	// runs code from its command line or standard input.
	Program string
	// OTelService is OTEL_SERVICE_NAME from the environment, if
	// Options.ReadEnviron allows to look.
	OTelService string
	// Cgroup is where the process runs.
	Cgroup Cgroup
	// KernelThread is true for kthreadd and its descendants that never called
	// exec.
	KernelThread bool
	// Mappings are the executable mappings. The slice is never changed after it
	// was handed out; Table.Lookup replaces it.
	Mappings Mappings
}

// Read reads process pid from proc, which is os.DirFS("/proc") or a test's
// fstest.MapFS and must have ReadLink. If the process is gone, or goes while it
// is read, or is a zombie, the error wraps fs.ErrNotExist.
func Read(proc fs.FS, pid uint32) (*Process, error) {
	st, err := readStat(proc, pid)
	if err != nil {
		return nil, err
	}
	p := &Process{
		Key:          Key{PID: pid, Start: st.start},
		PPID:         st.ppid,
		Comm:         st.comm,
		KernelThread: st.kernel,
	}
	if p.Cgroup, err = readCgroup(proc, pid); err != nil {
		return nil, err
	}
	if st.kernel {
		return p, nil
	}
	if p.Exe, err = readExe(proc, pid); err != nil {
		return nil, err
	}
	args, err := readCmdline(proc, pid)
	if err != nil {
		return nil, err
	}
	p.Program = program(p.Exe, args)
	p.Cmdline = keep(args, keptCmdline)
	if p.Mappings, _, err = readMaps(proc, pid, defaultMaxMappingsPerProcess); err != nil {
		return nil, err
	}
	return p, nil
}

// pidPath returns the path of a file of process pid inside /proc.
func pidPath(pid uint32, name string) string {
	return strconv.FormatUint(uint64(pid), 10) + "/" + name
}

// readFile reads at most limit bytes of a file of process pid. Reading from a
// process that has just died gives ESRCH; callers only know fs.ErrNotExist.
func readFile(proc fs.FS, pid uint32, name string, limit int64) ([]byte, error) {
	f, err := proc.Open(pidPath(pid, name))
	if err != nil {
		return nil, gone(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, gone(err)
	}
	return data, nil
}

// gone makes an error that says "no such process" one that wraps
// fs.ErrNotExist.
func gone(err error) error {
	if errors.Is(err, syscall.ESRCH) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", err, fs.ErrNotExist)
	}
	return err
}

// stat is what this package needs of /proc/PID/stat (proc_pid_stat(5)).
type stat struct {
	comm    string
	state   byte
	ppid    uint32
	kernel  bool
	threads uint32
	cpu     uint64 // time used, in ticks
	start   uint64 // ns since boot, whole ticks
}

const pfKthread = 0x00200000 // PF_KTHREAD of include/linux/sched.h

func readStat(proc fs.FS, pid uint32) (stat, error) {
	data, err := readFile(proc, pid, "stat", maxStat)
	if err != nil {
		return stat{}, fmt.Errorf("read stat of process %d: %w", pid, err)
	}
	st, err := parseStat(data)
	if err != nil {
		return stat{}, fmt.Errorf("parse stat of process %d: %w", pid, err)
	}
	// A zombie leader whose threads still run is alive: the group has not
	// exited. One without threads only waits to be reaped.
	if (st.state == 'Z' || st.state == 'X') && st.threads <= 1 {
		return stat{}, fmt.Errorf("process %d is a zombie: %w", pid, fs.ErrNotExist)
	}
	return st, nil
}

// parseStat parses /proc/PID/stat. The comm stands there as it is, with any
// parenthesis, blank and newline its owner liked, so that only the first "(" and
// the last ")" of the file delimit it.
func parseStat(data []byte) (stat, error) {
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if open < 0 || end < open {
		return stat{}, errors.New("no comm in parentheses")
	}
	fields := bytes.Fields(data[end+1:])
	const first = 3 // the field that follows the comm, counted as the manual does
	field := func(n int) (uint64, error) {
		if n-first >= len(fields) {
			return 0, fmt.Errorf("field %d is missing", n)
		}
		v, err := strconv.ParseUint(string(fields[n-first]), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("field %d: %w", n, err)
		}
		return v, nil
	}
	ppid, err := field(4)
	if err != nil {
		return stat{}, err
	}
	flags, err := field(9)
	if err != nil {
		return stat{}, err
	}
	user, err := field(14)
	if err != nil {
		return stat{}, err
	}
	system, err := field(15)
	if err != nil {
		return stat{}, err
	}
	threads, err := field(20)
	if err != nil {
		return stat{}, err
	}
	start, err := field(22)
	if err != nil {
		return stat{}, err
	}
	if start > 1<<63/tick {
		return stat{}, fmt.Errorf("field 22: start time %d is out of range", start)
	}
	return stat{
		comm:    string(data[open+1 : end]),
		state:   fields[0][0],
		ppid:    uint32(ppid),
		kernel:  flags&pfKthread != 0,
		threads: uint32(threads),
		cpu:     user + system,
		start:   start * tick,
	}, nil
}

// shownAs returns the number under which /proc shows the memory of a process: its
// pid, or the id of another thread if the leader has exited, which then has none.
func (st stat) shownAs(proc fs.FS, pid uint32) uint32 {
	if st.state != 'Z' {
		return pid
	}
	threads, err := fs.ReadDir(proc, pidPath(pid, "task"))
	if err != nil {
		return pid
	}
	for _, d := range threads {
		tid, err := strconv.ParseUint(d.Name(), 10, 32)
		if err != nil || uint32(tid) == pid {
			continue
		}
		if st, err := readStat(proc, uint32(tid)); err == nil && st.state != 'Z' {
			return uint32(tid)
		}
	}
	return pid
}

// readExe returns the target of /proc/PID/exe without " (deleted)".
func readExe(proc fs.FS, pid uint32) (string, error) {
	link, err := fs.ReadLink(proc, pidPath(pid, "exe"))
	if err != nil {
		return "", fmt.Errorf("read exe of process %d: %w", pid, gone(err))
	}
	return strings.TrimSuffix(link, deletedSuffix), nil
}

func readCmdline(proc fs.FS, pid uint32) ([]string, error) {
	data, err := readFile(proc, pid, "cmdline", maxCmdline)
	if err != nil {
		return nil, fmt.Errorf("read cmdline of process %d: %w", pid, err)
	}
	return parseCmdline(data, len(data) == maxCmdline), nil
}

// parseCmdline splits NUL-terminated arguments. If data was cut, its last
// argument may be half of one and is left out. A process may have overwritten
// its arguments, so anything is possible and nothing is an error.
func parseCmdline(data []byte, cut bool) []string {
	if cut {
		data = data[:bytes.LastIndexByte(data, 0)+1]
	}
	s := strings.TrimRight(string(data), "\x00")
	if s == "" {
		return nil
	}
	return strings.Split(s, "\x00")
}

// keep returns a copy of the arguments that fit size bytes, so that the long
// remainder of a command line can be freed.
func keep(args []string, size int) []string {
	n, used := 0, 0
	for n < len(args) && used+len(args[n])+1 <= size {
		used += len(args[n]) + 1
		n++
	}
	if n == len(args) {
		return args
	}
	kept := make([]string, n)
	for i := range kept {
		kept[i] = strings.Clone(args[i])
	}
	return kept
}

// readOTelService returns OTEL_SERVICE_NAME of the environment that the process
// was started with, or "".
func readOTelService(proc fs.FS, pid uint32) (string, error) {
	data, err := readFile(proc, pid, "environ", maxEnviron)
	if err != nil {
		return "", fmt.Errorf("read environ of process %d: %w", pid, err)
	}
	for v := range bytes.SplitSeq(data, []byte{0}) {
		if name, ok := bytes.CutPrefix(v, []byte("OTEL_SERVICE_NAME=")); ok {
			return string(name), nil
		}
	}
	return "", nil
}
