package unwind

import "fmt"

// RegisterName returns the assembler's name of a register by its DWARF number.
func (a Arch) RegisterName(n uint8) string {
	amd64 := [...]string{
		"rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp",
		"r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip",
	}
	switch {
	case a == AMD64 && int(n) < len(amd64):
		return amd64[n]
	case a == ARM64 && n == arm64SP:
		return "sp"
	case a == ARM64 && n < arm64SP:
		return fmt.Sprintf("x%d", n)
	default:
		return fmt.Sprintf("r%d", n)
	}
}

// Text is a rule in words like those of readelf --debug-dump=frames-interp: the CFA as rsp+16, a register saved at
// CFA - 8 as c-8, one that is unchanged as u. What readelf calls exp is written out: *(rsp+160), with * for the word
// at an address.
type Text struct {
	CFA, FP, RBX, RA string
}

// Text returns the rule in words.
func (r Rule) Text(arch Arch) Text {
	switch r.CFA {
	case CFAInvalid:
		return Text{CFA: "unsupported"}
	case CFAEnd:
		return Text{CFA: "end"}
	case CFASignal:
		return Text{CFA: fmt.Sprintf("signal, registers at %s", r.base(arch, arch.SP()))}
	case CFAFramePointer:
		return Text{CFA: "frame pointer"}
	}
	t := Text{FP: saveText(arch, r.FP, r.FPOff), RA: saveText(arch, r.RA, r.RAOff)}
	if arch == AMD64 {
		t.RBX = saveText(arch, r.RBX, r.RBXOff)
	}
	switch r.CFA {
	case CFARegister:
		t.CFA = r.base(arch, r.CFAReg)
	case CFADeref:
		t.CFA = "*(" + r.base(arch, r.CFAReg) + ")" + r.add()
	case CFADerefIndex:
		t.CFA = fmt.Sprintf("*(%s+8*%s)%s", r.base(arch, arch.SP()), arch.RegisterName(r.CFAReg), r.add())
	case CFAPLT:
		t.CFA = fmt.Sprintf("%s+8 or +16 from byte %d of 16", arch.RegisterName(arch.SP()), r.CFAOff)
	}
	return t
}

func (r Rule) base(arch Arch, reg uint8) string {
	return fmt.Sprintf("%s%+d", arch.RegisterName(reg), r.CFAOff)
}

func (r Rule) add() string {
	if r.CFAAdd == 0 {
		return ""
	}
	return fmt.Sprintf("%+d", 8*int(r.CFAAdd))
}

func saveText(arch Arch, kind SaveKind, off int16) string {
	switch kind {
	case SaveSame:
		return "u"
	case SaveAtCFA:
		return fmt.Sprintf("c%+d", 8*int(off))
	case SaveAtFP:
		return fmt.Sprintf("*(%s%+d)", arch.RegisterName(arch.FP()), 8*int(off))
	case SaveAtSP:
		return fmt.Sprintf("*(%s%+d)", arch.RegisterName(arch.SP()), 8*int(off))
	case SaveRegister:
		return arch.RegisterName(uint8(off))
	default:
		return "lost"
	}
}
