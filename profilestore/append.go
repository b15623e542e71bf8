package profilestore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// maxAhead is how far a sender's clock may be ahead.
const maxAhead = 10 * time.Minute

// What one batch may hold, which is one record of the log and is written at once.
const (
	maxBatch         = 64 << 20 // bytes of pprof as sent
	maxBatchInflated = 64 << 20 // and inflated: it bounds the time that a batch takes
	maxBatchProfiles = 1 << 16  // each takes memory, however small it is
)

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
	if s.snapshot != nil {
		return resultRefused, &Error{Code: Unavailable, Message: "the store is open for reading only: send profiles to the server that has it"}
	}
	c, err := s.checkBatch(ctx, batch)
	if err != nil {
		return resultRefused, err
	}
	if len(c.entries) == 0 {
		return "", nil
	}
	select {
	case s.commits <- c: // unpinned by the writer
	case <-s.closing:
		unpin(c.entries)
		return resultFailed, s.errClosed()
	case <-ctx.Done():
		s.forget(c.entries)
		return resultFailed, ctx.Err()
	}
	select {
	case err := <-c.done:
		return resultFailed, err
	case <-ctx.Done():
		return resultFailed, ctx.Err()
	}
}

func (s *Store) checkBatch(ctx context.Context, batch []Encoded) (_ *commit, err error) {
	size := 0
	for i := range batch {
		size += len(batch[i].Pprof)
	}
	if size > maxBatch {
		return nil, &Error{Code: PayloadTooLarge, Message: fmt.Sprintf("a batch of %d bytes: send at most %d at once", size, maxBatch)}
	}
	if len(batch) > maxBatchProfiles {
		return nil, &Error{Code: PayloadTooLarge, Message: fmt.Sprintf("a batch of %d profiles: send at most %d at once", len(batch), maxBatchProfiles)}
	}
	var r *profileReader
	select {
	case r = <-s.readers:
		defer func() { s.readers <- r }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c := &commit{done: make(chan error, 1), entries: make([]*entry, 0, len(batch))}
	defer func() {
		if err != nil {
			s.forget(c.entries)
		}
	}()
	fresh := make(map[string]*series)
	inflated := 0
	for i := range batch {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		e, err := s.newEntry(r, batch[i], fresh)
		if own := (*Error)(nil); errors.As(err, &own) {
			return nil, own
		}
		if err != nil {
			code := BadRequest
			if limit := (*limitError)(nil); errors.As(err, &limit) {
				code = PayloadTooLarge
			}
			return nil, &Error{Code: code, Message: fmt.Sprintf("profile %d of %d, %.200s: %s; nothing of the batch is stored", i+1, len(batch), batch[i].Labels, err), Err: err}
		}
		c.entries = append(c.entries, e)
		if inflated += len(r.raw); inflated > maxBatchInflated {
			return nil, &Error{Code: PayloadTooLarge, Message: fmt.Sprintf("the profiles of a batch inflate to more than %d MB: send fewer at once; nothing of the batch is stored", maxBatchInflated>>20)}
		}
	}
	return c, s.admitSeries(fresh, c.entries)
}

// unpin lets go of the dictionaries of entries that are in the head, or will never be.
func unpin(entries []*entry) {
	for _, e := range entries {
		e.dict.pins.Add(-1)
	}
}

// forget is unpin for a batch that is refused: dictionaries that nothing was ever stored with go with it.
func (s *Store) forget(entries []*entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range entries {
		d := e.dict
		key := dictionaryKey{d.service, d.day}
		if d.pins.Add(-1) > 0 || s.open[key] != d || d.isSaved() || s.isInHead(d.id) {
			continue
		}
		delete(s.open, key)
		delete(s.inMemory, d.id)
		s.grown.Add(-d.size())
	}
}

// isInHead says whether a head refers to a dictionary. The lock is held.
func (s *Store) isInHead(id uint32) bool {
	return s.head.refersTo(id) || slices.ContainsFunc(s.flushing, func(h *head) bool { return h.refersTo(id) })
}

// newEntry refuses what could not be stored or queried later, and gives ids to the rest. The dictionary of an entry
// is pinned. fresh are the series of the batch that the store does not have yet. Without it the profile comes from the
// log: it was acknowledged, and neither its time nor its series is looked at again.
func (s *Store) newEntry(r *profileReader, enc Encoded, fresh map[string]*series) (*entry, error) {
	if !validName(enc.Name) || len(enc.Name) > MaxLabelName {
		return nil, fmt.Errorf("profile name %.40q: use [a-zA-Z_][a-zA-Z0-9_]*, as in process_cpu", enc.Name)
	}
	if err := enc.Labels.check(); err != nil {
		return nil, err
	}
	if len(enc.Pprof) > maxBatch {
		return nil, &limitError{"bytes", maxBatch}
	}
	if err := r.read(enc.Pprof); err != nil {
		return nil, err
	}
	if enc.Time == 0 {
		enc.Time, enc.Duration = r.time, time.Duration(r.duration)
		if enc.Time == 0 {
			enc.Time = s.now().UnixNano() - max(0, r.duration)
		}
	}
	if fresh != nil {
		if err := s.checkTime(enc.Time, enc.Duration); err != nil {
			return nil, err
		}
	}
	if enc.ID == (ID{}) {
		enc.ID = contentID(&enc)
	}
	own := &series{labels: slices.Clone(enc.Labels), types: r.schema(enc.Name)}
	own.columns = r.plan()
	if fresh != nil { // before there is a dictionary for it
		var err error
		if own, err = s.knownSeries(own, fresh); err != nil {
			return nil, err
		}
	}
	e := &entry{enc: enc, profileRow: profileRow{id: enc.ID, time: enc.Time, duration: int64(enc.Duration), series: own, bytes: uint32(len(enc.Pprof))}}
	e.dict = s.openDictionary(dictionaryKey{enc.Labels.Get("service_name"), floorDiv(enc.Time, day)})
	e.dictionary = e.dict.id
	n := len(r.samples)
	var main uint32
	e.rows.stack, e.rows.labels, main = e.dict.add(&r.decoded, make([]uint32, 0, n), make([]uint32, 0, n))
	e.rows.values = r.columnValues(own)
	e.header = s.internHeader(r.header(main))
	return e, nil
}

func (s *Store) checkTime(t int64, duration time.Duration) error {
	now := s.now()
	at := time.Unix(0, t).UTC()
	switch {
	case t < now.Add(-s.o.Retention).UnixNano():
		return fmt.Errorf("it starts at %s, before the retention of %s: it would be deleted at once", at.Format(time.RFC3339), s.o.Retention)
	case t > now.Add(maxAhead).UnixNano():
		return fmt.Errorf("it starts at %s, more than %s ahead of the server's clock: set the sender's clock", at.Format(time.RFC3339), maxAhead)
	case duration < 0 || duration > s.o.Retention:
		return fmt.Errorf("its duration is %s: it must not be negative or longer than the retention of %s", duration, s.o.Retention)
	}
	return nil
}

// contentID names a profile that came without an ID, so that sending the same again is no second profile.
func contentID(e *Encoded) ID {
	h := sha256.New()
	h.Write(MarshalBatch(nil, []Encoded{*e}))
	var id ID
	copy(id[:], h.Sum(nil))
	return id
}

// plan says which values need a column: not those that are another's times the period, as CPU time is the number
// of samples times it.
func (d *decoded) plan() []valueColumn {
	n := len(d.types)
	plan := make([]valueColumn, n)
	next := 0
	for i := range plan {
		plan[i] = valueColumn{next, 1}
		for j := 0; j < i && d.every > 1; j++ {
			if plan[j].factor == 1 && d.multiple(i, j) {
				plan[i] = valueColumn{plan[j].column, d.every}
				break
			}
		}
		if plan[i].factor == 1 {
			next++
		}
	}
	return plan
}

// multiple says whether all values of type i are those of type j times the period.
func (d *decoded) multiple(i, j int) bool {
	for at := 0; at < len(d.values); at += len(d.types) {
		if v := d.values[at+j]; v > maxTotal/d.every || d.values[at+i] != v*d.every {
			return false
		}
	}
	return true
}

// columnValues are the values in the columns of s.
func (d *decoded) columnValues(s *series) [][]int64 {
	columns := make([][]int64, s.width())
	n := len(d.types)
	for i, c := range s.columns {
		if columns[c.column] != nil {
			continue // its factor is 1 where a column comes first
		}
		values := make([]int64, len(d.samples))
		for j := range values {
			values[j] = d.values[j*n+i]
		}
		columns[c.column] = values
	}
	return columns
}

// header shares no memory with the profile.
func (d *decoded) header(main uint32) header {
	comments := make([]string, len(d.comments))
	for i, c := range d.comments {
		comments[i] = d.str(c)
	}
	own := func(i uint32) string { return strings.Clone(d.str(i)) }
	return header{d.every, joinComments(comments), own(d.dropFrames), own(d.keepFrames), own(d.defaultType), own(d.docURL), main}
}

func (s *Store) internHeader(h header) *header {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := s.headers[h]
	if own == nil {
		const most = 10_000 // what is shared saves memory; beyond that it costs some
		if len(s.headers) >= most {
			clear(s.headers)
		}
		own = &h
		s.headers[h] = own
	}
	return own
}

// openDictionary is the dictionary that profiles of a service and day are written with now. It is pinned.
func (s *Store) openDictionary(key dictionaryKey) *dictionary {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.open[key]
	if d == nil {
		d = newDictionary(s.dictionary.Add(1), key.service, key.day, &s.grown)
		s.open[key] = d
		s.inMemory[d.id] = d
	}
	d.pins.Add(1)
	return d
}

// knownSeries is the object that the store or the batch has of a series. One that is new is added to fresh, or refused.
func (s *Store) knownSeries(own *series, fresh map[string]*series) (*series, error) {
	key := own.key()
	s.mu.RLock()
	defer s.mu.RUnlock()
	if known := s.series[key]; known != nil {
		return known, nil
	}
	if known := fresh[key]; known != nil {
		return known, nil
	}
	fresh[key] = own
	return own, s.checkSeries(len(fresh))
}

// checkSeries refuses so many more series. The lock is held.
func (s *Store) checkSeries(more int) error {
	if more > 0 && len(s.series)+more > s.o.MaxSeries {
		return &Error{Code: TooManyRequests, Message: fmt.Sprintf("the store holds %d series, %d more would exceed its limit of %d: remove labels that change often", len(s.series), more, s.o.MaxSeries)}
	}
	return nil
}

// admitSeries makes the new series of a batch the store's own, or refuses all when they are too many by now.
func (s *Store) admitSeries(fresh map[string]*series, entries []*entry) error {
	if len(fresh) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	same := make(map[*series]*series) // of those that came with another batch meanwhile
	for key, own := range fresh {
		if known := s.series[key]; known != nil {
			same[own] = known
			delete(fresh, key)
		}
	}
	if err := s.checkSeries(len(fresh)); err != nil {
		return err
	}
	maps.Copy(s.series, fresh)
	for _, e := range entries {
		if known := same[e.series]; known != nil {
			e.series = known
		}
	}
	return nil
}
