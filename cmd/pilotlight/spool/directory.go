package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// fileSystem is what a spool needs of the operating system, in one directory: an
// osDirectory, or one of the tests that loses power and fills up.
type fileSystem interface {
	list() ([]entry, error)
	write(name string, b []byte) error // makes a file that is not there; when it returns its content is on disk
	read(name string, atMost int64) ([]byte, error)
	rename(from, to string) error
	remove(name string) error // no error if it is not there
	sync() error              // when it returns the names are on disk
	close() error
}

type entry struct {
	name  string
	bytes int64
}

// osDirectory is a directory that this process alone uses as a spool.
type osDirectory struct {
	root *os.Root
	dir  *os.File // the same, locked
}

// errInUse is the error of a directory that another process uses.
var errInUse = errors.New("another pilotlight uses it: stop that, or name another directory with --data")

func openDirectory(path string) (*osDirectory, error) {
	err := os.Mkdir(path, 0o700)
	if err == nil {
		err = syncDirectory(filepath.Dir(path)) // or it would be gone after a power loss, with all that is in it
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	dir, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	d := &osDirectory{root, dir}
	err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB) // it ends with the process
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = errInUse
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), d.close())
	}
	return d, nil
}

func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (d *osDirectory) list() ([]entry, error) {
	found, err := fs.ReadDir(d.root.FS(), ".")
	if err != nil {
		return nil, err
	}
	var entries []entry
	for _, e := range found {
		if !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry{e.Name(), info.Size()})
	}
	return entries, nil
}

func (d *osDirectory) write(name string, b []byte) error {
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (d *osDirectory) read(name string, atMost int64) ([]byte, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, atMost))
}

func (d *osDirectory) rename(from, to string) error { return d.root.Rename(from, to) }

func (d *osDirectory) remove(name string) error {
	err := d.root.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (d *osDirectory) sync() error { return d.dir.Sync() }

func (d *osDirectory) close() error { return errors.Join(d.dir.Close(), d.root.Close()) }
