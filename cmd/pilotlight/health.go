package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

// healthTime bounds how long healthCmd waits. Those who ask repeat it.
const healthTime = 4 * time.Second

// healthCmd asks the pilotlight of this machine whether it lives. It is what a container runtime can call in an image
// that has no other program.
type healthCmd struct {
	Listen  string `help:"Address that it was told to listen on." default:"127.0.0.1:7100" placeholder:"HOST:PORT"`
	TLSCert string `name:"tls-cert" type:"path" help:"Certificate that it was given." placeholder:"FILE"`
}

func (c *healthCmd) Run(*globals) error {
	address, err := dialable(c.Listen)
	if err != nil {
		return err
	}
	client, scheme := &http.Client{Timeout: healthTime}, "http"
	if c.TLSCert != "" {
		config, err := trustOnly(c.TLSCert)
		if err != nil {
			return fmt.Errorf("--tls-cert: %w", err)
		}
		client.Transport, scheme = &http.Transport{TLSClientConfig: config}, "https"
	}
	answer, err := client.Get(scheme + "://" + address + "/-/healthy")
	if errors.Is(err, http.ErrSchemeMismatch) {
		// An agent's certificate is for its server: its own page has none.
		answer, err = client.Get("http://" + address + "/-/healthy")
	}
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s/-/healthy: %s", address, answer.Status)
	}
	return nil
}

// dialable returns where a server can be called that was told to listen on listen: one that listens on all addresses
// is called on this machine's own.
func dialable(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("--listen: %w", err)
	}
	switch host {
	case "", "0.0.0.0": // not localhost: an image may have no file of hosts
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	return net.JoinHostPort(host, port), nil
}

// trustOnly returns a configuration for a server that has the certificate in a PEM file, under whatever address it is
// called.
func trustOnly(file string) (*tls.Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no PEM in it")
	}
	own, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		// That it is this very certificate is more than a verification of its chain and name would say.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if !s.PeerCertificates[0].Equal(own) {
				return errors.New("what answers has another certificate")
			}
			return nil
		},
	}, nil
}
