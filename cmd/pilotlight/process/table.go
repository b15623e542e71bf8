package process

import (
	"cmp"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
)

// Options of a Table. The zero value is the documented default.
type Options struct {
	// MaxProcesses bounds the processes held, with those that exited and have
	// not expired; 0 means 65,536.
	MaxProcesses int
	// MaxMappings bounds the executable mappings held, counted once for
	// processes that share them since fork; 0 means 262,144.
	MaxMappings int
	// MaxMappingsPerProcess keeps one process from taking them all, and the cost
	// of an insertion small; 0 means 8,192.
	MaxMappingsPerProcess int
	// ReadEnviron allows to read OTEL_SERVICE_NAME from /proc/PID/environ.
	ReadEnviron bool
}

const (
	defaultMaxProcesses          = 1 << 16
	defaultMaxMappings           = 1 << 18
	defaultMaxMappingsPerProcess = 1 << 13
)

// TableStats says what a Table holds, and counts what it could not do.
type TableStats struct {
	Processes int // held, exited ones included
	Mappings  int // held
	// RefusedProcesses counts records, samples and readings of processes that did
	// not fit, RefusedMappings the mappings that did not, or that had no range.
	RefusedProcesses, RefusedMappings uint64
	// ExpiredEarly are exited processes forgotten to make room.
	ExpiredEarly uint64
	// ReadErrors are reads of /proc that went wrong for another reason than that
	// the process was gone.
	ReadErrors uint64
}

// Sample is what a sample says about the process that it hit.
type Sample struct {
	PID, TID uint32
	Start    uint64 // start_boottime of the group leader in ns
	Exec     uint32 // self_exec_id of the group leader
	Comm     string // of the group leader
}

// Table holds the processes that live, and those that exited and may still be
// asked for. Times are CLOCK_MONOTONIC in nanoseconds, and calls must come in
// their order; the side-band events must be open on all CPUs before Snapshot is
// called. Then the order of Snapshot and the records matters little: a reading
// of /proc may be newer than records that are still to come, and these then
// lead to the same state again.
//
// A record says all there is to know about a process from its exec on. What is
// known about a process is therefore complete if it was read from /proc, or if
// its exec or the fork from a parent that is itself completely known has been
// seen, and no record was lost since. Lookup reads /proc again if it is not.
//
// A Table has no goroutines and no locks; it belongs to one goroutine.
type Table struct {
	proc    fs.FS
	options Options
	pids    map[uint32]*entry // the latest bearer of each pid
	exits   []exit            // in order of time
	expired int               // exits[:expired] are done with
	now     uint64            // latest time told
	// epoch grows with each loss; entry.epoch tells whether an entry is complete.
	epoch  uint64
	serial uint64
	stats  TableStats
}

// entry is a process in the table. It is kept small, and is given a Process, for
// which /proc must be read, only when a sample hits it: most processes of a fork
// storm are never sampled.
type entry struct {
	pid, ppid uint32
	// serial numbers the entries; parent is that of the process that forked this
	// one, which is more than ppid says once that pid is used again.
	serial, parent uint64
	start          uint64 // ns since boot; 0 if unknown
	exact          bool   // start is not cut to ticks
	exec           uint32
	execKnown      bool
	epoch          uint64
	exited         uint64 // time, 0 if it lives
	cpu            uint64 // time used when it was read from /proc, in ticks
	kernel         bool
	threaded       bool // has, or had, more threads than its leader
	cgroupKnown    bool // cgroup is of the present image or later
	comm           string
	cgroup         *Cgroup // nil if unknown
	image          *image
	space          *space
	view           *Process
	previous       *entry // the bearer of the pid before this one
}

// image is what an exec determines. Fork shares it.
type image struct {
	exe    string
	execed bool // by a record: the first file that is mapped is the executable
	read   bool // the fields below have been looked for
	// As in Process.
	cmdline     []string
	program     string
	otelService string
}

// space holds mappings. It is shared by fork until one side changes it, and
// copied before a change if a Process has the slice.
type space struct {
	mappings Mappings
	users    int
	lent     bool
}

type exit struct {
	time  uint64
	entry *entry
}

// NewTable returns an empty table. proc is os.DirFS("/proc"), or a test's.
func NewTable(proc fs.FS, o Options) *Table {
	for _, v := range []struct {
		value *int
		dflt  int
	}{
		{&o.MaxProcesses, defaultMaxProcesses},
		{&o.MaxMappings, defaultMaxMappings},
		{&o.MaxMappingsPerProcess, defaultMaxMappingsPerProcess},
	} {
		if *v.value == 0 {
			*v.value = v.dflt
		}
	}
	return &Table{proc: proc, options: o, pids: make(map[uint32]*entry), epoch: 1}
}

// ReadEnviron allows, or forbids from now on, what Options.ReadEnviron does. What
// processes call themselves in their environment is read, or forgotten, when they
// are looked up next.
func (t *Table) ReadEnviron(allowed bool) {
	if allowed == t.options.ReadEnviron {
		return
	}
	t.options.ReadEnviron = allowed
	for _, e := range t.pids {
		for ; e != nil; e = e.previous {
			e.image.read = e.image.read && !allowed
			e.image.otelService = ""
			e.view = nil
		}
	}
}

// Stats returns the present figures.
func (t *Table) Stats() TableStats { return t.stats }

// Snapshot reads all processes of which not everything is known: at the start
// those that no exec was seen of, and after Lost all of them. Processes that are
// not in /proc any more, though no record said so, are taken to have exited now.
// An error means that /proc as a whole could not be read; a single process that
// cannot be is counted in TableStats.ReadErrors.
func (t *Table) Snapshot() error {
	pids, err := t.list()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		e := t.pids[pid]
		if e != nil && e.epoch == t.epoch && e.exited == 0 {
			continue
		}
		if e != nil && t.reread(e) {
			continue
		}
		// None is known, or another process bears the pid now.
		if e = t.add(pid); e != nil && !t.reread(e) {
			t.remove(e)
		}
	}
	t.reap(pids)
	return nil
}

// Reap takes processes that are not in /proc any more, though no record said so, to have exited now, as Snapshot does. It
// reads nothing else. An error means that /proc could not be listed.
func (t *Table) Reap() error {
	pids, err := t.list()
	if err != nil {
		return err
	}
	t.reap(pids)
	return nil
}

// list returns the pids in /proc.
func (t *Table) list() ([]uint32, error) {
	list, err := fs.ReadDir(t.proc, ".")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	pids := make([]uint32, 0, len(list))
	for _, d := range list {
		if pid, err := strconv.ParseUint(d.Name(), 10, 32); err == nil { // else not a process
			pids = append(pids, uint32(pid))
		}
	}
	return pids, nil
}

// reap takes all other processes than these to have exited.
func (t *Table) reap(pids []uint32) {
	present := make(map[uint32]bool, len(pids))
	for _, pid := range pids {
		present[pid] = true
	}
	for pid, e := range t.pids {
		if !present[pid] && e.exited == 0 {
			t.exit(e)
		}
	}
}

// Fork tells that ppid made the process pid.
func (t *Table) Fork(time uint64, ppid, pid uint32) {
	t.now = max(t.now, time)
	if e := t.pids[pid]; e != nil && e.exited == 0 && e.epoch == t.epoch {
		// Its pid is not free, and no exit was lost: it has been read from /proc
		// before this record came, and that is newer.
		if p := t.pids[ppid]; p != nil {
			e.ppid, e.parent = ppid, p.serial
		}
		return
	}
	e := t.add(pid)
	if e == nil {
		return
	}
	e.ppid = ppid
	p := t.pids[ppid]
	if p == nil || p == e {
		return
	}
	e.parent = p.serial
	e.exec, e.execKnown = p.exec, p.execKnown
	e.epoch = p.epoch
	e.kernel = p.kernel
	e.comm = p.comm
	e.cgroup, e.cgroupKnown = p.cgroup, p.cgroupKnown
	e.image = p.image
	t.release(e)
	e.space = p.space
	e.space.users++
}

// Exec tells that pid runs a new program, whose name is comm: a COMM record with
// PERF_RECORD_MISC_COMM_EXEC. Its mappings follow, the executable's first.
func (t *Table) Exec(time uint64, pid uint32, comm string) {
	e := t.touch(time, pid)
	if e == nil {
		return
	}
	e.comm = comm
	e.exec++
	e.epoch = t.epoch
	e.exited = 0                        // a thread that calls exec ends the leader and takes its place
	e.kernel, e.threaded = false, false // exec ends all other threads
	e.cgroupKnown = false               // who starts a program moves it before the exec
	e.image = &image{execed: true}
	t.replace(e, nil)
	e.view = nil
}

// Comm tells a new name of thread tid of pid. Only that of the leader is kept:
// samples carry those of threads.
func (t *Table) Comm(time uint64, pid, tid uint32, comm string) {
	if e := t.touch(time, pid); e != nil && tid == pid {
		e.comm = comm
	}
}

// Record is what an MMAP2 record of executable memory says.
type Record struct {
	Start, End, Offset uint64
	Path               string // as the kernel gives it
	BuildID            []byte // copied; nil if the record has none
	Inode              Inode  // zero if the record has the build ID in its place
}

// Mmap tells a new executable mapping of pid.
func (t *Table) Mmap(time uint64, pid uint32, r Record) {
	e := t.touch(time, pid)
	if e == nil {
		return
	}
	m, ok := newMapping(r.Start, r.End, r.Offset, r.Path, BuildID(r.BuildID), r.Inode)
	if !ok {
		t.stats.RefusedMappings++
		return
	}
	m.Mapped = time
	if e.image.execed && e.image.exe == "" && m.Openable() {
		e.image.exe = m.Path
	}
	t.insert(e, m)
}

// Exit tells that thread tid of pid ended. The process is kept until Expire.
func (t *Table) Exit(time uint64, pid, tid uint32) {
	t.now = max(t.now, time)
	e := t.pids[pid]
	switch {
	case e == nil:
	case tid != pid:
		e.threaded = true
	case e.exited == 0:
		t.exit(e)
	}
}

// Lost tells that records are missing. Lookup reads what it needs from /proc
// anew, and Snapshot, which the owner should call soon, all.
func (t *Table) Lost() { t.epoch++ }

// Expire forgets processes that exited before a time, which must be one up to
// which all samples have been looked up.
func (t *Table) Expire(before uint64) {
	end := len(t.exits) // what is put back is for another time
	for t.expired < end && t.exits[t.expired].time < before {
		t.expireFirst()
	}
	// Moving the rest costs no more than what was expired, if done by halves.
	if t.expired > len(t.exits)/2 {
		t.exits = slices.Delete(t.exits, 0, t.expired)
		t.expired = 0
	}
}

// expireFirst forgets the process that exited first, unless it has shown since
// that it lives.
func (t *Table) expireFirst() {
	x := t.exits[t.expired]
	t.exits[t.expired] = exit{}
	t.expired++
	if x.entry.exited != x.time {
		return
	}
	// A leader may exit before its threads. They send no record for being alive.
	if x.entry.threaded {
		if st, err := readStat(t.proc, x.entry.pid); err == nil && x.entry.bears(st.start) {
			t.exit(x.entry)
			return
		}
	}
	t.remove(x.entry)
}

// Lookup returns the process that a sample hit; it is never nil. A sample of a
// process that the table knows nothing of, and that is gone, gives one that has
// only what the sample says.
//
// The Process belongs to the table, and the next Lookup or Current of the same
// process changes its Comm and Mappings; another Key is another Process.
func (t *Table) Lookup(time uint64, s Sample) *Process {
	t.now = max(t.now, time)
	e := t.find(s)
	if e == nil {
		return &Process{Key: Key{s.PID, s.Start, s.Exec}, Comm: s.Comm, KernelThread: s.PID == 0}
	}
	e.start, e.exact = s.Start, true
	if s.TID != s.PID {
		e.threaded = true
	}
	// The kernel sends the record of an exec a moment before it counts it, so
	// that a sample may have the smaller number, but not a larger one.
	execed := e.execKnown && int32(s.Exec-e.exec) > 0
	if (e.epoch != t.epoch || execed) && !t.reread(e) && execed {
		t.replace(e, nil) // gone, and what is known of it is of another program
		e.image = &image{}
	}
	if execed {
		e.image = &image{exe: e.image.exe}
		e.cgroupKnown = false
		e.view = nil
	}
	if execed || !e.execKnown {
		e.exec, e.execKnown = s.Exec, true
	}
	if s.Comm != "" {
		e.comm = s.Comm
	}
	return t.show(e)
}

// Current returns the process as the records tell it so far, or false if it has
// exited or called exec, or is not known by its exact start and exec count: only
// samples tell those. No record tells whether one lives whose leader has exited;
// that is looked up in /proc. As for the Process, see Lookup.
func (t *Table) Current(k Key) (*Process, bool) {
	e := t.pids[k.PID]
	if e == nil || e.exited != 0 && !(e.threaded && t.present(e)) || !e.exact || e.start != k.Start || !e.execKnown || e.exec != k.Exec {
		return nil, false
	}
	return t.show(e), true
}

// LeaderExited reports whether the thread has ended that a process is named by, or
// the process is not known any more. It may be that other threads still run.
func (t *Table) LeaderExited(pid uint32) bool {
	e := t.pids[pid]
	return e == nil || e.exited != 0
}

// Busiest returns at most n processes, those that had used most CPU time when
// Snapshot read them, that first. Of each it says only PID, Start as /proc has
// it, and Mappings.
func (t *Table) Busiest(n int) []*Process {
	var busy []*entry
	for _, e := range t.pids {
		if e.exited == 0 && e.cpu > 0 && len(e.space.mappings) > 0 {
			busy = append(busy, e)
		}
	}
	slices.SortFunc(busy, func(a, b *entry) int { return cmp.Or(cmp.Compare(b.cpu, a.cpu), cmp.Compare(a.pid, b.pid)) })
	var list []*Process
	for _, e := range busy[:min(n, len(busy))] {
		e.space.lent = true
		list = append(list, &Process{Key: Key{PID: e.pid, Start: e.start}, Mappings: e.space.mappings})
	}
	return list
}

// show returns the entry's Process as of now.
func (t *Table) show(e *entry) *Process {
	if e.view == nil {
		t.describe(e)
	}
	e.view.Comm = e.comm
	e.view.Mappings = e.space.mappings
	e.space.lent = true
	return e.view
}

// find returns the entry that a sample belongs to, and makes one if there is
// none. It returns nil for the idle task, which is no process, for a process
// that has expired since, and if the table is full.
func (t *Table) find(s Sample) *entry {
	if s.PID == 0 {
		return nil
	}
	for e := t.pids[s.PID]; e != nil; e = e.previous {
		if e.start == 0 || e.exact && e.start == s.Start || !e.exact && e.bears(s.Start) {
			return e
		}
	}
	if e := t.pids[s.PID]; e != nil && e.start > s.Start {
		return nil
	}
	return t.add(s.PID)
}

// bears reports whether the entry may be the process that started in the same
// tick as start.
func (e *entry) bears(start uint64) bool {
	return e.start == 0 || e.start/tick == start/tick
}

// touch returns the entry of a pid that a record speaks of. If its leader has
// exited, another thread of it runs.
func (t *Table) touch(time uint64, pid uint32) *entry {
	t.now = max(t.now, time)
	e := t.pids[pid]
	if e == nil {
		return t.add(pid)
	}
	e.threaded = e.threaded || e.exited != 0
	return e
}

// add makes an entry of which nothing is known, and makes it the latest bearer
// of its pid. If the table is full, the processes that exited first make room.
func (t *Table) add(pid uint32) *entry {
	for t.stats.Processes >= t.options.MaxProcesses && t.makeRoom() {
	}
	if t.stats.Processes >= t.options.MaxProcesses {
		t.stats.RefusedProcesses++
		return nil
	}
	t.serial++
	e := &entry{
		pid:      pid,
		serial:   t.serial,
		image:    &image{},
		space:    &space{users: 1},
		previous: t.pids[pid],
	}
	if e.previous != nil && e.previous.exited == 0 {
		t.exit(e.previous) // its record was lost
	}
	t.pids[pid] = e
	t.stats.Processes++
	return e
}

// makeRoom forgets the process that exited first, and reports whether there was
// one.
func (t *Table) makeRoom() bool {
	if t.expired == len(t.exits) {
		return false
	}
	e := t.exits[t.expired].entry
	if e.exited == t.exits[t.expired].time {
		t.remove(e)
		t.stats.ExpiredEarly++
	}
	t.exits[t.expired] = exit{}
	t.expired++
	return true
}

func (t *Table) exit(e *entry) {
	e.exited = max(t.now, 1)
	t.exits = append(t.exits, exit{e.exited, e})
}

func (t *Table) remove(e *entry) {
	t.release(e)
	e.exited = 0 // of several in exits, the others do not count
	t.stats.Processes--
	if t.pids[e.pid] == e {
		if e.previous == nil {
			delete(t.pids, e.pid)
		} else {
			t.pids[e.pid] = e.previous
		}
		return
	}
	for next := t.pids[e.pid]; next != nil; next = next.previous {
		if next.previous == e {
			next.previous = e.previous
			return
		}
	}
}

// release gives up the entry's part in its mappings.
func (t *Table) release(e *entry) {
	e.space.users--
	if e.space.users == 0 {
		t.stats.Mappings -= len(e.space.mappings)
	}
}

func (t *Table) insert(e *entry, m Mapping) {
	// An insertion adds one mapping, and one more if it splits another.
	need := 2
	if e.space.users > 1 {
		need += len(e.space.mappings)
	}
	for t.stats.Mappings+need > t.options.MaxMappings && t.makeRoom() {
	}
	if t.stats.Mappings+need > t.options.MaxMappings || len(e.space.mappings)+2 > t.options.MaxMappingsPerProcess {
		t.stats.RefusedMappings++
		return
	}
	if e.space.users > 1 || e.space.lent {
		t.replace(e, slices.Clone(e.space.mappings))
	}
	before := len(e.space.mappings)
	e.space.mappings = e.space.mappings.insert(m)
	t.stats.Mappings += len(e.space.mappings) - before
}

// replace gives the entry mappings of its own.
func (t *Table) replace(e *entry, ms Mappings) {
	t.release(e)
	e.space = &space{mappings: ms, users: 1}
	t.stats.Mappings += len(ms)
}
