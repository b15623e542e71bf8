package profilestore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
)

// OpenReadOnly opens what a directory holds at this moment, to be asked and not added to: [Store.Append] is refused.
// It takes no lock and writes nothing, so that it may be used on the directory of a running store, on one of
// another user, and on a backup. What that store gets later is not seen, and nothing is deleted for its age. Of the
// options QueryBytes, MemoryBytes and Registerer count. A directory that is no store, or has another format, is
// refused.
func OpenReadOnly(dir string, o Options) (_ *Store, err error) {
	o = o.withDefaults()
	o.MaxSeries = math.MaxInt
	if err := readable(dir); err != nil {
		return nil, fmt.Errorf("read store %s: %w", dir, err)
	}
	moment, err := takeSnapshot(dir)
	if err != nil {
		return nil, fmt.Errorf("read store %s: %w", dir, err)
	}
	o.fs = moment
	s := newStore(dir, o)
	s.snapshot = moment
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("read store %s: %w", dir, err), s.closeFiles())
		}
	}()
	if s.metrics, err = newMetrics(o.Registerer, s.countCaches, s.countSeries); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return s, s.load()
}

// readable refuses what [Store.load] would not understand.
func readable(dir string) error {
	version, err := readFormat(osFS{}, dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, serr := os.Stat(dir); serr != nil {
			return serr
		}
		return &Error{Code: BadRequest, Message: "it has no file " + formatFile + " and is not a profile store: name a data directory"}
	case err != nil:
		return err
	case version < formatVersion:
		return &Error{Code: BadRequest, Message: fmt.Sprintf("it has format %d, and is read in format %d: start pilotlight on it once, which makes it one of that", version, formatVersion)}
	}
	return nil
}

// snapshot is the files of a store as they were at one moment, held open: what its owner deletes meanwhile can still
// be read. It is the fileSystem of a store that only reads: changes are left undone, and the store goes on as if they
// were done.
type snapshot struct {
	names map[string][]string // of directories
	files map[string]osFile
}

// takeSnapshot opens all files, again when one came or went meanwhile: names are never used twice, so that all of them
// were there together if the lists before and after are the same.
func takeSnapshot(dir string) (*snapshot, error) {
	const tries = 20 // more than a store that writes blocks all the time needs
	for range tries {
		s := &snapshot{names: make(map[string][]string), files: make(map[string]osFile)}
		err := s.list(dir)
		before := s.names
		if err == nil {
			err = s.open()
		}
		if err == nil {
			s.names = make(map[string][]string)
			err = s.list(dir)
		}
		if err == nil && maps.EqualFunc(before, s.names, slices.Equal) {
			return s, nil
		}
		if cerr := s.close(); cerr != nil || err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(err, cerr)
		}
	}
	return nil, &Error{Code: Unavailable, Message: "its files come and go faster than they can be opened: try again"}
}

// list reads the names of finished files. A directory that is not there has none.
func (s *snapshot) list(dir string) error {
	for _, kind := range []string{walDir, symbolsDir, blocksDir} {
		path := filepath.Join(dir, kind)
		names, err := osFS{}.ReadDir(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		names = slices.DeleteFunc(names, func(name string) bool {
			_, ok := sequence(name)
			return !ok
		})
		s.names[path] = names
		if kind == walDir {
			continue
		}
		for _, name := range names {
			sub := filepath.Join(path, name)
			if s.names[sub], err = (osFS{}).ReadDir(sub); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *snapshot) open() error {
	for dir, names := range s.names {
		for _, name := range names {
			path := filepath.Join(dir, name)
			if s.names[path] != nil {
				continue // a directory
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			s.files[path] = osFile{f}
		}
	}
	return nil
}

func (s *snapshot) close() error {
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// heldFile is closed with its snapshot.
type heldFile struct{ osFile }

func (heldFile) Close() error { return nil }

func (s *snapshot) Open(name string) (file, error) {
	f, ok := s.files[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return heldFile{f}, nil
}

func (s *snapshot) ReadFile(name string) ([]byte, error) {
	f, err := s.Open(name)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(f, 0, size))
}

func (s *snapshot) ReadDir(name string) ([]string, error) { return s.names[name], nil }

func (s *snapshot) Create(name string) (file, error) {
	return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrPermission}
}

func (*snapshot) Mkdir(string) error          { return nil }
func (*snapshot) Rename(string, string) error { return nil }
func (*snapshot) Remove(string) error         { return nil }
func (*snapshot) RemoveAll(string) error      { return nil }
func (*snapshot) SyncDir(string) error        { return nil }
