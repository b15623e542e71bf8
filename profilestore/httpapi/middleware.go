package httpapi

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"pilotlight/profilestore"
)

// record of one request: written by its handlers, read by the log.
type record struct {
	http.ResponseWriter
	id     string
	status int   // 0 until the header is written
	err    error // why it did not end well
	probe  bool  // 503 is an answer as good as any
}

type recordKey struct{}

func recordOf(ctx context.Context) *record { return ctx.Value(recordKey{}).(*record) }

func (rec *record) WriteHeader(status int) {
	if rec.status == 0 && status >= 200 {
		rec.status = status
	}
	rec.ResponseWriter.WriteHeader(status)
}

func (rec *record) Write(b []byte) (int, error) {
	rec.status = cmp.Or(rec.status, http.StatusOK)
	return rec.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController find the connection.
func (rec *record) Unwrap() http.ResponseWriter { return rec.ResponseWriter }

// record gives each request an ID, answers 500 where a handler panics, and logs what went wrong.
func (a *api) record(next http.Handler) http.Handler {
	var unlogged atomic.Int64 // client errors since the last line about one
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &record{ResponseWriter: w, id: requestID(r)}
		h := w.Header()
		h.Set("X-Request-Id", rec.id)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		start := time.Now()
		r = r.WithContext(context.WithValue(r.Context(), recordKey{}, rec))

		logged := func() {
			level, skipped := slog.LevelDebug, int64(0)
			switch {
			case rec.probe && rec.status == http.StatusServiceUnavailable:
			case rec.status >= 500:
				level = slog.LevelError
			case rec.err != nil && rec.status != statusCanceled:
				if !a.badLog.Allow() {
					unlogged.Add(1)
					return
				}
				level, skipped = slog.LevelWarn, unlogged.Swap(0)
			}
			attrs := []slog.Attr{
				slog.String("request_id", rec.id), slog.String("remote", r.RemoteAddr), slog.String("method", r.Method),
				slog.String("path", r.URL.Path), slog.Int("status", rec.status), slog.Duration("duration", time.Since(start)),
			}
			if rec.err != nil {
				attrs = append(attrs, slog.String("err", describe(rec.err)))
			}
			if skipped > 0 {
				attrs = append(attrs, slog.Int64("unlogged", skipped))
			}
			a.log.LogAttrs(r.Context(), level, "request", attrs...)
		}
		defer func() {
			defer logged()
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler {
				panic(p)
			}
			err := fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			if rec.status != 0 {
				// The answer has begun: only a cut connection can say that it is not whole.
				rec.status, rec.err = http.StatusInternalServerError, err
				panic(http.ErrAbortHandler)
			}
			writeError(rec, r, err)
		}()
		next.ServeHTTP(rec, r)
	})
}

// describe adds the cause that an error keeps from the client.
func describe(err error) string {
	if e, ok := err.(*profilestore.Error); ok && e.Err != nil {
		return e.Message + ": " + e.Err.Error()
	}
	return err.Error()
}

// requestID is the caller's own, if it has one that may stand in a log line.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	plain := func(c rune) rune {
		if c == '-' || c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			return c
		}
		return -1
	}
	if id != "" && len(id) <= 64 && strings.Map(plain, id) == id {
		return id
	}
	var b [8]byte
	rand.Read(b[:]) // never returns an error: crypto/rand
	return hex.EncodeToString(b[:])
}

// trust refuses what a page of another site makes a browser send.
func (a *api) trust(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if origin := r.Header.Get("Origin"); origin != "" {
			if u, err := url.Parse(origin); err != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host) {
				writeError(w, r, &profilestore.Error{Code: codeForbidden, Message: fmt.Sprintf("origin %.80q is not this server: open its own page", origin)})
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// named refuses a Host that is no name of this server: a site may point its own name here, and is then no other one to a
// browser. What asks for a token needs none of this: for that name the browser has none.
func (a *api) named(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := hostName(r.Host)
		if _, err := netip.ParseAddr(name); err != nil && !a.hosts[name] {
			writeError(w, r, &profilestore.Error{Code: codeForbidden, Message: fmt.Sprintf("host %.80q is not a name of this server: call it by IP address or localhost, or have it ask for a token, or show a certificate of that name", r.Host)})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostName takes the port and the brackets from a Host.
func hostName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
