package agent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pilotlight/bpf"
	"pilotlight/unwind"
)

// frameRecords are programs that set their frame pointer, by the instructions that do so, and then stay where they are.
// called is code of the program that they are called from, record what lies far from the stack.
var frameRecords = map[string]string{
	"zero":                           "xor %ebp, %ebp",
	"unaligned":                      "lea 1(%rsp), %rbp",
	"one":                            "push $called; push $0; mov %rsp, %rbp",
	"two":                            "push $called; push $0; mov %rsp, %r8; push $called; push %r8; mov %rsp, %rbp",
	"downwards":                      "push $called; push $16; mov %rsp, %rbp",
	"called from nowhere":            "push $16; push $0; mov %rsp, %rbp",
	"outermost":                      "push $0; push $0; mov %rsp, %rbp",
	"return address zero":            "push $0; push $8; mov %rsp, %rbp",
	"below the stack pointer":        "push $called; push $0; mov %rsp, %rbp; add $8, %rsp",
	"above the stack":                "lea 0x400000(%rsp), %rbp",
	"out of reach":                   "lea 0x1000000(%rsp), %rbp",
	"other stack":                    "movq $called, record + 8; lea record, %rbp",
	"other stack, upwards":           "movq $called, record + 8; movq $record + 16, record; movq $called, record + 24; lea record, %rbp",
	"other stack, downwards":         "movq $called, record + 8; movq $record, record; lea record, %rbp",
	"other stack, from elsewhere":    "movq $16, record + 8; lea record, %rbp",
	"other stack, outermost":         "movq $0, record + 8; lea record, %rbp",
	"in the kernel's half":           "mov $-4096, %rbp",
	"other stack, and the first one": "push $called; push $0; movq $called, record + 8; mov %rsp, record; lea record, %rbp",
}

const frameRecordsProgram = `
.globl _start
_start:
	%s
spin:
	jmp spin
	nop
called:
	nop
.data
.balign 16
record:
	.quad 0, 0, 0, 0
`

// spinning is one of these programs as it runs.
type spinning struct {
	name       string
	pid        uint32
	id         bpf.ProcessID
	regs       unwind.Registers
	start, end uint64 // of its code
	mem        *os.File
}

// startSpinning builds and starts a program.
func startSpinning(t *testing.T, name string) *spinning {
	t.Helper()
	dir := t.TempDir()
	source, path := filepath.Join(dir, "record.s"), filepath.Join(dir, "record")
	if err := os.WriteFile(source, fmt.Appendf(nil, frameRecordsProgram, frameRecords[name]), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-nostdlib", "-static", "-no-pie", "-o", path, source).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	cmd := exec.Command(path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	p := &spinning{name: name, pid: uint32(cmd.Process.Pid)}
	var maps []byte
	for deadline := time.Now().Add(10 * time.Second); p.start == 0; time.Sleep(time.Millisecond) { // it may still be in execve
		if time.Now().After(deadline) {
			t.Fatalf("%s: no code in\n%s", name, maps)
		}
		var err error
		if maps, err = os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.pid)); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(maps)) {
			var start, end uint64
			if _, err := fmt.Sscanf(line, "%x-%x r-xp", &start, &end); err == nil && strings.Contains(line, path) {
				p.start, p.end = start, end
			}
		}
	}
	var err error
	if p.mem, err = os.Open(fmt.Sprintf("/proc/%d/mem", p.pid)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.mem.Close() })
	return p
}

// walk is the stack by Walk.
func (p *spinning) walk(kept bool, table *unwind.Table) ([]uint64, bpf.Outcome) {
	return Walk(p.regs, p.mem, []uint64{p.regs.PC}, func(pc uint64) (Code, bpf.Outcome) {
		if pc < p.start || pc >= p.end {
			return Code{}, bpf.NoMapping
		}
		return Code{Table: table, FramePointers: kept, Start: p.start, End: p.end}, bpf.Complete
	})
}

// TestKernelWalksAsSampler has frame records of all kinds, right and wrong, walked by Walk and by the sampler, as code that keeps frame pointers
// for certain and as code of which nothing is known.
func TestKernelWalksAsSampler(t *testing.T) {
	needAMD64(t)
	if os.Geteuid() != 0 && os.Getenv("REQUIRE_ALL") != "1" {
		t.Skip("loading BPF programs needs root")
	}
	if _, err := exec.LookPath("gcc"); err != nil && os.Getenv("REQUIRE_ALL") != "1" {
		t.Skip("the programs to sample are built with gcc")
	}
	s, err := bpf.Open(bpf.Options{Frequency: 199}) // below the limit of samples that carry stacks
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var programs []*spinning
	for name := range frameRecords {
		programs = append(programs, startSpinning(t, name))
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	eachSampled(t, s, programs, func(p *spinning, sample *bpf.Sample) bool {
		// Until the loop is reached, the registers change.
		var b [1]byte
		if _, err := p.mem.ReadAt(b[:], int64(sample.User[0])); err != nil || b[0] != 0xeb || sample.InKernel {
			return false
		}
		p.id = bpf.ProcessID{PID: p.pid, Start: sample.ProcessStart, ExecID: sample.ExecID}
		regs, ok := Registers(sample.Registers)
		p.regs = regs
		return ok
	})
	table := &unwind.Table{
		Arch: arch, FirstPage: programs[0].start >> 12, Rules: []unwind.Rule{{CFA: unwind.CFAFramePointer}},
		Pages: []unwind.Page{{Count: 1}}, Rows: []unwind.Row{{}},
	}
	id, err := s.LoadTable(table)
	for errors.Is(err, bpf.ErrTableRoom) {
		time.Sleep(time.Millisecond)
		id, err = s.LoadTable(table)
	}
	if err != nil {
		t.Fatal(err)
	}
	ends := map[bpf.Outcome]int{}
	for _, kind := range []bpf.CodeKind{bpf.CodeFramePointer, bpf.CodeTable} {
		kept := kind == bpf.CodeFramePointer
		for _, p := range programs {
			if err := s.SetProcess(p.id, []bpf.Code{{Start: p.start, End: p.end, Kind: kind, Table: id}}); err != nil {
				t.Fatal(err)
			}
		}
		eachSampled(t, s, programs, func(p *spinning, sample *bpf.Sample) bool {
			pcs, outcome := p.walk(kept, table)
			if outcome == bpf.NoMapping && len(sample.Registers) == 0 {
				return false // too many were taken in a second
			}
			if !slices.Equal(sample.User, pcs) || sample.Outcome != outcome {
				t.Errorf("%s, kept %t: the sampler says %v: %#x\nWalk says %v: %#x", p.name, kept, sample.Outcome, sample.User, outcome, pcs)
			}
			ends[outcome]++
			return true
		})
	}
	for _, end := range []bpf.Outcome{bpf.Complete, bpf.NoTable, bpf.NoMapping, bpf.Unreadable} {
		if ends[end] == 0 {
			t.Errorf("walks ended %v, none %v", ends, end)
		}
	}
}

// eachSampled calls take with samples of each program that are taken from now on, until it returns true.
func eachSampled(t *testing.T, s *bpf.Sampler, programs []*spinning, take func(*spinning, *bpf.Sample) bool) {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	left := map[uint32]*spinning{}
	for _, p := range programs {
		left[p.pid] = p
	}
	var b bpf.Batch
	for start := time.Now(); len(left) > 0; {
		if time.Since(start) > time.Minute {
			t.Fatalf("%d programs were not sampled within a minute", len(left))
		}
		if err := s.Read(&b, b.Upto+uint64(bpf.DrainInterval)); err != nil {
			t.Fatal(err)
		}
		for i := range b.Samples {
			sample := &b.Samples[i]
			p := left[sample.PID]
			if p != nil && sample.Time > uint64(now.Nano()) && len(sample.User) > 0 && take(p, sample) {
				delete(left, sample.PID)
			}
		}
	}
}
