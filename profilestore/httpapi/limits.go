package httpapi

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"pilotlight/profilestore"
)

const (
	requestTimeout = 30 * time.Second // of a query or a push, without its wait
	queueTimeout   = 10 * time.Second // wait for one of the places below

	maxMerges  = 4 // at once, of queries that merge stacks: each may use the store's memory for a query
	maxLookups = 8 // at once, of other queries
	maxPushes  = 8 // at once: each holds its body up to twice

	maxBody     = 32 << 20 // of a push, as sent
	maxInflated = 64 << 20 // of a push: the message. The store bounds what the profiles in it inflate to

	bodyBytes   = 256 << 20 // of all bodies under way, inflated
	answerBytes = 256 << 20 // of all answers that wait for their clients

	slowestBytes = 64 << 10         // that a client has to send or take
	patience     = 10 * time.Second // in this time
	longest      = 2 * time.Minute  // that a request or an answer may take all the same
)

// places bound how much goes on at once.
type places chan struct{}

// take waits for a place. The caller gives it back by leave.
func (p places) take(ctx context.Context) error {
	select {
	case p <- struct{}{}:
		return nil
	default:
	}
	t := time.NewTimer(queueTimeout)
	defer t.Stop()
	select {
	case p <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return &profilestore.Error{Code: profilestore.TooManyRequests, Message: fmt.Sprintf("%d requests like this are under way: try again when they have ended", cap(p))}
	}
}

func (p places) leave() { <-p }

// room is memory that requests share. Nobody waits for it: those who have it may be slow on purpose.
type room struct{ left atomic.Int64 }

func newRoom(size int64) *room {
	r := new(room)
	r.left.Store(size)
	return r
}

// share is what one request has of it.
type share struct {
	of   *room
	held int64
}

func (r *room) share() *share { return &share{of: r} }

func (s *share) take(n int64) error {
	if s.of.left.Add(-n) < 0 {
		s.of.left.Add(n)
		return &profilestore.Error{Code: profilestore.TooManyRequests, Message: "too many large requests are under way: try again when they have ended"}
	}
	s.held += n
	return nil
}

func (s *share) release() {
	s.of.left.Add(s.held)
	s.held = 0
}

// query bounds queries in number and time, and measures them. The answer is made in memory and sent when the
// place is given back, so that a client that does not read holds none.
func (a *api) query(route string, at places, next http.Handler) http.Handler {
	seconds := a.seconds.WithLabelValues(route)
	return errorFunc(func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Cache-Control", "no-store")
		held := a.answers.share()
		defer held.release()
		ans := answered{header: make(http.Header)} // of its own: an error that is answered instead is not packed
		if err := a.compute(&ans, r, at, next, held, func(d time.Duration) { seconds.Observe(d.Seconds()) }); err != nil {
			return err
		}
		a.send(w, r, &ans)
		return nil
	})
}

func (a *api) compute(ans *answered, r *http.Request, at places, next http.Handler, held *share, took func(time.Duration)) error {
	start := time.Now()
	defer func() { took(time.Since(start)) }()
	if err := at.take(r.Context()); err != nil {
		return err
	}
	defer at.leave()
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	next.ServeHTTP(ans, r.WithContext(ctx))
	if ans.body.Len() <= socketBytes {
		return nil
	}
	return held.take(int64(ans.body.Cap()))
}

// socketBytes is what a socket takes even when nobody reads, so that such an answer does not wait.
const socketBytes = 128 << 10

// answered is an answer in memory. It is an http.ResponseWriter.
type answered struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (ans *answered) Header() http.Header { return ans.header }

func (ans *answered) WriteHeader(status int) {
	if ans.status == 0 {
		ans.status = status
	}
}

func (ans *answered) Write(b []byte) (int, error) {
	ans.WriteHeader(http.StatusOK)
	return ans.body.Write(b)
}

// send writes an answer to a client that has to read it at some speed.
func (a *api) send(w http.ResponseWriter, r *http.Request, ans *answered) {
	rc := http.NewResponseController(w)
	deadline := func(t time.Time) error {
		if err := rc.SetWriteDeadline(t); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		return nil
	}
	h := w.Header()
	for name, values := range ans.header {
		if name == "Vary" {
			values = append(h.Values(name), values...)
		}
		h[name] = values
	}
	h.Set("Content-Length", strconv.Itoa(ans.body.Len()))
	w.WriteHeader(cmp.Or(ans.status, http.StatusOK)) // who writes nothing does not set it
	end := time.Now().Add(longest)
	var err error
	for ans.body.Len() > 0 && err == nil {
		if err = deadline(earlier(time.Now().Add(a.patience), end)); err == nil {
			_, err = w.Write(ans.body.Next(slowestBytes))
		}
	}
	if err == nil {
		if err = rc.Flush(); errors.Is(err, http.ErrNotSupported) {
			err = nil
		}
	}
	if err == nil {
		err = deadline(time.Time{}) // it would hold for the next answer too
	}
	if err != nil && r.Context().Err() == nil {
		recordOf(r.Context()).err = fmt.Errorf("write answer: %w", err)
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
