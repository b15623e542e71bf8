package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/cmd/pilotlight/agent"
	"pilotlight/cmd/pilotlight/config"
	"pilotlight/cmd/pilotlight/containers"
)

// agentSettings is what the agent takes of a configuration.
func agentSettings(c *config.Config) agent.Settings {
	return agent.Settings{RelabelConfigs: c.RelabelConfigs, ReadEnviron: c.ReadEnviron}
}

// whoIsWho keeps the agent up to what the configuration and container runtimes say
// about processes.
type whoIsWho struct {
	settings *configuration
	runtimes runtimes
	names    *containers.Names
}

func newWhoIsWho(settings *configuration, metrics prometheus.Registerer, log *slog.Logger) (*whoIsWho, error) {
	w := &whoIsWho{settings: settings}
	w.runtimes.use(settings.current.Runtimes)
	var err error
	w.names, err = containers.NewNames(w.runtimes.ask, containers.Options{Registerer: metrics, Logger: log})
	return w, errors.Join(err, settings.register(metrics))
}

// follow begins to follow both, and returns what ends that.
func (w *whoIsWho) follow(ctx context.Context, a *agent.Agent) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	following.Go(func() { w.names.Run(ctx) })
	following.Go(func() {
		w.settings.follow(ctx, func(now *config.Config) {
			w.runtimes.use(now.Runtimes)
			w.names.Refresh()
			a.Configure(agentSettings(now))
		})
	})
	return func() {
		cancel()
		following.Wait()
	}
}
