package unwind

import (
	"bytes"
	"compress/zlib"
	"debug/elf"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
)

// lines shows the ranges of a table, but for code without unwind information.
func lines(table *Table) string {
	var b strings.Builder
	for r := range table.Ranges() {
		if r.Rule.CFA == CFAFramePointer {
			continue
		}
		t := r.Rule.Text(table.Arch)
		fmt.Fprintf(&b, "%#x-%#x %s", r.Start, r.End, t.CFA)
		for _, s := range []struct{ name, place string }{{"fp", t.FP}, {"rbx", t.RBX}, {"ra", t.RA}} {
			if s.place != "" && s.place != "u" {
				fmt.Fprintf(&b, " %s %s", s.name, s.place)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// TestInstructions runs call frame instructions of one function of 0x40 bytes at 0x1000.
func TestInstructions(t *testing.T) {
	const (
		advance = cfaAdvanceLoc << 6
		offset  = cfaOffset << 6
		restore = cfaRestore << 6
		// operations of expressions
		breg = opBreg0
		sp   = breg + amd64RSP
		fp   = breg + amd64RBP
	)
	plt := []byte{sp, 8, breg + amd64RIP, 0, opLit0 + 15, opAnd, opLit0 + 11, opGe, opLit0 + 3, opShl, opPlus}
	for _, test := range []struct {
		name         string
		instructions []byte
		want         string
	}{
		{"none", nil, `
			0x1000-0x1040 rsp+8 ra c-8`},
		{"push, frame pointer, leave", []byte{
			advance | 1, cfaDefCFAOffset, 16, offset | amd64RBP, 2,
			advance | 3, cfaDefCFARegister, amd64RBP,
			advance | 20, cfaDefCFA, amd64RSP, 8, restore | amd64RBP}, `
			0x1000-0x1001 rsp+8 ra c-8
			0x1001-0x1004 rsp+16 fp c-16 ra c-8
			0x1004-0x1018 rbp+16 fp c-16 ra c-8
			0x1018-0x1040 rsp+8 ra c-8`},
		{"remember and restore", []byte{
			advance | 1, cfaDefCFAOffset, 16, offset | amd64RBX, 2,
			advance | 7, cfaRememberState, cfaDefCFAOffset, 8, restore | amd64RBX,
			advance | 1, cfaRestoreState}, `
			0x1000-0x1001 rsp+8 ra c-8
			0x1001-0x1008 rsp+16 rbx c-16 ra c-8
			0x1008-0x1009 rsp+8 ra c-8
			0x1009-0x1040 rsp+16 rbx c-16 ra c-8`},
		{"all widths of advance", []byte{
			cfaAdvanceLoc1, 1, cfaDefCFAOffset, 16,
			cfaAdvanceLoc2, 1, 0, cfaDefCFAOffset, 24,
			cfaAdvanceLoc4, 1, 0, 0, 0, cfaDefCFAOffset, 32,
			cfaSetLoc, 0x10, 0x10, 0, 0, 0, 0, 0, 0, cfaDefCFAOffset, 40}, `
			0x1000-0x1001 rsp+8 ra c-8
			0x1001-0x1002 rsp+16 ra c-8
			0x1002-0x1003 rsp+24 ra c-8
			0x1003-0x1010 rsp+32 ra c-8
			0x1010-0x1040 rsp+40 ra c-8`},
		{"advance past the end", []byte{advance | 0x3f, cfaDefCFAOffset, 16, advance | 1, cfaDefCFAOffset, 24}, `
			0x1000-0x103f rsp+8 ra c-8
			0x103f-0x1040 rsp+16 ra c-8`},
		{"a change that is taken back in place", []byte{cfaDefCFAOffset, 16, cfaDefCFAOffset, 8, advance | 1, cfaDefCFAOffset, 8}, `
			0x1000-0x1040 rsp+8 ra c-8`},
		{"factored and negative offsets", []byte{
			cfaDefCFASF, amd64RBP, 0x7e, // -2 * -8
			advance | 1, cfaDefCFAOffsetSF, 0x7d,
			advance | 1, cfaOffsetExtendedSF, amd64RBX, 0x7f,
			advance | 1, cfaOffsetExtended, amd64RBP, 3,
			advance | 1, cfaGNUNegOffsetExtend, amd64RBP, 1, cfaRestoreExtended, amd64RBX}, `
			0x1000-0x1001 rbp+16 ra c-8
			0x1001-0x1002 rbp+24 ra c-8
			0x1002-0x1003 rbp+24 rbx c+8 ra c-8
			0x1003-0x1004 rbp+24 fp c-24 rbx c+8 ra c-8
			0x1004-0x1040 rbp+24 fp c+8 ra c-8`},
		{"undefined return address", []byte{cfaUndefined, amd64RIP}, `
			0x1000-0x1040 end`},
		{"return address in a register", []byte{cfaDefCFAOffset, 0, cfaRegister, amd64RIP, 5}, `
			0x1000-0x1040 rsp+0 ra rdi`},
		{"plt", append([]byte{cfaDefCFAExpression, byte(len(plt))}, plt...), `
			0x1000-0x1040 rsp+8 or +16 from byte 11 of 16 ra c-8`},
		{"gcc's aligned frame", []byte{
			cfaDefCFA, 10, 0,
			advance | 4, cfaExpression, amd64RBP, 2, fp, 0,
			advance | 4, cfaDefCFAExpression, 3, fp, 0x78, opDeref,
			cfaExpression, amd64RBX, 2, fp, 0x70,
			advance | 8, cfaDefCFA, 10, 0,
			advance | 4, cfaDefCFA, amd64RSP, 8}, `
			0x1000-0x1004 r10+0 ra c-8
			0x1004-0x1008 r10+0 fp *(rbp+0) ra c-8
			0x1008-0x1010 *(rbp-8) fp *(rbp+0) rbx *(rbp-16) ra c-8
			0x1010-0x1014 r10+0 fp *(rbp+0) rbx *(rbp-16) ra c-8
			0x1014-0x1040 rsp+8 ra c-8`},
		{"libcrypto", []byte{
			cfaDefCFAExpression, 6, sp, 0x98, 1, opDeref, opPlusUconst, 8,
			advance | 4, cfaDefCFAExpression, 10, sp, 8, breg + 9, 0, opLit0 + 8, opMul, opPlus, opDeref, opPlusUconst, 8}, `
			0x1000-0x1004 *(rsp+152)+8 ra c-8
			0x1004-0x1040 *(rsp+8+8*r9)+8 ra c-8`},
		{"expression of a register alone", []byte{cfaDefCFAExpression, 2, fp, 16}, `
			0x1000-0x1040 rbp+16 ra c-8`},
		{"expression that no rule can say", []byte{cfaDefCFAExpression, 3, sp, 8, opShl}, `
			0x1000-0x1040 unsupported`},
		{"value of a register", []byte{
			cfaValExpression, amd64RBX, 2, fp, 0,
			advance | 1, cfaValExpression, amd64RSP, 2, fp, 0,
			advance | 1, cfaValOffset, amd64RSP, 0}, `
			0x1000-0x1001 rsp+8 rbx lost ra c-8
			0x1001-0x1002 unsupported
			0x1002-0x1040 rsp+8 rbx lost ra c-8`},
		{"unaligned and far places", []byte{
			cfaExpression, amd64RBP, 2, sp, 4, cfaExpression, amd64RBX, 4, sp, 0x80, 0x80, 0x20}, `
			0x1000-0x1040 rsp+8 fp lost rbx lost ra c-8`},
		{"other registers, argument size, signed return addresses", []byte{
			offset | 12, 3, cfaSameValue, 13, cfaUndefined, 14, cfaGNUArgsSize, 16, cfaNegateRAState}, `
			0x1000-0x1040 rsp+8 ra c-8`},
		{"unknown instruction", []byte{advance | 8, cfaDefCFAOffset, 16, 0x3e, advance | 1}, `
			0x1000-0x1008 rsp+8 ra c-8
			0x1008-0x1040 unsupported`},
		{"restore of what was not remembered", []byte{advance | 8, cfaRestoreState}, `
			0x1000-0x1008 rsp+8 ra c-8
			0x1008-0x1040 unsupported`},
		{"backwards", []byte{advance | 8, cfaSetLoc, 0, 0x10, 0, 0, 0, 0, 0, 0}, `
			0x1000-0x1008 rsp+8 ra c-8
			0x1008-0x1040 unsupported`},
		{"remembered without end", bytes.Repeat([]byte{cfaRememberState}, 1000), `
			0x1000-0x1040 unsupported`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var eh frameSection
			eh.addCIE("zR", initialAMD64...)
			eh.addFDE(testText, 0x40, test.instructions...)
			want := strings.ReplaceAll(strings.TrimPrefix(test.want, "\n"), "\t", "") + "\n"
			if got := lines(mustBuild(t, testFile{ehFrame: eh.b})); got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
			if got := lines(mustBuild(t, testFile{ehFrame: eh.b, noSections: true})); got != want {
				t.Errorf("without sections: got\n%swant\n%s", got, want)
			}
		})
	}
}

// TestInstructionsARM64 has the prologue and the epilogue of a function that signs its return address.
func TestInstructionsARM64(t *testing.T) {
	var eh frameSection
	eh.addCIEFor("zR", 4, arm64LR, []byte{cfaDefCFA, arm64SP, 0})
	eh.addFDE(testText, 0x40,
		cfaAdvanceLoc<<6|1, cfaNegateRAState,
		cfaAdvanceLoc<<6|1, cfaDefCFAOffset, 32, cfaOffset<<6|arm64FP, 4, cfaOffset<<6|arm64LR, 3,
		cfaAdvanceLoc<<6|10, cfaRestore<<6|arm64LR, cfaRestore<<6|arm64FP, cfaDefCFAOffset, 0,
		cfaAdvanceLoc<<6|1, cfaNegateRAState)
	want := "0x1000-0x1008 sp+0\n0x1008-0x1030 sp+32 fp c-32 ra c-24\n0x1030-0x1040 sp+0\n"
	if got := lines(mustBuild(t, testFile{machine: elf.EM_AARCH64, ehFrame: eh.b})); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// TestRanges has functions that touch, overlap, leave gaps, lie outside of the code and reach past its end.
func TestRanges(t *testing.T) {
	var eh frameSection
	eh.addCIE("zR", initialAMD64...)
	eh.addFDE(0x1800, 0x10000, cfaDefCFAOffset, 80) // to the end of the code
	eh.addFDE(0x1100, 0x100, cfaDefCFAOffset, 24)
	eh.addFDE(0x1010, 0x10, cfaDefCFAOffset, 16)
	eh.addFDE(0x1180, 0x40, cfaDefCFAOffset, 32)
	eh.addFDE(0, 0x10, cfaDefCFAOffset, 40) // thrown away by the linker
	eh.addFDE(0x9000000, 0x10, cfaDefCFAOffset, 48)
	eh.addCIE("zQ", initialAMD64...) // unknown letter: nothing of its FDEs is known
	eh.addFDE(0x1400, 0x10, cfaDefCFAOffset, 56)
	table := mustBuild(t, testFile{ehFrame: eh.b, text: make([]byte, 3*pageSize+5)})
	want := `0x1010-0x1020 rsp+16 ra c-8
0x1100-0x1180 rsp+24 ra c-8
0x1180-0x11c0 rsp+32 ra c-8
0x1800-0x4005 rsp+80 ra c-8
`
	if got := lines(table); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	for addr, want := range map[uint64]bool{0xfff: false, 0x1000: true, 0x4004: true, 0x4fff: true, 0x5000: false, 0: false, ^uint64(0): false} {
		if _, ok := table.Find(addr); ok != want {
			t.Errorf("%#x: found is %t", addr, ok)
		}
	}
	if rule, _ := table.Find(0x1000); rule.CFA != CFAFramePointer {
		t.Errorf("a gap has %+v", rule)
	}
	// Two pages are the middle of the last function.
	if table.Pages[1] != table.Pages[2] {
		t.Errorf("pages with the same rows do not share them: %+v", table.Pages)
	}
}

// TestShortGaps has padding after functions of several kinds, code between two of them, and a program's entry that nothing describes.
func TestShortGaps(t *testing.T) {
	var eh frameSection
	eh.addCIE("zR", initialAMD64...)
	eh.addFDE(0x1001, 0xf, cfaDefCFAOffset, 16)                          // the segment begins before it
	eh.addFDE(0x1020, 0x11, cfaDefCFAOffset, 24)                         // padded to 32 bytes
	eh.addFDE(0x1040, 0x21, cfaUndefined, amd64RIP)                      // an entry: what follows is another function
	eh.addFDE(0x1080, 0x20, cfaDefCFAExpression, 2, opBreg0+9, 8)        // a register and an offset too
	eh.addFDE(0x10b0, 0x10, cfaDefCFAExpression, 3, opBreg0, 8, opDeref) // not so
	eh.addFDE(0x10d0, 0x10)
	eh.addFDE(0x1100, 0x10)
	eh.addFDE(0x1800, 0x7f0)
	want := `0x1001-0x1020 rsp+16 ra c-8
0x1020-0x1040 rsp+24 ra c-8
0x1040-0x1061 end
0x1080-0x10b0 r9+8 ra c-8
0x10b0-0x10c0 *(rax+8) ra c-8
0x10d0-0x10e0 rsp+8 ra c-8
0x1100-0x1110 rsp+8 ra c-8
0x1200-0x1220 end
0x1800-0x2000 rsp+8 ra c-8
`
	if got := lines(mustBuild(t, testFile{ehFrame: eh.b, entry: 0x1200})); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	// Of the entry's code only what is not described is the entry.
	want = strings.Replace(want, "0x1200-0x1220 end\n", "", 1)
	if got := lines(mustBuild(t, testFile{ehFrame: eh.b, entry: 0x1108})); got != want {
		t.Errorf("with an entry that is described: got\n%swant\n%s", got, want)
	}
	want = strings.Replace(want, "0x1800", "0x17f8-0x1800 end\n0x1800", 1)
	if got := lines(mustBuild(t, testFile{ehFrame: eh.b, entry: 0x17f8})); got != want {
		t.Errorf("with an entry before a function: got\n%swant\n%s", got, want)
	}
}

// TestDebugFrame has .debug_frame in the file, compressed, and in a file beside it.
func TestDebugFrame(t *testing.T) {
	eh, debug := frameSection{}, frameSection{debug: true}
	eh.addCIE("zR", initialAMD64...)
	eh.addFDE(0x1100, 0x100, cfaDefCFAOffset, 16)
	debug.addCIE("", initialAMD64...)
	debug.addFDE(0x1000, 0x180, cfaDefCFAOffset, 24) // the end is what .eh_frame has
	debug.addFDE(0x1140, 0x20, cfaDefCFAOffset, 32)  // .eh_frame has it
	debug.addFDE(0x1200, 0x20, cfaDefCFAOffset, 40)
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	if _, err := w.Write(debug.b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	chdr := put(nil, elf.Chdr64{Type: uint32(elf.COMPRESS_ZLIB), Size: uint64(len(debug.b)), Addralign: 8})
	const ehOnly = "0x1100-0x1200 rsp+16 ra c-8\n"
	const want = "0x1000-0x1100 rsp+24 ra c-8\n" + ehOnly + "0x1200-0x1220 rsp+40 ra c-8\n"
	if got := lines(mustBuild(t, testFile{ehFrame: eh.b, debugFrame: debug.b})); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := lines(mustBuild(t, testFile{ehFrame: eh.b, debugFrame: append(chdr, z.Bytes()...), compressed: true})); got != want {
		t.Errorf("compressed: got\n%swant\n%s", got, want)
	}
	if got := lines(mustBuild(t, testFile{ehFrame: eh.b, debugFrame: debug.b, pclntab: []byte{}})); got != ehOnly {
		t.Errorf("of a Go program: got\n%swant\n%s", got, ehOnly)
	}
	program, beside := testFile{ehFrame: eh.b}.image(), testFile{debugFrame: debug.b}.image()
	table, err := Build(bytes.NewReader(program), int64(len(program)), Options{Debug: bytes.NewReader(beside), DebugSize: int64(len(beside))})
	if err != nil {
		t.Fatal(err)
	}
	if got := lines(table); got != want {
		t.Errorf("file beside: got\n%swant\n%s", got, want)
	}
	other := testFile{debugFrame: debug.b, machine: elf.EM_AARCH64}.image()
	_, err = Build(bytes.NewReader(program), int64(len(program)), Options{Debug: bytes.NewReader(other), DebugSize: int64(len(other))})
	if err == nil || !strings.Contains(err.Error(), "debug file: is for arm64, the program for amd64") {
		t.Errorf("file of another processor: %v", err)
	}
	// A bomb: the header claims what the limits forbid. It costs itself, and .eh_frame nothing.
	chdr = put(nil, elf.Chdr64{Type: uint32(elf.COMPRESS_ZLIB), Size: 1 << 30})
	bomb := testFile{ehFrame: eh.b, debugFrame: append(chdr, z.Bytes()...), compressed: true}
	if got := lines(mustBuild(t, bomb)); got != ehOnly {
		t.Errorf("1 GiB of .debug_frame: got\n%swant\n%s", got, ehOnly)
	}
	b := bomb.image()
	_, err = Build(bytes.NewReader(program), int64(len(program)), Options{Debug: bytes.NewReader(b), DebugSize: int64(len(b))})
	if err == nil || !strings.Contains(err.Error(), "debug file: .debug_frame: 1073741824 bytes compressed to") {
		t.Errorf("1 GiB of .debug_frame beside: %v", err)
	}
}

// TestRestorers has the code of musl's __restore_rt where nothing describes it, where an FDE describes it as a common
// function, and across what is read at a time.
func TestRestorers(t *testing.T) {
	for _, machine := range []elf.Machine{elf.EM_X86_64, elf.EM_AARCH64} {
		t.Run(machine.String(), func(t *testing.T) {
			arch, block := AMD64, "rsp+40"
			if machine == elf.EM_AARCH64 {
				arch, block = ARM64, "sp+312"
			}
			code := restorerOf(arch).code
			text := make([]byte, 1<<20)
			var eh frameSection
			ra := registersOf(arch).ra
			eh.addCIEFor("zR", 1, ra, []byte{cfaDefCFA, arch.SP(), 8, cfaOffset<<6 | ra, 1})
			at := []int{0x100, 0x200, 0x600, 256<<10 - 4, len(text) - len(code)}
			for _, off := range at {
				copy(text[off:], code)
			}
			eh.addFDE(testText+0x1ff, uint64(len(code))+1)
			eh.addFDE(testText+0x500, 0x200) // in the middle of a function it is none
			var want strings.Builder
			for i, off := range at {
				if i == 2 {
					fmt.Fprintf(&want, "%#x-%#x %s+8 ra c-8\n", testText+0x500, testText+0x700, arch.RegisterName(arch.SP()))
					continue
				}
				fmt.Fprintf(&want, "%#x-%#x signal, registers at %s\n", testText+off-1, testText+off+len(code), block)
			}
			if got := lines(mustBuild(t, testFile{machine: machine, ehFrame: eh.b, text: text})); got != want.String() {
				t.Errorf("got\n%swant\n%s", got, want.String())
			}
		})
	}
}

// TestStubs has a procedure linkage table with and without an FDE.
func TestStubs(t *testing.T) {
	if got, want := lines(mustBuild(t, testFile{plt: true})), "0x1fc0-0x2000 rsp+8 ra c-8\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got, want := lines(mustBuild(t, testFile{plt: true, machine: elf.EM_AARCH64})), "0x1fc0-0x2000 sp+0\n"; got != want {
		t.Errorf("arm64: got\n%swant\n%s", got, want)
	}
	var eh frameSection
	eh.addCIE("zR", initialAMD64...)
	eh.addFDE(0x1fb0, 0x20, cfaDefCFAOffset, 16)
	if got, want := lines(mustBuild(t, testFile{plt: true, ehFrame: eh.b})), "0x1fb0-0x1fd0 rsp+16 ra c-8\n"; got != want {
		t.Errorf("described: got\n%swant\n%s", got, want)
	}
}

// TestWithoutSections builds a library whose section table is cut off, as packers do.
func TestWithoutSections(t *testing.T) {
	path := firstThere(t, "/lib/*-linux-gnu/libc.so.6", "/lib64/libc.so.6")
	if path == "" {
		skip(t, "no glibc on this machine")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copy(b[40:48], make([]byte, 8)) // where the section table is
	copy(b[58:64], make([]byte, 6)) // its size, and where names are
	got, err := Build(bytes.NewReader(b), int64(len(b)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	check(t, got)
	ranges := 0
	for r := range buildFile(t, path, Options{}).Ranges() {
		ranges++
		if rule, ok := got.Find(r.Start); !ok || rule != r.Rule {
			t.Fatalf("%#x: %+v, with sections %+v", r.Start, rule, r.Rule)
		}
	}
	if ranges < 1000 {
		t.Errorf("%d ranges", ranges)
	}
}

func TestBuildErrors(t *testing.T) {
	var eh frameSection
	eh.addCIE("zR", initialAMD64...)
	eh.addFDE(testText, 0x40)
	sound := testFile{ehFrame: eh.b}.image()
	edit := func(off int, b ...byte) []byte {
		c := slices.Clone(sound)
		copy(c[off:], b)
		return c
	}
	for _, test := range []struct {
		name string
		file []byte
		want string
	}{
		{"empty", nil, "not an ELF file"},
		{"text", []byte("#!/bin/sh\necho a script of some length that is not ELF at all\n"), "not an ELF file"},
		{"cut", sound[:40], "file ends after 40 bytes"},
		{"32-bit", edit(elf.EI_CLASS, byte(elf.ELFCLASS32)), "not a 64-bit"},
		{"big-endian", edit(elf.EI_DATA, byte(elf.ELFDATA2MSB)), "not a 64-bit"},
		{"machine", edit(18, byte(elf.EM_S390)), "machine EM_S390 has no tables"},
		{"program headers past the end", edit(32, 0, 0, 0, 1), "program headers"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Build(bytes.NewReader(test.file), int64(len(test.file)), Options{})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	if _, err := Build(bytes.NewReader(nil), 0, Options{}); !errors.Is(err, ErrNotELF) {
		t.Errorf("got %v, want ErrNotELF", err)
	}
}

// TestLimits has what would make work grow with the square of the file, or tables without end.
func TestLimits(t *testing.T) {
	var eh frameSection
	eh.addCIE("zR", append(slices.Clone(initialAMD64), make([]byte, maxCIE)...)...)
	eh.addFDE(testText, 0x40)
	if got := lines(mustBuild(t, testFile{ehFrame: eh.b})); got != "" {
		t.Errorf("a CIE of more than %d bytes is read: %s", maxCIE, got)
	}
	for n, short := range map[int]bool{1: false, 10: false, maxLEB: false, maxLEB + 1: true} {
		b := append(bytes.Repeat([]byte{0x80}, n-1), 0)
		unsigned, signed := reader{data: b}, reader{data: b}
		if u, s := unsigned.uleb(), signed.sleb(); u != 0 || s != 0 || unsigned.short != short || signed.short != short {
			t.Errorf("number of %d bytes: %d, %d, short is %t, %t", n, u, s, unsigned.short, signed.short)
		}
	}
	w := newRowWriter(AMD64, []segment{{addr: testText, size: pageSize}}, 0)
	w.added = maxRows - 1
	if w.add(testText, 1); w.full() {
		t.Error("full with as many rows as there may be")
	}
	if w.add(testText+1, 2); !w.full() {
		t.Error("not full with one row more")
	}
}

func TestLEB128(t *testing.T) {
	for _, test := range []struct {
		b        []byte
		unsigned uint64
		signed   int64
	}{
		{[]byte{0x00}, 0, 0},
		{[]byte{0x3f}, 63, 63},
		{[]byte{0x40}, 64, -64},
		{[]byte{0x7f}, 127, -1},
		{[]byte{0x80, 0x01}, 128, 128},
		{[]byte{0xff, 0x7e}, 16255, -129},
		{[]byte{0xff, 0x80, 0x00}, 127, 127},
		{[]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, math.MaxUint64, -1},
		{[]byte{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f}, 1 << 63, math.MinInt64},
	} {
		unsigned, signed := reader{data: test.b}, reader{data: test.b}
		if u, s := unsigned.uleb(), signed.sleb(); u != test.unsigned || s != test.signed || unsigned.short || signed.pos != len(test.b) {
			t.Errorf("%x: got %d and %d, want %d and %d", test.b, u, s, test.unsigned, test.signed)
		}
	}
}

// TestTableOfNothing builds a file without code.
func TestTableOfNothing(t *testing.T) {
	b := testFile{}.image()
	b[56] = 0 // program headers
	table, err := Build(bytes.NewReader(b), int64(len(b)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := table.Find(testText); ok || table.Bytes() != 0 {
		t.Errorf("found a rule in %+v", table)
	}
}

// TestVDSO builds the image that the kernel gave this process. The vDSO has no .eh_frame for each of its
// functions, but for those at all.
func TestVDSO(t *testing.T) {
	image := vdso(t)
	table, err := Build(bytes.NewReader(image), int64(len(image)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	check(t, table)
	if !strings.Contains(lines(table), "ra ") {
		t.Errorf("no function has a rule:\n%s", lines(table))
	}
}

// vdso returns the image of this process's vDSO.
func vdso(t testing.TB) []byte {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		var start, end int64
		if !strings.HasSuffix(line, "[vdso]\n") {
			continue
		}
		if _, err := fmt.Sscanf(line, "%x-%x", &start, &end); err != nil {
			t.Fatal(err)
		}
		mem, err := os.Open("/proc/self/mem")
		if err != nil {
			t.Fatal(err)
		}
		defer mem.Close()
		b := make([]byte, end-start)
		if _, err := mem.ReadAt(b, start); err != nil {
			t.Fatal(err)
		}
		return b
	}
	skip(t, "this process has no vDSO")
	return nil
}
