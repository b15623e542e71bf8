package agent

import (
	"bytes"
	"log/slog"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pilotlight/bpf"
)

// govern has a governor with limits of 2 % and 100 bytes look every 5 s at an
// agent that takes a share of all CPUs and a number of bytes, and returns the
// levels.
func govern(g *governor, looks int, share float64, memory uint64) (seen []int) {
	for range looks {
		now := g.looked + uint64(governorInterval)
		spent := time.Duration(share * float64(runtime.NumCPU()) * float64(governorInterval))
		g.look(now, cost{cpu: g.last.cpu + spent, memory: memory})
		seen = append(seen, g.level)
	}
	return seen
}

func TestGovernorShedsAndRecovers(t *testing.T) {
	g := newGovernor(Options{CPULimit: 0.02, MemoryLimit: 100}, 0, cost{})
	for _, step := range []struct {
		what   string
		looks  int
		share  float64
		memory uint64
		want   []int // the levels, without repeats
	}{
		{"below the limit", 20, 0.01, 50, []int{0}},
		{"a burst that was saved up for", 5, 0.04, 50, []int{0}},
		{"quiet", 20, 0.005, 50, []int{0}},
		{"far above the limit: a step at a time, to the last", 60, 0.10, 50, []int{0, 1, 2, 3, 4, 5, 6}},
		{"at the limit: nothing is gained", 20, 0.02, 50, []int{6}},
		{"quiet again: a step at a time, to the first", 60, 0.001, 50, []int{6, 5, 4, 3, 2, 1, 0}},
		{"too much memory", 2, 0.001, 101, []int{1, 2}},
		{"hardly less memory", 5, 0.001, 95, []int{2}},
		{"less memory", 5, 0.001, 50, []int{1, 0}},
	} {
		if got := slices.Compact(govern(g, step.looks, step.share, step.memory)); !slices.Equal(got, step.want) {
			t.Errorf("%s: levels %v, want %v", step.what, got, step.want)
		}
	}
}

func TestGovernorWithoutLimits(t *testing.T) {
	g := newGovernor(Options{CPULimit: -1, MemoryLimit: -1}, 0, cost{})
	if got := slices.Compact(govern(g, 50, 1, 1<<40)); !slices.Equal(got, []int{0}) {
		t.Errorf("levels %v, want none above 0", got)
	}
}

// TestLevels goes from one level to the next: each does less, and the frequency
// is the last to go.
func TestLevels(t *testing.T) {
	var finished, frequencies []int
	for level := range levels {
		g := &governor{level: level}
		n := 0
		for range 100 {
			if g.finishes() {
				n++
			}
		}
		finished, frequencies = append(finished, n), append(frequencies, g.frequency(19))
	}
	if want := []int{100, 25, 0, 0, 0, 0, 0}; !slices.Equal(finished, want) {
		t.Errorf("of 100 samples are finished %v, want %v", finished, want)
	}
	if want := []int{19, 19, 19, 9, 4, 2, 1}; !slices.Equal(frequencies, want) {
		t.Errorf("frequencies %v, want %v", frequencies, want)
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
	a, err := New(sampler, &to, Options{Hostname: "host", Logger: quiet, MemoryLimit: 1, OnReport: func(r Report) { levels = append(levels, r.Level) }})
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
	if want := []int{0, 1, 3, 5, 6, 6, 6}; !slices.Equal(levels, want) {
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
		m.now += uint64(governorInterval)
		if err := m.agent.govern(m.now); err != nil {
			t.Fatal(err)
		}
		if m.agent.governor.level == step.from || !strings.Contains(log.String(), step.want) {
			t.Errorf("from level %d to %d it says %q, want %s", step.from, m.agent.governor.level, log.String(), step.want)
		}
	}
}
