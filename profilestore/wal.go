package profilestore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"strconv"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func crc32Update(crc uint32, b []byte) uint32 { return crc32.Update(crc, castagnoli, b) }

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

const (
	walDir      = "wal"
	recordMagic = "PLWR"
	// recordHeader is magic, length of the payload, CRC of the payload, CRC of the three before.
	recordHeader = 16
)

// walFile is one file of the log, written by the writer alone.
type walFile struct {
	path string
	file file
	size int64
	// broken is set when the end of the file is not known: nothing may follow it.
	broken bool
}

func walPath(dir string, seq uint64) string {
	return filepath.Join(dir, walDir, fmt.Sprintf("%012d", seq))
}

func createWAL(fs fileSystem, dir string, seq uint64) (*walFile, error) {
	path := walPath(dir, seq)
	f, err := fs.Create(path)
	if err != nil {
		return nil, err
	}
	if err := fs.SyncDir(filepath.Dir(path)); err != nil {
		return nil, errors.Join(err, f.Close(), fs.Remove(path))
	}
	return &walFile{path: path, file: f}, nil
}

// append writes records and makes them durable. After an error the file ends where it ended before, or is broken.
func (w *walFile) append(records []byte) error {
	_, err := w.file.Write(records)
	if err == nil {
		if err = w.file.Sync(); err == nil {
			w.size += int64(len(records))
			return nil
		}
		// The kernel reports a failed write-back once and then forgets it.
		w.broken = true
	}
	if cutErr := w.file.Truncate(w.size); cutErr != nil {
		w.broken = true
		err = errors.Join(err, cutErr)
	}
	return err
}

// appendRecord appends the record of a batch, which it marshals where it is to stand.
func appendRecord(dst []byte, batch []Encoded) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, recordHeader)...)
	dst = MarshalBatch(dst, batch)
	h, payload := dst[start:start+recordHeader], dst[start+recordHeader:]
	copy(h, recordMagic)
	binary.LittleEndian.PutUint32(h[4:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(h[8:], checksum(payload))
	binary.LittleEndian.PutUint32(h[12:], checksum(h[:12]))
	return dst
}

// Damage is a range of bytes that cannot be read. The bytes are kept until retention deletes their file.
type Damage struct {
	Path   string
	Offset int64
	Length int64
	Reason string
}

var (
	errNoRecord = errors.New("no record header")
	errPayload  = errors.New("record is damaged")
)

// walRecord says where the payload of a record is.
type walRecord struct {
	payload int64
	length  int
	crc     uint32
}

// readHeader looks at the record that may begin at off. With io.ErrUnexpectedEOF the file ends in it.
func readHeader(r io.ReaderAt, off, size int64) (walRecord, error) {
	var h [recordHeader]byte
	if size-off < recordHeader {
		return walRecord{}, io.ErrUnexpectedEOF
	}
	if _, err := r.ReadAt(h[:], off); err != nil {
		return walRecord{}, err
	}
	if string(h[:4]) != recordMagic || checksum(h[:12]) != binary.LittleEndian.Uint32(h[12:]) {
		return walRecord{}, errNoRecord
	}
	rec := walRecord{off + recordHeader, int(binary.LittleEndian.Uint32(h[4:])), binary.LittleEndian.Uint32(h[8:])}
	if rec.payload+int64(rec.length) > size {
		return rec, io.ErrUnexpectedEOF
	}
	return rec, nil
}

// readWAL calls fn for the payload of each record, valid until it returns. What is damaged is reported and passed
// over. A record that the file ends in was never acknowledged, and neither were zeros at the end, which some file
// systems leave of a write that did not finish: both are no damage.
func readWAL(path string, r io.ReaderAt, size int64, fn func(payload []byte) error) (damage []Damage, err error) {
	var payload []byte
	report := func(from, to int64, reason error) {
		damage = append(damage, Damage{path, from, to - from, reason.Error()})
	}
	for off := int64(0); off < size; {
		rec, err := readHeader(r, off, size)
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF):
			return damage, nil
		case errors.Is(err, errNoRecord):
			next, zeros, err := findRecord(r, off, size)
			if err != nil {
				return damage, fmt.Errorf("read %s: %w", path, err)
			}
			if next == size && zeros {
				return damage, nil
			}
			report(off, next, errNoRecord)
			off = next
			continue
		case err != nil:
			return damage, fmt.Errorf("read %s: %w", path, err)
		}
		end := rec.payload + int64(rec.length)
		if cap(payload) < rec.length {
			payload = make([]byte, rec.length)
		}
		payload = payload[:rec.length]
		if _, err := r.ReadAt(payload, rec.payload); err != nil {
			return damage, fmt.Errorf("read %s: %w", path, err)
		}
		if checksum(payload) != rec.crc {
			if end == size && zerosFrom(payload) {
				return damage, nil
			}
			report(off, end, errPayload)
		} else if err := fn(payload); err != nil {
			return damage, err
		}
		off = end
	}
	return damage, nil
}

// zerosFrom says whether a payload ends in a page's worth of zeros: it was never written whole.
func zerosFrom(payload []byte) bool {
	tail := payload[max(0, len(payload)-512):]
	return len(bytes.Trim(tail, "\x00")) == 0
}

// findRecord looks for the next whole header behind off, and returns size if there is none; zeros is whether
// all bytes from off on are. Only a header that is damaged itself makes this necessary.
func findRecord(r io.ReaderAt, off, size int64) (next int64, zeros bool, err error) {
	const step = 1 << 20
	buf := make([]byte, step)
	zeros = true
	for off < size {
		n, err := r.ReadAt(buf[:min(step, size-off)], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, false, err
		}
		b := buf[:n]
		zeros = zeros && len(bytes.Trim(b, "\x00")) == 0
		for i := 0; ; i++ {
			j := bytes.Index(b[i:], []byte(recordMagic))
			if j < 0 {
				break
			}
			i += j
			if _, err := readHeader(r, off+int64(i), size); err == nil {
				return off + int64(i), false, nil
			}
		}
		if n <= len(recordMagic) {
			break
		}
		off += int64(n - len(recordMagic) + 1)
	}
	return size, zeros, nil
}

// sequence is the number that names a file or directory; ok is false for another name.
func sequence(name string) (seq uint64, ok bool) {
	if len(name) != 12 {
		return 0, false
	}
	seq, err := strconv.ParseUint(name, 10, 64)
	return seq, err == nil
}
