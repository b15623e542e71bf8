package httpapi

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync"
)

const maxPEM = 1 << 20

// TLSConfig serves the certificate and key of two PEM files, which are read again when they change: a pair that
// does not fit, as between the writing of the one and of the other, is not taken and the one before it is
// served. The key must not be readable by everybody.
func TLSConfig(certFile, keyFile string, log *slog.Logger) (*tls.Config, error) {
	k := &keyPair{cert: watched{path: certFile, limit: maxPEM}, key: watched{path: keyFile, secret: true, limit: maxPEM}}
	if err := k.refresh(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			k.mu.Lock()
			defer k.mu.Unlock()
			problem := ""
			if err := k.refresh(); err != nil {
				problem = err.Error()
			}
			if problem != "" && problem != k.problem {
				log.Warn("the TLS certificate read before stays in use", "err", problem)
			}
			k.problem = problem
			return k.pair, nil
		},
	}, nil
}

type keyPair struct {
	mu              sync.Mutex
	cert, key       watched
	certPEM, keyPEM []byte
	pair            *tls.Certificate
	problem         string // as it was logged last
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
