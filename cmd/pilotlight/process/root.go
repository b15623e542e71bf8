package process

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Root is the file system as a process sees it, for reading: an fs.FS whose names
// may begin with "/" too. No symbolic link leads out of it. What is no regular
// file it refuses, without opening it; what it opens is an *os.File.
//
// It needs CAP_SYS_PTRACE for processes of other users and Linux 5.6. As with
// Host, a file system of a hostile user can make it wait without end.
type Root struct {
	dir *os.File // O_PATH
}

// OpenRoot opens the root directory of p below procRoot, which is the path of the
// directory that proc is ("/proc"). The error wraps fs.ErrNotExist if p is gone.
// The Root stays that of p when p has gone.
func OpenRoot(proc fs.FS, procRoot string, p Key) (*Root, error) {
	r, err := OpenRootDir(filepath.Join(procRoot, strconv.FormatUint(uint64(p.PID), 10), "root"))
	if err != nil {
		return nil, err
	}
	if _, ok := statOf(proc, p); !ok {
		r.Close() // it may be that of the next bearer of the pid
		return nil, fmt.Errorf("root of process %d: %w", p.PID, errNoWay)
	}
	return r, nil
}

// OpenRootDir opens the directory at path, such as "/", as a Root.
func OpenRootDir(path string) (*Root, error) {
	fd, err := retry(func() (int, error) { return unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: gone(err)}
	}
	return &Root{os.NewFile(uintptr(fd), path)}, nil
}

// Open implements fs.FS.
func (r *Root) Open(name string) (fs.File, error) {
	f, err := r.OpenFile(name)
	if err != nil {
		return nil, err // not a nil *os.File in an fs.File
	}
	return f, nil
}

// OpenFile is Open with the type of what it returns.
func (r *Root) OpenFile(name string) (*os.File, error) {
	return openRegular(int(r.dir.Fd()), name, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

// Dir returns the directory, for who is to be handed it. It is closed with r.
func (r *Root) Dir() *os.File { return r.dir }

// Close closes the directory. Files that were opened stay open.
func (r *Root) Close() error { return r.dir.Close() }
