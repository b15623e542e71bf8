package unwind

import (
	"encoding/binary"
	"errors"
	"io"
	"testing"
)

// memory is a stack: words from an address on.
type memory struct {
	addr  uint64
	words []uint64
}

func (m memory) ReadAt(b []byte, off int64) (int, error) {
	all := make([]byte, 0, 8*len(m.words))
	for _, w := range m.words {
		all = binary.LittleEndian.AppendUint64(all, w)
	}
	if uint64(off) < m.addr || uint64(off)-m.addr > uint64(len(all)) {
		return 0, io.EOF
	}
	n := copy(b, all[uint64(off)-m.addr:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// frame returns registers of which only those given are known.
func frame(pc uint64, exact bool, values map[uint8]uint64) Registers {
	r := Registers{PC: pc, Exact: exact}
	for n, v := range values {
		r.set(n, v)
	}
	return r
}

// TestStep steps from a frame whose stack has the word 0x100+i at 0x7000+8*i.
func TestStep(t *testing.T) {
	const base, size = 0x7000, 40
	mem := memory{addr: base}
	for i := range uint64(size) {
		mem.words = append(mem.words, 0x100+i)
	}
	ra := Rule{RA: SaveAtCFA, RAOff: -1}
	rule := func(edit func(*Rule)) Rule {
		r := ra
		edit(&r)
		return r
	}
	type values = map[uint8]uint64
	leaf := func() Registers {
		r := frame(0x4010, true, values{amd64RSP: base, amd64RBP: base + 64, amd64RBX: 7, 9: 3, 5: 0x4444})
		r.Known = 1<<16 - 1
		return r
	}
	// caller is a frame that was reached from leaf.
	caller := func(pc uint64, v values) Registers {
		r := frame(pc, false, v)
		r.R[9], r.R[5] = 3, 0x4444
		r.Known |= AMD64.unsaved()
		return r
	}
	for _, test := range []struct {
		name string
		rule Rule
		regs Registers
		want Registers
		err  error
	}{
		{"register", rule(func(r *Rule) { r.CFA, r.CFAReg, r.CFAOff = CFARegister, amd64RSP, 16 }), leaf(),
			caller(0x101, values{amd64RSP: base + 16, amd64RBP: base + 64, amd64RBX: 7}), nil},
		{"saved", rule(func(r *Rule) {
			r.CFA, r.CFAReg, r.CFAOff = CFARegister, amd64RBP, 16
			r.FP, r.FPOff, r.RBX, r.RBXOff = SaveAtCFA, -2, SaveAtCFA, -3
		}), leaf(), caller(0x109, values{amd64RSP: base + 80, amd64RBP: 0x108, amd64RBX: 0x107}), nil},
		{"saved at FP and SP", rule(func(r *Rule) {
			r.CFA, r.CFAReg, r.CFAOff = CFARegister, amd64RSP, 16
			r.FP, r.FPOff, r.RBX, r.RBXOff = SaveAtFP, -1, SaveAtSP, 4
		}), leaf(), caller(0x101, values{amd64RSP: base + 16, amd64RBP: 0x107, amd64RBX: 0x104}), nil},
		{"lost", rule(func(r *Rule) {
			r.CFA, r.CFAReg, r.CFAOff, r.FP, r.RBX = CFARegister, amd64RSP, 16, SaveUndefined, SaveUndefined
		}), leaf(), caller(0x101, values{amd64RSP: base + 16}), nil},
		{"lost frame pointer is needed", rule(func(r *Rule) { r.CFA, r.CFAReg, r.CFAOff = CFARegister, amd64RBP, 16 }),
			frame(0x4010, false, values{amd64RSP: base}), Registers{}, ErrBadRule},
		{"save relative to a lost frame pointer", rule(func(r *Rule) {
			r.CFA, r.CFAReg, r.CFAOff, r.RBX = CFARegister, amd64RSP, 16, SaveAtFP
		}), frame(0x4010, false, values{amd64RSP: base, amd64RBX: 1}), frame(0x101, false, values{amd64RSP: base + 16}), nil},
		{"save relative to a frame pointer that leads nowhere", rule(func(r *Rule) {
			r.CFA, r.CFAReg, r.CFAOff, r.FP = CFARegister, amd64RSP, 16, SaveAtFP
		}), frame(0x4010, false, values{amd64RSP: base, amd64RBP: 1}), frame(0x101, false, values{amd64RSP: base + 16}), nil},
		{"save on a stack that ends", rule(func(r *Rule) {
			r.CFA, r.CFAReg, r.CFAOff, r.FP, r.FPOff = CFARegister, amd64RSP, 16, SaveAtCFA, size
		}), leaf(), Registers{}, ErrUnreadable},
		{"any register in the innermost frame", rule(func(r *Rule) { r.CFA, r.CFAReg, r.CFAOff = CFARegister, 5, -0x4444+base+8 }), leaf(),
			caller(0x100, values{amd64RSP: base + 8, amd64RBP: base + 64, amd64RBX: 7}), nil},
		{"and not in another", rule(func(r *Rule) { r.CFA, r.CFAReg = CFARegister, 12 }),
			frame(0x4010, false, values{amd64RSP: base, amd64RBP: 1, amd64RBX: 1}), Registers{}, ErrBadRule},
		{"unless functions do not save it", rule(func(r *Rule) { r.CFA, r.CFAReg, r.CFAOff = CFARegister, 0, 8 }),
			frame(0x4010, false, values{amd64RSP: base, 0: base, 12: 1}), frame(0x100, false, values{amd64RSP: base + 8, 0: base}), nil},
		{"vfork", Rule{CFA: CFARegister, CFAReg: amd64RSP, RA: SaveRegister, RAOff: 5}, leaf(),
			caller(0x4444, values{amd64RSP: base, amd64RBP: base + 64, amd64RBX: 7}), nil},
		// The word at base+16 is 0x102, which is no address of the stack: the load of the return address faults.
		{"deref", Rule{CFA: CFADeref, CFAReg: amd64RSP, CFAOff: 16, CFAAdd: 2, RA: SaveRegister, RAOff: 5}, leaf(),
			caller(0x4444, values{amd64RSP: 0x112, amd64RBP: base + 64, amd64RBX: 7}), nil},
		{"deref that leads nowhere", rule(func(r *Rule) { r.CFA, r.CFAReg, r.CFAOff = CFADeref, amd64RSP, 16 }), leaf(), Registers{}, ErrUnreadable},
		{"deref with index", Rule{CFA: CFADerefIndex, CFAReg: 9, CFAOff: 8, CFAAdd: 1, RA: SaveRegister, RAOff: 5}, leaf(),
			caller(0x4444, values{amd64RSP: 0x10c, amd64RBP: base + 64, amd64RBX: 7}), nil},
		{"plt before its push", rule(func(r *Rule) { r.CFA, r.CFAOff = CFAPLT, 11 }), frame(0x401a, true, values{amd64RSP: base}),
			frame(0x100, false, values{amd64RSP: base + 8}), nil},
		{"plt after its push", rule(func(r *Rule) { r.CFA, r.CFAOff = CFAPLT, 11 }), frame(0x401b, true, values{amd64RSP: base}),
			frame(0x101, false, values{amd64RSP: base + 16}), nil},
		{"frame pointer", Rule{CFA: CFAFramePointer}, leaf(),
			caller(0x109, values{amd64RSP: base + 80, amd64RBP: 0x108, amd64RBX: 7}), nil},
		{"frame pointer of zero", Rule{CFA: CFAFramePointer}, frame(0x4010, false, values{amd64RSP: base, amd64RBP: 0}), Registers{}, ErrEnd},
		{"frame pointer that is lost", Rule{CFA: CFAFramePointer}, frame(0x4010, false, values{amd64RSP: base}), Registers{}, ErrBadRule},
		{"end", Rule{CFA: CFAEnd}, leaf(), Registers{}, ErrEnd},
		{"invalid", Rule{}, leaf(), Registers{}, ErrBadRule},
		{"stack ends", rule(func(r *Rule) { r.CFA, r.CFAReg, r.CFAOff = CFARegister, amd64RSP, 8*size+8 }), leaf(), Registers{}, ErrUnreadable},
		{"stack in the kernel's half", rule(func(r *Rule) { r.CFA, r.CFAReg = CFARegister, amd64RSP }),
			frame(0x4010, true, values{amd64RSP: 1 << 63}), Registers{}, ErrUnreadable},
		{"signal", Rule{CFA: CFASignal, CFAOff: 40}, frame(0x4010, false, values{amd64RSP: base}),
			frame(0x115, true, values{
				8: 0x105, 9: 0x106, 10: 0x107, 11: 0x108, 12: 0x109, 13: 0x10a, 14: 0x10b, 15: 0x10c, 5: 0x10d, 4: 0x10e,
				amd64RBP: 0x10f, amd64RBX: 0x110, 1: 0x111, 0: 0x112, 2: 0x113, amd64RSP: 0x114,
			}), nil},
		{"signal on a stack that ends", Rule{CFA: CFASignal, CFAOff: 8*size - 128}, frame(0x4010, false, values{amd64RSP: base}), Registers{}, ErrUnreadable},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.rule.Step(AMD64, test.regs, mem)
			if !errors.Is(err, test.err) || got != test.want {
				t.Errorf("got  %+v, %v\nwant %+v, %v", got, err, test.want, test.err)
			}
		})
	}
}

func TestStepZeroReturnAddress(t *testing.T) {
	mem := memory{0x7000, []uint64{0, 0}}
	r := Rule{CFA: CFARegister, CFAReg: amd64RSP, CFAOff: 8, RA: SaveAtCFA, RAOff: -1}
	if _, err := r.Step(AMD64, frame(0x4010, true, map[uint8]uint64{amd64RSP: 0x7000}), mem); !errors.Is(err, ErrBadRule) {
		t.Errorf("got %v, want ErrBadRule", err)
	}
}

func TestStepARM64(t *testing.T) {
	mem := memory{addr: 0x7000}
	for i := range uint64(80) {
		mem.words = append(mem.words, 0xab<<56|0x100+i) // with a signature, if it is a return address
	}
	leaf := frame(0x4010, true, map[uint8]uint64{arm64SP: 0x7000, arm64FP: 0x7020, arm64LR: 0x12_3400_0000_5555})
	same := Rule{CFA: CFARegister, CFAReg: arm64SP}
	got, err := same.Step(ARM64, leaf, mem)
	if want := frame(0x3400_0000_5555, false, map[uint8]uint64{arm64SP: 0x7000, arm64FP: 0x7020}); err != nil || got != want {
		t.Errorf("link register: got %+v, %v\nwant %+v", got, err, want)
	}
	if _, err := same.Step(ARM64, got, mem); !errors.Is(err, ErrBadRule) {
		t.Errorf("link register of a caller: got %v, want ErrBadRule", err)
	}
	framed := Rule{CFA: CFARegister, CFAReg: arm64SP, CFAOff: 32, FP: SaveAtCFA, FPOff: -4, RA: SaveAtCFA, RAOff: -3}
	got, err = framed.Step(ARM64, leaf, mem)
	if want := frame(0x101, false, map[uint8]uint64{arm64SP: 0x7020, arm64FP: 0xab<<56 | 0x100}); err != nil || got != want {
		t.Errorf("frame: got %+v, %v\nwant %+v", got, err, want)
	}
	got, err = restorerOf(ARM64).rule.Step(ARM64, leaf, mem)
	block := uint64(0xab<<56 | 0x100 + 312/8) // the first word of the registers
	if err != nil || !got.Exact || got.R[0] != block || got.R[arm64FP] != block+29 || got.R[arm64SP] != block+31 || got.PC != block+32 || got.Known != 1<<32-1 {
		t.Errorf("signal: got %+v, %v", got, err)
	}
}

// TestTableStep looks a caller up by the byte before its return address, and the frame that a signal interrupted by the
// address itself.
func TestTableStep(t *testing.T) {
	var eh frameSection
	eh.addCIE("zR", initialAMD64...)
	eh.addFDE(testText, 0x10)                              // ends in a call
	eh.addFDE(testText+0x10, 0x10, cfaUndefined, amd64RIP) // what follows it
	table := mustBuild(t, testFile{ehFrame: eh.b})
	const bias = 0x555500000000
	mem := memory{0x7000, []uint64{0x1234}}
	regs := frame(bias+testText+0x10, false, map[uint8]uint64{amd64RSP: 0x7000})
	if got, err := table.Step(regs, bias, mem); err != nil || got.PC != 0x1234 {
		t.Errorf("return address: got %+v, %v", got, err)
	}
	regs.Exact = true
	if _, err := table.Step(regs, bias, mem); !errors.Is(err, ErrEnd) {
		t.Errorf("exact address: got %v, want ErrEnd", err)
	}
	regs.PC = 1
	if _, err := table.Step(regs, bias, mem); !errors.Is(err, ErrNoRule) {
		t.Errorf("address elsewhere: got %v, want ErrNoRule", err)
	}
}
