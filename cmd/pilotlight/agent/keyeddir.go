package agent

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pilotlight/cmd/pilotlight/process"
)

const (
	// A file so old that was not given its name belongs to an agent that died.
	staleTemporary = time.Hour
	temporary      = "tmp-"
)

// keyedDir is a directory within the cache directory, of files named by the key of
// the file that they were made from. A file appears under its name when it is
// complete; its modification time is when it was used last. Several agents may
// share a directory, and it may be removed at any time. A keyedDir belongs to one
// goroutine.
type keyedDir struct {
	parent, name string
	dir          *os.Root
	limit        int64
	size         int64 // bytes of the files, as far as this agent knows
}

// errNotCached is the error of a file that is not there.
var errNotCached = errors.New("not in the cache")

// errNoFile is the error of what is there in place of a file.
var errNoFile = errors.New("not a regular file")

// openKeyedDir opens the directory of a name in parent, and makes what is missing of
// it. What the agent reads there it believes, so the directory must be this user's
// and nobody else may write it.
func openKeyedDir(parent, name string, limit int64) (*keyedDir, error) {
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, fmt.Errorf("make cache directory: %w", err)
	}
	path := filepath.Join(parent, name)
	root, err := openWithin(parent, name)
	if err != nil {
		return nil, fmt.Errorf("open cache directory %s: %w", path, err)
	}
	c := &keyedDir{parent: parent, name: name, dir: root, limit: limit}
	if err = c.check(); err == nil {
		err = c.evict()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cache directory %s: %w", path, err), root.Close())
	}
	return c, nil
}

// reopen makes the directory again.
func (c *keyedDir) reopen() error {
	again, err := openKeyedDir(c.parent, c.name, c.limit)
	if err != nil {
		return err
	}
	gone := c.dir
	*c = *again
	return gone.Close()
}

// openWithin opens the directory of a name in dir, and makes it. A link that leads
// out of dir is not followed: others may have made dir, and a full cache removes files.
func openWithin(dir, name string) (*os.Root, error) {
	parent, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer parent.Close() // nothing was written
	if err := parent.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return parent.OpenRoot(name)
}

// check looks at the directory that is open: what the path leads to may change.
func (c *keyedDir) check() error {
	info, err := c.dir.Stat(".")
	if err != nil {
		return err
	}
	return checkOwner(info, os.Geteuid())
}

// CheckCacheDir says what keeps an agent that runs as the user uid from using dir as its cache directory.
// One that is not there is made when it is wanted, and what is root's is given to the agent by [GiveCacheDir].
func CheckCacheDir(dir string, uid int) error {
	parent, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	for _, name := range []string{tablesName, indexesName} {
		info, err := parent.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = checkOwner(info, os.Geteuid(), uid)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(dir, name), err)
		}
	}
	return nil
}

// GiveCacheDir makes what an agent keeps its files in below dir, and has it and the directories of these other names be
// the user uid's, as far as they are this user's and nobody else may write them.
func GiveCacheDir(dir string, uid, gid int, others ...string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make cache directory: %w", err)
	}
	parent, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open cache directory: %w", err)
	}
	defer parent.Close() // nothing is written through it
	for _, name := range []string{tablesName, indexesName} {
		if err := parent.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make cache directory: %w", err)
		}
		others = append(others, name)
	}
	for _, name := range others {
		sub, err := parent.OpenRoot(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = errors.Join(giveAll(sub, uid, gid), sub.Close())
		}
		if err != nil {
			return fmt.Errorf("give %s to user %d: %w", filepath.Join(dir, name), uid, err)
		}
	}
	return nil
}

// giveAll gives a directory with its files to a user, unless it is the user's.
func giveAll(dir *os.Root, uid, gid int) error {
	info, err := dir.Stat(".")
	if err != nil {
		return err
	}
	if checkOwner(info, uid) == nil {
		return nil
	}
	if err := checkOwner(info, os.Geteuid()); err != nil { // or its files may be links to others' (link(2))
		return err
	}
	entries, err := fs.ReadDir(dir.FS(), ".")
	for _, e := range entries {
		if err == nil && e.Type().IsRegular() {
			err = dir.Lchown(e.Name(), uid, gid)
		}
	}
	if err == nil {
		err = dir.Lchown(".", uid, gid) // last: from now on it is theirs
	}
	return err
}

// checkOwner reports what is wrong with a directory that is to be one user's of owners and nobody else's.
func checkOwner(info fs.FileInfo, owners ...int) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return errors.ErrUnsupported
	case !info.IsDir():
		return errors.New("not a directory")
	case !slices.Contains(owners, int(st.Uid)):
		return fmt.Errorf("belongs to user %d, not to %d", st.Uid, owners[len(owners)-1])
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("others may write it (mode %v)", info.Mode().Perm())
	}
	return nil
}

// open opens the file of a key and notes that it was used. The error is
// errNotCached if there is none.
func (c *keyedDir) open(key process.FileKey) (*os.File, int64, error) {
	name := key.String()
	// Not to wait for the other end of a pipe.
	f, err := c.dir.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, errNotCached
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: its mode is %v", errNoFile, info.Mode())
	}
	if err == nil {
		now := time.Now()
		err = c.dir.Chtimes(name, now, now)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// remove removes whatever has the name of a key.
func (c *keyedDir) remove(key process.FileKey) error { return c.dir.RemoveAll(key.String()) }

// create makes a file that keep gives the name of a key, or discard removes.
func (c *keyedDir) create(key process.FileKey) (*os.File, error) {
	name := c.temporary(key)
	if err := c.dir.RemoveAll(name); err != nil { // of an agent that had this pid and died
		return nil, err
	}
	const flags = os.O_RDWR | os.O_CREATE | os.O_EXCL
	f, err := c.dir.OpenFile(name, flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) { // somebody has removed the directory
		if err = c.reopen(); err == nil {
			f, err = c.dir.OpenFile(name, flags, 0o600)
		}
	}
	return f, err
}

func (c *keyedDir) temporary(key process.FileKey) string {
	return temporary + strconv.Itoa(os.Getpid()) + "-" + key.String()
}

// discard removes a file that create made.
func (c *keyedDir) discard(key process.FileKey) error { return c.dir.Remove(c.temporary(key)) }

// keep gives a file of size bytes that create made its name, and removes others if
// there is no room for all.
func (c *keyedDir) keep(key process.FileKey, size int64) error {
	if err := c.dir.Rename(c.temporary(key), key.String()); err != nil {
		return errors.Join(err, c.discard(key))
	}
	if c.size += size; c.size > c.limit {
		return c.evict()
	}
	return nil
}

// evict counts the files anew and removes those that were not used for longest,
// to a quarter below the limit, and what other agents left half written.
func (c *keyedDir) evict() error {
	entries, err := fs.ReadDir(c.dir.FS(), ".")
	if err != nil {
		return fmt.Errorf("list cache: %w", err)
	}
	var files []fs.FileInfo
	c.size = 0
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || !isOurs(info.Name()) {
			continue
		}
		if strings.HasPrefix(info.Name(), temporary) && time.Since(info.ModTime()) < staleTemporary {
			continue
		}
		c.size += info.Size()
		files = append(files, info)
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	full := c.size > c.limit
	for _, info := range files {
		if !strings.HasPrefix(info.Name(), temporary) && (!full || c.size <= c.limit/4*3) {
			continue
		}
		if err := c.dir.Remove(info.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove from cache: %w", err)
		}
		c.size -= info.Size()
	}
	return nil
}

// isOurs reports whether an agent gives a file such a name.
func isOurs(name string) bool {
	_, err := hex.DecodeString(name)
	return strings.HasPrefix(name, temporary) || err == nil && len(name) == 2*len(process.FileKey{})
}

func (c *keyedDir) close() error { return c.dir.Close() }
