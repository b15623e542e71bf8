package main

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"pilotlight/profilestore/httpapi"
)

// TestServeFlags has the store half read what run passes on.
func TestServeFlags(t *testing.T) {
	parse := func(args ...string) (*cli, error) {
		var c cli
		_, err := kong.Must(&c, kong.Vars{"version": ""}).Parse(args)
		return &c, err
	}
	run, err := parse("run", "--tls-cert=cert.pem", "--tls-key", "/etc/key.pem", "--tls-client-ca", "ca.pem", "--read-token-file", "r", "--write-token-file", "w", "--retention", "2d")
	if err != nil {
		t.Fatal(err)
	}
	args := append(run.Run.storeFlags.args(), run.Run.serveFlags.args()...)
	half, err := parse(append([]string{"store-half", "--data", "/d"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	if half.Store.serveFlags != run.Run.serveFlags || half.Store.storeFlags != run.Run.storeFlags {
		t.Errorf("run has %+v, the store half %+v", run.Run.serveFlags, half.Store.serveFlags)
	}
	// It works in another directory.
	if f := run.Run.serveFlags; !strings.HasPrefix(f.TLSCert, "/") || !strings.HasPrefix(f.ReadTokenFile, "/") || f.scheme() != "https" {
		t.Errorf("%+v", f)
	}
	if none, err := parse("run"); err != nil || len(none.Run.serveFlags.args()) > 0 || none.Run.scheme() != "http" {
		t.Errorf("%v, %+v", err, none.Run.serveFlags)
	}
	if _, err := parse("run", "--tls-cert", "x"); err == nil || !strings.Contains(err.Error(), "tls-key") {
		t.Errorf("a certificate without its key: %v", err)
	}
}

// TestServerLog holds that what the HTTP server has to say by itself, as of handshakes, is in the log as everything is.
func TestServerLog(t *testing.T) {
	var said strings.Builder
	log := slog.New(slog.NewTextHandler(&said, nil))
	s, err := serveFlags{}.newServer(nil, httpapi.Options{Logger: log}, log)
	if err != nil {
		t.Fatal(err)
	}
	if s.ErrorLog == nil {
		t.Fatal("it has another log")
	}
	s.ErrorLog.Print("TLS handshake error")
	if !strings.Contains(said.String(), `level=WARN msg="TLS handshake error"`) {
		t.Errorf("said %q", &said)
	}
}

// TestSendFlags has the send half read what agent passes on.
func TestSendFlags(t *testing.T) {
	parse := func(args ...string) (*cli, error) {
		var c cli
		_, err := kong.Must(&c, kong.Vars{"version": ""}).Parse(args)
		return &c, err
	}
	agent, err := parse("agent", "--server", "https://host:7100", "--token-file=token", "--tls-ca", "ca.pem", "--tls-cert", "cert.pem", "--tls-key", "/etc/key.pem")
	if err != nil {
		t.Fatal(err)
	}
	half, err := parse(append([]string{"send-half", "--data", "/d"}, agent.Agent.sendFlags.args()...)...)
	if err != nil {
		t.Fatal(err)
	}
	if f := agent.Agent.sendFlags; half.Send.sendFlags != f || !strings.HasPrefix(f.TokenFile, "/") || f.Server != "https://host:7100" {
		t.Errorf("agent has %+v, the send half %+v", f, half.Send.sendFlags)
	}
	if _, err := parse("agent"); err == nil || !strings.Contains(err.Error(), "--server") {
		t.Errorf("an agent without a server: %v", err)
	}
}

func TestFraction(t *testing.T) {
	for text, want := range map[string]fraction{"2%": 0.02, "0.5%": 0.005, "100%": 1, "2": 0, "0%": 0, "-1%": 0, "101%": 0, "NaN%": 0, "x%": 0, "": 0} {
		var s fraction
		if err := s.UnmarshalText([]byte(text)); s != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %v, %v, want %v", text, s, err, want)
		}
	}
}
