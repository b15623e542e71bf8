package profilestore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
)

// FORMAT.md draws these files.
const (
	segmentMagic = "PLSEG\x00\x00\x01"
	sidecarMagic = "PLIDX\x00\x00\x01"
	recordMagic  = "PLRC"

	recordHeader  = 20 // magic, length of table, length of pprofs, CRC of table, CRC of the 16 bytes before
	sidecarHeader = 24 // magic, size of the segment, CRC of table, CRC of the 20 bytes before
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// segmentFile is an *os.File, or one that a test lets fail.
type segmentFile interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	Sync() error
}

// segment is one file of records. While it is the store's active one it has a builder, and its index grows.
type segment struct {
	seq  uint64
	path string
	file segmentFile
	size int64 // of the file, sidecar not counted

	index  *index
	byID   []uint32      // sealed
	active *indexBuilder // its index is what index points to

	born    int64 // of the active one: Unix nanoseconds of its first append
	suspect bool  // of the active one: nothing more may be written to it

	refs atomic.Int32 // the store's, and one for each query that reads the file

	mu      sync.Mutex
	damaged map[uint32]bool // offsets of profiles that a query found damaged
}

func newSegment(path string, seq uint64, f segmentFile, size int64) *segment {
	s := &segment{seq: seq, path: path, file: f, size: size, damaged: make(map[uint32]bool)}
	s.refs.Store(1)
	return s
}

// release gives back a reference; the last one closes the file.
func (s *segment) release() error {
	if s.refs.Add(-1) > 0 {
		return nil
	}
	return s.file.Close()
}

// seal makes the segment immutable. Without its sidecar it is scanned at the next start.
func (s *segment) seal() {
	x := s.active.index
	x.clip()
	s.index, s.byID, s.active = &x, x.byID(), nil
}

// Damage is a range of bytes that cannot be read. The bytes are kept until retention deletes their file.
type Damage struct {
	Path   string
	Offset int64
	Length int64
	Reason string
}

func (s *segment) has(id ID) bool {
	if s.active != nil {
		_, ok := s.active.ids[id]
		return ok
	}
	_, ok := slices.BinarySearchFunc(s.byID, id, func(i uint32, id ID) int {
		return bytes.Compare(s.index.entries[i].id[:], id[:])
	})
	return ok
}

// read appends the gzipped pprof of an entry to dst[:0].
func (s *segment) read(e *entry, dst []byte) ([]byte, error) {
	dst = slices.Grow(dst[:0], int(e.length))[:e.length]
	if _, err := s.file.ReadAt(dst, int64(e.offset)); err != nil {
		return dst, fmt.Errorf("read %s at %d: %w", s.path, e.offset, err)
	}
	if checksum(dst) != e.crc {
		return dst, fmt.Errorf("read %s at %d: wrong checksum", s.path, e.offset)
	}
	return dst, nil
}

// appendRecord appends the record of the profiles in x, whose pprofs are blobs, one for each entry.
func appendRecord(dst []byte, x *index, blobs [][]byte) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, recordHeader)...)
	dst = appendIndex(dst, x)
	table := dst[start+recordHeader:]
	length := 0
	for _, b := range blobs {
		length += len(b)
	}
	h := dst[start : start+recordHeader]
	copy(h, recordMagic)
	binary.LittleEndian.PutUint32(h[4:], uint32(len(table)))
	binary.LittleEndian.PutUint32(h[8:], uint32(length))
	binary.LittleEndian.PutUint32(h[12:], checksum(table))
	binary.LittleEndian.PutUint32(h[16:], checksum(h[:16]))
	for _, b := range blobs {
		dst = append(dst, b...)
	}
	return dst
}

// record is where a record and its parts are.
type record struct {
	table, blobs, end int64
	tableCRC          uint32
}

var (
	errNoRecord = errors.New("no record header")
	errTorn     = errors.New("record is not complete")
	errTable    = errors.New("profile table is damaged")
)

// readHeader looks at the record that may begin at off. With errTorn the header is whole and says more than
// the file has.
func readHeader(r io.ReaderAt, off, size int64) (record, error) {
	var h [recordHeader]byte
	if size-off < recordHeader {
		return record{}, errTorn
	}
	if _, err := r.ReadAt(h[:], off); err != nil {
		return record{}, err
	}
	if string(h[:4]) != recordMagic || checksum(h[:16]) != binary.LittleEndian.Uint32(h[16:]) {
		return record{}, errNoRecord
	}
	rec := record{table: off + recordHeader, tableCRC: binary.LittleEndian.Uint32(h[12:])}
	rec.blobs = rec.table + int64(binary.LittleEndian.Uint32(h[4:]))
	rec.end = rec.blobs + int64(binary.LittleEndian.Uint32(h[8:]))
	if rec.end > size {
		return rec, errTorn
	}
	return rec, nil
}

func readTable(r io.ReaderAt, rec record) (*index, error) {
	b := make([]byte, rec.blobs-rec.table)
	if _, err := r.ReadAt(b, rec.table); err != nil {
		return nil, err
	}
	if checksum(b) != rec.tableCRC {
		return nil, errTable
	}
	x, err := readIndex(b)
	if err != nil {
		return nil, err
	}
	for i := range x.entries {
		e := &x.entries[i]
		if int64(e.offset)+int64(e.length) > rec.end-rec.blobs || rec.end > 1<<32-1 {
			return nil, errTable
		}
	}
	return x, nil
}

// scanned is what scan found in a segment.
type scanned struct {
	builder *indexBuilder
	damage  []Damage
	torn    int64 // where a record that was never finished begins, or the end of the file
}

// scan reads all records. Damage costs the record, or the profile, that it is in. Profiles are read only if
// blobs is set: else a damaged one is found when it is asked for.
func scan(path string, r io.ReaderAt, size int64, blobs bool, intern func(*series) *series) (*scanned, error) {
	sc := &scanned{builder: newIndexBuilder(), torn: size}
	report := func(from, to int64, reason error) {
		sc.damage = append(sc.damage, Damage{path, from, to - from, reason.Error()})
	}
	var blob []byte
	for off := int64(len(segmentMagic)); off < size; {
		rec, err := readHeader(r, off, size)
		switch {
		case errors.Is(err, errTorn):
			sc.torn = off
			return sc, nil
		case errors.Is(err, errNoRecord):
			next, err := findRecord(r, off+1, size)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", path, err)
			}
			report(off, next, errNoRecord)
			off = next
			continue
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		x, err := readTable(r, rec)
		if err != nil {
			report(off, rec.end, err)
			off = rec.end
			continue
		}
		for i := range x.entries {
			p := x.meta(&x.entries[i])
			p.offset += uint32(rec.blobs)
			if blobs {
				blob = slices.Grow(blob[:0], int(p.length))[:p.length]
				if _, err := r.ReadAt(blob, int64(p.offset)); err != nil {
					return nil, fmt.Errorf("read %s: %w", path, err)
				}
				if checksum(blob) != p.crc {
					report(int64(p.offset), int64(p.offset)+int64(p.length), errors.New("profile is damaged"))
					continue
				}
			}
			p.series = intern(p.series)
			sc.builder.add(&p)
		}
		off = rec.end
	}
	return sc, nil
}

// findRecord looks for the next whole header at off or behind it, and returns size if there is none. Only a
// header that is damaged itself makes this necessary.
func findRecord(r io.ReaderAt, off, size int64) (int64, error) {
	const step = 1 << 20
	buf := make([]byte, step)
	for off < size {
		n, err := r.ReadAt(buf[:min(step, size-off)], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		b := buf[:n]
		for i := 0; ; i++ {
			j := bytes.Index(b[i:], []byte(recordMagic))
			if j < 0 {
				break
			}
			i += j
			if _, err := readHeader(r, off+int64(i), size); err == nil {
				return off + int64(i), nil
			}
		}
		if n <= len(recordMagic) {
			break
		}
		off += int64(n - len(recordMagic) + 1)
	}
	return size, nil
}

func segmentPath(dir string, seq uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%012d.seg", seq))
}

func (s *segment) sidecarPath() string { return s.path[:len(s.path)-len(".seg")] + ".idx" }

// writeSidecar keeps the index of a sealed segment beside it.
func (s *segment) writeSidecar() error {
	b := make([]byte, sidecarHeader, sidecarHeader+128*len(s.index.entries))
	b = appendIndex(b, s.index)
	copy(b, sidecarMagic)
	binary.LittleEndian.PutUint64(b[8:], uint64(s.size))
	binary.LittleEndian.PutUint32(b[16:], checksum(b[sidecarHeader:]))
	binary.LittleEndian.PutUint32(b[20:], checksum(b[:20]))
	return writeFile(s.sidecarPath(), b)
}

// readSidecar gives nil when there is none that fits the segment: it can be made again.
func readSidecar(path string, size int64) *index {
	b, err := os.ReadFile(path)
	if err != nil || len(b) < sidecarHeader || string(b[:8]) != sidecarMagic ||
		checksum(b[:20]) != binary.LittleEndian.Uint32(b[20:]) ||
		checksum(b[sidecarHeader:]) != binary.LittleEndian.Uint32(b[16:]) ||
		binary.LittleEndian.Uint64(b[8:]) != uint64(size) {
		return nil
	}
	x, err := readIndex(b[sidecarHeader:])
	if err != nil {
		return nil
	}
	for i := range x.entries {
		if e := &x.entries[i]; int64(e.offset)+int64(e.length) > size {
			return nil
		}
	}
	return x
}

// writeFile makes a file appear whole or not at all.
func writeFile(path string, b []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync())
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes names that were added to a directory survive a power loss.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
