package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/profilestore"
)

// logBuffer is a log that a test reads while requests write it.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newTestAPI has no store: for what does not ask one.
func newTestAPI(o Options) (*api, *logBuffer) {
	var logs logBuffer
	o.Logger = slog.New(slog.NewTextHandler(&logs, nil))
	return newAPI(nil, o), &logs
}

func errorOf(t *testing.T, rec *httptest.ResponseRecorder) errorBody {
	t.Helper()
	var body struct{ Error errorBody }
	if err := json.Unmarshal(rec.Body.Bytes(), &body); err != nil {
		t.Fatalf("status %d, body %q: %v", rec.Code, rec.Body, err)
	}
	return body.Error
}

func TestTrust(t *testing.T) {
	for _, tt := range []struct {
		host, origin string
		want         int
	}{
		{"127.0.0.1:7100", "", 200},
		{"192.0.2.7", "", 200},
		{"[::1]:7100", "", 200},
		{"[::1]", "", 200},
		{"localhost:7100", "", 200},
		{"LOCALHOST.", "", 200},
		{"box.example:7100", "", 200},
		{"Box.Example", "", 200},

		{"", "", 403},
		{"evil.example:7100", "", 403},
		{"localhost.evil.example", "", 403},
		{"127.0.0.1.evil.example", "", 403},
		{"box.example.evil.example:7100", "", 403},
		{"127.0.0.1@evil.example", "", 403},

		{"127.0.0.1:7100", "http://127.0.0.1:7100", 200},
		{"box.example:443", "https://BOX.example:443", 200},
		{"127.0.0.1:7100", "http://127.0.0.1:8000", 403},
		{"127.0.0.1:7100", "http://localhost:7100", 403},
		{"127.0.0.1:7100", "http://evil.example", 403},
		{"127.0.0.1:7100", "null", 403},
		{"127.0.0.1:7100", "://", 403},
	} {
		a, _ := newTestAPI(Options{Hosts: []string{"box.example"}})
		h := a.record(a.trust(a.router()))
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			path, want := "/metrics", tt.want
			if method == http.MethodPost {
				path = "/api/v1/agents"
				if want == 200 {
					want = 204
				}
			}
			r := httptest.NewRequest(method, path, strings.NewReader(`{"version":"1","hostname":"h","start_ms":1}`))
			r.Host = tt.host
			if tt.origin != "" {
				r.Header.Set("Origin", tt.origin)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != want {
				t.Errorf("%s, host %q, origin %q: status %d, want %d", method, tt.host, tt.origin, w.Code, want)
			}
			if want == 403 {
				if e := errorOf(t, w); e.Code != "forbidden" {
					t.Errorf("host %q, origin %q: %+v", tt.host, tt.origin, e)
				}
				if len(a.agents.List()) > 0 {
					t.Errorf("host %q, origin %q: refused and done", tt.host, tt.origin)
				}
			}
		}
	}
}

// TestTrustByToken: by any name, a server may be called for what takes a token, and by a probe; for the rest by its own.
func TestTrustByToken(t *testing.T) {
	for _, tt := range []struct {
		name         string
		o            Options
		method, path string
		want         int
	}{
		{"writing takes a token", Options{WriteTokens: openTokens(t, tokenFile(t, writeToken))}, "POST", "/api/v1/agents", 204},
		{"writing takes a token", Options{WriteTokens: openTokens(t, tokenFile(t, writeToken))}, "GET", "/metrics", 403},
		{"writing takes a token", Options{WriteTokens: openTokens(t, tokenFile(t, writeToken))}, "GET", "/", 403},
		{"writing takes a certificate", Options{ClientCertificates: true}, "POST", "/api/v1/agents", 401},
		{"reading takes a token", Options{ReadTokens: openTokens(t, tokenFile(t, writeToken))}, "GET", "/metrics", 200},
		{"reading takes a token", Options{ReadTokens: openTokens(t, tokenFile(t, writeToken))}, "POST", "/api/v1/agents", 403},
		{"nothing does", Options{}, "POST", "/api/v1/agents", 403},
		{"nothing does", Options{}, "GET", "/-/healthy", 200},
	} {
		a, _ := newTestAPI(tt.o)
		r := httptest.NewRequest(tt.method, tt.path, strings.NewReader(`{"version":"1","hostname":"h","start_ms":1}`))
		r.Host = "profiles.example:7100"
		r.Header.Set("Authorization", "Bearer "+writeToken)
		w := httptest.NewRecorder()
		a.record(a.trust(a.router())).ServeHTTP(w, r)
		if w.Code != tt.want {
			t.Errorf("%s: %s %s: status %d, want %d: %s", tt.name, tt.method, tt.path, w.Code, tt.want, w.Body)
		}
	}
}

func TestRequestID(t *testing.T) {
	a, _ := newTestAPI(Options{})
	h := a.record(a.router())
	for _, tt := range []struct {
		in   string
		kept bool
	}{
		{"abc-DEF_123", true}, {"", false}, {"a b", false}, {"a\tb", false}, {"ä", false}, {strings.Repeat("x", 65), false},
	} {
		r := httptest.NewRequest("GET", "/api/v1/nothing", nil)
		r.Header.Set("X-Request-Id", tt.in)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		got := w.Header().Get("X-Request-Id")
		if got == "" || (got == tt.in) != tt.kept {
			t.Errorf("X-Request-Id %q became %q", tt.in, got)
		}
		if e := errorOf(t, w); e.RequestID != got {
			t.Errorf("X-Request-Id %q, request_id %q", got, e.RequestID)
		}
	}
}

func TestPanic(t *testing.T) {
	a, logs := newTestAPI(Options{})
	h := a.record(a.query("/x", a.merges, compress(answer(func(*http.Request) (any, error) { panic("the roof is on fire") }))))
	r := httptest.NewRequest("GET", "/x", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	e := errorOf(t, w)
	if w.Code != 500 || e.Code != "internal" || strings.Contains(e.Message, "roof") {
		t.Errorf("status %d, %+v", w.Code, e)
	}
	for _, want := range []string{"level=ERROR", "the roof is on fire", "middleware_test.go", "request_id=" + e.RequestID, "status=500"} {
		if !strings.Contains(logs.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, logs)
		}
	}
	if len(a.merges) != 0 {
		t.Error("the panic kept its place")
	}
}

// A panic after the answer has begun cuts the connection, so that a part is not taken for the whole.
func TestPanicInAnswer(t *testing.T) {
	a, logs := newTestAPI(Options{})
	s := httptest.NewServer(a.record(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		write(w, r, "half")
		panic("late")
	})))
	defer s.Close()
	resp, err := s.Client().Get(s.URL)
	if err == nil {
		var b [200]byte
		n := 0
		for err == nil {
			var m int
			m, err = resp.Body.Read(b[n:])
			n += m
		}
		resp.Body.Close()
		if !strings.Contains(err.Error(), "unexpected EOF") {
			t.Errorf("read %q, then %v", b[:n], err)
		}
	}
	s.Close()
	if !strings.Contains(logs.String(), "panic: late") {
		t.Errorf("log: %s", logs)
	}
}

func TestPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := make(places, 1)
		if err := p.take(t.Context()); err != nil {
			t.Fatal(err)
		}
		var e *profilestore.Error
		if err := p.take(t.Context()); !errors.As(err, &e) || e.Code != profilestore.TooManyRequests {
			t.Errorf("no place: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.take(ctx); err != context.Canceled {
			t.Errorf("client gone: %v", err)
		}
		go func() {
			time.Sleep(time.Second)
			<-p
		}()
		if err := p.take(t.Context()); err != nil {
			t.Errorf("a place after a second: %v", err)
		}
	})
}

func TestQueryLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, logs := newTestAPI(Options{})
		slow := a.record(a.query("/slow", a.merges, answer(func(r *http.Request) (any, error) {
			<-r.Context().Done()
			return nil, fmt.Errorf("select: %w", r.Context().Err())
		})))
		serve := func(ctx context.Context) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			slow.ServeHTTP(w, httptest.NewRequest("GET", "/slow", nil).WithContext(ctx))
			return w
		}

		var wg sync.WaitGroup
		for range maxMerges {
			wg.Go(func() {
				w := serve(t.Context())
				if e := errorOf(t, w); w.Code != 422 || !strings.Contains(e.Message, "longer than 30s") {
					t.Errorf("too slow: %d, %+v", w.Code, e)
				}
			})
		}
		synctest.Wait()
		w := serve(t.Context())
		if e := errorOf(t, w); w.Code != 429 || e.Code != "too_many_requests" || w.Header().Get("Retry-After") == "" {
			t.Errorf("too many: %d, %+v", w.Code, e)
		}
		wg.Wait()

		gone, hangUp := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, hangUp)
		start := time.Now()
		if w := serve(gone); w.Code != statusCanceled || time.Since(start) != time.Second {
			t.Errorf("client gone: status %d after %v", w.Code, time.Since(start))
		}
		if strings.Contains(logs.String(), "status=499") {
			t.Errorf("a client that hung up is no news:\n%s", logs)
		}
	})
}

// The eleventh client error in a minute is counted, and the count is in the next line.
func TestLogLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, logs := newTestAPI(Options{})
		h := a.record(a.router())
		fail := func() {
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/api/v1/nothing", nil))
		}
		for range 15 {
			fail()
		}
		if n := strings.Count(logs.String(), "\n"); n != 10 {
			t.Errorf("%d lines about 15 errors at once, want 10:\n%s", n, logs)
		}
		time.Sleep(time.Minute)
		fail()
		if !strings.Contains(logs.String(), "unlogged=5") {
			t.Errorf("the log lacks unlogged=5:\n%s", logs)
		}
	})
}
