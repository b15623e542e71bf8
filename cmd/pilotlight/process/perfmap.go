package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// errNotOwner is the error of a file that another user made for a process.
var errNotOwner = errors.New("belongs to another user than the process")

// jitdump returns the path of the jitdump that p writes, or "": for others to find
// it, a runtime maps the file jit-PID.dump as if it were code.
func (p *Process) jitdump() string {
	for _, m := range p.Mappings {
		if base := baseName(m.Path); m.Kind == FileBacked && strings.HasPrefix(base, "jit-") && strings.HasSuffix(base, ".dump") {
			return m.Path
		}
	}
	return ""
}

// OpenPerfMap opens the file in which the runtime of p names the code that it
// compiled: the jitdump that it has mapped, or else /tmp/perf-PID.map, with the pid
// that p knows itself by; both below the root of p. It has to be a regular file of
// the user whom p runs as. procRoot is the path of the directory that proc is
// ("/proc"). The error wraps fs.ErrNotExist if there is no such file.
func OpenPerfMap(proc fs.FS, procRoot string, p *Process) (*os.File, error) {
	status, err := readFile(proc, p.PID, "status", maxStat)
	if err != nil {
		return nil, fmt.Errorf("read status of process %d: %w", p.PID, err)
	}
	pid, uid, err := parseStatus(status)
	if err != nil {
		return nil, fmt.Errorf("parse status of process %d: %w", p.PID, err)
	}
	path := p.jitdump()
	if path == "" {
		path = "tmp/perf-" + pid + ".map"
	}
	root, err := OpenRoot(proc, procRoot, p.Key)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(strings.TrimPrefix(path, "/"))
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != uid {
			err = fmt.Errorf("%s: %w", f.Name(), errNotOwner)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// parseStatus returns the pid that a process has in its own pid namespace and its
// effective user, of /proc/PID/status (proc_pid_status(5)).
func parseStatus(status []byte) (pid string, uid uint32, err error) {
	found := 0
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		switch {
		case name == "NSpid" && len(fields) > 0:
			pid = fields[len(fields)-1]
			if _, err := strconv.ParseUint(pid, 10, 32); err != nil {
				return "", 0, err
			}
			found |= 1
		case name == "Uid" && len(fields) == 4:
			n, err := strconv.ParseUint(fields[1], 10, 32)
			if err != nil {
				return "", 0, err
			}
			uid = uint32(n)
			found |= 2
		}
	}
	if found != 3 {
		return "", 0, errors.New("no NSpid or Uid")
	}
	return pid, uid, nil
}

// FramePointers reports whether code that p compiled while it runs keeps frame
// pointers, as all generators of code are taken to do but Java's: that does when it
// is told to on its command line.
func (p *Process) FramePointers() bool {
	return !p.JVM() || slices.Contains(p.Cmdline, "-XX:+PreserveFramePointer")
}
