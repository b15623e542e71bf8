package httpapi

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync"
)

const maxPEM = 1 << 20

// TLSFiles are the PEM files of one end of a connection.
type TLSFiles struct {
	CA        string // authorities that are trusted to say who the other end is
	Cert, Key string // what is shown to it, together or not at all. The key must not be readable by everybody
}

// TLSConfig serves the certificate and key of two PEM files, which are read again when they change: a pair that
// does not fit, as between the writing of the one and of the other, is not taken and the one before it is
// served. The key must not be readable by everybody. With a CA, clients may show a certificate of it, which
// [Options.ClientCertificates] asks for; that file too is read again.
func TLSConfig(files TLSFiles, log *slog.Logger) (*tls.Config, error) {
	k := newKeyPair(files)
	if err := k.refresh(); err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.problem.note(k.refresh(), "the TLS certificate read before stays in use", log)
			return k.pair, nil
		},
	}
	if files.CA == "" {
		return config, nil
	}
	return config, trustClients(config, newAuthorities(files.CA), log)
}

// trustClients has config verify certificates of clients.
func trustClients(config *tls.Config, ca authorities, log *slog.Logger) error {
	if err := ca.refresh(); err != nil {
		return err
	}
	config.ClientAuth, config.ClientCAs = tls.VerifyClientCertIfGiven, ca.pool
	config.SessionTicketsDisabled = true // they would outlive an authority
	var mu sync.Mutex
	plain := config.Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		mu.Lock()
		defer mu.Unlock()
		ca.problem.note(ca.refresh(), "the TLS authorities read before stay in use", log)
		if plain.ClientCAs != ca.pool {
			plain = plain.Clone()
			plain.ClientCAs = ca.pool
		}
		return plain, nil
	}
	return nil
}

// problem is what is wrong with files, as it was logged last.
type problem string

// note logs what is wrong now, if that is another problem; nil: nothing is.
func (p *problem) note(err error, text string, log *slog.Logger) {
	now := problem("")
	if err != nil {
		now = problem(err.Error())
	}
	if now != "" && now != *p {
		log.Warn(text, "err", err)
	}
	*p = now
}

// authorities are the certificates of a file.
type authorities struct {
	file    watched
	pool    *x509.CertPool // nil before refresh
	problem problem
}

func newAuthorities(path string) authorities {
	return authorities{file: watched{path: path, limit: maxPEM}}
}

// refresh reads the file if it is not as it was.
func (a *authorities) refresh() error {
	content, changed, err := a.file.read()
	if err != nil {
		return fmt.Errorf("TLS authorities: %w", err)
	}
	if !changed {
		return nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return a.file.unusable(fmt.Errorf("TLS authorities %s: no certificate in PEM is in it", a.file.path))
	}
	a.pool = pool
	return nil
}

type keyPair struct {
	mu              sync.Mutex
	cert, key       watched
	certPEM, keyPEM []byte
	pair            *tls.Certificate
	problem         problem
}

func newKeyPair(files TLSFiles) *keyPair {
	return &keyPair{cert: watched{path: files.Cert, limit: maxPEM}, key: watched{path: files.Key, secret: true, limit: maxPEM}}
}

func (k *keyPair) refresh() error {
	cert, certChanged, err := k.cert.read()
	if err != nil {
		return fmt.Errorf("TLS certificate: %w", err)
	}
	if certChanged {
		k.certPEM = cert
	}
	key, keyChanged, err := k.key.read()
	if err != nil {
		return fmt.Errorf("TLS key: %w", err)
	}
	if !certChanged && !keyChanged {
		return nil
	}
	if keyChanged {
		k.keyPEM = key
	}
	pair, err := tls.X509KeyPair(k.certPEM, k.keyPEM)
	if err != nil {
		return fmt.Errorf("TLS certificate %s with key %s: %w", k.cert.path, k.key.path, err)
	}
	k.pair = &pair
	return nil
}
