package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// initialUserNamespace is PROC_USER_INIT_INO of include/linux/proc_ns.h.
const initialUserNamespace = 0xEFFFFFFD

const userNamespaceMend = "run it as root of the host: docker without rootless mode and --userns, no PrivateUsers= in systemd"

// checkPIDNamespace refuses a namespace whose pids are not those of BPF and of perf's records.
func checkPIDNamespace(root fs.FS) check {
	return checkNamespace(root, "pid", initialPIDNamespace, "BPF and perf count pids as that one does",
		"run it on the host, or with the host's pids: docker run --pid=host, hostPID: true in Kubernetes, no PrivatePIDs= in systemd")
}

// checkUserNamespace refuses a namespace whose capabilities are worth nothing to BPF and perf.
func checkUserNamespace(root fs.FS) check {
	return checkNamespace(root, "user", initialUserNamespace, "its capabilities do not reach BPF and perf", userNamespaceMend)
}

func checkNamespace(root fs.FS, kind string, initial uint64, why, mend string) check {
	c := check{Name: kind + " namespace", Status: statusFail, Mend: mend}
	target, err := fs.ReadLink(root, "proc/self/ns/"+kind)
	if errors.Is(err, fs.ErrNotExist) {
		return check{Name: c.Name, Status: statusOK, Detail: "this kernel has but one"}
	}
	if err != nil {
		c.Detail = err.Error()
		return c
	}
	digits := strings.TrimSuffix(strings.TrimPrefix(target, kind+":["), "]")
	inode, err := strconv.ParseUint(digits, 10, 64)
	switch {
	case err != nil:
		c.Detail = fmt.Sprintf("/proc/self/ns/%s is %q", kind, target)
	case inode != initial:
		c.Detail = fmt.Sprintf("%s is not the initial one: %s", target, why)
	default:
		return check{Name: c.Name, Status: statusOK, Detail: "the initial one"}
	}
	return c
}

// capabilities are those a process has, and those that it could get by executing a file.
type capabilities struct {
	effective, bounding uint64 // bit n is capability n of include/uapi/linux/capability.h
	root                bool   // the effective user is root
	confined            bool   // to a user namespace: the kernel's BPF and perf take no notice of them
}

// parseCapabilities reads /proc/PID/status.
func parseCapabilities(status string) (capabilities, error) {
	var c capabilities
	var seen int
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		var err error
		switch key {
		case "CapEff":
			c.effective, err = strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		case "CapBnd":
			c.bounding, err = strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		case "Uid": // real, effective, saved, file system
			ids := strings.Fields(value)
			if len(ids) != 4 {
				return c, fmt.Errorf("line %q has no four user ids", strings.TrimSpace(line))
			}
			c.root = ids[1] == "0"
		default:
			continue
		}
		if err != nil {
			return c, fmt.Errorf("line %q: %w", strings.TrimSpace(line), err)
		}
		seen++
	}
	if seen != 3 {
		return c, errors.New("want the lines Uid, CapEff and CapBnd")
	}
	return c, nil
}

// has reports whether one of the capabilities is effective.
func (c capabilities) has(bits ...int) bool {
	return !c.confined && slices.ContainsFunc(bits, func(n int) bool { return c.effective&(1<<n) != 0 })
}

// lacksToLoad returns the mend for the first capability that loading the sampler takes and that is not held; ""
// if it can be loaded.
func (c capabilities) lacksToLoad(exe string) string {
	for _, bit := range []int{unix.CAP_BPF, unix.CAP_PERFMON} {
		if !c.has(bit, unix.CAP_SYS_ADMIN) {
			return c.mend(bit, exe)
		}
	}
	return ""
}

// notTried is the detail of a check that the kernel allows only to those who may load the sampler.
const notTried = "not tried without CAP_BPF and CAP_PERFMON"

// needed lists the capabilities that `run` and `agent` take; of root also those with which they become another user.
var needed = []struct {
	name    string
	bit     int
	instead []int  // the kernel takes one of these for it
	lack    status // the status of not having it
	cost    string // of not having it
	root    bool   // only root takes it
}{
	{"CAP_BPF", unix.CAP_BPF, []int{unix.CAP_SYS_ADMIN}, statusFail, "the sampler cannot be loaded", false},
	{"CAP_PERFMON", unix.CAP_PERFMON, []int{unix.CAP_SYS_ADMIN}, statusFail, "no CPU can be sampled", false},
	{"CAP_SYS_PTRACE", unix.CAP_SYS_PTRACE, nil, statusWarn, "the code of other users' processes cannot be told", false},
	{"CAP_DAC_READ_SEARCH", unix.CAP_DAC_READ_SEARCH, []int{unix.CAP_DAC_OVERRIDE}, statusWarn, "functions of programs that only their owners may read have no names", false},
	{"CAP_CHECKPOINT_RESTORE", unix.CAP_CHECKPOINT_RESTORE, []int{unix.CAP_SYS_ADMIN}, statusWarn, "functions of deleted and in-memory programs have no names", false},
	{"CAP_SYSLOG", unix.CAP_SYSLOG, nil, statusWarn, "kernel functions have no names unless perf_event_paranoid and kptr_restrict allow it", false},
	{"CAP_SETUID", unix.CAP_SETUID, nil, statusWarn, "what needs no privileges runs without capabilities, but as root all the same", true},
	{"CAP_SETGID", unix.CAP_SETGID, nil, statusWarn, "what needs no privileges runs without capabilities, but as root all the same", true},
	{"CAP_CHOWN", unix.CAP_CHOWN, nil, statusWarn, "a new data directory cannot be given to another user", true},
}

// checkCapabilities has one check for each needed capability.
func checkCapabilities(caps capabilities, exe string) []check {
	var checks []check
	for _, n := range needed {
		c := check{Name: strings.ToLower(n.name), Status: statusOK, Detail: "held"}
		switch {
		case n.root && !caps.root:
			c.Detail = "only root needs it"
		case !caps.has(append(n.instead, n.bit)...):
			c.Status = n.lack
			c.Detail = "missing: " + n.cost
			c.Mend = caps.mend(n.bit, exe)
		}
		checks = append(checks, c)
	}
	return checks
}

// mend says how a process like this one gets the capability.
func (c capabilities) mend(bit int, exe string) string {
	// setcap and systemd set all at once, so they get the full list.
	var names, short []string
	for _, n := range needed {
		if n.root && !c.root {
			continue
		}
		names = append(names, n.name)
		short = append(short, strings.TrimPrefix(n.name, "CAP_"))
	}
	switch list := strings.Join(names, " "); {
	case c.confined:
		return userNamespaceMend
	case c.bounding&(1<<bit) == 0:
		return fmt.Sprintf("whoever started this took it away for good; in systemd: CapabilityBoundingSet=%s; in docker: --cap-add=%s", list, strings.Join(short, " --cap-add="))
	case c.root:
		return "start it without dropping capabilities; in systemd: AmbientCapabilities=" + list
	default:
		// Kubernetes gives capabilities to root alone.
		return fmt.Sprintf("start it with sudo; or for every user: sudo setcap %s=ep %s; in systemd: AmbientCapabilities=%s CapabilityBoundingSet=%[3]s NoNewPrivileges=yes; "+
			"in Kubernetes: securityContext: {runAsUser: 0, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL], add: [%s]}}",
			strings.ToLower(strings.Join(names, ",")), exe, list, strings.Join(short, ", "))
	}
}

// mostParanoid is the largest kernel.perf_event_paranoid that Linux knows of. Kernels of Debian and Ubuntu have larger
// ones, by which they refuse perf events to everybody without CAP_SYS_ADMIN.
const mostParanoid = 2

// checkParanoid reads kernel.perf_event_paranoid, which binds only those without CAP_PERFMON, unless it is larger than
// mostParanoid.
func checkParanoid(root fs.FS, caps capabilities, exe string) check {
	c := check{Name: "perf_event_paranoid", Status: statusFail}
	value, err := text(root, "proc/sys/kernel/perf_event_paranoid")
	if errors.Is(err, fs.ErrNotExist) {
		c.Detail = "this kernel has no perf events"
		c.Mend = "boot a kernel built with CONFIG_PERF_EVENTS=y"
		return c
	}
	if err != nil {
		c.Detail = err.Error()
		c.Mend = "mount /proc"
		return c
	}
	level, err := strconv.Atoi(value)
	if err == nil && level <= 0 {
		return check{Name: c.Name, Status: statusOK, Detail: value}
	}
	if !caps.has(unix.CAP_PERFMON, unix.CAP_SYS_ADMIN) {
		c.Status = statusWarn
		c.Detail = value + ": no event on a whole CPU without CAP_PERFMON"
		c.Mend = caps.mend(unix.CAP_PERFMON, exe)
		return c
	}
	if level > mostParanoid && !caps.has(unix.CAP_SYS_ADMIN) {
		c.Status = statusWarn
		c.Detail = value + ": kernels of Debian and Ubuntu refuse perf events then, with CAP_PERFMON too"
		c.Mend = fmt.Sprintf("sudo sysctl -w kernel.perf_event_paranoid=%d, and that line in a file of /etc/sysctl.d; in Kubernetes on the node, or have the kustomization's component paranoid", mostParanoid)
		return c
	}
	return check{Name: c.Name, Status: statusOK, Detail: value + ", does not bind CAP_PERFMON"}
}
