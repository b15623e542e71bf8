package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"pilotlight/cmd/pilotlight/agent"
)

// What Pilotlight takes: by default, the agent with the kernel's maps at most, and the store while it answers a large query.
const (
	agentMemory = 256 << 20
	queryMemory = 512 << 20
)

// checkMemory compares what is available with what the agent and a query take.
func checkMemory(root fs.FS) check {
	c := check{Name: "memory", Status: statusFail}
	meminfo, err := text(root, "proc/meminfo")
	if err != nil {
		c.Detail = err.Error()
		c.Mend = "mount /proc"
		return c
	}
	available, err := parseAvailable(meminfo)
	switch {
	case err != nil:
		c.Detail = "/proc/meminfo: " + err.Error()
		c.Mend = "mount the kernel's own /proc"
	case available < agentMemory:
		c.Detail = fmt.Sprintf("%s available, sampling takes up to %s", humanize.Bytes(available), humanize.Bytes(agentMemory))
		c.Mend = fmt.Sprintf("free %s or add memory", humanize.Bytes(agentMemory-available))
	case available < agentMemory+queryMemory:
		c.Status = statusWarn
		c.Detail = fmt.Sprintf("%s available, a large query takes up to %s beside %s for sampling", humanize.Bytes(available), humanize.Bytes(queryMemory), humanize.Bytes(agentMemory))
		c.Mend = fmt.Sprintf("free %s or add memory", humanize.Bytes(agentMemory+queryMemory-available))
	default:
		return check{Name: c.Name, Status: statusOK, Detail: humanize.Bytes(available) + " available"}
	}
	return c
}

// parseAvailable returns the bytes that /proc/meminfo calls available.
func parseAvailable(meminfo string) (uint64, error) {
	for line := range strings.Lines(meminfo) {
		if value, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 54)
			if err != nil {
				return 0, fmt.Errorf("line %q: %w", strings.TrimSpace(line), err)
			}
			return kib << 10, nil
		}
	}
	return 0, errors.New("no line MemAvailable")
}

// disk is what there is of a data directory.
type disk struct {
	dir      string // the data directory
	existing string // itself, or the nearest parent that is there
	isDir    bool   // existing is a directory
	writer   int    // the user that the store will be
	writable error  // whether existing may be written: the directory by writer, a parent by this process
	free     uint64 // bytes for ordinary users
	used     uint64 // bytes of the files in dir
	err      error  // of finding out
}

// lookAtDisk makes and writes nothing. The store is to run as owner, or as this process if that is nil.
func lookAtDisk(dir string, owner *syscall.Credential) (d disk) {
	d = disk{dir: dir, existing: dir, writer: os.Geteuid()}
	if owner != nil {
		d.writer = int(owner.Uid)
	}
	var info unix.Stat_t
	for {
		err := unix.Stat(d.existing, &info)
		if err == nil {
			d.isDir = info.Mode&unix.S_IFMT == unix.S_IFDIR
			break
		}
		err = &fs.PathError{Op: "stat", Path: d.existing, Err: err}
		if !errors.Is(err, fs.ErrNotExist) || d.existing == filepath.Dir(d.existing) {
			d.err = err
			return d
		}
		d.existing = filepath.Dir(d.existing)
	}
	// The effective user counts: access(2) would ask for the real one, and forget file capabilities.
	d.writable = unix.Faccessat(unix.AT_FDCWD, d.existing, unix.W_OK|unix.X_OK, unix.AT_EACCESS)
	if d.writable == nil && d.existing == dir && owner != nil && !mayWrite(&info, owner) {
		d.writable = unix.EACCES
	}
	var fsys unix.Statfs_t
	if d.err = unix.Statfs(d.existing, &fsys); d.err != nil {
		return d
	}
	d.free = fsys.Bavail * uint64(fsys.Frsize)
	if d.existing == dir && d.isDir && d.writable == nil {
		d.used, d.err = bytesIn(dir)
	}
	return d
}

// mayWrite reports whether a directory's mode lets an ordinary user make files there.
func mayWrite(info *unix.Stat_t, user *syscall.Credential) bool {
	const writeAndEnter = 0o3
	mode := info.Mode
	switch {
	case info.Uid == user.Uid:
		mode >>= 6
	case info.Gid == user.Gid:
		mode >>= 3
	}
	return mode&writeAndEnter == writeAndEnter
}

// bytesIn returns the bytes of the files below dir. Those that go while it looks count nothing.
func bytesIn(dir string) (n uint64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return ignoreNotExist(err)
		}
		info, err := entry.Info()
		if err != nil {
			return ignoreNotExist(err)
		}
		n += uint64(info.Size())
		return nil
	})
	return n, err
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// How much the store wants: at least what one window and its WAL take, and by default up to its retention.
const (
	leastDisk     = 256 << 20
	retentionDisk = 10_000_000_000
)

// checkDisk says whether the store can write its directory, and as much as it keeps by default.
func checkDisk(d disk) check {
	c := check{Name: "data directory", Status: statusFail}
	switch {
	case d.err != nil:
		c.Detail = d.err.Error()
		c.Mend = "give another directory with --data"
	case !d.isDir:
		c.Detail = d.existing + " is not a directory"
		c.Mend = "give another directory with --data"
	case errors.Is(d.writable, unix.EROFS):
		c.Detail = d.existing + " is on a read-only file system"
		c.Mend = "give another directory with --data, or mount it writable"
	case d.writable != nil:
		c.Detail = fmt.Sprintf("user %d may not write %s: %v", d.writer, d.existing, d.writable)
		c.Mend = fmt.Sprintf("sudo install -d -o %d -m 0750 %s, or give another directory with --data", d.writer, d.dir)
		if d.existing == d.dir {
			c.Mend = fmt.Sprintf("give another directory with --data; or, if this one is pilotlight's alone: sudo chown -R %d %s", d.writer, d.dir)
		}
	case d.free < leastDisk:
		c.Detail = fmt.Sprintf("%s: %s free, the store needs %s", d.dir, humanize.Bytes(d.free), humanize.Bytes(leastDisk))
		c.Mend = "free space, or give another directory with --data"
	case d.free+d.used < retentionDisk:
		c.Status = statusWarn
		c.Detail = fmt.Sprintf("%s: %s free, the store keeps up to 10 GB", d.dir, humanize.Bytes(d.free))
		// A tenth is left to the others on that file system.
		c.Mend = fmt.Sprintf("pilotlight run --retention-size %dMB, or free space", (d.free+d.used)/10*9/1e6)
	default:
		c.Status = statusOK
		c.Detail = fmt.Sprintf("%s: %s free", d.dir, humanize.Bytes(d.free))
		if d.existing != d.dir {
			c.Detail += fmt.Sprintf(", will be made in %s", d.existing)
		}
	}
	return c
}

// leastCache is what the unwind tables of an ordinary machine's programs take.
const leastCache = 32 << 20

// checkCache says whether unwind tables can be kept on disk; without that they are built anew at each start. unusable
// is what the agent objects to.
func checkCache(d disk, unusable error) check {
	c := check{Name: "cache directory", Status: statusWarn, Mend: "give another directory with --cache"}
	switch {
	case d.err != nil:
		c.Detail = d.err.Error()
	case unusable != nil:
		c.Detail = unusable.Error()
		c.Mend = "give a directory that is pilotlight's alone with --cache"
	case !d.isDir:
		c.Detail = d.existing + " is not a directory"
	case d.writable != nil:
		c.Detail = fmt.Sprintf("user %d may not write %s: %v", d.writer, d.existing, d.writable)
	case d.free < leastCache:
		c.Detail = fmt.Sprintf("%s: %s free, unwind tables take %s", d.dir, humanize.Bytes(d.free), humanize.Bytes(leastCache))
		c.Mend = "free space, or give another directory with --cache"
	default:
		return check{Name: c.Name, Status: statusOK, Detail: fmt.Sprintf("%s: %s free", d.dir, humanize.Bytes(d.free))}
	}
	return c
}

// filesMend raises the hard limit: Go has raised the soft limit to it already.
const filesMend = "ulimit -n 65536; in systemd: LimitNOFILE=65536"

// checkFiles compares the limit of open files with what the agent holds for each CPU, and for the programs and
// connections it has open at a time.
func checkFiles(limit uint64, cpus int) check {
	const perCPU, others = 8, agent.MaxOpenFiles + 512
	need := uint64(perCPU*cpus + others)
	if limit < need {
		return check{"open files", statusFail, fmt.Sprintf("at most %d, %d CPUs take up to %d", limit, cpus, need), filesMend}
	}
	return check{Name: "open files", Status: statusOK, Detail: fmt.Sprintf("at most %d, %d are needed", limit, need)}
}
