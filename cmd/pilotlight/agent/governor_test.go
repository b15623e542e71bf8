package agent

import (
	"bytes"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pilotlight/bpf"
)

// load is what runs beside an agent: what it takes of the limit of CPU time to do all that there is to do.
type load struct {
	samples  float64 // at the full frequency
	finishes float64
	records  float64
	memory   uint64
}

// storm is one of processes that end before anybody can look.
var storm = load{samples: 0.3, finishes: 0.7, records: 3, memory: 50}

// takes is what an agent takes of its limit that sheds so much.
func (l load) takes(s shedding) float64 {
	if s.rest {
		return 0.05
	}
	sum := 0.05 + l.samples/float64(s.divisor)
	if s.finish > 0 {
		sum += l.finishes / float64(s.finish)
	}
	if !s.records {
		sum += l.records
	}
	return sum
}

// minutes has a governor with limits of 2 % and 100 bytes look for d at an agent beside a load that may be spared of
// nothing else, and returns the levels and the most that a minute took, in parts of what it may.
func minutes(t *testing.T, g *governor, d time.Duration, l load) (seen []int, most float64) {
	t.Helper()
	type moment struct {
		time uint64
		cpu  time.Duration
	}
	last := g.last()
	spent := []moment{{last.time, last.cpu}}
	const second = uint64(time.Second)
	for range d / time.Second {
		last.time += second
		last.cpu += time.Duration(l.takes(g.sheds()) * float64(g.worth(time.Second)))
		if !g.sheds().records {
			last.records += uint64(l.records * float64(g.worth(time.Second)) / float64(recordCost))
		}
		last.memory = l.memory
		spent = append(spent, moment{last.time, last.cpu})
		for _, m := range spent {
			if last.time-m.time <= uint64(time.Minute) {
				most = max(most, float64(last.cpu-m.cpu)/float64(g.worth(time.Minute)))
				break
			}
		}
		last.own = last.cpu
		if g.due(last.time, last.own) {
			g.look(last.time, last.cost)
			seen = append(seen, g.level)
		}
	}
	return seen, most
}

func TestGovernorShedsAndRecovers(t *testing.T) {
	g := newGovernor(Options{CPULimit: 0.02, MemoryLimit: 100}, 0, cost{})
	for _, step := range []struct {
		what string
		d    time.Duration
		load load
		want []int // the levels, without repeats
	}{
		{"below the limit", 2 * time.Minute, load{samples: 0.5, finishes: 0.1, memory: 50}, []int{0}},
		{"next to nothing", 2 * time.Minute, load{memory: 50}, []int{0}},
		{"a burst", 15 * time.Second, load{samples: 1.5, memory: 50}, []int{0}},
		{"next to nothing", 2 * time.Minute, load{memory: 50}, []int{0}},
		{"too much memory", 10 * time.Second, load{memory: 101}, []int{1, 2}},
		{"hardly less memory", 25 * time.Second, load{memory: 95}, []int{2}},
		{"less memory", time.Minute, load{memory: 50}, []int{1, 0}},
	} {
		got, most := minutes(t, g, step.d, step.load)
		if got = slices.Compact(got); !slices.Equal(got, step.want) {
			t.Errorf("%s: levels %v, want %v", step.what, got, step.want)
		}
		if most > 1 {
			t.Errorf("%s: a minute took %.2f of what it may", step.what, most)
		}
	}
}

// TestGovernorKeepsTheLimit has loads of all kinds begin and end: no minute takes more than it may, less is shed when less
// would be too much, and after them nothing is.
func TestGovernorKeepsTheLimit(t *testing.T) {
	for _, tt := range []struct {
		what    string
		load    load
		highest int // level
		records bool
	}{
		{"storm", storm, 5, true},
		{"storm beyond everything", load{samples: 8, finishes: 5, records: 8, memory: 50}, levelRest, true},
		{"deep stacks at a high frequency", load{samples: 4, finishes: 0.2, memory: 50}, levelRest, false},
		{"stacks to be finished", load{samples: 0.2, finishes: 1.5, memory: 50}, 2, false},
	} {
		g := newGovernor(Options{CPULimit: 0.02, MemoryLimit: 100}, 0, cost{})
		minutes(t, g, time.Minute, load{memory: 50})
		levels, most := minutes(t, g, 10*time.Minute, tt.load)
		if highest := slices.Max(levels); highest == 0 || highest > tt.highest {
			t.Errorf("%s: up to level %d, want one up to %d", tt.what, highest, tt.highest)
		}
		if g.follows == tt.records {
			t.Errorf("%s: records are shed: %v", tt.what, !g.follows)
		}
		if most > 1 {
			t.Errorf("%s: a minute took %.2f of what it may", tt.what, most)
		}
		t.Logf("%s: levels %v, %.2f of the limit", tt.what, slices.Compact(levels), most)
		levels, most = minutes(t, g, 4*time.Minute, load{memory: 50})
		if levels[len(levels)-1] != 0 || most > 1 {
			t.Errorf("%s: four minutes later at level %d, having taken %.2f of the limit", tt.what, levels[len(levels)-1], most)
		}
	}
}

// TestGovernorRestsForCPUOnly has an agent that had to rest go on with too much memory: it samples as little as that allows.
func TestGovernorRestsForCPUOnly(t *testing.T) {
	for _, memory := range []uint64{95, 101} {
		g := newGovernor(Options{CPULimit: 0.02, MemoryLimit: 100}, 0, cost{})
		if levels, _ := minutes(t, g, 5*time.Minute, load{samples: 40, memory: memory}); slices.Max(levels) != levelRest {
			t.Fatalf("with %d bytes: levels %v, want one of %d", memory, slices.Compact(levels), levelRest)
		}
		minutes(t, g, 4*time.Minute, load{memory: memory})
		if g.level != levelRest-1 {
			t.Errorf("with %d bytes of 100: level %d four minutes after a storm, want %d", memory, g.level, levelRest-1)
		}
	}
}

func TestGovernorWithoutLimits(t *testing.T) {
	g := newGovernor(Options{CPULimit: -1, MemoryLimit: -1}, 0, cost{})
	for range 50 {
		last := g.last()
		if g.look(last.time+uint64(governorInterval), cost{cpu: last.cpu + time.Minute, memory: 1 << 40}); g.level != 0 || g.credit() != unlimited {
			t.Fatalf("level %d, credit %v", g.level, g.credit())
		}
	}
}

// TestLevels goes from one level to the next: each does less, and the frequency
// is the last to go.
func TestLevels(t *testing.T) {
	var finished, frequencies []int
	var words []string
	for level := range levels {
		g := &governor{level: level}
		n := 0
		for range 100 {
			if g.finishes() {
				n++
			}
		}
		finished, frequencies = append(finished, n), append(frequencies, g.frequency(19))
		words = append(words, strings.Join(g.sheds().words(), "+"))
	}
	if want := []int{100, 25, 0, 0, 0, 0, 0, 0, 0}; !slices.Equal(finished, want) {
		t.Errorf("of 100 samples are finished %v, want %v", finished, want)
	}
	if want := []int{19, 19, 19, 19, 9, 4, 2, 1, 1}; !slices.Equal(frequencies, want) {
		t.Errorf("frequencies %v, want %v", frequencies, want)
	}
	const most = "finishing+records+samples"
	if want := []string{"", "finishing", "finishing", "finishing+records", most, most, most, most, most + "+all"}; !slices.Equal(words, want) {
		t.Errorf("sheds %q, want %q", words, want)
	}
	if !levels[levelRecords].records || levels[levelRecords-1].records || !levels[levelRest].rest || len(levels) != levelRest+1 {
		t.Errorf("levels %d and %d are not what their names say", levelRecords, levelRest)
	}
}

// TestWeightOfSamples has a sampler take samples whose weights add up to the CPU
// time that they stand for, although the frequency changes.
func TestWeightOfSamples(t *testing.T) {
	r := rates{{hz: 100}}
	r.set(50, 50)
	r.set(100, 25)
	for time, want := range map[uint64]int{0: 100, 49: 100, 50: 50, 99: 50, 100: 25, math.MaxUint64: 25} {
		if got := r.at(time); got != want {
			t.Errorf("frequency at %d is %d Hz, want %d", time, got, want)
		}
	}
	for i := range uint64(100) {
		r.set(200+i, 10)
	}
	if len(r) > 8 {
		t.Errorf("%d changes are remembered", len(r))
	}
}

// TestFrequencyFollowsTheGovernor plays minutes in which the agent takes far more
// memory than it may: the frequency falls, and each sample keeps its weight.
func TestFrequencyFollowsTheGovernor(t *testing.T) {
	var to collector
	sampler := &replay{}
	for i := range uint64(12) {
		at := i * uint64(governorInterval)
		sampler.batches = append(sampler.batches, bpf.Batch{Samples: []bpf.Sample{self(t, at+second)}, Upto: at + 2*second})
	}
	batches := slices.Clone(sampler.batches)
	var levels []int
	a, err := New(sampler, &to, Options{Hostname: "host", Logger: quiet, CPULimit: -1, MemoryLimit: 1, OnReport: func(r Report) { levels = append(levels, r.Level) }})
	if err != nil {
		t.Fatal(err)
	}
	a.clock = func() (uint64, time.Time) {
		now := uint64(0)
		if played := len(batches) - len(sampler.batches); played > 0 {
			now = batches[played-1].Upto
		}
		return now, wallStart.Add(time.Duration(now))
	}
	if err := a.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	var cpu []int64
	for _, e := range to.batch {
		for _, s := range parse(t, e).Sample {
			cpu = append(cpu, s.Value[1]/int64(time.Millisecond))
		}
	}
	// 10 ms each at 100 Hz, to 167 ms at 6 Hz.
	if want := []int64{20, 20, 60, 249, 333, 333}; !slices.Equal(cpu, want) {
		t.Errorf("windows have %v ms, want %v", cpu, want)
	}
	if want := []int{0, 1, 4, 6, 7, 7, 7}; !slices.Equal(levels, want) {
		t.Errorf("windows were reported at levels %v, want %v", levels, want)
	}
}

// TestGovernorTellsWhatIsWrong warns of work that is shed, not of work that is done again.
func TestGovernorTellsWhatIsWrong(t *testing.T) {
	m := newMachine(t)
	var log bytes.Buffer
	m.agent.log = slog.New(slog.NewTextHandler(&log, nil))
	m.agent.full = 19
	for _, step := range []struct {
		from int
		o    Options
		want string
	}{
		{0, Options{CPULimit: -1, MemoryLimit: 1}, "level=WARN"},
		{2, Options{CPULimit: -1, MemoryLimit: -1}, "level=INFO"},
		{1, Options{CPULimit: -1, MemoryLimit: -1}, "level=INFO"},
	} {
		log.Reset()
		m.agent.governor = newGovernor(step.o, m.now, cost{})
		m.agent.governor.level = step.from
		m.now += uint64(shortestHold)
		if err := m.agent.govern(m.now); err != nil {
			t.Fatal(err)
		}
		if m.agent.governor.level == step.from || !strings.Contains(log.String(), step.want) {
			t.Errorf("from level %d to %d it says %q, want %s", step.from, m.agent.governor.level, log.String(), step.want)
		}
	}
}
