package agent

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/cmd/pilotlight/process"
)

// AskJVM has the JVM of a process write its perf map anew, and returns the CPU time that asking took. No more are asked once
// ctx is done.
type AskJVM func(ctx context.Context, p process.Key) (time.Duration, error)

const (
	// A JVM compiles most when it begins. It is asked after so long, and each time after twice as long as before.
	firstAsk, longestAsk = 5 * time.Second, 10 * time.Minute
	// maxAsked is how many JVMs are known; at the limit all are forgotten.
	maxAsked = 1024
)

// jvms asks JVMs for the names of the code that they compiled. A nil *jvms asks none.
type jvms struct {
	ask   AskJVM
	log   *slog.Logger
	queue chan process.Key
	cpu   atomic.Int64 // ns
	total *prometheus.CounterVec

	mu    sync.Mutex // guards asked
	asked map[process.Key]askedJVM
}

// askedJVM is when a JVM is to be asked next.
type askedJVM struct {
	due   time.Time
	every time.Duration
}

func newJVMs(o Options) (*jvms, error) {
	if o.AskJVM == nil {
		return nil, nil
	}
	j := &jvms{
		ask: o.AskJVM, log: o.Logger, queue: make(chan process.Key, 16), asked: make(map[process.Key]askedJVM),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pilotlight_agent_jvms_asked_total",
			Help: "How often JVMs were asked for the names of what they compiled, by what came of it.",
		}, []string{"result"}),
	}
	if o.Registerer == nil {
		return j, nil
	}
	if err := o.Registerer.Register(j.total); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return j, nil
}

// seen tells that p ran code that it compiled itself.
func (j *jvms) seen(p *process.Process, now time.Time) {
	if j == nil || !p.JVM() {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	a, ok := j.asked[p.Key]
	if !ok {
		if len(j.asked) >= maxAsked {
			clear(j.asked)
		}
		a = askedJVM{due: now.Add(firstAsk), every: firstAsk}
	}
	if !now.Before(a.due) {
		select {
		case j.queue <- p.Key:
			a.every = min(2*a.every, longestAsk)
			a.due = now.Add(a.every)
		default: // another time
		}
	}
	j.asked[p.Key] = a
}

// run asks until ctx is done.
func (j *jvms) run(ctx context.Context) {
	if j == nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-j.queue:
			j.one(ctx, p, time.Now())
		}
	}
}

func (j *jvms) one(ctx context.Context, p process.Key, now time.Time) {
	cpu, err := j.ask(ctx, p)
	j.cpu.Add(int64(cpu))
	if err == nil {
		j.total.WithLabelValues("written").Inc()
		return
	}
	j.total.WithLabelValues("failed").Inc()
	j.mu.Lock()
	defer j.mu.Unlock()
	if a, ok := j.asked[p]; ok && ctx.Err() == nil {
		j.log.Warn("a JVM was asked for the names of what it compiled and did not tell", "pid", p.PID, "err", err)
		a.every = longestAsk // what it could not do it will hardly learn
		a.due = now.Add(a.every)
		j.asked[p] = a
	}
}

// CPU returns the CPU time that asking has taken.
func (j *jvms) CPU() time.Duration {
	if j == nil {
		return 0
	}
	return time.Duration(j.cpu.Load())
}
