package profilestore

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"
)

// A table is one Parquet file. Its bytes are divided into ranges, one for each row group and one for the footer,
// whose CRC-32C stand in the meta.json beside it: nothing is decoded before its range has been checked.

// tableInfo is what meta.json says of a table.
type tableInfo struct {
	Rows   int64      `json:"rows"`
	Ranges [][2]int64 `json:"ranges"` // end of each range, its CRC-32C; the last one is the footer
}

// size is 0 for a table that is not there.
func (i *tableInfo) size() int64 {
	if len(i.Ranges) == 0 {
		return 0
	}
	return i.Ranges[len(i.Ranges)-1][0]
}

// rangeWriter writes a file and checksums it range by range.
type rangeWriter struct {
	file file
	buf  *bufio.Writer
	info tableInfo
	end  int64
	crc  uint32
}

func (w *rangeWriter) Write(b []byte) (int, error) {
	w.crc = crc32Update(w.crc, b)
	w.end += int64(len(b))
	return w.buf.Write(b)
}

// cut ends a range.
func (w *rangeWriter) cut() {
	w.info.Ranges = append(w.info.Ranges, [2]int64{w.end, int64(w.crc)})
	w.crc = 0
}

func createRanges(fs fileSystem, path string) (*rangeWriter, error) {
	f, err := fs.Create(path)
	if err != nil {
		return nil, err
	}
	return &rangeWriter{file: f, buf: bufio.NewWriterSize(f, 256<<10)}, nil
}

// finish makes the file durable, unless err tells that it is to be given up.
func (w *rangeWriter) finish(err error) (tableInfo, error) {
	if err == nil {
		err = w.buf.Flush()
	}
	if err == nil {
		err = w.file.Sync()
	}
	return w.info, errors.Join(err, w.file.Close())
}

func tableOptions() []parquet.WriterOption {
	return []parquet.WriterOption{
		parquet.CreatedBy("pilotlight", "3", ""),
		parquet.PageBufferSize(1 << 20),
		parquet.DataPageStatistics(false),
		parquet.Compression(&zstd.Codec{Level: zstd.SpeedFastest}),
	}
}

// writeTable writes rows of a struct, one row group for each slice.
func writeTable[T any](fs fileSystem, path string, groups iter.Seq2[[]T, error]) (tableInfo, error) {
	out, err := createRanges(fs, path)
	if err != nil {
		return tableInfo{}, err
	}
	w := parquet.NewGenericWriter[T](out, tableOptions()...)
	write := func() error {
		for rows, err := range groups {
			if err != nil {
				return err
			}
			if _, err := w.Write(rows); err != nil {
				return err
			}
			if err := w.Flush(); err != nil {
				return err
			}
			out.info.Rows += int64(len(rows))
			out.cut()
		}
		err := w.Close()
		out.cut()
		return err
	}
	return out.finish(write())
}

// oneGroup is a table that is read as a whole.
func oneGroup[T any](rows []T) iter.Seq2[[]T, error] {
	return func(yield func([]T, error) bool) {
		if len(rows) > 0 {
			yield(rows, nil)
		}
	}
}

// columnWriter writes a table of numbers, column by column. The columns are those of the schema in the order of
// their names.
type columnWriter struct {
	out     *rangeWriter
	w       *parquet.GenericWriter[any]
	columns []*parquet.ColumnWriter
	buf     []parquet.Value
	rows    int64 // of the row group
}

// numbersSchema has 32-bit ids and 64-bit values, all of them packed as differences.
func numbersSchema(name string, ids, values []string) *parquet.Schema {
	g := parquet.Group{}
	for _, id := range ids {
		g[id] = parquet.Encoded(parquet.Uint(32), &parquet.DeltaBinaryPacked)
	}
	for _, v := range values {
		g[v] = parquet.Encoded(parquet.Int(64), &parquet.DeltaBinaryPacked)
	}
	return parquet.NewSchema(name, g)
}

func createColumns(fs fileSystem, path string, schema *parquet.Schema) (*columnWriter, error) {
	out, err := createRanges(fs, path)
	if err != nil {
		return nil, err
	}
	w := parquet.NewGenericWriter[any](out, append(tableOptions(), schema)...)
	return &columnWriter{out: out, w: w, columns: w.ColumnWriters(), buf: make([]parquet.Value, 0, 1024)}, nil
}

func writeNumbers[N uint32 | int64](w *columnWriter, column int, numbers []N) error {
	for chunk := range slices.Chunk(numbers, cap(w.buf)) {
		w.buf = w.buf[:len(chunk)]
		switch chunk := any(chunk).(type) { // append would take eight times as long
		case []uint32:
			for i, v := range chunk {
				w.buf[i] = parquet.Int32Value(int32(v))
			}
		case []int64:
			for i, v := range chunk {
				w.buf[i] = parquet.Int64Value(v)
			}
		}
		if _, err := w.columns[column].WriteRowValues(w.buf); err != nil {
			return err
		}
	}
	return nil
}

// endGroup ends the row group, if there is one.
func (w *columnWriter) endGroup() error {
	if w.rows == 0 {
		return nil
	}
	if err := w.w.Flush(); err != nil {
		return err
	}
	w.out.info.Rows += w.rows
	w.rows = 0
	w.out.cut()
	return nil
}

// close ends the file, unless err tells that it is to be given up.
func (w *columnWriter) close(err error) (tableInfo, error) {
	if err == nil {
		err = w.endGroup()
	}
	if err == nil {
		err = w.w.Close()
		w.out.cut()
	}
	return w.out.finish(err)
}

// table is an open file.
type table struct {
	path string
	info tableInfo
	fs   fileSystem

	mu      sync.Mutex
	file    file
	parquet *parquet.File
	checked []bool // ranges
	lost    error  // the file could not be opened when it was to go
}

// damageError says which bytes are not what was written.
type damageError struct{ Damage }

func (e *damageError) Error() string {
	return fmt.Sprintf("%s from %d to %d: %s", e.Path, e.Offset, e.Offset+e.Length, e.Reason)
}

// open makes the file ready. It is done when it is first needed: a store has many that nobody asks for.
func (t *table) open() error {
	if t.parquet != nil {
		return nil
	}
	if t.lost != nil {
		return t.lost
	}
	f, err := t.fs.Open(t.path)
	if err != nil {
		return err
	}
	size, err := f.Size()
	if err == nil && size != t.info.size() {
		err = &damageError{Damage{t.path, 0, size, fmt.Sprintf("%d bytes long, not %d", size, t.info.size())}}
	}
	t.file, t.checked = f, make([]bool, len(t.info.Ranges))
	if err == nil {
		err = t.check(len(t.info.Ranges) - 1)
	}
	var p *parquet.File
	if err == nil {
		p, err = parquet.OpenFile(f, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true), parquet.ReadBufferSize(128<<10))
	}
	if err == nil && len(p.RowGroups()) != len(t.info.Ranges)-1 {
		err = fmt.Errorf("%s: %d row groups, %d in meta.json", t.path, len(p.RowGroups()), len(t.info.Ranges)-1)
	}
	if err != nil {
		t.file = nil
		return errors.Join(err, f.Close())
	}
	t.parquet = p
	return nil
}

// hold opens the file for queries that have begun, before it is deleted.
func (t *table) hold() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.info.Ranges) > 0 {
		t.lost = t.open()
	}
}

// check compares a range with its CRC, once.
func (t *table) check(i int) error {
	if t.checked[i] {
		return nil
	}
	start := int64(0)
	if i > 0 {
		start = t.info.Ranges[i-1][0]
	}
	end, want := t.info.Ranges[i][0], uint32(t.info.Ranges[i][1])
	crc := uint32(0)
	buf := make([]byte, min(256<<10, end-start))
	for at := start; at < end; {
		b := buf[:min(int64(len(buf)), end-at)]
		if _, err := t.file.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read %s: %w", t.path, err)
		}
		crc = crc32Update(crc, b)
		at += int64(len(b))
	}
	if crc != want {
		return &damageError{Damage{t.path, start, end - start, "wrong checksum"}}
	}
	t.checked[i] = true
	return nil
}

func (t *table) groups() int { return len(t.info.Ranges) - 1 }

// group is a row group whose bytes have been checked.
func (t *table) group(i int) (parquet.RowGroup, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.open(); err != nil {
		return nil, err
	}
	if err := t.check(i); err != nil {
		return nil, err
	}
	return t.parquet.RowGroups()[i], nil
}

func (t *table) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil {
		return nil
	}
	err := t.file.Close()
	t.file, t.parquet = nil, nil
	return err
}

// readRows reads a row group of a table of structs.
func readRows[T any](t *table, group int) ([]T, error) {
	g, err := t.group(group)
	if err != nil {
		return nil, err
	}
	r := parquet.NewGenericRowGroupReader[T](g)
	rows := make([]T, g.NumRows())
	n, err := r.Read(rows)
	if err != nil && !errors.Is(err, io.EOF) || n != len(rows) {
		return nil, errors.Join(fmt.Errorf("read %s: %d of %d rows: %w", t.path, n, len(rows), err), r.Close())
	}
	return rows, r.Close()
}

// readColumns is readRows for large tables: set says for the path of each column how a value gets into a row. It takes a third
// of the time, as it looks at no row with reflection.
func readColumns[T any](t *table, group int, set map[string]func(*T, *parquet.Value)) (_ []T, err error) {
	g, err := t.group(group)
	if err != nil {
		return nil, err
	}
	rows := make([]T, g.NumRows())
	for i, path := range t.parquet.Schema().Columns() {
		if err := readColumn(g.ColumnChunks()[i], rows, set[strings.Join(path, ".")]); err != nil {
			return nil, fmt.Errorf("read %s, column %v: %w", t.path, path, err)
		}
	}
	return rows, nil
}

func readColumn[T any](c parquet.ColumnChunk, rows []T, set func(*T, *parquet.Value)) (err error) {
	if set == nil { // of a later version
		return nil
	}
	pages := c.Pages()
	defer func() { err = errors.Join(err, pages.Close()) }()
	var values [256]parquet.Value
	row := -1
	for {
		page, err := pages.ReadPage()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		r := page.Values()
		for more := true; more; {
			n, err := r.ReadValues(values[:])
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			more = err == nil
			for i := range values[:n] {
				v := &values[i]
				if v.RepetitionLevel() == 0 {
					row++
				}
				if row < 0 || row >= len(rows) {
					return errColumn
				}
				if !v.IsNull() {
					set(&rows[row], v)
				}
			}
		}
		parquet.Release(page)
	}
	if row != len(rows)-1 {
		return errColumn
	}
	return nil
}

var errColumn = errors.New("it is not the column of each row that it should be")

// readNumbers appends a column of a row group to dst.
func readNumbers[N uint32 | int64](t *table, group parquet.RowGroup, column int, dst []N) (_ []N, err error) {
	pages := group.ColumnChunks()[column].Pages()
	defer func() {
		if cerr := pages.Close(); err == nil && cerr != nil {
			err = cerr
		}
	}()
	dst = slices.Grow(dst, int(group.NumRows()))
	for {
		page, err := pages.ReadPage()
		if errors.Is(err, io.EOF) {
			return dst, nil
		}
		if err != nil {
			return dst, fmt.Errorf("read %s: %w", t.path, err)
		}
		data := page.Data()
		switch d := any(&dst).(type) {
		case *[]uint32:
			*d = append(*d, data.Uint32()...)
		case *[]int64:
			*d = append(*d, data.Int64()...)
		}
		parquet.Release(page)
	}
}

const metaFile = "meta.json"

// writeMeta writes v as JSON behind a line with its CRC-32C.
func writeMeta(fs fileSystem, dir string, v any) error {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	f, err := fs.Create(filepath.Join(dir, metaFile))
	if err != nil {
		return err
	}
	_, err = f.Write(append(fmt.Appendf(nil, "%08x\n", checksum(b)), b...))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// readMeta reads what writeMeta wrote.
func readMeta(fs fileSystem, dir string, v any) error {
	path := filepath.Join(dir, metaFile)
	b, err := fs.ReadFile(path)
	if err != nil {
		return err
	}
	const line = 9
	if len(b) < line || string(b[:line]) != fmt.Sprintf("%08x\n", checksum(b[line:])) {
		return &damageError{Damage{path, 0, int64(len(b)), "wrong checksum"}}
	}
	if err := json.Unmarshal(b[line:], v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// publish makes a directory, filled by fill, appear whole or not at all.
func publish(fs fileSystem, path string, fill func(tmp string) error) (err error) {
	tmp := path + tmpSuffix
	if err := fs.RemoveAll(tmp); err != nil {
		return err
	}
	if err := fs.Mkdir(tmp); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, fs.RemoveAll(tmp))
		}
	}()
	if err := fill(tmp); err != nil {
		return err
	}
	if err := fs.SyncDir(tmp); err != nil {
		return err
	}
	if err := fs.Rename(tmp, path); err != nil {
		return err
	}
	if err := fs.SyncDir(filepath.Dir(path)); err != nil {
		// It may be there after a crash or not: it must not be, for it will be written again under another number.
		return errors.Join(err, fs.RemoveAll(path))
	}
	return nil
}
