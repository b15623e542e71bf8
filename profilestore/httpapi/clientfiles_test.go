package httpapi

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pilotlight/profilestore"
)

// TestClientTokenFile sends the token that is in a file at the time.
func TestClientTokenFile(t *testing.T) {
	var got string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got = credential(r) }))
	defer s.Close()
	path := filepath.Join(t.TempDir(), "token")
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path+".new", []byte(text), mode), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
	}
	write("short", 0o600)
	if _, err := OpenTokenFile(path); err == nil || !strings.Contains(err.Error(), "16 to 512") {
		t.Errorf("a short token: %v", err)
	}
	write("first-0123456789abcdef\n", 0o600)
	token, err := OpenTokenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewClient(s.URL, ClientOptions{HTTP: s.Client(), TokenFile: token})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		_, err := c.Get(t.Context(), "/x", nil)
		return err
	}
	if err := ask(); err != nil || got != "first-0123456789abcdef" {
		t.Errorf("sent %q: %v", got, err)
	}
	write("second-0123456789abcdef", 0o600)
	if err := ask(); err != nil || got != "second-0123456789abcdef" {
		t.Errorf("sent %q after the file had changed: %v", got, err)
	}
	write("third-0123456789abcdef", 0o644)
	if err := ask(); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a token for everybody: %v", err)
	}
}

// replacing returns what puts a file into a directory of the test's, in place of one with that name.
func replacing(t *testing.T) func(name string, content []byte) (path string) {
	dir := t.TempDir()
	return func(name string, content []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path+".new", content, 0o600), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
		return path
	}
}

// TestTransport has both ends show certificates, which change while they talk.
func TestTransport(t *testing.T) {
	put := replacing(t)
	cert, key := certificate(t, 1)
	clientCert, clientKey := certificate(t, 10)
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(clientCert)
	shown := ""
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown = r.TLS.PeerCertificates[0].SerialNumber.String()
	}))
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	defer s.Close()

	var logs logBuffer
	files := TLSFiles{CA: put("ca", cert), Cert: put("cert", clientCert), Key: put("key", clientKey)}
	transport, err := NewTransport(files, slog.New(slog.NewTextHandler(&logs, nil)))
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Transport: transport}
	defer c.CloseIdleConnections()
	ask := func() error {
		resp, err := c.Get(s.URL)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return errors.Join(err, resp.Body.Close())
	}
	if err := ask(); err != nil || shown != "10" {
		t.Errorf("showed certificate %s: %v", shown, err)
	}
	next, nextKey := certificate(t, 11)
	put("cert", next)
	if err := ask(); err != nil || shown != "10" || !strings.Contains(logs.String(), "stay in use") {
		t.Errorf("between the new certificate and its key: showed %s: %v, log %s", shown, err, &logs)
	}
	put("key", nextKey)
	if err := ask(); err != nil || shown != "11" {
		t.Errorf("showed certificate %s after the files had changed: %v", shown, err)
	}
	put("ca", next)
	if err := ask(); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("another authority is trusted: %v", err)
	}
	put("ca", cert)
	if err := ask(); err != nil {
		t.Errorf("the authority is back: %v", err)
	}
	if _, err := NewTransport(TLSFiles{CA: put("none", []byte("x"))}, slog.Default()); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("a file without a certificate: %v", err)
	}
}

// TestClientCertificates asks for a certificate to store profiles, and for a token of who has none.
func TestClientCertificates(t *testing.T) {
	put := replacing(t)
	cert, key := certificate(t, 1)
	agentCert, agentKey := certificate(t, 10)
	otherCert, otherKey := certificate(t, 11)
	log := slog.New(slog.DiscardHandler)
	config, err := TLSConfig(TLSFiles{CA: put("ca", agentCert), Cert: put("cert", cert), Key: put("key", key)}, log)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(NewHandler(newTestStore(t), Options{Logger: log, ClientCertificates: true, WriteTokens: openTokens(t, tokenFile(t, writeToken))}))
	server.TLSConfig, server.ErrorLog = config, slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(listener, "", "") }()
	defer func() { server.Close(); <-served }()

	push := func(files TLSFiles, token string) error {
		files.CA = put("server", cert)
		transport, err := NewTransport(files, log)
		if err != nil {
			t.Fatal(err)
		}
		hc := &http.Client{Transport: transport}
		defer hc.CloseIdleConnections()
		c, err := NewClient("https://"+listener.Addr().String(), ClientOptions{HTTP: hc, Token: token})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Get(t.Context(), "/api/v1/labels", nil); err != nil {
			t.Errorf("reading takes no certificate: %v", err)
		}
		return c.Append(t.Context(), testBatch(t, testBase()))
	}
	agent := TLSFiles{Cert: put("agent", agentCert), Key: put("agentKey", agentKey)}
	if err := push(agent, ""); err != nil {
		t.Errorf("with a certificate: %v", err)
	}
	if err := push(TLSFiles{}, ""); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without one: %v", err)
	}
	if err := push(TLSFiles{}, writeToken); err != nil {
		t.Errorf("with a token: %v", err)
	}
	put("ca", otherCert)
	other := TLSFiles{Cert: put("other", otherCert), Key: put("otherKey", otherKey)}
	if err := push(other, ""); err != nil {
		t.Errorf("with a certificate of the new authority: %v", err)
	}
}

// TestPushErrors tells what a sender has to know of each refusal.
func TestPushErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		header http.Header
		body   string
		code   profilestore.Code
		after  time.Duration
	}{
		{"bad profile", 400, http.Header{codeHeader: {"bad_request"}}, `{"code":"invalid_argument","message":"no"}`, profilestore.BadRequest, 0},
		{"another server's bad profile", 400, nil, `{"code":"invalid_argument","message":"no"}`, profilestore.BadRequest, 0},
		{"too large", 413, http.Header{codeHeader: {"payload_too_large"}}, `{"code":"resource_exhausted","message":"no"}`, profilestore.PayloadTooLarge, 0},
		{"too many series", 429, http.Header{codeHeader: {"too_many_requests"}}, `{"code":"resource_exhausted","message":"no"}`, profilestore.TooManyRequests, 0},
		{"busy", 429, http.Header{codeHeader: {"too_many_requests"}, "Retry-After": {"5"}}, `{"code":"resource_exhausted","message":"no"}`, profilestore.Unavailable, 5 * time.Second},
		{"disk full", 429, http.Header{codeHeader: {"insufficient_storage"}}, `{"code":"resource_exhausted","message":"no"}`, profilestore.InsufficientStorage, 0},
		{"wrong token", 401, http.Header{codeHeader: {"unauthenticated"}}, `{"code":"unauthenticated","message":"no"}`, codeUnauthenticated, 0},
		{"a proxy's page", 502, http.Header{"Retry-After": {"soon"}}, "<html>", profilestore.Unavailable, 0},
		{"a proxy that is busy", 429, http.Header{"Retry-After": {"7"}}, "<html>", profilestore.Unavailable, 7 * time.Second},
		{"a proxy that waits for the server", 503, http.Header{"Retry-After": {"70000"}}, "", profilestore.Unavailable, time.Hour},
		{"a proxy's limit", 413, nil, "<html>413 Request Entity Too Large", profilestore.PayloadTooLarge, 0},
		{"a proxy's error", 500, nil, "<html>", codeInternal, 0},
		{"elsewhere", 302, http.Header{"Location": {"/login"}}, "", profilestore.Unavailable, 0},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for name, values := range tt.header {
				w.Header()[name] = values
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(tt.status)
			if _, err := io.WriteString(w, tt.body); err != nil {
				t.Error(err)
			}
		}))
		c, err := NewClient(s.URL, ClientOptions{HTTP: s.Client()})
		if err != nil {
			t.Fatal(err)
		}
		err = c.Append(t.Context(), testBatch(t, testBase()))
		var e *profilestore.Error
		var later interface{ RetryAfter() time.Duration }
		if !errors.As(err, &e) || e.Code != tt.code || !errors.As(err, &later) || later.RetryAfter() != tt.after {
			t.Errorf("%s: %v: %+v, %v", tt.name, err, e, later)
		}
		s.Close()
	}
}

// TestEndlessAnswer has what is no server of profiles answer without end.
func TestEndlessAnswer(t *testing.T) {
	var sent atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/proto")
		for block := make([]byte, 64<<10); sent.Load() < maxAnswer; {
			n, err := w.Write(block)
			sent.Add(int64(n))
			if err != nil {
				return // it hung up
			}
		}
	}))
	defer s.Close()
	c, err := NewClient(s.URL, ClientOptions{HTTP: s.Client()})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Report(t.Context(), AgentReport{Version: "1", Hostname: "h", StartMS: 1}); err == nil {
		t.Error("a report was taken by something else")
	}
	if err := c.Append(t.Context(), testBatch(t, testBase())); err == nil {
		t.Error("profiles were taken by something else")
	}
	if n := sent.Load(); n > 64<<20 {
		t.Errorf("%d MB of answers were read", n>>20)
	}
}

// TestPushRefusals has this package's server refuse for each reason that a sender has to tell from others.
func TestPushRefusals(t *testing.T) {
	bad := testBatch(t, testBase())[:1]
	bad[0].Pprof = []byte("GIF89a")
	large := testBatch(t, testBase())[:1]
	large[0].Pprof = make([]byte, maxBody+1)
	for _, tt := range []struct {
		name  string
		store profilestore.Options
		batch []profilestore.Encoded
		code  profilestore.Code
	}{
		{"bad profile", profilestore.Options{}, bad, profilestore.BadRequest},
		{"too large", profilestore.Options{}, large, profilestore.PayloadTooLarge},
		{"too many series", profilestore.Options{MaxSeries: 1}, testBatch(t, testBase()), profilestore.TooManyRequests},
	} {
		store, err := profilestore.Open(t.TempDir(), tt.store)
		if err != nil {
			t.Fatal(err)
		}
		s := newTestServer(t, store, Options{})
		c, err := NewClient(s.URL, ClientOptions{HTTP: s.Client()})
		if err != nil {
			t.Fatal(err)
		}
		err = c.Append(t.Context(), tt.batch)
		if e := (*profilestore.Error)(nil); !errors.As(err, &e) || e.Code != tt.code {
			t.Errorf("%s: %v", tt.name, err)
		}
		s.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestStatusHandler(t *testing.T) {
	s := httptest.NewServer(NewStatusHandler(Options{Ready: func() error { return errors.New("not yet") }, Logger: slog.New(slog.DiscardHandler)}))
	defer s.Close()
	for path, want := range map[string]int{"/metrics": 200, "/-/healthy": 200, "/-/ready": 503, "/": 404, "/api/v1/agents": 404, "/debug/pprof/": 404} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "web1.example:7101" // as Prometheus may call it
		resp, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, resp.Status, want)
		}
	}
}
