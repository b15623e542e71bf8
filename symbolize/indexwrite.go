package symbolize

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"hash/maphash"
	"io"
	"math"
	"slices"
)

// indexWriter writes an index from front to back and keeps its first error.
type indexWriter struct {
	out   *bufio.Writer
	off   uint64
	limit uint64
	crc   uint32
	err   error
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func newIndexWriter(out io.Writer, limit uint64) indexWriter {
	w := indexWriter{out: bufio.NewWriterSize(out, 256<<10), limit: limit}
	w.write([]byte(indexMagic))
	return w
}

func (w *indexWriter) write(b []byte) {
	if w.err != nil {
		return
	}
	if uint64(len(b)) > w.limit-w.off {
		w.err = fmt.Errorf("index of more than %d bytes: %w", w.limit, errLimit)
		return
	}
	w.crc = crc32.Update(w.crc, castagnoli, b)
	w.off += uint64(len(b))
	_, w.err = w.out.Write(b)
}

// indexEntry is an entry of the table of addresses while the index is made.
type indexEntry struct {
	start, size uint32 // start is relative to the first code
	chunk       uint32
	unit        uint32 // number of the unit; unitless for symbols
	order       uint32
}

const unitless = math.MaxUint32

// before reports whether an entry counts where it and o are about the same code: that of the unit that comes first,
// as the linker folded functions of others into it, and in a unit the last, as aliases follow what they are for.
func (e *indexEntry) before(o *indexEntry) bool {
	if e.unit != o.unit {
		return e.unit < o.unit
	}
	return e.order > o.order
}

// maxIndexEntries bounds the table of addresses, 20 bytes each while it is made.
const maxIndexEntries = 2 << 20

// indexRow is a row of a chunk.
type indexRow struct {
	addr uint64
	node uint32 // offset of its record from the function's
	file uint32
	line uint32
}

// unitIndex is what the index has of the unit being read.
type unitIndex struct {
	covered []span
	fileIDs []uint32 // by number in the unit; noFileID: not looked up
}

const noFileID = math.MaxUint32

func (u *unitIndex) reset() {
	u.covered, u.fileIDs = u.covered[:0], u.fileIDs[:0]
}

// maxIndexFiles bounds the source files of an index, and maxPathBytes their paths.
const (
	maxIndexFiles = 1 << 20
	maxPathBytes  = 64 << 20
)

// fileID returns the index's number of a file of the unit.
func (b *indexBuilder) fileID(w *walker, number uint32) (uint32, error) {
	ids := &w.unit.fileIDs
	if uint64(number) >= uint64(len(w.lines.files)) {
		return 0, nil
	}
	for len(*ids) < len(w.lines.files) {
		*ids = append(*ids, noFileID)
	}
	if id := (*ids)[number]; id != noFileID {
		return id, nil
	}
	path, err := w.lines.path(b, number, w.x.compDir)
	if err != nil {
		b.note(fmt.Errorf("file %d: %w", number, err))
		path = ""
	}
	id, err := b.pathID(path)
	(*ids)[number] = id
	return id, err
}

// pathID returns the index's number of a source file, 0 of one without a name.
func (b *indexBuilder) pathID(path string) (uint32, error) {
	id, known := b.files[path]
	if known || path == "" {
		return id, nil
	}
	if len(b.paths) == maxIndexFiles || b.pathBytes+len(path) > maxPathBytes {
		return 0, fmt.Errorf("more than %d source files: %w", len(b.paths), errLimit)
	}
	b.pathBytes += len(path)
	id = uint32(len(b.paths))
	b.paths = append(b.paths, path)
	b.files[path] = id
	return id, nil
}

// addFunction writes a function of the unit that w reads.
func (b *indexBuilder) addFunction(w *walker, fn *function) error {
	b.painted = paint(b.painted[:0], fn.spans)
	at := b.w.off
	if err := b.writeNodes(w, fn); err != nil {
		return err
	}
	for runs := b.painted; len(runs) > 0; {
		n := 1
		for n < len(runs) && runs[n].lo == runs[n-1].hi {
			n++
		}
		run := span{runs[0].lo, runs[n-1].hi}
		symbol, err := b.symbolFor(run.lo, fn.nodes[0].function)
		if err != nil {
			return err
		}
		b.rows = b.rows[:0]
		for _, s := range runs[:n] {
			if err := b.addRows(w, s.span, b.nodeAt[s.node]); err != nil {
				return err
			}
		}
		if err := b.writeChunks(run, at, symbol); err != nil {
			return err
		}
		w.unit.covered = append(w.unit.covered, run)
		runs = runs[n:]
	}
	return b.w.err
}

// writeNodes writes a function's record: its nodes that have code, in the order of the entries, so that callers
// come before what they call.
func (b *indexBuilder) writeNodes(w *walker, fn *function) error {
	const unused, used = 0, 1
	b.nodeAt = append(b.nodeAt[:0], make([]uint32, len(fn.nodes))...)
	for _, s := range b.painted {
		b.nodeAt[s.node] = used
	}
	for i := len(fn.nodes) - 1; i > 0; i-- {
		if b.nodeAt[i] == used {
			b.nodeAt[fn.nodes[i].parent] = used
		}
	}
	rec := b.record[:0]
	for i, n := range fn.nodes {
		if i > 0 && b.nodeAt[i] == unused {
			continue
		}
		at := uint32(len(rec))
		if i == 0 {
			rec = append(rec, 0)
			rec = binary.AppendUvarint(rec, uint64(n.function))
		} else {
			file, err := b.fileID(w, n.callFile)
			if err != nil {
				return err
			}
			rec = binary.AppendUvarint(rec, uint64(at-b.nodeAt[n.parent]))
			rec = binary.AppendUvarint(rec, uint64(n.function))
			rec = binary.AppendUvarint(rec, uint64(file))
			rec = binary.AppendUvarint(rec, uint64(n.callLine))
		}
		b.nodeAt[i] = at
	}
	b.record = rec
	b.w.write(rec)
	return nil
}

// addRows appends the rows of s, which is code of one node.
func (b *indexBuilder) addRows(w *walker, s span, node uint32) error {
	for pc := s.lo; pc < s.hi; {
		row := indexRow{addr: pc, node: node}
		i, until := w.lines.seek(pc)
		if i >= 0 {
			r := w.lines.rows[i]
			var err error
			if row.file, err = b.fileID(w, r.file); err != nil {
				return err
			}
			row.line = r.line
		}
		if n := len(b.rows); n == 0 || b.rows[n-1].node != node || b.rows[n-1].file != row.file || b.rows[n-1].line != row.line {
			b.rows = append(b.rows, row)
		}
		pc = until
	}
	return nil
}

// symbolFor returns the function that is the symbol at addr, if that is called otherwise than DWARF calls the
// function: the cold part of it, a copy that the compiler specialized. It is 0 if there is nothing to add.
func (b *indexBuilder) symbolFor(addr uint64, function uint32) (uint32, error) {
	for _, t := range b.symbols {
		i, ok := t.table.find(addr)
		if !ok {
			continue
		}
		name, err := b.bytes(b.functions.keys[function].name)
		if err != nil {
			b.note(err)
		}
		b.knownName = append(b.knownName[:0], name...)
		symbol, _, err := b.symbolFunction(&t, i)
		return symbol, err
	}
	return 0, nil
}

// addSymbolsIn calls add with the ranges of symbols in s, their functions and the files that the symbol table says.
func (b *indexBuilder) addSymbolsIn(s span, add func(piece span, symbol, file uint32) error) error {
	b.knownName = b.knownName[:0]
	for _, t := range b.symbols {
		err := t.table.eachIn(s, func(i int, piece span) error {
			if !b.wants(piece) {
				return nil
			}
			symbol, name, err := b.symbolFunction(&t, i)
			if err != nil || symbol == 0 {
				return err
			}
			file, err := b.symbolFile(&t, piece.lo, name)
			if err != nil {
				return err
			}
			return add(piece, symbol, file)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// symbolFile returns the index's number of the source file of a symbol, 0 if the table does not say it.
func (b *indexBuilder) symbolFile(t *symbolTable, addr uint64, name uint32) (uint32, error) {
	file := t.files.find(addr, name)
	if file == 0 {
		return 0, nil
	}
	path, err := b.text(newStringRef(t.source, uint64(file)))
	if err != nil {
		b.note(err)
	}
	return b.pathID(path)
}

// symbolFunction returns the function that is a range of a symbol table, and where its name is in the table's
// strings; 0 if one of its names is b.knownName.
func (b *indexBuilder) symbolFunction(t *symbolTable, i int) (function, at uint32, err error) {
	var best functionKey
	b.bestName = b.bestName[:0]
	same := false
	t.table.namesOf(i, func(off uint32) {
		ref := newStringRef(t.source, uint64(off))
		name, err := b.bytes(ref)
		switch {
		case err != nil:
			b.note(err)
		case len(name) > 0 && string(name) == string(b.knownName):
			same = true
		case best.name == 0 || compareNames(name, b.bestName) < 0:
			best.name, at = ref, off
			b.bestName = append(b.bestName[:0], name...)
		}
	})
	if same || best.name == 0 {
		return 0, 0, nil
	}
	function, err = b.functions.number(best)
	return function, at, err
}

// maxChunkRows bounds the rows of a chunk, as a lookup reads them one by one.
const maxChunkRows = 48

// writeChunks writes b.rows, which cover run. at is where the function's record is, 0 if there is none.
func (b *indexBuilder) writeChunks(run span, at uint64, symbol uint32) error {
	for rows := b.rows; len(rows) > 0; {
		n := min(len(rows), maxChunkRows)
		end := run.hi
		if n < len(rows) {
			end = rows[n].addr
		}
		if err := b.writeChunk(span{rows[0].addr, end}, rows[:n], at, symbol); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

func (b *indexBuilder) writeChunk(s span, rows []indexRow, at uint64, symbol uint32) error {
	if len(b.entries) == maxIndexEntries || b.w.off > math.MaxUint32 {
		return fmt.Errorf("index of more than %d ranges or 4 GiB: %w", maxIndexEntries, errLimit)
	}
	back := uint64(0)
	if at != 0 {
		back = b.w.off - at
	}
	b.entries = append(b.entries, indexEntry{
		start: uint32(s.lo - b.code[0].lo), size: uint32(s.hi - s.lo), chunk: uint32(b.w.off), unit: b.unit, order: uint32(len(b.entries)),
	})
	rec := b.record[:0]
	rec = binary.AppendUvarint(rec, s.hi-s.lo)
	rec = binary.AppendUvarint(rec, back)
	rec = binary.AppendUvarint(rec, uint64(symbol))
	rec = binary.AppendUvarint(rec, uint64(len(rows)))
	last := indexRow{addr: s.lo}
	for _, r := range rows {
		flags := uint64(0)
		if r.node != last.node {
			flags |= rowHasNode
		}
		if r.file != last.file {
			flags |= rowHasFile
		}
		rec = binary.AppendUvarint(rec, (r.addr-last.addr)<<rowFlagBits|flags)
		if flags&rowHasNode != 0 {
			rec = binary.AppendUvarint(rec, uint64(r.node))
		}
		if flags&rowHasFile != 0 {
			rec = binary.AppendUvarint(rec, uint64(r.file))
		}
		rec = binary.AppendVarint(rec, int64(r.line)-int64(last.line))
		last = r
	}
	b.record = rec
	b.w.write(rec)
	return b.w.err
}

// finishUnit writes what has lines but is of no function that DWARF knows: assembly, by its symbols.
func (b *indexBuilder) finishUnit(w *walker) error {
	b.stats.Units++
	b.unit++
	if len(b.symbols) == 0 {
		return nil
	}
	covered := w.unit.covered
	slices.SortFunc(covered, func(a, b span) int { return cmp.Compare(a.lo, b.lo) })
	for _, s := range w.lines.sequences {
		err := eachGap(s.span, covered, func(gap span) error {
			return b.addSymbolsIn(gap, func(piece span, symbol, _ uint32) error {
				b.rows = b.rows[:0]
				if err := b.addRows(w, piece, 0); err != nil {
					return err
				}
				return b.writeChunks(piece, 0, symbol)
			})
		})
		if err != nil {
			return err
		}
	}
	return b.w.err
}

// eachGap calls f with the parts of s that covered, which is sorted, does not cover.
func eachGap(s span, covered []span, f func(span) error) error {
	i, _ := slices.BinarySearchFunc(covered, s.lo, func(c span, addr uint64) int { return cmp.Compare(c.hi, addr) })
	at := s.lo
	for ; i < len(covered) && covered[i].lo < s.hi; i++ {
		if covered[i].lo > at {
			if err := f(span{at, covered[i].lo}); err != nil {
				return err
			}
		}
		at = max(at, covered[i].hi)
	}
	if at < s.hi {
		return f(span{at, s.hi})
	}
	return nil
}

// sortEntries puts the entries in order, and of those that overlap leaves one.
func (b *indexBuilder) sortEntries() {
	slices.SortFunc(b.entries, func(a, b indexEntry) int {
		switch {
		case a.start != b.start:
			return cmp.Compare(a.start, b.start)
		case a.before(&b):
			return -1
		}
		return 1
	})
	kept := b.entries[:0]
	for _, e := range b.entries {
		if n := len(kept); n > 0 && uint64(kept[n-1].start)+uint64(kept[n-1].size) > uint64(e.start) {
			last := &kept[n-1]
			if last.start == e.start || last.before(&e) {
				continue
			}
			last.size = e.start - last.start
		}
		kept = append(kept, e)
	}
	b.entries = kept
}

// addSymbols writes the symbols of code that DWARF does not cover.
func (b *indexBuilder) addSymbols() error {
	b.unit = unitless
	b.sortEntries()
	if len(b.symbols) == 0 {
		return nil
	}
	base := b.code[0].lo
	covered := make([]span, 0, len(b.entries))
	for _, e := range b.entries {
		s := span{base + uint64(e.start), base + uint64(e.start) + uint64(e.size)}
		if n := len(covered); n > 0 && covered[n-1].hi == s.lo {
			covered[n-1].hi = s.hi
			continue
		}
		covered = append(covered, s)
	}
	for _, code := range b.code {
		err := eachGap(code, covered, func(gap span) error {
			return b.addSymbolsIn(gap, func(piece span, symbol, file uint32) error {
				b.rows = b.rows[:0]
				if file != 0 {
					b.rows = append(b.rows, indexRow{addr: piece.lo, file: file})
				}
				return b.writeChunk(piece, b.rows, 0, symbol)
			})
		})
		if err != nil {
			return err
		}
	}
	b.sortEntries()
	return nil
}

// finishIndex writes the tables.
func (b *indexBuilder) finishIndex() error {
	stringsAt := b.w.off
	names, err := b.writeNames()
	if err != nil {
		return err
	}
	files := make([]uint32, len(b.paths))
	for i, p := range b.paths {
		files[i] = b.writeString([]byte(p), stringsAt)
	}
	if b.w.off-stringsAt > math.MaxUint32 {
		return fmt.Errorf("strings of %d bytes: %w", b.w.off-stringsAt, errLimit)
	}
	le := binary.LittleEndian
	functionsAt := b.w.off
	var rec [8]byte
	for i, k := range b.functions.keys {
		le.PutUint32(rec[:], names[i])
		le.PutUint32(rec[4:], k.line)
		b.w.write(rec[:])
	}
	filesAt := b.w.off
	for _, f := range files {
		le.PutUint32(rec[:], f)
		b.w.write(rec[:4])
	}
	addressesAt := b.w.off
	for _, e := range b.entries {
		le.PutUint32(rec[:], e.start)
		le.PutUint32(rec[4:], e.chunk)
		b.w.write(rec[:])
	}
	t := indexTrailer{
		Base: b.code[0].lo, Strings: stringsAt, Functions: functionsAt, Files: filesAt, Addresses: addressesAt,
		FunctionCount: uint32(len(names)), FileCount: uint32(len(files)), AddressCount: uint32(len(b.entries)),
	}
	b.w.write(t.append(nil))
	b.w.write(le.AppendUint32(nil, b.w.crc))
	if b.w.err == nil {
		b.w.err = b.w.out.Flush()
	}
	b.stats.Functions, b.stats.Ranges = len(names), len(b.entries)
	return b.w.err
}

// writeNames writes the names of the functions, in the order in which they lie in their sections, and returns where
// each is.
func (b *indexBuilder) writeNames() ([]uint32, error) {
	start := b.w.off
	order := make([]uint32, len(b.functions.keys))
	for i := range order {
		order[i] = uint32(i)
	}
	keys := b.functions.keys
	slices.SortFunc(order, func(i, j uint32) int { return cmp.Compare(keys[i].name, keys[j].name) })
	at := make([]uint32, len(order))
	seed := maphash.MakeSeed()
	known := make(map[uint64]uint32, len(order))
	for n, i := range order {
		if n > 0 && keys[order[n-1]].name == keys[i].name {
			at[i] = at[order[n-1]]
			continue
		}
		name, err := b.bytes(keys[i].name)
		if err != nil {
			b.note(err)
			name = nil
		}
		hash := maphash.Bytes(seed, name)
		off, ok := known[hash]
		if !ok {
			off = b.writeString(name, start)
			known[hash] = off
		}
		at[i] = off
	}
	return at, b.w.err
}

// writeString writes a string and returns its offset from start.
func (b *indexBuilder) writeString(s []byte, start uint64) uint32 {
	off := uint32(b.w.off - start)
	b.record = append(binary.AppendUvarint(b.record[:0], uint64(len(s))), s...)
	b.w.write(b.record)
	return off
}
