package agent

import (
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"testing"

	"pilotlight/bpf"
	"pilotlight/cmd/pilotlight/process"
	"pilotlight/unwind"
)

// stackOf is memory from address 0x1000 on.
func stackOf(words ...uint64) *stackPiece {
	s := &stackPiece{start: 0x1000}
	for _, w := range words {
		s.bytes = binary.LittleEndian.AppendUint64(s.bytes, w)
	}
	return s
}

// pushed is code that has n words on the stack above the return address; entry is a thread's first function.
func pushed(n int32) unwind.Rule {
	return unwind.Rule{CFA: unwind.CFARegister, CFAReg: arch.SP(), CFAOff: 8 * (n + 1), RA: unwind.SaveAtCFA, RAOff: -1}
}

var entry = unwind.Rule{CFA: unwind.CFAEnd}

// tableOf has a rule for each page from address 0 on.
func tableOf(rules ...unwind.Rule) *unwind.Table {
	t := &unwind.Table{Arch: arch, Rules: rules}
	for i := range rules {
		t.Pages = append(t.Pages, unwind.Page{First: uint32(i), Count: 1})
		t.Rows = append(t.Rows, unwind.Row{Rule: uint16(i)})
	}
	return t
}

func TestWalk(t *testing.T) {
	const bias = 0x400000
	// Pages of the file: an entry, a function that has pushed two words, one that
	// keeps a frame pointer, one that no rule can describe.
	table := tableOf(entry, pushed(2), unwind.Rule{CFA: unwind.CFAFramePointer}, unwind.Rule{})
	const atEntry, atPushed, atFrame, atInvalid, atJIT, atKept, nowhere = bias + 0x10, bias + 0x1010, bias + 0x2010, bias + 0x3010, 0x900000, 0xa00000, 0x10
	find := func(pc uint64) (Code, bpf.Outcome) {
		switch {
		case pc >= bias && pc < bias+0x4000:
			return Code{Table: table, Bias: bias}, bpf.Complete
		case pc >= atKept:
			return Code{JIT: true}, bpf.Complete
		case pc >= atJIT:
			return Code{}, bpf.JITEnd
		default:
			return Code{}, bpf.NoMapping
		}
	}
	for _, tc := range []struct {
		name  string
		stack *stackPiece
		fp    uint64
		want  []uint64
		end   bpf.Outcome
	}{
		{"to the entry", stackOf(0, 0, atPushed, 0, 0, atEntry), 0, []uint64{atPushed, atPushed, atEntry}, bpf.Complete},
		{"stack ends", stackOf(0, 0, atPushed, 0, 0), 0, []uint64{atPushed, atPushed}, bpf.Unreadable},
		{"return address is zero", stackOf(0, 0, 0), 0, []uint64{atPushed}, bpf.BadRule},
		{"no rule", stackOf(0, 0, atInvalid), 0, []uint64{atPushed, atInvalid}, bpf.BadRule},
		{"made at run time", stackOf(0, 0, atJIT+1), 0, []uint64{atPushed, atJIT + 1}, bpf.JITEnd},
		{"made at run time, with frame pointers", stackOf(0, 0, atKept+1, 0, 0x1030, atKept+1, 0, atEntry), 0x1020, []uint64{atPushed, atKept + 1, atKept + 1, atEntry}, bpf.Complete},
		{"made at run time, with a frame pointer of zero", stackOf(0, 0, atKept+1), 0, []uint64{atPushed, atKept + 1}, bpf.JITEnd},
		{"made at run time, with something else in its place", stackOf(0, 0, atKept+1), 0x1021, []uint64{atPushed, atKept + 1}, bpf.JITEnd},
		{"astray", stackOf(0, 0, nowhere), 0, []uint64{atPushed, nowhere}, bpf.NoMapping},
		{"frame pointer", stackOf(0, 0, atFrame, 0, 0x1030, atFrame, 0, atEntry), 0x1020, []uint64{atPushed, atFrame, atFrame, atEntry}, bpf.Complete},
	} {
		t.Run(tc.name, func(t *testing.T) {
			regs := unwind.Registers{PC: atPushed, Exact: true}
			regs.R[arch.SP()], regs.R[arch.FP()] = tc.stack.start, tc.fp
			regs.Known = 1<<arch.SP() | 1<<arch.FP()
			got, end := Walk(regs, tc.stack, []uint64{atPushed}, find)
			if !slices.Equal(got, tc.want) || end != tc.end {
				t.Errorf("walked %#x to %v, want %#x to %v", got, end, tc.want, tc.end)
			}
		})
	}
}

// TestWalkIsBounded follows a stack on which each frame returns to the one before.
func TestWalkIsBounded(t *testing.T) {
	same := unwind.Rule{CFA: unwind.CFARegister, CFAReg: arch.SP(), RA: unwind.SaveAtCFA}
	regs := unwind.Registers{PC: 0x10, Exact: true, Known: 1 << arch.SP()}
	regs.R[arch.SP()] = 0x1000
	pcs, end := Walk(regs, stackOf(0x10), []uint64{0x10}, func(uint64) (Code, bpf.Outcome) { return Code{Table: tableOf(same)}, bpf.Complete })
	if len(pcs) != maxUserFrames || end != bpf.TooDeep {
		t.Errorf("%d frames to %v, want %d to %v", len(pcs), end, maxUserFrames, bpf.TooDeep)
	}
}

// stacksOf are the user parts of the window's stacks.
func (m *machine) stacksOf(t *testing.T) (got []string) {
	t.Helper()
	for _, st := range m.agent.window.order {
		for _, r := range st.rows {
			var names []string
			for _, id := range r.locations {
				_, frames := m.agent.symbols.resolve(&m.agent.window.binaries.list[m.agent.window.locations.list[id].binary], m.agent.window.locations.list[id])
				names = append(names, frames[0].Function)
			}
			got = append(got, strings.Join(names, " "))
		}
	}
	return got
}

func TestSamplesWaitForTheirTable(t *testing.T) {
	needAMD64(t)
	m := newMachine(t)
	m.start(100, appMaps)
	if err := m.agent.table.Snapshot(); err != nil {
		t.Fatal(err)
	}
	m.drain(carrying(m.unfinished(100)), carrying(m.unfinished(100)))
	if n := len(m.agent.finisher.pending); n != 2 || len(m.agent.window.order) != 0 {
		t.Fatalf("%d samples wait, want 2", n)
	}
	m.built()
	m.drain(carrying(m.unfinished(100)))
	if got, want := m.stacksOf(t), []string{"app+0x401010 app+0x401020 app+0x401030"}; !slices.Equal(got, want) {
		t.Errorf("stacks %q, want %q", got, want)
	}
	if got, want := m.agent.finisher.counts, ([finishOutcomes]uint64{finishedWhole: 3}); got != want {
		t.Errorf("counts %v, want %v", got, want)
	}
	if outcomes := m.agent.window.order[0].outcomes; outcomes[bpf.Complete] != 3 {
		t.Errorf("outcomes %v, want 3 complete", outcomes)
	}
}

// TestSamplesDoNotWaitForEver has a window end, too many samples, and a governor
// that objects.
func TestSamplesDoNotWaitForEver(t *testing.T) {
	needAMD64(t)
	m := newMachine(t)
	m.start(100, appMaps)
	if err := m.agent.table.Snapshot(); err != nil {
		t.Fatal(err)
	}
	p := m.agent.table.Lookup(1, process.Sample{PID: 100, TID: 100, Start: appStart, Exec: 1})
	s := carrying(m.unfinished(100))
	s.Stack = make([]byte, 16<<10)
	waiting := 0
	for m.agent.finisher.wait(p, &s) {
		waiting++
	}
	if waiting < 200 || waiting > 256 {
		t.Errorf("%d samples of 16 KiB wait, want as many as fit 4 MiB", waiting)
	}
	// The table is never made: the queue of those that make tables stands still.
	m.agent.tables.queued = queuedTables
	counted := 0
	m.agent.finisher.retry(false, func(*process.Process, *bpf.Sample) { counted++ })
	if counted != 0 {
		t.Errorf("%d samples were counted before the window's end", counted)
	}
	m.agent.finisher.retry(true, func(_ *process.Process, s *bpf.Sample) {
		counted++
		if s.Outcome != bpf.NoMapping {
			t.Errorf("outcome %v, want the sampler's", s.Outcome)
		}
	})
	m.agent.tables.queued = 0
	if counted != waiting || len(m.agent.finisher.pending) != 0 || m.agent.finisher.bytes != 0 {
		t.Errorf("%d of %d samples were counted at the window's end, %d wait", counted, waiting, len(m.agent.finisher.pending))
	}
	m.agent.governor.level = 2
	m.drain(carrying(m.unfinished(100)))
	want := [finishOutcomes]uint64{finishLate: uint64(waiting), finishRefused: 1, finishShed: 1}
	if got := m.agent.finisher.counts; got != want {
		t.Errorf("counts %v, want %v", got, want)
	}
}

// TestChurn has 100,000 processes live and die, sampled, and looks at what is
// left of them.
func TestChurn(t *testing.T) {
	m := newMachine(t)
	m.start(1, appMaps)
	if err := m.agent.table.Snapshot(); err != nil {
		t.Fatal(err)
	}
	m.drain(m.unfinished(1))
	m.built()
	m.drain()
	const perDrain = 500
	for i := range uint32(100_000 / perDrain) {
		var alive, gone []any
		for j := range uint32(perDrain) {
			pid := 1000 + (i*perDrain+j)%30_000
			s := m.unfinished(pid)
			s.ProcessStart += uint64(i) * 1e9
			fork := bpf.Event{Kind: bpf.EventFork, PPID: 1, PID: pid, TID: pid}
			exit := bpf.Event{Kind: bpf.EventExit, PID: pid, TID: pid}
			if j%2 == 0 { // lives from one drain to the next
				alive, gone = append(alive, fork, s), append(gone, exit)
				continue
			}
			gone = append(gone, fork, s, exit)
		}
		m.drain(alive...)
		if len(m.sampler.processes) != 1+perDrain/2 {
			t.Fatalf("the sampler knows %d processes, want %d", len(m.sampler.processes), 1+perDrain/2)
		}
		m.drain(gone...)
		m.sampler.calls = nil
	}
	m.drain()
	a := m.agent
	if len(m.sampler.processes) != 1 || len(a.unwinder.processes) != 1 || len(a.unwinder.changed) != 0 {
		t.Errorf("the sampler knows %d processes, the unwinder %d, want one", len(m.sampler.processes), len(a.unwinder.processes))
	}
	if users := a.unwinder.loaded[onlyKey(t, a.unwinder)].users; users != 1 {
		t.Errorf("the table has %d users, want 1", users)
	}
	if len(a.tables.entries) > 1 || len(a.finisher.pending) != 0 {
		t.Errorf("%d files, %d samples are left", len(a.tables.entries), len(a.finisher.pending))
	}
	if n := a.table.Stats().Processes; n > 10 {
		t.Errorf("%d processes are left", n)
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	if len(fds) > 50 {
		t.Errorf("%d files are open", len(fds))
	}
}

func onlyKey(t *testing.T, u *unwinder) process.FileKey {
	t.Helper()
	for key := range u.loaded {
		if len(u.loaded) == 1 {
			return key
		}
	}
	t.Fatalf("%d tables are loaded, want one", len(u.loaded))
	return process.FileKey{}
}

func BenchmarkFinish(b *testing.B) {
	needAMD64(b)
	const depth = 45
	f := &finisher{tables: &tables{vdso: tableOf(entry, pushed(6)), entries: map[process.FileKey]*tableEntry{}}}
	p := &process.Process{Mappings: process.Mappings{{Start: 0x10000, End: 0x20000, Object: &process.Object{Kind: process.VDSO}}}}
	s := bpf.Sample{User: []uint64{0x11010}, Exact: true, Registers: make([]uint64, 21)}
	s.Registers[16], s.Registers[19] = 0x11010, 0x7ff000
	for i := range depth {
		for range 6 {
			s.Stack = binary.LittleEndian.AppendUint64(s.Stack, 0)
		}
		ret := uint64(0x11011)
		if i == depth-1 {
			ret = 0x10011
		}
		s.Stack = binary.LittleEndian.AppendUint64(s.Stack, ret)
	}
	b.ReportAllocs()
	for b.Loop() {
		sample := s
		if !f.finish(p, &sample) || sample.Outcome != bpf.Complete || len(sample.User) != depth+1 {
			b.Fatalf("%d frames to %v", len(sample.User), sample.Outcome)
		}
	}
}
