//go:build linux && amd64

package unwind

import (
	"bufio"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// tracee is a program that is stepped.
type tracee struct {
	t      *testing.T
	pid    int
	mem    *os.File
	codes  []mappedCode
	signal unix.Signal // to be delivered with the next step
}

// mappedCode is code of a file in the program's memory.
type mappedCode struct {
	start, end, bias uint64
	table            *Table
	name             string
}

// startTraced starts a program and stops it at its first instruction. All calls for it have to come from one thread.
func startTraced(t *testing.T, path string, env ...string) *tracee {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	cmd := exec.Command(path)
	cmd.Env = env
	cmd.SysProcAttr = &unix.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		skip(t, fmt.Sprintf("ptrace: %v", err))
	}
	p := &tracee{t: t, pid: cmd.Process.Pid}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	p.wait()
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", p.pid), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mem.Close() })
	p.mem = mem
	return p
}

// wait waits until the program stops. It returns the signal that stopped it, or 0 if the program has ended.
func (p *tracee) wait() unix.Signal {
	p.t.Helper()
	var status unix.WaitStatus
	if _, err := unix.Wait4(p.pid, &status, 0, nil); err != nil {
		p.t.Fatal(err)
	}
	if !status.Stopped() {
		return 0
	}
	return status.StopSignal()
}

// step executes an instruction, or enters the handler of the signal that stopped the program before. It reports false if
// the program has ended.
func (p *tracee) step() bool {
	p.t.Helper()
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SINGLESTEP, uintptr(p.pid), 0, uintptr(p.signal), 0, 0)
	if errno != 0 {
		p.t.Fatal(errno)
	}
	stop := p.wait()
	p.signal = 0
	if stop != unix.SIGTRAP {
		p.signal = stop
	}
	return stop != 0
}

// word reads the program's memory.
func (p *tracee) word(addr uint64) uint64 {
	p.t.Helper()
	var b [8]byte
	if _, err := p.mem.ReadAt(b[:], int64(addr)); err != nil {
		p.t.Fatal(err)
	}
	return binary.LittleEndian.Uint64(b[:])
}

// runTo runs the program to an address.
func (p *tracee) runTo(pc uint64) {
	p.t.Helper()
	var saved [1]byte
	if _, err := p.mem.ReadAt(saved[:], int64(pc)); err != nil {
		p.t.Fatal(err)
	}
	const breakpoint = 0xcc
	if _, err := p.mem.WriteAt([]byte{breakpoint}, int64(pc)); err != nil {
		p.t.Fatal(err)
	}
	if err := unix.PtraceCont(p.pid, 0); err != nil {
		p.t.Fatal(err)
	}
	if stop := p.wait(); stop != unix.SIGTRAP {
		p.t.Fatalf("stopped by %v, not by the breakpoint", stop)
	}
	if _, err := p.mem.WriteAt(saved[:], int64(pc)); err != nil {
		p.t.Fatal(err)
	}
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(p.pid, &regs); err != nil {
		p.t.Fatal(err)
	}
	regs.Rip = pc
	if err := unix.PtraceSetRegs(p.pid, &regs); err != nil {
		p.t.Fatal(err)
	}
}

func (p *tracee) registers() Registers {
	p.t.Helper()
	var r unix.PtraceRegs
	if err := unix.PtraceGetRegs(p.pid, &r); err != nil {
		p.t.Fatal(err)
	}
	regs := Registers{PC: r.Rip, Known: 1<<16 - 1, Exact: true}
	copy(regs.R[:], []uint64{r.Rax, r.Rdx, r.Rcx, r.Rbx, r.Rsi, r.Rdi, r.Rbp, r.Rsp, r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15})
	return regs
}

// readMappings builds the tables of all code that is mapped.
func (p *tracee) readMappings() {
	p.t.Helper()
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", p.pid))
	if err != nil {
		p.t.Fatal(err)
	}
	defer maps.Close()
	p.codes = nil
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		var start, end, off uint64
		var perm, dev string
		var inode uint64
		var name string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s %x %s %d %s", &start, &end, &perm, &off, &dev, &inode, &name); n < 7 || perm[2] != 'x' {
			continue
		}
		var file io.ReaderAt
		size := int64(end - start)
		switch {
		case name == "[vdso]":
			image := make([]byte, size)
			if _, err := p.mem.ReadAt(image, int64(start)); err != nil {
				p.t.Fatal(err)
			}
			file = bytes.NewReader(image)
		case strings.HasPrefix(name, "/"):
			f, err := os.Open(name)
			if err != nil {
				p.t.Fatal(err)
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				p.t.Fatal(err)
			}
			file, size = f, info.Size()
		default:
			continue
		}
		m, err := readImage(file, size)
		if err != nil {
			p.t.Fatal(err)
		}
		table, err := Build(file, size, Options{})
		if err != nil {
			p.t.Fatal(err)
		}
		for _, s := range m.segments {
			if s.typ == elf.PT_LOAD && s.flags&elf.PF_X != 0 && s.off&^(pageSize-1) == off {
				p.codes = append(p.codes, mappedCode{start, end, start - s.addr&^(pageSize-1), table, name})
			}
		}
	}
	if len(p.codes) == 0 {
		p.t.Fatal("no code is mapped")
	}
}

// walk returns the program counters of the stack, innermost first. The error is ErrEnd for a complete one.
func (p *tracee) walk(regs Registers) ([]uint64, error) {
	var pcs []uint64
	for len(pcs) < 100 {
		pcs = append(pcs, regs.PC)
		lookup := regs.Lookup()
		i := slices.IndexFunc(p.codes, func(c mappedCode) bool { return lookup >= c.start && lookup < c.end })
		if i < 0 {
			return pcs, errors.New("no mapping")
		}
		var err error
		if regs, err = p.codes[i].table.Step(regs, p.codes[i].bias, p.mem); err != nil {
			return pcs, err
		}
	}
	return pcs, errors.New("too deep")
}

// call is a call that has not returned: the place of its return address, and the address.
type call struct{ slot, pc uint64 }

// TestWalkEachInstruction steps through a program and compares at each instruction, in prologues, epilogues, stubs
// and the dynamic linker, the walked stack with the calls that it saw. It knows calls by what they do to the stack, so
// that nothing of unwind information is in what it compares with.
func TestWalkEachInstruction(t *testing.T) {
	for _, build := range []struct {
		name     string
		compiler string
		flags    []string
	}{
		{"gcc, lazy binding", "gcc", []string{"-O2", "-fomit-frame-pointer", "-fPIE", "-pie", "-Wl,-z,lazy"}},
		{"gcc, static", "gcc", []string{"-O1", "-static", "-fno-pie", "-no-pie"}},
		{"gcc, .debug_frame alone", "gcc", []string{"-O2", "-g", "-gz", "-fno-asynchronous-unwind-tables"}},
		{"clang", "clang-19", []string{"-O2", "-fPIE", "-pie", "-Wl,-z,lazy"}},
	} {
		t.Run(build.name, func(t *testing.T) {
			if _, err := exec.LookPath(build.compiler); err != nil {
				skip(t, build.compiler+" is not installed")
			}
			path := filepath.Join(t.TempDir(), "walk")
			args := append(build.flags, "-o", path, "testdata/walk/walk.c")
			if out, err := exec.Command(build.compiler, args...).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			stepThrough(t, path)
		})
	}
}

func stepThrough(t *testing.T, path string) {
	file, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	symbols, err := file.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(symbols, func(s elf.Symbol) bool { return s.Name == "main" })
	if i < 0 {
		t.Fatal("no main")
	}
	p := startTraced(t, path)
	p.readMappings()
	j := slices.IndexFunc(p.codes, func(c mappedCode) bool { return c.name == path })
	if j < 0 {
		t.Fatalf("%s is not mapped", path)
	}
	p.runTo(symbols[i].Value + p.codes[j].bias)
	p.readMappings() // the libraries too

	regs := p.registers()
	outer, err := p.walk(regs)
	if !errors.Is(err, ErrEnd) || len(outer) < 3 {
		t.Fatalf("at main: %#x, %v", outer, err)
	}
	outer = outer[1:]
	main := regs.R[amd64RSP]
	var calls []call
	steps, wrong, jumps, deepest := 0, 0, 0, 0
	for ; steps < 200_000; steps++ {
		want := []uint64{regs.PC}
		for _, c := range slices.Backward(calls) {
			want = append(want, c.pc)
		}
		want = append(want, outer...)
		deepest = max(deepest, len(want))
		if p.jumping(regs.PC) {
			// The last instructions of longjmp say that the caller is where they jump to.
			jumps++
		} else if got, err := p.walk(regs); !errors.Is(err, ErrEnd) || !slices.Equal(got, want) {
			if wrong++; wrong <= 5 {
				t.Errorf("step %d: got  %#x, %v\nwant %#x", steps, got, err, want)
			}
		}
		delivered := p.signal != 0
		if !p.step() {
			break
		}
		before := regs
		regs = p.registers()
		sp := regs.R[amd64RSP]
		if sp > main {
			break // main has returned
		}
		calls = slices.DeleteFunc(calls, func(c call) bool { return c.slot < sp })
		if delivered {
			// The handler was called from the restorer, and that from where the signal hit.
			calls = append(calls, call{before.R[amd64RSP] - 8, before.PC}, call{sp, p.word(sp)})
		} else if ret, ok := p.called(before, regs); ok {
			calls = append(calls, call{sp, ret})
		}
	}
	t.Logf("%d instructions, up to %d frames, %d stacks wrong, %d of longjmp", steps, deepest, wrong, jumps)
	if steps < 5000 || jumps > 20 {
		t.Errorf("%d instructions, %d of them of longjmp", steps, jumps)
	}
}

// jumping reports whether the rule of an instruction has the next stack pointer and program counter in registers.
func (p *tracee) jumping(pc uint64) bool {
	for _, c := range p.codes {
		if pc >= c.start && pc < c.end {
			r, ok := c.table.Find(pc - c.bias)
			return ok && r.CFA == CFARegister && r.RA == SaveRegister && r.CFAReg != amd64RSP
		}
	}
	return false
}

// called reports whether the instruction was a call, by its having pushed the address after itself.
func (p *tracee) called(before, after Registers) (ret uint64, ok bool) {
	sp := after.R[amd64RSP]
	if sp != before.R[amd64RSP]-8 {
		return 0, false
	}
	ret = p.word(sp)
	const longest = 15
	return ret, ret > before.PC && ret <= before.PC+longest && ret != after.PC
}
