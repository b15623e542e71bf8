package symbolize

import (
	"cmp"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
)

// IndexOptions says what BuildIndex may use and take.
type IndexOptions struct {
	// Spill is where compressed sections are inflated to, from offset 0 on. Without it, files with compressed
	// sections are refused. It is best a file without a name.
	Spill ReadWriterAt
	// SpillBytes bounds that; 0 is 4 GiB.
	SpillBytes uint64
	// IndexBytes bounds the index; 0 is 512 MiB.
	IndexBytes uint64
	// Alt is the file that .gnu_debugaltlink names, which dwz makes of what several files have in common; nil if
	// it is not there.
	Alt *DebugFile
	// Only are the addresses that the index is for, in rising order: all else may be missing in it, which takes a third
	// less time for a thousand addresses. If it is nil, the index is for the whole file.
	Only []uint64
	// Package is the .dwp file that goes with the executable; nil if there is none.
	Package *DebugFile
	// OpenSplit opens a .dwo file by the directory and the name that the executable has for it; its ReaderAt is
	// closed after use if it is an io.Closer. Without it such units are skipped.
	OpenSplit func(dir, name string) (*DebugFile, error)
}

// DebugFile is a file with debug information of another.
type DebugFile struct {
	io.ReaderAt
	Size int64
}

// IndexStats is what BuildIndex did.
type IndexStats struct {
	Units     int    // compilation units read
	Functions int    // distinct functions, inlined or not, and symbols
	Ranges    int    // pieces of code that the index names
	Bytes     int64  // of the index
	Inflated  uint64 // bytes of compressed sections
	// Skipped is the first thing that could not be read; the index has all else. It is nil for a sound file.
	Skipped error
}

// indexBuilder makes an index, which it writes front to back: what belongs to a function is written when the
// function has been read, tables at the end.
type indexBuilder struct {
	ctx     context.Context
	m       *image
	opts    IndexOptions
	unpack  unpacker
	code    []span   // executable sections, by address
	sources []window // where strings are; a stringRef counts from 1
	w       indexWriter
	walk    walker
	symbols []symbolTable
	// knownName and bestName are scratch of symbolFunction.
	knownName, bestName []byte

	functions functionSet
	files     map[string]uint32
	paths     []string
	pathBytes int
	entries   []indexEntry
	unit      uint32 // number of the unit being read
	stats     IndexStats
	rows      []indexRow
	painted   []nodeSpan
	nodeAt    []uint32
	record    []byte
	pool      []byte // names of functions of split files, which are closed
	pooled    map[string]uint64
	pack      *splitPackage
}

// functionKey is a function: its name as linkers know it, and the line on which it is declared.
type functionKey struct {
	name stringRef
	line uint32
}

// functionSet numbers functions.
type functionSet struct {
	ids  map[functionKey]uint32
	keys []functionKey
}

// maxIndexFunctions bounds the functions of an index, which take some 50 bytes each while it is made. ceph-osd has
// 138,000.
const maxIndexFunctions = 2 << 20

func (s *functionSet) number(k functionKey) (uint32, error) {
	if id, ok := s.ids[k]; ok {
		return id, nil
	}
	if len(s.keys) == maxIndexFunctions {
		return 0, fmt.Errorf("more than %d functions: %w", maxIndexFunctions, errLimit)
	}
	id := uint32(len(s.keys))
	s.ids[k] = id
	s.keys = append(s.keys, k)
	return id, nil
}

// note keeps the first error.
func (b *indexBuilder) note(err error) {
	if b.stats.Skipped == nil {
		b.stats.Skipped = err
	}
}

// wants reports whether the index is for an address in s.
func (b *indexBuilder) wants(s span) bool {
	if b.opts.Only == nil {
		return true
	}
	i, _ := slices.BinarySearch(b.opts.Only, s.lo)
	return i < len(b.opts.Only) && b.opts.Only[i] < s.hi
}

func (b *indexBuilder) wantsAny(spans []span) bool { return slices.ContainsFunc(spans, b.wants) }

// isCode reports whether all of s is code of the file.
func (b *indexBuilder) isCode(s span) bool {
	if s.lo >= s.hi {
		return false
	}
	i := sort.Search(len(b.code), func(i int) bool { return b.code[i].hi > s.lo })
	return i < len(b.code) && b.code[i].lo <= s.lo && s.hi <= b.code[i].hi
}

// text returns a string that is somewhere in the files.
func (b *indexBuilder) text(r stringRef) (string, error) {
	s, err := b.bytes(r)
	return string(s), err
}

// bytes is text without a copy: it is valid until the next call.
func (b *indexBuilder) bytes(r stringRef) ([]byte, error) {
	source, off := uint64(r)>>stringRefBits, uint64(r)&(1<<stringRefBits-1)
	if source == poolSource {
		return (&cursor{b: b.pool, off: int(off)}).cstring(), nil
	}
	if source == 0 || source > uint64(len(b.sources)) {
		return nil, nil
	}
	return b.sources[source-1].cstring(off)
}

func (b *indexBuilder) addSource(s blob) uint64 {
	if s.size() == 0 || len(b.sources) == poolSource-1 {
		return 0
	}
	b.sources = append(b.sources, window{blob: s})
	return uint64(len(b.sources))
}

// textSections returns where code is, neighbours joined.
func textSections(m *image) []span {
	var code []span
	for i := range m.sections {
		if s := &m.sections[i]; s.code() && s.size > 0 && s.addr+s.size > s.addr {
			code = append(code, span{s.addr, s.addr + s.size})
		}
	}
	slices.SortFunc(code, func(a, b span) int { return cmp.Compare(a.lo, b.lo) })
	joined := code[:0]
	for _, s := range code {
		if n := len(joined); n > 0 && s.lo <= joined[n-1].hi {
			joined[n-1].hi = max(joined[n-1].hi, s.hi)
			continue
		}
		joined = append(joined, s)
	}
	return joined
}

// openDebug opens the DWARF sections of a file; suffix is that of the names of its sections.
func (b *indexBuilder) openDebug(m *image, suffix string) (*debugInfo, error) {
	d := &debugInfo{origins: make(map[uint64]uint32), others: make(map[int]*unitContext)}
	d.addresses = d
	d.rnglists.least, d.ranges.least, d.abbrev.least = aheadSize, aheadSize, aheadSize
	for i, to := range []*window{&d.info, &d.abbrev, &d.str, &d.lineStr, &d.line, &d.ranges, &d.rnglists, &d.addr, &d.strOffsets} {
		open := b.unpack.open
		if to == &d.info {
			open = b.unpack.openAhead
		}
		section, err := open(m, debugSections[i]+suffix)
		if err != nil {
			return nil, err
		}
		to.blob = section
	}
	d.strSource = b.addSource(d.str.blob)
	d.lineStrSource = b.addSource(d.lineStr.blob)
	d.lineSource = b.addSource(d.line.blob)
	return d, nil
}

// maxOtherUnits bounds the units whose abbreviations are held because others refer to them.
const maxOtherUnits = 64

// contextAt returns the unit of an entry, nil if no unit is there.
func (b *indexBuilder) contextAt(r dieRef) (*unitContext, error) {
	if err := r.d.list(); err != nil {
		b.note(err)
	}
	i, ok := r.d.unitAt(r.off)
	if !ok {
		return nil, nil
	}
	if x := r.d.others[i]; x != nil {
		return x, nil
	}
	if len(r.d.others) >= maxOtherUnits {
		clear(r.d.others)
	}
	u := r.d.units[i]
	x := &unitContext{unit: u, b: b, d: r.d, abbrevs: new(abbrevTable)}
	if err := x.abbrevs.read(&r.d.abbrev, u.abbrevOff, &u); err != nil {
		return nil, err
	}
	err := r.d.info.parse(u.off, func(c *cursor) error {
		c.skip(u.die - u.off)
		root := x.abbrevs.find(c.uleb())
		if root == nil || c.short {
			return nil
		}
		if err := x.readRoot(c, root); err != nil && !errors.Is(err, errShortUnit) {
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	r.d.others[i] = x
	return x, nil
}

// BuildIndex writes an index of the names, inlined calls, files and lines of an ELF file of size bytes to out:
// those of its DWARF (versions 2 to 5), and its symbols where that has nothing. OpenIndex reads it.
//
// It reads one compilation unit at a time and takes some 100 MiB of memory, more for units of more than 20 MB;
// what is bounded by nothing else takes time only, so that a caller who does not trust the file sets a limit to
// that. What is damaged is left out of the index and told in IndexStats.Skipped; an error is returned when there
// is no index to use.
func BuildIndex(ctx context.Context, in io.ReaderAt, size int64, out io.Writer, opts IndexOptions) (IndexStats, error) {
	m, err := readImage(in, size)
	if err != nil {
		return IndexStats{}, err
	}
	if opts.SpillBytes == 0 {
		opts.SpillBytes = 4 << 30
	}
	if opts.IndexBytes == 0 {
		opts.IndexBytes = 512 << 20
	}
	b := &indexBuilder{
		ctx: ctx, m: m, opts: opts, code: textSections(m), files: make(map[string]uint32),
		unpack: unpacker{spill: opts.Spill, limit: opts.SpillBytes},
		w:      newIndexWriter(out, opts.IndexBytes),
	}
	b.pooled = make(map[string]uint64)
	b.functions.ids = make(map[functionKey]uint32)
	b.paths = append(b.paths, "") // number 0: not known
	b.walk = walker{b: b, origins: make(map[uint64]uint32)}
	defer b.unpack.close()
	if err := b.build(); err != nil {
		return b.stats, err
	}
	b.stats.Bytes, b.stats.Inflated = int64(b.w.off), b.unpack.inflated()
	return b.stats, nil
}

func (b *indexBuilder) build() error {
	if len(b.code) == 0 {
		return errors.New("the file has no code")
	}
	if last := b.code[len(b.code)-1]; last.hi-b.code[0].lo > 1<<32-1 {
		return fmt.Errorf("code from %#x to %#x, at most 4 GiB are indexed", b.code[0].lo, last.hi)
	}
	// Function 0 and file 0 are those that are not known.
	if _, err := b.functions.number(functionKey{}); err != nil {
		return err
	}
	if err := b.openSymbols(); err != nil {
		b.note(err)
	}
	d, err := b.openDebug(b.m, "")
	if err != nil {
		return err
	}
	if b.opts.Alt != nil {
		if d.alt, err = b.openAlt(b.opts.Alt); err != nil {
			b.note(fmt.Errorf("alternate debug file: %w", err))
		}
	}
	if b.opts.Package != nil {
		if b.pack, err = b.openPackage(b.opts.Package); err != nil {
			b.note(fmt.Errorf("split package: %w", err))
		}
	}
	if err := b.readUnits(d); err != nil {
		return err
	}
	if err := b.addSymbols(); err != nil {
		return err
	}
	return b.finishIndex()
}

// readUnits reads all units of a file, in their order.
func (b *indexBuilder) readUnits(d *debugInfo) error {
	for off, n := uint64(0), 0; off < d.info.blob.size(); n++ {
		if err := b.ctx.Err(); err != nil {
			return err
		}
		u, err := readUnitHeader(&d.info, off)
		if err == nil && n == maxUnits {
			err = fmt.Errorf("more than %d units: %w", maxUnits, errLimit)
		}
		if err != nil {
			b.note(err)
			return nil
		}
		if err := b.walk.read(d, u, nil); err != nil {
			if b.w.err != nil {
				return b.w.err
			}
			b.note(err)
		}
		off = u.end
	}
	return nil
}

// symbolTable is a symbol table, and where the names in it are.
type symbolTable struct {
	*symtab
	source uint64
	files  symbolFiles
}

// openSymbols opens .symtab, and what .gnu_debugdata has in its place. Exported functions are left to File.
func (b *indexBuilder) openSymbols() error {
	mini, err := b.unpack.openMiniDebug(b.m)
	for _, m := range []*image{b.m, mini} {
		if m == nil {
			continue
		}
		var files symbolFiles
		t, err2 := readSymtab(m, elf.SHT_SYMTAB, Symtab, b.hasSymbol, &files)
		if err = errors.Join(err, err2); t != nil {
			files.sort()
			b.symbols = append(b.symbols, symbolTable{t, b.addSource(blob{m.source, t.strings}), files})
		}
	}
	return err
}

func (b *indexBuilder) hasSymbol(addr uint64) bool {
	for _, t := range b.symbols {
		if _, ok := t.table.find(addr); ok {
			return true
		}
	}
	return false
}

func (b *indexBuilder) openAlt(f *DebugFile) (*debugInfo, error) {
	m, err := readAnyImage(f, f.Size)
	if err != nil {
		return nil, err
	}
	return b.openDebug(m, "")
}
