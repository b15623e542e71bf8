package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"pilotlight/cmd/pilotlight/agent"
	"pilotlight/cmd/pilotlight/process"
	"pilotlight/testdata/loads"
)

// moment is a look at both sides of the account.
type moment struct {
	taken float64       // samples, of /metrics
	busy  float64       // CPU seconds since boot, of /proc/stat
	at    time.Time     // when busy was read
	late  time.Duration // after the agent half read taken, at most
}

var takenMetric = regexp.MustCompile(`(?m)^pilotlight_samples_taken_total (\S+)$`)

// nextMoment waits until the agent half tells anew how many samples it has
// taken, which it does once a window, and looks at /proc/stat at once.
func (s *server) nextMoment(last float64) (moment, error) {
	m := moment{}
	before := time.Now()
	err := eventually(15*time.Second, "another count of samples", func() bool {
		asked := time.Now()
		text, err := get(s.url + "/metrics")
		if err != nil {
			return false
		}
		if found := takenMetric.FindSubmatch(text); found != nil {
			m.taken, err = strconv.ParseFloat(string(found[1]), 64)
		}
		if err == nil && m.taken != last {
			return true
		}
		before = asked
		return false
	})
	if err != nil {
		return m, err
	}
	busy, err := process.ReadBusy(os.DirFS("/proc"))
	m.busy, m.at = busy.Total, time.Now()
	m.late = m.at.Sub(before)
	return m, err
}

// TestKernelAccounting burns all CPUs and asks where the samples went. What is
// due is busy time x frequency, whatever it was that was busy.
func TestKernelAccounting(t *testing.T) {
	needRoot(t)
	s := start(t, filepath.Join(makeDir(t), "data"), "127.0.0.1:0", 99)
	account(t, s, agent.Window)
}

// account burns for a little more than measured, a multiple of the window.
func account(t *testing.T, s *server, measured time.Duration) {
	if err := loads.Build(t.Context(), "burners"); err != nil {
		t.Fatal(err)
	}
	// From shortly before one window begins to shortly before another ends.
	const lead, rest = time.Second, 500 * time.Millisecond
	time.Sleep(time.Until(time.Now().Add(lead).Truncate(agent.Window).Add(agent.Window - lead)))
	begun := time.Now()
	load, err := loads.Start(t.Context(), "burners", lead+measured-rest)
	if err != nil {
		t.Fatal(err)
	}
	var first, second moment
	for first.at.Before(begun.Add(lead)) && err == nil {
		first, err = s.nextMoment(first.taken)
	}
	for second = first; second.at.Sub(first.at) < measured-lead && err == nil; {
		second, err = s.nextMoment(second.taken)
	}
	if err != nil {
		t.Fatal(err)
	}
	report, err := load.Wait()
	if err != nil {
		t.Fatal(err)
	}
	var burners loads.Burners
	if err := json.Unmarshal(report.Parts[0].Output, &burners); err != nil {
		t.Fatal(err)
	}
	// Some milliseconds go into starting and ending it.
	if err := s.waitWindow(begun.Add(time.Duration(burners.Seconds*float64(time.Second)) + 100*time.Millisecond)); err != nil {
		t.Fatal(err)
	}

	busy := second.busy - first.busy
	due := busy * 99
	taken := second.taken - first.taken
	// Of the time between the two looks it is not known whether its samples are in; and jiffies are 10 ms.
	unsure := 99 * float64(runtime.NumCPU()) * ((first.late + second.late).Seconds() + 0.02)
	t.Logf("taken %.0f samples of %.0f due for %.2f CPU seconds, %.1f %% (± %.1f)", taken, due, busy, 100*taken/due, 100*unsure/due)
	if taken < 0.99*due-unsure || taken > 1.01*due+unsure {
		t.Errorf("taken %.0f samples of %.0f due, want 99 to 101 %% ± %.0f", taken, due, unsure)
	}
	checkOutcomes(t, s)
	checkBurners(t, s, &burners)
}

// checkOutcomes wants every sample counted by an outcome, but for those that were
// on their way when the window ended, and few as missed.
func checkOutcomes(t *testing.T, s *server) {
	t.Helper()
	r, err := s.lastReport()
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, n := range r.Total.Outcomes {
		sum += n
	}
	since := time.UnixMilli(r.LastReportMS).Sub(windowEnd(r))
	onTheirWay := int64(99*float64(runtime.NumCPU())*since.Seconds()) + int64(runtime.NumCPU())
	t.Logf("outcomes sum to %d of %d taken, %v after the window; missed %d; %v", sum, r.Total.SamplesTaken, since, r.Total.SamplesMissed, r.Total.Outcomes)
	if missing := r.Total.SamplesTaken - sum; missing < 0 || missing > onTheirWay {
		t.Errorf("outcomes sum to %d, %d less than taken, want 0 to %d less", sum, missing, onTheirWay)
	}
	if missed := r.Total.SamplesMissed; missed > r.Total.SamplesTaken/100+2*int64(runtime.NumCPU()) {
		t.Errorf("%d samples missed beside %d taken", missed, r.Total.SamplesTaken)
	}
}

// checkBurners compares CPU seconds in the profiles with those that the kernel
// charged.
func checkBurners(t *testing.T, s *server, burners *loads.Burners) {
	t.Helper()
	for _, b := range burners.Burners {
		body, err := get(s.endpoint("pprof", "query", fmt.Sprintf(`{pid="%d"}`, b.PID), "from", "now-10m", "to", "now"))
		if err != nil {
			t.Fatal(err)
		}
		p, err := profile.ParseData(body)
		if err != nil {
			t.Fatal(err)
		}
		var got int64
		for _, sample := range p.Sample {
			got += sample.Value[1]
		}
		cpu := float64(b.NS) / 1e9
		// A process that has its CPU for itself is hit by every tick. One that
		// shares it is hit by chance: 3 standard deviations of that.
		share := min(1, cpu/burners.Seconds)
		ticks := 3*math.Sqrt(99*burners.Seconds*share*(1-share)) + 2
		atMost := 0.02*cpu + ticks/99
		t.Logf("burner on CPU %d: %.3f s in the profiles, %.3f s charged, %+.2f %%", b.CPU, float64(got)/1e9, cpu, 100*(float64(got)/1e9/cpu-1))
		if math.Abs(float64(got)/1e9-cpu) > atMost {
			t.Errorf("burner %d has %.3f s in the profiles, want %.3f ± %.3f", b.PID, float64(got)/1e9, cpu, atMost)
		}
	}
}

// TestKernelRecordAccounts wants a record to say of every sample where it went.
func TestKernelRecordAccounts(t *testing.T) {
	needRoot(t)
	file := filepath.Join(makeDir(t), "profile.pb.gz")
	cmd, err := pilotlight(t.Context(), "record", "-p", strconv.Itoa(os.Getpid()), "-d", "2s", "-o", file)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	burnt := make(chan struct{})
	go func() {
		defer close(burnt)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	out, err := cmd.CombinedOutput()
	close(stop)
	<-burnt
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
	var length string
	var kept, truncated, skipped, taken, missed int64
	_, after, _ := strings.Cut(string(out), file+": ")
	if _, err := fmt.Sscanf(after, "%d samples in %s %d truncated, %d of other processes; whole machine: %d taken, %d missed",
		&kept, &length, &truncated, &skipped, &taken, &missed); err != nil {
		t.Fatalf("summary %q: %v", after, err)
	}
	if kept+skipped != taken {
		t.Errorf("%d samples kept and %d of other processes, want all %d that were taken", kept, skipped, taken)
	}
	// /proc/stat counts in ticks of 10 ms, a little less often than samples are taken.
	if missed > taken/50+2*int64(runtime.NumCPU()) {
		t.Errorf("%d samples missed beside %d taken", missed, taken)
	}
	p, err := readProfile(file)
	if err != nil {
		t.Fatal(err)
	}
	var inFile int64
	for _, s := range p.Sample {
		inFile += s.Value[0]
	}
	if inFile != kept || kept == 0 {
		t.Errorf("the file has %d samples, the summary %d", inFile, kept)
	}
}
