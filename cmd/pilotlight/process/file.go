package process

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// FileKey names the contents of a file: a digest over its build ID, its size,
// its program headers and samples of its code. A build ID alone can be forged,
// and device and inode say nothing about what a file held when it was mapped.
type FileKey [16]byte

// String returns the key in hexadecimal.
func (k FileKey) String() string { return hex.EncodeToString(k[:]) }

// Segment is an executable PT_LOAD of an ELF file.
type Segment struct {
	Offset   uint64 // p_offset
	Addr     uint64 // p_vaddr
	FileSize uint64 // p_filesz
}

// File is what is known of a mapped ELF file. It is not changed once made.
type File struct {
	Key FileKey
	// BuildID is the GNU build ID in hexadecimal, else Go's build ID as
	// `go tool buildid` prints it; empty if there is none. Both are looked for
	// where the kernel looks, in PT_NOTE: Go's linker leaves its GNU note out of it.
	BuildID string
	// Go is true for programs in Go, which keep frame pointers: they have Go's
	// build ID, beside GNU's if a linker for C made them.
	Go bool
	// Size is that of the file in bytes.
	Size int64
	// Segments are the executable PT_LOADs, in the order of the file.
	Segments []Segment
}

// Segment returns the executable segment that an offset in the file belongs to.
// ok is false if there is none.
func (f *File) Segment(offset uint64) (seg Segment, ok bool) {
	for _, s := range f.Segments {
		if offset-s.Offset < s.FileSize {
			return s, true
		}
	}
	// Whole pages are mapped, so that what lies before and behind a segment on
	// its first and last page is executable too. 64 KiB is the largest page of
	// the architectures that Go supports.
	const page = 1 << 16
	for _, s := range f.Segments {
		if low := s.Offset &^ (page - 1); offset-low < (s.Offset-low+s.FileSize+page-1)&^(page-1) {
			return s, true
		}
	}
	return Segment{}, false
}

// Bounds on what identify reads of a file. Binaries have some ten program
// headers and a few hundred bytes of notes.
const (
	maxSegments = 256
	maxNotes    = 64 << 10
	sampleSize  = 4 << 10 // taken three times
)

// ErrNotELF is wrapped by errors about files that are not ELF at all.
var ErrNotELF = errors.New("not an ELF file")

// identify reads what makes a File of an ELF file of either class and byte
// order (System V ABI, chapters 4 and 5), with reads that are bounded whatever
// the file says.
func identify(r io.ReaderAt, size int64) (*File, error) {
	in := io.NewSectionReader(r, 0, size)
	head := make([]byte, binary.Size(elf.Header64{}))
	if n, err := in.ReadAt(head, 0); err != nil && err != io.EOF || n < elf.EI_NIDENT {
		if err == io.EOF {
			return nil, fmt.Errorf("%w: %d bytes", ErrNotELF, n)
		}
		return nil, fmt.Errorf("read ELF header: %w", err)
	}
	if string(head[:4]) != elf.ELFMAG {
		return nil, fmt.Errorf("%w: magic %#x", ErrNotELF, head[:4])
	}
	var order binary.ByteOrder
	switch d := elf.Data(head[elf.EI_DATA]); d {
	case elf.ELFDATA2LSB:
		order = binary.LittleEndian
	case elf.ELFDATA2MSB:
		order = binary.BigEndian
	default:
		return nil, fmt.Errorf("byte order %v in ELF header", d)
	}
	phs, raw, err := programHeaders(in, head, order)
	if err != nil {
		return nil, err
	}

	f := &File{Size: size}
	var largest Segment
	var gnu, golang string
	for _, ph := range phs {
		switch {
		case ph.Type == uint32(elf.PT_NOTE) && (gnu == "" || golang == ""):
			notes := make([]byte, min(ph.Filesz, maxNotes))
			n, err := in.ReadAt(notes, int64(ph.Off))
			if err != nil && err != io.EOF {
				return nil, fmt.Errorf("read notes at %#x: %w", ph.Off, err)
			}
			first, other := buildIDs(notes[:n], ph.Align, order)
			gnu, golang = cmp.Or(gnu, first), cmp.Or(golang, other)
		case ph.Type == uint32(elf.PT_LOAD) && ph.Flags&uint32(elf.PF_X) != 0 && ph.Filesz > 0:
			seg := Segment{Offset: ph.Off, Addr: ph.Vaddr, FileSize: ph.Filesz}
			f.Segments = append(f.Segments, seg)
			if seg.FileSize > largest.FileSize {
				largest = seg
			}
		}
	}

	f.BuildID, f.Go = cmp.Or(gnu, golang), golang != ""

	sum := sha256.New()
	fmt.Fprintf(sum, "%q %d\n", f.BuildID, size)
	sum.Write(raw)
	// The beginning, the middle and the end of the largest executable segment.
	sample := make([]byte, sampleSize)
	span := largest.FileSize - min(largest.FileSize, sampleSize)
	for _, at := range []uint64{0, span / 2, span} {
		n, err := in.ReadAt(sample[:min(sampleSize, largest.FileSize)], int64(largest.Offset+at))
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("read code at %#x: %w", largest.Offset+at, err)
		}
		sum.Write(sample[:n])
	}
	copy(f.Key[:], sum.Sum(nil))
	return f, nil
}

// programHeaders returns the program headers in the form of ELF64, and as they
// stand in the file.
func programHeaders(in io.ReaderAt, head []byte, order binary.ByteOrder) ([]elf.Prog64, []byte, error) {
	var offset uint64
	var count, entry int
	var size int // of a program header
	class := elf.Class(head[elf.EI_CLASS])
	switch class {
	case elf.ELFCLASS64:
		var h elf.Header64
		if _, err := binary.Decode(head, order, &h); err != nil {
			return nil, nil, fmt.Errorf("read ELF header: %w", err)
		}
		offset, count, entry, size = h.Phoff, int(h.Phnum), int(h.Phentsize), binary.Size(elf.Prog64{})
	case elf.ELFCLASS32:
		var h elf.Header32
		if _, err := binary.Decode(head, order, &h); err != nil {
			return nil, nil, fmt.Errorf("read ELF header: %w", err)
		}
		offset, count, entry, size = uint64(h.Phoff), int(h.Phnum), int(h.Phentsize), binary.Size(elf.Prog32{})
	default:
		return nil, nil, fmt.Errorf("class %v in ELF header", class)
	}
	if count == 0 {
		return nil, nil, errors.New("no program headers")
	}
	if count > maxSegments {
		return nil, nil, fmt.Errorf("%d program headers, more than %d", count, maxSegments)
	}
	if entry != size {
		return nil, nil, fmt.Errorf("program headers of %d bytes, not %d", entry, size)
	}
	raw := make([]byte, count*size)
	if _, err := in.ReadAt(raw, int64(offset)); err != nil {
		return nil, nil, fmt.Errorf("read program headers at %#x: %w", offset, err)
	}
	phs := make([]elf.Prog64, count)
	for i := range phs {
		data := raw[i*size:]
		if class == elf.ELFCLASS64 {
			if _, err := binary.Decode(data, order, &phs[i]); err != nil {
				return nil, nil, fmt.Errorf("read program header %d: %w", i, err)
			}
			continue
		}
		var p elf.Prog32
		if _, err := binary.Decode(data, order, &p); err != nil {
			return nil, nil, fmt.Errorf("read program header %d: %w", i, err)
		}
		phs[i] = elf.Prog64{Type: p.Type, Flags: p.Flags, Off: uint64(p.Off), Vaddr: uint64(p.Vaddr),
			Filesz: uint64(p.Filesz), Memsz: uint64(p.Memsz), Align: uint64(p.Align)}
	}
	return phs, raw, nil
}

// buildIDs looks through notes (System V ABI, "Note Section") for
// NT_GNU_BUILD_ID, which it returns in hexadecimal, and Go's build ID. Notes may
// be cut or wrong: then there is none.
func buildIDs(notes []byte, align uint64, order binary.ByteOrder) (gnu, golang string) {
	const (
		ntGNUBuildID = 3
		ntGoBuildID  = 4
		maxBuildID   = 256
	)
	if align != 8 {
		align = 4
	}
	for len(notes) >= 12 {
		nameSize, descSize := uint64(order.Uint32(notes)), uint64(order.Uint32(notes[4:]))
		kind := order.Uint32(notes[8:])
		desc := (12 + nameSize + align - 1) &^ (align - 1)
		end := desc + descSize
		if end > uint64(len(notes)) {
			break
		}
		name := bytes.TrimRight(notes[12:12+nameSize], "\x00")
		if id := notes[desc:end]; len(id) > 0 && len(id) <= maxBuildID {
			switch {
			case kind == ntGNUBuildID && string(name) == "GNU":
				gnu = hex.EncodeToString(id)
			case kind == ntGoBuildID && string(name) == "Go":
				golang = string(id)
			}
		}
		notes = notes[min((end+align-1)&^(align-1), uint64(len(notes))):]
	}
	return gnu, golang
}
