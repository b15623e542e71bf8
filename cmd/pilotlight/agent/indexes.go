package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"pilotlight/cmd/pilotlight/process"
	"pilotlight/symbolize"
)

const (
	// indexesName is the directory of the indexes within the cache directory, and
	// indexCacheBytes what they take there at most; an index has a tenth of the size
	// of its debug information.
	indexesName     = "symbols"
	indexCacheBytes = 512 << 20
	// A file is looked at for debug information when it has been in so many samples:
	// half a second of CPU time at 19 Hz. Its index is made when it has been in one
	// more for each indexPaid bytes of that information. That many take some 7 ms to
	// read, and a sample stands for 50.
	leastSamples = 10
	indexPaid    = 1 << 20
	// fetchSamples is how many samples a file has to be in for its debug information
	// to be asked for elsewhere: what runs for five seconds.
	fetchSamples = 100
	// indexWarnings is the least time between two warnings about files that took
	// more than they may.
	indexWarnings = time.Minute
)

// IndexRequest asks for the index of a file. The files are the agent's, which keeps
// them open until it has the answer.
type IndexRequest struct {
	*DebugFiles
	Only  []uint64 // addresses that the index is for, in rising order; nil: all
	Out   *os.File // for the index; empty
	Spill *os.File // for compressed sections, to be used from its beginning; empty
	// Wait waits until CPU time may be spent on it, and returns how much. Spend tells what was. Both are nil where that is
	// nobody's concern; else the index takes as long as it has to.
	Wait  func(context.Context) (time.Duration, error)
	Spend func(time.Duration)
}

// IndexResult says how the building of an index went.
type IndexResult struct {
	Bytes   int64         // of the index
	CPU     time.Duration // it took, also if it failed
	Peak    int64         // bytes of resident memory
	Skipped string        // the first thing that could not be read; "" for a sound file
}

// ErrIndexBudget is wrapped by the errors of files whose debug information takes
// more time or memory than it may.
var ErrIndexBudget = errors.New("debug information takes too much time or memory")

// indexes makes indexes of debug information, one at a time: from the disk, else
// built by what Options.Index is. What takes most samples is first. Its goroutine
// is run; all else may be called from others.
type indexes struct {
	build   func(context.Context, IndexRequest) (IndexResult, error)
	fetch   FetchDebug // nil: what is not on this machine is not to be had
	cache   *keyedDir
	proc    fs.FS
	version string
	log     *slog.Logger
	warned  time.Time // of run
	host    *process.Root
	cpu     *allowance // for building
	waited  bool       // for: what that takes is nobody's concern

	mu      sync.Mutex // guards what follows
	wanted  map[process.FileKey]indexJob
	busy    bool // with a job that is not in wanted any more
	done    []indexAnswer
	stats   indexStats
	changed chan struct{} // has an element when there may be something to do
	settled chan struct{} // has one when there may be an answer
}

// indexStats count what became of the files that were looked at.
type indexStats struct {
	built, cached  uint64
	absent         uint64 // without debug information
	killed, failed uint64
	damaged        uint64 // indexes on disk that could not be read
	cpu            time.Duration
	bytes          int64 // on disk
}

// indexJob is a file to be indexed. The file stays open until there is an answer.
type indexJob struct {
	file    *process.OpenFile
	owner   owner
	samples uint64
	build   bool // if it is not on disk
	anew    bool // what is on disk is of no use
}

// owner is a process that had a file mapped, and what it calls the file.
type owner struct {
	process process.Key
	path    string
}

// indexAnswer is what became of a job.
type indexAnswer struct {
	key   process.FileKey
	index *symbolize.Index // nil: there is none
	// needs is how many samples the file has to be in for its index to be built,
	// if that is what it lacks.
	needs uint64
}

// openIndexes opens the cache in dir/symbols. What is built is built by an allowance.
func openIndexes(dir string, proc fs.FS, cpu *allowance, o Options) (*indexes, error) {
	cache, err := openKeyedDir(dir, indexesName, indexCacheBytes)
	if err != nil {
		return nil, err
	}
	host, err := process.OpenRootDir("/")
	if err != nil {
		return nil, errors.Join(err, cache.close())
	}
	x := &indexes{
		build: o.Index, fetch: o.FetchDebug, cache: cache, proc: proc, version: o.Version, log: o.Logger, host: host,
		cpu: cpu, waited: o.IndexWait > 0,
		wanted:  make(map[process.FileKey]indexJob),
		changed: make(chan struct{}, 1),
		settled: make(chan struct{}, 1),
	}
	x.stats.bytes = cache.size
	return x, nil
}

func (x *indexes) close() error {
	for _, a := range x.collect() {
		if a.index != nil {
			if err := a.index.Close(); err != nil {
				x.log.Warn("close index", "key", a.key, "err", err)
			}
		}
	}
	return errors.Join(x.cache.close(), x.host.Close())
}

// want asks for an index, or tells how many samples a file is in by now. There will
// be an answer, unless cancel takes it back.
func (x *indexes) want(job indexJob) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.wanted[job.file.Key] = job
	signal(x.changed)
}

// cancel takes a request back, and reports whether it could.
func (x *indexes) cancel(key process.FileKey) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, ok := x.wanted[key]
	delete(x.wanted, key)
	return ok
}

// collect returns the answers that have come.
func (x *indexes) collect() []indexAnswer {
	x.mu.Lock()
	defer x.mu.Unlock()
	done := x.done
	x.done = nil
	return done
}

// wait waits for an answer, and reports whether there is one.
func (x *indexes) wait(limit <-chan time.Time) bool {
	for {
		x.mu.Lock()
		answered, more := len(x.done) > 0, x.busy || len(x.wanted) > 0
		x.mu.Unlock()
		if answered || !more {
			return answered
		}
		select {
		case <-x.settled:
		case <-limit:
			return false
		}
	}
}

func (x *indexes) current() indexStats {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.stats
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run answers requests until ctx is done.
func (x *indexes) run(ctx context.Context) {
	for {
		job, ok := x.next()
		if !ok {
			select {
			case <-x.changed:
				continue
			case <-ctx.Done():
				return
			}
		}
		if ctx.Err() != nil {
			return
		}
		x.answer(x.make(ctx, job))
	}
}

// next takes the job of most samples that may be done now.
func (x *indexes) next() (best indexJob, ok bool) {
	enough := x.cpu.enough()
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, job := range x.wanted {
		if (!job.build || enough) && (!ok || job.samples > best.samples) {
			best, ok = job, true
		}
	}
	if ok {
		delete(x.wanted, best.file.Key)
		x.busy = true
	}
	return best, ok
}

func (x *indexes) answer(a indexAnswer) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.busy = false
	x.done = append(x.done, a)
	x.stats.bytes = x.cache.size
	signal(x.settled)
}

// count moves the counters.
func (x *indexes) count(f func(*indexStats)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	f(&x.stats)
}

// make does a job.
func (x *indexes) make(ctx context.Context, job indexJob) indexAnswer {
	a := indexAnswer{key: job.file.Key}
	var err error
	if job.anew {
		err = errors.Join(errDamaged, x.cache.remove(a.key))
	} else {
		a.index, err = x.cached(a.key)
	}
	switch {
	case err == nil:
		x.count(func(s *indexStats) { s.cached++ })
		return a
	case errors.Is(err, ErrIndexBudget): // an agent found that out before
		x.count(func(s *indexStats) { s.killed++ })
		return a
	case !errors.Is(err, errNotCached):
		x.count(func(s *indexStats) { s.damaged++ })
		x.log.Warn("building an index of symbols again", "path", job.owner.path, "err", err)
	}
	fetch := x.fetch
	if job.samples < fetchSamples || !job.build {
		fetch = nil
	}
	files, err := x.debugFiles(ctx, job, fetch)
	if errors.Is(err, ErrNoDebug) && fetch == nil && x.fetch != nil {
		a.needs = fetchSamples
		return a
	}
	if err == nil {
		if a.needs = max(1, files.Bytes/indexPaid); job.samples >= a.needs && job.build {
			a.needs = 0
			a.index, err = x.index(ctx, a.key, files)
		}
		err = errors.Join(err, files.Close())
	}
	if ctx.Err() == nil {
		x.judge(job, err)
	}
	return a
}

// judge counts what became of a file.
func (x *indexes) judge(job indexJob, err error) {
	switch {
	case err == nil:
	case errors.Is(err, ErrNoDebug):
		x.count(func(s *indexStats) { s.absent++ })
	case errors.Is(err, ErrIndexBudget):
		x.count(func(s *indexStats) { s.killed++ })
		if time.Since(x.warned) > indexWarnings {
			x.warned = time.Now()
			x.log.Warn("no inlined calls and lines for a file", "path", job.owner.path, "err", err)
		}
	default:
		x.count(func(s *indexStats) { s.failed++ })
		x.log.Debug("no inlined calls and lines for a file", "path", job.owner.path, "err", err)
	}
}

// errDamaged is the error of an index that was found damaged while it was used.
var errDamaged = errors.New("damaged while in use")

// budgetMark begins what is kept in place of an index of a file that took more than
// it may; the version of the agent follows.
const budgetMark = "over budget: "

// cached returns the index of a file that is on disk, or an error: errNotCached, or
// ErrIndexBudget if there will be none. One that cannot be read is removed.
func (x *indexes) cached(key process.FileKey) (*symbolize.Index, error) {
	f, size, err := x.cache.open(key)
	if errors.Is(err, errNotCached) {
		return nil, err
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("index %v: %w", key, err), x.cache.remove(key))
	}
	index, err := symbolize.OpenIndex(f, size)
	if err == nil {
		return index, nil
	}
	text := make([]byte, len(budgetMark)+len(x.version)+1)
	n, _ := f.ReadAt(text, 0) // what cannot be read is no mark
	mark, marked := strings.CutPrefix(string(text[:n]), budgetMark)
	if err = errors.Join(err, f.Close()); marked && mark == x.version {
		return nil, ErrIndexBudget
	}
	if rerr := x.cache.remove(key); marked || errors.Is(err, symbolize.ErrIndexVersion) {
		return nil, errors.Join(errNotCached, rerr) // another version of the agent wrote it
	} else {
		return nil, errors.Join(fmt.Errorf("index %v: %w", key, err), rerr)
	}
}

// debugFiles opens what has the debug information of a job's file: as its process
// sees it, then as the host does, if what is there has the same build ID, and then
// what fetch gets.
func (x *indexes) debugFiles(ctx context.Context, job indexJob, fetch FetchDebug) (*DebugFiles, error) {
	in, ok := job.file.Handle.(*os.File)
	if !ok || !strings.HasPrefix(job.owner.path, "/") {
		return nil, ErrNoDebug
	}
	own, err := process.OpenRoot(x.proc, "/proc", job.owner.process)
	if err != nil { // the process is gone
		return OpenDebugFiles(ctx, in, job.file.Size, job.owner.path, fetch, x.host)
	}
	files, err := OpenDebugFiles(ctx, in, job.file.Size, job.owner.path, fetch, own, x.host)
	if err != nil {
		return nil, errors.Join(err, own.Close())
	}
	// Not below the host's root: a file says what it likes about where they are.
	files.Split, files.opened = own, append(files.opened, own)
	return files, nil
}

// index builds an index and keeps it on disk.
func (x *indexes) index(ctx context.Context, key process.FileKey, files *DebugFiles) (*symbolize.Index, error) {
	spill, err := x.cache.create(key)
	if err != nil {
		return nil, err
	}
	defer spill.Close()
	if err := x.cache.discard(key); err != nil { // its descriptor is all that is needed
		return nil, err
	}
	out, err := x.cache.create(key)
	if err != nil {
		return nil, err
	}
	request := IndexRequest{DebugFiles: files, Out: out, Spill: spill}
	told := time.Duration(0)
	spend := func(d time.Duration) {
		told += d
		x.cpu.spend(d)
		x.count(func(s *indexStats) { s.cpu += d })
	}
	if !x.waited {
		request.Wait, request.Spend = x.cpu.wait, spend
	}
	result, err := x.build(ctx, request)
	spend(result.CPU - told)
	var index *symbolize.Index
	if err == nil {
		x.log.Debug("indexed debug information", "path", files.Path, "bytes", result.Bytes, "cpu", result.CPU, "peak", result.Peak, "skipped", result.Skipped)
		index, err = symbolize.OpenIndex(out, result.Bytes)
	}
	switch {
	case err == nil:
		x.count(func(s *indexStats) { s.built++ })
		if err := x.cache.keep(key, result.Bytes); err != nil {
			x.log.Warn("indexes of symbols are not kept on disk", "err", err)
		}
		return index, nil
	case errors.Is(err, ErrIndexBudget):
		err = errors.Join(err, x.mark(key, out))
	default:
		err = errors.Join(err, x.cache.discard(key))
	}
	return nil, errors.Join(err, out.Close())
}

// mark keeps in place of an index that there is none.
func (x *indexes) mark(key process.FileKey, out *os.File) error {
	text := budgetMark + x.version
	err := out.Truncate(0)
	if err == nil {
		_, err = out.WriteAt([]byte(text), 0)
	}
	if err != nil {
		return errors.Join(err, x.cache.discard(key))
	}
	return x.cache.keep(key, int64(len(text)))
}
