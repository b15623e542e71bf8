package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"pilotlight/cmd/pilotlight/agent"
)

// serviceManager is systemd, where it started this process and wants to be told how it does (sd_notify(3)). Elsewhere its
// methods do nothing.
type serviceManager struct {
	watchdog time.Duration // this long without a sign of life is too long; 0: any time will do
	log      *slog.Logger
}

func findServiceManager(log *slog.Logger) (*serviceManager, error) {
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return nil, fmt.Errorf("read the service manager's watchdog: %w", err)
	}
	if watchdog > 0 && watchdog < 2*agent.Window {
		log.Warn("the service manager expects a sign of life more often than an agent gives one", "watchdog", watchdog, "mend", "WatchdogSec=60")
	}
	return &serviceManager{watchdog: watchdog, log: log}, nil
}

func (m *serviceManager) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		m.log.Warn("tell service manager", "state", state, "err", err)
	}
}

func (m *serviceManager) ready()    { m.tell(daemon.SdNotifyReady) }
func (m *serviceManager) stopping() { m.tell(daemon.SdNotifyStopping) }

// alive is a sign of life.
func (m *serviceManager) alive() {
	if m.watchdog > 0 {
		m.tell(daemon.SdNotifyWatchdog)
	}
}

// watch gives a sign of life as long as healthy says so, often enough, until ctx is done.
func (m *serviceManager) watch(ctx context.Context, healthy func() bool) {
	if m.watchdog == 0 {
		return
	}
	tick := time.NewTicker(m.watchdog / 2)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if healthy() {
				m.alive()
			}
		case <-ctx.Done():
			return
		}
	}
}
