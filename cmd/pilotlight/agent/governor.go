package agent

import (
	"runtime"
	"runtime/debug"
	"time"
)

const (
	defaultCPULimit    = 0.02 // of all CPUs together
	defaultMemoryLimit = 256 << 20

	// governorInterval is how often the governor looks, and so the shortest time
	// between two of its steps.
	governorInterval = 5 * time.Second
	// allowance is for how long the agent may go without spending and then spend
	// it all: it costs the more when it starts, or much else does.
	allowance = time.Minute
	// grace is what is granted after a step, for its effect to show.
	grace = 10 * time.Second
)

// levels are what the agent does the less, the higher the level. Finishing
// stacks goes first: a sample whose stack is cut still says who used the CPU.
var levels = []struct {
	finish  int // of so many unfinished samples one is finished; 0: none
	divisor int // of the frequency
}{
	{1, 1}, {4, 1}, {0, 1}, {0, 2}, {0, 4}, {0, 8}, {0, 16},
}

// cost is what the agent and the sampler's program have taken.
type cost struct {
	cpu     time.Duration // since they started
	indexes time.Duration // of the children that index debug information, beside cpu
	memory  uint64        // bytes at present, with that of the kernel's maps
}

// governor keeps the cost of the agent under its limits, by doing less. It saves
// up CPU time that the agent does not use, and steps up a level when all is
// spent, or when there is too much memory; it steps back once half of what it
// can save is there again. It belongs to the draining goroutine.
type governor struct {
	rate   float64 // CPU seconds that the agent may take a second; negative: as many as it likes
	memory uint64  // bytes that it may take; 0: as many as it likes

	level  int
	saved  time.Duration // CPU time that may yet be spent
	owed   time.Duration // CPU time of indexes that is still to be taken from saved
	last   cost
	looked uint64 // CLOCK_MONOTONIC, ns
	turn   int    // counts unfinished samples
}

// newGovernor returns the governor of an agent that starts now, at a cost.
func newGovernor(o Options, now uint64, c cost) *governor {
	g := &governor{rate: o.CPULimit, last: c, looked: now}
	if g.rate == 0 {
		g.rate = defaultCPULimit
	}
	g.rate *= float64(runtime.NumCPU())
	switch {
	case o.MemoryLimit == 0:
		g.memory = defaultMemoryLimit
	case o.MemoryLimit > 0:
		g.memory = uint64(o.MemoryLimit)
	}
	g.saved = g.worth(allowance)
	return g
}

// worth is the CPU time that the agent may take in d.
func (g *governor) worth(d time.Duration) time.Duration {
	return time.Duration(g.rate * float64(d))
}

// due reports whether it is time to look.
func (g *governor) due(now uint64) bool { return now >= g.looked+uint64(governorInterval) }

// look takes the cost as of now and reports whether the level changed, and
// whether there is too much memory.
func (g *governor) look(now uint64, c cost) (changed, memory bool) {
	most := g.worth(allowance)
	g.saved = min(most, g.saved+g.worth(time.Duration(now-g.looked))-(c.cpu-g.last.cpu))
	g.owed += c.indexes - g.last.indexes
	if paid := min(g.owed, g.saved-most/2); paid > 0 {
		g.owed, g.saved = g.owed-paid, g.saved-paid
	}
	g.last, g.looked = c, now
	memory = g.memory > 0 && c.memory > g.memory
	switch {
	case memory || g.rate >= 0 && g.saved < 0:
		// What was overspent is not paid back: it would have the agent do nothing
		// for as long as it did too much.
		g.saved = max(g.saved, g.worth(grace))
		if g.level == len(levels)-1 {
			return false, memory
		}
		g.level++
		return true, memory
	case g.level > 0 && (g.rate < 0 || g.saved >= most/2) && (g.memory == 0 || c.memory < g.memory/8*7):
		g.level--
		return true, memory
	}
	return false, memory
}

// credit is the CPU time that may be spent on indexes: what is saved beyond half of
// what can be. An index that took more than there was sheds no work: what is saved
// later pays for it, and there is no other index meanwhile.
func (g *governor) credit() time.Duration {
	switch {
	case g.level > 0:
		return 0
	case g.rate < 0:
		return unlimited
	}
	return g.saved - g.worth(allowance)/2 - g.owed
}

// finishes reports whether the next unfinished sample is to be finished.
func (g *governor) finishes() bool {
	n := levels[g.level].finish
	g.turn++
	return n > 0 && g.turn%n == 0
}

// frequency is that of the present level, in Hz, of an agent that is to sample
// at full.
func (g *governor) frequency(full int) int {
	return max(1, full/levels[g.level].divisor)
}

// beginGoverning has the agent watch its limits from now on.
func (a *Agent) beginGoverning(now uint64) error {
	c, err := a.account.cost()
	if err != nil {
		return err
	}
	a.full = a.sampler.Frequency()
	a.governor = newGovernor(a.opts, now, c)
	a.allowIndexes()
	return nil
}

// allowIndexes has as many indexes built as the governor grants.
func (a *Agent) allowIndexes() {
	if a.symbols.indexes == nil {
		return
	}
	credit := a.governor.credit()
	if a.opts.IndexWait > 0 && a.governor.level == 0 {
		credit = unlimited
	}
	a.symbols.indexes.allow(credit)
}

// govern looks whether the agent takes more than it may, and has it do less, or
// again more.
func (a *Agent) govern(now uint64) error {
	if !a.governor.due(now) {
		return nil
	}
	c, err := a.account.cost()
	if err != nil {
		return err
	}
	before := a.governor.level
	changed, memory := a.governor.look(now, c)
	a.allowIndexes()
	if !changed {
		return nil
	}
	if memory {
		a.tables.evict(maxUnwindBytes / 8)
		debug.FreeOSMemory()
	}
	level := a.governor.level
	a.account.setLevel(level)
	hz := a.governor.frequency(a.full)
	attrs := []any{"level", level, "frequency", hz, "memory", c.memory, "cpu", c.cpu.Round(time.Millisecond)}
	switch {
	case level == 0:
		a.log.Info("all work is done again", attrs...)
	case level < before:
		a.log.Info("less work is shed", attrs...)
	default:
		a.log.Warn("work is shed to keep to the limits of CPU and memory", attrs...)
	}
	return a.setFrequency(hz)
}

// setFrequency changes how often is sampled. Each sample keeps the weight of its time.
func (a *Agent) setFrequency(hz int) error {
	if hz == a.sampler.Frequency() {
		return nil
	}
	if err := a.account.count(); err != nil {
		return err
	}
	if err := a.sampler.SetFrequency(hz); err != nil {
		return err
	}
	now, _ := a.clock()
	a.rates.set(now, hz)
	return nil
}
