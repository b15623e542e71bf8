package profilestore

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// commit is a batch on its way to the disk.
type commit struct {
	entries []*entry
	done    chan error // buffered: the writer never waits for the one who asked
}

func (c *commit) bytes() int {
	n := 0
	for _, e := range c.entries {
		n += len(e.enc.Pprof)
	}
	return n
}

// write is the only goroutine that writes the log and adds to the head. Batches that arrive while it waits for the
// disk are written together with one fsync.
func (s *Store) write() {
	tick := s.o.tick
	if tick == nil {
		ticker := time.NewTicker(retentionTick)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		select {
		case c := <-s.commits:
			s.commitGroup(s.collect(c))
		case <-tick:
			s.rotateIfOld(nil)
		case r := <-s.requests:
			s.rotateIfOld(r.done)
		case <-s.closing:
			return
		}
	}
}

// collect takes what else has arrived.
func (s *Store) collect(first *commit) []*commit {
	group, size := []*commit{first}, first.bytes()
	for size < groupBytes {
		select {
		case c := <-s.commits:
			group = append(group, c)
			size += c.bytes()
		default:
			return group
		}
	}
	return group
}

func (s *Store) commitGroup(group []*commit) {
	defer func() {
		for _, c := range group {
			unpin(c.entries)
		}
	}()
	if err := s.makeRoom(); err != nil {
		s.answer(group, err)
		return
	}
	seen := make(map[ID]bool)
	records := s.records[:0]
	var fresh []*entry
	var written []*commit
	doubles := 0
	for _, c := range group {
		own, err := s.withoutDoubles(c.entries, seen)
		if err != nil {
			c.done <- s.diskError(err)
			continue
		}
		doubles += len(c.entries) - len(own)
		if len(own) > 0 {
			batch := make([]Encoded, len(own))
			for i, e := range own {
				batch[i] = e.enc
			}
			records = appendRecord(records, batch)
		}
		fresh = append(fresh, own...)
		written = append(written, c)
	}
	const keep = 1 << 20 // what a rare large group needed is given back
	if s.records = records; cap(records) > keep {
		s.records = nil
	}
	if len(records) > 0 {
		if err := s.wal.append(records); err != nil {
			s.answer(written, s.diskError(err))
			return
		}
	}
	s.head.add(fresh, s.now().UnixNano())
	s.head.walBytes += int64(len(records))
	s.metrics.walBytes.Set(float64(s.wal.size))
	s.metrics.headBytes.Set(float64(s.head.bytes))
	s.metrics.profiles.WithLabelValues(resultStored).Add(float64(len(fresh)))
	s.metrics.profiles.WithLabelValues(resultDouble).Add(float64(doubles))
	s.answer(written, nil)
}

func (s *Store) answer(group []*commit, err error) {
	for _, c := range group {
		c.done <- err
	}
}

// withoutDoubles drops entries whose IDs are stored or in seen, which grows by the others unless there is an error.
func (s *Store) withoutDoubles(entries []*entry, seen map[ID]bool) ([]*entry, error) {
	var fresh []*entry
	for _, e := range entries {
		if seen[e.id] {
			continue
		}
		stored, err := s.has(e.id)
		if err != nil {
			for _, e := range fresh { // not stored: a retry may be in the same group
				delete(seen, e.id)
			}
			return nil, err
		}
		if !stored {
			seen[e.id] = true
			fresh = append(fresh, e)
		}
	}
	return fresh, nil
}

func (s *Store) has(id ID) (bool, error) {
	stored, candidates := s.mayHave(id)
	var errs []error
	for _, b := range candidates {
		if !stored {
			ok, err := b.has(id)
			if d := (*damageError)(nil); errors.As(err, &d) {
				s.noteDamage(b, d)
				ok, err = true, nil // its hash is in the block, and no more can be known
			}
			stored = stored || ok
			errs = append(errs, err)
		}
		errs = append(errs, b.release())
	}
	return stored, errors.Join(errs...)
}

// mayHave looks at what is in memory, and takes references to the blocks that are to be asked.
func (s *Store) mayHave(id ID) (stored bool, candidates []*block) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.head.has(id) || slices.ContainsFunc(s.flushing, func(h *head) bool { return h.has(id) }) {
		return true, nil
	}
	print := id.print()
	for _, b := range s.blocks {
		if _, ok := slices.BinarySearch(b.prints, print); ok {
			b.refs.Add(1)
			candidates = append(candidates, b)
		}
	}
	return false, candidates
}

// headBytes is the memory that a head, with what it added to dictionaries, may take before it is written as blocks.
// There may be three.
func (s *Store) headBytes() int64 { return s.o.MemoryBytes / 8 }

// makeRoom begins a new head where the present one is full, and a new file where nothing may follow the end of the
// log. While blocks cannot be written it refuses.
func (s *Store) makeRoom() error {
	full := s.head.bytes+s.grown.Load() >= s.headBytes() || s.head.walBytes >= walBytes
	if s.wal.broken && !full {
		return s.newLog()
	}
	if !full {
		return nil
	}
	const heads = 2 // that wait to be written
	for s.waiting() >= heads {
		s.ask()
		select {
		case <-s.flushed:
		case <-s.closing:
			return s.errClosed()
		}
		s.mu.RLock()
		err := s.flushErr
		s.mu.RUnlock()
		if err != nil {
			return s.diskError(err)
		}
	}
	return s.rotate()
}

// ask has the maintainer look for work, unless enough is asked for.
func (s *Store) ask() {
	select {
	case s.work <- request{}:
	default:
	}
}

func (s *Store) waiting() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.flushing)
}

func (s *Store) newLog() error {
	w, err := createWAL(s.fs, s.dir, s.nextSequence())
	if err != nil {
		return s.diskError(err)
	}
	old := s.wal
	s.wal = w
	if err := old.file.Close(); err != nil && !old.broken {
		return s.diskError(err)
	}
	return nil
}

// rotate begins a new head and a new file of the log, and has the old head written as blocks.
func (s *Store) rotate() error {
	if err := s.newLog(); err != nil {
		return err
	}
	seq, _ := sequence(filepath.Base(s.wal.path))
	s.mu.Lock()
	s.flushing = append(s.flushing, s.head)
	s.grown.Store(0)
	s.head = newHead(seq)
	s.mu.Unlock()
	s.ask()
	return nil
}

// rotateIfOld is for the tick: it also has the maintainer look for work, and waits only for a request that somebody
// waits for: a round may merge for minutes.
func (s *Store) rotateIfOld(done chan struct{}) {
	if !s.head.empty() && s.waiting() == 0 && (done != nil || s.now().UnixNano()-s.head.born > int64(headAge)) {
		if err := s.rotate(); err != nil {
			s.setErr(err)
		}
	}
	if done == nil {
		s.ask()
		return
	}
	select {
	case s.work <- request{done}:
	case <-s.closing:
	}
}

func (s *Store) setErr(err error) {
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
}

// diskError says what a caller can do about an error of the disk.
func (s *Store) diskError(err error) error {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		s.full.Store(true)
		s.ask() // to make room
		return &Error{Code: InsufficientStorage, Message: fmt.Sprintf("no space left for the store in %s: free some, or lower --retention-size; writing resumes by itself", s.dir), Err: err}
	}
	return &Error{Code: Unavailable, Message: fmt.Sprintf("write the store: %v", err), Err: err}
}

// replay reads a file of the log into the head. A batch that cannot be taken any more is kept where it is.
func (s *Store) replay(seq uint64) (err error) {
	path := walPath(s.dir, seq)
	f, err := s.fs.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return err
	}
	damage, err := readWAL(path, f, size, func(payload []byte) error { return s.replayBatch(path, payload) })
	for _, d := range damage {
		s.badLogs[path] = true
		s.note(d)
	}
	return err
}

func (s *Store) replayBatch(path string, payload []byte) error {
	batch, err := UnmarshalBatch(payload)
	if err != nil {
		s.badLogs[path] = true
		s.note(Damage{Path: path, Length: int64(len(payload)), Reason: err.Error()})
		return nil
	}
	r := <-s.readers
	defer func() { s.readers <- r }()
	var entries []*entry
	for i := range batch {
		if stored, err := s.has(batch[i].ID); err != nil {
			return err
		} else if stored {
			continue
		}
		e, err := s.newEntry(r, batch[i], nil)
		if err != nil {
			s.badLogs[path] = true
			s.note(Damage{Path: path, Length: int64(len(batch[i].Pprof)), Reason: fmt.Sprintf("profile %s: %v", batch[i].ID, err)})
			continue
		}
		e.series = s.internSeries(e.series)
		entries = append(entries, e)
	}
	if len(entries) == 0 {
		return nil // they are in blocks
	}
	s.head.add(entries, s.now().UnixNano())
	unpin(entries)
	s.head.walBytes += int64(len(payload))
	return nil
}
