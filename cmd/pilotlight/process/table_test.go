package process

import (
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

const (
	shMaps = "00401000-00403000 r-xp 00001000 08:01 11 /bin/sh\n7f0000000000-7f0000001000 r-xp 00002000 08:01 12 /lib/libc.so\n"
	exeAt  = 0x401000
	libAt  = 0x7f0000000000
)

// shell is a process that many of the tests start with.
func shell() fakeProcess {
	return fakeProcess{comm: "sh", ppid: 1, ticks: 1000, exe: "/bin/sh", cmdline: "sh -l", maps: shMaps,
		cgroup: "0::/system.slice/build.service\n"}
}

const (
	shellPID   = 100
	shellStart = 1000*tick + 123
)

func sample(pid uint32, start uint64, exec uint32, comm string) Sample {
	return Sample{PID: pid, TID: pid, Start: start, Exec: exec, Comm: comm}
}

// summary says in a line what tests compare of a process.
func summary(p *Process) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", p.Comm, p.Exe)
	if p.Cmdline != nil {
		fmt.Fprintf(&b, " %q", strings.Join(p.Cmdline, " "))
	}
	fmt.Fprintf(&b, " %s", p.Cgroup.Unit)
	for _, m := range p.Mappings {
		fmt.Fprintf(&b, " %x-%x+%x:%s", m.Start, m.End, m.Offset, m.Path)
	}
	return b.String()
}

func check(t *testing.T, got *Process, want string) {
	t.Helper()
	if s := summary(got); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
}

func snapshot(t *testing.T, table *Table) {
	t.Helper()
	if err := table.Snapshot(); err != nil {
		t.Fatal(err)
	}
}

// execRecords sends the records of an exec: the name, the executable, a library, the
// vDSO.
func execRecords(table *Table, time uint64, pid uint32, path string) {
	table.Exec(time, pid, baseName(path))
	table.Mmap(time, pid, Record{Start: exeAt, End: exeAt + 0x1000, Path: path, BuildID: []byte{1}})
	table.Mmap(time, pid, Record{Start: libAt, End: libAt + 0x1000, Offset: 0x1000, Path: "/lib/ld.so", BuildID: []byte{2}})
}

const (
	shSummary = `sh /bin/sh "sh -l" build.service 401000-403000+1000:/bin/sh 7f0000000000-7f0000001000+2000:/lib/libc.so`
	lsMaps    = " 401000-402000+0:/bin/ls 7f0000000000-7f0000001000+1000:/lib/ld.so"
)

func TestTableSnapshot(t *testing.T) {
	proc := newProc()
	proc.put(shellPID, shell())
	proc.put(2, fakeProcess{comm: "kthreadd", flags: pfKthread})
	table := NewTable(proc, Options{})
	snapshot(t, table)
	p := table.Lookup(10, sample(shellPID, shellStart, 3, "sh"))
	check(t, p, shSummary)
	if want := (Key{shellPID, shellStart, 3}); p.Key != want {
		t.Errorf("key %v, want %v", p.Key, want)
	}
	if again := table.Lookup(11, sample(shellPID, shellStart, 3, "sh")); again != p {
		t.Error("the same process gives another Process")
	}
	if k := table.Lookup(12, sample(2, 5, 0, "kthreadd")); !k.KernelThread {
		t.Errorf("got %+v", k)
	}
	table.Fork(13, 2, 7)
	if k := table.Lookup(14, sample(7, 6, 0, "kworker/u:1")); !k.KernelThread || k.Comm != "kworker/u:1" {
		t.Errorf("a new kernel thread: %+v", k)
	}
	if k := table.Lookup(15, sample(0, 0, 0, "swapper/1")); !k.KernelThread || k.Comm != "swapper/1" {
		t.Errorf("the idle task: %+v", k)
	}
}

func TestTableWithoutSnapshot(t *testing.T) {
	proc := newProc()
	proc.put(shellPID, shell())
	table := NewTable(proc, Options{})
	check(t, table.Lookup(10, sample(shellPID, shellStart, 3, "sh")), shSummary)
	// Mapping a library does not make it the executable of an unknown process.
	table.Mmap(10, 6, Record{Start: libAt, End: libAt + 0x1000, Path: "/lib/nss.so"})
	check(t, table.Lookup(10, sample(6, 66, 1, "x")), "x   7f0000000000-7f0000001000+0:/lib/nss.so")
	// Nobody has heard of this one: its sample is all there is.
	p := table.Lookup(11, sample(5, 77, 1, "gone"))
	check(t, p, "gone  ")
	if want := (Key{5, 77, 1}); p.Key != want {
		t.Errorf("key %v, want %v", p.Key, want)
	}
}

// TestTableGone is about a process that lives and dies before anybody looks: its
// records and its parent tell about it.
func TestTableGone(t *testing.T) {
	proc := newProc()
	proc.put(shellPID, shell())
	table := NewTable(proc, Options{})
	snapshot(t, table)
	table.Fork(10, shellPID, 101)
	table.Fork(11, 101, 102)
	execRecords(table, 12, 102, "/bin/ls")
	table.Exit(13, 102, 102)
	table.Exit(14, 101, 101)

	child := table.Lookup(10, sample(101, shellStart+5, 3, "sh"))
	check(t, child, shSummary)
	if child.PPID != shellPID || child.Exec != 3 {
		t.Errorf("got %+v", child)
	}
	ls := table.Lookup(13, sample(102, shellStart+6, 4, "ls"))
	check(t, ls, "ls /bin/ls build.service"+lsMaps)
	if ls.Mappings[0].BuildID.String() != "01" {
		t.Errorf("build ID %v", ls.Mappings[0].BuildID)
	}

	table.Expire(13)
	check(t, table.Lookup(15, sample(102, shellStart+6, 4, "ls")), "ls /bin/ls build.service"+lsMaps)
	table.Expire(14)
	check(t, table.Lookup(16, sample(102, shellStart+6, 4, "ls")), "ls  ")
}

// TestTableCommandLineOfAncestor: a forked child that is gone has the command
// line of its parent, which nobody has read yet; an exec ends that.
func TestTableCommandLineOfAncestor(t *testing.T) {
	proc := newProc()
	proc.put(shellPID, fakeProcess{comm: "python3", ticks: 1000, exe: "/usr/bin/python3", cmdline: "python3 pool.py",
		cgroup: "0::/system.slice/pool.service", environ: "A=B\x00OTEL_SERVICE_NAME=shop\x00"})
	table := NewTable(proc, Options{ReadEnviron: true})
	snapshot(t, table)
	table.Fork(10, shellPID, 101)
	table.Fork(11, 101, 102)
	table.Exit(12, 102, 102)
	table.Exit(13, 101, 101)
	p := table.Lookup(12, sample(102, 5, 1, "python3"))
	if p.Program != "pool.py" || p.Cgroup.Unit != "pool.service" || p.OTelService != "shop" {
		t.Errorf("got %+v", p)
	}
	table.Fork(14, shellPID, 103)
	table.Exec(15, 103, "ls")
	table.Exit(16, 103, 103)
	if p := table.Lookup(16, sample(103, 7, 2, "ls")); p.Program != "" || p.OTelService != "" || p.Exe != "" || p.Cgroup.Unit != "pool.service" {
		t.Errorf("got %+v", p)
	}
}

func TestTableEnvironNotAllowed(t *testing.T) {
	proc := newProc()
	p := shell()
	p.environ = "OTEL_SERVICE_NAME=shop\x00"
	proc.put(shellPID, p)
	read := map[string]bool{}
	table := NewTable(recording{proc, read}, Options{})
	snapshot(t, table)
	if p := table.Lookup(10, sample(shellPID, shellStart, 3, "sh")); p.OTelService != "" || read["100/environ"] || !read["100/cmdline"] {
		t.Errorf("service %q, read %v", p.OTelService, read)
	}
}

// TestTableReadEnviron allows it when processes are known already, and forbids it again.
func TestTableReadEnviron(t *testing.T) {
	proc := newProc()
	p := shell()
	p.environ = "OTEL_SERVICE_NAME=shop\x00"
	proc.put(shellPID, p)
	table := NewTable(proc, Options{})
	snapshot(t, table)
	table.Fork(5, shellPID, 101) // shares what was read
	for i, allowed := range []bool{false, true, true, false} {
		table.ReadEnviron(allowed)
		want := ""
		if allowed {
			want = "shop"
		}
		for _, s := range []Sample{sample(101, shellStart+5, 3, "sh"), sample(shellPID, shellStart, 3, "sh")} {
			p := table.Lookup(uint64(10+i), s)
			if p.OTelService != want || p.Exe == "" || p.Cgroup.Unit == "" {
				t.Errorf("allowed %v: %+v, want the service %q", allowed, p, want)
			}
		}
	}
}

// recording notes which files are opened.
type recording struct {
	fakeProc
	opened map[string]bool
}

func (r recording) Open(name string) (fs.File, error) {
	r.opened[name] = true
	return r.fakeProc.Open(name)
}

func TestTableUnsampledProcessesCostNoReads(t *testing.T) {
	proc := newProc()
	proc.put(shellPID, shell())
	read := map[string]bool{}
	table := NewTable(recording{proc, read}, Options{})
	snapshot(t, table)
	clear(read)
	for pid := uint32(200); pid < 210; pid++ {
		table.Fork(10, shellPID, pid)
		execRecords(table, 11, pid, "/bin/ls")
		table.Exit(12, pid, pid)
	}
	table.Expire(20)
	if len(read) != 0 {
		t.Errorf("read %v", read)
	}
	if s := table.Stats(); s.Processes != 1 || s.Mappings != 2 {
		t.Errorf("%+v", s)
	}
}

// TestTableRecordsOlderThanSnapshot: the records since the side band was opened
// come after the snapshot that has all of them in it.
func TestTableRecordsOlderThanSnapshot(t *testing.T) {
	proc := newProc()
	proc.put(shellPID, shell())
	child := fakeProcess{comm: "ls", ppid: shellPID, ticks: 1001, exe: "/bin/ls", cmdline: "ls -l", cgroup: "0::/system.slice/build.service",
		maps: "00401000-00402000 r-xp 00000000 08:01 13 /bin/ls\n7f0000000000-7f0000001000 r-xp 00001000 08:01 14 /lib/ld.so\n"}
	proc.put(101, child)
	table := NewTable(proc, Options{})
	snapshot(t, table)
	want := `ls /bin/ls "ls -l" build.service` + lsMaps
	table.Fork(5, shellPID, 101)
	execRecords(table, 6, 101, "/bin/ls")
	check(t, table.Lookup(7, sample(101, 1001*tick+7, 4, "ls")), want)
	snapshot(t, table)
	check(t, table.Lookup(8, sample(101, 1001*tick+7, 4, "ls")), want)
	if s := table.Stats(); s.Processes != 2 || s.Mappings != 4 {
		t.Errorf("%+v", s)
	}
}

// TestTableExecAhead: the sample is of the shell, but what /proc has under its
// pid is already what the shell will run next.
func TestTableExecAhead(t *testing.T) {
	proc := newProc()
	proc.put(shellPID, shell())
	table := NewTable(proc, Options{})
	snapshot(t, table)
	ahead := shell()
	ahead.comm, ahead.exe, ahead.cmdline = "ls", "/bin/ls", "ls -l"
	proc.put(shellPID, ahead)
	p := table.Lookup(10, sample(shellPID, shellStart, 3, "sh"))
	if p.Exe != "/bin/sh" || p.Cmdline != nil {
		t.Errorf("before the exec: %s", summary(p))
	}
	execRecords(table, 11, shellPID, "/bin/ls")
	next := table.Lookup(12, sample(shellPID, shellStart, 4, "ls"))
	check(t, next, `ls /bin/ls "ls -l" build.service`+lsMaps)
	if next == p || next.Key == p.Key || p.Exe != "/bin/sh" {
		t.Errorf("keys %v and %v", p.Key, next.Key)
	}
	// Between the record of an exec and its being counted.
	if q := table.Lookup(13, sample(shellPID, shellStart, 3, "ls")); q != next {
		t.Errorf("a sample in mid-exec gives %+v", q)
	}
}

func TestTableForkCopiesOnWrite(t *testing.T) {
	proc := newProc()
	proc.put(shellPID, shell())
	table := NewTable(proc, Options{})
	snapshot(t, table)
	table.Fork(10, shellPID, 101)
	parent := table.Lookup(11, sample(shellPID, shellStart, 3, "sh"))
	child := table.Lookup(11, sample(101, 9, 3, "sh"))
	if &parent.Mappings[0] != &child.Mappings[0] {
		t.Error("mappings are not shared after fork")
	}
	before := parent.Mappings
	jit := Record{Start: 0x1000, End: 0x2000, Path: "//anon", Offset: 0x1000}
	table.Mmap(12, 101, jit)
	check(t, table.Lookup(13, sample(shellPID, shellStart, 3, "sh")), shSummary)
	if child = table.Lookup(13, sample(101, 9, 3, "sh")); len(child.Mappings) != 3 || child.Mappings[0].Kind != Anonymous || child.Mappings[0].Offset != 0 {
		t.Errorf("child: %s", summary(child))
	}
	if child.Mappings[1].Object != before[0].Object {
		t.Error("the files of a forked child are not its parent's")
	}
	table.Mmap(14, shellPID, jit)
	if !reflect.DeepEqual(before, parseShell(t)) {
		t.Error("a slice that was handed out has changed")
	}
	table.Exit(15, 101, 101)
	table.Expire(16)
	if s := table.Stats(); s.Mappings != 3 {
		t.Errorf("%+v", s)
	}
}

func parseShell(t *testing.T) Mappings {
	t.Helper()
	ms, _, err := parseMaps(strings.NewReader(shMaps), 10)
	if err != nil {
		t.Fatal(err)
	}
	return ms
}

func TestTablePIDReuse(t *testing.T) {
	proc := newProc()
	proc.put(shellPID, shell())
	table := NewTable(proc, Options{})
	snapshot(t, table)
	table.Fork(10, shellPID, 101)
	execRecords(table, 11, 101, "/bin/ls")
	table.Exit(12, 101, 101)
	table.Fork(13, shellPID, 101)
	execRecords(table, 14, 101, "/bin/cat")
	cat := table.Lookup(15, sample(101, 2000, 4, "cat"))
	if cat.Exe != "/bin/cat" || cat.Start != 2000 {
		t.Errorf("got %+v", cat)
	}
	table.Expire(13)
	if s := table.Stats(); s.Processes != 2 {
		t.Errorf("%+v", s)
	}
	// The exit and the fork of the next bearer were lost: the start tells.
	proc.put(101, fakeProcess{comm: "awk", ticks: 1003, exe: "/bin/awk"})
	if p := table.Lookup(16, sample(101, 1003*tick+1, 4, "awk")); p.Exe != "/bin/awk" {
		t.Errorf("got %+v", p)
	}
	// A sample of one that has long expired makes no entry in place of the new.
	if p := table.Lookup(17, sample(101, 1000, 4, "ls")); p.Exe != "" || p.Start != 1000 {
		t.Errorf("got %+v", p)
	}
	if p := table.Lookup(18, sample(101, 1003*tick+1, 4, "awk")); p.Exe != "/bin/awk" {
		t.Errorf("got %+v", p)
	}
}

func TestTableLost(t *testing.T) {
	ls := fakeProcess{comm: "ls", ticks: 1000, exe: "/bin/ls", cmdline: "ls -l", cgroup: "0::/system.slice/build.service",
		maps: "00401000-00402000 r-xp 00000000 08:01 13 /bin/ls\n7f0000000000-7f0000001000 r-xp 00001000 08:01 14 /lib/ld.so\n"}
	lsSummary := `ls /bin/ls "ls -l" build.service` + lsMaps
	begin := func(t *testing.T) (fakeProc, *Table) {
		proc := newProc()
		proc.put(shellPID, shell())
		table := NewTable(proc, Options{})
		snapshot(t, table)
		check(t, table.Lookup(10, sample(shellPID, shellStart, 3, "sh")), shSummary)
		return proc, table
	}
	t.Run("exec, then lookup", func(t *testing.T) {
		proc, table := begin(t)
		proc.put(shellPID, ls)
		table.Lost()
		check(t, table.Lookup(11, sample(shellPID, shellStart, 4, "ls")), lsSummary)
	})
	t.Run("exec, then snapshot", func(t *testing.T) {
		proc, table := begin(t)
		proc.put(shellPID, ls)
		table.Lost()
		snapshot(t, table)
		check(t, table.Lookup(11, sample(shellPID, shellStart, 4, "ls")), lsSummary)
	})
	t.Run("exec of the same program", func(t *testing.T) {
		proc, table := begin(t)
		again := shell()
		again.cmdline = "sh run.sh"
		proc.put(shellPID, again)
		table.Lost()
		snapshot(t, table)
		if p := table.Lookup(11, sample(shellPID, shellStart, 4, "sh")); p.Program != "run.sh" || p.Exec != 4 {
			t.Errorf("got %s", summary(p))
		}
	})
	t.Run("exec and exit", func(t *testing.T) {
		proc, table := begin(t)
		proc.kill(shellPID)
		table.Lost()
		check(t, table.Lookup(11, sample(shellPID, shellStart, 4, "ls")), "ls  build.service")
	})
	t.Run("exit, then snapshot", func(t *testing.T) {
		proc, table := begin(t)
		proc.kill(shellPID)
		table.Lost()
		snapshot(t, table)
		check(t, table.Lookup(11, sample(shellPID, shellStart, 3, "sh")), shSummary)
		table.Expire(12)
		if s := table.Stats(); s.Processes != 0 || s.Mappings != 0 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("exit and another process", func(t *testing.T) {
		proc, table := begin(t)
		ls.ticks = 1005
		proc.put(shellPID, ls)
		table.Lost()
		snapshot(t, table)
		check(t, table.Lookup(11, sample(shellPID, 1005*tick+3, 4, "ls")), lsSummary)
		check(t, table.Lookup(11, sample(shellPID, shellStart, 3, "sh")), shSummary)
	})
	t.Run("a mapping", func(t *testing.T) {
		proc, table := begin(t)
		before := table.Lookup(11, sample(shellPID, shellStart, 3, "sh")).Mappings
		more := shell()
		more.maps = "00001000-00002000 r-xp 00000000 08:01 15 /lib/x.so\n" + shMaps
		proc.put(shellPID, more)
		table.Lost()
		p := table.Lookup(12, sample(shellPID, shellStart, 3, "sh"))
		if len(p.Mappings) != 3 || p.Mappings[2].Object != before[1].Object {
			t.Errorf("got %s", summary(p))
		}
	})
	t.Run("the fork", func(t *testing.T) {
		proc, table := begin(t)
		table.Fork(11, shellPID, 101)
		table.Exit(12, 101, 101)
		table.Fork(13, shellPID, 101)
		table.Lost() // an exit of 101
		table.Fork(14, shellPID, 101)
		execRecords(table, 15, 101, "/bin/ls")
		proc.put(101, ls)
		if p := table.Lookup(16, sample(101, 1005*tick, 4, "ls")); p.Exe != "/bin/ls" || p.Exec != 4 {
			t.Errorf("got %s", summary(p))
		}
	})
}

// TestTableLeaderExits: a process lives as long as one of its threads does.
func TestTableLeaderExits(t *testing.T) {
	proc := newProc()
	threaded := shell()
	threaded.threads = 2
	proc.put(shellPID, threaded)
	table := NewTable(proc, Options{})
	snapshot(t, table)
	table.Exit(11, shellPID, shellPID)
	zombie := shell()
	zombie.state, zombie.threads, zombie.maps, zombie.exe = "Z", 2, "", ""
	proc.put(shellPID, zombie)
	table.Expire(20)
	s := sample(shellPID, shellStart, 3, "sh")
	s.TID = 555
	if p := table.Lookup(30, s); p.Exe != "/bin/sh" || len(p.Mappings) != 2 {
		t.Errorf("got %s", summary(p))
	}
	table.Lost()
	if p := table.Lookup(31, s); p.Exe != "/bin/sh" || len(p.Mappings) != 2 {
		t.Errorf("after a loss: %s", summary(p))
	}
	key := Key{shellPID, shellStart, 3}
	if p, ok := table.Current(key); !ok || !table.LeaderExited(shellPID) || len(p.Mappings) != 2 {
		t.Errorf("Current says %v, LeaderExited %v", ok, table.LeaderExited(shellPID))
	}
	table.Exit(32, shellPID, 555)
	proc.kill(shellPID)
	if _, ok := table.Current(key); ok {
		t.Error("Current returns a process whose last thread has exited")
	}
	table.Exit(33, 1, 1)
	table.Expire(40)
	if s := table.Stats(); s.Processes != 0 {
		t.Errorf("%+v", s)
	}
}

// TestTableLeaderExited: where the leader had exited before anybody looked, its threads show what they run.
func TestTableLeaderExited(t *testing.T) {
	proc := newProc()
	thread, zombie := shell(), shell()
	thread.threads = 2
	zombie.state, zombie.threads, zombie.maps, zombie.exe = "Z", 2, "", ""
	proc.put(shellPID, zombie)
	proc.put(555, thread)
	proc.MapFS[fmt.Sprintf("%d/task/%d/comm", shellPID, shellPID)] = &fstest.MapFile{}
	proc.MapFS[fmt.Sprintf("%d/task/555/comm", shellPID)] = &fstest.MapFile{}
	table := NewTable(unlisted{proc, "555"}, Options{})
	snapshot(t, table)
	s := sample(shellPID, shellStart, 3, "sh")
	s.TID = 555
	if p := table.Lookup(30, s); p.Exe != "/bin/sh" || len(p.Mappings) != 2 {
		t.Errorf("got %s", summary(p))
	}
	if p, ok := table.Current(Key{shellPID, shellStart, 3}); !ok || len(p.Mappings) != 2 {
		t.Errorf("Current says %v", ok)
	}
}

// unlisted does not list one entry, as /proc does with the ids of threads.
type unlisted struct {
	fakeProc
	name string
}

func (u unlisted) ReadDir(name string) ([]fs.DirEntry, error) {
	list, err := u.fakeProc.ReadDir(name)
	if name == "." {
		list = slices.DeleteFunc(list, func(d fs.DirEntry) bool { return d.Name() == u.name })
	}
	return list, err
}

func TestTableThreadExecs(t *testing.T) {
	proc := newProc()
	threaded := shell()
	threaded.threads = 2
	proc.put(shellPID, threaded)
	table := NewTable(proc, Options{})
	snapshot(t, table)
	table.Exit(11, shellPID, shellPID) // the leader gives way to the thread that calls exec
	execRecords(table, 12, shellPID, "/bin/ls")
	table.Expire(20)
	if p := table.Lookup(30, sample(shellPID, shellStart, 4, "ls")); p.Exe != "/bin/ls" {
		t.Errorf("got %s", summary(p))
	}
}

func TestTableBounds(t *testing.T) {
	proc := newProc()
	proc.put(shellPID, shell())
	table := NewTable(proc, Options{MaxProcesses: 3, MaxMappings: 20, MaxMappingsPerProcess: 8})
	snapshot(t, table)
	for pid := uint32(1000); pid < 1100; pid++ {
		table.Fork(uint64(pid), shellPID, pid)
	}
	if s := table.Stats(); s.Processes != 3 || s.RefusedProcesses != 98 || s.Mappings != 2 {
		t.Errorf("%+v", s)
	}
	if p := table.Lookup(1100, sample(1099, 9, 3, "x")); p.Comm != "x" || p.PID != 1099 {
		t.Errorf("a refused process gives %+v", p)
	}
	table.Exit(1101, 1000, 1000)
	table.Fork(1102, shellPID, 2000)
	if s := table.Stats(); s.Processes != 3 || s.ExpiredEarly != 1 {
		t.Errorf("an exited process makes no room: %+v", s)
	}
	for i := range uint64(100) {
		for _, pid := range []uint32{shellPID, 1001, 2000} {
			table.Mmap(1103, pid, Record{Start: i << 16, End: i<<16 + 1, Path: "//anon"})
		}
	}
	if p := table.Lookup(1104, sample(shellPID, shellStart, 3, "sh")); len(p.Mappings) > 8 {
		t.Errorf("%d mappings of one process", len(p.Mappings))
	}
	s := table.Stats()
	if s.Mappings > 20 || s.RefusedMappings < 300-20 {
		t.Errorf("%+v", s)
	}
	table.Mmap(1105, shellPID, Record{Start: 2, End: 1})
	if now := table.Stats(); now.RefusedMappings != s.RefusedMappings+1 {
		t.Errorf("an empty range is not counted: %+v", now)
	}
}

func TestTableCountsReadErrors(t *testing.T) {
	proc := newProc()
	proc.put(shellPID, shell())
	proc.MapFS["101/stat"] = proc.MapFS["100/cmdline"]
	table := NewTable(proc, Options{})
	snapshot(t, table)
	if s := table.Stats(); s.ReadErrors != 1 || s.Processes != 1 {
		t.Errorf("%+v", s)
	}
}

// TestTableSelf takes a snapshot of this machine and looks this test up in it.
func TestTableSelf(t *testing.T) {
	proc := os.DirFS("/proc")
	table := NewTable(proc, Options{})
	snapshot(t, table)
	pid := uint32(os.Getpid())
	st, err := readStat(proc, pid)
	if err != nil {
		t.Fatal(err)
	}
	p := table.Lookup(1, sample(pid, st.start+1, 9, "x"))
	want, err := Read(proc, pid)
	if err != nil {
		t.Fatal(err)
	}
	if p.Exe != want.Exe || !reflect.DeepEqual(p.Cmdline, want.Cmdline) || p.Cgroup != want.Cgroup || p.PPID != want.PPID {
		t.Errorf("got  %+v\nwant %+v", p, want)
	}
	pc := uint64(reflect.ValueOf(TestTableSelf).Pointer())
	if m, ok := p.Mappings.Find(pc); !ok || m.Path != want.Exe {
		t.Errorf("pc %#x of this test lies in %+v", pc, m)
	}
}

// BenchmarkForkStorm is the cost of a process that lives between two samples:
// fork, exec, five mappings, exit.
func BenchmarkForkStorm(b *testing.B) {
	proc := newProc()
	proc.put(shellPID, shell())
	table := NewTable(proc, Options{})
	if err := table.Snapshot(); err != nil {
		b.Fatal(err)
	}
	id := make([]byte, 20)
	b.ReportAllocs()
	time := uint64(0)
	for b.Loop() {
		time++
		pid := uint32(1000 + time%30000)
		table.Fork(time, shellPID, pid)
		table.Exec(time, pid, "ls")
		for i := range uint64(5) {
			table.Mmap(time, pid, Record{Start: libAt + i<<24, End: libAt + i<<24 + 0x5000, Path: "/usr/lib/x86_64-linux-gnu/libc.so.6", BuildID: id})
		}
		table.Exit(time, pid, pid)
		if time > 1000 {
			table.Expire(time - 1000)
		}
	}
}

func BenchmarkSnapshot(b *testing.B) {
	proc := os.DirFS("/proc")
	var s TableStats
	for b.Loop() {
		table := NewTable(proc, Options{})
		if err := table.Snapshot(); err != nil {
			b.Fatal(err)
		}
		s = table.Stats()
	}
	b.ReportMetric(float64(s.Processes), "processes")
	b.ReportMetric(float64(s.Mappings), "mappings")
}

func BenchmarkLookup(b *testing.B) {
	proc := newProc()
	proc.put(shellPID, shell())
	table := NewTable(proc, Options{})
	b.ReportAllocs()
	for b.Loop() {
		table.Lookup(1, sample(shellPID, shellStart, 3, "sh"))
	}
}

// BenchmarkFirstLookup is the cost of the first sample of a process on this
// machine, whose mappings are known from records.
func BenchmarkFirstLookup(b *testing.B) {
	proc := os.DirFS("/proc")
	pid := uint32(os.Getpid())
	st, err := readStat(proc, pid)
	if err != nil {
		b.Fatal(err)
	}
	table := NewTable(proc, Options{})
	n := uint32(0)
	for b.Loop() {
		n++
		table.Exec(1, pid, "x")
		table.Lookup(2, sample(pid, st.start+1, n, "x"))
	}
}

// TestCurrentIsWhatRunsNow asks for a process by what a sample said of it.
func TestCurrentIsWhatRunsNow(t *testing.T) {
	proc := newProc()
	proc.put(shellPID, shell())
	table := NewTable(proc, Options{})
	snapshot(t, table)
	if _, ok := table.Current(Key{shellPID, shellStart, 3}); ok {
		t.Error("known by a start and exec count that no sample has told")
	}
	key := table.Lookup(10, sample(shellPID, shellStart, 3, "sh")).Key
	before, ok := table.Current(key)
	if !ok {
		t.Fatal("not known after a sample")
	}
	mappings := before.Mappings
	table.Mmap(20, shellPID, Record{Start: 0x1000, End: 0x2000, Path: "/lib/new.so", BuildID: []byte{1}})
	now, ok := table.Current(key)
	if !ok || len(now.Mappings) != len(mappings)+1 {
		t.Errorf("%d mappings after one was added to %d", len(now.Mappings), len(mappings))
	}
	if len(mappings) != 2 {
		t.Errorf("mappings that were handed out have changed: %v", mappings)
	}
	table.Exec(30, shellPID, "ls")
	if p, ok := table.Current(key); ok {
		t.Errorf("runs %s, still called the program before", p.Comm)
	}
	key = table.Lookup(40, sample(shellPID, shellStart, 4, "ls")).Key
	table.Exit(50, shellPID, shellPID)
	if _, ok := table.Current(key); ok {
		t.Error("there although it has exited")
	}
}

func TestBusiest(t *testing.T) {
	proc := newProc()
	for pid, cpu := range map[int]int{10: 5, 11: 500, 12: 50, 13: 1000} {
		p := shell()
		p.cpu = cpu
		proc.put(pid, p)
	}
	proc.put(2, fakeProcess{comm: "kthreadd", flags: pfKthread, cpu: 9999})
	table := NewTable(proc, Options{})
	snapshot(t, table)
	table.Exit(5, 13, 13)
	var got []uint32
	for _, p := range table.Busiest(2) {
		got = append(got, p.PID)
		if p.Start != 1000*tick || len(p.Mappings) != 2 {
			t.Errorf("got %+v", p)
		}
	}
	if want := []uint32{11, 12}; !reflect.DeepEqual(got, want) {
		t.Errorf("busiest are %v, want %v", got, want)
	}
}
