package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"pilotlight/bpf"
)

// The oldest kernel that is tested.
const (
	floorMajor = 6
	floorMinor = 1
)

// checkKernel compares the release with the floor. An older one is no failure: distributions carry features back,
// and the features are probed.
func checkKernel(root fs.FS) check {
	c := check{Name: "kernel", Status: statusWarn, Mend: "boot Linux 6.1 or later"}
	release, err := text(root, "proc/sys/kernel/osrelease")
	if err != nil {
		c.Detail = err.Error()
		c.Mend = "mount /proc"
		return c
	}
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		c.Detail = fmt.Sprintf("release %q has no version", release)
		return c
	}
	if major < floorMajor || major == floorMajor && minor < floorMinor {
		c.Detail = fmt.Sprintf("%s is older than %d.%d, the oldest that is tested", release, floorMajor, floorMinor)
		return c
	}
	return check{Name: "kernel", Status: statusOK, Detail: release}
}

// checkBTF looks for the kernel's type information, which CO-RE relocates the sampler against.
func checkBTF(root fs.FS) check {
	const path = "sys/kernel/btf/vmlinux"
	c := check{Name: "btf", Status: statusFail}
	size, err := btfSize(root, path)
	switch _, sysErr := fs.Stat(root, "sys/kernel"); {
	case err == nil:
		return check{Name: "btf", Status: statusOK, Detail: fmt.Sprintf("/%s, %s", path, humanize.Bytes(size))}
	case sysErr != nil:
		c.Detail = "/sys is not mounted"
		c.Mend = "mount -t sysfs sysfs /sys"
	case errors.Is(err, fs.ErrNotExist):
		c.Detail = "no /" + path
		c.Mend = "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y"
	default:
		c.Detail = err.Error()
		c.Mend = "chmod a+r /" + path
	}
	return c
}

// btfSize opens the file, because one that is there may still not be ours to read.
func btfSize(root fs.FS, name string) (uint64, error) {
	f, err := root.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return uint64(info.Size()), nil
}

// openClockEvent opens the event that the sampler uses on the first CPU that is online, and closes it.
func openClockEvent(root fs.FS) error {
	online, err := text(root, "sys/devices/system/cpu/online") // such as 0-3,8-11
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(online, ",")
	first, _, _ = strings.Cut(first, "-")
	cpu, err := strconv.Atoi(first)
	if err != nil {
		return fmt.Errorf("online CPUs %q: %w", online, err)
	}
	fd, err := unix.PerfEventOpen(&unix.PerfEventAttr{
		Type:   unix.PERF_TYPE_SOFTWARE,
		Size:   uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Config: unix.PERF_COUNT_SW_CPU_CLOCK,
		Sample: bpf.DefaultFrequency,
		Bits:   unix.PerfBitFreq | unix.PerfBitExcludeIdle | unix.PerfBitDisabled,
	}, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("perf_event_open of cpu-clock on CPU %d: %w", cpu, err)
	}
	return unix.Close(fd)
}

const seccompMend = "allow perf_event_open and bpf in the seccomp filter; in docker: --security-opt seccomp=unconfined; in systemd: SystemCallFilter=perf_event_open bpf"

// checkPerfEvent explains why the event of the sampler cannot be opened.
func checkPerfEvent(err error, caps capabilities, exe string) check {
	c := check{Name: "perf events", Status: statusFail}
	if err == nil {
		return check{Name: c.Name, Status: statusOK, Detail: "cpu-clock opens"}
	}
	c.Detail = oneLine(err)
	perfmon := caps.has(unix.CAP_PERFMON, unix.CAP_SYS_ADMIN)
	switch {
	case (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)) && !perfmon:
		c.Mend = caps.mend(unix.CAP_PERFMON, exe)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOSYS):
		c.Mend = seccompMend
	case errors.Is(err, unix.EACCES):
		c.Mend = "have kernel.perf_event_paranoid at most 2; if it is, allow the class perf_event in the SELinux policy of this domain: ausearch -m avc -c pilotlight shows the denial"
	case errors.Is(err, unix.EINVAL):
		c.Mend = "sudo sysctl -w kernel.perf_event_max_sample_rate=100000"
	case errors.Is(err, unix.EMFILE):
		c.Mend = filesMend
	default:
		c.Mend = "boot a kernel built with CONFIG_PERF_EVENTS=y, and mount /sys"
	}
	return c
}

// probe is what the kernel says of one feature of BPF.
type probe struct {
	name, since string
	err         error // nil: there; ebpf.ErrNotSupported: not there; else it could not be asked
}

// probeFeatures asks the kernel for everything that the sampler takes and a kernel may lack.
func probeFeatures() []probe {
	helper := func(f asm.BuiltinFunc) error { return features.HaveProgramHelper(ebpf.PerfEvent, f) }
	return []probe{
		{"perf_event programs", "4.9", features.HaveProgramType(ebpf.PerfEvent)},
		{"bpf_get_stack", "4.18", helper(asm.FnGetStack)},
		{"bpf_probe_read_user", "5.5", helper(asm.FnProbeReadUser)},
		{"ring buffers", "5.8", features.HaveMapType(ebpf.RingBuf)},
		{"bpf_ringbuf_output", "5.8", helper(asm.FnRingbufOutput)},
		{"bpf_get_current_task_btf", "5.11", helper(asm.FnGetCurrentTaskBtf)},
		{"bpf_task_pt_regs", "5.15", helper(asm.FnTaskPtRegs)},
		{"bpf_loop", "5.17", helper(asm.FnLoop)},
	}
}

// checkFeatures names what is not there.
func checkFeatures(probes []probe, caps capabilities, exe string) check {
	c := check{Name: "bpf features"}
	var lacking []string
	var unasked error
	for _, p := range probes {
		switch {
		case errors.Is(p.err, ebpf.ErrNotSupported):
			lacking = append(lacking, fmt.Sprintf("%s (Linux %s)", p.name, p.since))
		case p.err != nil:
			unasked = fmt.Errorf("%s: %w", p.name, p.err)
		}
	}
	switch {
	case lacking != nil:
		c.Status = statusFail
		c.Detail = "this kernel lacks " + strings.Join(lacking, ", ")
		c.Mend = "boot Linux 6.1 or later"
	case unasked != nil && caps.lacksToLoad(exe) != "":
		return check{c.Name, statusWarn, notTried, caps.lacksToLoad(exe)}
	case unasked != nil:
		c.Status = statusWarn
		c.Detail = "could not be asked for " + oneLine(unasked)
		c.Mend = seccompMend
	default:
		c.Status = statusOK
		c.Detail = fmt.Sprintf("all %d that the sampler takes", len(probes))
	}
	return c
}

// trySampler loads the sampler, attaches it to all CPUs, and takes it away again.
func trySampler() error {
	s, err := bpf.Open(bpf.Options{})
	if err != nil {
		return err
	}
	return errors.Join(s.Start(), s.Close())
}

// checkSampler calls try where it can succeed.
func checkSampler(try func() error, caps capabilities, exe string) check {
	c := check{Name: "sampler"}
	if mend := caps.lacksToLoad(exe); mend != "" {
		return check{c.Name, statusWarn, notTried, mend}
	}
	start := time.Now()
	err := try()
	var verifier *ebpf.VerifierError
	switch {
	case err == nil:
		c.Status = statusOK
		c.Detail = fmt.Sprintf("loaded, attached to every CPU and removed in %d ms", time.Since(start).Milliseconds())
		return c
	case errors.Is(err, bpf.ErrNotSupported):
		c.Mend = "boot Linux 6.1 or later, built with CONFIG_DEBUG_INFO_BTF=y"
	case errors.As(err, &verifier): // before EPERM, which it may wrap
		c.Mend = "boot Linux 6.1 or later; if it is, please report the output of: pilotlight doctor --json"
	case errors.Is(err, unix.EPERM):
		c.Mend = seccompMend
	default:
		c.Mend = "mend what failed above; if nothing did: journalctl -k -g 'bpf|perf|avc'"
	}
	c.Status = statusFail
	c.Detail = oneLine(err)
	return c
}

// checkKallsyms looks whether the kernel tells the addresses of its functions: it prints zeros to those who may
// not know (kallsyms_show_value in kernel/ksyms_common.c).
func checkKallsyms(root fs.FS, caps capabilities, exe string) check {
	c := check{Name: "kernel symbols", Status: statusWarn}
	visible, err := kallsymsVisible(root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.Detail = "no /proc/kallsyms: kernel functions have no names"
		c.Mend = "boot a kernel built with CONFIG_KALLSYMS=y"
		return c
	case err != nil:
		c.Detail = err.Error()
		c.Mend = "chmod a+r /proc/kallsyms"
		return c
	case visible:
		return check{Name: c.Name, Status: statusOK, Detail: "/proc/kallsyms has addresses"}
	}
	restrict, err := text(root, "proc/sys/kernel/kptr_restrict")
	if err != nil {
		restrict = oneLine(err)
	}
	c.Detail = fmt.Sprintf("/proc/kallsyms has zeros for addresses (kptr_restrict %s): kernel functions have no names", restrict)
	c.Mend = "sudo sysctl -w kernel.kptr_restrict=1"
	if restrict == "0" || restrict == "1" {
		c.Mend = caps.mend(unix.CAP_SYSLOG, exe)
	}
	return c
}

func kallsymsVisible(root fs.FS) (bool, error) {
	f, err := root.Open("proc/kallsyms")
	if err != nil {
		return false, err
	}
	defer f.Close()
	// Per-CPU data may truly lie at address zero, code does not.
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 3 && strings.ContainsAny(fields[1], "tT") {
			return strings.Trim(fields[0], "0") != "", nil
		}
	}
	if err := lines.Err(); err != nil {
		return false, fmt.Errorf("read /proc/kallsyms: %w", err)
	}
	return false, nil
}
