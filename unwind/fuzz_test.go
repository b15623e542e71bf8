package unwind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"testing"
)

// seeds returns files with all that the fuzzer should find its way from.
func seeds(t testing.TB) [][]byte {
	eh, debug := frameSection{}, frameSection{debug: true}
	eh.addCIE("zRS", initialAMD64...)
	eh.addFDE(testText, 0x40,
		cfaAdvanceLoc<<6|1, cfaDefCFAOffset, 16, cfaOffset<<6|amd64RBP, 2, cfaRememberState,
		cfaAdvanceLoc1, 3, cfaDefCFAExpression, 5, opBreg0+amd64RSP, 8, opDeref, opPlusUconst, 8, cfaExpression, amd64RBP, 2, opBreg0+amd64RBP, 0,
		cfaAdvanceLoc2, 1, 0, cfaRestoreState, cfaAdvanceLoc4, 1, 0, 0, 0, cfaUndefined, amd64RIP)
	debug.addCIE("", initialAMD64...)
	debug.addFDE(testText+0x100, 0x40, cfaDefCFASF, amd64RSP, 0x7e)
	return [][]byte{
		testFile{ehFrame: eh.b, debugFrame: debug.b}.image(),
		testFile{ehFrame: eh.b, noSections: true}.image(),
		testFile{machine: elf.EM_AARCH64, ehFrame: eh.b}.image(),
		testFile{pclntab: goProgram()}.image(),
		testFile{text: restorerOf(AMD64).code}.image(),
	}
}

// checkBounded fails the test if a table is larger than the file it was made of allows: a row for each byte of
// instructions, and a page for each 4 KiB of code and of what is between two segments.
func checkBounded(t testing.TB, table *Table, size int) {
	t.Helper()
	if len(table.Rows) > size+64 || len(table.Pages) > maxText/pageSize+1 {
		t.Fatalf("%d rows and %d pages of a file of %d bytes", len(table.Rows), len(table.Pages), size)
	}
}

// FuzzBuild builds the table of what may be an ELF file.
func FuzzBuild(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		table, err := Build(bytes.NewReader(b), int64(len(b)), Options{Debug: bytes.NewReader(b), DebugSize: int64(len(b))})
		if err != nil {
			return
		}
		check(t, table)
		checkBounded(t, table, len(b))
		again, err := ReadTable(encode(t, table))
		if err != nil {
			t.Fatal(err)
		}
		check(t, again)
	})
}

// FuzzReadTable reads what may be a table. The checksum is set right, as no fuzzer would.
func FuzzReadTable(f *testing.F) {
	f.Add(encode(f, smallTable(f)))
	f.Add(encode(f, &Table{Arch: ARM64}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 4 {
			b = sum(bytes.Clone(b))
		}
		table, err := ReadTable(b)
		if err != nil {
			if !errors.Is(err, ErrTableDamaged) && !errors.Is(err, ErrTableVersion) {
				t.Fatal(err)
			}
			return
		}
		check(t, table)
		if n := 4*cap(table.Rows) + 8*len(table.Pages); n > 10*len(b) {
			t.Fatalf("%d bytes held for %d", n, len(b))
		}
	})
}

// FuzzStep walks a stack of any content with any rule, up to a number of frames.
func FuzzStep(f *testing.F) {
	f.Add(make([]byte, 16), uint64(0x7000), uint64(0x7010), uint32(1<<16-1), bytes.Repeat([]byte{0, 0x70, 0, 0, 0, 0, 0, 0}, 64))
	f.Add([]byte{16, 0, 0, 0, 0xfe, 0xff, 0xfd, 0xff, 0xff, 0xff, 1, 7, 0, 1, 1, 1}, uint64(0x7000), uint64(0x7010), uint32(1<<7), make([]byte, 512))
	f.Add([]byte{40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0}, ^uint64(0), ^uint64(0), ^uint32(0), make([]byte, 512))
	f.Fuzz(func(t *testing.T, b []byte, sp, fp uint64, known uint32, stack []byte) {
		if len(b) < ruleSize {
			return
		}
		le := binary.LittleEndian
		rule := Rule{
			CFAOff: int32(le.Uint32(b)), FPOff: int16(le.Uint16(b[4:])), RBXOff: int16(le.Uint16(b[6:])), RAOff: int16(le.Uint16(b[8:])),
			CFA: CFAKind(b[10]), CFAReg: b[11], CFAAdd: int8(b[12]), FP: SaveKind(b[13]), RBX: SaveKind(b[14]), RA: SaveKind(b[15]),
		}
		for _, arch := range []Arch{AMD64, ARM64} {
			regs := Registers{PC: 1, Known: known, Exact: true}
			regs.R[arch.SP()], regs.R[arch.FP()] = sp, fp
			for range 64 {
				next, err := rule.Step(arch, regs, bytes.NewReader(stack))
				if err != nil {
					if next != (Registers{}) {
						t.Fatalf("%v, and registers %+v", err, next)
					}
					if !errors.Is(err, ErrEnd) && !errors.Is(err, ErrBadRule) && !errors.Is(err, ErrUnreadable) {
						t.Fatal(err)
					}
					break
				}
				if _, ok := next.get(arch.SP()); !ok || next.PC == 0 {
					t.Fatalf("a frame without stack pointer or program counter: %+v", next)
				}
				regs = next
			}
		}
	})
}

// TestMutants builds tables of a real library with damage: bits flipped in its unwind information and headers, pieces
// overwritten, the file cut off. Nothing panics, and no table exceeds its bound.
func TestMutants(t *testing.T) {
	path := firstThere(t, "/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
	if path == "" {
		skip(t, "no glibc on this machine")
	}
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := readImage(bytes.NewReader(sound), int64(len(sound)))
	if err != nil {
		t.Fatal(err)
	}
	s := m.section(".eh_frame")
	if s == nil {
		t.Fatalf("%s has no .eh_frame", path)
	}
	const mutants = 3000
	random := rand.New(rand.NewPCG(1, 2))
	built := 0
	for i := range mutants {
		b := bytes.Clone(sound)
		from, size := s.off, s.size
		if i%3 == 0 { // the headers, and the sections' at the end
			from, size = 0, 1024
			if i%2 == 0 {
				from = uint64(len(b) - 2048)
			}
		}
		for range 1 + random.IntN(16) {
			at := from + random.Uint64N(size)
			switch random.IntN(3) {
			case 0:
				b[at] ^= 1 << random.IntN(8)
			case 1:
				b[at] = byte(random.Uint32())
			default:
				for j := at; j < min(at+8, uint64(len(b))); j++ {
					b[j] = 0xff
				}
			}
		}
		if i%5 == 0 {
			b = b[:random.IntN(len(b))]
		}
		table, err := Build(bytes.NewReader(b), int64(len(b)), Options{})
		if err != nil {
			continue
		}
		built++
		check(t, table)
		checkBounded(t, table, len(b))
	}
	t.Logf("%d of %d mutants had a table", built, mutants)
	if built < mutants/4 {
		t.Errorf("only %d of %d mutants had a table", built, mutants)
	}
}
