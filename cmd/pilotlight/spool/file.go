package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"pilotlight/profilestore"
)

// A file has one batch:
//
//	offset  bytes
//	0       8      "plspool" and the version, 1
//	8       4      CRC-32C of all that follows
//	12      4      number of profiles
//	16      8      number of bytes that follow
//	24             the batch: profilestore.MarshalBatch
//
// Numbers are big-endian. Its name is its number in the order of writing, 16
// hexadecimal digits, and .batch. It is written under another name, which ends in
// .tmp, and has its own when it is on disk; what has a name has been whole. One
// that is not any more goes by .damaged, and is kept until room is needed.
const (
	magic      = "plspool\x01"
	headBytes  = 24
	crcAt      = 8
	profilesAt = 12
	lengthAt   = 16

	batchSuffix   = ".batch"
	tmpSuffix     = ".tmp"
	damagedSuffix = ".damaged"
)

// errDamaged is wrapped by the errors of files that are not as they were written.
var errDamaged = errors.New("damaged")

func encode(batch []profilestore.Encoded) []byte {
	b := make([]byte, headBytes, headBytes+encodedSize(batch))
	copy(b, magic)
	b = profilestore.MarshalBatch(b, batch)
	binary.BigEndian.PutUint32(b[profilesAt:], uint32(len(batch)))
	binary.BigEndian.PutUint64(b[lengthAt:], uint64(len(b)-headBytes))
	binary.BigEndian.PutUint32(b[crcAt:], checksum(b))
	return b
}

// encodedSize is about what a batch takes: its profiles, and some labels for each.
func encodedSize(batch []profilestore.Encoded) int {
	size := 0
	for i := range batch {
		size += len(batch[i].Pprof) + 256
	}
	return size
}

func checksum(b []byte) uint32 {
	return crc32.Checksum(b[profilesAt:], crc32.MakeTable(crc32.Castagnoli))
}

// decodeHead returns how many profiles a file has that begins with b, and is size bytes long.
func decodeHead(b []byte, size int64) (profiles int, err error) {
	switch {
	case len(b) < headBytes || string(b[:len(magic)]) != magic:
		return 0, fmt.Errorf("%w: not a file of this version of a spool", errDamaged)
	case uint64(size-headBytes) != binary.BigEndian.Uint64(b[lengthAt:]):
		return 0, fmt.Errorf("%w: %d bytes, its head tells of %d", errDamaged, size, headBytes+binary.BigEndian.Uint64(b[lengthAt:]))
	}
	return int(binary.BigEndian.Uint32(b[profilesAt:])), nil
}

func decode(b []byte) ([]profilestore.Encoded, error) {
	profiles, err := decodeHead(b, int64(len(b)))
	if err != nil {
		return nil, err
	}
	if binary.BigEndian.Uint32(b[crcAt:]) != checksum(b) {
		return nil, fmt.Errorf("%w: wrong checksum", errDamaged)
	}
	batch, err := profilestore.UnmarshalBatch(b[headBytes:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if len(batch) != profiles {
		return nil, fmt.Errorf("%w: %d profiles, its head tells of %d", errDamaged, len(batch), profiles)
	}
	return batch, nil
}

// file is one that is in the spool.
type file struct {
	number   uint64
	suffix   string
	bytes    int64
	profiles int
	held     bool // somebody sends what is in it
}

func (f *file) name() string { return fmt.Sprintf("%016x%s", f.number, f.suffix) }

// parseName is the opposite of name.
func parseName(name string) (f file, ok bool) {
	for _, suffix := range []string{batchSuffix, damagedSuffix} {
		digits, found := strings.CutSuffix(name, suffix)
		if !found {
			continue
		}
		number, err := strconv.ParseUint(digits, 16, 64)
		f = file{number: number, suffix: suffix}
		return f, err == nil && f.name() == name
	}
	return file{}, false
}
