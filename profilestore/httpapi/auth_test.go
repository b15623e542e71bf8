package httpapi

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	readToken  = "read-0123456789abcdef"
	writeToken = "write-0123456789abcdef"
)

func tokenFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func openTokens(t *testing.T, path string) *Tokens {
	t.Helper()
	tokens, err := OpenTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

// unread fails the test when a body is read that belongs to a refused request.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body of a refused request was read")
	return 0, io.EOF
}

// TestAccess asks each route of the router with each kind of credential. What a route needs is said here once
// more, and is not taken from the router: a route that is new needs a token to read.
func TestAccess(t *testing.T) {
	open := map[string]bool{"/-/healthy": true, "/-/ready": true}
	writes := map[string]bool{"/api/v1/agents": true, "/push.v1.PusherService/Push": true, "/ingest": true}
	a, _ := newTestAPI(Options{ReadTokens: openTokens(t, tokenFile(t, readToken)), WriteTokens: openTokens(t, tokenFile(t, "# agents\n\n"+writeToken+"\n"))})
	a.store = newTestStore(t)
	router := a.router()
	h := a.record(a.trust(router))

	credentials := map[string]func(*http.Request){
		"none":         func(*http.Request) {},
		"empty":        func(r *http.Request) { r.Header.Set("Authorization", "Bearer ") },
		"wrong":        func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+readToken[:len(readToken)-1]) },
		"wrong basic":  func(r *http.Request) { r.SetBasicAuth(readToken, "password") },
		"digest":       func(r *http.Request) { r.Header.Set("Authorization", "Digest "+readToken) },
		"bare":         func(r *http.Request) { r.Header.Set("Authorization", readToken) },
		"in URL":       func(r *http.Request) { r.URL.RawQuery = "token=" + readToken },
		"a comment":    func(r *http.Request) { r.Header.Set("Authorization", "Bearer # agents") },
		"read":         func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+readToken) },
		"read basic":   func(r *http.Request) { r.SetBasicAuth("anybody", readToken) },
		"read bEARER":  func(r *http.Request) { r.Header.Set("Authorization", "bEARER "+readToken) },
		"write":        func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+writeToken) },
		"write basic":  func(r *http.Request) { r.SetBasicAuth("", writeToken) },
		"both at once": func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+readToken+" "+writeToken) },
	}
	type target struct{ method, path string }
	targets := []target{{"GET", "/"}, {"GET", "/explore"}, {"GET", "/api/v1/nothing"}, {"DELETE", "/api/v1/top"}, {"POST", "/nothing"}}
	for _, r := range router.Routes() {
		targets = append(targets, target{r.Method, strings.NewReplacer(":name", "pid", "*", "heap").Replace(r.Path)})
	}
	if len(targets) < 40 {
		t.Fatalf("the router has only %d routes", len(targets))
	}
	asked := 0
	for _, target := range targets {
		for name, set := range credentials {
			kind, _, _ := strings.Cut(name, " ")
			allowed, other := kind == "read", kind == "write"
			switch {
			case open[target.path]:
				allowed, other = true, false
			case target.method == http.MethodPost && writes[target.path]:
				allowed, other = other, allowed
			}
			var body io.Reader = unread{t}
			ctx := t.Context()
			if allowed {
				body = strings.NewReader("{}")
				if strings.HasPrefix(target.path, "/debug/pprof/") {
					var cancel context.CancelFunc
					ctx, cancel = context.WithCancel(ctx)
					cancel() // who has hung up need not wait for a profile of 30 s
				}
			}
			r := httptest.NewRequest(target.method, target.path, body).WithContext(ctx)
			r.Host = "any.name" // where all needs a token it does not matter
			r.Header.Set("Content-Type", "application/json")
			set(r)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			asked++
			want := 401
			if other {
				want = 403
			}
			if allowed && (w.Code == 401 || w.Code == 403) || !allowed && w.Code != want {
				t.Errorf("%s %s, %s: status %d: %s", target.method, target.path, name, w.Code, w.Body)
			}
			if got := len(w.Header().Values("WWW-Authenticate")); (w.Code == 401) != (got == 2) {
				t.Errorf("%s %s, %s: status %d with %d challenges", target.method, target.path, name, w.Code, got)
			}
			if strings.Contains(w.Body.String(), readToken) || strings.Contains(w.Body.String(), writeToken) {
				t.Errorf("%s %s, %s: the answer has a token in it", target.method, target.path, name)
			}
		}
	}
	t.Logf("%d requests: %d routes, %d credentials", asked, len(targets), len(credentials))
}

// With one kind of token alone the other kind of request needs none.
func TestAccessApart(t *testing.T) {
	for _, tt := range []struct {
		o          Options
		get, write int
	}{
		{Options{}, 200, 204},
		{Options{ReadTokens: openTokens(t, tokenFile(t, readToken))}, 401, 204},
		{Options{WriteTokens: openTokens(t, tokenFile(t, writeToken))}, 200, 401},
	} {
		s := newTestServer(t, nil, tt.o)
		if resp, _ := get(t, s, "/api/v1/agents"); resp.StatusCode != tt.get {
			t.Errorf("read: %s, want %d", resp.Status, tt.get)
		}
		if resp, _ := send(t, s, http.MethodPost, "/api/v1/agents", nil, strings.NewReader(`{"version":"1","hostname":"h","start_ms":1}`)); resp.StatusCode != tt.write {
			t.Errorf("write: %s, want %d", resp.Status, tt.write)
		}
	}
}

func TestTokenFile(t *testing.T) {
	for content, want := range map[string]string{
		"":                         "is empty",
		"# nothing\n\n":            "is empty",
		"short":                    "16 to 512",
		"with a space in between":  "16 to 512",
		strings.Repeat("x", 513):   "16 to 512",
		strings.Repeat("x\n", 1e5): "at most 65536 are read",
	} {
		if _, err := OpenTokens(tokenFile(t, content)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), content) && content != "" {
			t.Errorf("%.20q: %v, want %q in it, and the token not", content, err, want)
		}
	}
	path := tokenFile(t, readToken)
	for mode, ok := range map[os.FileMode]bool{0o400: true, 0o600: true, 0o640: true, 0o440: true, 0o644: false, 0o660: false, 0o602: false, 0o601: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenTokens(path); (err == nil) != ok {
			t.Errorf("mode %#o: %v", mode, err)
		}
	}
	for _, path := range []string{t.TempDir(), "/dev/null", filepath.Join(t.TempDir(), "none")} {
		if _, err := OpenTokens(path); err == nil {
			t.Errorf("%s was taken", path)
		}
	}
}

// Tokens that are replaced count at once, the old ones no more; a file that is gone or spoilt lets nobody in,
// and a mended one does.
func TestTokenFileChanges(t *testing.T) {
	path := tokenFile(t, readToken)
	a, logs := newTestAPI(Options{ReadTokens: openTokens(t, path)})
	h := a.record(a.router())
	ask := func(token string) int {
		r := httptest.NewRequest("GET", "/api/v1/agents", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	replace := func(content string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	const next = "next-0123456789abcdef"
	for i, step := range []struct {
		change   func()
		old, new int
	}{
		{func() {}, 200, 401},
		{func() { replace(readToken+"\n"+next, 0o600) }, 200, 200},
		{func() { replace(next, 0o600) }, 401, 200},
		{func() { replace(next, 0o644) }, 503, 503},
		{func() { replace("", 0o600) }, 503, 503},
		{func() { os.Remove(path) }, 503, 503},
		{func() { replace(next, 0o600) }, 401, 200},
	} {
		step.change()
		for range 2 {
			if old, now := ask(readToken), ask(next); old != step.old || now != step.new {
				t.Errorf("step %d: %d and %d, want %d and %d", i, old, now, step.old, step.new)
			}
		}
	}
	if !strings.Contains(logs.String(), "chmod 600") || strings.Contains(logs.String(), next) {
		t.Errorf("log: %s", logs)
	}
}

// go tool pprof sends the password that is in a URL, and nothing else.
func TestGoToolPprofWithToken(t *testing.T) {
	s := newTestServer(t, newTestStore(t), Options{ReadTokens: openTokens(t, tokenFile(t, readToken))})
	base := testBase()
	fill(t, s, base)
	path := "/api/v1/pprof" + during(base, 0, 60)
	u, err := url.Parse(s.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("me", readToken)
	if out := goToolPprof(t, "-top", "-diff_base", u.String(), u.String()); !strings.Contains(out, "Showing nodes accounting for 0") {
		t.Errorf("\n%s", out)
	}
	if rows := topRows(goToolPprof(t, "-top", u.String())); len(rows) != 6 {
		t.Errorf("rows %q", rows)
	}
	if resp, _ := get(t, s, path); resp.StatusCode != 401 {
		t.Errorf("without a token: %s", resp.Status)
	}
}

// certificate makes a self-signed pair for 127.0.0.1.
func certificate(t *testing.T, serial int64) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	put := func(path string, content []byte, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path+".new", content, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	cert, key := certificate(t, 1)
	put(certFile, cert, 0o644)
	put(keyFile, key, 0o644)
	var logs logBuffer
	log := slog.New(slog.NewTextHandler(&logs, nil))
	if _, err := TLSConfig(TLSFiles{Cert: certFile, Key: keyFile}, log); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key for everybody: %v", err)
	}
	put(keyFile, key, 0o600)
	config, err := TLSConfig(TLSFiles{Cert: certFile, Key: keyFile}, log)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(NewHandler(newTestStore(t), Options{Logger: log}))
	server.TLSConfig = config
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(listener, "", "") }()
	defer func() { server.Close(); <-served }()

	trusted := x509.NewCertPool()
	serial := func() string {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}, ForceAttemptHTTP2: true, DisableKeepAlives: true}}
		resp, err := c.Get("https://" + listener.Addr().String() + "/api/v1/labels")
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Contains(b, []byte("labels")) || resp.ProtoMajor != 2 {
			return fmt.Sprint(resp.Proto, " ", string(b), " ", err)
		}
		return resp.TLS.PeerCertificates[0].SerialNumber.String()
	}
	trusted.AppendCertsFromPEM(cert)
	if got := serial(); got != "1" {
		t.Errorf("first certificate: %s", got)
	}
	cert, key = certificate(t, 2)
	trusted.AppendCertsFromPEM(cert)
	put(certFile, cert, 0o644)
	if got := serial(); got != "1" {
		t.Errorf("between the new certificate and its key: %s", got)
	}
	put(keyFile, key, 0o600)
	if got := serial(); got != "2" {
		t.Errorf("second certificate: %s", got)
	}
	if n := strings.Count(logs.String(), "stays in use"); n != 1 {
		t.Errorf("%d warnings:\n%s", n, logs.String())
	}
}
