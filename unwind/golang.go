package unwind

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
)

// Go programs have no .eh_frame for their own functions. How far the stack pointer is below the return address is in
// the pclntab, for the runtime's own tracebacks; it is in every Go program, stripped or not. What is read here is described in the
// Go source: runtime/symtab.go (pcHeader, functab), runtime/runtime2.go (_func), internal/abi/symtab.go (FuncFlag);
// cmd/internal/obj/x86/obj6.go and arm64/obj7.go write the prologues. Programs of Go 1.18 and later are read.

const (
	magicGo118 = 0xfffffff0 // Go 1.18 and 1.19
	magicGo120 = 0xfffffff1 // Go 1.20 and later
)

// abi.FuncFlag
const (
	goTopFrame = 1 << iota // nobody called it
	goSPWrite              // it switches stacks: no constant says where its caller is
	goAsm
)

// goCIE is in place of a CIE for functions of a pclntab; from is then the offset of the _func.
const goCIE = math.MaxUint32 - 1

// pclntab has the functions of a Go program, and where their stacks end.
type pclntab struct {
	image   *image
	section section
	quantum uint64 // the unit of pc deltas: the smallest instruction
	flags   int    // offset of the flags in a _func
	names   uint64 // offset of the names in the section
	handler nameOff
	// injected are called by no instruction: the runtime makes a goroutine call them where it was interrupted.
	injected [2]nameOff
	pctab    []byte // pc-value tables
	funcs    []byte // (entry, offset of _func) uint32 each, then the _func records
	n        int    // functions
	text     uint64 // address that entries are relative to
}

// nameOff is where in the names one is.
type nameOff int64

const noName nameOff = -1

// errGoText means that the pclntab's addresses cannot be told.
var errGoText = errors.New("address of Go's code is not known")

// goSection returns the section of the pclntab, or nil if the file is not a Go program.
func (m *image) goSection() *section {
	if s := m.section(".gopclntab"); s != nil {
		return s
	}
	// Up to Go 1.25, position-independent programs have it among the relocated data.
	return m.section(".data.rel.ro.gopclntab")
}

// readPclntab reads the table of functions.
func readPclntab(m *image, s section) (*pclntab, error) {
	head := make([]byte, 72)
	if s.size < uint64(len(head)) || s.size > maxFrames {
		return nil, fmt.Errorf("pclntab of %d bytes", s.size)
	}
	if err := m.read(head, s.off); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	t := &pclntab{image: m, section: s, quantum: uint64(head[6]), flags: 41, names: le.Uint64(head[32:])}
	switch magic := le.Uint32(head); {
	case magic == magicGo118:
		t.flags = 37 // before startLine came
	case magic != magicGo120:
		return nil, fmt.Errorf("pclntab magic %#x", magic)
	}
	n, pctab, funcs := le.Uint64(head[8:]), le.Uint64(head[56:]), le.Uint64(head[64:])
	if head[7] != 8 || pctab > funcs || funcs > s.size || n == 0 || n > (s.size-funcs)/8 {
		return nil, errors.New("pclntab header is damaged")
	}
	t.n = int(n)
	b := make([]byte, s.size-pctab)
	if err := m.read(b, s.off+pctab); err != nil {
		return nil, err
	}
	t.pctab, t.funcs = b[:funcs-pctab], b[funcs-pctab:]
	if len(t.funcs) < 8*t.n+4 {
		return nil, errors.New("pclntab ends within its functions")
	}
	if err := t.findNames(pctab); err != nil {
		return nil, err
	}
	var err error
	t.text, err = t.findText(le.Uint64(head[24:]))
	return t, err
}

// entry returns the address of a function relative to text; that of the last but one is the end of the last.
func (t *pclntab) entry(i int) uint64 {
	return uint64(binary.LittleEndian.Uint32(t.funcs[8*i:]))
}

// findText returns the address that entries are relative to. Up to Go 1.25 it is in the header, unless the program is
// position-independent and linked by another linker. From 1.26 on it is in runtime.moduledata, which has a section. In
// all programs that Go's linker made, .text begins there, which the program's entry confirms.
func (t *pclntab) findText(header uint64) (uint64, error) {
	const moduledataText = 22 // word; the first is the address of the pclntab
	if header != 0 {
		return header, nil
	}
	if s := t.image.section(".go.module"); s != nil && s.size >= 8*(moduledataText+1) {
		b := make([]byte, 8*(moduledataText+1))
		if err := t.image.read(b, s.off); err != nil {
			return 0, err
		}
		if text := binary.LittleEndian.Uint64(b[8*moduledataText:]); text != 0 && binary.LittleEndian.Uint64(b) == t.section.addr {
			return text, nil
		}
	}
	if s := t.image.section(".text"); s != nil {
		entry := t.image.entry - s.addr
		i := sort.Search(t.n, func(i int) bool { return t.entry(i) >= entry })
		if i < t.n && t.entry(i) == entry {
			return s.addr, nil
		}
	}
	return 0, errGoText
}

// functions calls found with each function.
func (t *pclntab) functions(found func(fde)) {
	le := binary.LittleEndian
	for i := range t.n {
		start, end := t.text+t.entry(i), t.text+t.entry(i+1)
		off := le.Uint32(t.funcs[8*i+4:])
		if start < end && uint64(off)+uint64(t.flags) < uint64(len(t.funcs)) {
			found(fde{start: start, end: end, from: off, cie: goCIE})
		}
	}
}

// rows calls row with the rules of a function and where they begin.
func (t *pclntab) rows(f *fde, row func(pc uint64, r Rule)) error {
	le := binary.LittleEndian
	record := t.funcs[f.from:]
	flags := record[t.flags]
	switch {
	// The one that the kernel calls for a signal is the outermost frame to the runtime; below it is the restorer.
	case flags&goTopFrame != 0 && t.name(record) != t.handler:
		row(f.start, Rule{CFA: CFAEnd})
		return nil
	case flags&goSPWrite != 0:
		row(f.start, Rule{CFA: CFAFramePointer})
		return nil
	}
	saves, err := t.savesFP(f)
	if err != nil {
		return err
	}
	pcsp := le.Uint32(record[16:])
	if uint64(pcsp) >= uint64(len(t.pctab)) {
		row(f.start, Rule{})
		return nil
	}
	r := reader{data: t.pctab, pos: int(pcsp)}
	pc, depth := f.start, int64(-1)
	for first := true; pc < f.end; first = false {
		delta := r.uleb()
		if r.short || delta == 0 && !first {
			break
		}
		depth += int64(delta>>1) ^ -int64(delta&1)
		row(pc, t.rule(depth, saves))
		step := r.uleb() * t.quantum
		if r.short || step == 0 || step > f.end-pc {
			break
		}
		pc += step
	}
	return nil
}

// findName returns where in the names, the first n bytes of which are looked at, one is.
func (t *pclntab) findName(name string, n uint64) (nameOff, error) {
	want := []byte("\x00" + name + "\x00")
	buf := make([]byte, 64<<10)
	for at := uint64(0); n-at >= uint64(len(want)); {
		piece := buf[:min(uint64(len(buf)), n-at)]
		if err := t.image.read(piece, t.section.off+t.names+at); err != nil {
			return noName, err
		}
		if i := bytes.Index(piece, want); i >= 0 {
			return nameOff(at) + nameOff(i) + 1, nil
		}
		// It may begin in the end of this piece.
		at += uint64(len(piece) - (len(want) - 1))
	}
	return noName, nil
}

// findNames notes where the names are by which functions are told.
func (t *pclntab) findNames(end uint64) error {
	if t.names > end {
		return errors.New("pclntab's names are not before its tables")
	}
	for name, off := range map[string]*nameOff{"runtime.sigtramp": &t.handler, "runtime.asyncPreempt": &t.injected[0], "runtime.sigpanic": &t.injected[1]} {
		var err error
		if *off, err = t.findName(name, end-t.names); err != nil {
			return err
		}
	}
	return nil
}

// name returns where in the names that of the function with a record is.
func (t *pclntab) name(record []byte) nameOff {
	return nameOff(binary.LittleEndian.Uint32(record[4:]))
}

// savesFP reports whether a function saves the frame pointer once it has a frame, and sets its own. Compiled ones do, and
// those in assembly that have the prologue of the assembler; others move the stack pointer by hand. That which is saved by an
// injected call is not the one of its caller's frame.
func (t *pclntab) savesFP(f *fde) (bool, error) {
	record := t.funcs[f.from:]
	if t.image.arch == ARM64 {
		return true, nil // with the link register, always
	}
	if slices.Contains(t.injected[:], t.name(record)) {
		return false, nil
	}
	if record[t.flags]&goAsm == 0 {
		return true, nil
	}
	code, err := t.code(f, 64)
	if err != nil {
		return false, err
	}
	for _, prologue := range [][]byte{
		{0x55, 0x48, 0x89, 0xe5}, // push %rbp; mov %rsp, %rbp
		{0x48, 0x8d, 0x6c, 0x24}, // lea N(%rsp), %rbp, up to Go 1.20
		{0x48, 0x8d, 0xac, 0x24}, // with a larger N
	} {
		if bytes.Contains(code, prologue) {
			return true, nil
		}
	}
	return false, nil
}

// code returns the first bytes of a function's instructions, none if they are not in the file.
func (t *pclntab) code(f *fde, most uint64) ([]byte, error) {
	code := make([]byte, min(f.end-f.start, most))
	off, size, ok := t.image.loaded(f.start)
	if !ok || size < uint64(len(code)) {
		return nil, nil
	}
	return code, t.image.read(code, off)
}

const (
	// maxPadding is what may be between two functions of one span.
	maxPadding = 64
	// minKept is the shortest span that is worth a mapping of its own in the kernel: much of assembly is between functions
	// that nobody calls from.
	minKept = 16 << 10
)

// kept returns where functions have, whenever they call another one, a frame record of their own: all but some in assembly,
// some that are called by no call instruction, and, up to Go 1.20, those without a frame that call all the same.
func (t *pclntab) kept(functions []fde) ([]Span, error) {
	if t.image.arch != AMD64 {
		return nil, nil
	}
	var spans []Span
	var s Span
	end := func() {
		if s.End-s.Start >= minKept {
			spans = append(spans, s)
		}
		s = Span{}
	}
	for i := range functions {
		f := &functions[i]
		if f.cie != goCIE {
			end()
			continue
		}
		keeps, err := t.keeps(f)
		if err != nil {
			return nil, err
		}
		if !keeps || f.start-s.End > maxPadding {
			end()
		}
		if keeps {
			if s.End == 0 {
				s.Start = f.start
			}
			s.End = f.end
		}
	}
	end()
	return spans, nil
}

func (t *pclntab) keeps(f *fde) (bool, error) {
	if t.funcs[f.from:][t.flags]&(goTopFrame|goSPWrite) != 0 {
		return false, nil
	}
	if t.isFrameless(f) {
		calls, err := t.calls(f)
		return !calls, err
	}
	return t.savesFP(f)
}

// isFrameless reports whether the stack pointer never moves in a function.
func (t *pclntab) isFrameless(f *fde) bool {
	pcsp := binary.LittleEndian.Uint32(t.funcs[f.from+16:])
	if uint64(pcsp) >= uint64(len(t.pctab)) {
		return false
	}
	r := reader{data: t.pctab, pos: int(pcsp)}
	const zero, end = 2, 0 // depths less the one before, first -1, zigzag
	if r.uleb() != zero {
		return false
	}
	r.uleb() // how far that goes
	return r.uleb() == end && !r.short
}

// calls reports whether a function may call another one: whether there is the code of a call with the address of a function,
// or of one through a register.
func (t *pclntab) calls(f *fde) (bool, error) {
	code, err := t.code(f, math.MaxUint64)
	if err != nil {
		return true, err
	}
	for i, b := range code {
		switch rest := code[i+1:]; {
		case b == 0xe8 && len(rest) >= 4:
			target := f.start + uint64(i) + 5 + uint64(int64(int32(binary.LittleEndian.Uint32(rest)))) - t.text
			if n := sort.Search(t.n, func(i int) bool { return t.entry(i) >= target }); n < t.n && t.entry(n) == target {
				return true, nil
			}
		case b == 0xff && len(rest) >= 1 && rest[0]&0xf8 == 0xd0:
			return true, nil
		}
	}
	return false, nil
}

// rule returns the rule where the stack pointer is so many bytes below where it was at the function's entry. saves says that
// the frame pointer is saved once it is.
func (t *pclntab) rule(depth int64, saves bool) Rule {
	if depth < 0 || depth > math.MaxInt32-8 {
		return Rule{}
	}
	r := Rule{CFA: CFARegister, CFAReg: t.image.arch.SP(), CFAOff: int32(depth)}
	if t.image.arch == ARM64 {
		if depth > 0 {
			r.RA, r.FP, r.FPOff = SaveAtSP, SaveAtSP, -1
		}
		return r
	}
	r.CFAOff += 8
	r.RA, r.RAOff = SaveAtCFA, -1
	switch {
	case depth == 0:
	case saves:
		r.FP, r.FPOff, r.RBX = SaveAtCFA, -2, SaveUndefined
	default:
		r.FP, r.RBX = SaveUndefined, SaveUndefined
	}
	return r
}
