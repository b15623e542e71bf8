package agent

import (
	"encoding/binary"
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
	// JIT says that the code was compiled at run time: it has nothing but frame pointers,
	// and a walk ends there where they lead nowhere.
	JIT bool
	// Start and End are the program counters between which the mapping lies. Only
	// code with FramePointers needs them.
	Start, End uint64
}

// Walk goes from the frame with the registers regs to the entry of its thread,
// and appends the program counters to pcs, of which there are at most 896 in the
// end, as in bpf.Sample; pcs has that of the first frame already. mem is read at virtual
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
		if rule.CFA == unwind.CFAFramePointer {
			if end := checkFramePointer(&regs, mem, code, len(pcs) == 1); end != goesOn {
				if code.JIT {
					end = bpf.JITEnd
				}
				return pcs, end
			}
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
		pcs = append(pcs, regs.Lookup()+1)
	}
}

// goesOn is no outcome: the walk does not end there.
const goesOn = bpf.Outcome(bpf.NumOutcomes)

// checkFramePointer returns how a walk ends in code that nothing but a frame
// pointer unwinds, or goesOn if there is a frame record to go by: {caller's frame
// pointer, return address}. A frame pointer of zero marks the outermost frame, but a
// leaf may just not have set it, unless its code keeps frame pointers for certain.
func checkFramePointer(regs *unwind.Registers, mem io.ReaderAt, code Code, leaf bool) bpf.Outcome {
	if regs.Known&(1<<arch.FP()) == 0 {
		return bpf.NoTable
	}
	fp := regs.R[arch.FP()]
	if fp == 0 {
		if leaf && !code.FramePointers {
			return bpf.NoTable
		}
		return bpf.Complete
	}
	near := isNear(fp, lowestFP(regs.R[arch.SP()]))
	if fp%8 != 0 || !near && !code.FramePointers {
		return bpf.NoTable
	}
	var record [16]byte
	if n, _ := mem.ReadAt(record[:], int64(fp)); n < len(record) {
		return bpf.Unreadable
	}
	next, ra := binary.LittleEndian.Uint64(record[:]), binary.LittleEndian.Uint64(record[8:])
	if arch == unwind.ARM64 {
		ra &= 1<<48 - 1 // the rest may be a signature
	}
	switch {
	case !near && !isSwitch(fp, next, ra, code):
		return bpf.NoTable
	case ra != 0:
		return goesOn
	case next == 0:
		return bpf.Complete
	default:
		return bpf.NoTable
	}
}

// isNear reports whether a frame record may be the next one above a place in a stack.
func isNear(record, place uint64) bool { return record >= place && record-place <= maxFrame }

// isSwitch reports whether the frame record {next, ra} at fp may be where code left
// one stack for another, as Go's runtime does for its own work: it was called by the
// same file's code, and the chain goes up from there.
func isSwitch(fp, next, ra uint64, code Code) bool {
	return code.Start < ra && ra < code.End && (next == 0 || isNear(next, fp+16))
}

// lowestFP is where the first frame record may be: on arm64 Go keeps it one word
// below the stack pointer.
func lowestFP(sp uint64) uint64 {
	if arch == unwind.ARM64 {
		return sp - 8
	}
	return sp
}
