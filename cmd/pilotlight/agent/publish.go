package agent

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"pilotlight/cmd/pilotlight/process"
	"pilotlight/profilestore"
)

// appendAttempts is how often a window is offered before it is given up. An
// agent that must bridge longer outages has an appender that spools.
const appendAttempts = 3

// flushTimeout is how long an appender may stand still after ctx is done: that
// must not hold up the end of the agent.
const flushTimeout = 2 * time.Second

// publish appends the profiles of each window until there are no more. What
// cannot be appended is counted as dropped.
//
// An appender that stands still, as one does whose disk does not answer, is
// waited for: it may yet keep what it was handed, which would then be counted as
// dropped too. Windows queue up meanwhile.
func (a *Agent) publish(ctx context.Context, enc *encoder, windows <-chan *window) {
	flush, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(flushTimeout, cancel) })
	defer stop()
	for w := range windows {
		if err := a.publishWindow(ctx, flush, enc, w); err != nil {
			a.log.Error("profiles lost", "start", w.start, "err", err)
		}
		a.account.settle(w)
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

func (a *Agent) publishWindow(ctx, flush context.Context, enc *encoder, w *window) error {
	batch, err := enc.encode(w, func(k process.Key) profilestore.ID { return a.profileID(w, k) })
	if err != nil || len(batch) == 0 {
		return err
	}
	if err := a.deliver(ctx, flush, batch, w.order); err != nil {
		return err
	}
	if a.log.Enabled(ctx, slog.LevelDebug) {
		a.log.Debug("profiles acknowledged", "start", w.start, "ids", kept(batch, w.order))
	}
	return nil
}

// kept lists the profiles that an appender has taken.
func kept(batch []profilestore.Encoded, of []*stacks) []string {
	var ids []string
	for i, st := range of {
		if st.kept {
			ids = append(ids, batch[i].ID.String())
		}
	}
	return ids
}

// deliver appends the profiles of processes. A batch that is refused for what is
// in it is offered again in halves, so that what one process has made of its
// profile costs no other process its own.
func (a *Agent) deliver(ctx, flush context.Context, batch []profilestore.Encoded, of []*stacks) error {
	err := a.append(ctx, flush, batch)
	switch {
	case err == nil:
		for _, st := range of {
			st.kept = true
		}
		return nil
	case !Refused(err):
		return err
	case len(batch) == 1:
		a.refusals.Do(func() {
			a.log.Warn("profile refused", "pid", of[0].process.PID, "samples", of[0].samples, "err", err)
		})
		return nil
	}
	half := len(batch) / 2
	if err := a.deliver(ctx, flush, batch[:half], of[:half]); err != nil {
		return err
	}
	return a.deliver(ctx, flush, batch[half:], of[half:])
}

// Refused reports whether err is an appender's refusal of what is in a batch, so
// that offering the same again is in vain.
func Refused(err error) bool {
	var e *profilestore.Error
	if !errors.As(err, &e) {
		return false
	}
	return e.Code == profilestore.BadRequest || e.Code == profilestore.PayloadTooLarge || e.Code == profilestore.TooManyRequests
}

// append offers a batch, with pauses, until flush is done. After ctx is done
// there is one attempt more, the last: what was sampled before is to be kept.
func (a *Agent) append(ctx, flush context.Context, batch []profilestore.Encoded) error {
	pause := time.Second
	for attempt := 1; ; attempt++ {
		err := a.appender.Append(flush, batch)
		if err == nil || Refused(err) || attempt == appendAttempts || ctx.Err() != nil {
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
