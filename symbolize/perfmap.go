package symbolize

import (
	"bytes"
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// PerfMap names code that a process compiled while it runs, from the file perf-PID.map that its runtime writes for perf
// (tools/perf/Documentation/jit-interface.txt): a line for each piece of code,
//
//	START SIZE name
//
// in hexadecimal, addresses being those of the process. Of pieces that overlap the later line counts: code moves, and
// its place is used again. In memory are 16 bytes a piece; names are read from the file when they are asked for.
//
// It reads a jitdump in place of that (see jitdump.go), without the lines in it.
//
// A PerfMap belongs to one goroutine.
type PerfMap struct {
	in   io.ReaderAt
	done int64  // bytes that were read
	tail []byte // the last of them, to tell a file that grew from one that was written anew
	long bool   // in a line that has not ended yet and is too long to be one

	jitdump bool
	records int // of a jitdump, that were read

	// runs have the pieces of code, without overlaps within a run; the later runs count. Each is less than half as long
	// as the one before, so that there are few.
	runs [][]perfEntry
	// pieces is the number of those in runs.
	pieces int
}

// perfEntry is a piece of code.
type perfEntry struct {
	start uint64
	size  uint32
	name  uint32 // where it begins in the file
}

func (e perfEntry) end() uint64 { return e.start + uint64(e.size) }

const (
	// maxPerfMap bounds what is read of a file, and maxPerfPieces what is kept of it: those of large programs have
	// 100,000 pieces in 10 MB.
	maxPerfMap    = 64 << 20
	maxPerfPieces = 256 << 10
	// perfChunk is how much is read at a time; no line is longer.
	perfChunk = 64 << 10
	// perfTail is how much has to be as it was in a file that grew.
	perfTail = 256
	// maxPerfName is what is read of a name.
	maxPerfName = 1 << 10
)

// errPerfMapLarge is wrapped by the errors of files of which only a part is used.
var errPerfMapLarge = errors.New("too large")

// NewPerfMap returns a map of nothing. Update reads r.
func NewPerfMap(r io.ReaderAt) *PerfMap { return &PerfMap{in: r} }

// Update reads what was added to the file since, which has size bytes now, or all of it if it is another than it was.
// After an error there are the names that were read before it.
func (m *PerfMap) Update(size int64) error {
	if err := m.check(size); err != nil {
		return err
	}
	if m.done == 0 {
		m.jitdump = m.isJitdump()
	}
	if m.jitdump {
		return m.updateJitdump(size)
	}
	var added []perfEntry
	var err error
	buf := make([]byte, min(perfChunk, max(0, size-m.done)))
	for m.done < size && err == nil {
		if m.done >= maxPerfMap || m.pieces+len(added) > maxPerfPieces {
			err = fmt.Errorf("%w: %d bytes and %d pieces of code are read of %d bytes", errPerfMapLarge, m.done, m.pieces+len(added), size)
			break
		}
		var n int
		n, err = m.in.ReadAt(buf[:min(int64(len(buf)), size-m.done)], m.done)
		if err == io.EOF {
			err = nil
		}
		used := m.lines(buf[:n], &added)
		if used == 0 {
			break // a line that is still being written
		}
		m.tail = append(m.tail[:0], buf[max(0, used-perfTail):used]...)
		m.done += int64(used)
	}
	m.add(added)
	return err
}

// check begins anew if what was read is not there any more.
func (m *PerfMap) check(size int64) error {
	if size >= m.done {
		now := make([]byte, len(m.tail))
		n, err := m.in.ReadAt(now, m.done-int64(len(m.tail)))
		if err != nil && err != io.EOF {
			return fmt.Errorf("read perf map: %w", err)
		}
		if bytes.Equal(now[:n], m.tail) {
			return nil
		}
	}
	*m = PerfMap{in: m.in}
	return nil
}

// lines reads the lines that b has as a whole and returns how many bytes those are.
func (m *PerfMap) lines(b []byte, to *[]perfEntry) (used int) {
	for {
		n := bytes.IndexByte(b[used:], '\n')
		if n < 0 {
			break
		}
		line := b[used : used+n]
		if e, at, ok := parsePerfLine(line); ok && !m.long {
			e.name = uint32(m.done) + uint32(used+at)
			*to = append(*to, e)
		}
		m.long = false
		used += n + 1
	}
	if used == 0 && len(b) == perfChunk {
		m.long = true
		return len(b)
	}
	return used
}

// parsePerfLine returns the piece of code of a line, and where its name begins in it.
func parsePerfLine(line []byte) (e perfEntry, name int, ok bool) {
	first := bytes.IndexByte(line, ' ')
	if first < 0 {
		return e, 0, false
	}
	second := bytes.IndexByte(line[first+1:], ' ')
	if second < 0 {
		return e, 0, false
	}
	name = first + 1 + second + 1
	start, err := parsePerfNumber(line[:first])
	size, err2 := parsePerfNumber(line[first+1 : name-1])
	if err != nil || err2 != nil || size == 0 || size > math.MaxUint32 || start > math.MaxUint64-size || name == len(line) {
		return e, 0, false
	}
	return perfEntry{start: start, size: uint32(size)}, name, true
}

func parsePerfNumber(text []byte) (uint64, error) {
	return strconv.ParseUint(strings.TrimPrefix(string(text), "0x"), 16, 64)
}

// add adds pieces of code, which count more the later they come.
func (m *PerfMap) add(entries []perfEntry) {
	if len(entries) == 0 {
		return
	}
	run := flattenPerf(entries)
	for n := len(m.runs); n > 0 && len(m.runs[n-1]) < 2*len(run); n-- {
		run = flattenPerf(append(m.runs[n-1], run...))
		m.runs = m.runs[:n-1]
	}
	m.runs = append(m.runs, slices.Clip(run))
	m.pieces = 0
	for _, r := range m.runs {
		m.pieces += len(r)
	}
}

// flattenPerf returns the pieces of code by their start, and of what overlaps what was last.
func flattenPerf(entries []perfEntry) []perfEntry {
	order := make([]int, len(entries))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(entries[a].start, entries[b].start) })
	flat := make([]perfEntry, 0, len(entries))
	open := perfHeap{entries: entries}
	at := uint64(0)
	for len(order) > 0 || open.Len() > 0 {
		if open.Len() == 0 {
			at = entries[order[0]].start
		}
		for len(order) > 0 && entries[order[0]].start <= at {
			heap.Push(&open, order[0])
			order = order[1:]
		}
		top := entries[open.index[0]]
		if top.end() <= at {
			heap.Pop(&open)
			continue
		}
		next := top.end()
		if len(order) > 0 {
			next = min(next, entries[order[0]].start)
		}
		if n := len(flat); n > 0 && flat[n-1].name == top.name && flat[n-1].end() == at {
			flat[n-1].size += uint32(next - at)
		} else {
			flat = append(flat, perfEntry{at, uint32(next - at), top.name})
		}
		at = next
	}
	return flat
}

// perfHeap has the pieces of code that an address may lie in, the last on top.
type perfHeap struct {
	entries []perfEntry
	index   []int
}

func (h *perfHeap) Len() int           { return len(h.index) }
func (h *perfHeap) Less(i, j int) bool { return h.index[i] > h.index[j] }
func (h *perfHeap) Swap(i, j int)      { h.index[i], h.index[j] = h.index[j], h.index[i] }
func (h *perfHeap) Push(v any)         { h.index = append(h.index, v.(int)) }
func (h *perfHeap) Pop() any {
	last := h.index[len(h.index)-1]
	h.index = h.index[:len(h.index)-1]
	return last
}

// MemoryBytes returns how much memory the PerfMap holds, for caches that are bounded in bytes.
func (m *PerfMap) MemoryBytes() int {
	const fixed = 1024
	n := fixed
	for _, r := range m.runs {
		n += 16 * cap(r)
	}
	return n
}

// Resolve implements Resolver for addresses of the process. A frame has rank Symtab; SystemName is what the file says.
// Where that tells a source file, as V8's and Python's do, Function, File and StartLine are taken from it.
func (m *PerfMap) Resolve(dst []Frame, addr uint64) []Frame {
	e, ok := m.find(addr)
	if !ok {
		return dst
	}
	buf := make([]byte, maxPerfName)
	n, err := m.in.ReadAt(buf, int64(e.name))
	if err != nil && err != io.EOF {
		return dst
	}
	name := m.cutName(buf[:n])
	if name == "" {
		return dst
	}
	return append(dst, newPerfFrame(name))
}

// find returns the piece of code at an address.
func (m *PerfMap) find(addr uint64) (e perfEntry, ok bool) {
	for _, run := range slices.Backward(m.runs) {
		i := sort.Search(len(run), func(i int) bool { return run[i].start > addr }) - 1
		if i >= 0 && addr < run[i].end() {
			return run[i], true
		}
	}
	return perfEntry{}, false
}

// newPerfFrame reads the names that V8 and Python write:
//
//	LazyCompile:*work /src/app.js:10:14     V8; the mark is the compiler's: one function may have several
//	py::work:/src/app.py                    CPython
func newPerfFrame(name string) Frame {
	f := Frame{Function: name, SystemName: name, Source: Symtab}
	if rest, ok := strings.CutPrefix(name, "py::"); ok {
		if function, file, ok := strings.Cut(rest, ":"); ok && function != "" {
			f.Function, f.File = function, file
		}
		return f
	}
	kind, rest, ok := strings.Cut(name, ":")
	if !ok || !slices.Contains([]string{"LazyCompile", "JS", "Function", "Script", "Eval"}, kind) {
		return f
	}
	function, where, ok := cutLast(strings.TrimLeft(rest, "*~^+'"), " ")
	if !ok {
		return f
	}
	where, column, ok := cutLast(where, ":")
	file, line, ok2 := cutLast(where, ":")
	if n, err := strconv.Atoi(line); ok && ok2 && err == nil && n > 0 && isNumber(column) {
		f.Function, f.File, f.StartLine = cmp.Or(function, "(anonymous)"), file, n
	}
	return f
}

func isNumber(s string) bool { _, err := strconv.ParseUint(s, 10, 32); return err == nil }

// cutLast is strings.Cut at the last of sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
