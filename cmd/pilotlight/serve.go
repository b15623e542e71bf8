package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"syscall"

	"pilotlight/profilestore"
	"pilotlight/profilestore/httpapi"
)

// serveFlags are the flags of everything that serves HTTP. The files are read by the user as which HTTP is served.
type serveFlags struct {
	TLSCert        string `name:"tls-cert" and:"tls" type:"path" help:"Serve HTTPS with the certificate of this PEM file. It is read again when it changes." placeholder:"FILE"`
	TLSKey         string `name:"tls-key" and:"tls" type:"path" help:"Its key. Mode 600, or 640 with a group of its own." placeholder:"FILE"`
	TLSClientCA    string `name:"tls-client-ca" type:"path" help:"Ask for a certificate of one of the authorities in this PEM file to store profiles, or for a token of --write-token-file." placeholder:"FILE"`
	ReadTokenFile  string `type:"path" help:"Ask for one of the tokens in this file, one a line, to see profiles. Mode as of the key." placeholder:"FILE"`
	WriteTokenFile string `type:"path" help:"Ask for one of the tokens in this file to store profiles." placeholder:"FILE"`
	SourceRoot     string `type:"path" help:"Show source text of profiled functions from files below this directory. By default none is shown." placeholder:"DIR"`
}

// args returns the flags as a command line has them.
func (f serveFlags) args() []string {
	var args []string
	for _, flag := range []struct{ name, value string }{
		{"--tls-cert", f.TLSCert}, {"--tls-key", f.TLSKey}, {"--tls-client-ca", f.TLSClientCA}, {"--read-token-file", f.ReadTokenFile}, {"--write-token-file", f.WriteTokenFile}, {"--source-root", f.SourceRoot},
	} {
		if flag.value != "" {
			args = append(args, flag.name, flag.value)
		}
	}
	return args
}

// scheme is what the URL of the server begins with.
func (f serveFlags) scheme() string {
	if f.TLSCert != "" {
		return "https"
	}
	return "http"
}

// warnIfOpen says so if everybody who reaches the address where HTTP is served may read or write.
func (f serveFlags) warnIfOpen(at net.Addr, log *slog.Logger) {
	if tcp, ok := at.(*net.TCPAddr); !ok || tcp.IP.IsLoopback() {
		return
	}
	const read, write = "--read-token-file", "--write-token-file or --tls-client-ca"
	may, mend := "", ""
	switch readers, writers := f.ReadTokenFile == "", f.WriteTokenFile == "" && f.TLSClientCA == ""; {
	case readers && writers:
		may, mend = "see and store profiles", read+", and "+write
	case readers:
		may, mend = "see profiles", read
	case writers:
		may, mend = "store profiles", write
	default:
		return
	}
	log.Warn("everybody who reaches this address may "+may, "address", at.String(), "mend", mend)
}

// newServer makes the server of a store.
func (f serveFlags) newServer(store *profilestore.Store, o httpapi.Options, log *slog.Logger) (*http.Server, error) {
	o.SourceRoot = f.SourceRoot
	var err error
	if f.ReadTokenFile != "" {
		if o.ReadTokens, err = httpapi.OpenTokens(f.ReadTokenFile); err != nil {
			return nil, fmt.Errorf("--read-token-file: %w", err)
		}
	}
	if f.WriteTokenFile != "" {
		if o.WriteTokens, err = httpapi.OpenTokens(f.WriteTokenFile); err != nil {
			return nil, fmt.Errorf("--write-token-file: %w", err)
		}
	}
	var config *tls.Config
	if f.TLSCert == "" && f.TLSClientCA != "" {
		return nil, errors.New("--tls-client-ca: clients show certificates over TLS alone: give --tls-cert and --tls-key too")
	}
	o.ClientCertificates = f.TLSClientCA != ""
	if f.TLSCert != "" {
		if config, err = httpapi.TLSConfig(httpapi.TLSFiles{CA: f.TLSClientCA, Cert: f.TLSCert, Key: f.TLSKey}, log); err != nil {
			return nil, fmt.Errorf("--tls-cert, --tls-key, --tls-client-ca: %w", err)
		}
		cert, err := config.GetCertificate(nil)
		if err != nil {
			return nil, err
		}
		o.Hosts = append(o.Hosts, cert.Leaf.DNSNames...) // who has a certificate for a name goes by that name
	}
	server := httpapi.NewServer(httpapi.NewHandler(store, o))
	server.TLSConfig = config
	server.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	return server, nil
}

// serve takes requests until the server is shut down.
func serve(s *http.Server, l net.Listener) error {
	if s.TLSConfig != nil {
		return s.ServeTLS(l, "", "")
	}
	return s.Serve(l)
}

func explainListen(addr string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("listen on %s: the port is in use: stop what listens there, or choose another with --listen", addr)
	}
	return fmt.Errorf("listen on %s: %w: choose another address with --listen", addr, err)
}
