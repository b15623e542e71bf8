package profilestore

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// fileSystem is what a store needs of the operating system: osFS, or one of the tests that loses power, fills up
// and fails.
type fileSystem interface {
	Create(name string) (file, error) // fails if it exists
	Open(name string) (file, error)   // for reading
	ReadFile(name string) ([]byte, error)
	ReadDir(name string) ([]string, error) // names, sorted; an error that is fs.ErrNotExist if it is not there
	Mkdir(name string) error               // no error if it exists
	Rename(from, to string) error
	Remove(name string) error    // no error if it does not exist
	RemoveAll(name string) error // as os.RemoveAll
	SyncDir(name string) error   // makes what was created, renamed and removed in it survive a power loss
}

type file interface {
	io.ReaderAt
	io.Writer
	io.Closer
	Sync() error
	Truncate(size int64) error
	Size() (int64, error)
}

type osFS struct{}

type osFile struct{ *os.File }

var errDeleted = errors.New("the file was deleted by somebody else")

// Sync is an error when the file has no name any more: what it holds would be gone with the process.
func (f osFile) Sync() error {
	if err := f.File.Sync(); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink == 0 {
		return &os.PathError{Op: "sync", Path: f.Name(), Err: errDeleted}
	}
	return nil
}

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (osFS) Create(name string) (file, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) Open(name string) (file, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) ReadFile(name string) ([]byte, error) { return os.ReadFile(name) }

func (osFS) ReadDir(name string) ([]string, error) {
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (osFS) Mkdir(name string) error {
	err := os.Mkdir(name, 0o750)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

func (osFS) Rename(from, to string) error { return os.Rename(from, to) }

func (osFS) Remove(name string) error {
	err := os.Remove(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func (osFS) RemoveAll(name string) error { return os.RemoveAll(name) }

func (osFS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// writeFile makes a file appear whole or not at all.
func writeFile(fs fileSystem, path string, b []byte) error {
	tmp := path + tmpSuffix
	if err := fs.Remove(tmp); err != nil {
		return err
	}
	f, err := fs.Create(tmp)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, fs.Remove(tmp))
	}
	if err := fs.Rename(tmp, path); err != nil {
		return err
	}
	return fs.SyncDir(filepath.Dir(path))
}

// tmpSuffix marks what was not finished at a crash: it is removed at the next start.
const tmpSuffix = ".tmp"
