package unwind

import (
	"bufio"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// buildGo builds the program of testdata/gostack.
func buildGo(t *testing.T, env []string, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gostack")
	args = append([]string{"build", "-o", path}, args...)
	cmd := exec.Command("go", append(args, ".")...)
	cmd.Dir = "testdata/gostack"
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return path
}

// TestGoStack walks the stack of a goroutine and compares with what the Go runtime says.
func TestGoStack(t *testing.T) {
	for _, mode := range []string{"exe", "pie"} {
		t.Run(mode, func(t *testing.T) {
			path := buildGo(t, nil, "-buildmode="+mode, "-ldflags=-s -w")
			cmd := exec.Command(path)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				cmd.Process.Kill()
				cmd.Wait()
			})
			line, err := bufio.NewReader(out).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			fields := strings.Fields(line)
			var want []uint64
			for _, f := range fields[1:] {
				pc, err := strconv.ParseUint(f, 0, 64)
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, pc)
			}
			got, err := walkGo(t, cmd.Process.Pid, fields[0], path)
			if !errors.Is(err, ErrEnd) || len(got) < len(want) {
				t.Fatalf("got %#x, %v\nwant %#x at the end", got, err, want)
			}
			// What is further in is the system call, which the program made later.
			if got = got[len(got)-len(want):]; !slices.Equal(got, want) {
				t.Errorf("got  %#x\nwant %#x", got, want)
			}
		})
	}
}

// walkGo walks the stack of a thread that is in a system call. Of its registers only the stack pointer is known.
func walkGo(t *testing.T, pid int, tid, path string) ([]uint64, error) {
	t.Helper()
	table := buildFile(t, path, Options{})
	regs := Registers{Exact: true}
	for deadline := time.Now().Add(10 * time.Second); ; {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/syscall", pid, tid))
		if err != nil {
			skip(t, err.Error())
		}
		fields := strings.Fields(string(b))
		if len(fields) == 9 && fields[0] == strconv.Itoa(unix.SYS_PPOLL) {
			sp, err1 := strconv.ParseUint(fields[7], 0, 64)
			pc, err2 := strconv.ParseUint(fields[8], 0, 64)
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			regs.set(table.Arch.SP(), sp)
			regs.PC = pc
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the program does not wait: %s", b)
		}
		time.Sleep(time.Millisecond)
	}
	bias := mappedAt(t, pid) - firstCode(t, path)
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	var pcs []uint64
	kept := 0
	for len(pcs) < 100 {
		pcs = append(pcs, regs.PC)
		next, err := table.Step(regs, bias, mem)
		if err != nil {
			if kept < 5 && table.Arch == AMD64 {
				t.Errorf("%d of %d frames are in code that keeps frame pointers", kept, len(pcs))
			}
			return pcs, err
		}
		if fp, ok := regs.get(table.Arch.FP()); ok && !regs.Exact && keeps(table, regs.Lookup()-bias) {
			kept++
			record := make([]byte, 16)
			if _, err := mem.ReadAt(record, int64(fp)); err != nil {
				t.Fatal(err)
			}
			le := binary.LittleEndian
			if le.Uint64(record) != next.R[table.Arch.FP()] || le.Uint64(record[8:]) != next.PC || next.R[table.Arch.SP()] != fp+16 {
				t.Errorf("at %#x the frame pointer is %#x, its record %#x; the rule says %+v", regs.PC, fp, record, next)
			}
		}
		regs = next
	}
	return pcs, errors.New("too deep")
}

// keeps reports whether Table.Kept has an address.
func keeps(table *Table, addr uint64) bool {
	return slices.ContainsFunc(table.Kept, func(s Span) bool { return s.Start <= addr && addr < s.End })
}

// TestGoKept looks at which functions count as such that keep frame pointers.
func TestGoKept(t *testing.T) {
	path := buildGo(t, []string{"GOARCH=amd64"}) // with symbols
	table := buildFile(t, path, Options{})
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{
		"main.recurse": true, "main.wait": true, "fmt.Fprintln": true, "runtime.mallocgc": true, "runtime.gcBgMarkWorker": true,
		"runtime.goexit.abi0": false, "runtime.mstart.abi0": false, "runtime.mcall": false, "runtime.systemstack.abi0": false,
		"runtime.morestack.abi0": false, "runtime.sigtramp.abi0": false, "runtime.sigpanic": false, "runtime.asyncPreempt.abi0": false,
	}
	size := uint64(0)
	for _, s := range symbols {
		if elf.ST_TYPE(s.Info) != elf.STT_FUNC {
			continue
		}
		kept := keeps(table, s.Value)
		if w, ok := want[s.Name]; ok && kept != w {
			t.Errorf("%s: %v, want %v", s.Name, kept, w)
		}
		delete(want, s.Name)
		if kept {
			size += s.Size
		}
	}
	if len(want) > 0 {
		t.Errorf("the program lacks %v", want)
	}
	if text := f.Section(".text").Size; size < text*4/5 || len(table.Kept) > 8 {
		t.Errorf("%d of %d bytes in %d pieces", size, text, len(table.Kept))
	}
}

// mappedAt returns where the first code of a process is.
func mappedAt(t *testing.T, pid int) uint64 {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		var start, end uint64
		var perm string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &start, &end, &perm); err != nil {
			t.Fatal(err)
		}
		if perm[2] == 'x' {
			return start
		}
	}
	t.Fatal("no code is mapped")
	return 0
}

// firstCode returns the address of a file's first executable segment, by pages.
func firstCode(t *testing.T, path string) uint64 {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, s := range f.Progs {
		if s.Type == elf.PT_LOAD && s.Flags&elf.PF_X != 0 {
			return s.Vaddr &^ (pageSize - 1)
		}
	}
	t.Fatalf("%s has no code", path)
	return 0
}

// compareWithDebugFrame compares the rules from the pclntab of a Go program with its .debug_frame, which has the CFA of the
// same rows, and does not say where the frame pointer is.
func compareWithDebugFrame(t *testing.T, path string) {
	t.Helper()
	table := buildFile(t, path, Options{})
	check(t, table)
	rows := dwarfdump(t, table.Arch, "--debug-frame", path)
	equal, roots, switches, popped := 0, 0, 0, 0
	for _, want := range rows {
		if want.end <= want.start {
			continue
		}
		for _, addr := range []uint64{want.start, want.end - 1} {
			r, ok := table.Find(addr)
			cfa, _, _ := strings.Cut(want.text, " ")
			switch got, _, _ := strings.Cut(describe(table.Arch, r), " "); {
			case !ok:
				t.Errorf("%#x: no rule", addr)
			case got == cfa:
				equal++
			case r == (Rule{}) && (cfa == "CFA=RSP" || strings.HasPrefix(cfa, "CFA=WSP-")):
				popped++ // assembly that pops more than it pushed, as vfork does with its return address
			case r.CFA == CFAEnd, r.CFA == CFASignal:
				roots++
			case r.CFA == CFAFramePointer:
				switches++
			default:
				t.Errorf("%#x: got %s, want %s", addr, got, cfa)
			}
		}
	}
	t.Logf("%d places: %d equal, %d in roots and restorers, %d in functions that switch stacks", 2*len(rows), equal, roots, switches)
	if roots == 0 || switches == 0 || roots+switches > equal/50 || popped > 8 {
		t.Error("too many or no functions are special")
	}
}

// goProgram returns a pclntab with functions of 0x20 bytes: a common one, a root, one that switches stacks, assembly
// with and without a prologue.
func goProgram() []byte {
	zigzag := func(n int8) byte { return byte(n)<<1 ^ byte(n>>7) }
	// Each table starts at -1: a delta of the value and one of the pc, up to a zero.
	pctab := []byte{0, zigzag(1), 1, zigzag(8), 3, zigzag(16), 20, zigzag(-24), 8, 0}
	const pcsp, funcSize, n = 1, 44, 5
	funcs := make([]byte, 0, 1024)
	for i := range uint32(n) {
		funcs = put(funcs, i*0x20, 8*n+4+i*funcSize)
	}
	funcs = put(funcs, uint32(n*0x20))
	for i, flags := range []byte{0, goTopFrame, goSPWrite, goAsm, goAsm} {
		record := put(nil, uint32(i*0x20), uint32(0), uint32(0), uint32(0), uint32(pcsp))
		record = append(record, make([]byte, funcSize-len(record))...)
		record[41] = flags
		funcs = append(funcs, record...)
	}
	names := "main.main\x00"
	const header = 72
	namesEnd := uint64(header + len(names))
	head := put(nil, uint32(magicGo120), uint16(0), byte(1), byte(8), uint64(n), uint64(1), uint64(testText),
		uint64(header), namesEnd, namesEnd, namesEnd, namesEnd+uint64(len(pctab)))
	return append(append(append(head, names...), pctab...), funcs...)
}

func TestGoFunctions(t *testing.T) {
	text := make([]byte, pageSize)
	copy(text[0x60:], []byte{0x55, 0x48, 0x89, 0xe5}) // push %rbp; mov %rsp, %rbp
	const want = `0x1000-0x1001 rsp+8 ra c-8
0x1001-0x1004 rsp+16 fp c-16 rbx lost ra c-8
0x1004-0x1018 rsp+32 fp c-16 rbx lost ra c-8
0x1018-0x1020 rsp+8 ra c-8
0x1020-0x1040 end
0x1060-0x1061 rsp+8 ra c-8
0x1061-0x1064 rsp+16 fp c-16 rbx lost ra c-8
0x1064-0x1078 rsp+32 fp c-16 rbx lost ra c-8
0x1078-0x1081 rsp+8 ra c-8
0x1081-0x1084 rsp+16 fp lost rbx lost ra c-8
0x1084-0x1098 rsp+32 fp lost rbx lost ra c-8
0x1098-0x10a0 rsp+8 ra c-8
`
	if got := lines(mustBuild(t, testFile{pclntab: goProgram(), text: text})); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	const wantARM64 = `0x1000-0x1001 sp+0
0x1001-0x1004 sp+8 fp *(sp-8) ra *(sp+0)
0x1004-0x1018 sp+24 fp *(sp-8) ra *(sp+0)
0x1018-0x1020 sp+0
0x1020-0x1040 end
`
	if got := lines(mustBuild(t, testFile{machine: elf.EM_AARCH64, pclntab: goProgram(), text: text})); !strings.HasPrefix(got, wantARM64) {
		t.Errorf("arm64: got\n%swant first\n%s", got, wantARM64)
	}
	// C code in a Go program keeps what .eh_frame says.
	var eh frameSection
	eh.addCIE("zR", initialAMD64...)
	eh.addFDE(0x1100, 0x20, cfaDefCFAOffset, 24)
	if got, want := lines(mustBuild(t, testFile{pclntab: goProgram(), text: text, ehFrame: eh.b})), want+"0x1100-0x1120 rsp+24 ra c-8\n"; got != want {
		t.Errorf("with C: got\n%swant\n%s", got, want)
	}
}

func TestGoEqualsDebugFrame(t *testing.T) {
	compareWithDebugFrame(t, buildGo(t, nil, "-ldflags=-compressdwarf=false"))
}

// TestGoDamaged has pclntabs of a Go program that end early or lie. Go's code then has frame pointers, or rules that
// are wrong, and nothing panics.
func TestGoDamaged(t *testing.T) {
	sound, err := os.ReadFile(buildGo(t, nil, "-ldflags=-s -w"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := readImage(bytes.NewReader(sound), int64(len(sound)))
	if err != nil {
		t.Fatal(err)
	}
	s := m.goSection()
	if s == nil {
		t.Fatal("no pclntab")
	}
	build := func(name string, b []byte) {
		table, err := Build(bytes.NewReader(b), int64(len(b)), Options{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		check(t, table)
		checkBounded(t, table, len(b))
	}
	const header = 72
	for i := range header * 3 {
		b := bytes.Clone(sound)
		b[s.off+uint64(i/3)] ^= []byte{0x01, 0x80, 0xff}[i%3]
		build(fmt.Sprintf("byte %d of the header", i/3), b)
	}
	random := rand.New(rand.NewPCG(3, 4))
	for i := range 100 {
		b := bytes.Clone(sound)
		for range 1000 {
			b[s.off+header+random.Uint64N(s.size-header)] = byte(random.Uint32())
		}
		build(fmt.Sprintf("mutant %d", i), b)
	}
}
