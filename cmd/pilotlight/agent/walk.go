package agent

import (
	"errors"
	"io"
	"runtime"

	"pilotlight/bpf"
	"pilotlight/unwind"
)

// maxUserFrames is how many frames a stack has at most. The sampler has the same
// bound.
const maxUserFrames = 896

// maxFrame is how far a frame pointer may be above the stack pointer; what is
// further is some other value in that register. The sampler has the same bound.
const maxFrame = 8 << 20

var arch = map[string]unwind.Arch{"amd64": unwind.AMD64, "arm64": unwind.ARM64}[runtime.GOARCH]

// ptRegs has the DWARF numbers of the registers in the kernel's struct pt_regs,
// in its order; none stands for those that unwinding does without.
var ptRegs = map[unwind.Arch][]uint8{
	// arch/x86/include/uapi/asm/ptrace.h: r15 to r12, rbp, rbx, r11 to r8, rax, rcx, rdx, rsi, rdi, orig_rax, rip,
	// cs, eflags, rsp.
	unwind.AMD64: {15, 14, 13, 12, 6, 3, 11, 10, 9, 8, 0, 2, 1, 4, 5, none, pc, none, none, 7},
	// arch/arm64/include/uapi/asm/ptrace.h: x0 to x30, sp, pc.
	unwind.ARM64: {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, pc},
}[arch]

const none, pc = 254, 255

// Registers are those of an executing frame, from the beginning of the words of
// the kernel's struct pt_regs of this architecture. ok is false if there are too few.
func Registers(words []uint64) (regs unwind.Registers, ok bool) {
	if arch == 0 || len(words) < len(ptRegs) {
		return unwind.Registers{}, false
	}
	regs.Exact = true
	for i, n := range ptRegs {
		switch n {
		case none:
		case pc:
			regs.PC = words[i]
		default:
			regs.R[n] = words[i]
			regs.Known |= 1 << n
		}
	}
	return regs, true
}

// Code is what has to be known about the code at a program counter to walk on.
type Code struct {
	// Table is nil for code without unwind information, which may have frame pointers.
	Table *unwind.Table
	// Bias is what a program counter is above the address in the file.
	Bias uint64
	// FramePointers says that code that the table has no other rule for keeps frame
	// pointers for certain, as Go's does.
	FramePointers bool
}

// Walk goes from the frame with the registers regs to the entry of its thread,
// and appends the program counters to pcs, of which there are at most 896 in the
// end; pcs has that of the first frame already. mem is read at virtual
// addresses. find returns the code at a program counter, or an outcome other than
// Complete if the walk ends there.
//
// It does what the sampler's BPF program does (bpf/walk.h).
func Walk(regs unwind.Registers, mem io.ReaderAt, pcs []uint64, find func(pc uint64) (Code, bpf.Outcome)) ([]uint64, bpf.Outcome) {
	for {
		at := regs.Lookup()
		code, outcome := find(at)
		if outcome != bpf.Complete {
			return pcs, outcome
		}
		rule := unwind.Rule{CFA: unwind.CFAFramePointer}
		if code.Table != nil {
			var ok bool
			if rule, ok = code.Table.Find(at - code.Bias); !ok {
				return pcs, bpf.NoTable
			}
		}
		if rule.CFA == unwind.CFAFramePointer && !code.FramePointers && !plausible(&regs, len(pcs) == 1) {
			return pcs, bpf.NoTable
		}
		next, err := rule.Step(arch, regs, mem)
		switch {
		case err == nil:
		case errors.Is(err, unwind.ErrEnd):
			return pcs, bpf.Complete
		case errors.Is(err, unwind.ErrUnreadable):
			return pcs, bpf.Unreadable
		default:
			return pcs, bpf.BadRule
		}
		if len(pcs) >= maxUserFrames {
			return pcs, bpf.TooDeep
		}
		regs = next
		pcs = append(pcs, regs.PC)
	}
}

// plausible reports whether the frame pointer may be one. Zero marks the
// outermost frame, but a leaf may just not have set it.
func plausible(regs *unwind.Registers, leaf bool) bool {
	fp, sp := regs.R[arch.FP()], regs.R[arch.SP()]
	if regs.Known&(1<<arch.FP()) == 0 {
		return false
	}
	if fp == 0 {
		return !leaf
	}
	return fp&7 == 0 && fp-sp <= maxFrame
}
