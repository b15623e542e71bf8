package symbolize

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
)

// An index names the addresses of one ELF file, made from its DWARF and its symbols by BuildIndex. All numbers are
// little-endian; varints are those of encoding/binary.
//
//	┌────────────────────────────────────────────────────────────┐
//	│ "PLSYMS" and the version, u16                              │
//	├────────────────────────────────────────────────────────────┤
//	│ records, in the order in which functions were read         │
//	│ ┌ function ──────────────────────────────────────────────┐ │
//	│ │ node: 0, function                                      │ │   the function itself
//	│ │ node: bytes back to the caller's node, function,       │ │   a call inlined into it, or into
//	│ │       file of the call, line of the call       (x n)   │ │   another such call
//	│ └────────────────────────────────────────────────────────┘ │
//	│ ┌ chunk (one or more a function) ────────────────────────┐ │
//	│ │ bytes of code, bytes back to the function (0: none),   │ │
//	│ │ symbol (0: as the function), number of rows            │ │
//	│ │ row: bytes of code since the last row << 2 | flags,    │ │   from there on the code is that of
//	│ │      [node, as bytes from the function's record],      │ │   a node, a file and a line
//	│ │      [file], line, signed, less the last row's (x n)   │ │
//	│ └────────────────────────────────────────────────────────┘ │
//	├────────────────────────────────────────────────────────────┤
//	│ strings: length, bytes                                     │
//	├────────────────────────────────────────────────────────────┤
//	│ functions: u32 name, in strings · u32 line of declaration  │   8 bytes each; function 0 is none
//	├────────────────────────────────────────────────────────────┤
//	│ files: u32 path, in strings                                │   4 bytes each; file 0 is none
//	├────────────────────────────────────────────────────────────┤
//	│ addresses: u32 start, less the base · u32 chunk            │   8 bytes each, by start
//	├────────────────────────────────────────────────────────────┤
//	│ trailer: u64 base · u64 offsets of strings, functions,     │
//	│ files, addresses · u32 number of functions, files,         │
//	│ addresses · u32 CRC-32C of all before it                   │   56 bytes
//	└────────────────────────────────────────────────────────────┘
//
// A lookup is a search among the addresses, a walk over the rows of one chunk, at most 48, and a step from node to
// node for each inlined call. Chunks do not overlap: one ends where the next begins. So that the index can be
// written in one go, what is found first is written last.
const indexMagic = "PLSYMS\x01\x00"

// Flags of a row.
const (
	rowHasNode  = 1
	rowHasFile  = 2
	rowFlagBits = 2
)

// indexTrailer is the end of the index.
type indexTrailer struct {
	Base                                   uint64
	Strings, Functions, Files, Addresses   uint64
	FunctionCount, FileCount, AddressCount uint32
}

// trailerSize is that of the trailer with its checksum.
const trailerSize = 5*8 + 3*4 + 4

func (t *indexTrailer) append(b []byte) []byte {
	le := binary.LittleEndian
	for _, v := range []uint64{t.Base, t.Strings, t.Functions, t.Files, t.Addresses} {
		b = le.AppendUint64(b, v)
	}
	for _, v := range []uint32{t.FunctionCount, t.FileCount, t.AddressCount} {
		b = le.AppendUint32(b, v)
	}
	return b
}

func (t *indexTrailer) parse(b []byte) {
	le := binary.LittleEndian
	for i, v := range []*uint64{&t.Base, &t.Strings, &t.Functions, &t.Files, &t.Addresses} {
		*v = le.Uint64(b[8*i:])
	}
	for i, v := range []*uint32{&t.FunctionCount, &t.FileCount, &t.AddressCount} {
		*v = le.Uint32(b[40+4*i:])
	}
}

var (
	// ErrIndexVersion is the error of an index that another version of this package wrote.
	ErrIndexVersion = errors.New("index of another version")
	// errIndexDamaged is wrapped by the errors of an index that is not as it was written.
	errIndexDamaged = errors.New("index is damaged")
)

// sparseAddresses is how many entries of the address table stand between two that are kept in memory. A table of up
// to maxWhole bytes is kept as a whole, which saves a lookup a read.
const (
	sparseAddresses = 64
	maxWhole        = 512 << 10
)

// Index names addresses from an index that BuildIndex wrote. In memory it keeps the addresses, of large indexes every
// 64th, and the names that were asked for lately; all else it reads from the file.
//
// An Index may be used by several goroutines at once if its ReaderAt may.
type Index struct {
	in      source
	closer  io.Closer
	trailer indexTrailer
	// records, strings, functions, files and addresses are the parts of the file.
	records, strings, functions, files, addresses extent
	sparse                                        []uint32
	whole                                         []byte    // all of addresses, if they are few
	scratch                                       sync.Pool // *indexScratch

	mu    sync.Mutex
	names map[uint32]indexName
	paths map[uint32]string
	held  int // bytes of names and paths
	err   error
}

// indexName is the name of a function, ready to be handed out.
type indexName struct {
	function, system string
	startLine        int
}

// maxIndexNames bounds the bytes of names that an Index keeps.
const maxIndexNames = 4 << 20

// OpenIndex opens an index of size bytes and checks it as a whole. The error is ErrIndexVersion for one that has to
// be made anew. The Index reads from r for as long as it is used; Close closes r if it is an io.Closer.
func OpenIndex(r io.ReaderAt, size int64) (*Index, error) {
	if size < int64(len(indexMagic)+trailerSize) {
		return nil, fmt.Errorf("%w: %d bytes", errIndexDamaged, size)
	}
	x := &Index{in: source{r, uint64(size)}, names: make(map[uint32]indexName), paths: make(map[uint32]string)}
	x.scratch.New = func() any { return new(indexScratch) }
	all := extent{0, uint64(size)}
	if err := x.check(all); err != nil {
		return nil, err
	}
	t := &x.trailer
	var ok [5]bool
	first := uint64(len(indexMagic))
	x.records, ok[0] = all.slice(0, t.Strings)
	x.strings, ok[1] = all.slice(t.Strings, t.Functions-t.Strings)
	x.functions, ok[2] = all.slice(t.Functions, uint64(t.FunctionCount)*8)
	x.files, ok[3] = all.slice(t.Files, uint64(t.FileCount)*4)
	x.addresses, ok[4] = all.slice(t.Addresses, uint64(t.AddressCount)*8)
	if ok != [5]bool{true, true, true, true, true} || t.Strings < first {
		return nil, fmt.Errorf("%w: tables reach past its end", errIndexDamaged)
	}
	if err := x.readSparse(); err != nil {
		return nil, err
	}
	x.closer, _ = r.(io.Closer)
	return x, nil
}

// check reads all of the index, its head and trailer to be used.
func (x *Index) check(all extent) error {
	var crc uint32
	var head []byte
	body := extent{0, all.size - 4}
	err := x.in.chunks(body, make([]byte, 64<<10), func(off uint64, piece []byte) bool {
		if off == 0 {
			head = append(head, piece[:len(indexMagic)]...)
			if string(head) != indexMagic {
				return false
			}
		}
		crc = crc32.Update(crc, castagnoli, piece)
		return true
	})
	if err != nil {
		return err
	}
	if string(head) != indexMagic {
		if string(head[:6]) == indexMagic[:6] {
			return ErrIndexVersion
		}
		return fmt.Errorf("%w: it does not begin as one", errIndexDamaged)
	}
	end := make([]byte, trailerSize)
	if err := x.in.read(all, all.size-trailerSize, end); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(end[trailerSize-4:]) != crc {
		return fmt.Errorf("%w: its checksum is another", errIndexDamaged)
	}
	x.trailer.parse(end)
	return nil
}

func (x *Index) readSparse() error {
	x.sparse = make([]uint32, 0, (x.addresses.size/8+sparseAddresses-1)/sparseAddresses)
	if x.addresses.size <= maxWhole {
		x.whole = make([]byte, 0, x.addresses.size)
	}
	last, sorted := uint32(0), true
	err := x.in.chunks(x.addresses, make([]byte, chunkSize), func(off uint64, piece []byte) bool {
		if x.addresses.size <= maxWhole {
			x.whole = append(x.whole, piece...)
		}
		for i := 0; i+8 <= len(piece); i += 8 {
			start := binary.LittleEndian.Uint32(piece[i:])
			sorted = sorted && start >= last
			last = start
			if (off+uint64(i))/8%sparseAddresses == 0 {
				x.sparse = append(x.sparse, start)
			}
		}
		return sorted
	})
	if err == nil && !sorted {
		err = fmt.Errorf("%w: addresses are not in order", errIndexDamaged)
	}
	return err
}

// Close closes the reader that OpenIndex was given, if it can be closed. No Resolve may be under way or follow.
func (x *Index) Close() error {
	if x.closer == nil {
		return nil
	}
	return x.closer.Close()
}

// Err returns the first thing that kept the index from naming an address that it has.
func (x *Index) Err() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.err
}

// MemoryBytes returns how much memory the Index holds, for caches that are bounded in bytes.
func (x *Index) MemoryBytes() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	const fixed = 1024
	return fixed + 4*cap(x.sparse) + cap(x.whole) + x.held
}

// location is what the index has of a frame.
type location struct {
	function uint32
	// symbol is the function again as the symbol table has it, if that calls it otherwise.
	symbol uint32
	file   uint32
	line   uint32
	source Rank
}

const (
	// maxChunkBytes bounds a chunk: a row takes 30 bytes at most, mostly 5.
	maxChunkBytes = 4*10 + maxChunkRows*(10+5+5+10)
	maxNode       = 10 + 5 + 5 + 5
	// recordsBefore and recordsAfter are how much is read around the start of a chunk: the record of its function is
	// mostly just before it.
	recordsBefore, recordsAfter = 1 << 10, 512
	// nodeWindow is how much is read before a node that is farther away, as its callers are before it.
	nodeWindow = 2 << 10
)

// indexScratch is what a lookup needs.
type indexScratch struct {
	addresses [8 * sparseAddresses]byte
	records   [max(recordsBefore+maxChunkBytes, nodeWindow+maxNode)]byte
	locations []location
}

// piece is a part of the records, at an offset of them.
type piece struct {
	b  []byte
	at uint64
}

// cursor returns a cursor at an offset; it is at its end if the piece does not reach there.
func (p piece) cursor(off uint64) cursor {
	if off < p.at || off-p.at > uint64(len(p.b)) {
		return cursor{}
	}
	return cursor{b: p.b, off: int(off - p.at)}
}

// around reads records from before bytes before off, as far as there are as many, to after bytes after it.
func (x *Index) around(off, before, after uint64, s *indexScratch) (piece, error) {
	before = min(before, off)
	b, err := x.in.readSome(x.records, off-before, s.records[:before+after])
	return piece{b, off - before}, err
}

// lookup appends what the index has at addr to dst, innermost inlined call first.
func (x *Index) lookup(dst []location, addr uint64, s *indexScratch) ([]location, error) {
	chunk, start, ok, err := x.find(addr, s.addresses[:])
	if err != nil || !ok {
		return dst, err
	}
	at, off := uint64(chunk), addr-x.trailer.Base-uint64(start)
	have, err := x.around(at, recordsBefore, recordsAfter, s)
	if err != nil {
		return dst, err
	}
	c := have.cursor(at)
	row, function, symbol, ok := parseChunk(&c, off)
	if c.short {
		if have, err = x.around(at, recordsBefore, maxChunkBytes, s); err != nil {
			return dst, err
		}
		c = have.cursor(at)
		row, function, symbol, ok = parseChunk(&c, off)
	}
	if c.short || function > at {
		return dst, fmt.Errorf("%w: chunk at %#x", errIndexDamaged, chunk)
	}
	if !ok {
		return dst, nil
	}
	if function == 0 {
		return append(dst, location{function: symbol, file: row.file, line: row.line, source: Symtab}), nil
	}
	return x.chain(dst, at-function, row, symbol, have, s)
}

// find returns the chunk that may hold addr, and its start.
func (x *Index) find(addr uint64, buf []byte) (chunk, start uint32, ok bool, err error) {
	if addr < x.trailer.Base || addr-x.trailer.Base > 1<<32-1 {
		return 0, 0, false, nil
	}
	off := uint32(addr - x.trailer.Base)
	block := upper(len(x.sparse), func(i int) uint32 { return x.sparse[i] }, off) - 1
	if block < 0 {
		return 0, 0, false, nil
	}
	var b []byte
	if at := block * len(buf); x.whole != nil {
		b = x.whole[at:min(at+len(buf), len(x.whole))]
	} else {
		var err error
		if b, err = x.in.readSome(x.addresses, uint64(at), buf); err != nil {
			return 0, 0, false, err
		}
	}
	le := binary.LittleEndian
	i := upper(len(b)/8, func(i int) uint32 { return le.Uint32(b[8*i:]) }, off) - 1
	if i < 0 {
		return 0, 0, false, fmt.Errorf("%w: addresses have changed", errIndexDamaged)
	}
	return le.Uint32(b[8*i+4:]), le.Uint32(b[8*i:]), true, nil
}

// upper returns how many of n rising values are at most v.
func upper(n int, at func(int) uint32, v uint32) int {
	lo, hi := 0, n
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if at(mid) <= v {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// parseChunk returns the row of a chunk that covers the code off bytes from its start, how far back its function is,
// and its symbol. ok is false where the chunk ends before off.
func parseChunk(c *cursor, off uint64) (row indexRow, function uint64, symbol uint32, ok bool) {
	size := c.uleb()
	function = c.uleb()
	symbol = uint32(c.uleb())
	rows := c.uleb()
	if off >= size || c.short {
		return row, function, symbol, false
	}
	at := uint64(0)
	for range min(rows, maxChunkRows) {
		head := c.uleb()
		if at += head >> rowFlagBits; at > off || c.short {
			break
		}
		if head&rowHasNode != 0 {
			row.node = uint32(c.uleb())
		}
		if head&rowHasFile != 0 {
			row.file = uint32(c.uleb())
		}
		delta := c.uleb()
		row.line += uint32(int64(delta>>1) ^ -int64(delta&1))
	}
	return row, function, symbol, true
}

// chain appends the frames of a node and of those it was inlined into. record is where the function is; have is what
// has been read.
func (x *Index) chain(dst []location, record uint64, row indexRow, symbol uint32, have piece, s *indexScratch) ([]location, error) {
	first := len(dst)
	file, line, node := row.file, row.line, uint64(row.node)
	for range maxInline {
		c := have.cursor(record + node)
		l, back, callFile, callLine := parseNode(&c)
		if c.short {
			var err error
			if have, err = x.around(record+node, min(node, nodeWindow), maxNode, s); err != nil {
				return dst[:first], err
			}
			c = have.cursor(record + node)
			l, back, callFile, callLine = parseNode(&c)
		}
		if c.short || back > node {
			return dst[:first], fmt.Errorf("%w: inlined call at %#x", errIndexDamaged, record+node)
		}
		l.file, l.line = file, line
		dst = append(dst, l)
		if back == 0 {
			dst[len(dst)-1].symbol = symbol
			return dst, nil
		}
		file, line, node = callFile, callLine, node-back
	}
	return dst[:first], fmt.Errorf("%w: more than %d inlined calls", errIndexDamaged, maxInline)
}

// parseNode reads a node, and how far back its caller is: 0 for a function itself, which has no place of call.
func parseNode(c *cursor) (l location, back uint64, callFile, callLine uint32) {
	back = c.uleb()
	l = location{function: uint32(c.uleb()), source: DWARF}
	if back != 0 {
		callFile, callLine = uint32(c.uleb()), uint32(c.uleb())
	}
	return l, back, callFile, callLine
}

// Resolve implements Resolver for ELF virtual addresses. Its frames have rank DWARF, or Symtab where the index
// has a symbol only: such a frame may have a file, which the symbol table says of local functions, and no line. Where
// the symbol table calls the outermost function otherwise than DWARF does, because it is the cold part of it or a
// specialized copy (f.cold, f.isra.0), Function is DWARF's and SystemName the symbol. Both are empty for an inlined
// call whose name was in a file that was not there.
func (x *Index) Resolve(dst []Frame, addr uint64) []Frame {
	s := x.scratch.Get().(*indexScratch)
	defer x.scratch.Put(s)
	var err error
	if s.locations, err = x.lookup(s.locations[:0], addr, s); err != nil {
		x.note(fmt.Errorf("resolve %#x: %w", addr, err))
		return dst
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	start := len(dst)
	for _, l := range s.locations {
		f, err := x.frame(l)
		if err != nil {
			if x.err == nil {
				x.err = fmt.Errorf("resolve %#x: %w", addr, err)
			}
			return dst[:start]
		}
		dst = append(dst, f)
	}
	return dst
}

func (x *Index) note(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err == nil {
		x.err = err
	}
}

// frame looks up the names of a location. x.mu is held.
func (x *Index) frame(l location) (Frame, error) {
	name, err := x.name(l.function)
	if err != nil {
		return Frame{}, err
	}
	path, err := x.path(l.file)
	if err != nil {
		return Frame{}, err
	}
	f := Frame{
		Function: name.function, SystemName: name.system, StartLine: name.startLine, File: path, Line: int(l.line), Source: l.source,
	}
	if l.symbol != 0 {
		symbol, err := x.name(l.symbol)
		if err != nil {
			return Frame{}, err
		}
		f.SystemName = symbol.system
		if f.Function == "" {
			f.Function = symbol.function
		}
	}
	return f, nil
}

func (x *Index) name(function uint32) (indexName, error) {
	if n, ok := x.names[function]; ok {
		return n, nil
	}
	var rec [8]byte
	if err := x.in.read(x.functions, 8*uint64(function), rec[:]); err != nil {
		return indexName{}, err
	}
	le := binary.LittleEndian
	system, err := x.string(le.Uint32(rec[:]))
	if err != nil {
		return indexName{}, err
	}
	n := indexName{demangled(system), system, int(le.Uint32(rec[4:]))}
	x.hold(len(n.function) + len(n.system))
	x.names[function] = n
	return n, nil
}

func (x *Index) path(file uint32) (string, error) {
	if p, ok := x.paths[file]; ok {
		return p, nil
	}
	var rec [4]byte
	if err := x.in.read(x.files, 4*uint64(file), rec[:]); err != nil {
		return "", err
	}
	p, err := x.string(binary.LittleEndian.Uint32(rec[:]))
	if err != nil {
		return "", err
	}
	x.hold(len(p))
	x.paths[file] = p
	return p, nil
}

// hold makes room for n more bytes of names.
func (x *Index) hold(n int) {
	const entry = 80 // in a map, with the headers of its strings
	if x.held += n + entry; x.held > maxIndexNames {
		clear(x.names)
		clear(x.paths)
		x.held = n + entry
	}
}

// string reads a string of the index.
func (x *Index) string(off uint32) (string, error) {
	var buf [256]byte
	b, err := x.in.readSome(x.strings, uint64(off), buf[:])
	if err != nil {
		return "", err
	}
	c := cursor{b: b}
	size := c.uleb()
	if c.short || size > maxString {
		return "", fmt.Errorf("%w: string at %#x", errIndexDamaged, off)
	}
	if size <= uint64(len(b)-c.off) {
		return string(b[c.off : c.off+int(size)]), nil
	}
	long := make([]byte, size)
	err = x.in.read(x.strings, uint64(off)+uint64(c.off), long)
	return string(long), err
}
