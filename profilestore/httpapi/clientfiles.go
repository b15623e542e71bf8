package httpapi

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
)

// TokenFile is a file with the token that a client sends: one, in a line. It is read again when it changes, and must not
// be readable by everybody. It may be used from many goroutines.
type TokenFile struct {
	mu    sync.Mutex
	file  watched
	token string
}

// OpenTokenFile reads the token of a file.
func OpenTokenFile(path string) (*TokenFile, error) {
	t := &TokenFile{file: watched{path: path, secret: true, limit: maxTokenFile}}
	_, err := t.Token()
	return t, err
}

// Token returns the token that is in the file now.
func (t *TokenFile) Token() (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	content, changed, err := t.file.read()
	if err != nil || !changed {
		return t.token, err
	}
	token := string(bytes.TrimSpace(content))
	if err := checkToken(token); err != nil {
		return "", t.file.unusable(fmt.Errorf("token file %s: %w", t.file.path, err))
	}
	t.token = token
	return token, nil
}

// NewTransport returns a transport that goes by files, each of which may be "": the system's authorities say then who the
// server is, and nothing is shown to it. The files are read again when they change: what then does not fit is not taken,
// and logged, and what was read before stays in use.
func NewTransport(files TLSFiles, log *slog.Logger) (http.RoundTripper, error) {
	t := &transport{files: files, log: log, ca: newAuthorities(files.CA), pair: newKeyPair(files)}
	return t, t.refresh()
}

type transport struct {
	files TLSFiles
	log   *slog.Logger

	mu      sync.Mutex
	ca      authorities
	pair    *keyPair
	current *http.Transport
	made    struct { // current, with these
		roots *x509.CertPool
		pair  *tls.Certificate
	}
	problem problem
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.upToDate().RoundTrip(r)
}

func (t *transport) CloseIdleConnections() { t.upToDate().CloseIdleConnections() }

func (t *transport) upToDate() *http.Transport {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.problem.note(t.refresh(), "the TLS files read before stay in use", t.log)
	return t.current
}

// refresh makes a transport if the files are not as they were. Connections know the files that they were made with.
func (t *transport) refresh() error {
	if t.files.CA != "" {
		if err := t.ca.refresh(); err != nil {
			return err
		}
	}
	if t.files.Cert != "" {
		if err := t.pair.refresh(); err != nil {
			return err
		}
	}
	if t.current != nil {
		if t.ca.pool == t.made.roots && t.pair.pair == t.made.pair {
			return nil
		}
		t.current.CloseIdleConnections()
	}
	t.made.roots, t.made.pair = t.ca.pool, t.pair.pair
	t.current = http.DefaultTransport.(*http.Transport).Clone()
	t.current.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: t.ca.pool}
	if t.pair.pair != nil {
		t.current.TLSClientConfig.Certificates = []tls.Certificate{*t.pair.pair}
	}
	return nil
}
