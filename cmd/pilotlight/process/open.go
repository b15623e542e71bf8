package process

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Handle is an open regular file; *os.File is one.
type Handle interface {
	io.ReaderAt
	io.Closer
	Stat() (fs.FileInfo, error)
}

// Opener opens files of the host for Files. Open opens path itself and
// OpenBelow opens path as a process sees it whose root directory is root: no
// symbolic link leads out. Both refuse, without opening it, what is no regular
// file.
type Opener interface {
	Open(path string) (Handle, error)
	OpenBelow(root, path string) (Handle, error)
}

// Host is the Opener of this machine. It needs CAP_CHECKPOINT_RESTORE for
// map_files, CAP_SYS_PTRACE for the root of other users' processes and Linux 5.6.
//
// A file system of a hostile user (FUSE) or of a dead server can make it wait
// without end.
type Host struct{}

// Open opens path for reading.
func (Host) Open(path string) (Handle, error) {
	return openRegular(unix.AT_FDCWD, path, 0)
}

// OpenBelow opens path, taking root for "/".
func (Host) OpenBelow(root, path string) (Handle, error) {
	dir, err := retry(func() (int, error) { return unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	return openRegular(dir, path, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

// openRegular first takes a descriptor that only names the file, because
// opening a device or a FIFO may do something or wait, and opens it through
// that descriptor once it is known to be a regular file.
func openRegular(dir int, path string, resolve uint64) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: resolve}
	fd, err := retry(func() (int, error) { return unix.Openat2(dir, path, &how) })
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errNotRegular}
	}
	named := "/proc/self/fd/" + strconv.Itoa(fd)
	file, err := retry(func() (int, error) {
		return unix.Open(named, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(file), path), nil
}

var errNotRegular = errors.New("not a regular file")

// retry repeats a system call that a signal interrupted.
func retry(open func() (int, error)) (int, error) {
	for {
		fd, err := open()
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// OpenFile is an identified file that is open. The caller closes it.
type OpenFile struct {
	*File
	Handle
	stat statKey
}

// Files opens the files behind mappings and identifies them. It belongs to one
// goroutine, that of the Table whose Processes it is asked about.
type Files struct {
	proc  fs.FS
	root  string
	open  Opener
	known map[statKey]*File
	// recorded are the files behind records without a build ID.
	recorded map[record]recorded
	now      func() uint64 // CLOCK_MONOTONIC, ns
}

// record is what a record without a build ID says of a file.
type record struct {
	inode Inode
	path  string
}

// recorded is what stat said of a file, the same since a time.
type recorded struct {
	stat  statKey
	since uint64 // CLOCK_MONOTONIC, ns
}

// statKey is what stat(2) says of a file that has been identified, so that the
// next mapping of it costs no reading. All of it comes from stat of files that
// are open; the owner of a file can set everything but ctime, and a file system
// that lies about that one only lies about files of its own device.
type statKey struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// maxKnown bounds Files.known and Files.recorded; at the limit they are begun anew.
const maxKnown = 4096

// NewFiles returns a Files that reads process starts from proc, and opens files
// below root, which is the path of the same directory ("/proc"). open is Host{},
// or a test's.
func NewFiles(proc fs.FS, root string, open Opener) *Files {
	return &Files{proc: proc, root: root, open: open, known: make(map[statKey]*File), recorded: make(map[record]recorded), now: monotonic}
}

// ErrNoFile is returned for mappings that have no file: m.Openable is false.
var ErrNoFile = errors.New("mapping has no file")

// errNoWay is the error for a process that is gone, whose record has nothing to
// know its files by.
var errNoWay = fmt.Errorf("process is gone: %w", fs.ErrNotExist)

// These are the errors of files that are not the one that was mapped.
var (
	errBuildID = errors.New("build ID differs from that of the mapping")
	errChanged = errors.New("another file than the one that had the mapping's inode")
)

// Open opens and identifies the file behind m, a mapping of p, and remembers the
// outcome in m.Object, from where Object.File and Mapping.Addr take it; that p is
// gone it does not, as others share the Object. In turn it tries
//
//  1. /proc/PID/map_files/START-END, which is the mapped file itself, even if it
//     has been deleted, lies in another mount namespace or is a memfd. The range
//     is that of the VMA as it is now, if another than that of the record, and
//     PID that of another thread, if the leader has exited;
//  2. the path below /proc/PID/root, where another file may be by now;
//  3. the path on the host, for processes that are gone, if it has the build ID
//     that the kernel read when the file was mapped; where it read none, if it is,
//     unchanged, the file that was opened for another process's record of the
//     same inode and path. So a program without a build ID that ends too soon to
//     be looked at is known as long as one of its processes did not.
//
// Where the record has a build ID, a file must have the same in 1 and 2 too,
// because the process may have called exec, or its pid have a new bearer. The
// file is opened at each call: callers keep what they make of it by File.Key,
// and ask Object.File first.
func (f *Files) Open(p *Process, m Mapping) (*OpenFile, error) {
	if !m.Openable() {
		return nil, ErrNoFile
	}
	file, err := f.find(p, m)
	if err != nil {
		err = fmt.Errorf("open %s of process %d: %w", m.Path, p.PID, err)
		if m.file == nil && !errors.Is(err, errNoWay) { // another process of the lineage may yet be there
			m.err = err
		}
		return nil, err
	}
	m.file, m.err = file.File, nil
	return file, nil
}

func (f *Files) find(p *Process, m Mapping) (*OpenFile, error) {
	// Which way was closed, and why, is all of interest if none is open.
	failure := errNoWay
	try := func(h Handle, err error) *OpenFile {
		var file *OpenFile
		if err == nil {
			file, err = f.identify(h, m)
		}
		if err != nil {
			if failure == errNoWay {
				failure = err
			} else {
				failure = fmt.Errorf("%w; %w", failure, err)
			}
		}
		return file
	}
	named := m.Kind == FileBacked && strings.HasPrefix(m.Path, "/") && !strings.HasPrefix(m.Path, "//")

	if st, ok := statOf(f.proc, p.Key); ok {
		from := st.shownAs(f.proc, p.PID)
		base := f.root + "/" + strconv.FormatUint(uint64(from), 10)
		h, err := f.open.Open(mapFile(base, m.Start, m.End))
		if errors.Is(err, fs.ErrNotExist) {
			// The VMA may have been split or merged since. One of the same name is
			// of the same file, as far as a name can tell.
			if ms, _, merr := readMaps(f.proc, from, defaultMaxMappingsPerProcess); merr == nil {
				if now, ok := ms.within(m); ok {
					h, err = f.open.Open(mapFile(base, now.Start, now.End))
				}
			}
		}
		file := try(h, err)
		if file == nil && named && !m.Deleted {
			file = try(f.open.OpenBelow(base+"/root", m.Path))
		}
		if file != nil {
			if f.Alive(p.Key) {
				f.record(m, file)
				return file, nil
			}
			file.Close() // it may be that of the next bearer of the pid
		}
	}
	was, ok := f.knows(m)
	if named && (m.BuildID != "" || ok) {
		file := try(f.open.Open(m.Path))
		if file != nil && ok && file.stat != was {
			file.Close()
			return nil, errChanged
		}
		if file != nil {
			return file, nil
		}
	}
	return nil, failure
}

// record remembers what file a record without a build ID speaks of.
func (f *Files) record(m Mapping, file *OpenFile) {
	r := record{m.Inode, m.Path}
	if m.BuildID != "" || m.Inode.Number == 0 || f.recorded[r].stat == file.stat {
		return
	}
	if len(f.recorded) >= maxKnown {
		clear(f.recorded)
	}
	f.recorded[r] = recorded{file.stat, f.now()}
}

// knows returns what stat must say of the file behind m, if another process's
// record of it was opened. The number of an inode may have been that of an
// earlier file, which its generation tells; where there is none, it is the file
// only if that had been opened before this was mapped.
func (f *Files) knows(m Mapping) (statKey, bool) {
	if m.BuildID != "" {
		return statKey{}, false
	}
	was, ok := f.recorded[record{m.Inode, m.Path}]
	return was.stat, ok && (m.Inode.Generation != 0 || m.Mapped > was.since)
}

// monotonic returns the time that records are stamped with.
func monotonic() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return math.MaxUint64 // documented never to fail on Linux
	}
	return uint64(ts.Nano())
}

// Alive reports whether a process still bears its pid.
func (f *Files) Alive(k Key) bool {
	_, ok := statOf(f.proc, k)
	return ok
}

// statOf returns what /proc says of p, and false if it does not bear its pid any more.
func statOf(proc fs.FS, p Key) (stat, bool) {
	st, err := readStat(proc, p.PID)
	return st, err == nil && st.start/tick == p.Start/tick
}

func mapFile(base string, start, end uint64) string {
	return fmt.Sprintf("%s/map_files/%x-%x", base, start, end)
}

// within returns the mapping of ms that overlaps m and has its name.
func (ms Mappings) within(m Mapping) (Mapping, bool) {
	for _, now := range ms {
		if now.Start < m.End && m.Start < now.End && now.Path == m.Path {
			return now, true
		}
	}
	return Mapping{}, false
}

// identify makes an OpenFile of h, or closes it.
func (f *Files) identify(h Handle, m Mapping) (*OpenFile, error) {
	file, stat, err := f.lookup(h)
	if err == nil && m.BuildID != "" && file.BuildID != m.BuildID.String() {
		err = errBuildID
	}
	if err != nil {
		h.Close()
		return nil, err
	}
	return &OpenFile{File: file, Handle: h, stat: stat}, nil
}

// lookup returns what is known of a file. Its statKey is zero if the system does
// not say it.
func (f *Files) lookup(h Handle) (*File, statKey, error) {
	info, err := h.Stat()
	if err != nil {
		return nil, statKey{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		file, err := identify(h, info.Size())
		return file, statKey{}, err
	}
	key := statKey{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim}
	if file := f.known[key]; file != nil {
		return file, key, nil
	}
	file, err := identify(h, info.Size())
	if err != nil {
		return nil, statKey{}, err
	}
	if len(f.known) >= maxKnown {
		clear(f.known)
	}
	f.known[key] = file
	return file, key, nil
}
