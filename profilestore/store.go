package profilestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// Options tune a store. The zero value is the documented default.
type Options struct {
	Retention      time.Duration         // profiles older than this are deleted; 0: 7 days
	RetentionBytes int64                 // the oldest blocks are deleted above this size on disk; 0: 10 GB
	MemoryBytes    int64                 // memory for what is not in blocks yet, for dictionaries and for caches; 0: 256 MB
	QueryBytes     int64                 // memory that one query may use; 0: 512 MB
	MaxSeries      int                   // distinct sets of series labels; 0: 100,000
	Registerer     prometheus.Registerer // nil: metrics are kept and not registered

	// For tests: nil is the real thing.
	now    func() time.Time
	tick   <-chan time.Time // rotation by age, compaction, retention
	fs     fileSystem
	linger time.Duration // of what was replaced; 0: lingerTime
}

func (o Options) withDefaults() Options {
	if o.Retention == 0 {
		o.Retention = 7 * 24 * time.Hour
	}
	if o.RetentionBytes == 0 {
		o.RetentionBytes = 10_000_000_000
	}
	if o.MemoryBytes == 0 {
		o.MemoryBytes = 256 << 20
	}
	if o.QueryBytes == 0 {
		o.QueryBytes = 512 << 20
	}
	if o.MaxSeries == 0 {
		o.MaxSeries = 100_000
	}
	if o.now == nil {
		o.now = time.Now
	}
	if o.fs == nil {
		o.fs = osFS{}
	}
	if o.linger == 0 {
		o.linger = lingerTime
	}
	return o
}

const (
	formatFile    = "FORMAT"
	lockFile      = "LOCK"
	formatVersion = 4
	formatText    = "pilotlight profilestore "

	quarantineDir = "quarantine"

	walBytes      = 48 << 20  // a head is written as blocks when its log is as large: it bounds the time of a restart
	headAge       = time.Hour // or when its first profile came so long ago
	groupBytes    = 64 << 20  // batches that are written with one fsync
	retentionTick = time.Minute
)

// Store is a directory of profiles. All methods may be called from many goroutines.
type Store struct {
	dir     string
	fs      fileSystem
	o       Options
	lock    *os.File
	metrics *metrics

	snapshot *snapshot // of a store that only reads

	now func() time.Time

	readers    chan *profileReader // one for each batch that is being inflated and decoded
	rowBuffers rowPool
	commits    chan *commit
	requests   chan request  // to the writer
	work       chan request  // to the maintainer
	flushed    chan struct{} // after each attempt to write heads as blocks
	closing    chan struct{} // closed by Close
	closed     sync.WaitGroup
	closeErr   error
	once       sync.Once

	wal        *walFile            // the writer's
	records    []byte              // likewise: memory for those of a group
	lingering  []lingering         // the maintainer's, oldest first
	leaving    []*block            // likewise: served no more, but queries that have begun read them
	flushedAt  map[int64]time.Time // likewise: when a block of a day was last written, by day
	full       atomic.Bool         // the disk was, since the maintainer last looked
	sequence   atomic.Uint64
	dictionary atomic.Uint32 // last id
	uses       atomic.Int64  // counts uses of caches, which gives their age
	cacheBytes atomic.Int64
	grown      atomic.Int64 // what dictionaries have grown by since the head began, in bytes

	mu       sync.RWMutex
	stopped  bool
	head     *head
	flushing []*head // oldest first
	blocks   []*block
	segments []*segment // by sequence
	series   map[string]*series
	headers  map[header]*header
	open     map[dictionaryKey]*dictionary
	inMemory map[uint32]*dictionary // open ones, and those of heads
	loaded   map[loadedKey]*loadedSymbols
	kept     keptSums
	badLogs  map[string]bool // files of the log with damage, which are kept
	damage   []Damage
	err      error // of the last round in the background
	flushErr error
}

type dictionaryKey struct {
	service string
	day     int64
}

// loadedKey names a part of a dictionary in the cache: all but its stacks, label sets alone, or a tree by its base.
type loadedKey struct {
	id           uint32
	labels, tree bool
	base         uint32
}

// loadedSymbols is a part of a dictionary in the cache.
type loadedSymbols struct {
	symbols *symbols
	bytes   int64
	used    int64
}

// request asks for work; done is closed when it is done, and may be nil.
type request struct{ done chan struct{} }

// Open opens the directory, or makes it. Another process that has it open, a directory with foreign files and
// a directory written by a newer version are refused, and nothing in them is touched. A directory of format 1 is
// made one of this format.
func Open(dir string, o Options) (_ *Store, err error) {
	o = o.withDefaults()
	if o.Retention < 0 || o.RetentionBytes < 0 || o.MemoryBytes < 0 || o.QueryBytes < 0 || o.MaxSeries < 0 {
		return nil, &Error{Code: BadRequest, Message: "retention, sizes and limits of a store must not be negative: use 0 for the default"}
	}
	version, err := prepare(o.fs, dir)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	s := newStore(dir, o)
	if s.lock, err = lockDir(o.fs, dir); err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open store %s: %w", dir, err), s.closeFiles())
		}
	}()
	if s.metrics, err = newMetrics(o.Registerer, s.countCaches, s.countSeries); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	if s.wal, err = createWAL(s.fs, dir, s.nextSequence()); err != nil {
		return nil, err
	}
	if version < formatVersion {
		if err := s.migrate(); err != nil {
			return nil, fmt.Errorf("migrate from format %d: %w", version, err)
		}
	}
	if err := s.retain(); err != nil {
		return nil, err
	}
	s.closed.Go(s.write)
	s.closed.Go(s.maintain)
	return s, nil
}

// newStore is a store with nothing in it.
func newStore(dir string, o Options) *Store {
	s := &Store{
		dir: dir, fs: o.fs, o: o, now: o.now,
		flushedAt: make(map[int64]time.Time),
		readers:   make(chan *profileReader, runtime.GOMAXPROCS(0)),
		commits:   make(chan *commit),
		requests:  make(chan request),
		work:      make(chan request, 16),
		flushed:   make(chan struct{}, 1),
		closing:   make(chan struct{}),
		series:    make(map[string]*series),
		headers:   make(map[header]*header),
		open:      make(map[dictionaryKey]*dictionary),
		inMemory:  make(map[uint32]*dictionary),
		loaded:    make(map[loadedKey]*loadedSymbols),
		kept:      keptSums{trees: make(map[sumsKey]*keptTree)},
		badLogs:   make(map[string]bool),
	}
	for range cap(s.readers) {
		s.readers <- new(profileReader)
	}
	return s
}

// prepare makes the directory a store, or finds out why it cannot be one. It returns the format that it has.
func prepare(fsys fileSystem, dir string) (version int, err error) {
	if _, ok := fsys.(osFS); ok {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return 0, fmt.Errorf("make the data directory: %w", err)
		}
	}
	if version, err = readFormat(fsys, dir); !errors.Is(err, fs.ErrNotExist) {
		return version, err
	}
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("read the data directory: %w", err)
	}
	for _, n := range names {
		// lost+found is there when the directory is a file system of its own, FORMAT.tmp after a crash below, and spool
		// where an agent has the same one.
		if n != "lost+found" && n != formatFile+tmpSuffix && n != "spool" {
			return 0, &Error{Code: BadRequest, Message: fmt.Sprintf("it holds other files (%.60q) and is not a profile store: name an empty directory with --data", n)}
		}
	}
	if err := writeFormat(fsys, dir); err != nil {
		return 0, err
	}
	return formatVersion, fsys.SyncDir(filepath.Dir(filepath.Clean(dir)))
}

// readFormat refuses formats that this program does not know; a directory without one is fs.ErrNotExist.
func readFormat(fsys fileSystem, dir string) (version int, err error) {
	path := filepath.Join(dir, formatFile)
	b, err := fsys.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read the format of the store: %w", err)
	}
	text, ok := strings.CutPrefix(strings.TrimSpace(string(b)), formatText)
	version, err = strconv.Atoi(text)
	switch {
	case !ok || err != nil || version < 1:
		return 0, &Error{Code: BadRequest, Message: fmt.Sprintf("%s says %.40q, which is not a profile store: name another directory with --data", path, b)}
	case version > formatVersion:
		return 0, &Error{Code: BadRequest, Message: fmt.Sprintf("it was written by a newer pilotlight (format %d, this one knows %d): run that version, or name another directory with --data", version, formatVersion)}
	}
	return version, nil
}

func writeFormat(fsys fileSystem, dir string) error {
	if err := writeFile(fsys, filepath.Join(dir, formatFile), fmt.Appendf(nil, "%s%d\n", formatText, formatVersion)); err != nil {
		return fmt.Errorf("write the format of the store: %w", err)
	}
	return nil
}

// lockDir gives nil for a file system of a test, which no other process has.
func lockDir(fsys fileSystem, dir string) (*os.File, error) {
	if _, ok := fsys.(osFS); !ok {
		return nil, nil
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("lock the store: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = &Error{Code: BadRequest, Message: "it is in use by another process: stop that one, or name another directory with --data"}
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (s *Store) nextSequence() uint64 { return s.sequence.Add(1) }

// seen notes that a number is taken.
func (s *Store) seen(seq uint64) { s.sequence.Store(max(s.sequence.Load(), seq)) }

func (s *Store) seenDictionary(id uint32) { s.dictionary.Store(max(s.dictionary.Load(), id)) }

// load opens segments and blocks, and reads the log.
func (s *Store) load() error {
	for _, name := range []string{walDir, symbolsDir, blocksDir, quarantineDir} {
		if err := s.fs.Mkdir(filepath.Join(s.dir, name)); err != nil {
			return err
		}
	}
	if err := s.fs.SyncDir(s.dir); err != nil {
		return err
	}
	if err := s.loadSegments(); err != nil {
		return err
	}
	if err := s.loadBlocks(); err != nil {
		return err
	}
	logs, err := s.sequences(walDir)
	if err != nil {
		return err
	}
	from := s.nextSequence()
	if len(logs) > 0 {
		from = logs[0]
	}
	s.head = newHead(from)
	for _, seq := range logs {
		if err := s.replay(seq); err != nil {
			return err
		}
	}
	return nil
}

// sequences lists what a directory holds by number, and removes what a crash left unfinished.
func (s *Store) sequences(dir string) ([]uint64, error) {
	names, err := s.fs.ReadDir(filepath.Join(s.dir, dir))
	if err != nil {
		return nil, err
	}
	var all []uint64
	for _, name := range names {
		if strings.HasSuffix(name, tmpSuffix) {
			if err := s.fs.RemoveAll(filepath.Join(s.dir, dir, name)); err != nil {
				return nil, err
			}
			continue
		}
		if seq, ok := sequence(name); ok {
			all = append(all, seq)
			s.seen(seq)
		}
	}
	slices.Sort(all)
	return all, nil
}

func (s *Store) loadSegments() error {
	all, err := s.sequences(symbolsDir)
	if err != nil {
		return err
	}
	replaced := make(map[uint64]bool)
	for _, seq := range all {
		path := filepath.Join(s.dir, symbolsDir, fmt.Sprintf("%012d", seq))
		var meta segmentMeta
		if ok, err := s.loadMeta(path, &meta); err != nil {
			return err
		} else if !ok {
			continue
		}
		for _, d := range meta.Dictionaries {
			s.seenDictionary(d.ID)
		}
		for _, old := range meta.Replaces {
			replaced[old] = true
		}
		s.segments = append(s.segments, newSegment(s.fs, path, meta))
	}
	s.segments = slices.DeleteFunc(s.segments, func(seg *segment) bool {
		if replaced[seg.meta.Sequence] && err == nil { // in their order: see discard
			err = s.discard(seg.path)
		}
		return replaced[seg.meta.Sequence]
	})
	slices.SortFunc(s.segments, bySequence)
	return err
}

func (s *Store) loadBlocks() error {
	all, err := s.sequences(blocksDir)
	if err != nil {
		return err
	}
	for _, seq := range all {
		path := filepath.Join(s.dir, blocksDir, fmt.Sprintf("%012d", seq))
		var meta blockMeta
		if ok, err := s.loadMeta(path, &meta); err != nil {
			return err
		} else if !ok {
			continue
		}
		for _, id := range meta.Dictionaries {
			s.seenDictionary(id)
		}
		s.blocks = append(s.blocks, newBlock(s, path, meta))
	}
	if err := s.dropReplaced(); err != nil {
		return err
	}
	for _, b := range s.blocks {
		if err := s.loadPrints(b); err != nil {
			return err
		}
	}
	return nil
}

// dropReplaced removes the blocks that others stand for. In a copy that was made while the store ran, dictionaries may
// be older than blocks: then a block that refers to what is not there gives way to those that it replaced.
func (s *Store) dropReplaced() error {
	have := make(map[uint32]extent)
	for _, seg := range s.segments {
		for i := range seg.meta.Dictionaries {
			d := &seg.meta.Dictionaries[i]
			if have[d.ID] != d.from() { // behind a gap nothing counts, and the merge of both sides would hide it
				d.lost, seg.suspect = true, true
				continue
			}
			have[d.ID] = d.to()
		}
	}
	there := make(map[uint64]bool)
	for _, b := range s.blocks {
		there[b.meta.Sequence] = true
	}
	replaced, unfit := make(map[uint64]bool), make(map[uint64]bool)
	for _, b := range slices.Backward(s.blocks) {
		short := b.lacks(have)
		old := b.meta.Replaces
		if len(short) > 0 && len(old) > 0 && !slices.ContainsFunc(old, func(seq uint64) bool { return !there[seq] }) {
			unfit[b.meta.Sequence] = true
			continue
		}
		b.short = short
		for _, seq := range old {
			replaced[seq] = true
		}
	}
	var err error
	s.blocks = slices.DeleteFunc(s.blocks, func(b *block) bool {
		switch seq := b.meta.Sequence; {
		case err != nil:
			return false
		case replaced[seq]:
			err = s.discard(b.path) // in their order: see there
			return true
		case unfit[seq]:
			err = s.putAside(b.path)
			return true
		}
		for id := range b.short {
			s.noteDamage(b, missing(b.path, id))
		}
		return false
	})
	return err
}

// lacks are the dictionaries that have less than the rows of the block refer to.
func (b *block) lacks(have map[uint32]extent) map[uint32]bool {
	var short map[uint32]bool
	for _, s := range b.meta.Sections {
		if e := have[s.Dictionary]; s.Stacks > e.stacks || s.Sets > e.sets {
			if short == nil {
				short = make(map[uint32]bool)
			}
			short[s.Dictionary] = true
		}
	}
	return short
}

// loadPrints reads the IDs of a block. One that is damaged can tell no doubles.
func (s *Store) loadPrints(b *block) error {
	t, err := b.readProfiles()
	if d := (*damageError)(nil); errors.As(err, &d) {
		s.noteDamage(b, d)
		return nil
	}
	if err != nil {
		return err
	}
	b.setPrints(t)
	return nil
}

// loadMeta reads meta.json. A directory whose meta.json is damaged is put aside as it is, and ok is false.
func (s *Store) loadMeta(path string, meta any) (ok bool, err error) {
	err = readMeta(s.fs, path, meta)
	if err == nil {
		return true, nil
	}
	d := &damageError{Damage{Path: path, Reason: err.Error()}}
	if !errors.As(err, &d) && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	s.note(d.Damage)
	return false, s.putAside(path)
}

// putAside moves a file or directory where nothing reads it, and retention finds it by the day in its name.
func (s *Store) putAside(path string) error {
	name := fmt.Sprintf("%08d-%s-%s", floorDiv(s.now().UnixNano(), day), filepath.Base(filepath.Dir(path)), filepath.Base(path))
	dir := filepath.Join(s.dir, quarantineDir)
	if err := s.fs.Rename(path, filepath.Join(dir, name)); err != nil {
		return err
	}
	return errors.Join(s.fs.SyncDir(filepath.Dir(path)), s.fs.SyncDir(dir))
}

// noteDamage takes note of a damage of a part, once.
func (s *Store) noteDamage(p part, d *damageError) {
	if p.quarantine(d) {
		s.note(d.Damage)
	}
}

func (s *Store) note(d Damage) {
	s.metrics.quarantined.Inc()
	s.mu.Lock()
	defer s.mu.Unlock()
	const most = 1000 // enough to see what is wrong; the metric counts all
	if len(s.damage) < most {
		s.damage = append(s.damage, d)
	}
}

// Damage lists what was found damaged since Open, the first 1,000.
func (s *Store) Damage() []Damage {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.damage)
}

// Err is the error of the last round of work in the background (blocks, compaction, retention), nil when it went
// well. Appends and queries go on.
func (s *Store) Err() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.err
}

func (s *Store) countCaches() float64 { return float64(s.cacheBytes.Load()) }

func (s *Store) countSeries() float64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return float64(len(s.series))
}

// internSeries gives the store's own object for a series that is stored already.
func (s *Store) internSeries(x *series) *series {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := x.key()
	if own, ok := s.series[key]; ok {
		return own
	}
	s.series[key] = x
	return x
}

// Close ends when the batches that the disk is working on are answered, and unlocks the directory. What is in
// no block yet is in the log. Queries that have begun still end well. It may be called again.
func (s *Store) Close() error {
	s.once.Do(func() {
		close(s.closing)
		s.closed.Wait()
		s.closeErr = s.closeFiles()
	})
	return s.closeErr
}

func (s *Store) closeFiles() error {
	s.mu.Lock()
	blocks, segments := slices.Concat(s.blocks, s.leaving), s.segments
	s.blocks, s.segments, s.stopped = nil, nil, true
	s.mu.Unlock()
	var errs []error
	for _, b := range blocks {
		errs = append(errs, b.release())
	}
	for _, seg := range segments {
		errs = append(errs, seg.release())
	}
	if s.wal != nil {
		errs = append(errs, s.wal.file.Close())
	}
	if s.snapshot != nil {
		errs = append(errs, s.snapshot.close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

func (s *Store) errClosed() error {
	return &Error{Code: Unavailable, Message: "the store is being closed: try again later", Err: ErrClosed}
}

// isClosing says whether Close was called: work in the background then stops where it is.
func (s *Store) isClosing() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// namesOf is the content of a dictionary without its stacks, or if no more is asked for its label sets alone. It is cached.
func (s *Store) namesOf(ctx context.Context, id uint32, labels bool) (*symbols, error) {
	keys, load := []loadedKey{{id: id}}, loadNames
	if labels {
		keys, load = append(keys, loadedKey{id: id, labels: true}), loadLabelSets
	}
	return s.cachedOr(ctx, id, keys, (*dictionary).view, true, func(segments []*segment) (*symbols, error) { return load(segments, id) })
}

// treeOf is the content of a dictionary with the tree that has a base. With room for it the tree is not cached.
func (s *Store) treeOf(ctx context.Context, id, base uint32, room *tree) (*symbols, error) {
	found, err := s.treeAlone(ctx, id, base, room)
	if err != nil || found.strings != nil { // the dictionary is in memory
		return found, err
	}
	names, err := s.namesOf(ctx, id, false)
	if err != nil {
		return nil, err
	}
	if found.tree.locations > len(names.locations) {
		return nil, missing(symbolsDir, id)
	}
	own := *names
	own.tree = found.tree
	return &own, nil
}

// treeAlone is the tree that has a base: from memory with the names, from files without, as names that are read another time
// have other numbers.
func (s *Store) treeAlone(ctx context.Context, id, base uint32, room *tree) (*symbols, error) {
	inMemory := func(d *dictionary) *symbols { return d.viewOf(base) }
	return s.cachedOr(ctx, id, []loadedKey{{id: id, tree: true, base: base}}, inMemory, room == nil, func(segments []*segment) (*symbols, error) {
		t, err := loadTree(segments, id, base, room)
		if err != nil {
			return nil, err
		}
		return &symbols{tree: t}, nil
	})
}

// cachedOr looks for a part of a dictionary in memory, then in the cache, and has it loaded if it is in neither.
func (s *Store) cachedOr(ctx context.Context, id uint32, keys []loadedKey, inMemory func(*dictionary) *symbols, keep bool, load func([]*segment) (*symbols, error)) (*symbols, error) {
	s.mu.Lock()
	if d := s.inMemory[id]; d != nil {
		if found := inMemory(d); found != nil {
			s.mu.Unlock()
			return found, nil
		}
	}
	for _, key := range keys {
		if l := s.loaded[key]; l != nil {
			l.used = s.uses.Add(1)
			s.mu.Unlock()
			return l.symbols, nil
		}
	}
	segments := slices.Clone(s.segments)
	for _, seg := range segments {
		seg.refs.Add(1)
	}
	s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, errors.Join(err, releaseSegments(segments))
	}
	found, err := load(segments)
	if err = errors.Join(err, releaseSegments(segments)); err != nil {
		return nil, err
	}
	if !keep {
		return found, nil
	}
	key := keys[len(keys)-1]
	l := &loadedSymbols{symbols: found, bytes: found.size() + 64*int64(len(found.strings)), used: s.uses.Add(1)}
	if key.tree {
		l.bytes = 8 * int64(len(found.callers)) // names are counted where they are
	}
	s.mu.Lock()
	if s.loaded[key] == nil {
		s.loaded[key] = l
		s.cacheBytes.Add(l.bytes)
	}
	s.mu.Unlock()
	s.trim()
	return found, nil
}

// checkTrees compares the trees of a dictionary with their checksums.
func (s *Store) checkTrees(id uint32, bases []uint32) (err error) {
	s.mu.RLock()
	segments := slices.Clone(s.segments)
	for _, seg := range segments {
		seg.refs.Add(1)
	}
	s.mu.RUnlock()
	defer func() { err = errors.Join(err, releaseSegments(segments)) }()
	for _, seg := range segments {
		m := seg.find(id)
		if m == nil {
			continue
		}
		for _, p := range m.pieces() {
			if len(bases) == 0 || p.First+p.Count <= int(bases[0]) {
				continue
			}
			if _, err := seg.stacks.group(p.Group); err != nil {
				return err
			}
		}
	}
	return nil
}

// treesOf are the ids that the trees of a dictionary begin with, 0 for the first.
func (s *Store) treesOf(id uint32) []uint32 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if d := s.inMemory[id]; d != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		return append([]uint32{0}, d.trees...)
	}
	return treesOf(s.segments, id)
}

func releaseSegments(segments []*segment) error {
	var errs []error
	for _, seg := range segments {
		errs = append(errs, seg.release())
	}
	return errors.Join(errs...)
}

// fits says whether as many stacks fit into half of the memory for caches.
func (s *Store) fits(stacks int) bool {
	const each = 8 // bytes
	return int64(stacks) <= s.cacheLimit()/2/each
}

func (s *Store) cacheLimit() int64 { return s.o.MemoryBytes * 3 / 8 }

// trim gives back the caches that were used longest ago, until they are within their share of the memory.
func (s *Store) trim() {
	most := s.cacheLimit()
	if s.cacheBytes.Load() <= most {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	type cached struct {
		used int64
		drop func()
	}
	var all []cached
	for key, l := range s.loaded {
		all = append(all, cached{l.used, func() { delete(s.loaded, key); s.cacheBytes.Add(-l.bytes) }})
	}
	s.kept.mu.Lock()
	for key, k := range s.kept.trees {
		all = append(all, cached{k.used, func() { s.dropSums(key) }})
	}
	s.kept.mu.Unlock()
	for _, b := range s.blocks {
		b.mu.Lock()
		if b.cached != nil {
			all = append(all, cached{b.used, b.evict})
		}
		b.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b cached) int { return int(a.used - b.used) })
	for _, c := range all {
		if s.cacheBytes.Load() <= most*3/4 {
			return
		}
		c.drop()
	}
}
