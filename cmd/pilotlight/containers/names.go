package containers

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxRemembered bounds how many containers are remembered, those that nobody
	// can name included.
	maxRemembered = 4096
	// maxAsked bounds for how many is asked at once.
	maxAsked = 64
	// gather is how long others are waited for when one is wanted: containers
	// come in pods, and an agent that starts meets all of them.
	gather = 200 * time.Millisecond
	// renewAfter is for how long a name is believed: a container may be renamed.
	renewAfter = 10 * time.Minute
	// One that nobody can name is asked for again after pauses of this length.
	shortestRetry = 5 * time.Second
	longestRetry  = 10 * time.Minute
	// So are all, after an answer that named none: any user can make a cgroup
	// that looks like a container.
	shortestPause = time.Second
	longestPause  = time.Minute
)

// Answer is what came of asking for containers.
type Answer struct {
	Containers []Container
	CPU        time.Duration // that asking took, elsewhere than in this process
}

// Asker asks for the containers with these IDs. What it returns beside an error
// counts, too.
type Asker func(ctx context.Context, ids []string) (Answer, error)

// Options tune Names. The zero value is the default.
type Options struct {
	Registerer prometheus.Registerer // nil: metrics are kept and not registered
	Logger     *slog.Logger          // nil: slog.Default()
}

// Names remembers containers. A nil Names knows none. All methods may be called
// from many goroutines, but Run by one.
type Names struct {
	ask    Asker
	log    *slog.Logger
	signal chan struct{} // has a value when something is wanted

	found, unknown, failed prometheus.Counter

	mu         sync.Mutex // guards what follows
	remembered map[string]*remembered
	renewed    time.Time // when all that have names were last to be asked for again
	wanted     []string
	cpu        time.Duration
}

type remembered struct {
	container *Container // nil: nobody could name it yet
	stale     bool       // it is to be asked for again
	used      time.Time  // when somebody looked for it last
	wanted    bool       // it is asked for, or going to be
	tries     int        // in vain
	next      time.Time  // not to be asked for before
}

// NewNames returns Names that know nothing yet.
func NewNames(ask Asker, o Options) (*Names, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	n := &Names{ask: ask, log: o.Logger, signal: make(chan struct{}, 1), remembered: make(map[string]*remembered)}
	lookups := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pilotlight_container_lookups_total",
		Help: "Containers that runtimes were asked for, by what came of it: found, unknown to all of them, failed because one did not answer.",
	}, []string{"result"})
	n.found, n.unknown, n.failed = lookups.WithLabelValues("found"), lookups.WithLabelValues("unknown"), lookups.WithLabelValues("failed")
	if o.Registerer != nil {
		if err := o.Registerer.Register(lookups); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return n, nil
}

// Get returns what is known of a container now, or nil. It does not wait: what
// is not known is asked for, and known later. The Container is not to be
// changed, and is the same one as long as what is known is.
func (n *Names) Get(id string) *Container {
	if n == nil || id == "" {
		return nil
	}
	now := time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.renew(now)
	r := n.remembered[id]
	if r == nil {
		n.makeRoom()
		r = &remembered{}
		n.remembered[id] = r
	}
	r.used = now
	if (r.container == nil || r.stale) && !r.wanted && !now.Before(r.next) && len(n.wanted) < maxRemembered {
		r.wanted = true
		n.wanted = append(n.wanted, id)
		n.wake()
	}
	return r.container
}

// renew has all names asked for again now and then: together, as that takes a
// process, however many there are.
func (n *Names) renew(now time.Time) {
	if now.Sub(n.renewed) < renewAfter {
		return
	}
	n.renewed = now
	for _, r := range n.remembered {
		r.stale = r.stale || r.container != nil
	}
}

// Refresh has all containers asked for again when somebody looks for them. Until
// there is an answer, what is known stays.
func (n *Names) Refresh() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.remembered {
		r.stale, r.tries, r.next = true, 0, time.Time{}
	}
}

// CPU returns the CPU time that asking has taken, elsewhere than in this process.
func (n *Names) CPU() time.Duration {
	if n == nil {
		return 0
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cpu
}

// makeRoom forgets the quarter of the containers that nobody has looked for for
// the longest time, if there are too many. To find one would take as long, and any
// user can make cgroups that look like containers.
func (n *Names) makeRoom() {
	if len(n.remembered) < maxRemembered {
		return
	}
	ids := slices.SortedFunc(maps.Keys(n.remembered), func(a, b string) int {
		return n.remembered[a].used.Compare(n.remembered[b].used)
	})
	for _, id := range ids[:maxRemembered/4] {
		delete(n.remembered, id)
	}
}

func (n *Names) wake() {
	select {
	case n.signal <- struct{}{}:
	default: // it has been
	}
}

// Run asks for what is wanted until ctx is done. It sleeps while nothing is.
func (n *Names) Run(ctx context.Context) {
	fruitless := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.signal:
		}
		if !sleep(ctx, gather) {
			return
		}
		ids := n.take()
		if len(ids) == 0 {
			continue
		}
		answer, err := n.ask(ctx, ids)
		if ctx.Err() != nil {
			return
		}
		found := n.learn(ids, answer, err)
		switch {
		case found > 0:
			fruitless = 0
		case err != nil && fruitless == 0:
			n.log.Warn("containers have no names: a runtime does not answer", "containers", len(ids), "err", err)
			fruitless++
		default:
			fruitless++
		}
		if !sleep(ctx, backOff(fruitless, shortestPause, longestPause)) {
			return
		}
	}
}

// take returns what is to be asked for next.
func (n *Names) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	ids := n.wanted[:min(len(n.wanted), maxAsked)]
	n.wanted = n.wanted[len(ids):]
	if len(n.wanted) > 0 {
		n.wake()
	}
	return ids
}

// learn remembers an answer, and returns how many of the IDs it named.
func (n *Names) learn(ids []string, answer Answer, err error) (found int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cpu += answer.CPU
	named := make(map[string]*Container, len(answer.Containers))
	for _, c := range answer.Containers {
		c = c.bounded() // it comes from a process that is not trusted
		named[c.ID] = &c
	}
	now := time.Now()
	for _, id := range ids {
		r := n.remembered[id]
		if r == nil {
			continue // forgotten meanwhile
		}
		r.wanted = false
		switch c := named[id]; {
		case c != nil && c.known():
			if !reflect.DeepEqual(c, r.container) {
				r.container = c
			}
			r.stale, r.tries = false, 0
			n.found.Inc()
			found++
			continue
		case err != nil:
			n.failed.Inc()
		default:
			r.container, r.stale = nil, false
			n.unknown.Inc()
		}
		r.next = now.Add(backOff(r.tries, shortestRetry, longestRetry))
		r.tries++
	}
	return found
}

// backOff returns shortest, doubled so many times, but at most longest.
func backOff(times int, shortest, longest time.Duration) time.Duration {
	d := shortest
	for range times {
		if d *= 2; d >= longest {
			return longest
		}
	}
	return d
}

// sleep sleeps, and reports false if ctx was done before it was over.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
