package bpf

import (
	"os/exec"
	"runtime"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// pin has the test run on the first of its CPUs, and what it starts.
func pin(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // not unlocked: the thread stays on its CPU
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		t.Fatal(err)
	}
	var first unix.CPUSet
	for cpu := 0; first.Count() == 0; cpu++ {
		if cpus.IsSet(cpu) {
			first.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &first); err != nil {
		t.Fatal(err)
	}
}

// mapCode has the kernel make a record.
func mapCode(t *testing.T) {
	t.Helper()
	code, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err == nil {
		err = unix.Munmap(code)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestKernelSidebandCountsLost has more happen than a ring has room for while nobody reads it.
func TestKernelSidebandCountsLost(t *testing.T) {
	pin(t)
	s := open(t, Options{Frequency: 1})
	const records = 20_000
	for range records {
		mapCode(t)
	}
	var b Batch
	if err := readSoon(s, &b); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, ev := range b.Events {
		if ev.Kind == EventMmap && ev.TID == uint32(unix.Gettid()) {
			seen++
		}
	}
	mapCode(t) // the next record that there is room for has the number before it
	_, events := follow(t, s)()
	var lost uint64
	for _, ev := range events {
		if ev.Kind == EventLost {
			lost += ev.Lost
		}
	}
	t.Logf("%d of %d records seen, %d lost", seen, records, lost)
	if lost == 0 || uint64(seen)+lost < records {
		t.Errorf("%d records seen and %d lost, want %d or more in all", seen, lost, records)
	}
}

// TestKernelSidebandTellsOfPrograms loads a BPF program, which is code that the kernel did not have before.
func TestKernelSidebandTellsOfPrograms(t *testing.T) {
	s := open(t, Options{Frequency: 1})
	finish := follow(t, s)
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.SocketFilter,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Close(); err != nil {
		t.Fatal(err)
	}
	_, events := finish()
	if !slices.ContainsFunc(events, func(ev Event) bool { return ev.Kind == EventKernelCode }) {
		t.Errorf("no event of it in %d", len(events))
	}
}

// TestKernelSidebandBesideOthers has others be told of a BPF program too: what comes after that is still read. The kernel's
// records of it are longer then than what it wrote, and end in what was on the ring before.
func TestKernelSidebandBesideOthers(t *testing.T) {
	pin(t)
	s := open(t, Options{Frequency: 1})
	var events []Event
	read := func() {
		var b Batch
		if err := readSoon(s, &b); err != nil {
			t.Fatal(err)
		}
		events = append(events, b.Events...)
	}
	for range 5 { // more than the ring has room for
		for range 2000 {
			mapCode(t)
		}
		read()
	}
	for range 3 {
		open(t, Options{Frequency: 1}) // loads programs
		read()
	}
	events = nil
	run := exec.Command("true")
	if err := run.Run(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		read()
	}
	pid := uint32(run.Process.Pid)
	for what, kind := range map[string]EventKind{"began": EventFork, "ran a program": EventExec, "ended": EventExit} {
		if !slices.ContainsFunc(events, func(ev Event) bool { return ev.Kind == kind && ev.PID == pid }) {
			t.Errorf("nobody told that process %d %s, in %d events", pid, what, len(events))
		}
	}
}

// TestKernelRecords switches what is told of processes off and on.
func TestKernelRecords(t *testing.T) {
	s := open(t, Options{Frequency: 1})
	finish := follow(t, s)
	pids := make(map[bool][]uint32) // of processes that ran while it was on, or off
	for _, on := range []bool{false, true, false, true} {
		if err := s.SetRecords(on); err != nil {
			t.Fatal(err)
		}
		run := exec.Command("true")
		if err := run.Run(); err != nil {
			t.Fatal(err)
		}
		pids[on] = append(pids[on], uint32(run.Process.Pid))
	}
	_, events := finish()
	told := make(map[uint32]bool)
	for _, ev := range events {
		told[ev.PID] = true
	}
	for on, those := range pids {
		for _, pid := range those {
			if told[pid] != on {
				t.Errorf("records on %v: told of process %d: %v", on, pid, told[pid])
			}
		}
	}
}
