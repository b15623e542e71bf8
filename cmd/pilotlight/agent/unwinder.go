package agent

import (
	"errors"
	"log/slog"
	"slices"
	"time"

	"pilotlight/bpf"
	"pilotlight/cmd/pilotlight/process"
	"pilotlight/unwind"
)

// tableIdle is how long a table stays in the kernel after the last process that
// used it: compilers and shells come back.
const tableIdle = time.Minute

// A process that changes its code all the time is published after pauses of this
// length; meanwhile samples in what is new are finished here.
const (
	shortestPublishPause = 16 * time.Millisecond
	longestPublishPause  = 10 * time.Second
)

// unwinder tells the sampler how to walk the stacks of processes. It begins when
// a sample of a process comes unfinished, so that processes that come and go
// unsampled cost nothing, and collects what changes until flush, once a drain. It
// belongs to the draining goroutine.
type unwinder struct {
	sampler   Sampler
	table     *process.Table
	tables    *tables
	log       *slog.Logger
	processes map[uint32]*published // by pid
	changed   map[uint32]bool       // pids of those to be published; true: at the next flush
	loaded    map[process.FileKey]*loadedTable
	noRoom    map[process.FileKey]bool // tables that the sampler makes room for, as of this flush
	stats     unwinderStats
}

// unwinderStats count what could not be told to the sampler.
type unwinderStats struct {
	refusedTables    uint64
	refusedProcesses uint64
	delayed          uint64 // changes that were told later
}

// published is a process that the sampler knows, or is to know.
type published struct {
	key     process.Key
	told    bool              // the sampler knows it
	as      process.Mappings  // that it was told of
	tables  []process.FileKey // that the sampler has for it, each once
	loading bool              // some code was still unknown
	waiting bool              // some of that for want of room in the sampler
	pace    backoff
	delayed bool // what has changed has been counted as delayed
}

// loadedTable is a table that the sampler has.
type loadedTable struct {
	id     bpf.TableID
	users  int    // processes
	unused uint64 // CLOCK_MONOTONIC ns since when users is 0
}

func newUnwinder(s Sampler, table *process.Table, ts *tables, log *slog.Logger) *unwinder {
	return &unwinder{
		sampler: s, table: table, tables: ts, log: log,
		processes: make(map[uint32]*published),
		changed:   make(map[uint32]bool),
		loaded:    make(map[process.FileKey]*loadedTable),
		noRoom:    make(map[process.FileKey]bool),
	}
}

// unfinished tells that the sampler could not walk a stack of p to its end, for
// want of a mapping or a table.
func (u *unwinder) unfinished(p *process.Process, s *bpf.Sample) {
	var pc uint64
	if len(s.User) > 0 {
		pc = s.User[len(s.User)-1]
		u.tables.waiting(p, pc)
	}
	known := u.processes[s.PID]
	if known != nil && known.key != p.Key {
		u.forget(s.PID) // the record of its end was lost
		known = nil
	}
	// A sample taken while its process called exec may be of neither program.
	if known == nil && s.ExecID == p.Exec {
		u.processes[s.PID] = &published{key: p.Key}
		u.changed[s.PID] = true
	}
	if known != nil && known.told {
		_, was := known.as.Find(pc)
		if _, is := p.Mappings.Find(pc); is && !was {
			u.mapped(s.PID) // and no record came: they are not followed
		}
	}
}

// mapped tells that a process has a new mapping.
func (u *unwinder) mapped(pid uint32) {
	if u.processes[pid] != nil && !u.changed[pid] {
		u.changed[pid] = false
	}
}

// forget tells that a process has ended, or runs another program.
func (u *unwinder) forget(pid uint32) {
	known := u.processes[pid]
	if known == nil {
		return
	}
	delete(u.processes, pid)
	delete(u.changed, pid)
	u.withdraw(pid, known)
}

// withdraw takes back what the sampler was told about a process.
func (u *unwinder) withdraw(pid uint32, known *published) {
	if !known.told {
		return
	}
	if err := u.sampler.Forget(pid); err != nil {
		u.log.Warn("forget process", "pid", pid, "err", err)
	}
	u.release(known.tables)
	known.told, known.as, known.tables = false, nil, nil
}

// arrived tells that tables are there that were missing.
func (u *unwinder) arrived() {
	for pid, known := range u.processes {
		if known.loading {
			u.changed[pid] = true
		}
	}
}

// check looks at all processes again, after records were lost.
func (u *unwinder) check() {
	for pid := range u.processes {
		u.changed[pid] = true
	}
}

// flush publishes what has changed. What the sampler makes room for is for the next time.
func (u *unwinder) flush(now uint64) {
	clear(u.noRoom)
	for pid, atOnce := range u.changed {
		known := u.processes[pid]
		if !atOnce && !known.pace.ready(now) {
			if !known.delayed {
				known.delayed = true
				u.stats.delayed++
			}
			continue
		}
		p, ok := u.table.Current(known.key)
		if !ok {
			u.forget(pid)
			continue
		}
		err := u.publish(known, p)
		if errors.Is(err, bpf.ErrTableRoom) || err == nil && known.waiting {
			continue
		}
		delete(u.changed, pid)
		known.delayed = false
		known.pace.done(now, shortestPublishPause, longestPublishPause)
		if err != nil {
			u.stats.refusedProcesses++
			u.log.Debug("publish process", "pid", pid, "err", err)
			u.withdraw(pid, known) // and not told again before something changes
		}
	}
}

// publish tells the sampler where p has which code.
func (u *unwinder) publish(known *published, p *process.Process) error {
	known.loading, known.waiting = false, false
	codes := make([]bpf.Code, 0, len(p.Mappings))
	var used []process.FileKey
	for _, m := range p.Mappings {
		c := bpf.Code{Start: m.Start, End: m.End}
		key, l := u.load(known, p, m, &c)
		if l != nil && !slices.Contains(used, key) {
			used = append(used, key)
			l.users++
		}
		known.loading = known.loading || c.Kind == bpf.CodeUnknown
		codes = append(codes, c)
	}
	id := bpf.ProcessID{PID: p.PID, Start: p.Start, ExecID: p.Exec}
	err := u.sampler.SetProcess(id, codes)
	if errors.Is(err, bpf.ErrTableSpace) {
		u.unload(func(*loadedTable) bool { return true })
		err = u.sampler.SetProcess(id, codes)
	}
	if err != nil {
		u.release(used)
		return err
	}
	u.release(known.tables)
	known.told, known.as, known.tables = true, p.Mappings, used
	return nil
}

// load says in c what is known about a mapping of p, and returns the table that
// it needs, if the sampler has it or has room for it. The key is zero for the
// vDSO. Code that stays unknown is walked here.
func (u *unwinder) load(known *published, p *process.Process, m process.Mapping, c *bpf.Code) (key process.FileKey, l *loadedTable) {
	file := u.tables.identify(p, m)
	if file != nil {
		key = file.Key
	}
	addr, ok := m.Addr(m.Start)
	c.Bias = m.Start - addr
	if ok && (file != nil || m.Kind == process.VDSO) {
		l = u.loaded[key]
	}
	if l == nil { // else the table need not be in memory here
		switch code := u.tables.code(p, m, m.Start); code.kind {
		case codeJIT:
			c.Kind = bpf.CodeJIT
		case codeJITFramePointer:
			c.Kind = bpf.CodeJITFramePointer
		case codeTable:
			l = u.hand(key, code.Table)
			known.waiting = known.waiting || u.noRoom[key]
		}
	}
	if l != nil {
		c.Kind, c.Table = bpf.CodeTable, l.id
		if file != nil && file.Go {
			c.Kind = bpf.CodeFramePointer
		}
	}
	return key, l
}

// hand hands a table to the sampler. It returns nil if there is no room, or not yet.
func (u *unwinder) hand(key process.FileKey, table *unwind.Table) *loadedTable {
	if u.noRoom[key] {
		return nil
	}
	id, err := u.sampler.LoadTable(table)
	if errors.Is(err, bpf.ErrTableSpace) {
		u.unload(func(*loadedTable) bool { return true })
		id, err = u.sampler.LoadTable(table)
	}
	switch {
	case errors.Is(err, bpf.ErrTableRoom):
		u.noRoom[key] = true
		return nil
	case err != nil:
		u.stats.refusedTables++
		u.log.Debug("load unwind table", "err", err)
		return nil
	}
	l := &loadedTable{id: id}
	u.loaded[key] = l
	return l
}

// release gives up one use of each table.
func (u *unwinder) release(keys []process.FileKey) {
	for _, key := range keys {
		l := u.loaded[key]
		l.users--
		l.unused = 0
	}
}

// trim unloads the tables that no process has used for a while. Processes whose
// leader has exited are looked at again: no record says which of their threads was
// the last.
func (u *unwinder) trim(now uint64) {
	for pid := range u.processes {
		if u.table.LeaderExited(pid) {
			u.changed[pid] = true
		}
	}
	u.unload(func(l *loadedTable) bool {
		if l.unused == 0 {
			l.unused = now
		}
		return now-l.unused > uint64(tableIdle)
	})
}

// unload unloads the tables that no process uses and for which ok is true.
func (u *unwinder) unload(ok func(*loadedTable) bool) {
	for key, l := range u.loaded {
		if l.users > 0 || !ok(l) {
			continue
		}
		if err := u.sampler.UnloadTable(l.id); err != nil {
			u.log.Warn("unload unwind table", "err", err)
		}
		delete(u.loaded, key)
	}
}
