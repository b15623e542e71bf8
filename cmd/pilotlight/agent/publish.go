package agent

import (
	"context"
	"time"

	"pilotlight/cmd/pilotlight/process"
	"pilotlight/profilestore"
)

// appendAttempts is how often a window is offered before it is given up. An
// agent that must bridge longer outages has an appender that spools.
const appendAttempts = 3

// publish appends the profiles of each window until there are no more. A window
// that cannot be appended is counted as dropped.
func (a *Agent) publish(ctx context.Context, enc *encoder, windows <-chan *window) {
	for w := range windows {
		if err := a.publishWindow(ctx, enc, w); err != nil {
			a.account.drop(w)
			a.log.Error("window lost", "start", w.start, "samples", w.samples, "err", err)
		}
		if err := a.symbols.trim(); err != nil {
			a.log.Warn("close binaries", "err", err)
		}
		report, err := a.account.report(w)
		if err != nil {
			a.log.Error("account for window", "err", err)
			continue
		}
		if a.opts.OnReport != nil {
			a.opts.OnReport(report)
		}
	}
}

func (a *Agent) publishWindow(ctx context.Context, enc *encoder, w *window) error {
	batch, frames, err := enc.encode(w, func(k process.Key) profilestore.ID { return a.profileID(w, k) })
	if err != nil {
		return err
	}
	if len(batch) > 0 {
		if err := a.append(ctx, batch); err != nil {
			return err
		}
	}
	a.account.keep(w, frames)
	return nil
}

// append offers a batch, with pauses. After ctx is done there is one attempt
// more, the last: what was sampled before is to be kept.
func (a *Agent) append(ctx context.Context, batch []profilestore.Encoded) error {
	pause := time.Second
	for attempt := 1; ; attempt++ {
		err := a.appendOnce(batch)
		if err == nil || attempt == appendAttempts || ctx.Err() != nil {
			return err
		}
		a.log.Warn("append profiles: trying again", "attempt", attempt, "err", err)
		select {
		case <-time.After(pause):
			pause *= 2
		case <-ctx.Done():
		}
	}
}

// appendTimeout keeps a silent appender from holding up the end of the agent.
const appendTimeout = 4 * time.Second

func (a *Agent) appendOnce(batch []profilestore.Encoded) error {
	ctx, cancel := context.WithTimeout(context.Background(), appendTimeout)
	defer cancel()
	return a.appender.Append(ctx, batch)
}
