package symbolize

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// A jitdump (tools/perf/Documentation/jitdump-specification.txt) is the other file in which runtimes name the code that
// they compile. It is a header and records, in the byte order of the machine:
//
//	header  u32 magic "DTiJ" | u32 version | u32 size of the header | ...
//	record  u32 id | u32 size of the record | u64 time | ...
//	load    u32 pid | u32 tid | u64 | u64 address | u64 size | u64 number | name, ended by 0 | code
//	move    u32 pid | u32 tid | u64 | u64 old address | u64 new address | u64 size | u64 number
//
// Other records, with lines and unwind information, are passed over, as is code.

const (
	jitdumpMagic  = "DTiJ" // little-endian
	jitdumpHeader = 40
	// jitdumpFixed is what is read of a record: all that a load has before its name, or a move.
	jitdumpFixed  = 64
	jitdumpPrefix = 16
	jitdumpLoad   = 0
	jitdumpMove   = 1
	// maxJitdumpRecords bounds the records that are looked at: those of lines are as many as those of code.
	maxJitdumpRecords = 4 * maxPerfPieces
)

// errJitdump is wrapped by the errors of what cannot be a jitdump.
var errJitdump = errors.New("damaged jitdump")

// isJitdump reports whether the file begins as a jitdump does.
func (m *PerfMap) isJitdump() bool {
	var magic [len(jitdumpMagic)]byte
	n, _ := m.in.ReadAt(magic[:], 0) // what is wrong, reading it as text finds out
	return string(magic[:n]) == jitdumpMagic
}

// updateJitdump is Update of a jitdump.
func (m *PerfMap) updateJitdump(size int64) error {
	if m.done == 0 {
		var header [jitdumpHeader]byte
		if n, err := m.in.ReadAt(header[:], 0); n < len(header) {
			return jitdumpError(err)
		}
		length := int64(binary.LittleEndian.Uint32(header[8:]))
		if length < jitdumpHeader || length > perfChunk {
			return fmt.Errorf("%w: a header of %d bytes", errJitdump, length)
		}
		m.done = length
	}
	var added []perfEntry
	var err error
	for err == nil {
		var more bool
		if more, err = m.readRecord(size, &added); !more {
			break
		}
	}
	m.add(added)
	if tail := min(m.done, perfTail); err == nil {
		m.tail = make([]byte, tail)
		_, err = m.in.ReadAt(m.tail, m.done-tail)
		err = jitdumpError(err)
	}
	return err
}

// readRecord reads the next record; more is false when it is not there as a whole.
func (m *PerfMap) readRecord(size int64, added *[]perfEntry) (more bool, err error) {
	var b [jitdumpFixed]byte
	if size-m.done < jitdumpPrefix {
		return false, nil
	}
	n, err := m.in.ReadAt(b[:min(jitdumpFixed, size-m.done)], m.done)
	if err := jitdumpError(err); err != nil || n < jitdumpPrefix {
		return false, err
	}
	le := binary.LittleEndian
	length := int64(le.Uint32(b[4:]))
	const nameAt = 56
	switch {
	case length < jitdumpPrefix:
		return false, fmt.Errorf("%w: a record of %d bytes at %d", errJitdump, length, m.done)
	case m.records == maxJitdumpRecords || m.pieces+len(*added) >= maxPerfPieces || m.done+nameAt > math.MaxUint32:
		return false, fmt.Errorf("%w: %d records and %d bytes are read of %d", errPerfMapLarge, m.records, m.done, size)
	case length > size-m.done:
		return false, nil // it is still being written
	}
	at := uint32(m.done)
	m.done += length
	m.records++
	e := perfEntry{}
	switch id := le.Uint32(b[:]); {
	case id == jitdumpLoad && length > nameAt:
		e = newJitdumpEntry(le.Uint64(b[32:]), le.Uint64(b[40:]), at+nameAt)
	case id == jitdumpMove && length >= jitdumpFixed:
		m.add(*added)
		*added = (*added)[:0]
		if old, ok := m.find(le.Uint64(b[32:])); ok {
			e = newJitdumpEntry(le.Uint64(b[40:]), le.Uint64(b[48:]), old.name)
		}
	}
	if e.size > 0 {
		*added = append(*added, e)
	}
	return true, nil
}

// newJitdumpEntry is a piece of code, of size 0 if there can be none such.
func newJitdumpEntry(start, size uint64, name uint32) perfEntry {
	if size > math.MaxUint32 || start > math.MaxUint64-size {
		size = 0
	}
	return perfEntry{start: start, size: uint32(size), name: name}
}

// cutName returns what is read of a name up to its end.
func (m *PerfMap) cutName(b []byte) string {
	end := []byte("\n")
	if m.jitdump {
		end = []byte{0}
	}
	name, _, _ := bytes.Cut(b, end)
	return string(name)
}

func jitdumpError(err error) error {
	if err == nil || err == io.EOF {
		return nil
	}
	return fmt.Errorf("read jitdump: %w", err)
}
