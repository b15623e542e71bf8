package agent

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pilotlight/cmd/pilotlight/process"
	"pilotlight/unwind"
)

const (
	// cacheBytes is what the tables on disk take at most; those of a large
	// distribution's programs take a tenth.
	cacheBytes = 256 << 20
	// maxCachedTable is more than any table has that fits into the kernel.
	maxCachedTable = 64 << 20
	// A file so old that was not given its name belongs to an agent that died.
	staleTemporary = time.Hour
	temporary      = "tmp-"
	tablesName     = "unwind" // of the directory within the cache directory
)

// tableCache keeps unwind tables on disk, in files named by the key of the file
// that a table was built from. A file appears under its name when it is complete;
// its modification time is when it was used last. Several agents may share a
// directory. A tableCache belongs to one goroutine.
type tableCache struct {
	dir   *os.Root
	limit int64
	size  int64 // bytes of the files, as far as this agent knows

	failed bool // the last table could not be kept
}

// errNotCached is the error of a table that is not there.
var errNotCached = errors.New("not in the cache")

// openTableCache opens the cache in dir/unwind, and makes what is missing of it.
// What the agent reads there it believes, so the directory must be this user's
// and nobody else may write it.
func openTableCache(dir string, limit int64) (*tableCache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make cache directory: %w", err)
	}
	path := tablesIn(dir)
	root, err := openTablesDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open cache directory %s: %w", path, err)
	}
	c := &tableCache{dir: root, limit: limit}
	if err = c.check(); err == nil {
		err = c.evict()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cache directory %s: %w", path, err), root.Close())
	}
	return c, nil
}

// openTablesDir opens the directory of tables in dir, and makes it. A link that leads
// out of dir is not followed: others may have made dir, and a full cache removes files.
func openTablesDir(dir string) (*os.Root, error) {
	parent, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer parent.Close() // nothing was written
	if err := parent.Mkdir(tablesName, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return parent.OpenRoot(tablesName)
}

// check looks at the directory that is open: what the path leads to may change.
func (c *tableCache) check() error {
	info, err := c.dir.Stat(".")
	if err != nil {
		return err
	}
	return checkOwner(info)
}

// CheckCacheDir says what keeps an agent from using dir as its cache directory.
// One that is not there is made when it is wanted.
func CheckCacheDir(dir string) error {
	parent, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	info, err := parent.Stat(tablesName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := checkOwner(info); err != nil {
		return fmt.Errorf("%s: %w", tablesIn(dir), err)
	}
	return nil
}

func tablesIn(dir string) string { return filepath.Join(dir, tablesName) }

func checkOwner(info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return errors.ErrUnsupported
	case !info.IsDir():
		return errors.New("not a directory")
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("belongs to user %d, not to %d", st.Uid, os.Geteuid())
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("others may write it (mode %v)", info.Mode().Perm())
	}
	return nil
}

// get returns the table of a file, or errNotCached. One that cannot be read is
// removed.
func (c *tableCache) get(key process.FileKey) (*unwind.Table, error) {
	name := key.String()
	table, err := c.read(name)
	now := time.Now()
	if err == nil {
		err = c.dir.Chtimes(name, now, now)
	}
	switch {
	case err == nil:
		return table, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, errNotCached
	case errors.Is(err, unwind.ErrTableVersion): // another version of the agent wrote it
		return nil, errors.Join(errNotCached, c.dir.Remove(name))
	}
	// Whatever it is, it is in the way of the table that will be built.
	return nil, errors.Join(fmt.Errorf("read table %s: %w", name, err), c.dir.RemoveAll(name))
}

func (c *tableCache) read(name string) (table *unwind.Table, err error) {
	// Not to wait for the other end of a pipe.
	f, err := c.dir.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxCachedTable {
		return nil, fmt.Errorf("%w: it is %d bytes of mode %v", unwind.ErrTableDamaged, info.Size(), info.Mode())
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, err
	}
	return unwind.ReadTable(data)
}

// put keeps a table.
func (c *tableCache) put(key process.FileKey, table *unwind.Table) error {
	data, err := table.AppendBinary(nil)
	if err != nil {
		return fmt.Errorf("keep table: %w", err)
	}
	name := temporary + strconv.Itoa(os.Getpid()) + "-" + key.String()
	// Not synced: a file that a crash has cut has a wrong checksum, and is built again.
	err = c.dir.WriteFile(name, data, 0o600)
	if err == nil {
		err = c.dir.Rename(name, key.String())
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keep table: %w", err), c.dir.Remove(name))
	}
	if c.size += int64(len(data)); c.size > c.limit {
		return c.evict()
	}
	return nil
}

// evict counts the files anew and removes those that were not used for longest,
// to a quarter below the limit, and what other agents left half written.
func (c *tableCache) evict() error {
	entries, err := fs.ReadDir(c.dir.FS(), ".")
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
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
			return fmt.Errorf("remove table: %w", err)
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

func (c *tableCache) close() error { return c.dir.Close() }
