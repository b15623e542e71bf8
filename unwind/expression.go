package unwind

// DWARF operations (DWARF 5 section 7.7.1) in the expressions that rules can say.
const (
	opDeref      = 0x06
	opAnd        = 0x1a
	opMul        = 0x1e
	opPlus       = 0x22
	opPlusUconst = 0x23
	opShl        = 0x24
	opGe         = 0x2a
	opLit0       = 0x30
	opLit31      = 0x4f
	opBreg0      = 0x70
	opBreg31     = 0x8f
)

// cfaExpression sets the CFA to the value of an expression, CFAInvalid if it is not one of these:
//
//	breg off                                       CFARegister
//	breg off, deref [, plus_uconst n]              CFADeref
//	breg SP off, breg 0, lit8, mul, plus, deref [, plus_uconst n]
//	                                               CFADerefIndex
//	breg SP 8, breg PC 0, lit15, and, lit n, ge, lit3, shl, plus
//	                                               CFAPLT
func (s *state) cfaExpression(expr []byte, regs tracked) {
	s.cfa, s.cfaReg, s.cfaOff, s.cfaAdd = CFAInvalid, regs.sp, 0, 0
	r := reader{data: expr}
	reg, off, ok := r.breg()
	if !ok || off != int64(int32(off)) {
		return
	}
	if r.pos == len(expr) {
		s.cfa, s.cfaReg, s.cfaOff = CFARegister, reg, int32(off)
		return
	}
	kind := CFADeref
	if expr[r.pos] != opDeref {
		if reg != regs.sp {
			return
		}
		if threshold, ok := r.pltThreshold(regs); ok && off == 8 {
			s.cfa, s.cfaOff = CFAPLT, threshold
			return
		}
		if reg, ok = r.index(); !ok {
			return
		}
		kind = CFADerefIndex
	}
	if add, ok := r.derefPlus(); ok {
		s.cfa, s.cfaReg, s.cfaOff, s.cfaAdd = kind, reg, int32(off), add
	}
}

// addressExpression returns the save that an expression for the address of a register says.
func addressExpression(expr []byte, regs tracked) save {
	r := reader{data: expr}
	reg, off, ok := r.breg()
	switch {
	case ok && r.pos == len(expr) && reg == regs.fp:
		return wordSave(SaveAtFP, off)
	case ok && r.pos == len(expr) && reg == regs.sp:
		return wordSave(SaveAtSP, off)
	default:
		return save{kind: saveUnsupported}
	}
}

// breg reads a register plus an offset.
func (r *reader) breg() (reg uint8, off int64, ok bool) {
	op := r.u8()
	if op < opBreg0 || op > opBreg31 {
		return 0, 0, false
	}
	off = r.sleb()
	return op - opBreg0, off, !r.short
}

// take reads operations if they come next.
func (r *reader) take(ops ...byte) bool {
	if len(r.data)-r.pos < len(ops) || string(r.data[r.pos:r.pos+len(ops)]) != string(ops) {
		return false
	}
	r.pos += len(ops)
	return true
}

// derefPlus reads the end of an expression that loads a word and adds a number of bytes, which it returns in words.
func (r *reader) derefPlus() (words int8, ok bool) {
	if !r.take(opDeref) {
		return 0, false
	}
	var n uint64
	if r.take(opPlusUconst) {
		n = r.uleb()
	}
	return int8(n / 8), !r.short && r.pos == len(r.data) && n%8 == 0 && n/8 < 128
}

// index reads the addition of 8 times a register, which it returns.
func (r *reader) index() (reg uint8, ok bool) {
	reg, off, ok := r.breg()
	return reg, ok && off == 0 && r.take(opLit0+8, opMul, opPlus)
}

// pltThreshold reads the end of binutils' expression for a procedure linkage table, whose entries push a word when
// they are so many bytes in. Of anything else it reads nothing.
func (r *reader) pltThreshold(regs tracked) (bytes int32, ok bool) {
	start := r.pos
	if regs.ra == amd64RIP && r.take(opBreg0+amd64RIP, 0, opLit0+15, opAnd) {
		n := r.u8()
		if n >= opLit0 && n <= opLit0+15 && r.take(opGe, opLit0+3, opShl, opPlus) && r.pos == len(r.data) {
			return int32(n - opLit0), true
		}
	}
	r.pos = start
	return 0, false
}
