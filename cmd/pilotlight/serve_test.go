package main

import (
	"log/slog"
	"net"
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

// TestWarnIfOpen holds that a start says who may read and write, with the flags that mend it, where an operator may not
// have meant everybody.
func TestWarnIfOpen(t *testing.T) {
	everywhere := "[::]:7100"
	for _, test := range []struct {
		address string
		flags   serveFlags
		want    string // "": nothing is said
	}{
		{"127.0.0.1:7100", serveFlags{}, ""},
		{"[::1]:7100", serveFlags{}, ""},
		{everywhere, serveFlags{}, `may see and store profiles" address=[::]:7100 mend="--read-token-file, and --write-token-file or --tls-client-ca"`},
		{"192.0.2.1:7100", serveFlags{TLSCert: "c", TLSKey: "k"}, `may see and store profiles"`},
		{everywhere, serveFlags{WriteTokenFile: "w"}, `may see profiles" address=[::]:7100 mend=--read-token-file`},
		{everywhere, serveFlags{TLSCert: "c", TLSKey: "k", TLSClientCA: "ca"}, `may see profiles"`},
		{everywhere, serveFlags{ReadTokenFile: "r"}, `may store profiles" address=[::]:7100 mend="--write-token-file or --tls-client-ca"`},
		{everywhere, serveFlags{ReadTokenFile: "r", WriteTokenFile: "w"}, ""},
		{everywhere, serveFlags{ReadTokenFile: "r", TLSClientCA: "ca"}, ""},
	} {
		at, err := net.ResolveTCPAddr("tcp", test.address)
		if err != nil {
			t.Fatal(err)
		}
		var said strings.Builder
		test.flags.warnIfOpen(at, slog.New(slog.NewTextHandler(&said, nil)))
		lines := 0
		if test.want != "" {
			lines = 1
		}
		if !strings.Contains(said.String(), test.want) || strings.Count(said.String(), "level=WARN") != lines || strings.Count(said.String(), "\n") != lines {
			t.Errorf("%s, %+v: said %q, want %q", test.address, test.flags, &said, test.want)
		}
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
