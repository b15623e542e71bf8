package process

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"syscall"
)

// JVM reports whether p runs a Java virtual machine.
func (p *Process) JVM() bool { return hasJVM(p.Mappings) }

func hasJVM(ms Mappings) bool {
	for _, m := range ms {
		if m.Kind == FileBacked && baseName(m.Path) == "libjvm.so" {
			return true
		}
	}
	return false
}

// JVM is what it takes to ask a Java virtual machine something.
type JVM struct {
	PID  string // what it calls itself
	User syscall.Credential
}

// FindJVM returns the JVM of a process that can be asked: one that takes SIGQUIT, which ends others. The error says why
// there is none.
func FindJVM(proc fs.FS, p Key) (JVM, error) {
	maps, _, err := readMaps(proc, p.PID, defaultMaxMappingsPerProcess)
	if err != nil {
		return JVM{}, fmt.Errorf("read mappings of process %d: %w", p.PID, err)
	}
	status, err := readFile(proc, p.PID, "status", maxStat)
	if err != nil {
		return JVM{}, fmt.Errorf("read status of process %d: %w", p.PID, err)
	}
	jvm, err := parseJVM(status)
	switch _, alive := statOf(proc, p); {
	case !alive:
		return JVM{}, fmt.Errorf("process %d: %w", p.PID, errNoWay)
	case !hasJVM(maps):
		return JVM{}, fmt.Errorf("process %d runs no JVM", p.PID)
	case err != nil:
		return JVM{}, fmt.Errorf("status of process %d: %w", p.PID, err)
	}
	return jvm, nil
}

// errQuits is the error of a JVM that SIGQUIT ends.
var errQuits = errors.New("the JVM does not take SIGQUIT: it was started with -Xrs, or does not run yet")

// parseJVM reads /proc/PID/status (proc_pid_status(5)).
func parseJVM(status []byte) (JVM, error) {
	pid, uid, err := parseStatus(status)
	if err != nil {
		return JVM{}, err
	}
	jvm := JVM{PID: pid, User: syscall.Credential{Uid: uid}}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		switch {
		case name == "Gid" && len(fields) == 4:
			gid, err := strconv.ParseUint(fields[1], 10, 32)
			if err != nil {
				return JVM{}, err
			}
			jvm.User.Gid = uint32(gid)
		case name == "SigCgt" && len(fields) == 1:
			caught, err := strconv.ParseUint(fields[0], 16, 64)
			if err != nil {
				return JVM{}, err
			}
			if caught&(1<<(syscall.SIGQUIT-1)) == 0 {
				return JVM{}, errQuits
			}
			return jvm, nil // comes behind Gid
		}
	}
	return JVM{}, errors.New("no SigCgt")
}
