package agent

import (
	"runtime"
	"runtime/debug"
	"time"
)

const (
	defaultCPULimit    = 0.02 // of all CPUs together
	defaultMemoryLimit = 256 << 20

	// counted is how much of what is taken can be known: the kernel's part in taking a sample has no count.
	counted = 0.95
	// governorInterval is how often the governor looks, and so the shortest time
	// between two of its steps.
	governorInterval = 5 * time.Second
	// budgetSpan is over how long the limit of CPU time holds: no span of it takes more.
	budgetSpan = time.Minute
	// After so long at a level the one below is tried, if there is CPU time for it. One that was not enough is tried after
	// twice as long, and again twice that each time it is not, up to the longest.
	shortestHold = 2 * governorInterval
	longestHold  = budgetSpan
	// recordCost is about what one record of a process takes, for whether to follow them is what costs.
	recordCost = 2 * time.Microsecond
)

// shedding is what the agent does less than all.
type shedding struct {
	finish  int  // of so many unfinished samples one is finished; 0: none
	records bool // what becomes of processes is not followed, but read in /proc of those that are sampled
	divisor int  // of the frequency
	rest    bool // nothing is sampled
}

// levels are what the agent does the less, the higher the level. Finishing stacks goes first: a sample whose stack is cut
// still says who used the CPU. Processes that nobody follows still have their name. To rest is the last, and is what
// keeps the limit when nothing else does.
var levels = []shedding{
	{finish: 1, divisor: 1},
	{finish: 4, divisor: 1},
	{divisor: 1},
	{divisor: 1, records: true},
	{divisor: 2, records: true},
	{divisor: 4, records: true},
	{divisor: 8, records: true},
	{divisor: 16, records: true},
	{divisor: 16, records: true, rest: true},
}

// Levels that have a meaning of their own.
const (
	levelRecords = 3
	levelRest    = 8
)

// cost is what the agent and the sampler's program have taken.
type cost struct {
	own     time.Duration // CPU time of the agent's process since it started
	cpu     time.Duration // with that of what works for the agent in other processes and in the kernel
	spare   time.Duration // of it, what was spent of the allowance
	memory  uint64        // bytes at present, with that of the kernel's maps
	records uint64        // that were followed, since the start
}

// spending is the cost at a time.
type spending struct {
	time uint64 // CLOCK_MONOTONIC, ns
	cost
}

// governor keeps the cost of the agent under its limits, by doing less. What has been spent of the CPU time of a minute
// tells it how long the rest lasts if all goes on as it does: it steps up the sooner that ends, and back once half is
// there again. It belongs to the draining goroutine.
type governor struct {
	rate   float64 // CPU seconds that the agent may take a second; negative: as many as it likes
	memory uint64  // bytes that it may take; 0: as many as it likes

	level   int
	follows bool       // records are not what costs, and so not shed
	past    []spending // looks of the last minute, oldest first, and the last before it
	changed uint64     // when the level did
	lacking []lack     // of each level
	turn    int        // counts unfinished samples
}

// lack says that a level was not enough.
type lack struct {
	until uint64        // it is not tried again
	hold  time.Duration // after which it was, or will be
}

// newGovernor returns the governor of an agent that starts now, at a cost. That is of the first minute, but says nothing of
// what comes.
func newGovernor(o Options, now uint64, c cost) *governor {
	start := c
	start.cpu, start.spare = 0, c.spare-c.cpu
	g := &governor{rate: o.CPULimit, past: []spending{{now, start}}, changed: now, lacking: make([]lack, len(levels))}
	if g.rate == 0 {
		g.rate = defaultCPULimit
	}
	g.rate *= counted * float64(runtime.NumCPU())
	switch {
	case o.MemoryLimit == 0:
		g.memory = defaultMemoryLimit
	case o.MemoryLimit > 0:
		g.memory = uint64(o.MemoryLimit)
	}
	return g
}

// worth is the CPU time that the agent may take in d.
func (g *governor) worth(d time.Duration) time.Duration {
	if g.rate < 0 {
		return unlimited
	}
	return time.Duration(g.rate * float64(d))
}

func (g *governor) last() spending { return g.past[len(g.past)-1] }

// due reports whether it is time to look. own is the CPU time of the agent's process: when that has grown by more than
// can be meant, there is no waiting.
func (g *governor) due(now uint64, own time.Duration) bool {
	last := g.last()
	return now >= last.time+uint64(governorInterval) || g.rate >= 0 && now > last.time && own-last.own > g.worth(2*governorInterval)
}

// spent is the CPU time of the span that ends at the next look, as far as it is over.
func (g *governor) spent() time.Duration { return g.last().cpu - g.past[0].cpu }

// left is the CPU time that may be spent until the next look.
func (g *governor) left() time.Duration { return g.worth(budgetSpan) - g.spent() }

// pace is the CPU time, without that of the allowance, and the records, from one look to the next, as of late: in a window
// there are two, and one of them has its profiles to make.
func (g *governor) pace() (cpu time.Duration, records float64) {
	if len(g.past) < 2 {
		return 0, 0
	}
	was, is := g.past[len(g.past)-2], g.last()
	if g.lasting() {
		was = g.past[len(g.past)-3]
	}
	// When it was looked at early it will be again: what starts is no pace.
	looks := min(1, float64(governorInterval)/float64(max(1, is.time-was.time)))
	cpu = max(0, is.cpu-was.cpu-(is.spare-was.spare))
	return time.Duration(looks * float64(cpu)), looks * float64(is.records-was.records)
}

// lasting reports whether the pace is that of two looks at this level: a burst, as of a start, ends by itself.
func (g *governor) lasting() bool {
	n := len(g.past) - 3
	return n >= 0 && g.past[n].time >= g.changed
}

// remember notes the cost as of now, and forgets what is not of the span any more.
func (g *governor) remember(now uint64, c cost) {
	g.past = append(g.past, spending{now, c})
	begin := now + uint64(governorInterval)
	for len(g.past) > 2 && g.past[1].time+uint64(budgetSpan) <= begin {
		g.past = g.past[1:]
	}
}

// look takes the cost as of now and reports whether the level changed, and
// whether there is too much memory.
func (g *governor) look(now uint64, c cost) (changed, memory bool) {
	g.remember(now, c)
	memory = g.memory > 0 && c.memory > g.memory
	steps := g.steps()
	switch {
	case steps > 0:
		changed = g.raise(now, steps, levelRest)
	case memory && g.level < levelRest:
		changed = g.raise(now, 1, levelRest-1)
	case g.mayLower(now, c.memory):
		g.lower(now)
		changed = true
	}
	return changed, memory
}

// mayLower reports whether the level below is to be tried. To rest is for CPU time alone: what rests has no less memory, and
// would never get less.
func (g *governor) mayLower(now, memory uint64) bool {
	return g.level > 0 && now-g.changed >= uint64(shortestHold) && now >= g.lacking[g.below()].until &&
		g.spent() <= g.worth(budgetSpan)/2 && (g.level == levelRest || g.memory == 0 || memory < g.memory/8*7)
}

// steps is by how many levels less is to be done for the CPU time to last.
func (g *governor) steps() int {
	pace, _ := g.pace()
	left := g.left()
	switch {
	case g.rate < 0 || pace <= 0 && left > 0:
		return 0
	case left < pace/2:
		return levelRest
	case left < pace:
		return 4
	case left < 2*pace:
		return 2
	case left < 4*pace && (g.level > 0 || g.lasting()):
		return 1
	}
	return 0
}

// raise goes up so many levels, but not above most, and reports whether it did.
func (g *governor) raise(now uint64, steps, most int) bool {
	if g.level >= most {
		return false
	}
	if g.level < levelRecords {
		cpu, records := g.pace()
		g.follows = records*float64(recordCost) <= float64(cpu)/4
	}
	if g.follows && g.level < levelRecords && g.level+steps >= levelRecords {
		steps++
	}
	l := &g.lacking[g.level]
	l.hold = min(max(2*l.hold, 2*shortestHold), longestHold)
	l.until = now + uint64(l.hold)
	g.level = min(g.level+steps, most)
	g.changed = now
	return true
}

// below is the next level on the way down.
func (g *governor) below() int {
	if g.follows && g.level == levelRecords+1 {
		return levelRecords - 1
	}
	return g.level - 1
}

// lower goes down a level.
func (g *governor) lower(now uint64) {
	g.lacking[g.level] = lack{} // it was enough
	g.level = g.below()
	g.changed = now
}

// credit is the CPU time that may be spent until the next look on work that can wait: half of the minute's is kept for
// what cannot.
func (g *governor) credit() time.Duration {
	if g.rate < 0 {
		return unlimited
	}
	pace, _ := g.pace()
	return g.left() - g.worth(budgetSpan)/2 - pace
}

// reserve is what may be spent besides on what samples wait for. A program whose unwind table is missing has no stacks, and
// without its symbols they say nothing: to finish those of others, or to take more samples, is worth less. Two looks' pace
// is kept, so that a large program does not have the agent rest.
func (g *governor) reserve() time.Duration {
	if g.rate < 0 {
		return 0
	}
	pace, _ := g.pace()
	return max(0, g.worth(budgetSpan)/2-pace)
}

// sheds is what is shed at the present level.
func (g *governor) sheds() shedding {
	s := levels[g.level]
	s.records = s.records && (!g.follows || s.rest)
	return s
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
	a.account.governed(a.governor, "")
	a.allow()
	return nil
}

// allow grants what the governor has to spare for work that can wait.
func (a *Agent) allow() {
	credit := a.governor.credit()
	if a.opts.IndexWait > 0 && a.governor.level == 0 {
		credit = unlimited
	}
	a.allowance.grant(credit, a.governor.reserve())
	a.tables.jobs.retry()
	if a.symbols.indexes != nil {
		signal(a.symbols.indexes.changed)
	}
}

// govern looks whether the agent takes more than it may, and has it do less, or
// again more.
func (a *Agent) govern(now uint64) error {
	own, err := ownCPU()
	if err != nil || !a.governor.due(now, own) {
		return err
	}
	c, err := a.account.cost()
	if err != nil {
		return err
	}
	c.records = a.followed
	before := a.governor.level
	changed, memory := a.governor.look(now, c)
	a.allow()
	short := ""
	switch {
	case a.governor.level <= before:
	case memory:
		short = shortMemory
	default:
		short = shortCPU
	}
	a.account.governed(a.governor, short)
	if !changed {
		return nil
	}
	if memory {
		a.tables.evict(maxUnwindBytes / 8)
		debug.FreeOSMemory()
	}
	level := a.governor.level
	sheds, hz := a.governor.sheds(), a.governor.frequency(a.full)
	attrs := []any{
		"level", level, "frequency", hz, "sheds", sheds.words(), "memory", c.memory,
		"cpu_last_minute", a.governor.spent().Round(time.Millisecond), "cpu_a_minute", a.governor.worth(budgetSpan),
	}
	switch {
	case level == 0:
		a.log.Info("all work is done again", attrs...)
	case level < before:
		a.log.Info("less work is shed", attrs...)
	default:
		a.log.Warn("work is shed to keep to the limits of CPU and memory", attrs...)
	}
	return a.shed(sheds, hz)
}

// words says what is shed, as metrics and reports name it.
func (s shedding) words() []string {
	words := []string{}
	for _, w := range []struct {
		word string
		is   bool
	}{{shedFinishing, s.finish != 1}, {shedRecords, s.records}, {shedSamples, s.divisor > 1}, {shedAll, s.rest}} {
		if w.is {
			words = append(words, w.word)
		}
	}
	return words
}

// What may be shed.
const (
	shedFinishing = "finishing" // of stacks that the kernel could not walk to their end
	shedRecords   = "records"   // of what becomes of processes
	shedSamples   = "samples"   // some of them
	shedAll       = "all"       // all of them
)

// shed has the agent do as much as a level says.
func (a *Agent) shed(s shedding, hz int) error {
	if s.records == a.follows {
		if err := a.sampler.SetRecords(!s.records); err != nil {
			return err
		}
		// What was missed, and what is from now on, /proc has, as far as it is still there.
		a.follows, a.lost = !s.records, !s.records
		a.table.Lost()
		a.symbols.kernel.changed.Store(true)
	}
	if s.rest != a.rests {
		a.rests = s.rest
		if err := a.sampler.SetSampling(a.account.sampling() && !a.rests); err != nil {
			return err
		}
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
