package process

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// Kind says what lies behind a mapping.
type Kind uint8

const (
	// FileBacked code comes from a file that has, or had, a path.
	FileBacked Kind = iota
	// Anonymous code has no file of its own: JIT code, trampolines on heap or
	// stack, memfd and shared memory.
	Anonymous
	// VDSO is the page of functions that the kernel maps into every process.
	VDSO
	// Vsyscall is the fixed page of x86-64 that preceded the vDSO.
	Vsyscall
)

// BuildID is the raw build ID of an ELF file, of GNU's note; empty if unknown.
type BuildID string

// String returns the build ID in hexadecimal.
func (b BuildID) String() string { return hex.EncodeToString([]byte(b)) }

// Inode is how the kernel names a file, in its records and in maps. It must never
// be compared to what stat(2) says: overlayfs and btrfs show others there.
type Inode struct {
	Dev, Number uint64 // Dev is major<<20 | minor
	// Generation tells a file from the one that had its number before; 0 if it
	// is not known, which of maps it never is, or if the file system keeps none.
	Generation uint64
}

// same reports whether both name one file, as far as both say.
func (i Inode) same(other Inode) bool {
	if i.Generation == 0 || other.Generation == 0 {
		i.Generation, other.Generation = 0, 0
	}
	return i.Number != 0 && i == other
}

// Object is what a mapping maps. It is made where a mapping is first seen, and
// shared by the pieces into which the mapping is later split, by neighbouring
// mappings of the same file and by the copies that fork makes. So it is never
// wider than one lineage: processes that merely name the same path, device or
// inode have Objects of their own, because those do not prove the same bytes.
//
// Its fields do not change; the result of Files.Open is remembered in it, so
// that each file is identified once per Object.
type Object struct {
	Kind Kind
	// Path is the file's path as the process sees it, without " (deleted)"; the
	// kernel's name ("[heap]", "[anon:...]", "/memfd:...") if there is no file,
	// and empty for plain anonymous memory.
	Path string
	// Deleted is true if the file had no name any more when it was mapped or
	// read. A file whose real name ends in " (deleted)" looks the same.
	Deleted bool
	// BuildID is what the kernel read when the file was mapped; empty if it
	// could not, and for mappings read from /proc.
	BuildID BuildID
	Inode   Inode // zero if unknown
	// Mapped is when it was mapped, in ns of CLOCK_MONOTONIC; 0 for mappings read from /proc.
	Mapped uint64

	file *File
	err  error
}

// File returns what Files.Open found behind the object: nil and nil before it
// was called.
func (o *Object) File() (*File, error) { return o.file, o.err }

// Openable reports whether Files.Open can be tried. A memfd is anonymous, and
// usually holds JIT code, but it may hold an ELF image too.
func (o *Object) Openable() bool {
	return o.Kind == FileBacked || strings.HasPrefix(o.Path, memfdPrefix)
}

// same reports whether two objects of one lineage are the same file. A path
// alone is not enough: the file may have been replaced between two mappings.
func (o *Object) same(other *Object) bool {
	if o.Kind != other.Kind || o.Path != other.Path || o.Deleted != other.Deleted {
		return false
	}
	if o.Kind != FileBacked {
		return true
	}
	if o.BuildID != "" || other.BuildID != "" {
		return o.BuildID == other.BuildID
	}
	return o.Inode.same(other.Inode)
}

// Mapping is a range of executable memory.
type Mapping struct {
	// Start and End are addresses of the process, [Start, End).
	Start, End uint64
	// Offset is that of Start in the file; 0 if there is no file.
	Offset uint64
	// Object is never nil in a Mapping that this package returns.
	*Object
}

// Addr turns pc, which must lie in m, into an address of the file behind m, as
// its symbols and its debug information use it. It is the only place where that
// is done:
//
//   - If the file has been opened (Files.Open), addr = pc - Start + Offset -
//     p_offset + p_vaddr for the executable PT_LOAD that covers that offset. ok
//     is false if none does: the file does not describe this code.
//   - If a file could not be opened or is no ELF file, addr is the offset in the
//     file.
//   - For the vDSO and vsyscall, addr is the offset in the page: the kernel
//     links the vDSO image at address 0.
//   - For anonymous memory, addr is pc, as JIT compilers name it.
func (m Mapping) Addr(pc uint64) (addr uint64, ok bool) {
	offset := pc - m.Start + m.Offset
	switch {
	case m.file != nil:
		seg, ok := m.file.Segment(offset)
		return offset - seg.Offset + seg.Addr, ok
	case m.Kind == Anonymous:
		return pc, true
	default:
		return offset, true
	}
}

// Mappings are sorted by Start and do not overlap.
type Mappings []Mapping

// Find returns the mapping that contains pc.
func (ms Mappings) Find(pc uint64) (Mapping, bool) {
	i := sort.Search(len(ms), func(i int) bool { return ms[i].End > pc })
	if i == len(ms) || ms[i].Start > pc {
		return Mapping{}, false
	}
	return ms[i], true
}

// insert returns ms with m in it. What m covers of others is cut away, as the
// kernel does for MAP_FIXED: the kernel sends no record for it. ms is changed in
// place if it has room.
func (ms Mappings) insert(m Mapping) Mappings {
	i := sort.Search(len(ms), func(i int) bool { return ms[i].End > m.Start })
	j := i + sort.Search(len(ms)-i, func(k int) bool { return ms[i+k].Start >= m.End })
	// ms[i:j] overlap m.
	if j == i+1 && ms[i].Start == m.Start && ms[i].End == m.End && ms[i].Offset == m.Offset && ms[i].same(m.Object) {
		return ms
	}
	for _, near := range []int{i - 1, i, j} {
		if near >= 0 && near < len(ms) && ms[near].same(m.Object) {
			m.Object = ms[near].Object
			break
		}
	}
	var pieces [3]Mapping
	n := 0
	if i < j && ms[i].Start < m.Start {
		pieces[n] = ms[i]
		pieces[n].End = m.Start
		n++
	}
	pieces[n] = m
	n++
	if i < j && ms[j-1].End > m.End {
		tail := ms[j-1]
		if tail.Kind == FileBacked {
			tail.Offset += m.End - tail.Start
		}
		tail.Start = m.End
		pieces[n] = tail
		n++
	}
	return slices.Replace(ms, i, j, pieces[:n]...)
}

const (
	deletedSuffix = " (deleted)"
	memfdPrefix   = "/memfd:"
)

// newObject classifies a name as /proc/PID/maps and MMAP2 records give it. Both
// take it from d_path, so that both append " (deleted)"; for memory without a
// name the one leaves it empty and the other says "//anon".
func newObject(name string, id BuildID, inode Inode) *Object {
	o := &Object{BuildID: id, Inode: inode}
	o.Path, o.Deleted = strings.CutSuffix(name, deletedSuffix)
	switch {
	case o.Path == "" || o.Path == "//anon":
		o.Kind, o.Path = Anonymous, ""
	case o.Path == "[vdso]":
		o.Kind = VDSO
	case o.Path == "[vsyscall]":
		o.Kind = Vsyscall
	case o.Path[0] == '[',
		o.Path == "/dev/zero",
		o.Path == "/anon_hugepage",
		strings.HasPrefix(o.Path, "/SYSV"),
		strings.HasPrefix(o.Path, memfdPrefix):
		o.Kind = Anonymous
	}
	return o
}

// newMapping makes the mapping of a record or of a line of maps, or reports that
// its range is none.
func newMapping(start, end, offset uint64, name string, id BuildID, inode Inode) (Mapping, bool) {
	if start >= end {
		return Mapping{}, false
	}
	o := newObject(name, id, inode)
	// perf gives the address divided by the page size as the offset of anonymous
	// memory, /proc gives 0. A memfd has true offsets, in case it is an ELF file.
	if !o.Openable() {
		offset = 0
	}
	return Mapping{Start: start, End: end, Offset: offset, Object: o}, true
}

// maxMapsLine holds a path of PATH_MAX newlines, each written \012, and the rest
// of a line. maxMapsLines is 16 times the kernel's default for max_map_count.
const (
	maxMapsLine  = 4*4096 + 256
	maxMapsLines = 1 << 20
)

// readMaps returns the first limit executable mappings of a process, and the
// number of those left out.
func readMaps(proc fs.FS, pid uint32, limit int) (Mappings, int, error) {
	f, err := proc.Open(pidPath(pid, "maps"))
	if err != nil {
		return nil, 0, fmt.Errorf("read maps of process %d: %w", pid, gone(err))
	}
	defer f.Close()
	ms, refused, err := parseMaps(f, limit)
	if err != nil {
		return nil, 0, fmt.Errorf("read maps of process %d: %w", pid, gone(err))
	}
	return ms, refused, nil
}

// parseMaps parses /proc/PID/maps (proc_pid_maps(5), fs/proc/task_mmu.c) and
// keeps the executable mappings. The kernel writes one VMA a line, in order; but
// reads it in pieces, between which the process goes on, so that ranges of two
// pieces may overlap: the later line wins.
func parseMaps(r io.Reader, limit int) (Mappings, int, error) {
	var ms Mappings
	refused := 0
	in := bufio.NewReaderSize(r, maxMapsLine)
	for n := 0; ; n++ {
		line, err := in.ReadSlice('\n')
		if err == io.EOF && len(line) == 0 {
			return ms, refused, nil
		}
		if err != nil && err != io.EOF {
			if errors.Is(err, bufio.ErrBufferFull) {
				err = fmt.Errorf("line %d is longer than %d bytes", n+1, maxMapsLine)
			}
			return nil, 0, err
		}
		if n == maxMapsLines {
			return nil, 0, fmt.Errorf("more than %d lines", maxMapsLines)
		}
		m, ok, err := parseMapsLine(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			return nil, 0, fmt.Errorf("line %d: %w", n+1, err)
		}
		switch {
		case !ok:
		case len(ms) >= limit:
			refused++
		default:
			ms = ms.insert(m)
		}
	}
}

// parseMapsLine parses "start-end perms offset major:minor inode path". ok is
// false for a mapping that is not executable, which is found out first: most are
// not.
func parseMapsLine(line []byte) (m Mapping, ok bool, err error) {
	bounds, rest, _ := bytes.Cut(line, []byte(" "))
	perms, rest, _ := bytes.Cut(rest, []byte(" "))
	if len(perms) != 4 {
		return Mapping{}, false, errors.New("no permissions")
	}
	if perms[2] != 'x' {
		return Mapping{}, false, nil
	}
	low, high, _ := bytes.Cut(bounds, []byte("-"))
	offset, rest, _ := bytes.Cut(rest, []byte(" "))
	dev, rest, _ := bytes.Cut(rest, []byte(" "))
	inode, name, _ := bytes.Cut(rest, []byte(" "))
	major, minor, _ := bytes.Cut(dev, []byte(":"))
	var v [6]uint64
	for i, f := range []struct {
		text []byte
		base int
	}{{low, 16}, {high, 16}, {offset, 16}, {major, 16}, {minor, 16}, {inode, 10}} {
		if v[i], err = strconv.ParseUint(string(f.text), f.base, 64); err != nil {
			return Mapping{}, false, err
		}
	}
	// The path is padded on its left. Newlines in it are the one thing that the
	// kernel escapes, not even the backslash is.
	text := strings.ReplaceAll(string(bytes.TrimLeft(name, " ")), `\012`, "\n")
	m, ok = newMapping(v[0], v[1], v[2], text, "", Inode{Dev: v[3]<<20 | v[4], Number: v[5]})
	if !ok {
		return Mapping{}, false, fmt.Errorf("range %s is empty", bounds)
	}
	return m, true, nil
}
