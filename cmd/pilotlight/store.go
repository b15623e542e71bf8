package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"

	"pilotlight/profilestore"
	"pilotlight/profilestore/httpapi"
	"pilotlight/ui"
)

// storeFlags are the flags of everything that has a store.
type storeFlags struct {
	Retention     lifetime `help:"How long profiles are kept." default:"7d" placeholder:"TIME"`
	RetentionSize byteSize `help:"How much room profiles may take: the oldest go first." default:"10GB" placeholder:"SIZE"`
	StoreMemory   memory   `help:"How much memory profiles on their way to disk, names and caches may take. A query may take 512 MB more." default:"256MiB" placeholder:"SIZE"`
}

// args returns the flags as a command line has them.
func (f storeFlags) args() []string {
	return []string{"--retention", model.Duration(f.Retention).String(), "--retention-size", fmt.Sprint(uint64(f.RetentionSize)), "--store-memory", fmt.Sprint(uint64(f.StoreMemory))}
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

// memory is a number of bytes that a store can work with.
type memory byteSize

const leastMemory = 32 << 20

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *memory) UnmarshalText(text []byte) error {
	if (*byteSize)(m).UnmarshalText(text) != nil || *m < leastMemory {
		return fmt.Errorf("%.40q: write a size of 32MiB or more, as 256MiB or 1GB", text)
	}
	return nil
}

// storeCmd is the store half of `run`: it keeps what comes over the link and
// serves it.
type storeCmd struct {
	Data string `required:""`
	storeFlags
	serveFlags
}

func (c *storeCmd) Run(g *globals) error { return runHalf(g, c.Data, c.open) }

// open opens the store in the working directory.
func (c *storeCmd) open(g *globals, listener net.Listener) (*half, error) {
	if err := limitMemory(os.DirFS("/")); err != nil {
		g.log.Warn("memory is not limited", "err", err)
	}
	h := newHalf(g, listener)
	store, err := profilestore.Open(".", profilestore.Options{
		Retention:      time.Duration(c.Retention),
		RetentionBytes: int64(c.RetentionSize),
		MemoryBytes:    int64(c.StoreMemory),
		Registerer:     h.registry,
	})
	if err != nil {
		return nil, explainData(c.Data, err)
	}
	agents := new(httpapi.Agents)
	h.appender, h.report, h.close = store, agents.Put, store.Close
	h.server, err = c.newServer(store, httpapi.Options{
		UI:         ui.Handler(),
		Agents:     agents,
		Ready:      h.ready,
		Gatherer:   prometheus.Gatherers{h.registry, &h.metrics},
		Registerer: h.registry,
		Logger:     g.log,
	}, g.log)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	c.warnIfOpen(listener.Addr(), g.log)
	return h, nil
}

// explainData names the data directory in an error about it, and a mend.
func explainData(dir string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("data directory %s: user %d, as which profiles are kept, may not write there: name another with --data or, if it is pilotlight's alone, chown -R %d %s", dir, os.Geteuid(), os.Geteuid(), dir)
	}
	var refused *profilestore.Error
	if errors.As(err, &refused) {
		err = refused // without the directory, which to the store is "."
	}
	return fmt.Errorf("data directory %s: %w", dir, err)
}
