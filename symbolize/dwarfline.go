package symbolize

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
)

const (
	// maxLineBytes bounds the line program of a unit. A large C++ file's has some 400 KB.
	maxLineBytes = 64 << 20
	// maxLineRows bounds the rows that it makes, 16 bytes each: a byte of it may make one.
	maxLineRows = 4 << 20
	// maxLineFiles bounds the files and the directories of a unit.
	maxLineFiles = 1 << 18
)

// lineRow says that from addr on the code is of a line, up to the next row.
type lineRow struct {
	addr uint64
	file uint32 // number in the unit
	line uint32
}

// lineEnd is the file of a row that ends a sequence.
const lineEnd = 1<<32 - 1

// lineFile is an entry of a unit's table of files.
type lineFile struct {
	name stringRef
	dir  uint32
}

// lineTable is what a line program makes (section 6.2).
type lineTable struct {
	rows  []lineRow // by address; sequences that are over end with a row of lineEnd
	files []lineFile
	dirs  []stringRef
	// version of the header: from 5 on files and directories count from 0, and directory 0 is the unit's.
	version uint64

	sequences []sequence
	last      int // row that seek found
	buf       []byte
	scratch   []lineRow
}

// sequence is a run of rows whose addresses rise.
type sequence struct {
	span
	first, last int // last is the row that ends it
}

func (t *lineTable) reset() {
	t.rows, t.files, t.dirs, t.sequences = t.rows[:0], t.files[:0], t.dirs[:0], t.sequences[:0]
	t.last = 0
}

// read reads the line program at off of a unit's file. Sequences that keep refuses are left out. What it holds
// after an error can be used.
func (t *lineTable) read(d *debugInfo, off uint64, addrSize int, keep func(span) bool) error {
	t.reset()
	b, err := d.line.bytes(off, 16)
	if err != nil {
		return err
	}
	c := cursor{b: b}
	offSize := 4
	length := c.u32()
	if length == 0xffffffff {
		offSize = 8
		length = c.u64()
	}
	start := off + uint64(c.off)
	if c.short || length > d.line.blob.size()-start {
		return fmt.Errorf("line program at %#x: %w", off, io.ErrUnexpectedEOF)
	}
	if length > maxLineBytes {
		return fmt.Errorf("line program at %#x: %d bytes: %w", off, length, errLimit)
	}
	if uint64(cap(t.buf)) < length {
		t.buf = make([]byte, length)
	}
	t.buf = t.buf[:length]
	if err := d.line.blob.in.read(d.line.blob.at, start, t.buf); err != nil {
		return err
	}
	if err := t.run(&lineProgram{cursor: cursor{b: t.buf}, d: d, at: start, offSize: offSize, addrSize: addrSize}); err != nil {
		err = fmt.Errorf("line program at %#x: %w", off, err)
		t.sort(keep)
		return err
	}
	t.sort(keep)
	return nil
}

// sort puts the sequences in order of address and leaves out those that keep refuses.
func (t *lineTable) sort(keep func(span) bool) {
	// A program may go back within a sequence, though it must not (section 6.2.5).
	byRow := func(a, b lineRow) int { return cmp.Compare(a.addr, b.addr) }
	for i := range t.sequences {
		s := &t.sequences[i]
		piece := t.rows[s.first:s.last]
		if !slices.IsSortedFunc(piece, byRow) {
			slices.SortStableFunc(piece, byRow)
		}
		end := &t.rows[s.last].addr
		*end = max(*end, piece[len(piece)-1].addr)
		s.lo, s.hi = piece[0].addr, *end
	}
	t.sequences = slices.DeleteFunc(t.sequences, func(s sequence) bool { return !keep(s.span) })
	slices.SortStableFunc(t.sequences, func(a, b sequence) int { return cmp.Compare(a.lo, b.lo) })
	rows := t.scratch[:0]
	for i := range t.sequences {
		s := &t.sequences[i]
		first := len(rows)
		rows = append(rows, t.rows[s.first:s.last+1]...)
		s.first, s.last = first, len(rows)-1
	}
	t.rows, t.scratch = rows, t.rows
}

// at returns the index of the row that covers addr, -1 if none does, and the address up to which that holds.
func (t *lineTable) at(addr uint64) (row int, until uint64) {
	i := sort.Search(len(t.sequences), func(i int) bool { return t.sequences[i].hi > addr })
	if i == len(t.sequences) {
		return -1, 1<<64 - 1
	}
	s := t.sequences[i]
	if addr < s.lo {
		return -1, s.lo
	}
	n := sort.Search(s.last-s.first, func(i int) bool { return t.rows[s.first+i].addr > addr })
	row = s.first + n - 1
	return row, t.rows[row+1].addr
}

// seek is at for addresses that mostly rise from one call to the next.
func (t *lineTable) seek(addr uint64) (row int, until uint64) {
	i := t.last
	if i < len(t.rows) && t.rows[i].addr <= addr {
		for i+1 < len(t.rows) && t.rows[i].file != lineEnd && t.rows[i+1].addr <= addr {
			i++
		}
		if t.rows[i].file != lineEnd {
			t.last = i
			return i, t.rows[i+1].addr
		}
	}
	row, until = t.at(addr)
	if row >= 0 {
		t.last = row
	}
	return row, until
}

// lineProgram is a line program while it runs.
type lineProgram struct {
	cursor
	d        *debugInfo
	at       uint64 // of the cursor's bytes in the section
	offSize  int
	addrSize int

	minInst    uint64
	lineBase   int64
	lineRange  uint64
	opcodeBase uint64
	opLengths  []byte
}

var errLineHeader = errors.New("header is damaged")

func (t *lineTable) run(p *lineProgram) error {
	t.version = p.u16()
	if t.version < 2 || t.version > 5 {
		return fmt.Errorf("version %d: 2 to 5 are read", t.version)
	}
	if t.version >= 5 {
		p.addrSize = int(p.u8())
		p.u8() // segment selectors
	}
	length := p.uint(p.offSize)
	if p.short || length > uint64(len(p.b)-p.off) {
		return errLineHeader
	}
	program := p.off + int(length)
	p.minInst = p.u8()
	if t.version >= 4 {
		p.u8() // operations in an instruction: more than one on VLIW machines only
	}
	p.u8() // default of is_stmt, which is not looked at
	p.lineBase = int64(int8(p.u8()))
	p.lineRange = p.u8()
	p.opcodeBase = p.u8()
	if p.short || p.opcodeBase == 0 || p.addrSize != 4 && p.addrSize != 8 {
		return errLineHeader
	}
	p.opLengths = p.b[p.off:min(len(p.b), p.off+int(p.opcodeBase)-1)]
	p.skip(p.opcodeBase - 1)
	var err error
	if t.version >= 5 {
		err = t.readEntries(p)
	} else {
		t.readOldEntries(p)
	}
	if err != nil {
		return err
	}
	if p.short {
		return errLineHeader
	}
	p.off = program
	return t.execute(p)
}

// readOldEntries reads directories and files of version 2 to 4. Both count from 1.
func (t *lineTable) readOldEntries(p *lineProgram) {
	t.dirs = append(t.dirs, 0)
	for !p.short {
		at := p.off
		if len(p.cstring()) == 0 {
			break
		}
		t.dirs = append(t.dirs, p.inPlace(at))
	}
	t.files = append(t.files, lineFile{})
	for !p.short {
		at := p.off
		if len(p.cstring()) == 0 {
			break
		}
		dir := p.uleb()
		p.uleb() // time of modification
		p.uleb() // length
		t.files = append(t.files, lineFile{p.inPlace(at), uint32(min(dir, maxLineFiles))})
	}
}

// inPlace refers to the string at an offset of the program.
func (p *lineProgram) inPlace(off int) stringRef {
	return newStringRef(p.d.lineSource, p.at+uint64(off))
}

// readEntries reads directories and files of version 5, which say of what they consist.
func (t *lineTable) readEntries(p *lineProgram) error {
	formats := make([]attr, 0, 8)
	for table := range 2 {
		formats = formats[:0]
		for range p.u8() {
			formats = append(formats, attr{name: uint16(min(p.uleb(), 0xffff)), form: uint16(min(p.uleb(), 0xffff))})
		}
		count := p.uleb()
		if count > maxLineFiles {
			return fmt.Errorf("%d files: %w", count, errLimit)
		}
		for range count {
			f, err := p.entry(formats)
			if err != nil || p.short {
				return err
			}
			if table == 0 {
				t.dirs = append(t.dirs, f.name)
			} else {
				t.files = append(t.files, f)
			}
		}
	}
	return nil
}

// entry reads a directory or a file (section 6.2.4.1).
func (p *lineProgram) entry(formats []attr) (lineFile, error) {
	const contentPath, contentDirectory = 1, 2
	var f lineFile
	u := unit{version: 5, offSize: uint8(p.offSize), addrSize: uint8(p.addrSize)}
	for _, a := range formats {
		v, form, err := p.number(a, &u)
		if err != nil {
			return f, err
		}
		switch a.name {
		case contentPath:
			switch form {
			case formString:
				f.name = p.inPlace(int(v))
			case formLineStrp:
				f.name = newStringRef(p.d.lineStrSource, v)
			case formStrp:
				f.name = newStringRef(p.d.strSource, v)
			}
		case contentDirectory:
			f.dir = uint32(min(v, maxLineFiles))
		}
	}
	return f, nil
}

// execute runs the program (section 6.2.5).
func (t *lineTable) execute(p *lineProgram) error {
	var addr, file, line uint64 = 0, 1, 1
	first := len(t.rows)
	add := func(file uint32) {
		t.rows = append(t.rows, lineRow{addr, file, uint32(line)})
	}
	var constStep uint64
	if p.lineRange != 0 {
		constStep = (255 - p.opcodeBase) / p.lineRange * p.minInst
	}
	for p.off < len(p.b) && !p.short {
		if len(t.rows) >= maxLineRows {
			return fmt.Errorf("more than %d rows: %w", maxLineRows, errLimit)
		}
		op := p.u8()
		if op >= p.opcodeBase {
			if p.lineRange == 0 {
				return errLineHeader
			}
			op -= p.opcodeBase
			addr += op / p.lineRange * p.minInst
			line += uint64(p.lineBase + int64(op%p.lineRange))
			add(uint32(file))
			continue
		}
		switch op {
		case 0:
			size := p.uleb()
			if size == 0 || size > uint64(len(p.b)-p.off) {
				return errLineHeader
			}
			next := p.off + int(size)
			switch p.u8() {
			case 1: // end_sequence
				add(lineEnd)
				if last := len(t.rows) - 1; last > first {
					s := sequence{span{t.rows[first].addr, addr}, first, last}
					t.sequences = append(t.sequences, s)
				}
				first = len(t.rows)
				addr, file, line = 0, 1, 1
			case 2: // set_address
				if n := int(size) - 1; n == 4 || n == 8 {
					addr = p.uint(n)
				}
			case 3: // define_file
				at := p.off
				p.cstring()
				dir := p.uleb()
				if len(t.files) < maxLineFiles {
					t.files = append(t.files, lineFile{p.inPlace(at), uint32(min(dir, maxLineFiles))})
				}
			}
			p.off = next
		case 1: // copy
			add(uint32(file))
		case 2: // advance_pc
			addr += p.uleb() * p.minInst
		case 3: // advance_line
			line += uint64(p.sleb())
		case 4: // set_file
			file = min(p.uleb(), maxLineFiles)
		case 5: // set_column
			p.uleb()
		case 8: // const_add_pc
			addr += constStep
		case 9: // fixed_advance_pc
			addr += p.u16()
		case 6, 7, 10, 11: // negate_stmt, set_basic_block, set_prologue_end, set_epilogue_begin
		case 12: // set_isa
			p.uleb()
		default:
			for range p.opLengths[op-1] {
				p.uleb()
			}
		}
	}
	return nil
}

// path returns the path of a file of the unit, as LLVM's and GNU's tools put it together; "" if there is none.
func (t *lineTable) path(b *indexBuilder, number uint32, compDir string) (string, error) {
	if int(number) >= len(t.files) || t.files[number].name == 0 {
		return "", nil
	}
	f := t.files[number]
	name, err := b.text(f.name)
	if err != nil || strings.HasPrefix(name, "/") {
		return name, err
	}
	dir := ""
	if int(f.dir) < len(t.dirs) && t.dirs[f.dir] != 0 {
		if dir, err = b.text(t.dirs[f.dir]); err != nil {
			return "", err
		}
	}
	if !strings.HasPrefix(dir, "/") && (t.version < 5 || f.dir != 0) {
		dir = joinPath(compDir, dir)
	}
	return joinPath(dir, name), nil
}

// joinPath puts paths together and leaves them as they are otherwise: a/../b is not b if a is a symbolic link.
func joinPath(dir, name string) string {
	switch {
	case dir == "":
		return name
	case name == "":
		return dir
	case strings.HasSuffix(dir, "/"):
		return dir + name
	}
	return dir + "/" + name
}
