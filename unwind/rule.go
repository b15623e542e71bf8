package unwind

import "fmt"

// Arch is the processor that a table is for.
type Arch uint8

const (
	// AMD64 is x86-64. DWARF numbers: System V ABI, AMD64 supplement, figure 3.36.
	AMD64 Arch = iota + 1
	// ARM64 is AArch64, little-endian. DWARF numbers: DWARF for the Arm 64-bit Architecture, section 4.1.
	ARM64
)

// String returns the name that Go has for the processor.
func (a Arch) String() string {
	switch a {
	case AMD64:
		return "amd64"
	case ARM64:
		return "arm64"
	default:
		return fmt.Sprintf("Arch(%d)", uint8(a))
	}
}

// DWARF register numbers that rules treat by name.
const (
	amd64RBX = 3
	amd64RBP = 6
	amd64RSP = 7
	amd64RIP = 16

	arm64FP = 29
	arm64LR = 30
	arm64SP = 31
)

// unsaved returns the registers that no function saves for its caller and that stay known all the same, as a mask by DWARF
// number: rax, rdx, rcx, rsi, rdi and r8 to r11 on AMD64. They are taken for what they were in the innermost frame, or in the
// one that a signal interrupted, as debuggers do: assembly that calls assembly relies on what the other leaves alone.
func (a Arch) unsaved() uint32 {
	if a == ARM64 {
		return 0
	}
	return 1<<0 | 1<<1 | 1<<2 | 1<<4 | 1<<5 | 1<<8 | 1<<9 | 1<<10 | 1<<11
}

// Followed returns the registers that may be known in any frame, as Registers.Known: the stack and the frame pointer, rbx
// on AMD64, and those that functions do not save.
func (a Arch) Followed() uint32 {
	mask := uint32(1)<<a.SP() | 1<<a.FP() | a.unsaved()
	if a == AMD64 {
		mask |= 1 << amd64RBX
	}
	return mask
}

// SP returns the DWARF number of the stack pointer.
func (a Arch) SP() uint8 {
	if a == ARM64 {
		return arm64SP
	}
	return amd64RSP
}

// FP returns the DWARF number of the frame pointer, rbp or x29.
func (a Arch) FP() uint8 {
	if a == ARM64 {
		return arm64FP
	}
	return amd64RBP
}

// CFAKind says how the canonical frame address (CFA), the caller's stack pointer after the return, is computed.
type CFAKind uint8

const (
	// CFAInvalid is a place whose unwind information says something that no kind below can.
	CFAInvalid CFAKind = iota
	// CFARegister is CFA = register CFAReg + CFAOff.
	CFARegister
	// CFADeref is CFA = *(register CFAReg + CFAOff) + 8*CFAAdd: frames aligned for vectors, and hand-written code that
	// keeps the old stack pointer in memory.
	CFADeref
	// CFADerefIndex is CFA = *(SP + 8*register CFAReg + CFAOff) + 8*CFAAdd: libcrypto's multiplication.
	CFADerefIndex
	// CFAPLT is CFA = SP + 8, and 8 more where the low four bits of PC are CFAOff or higher: an entry of the
	// procedure linkage table, from where it has pushed its number.
	CFAPLT
	// CFASignal is where a signal handler returns to. All registers are in the block that the kernel saved at SP +
	// CFAOff; see Rule.Step. The other fields are zero.
	CFASignal
	// CFAFramePointer is code that no unwind information covers: CFA = FP + 16, with the return address and the
	// caller's frame pointer below. The other fields are zero.
	CFAFramePointer
	// CFAEnd is the entry of a thread: nobody called it. The other fields are zero.
	CFAEnd
)

// SaveKind says where the caller's value of a register is.
type SaveKind uint8

const (
	// SaveSame is in the register itself: it was not changed.
	SaveSame SaveKind = iota
	// SaveAtCFA is in memory at CFA + 8*offset.
	SaveAtCFA
	// SaveAtFP is in memory at FP + 8*offset, with the FP of this frame.
	SaveAtFP
	// SaveAtSP is in memory at SP + 8*offset, with the SP of this frame.
	SaveAtSP
	// SaveRegister is in the register whose DWARF number is the offset.
	SaveRegister
	// SaveUndefined is lost.
	SaveUndefined
)

// Rule takes a frame to its caller: it says where the caller's stack pointer, frame pointer, rbx and program counter
// are. The zero Rule is CFAInvalid. The kernel's copy has the same 16 bytes.
//
// rbx is followed on AMD64 because the dynamic linker's lazy binding (_dl_runtime_resolve) has its CFA there while
// it calls C code. RBX is SaveSame on ARM64.
//
// On AMD64 RA is SaveAtCFA, with RAOff -1 in compiled code, or SaveRegister (vfork). On ARM64 SaveSame means the link
// register.
type Rule struct {
	CFAOff int32 // bytes
	FPOff  int16 // words of 8 bytes, as RBXOff and RAOff, or a register number
	RBXOff int16
	RAOff  int16
	CFA    CFAKind
	CFAReg uint8 // DWARF number
	CFAAdd int8  // words of 8 bytes
	FP     SaveKind
	RBX    SaveKind
	RA     SaveKind
}
