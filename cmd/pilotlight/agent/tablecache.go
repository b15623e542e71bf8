package agent

import (
	"errors"
	"fmt"
	"io"

	"pilotlight/cmd/pilotlight/process"
	"pilotlight/unwind"
)

const (
	// cacheBytes is what the tables on disk take at most; those of a large
	// distribution's programs take a tenth.
	cacheBytes = 256 << 20
	// maxCachedTable is more than any table has that fits into the kernel.
	maxCachedTable = 64 << 20
	tablesName     = "unwind" // of the directory within the cache directory
)

// tableCache keeps unwind tables on disk. It belongs to one goroutine.
type tableCache struct {
	*keyedDir
	failed bool // the last table could not be kept
}

// openTableCache opens the cache in dir/unwind, and makes what is missing of it.
func openTableCache(dir string, limit int64) (*tableCache, error) {
	files, err := openKeyedDir(dir, tablesName, limit)
	if err != nil {
		return nil, err
	}
	return &tableCache{keyedDir: files}, nil
}

// get returns the table of a file, or errNotCached. One that cannot be read is
// removed.
func (c *tableCache) get(key process.FileKey) (*unwind.Table, error) {
	table, err := c.read(key)
	switch {
	case err == nil, errors.Is(err, errNotCached):
		return table, err
	case errors.Is(err, unwind.ErrTableVersion): // another version of the agent wrote it
		return nil, errors.Join(errNotCached, c.remove(key))
	}
	// Whatever it is, it is in the way of the table that will be built.
	return nil, errors.Join(fmt.Errorf("read table %v: %w", key, err), c.remove(key))
}

func (c *tableCache) read(key process.FileKey) (table *unwind.Table, err error) {
	f, size, err := c.open(key)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if size > maxCachedTable {
		return nil, fmt.Errorf("%w: it is %d bytes", unwind.ErrTableDamaged, size)
	}
	data := make([]byte, size)
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
	f, err := c.create(key)
	if err != nil {
		return fmt.Errorf("keep table: %w", err)
	}
	_, err = f.Write(data)
	// Not synced: a file that a crash has cut has a wrong checksum, and is built again.
	if err = errors.Join(err, f.Close()); err == nil {
		err = c.keep(key, int64(len(data)))
	} else {
		err = errors.Join(err, c.discard(key))
	}
	if err != nil {
		return fmt.Errorf("keep table: %w", err)
	}
	return nil
}
