package agent

import (
	"slices"
	"time"

	"pilotlight/cmd/pilotlight/process"
	"pilotlight/symbolize"
)

// indexState is how far a file has come on its way to an index.
type indexState uint8

const (
	indexUnasked indexState = iota
	indexAsked              // there will be an answer
	indexLacking            // it has not been in enough samples to have one built
	indexFinal              // it has one, or there is none
)

// closeIndex lets go of a file's index, which is on disk.
func (f *symbolFile) closeIndex() error {
	if f.index == nil {
		return nil
	}
	err := f.index.Close()
	f.index, f.indexed, f.samples = nil, indexUnasked, 0
	return err
}

// withdraw reports whether nobody needs the file of f for its index, or sees to that.
func (s *symbols) withdraw(f *symbolFile) bool {
	if f.indexed != indexAsked || !s.indexes.cancel(f.file.Key) {
		return f.indexed != indexAsked
	}
	f.indexed = indexUnasked
	return true
}

// weigh counts in how many samples of w each file was that has better names in an
// index, and asks for those that are worth it.
func (s *symbols) weigh(w *window, names []named) {
	if s.indexes == nil {
		return
	}
	samples := make(map[process.FileKey]uint64)
	var seen []process.FileKey // in one stack
	for _, st := range w.order {
		for i := range st.rows {
			seen = seen[:0]
			for _, id := range st.rows[i].locations {
				n := &names[id]
				// Go's own names are as good, and those of an index are there.
				if n.kind != fileFrame || !n.binary.opened || n.frames[0].Source >= symbolize.Pclntab || slices.Contains(seen, n.binary.key) {
					continue
				}
				seen = append(seen, n.binary.key)
				samples[n.binary.key] += uint64(st.rows[i].count)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, n := range samples {
		if f := s.files[key]; f != nil {
			f.samples += n
			s.ask(f)
		}
	}
}

// ask asks for the index of a file if it has been in enough samples. s.mu is held.
func (s *symbols) ask(f *symbolFile) {
	build := f.needs > 0
	if f.indexed == indexFinal || f.samples < max(leastSamples, f.needs) {
		return
	}
	// One that is asked for is asked for again, to tell how many samples it has now,
	// unless it is under way.
	if f.indexed == indexAsked && !s.indexes.cancel(f.file.Key) {
		return
	}
	f.indexed = indexAsked
	s.indexes.want(indexJob{file: f.file, owner: f.owner, samples: f.samples, build: build, anew: f.doubted})
}

// takeIndexes takes the indexes that were made meanwhile, and reports whether there
// were any. Addresses of their files are named anew.
func (s *symbols) takeIndexes() (arrived bool) {
	if s.indexes == nil {
		return false
	}
	answers := s.indexes.collect()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range answers {
		f := s.files[a.key] // never closed while it is asked for
		f.needs = a.needs
		switch {
		case a.index != nil:
			f.index, f.indexed, arrived = a.index, indexFinal, true
			s.forget(f)
		case a.needs > 0:
			f.indexed = indexLacking
			s.ask(f)
		default:
			f.indexed = indexFinal
		}
	}
	return arrived
}

// awaitIndexes waits for the indexes that are asked for, at most as long as there
// is patience left, and reports whether there were any.
func (s *symbols) awaitIndexes(patience *time.Duration) (arrived bool) {
	if s.indexes == nil || *patience <= 0 {
		return false
	}
	begun, most := time.Now(), *patience
	told := time.AfterFunc(time.Second, func() { s.log.Info("waiting for debug information to be read", "at_most", most) })
	defer told.Stop()
	limit := time.NewTimer(*patience)
	defer limit.Stop()
	for s.indexes.wait(limit.C) {
		arrived = s.takeIndexes() || arrived
	}
	*patience -= time.Since(begun)
	return arrived
}

// doubt lets go of the index of a file if it could not be read, to have it built
// again once. s.mu is held.
func (s *symbols) doubt(f *symbolFile) error {
	if f.index == nil || f.index.Err() == nil {
		return nil
	}
	s.log.Warn("an index of symbols is damaged", "path", f.owner.path, "err", f.index.Err())
	err := f.closeIndex()
	s.forget(f)
	if f.doubted {
		f.indexed = indexFinal
	}
	f.doubted = true
	return err
}
