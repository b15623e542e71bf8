package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/cmd/pilotlight/spool"
	"pilotlight/profilestore/httpapi"
)

// sendFlags are the flags of what sends profiles to a server. The files are read by the user as which they are sent.
type sendFlags struct {
	Server    string `required:"" help:"URL of the server, as http://host:7100." placeholder:"URL"`
	TokenFile string `type:"path" help:"Send the token in this file. It is read again when it changes. Mode 600, or 640 with a group of its own." placeholder:"FILE"`
	TLSCA     string `name:"tls-ca" type:"path" help:"Trust the authorities of this PEM file, and no others, to know the server. These files too are read again." placeholder:"FILE"`
	TLSCert   string `name:"tls-cert" and:"tls" type:"path" help:"Show the server the certificate of this PEM file." placeholder:"FILE"`
	TLSKey    string `name:"tls-key" and:"tls" type:"path" help:"Its key. Mode as of the token." placeholder:"FILE"`
}

// args returns the flags as a command line has them.
func (f sendFlags) args() []string {
	args := []string{"--server", f.Server}
	for _, flag := range []struct{ name, value string }{
		{"--token-file", f.TokenFile}, {"--tls-ca", f.TLSCA}, {"--tls-cert", f.TLSCert}, {"--tls-key", f.TLSKey},
	} {
		if flag.value != "" {
			args = append(args, flag.name, flag.value)
		}
	}
	return args
}

// newClient returns a client of the server.
func (f sendFlags) newClient(log *slog.Logger) (*httpapi.Client, error) {
	transport, err := httpapi.NewTransport(httpapi.TLSFiles{CA: f.TLSCA, Cert: f.TLSCert, Key: f.TLSKey}, log)
	if err != nil {
		return nil, fmt.Errorf("--tls-ca, --tls-cert, --tls-key: %w", err)
	}
	o := httpapi.ClientOptions{HTTP: &http.Client{Transport: transport}}
	if f.TokenFile != "" {
		if o.TokenFile, err = httpapi.OpenTokenFile(f.TokenFile); err != nil {
			return nil, fmt.Errorf("--token-file: %w", err)
		}
	}
	return httpapi.NewClient(f.Server, o)
}

// sendCmd is the send half of `agent`: it sends what comes over the link to a
// server, and keeps in its spool what that does not take.
type sendCmd struct {
	Data string `required:""`
	sendFlags
}

func (c *sendCmd) Run(g *globals) error { return runHalf(g, c.Data, c.open) }

// open opens the spool in the working directory.
func (c *sendCmd) open(g *globals, listener net.Listener) (*half, error) {
	runtime.GOMAXPROCS(1) // it has some milliseconds of work a window: more threads would only wake each other
	client, err := c.newClient(g.log)
	if err != nil {
		return nil, err
	}
	h := newHalf(g, listener)
	spool, err := spool.Open("spool", client, spool.Options{Registerer: h.registry, Logger: g.log})
	if err != nil {
		return nil, explainData(c.Data, err)
	}
	reports := startReporter(client, g.log)
	h.appender = spool
	h.report = func(r httpapi.AgentReport) error {
		r.SpoolBytes = spool.Bytes()
		reports.put(r)
		return nil
	}
	h.close = func() error {
		reports.stop()
		return spool.Close()
	}
	h.server = httpapi.NewServer(httpapi.NewStatusHandler(httpapi.Options{
		Ready:    h.ready,
		Gatherer: prometheus.Gatherers{h.registry, &h.metrics},
		Logger:   g.log,
	}))
	return h, nil
}

// reportTimeout is what a report may take: by then there is a newer one.
const reportTimeout = 10 * time.Second

// reporter sends what the agent says of itself: the last report, not those that were not taken.
type reporter struct {
	last   chan httpapi.AgentReport
	cancel context.CancelFunc
	ended  chan struct{}
}

func startReporter(client *httpapi.Client, log *slog.Logger) *reporter {
	ctx, cancel := context.WithCancel(context.Background())
	r := &reporter{last: make(chan httpapi.AgentReport, 1), cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		for {
			select {
			case report := <-r.last:
				ctx, cancel := context.WithTimeout(ctx, reportTimeout)
				if err := client.Report(ctx, report); err != nil {
					log.Debug("send agent report", "err", err) // that the server is away, the spool says
				}
				cancel()
			case <-ctx.Done():
				return
			}
		}
	}()
	return r
}

// put has a report sent, in place of one that still waits. It belongs to one goroutine.
func (r *reporter) put(report httpapi.AgentReport) {
	select {
	case <-r.last:
	default:
	}
	r.last <- report
}

func (r *reporter) stop() {
	r.cancel()
	<-r.ended
}
