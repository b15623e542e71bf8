package agent

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	dto "github.com/prometheus/client_model/go"

	"pilotlight/bpf"
	"pilotlight/cmd/pilotlight/process"
	"pilotlight/unwind"
)

// machine is one with processes of its own, on which nothing runs.
type machine struct {
	t       *testing.T
	proc    fakeProc
	files   map[string][]byte // by path
	agent   *Agent
	sampler *fakeSampler
	now     uint64
}

type fakeProc struct{ fstest.MapFS }

// fakeSampler keeps what it was told.
type fakeSampler struct {
	replay
	processes map[uint32][]bpf.Code
	tables    map[bpf.TableID]*unwind.Table
	last      bpf.TableID
	room      int  // tables; 0: no bound
	later     int  // so many times there is no room yet
	refuse    bool // any process
	calls     []string
}

func (s *fakeSampler) LoadTable(t *unwind.Table) (bpf.TableID, error) {
	if s.later > 0 {
		s.later--
		s.calls = append(s.calls, "later")
		return 0, bpf.ErrTableRoom
	}
	if s.room > 0 && len(s.tables) >= s.room {
		return 0, bpf.ErrTableSpace
	}
	s.last++
	s.tables[s.last] = t
	s.calls = append(s.calls, fmt.Sprintf("load %d", s.last))
	return s.last, nil
}

func (s *fakeSampler) UnloadTable(id bpf.TableID) error {
	for pid, codes := range s.processes {
		for _, c := range codes {
			if c.Kind == bpf.CodeTable && c.Table == id {
				return fmt.Errorf("process %d uses it", pid)
			}
		}
	}
	if s.tables[id] == nil {
		return errors.New("not loaded")
	}
	delete(s.tables, id)
	s.calls = append(s.calls, fmt.Sprintf("unload %d", id))
	return nil
}

func (s *fakeSampler) SetProcess(p bpf.ProcessID, codes []bpf.Code) error {
	if s.refuse {
		s.calls = append(s.calls, "refuse")
		return errors.New("too many mappings")
	}
	if !slices.IsSortedFunc(codes, func(a, b bpf.Code) int { return int(a.Start) - int(b.Start) }) {
		return errors.New("not sorted")
	}
	kinds := [...]string{bpf.CodeUnknown: "unknown", bpf.CodeTable: "table", bpf.CodeFramePointer: "fp", bpf.CodeJIT: "jit", bpf.CodeJITFramePointer: "jitfp"}
	call := fmt.Sprintf("set %d.%d", p.PID, p.ExecID)
	for _, c := range codes {
		call += " " + kinds[c.Kind]
		if c.Kind == bpf.CodeTable {
			if s.tables[c.Table] == nil {
				return errors.New("no such table")
			}
			call += fmt.Sprint(c.Table)
		}
	}
	s.calls = append(s.calls, call)
	s.processes[p.PID] = codes
	return nil
}

func (s *fakeSampler) Forget(pid uint32) error {
	if s.processes[pid] == nil {
		return errors.New("not known")
	}
	delete(s.processes, pid)
	s.calls = append(s.calls, fmt.Sprintf("forget %d", pid))
	return nil
}

// newMachine has one file, /bin/app, with code at its offset 0x1000 and address 0x401000.
func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, proc: fakeProc{fstest.MapFS{}}, files: map[string][]byte{"/bin/app": image(1)}}
	m.sampler = &fakeSampler{processes: map[uint32][]bpf.Code{}, tables: map[bpf.TableID]*unwind.Table{}}
	a, err := New(m.sampler, new(collector), Options{Hostname: "host", Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	a.clock = func() (uint64, time.Time) { return m.now, wallStart.Add(time.Second + time.Duration(m.now)) }
	a.table = process.NewTable(m.proc, process.Options{})
	a.files = process.NewFiles(m.proc, "/proc", host{m})
	a.tables = newTables(a.files, func() {}, nil, quiet)
	a.unwinder = newUnwinder(m.sampler, a.table, a.tables, quiet)
	a.finisher = &finisher{tables: a.tables}
	a.governor = newGovernor(Options{CPULimit: -1, MemoryLimit: -1}, 0, cost{})
	a.window = a.newWindow(0, 0)
	m.agent = a
	stop := a.makeTables()
	t.Cleanup(func() {
		if err := errors.Join(stop(), a.symbols.close()); err != nil {
			t.Error(err)
		}
	})
	return m
}

// host opens the files of a machine: of a process that is there by its mappings,
// else by their path.
type host struct{ *machine }

func (h host) Open(name string) (process.Handle, error) {
	if dir, bounds, ok := strings.Cut(name, "/map_files/"); ok {
		for line := range strings.Lines(string(h.proc.MapFS[path.Base(dir)+"/maps"].Data)) {
			if fields := strings.Fields(line); fields[0] == bounds {
				return h.Open(fields[5])
			}
		}
		return nil, fs.ErrNotExist
	}
	if h.files[name] == nil {
		return nil, fs.ErrNotExist
	}
	return memoryFile{bytes.NewReader(h.files[name])}, nil
}

func (h host) OpenBelow(_, name string) (process.Handle, error) { return h.Open(name) }

type memoryFile struct{ *bytes.Reader }

func (memoryFile) Close() error                 { return nil }
func (f memoryFile) Stat() (fs.FileInfo, error) { return memoryInfo{size: f.Size()}, nil }

type memoryInfo struct {
	fs.FileInfo
	size int64
}

func (i memoryInfo) Size() int64 { return i.size }
func (memoryInfo) Sys() any      { return nil }

// image is an ELF file with one page of code that pushed nothing, and a number to
// tell it from others.
func image(number byte) []byte {
	h := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64,
	}
	p := elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Off: 0x1000, Vaddr: 0x401000, Paddr: 0x401000, Filesz: 0x1000, Memsz: 0x1000, Align: 0x1000}
	var b bytes.Buffer
	for _, v := range []any{h, p} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	b.Write(make([]byte, 0x2000-b.Len()))
	b.Bytes()[0x1000] = number
	return b.Bytes()
}

const appMaps = "401000-402000 r-xp 00001000 08:01 11 /bin/app\n"

// start begins a process that shows itself in /proc, with a start time of 1000 ticks.
func (m *machine) start(pid uint32, maps string) {
	put := func(name, text string) {
		m.proc.MapFS[fmt.Sprintf("%d/%s", pid, name)] = &fstest.MapFile{Data: []byte(text)}
	}
	put("stat", fmt.Sprintf("%d (app) R 1 1 1 0 -1 0 0 0 0 0 1 1 0 0 20 0 1 0 1000 0 1 1 1 0\n", pid))
	put("maps", maps)
	put("cmdline", "app\x00")
	put("cgroup", "0::/\n")
	m.proc.MapFS[fmt.Sprintf("%d/exe", pid)] = &fstest.MapFile{Data: []byte("/bin/app"), Mode: fs.ModeSymlink}
}

const appStart = 1000 * 10_000_000

// unfinished is a sample of a process in /bin/app that the sampler knows nothing of.
func (m *machine) unfinished(pid uint32) bpf.Sample {
	return bpf.Sample{PID: pid, TID: pid, ProcessStart: appStart, ExecID: 1, Outcome: bpf.NoMapping, User: []uint64{0x401010}, Comm: comm("app")}
}

// drain plays one batch 0.5 s long. Samples and events get times in the order given.
func (m *machine) drain(what ...any) {
	m.t.Helper()
	m.drainFor(time.Second/2, what...)
}

// drainFor plays a batch of another length.
func (m *machine) drainFor(d time.Duration, what ...any) {
	m.t.Helper()
	var b bpf.Batch
	for i, v := range what {
		switch v := v.(type) {
		case bpf.Sample:
			v.Time = m.now + uint64(i) + 1
			b.Samples = append(b.Samples, v)
		case bpf.Event:
			v.Time = m.now + uint64(i) + 1
			b.Events = append(b.Events, v)
		}
	}
	m.now += uint64(d)
	b.Upto = m.now
	windows := make(chan *window, 1)
	if err := m.agent.take(&b, windows); err != nil {
		m.t.Fatal(err)
	}
}

// built waits for the tables that are under way; the next drain finds them.
func (m *machine) built() {
	for len(m.agent.tables.results) < m.agent.tables.queued {
		time.Sleep(time.Millisecond)
	}
}

// expect compares what the sampler was told since it was called last.
func (m *machine) expect(what string, want ...string) {
	m.t.Helper()
	if !slices.Equal(m.sampler.calls, want) {
		m.t.Errorf("%s:\ngot  %q\nwant %q", what, m.sampler.calls, want)
	}
	m.sampler.calls = nil
}

func TestProcessIsPublishedOnce(t *testing.T) {
	m := newMachine(t)
	m.start(100, appMaps)
	if err := m.agent.table.Snapshot(); err != nil {
		t.Fatal(err)
	}
	m.drain()
	m.expect("a process that was not sampled")
	m.drain(m.unfinished(100), m.unfinished(100))
	m.expect("samples before the table is there", "set 100.1 unknown")
	m.built()
	m.drain(m.unfinished(100))
	m.expect("the table is there", "load 1", "set 100.1 table1")
	code := m.sampler.processes[100][0]
	if code.Start != 0x401000 || code.End != 0x402000 || code.Bias != 0 {
		t.Errorf("published %+v", code)
	}
	m.drain(m.unfinished(100))
	m.expect("another sample")

	mapping := func(at uint64, name string) bpf.Event {
		return bpf.Event{Kind: bpf.EventMmap, PID: 100, TID: 100, Mapping: bpf.Mapping{Start: at, End: at + 0x1000, Path: name}}
	}
	m.agent.tables.evict(0)
	m.drain(mapping(0x1000, "//anon"), mapping(0x2000, "//anon"), mapping(0x3000, "[vdso]"))
	m.expect("three mappings in one drain", "load 2", "set 100.1 jitfp jitfp table2 table1")
	if m.agent.tables.queued != 0 {
		t.Error("a table that the sampler has was asked for again")
	}
	m.drain(bpf.Event{Kind: bpf.EventComm, PID: 100, TID: 100, Comm: "other"})
	m.expect("a new name")

	m.drain(bpf.Event{Kind: bpf.EventExec, PID: 100, TID: 100, Comm: "app"})
	m.expect("exec", "forget 100")
	m.drain(bpf.Event{Kind: bpf.EventExit, PID: 100, TID: 100})
	m.expect("exit of a process that is not published")
}

func TestExitForgets(t *testing.T) {
	m := newMachine(t)
	for pid := range uint32(3) {
		m.start(100+pid, appMaps)
	}
	if err := m.agent.table.Snapshot(); err != nil {
		t.Fatal(err)
	}
	m.drain(m.unfinished(100))
	m.built()
	m.drain(m.unfinished(101))
	m.sampler.calls = nil
	exit := func(pid, tid uint32) bpf.Event { return bpf.Event{Kind: bpf.EventExit, PID: pid, TID: tid} }
	m.drain(exit(100, 105))
	m.expect("the end of a thread")
	m.drain(exit(100, 100), m.unfinished(102), exit(102, 102))
	m.expect("the end of a process; another was sampled and is gone by the end of the drain", "forget 100")

	// The table stays for the process that is left, and then for a while.
	m.drain(exit(101, 101))
	m.expect("the last one", "forget 101")
	idle := int(tableIdle / time.Second * 2)
	for range idle {
		m.drain()
	}
	m.expect("less than a minute later")
	for range 2 * int(Window/time.Second) * 2 {
		m.drain()
	}
	m.expect("a minute later", "unload 1")
}

// TestMappingsOverAndOver has a process map code all the time, and the ring fill up with that.
func TestMappingsOverAndOver(t *testing.T) {
	m := newMachine(t)
	m.start(100, appMaps)
	if err := m.agent.table.Snapshot(); err != nil {
		t.Fatal(err)
	}
	m.drain(m.unfinished(100))
	m.built()
	m.drain()
	m.sampler.calls = nil
	mapping := bpf.Event{Kind: bpf.EventMmap, PID: 100, TID: 100, Mapping: bpf.Mapping{Start: 0x1000, End: 0x2000, Path: "//anon"}}
	const drains = 400
	for range drains {
		m.drainFor(5*time.Millisecond, mapping)
	}
	if n := len(m.sampler.calls); n < 5 || n > 10 {
		t.Errorf("published %d times in 2 s, want pauses of 16, 32, 64... ms", n)
	}
	if n := m.agent.unwinder.stats.delayed; n < 5 || n > 10 {
		t.Errorf("%d changes count as delayed", n)
	}
	m.sampler.calls = nil
	m.start(101, strings.ReplaceAll(appMaps, "app", "other"))
	m.drainFor(5*time.Millisecond, mapping, m.unfinished(101))
	m.expect("another process", "set 101.1 unknown")
	m.drain()
	m.drain()
	m.drain()
	m.drain()
	m.expect("the pause is over", "set 100.1 jitfp table1")
}

// TestMappingWithoutRecord has a process that maps more code while records are not followed: what /proc shows in another
// window the sampler is told, too, once a sample hits it.
func TestMappingWithoutRecord(t *testing.T) {
	m := newMachine(t)
	m.start(100, appMaps)
	m.drain(m.unfinished(100))
	m.built()
	m.drain()
	m.expect("a process", "set 100.1 unknown", "load 1", "set 100.1 table1")
	const more = "501000-502000 r-xp 00001000 08:01 11 /bin/app\n"
	m.start(100, appMaps+more)
	hit := m.unfinished(100)
	hit.User = []uint64{0x501010}
	m.drain(hit)
	m.expect("the same window")
	m.agent.table.Lost()
	m.drain(m.unfinished(100))
	m.expect("another window, but code that was known")
	m.drain(hit, hit)
	m.drain()
	m.expect("code that was not known", "set 100.1 table1 table1")
}

// TestEndsWithoutRecord has processes end that nobody follows: at the end of the window they are forgotten.
func TestEndsWithoutRecord(t *testing.T) {
	m := newMachine(t)
	m.agent.follows = false
	var samples []any
	for pid := uint32(100); pid < 110; pid++ {
		m.start(pid, appMaps)
		samples = append(samples, m.unfinished(pid))
	}
	m.drain(samples...)
	m.built()
	m.drain()
	for name := range m.proc.MapFS {
		if !strings.HasPrefix(name, "100/") {
			delete(m.proc.MapFS, name)
		}
	}
	m.drain()
	if n, known, told := m.agent.table.Stats().Processes, len(m.agent.unwinder.processes), len(m.sampler.processes); n != 10 || known != 10 || told != 10 {
		t.Fatalf("within the window the table has %d, the unwinder %d and the sampler %d processes, want 10", n, known, told)
	}
	m.drainFor(Window)
	if n, known, told := m.agent.table.Stats().Processes, len(m.agent.unwinder.processes), len(m.sampler.processes); n != 1 || known != 1 || told != 1 {
		t.Errorf("the table has %d, the unwinder %d and the sampler %d processes, want the one that lives", n, known, told)
	}
}

// TestLossesOverAndOver has records be lost all the time: /proc is read again at once, and then seldom.
func TestLossesOverAndOver(t *testing.T) {
	m := newMachine(t)
	reads := &countingProc{fakeProc: m.proc}
	m.agent.table = process.NewTable(reads, process.Options{})
	for range 2 * 60 {
		m.drain(bpf.Event{Kind: bpf.EventLost, Lost: 1})
	}
	if reads.lists < 4 || reads.lists > 8 {
		t.Errorf("/proc was listed %d times in a minute, want pauses of 1, 2, 4... s", reads.lists)
	}
}

// countingProc counts how often the processes are listed.
type countingProc struct {
	fakeProc
	lists int
}

func (p *countingProc) ReadDir(name string) ([]fs.DirEntry, error) {
	if name == "." {
		p.lists++
	}
	return p.fakeProc.ReadDir(name)
}

// TestLeaderExits has a process go on without the thread that it is named by.
func TestLeaderExits(t *testing.T) {
	m := newMachine(t)
	m.start(100, appMaps)
	if err := m.agent.table.Snapshot(); err != nil {
		t.Fatal(err)
	}
	ofThread := m.unfinished(100)
	ofThread.TID = 105
	m.drain(m.unfinished(100))
	m.built()
	m.drain(ofThread)
	m.sampler.calls = nil
	m.drain(bpf.Event{Kind: bpf.EventExit, PID: 100, TID: 100}, ofThread)
	m.expect("the leader has exited, and a thread was sampled", "forget 100", "set 100.1 table1")
	m.drain(ofThread)
	m.expect("another sample")
	m.drain(bpf.Event{Kind: bpf.EventExit, PID: 100, TID: 105})
	delete(m.proc.MapFS, "100/stat")
	m.sampler.calls = nil
	for range 2 * 2 * int(Window/time.Second) {
		m.drain()
	}
	m.expect("the last thread has exited", "forget 100")
}

func TestTablesWaitForRoom(t *testing.T) {
	m := newMachine(t)
	m.start(100, appMaps)
	m.start(101, appMaps)
	if err := m.agent.table.Snapshot(); err != nil {
		t.Fatal(err)
	}
	m.drain(m.unfinished(100))
	m.built()
	m.sampler.calls, m.sampler.later = nil, 2
	m.drain()
	m.expect("no room yet", "later", "set 100.1 unknown")
	m.drain(m.unfinished(101))
	if got := slices.Sorted(slices.Values(m.sampler.calls)); !slices.Equal(got, []string{"later", "set 100.1 unknown", "set 101.1 unknown"}) {
		t.Errorf("no room yet for a table of two processes: %q", got)
	}
	m.sampler.calls = nil
	m.drain()
	if got := slices.Sorted(slices.Values(m.sampler.calls)); !slices.Equal(got, []string{"load 1", "set 100.1 table1", "set 101.1 table1"}) {
		t.Errorf("there is room: %q", got)
	}
	m.sampler.calls = nil
	m.drain()
	m.expect("after that")
	if refused := m.agent.unwinder.stats.refusedTables; refused != 0 {
		t.Errorf("%d tables count as refused", refused)
	}
}

// TestTableOfAnotherWindow stays in the kernel, and not here as well.
func TestTableOfAnotherWindow(t *testing.T) {
	m := newMachine(t)
	m.start(100, appMaps)
	if err := m.agent.table.Snapshot(); err != nil {
		t.Fatal(err)
	}
	m.drain(m.unfinished(100))
	m.built()
	m.drain()
	m.expect("the table is there", "set 100.1 unknown", "load 1", "set 100.1 table1")
	drains := 2 * int(Window/time.Second)
	for range drains {
		m.drain()
	}
	if m.agent.tables.bytes == 0 {
		t.Error("a table is gone that was used in this window or the last")
	}
	for range drains {
		m.drain(m.unfinished(100))
	}
	if n := m.agent.tables.bytes; n > 0 {
		t.Errorf("%d bytes of tables that nothing was finished with for a window", n)
	}
	m.expect("later samples of the process")
}

func TestTablesMakeRoom(t *testing.T) {
	m := newMachine(t)
	m.sampler.room = 1
	m.files["/bin/other"] = image(2)
	m.start(100, appMaps)
	m.start(101, strings.ReplaceAll(appMaps, "app", "other"))
	if err := m.agent.table.Snapshot(); err != nil {
		t.Fatal(err)
	}
	m.drain(m.unfinished(100))
	m.built()
	m.drain()
	m.drain(m.unfinished(101))
	m.built()
	m.sampler.calls = nil
	m.drain()
	m.expect("no room", "set 101.1 unknown")
	if m.agent.unwinder.stats.refusedTables == 0 {
		t.Error("not counted")
	}
	m.drain(bpf.Event{Kind: bpf.EventExit, PID: 100, TID: 100}, bpf.Event{Kind: bpf.EventMmap, PID: 101, TID: 101, Mapping: bpf.Mapping{Start: 0x1000, End: 0x2000, Path: "//anon"}})
	m.expect("what is not used makes room", "forget 100", "unload 1", "load 2", "set 101.1 jitfp table2")
}

// TestRefusedProcess is not offered again and again, and not left with what was said before.
func TestRefusedProcess(t *testing.T) {
	m := newMachine(t)
	m.start(100, appMaps)
	if err := m.agent.table.Snapshot(); err != nil {
		t.Fatal(err)
	}
	m.drain(m.unfinished(100))
	m.built()
	m.drain()
	m.sampler.calls = nil
	m.sampler.refuse = true
	mmap := bpf.Event{Kind: bpf.EventMmap, PID: 100, TID: 100, Mapping: bpf.Mapping{Start: 0x1000, End: 0x2000, Path: "//anon"}}
	m.drain(mmap)
	m.expect("too many mappings", "refuse", "forget 100")
	m.drain(m.unfinished(100))
	m.expect("another sample")
	m.sampler.refuse = false
	mmap.Mapping = bpf.Mapping{Start: 0x3000, End: 0x4000, Path: "//anon"}
	m.drain(mmap)
	m.expect("another mapping", "set 100.1 jitfp jitfp table1")
}

// TestGoneProgramsAreNotBuilt has processes that are gone when their sample is
// looked at: the file of the first is not worth a table, that of a second is.
func TestGoneProgramsAreNotBuilt(t *testing.T) {
	needAMD64(t)
	m := newMachine(t)
	id := []byte{1, 2, 3}
	m.files["/bin/app"] = withBuildID(image(1), id)
	run := func(pid uint32) []any {
		return []any{
			bpf.Event{Kind: bpf.EventFork, PPID: 1, PID: pid, TID: pid},
			bpf.Event{Kind: bpf.EventExec, PID: pid, TID: pid, Comm: "app"},
			bpf.Event{Kind: bpf.EventMmap, PID: pid, TID: pid, Mapping: bpf.Mapping{Start: 0x401000, End: 0x402000, Offset: 0x1000, Path: "/bin/app", BuildID: id}},
			carrying(m.unfinished(pid)),
			bpf.Event{Kind: bpf.EventExit, PID: pid, TID: pid},
		}
	}
	for i, want := range []tableStats{{}, {built: 1}, {built: 1}} {
		m.drain(run(uint32(200 + i))...)
		m.built()
		m.drain()
		if m.agent.tables.stats != want {
			t.Errorf("after process %d: %+v, want %+v", i, m.agent.tables.stats, want)
		}
	}
	m.expect("processes that were gone by the end of the drain")
	if n := m.agent.finisher.counts[finishedWhole]; n != 3 {
		t.Errorf("%d samples were finished, want 3: that of the first process waits for the table too", n)
	}
}

// TestLargeFilesWait has a program with a large file, for which there is no CPU time at first.
func TestLargeFilesWait(t *testing.T) {
	for _, tc := range []struct {
		name string
		gone bool
		want tableStats
	}{{"its process runs on", false, tableStats{built: 1}}, {"its process ends", true, tableStats{}}} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMachine(t)
			m.files["/bin/app"] = append(image(1), make([]byte, largeFile)...)
			m.start(100, appMaps)
			spare := newAllowance()
			tables := m.agent.tables
			tables.allowance, tables.jobs.allowance = spare, spare
			p := m.agent.table.Lookup(1, process.Sample{PID: 100, TID: 100, Start: appStart, Exec: 1, Comm: "app"})
			for range 2 {
				tables.early([]*process.Process{p})
				m.built()
				tables.collect()
			}
			if asked := tables.uses; tables.queued != 0 || asked != 2 {
				t.Errorf("%d jobs are under way, after %d uses: what no sample waits for is given up, once", tables.queued, asked)
			}
			m.drain(m.unfinished(100))
			if tables.queued != 1 {
				t.Fatal("what a sample waits for is not asked for")
			}
			if tc.gone {
				delete(m.proc.MapFS, "100/stat")
			}
			spare.grant(-time.Second, time.Second+leastGrant+2*largeFile)
			tables.jobs.retry()
			m.built()
			m.drain()
			if tables.stats != tc.want {
				t.Errorf("%+v, want %+v", tables.stats, tc.want)
			}
		})
	}
}

// needAMD64 skips where carrying makes no sample.
func needAMD64(t testing.TB) {
	t.Helper()
	if arch == unwind.AMD64 {
		return
	}
	if os.Getenv("REQUIRE_ALL") == "1" {
		t.Fatal("the sample is one of amd64")
	}
	t.Skip("the sample is one of amd64")
}

// withBuildID puts a note before the code of an image.
func withBuildID(image, id []byte) []byte {
	binary.LittleEndian.PutUint16(image[56:], 2) // e_phnum
	note := append([]byte{4, 0, 0, 0, byte(len(id)), 0, 0, 0, 3, 0, 0, 0, 'G', 'N', 'U', 0}, id...)
	copy(image[0x200:], note)
	var p bytes.Buffer
	if err := binary.Write(&p, binary.LittleEndian, elf.Prog64{Type: uint32(elf.PT_NOTE), Off: 0x200, Filesz: uint64(len(note)), Align: 4}); err != nil {
		panic(err)
	}
	copy(image[64+56:], p.Bytes())
	return image
}

// carrying gives a sample registers and a stack whose frame pointers lead from
// 0x401010 over 0x401020 to the end.
func carrying(s bpf.Sample) bpf.Sample {
	const sp = 0x7ff000
	words := []uint64{0, 0, sp + 48, 0x401021, 0, 0, 0, 0x401031}
	for _, w := range words {
		s.Stack = binary.LittleEndian.AppendUint64(s.Stack, w)
	}
	s.Registers = make([]uint64, 21)
	for i, n := range ptRegs {
		switch n {
		case pc:
			s.Registers[i] = 0x401010
		case arch.SP():
			s.Registers[i] = sp
		case arch.FP():
			s.Registers[i] = sp + 16
		}
	}
	s.Exact = true
	return s
}

func TestLostRecordsAreCounted(t *testing.T) {
	m := newMachine(t)
	m.drain(bpf.Event{Kind: bpf.EventLost, Lost: 7}, bpf.Event{Kind: bpf.EventLost, Lost: 35})
	var metric dto.Metric
	if err := m.agent.account.lost.Write(&metric); err != nil {
		t.Fatal(err)
	}
	if got := metric.GetCounter().GetValue(); got != 42 {
		t.Errorf("%v lost records are counted, want 42", got)
	}
}

func TestReportTellsWhatWasUnfinished(t *testing.T) {
	m := newMachine(t)
	account := m.agent.account
	for i, want := range []Account{{Unfinished: 31, Finished: 3}, {Unfinished: 31, Finished: 3}} {
		n := uint64(i + 1)
		account.unwound(unwindStats{finished: [finishOutcomes]uint64{finishedWhole: n, finishedCut: 2 * n, finishLate: 4 * n, finishShed: 8 * n, finishRefused: 16 * n}})
		r, err := account.report(&window{level: 2, stats: bpf.Stats{TableBytes: 5}})
		if err != nil {
			t.Fatal(err)
		}
		if r.Window.Unfinished != want.Unfinished || r.Window.Finished != want.Finished || r.Total.Unfinished != 31*n || r.Level != 2 || r.TableBytes != 5 {
			t.Errorf("report %d: %+v", i, r)
		}
	}
}
