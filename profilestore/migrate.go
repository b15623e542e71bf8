package profilestore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Format 1 kept profiles as they were sent: files NNN.seg of records, a record being a table of profiles and their
// gzipped pprofs. Their sidecars NNN.idx said nothing more.
const (
	segMagic        = "PLSEG\x00\x00\x01"
	segRecordMagic  = "PLRC"
	segRecordHeader = 20 // magic, length of the table, length of the pprofs, CRC of the table, CRC of these 16 bytes
)

// migrate makes a directory of format 1 one of this format. A file is deleted when all that can be read of it is in
// blocks; IDs let it be done again after a crash.
func (s *Store) migrate() error {
	names, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := filepath.Join(s.dir, name)
		if strings.HasSuffix(name, ".seg") {
			err = s.migrateFile(path)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".idx") || strings.HasSuffix(name, ".tmp") {
			if err := s.fs.Remove(filepath.Join(s.dir, name)); err != nil {
				return err
			}
		}
	}
	return writeFormat(s.fs, s.dir)
}

func (s *Store) migrateFile(path string) error {
	b, err := s.fs.ReadFile(path)
	if err != nil {
		return err
	}
	whole := true
	for _, enc := range s.readSeg(path, b, &whole) {
		r := <-s.readers
		e, err := s.newEntry(r, enc, nil)
		s.readers <- r
		if err != nil {
			whole = false
			s.note(Damage{Path: path, Length: int64(len(enc.Pprof)), Reason: fmt.Sprintf("profile %s: %v", enc.ID, err)})
			continue
		}
		stored, err := s.has(e.id)
		if err == nil && !stored {
			e.series = s.internSeries(e.series)
			s.head.add([]*entry{e}, s.now().UnixNano())
		}
		unpin([]*entry{e})
		if err != nil {
			return err
		}
		if s.head.bytes >= s.headBytes() {
			if err := s.flushNow(); err != nil {
				return err
			}
		}
	}
	if err := s.flushNow(); err != nil {
		return err
	}
	if !whole {
		return s.putAside(path)
	}
	return errors.Join(s.fs.Remove(path), s.fs.SyncDir(s.dir))
}

// flushNow writes the head as blocks, before there are a writer and a maintainer.
func (s *Store) flushNow() error {
	if s.head.empty() {
		return nil
	}
	if err := s.rotate(); err != nil {
		return err
	}
	return s.flush()
}

// readSeg reads all profiles of a file of format 1. whole becomes false when something of it is damaged.
func (s *Store) readSeg(path string, b []byte, whole *bool) []Encoded {
	var all []Encoded
	damage := func(from, to int, reason string) {
		*whole = false
		s.note(Damage{path, int64(from), int64(to - from), reason})
	}
	if !bytes.HasPrefix(b, []byte(segMagic)) {
		if len(b) >= len(segMagic) {
			damage(0, len(b), "no segment header")
		}
		return nil
	}
	for off := len(segMagic); off < len(b); {
		h := b[off:]
		if len(h) < segRecordHeader {
			break // never acknowledged
		}
		if string(h[:4]) != segRecordMagic || checksum(h[:16]) != binary.LittleEndian.Uint32(h[16:]) {
			next := bytes.Index(b[off+1:], []byte(segRecordMagic))
			if next < 0 {
				damage(off, len(b), errNoRecord.Error())
				break
			}
			damage(off, off+1+next, errNoRecord.Error())
			off += 1 + next
			continue
		}
		table := off + segRecordHeader
		pprofs := table + int(binary.LittleEndian.Uint32(h[4:]))
		end := pprofs + int(binary.LittleEndian.Uint32(h[8:]))
		if end > len(b) {
			break // never acknowledged
		}
		batch, bad, err := readSegTable(b[table:pprofs], b[pprofs:end], binary.LittleEndian.Uint32(h[12:]))
		if err != nil {
			damage(off, end, err.Error())
		} else if bad > 0 {
			damage(pprofs, end, fmt.Sprintf("%d profiles are damaged", bad))
		}
		all = append(all, batch...)
		off = end
	}
	return all
}

// readSegTable reads the table of a record:
//
//	series: types (name, sample type and unit, period type and unit), labels (name, value)
//	strings; label sets; lists of label sets: made again from the pprofs
//	profiles: ID, CRC of the pprof, start, duration, offset, length, series, list, sum of each type
func readSegTable(table, pprofs []byte, crc uint32) (batch []Encoded, bad int, err error) {
	if checksum(table) != crc {
		return nil, 0, errors.New("profile table is damaged")
	}
	type v1Series struct {
		name   string
		types  int
		labels Labels
	}
	d := decoder{b: table}
	series := make([]v1Series, d.count(3))
	for i := range series {
		series[i].types = d.count(5)
		for range series[i].types {
			series[i].name = string(d.bytes())
			for range 4 {
				d.bytes()
			}
		}
		series[i].labels = make(Labels, d.count(2))
		for j := range series[i].labels {
			series[i].labels[j] = Label{string(d.bytes()), string(d.bytes())}
		}
	}
	for range d.count(1) {
		d.bytes()
	}
	for range d.count(1) {
		for range 2 * d.count(2) {
			d.uvarint()
		}
	}
	for range d.count(1) {
		d.uvarint()
	}
	const minProfile = len(ID{}) + 4 + 7
	for range d.count(minProfile) {
		var e Encoded
		copy(e.ID[:], d.take(len(e.ID)))
		sum := d.take(4)
		e.Time = d.varint()
		e.Duration = time.Duration(d.uvarint())
		offset, length := d.uvarint(), d.uvarint()
		own := d.below(len(series))
		d.uvarint()
		if d.err != nil {
			break
		}
		for range series[own].types {
			d.uvarint()
		}
		if d.err != nil || offset > uint64(len(pprofs)) || length > uint64(len(pprofs))-offset {
			d.fail(io.ErrUnexpectedEOF)
			break
		}
		e.Name, e.Labels = series[own].name, slices.Clone(series[own].labels)
		e.Pprof = pprofs[offset : offset+length]
		if checksum(e.Pprof) != binary.LittleEndian.Uint32(sum) {
			bad++
			continue
		}
		batch = append(batch, e)
	}
	return batch, bad, d.err
}
