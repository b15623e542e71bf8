package unwind

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
)

var (
	// ErrEnd is returned by Step in the outermost frame of a thread: the stack is complete.
	ErrEnd = errors.New("thread entry")
	// ErrBadRule is wrapped by Step's error for code that the table covers but cannot unwind: its rule is CFAInvalid, or
	// needs a register that is not known in this frame.
	ErrBadRule = errors.New("no usable unwind rule")
	// ErrUnreadable is wrapped by Step's error if stack memory cannot be read.
	ErrUnreadable = errors.New("unreadable stack memory")
	// ErrNoRule is returned by Table.Step for an address outside of the table.
	ErrNoRule = errors.New("address outside of the unwind table")
)

// Registers is the state of one frame.
type Registers struct {
	// PC is the program counter.
	PC uint64
	// R has the registers by DWARF number.
	R [32]uint64
	// Known has bit n set if R[n] is known in this frame. All are in the innermost frame and in one that a signal
	// interrupted; in others the stack pointer, unless it was lost the frame pointer and rbx, and what functions do not
	// save (see Arch.Followed).
	Known uint32
	// Exact says that PC is an instruction that was executing. Otherwise it is a return address, and the instruction
	// before it is what the frame was executing.
	Exact bool
}

// Lookup returns the program counter to find the frame's rule and name by.
func (r *Registers) Lookup() uint64 {
	if r.Exact {
		return r.PC
	}
	return r.PC - 1
}

// get returns a register if it is known.
func (r *Registers) get(n uint8) (uint64, bool) {
	if n >= 32 || r.Known&(1<<n) == 0 {
		return 0, false
	}
	return r.R[n], true
}

// Step returns the registers of the caller of the frame regs, whose code is mapped with its file addresses at addr +
// bias. mem is read at virtual addresses of the process. The errors are those of Rule.Step, and ErrNoRule.
func (t *Table) Step(regs Registers, bias uint64, mem io.ReaderAt) (Registers, error) {
	rule, ok := t.Find(regs.Lookup() - bias)
	if !ok {
		return Registers{}, ErrNoRule
	}
	return rule.Step(t.Arch, regs, mem)
}

// Step returns the registers of the caller of the frame regs. mem is read at virtual addresses of the process. It
// returns ErrEnd in the outermost frame, and errors that wrap ErrBadRule or ErrUnreadable where the stack has to be
// cut. It does not prove progress: callers bound the number of frames.
//
// The sampler's BPF program computes the same, bit by bit:
//
//	values  SP, FP, rbx and PC of this frame; other registers only if known. Sums wrap at 64 bits.
//	        What functions do not save is known in the caller if it is here, and the same.
//	1       CFA by Rule.CFA
//	2       FP, rbx and the return address by their SaveKind, from values and CFA of this frame; FP and rbx are not
//	        known if what they are computed from is not, or if a SaveAtFP cannot be read
//	3       SP = CFA, PC = the return address; on ARM64 the low 48 bits of it, for the rest may be a signature (PAC)
//
// A return address of zero is ErrBadRule: an entry would be CFAEnd, or CFAFramePointer with an FP of zero, which is how
// the ABIs mark the outermost frame (AMD64 section 3.4.1, AAPCS64 section 6.4.6). On AMD64 what CFASignal reads is 17 words (struct
// sigcontext of arch/x86/include/uapi/asm/sigcontext.h), r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip; on
// ARM64 33 words (arch/arm64/include/uapi/asm/sigcontext.h), x0 to x30, sp, pc.
func (r Rule) Step(arch Arch, regs Registers, mem io.ReaderAt) (Registers, error) {
	switch r.CFA {
	case CFAEnd:
		return Registers{}, ErrEnd
	case CFASignal:
		return r.stepSignal(arch, &regs, mem)
	case CFAFramePointer:
		if fp, ok := regs.get(arch.FP()); ok && fp == 0 {
			return Registers{}, ErrEnd
		}
		r = framePointerRule(arch)
	}
	cfa, err := r.cfa(arch, &regs, mem)
	if err != nil {
		return Registers{}, err
	}
	next := regs.unsaved(arch)
	next.set(arch.SP(), cfa)
	if err := next.restore(arch.FP(), r.FP, r.FPOff, arch, &regs, cfa, mem); err != nil {
		return Registers{}, err
	}
	if arch == AMD64 {
		if err := next.restore(amd64RBX, r.RBX, r.RBXOff, arch, &regs, cfa, mem); err != nil {
			return Registers{}, err
		}
	}
	if next.PC, err = r.returnAddress(arch, &regs, cfa, mem); err != nil {
		return Registers{}, err
	}
	return next, nil
}

// unsaved returns those registers alone that functions do not save.
func (r *Registers) unsaved(arch Arch) Registers {
	var next Registers
	next.Known = r.Known & arch.unsaved()
	for known := next.Known; known != 0; known &= known - 1 {
		n := bits.TrailingZeros32(known)
		next.R[n] = r.R[n]
	}
	return next
}

// framePointerRule is what CFAFramePointer stands for.
func framePointerRule(arch Arch) Rule {
	return Rule{CFA: CFARegister, CFAReg: arch.FP(), CFAOff: 16, FP: SaveAtCFA, FPOff: -2, RA: SaveAtCFA, RAOff: -1}
}

func (r Rule) cfa(arch Arch, regs *Registers, mem io.ReaderAt) (uint64, error) {
	base, ok := regs.get(arch.SP())
	if ok && r.CFA != CFAPLT {
		index := base
		base, ok = regs.get(r.CFAReg)
		if r.CFA == CFADerefIndex {
			base = index + 8*base
		}
	}
	if !ok {
		return 0, fmt.Errorf("%w: register %d is not known", ErrBadRule, r.CFAReg)
	}
	off := uint64(int64(r.CFAOff))
	switch r.CFA {
	case CFARegister:
		return base + off, nil
	case CFADeref, CFADerefIndex:
		value, err := word(mem, base+off)
		return value + 8*uint64(int64(r.CFAAdd)), err
	case CFAPLT:
		if regs.PC&15 >= off {
			return base + 16, nil
		}
		return base + 8, nil
	default:
		return 0, fmt.Errorf("%w: unsupported unwind information", ErrBadRule)
	}
}

// restore sets a register to what it was in the caller of the frame from.
func (r *Registers) restore(n uint8, kind SaveKind, off int16, arch Arch, from *Registers, cfa uint64, mem io.ReaderAt) error {
	value, known, err := from.saved(n, kind, off, arch, cfa, mem)
	if known {
		r.set(n, value)
	}
	return err
}

func (r *Registers) set(n uint8, value uint64) {
	r.R[n] = value
	r.Known |= 1 << n
}

// saved returns the caller's value of a register, if it can be known.
func (r *Registers) saved(n uint8, kind SaveKind, off int16, arch Arch, cfa uint64, mem io.ReaderAt) (value uint64, known bool, err error) {
	base := cfa
	switch kind {
	case SaveSame:
		value, known = r.get(n)
		return value, known, nil
	case SaveRegister:
		value, known = r.get(uint8(off))
		return value, known, nil
	case SaveAtCFA:
		known = true
	case SaveAtFP:
		base, known = r.get(arch.FP())
	case SaveAtSP:
		base, known = r.get(arch.SP())
	}
	if !known {
		return 0, false, nil
	}
	value, err = word(mem, base+8*uint64(int64(off)))
	if err != nil && kind == SaveAtFP {
		// gcc says so for two instructions too long at the end of aligned frames, when rbp is the caller's already.
		return 0, false, nil
	}
	return value, err == nil, err
}

func (r Rule) returnAddress(arch Arch, regs *Registers, cfa uint64, mem io.ReaderAt) (uint64, error) {
	pc, known, err := regs.saved(arm64LR, r.RA, r.RAOff, arch, cfa, mem)
	if err != nil {
		return 0, err
	}
	if arch == ARM64 {
		pc &= 1<<48 - 1
	}
	if !known || pc == 0 {
		return 0, fmt.Errorf("%w: no return address", ErrBadRule)
	}
	return pc, nil
}

// amd64Signal has the DWARF numbers of the words that the kernel saves for a signal handler.
var amd64Signal = [17]uint8{8, 9, 10, 11, 12, 13, 14, 15, 5, 4, amd64RBP, amd64RBX, 1, 0, 2, amd64RSP, amd64RIP}

func (r Rule) stepSignal(arch Arch, regs *Registers, mem io.ReaderAt) (Registers, error) {
	sp, ok := regs.get(arch.SP())
	if !ok {
		return Registers{}, fmt.Errorf("%w: stack pointer is not known", ErrBadRule)
	}
	var buf [33 * 8]byte
	n := len(amd64Signal)
	if arch == ARM64 {
		n = 33
	}
	if err := readMemory(mem, buf[:8*n], sp+uint64(int64(r.CFAOff))); err != nil {
		return Registers{}, err
	}
	next := Registers{Exact: true}
	for i := range n - 1 {
		reg := uint8(i)
		if arch == AMD64 {
			reg = amd64Signal[i]
		}
		next.set(reg, binary.LittleEndian.Uint64(buf[8*i:]))
	}
	next.PC = binary.LittleEndian.Uint64(buf[8*(n-1):])
	if next.PC == 0 {
		return Registers{}, fmt.Errorf("%w: no interrupted program counter", ErrBadRule)
	}
	return next, nil
}

func word(mem io.ReaderAt, addr uint64) (uint64, error) {
	var b [8]byte
	err := readMemory(mem, b[:], addr)
	return binary.LittleEndian.Uint64(b[:]), err
}

// readMemory fills b from addr.
func readMemory(mem io.ReaderAt, b []byte, addr uint64) error {
	if addr > math.MaxInt64 {
		return fmt.Errorf("%w at %#x", ErrUnreadable, addr)
	}
	if n, err := mem.ReadAt(b, int64(addr)); n < len(b) {
		return fmt.Errorf("%w at %#x: %w", ErrUnreadable, addr, err)
	}
	return nil
}
