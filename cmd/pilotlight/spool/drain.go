package spool

import (
	"errors"
	"time"

	"pilotlight/profilestore"
)

// drain sends what is in the files, while the server is there, until the Spool is closed. While it is away, this is what
// finds out that it is back.
func (s *Spool) drain() {
	defer close(s.ended)
	last := uint64(0) // the number of the file that was done with last
	rest := time.Duration(0)
	for {
		if !s.files.waiting() {
			select {
			case <-s.wake:
				continue
			case <-s.ctx.Done():
				return
			}
		}
		if !s.sleep(max(rest, s.awayFor())) {
			return
		}
		rest = 0
		f := s.files.take(last)
		if f == nil || s.awayFor() > 0 {
			s.files.release(f)
			continue
		}
		begun := time.Now()
		last = f.number
		if !s.sendFile(f) {
			last-- // it is next again
		}
		rest = time.Since(begun) // the other half of the time is for what is live, here and on the server
	}
}

// sleep returns false when the Spool was closed meanwhile.
func (s *Spool) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.ctx.Done():
	}
	return s.ctx.Err() == nil
}

// awayFor is for how long yet the server is not to be asked.
func (s *Spool) awayFor() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.away {
		return 0
	}
	return time.Until(s.retryAt)
}

// internalError is the code of a server that fails for a reason of its own.
const internalError profilestore.Code = "internal"

// sendFile sends a file and removes it, if the server takes or refuses what is in it. It returns true if another one is
// to be next, which is also so where the server fails with this one, or takes too long: that keeps no other waiting.
func (s *Spool) sendFile(f *file) (done bool) {
	batch, err := s.files.read(f)
	if err != nil {
		s.files.setAside(f, err)
		return true
	}
	if err := s.sendParts(batch); err != nil {
		s.files.release(f)
		var e *profilestore.Error
		return errors.As(err, &e) && (e.Code == internalError || e.Code == profilestore.Unprocessable)
	}
	s.files.remove(f)
	return true
}

// sendParts sends a batch, and one that is refused for what is in it, or as too large, in halves: what is wrong with one
// profile costs no other. What is sent twice in the end, as a later part failed, the server knows by its IDs.
func (s *Spool) sendParts(batch []profilestore.Encoded) error {
	err := s.send(batch)
	switch {
	case err == nil || !refused(err):
		return err
	case len(batch) == 1:
		s.metrics.result(resultRefused, 1)
		s.refusals.Do(func() {
			s.log.Warn("the server refuses a spooled profile", "labels", batch[0].Labels.String(), "err", asRefusal(err))
		})
		return nil
	}
	half := len(batch) / 2
	if err := s.sendParts(batch[:half]); err != nil {
		return err
	}
	return s.sendParts(batch[half:])
}
