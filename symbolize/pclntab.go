package symbolize

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sort"
	"strings"
)

// The pclntab is how a Go program names its own functions, and is in every Go program, stripped or not. What is
// read here is described in the Go source: runtime/symtab.go (pcHeader, moduledata, functab), runtime/runtime2.go
// (_func), runtime/symtabinl.go (inlinedCall), internal/abi/symtab.go; written by cmd/link/internal/ld/pcln.go.

const (
	// magicGo118 is the pclntab of Go 1.18 and 1.19.
	magicGo118 = 0xfffffff0
	// magicGo120 is the pclntab of Go 1.20 and later.
	magicGo120 = 0xfffffff1
)

const (
	pcdataInlTreeIndex = 2 // abi.PCDATA_InlTreeIndex
	funcdataInlTree    = 3 // abi.FUNCDATA_InlTree
)

const (
	// maxGoFunctions bounds the function table, to 32 MiB of the file. The go command has 15,000.
	maxGoFunctions = 4 << 20
	// maxInline bounds the calls inlined into one address: a hostile inline tree may loop.
	maxInline = 256
	// maxWalk bounds the bytes of pc-value tables that are decoded for one address, to some milliseconds. A table
	// has a few bytes for each line of its function.
	maxWalk = 4 << 20
	// sparseStep is how many functions stand between two that are kept in memory: their entries, 8 bytes each, fit
	// one scratch buffer.
	sparseStep = 32
)

var errTooLongWalk = errors.New("pc-value tables longer than 4 MiB")

// pclntab reads a Go pclntab in its file. In memory it keeps the entry of every 32nd function.
type pclntab struct {
	source
	magic    uint32
	quantum  uint64 // the unit of pc deltas: the smallest instruction
	text     uint64 // address that function entries are relative to
	nfunc    uint64
	names    extent // NUL-terminated function names
	cutab    extent // per compilation unit: file number to offset in files, uint32 each
	files    extent // NUL-terminated file names
	pctab    extent // pc-value tables
	funcs    extent // (entry, offset of _func) uint32 each, then the _func records
	funcdata extent // what funcdata offsets are relative to: the inline trees among other things
	sparse   []uint32
	end      uint32 // end of the last function, relative to text
}

// readPclntab returns nil if the file has no pclntab.
func readPclntab(m *image) (*pclntab, error) {
	s := m.section(".gopclntab")
	if s == nil {
		// Up to Go 1.25, position-independent programs have it among the relocated data.
		s = m.section(".data.rel.ro.gopclntab")
	}
	if s == nil {
		return nil, nil
	}
	whole, err := m.extentOf(s)
	if err != nil {
		return nil, err
	}
	word := m.ptrSize()
	head := make([]byte, 8+8*word)
	if err := m.read(whole, 0, head); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	t := &pclntab{source: m.source, magic: binary.LittleEndian.Uint32(head), quantum: uint64(head[6])}
	if t.magic != magicGo118 && t.magic != magicGo120 {
		return nil, fmt.Errorf("magic %#x: programs of Go 1.18 and later are read", t.magic)
	}
	if uint64(head[7]) != word {
		return nil, fmt.Errorf("pointers of %d bytes in a file of %d-byte addresses", head[7], word)
	}
	field := func(i uint64) uint64 { return m.word(head[8+i*word:]) }
	t.nfunc = field(0)
	for i, table := range []*extent{&t.names, &t.cutab, &t.files, &t.pctab, &t.funcs} {
		off := field(uint64(3 + i))
		var ok bool
		if *table, ok = whole.from(off); !ok {
			return nil, fmt.Errorf("header: table %d is at %#x of %#x bytes", i, off, whole.size)
		}
	}
	if err := t.readFunctions(); err != nil {
		return nil, err
	}
	md, err := findModuledata(m, s.addr, s.addr+field(3))
	if err != nil {
		return nil, err
	}
	// gofunc is its name in the moduledata. Up to Go 1.25 it lies in .rodata, from 1.26 on in the pclntab.
	t.text = md[moduledataText]
	gofunc := md[moduledataGofunc120]
	if t.magic == magicGo118 {
		gofunc = md[moduledataGofunc118]
	}
	if t.funcdata, err = m.extentAt(gofunc); err != nil {
		return nil, fmt.Errorf("function data: %w", err)
	}
	return t, nil
}

// readFunctions checks the function table and keeps some of its entries.
func (t *pclntab) readFunctions() error {
	if t.nfunc == 0 || t.nfunc > maxGoFunctions {
		return fmt.Errorf("%d functions, 1 to %d are read", t.nfunc, maxGoFunctions)
	}
	table, ok := t.funcs.slice(0, t.nfunc*8+4)
	if !ok {
		return fmt.Errorf("function table: %d entries in %d bytes", t.nfunc, t.funcs.size)
	}
	t.sparse = make([]uint32, 0, (t.nfunc+sparseStep-1)/sparseStep)
	sorted := true
	err := t.chunks(table, make([]byte, chunkSize), func(off uint64, piece []byte) bool {
		for i := 0; i+4 <= len(piece); i += 8 {
			entry := binary.LittleEndian.Uint32(piece[i:])
			sorted = sorted && entry >= t.end
			t.end = entry
			if n := (off + uint64(i)) / 8; n < t.nfunc && n%sparseStep == 0 {
				t.sparse = append(t.sparse, entry)
			}
		}
		return sorted
	})
	if err == nil && !sorted {
		err = errors.New("entries are not in order")
	}
	if err != nil {
		return fmt.Errorf("function table: %w", err)
	}
	return nil
}

// covers reports whether a function of the table holds addr.
func (t *pclntab) covers(addr uint64) bool {
	return addr >= t.text && addr-t.text >= uint64(t.sparse[0]) && addr-t.text < uint64(t.end)
}

func (t *pclntab) memoryBytes() int { return 256 + 4*cap(t.sparse) }

// goFunc is what is used of a runtime._func.
type goFunc struct {
	entry     uint32 // relative to text
	name      uint32
	pcsp      uint32 // stack held, without return address
	pcfile    uint32
	pcline    uint32
	pcinline  uint32 // PCDATA_InlTreeIndex; 0 if nothing is inlined
	cu        uint32
	startLine int32
	inlTree   uint32 // FUNCDATA_InlTree; noFuncdata if nothing is inlined
}

const noFuncdata = math.MaxUint32

// find returns the function that holds pc, which is relative to text and covered.
func (t *pclntab) find(pc uint32, buf []byte) (goFunc, error) {
	block := sort.Search(len(t.sparse), func(i int) bool { return t.sparse[i] > pc }) - 1
	first := uint64(block) * sparseStep
	n := min(sparseStep, t.nfunc-first)
	entries := buf[:n*8]
	if err := t.read(t.funcs, first*8, entries); err != nil {
		return goFunc{}, fmt.Errorf("function table: %w", err)
	}
	le := binary.LittleEndian
	i := sort.Search(int(n), func(i int) bool { return le.Uint32(entries[i*8:]) > pc }) - 1
	if i < 0 {
		return goFunc{}, errors.New("function table has changed since it was opened")
	}
	return t.function(le.Uint32(entries[i*8+4:]), buf)
}

// function reads the _func at an offset of funcs.
func (t *pclntab) function(off uint32, buf []byte) (goFunc, error) {
	b, err := t.readSome(t.funcs, uint64(off), buf)
	if err != nil {
		return goFunc{}, fmt.Errorf("function record: %w", err)
	}
	// Go 1.20 put startLine after cuOffset.
	fixed := 44
	if t.magic == magicGo118 {
		fixed = 40
	}
	if len(b) < fixed {
		return goFunc{}, fmt.Errorf("function record at %#x: table ends", off)
	}
	le := binary.LittleEndian
	f := goFunc{
		entry:   le.Uint32(b),
		name:    le.Uint32(b[4:]),
		pcsp:    le.Uint32(b[16:]),
		pcfile:  le.Uint32(b[20:]),
		pcline:  le.Uint32(b[24:]),
		cu:      le.Uint32(b[32:]),
		inlTree: noFuncdata,
	}
	if t.magic != magicGo118 {
		f.startLine = int32(le.Uint32(b[36:]))
	}
	npcdata, nfuncdata := uint64(le.Uint32(b[28:])), b[fixed-1]
	if npcdata <= pcdataInlTreeIndex || nfuncdata <= funcdataInlTree {
		return f, nil
	}
	if at := uint64(fixed) + 4*(npcdata+funcdataInlTree); at+4 <= uint64(len(b)) {
		f.pcinline = le.Uint32(b[fixed+4*pcdataInlTreeIndex:])
		f.inlTree = le.Uint32(b[at:])
		return f, nil
	}
	return goFunc{}, fmt.Errorf("function record at %#x: %d pcdata tables", off, npcdata)
}

// inlinedCall is what is used of a runtime.inlinedCall.
type inlinedCall struct {
	name      uint32
	parentPC  uint32 // where the call stood, relative to the function's entry
	startLine int32
}

func (t *pclntab) inlinedCall(f goFunc, index int32, buf []byte) (inlinedCall, error) {
	size, name, parent := uint64(16), 4, 8
	if t.magic == magicGo118 {
		size, name, parent = 20, 12, 16
	}
	b := buf[:size]
	if err := t.read(t.funcdata, uint64(f.inlTree)+uint64(index)*size, b); err != nil {
		return inlinedCall{}, fmt.Errorf("inline tree entry %d: %w", index, err)
	}
	c := inlinedCall{name: binary.LittleEndian.Uint32(b[name:]), parentPC: binary.LittleEndian.Uint32(b[parent:])}
	if t.magic != magicGo118 {
		c.startLine = int32(binary.LittleEndian.Uint32(b[12:]))
	}
	return c, nil
}

// resolve appends the frames at addr. On error it returns dst as it was.
//
// Method wrappers and other functions without source of their own stay in, unlike in the runtime's tracebacks: the
// last frame is always the function that holds addr.
func (t *pclntab) resolve(dst []Frame, addr uint64, buf []byte) ([]Frame, error) {
	if !t.covers(addr) {
		return dst, nil
	}
	pc := uint32(addr - t.text)
	f, err := t.find(pc, buf)
	if err != nil {
		return dst, err
	}
	budget := maxWalk
	frames := dst
	for range maxInline {
		frame := Frame{StartLine: int(f.startLine), Source: Pclntab}
		name, parent := f.name, pc
		index := int32(-1)
		if f.inlTree != noFuncdata {
			if index, err = t.value(f.pcinline, f.entry, pc, &budget, buf); err != nil {
				return dst, err
			}
		}
		if index >= 0 {
			call, err := t.inlinedCall(f, index, buf)
			if err != nil {
				return dst, err
			}
			name, parent, frame.StartLine = call.name, f.entry+call.parentPC, int(call.startLine)
		}
		if frame.SystemName, err = t.cstring(t.names, uint64(name), buf); err != nil {
			return dst, fmt.Errorf("function name: %w", err)
		}
		frame.Function = printedName(frame.SystemName)
		if frame.File, frame.Line, err = t.fileLine(f, pc, &budget, buf); err != nil {
			return dst, err
		}
		frames = append(frames, frame)
		if index < 0 {
			return frames, nil
		}
		pc = parent
	}
	return dst, fmt.Errorf("more than %d inlined calls", maxInline)
}

// fileLine returns the position of the innermost call at pc; "" and 0 if the table does not tell.
func (t *pclntab) fileLine(f goFunc, pc uint32, budget *int, buf []byte) (string, int, error) {
	number, err := t.value(f.pcfile, f.entry, pc, budget, buf)
	if err != nil || number < 0 {
		return "", 0, err
	}
	line, err := t.value(f.pcline, f.entry, pc, budget, buf)
	if err != nil || line < 0 {
		return "", 0, err
	}
	b := buf[:4]
	if err := t.read(t.cutab, (uint64(f.cu)+uint64(number))*4, b); err != nil {
		return "", 0, fmt.Errorf("file %d: %w", number, err)
	}
	off := binary.LittleEndian.Uint32(b)
	if off == math.MaxUint32 {
		return "", 0, nil // the linker left the file out
	}
	file, err := t.cstring(t.files, uint64(off), buf)
	if err != nil {
		return "", 0, fmt.Errorf("file %d: %w", number, err)
	}
	return file, int(line), nil
}

// value looks pc up in the pc-value table at off: pairs of a zigzag value delta and a pc delta, varints both,
// starting from value -1 at entry. It returns -1 if there is no table or it ends before pc.
func (t *pclntab) value(off, entry, pc uint32, budget *int, buf []byte) (int32, error) {
	if off == 0 {
		return -1, nil
	}
	value, at := int32(-1), uint64(entry)
	pos := uint64(off)
	for {
		b, err := t.readSome(t.pctab, pos, buf[:min(len(buf), 128)])
		if err != nil {
			return 0, fmt.Errorf("pc-value table: %w", err)
		}
		// A pair is at most 10 bytes long; one that is cut by the end of b is read again with the next piece.
		used := 0
		for {
			delta, n := uvarint32(b[used:])
			step, m := uvarint32(b[used+n:])
			if delta == 0 && n > 0 && used+int(pos-uint64(off)) > 0 {
				return -1, nil
			}
			if n == 0 || m == 0 {
				break
			}
			used += n + m
			value += int32(-(delta & 1) ^ delta>>1)
			at += uint64(step) * t.quantum
			if uint64(pc) < at {
				return value, nil
			}
		}
		if used == 0 {
			return 0, fmt.Errorf("pc-value table at %#x has no end", off)
		}
		pos += uint64(used)
		if *budget -= used; *budget < 0 {
			return 0, errTooLongWalk
		}
	}
}

// uvarint32 decodes a varint of at most 5 bytes; n is 0 if b does not hold one.
func uvarint32(b []byte) (v uint32, n int) {
	for i := 0; i < min(len(b), 5); i++ {
		v |= uint32(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}

// printedName returns a function's name as the runtime prints it: the type arguments of generic functions, which
// are descriptions of shapes that no source has, give way to [...].
func printedName(name string) string {
	i := strings.IndexByte(name, '[')
	j := strings.LastIndexByte(name, ']')
	if i < 0 || j <= i {
		return name
	}
	return name[:i] + "[...]" + name[j+1:]
}
