package unwind

import "math"

// Call frame instructions (DWARF 5 section 6.4.2, figure 40; GNU's and Arm's own above 0x1c). The first three have an
// operand in the low six bits.
const (
	cfaAdvanceLoc         = 0x40 >> 6
	cfaOffset             = 0x80 >> 6
	cfaRestore            = 0xc0 >> 6
	cfaNop                = 0x00
	cfaSetLoc             = 0x01
	cfaAdvanceLoc1        = 0x02
	cfaAdvanceLoc2        = 0x03
	cfaAdvanceLoc4        = 0x04
	cfaOffsetExtended     = 0x05
	cfaRestoreExtended    = 0x06
	cfaUndefined          = 0x07
	cfaSameValue          = 0x08
	cfaRegister           = 0x09
	cfaRememberState      = 0x0a
	cfaRestoreState       = 0x0b
	cfaDefCFA             = 0x0c
	cfaDefCFARegister     = 0x0d
	cfaDefCFAOffset       = 0x0e
	cfaDefCFAExpression   = 0x0f
	cfaExpression         = 0x10
	cfaOffsetExtendedSF   = 0x11
	cfaDefCFASF           = 0x12
	cfaDefCFAOffsetSF     = 0x13
	cfaValOffset          = 0x14
	cfaValOffsetSF        = 0x15
	cfaValExpression      = 0x16
	cfaNegateRAStatePC    = 0x2c
	cfaNegateRAState      = 0x2d
	cfaGNUArgsSize        = 0x2e
	cfaGNUNegOffsetExtend = 0x2f
)

// maxRemembered bounds DW_CFA_remember_state. Compilers nest one or two.
const maxRemembered = 32

// saveUnsupported is a register whose place no SaveKind can say.
const saveUnsupported SaveKind = math.MaxUint8

// tracked has the DWARF numbers of the registers that rules restore.
type tracked struct {
	sp, fp, rbx, ra uint8
}

func registersOf(arch Arch) tracked {
	if arch == ARM64 {
		return tracked{arm64SP, arm64FP, math.MaxUint8, arm64LR}
	}
	return tracked{amd64RSP, amd64RBP, amd64RBX, amd64RIP}
}

// save is where the caller's value of a register is.
type save struct {
	kind SaveKind
	off  int16
}

// state is a row of DWARF's table (DWARF 5 section 6.4.1), as far as rules need it.
type state struct {
	cfa             CFAKind
	cfaReg          uint8
	cfaAdd          int8
	cfaOff          int32
	sp, fp, rbx, ra save
}

// rule returns the rule that a row of DWARF's table amounts to.
func (s *state) rule(arch Arch, signal bool) Rule {
	if s.ra.kind == SaveUndefined {
		return Rule{CFA: CFAEnd}
	}
	if signal {
		if block, ok := s.signalBlock(arch); ok {
			return Rule{CFA: CFASignal, CFAOff: block}
		}
	}
	if s.sp.kind == SaveRegister && s.ra.kind == SaveRegister {
		return s.jump()
	}
	if s.sp.kind != SaveSame || s.ra.kind == saveUnsupported || arch == AMD64 && s.ra.kind == SaveSame || s.cfa == CFAInvalid {
		return Rule{}
	}
	fp, rbx := s.fp.orLost(), s.rbx.orLost()
	if s.isPopped(arch) {
		fp, rbx = fp.popped(), rbx.popped()
	}
	return Rule{
		CFA: s.cfa, CFAReg: s.cfaReg, CFAOff: s.cfaOff, CFAAdd: s.cfaAdd,
		FP: fp.kind, FPOff: fp.off, RBX: rbx.kind, RBXOff: rbx.off, RA: s.ra.kind, RAOff: s.ra.off,
	}
}

// jump returns the rule for the last instructions of longjmp, when the registers that it jumps with are loaded. The row
// takes the jmp_buf for its CFA; a rule's CFA is always the next stack pointer.
func (s *state) jump() Rule {
	r := Rule{CFA: CFARegister, CFAReg: uint8(s.sp.off), FP: SaveUndefined, RBX: SaveUndefined, RA: s.ra.kind, RAOff: s.ra.off}
	if s.fp.kind == SaveRegister {
		r.FP, r.FPOff = s.fp.kind, s.fp.off
	}
	return r
}

// orLost returns the save, or that the register is lost if rules cannot say where it is.
func (s save) orLost() save {
	if s.kind == saveUnsupported {
		return save{kind: SaveUndefined}
	}
	return s
}

// isPopped reports whether the row is that of gcc for the last instruction of an aligned frame: the CFA says that nothing
// but the return address is on the stack, and rbp that it was saved where it still points.
func (s *state) isPopped(arch Arch) bool {
	return arch == AMD64 && s.cfa == CFARegister && s.cfaReg == amd64RSP && s.cfaOff == 8 && s.fp.kind == SaveAtFP
}

// popped returns the save once the frame that rbp pointed to is gone.
func (s save) popped() save {
	if s.kind == SaveAtFP {
		return save{kind: SaveSame}
	}
	return s
}

// signalBlock returns where from SP the registers are that the kernel saved for a signal handler, if the row says
// that they are where the kernel puts them. glibc describes its trampoline so.
func (s *state) signalBlock(arch Arch) (off int32, ok bool) {
	if arch != AMD64 || s.cfa != CFADeref || s.cfaReg != amd64RSP || s.cfaAdd != 0 {
		return 0, false
	}
	const rbp, rbx, rsp, rip = 10, 11, 15, 16 // words in the block
	off = s.cfaOff - 8*rsp
	at := func(word int32) save { return save{SaveAtSP, int16(off/8 + word)} }
	return off, off&7 == 0 && off >= 0 && off < 4096 && s.ra == at(rip) && s.fp == at(rbp) && s.rbx == at(rbx)
}

// interpreter runs the instructions of an FDE, or those of a CIE.
type interpreter struct {
	cie        *cie
	state      state
	remembered []state
	pc, end    uint64
	// row is called with each row of the table: where it begins, and s.state.
	row func(pc uint64)
}

// run runs the instructions in r up to the end of the code. It reports false, in the middle, if it meets one that is
// damaged or not known.
func (in *interpreter) run(r *reader) bool {
	in.remembered = in.remembered[:0]
	s := &in.state
	for r.pos < len(r.data) {
		op := r.data[r.pos]
		r.pos++
		low := op & 0x3f
		switch op >> 6 {
		case cfaAdvanceLoc:
			if !in.advance(uint64(low)) {
				return true
			}
			continue
		case cfaOffset:
			in.setOffset(uint64(low), int64(r.uleb()))
			continue
		case cfaRestore:
			in.restore(uint64(low))
			continue
		}
		var delta uint64
		switch op {
		case cfaNop, cfaNegateRAState, cfaNegateRAStatePC:
			continue
		case cfaAdvanceLoc1:
			delta = uint64(r.u8())
		case cfaAdvanceLoc2:
			delta = uint64(r.u16())
		case cfaAdvanceLoc4:
			delta = uint64(r.u32())
		case cfaSetLoc:
			pc, ok := r.pointer(in.cie.encoding, in.cie.section.addr)
			if !ok || pc < in.pc {
				return false
			}
			if !in.moveTo(pc) {
				return true
			}
			continue
		case cfaRememberState:
			if len(in.remembered) == maxRemembered {
				return false
			}
			in.remembered = append(in.remembered, *s)
			continue
		case cfaRestoreState:
			n := len(in.remembered)
			if n == 0 {
				return false
			}
			*s, in.remembered = in.remembered[n-1], in.remembered[:n-1]
			continue
		default:
			if !in.define(op, r) {
				return false
			}
			continue
		}
		if r.short {
			return false
		}
		if !in.advance(delta) {
			return true
		}
	}
	return !r.short
}

// advance ends the row delta units of code later. It reports false at the end of the code.
func (in *interpreter) advance(delta uint64) bool {
	return in.moveTo(in.pc + delta*in.cie.codeAlign)
}

func (in *interpreter) moveTo(pc uint64) bool {
	if pc == in.pc {
		return true
	}
	in.row(in.pc)
	in.pc = pc
	return pc < in.end
}

// define runs an instruction that changes the row. It reports false if the instruction is damaged or not known.
func (in *interpreter) define(op uint8, r *reader) bool {
	s := &in.state
	switch op {
	case cfaDefCFA:
		s.defineCFA(r.uleb(), int64(r.uleb()))
	case cfaDefCFASF:
		reg := r.uleb()
		s.defineCFA(reg, in.factored(r.sleb()))
	case cfaDefCFARegister:
		if reg := r.uleb(); s.cfa == CFARegister {
			s.defineCFA(reg, int64(s.cfaOff))
		}
	case cfaDefCFAOffset:
		if off := int64(r.uleb()); s.cfa == CFARegister {
			s.defineCFA(uint64(s.cfaReg), off)
		}
	case cfaDefCFAOffsetSF:
		if off := in.factored(r.sleb()); s.cfa == CFARegister {
			s.defineCFA(uint64(s.cfaReg), off)
		}
	case cfaDefCFAExpression:
		s.cfaExpression(r.bytes(r.uleb()), in.cie.regs)
	case cfaOffsetExtended:
		in.setOffset(r.uleb(), int64(r.uleb()))
	case cfaOffsetExtendedSF:
		in.setOffset(r.uleb(), r.sleb())
	case cfaGNUNegOffsetExtend:
		in.setOffset(r.uleb(), -int64(r.uleb()))
	case cfaRestoreExtended:
		in.restore(r.uleb())
	case cfaUndefined:
		in.set(r.uleb(), save{kind: SaveUndefined})
	case cfaSameValue:
		in.set(r.uleb(), save{kind: SaveSame})
	case cfaRegister:
		reg := r.uleb()
		in.set(reg, registerSave(r.uleb()))
	case cfaExpression:
		reg := r.uleb()
		in.set(reg, addressExpression(r.bytes(r.uleb()), in.cie.regs))
	case cfaValOffset, cfaValOffsetSF:
		in.valueOffset(r.uleb(), r.sleb())
	case cfaValExpression:
		reg := r.uleb()
		r.bytes(r.uleb())
		in.set(reg, save{kind: saveUnsupported})
	case cfaGNUArgsSize: // of the arguments pushed for a call: for landing pads, which pop them
		r.uleb()
	default:
		return false
	}
	return !r.short
}

// factored multiplies an operand with the data alignment.
func (in *interpreter) factored(n int64) int64 {
	if n != int64(int32(n)) {
		return math.MaxInt64 // fits no field of a rule
	}
	return n * in.cie.dataAlign
}

// at returns where the place of a register is kept, or nil if rules do not restore it.
func (s *state) at(reg uint64, regs tracked) *save {
	switch {
	case reg == uint64(regs.fp):
		return &s.fp
	case reg == uint64(regs.rbx):
		return &s.rbx
	case reg == uint64(regs.ra):
		return &s.ra
	case reg == uint64(regs.sp):
		return &s.sp
	default:
		return nil
	}
}

func (in *interpreter) set(reg uint64, v save) {
	if p := in.state.at(reg, in.cie.regs); p != nil {
		*p = v
	}
}

// setOffset says that a register is saved at CFA + n * data alignment.
func (in *interpreter) setOffset(reg uint64, n int64) {
	if p := in.state.at(reg, in.cie.regs); p != nil {
		*p = wordSave(SaveAtCFA, in.factored(n))
	}
}

// valueOffset says that a register is CFA + n * data alignment. That of SP is what the CFA is.
func (in *interpreter) valueOffset(reg uint64, n int64) {
	v := save{kind: saveUnsupported}
	if reg == uint64(in.cie.regs.sp) && n == 0 {
		v = save{kind: SaveSame}
	}
	in.set(reg, v)
}

func (in *interpreter) restore(reg uint64) {
	if p := in.cie.initial.at(reg, in.cie.regs); p != nil {
		in.set(reg, *p)
	}
}

func (s *state) defineCFA(reg uint64, off int64) {
	s.cfa, s.cfaAdd = CFAInvalid, 0
	if reg < 32 && off == int64(int32(off)) {
		s.cfa, s.cfaReg, s.cfaOff = CFARegister, uint8(reg), int32(off)
	}
}

// wordSave returns the save at an offset in bytes.
func wordSave(kind SaveKind, off int64) save {
	if off&7 != 0 || off>>3 != int64(int16(off>>3)) {
		return save{kind: saveUnsupported}
	}
	return save{kind, int16(off >> 3)}
}

func registerSave(reg uint64) save {
	if reg >= 32 {
		return save{kind: saveUnsupported}
	}
	return save{SaveRegister, int16(reg)}
}
