package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// usage is what a process and its descendants have used up to now.
type usage struct {
	agent, other half // the process that samples, and its descendants
	bpfTime      time.Duration
	bpfRuns      uint64
	mapBytes     uint64
}

type half struct {
	cpu          time.Duration // with that of children they waited for
	rss, rssPeak uint64        // bytes; of several processes the sum
	pss          uint64        // bytes; what several processes share counts for each in part
}

// usageOf reads /proc as root. What a descendant used that ends during this call is in the next one, with its parent.
func usageOf(pid int) (usage, error) {
	var u usage
	processes, err := readProcesses()
	if err != nil {
		return u, err
	}
	if _, ok := processes[pid]; !ok {
		return u, fmt.Errorf("process %d has ended", pid)
	}
	programs, maps := make(map[uint64]bool), make(map[uint64]bool)
	for id, p := range processes {
		if !processes.descends(id, pid) {
			continue
		}
		h := &u.other
		if id == pid {
			h = &u.agent
		}
		err := u.add(h, id, p, programs, maps)
		if id != pid && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL)) {
			continue
		}
		if err != nil {
			return u, err
		}
	}
	return u, nil
}

// add adds one process to a half. Programs and maps of which several processes hold descriptors count once.
func (u *usage) add(h *half, pid int, p process, programs, maps map[uint64]bool) error {
	cpu, err := cpuOf(pid)
	if err != nil {
		return err
	}
	status, err := readFields(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	h.cpu += cpu + p.waitedFor
	for name, sum := range map[string]*uint64{"VmRSS": &h.rss, "VmHWM": &h.rssPeak} {
		kib, err := strconv.ParseUint(strings.TrimSuffix(status[name], " kB"), 10, 64)
		if err != nil {
			// A zombie has no memory.
			return fmt.Errorf("%s of process %d: %w", name, pid, fs.ErrNotExist)
		}
		*sum += kib << 10
	}

	memory, err := readFields(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return err
	}
	kib, err := strconv.ParseUint(strings.TrimSuffix(memory["Pss"], " kB"), 10, 64)
	if err != nil {
		return fmt.Errorf("memory of process %d: %w", pid, err)
	}
	h.pss += kib << 10

	descriptors, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		return err
	}
	for _, path := range descriptors {
		info, err := readFields(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // closed meanwhile
		}
		if err != nil {
			return err
		}
		if err := u.addDescriptor(info, programs, maps); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// addDescriptor adds a BPF program or map by the fields of its fdinfo: bpf_prog_show_fdinfo and
// bpf_map_show_fdinfo in kernel/bpf/syscall.c.
func (u *usage) addDescriptor(info map[string]string, programs, maps map[uint64]bool) error {
	number := func(name string) (n uint64, err error) {
		if n, err = strconv.ParseUint(info[name], 10, 64); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
		return n, err
	}
	// A link names its program too, but not what that ran.
	if _, ok := info["prog_type"]; ok {
		id, err1 := number("prog_id")
		ns, err2 := number("run_time_ns")
		runs, err3 := number("run_cnt")
		if err := errors.Join(err1, err2, err3); err != nil || programs[id] {
			return err
		}
		programs[id] = true
		u.bpfTime += time.Duration(ns)
		u.bpfRuns += runs
	}
	if _, ok := info["map_type"]; ok {
		id, err1 := number("map_id")
		size, err2 := number("memlock")
		if err := errors.Join(err1, err2); err != nil || maps[id] {
			return err
		}
		maps[id] = true
		u.mapBytes += size
	}
	return nil
}

// cpuOf reads the CPU clock of a process, which unlike /proc/PID/stat counts nanoseconds. The clock's number is
// made as in clock_getcpuclockid(3): the complement of the pid, and CPUCLOCK_SCHED of linux/posix-timers.h.
func cpuOf(pid int) (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

type process struct {
	parent    int
	waitedFor time.Duration // CPU time of children waited for, in ticks of 10 ms
}

type processes map[int]process

func readProcesses() (processes, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	all := make(processes)
	for _, path := range paths {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		stat, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // gone since the directory was read
		}
		if err != nil {
			return nil, err
		}
		if all[pid], err = parseStat(stat); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return all, nil
}

// parseStat reads /proc/PID/stat, see proc(5). The name in parentheses may hold anything.
func parseStat(stat []byte) (process, error) {
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 15 {
		return process{}, fmt.Errorf("%q is not as proc(5) says", stat)
	}
	parent, err1 := strconv.Atoi(fields[1])
	user, err2 := strconv.Atoi(fields[13])
	system, err3 := strconv.Atoi(fields[14])
	// USER_HZ is 100 on every architecture that Go runs on.
	return process{parent, time.Duration(user+system) * 10 * time.Millisecond}, errors.Join(err1, err2, err3)
}

func (all processes) descends(pid, ancestor int) bool {
	for ; pid != 0; pid = all[pid].parent {
		if pid == ancestor {
			return true
		}
	}
	return false
}

// readFields reads a file of lines "name: value".
func readFields(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	fields := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.TrimSpace(value)
	}
	return fields, nil
}
