package httpapi

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"pilotlight/profilestore"
	"pilotlight/profilestore/httpapi/pyroscope"
)

var update = flag.Bool("update", false, "write the golden files anew")

// testdata/errors.golden is read as a story: the request, and what the user is told.
func TestErrors(t *testing.T) {
	s := newTestServer(t, newTestStore(t), Options{})
	header := http.Header{"X-Request-Id": {"r1"}, "Content-Type": {"application/json"}}
	var b strings.Builder
	for _, req := range []string{
		"GET /api/v1/top?from=now&to=now-1h",
		"GET /api/v1/top?from=yesterday",
		"GET /api/v1/top?to=1763690400000",
		"GET /api/v1/top?from=now-5",
		"GET /api/v1/top?from=now-1h&from=now-2h",
		"GET /api/v1/top?filter=main",
		"GET /api/v1/top?filter=show:main",
		"GET /api/v1/pprof?filter=focus:(",
		"GET /api/v1/flamegraph?" + strings.Repeat("&filter=hide:x", maxFilters+1),
		"GET /api/v1/series?filter=focus:main",
		"GET /api/v1/pprof?b.from=now-2h",
		"GET /api/v1/top?b.query=api",
		"GET /api/v1/top?b.from=now&b.to=now-1h",
		"GET /api/v1/top?b.from=yesterday",
		"GET /api/v1/top?normalize=true",
		"GET /api/v1/top?b.from=now-2h&normalize=yes",
		"GET /api/v1/sandwich",
		"GET /api/v1/top?function=main",
		"GET /api/v1/types?type=process_cpu:cpu:nanoseconds:cpu:nanoseconds",
		"GET /api/v1/agents?query=%7B%7D",
		"GET /api/v1/top?query=api",
		"GET /api/v1/top?query=%7Bservice_name%3D%7D",
		"GET /api/v1/top?query=%7Bservice_name%3D~%22(%22%7D",
		"GET /api/v1/top?query=%zz",
		"GET /api/v1/top?type=cpu",
		"GET /api/v1/flamegraph?root=main;work",
		"GET /api/v1/flamegraph?max_nodes=0",
		"GET /api/v1/flamegraph?max_nodes=many",
		"GET /api/v1/series?step=0s",
		"GET /api/v1/series?step=30",
		"GET /api/v1/series?from=1000&to=101000&step=1s",
		"GET /api/v1/profiles?limit=1001",
		"GET /api/v1/pprof?seconds=-1",
		"GET /api/v1/pprof?seconds=1.5",
		"GET /api/v1/flamegraf",
		"POST /api/v1/top",
		"DELETE /api/v1/agents",
		"POST /api/v1/agents not JSON",
		`POST /api/v1/agents {"version":"1"}`,
		"POST /api/v1/agents " + strings.Repeat(" ", maxReportBytes+1),
		"GET " + pushProcedure,
		"POST " + pushPrefix + "Pull {}",
		"POST " + pushProcedure + ` {"series":[{"samples":[{"rawProfile":"AAAA"}]}]}`,
		"POST " + pushProcedure + ` {"series":[{"labels":[{"name":"__name__","value":"process_cpu"}],"samples":[{"rawProfile":"bm90IHBwcm9m"}]}]}`,
		"POST " + pushProcedure + ` {"series":[{"labels":[{"name":"__name__","value":"process_cpu"}],"samples":[{"rawProfile":""}]}]}`,
		"POST " + pushProcedure + ` {"series":[{"labels":[{"name":"__name__","value":"process_cpu"}],"samples":[{"ID":"4711"}]}]}`,
		"POST " + pushProcedure + ` {"series":[{"labels":[{"name":"a","value":"1"},{"name":"a","value":"2"}]}]}`,
	} {
		method, rest, _ := strings.Cut(req, " ")
		path, body, _ := strings.Cut(rest, " ")
		resp, answer := send(t, s, method, path, header, strings.NewReader(body))
		if resp.Header.Get("X-Request-Id") != "r1" || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%.80s: header %v", req, resp.Header)
		}
		if method == http.MethodDelete && resp.Header.Get("Allow") == "" {
			t.Errorf("%s: no Allow", req)
		}
		fmt.Fprintf(&b, "%s\n%d %s\n", strings.TrimSpace(fmt.Sprintf("%.180s", req)), resp.StatusCode, answer)
		if resp.Header["Content-Type"] != nil && !strings.HasSuffix(string(answer), "\n") {
			b.WriteString("\n") // connect ends without one
		}
	}
	const golden = "testdata/errors.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.String(); got != string(want) {
		t.Errorf("not as in %s (go test -update writes it anew):\n%s", golden, got)
	}
}

// A push that takes too long is not told that there is something wrong with it.
func TestPushTooLong(t *testing.T) {
	a, _ := newTestAPI(Options{})
	a.store = newTestStore(t)
	unary := connect.NewUnaryHandler(pushProcedure, func(ctx context.Context, _ *connect.Request[pyroscope.PushRequest]) (*connect.Response[pyroscope.PushResponse], error) {
		return nil, connectError(ctx, fmt.Errorf("append: %w", context.DeadlineExceeded))
	})
	expired, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	mux := http.NewServeMux()
	mux.Handle(pushProcedure, a.pushing(connected(unary)))
	mux.Handle("/ingest", a.taking(maxBody, maxInflated, func(w http.ResponseWriter, r *http.Request, b *body) error {
		return a.ingest(w, r.WithContext(context.WithValue(expired, recordKey{}, recordOf(r.Context()))), b)
	}))
	s := httptest.NewServer(a.record(mux))
	defer s.Close()
	c, err := NewClient(s.URL, ClientOptions{HTTP: s.Client()})
	if err != nil {
		t.Fatal(err)
	}
	var e *profilestore.Error
	// What the spool keeps and tries again, behind others.
	if err := c.Append(t.Context(), testBatch(t, testBase())); connect.CodeOf(err) != connect.CodeDeadlineExceeded || !errors.As(err, &e) || e.Code != profilestore.Unprocessable {
		t.Errorf("push: %v, as %+v", err, e)
	}
	resp, b := send(t, s, http.MethodPost, "/ingest?name=api", nil, strings.NewReader("main;work 3\n"))
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(b), "send again what was sent") {
		t.Errorf("/ingest: %s: %s", resp.Status, b)
	}
}

// Each code of the store has a status, and what has no code tells the client nothing of the machine.
func TestErrorStatus(t *testing.T) {
	a, logs := newTestAPI(Options{})
	for _, tt := range []struct {
		err  error
		want int
	}{
		{&profilestore.Error{Code: profilestore.BadRequest}, 400},
		{&profilestore.Error{Code: profilestore.PayloadTooLarge}, 413},
		{&profilestore.Error{Code: profilestore.Unprocessable}, 422},
		{&profilestore.Error{Code: profilestore.TooManyRequests}, 429},
		{fmt.Errorf("append: %w", &profilestore.Error{Code: profilestore.Unavailable, Err: profilestore.ErrClosed}), 503},
		{&profilestore.Error{Code: profilestore.InsufficientStorage}, 507},
		{&profilestore.Error{Code: "news to us"}, 500},
		{errors.New("open /secret/path: permission denied"), 500},
		{fmt.Errorf("select: %w", context.DeadlineExceeded), 422},
	} {
		w := httptest.NewRecorder()
		h := a.record(errorFunc(func(http.ResponseWriter, *http.Request) error { return tt.err }))
		h.ServeHTTP(w, httptest.NewRequest("GET", "/api/v1/top", nil))
		if w.Code != tt.want || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%v: %d %s, want %d", tt.err, w.Code, w.Body, tt.want)
		}
	}
	if !strings.Contains(logs.String(), "/secret/path") {
		t.Errorf("the log lacks the cause:\n%s", logs)
	}
}
