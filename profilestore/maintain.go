package profilestore

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// maintain is the only goroutine that writes and deletes blocks and segments.
func (s *Store) maintain() {
	for {
		select {
		case r := <-s.work:
			s.setErr(s.round())
			if r.done != nil {
				close(r.done)
			}
		case <-s.closing:
			return
		}
	}
}

// round does what is to be done in the background.
func (s *Store) round() error {
	task := func(name string, err error) error {
		if err != nil && !errors.Is(err, ErrClosed) {
			s.metrics.failures.WithLabelValues(name).Inc()
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	err := s.flush()
	// Retention comes before compaction: on a full disk it is what makes room.
	errs := errors.Join(task(taskFlush, err), task(taskRetain, s.retain()), task(taskCompact, s.compact()), task(taskRetain, s.removeLingering()))
	s.trim()
	return errs
}

// flush writes the heads that wait as blocks, and tells the writer, who may wait for it.
func (s *Store) flush() error {
	err := s.flushHeads()
	s.mu.Lock()
	s.flushErr = err
	s.mu.Unlock()
	select {
	case s.flushed <- struct{}{}:
	default:
	}
	return err
}

func (s *Store) flushHeads() error {
	for {
		s.mu.RLock()
		var h *head
		if len(s.flushing) > 0 {
			h = s.flushing[0]
		}
		s.mu.RUnlock()
		if h == nil {
			return nil
		}
		start := time.Now()
		if err := s.flushHead(h); err != nil {
			return err
		}
		s.metrics.flushSeconds.Observe(time.Since(start).Seconds())
	}
}

func (s *Store) flushHead(h *head) error {
	if err := s.saveDictionaries(h); err != nil {
		return err
	}
	view := h.view(minInt64, maxInt64)
	if view != nil {
		for _, d := range view.days() {
			if h.written[d] != nil {
				continue
			}
			b, err := s.writeBlock([]part{view}, d, 0, nil, nil)
			if err != nil {
				return err
			}
			if h.written == nil {
				h.written = make(map[int64]*block)
			}
			h.written[d] = b
			s.flushedAt[d] = s.now()
		}
	}
	s.mu.Lock()
	for _, b := range h.written {
		s.blocks = append(s.blocks, b)
		s.metrics.bytes.Add(float64(b.meta.size()))
	}
	slices.SortFunc(s.blocks, func(a, b *block) int { return cmp.Compare(a.meta.Sequence, b.meta.Sequence) })
	s.flushing = s.flushing[1:]
	s.retire(h)
	s.mu.Unlock()
	return s.dropLogs()
}

const (
	minInt64 = -1 << 63
	maxInt64 = 1<<63 - 1
)

// days are those on which profiles of the head start.
func (v *headView) days() []int64 {
	var days []int64
	for i := range v.table.rows {
		days = append(days, floorDiv(v.table.rows[i].time, day))
	}
	slices.Sort(days)
	return slices.Compact(days)
}

// saveDictionaries writes what the dictionaries of a head have gained since they were last written.
func (s *Store) saveDictionaries(h *head) error {
	var news []growth
	var dicts []*dictionary
	for _, d := range h.dicts {
		dicts = append(dicts, d)
	}
	slices.SortFunc(dicts, func(a, b *dictionary) int { return cmp.Compare(a.id, b.id) })
	for _, d := range dicts {
		if g := d.growth(); g.to != g.from {
			news = append(news, g)
		}
	}
	if len(news) == 0 {
		return nil
	}
	seg, err := writeSegment(s.fs, s.dir, s.nextSequence(), news)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.segments = append(s.segments, seg)
	s.mu.Unlock()
	s.metrics.bytes.Add(float64(seg.meta.size()))
	for i := range news {
		h.dicts[news[i].meta.ID].setSaved(news[i].to)
	}
	return nil
}

// retire lets go of dictionaries of days past that nothing was written with since the flush before that of h. When all of them take more than their
// share of the memory the largest ones begin new trees; if that is not enough, because of names, what comes next begins
// new dictionaries. The lock is held.
func (s *Store) retire(h *head) {
	used := s.inHeads()
	for id := range h.dicts {
		used[id] = true
	}
	today := floorDiv(s.now().UnixNano(), day)
	var open []*dictionary
	total := int64(0)
	for key, d := range s.open {
		if key.day != today && !used[d.id] {
			delete(s.open, key)
			continue
		}
		open = append(open, d)
		total += d.size()
	}
	most := s.o.MemoryBytes / 4
	largestFirst := func(a, b *dictionary) int { return cmp.Compare(b.size(), a.size()) }
	slices.SortFunc(open, largestFirst)
	for _, d := range open {
		if total <= most {
			break
		}
		total -= d.beginTree()
	}
	slices.SortFunc(open, largestFirst)
	for _, d := range open {
		if total <= most {
			break
		}
		total -= d.size()
		delete(s.open, dictionaryKey{d.service, d.day})
	}
	s.metrics.dictionaries.Set(float64(total))
	s.forgetDictionaries()
}

// inHeads are the dictionaries that heads refer to. The lock is held.
func (s *Store) inHeads() map[uint32]bool {
	used := make(map[uint32]bool)
	for _, h := range append(slices.Clone(s.flushing), s.head) {
		h.mu.RLock()
		for id := range h.dicts {
			used[id] = true
		}
		h.mu.RUnlock()
	}
	return used
}

// forgetDictionaries drops those from memory that are not written with any more, and that nothing needs. The lock is
// held.
func (s *Store) forgetDictionaries() {
	used := s.inHeads()
	for id, d := range s.inMemory {
		if s.open[dictionaryKey{d.service, d.day}] != d && !used[id] && d.pins.Load() == 0 {
			delete(s.inMemory, id)
		}
	}
}

func (d *dictionary) size() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bytes
}

// dropLogs deletes the files of the log that no head has anything in.
func (s *Store) dropLogs() error {
	s.mu.RLock()
	from := s.head.walFrom
	if len(s.flushing) > 0 {
		from = s.flushing[0].walFrom
	}
	s.mu.RUnlock()
	logs, err := s.sequences(walDir)
	if err != nil {
		return err
	}
	for _, seq := range logs {
		if seq >= from {
			break
		}
		path := walPath(s.dir, seq)
		if s.badLogs[path] {
			if err := s.putAside(path); err != nil {
				return err
			}
			delete(s.badLogs, path)
			continue
		}
		if s.isLingering(path) {
			continue
		}
		size, err := s.fileSize(path)
		if err != nil {
			return err
		}
		s.linger(path, size, true)
	}
	return s.removeLingering()
}

func (s *Store) fileSize(path string) (int64, error) {
	f, err := s.fs.Open(path)
	if err != nil {
		return 0, err
	}
	size, err := f.Size()
	return size, errors.Join(err, f.Close())
}

const (
	fanIn        = 4 // blocks or segments of a level that are merged into one of the next
	settledAfter = 2 * time.Hour
)

// compact merges small blocks, and small segments, until nothing is left to merge.
func (s *Store) compact() error {
	for {
		if s.isClosing() {
			return ErrClosed
		}
		inputs := s.chooseBlocks()
		if inputs == nil {
			break
		}
		if err := s.compactBlocks(inputs); err != nil {
			return err
		}
		// What is too old or too much does not wait for the merges of other days.
		if err := s.retain(); err != nil {
			return err
		}
	}
	for {
		if s.isClosing() {
			return ErrClosed
		}
		inputs := s.chooseSegments()
		if inputs == nil {
			return nil
		}
		if err := s.compactSegments(inputs); err != nil {
			return err
		}
	}
}

// pause is called by merges now and then: those who append wait when two heads wait to be written, and a merge may take
// longer than it takes to fill them.
func (s *Store) pause() error {
	if s.isClosing() {
		return ErrClosed
	}
	if s.waiting() == 0 {
		return nil
	}
	return s.flush()
}

// largestMerge bounds the room that a merge needs beside what it replaces.
func (s *Store) largestMerge() int64 { return s.o.RetentionBytes / 10 }

// settled says whether a day is over and nothing more comes for it, as far as can be told: what an agent kept while it
// could not send comes late, and to merge all of the day after each flush of that would write the day again each time.
func (s *Store) settled(d int64, now time.Time) bool {
	over := time.Unix(0, (d+1)*day)
	return now.Sub(over) > settledAfter && now.Sub(s.flushedAt[d]) > settledAfter
}

// chooseBlocks gives the blocks of one day to merge: four of a level, or all of a day that is settled. nil is none.
func (s *Store) chooseBlocks() []*block {
	s.mu.RLock()
	defer s.mu.RUnlock()
	type key struct {
		day   int64
		level int
	}
	const anyLevel = -1
	now := s.now()
	byKey := make(map[key][]*block)
	var keys []key
	for _, b := range s.blocks {
		if b.suspect.Load() {
			continue
		}
		k := key{b.meta.Day, b.meta.Level}
		if s.settled(b.meta.Day, now) {
			k.level = anyLevel
		}
		if byKey[k] == nil {
			keys = append(keys, k)
		}
		byKey[k] = append(byKey[k], b)
	}
	for _, k := range keys {
		all := byKey[k]
		if k.level != anyLevel {
			if len(all) < fanIn {
				continue
			}
			all = all[:fanIn]
		}
		size := int64(0)
		var chosen []*block
		for _, b := range all {
			if size += b.meta.size(); size > s.largestMerge() {
				break
			}
			chosen = append(chosen, b)
		}
		if len(chosen) > 1 && (k.level == anyLevel || len(chosen) == fanIn) {
			return chosen
		}
	}
	return nil
}

func (s *Store) compactBlocks(inputs []*block) error {
	var parts []part
	var replaces []uint64
	level := 0
	for _, b := range inputs {
		parts = append(parts, b)
		replaces = append(replaces, b.meta.Sequence)
		level = max(level, b.meta.Level+1)
	}
	merged, err := s.writeBlock(parts, inputs[0].meta.Day, level, replaces, s.pause)
	if d := (*damageError)(nil); errors.As(err, &d) {
		// Merged, the bytes would be gone: what is damaged stays as it is.
		for _, b := range inputs {
			if filepath.Dir(d.Path) == b.path {
				s.noteDamage(b, d)
				return nil
			}
		}
	}
	if err != nil {
		return err
	}
	s.metrics.compactions.Inc()
	s.mu.Lock()
	s.blocks = slices.DeleteFunc(slices.Clone(s.blocks), func(b *block) bool { return slices.Contains(inputs, b) })
	s.blocks = append(s.blocks, merged)
	slices.SortFunc(s.blocks, func(a, b *block) int { return cmp.Compare(a.meta.Sequence, b.meta.Sequence) })
	s.mu.Unlock()
	err = s.leave(inputs)
	for _, b := range inputs {
		s.linger(b.path, b.meta.size(), false)
	}
	return errors.Join(err, s.removeLingering())
}

// leave takes leave of blocks that are served no more, before their files are deleted. Those that queries still read, which
// had begun, are held open, and their dictionaries are kept, until a later call finds that these queries have ended.
func (s *Store) leave(blocks []*block) error {
	var left []*block
	var errs []error
	for _, b := range slices.Concat(s.leaving, blocks) {
		if b.refs.Load() == 1 { // nobody can take one any more
			errs = append(errs, b.release())
			continue
		}
		b.hold()
		left = append(left, b)
	}
	s.leaving = left
	return errors.Join(errs...)
}

func bySequence(a, b *segment) int { return cmp.Compare(a.order(), b.order()) }

// order is where a segment stands among those that go on with its dictionaries: a merged one stands where the
// first that it was made from stood.
func (s *segment) order() uint64 {
	if len(s.meta.Replaces) > 0 {
		return s.meta.First
	}
	return s.meta.Sequence
}

// chooseSegments gives neighbours of one level to merge. nil is none.
func (s *Store) chooseSegments() []*segment {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i := 0; i+fanIn <= len(s.segments); i++ {
		run := s.segments[i : i+fanIn]
		size := int64(0)
		same := true
		for _, seg := range run {
			same = same && seg.meta.Level == run[0].meta.Level && !seg.suspect
			size += seg.meta.size()
		}
		if same && size <= s.largestMerge() {
			return slices.Clone(run)
		}
	}
	return nil
}

func (s *Store) compactSegments(inputs []*segment) error {
	s.mu.RLock()
	used := s.usedDictionaries()
	s.mu.RUnlock()
	merged, err := mergeSegments(s.fs, s.dir, s.nextSequence(), inputs, used, s.pause)
	if d := (*damageError)(nil); errors.As(err, &d) {
		s.note(d.Damage)
		for _, seg := range inputs {
			seg.suspect = seg.suspect || filepath.Dir(d.Path) == seg.path
		}
		return nil
	}
	if err != nil {
		return err
	}
	s.metrics.compactions.Inc()
	s.mu.Lock()
	s.segments = slices.DeleteFunc(slices.Clone(s.segments), func(seg *segment) bool { return slices.Contains(inputs, seg) })
	s.segments = append(s.segments, merged)
	slices.SortFunc(s.segments, bySequence)
	s.mu.Unlock()
	var errs []error
	for _, seg := range inputs {
		s.linger(seg.path, seg.meta.size(), false)
		errs = append(errs, seg.release())
	}
	return errors.Join(append(errs, s.removeLingering())...)
}

func (s *Store) deleteSegments(segments []*segment) error {
	var errs []error
	for _, seg := range segments {
		errs = append(errs, s.discard(seg.path), seg.release())
	}
	return errors.Join(errs...)
}

// usedDictionaries are those that a block refers to, or a head may. The lock is held.
func (s *Store) usedDictionaries() map[uint32]bool {
	return s.usedBy(slices.Concat(s.blocks, s.leaving))
}

// usedBy is usedDictionaries as if these were all blocks. The lock is held.
func (s *Store) usedBy(blocks []*block) map[uint32]bool {
	used := make(map[uint32]bool)
	for _, b := range blocks {
		for _, id := range b.meta.Dictionaries {
			used[id] = true
		}
	}
	for id := range s.inMemory {
		used[id] = true
	}
	return used
}

func (s *segment) usedIn(used map[uint32]bool) bool {
	return slices.ContainsFunc(s.meta.Dictionaries, func(d dictionaryMeta) bool { return used[d.ID] })
}

// sizeWith is what the store would take if these were all blocks. The lock is held.
func (s *Store) sizeWith(blocks []*block) (size, symbols int64) {
	for _, b := range blocks {
		size += b.meta.size()
	}
	used := s.usedBy(blocks)
	for _, seg := range s.segments {
		if seg.usedIn(used) {
			symbols += seg.meta.size()
		}
	}
	return size + symbols, symbols
}

// retain deletes the blocks that are too old, the oldest ones of a store that is too large, and the dictionaries
// that no block uses any more. Files of blocks go at once, also from under queries that have begun, which hold them open.
func (s *Store) retain() error {
	oldest := s.now().Add(-s.o.Retention)
	s.mu.Lock()
	gone := s.expire(oldest)
	s.mu.Unlock()
	errs := []error{s.leave(gone)}
	s.mu.Lock()
	used := s.usedDictionaries()
	var unused []*segment
	for _, seg := range s.segments {
		if !seg.usedIn(used) {
			unused = append(unused, seg)
		}
	}
	s.segments = slices.DeleteFunc(slices.Clone(s.segments), func(seg *segment) bool { return slices.Contains(unused, seg) })
	for key, l := range s.loaded {
		if !used[key.id] {
			delete(s.loaded, key)
			s.cacheBytes.Add(-l.bytes)
		}
	}
	size, _ := s.sizeWith(s.blocks)
	s.mu.Unlock()
	s.metrics.bytes.Set(float64(size))
	for _, b := range gone {
		s.metrics.profiles.WithLabelValues(resultExpired).Add(float64(b.meta.Profiles.Rows))
		errs = append(errs, s.discard(b.path))
	}
	if len(gone) > 0 {
		s.forgetSeries()
	}
	return errors.Join(append(errs, s.deleteSegments(unused), s.emptyQuarantine(oldest))...)
}

// expire takes the blocks that are to go out of the store. The lock is held.
func (s *Store) expire(oldest time.Time) (gone []*block) {
	left := slices.Clone(s.blocks)
	slices.SortStableFunc(left, func(a, b *block) int { return cmp.Compare(a.meta.MaxTime, b.meta.MaxTime) })
	for len(left) > 0 && left[0].before(oldest) {
		gone, left = append(gone, left[0]), left[1:]
	}
	size, symbols := s.sizeWith(left)
	if size > s.o.RetentionBytes && symbols > s.o.RetentionBytes/2 {
		// What dictionaries hold only goes with the last block that uses them: they must not be used for ever.
		clear(s.open)
		s.forgetDictionaries()
	}
	for len(left) > 0 && size > s.o.RetentionBytes {
		gone, left = append(gone, left[0]), left[1:]
		size, _ = s.sizeWith(left)
	}
	s.blocks = slices.DeleteFunc(slices.Clone(s.blocks), func(b *block) bool { return slices.Contains(gone, b) })
	return gone
}

// forgetSeries lets go of the series that no block has any more, as far as that is known without reading: new
// ones are counted again as they are met.
func (s *Store) forgetSeries() {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := make(map[string]*series)
	keep := func(t *profileTable) {
		for i := range t.rows {
			left[t.rows[i].series.key()] = t.rows[i].series
		}
	}
	for _, h := range append(slices.Clone(s.flushing), s.head) {
		h.mu.RLock()
		keep(&h.table)
		h.mu.RUnlock()
	}
	for _, b := range s.blocks {
		b.mu.Lock()
		if b.cached != nil {
			keep(b.cached)
		}
		b.mu.Unlock()
	}
	s.series = left
}

// emptyQuarantine deletes what was put aside before the retention.
func (s *Store) emptyQuarantine(oldest time.Time) error {
	dir := filepath.Join(s.dir, quarantineDir)
	names, err := s.fs.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		const digits = 8
		if len(name) < digits {
			continue
		}
		if d, err := strconv.ParseInt(name[:digits], 10, 64); err == nil && (d+1)*day <= oldest.UnixNano() {
			if err := s.fs.RemoveAll(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}
