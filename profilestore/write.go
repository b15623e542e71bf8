package profilestore

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"
)

// commit is a batch on its way to the disk.
type commit struct {
	profiles []*checked
	done     chan error // buffered: the writer never waits for the one who asked
}

func (c *commit) bytes() int {
	n := 0
	for _, p := range c.profiles {
		n += len(p.pprof)
	}
	return n
}

// write is the only goroutine that changes files and segments. Batches that arrive while it waits for the
// disk are written together with one fsync.
func (s *Store) write() {
	defer close(s.closed)
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
			err := errors.Join(s.rotateIfOld(), s.retain())
			s.mu.Lock()
			s.err = err
			s.mu.Unlock()
		case <-s.closing:
			s.closeErr = s.closeFiles()
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

// pending is the record of one commit, as it goes into the index once it is durable.
type pending struct {
	profiles []*checked
	doubles  int
	base     int64 // of the pprofs in the file
}

func (s *Store) commitGroup(group []*commit) {
	if seg := s.segments[len(s.segments)-1]; seg.suspect || seg.size >= s.segmentBytes() {
		if err := s.rotate(); err != nil {
			s.answer(group, s.diskError(err))
			return
		}
	}
	seg := s.segments[len(s.segments)-1]
	var (
		buf     []byte
		records []pending
		written []*commit
		inGroup = make(map[ID]bool)
		added   = make(map[string]bool) // series that the group brings
	)
	for _, c := range group {
		p, err := s.admit(c, inGroup, added)
		if err != nil {
			c.done <- err
			continue
		}
		if len(p.profiles) > 0 {
			start := len(buf)
			buf = p.appendRecord(buf)
			p.base += seg.size + int64(start)
		}
		records = append(records, p)
		written = append(written, c)
	}
	if len(buf) > 0 {
		if err := writeDurable(seg, buf); err != nil {
			s.answer(written, s.diskError(err))
			return
		}
	}
	s.publish(seg, records, int64(len(buf)))
	s.answer(written, nil)
}

func (s *Store) answer(group []*commit, err error) {
	for _, c := range group {
		c.done <- err
	}
}

// admit drops doubles and refuses what would be too many series. inGroup and added grow by what it admits.
func (s *Store) admit(c *commit, inGroup map[ID]bool, added map[string]bool) (pending, error) {
	var p pending
	var fresh []string
	for _, profile := range c.profiles {
		key := profile.series.key()
		if own, ok := s.series[key]; ok {
			profile.series = own
		} else if !added[key] && !slices.Contains(fresh, key) {
			fresh = append(fresh, key)
		}
	}
	if len(fresh) > 0 && len(s.series)+len(added)+len(fresh) > s.o.MaxSeries {
		return p, &Error{Code: TooManyRequests, Message: fmt.Sprintf("the store holds %d series, %d more would exceed its limit of %d: remove labels that change often", len(s.series)+len(added), len(fresh), s.o.MaxSeries)}
	}
	for _, profile := range c.profiles {
		if inGroup[profile.id] || s.has(profile.id) {
			p.doubles++
			continue
		}
		inGroup[profile.id] = true
		p.profiles = append(p.profiles, profile)
	}
	for _, key := range fresh {
		added[key] = true
	}
	return p, nil
}

func (s *Store) has(id ID) bool {
	for _, seg := range slices.Backward(s.segments) {
		if seg.has(id) {
			return true
		}
	}
	return false
}

// appendRecord appends the record and sets base to where its pprofs begin in dst's new part.
func (p *pending) appendRecord(dst []byte) []byte {
	b := newIndexBuilder()
	own := make(map[string]*series)
	blobs := make([][]byte, 0, len(p.profiles))
	offset := uint32(0)
	for _, c := range p.profiles {
		m := c.profileMeta
		key := m.series.key()
		if own[key] == nil {
			own[key] = m.series
		}
		m.series, m.offset = own[key], offset
		offset += m.length
		b.add(&m)
		blobs = append(blobs, c.pprof)
	}
	start := len(dst)
	dst = appendRecord(dst, &b.index, blobs)
	p.base = int64(len(dst)-start) - int64(offset)
	return dst
}

// writeDurable appends to the segment. After an error the file is as it was before, or suspect.
func writeDurable(seg *segment, b []byte) error {
	_, err := seg.file.WriteAt(b, seg.size)
	if err == nil {
		if err = seg.file.Sync(); err == nil {
			return nil
		}
		// The kernel reports a failed write-back once and then forgets it.
		seg.suspect = true
	}
	if cutErr := seg.file.Truncate(seg.size); cutErr != nil {
		seg.suspect = true
		err = errors.Join(err, cutErr)
	}
	return err
}

// publish makes a durable group readable.
func (s *Store) publish(seg *segment, records []pending, size int64) {
	s.mu.Lock()
	stored, doubles := 0, 0
	if seg.size == int64(len(segmentMagic)) {
		seg.born = s.now().UnixNano()
	}
	seg.size += size
	for _, r := range records {
		for _, c := range r.profiles {
			m := c.profileMeta
			m.series = s.intern(m.series)
			m.offset = uint32(r.base)
			r.base += int64(m.length)
			seg.active.add(&m)
		}
		stored += len(r.profiles)
		doubles += r.doubles
	}
	s.mu.Unlock()
	s.metrics.profiles.WithLabelValues(resultStored).Add(float64(stored))
	s.metrics.profiles.WithLabelValues(resultDouble).Add(float64(doubles))
	s.metrics.bytes.Add(float64(size))
}

// diskError says what a caller can do about an error of the disk.
func (s *Store) diskError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &Error{Code: InsufficientStorage, Message: fmt.Sprintf("no space left for the store in %s: free some, or lower --retention-size; writing resumes by itself", s.dir), Err: err}
	}
	return &Error{Code: Unavailable, Message: fmt.Sprintf("write the store: %v", err), Err: err}
}

// segmentBytes is smaller in a small store, so that retention by size has segments to choose from.
func (s *Store) segmentBytes() int64 { return min(segmentBytes, s.o.RetentionBytes/8) }

func (s *Store) rotateIfOld() error {
	seg := s.segments[len(s.segments)-1]
	if len(seg.index.entries) > 0 && s.now().UnixNano()-seg.born > int64(segmentAge) {
		return s.rotate()
	}
	return nil
}

// rotate seals the active segment and makes a new one. When the disk is full the new one cannot be made, and
// the old one stays as it is.
func (s *Store) rotate() error {
	old := s.segments[len(s.segments)-1]
	if err := s.addSegment(); err != nil {
		return err
	}
	s.mu.Lock()
	old.seal()
	s.mu.Unlock()
	return old.writeSidecar()
}

// retain deletes the segments that are too old, and the oldest ones of a store that is too large. The active
// segment stays.
func (s *Store) retain() error {
	var bytes, memory int64
	for _, seg := range s.segments {
		bytes += seg.size
		memory += seg.index.size()
	}
	oldest := s.now().Add(-s.o.Retention).UnixNano()
	sealed := slices.Clone(s.segments[:len(s.segments)-1])
	slices.SortStableFunc(sealed, func(a, b *segment) int { return cmp.Compare(a.index.maxTime, b.index.maxTime) })
	var errs []error
	for _, seg := range sealed {
		if seg.index.maxTime >= oldest && bytes <= s.o.RetentionBytes && memory <= s.o.IndexBytes {
			break
		}
		bytes -= seg.size
		memory -= seg.index.size()
		errs = append(errs, s.drop(seg))
	}
	s.metrics.bytes.Set(float64(bytes))
	return errors.Join(errs...)
}

// drop deletes a segment, and forgets the series that only it had. Queries that have begun still read it.
func (s *Store) drop(seg *segment) error {
	s.mu.Lock()
	s.segments = slices.DeleteFunc(slices.Clone(s.segments), func(x *segment) bool { return x == seg })
	s.series = make(map[string]*series)
	for _, left := range s.segments {
		for _, own := range left.index.series {
			s.series[own.key()] = own
		}
	}
	s.mu.Unlock()
	s.metrics.profiles.WithLabelValues(resultExpired).Add(float64(len(seg.index.entries)))
	err := os.Remove(seg.sidecarPath())
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.Remove(seg.path), seg.release())
}
