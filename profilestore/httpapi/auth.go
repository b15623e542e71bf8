package httpapi

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"

	"pilotlight/profilestore"
)

// access is what a request must be allowed to.
type access int

const (
	accessOpen  access = iota // anybody: probes of an orchestrator
	accessRead                // to see profiles, metrics and the page
	accessWrite               // to store profiles and reports
)

func (ac access) String() string { return [...]string{"open", "read", "write"}[ac] }

// Tokens are the tokens in a file, one a line; empty lines and those that begin with # do not count. The file
// is read again when it changes. It must not be readable by everybody, nor writable by others than its owner.
// All methods may be called from many goroutines.
type Tokens struct {
	file watched
	mu   sync.Mutex
	sums [][sha256.Size]byte
}

const (
	minToken     = 16
	maxToken     = 512
	maxTokenFile = 64 << 10
)

// OpenTokens reads the tokens of a file.
func OpenTokens(path string) (*Tokens, error) {
	t := &Tokens{file: watched{path: path, secret: true, limit: maxTokenFile}}
	return t, t.refresh()
}

// refresh reads the file if it is not as it was.
func (t *Tokens) refresh() error {
	content, changed, err := t.file.read()
	if err != nil || !changed {
		return err
	}
	t.sums = nil
	for line := range bytes.Lines(content) {
		token := bytes.TrimSpace(line)
		if len(token) == 0 || token[0] == '#' {
			continue
		}
		if err := checkToken(string(token)); err != nil {
			t.sums = nil
			return t.file.unusable(fmt.Errorf("token file %s: %w", t.file.path, err))
		}
		t.sums = append(t.sums, sha256.Sum256(token))
	}
	if len(t.sums) == 0 {
		return t.file.unusable(fmt.Errorf("token file %s is empty: write a token into it, as openssl rand -hex 32 makes one", t.file.path))
	}
	return nil
}

func checkToken(token string) error {
	if len(token) < minToken || len(token) > maxToken || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return fmt.Errorf("a token has %d to %d printable characters without spaces: make one with openssl rand -hex 32", minToken, maxToken)
	}
	return nil
}

// has says whether a token is one of the file's. The time it takes tells nothing about them.
func (t *Tokens) has(token string) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.refresh(); err != nil {
		return false, err
	}
	sum := sha256.Sum256([]byte(token))
	found := 0
	for i := range t.sums {
		found |= subtle.ConstantTimeCompare(sum[:], t.sums[i][:])
	}
	return found == 1, nil
}

// watched is a file that is read again when it is not as it was.
type watched struct {
	path   string
	secret bool
	limit  int64
	last   fs.FileInfo
}

// unusable has the file read again the next time.
func (f *watched) unusable(err error) error {
	f.last = nil
	return err
}

// read returns the content if the file is not as it was at the last time.
func (f *watched) read() (content []byte, changed bool, err error) {
	now, err := os.Stat(f.path)
	if err != nil {
		return nil, false, f.unusable(f.explain(err))
	}
	if f.last != nil && os.SameFile(f.last, now) && f.last.ModTime().Equal(now.ModTime()) && f.last.Size() == now.Size() && f.last.Mode() == now.Mode() {
		return nil, false, nil
	}
	file, err := os.OpenFile(f.path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would keep it waiting
	if err != nil {
		return nil, false, f.unusable(f.explain(err))
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, false, f.unusable(err)
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, false, f.unusable(fmt.Errorf("%s is not a regular file", f.path))
	case f.secret && info.Mode().Perm()&0o027 != 0:
		return nil, false, f.unusable(fmt.Errorf("%s has mode %#o, so that others may read or change it: chmod 600 or 640", f.path, info.Mode().Perm()))
	case info.Size() > f.limit:
		return nil, false, f.unusable(fmt.Errorf("%s has %d bytes, at most %d are read", f.path, info.Size(), f.limit))
	}
	if content, err = io.ReadAll(io.LimitReader(file, f.limit)); err != nil {
		return nil, false, f.unusable(fmt.Errorf("read %s: %w", f.path, err))
	}
	f.last = info
	return content, true, nil
}

func (f *watched) explain(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%s: user %d, as which HTTP is served, may not read it: give it to that user, or to a group of its own with mode 640", f.path, os.Geteuid())
	}
	return err // names operation and path
}

// credential is the token of a request: bearer, or the password of Basic, since some clients send nothing else.
// The user name of Basic does not count.
func credential(r *http.Request) string {
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	return ""
}

// require lets those pass who may do this. Reading and writing are apart: neither token is good for the other.
func (a *api) require(ac access, next http.Handler) http.Handler {
	tokens := map[access]*Tokens{accessRead: a.readTokens, accessWrite: a.writeTokens}
	own := tokens[ac]
	byCertificate := ac == accessWrite && a.clientCertificates
	if own == nil && !byCertificate {
		if ac == accessOpen || a.anyHost {
			return next
		}
		return a.named(next)
	}
	return errorFunc(func(w http.ResponseWriter, r *http.Request) error {
		if byCertificate && r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
			next.ServeHTTP(w, r)
			return nil
		}
		if own == nil {
			return &profilestore.Error{Code: codeUnauthenticated, Message: fmt.Sprintf("a client certificate is needed to %s: show one of the authorities that the server trusts", ac)}
		}
		token := credential(r)
		ok, err := own.has(token)
		if err != nil {
			return &profilestore.Error{Code: profilestore.Unavailable, Message: "credentials cannot be checked: the server's log has the reason", Err: err}
		}
		if ok {
			next.ServeHTTP(w, r)
			return nil
		}
		for _, other := range tokens {
			if other == nil || other == own {
				continue
			}
			if known, err := other.has(token); err == nil && known {
				return &profilestore.Error{Code: codeForbidden, Message: fmt.Sprintf("this token is not for this: use one of the %s token file", ac)}
			}
		}
		w.Header().Add("WWW-Authenticate", `Basic realm="pilotlight", charset="UTF-8"`) // a browser takes the first
		w.Header().Add("WWW-Authenticate", `Bearer realm="pilotlight"`)
		if token == "" {
			if byCertificate {
				return &profilestore.Error{Code: codeUnauthenticated, Message: fmt.Sprintf("a client certificate or a token is needed to %s: show the one, or send the other as Authorization: Bearer", ac)}
			}
			return &profilestore.Error{Code: codeUnauthenticated, Message: fmt.Sprintf("a token is needed to %s: send it as Authorization: Bearer, or as the password of Basic", ac)}
		}
		return &profilestore.Error{Code: codeUnauthenticated, Message: fmt.Sprintf("unknown token: use one of the %s token file", ac)}
	})
}
