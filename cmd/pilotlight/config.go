package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/cmd/pilotlight/config"
)

// configFlags are the flags of everything that reads the configuration file.
type configFlags struct {
	Config string `help:"Configuration file: labels, filters, container runtimes. Default: /etc/pilotlight.yaml, or pilotlight.yaml below XDG_CONFIG_HOME if not root, if it is there." placeholder:"FILE"`
}

// open reads the file. One that nobody named need not be there.
func (f configFlags) open(g *globals) (*configuration, error) {
	path := f.Config
	if path == "" {
		path = defaultConfig()
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find the configuration: %w", err)
	}
	c := &configuration{path: path, optional: f.Config == "", log: g.log, hangup: make(chan os.Signal, 1)}
	// Before all else that a start does: by default, SIGHUP ends a program.
	signal.Notify(c.hangup, syscall.SIGHUP)
	now, err := c.load()
	if err != nil {
		return nil, err
	}
	c.put(now)
	return c, nil
}

// defaultConfig is where the file is looked for.
func defaultConfig() string {
	if os.Geteuid() != 0 {
		if dir, err := os.UserConfigDir(); err == nil { // a service may have no home
			path := filepath.Join(dir, "pilotlight.yaml")
			if _, err := os.Stat(path); err == nil {
				return path
			}
		}
	}
	return "/etc/pilotlight.yaml"
}

// configuration is the configuration that is in effect. It belongs to one
// goroutine, but for its metrics.
type configuration struct {
	path     string
	optional bool // nobody named the file, and there has been none
	log      *slog.Logger
	current  *config.Config
	wrong    string         // what is wrong with the file as it was read last
	hangup   chan os.Signal // has a value when somebody asks for the file to be read again

	successful atomic.Bool  // it was right
	success    atomic.Int64 // Unix ns of when it was right last
}

// load reads the file.
func (c *configuration) load() (*config.Config, error) {
	now, err := config.Load(c.path)
	if errors.Is(err, fs.ErrNotExist) && c.optional {
		return &config.Config{}, nil
	}
	c.optional = c.optional && err != nil
	return now, err
}

// put has a configuration take effect.
func (c *configuration) put(now *config.Config) {
	c.current, c.wrong = now, ""
	c.successful.Store(true)
	c.success.Store(time.Now().UnixNano())
}

// register has metrics tell how reloads went.
func (c *configuration) register(r prometheus.Registerer) error {
	successful := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pilotlight_config_last_reload_successful",
		Help: "Whether the configuration file was right when it was read last; if not, the one before is in effect.",
	}, func() float64 {
		if c.successful.Load() {
			return 1
		}
		return 0
	})
	timestamp := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pilotlight_config_last_reload_success_timestamp_seconds",
		Help: "When the configuration that is in effect was read, as Unix seconds.",
	}, func() float64 { return float64(c.success.Load()) / 1e9 })
	return errors.Join(r.Register(successful), r.Register(timestamp))
}

// follow reads the file again at SIGHUP, and when it has changed, until ctx is
// done, and calls apply with what is new; at SIGHUP also if nothing is.
func (c *configuration) follow(ctx context.Context, apply func(*config.Config)) {
	changed := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		err := config.Watch(ctx, c.path, func() {
			select {
			case changed <- struct{}{}:
			default: // it is going to be read
			}
		})
		if err != nil {
			c.log.Warn("the configuration is read again at SIGHUP only", "err", err)
		}
	}()
	defer func() { cancel(); <-watched }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.hangup:
			c.reload(true, apply)
		case <-changed:
			c.reload(false, apply)
		}
	}
}

// reload reads the file again. Without somebody asking, nothing is said and done
// that has been.
func (c *configuration) reload(asked bool, apply func(*config.Config)) {
	now, err := c.load()
	if err != nil {
		if asked || err.Error() != c.wrong {
			c.log.Error("configuration is wrong: the one before stays in effect", "err", err)
		}
		c.wrong = err.Error()
		c.successful.Store(false)
		return
	}
	if !asked && c.wrong == "" && now.Equal(c.current) {
		return
	}
	c.put(now)
	c.log.Info("configuration read", "path", c.path, "relabel_configs", len(now.RelabelConfigs))
	apply(now)
}
