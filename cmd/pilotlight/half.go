package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"golang.org/x/sys/unix"

	"pilotlight/cmd/pilotlight/agent"
	"pilotlight/profilestore"
	"pilotlight/profilestore/httpapi"
)

// half is the half that speaks HTTP: the store half or the send half. It has no privileges, and nothing that it is told
// over HTTP reaches a process that has any.
type half struct {
	appender agent.Appender                  // of what comes over the link
	report   func(httpapi.AgentReport) error // takes what the agent says of itself
	server   *http.Server
	close    func() error // the appender

	listener net.Listener
	registry *prometheus.Registry
	metrics  agentMetrics
	attached atomic.Bool // the agent half samples
	log      *slog.Logger
}

func newHalf(g *globals, listener net.Listener) *half {
	h := &half{listener: listener, registry: prometheus.NewRegistry(), log: g.log}
	h.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return h
}

// errAgentGone is the end of a link without messageEnd.
var errAgentGone = errors.New("agent half is gone")

// runHalf opens a half and runs until the agent half ends. What keeps it from starting it tells the agent half, which
// tells the user.
func runHalf(g *globals, data string, open func(*globals, net.Listener) (*half, error)) error {
	// The agent half decides when to end, so that its last window is kept; and what SIGHUP asks for is its business.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	link, err := net.FileConn(os.NewFile(linkFD, "link"))
	if err != nil {
		return fmt.Errorf("%w: pilotlight starts this itself", err)
	}
	defer link.Close()
	h, err := openHalf(g, data, listenerFD, dataFD, open)
	if _, werr := link.Write(appendAnswer(nil, 0, err)); err != nil || werr != nil {
		return exitError(1) // who started it has been told, or is gone
	}
	linked := make(chan error, 1)
	go func() { linked <- h.take(link) }()
	err = h.serve(linked)
	if errors.Is(err, errAgentGone) {
		return exitError(1) // whoever killed the agent half knows; there is nobody to tell
	}
	return err
}

// openHalf opens a half with the listener and in the directory that this process inherited. data is the path of that.
func openHalf(g *globals, data string, listenerFD, dataFD uintptr, open func(*globals, net.Listener) (*half, error)) (*half, error) {
	listener, err := net.FileListener(os.NewFile(listenerFD, "listener"))
	if err != nil {
		return nil, fmt.Errorf("take over listener: %w", err)
	}
	// The directory was opened by who started this, and may lie where this user cannot go.
	if err := unix.Fchdir(int(dataFD)); err != nil {
		return nil, explainData(data, err)
	}
	return open(g, listener)
}

// serve serves HTTP until there is an end, and closes what is open.
func (h *half) serve(end <-chan error) (err error) {
	served := make(chan error, 1)
	go func() { served <- serve(h.server, h.listener) }()
	select {
	case err = <-end:
	case err = <-served:
		err = fmt.Errorf("serve HTTP: %w", err)
	}
	if errors.Is(err, errAgentGone) {
		return err // at once: all that was acknowledged is on disk
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if serr := h.server.Shutdown(ctx); errors.Is(serr, context.DeadlineExceeded) {
		h.server.Close() // a client that does not end is not waited for
	}
	return errors.Join(err, h.close())
}

func (h *half) ready() error {
	if !h.attached.Load() {
		return errors.New("the sampler is not attached yet")
	}
	return nil
}

// take obeys the link until it ends.
func (h *half) take(link io.ReadWriter) error {
	in := bufio.NewReaderSize(link, 64<<10)
	start := startUp{log: h.log}
	for sequence := uint64(0); ; {
		kind, payload, err := readMessage(in)
		if err != nil {
			return fmt.Errorf("%w: %w", errAgentGone, err)
		}
		switch kind {
		case messageBatch:
			sequence++
			if _, err := link.Write(appendAnswer(nil, sequence, h.append(payload))); err != nil {
				return fmt.Errorf("%w: %w", errAgentGone, err)
			}
		case messageReport:
			var r httpapi.AgentReport
			err := json.Unmarshal(payload, &r)
			if err == nil {
				err = h.report(r)
			}
			if err != nil {
				h.log.Warn("agent report", "err", err)
			}
			start.window()
		case messageMetrics:
			h.metrics.set(payload)
		case messageReady:
			h.attached.Store(true)
		case messageEnd:
			return nil
		}
	}
}

func (h *half) append(payload []byte) error {
	batch, err := profilestore.UnmarshalBatch(payload)
	if err != nil {
		return err
	}
	return h.appender.Append(context.Background(), batch)
}

// agentMetrics are the agent half's metrics as it sent them last. It is a
// prometheus.Gatherer.
type agentMetrics struct {
	mu      sync.Mutex
	encoded []byte
}

func (m *agentMetrics) set(encoded []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.encoded = encoded
}

// Gather implements prometheus.Gatherer.
func (m *agentMetrics) Gather() ([]*dto.MetricFamily, error) {
	m.mu.Lock()
	encoded := m.encoded
	m.mu.Unlock()
	var families []*dto.MetricFamily
	dec := expfmt.NewDecoder(bytes.NewReader(encoded), expfmt.NewFormat(expfmt.TypeProtoDelim))
	for {
		f := new(dto.MetricFamily)
		if err := dec.Decode(f); errors.Is(err, io.EOF) {
			return families, nil
		} else if err != nil {
			return nil, fmt.Errorf("decode the agent's metrics: %w", err)
		}
		families = append(families, f)
	}
}
