package unwind

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
	"strings"
)

// Options add to what Build reads. The zero value adds nothing.
type Options struct {
	// Debug is the file with the debug information that was split off, DebugSize bytes long, or nil. Its .debug_frame
	// serves code that the file itself has no unwind information for.
	Debug     io.ReaderAt
	DebugSize int64
}

const (
	// maxRules bounds the rules of a table, by the width of a row. The largest programs have some thousand.
	maxRules = math.MaxUint16
	// maxFDEs bounds the functions of a file. Browsers have half a million.
	maxFDEs = 2 << 20
)

// Build makes the table of the ELF file of size bytes in r: 64-bit, little-endian, for AMD64 or ARM64, linked. The vDSO's
// image is one too.
//
// Rules come from .eh_frame, which is found by the section table or by the program headers, and from .debug_frame
// for code that .eh_frame does not have. Signal trampolines without either are found by their instructions, procedure
// linkage tables by the section table. Go's functions have rules from the pclntab. All other code has the rule
// CFAFramePointer, but for pieces of less than 32 bytes between functions, where the last rule of the function before
// holds on, and for the first instructions of the program, which are CFAEnd.
//
// ErrNotELF is the error of a file that is not ELF; other errors say what of it is damaged. An FDE that is damaged costs
// its own range only, a pclntab or .debug_frame in the file itself only what it would have added. Build reads r with ReadAt and keeps nothing of it. It takes time proportional to the unwind
// information and to the code without any. While it works it holds the unwind information, at most 64 MiB, and some 5 bytes
// for each of its bytes.
func Build(r io.ReaderAt, size int64, opts Options) (*Table, error) {
	m, err := readImage(r, size)
	if err != nil {
		return nil, err
	}
	b := builder{image: m}
	if b.text, err = m.text(); err != nil {
		return nil, err
	}
	if err := b.readFDEs(opts); err != nil {
		return nil, err
	}
	b.addStubs()
	if err := b.findRestorers(); err != nil {
		return nil, err
	}
	if err := b.addGo(); err != nil {
		return nil, err
	}
	b.addEntry()
	return b.build()
}

// builder makes one table.
type builder struct {
	image  *image
	text   []segment
	cies   []cie
	fixed  []Rule
	golang *pclntab // nil if this is no Go program that can be read
	fdes   []fde    // in the order of their addresses, each within one segment, once they are all read
	kept   []Span   // of golang
	rows   rowWriter
}

// readFDEs lists the functions of all sections of unwind information.
func (b *builder) readFDEs(opts Options) error {
	eh, err := b.image.ehFrame()
	if err != nil {
		return err
	}
	if err := b.scan(eh, nil); err != nil {
		return err
	}
	// Go's .debug_frame does not say where the frame pointer is; its pclntab does.
	if b.image.goSection() == nil {
		// Where it is damaged or compressed in a way that is not read, .eh_frame is worth no less.
		_ = b.addDebugFrame(b.image)
	}
	if opts.Debug == nil {
		return nil
	}
	debug, err := readImage(opts.Debug, opts.DebugSize)
	if err == nil && debug.arch != b.image.arch {
		err = fmt.Errorf("is for %v, the program for %v", debug.arch, b.image.arch)
	}
	if err == nil {
		err = b.addDebugFrame(debug)
	}
	if err != nil {
		return fmt.Errorf("debug file: %w", err)
	}
	return nil
}

// addDebugFrame adds the functions of .debug_frame that are not listed yet.
func (b *builder) addDebugFrame(m *image) error {
	section, err := m.debugFrame()
	if err != nil {
		return err
	}
	return b.scan(section, slices.Clip(b.fdes))
}

// scan lists the functions of a section but those that begin in one of the ranges in covered, which are in order.
func (b *builder) scan(section *frames, covered []fde) error {
	if section == nil {
		return nil
	}
	s := scanner{arch: b.image.arch, section: section, cies: &b.cies, found: func(f fde) {
		if !covers(covered, f.start) {
			b.add(f)
		}
	}}
	err := s.scan()
	if err == nil && len(b.fdes) == maxFDEs {
		err = fmt.Errorf("%s: more than %d functions", section.name, maxFDEs)
	}
	b.sort()
	return err
}

// covers reports whether one of the ranges, which are in order, has an address.
func covers(ranges []fde, addr uint64) bool {
	i, _ := slices.BinarySearchFunc(ranges, addr, func(f fde, addr uint64) int {
		if f.end <= addr {
			return -1
		}
		return 1
	})
	return i < len(ranges) && ranges[i].start <= addr
}

// add lists a function, cut off where its segment ends, unless it is not in the program's code: the linker sets those
// that it throws away to zero.
func (b *builder) add(f fde) {
	i := sort.Search(len(b.text), func(i int) bool { return b.text[i].end() > f.start })
	if i == len(b.text) || f.start < b.text[i].addr || f.end <= f.start || len(b.fdes) == maxFDEs {
		return
	}
	f.end = min(f.end, b.text[i].end())
	if len(b.fdes) == cap(b.fdes) {
		// By doubling: append's own quarters leave four times as much behind.
		b.fdes = slices.Grow(b.fdes, max(64, len(b.fdes)))
	}
	b.fdes = append(b.fdes, f)
}

// sort puts the functions in order and cuts off what overlaps the next.
func (b *builder) sort() {
	order := func(a, b fde) int { return compare(a.start, b.start) }
	if !slices.IsSortedFunc(b.fdes, order) {
		slices.SortStableFunc(b.fdes, order)
	}
	for i := range len(b.fdes) - 1 {
		b.fdes[i].end = min(b.fdes[i].end, b.fdes[i+1].start)
	}
}

// build writes the rows.
func (b *builder) build() (*Table, error) {
	b.rows = newRowWriter(b.image.arch, b.text, b.room())
	var in interpreter
	in.row = func(pc uint64) {
		b.rows.add(pc, b.rows.dict.index(in.state.rule(b.image.arch, in.cie.signal)))
	}
	fdes := b.fdes
	for _, s := range b.text {
		b.rows.begin(s)
		at := s.addr
		for ; len(fdes) > 0 && fdes[0].start < s.end(); fdes = fdes[1:] {
			f := &fdes[0]
			if f.start == f.end {
				continue
			}
			b.gap(s, at, f.start)
			if err := b.function(f, &in); err != nil {
				return nil, err
			}
			if b.rows.full() {
				return nil, fmt.Errorf("more than %d rows", maxRows)
			}
			at = f.end
		}
		b.gap(s, at, s.end())
		b.rows.end(s, b.rows.dict.index(Rule{CFA: CFAFramePointer}))
	}
	t := b.rows.table()
	t.Kept = b.kept
	return t, nil
}

// room is about how many rows there will be: one for each three bytes of instructions, and in Go four a function.
func (b *builder) room() int {
	n := 0
	for i := range b.fdes {
		switch f := &b.fdes[i]; f.cie {
		case fixedCIE:
			n++
		case goCIE:
			n += 4
		default:
			n += 1 + int(f.to-f.from)/3
		}
	}
	return min(n, maxRows)
}

// minCode is the shortest piece of code without unwind information that counts as code of its own. What is shorter is nearly always
// what pads functions to 16 or 32 bytes, and is never executed; or it is the rest of a function whose CFI ends early, as that of glibc's clone does
// for the sake of the new thread, or an assembly stub: those have the stack as the function before had it at its end, and have not set a
// frame pointer.
const minCode = 32

// gap writes the row of code in a segment that nothing describes.
func (b *builder) gap(s segment, from, to uint64) {
	if from == to {
		return
	}
	if from > s.addr && to-from < minCode && b.rows.dict.rules[b.rows.rule].CFA == CFARegister {
		return
	}
	b.rows.add(from, b.rows.dict.index(Rule{CFA: CFAFramePointer}))
}

// function writes the rows of a function.
func (b *builder) function(f *fde, in *interpreter) error {
	switch f.cie {
	case fixedCIE:
		b.rows.add(f.start, b.rows.dict.index(b.fixed[f.from]))
		return nil
	case goCIE:
		return b.golang.rows(f, func(pc uint64, r Rule) {
			if pc < f.end {
				b.rows.add(pc, b.rows.dict.index(r))
			}
		})
	}
	c := &b.cies[f.cie]
	in.cie, in.state, in.pc, in.end = c, c.initial, f.start, f.end
	if !in.run(&reader{data: c.data[:f.to], pos: int(f.from)}) {
		b.rows.add(in.pc, b.rows.dict.index(Rule{}))
	} else if in.pc < f.end {
		in.row(in.pc)
	}
	return nil
}

// addGo lists the functions of a Go program. Those of one whose pclntab is not known yet, or damaged, keep the rule of
// code without unwind information: Go keeps frame pointers.
func (b *builder) addGo() error {
	s := b.image.goSection()
	if s == nil {
		return nil
	}
	t, err := readPclntab(b.image, *s)
	if err != nil {
		return nil
	}
	b.golang = t
	covered := slices.Clip(b.fdes)
	t.functions(func(f fde) {
		if !covers(covered, f.start) {
			b.add(f)
		}
	})
	b.sort()
	b.kept, err = t.kept(b.fdes)
	return err
}

// entrySize bounds what counts as the program's entry where nothing describes it: some ten instructions.
const entrySize = 32

// addEntry marks the program's first instructions as a thread's entry if nothing describes them, as in glibc's dynamic
// linker and in musl. They have not cleared the frame pointer when the first of them faults.
func (b *builder) addEntry() {
	if covers(b.fdes, b.image.entry) {
		return
	}
	f := b.fix(Rule{CFA: CFAEnd})
	f.start, f.end = b.image.entry, b.image.entry+entrySize
	b.add(f)
	b.sort()
}

// fix adds a rule for ranges that have no instructions, and returns a range without addresses that has it.
func (b *builder) fix(r Rule) fde {
	b.fixed = append(b.fixed, r)
	return fde{from: uint32(len(b.fixed) - 1), cie: fixedCIE}
}

// addStubs lists the procedure linkage tables that nothing describes: those of arm64, and of static programs. Their
// entries jump to functions, with the stack as the caller left it.
func (b *builder) addStubs() {
	r := Rule{CFA: CFARegister, CFAReg: amd64RSP, CFAOff: 8, RA: SaveAtCFA, RAOff: -1}
	if b.image.arch == ARM64 {
		r = Rule{CFA: CFARegister, CFAReg: arm64SP}
	}
	stub := b.fix(r)
	n := len(b.fdes)
	for _, s := range b.image.sections {
		if strings.HasPrefix(s.name, ".plt") && s.flags&elf.SHF_EXECINSTR != 0 && !covers(b.fdes[:n], s.addr) {
			stub.start, stub.end = s.addr, s.addr+s.size
			b.add(stub)
		}
	}
	b.sort()
}

// A restorer is where a signal handler returns to: the call of rt_sigreturn. glibc describes its own, others are known by
// their instructions.
type restorer struct {
	// code ends in a byte that is rarer in other code than its first ones: a search goes by that.
	code []byte
	rule Rule
}

func restorerOf(arch Arch) restorer {
	if arch == ARM64 {
		// mov x8, #139; svc #0. On the stack are siginfo, 128 bytes, and in ucontext, before the registers, 176 and the
		// address of the fault.
		return restorer{[]byte{0x68, 0x11, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4}, Rule{CFA: CFASignal, CFAOff: 128 + 176 + 8}}
	}
	// mov $15, %rax; syscall. On the stack is ucontext, with 40 bytes before the registers.
	return restorer{[]byte{0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05}, Rule{CFA: CFASignal, CFAOff: 40}}
}

// minGap is the shortest piece of code without unwind information that is searched: compilers pad functions to 16
// bytes.
const minGap = 16

// findRestorers lists restorers in code without unwind information as ranges of their own, and marks the functions that
// are one: what assembles CFI for musl, and older vDSOs of arm64, describe them as common functions.
func (b *builder) findRestorers() error {
	want := restorerOf(b.image.arch)
	mark := b.fix(want.rule)
	var found []fde
	add := func(s segment, start uint64) {
		f := mark
		// The handler returns to the first instruction, and so is looked up one byte before.
		f.start, f.end = start-min(1, start-s.addr), start+uint64(len(want.code))
		found = append(found, f)
	}
	fdes := b.fdes
	for _, s := range b.text {
		code := codeReader{image: b.image, segment: s, buf: make([]byte, 0, longRead)}
		at := s.addr
		for ; len(fdes) > 0 && fdes[0].start < s.end(); fdes = fdes[1:] {
			f := &fdes[0]
			if gap := f.start - at; gap >= minGap {
				if err := code.search(at, f.start, want.code, add); err != nil {
					return err
				}
			}
			is, err := code.endsIn(f, want.code)
			if err != nil {
				return err
			}
			if is {
				f.cie, f.from = mark.cie, mark.from
			}
			at = f.end
		}
		if err := code.search(at, s.end(), want.code, add); err != nil {
			return err
		}
	}
	if len(found) > 0 {
		b.fdes = append(b.fdes, found...)
		b.sort()
	}
	return nil
}

const (
	// shortRead is what is read for pieces of code that are shorter: others are often near.
	shortRead = 4 << 10
	longRead  = 64 << 10
)

// codeReader reads pieces of a segment by rising address.
type codeReader struct {
	image   *image
	segment segment
	at      uint64 // address of buf
	buf     []byte
}

// read returns n bytes of code, at most longRead, or fewer where end is nearer. They are overwritten by the next read.
func (c *codeReader) read(addr, end uint64, n int) ([]byte, error) {
	size := min(uint64(n), end-addr)
	if addr < c.at || addr+size > c.at+uint64(len(c.buf)) {
		c.at, c.buf = addr, c.buf[:min(max(size, shortRead), c.segment.end()-addr)]
		if err := c.image.read(c.buf, c.segment.off+(addr-c.segment.addr)); err != nil {
			c.buf = c.buf[:0]
			return nil, err
		}
	}
	off := addr - c.at
	return c.buf[off : off+size], nil
}

// search calls found with where code is between two addresses.
func (c *codeReader) search(from, to uint64, code []byte, found func(segment, uint64)) error {
	last := len(code) - 1
	for at := from; to-at > uint64(last); {
		piece, err := c.read(at, to, longRead)
		if err != nil {
			return err
		}
		for end := last; ; end++ {
			i := bytes.IndexByte(piece[min(end, len(piece)):], code[last])
			if i < 0 {
				break
			}
			end += i
			if start := end - last; bytes.Equal(piece[start:end+1], code) {
				found(c.segment, at+uint64(start))
			}
		}
		// The next one may begin in the end of this piece.
		at += uint64(len(piece) - last)
	}
	return nil
}

// endsIn reports whether a function is an instruction sequence, after a nop or so.
func (c *codeReader) endsIn(f *fde, code []byte) (bool, error) {
	const before = 4
	size, n := f.end-f.start, uint64(len(code))
	if size < n || size > n+before {
		return false, nil
	}
	b, err := c.read(f.start, f.end, int(size))
	return err == nil && bytes.HasSuffix(b, code), err
}
