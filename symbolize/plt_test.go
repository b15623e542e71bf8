package symbolize

import (
	"debug/elf"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// stubAMD64 is a stub at addr that jumps by slot: prefix, jmp *slot(%rip), and filling up to size bytes.
func stubAMD64(addr, slot uint64, prefix string, size int) []byte {
	end := addr + uint64(len(prefix)) + 6
	code := put([]byte(prefix), [2]byte{0xff, 0x25}, int32(slot-end))
	for len(code) < size {
		code = append(code, 0x90)
	}
	return code
}

// rela is an Elf64_Rela.
func rela(slot uint64, symbol uint32, kind uint32, addend uint64) []byte {
	return put(nil, slot, kind, symbol, addend)
}

// stubImage makes an image with code in .plt and other sections from 0x2000 on, relocations, and the dynamic symbols
// puts, _Znwm and, at 0x1100 in this file, chosen.
func stubImage(machine elf.Machine, relocations []byte, code ...testSection) []byte {
	const class = elf.ELFCLASS64
	symbols := symbolSections(class, elf.SHT_DYNSYM, 2, []testSymbol{
		{"puts", 0, 0, elf.STB_GLOBAL, elf.STT_FUNC, 0},
		{"_Znwm", 0, 0, elf.STB_GLOBAL, elf.STT_FUNC, 0},
		{"chosen", 0x1100, 0x10, elf.STB_GLOBAL, elf.STT_GNU_IFUNC, 1},
		{"", 0, 0, elf.STB_GLOBAL, elf.STT_FUNC, 0},
	})
	sections := append([]testSection{text}, symbols...)
	sections = append(sections, testSection{name: ".rela.plt", typ: elf.SHT_RELA, flags: elf.SHF_ALLOC, data: relocations, link: 2})
	for _, s := range code {
		s.typ, s.flags = elf.SHT_PROGBITS, elf.SHF_ALLOC|elf.SHF_EXECINSTR
		sections = append(sections, s)
	}
	return makeELF(class, machine, sections...)
}

func stubsAMD64() []byte {
	const jump, data, relative = uint32(elf.R_X86_64_JMP_SLOT), uint32(elf.R_X86_64_GLOB_DAT), uint32(elf.R_X86_64_IRELATIVE)
	relocations := rela(0x5000, 1, jump, 0)
	for _, r := range [][]byte{
		rela(0x5008, 2, jump, 0), rela(0x5010, 0, relative, 0x1100), rela(0x5018, 1, data, 0),
		rela(0x5020, 4, jump, 0), rela(0x5028, 99, jump, 0), rela(0x5030, 0, relative, 0x1800), rela(0x5038, 2, 8, 0),
	} {
		relocations = append(relocations, r...)
	}
	head := append([]byte{0xff, 0x35, 0, 0, 0, 0}, stubAMD64(0x2006, 0x4ff8, "", 10)...) // to the dynamic linker
	lazy := append(head, stubAMD64(0x2010, 0x5000, "", 16)...)
	const pad = "\xf3\x0f\x1e\xfa"
	var second []byte
	for i, slot := range []uint64{0x5008, 0x5010, 0x5020, 0x5028, 0x5030, 0x5038, 0x6000} {
		prefix := pad
		if i%2 == 0 {
			prefix += "\xf2" // bnd
		}
		second = append(second, stubAMD64(0x3000+16*uint64(i), slot, prefix, 16)...)
	}
	short := append(stubAMD64(0x4000, 0x5018, "", 8), stubAMD64(0x4008, 0x5008, "", 8)...)
	return stubImage(elf.EM_X86_64, relocations, testSection{name: ".plt", addr: 0x2000, data: lazy},
		testSection{name: ".plt.sec", addr: 0x3000, data: second}, testSection{name: ".plt.got", addr: 0x4000, data: short})
}

func stubsARM64() []byte {
	// As the assembler makes them for slots at 0x11f98 and 0x1fa0; the second lies before its stub.
	code := put(nil, uint32(0xf0000070), uint32(0xf947ce11), uint32(0x913e6210), uint32(0xd61f0220),
		uint32(0xd503245f), uint32(0xf0fffff0), uint32(0xf947d211), uint32(0x913e8210), uint32(0xd61f0220), uint32(0xd503201f))
	relocations := append(rela(0x11f98, 1, uint32(elf.R_AARCH64_JUMP_SLOT), 0), rela(0x1fa0, 2, uint32(elf.R_AARCH64_JUMP_SLOT), 0)...)
	return stubImage(elf.EM_AARCH64, relocations, testSection{name: ".plt", addr: 0x2000, data: code})
}

// TestStubs names the stubs that linkers make, in their sections and forms.
func TestStubs(t *testing.T) {
	for _, tt := range []struct {
		name  string
		image []byte
		want  map[uint64]string
	}{
		{"amd64", stubsAMD64(), map[uint64]string{
			0x2000: "", 0x2006: "", 0x200f: "", // the first is the way to the dynamic linker
			0x2010: "puts@plt", 0x201f: "puts@plt", 0x2020: "",
			0x3000: "_Znwm@plt", 0x300f: "_Znwm@plt", 0x3010: "chosen@plt", 0x301f: "chosen@plt",
			0x3020: "", // a symbol without a name
			0x3030: "", // no such symbol
			0x3040: "", // chosen by code without a name
			0x3050: "", // a relocation of another kind
			0x3060: "", // none
			0x4000: "puts@plt", 0x4007: "puts@plt", 0x4008: "_Znwm@plt", 0x4010: "",
			0x1100: "chosen",
		}},
		{"arm64", stubsARM64(), map[uint64]string{
			0x2000: "puts@plt", 0x200f: "puts@plt", 0x2010: "_Znwm@plt", 0x2023: "_Znwm@plt", 0x2024: "",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := mustOpen(t, tt.image)
			for addr, want := range tt.want {
				if got := names(f, addr); got != want {
					t.Errorf("%#x: got %q, want %q", addr, got, want)
				}
			}
			if err := f.Err(); err != nil {
				t.Error(err)
			}
		})
	}
	want := Frame{Function: "operator new(unsigned long)@plt", SystemName: "_Znwm@plt", Source: Dynsym}
	if got := mustOpen(t, stubsAMD64()).Resolve(nil, 0x3000); len(got) != 1 || got[0] != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// objdumpStub is how objdump begins a stub: 0000000000003030 <free@plt>:
var objdumpStub = regexp.MustCompile(`(?m)^([0-9a-f]+) <(.*)@plt>:$`)

// TestStubsEqualObjdump holds that stubs of programs and libraries of this machine, and of libraries for arm64 if it has
// those, are named as objdump names them. Those that lead to a function that is chosen at the start have no names there;
// in libc all of them have one here.
func TestStubsEqualObjdump(t *testing.T) {
	libc := libc(t)
	for _, path := range []string{
		libc, firstThere(t, "/bin/bash"), firstThere(t, "/usr/bin/python3.*[0-9]"), firstThere(t, "/usr/lib/*-linux-gnu/libstdc++.so.6"),
		firstThere(t, "/usr/aarch64-linux-gnu/lib/libm.so.6"), firstThere(t, "/usr/aarch64-linux-gnu/lib/libstdc++.so.6"),
	} {
		if path != "" {
			t.Run(path, func(t *testing.T) { compareWithObjdump(t, path, path == libc) })
		}
	}
}

// compareWithObjdump compares the names of all stubs of a file. all is whether each of them has a name.
func compareWithObjdump(t *testing.T, path string, all bool) {
	tool := "objdump"
	if strings.Contains(path, "aarch64") {
		tool = "llvm-objdump-19" // that of binutils knows the machine that it is for
	}
	args := []string{"-d"}
	for _, name := range []string{".plt", ".plt.sec", ".plt.got"} {
		args = append(args, "-j", name)
	}
	out, err := exec.Command(tool, append(args, path)...).Output()
	if err != nil && len(out) == 0 {
		skip(t, fmt.Sprintf("%s does not run: %v", tool, err))
	}
	f := openFile(t, path)
	equal, chosen := 0, 0
	for _, m := range objdumpStub.FindAllStringSubmatch(string(out), -1) {
		addr, err := strconv.ParseUint(m[1], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		got, want := names(f, addr), m[2]+"@plt"
		switch {
		case !strings.HasPrefix(want, "*ABS*"):
			equal++
			if got != want {
				t.Errorf("%#x: got %q, want %q", addr, got, want)
			}
		case !strings.HasSuffix(got, "@plt") && all:
			t.Errorf("%#x: got %q, objdump has %q", addr, got, want)
		default:
			chosen++
		}
	}
	if equal == 0 {
		t.Errorf("no stubs in %d bytes of objdump's", len(out))
	}
	if err := f.Err(); err != nil {
		t.Error(err)
	}
	t.Logf("%d stubs, and %d of functions that are chosen", equal, chosen)
}
