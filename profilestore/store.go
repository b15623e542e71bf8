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
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// Options tune a store. The zero value is the documented default.
type Options struct {
	Retention      time.Duration         // profiles older than this are deleted; 0: 7 days
	RetentionBytes int64                 // the oldest segments are deleted above this size on disk; 0: 10 GB
	IndexBytes     int64                 // and above this size of the index in memory; 0: 512 MB
	QueryBytes     int64                 // memory that one query may use; 0: 512 MB
	MaxSeries      int                   // distinct sets of series labels; 0: 100,000
	Registerer     prometheus.Registerer // nil: metrics are kept and not registered

	// For tests: nil is the real thing.
	now  func() time.Time
	tick <-chan time.Time // rotation by age, retention
	open func(path string, flags int) (segmentFile, error)
}

func (o Options) withDefaults() Options {
	if o.Retention == 0 {
		o.Retention = 7 * 24 * time.Hour
	}
	if o.RetentionBytes == 0 {
		o.RetentionBytes = 10_000_000_000
	}
	if o.IndexBytes == 0 {
		o.IndexBytes = 512 << 20
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
	if o.open == nil {
		o.open = func(path string, flags int) (segmentFile, error) { return os.OpenFile(path, flags, 0o640) }
	}
	return o
}

const (
	formatFile    = "FORMAT"
	lockFile      = "LOCK"
	formatVersion = 1
	formatText    = "pilotlight profilestore "

	segmentBytes  = 32 << 20  // a segment is sealed above this size
	segmentAge    = time.Hour // or when its first record is this old
	groupBytes    = 64 << 20  // batches that are written with one fsync
	retentionTick = time.Minute
)

// Store is a directory of profiles. All methods may be called from many goroutines.
type Store struct {
	dir     string
	o       Options
	lock    *os.File
	metrics *metrics
	now     func() time.Time

	checking chan struct{} // one token for each batch that is being inflated and checked
	commits  chan *commit
	closing  chan struct{} // closed by Close
	closed   chan struct{} // closed by the writer at its end
	closeErr error         // of the writer
	once     sync.Once

	mu       sync.RWMutex
	segments []*segment // by sequence; the last is the active one; nil when closed
	series   map[string]*series
	damage   []Damage
	err      error // of the last retention
}

// Open opens the directory, or makes it. Another process that has it open, a directory with foreign files and
// a directory written by a newer version are refused, and nothing in them is touched.
func Open(dir string, o Options) (_ *Store, err error) {
	o = o.withDefaults()
	if o.Retention < 0 || o.RetentionBytes < 0 || o.IndexBytes < 0 || o.QueryBytes < 0 || o.MaxSeries < 0 {
		return nil, &Error{Code: BadRequest, Message: "retention, sizes and limits of a store must not be negative: use 0 for the default"}
	}
	if err := prepare(dir); err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	s := &Store{
		dir: dir, o: o, lock: lock, now: o.now,
		checking: make(chan struct{}, runtime.GOMAXPROCS(0)),
		commits:  make(chan *commit),
		closing:  make(chan struct{}),
		closed:   make(chan struct{}),
		series:   make(map[string]*series),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.closeFiles())
		}
	}()
	if s.metrics, err = newMetrics(o.Registerer); err != nil {
		return nil, fmt.Errorf("register metrics of the store: %w", err)
	}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	if err := s.retain(); err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	go s.write()
	return s, nil
}

// prepare makes the directory a store, or finds out why it cannot be one.
func prepare(dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	path := filepath.Join(dir, formatFile)
	b, err := os.ReadFile(path)
	if err == nil {
		text, ok := strings.CutPrefix(strings.TrimSpace(string(b)), formatText)
		version, err := strconv.Atoi(text)
		switch {
		case !ok || err != nil || version < 1:
			return &Error{Code: BadRequest, Message: fmt.Sprintf("%s says %.40q, which is not a profile store: name another directory with --data", path, b)}
		case version > formatVersion:
			return &Error{Code: BadRequest, Message: fmt.Sprintf("it was written by a newer pilotlight (format %d, this one knows %d): run that version, or name another directory with --data", version, formatVersion)}
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the format of the store: %w", err)
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read the data directory: %w", err)
	}
	for _, n := range names {
		// lost+found is there when the directory is a file system of its own, FORMAT.tmp after a crash below.
		if n.Name() != "lost+found" && n.Name() != formatFile+".tmp" {
			return &Error{Code: BadRequest, Message: fmt.Sprintf("it holds other files (%.60q) and is not a profile store: name an empty directory with --data", n.Name())}
		}
	}
	if err := writeFile(path, fmt.Appendf(nil, "%s%d\n", formatText, formatVersion)); err != nil {
		return fmt.Errorf("write the format of the store: %w", err)
	}
	return syncDir(filepath.Dir(filepath.Clean(dir)))
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("lock the store: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = &Error{Code: Unavailable, Message: "it is in use by another pilotlight: stop it, or name another directory with --data", Err: err}
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// load opens all segments and makes a new active one where the last is sealed.
func (s *Store) load() error {
	names, err := filepath.Glob(filepath.Join(s.dir, "*.seg"))
	if err != nil {
		return err
	}
	slices.Sort(names) // the sequence has leading zeros
	for i, path := range names {
		seq, err := strconv.ParseUint(strings.TrimSuffix(filepath.Base(path), ".seg"), 10, 64)
		if err != nil {
			return fmt.Errorf("file %s: its name is not a number", path)
		}
		if err := s.loadSegment(path, seq, i == len(names)-1); err != nil {
			return err
		}
	}
	if n := len(s.segments); n == 0 || s.segments[n-1].active == nil {
		return s.addSegment()
	}
	return nil
}

func (s *Store) loadSegment(path string, seq uint64, last bool) error {
	f, err := s.o.open(path, os.O_RDWR)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	seg := newSegment(path, seq, f, info.Size())
	s.segments = append(s.segments, seg)

	if x := readSidecar(seg.sidecarPath(), seg.size); x != nil {
		for i := range x.series {
			x.series[i] = s.intern(x.series[i])
		}
		seg.index = x
		seg.byID = x.byID()
		return nil
	}

	var magic [len(segmentMagic)]byte
	n, err := f.ReadAt(magic[:min(seg.size, int64(len(magic)))], 0)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if last && n < len(magic) { // a crash while it was made
		if _, err := f.WriteAt([]byte(segmentMagic), 0); err != nil {
			return err
		}
		seg.size = int64(len(segmentMagic))
	} else if string(magic[:]) != segmentMagic {
		s.quarantine(Damage{path, 0, seg.size, "no segment header"})
		at := info.ModTime().UnixNano() // retention deletes it when its profiles would have been deleted
		seg.index = &index{minTime: at, maxTime: at}
		return nil
	}
	sc, err := scan(path, f, seg.size, last, s.intern)
	if err != nil {
		return err
	}
	for _, d := range sc.damage {
		s.quarantine(d)
	}
	seg.active, seg.index = sc.builder, &sc.builder.index
	if last {
		if sc.torn < seg.size {
			// Never acknowledged. It must be gone for good before something follows it.
			if err := errors.Join(f.Truncate(sc.torn), f.Sync()); err != nil {
				return err
			}
			seg.size = sc.torn
		}
		seg.born = s.now().UnixNano()
		return nil
	}
	if sc.torn < seg.size {
		s.quarantine(Damage{path, sc.torn, seg.size - sc.torn, errTorn.Error()})
	}
	seg.seal()
	return seg.writeSidecar()
}

// addSegment makes a new active segment.
func (s *Store) addSegment() error {
	seq := uint64(1)
	if n := len(s.segments); n > 0 {
		seq = s.segments[n-1].seq + 1
	}
	path := segmentPath(s.dir, seq)
	f, err := s.o.open(path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(segmentMagic), 0)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = syncDir(s.dir)
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(path))
	}
	seg := newSegment(path, seq, f, int64(len(segmentMagic)))
	seg.active = newIndexBuilder()
	seg.index = &seg.active.index
	s.mu.Lock()
	s.segments = append(s.segments, seg)
	s.mu.Unlock()
	return nil
}

// intern gives the store's own object for a series.
func (s *Store) intern(x *series) *series {
	key := x.key()
	if own, ok := s.series[key]; ok {
		return own
	}
	s.series[key] = x
	return x
}

func (s *Store) quarantine(d Damage) {
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

// Err is the error of the last round of retention, nil when it went well. Appends and queries go on.
func (s *Store) Err() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.err
}

// Close ends when the batches that the disk is working on are answered, and unlocks the directory. Queries that
// have begun still end well. It may be called again.
func (s *Store) Close() error {
	s.once.Do(func() { close(s.closing) })
	<-s.closed
	return s.closeErr
}

func (s *Store) closeFiles() error {
	s.mu.Lock()
	segments := s.segments
	s.segments = nil
	s.mu.Unlock()
	var errs []error
	for _, seg := range segments {
		errs = append(errs, seg.release())
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

func (s *Store) errClosed() error {
	return &Error{Code: Unavailable, Message: "the store is being closed: try again later", Err: ErrClosed}
}

// Append stores a batch and returns when it is durable. A batch is stored as a whole or not at all: one bad
// profile refuses it, and the [*Error] names the profile, so that a sender learns of every refusal and can
// send the others again. A profile whose ID is stored already is dropped without an error. When ctx ends
// first, the batch may be stored or not; sending it again is safe.
func (s *Store) Append(ctx context.Context, batch []Encoded) error {
	start := time.Now()
	result, err := s.append(ctx, batch)
	s.metrics.appendSeconds.Observe(time.Since(start).Seconds())
	if err != nil {
		s.metrics.profiles.WithLabelValues(result).Add(float64(len(batch)))
	}
	return err
}

func (s *Store) append(ctx context.Context, batch []Encoded) (result string, err error) {
	c, err := s.checkBatch(ctx, batch)
	if err != nil {
		return resultRefused, err
	}
	if len(c.profiles) == 0 {
		return "", nil
	}
	select {
	case s.commits <- c:
	case <-s.closing:
		return resultFailed, s.errClosed()
	case <-ctx.Done():
		return resultFailed, ctx.Err()
	}
	select {
	case err := <-c.done:
		if e := (*Error)(nil); errors.As(err, &e) && e.Code == TooManyRequests {
			return resultRefused, err
		}
		return resultFailed, err
	case <-ctx.Done():
		return resultFailed, ctx.Err()
	}
}

func (s *Store) checkBatch(ctx context.Context, batch []Encoded) (*commit, error) {
	size := 0
	for i := range batch {
		size += len(batch[i].Pprof)
	}
	if size > maxBatch {
		return nil, &Error{Code: PayloadTooLarge, Message: fmt.Sprintf("a batch of %d bytes: send at most %d at once", size, maxBatch)}
	}
	select {
	case s.checking <- struct{}{}:
		defer func() { <-s.checking }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c := &commit{done: make(chan error, 1), profiles: make([]*checked, 0, len(batch))}
	for i := range batch {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		p, err := s.check(&batch[i])
		if err != nil {
			var e *Error
			errors.As(err, &e)
			return nil, &Error{Code: e.Code, Message: fmt.Sprintf("profile %d of %d, %.200s: %s; nothing of the batch is stored", i+1, len(batch), batch[i].Labels, e.Message), Err: e.Err}
		}
		c.profiles = append(c.profiles, p)
	}
	return c, nil
}
