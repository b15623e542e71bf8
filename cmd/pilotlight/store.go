package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"

	"pilotlight/profilestore"
	"pilotlight/profilestore/httpapi"
	"pilotlight/ui"
)

// storeFlags are the flags of everything that has a store.
type storeFlags struct {
	Retention     lifetime `help:"How long profiles are kept." default:"7d" placeholder:"TIME"`
	RetentionSize byteSize `help:"How much room profiles may take: the oldest go first." default:"10GB" placeholder:"SIZE"`
}

// args returns the flags as a command line has them.
func (f storeFlags) args() []string {
	return []string{"--retention", model.Duration(f.Retention).String(), "--retention-size", fmt.Sprint(uint64(f.RetentionSize))}
}

// lifetime is a time above zero, written as 7d or 12h.
type lifetime time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *lifetime) UnmarshalText(text []byte) error {
	d, err := model.ParseDuration(string(text))
	if err != nil || d == 0 {
		return fmt.Errorf("%.40q: write a time above zero, as 7d or 12h", text)
	}
	*l = lifetime(d)
	return nil
}

// byteSize is a number of bytes above zero, written as 10GB or 512MiB.
type byteSize uint64

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *byteSize) UnmarshalText(text []byte) error {
	n, err := humanize.ParseBytes(string(text))
	if err != nil || n == 0 || n > math.MaxInt64 {
		return fmt.Errorf("%.40q: write a size above zero, as 10GB or 512MiB", text)
	}
	*b = byteSize(n)
	return nil
}

// storeCmd is the store half of `run`: it keeps what comes over the link and
// serves it. It has no privileges, and nothing that it is told over HTTP reaches
// a process that has any.
type storeCmd struct {
	Data string `required:""`
	storeFlags
	serveFlags
}

func (c *storeCmd) Run(g *globals) error {
	// The agent half decides when to end, so that its last window is kept.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM)
	link, err := net.FileConn(os.NewFile(linkFD, "link"))
	if err != nil {
		return fmt.Errorf("%w: store-half is started by run", err)
	}
	defer link.Close()
	err = c.serve(g, link)
	if errors.Is(err, errAgentGone) {
		return exitError(1) // whoever killed the agent half knows; there is nobody to tell
	}
	return err
}

// errAgentGone is the end of a link without messageEnd.
var errAgentGone = errors.New("agent half is gone")

// serve runs until the agent half ends. What keeps it from starting it tells the
// agent half, which tells the user.
func (c *storeCmd) serve(g *globals, link net.Conn) error {
	h, err := c.open(g)
	if _, werr := link.Write(appendAnswer(nil, 0, err)); err != nil || werr != nil {
		if werr != nil {
			return errAgentGone
		}
		return exitError(1)
	}
	served := make(chan error, 1)
	go func() { served <- serve(h.server, h.listener) }()
	linked := make(chan error, 1)
	go func() { linked <- h.take(link) }()
	select {
	case err = <-linked:
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
	return errors.Join(err, h.store.Close())
}

// half is what the store half consists of.
type half struct {
	store    *profilestore.Store
	server   *http.Server
	listener net.Listener
	agents   *httpapi.Agents
	metrics  agentMetrics
	attached atomic.Bool
	log      *slog.Logger
}

func (c *storeCmd) open(g *globals) (*half, error) {
	listener, err := net.FileListener(os.NewFile(listenerFD, "listener"))
	if err != nil {
		return nil, fmt.Errorf("take over listener: %w", err)
	}
	// The directory was opened by root, and may lie where this user cannot go.
	if err := unix.Fchdir(dataFD); err != nil {
		return nil, c.explain(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	store, err := profilestore.Open(".", profilestore.Options{
		Retention:      time.Duration(c.Retention),
		RetentionBytes: int64(c.RetentionSize),
		Registerer:     registry,
	})
	if err != nil {
		return nil, c.explain(err)
	}
	h := &half{store: store, listener: listener, agents: new(httpapi.Agents), log: g.log}
	h.server, err = c.newServer(store, httpapi.Options{
		UI:         ui.Handler(),
		Agents:     h.agents,
		Ready:      h.ready,
		Gatherer:   prometheus.Gatherers{registry, &h.metrics},
		Registerer: registry,
		Logger:     g.log,
	}, g.log)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return h, nil
}

// explain names the data directory in an error about it, and a mend.
func (c *storeCmd) explain(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("data directory %s: user %d, as which profiles are kept, may not write there: name another with --data or, if it is pilotlight's alone, chown -R %d %s", c.Data, os.Geteuid(), os.Geteuid(), c.Data)
	}
	var refused *profilestore.Error
	if errors.As(err, &refused) {
		err = refused // without the directory, which to the store is "."
	}
	return fmt.Errorf("data directory %s: %w", c.Data, err)
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
			if err := errors.Join(json.Unmarshal(payload, &r), h.agents.Put(r)); err != nil {
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
	return h.store.Append(context.Background(), batch)
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
