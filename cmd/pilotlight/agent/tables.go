package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"time"

	"pilotlight/cmd/pilotlight/process"
	"pilotlight/symbolize"
	"pilotlight/unwind"
)

const (
	// Unwind tables of all files together, in bytes of memory; the least recently
	// used go when it is more, and those that a window did without at its end, and are
	// read from the disk when they are wanted. The sampler has copies of its own:
	// these are for what is finished here, which is much only while many processes
	// start.
	maxUnwindBytes = 8 << 20
	// Files that are remembered, with those that have no table. Any user can make more.
	maxUnwindFiles = 8192
	// Files, open, that wait for their table. When there are more, they are asked
	// for again.
	queuedTables = 256
	// of them, those of processes that were not sampled yet.
	queuedEarly = queuedTables / 2
	// oftenEnough is how long tables that have been made wait at most for the draining goroutine to be woken: once for each
	// would cost more than it is worth.
	oftenEnough = 50 * time.Millisecond
	// muchBuilt is after how many bytes of files the memory that building their tables took is given back. It costs a
	// garbage collection.
	muchBuilt = 32 << 20
	// largeFile is of how many bytes on a file is read when there is CPU time to spare: its table or its symbols take
	// some milliseconds.
	largeFile = 8 << 20
)

// tables has the unwind tables of mapped files: in memory, else from the disk
// cache, else built from the file. Reading and building is the work of a
// goroutine of its own, run; all the rest belongs to the draining goroutine.
type tables struct {
	files   *process.Files
	log     *slog.Logger
	entries map[process.FileKey]*tableEntry
	vdso    *unwind.Table // nil if the kernel has none
	bytes   int           // of the tables in entries
	uses    uint64        // counts uses, to tell which was used last
	before  uint64        // uses before this window
	queued  int           // jobs whose result is still to come
	jobs    *tableQueue
	results chan tableResult
	arrived func() // called when results are to be taken
	stats   tableStats

	allowance *allowance // for large files
}

// tableStats count where tables came from.
type tableStats struct {
	built, cached uint64
	failed        uint64 // files that could not be read, which are walked by frame pointers
	damaged       uint64 // tables on disk that could not be read, and were built again
}

// tableEntry is a file.
type tableEntry struct {
	table *unwind.Table // nil unless state is codeTable
	state codeKind
	asked process.Key // which process it was asked for
	early bool        // and no sample has wanted it since
	used  uint64
}

// codeKind says how frames in a piece of code are walked.
type codeKind uint8

const (
	codeLoading         codeKind = iota // by a table that is not here yet
	codeAbsent                          // by a table that is made when another process asks for it
	codeUnsampled                       // by a table that is made when a sample asks for it
	codeTable                           // by a table
	codeFramePointer                    // by frame pointers, if it has them: its file has no table
	codeJIT                             // not at all: it was made at run time, and keeps no frame pointers
	codeJITFramePointer                 // by frame pointers: it was made at run time
	codeMissing                         // by frame pointers, if it has them: its file cannot be had
)

// code is a piece of code of a process.
type code struct {
	kind codeKind
	Code // of codeTable
}

// errEarly is the error of a large file for which there is no CPU time, as long as no sample waits for it.
var errEarly = fmt.Errorf("%w, and large", errNotCached)

type tableResult struct {
	key   process.FileKey
	table *unwind.Table // nil: there is none
	err   error         // errNotCached, also as errEarly, or why the file has no table
	// How it went.
	cached, damaged bool
}

// newTables returns tables that call arrived, from another goroutine, when collect
// finds some.
func newTables(files *process.Files, arrived func(), spare *allowance, log *slog.Logger) *tables {
	t := &tables{
		allowance: spare,
		files:     files,
		log:       log,
		entries:   make(map[process.FileKey]*tableEntry),
		jobs:      newTableQueue(spare),
		arrived:   arrived,
		results:   make(chan tableResult, queuedTables+1), // never full: a job is queued where its result has room
	}
	image, err := symbolize.VDSO()
	if err == nil {
		t.vdso, err = unwind.Build(bytes.NewReader(image), int64(len(image)), unwind.Options{})
	}
	if err != nil {
		log.Warn("stacks through the vDSO will be walked by frame pointers", "err", err)
	}
	return t
}

// run makes tables until there are no more jobs. cache may be nil.
//
// It keeps its thread's priority: in `run` one thread runs Go code at a time, so
// one that the kernel lets wait would keep the draining goroutine waiting too. Go
// has it make way every 10 ms, which is what keeps large files from being in the
// way of samples.
func (t *tables) run(cache *tableCache) {
	built := int64(0) // bytes of the files of which tables were built since memory was given back
	var told time.Time
	untold := false // there are results
	for {
		job, ok := t.jobs.pop()
		if !ok {
			return
		}
		size := job.file.Size
		r, waits := t.make(cache, job)
		if waits {
			job.large, job.damaged = true, r.damaged
			waits = t.jobs.push(job)
		}
		if !waits {
			if err := job.file.Close(); err != nil {
				t.log.Warn("close binary", "err", err)
			}
			if !r.cached && !errors.Is(r.err, errNotCached) {
				built += size
			}
			t.results <- r
			untold = true
		}
		last := t.jobs.empty()
		if untold && (last || time.Since(told) > oftenEnough) {
			t.arrived()
			untold, told = false, time.Now()
		}
		if built > muchBuilt && last {
			// Until the heap has grown to that size again, the collector would leave it there.
			debug.FreeOSMemory()
			built = 0
		}
	}
}

// make gets the table of a file, unless that is a large one that is to wait.
func (t *tables) make(cache *tableCache, job tableJob) (r tableResult, waits bool) {
	r.key, r.damaged = job.key, job.damaged
	if cache != nil && !job.large {
		r.table, r.err = cache.get(job.key)
		if r.err == nil {
			r.cached = true
			return r, false
		}
		if !errors.Is(r.err, errNotCached) {
			r.damaged = true
			t.log.Warn("building an unwind table again", "err", r.err)
		}
	}
	size := job.file.Size
	switch {
	case !job.build || job.large && !t.files.Alive(job.owner):
		r.err = errNotCached
		return r, false
	case size > largeFile && !job.large && !t.allowance.enough():
		if job.early {
			r.err = errEarly
		}
		return r, !job.early
	case size > largeFile:
		defer t.allowance.spending()()
	}
	if r.table, r.err = unwind.Build(io.NewSectionReader(job.file, 0, size), size, unwind.Options{}); r.err != nil {
		return r, false
	}
	if cache != nil {
		err := cache.put(job.key, r.table)
		if err != nil && !cache.failed { // of a full disk once is enough
			t.log.Warn("unwind tables are not kept on disk", "err", err)
		}
		cache.failed = err != nil
	}
	return r, false
}

// collect takes the tables that were made meanwhile and reports whether there
// were any.
func (t *tables) collect() (arrived bool) {
	for {
		select {
		case r := <-t.results:
			t.take(r)
			arrived = true
		default:
			return arrived
		}
	}
}

// wait takes the tables that are under way, those that come in time.
func (t *tables) wait(limit time.Duration) {
	timeout := time.After(limit)
	for t.queued > 0 {
		select {
		case r := <-t.results:
			t.take(r)
		case <-timeout:
			return
		}
	}
}

func (t *tables) take(r tableResult) {
	t.queued--
	if r.damaged {
		t.stats.damaged++
	}
	e := t.entries[r.key] // never evicted while it is loading
	switch {
	case r.cached:
		t.stats.cached++
	case r.table != nil:
		t.stats.built++
	case errors.Is(r.err, errNotCached):
		e.state, e.early = codeAbsent, false
		if errors.Is(r.err, errEarly) {
			e.state = codeUnsampled
		}
		return
	default:
		t.stats.failed++
		t.log.Debug("walking a file by frame pointers", "key", r.key, "err", r.err)
		e.state = codeFramePointer
		return
	}
	e.table, e.state = r.table, codeTable
	t.bytes += bytesOf(e.table)
}

func bytesOf(t *unwind.Table) int { return t.Bytes() + 16*len(t.Rules) }

// trim lets go, at the end of a window, of the tables that it did without.
func (t *tables) trim() {
	for key, e := range t.entries {
		if e.table != nil && e.used <= t.before {
			t.bytes -= bytesOf(e.table)
			delete(t.entries, key)
		}
	}
	t.before = t.uses
}

// evict lets go of tables that were not used lately until no more than limit
// bytes are left.
func (t *tables) evict(limit int) {
	for t.bytes > limit || len(t.entries) > maxUnwindFiles {
		var oldest *tableEntry
		var key process.FileKey
		for k, e := range t.entries {
			if e.state != codeLoading && (t.bytes <= limit || e.table != nil) && (oldest == nil || e.used < oldest.used) {
				oldest, key = e, k
			}
		}
		if oldest == nil {
			return
		}
		if oldest.table != nil {
			t.bytes -= bytesOf(oldest.table)
		}
		delete(t.entries, key)
	}
}

// identify has the file behind m opened once, so that it is known which it is,
// and returns it; nil if that cannot be found out.
func (t *tables) identify(p *process.Process, m process.Mapping) *process.File {
	file, err := m.File()
	if file != nil || err != nil || !m.Openable() {
		return file
	}
	open, err := t.files.Open(p, m)
	if err == nil {
		err = open.Close()
	}
	if err != nil {
		t.log.Debug("open binary", "pid", p.PID, "path", m.Path, "err", err)
	}
	file, _ = m.File()
	return file
}

// code says how a frame at pc, in the mapping m of p, is walked. A table that is
// not there is asked for: the answer is codeLoading meanwhile.
func (t *tables) code(p *process.Process, m process.Mapping, pc uint64) code {
	file := t.identify(p, m)
	addr, ok := m.Addr(pc)
	bias := pc - addr
	switch {
	case m.Kind == process.VDSO && t.vdso != nil:
		return code{codeTable, Code{Table: t.vdso, Bias: bias}}
	case file == nil && m.Kind == process.Anonymous: // a memfd may hold an ELF file
		if p.FramePointers() {
			return code{kind: codeJITFramePointer}
		}
		return code{kind: codeJIT}
	case file == nil && m.Openable():
		return code{kind: codeMissing}
	case file == nil || !ok:
		return code{kind: codeFramePointer}
	}
	e := t.known(p, file.Key)
	switch {
	case e == nil, e.state == codeUnsampled:
		e = t.request(p, m, false)
	case e.early:
		e.early = false
		t.jobs.ask(file.Key)
	}
	return code{e.state, Code{Table: e.table, Bias: bias, FramePointers: file.Go}}
}

// known returns the entry of a file, or nil if it is to be asked for. Of files
// whose processes are gone when they are looked at, those that another process
// runs later are worth building a table.
func (t *tables) known(p *process.Process, key process.FileKey) *tableEntry {
	e := t.entries[key]
	if e == nil || e.state == codeAbsent && e.asked != p.Key {
		return nil
	}
	t.uses++
	e.used = t.uses
	return e
}

// waiting tells that a walk of p ended at pc, maybe for want of a table that is under way.
func (t *tables) waiting(p *process.Process, pc uint64) {
	m, ok := p.Mappings.Find(pc)
	if !ok {
		return
	}
	file, _ := m.File() // one that was not opened is not under way
	if file == nil {
		return
	}
	if e := t.entries[file.Key]; e != nil && e.state == codeLoading {
		t.jobs.ask(file.Key)
	}
}

// early has the tables of processes made that have not been sampled yet.
func (t *tables) early(processes []*process.Process) {
	for _, p := range processes {
		for _, m := range p.Mappings {
			if t.queued >= queuedEarly {
				return
			}
			if file := t.identify(p, m); file != nil && t.known(p, file.Key) == nil {
				t.request(p, m, true)
			}
		}
	}
}

// request has the table of the file behind m made, unless too many are under way.
func (t *tables) request(p *process.Process, m process.Mapping, early bool) *tableEntry {
	if t.queued == queuedTables {
		return &tableEntry{state: codeLoading} // it will be asked for again
	}
	open, err := t.files.Open(p, m)
	if err != nil {
		t.log.Debug("open binary", "pid", p.PID, "path", m.Path, "err", err)
		return &tableEntry{state: codeMissing}
	}
	build := t.entries[open.Key] != nil || t.files.Alive(p.Key)
	t.uses++
	e := &tableEntry{state: codeLoading, asked: p.Key, early: early, used: t.uses}
	t.entries[open.Key] = e
	t.queued++
	t.jobs.push(tableJob{key: open.Key, file: open, owner: p.Key, build: build, early: early})
	return e
}

// close ends run once it is done with the table that it makes.
func (t *tables) close() error {
	return t.jobs.close()
}
