package bpf

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"pilotlight/unwind"
)

// TestKernelStepsAsUnwind compares the program with package unwind: rules of all kinds, most of them wrong for the code
// that gets them, have to lead both through the same words of a stack to the same end. The registers are those of amd64.
func TestKernelStepsAsUnwind(t *testing.T) {
	s := open(t, Options{Frequency: 97}) // below the limit of samples that carry stacks
	p := run(t, s, compile(t, "recursion"), "9")
	leaf := leafRegisters(t, p)
	p.symbols = slices.DeleteFunc(p.symbols, func(s symbol) bool { return s.start < p.code[0].Start || s.start >= p.code[0].End })
	rng := rand.New(rand.NewPCG(1, 2))
	ends, kinds := map[Outcome]int{}, map[unwind.CFAKind]int{}
	for range 300 {
		r := ruleMaker{rng: rng, p: p, mem: processMemory(p.id.PID), rules: map[string]unwind.Rule{}}
		want, end := r.walk(leaf)
		table := r.table()
		id, err := loadTable(s, table)
		if err != nil {
			t.Fatal(err)
		}
		code := p.code[0]
		code.Table = id
		if err := whenRoom(func() error { return s.SetProcess(p.id, []Code{code}) }); err != nil {
			t.Fatal(err)
		}
		for _, sample := range p.collect(t, 2) {
			if sample.User[0] = leaf.PC; !slices.Equal(sample.User, want) || sample.Outcome != end {
				t.Fatalf("the program says %v: %#x\npackage unwind says %v: %#x\nrules %+v", sample.Outcome, sample.User, end, want, r.rules)
			}
		}
		ends[end]++
		for _, rule := range r.rules {
			kinds[rule.CFA]++
		}
		if err := errors.Join(s.Forget(p.id.PID), s.UnloadTable(id)); err != nil {
			t.Fatal(err)
		}
	}
	for _, end := range []Outcome{Complete, NoMapping, BadRule, Unreadable} {
		if ends[end] == 0 {
			t.Errorf("walks ended %v, none %v", ends, end)
		}
	}
	if len(kinds) < 6 {
		t.Errorf("rules had the kinds %v", kinds)
	}
}

// processMemory is what a process can read of its own memory: /proc/PID/mem has more.
type processMemory int

func (pid processMemory) ReadAt(b []byte, addr int64) (int, error) {
	local := []unix.Iovec{{Base: unsafe.SliceData(b)}}
	local[0].SetLen(len(b))
	return unix.ProcessVMReadv(int(pid), local, []unix.RemoteIovec{{Base: uintptr(addr), Len: len(b)}}, 0)
}

// kept are the registers that do not change while a program of testdata computes, by DWARF number. Those from 8 to 11 no
// function saves; those from 12 on are known in the leaf alone.
var kept = []uint8{7, 6, 3, 8, 9, 10, 11, 12, 13, 14, 15}

// leafRegisters returns where the program computes for ever.
func leafRegisters(t *testing.T, p *target) unwind.Registers {
	t.Helper()
	for _, sample := range p.collect(t, 20) {
		if len(sample.Registers) > 0 && !sample.InKernel {
			regs := unwind.Registers{PC: sample.User[0], Exact: true}
			places := map[uint8]int{7: 19, 6: 4, 3: 5, 8: 9, 9: 8, 10: 7, 11: 6, 12: 3, 13: 2, 14: 1, 15: 0}
			for _, number := range kept {
				regs.R[number] = sample.Registers[places[number]]
				regs.Known |= 1 << number
			}
			return regs
		}
	}
	t.Fatal("no sample came with registers")
	return unwind.Registers{}
}

// ruleMaker makes a rule for each function that a walk comes to.
type ruleMaker struct {
	rng   *rand.Rand
	p     *target
	mem   io.ReaderAt
	rules map[string]unwind.Rule // by function
}

// walk walks as the sampler has to.
func (m *ruleMaker) walk(regs unwind.Registers) ([]uint64, Outcome) {
	pcs := []uint64{regs.PC}
	for len(pcs) < maxUserFrames {
		pc := regs.Lookup()
		if code := m.p.code[0]; pc < code.Start || pc >= code.End {
			return pcs, NoMapping
		}
		function := m.function(pc)
		rule, ok := m.rules[function]
		if !ok {
			rule = m.make(regs)
			m.rules[function] = rule
		}
		next, err := rule.Step(unwind.AMD64, regs, m.mem)
		// Where no memory is read, the program wants the stack pointer to grow.
		stuck := rule.CFA == unwind.CFARegister && (regs.R[rule.CFAReg]+uint64(int64(rule.CFAOff)) < regs.R[7]+8)
		switch {
		case errors.Is(err, unwind.ErrEnd):
			return pcs, Complete
		case errors.Is(err, unwind.ErrBadRule) || stuck:
			return pcs, BadRule
		case err != nil:
			return pcs, Unreadable
		}
		regs = next
		pcs = append(pcs, regs.Lookup()+1)
	}
	return pcs, TooDeep
}

// function returns the name of the function at pc, or nothing between functions.
func (m *ruleMaker) function(pc uint64) string {
	if i := slices.IndexFunc(m.p.symbols, func(s symbol) bool { return s.start <= pc && pc < s.end }); i >= 0 {
		return m.p.symbols[i].name
	}
	return ""
}

// make returns a rule that leads from regs to some word that may be a return address, more often than not.
func (m *ruleMaker) make(regs unwind.Registers) unwind.Rule {
	rng := m.rng
	r := unwind.Rule{CFA: unwind.CFAKind(rng.IntN(int(unwind.CFAEnd) + 1)), CFAReg: kept[rng.IntN(len(kept))], RA: unwind.SaveAtCFA, RAOff: -1}
	if rng.IntN(4) > 0 {
		r.CFA, r.CFAReg = unwind.CFARegister, kept[rng.IntN(3)]
	}
	switch r.CFA {
	case unwind.CFAInvalid, unwind.CFAEnd:
		return unwind.Rule{CFA: r.CFA}
	case unwind.CFAFramePointer: // the program is stricter about what is a frame pointer
		r.CFA = unwind.CFAPLT
	}
	r.CFAOff = int32(rng.IntN(16) * 8)
	if r.CFA == unwind.CFAPLT && regs.Exact { // the pc of the leaf is another one in each sample
		r.CFAOff = int32(rng.IntN(2) * 16)
	}
	if cfa, ok := m.target(regs); ok && r.CFA == unwind.CFARegister {
		r.CFAOff = int32(cfa - regs.R[r.CFAReg])
	}
	if r.CFA == unwind.CFASignal {
		return unwind.Rule{CFA: r.CFA, CFAOff: r.CFAOff}
	}
	if r.CFA == unwind.CFADeref || r.CFA == unwind.CFADerefIndex {
		r.CFAAdd = int8(rng.IntN(16) - 4)
	}
	for _, save := range []struct {
		kind   *unwind.SaveKind
		offset *int16
	}{{&r.FP, &r.FPOff}, {&r.RBX, &r.RBXOff}} {
		*save.kind = unwind.SaveKind(rng.IntN(int(unwind.SaveUndefined) + 1))
		*save.offset = int16(rng.IntN(16) - 8)
		if *save.kind == unwind.SaveRegister {
			*save.offset = int16(kept[rng.IntN(len(kept))])
		}
	}
	if rng.IntN(8) == 0 {
		r.RA, r.RAOff = unwind.SaveAtSP, int16(rng.IntN(16))
	}
	return r
}

// target returns a place above the stack pointer under which there is a word that points into the program's code.
func (m *ruleMaker) target(regs unwind.Registers) (uint64, bool) {
	stack := make([]byte, 2048)
	n, err := m.mem.ReadAt(stack, int64(regs.R[7]))
	if err != nil && n == 0 {
		return 0, false
	}
	var places []uint64
	for i := 0; i+8 <= n; i += 8 {
		if pc := binary.NativeEndian.Uint64(stack[i:]); pc > m.p.code[0].Start && pc < m.p.code[0].End {
			places = append(places, regs.R[7]+uint64(i)+8)
		}
	}
	if len(places) == 0 {
		return 0, false
	}
	return places[m.rng.IntN(len(places))], true
}

// table returns a table of the first code of the process. Functions that no walk came to have a rule that ends one.
func (m *ruleMaker) table() *unwind.Table {
	code := m.p.code[0]
	t := &unwind.Table{Arch: unwind.AMD64, FirstPage: (code.Start - code.Bias) >> pageBits}
	before := ""
	for pc := code.Start; pc < code.End; pc++ {
		offset, function := uint16(pc&(1<<pageBits-1)), m.function(pc)
		if offset == 0 {
			t.Pages = append(t.Pages, unwind.Page{First: uint32(len(t.Rows))})
		} else if function == before {
			continue
		}
		before = function
		rule, ok := m.rules[function]
		if !ok {
			rule = unwind.Rule{CFA: unwind.CFAEnd}
		}
		t.Rows = append(t.Rows, unwind.Row{Offset: offset, Rule: uint16(len(t.Rules))})
		t.Rules = append(t.Rules, rule)
		t.Pages[len(t.Pages)-1].Count++
	}
	return t
}
