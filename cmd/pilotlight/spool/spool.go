// Package spool keeps profiles on disk while the server that they are for does
// not take them.
//
// While the server answers, nothing is written. A batch that it did not take, or
// that is not even offered because the one before was not taken, becomes a file
// (see file.go). When the server takes batches again, what comes is sent first,
// and the files follow, oldest first: what is oldest is what would be lost next,
// to the spool's limit here or to the server's retention there. Between two files
// is a pause of at least the time that the last one took, so that a server that
// comes back is not met by all that its agents have.
//
// A file is removed when its profiles are on the server. A crash before that has
// them sent twice; they have IDs, by which a store knows them.
package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"pilotlight/profilestore"
)

const (
	defaultMaxBytes = 256 << 20

	// patience is how long a batch may take to be sent before it is written to disk
	// as well, so that Append is done with it soon, whatever the server does.
	patience = time.Second
	// sendTimeout is how long a batch may take all the same. A server may take 30 s, and have it wait for 10.
	sendTimeout = 45 * time.Second

	// Pauses before what was not taken is offered again double, from the shortest to the longest, and vary by half, so
	// that agents do not come all at once. The longest bounds for how long a server that is back is not noticed.
	shortestPause = time.Second
	longestPause  = 20 * time.Second
)

// Appender takes a batch, all of it or none. Errors are as those of [pilotlight/profilestore/httpapi.Client.Append].
type Appender interface {
	Append(context.Context, []profilestore.Encoded) error
}

// Options configure a Spool. The zero value is the default.
type Options struct {
	MaxBytes   int64                 // of all files; 0: 256 MiB
	Registerer prometheus.Registerer // nil: metrics are kept and not registered
	Logger     *slog.Logger          // nil: slog.Default()

	fs fileSystem // nil: the operating system's
}

// Spool is an Appender that keeps what another does not take. All methods may be
// called from many goroutines.
type Spool struct {
	next     Appender
	files    *files
	metrics  *metrics
	log      *slog.Logger
	ctx      context.Context // of what is being sent; done when the Spool is closed
	cancel   context.CancelFunc
	ended    chan struct{} // closed when nothing drains any more
	inFlight sync.WaitGroup
	refusals rate.Sometimes // that are logged

	mu      sync.Mutex // guards what follows
	pause   *backoff.ExponentialBackOff
	away    bool          // the server took nothing when it was asked last
	retryAt time.Time     // when it is asked again, if it is away
	problem string        // why it is away
	wake    chan struct{} // has a value when there may be something to drain
}

// Open opens the spool in a directory, makes it if it is not there, and begins to
// send what is in it to next. One process at a time may have it open.
func Open(dir string, next Appender, o Options) (*Spool, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = defaultMaxBytes
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.fs == nil {
		fs, err := openDirectory(dir)
		if err != nil {
			return nil, fmt.Errorf("open spool: %w", err)
		}
		o.fs = fs
	}
	m := newMetrics()
	files, err := openFiles(o.fs, o.MaxBytes, m, o.Logger)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open spool: %w", err), o.fs.close())
	}
	s := &Spool{
		next: next, files: files, metrics: m, log: o.Logger, ended: make(chan struct{}), wake: make(chan struct{}, 1),
		refusals: rate.Sometimes{First: 3, Interval: time.Minute},
		pause: &backoff.ExponentialBackOff{
			InitialInterval: shortestPause, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: longestPause,
		},
	}
	s.pause.Reset()
	if err := m.register(o.Registerer, files); err != nil {
		return nil, errors.Join(fmt.Errorf("register metrics: %w", err), o.fs.close())
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	go s.drain()
	return s, nil
}

// Bytes returns the size of all files.
func (s *Spool) Bytes() int64 { return s.files.size() }

// Append returns nil when the batch is durable, on the server or here. An error that is a [profilestore.Error] is the
// server's refusal of what is in it, which is not kept; any other says why it could not be written.
func (s *Spool) Append(ctx context.Context, batch []profilestore.Encoded) error {
	if s.leftAlone() {
		return s.keep(batch)
	}
	sent := make(chan error, 1)
	s.inFlight.Go(func() { sent <- s.send(batch) })
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-sent:
		return s.settle(batch, err)
	case <-timer.C:
	case <-ctx.Done():
	}
	held, err := s.files.put(batch, true)
	if err != nil {
		return s.settle(batch, <-sent)
	}
	s.metrics.result(resultKept, len(batch))
	s.inFlight.Go(func() {
		if err := <-sent; err == nil {
			s.files.remove(held)
			return
		}
		s.files.release(held) // what it is refused for, draining finds out
		s.stir()
	})
	return nil
}

// settle does what is to be done with a batch that was offered.
func (s *Spool) settle(batch []profilestore.Encoded, err error) error {
	switch {
	case err == nil:
		return nil
	case refused(err):
		if len(batch) == 1 {
			s.metrics.result(resultRefused, 1)
		}
		return asRefusal(err) // the caller offers the rest again
	}
	return s.keep(batch)
}

// keep writes a batch to disk.
func (s *Spool) keep(batch []profilestore.Encoded) error {
	if _, err := s.files.put(batch, false); err != nil {
		return fmt.Errorf("spool %d profiles: %w", len(batch), err)
	}
	s.metrics.result(resultKept, len(batch))
	s.stir()
	return nil
}

// send offers a batch to the server, and notes whether that is there.
func (s *Spool) send(batch []profilestore.Encoded) error {
	ctx, cancel := context.WithTimeout(s.ctx, sendTimeout)
	defer cancel()
	begun := time.Now()
	err := s.next.Append(ctx, batch)
	s.metrics.seconds.Observe(time.Since(begun).Seconds())
	switch {
	case err == nil:
		s.metrics.result(resultSent, len(batch))
		s.here()
	case refused(err):
		s.here()
	case s.ctx.Err() == nil:
		s.metrics.result(resultFailed, len(batch))
		s.gone(err)
	}
	return err
}

// leftAlone reports whether the server is away and not to be asked with a new batch: because it was asked not long ago, or
// because there are files, with which it is asked.
func (s *Spool) leftAlone() bool {
	s.mu.Lock()
	away, retryAt := s.away, s.retryAt
	s.mu.Unlock()
	return away && (time.Until(retryAt) > 0 || s.files.waiting())
}

// here notes that the server has answered.
func (s *Spool) here() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pause.Reset()
	s.problem = ""
	if s.away {
		s.away = false
		s.log.Info("the server takes profiles again", "spooled", s.files.size())
	}
}

// gone notes that the server has not taken a batch, but may yet, and leaves it alone for a while: for as long as it asks,
// if it does.
func (s *Spool) gone(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pause := s.pause.NextBackOff()
	if wanted := interface{ RetryAfter() time.Duration }(nil); errors.As(err, &wanted) {
		pause = max(pause, wanted.RetryAfter())
	}
	s.away, s.retryAt = true, time.Now().Add(pause)
	if why := err.Error(); why != s.problem {
		s.log.Warn("the server does not take profiles, which are kept on disk until it does", "err", err)
		s.problem = why
	}
}

// stir has the drain look whether there is something to do.
func (s *Spool) stir() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Close ends the sending. What was not sent is kept for the next time.
func (s *Spool) Close() error {
	s.cancel()
	s.inFlight.Wait()
	<-s.ended
	return s.files.close()
}

// refused reports whether err is the server's refusal of what is in a batch, so that offering the same again is in vain.
func refused(err error) bool { return asRefusal(err) != nil }

func asRefusal(err error) *profilestore.Error {
	var e *profilestore.Error
	if !errors.As(err, &e) {
		return nil
	}
	switch e.Code {
	case profilestore.BadRequest, profilestore.PayloadTooLarge, profilestore.TooManyRequests:
		return e
	}
	return nil
}
