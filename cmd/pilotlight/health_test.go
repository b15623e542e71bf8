package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestHealth(t *testing.T) {
	status := http.StatusOK
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/-/healthy" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		w.WriteHeader(status)
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer secure.Close()
	address := plain.Listener.Addr().String()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	cert := filepath.Join(t.TempDir(), "tls.crt")
	if err := os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		cmd    healthCmd
		status int
		err    string // part of the error
	}{
		"well":          {cmd: healthCmd{Listen: address}},
		"all addresses": {cmd: healthCmd{Listen: ":" + port}},
		"TLS":           {cmd: healthCmd{Listen: secure.Listener.Addr().String(), TLSCert: cert}},
		"unwell":        {cmd: healthCmd{Listen: address}, status: http.StatusServiceUnavailable, err: "503"},
		"no port":       {cmd: healthCmd{Listen: "127.0.0.1"}, err: "--listen"},
		"an agent's":    {cmd: healthCmd{Listen: address, TLSCert: cert}},
		"no file":       {cmd: healthCmd{Listen: address, TLSCert: cert + ".not"}, err: "--tls-cert"},
	} {
		t.Run(name, func(t *testing.T) {
			status = http.StatusOK
			if c.status != 0 {
				status = c.status
			}
			err := c.cmd.Run(nil)
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("error %v, want %q", err, c.err)
			}
		})
	}

	t.Run("another certificate", func(t *testing.T) {
		// All servers of httptest have the same one, so it is the file that gets another.
		if err := os.WriteFile(cert, selfSigned(t), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := healthCmd{Listen: secure.Listener.Addr().String(), TLSCert: cert}
		if err := cmd.Run(nil); err == nil || !strings.Contains(err.Error(), "another certificate") {
			t.Errorf("error %v", err)
		}
	})
}

// selfSigned returns a new certificate in PEM.
func selfSigned(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestDialable(t *testing.T) {
	for listen, want := range map[string]string{
		":7100": "127.0.0.1:7100", "0.0.0.0:80": "127.0.0.1:80", "[::]:80": "[::1]:80", "10.1.2.3:80": "10.1.2.3:80", "localhost:80": "localhost:80",
	} {
		if got, err := dialable(listen); got != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", listen, got, err, want)
		}
	}
}
