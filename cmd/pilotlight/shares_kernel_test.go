package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"pilotlight/cmd/pilotlight/agent"
	"pilotlight/profilestore/httpapi"
	"pilotlight/testdata/loads"
)

// observed is a run, and a record beside it, that saw the shares load from its
// first to its last moment.
type observed struct {
	*server
	shares   map[string]*loads.Shares // by program
	recorded *profile.Profile
}

// observe starts a run with 99 Hz and, for d, the shares load and a record.
func observe(dir string, d time.Duration) (*observed, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := loads.Build(ctx, "shares"); err != nil {
		return nil, err
	}
	s, err := startServer(filepath.Join(dir, "data"), "127.0.0.1:0", 99)
	if err != nil {
		return nil, err
	}
	o := &observed{server: s, shares: make(map[string]*loads.Shares)}
	if err := o.observe(ctx, dir, d); err != nil {
		return nil, errors.Join(err, fmt.Errorf("run: %s", s.log), s.stop())
	}
	return o, nil
}

func (o *observed) observe(ctx context.Context, dir string, d time.Duration) error {
	file := filepath.Join(dir, "shares.pb.gz")
	// A second more at both ends: it takes some milliseconds to attach.
	record, err := pilotlight(ctx, "record", "-a", "-F", "99", "-d", (d + 2*time.Second).String(), "-o", file)
	if err != nil {
		return err
	}
	var recordLog bytes.Buffer
	record.Stderr = &recordLog
	if err := record.Start(); err != nil {
		return err
	}
	time.Sleep(time.Second)
	load, err := loads.Start(ctx, "shares", d)
	if err != nil {
		return errors.Join(err, record.Cancel(), record.Wait())
	}
	report, err := load.Wait()
	if err := errors.Join(err, record.Wait()); err != nil {
		return fmt.Errorf("%w\n%s", err, &recordLog)
	}
	for _, part := range report.Parts {
		shares := new(loads.Shares)
		if err := json.Unmarshal(part.Output, shares); err != nil {
			return err
		}
		o.shares[part.Name] = shares
	}
	if o.recorded, err = readProfile(file); err != nil {
		return err
	}
	return o.waitWindow(time.Now())
}

// waitWindow waits until all that was sampled before t is stored.
func (s *server) waitWindow(t time.Time) error {
	return eventually(15*time.Second, "the window is stored", func() bool {
		r, err := s.lastReport()
		return err == nil && !windowEnd(r).Before(t)
	})
}

// windowEnd is when the window ended that a report is about.
func windowEnd(r *httpapi.AgentReport) time.Time {
	return time.UnixMilli(r.WindowMS).Truncate(agent.Window).Add(agent.Window)
}

// lastReport is what the agent half reported last.
func (s *server) lastReport() (*httpapi.AgentReport, error) {
	body, err := get(s.endpoint("agents"))
	if err != nil {
		return nil, err
	}
	var answer struct{ Agents []httpapi.AgentReport }
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, err
	}
	if len(answer.Agents) != 1 {
		return nil, fmt.Errorf("%d agents have reported, want one", len(answer.Agents))
	}
	return &answer.Agents[0], nil
}

func readProfile(file string) (*profile.Profile, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return profile.ParseData(data)
}

// shared is observed once for all tests that only look at it.
var shared = sync.OnceValues(func() (*observed, error) {
	dir, err := scratch()
	if err != nil {
		return nil, err
	}
	if dir, err = os.MkdirTemp(dir, "shared-"); err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		return nil, err
	}
	o, err := observe(dir, 15*time.Second)
	if err == nil {
		stopShared = o.stop
	}
	return o, err
})

// stopShared ends what shared started.
var stopShared = func() error { return nil }

func needShared(t *testing.T) *observed {
	t.Helper()
	needRoot(t)
	o, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// TestKernelShares holds profiles of the shares load to what its programs
// measured of themselves: within 3 points, and 3 standard deviations of a share
// among as many samples as were taken. TestVerifyShares, which samples for
// longer, does without those.
func TestKernelShares(t *testing.T) {
	o := needShared(t)
	o.check(t, 3)
}

// check compares all ways to a profile with the known shares.
func (o *observed) check(t *testing.T, sigmas float64) {
	for _, program := range []string{"shares-c", "shares-go"} {
		shares := o.shares[program]
		url := o.url + "/api/v1/pprof?query={service_name=\"" + program + "\"}&from=now-30m&to=now"
		t.Run(program+"/run", func(t *testing.T) {
			body, err := get(o.endpoint("pprof", "query", `{service_name="`+program+`"}`, "from", "now-30m", "to", "now"))
			if err != nil {
				t.Fatal(err)
			}
			p, err := profile.ParseData(body)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, p, shares, sigmas)
		})
		t.Run(program+"/record", func(t *testing.T) { compare(t, o.recorded, shares, sigmas) })
		t.Run(program+"/go tool pprof", func(t *testing.T) { comparePprof(t, url, shares, sigmas) })
	}
}

// calls are the shares that a profile must show: of each function under its
// caller, so that one with two callers counts for each.
func calls(s *loads.Shares) [][2]string {
	var pairs [][2]string
	for _, stack := range s.Stacks {
		for i := 1; i < len(stack.Functions); i++ {
			if pair := [2]string(stack.Functions[i-1 : i+1]); !slices.Contains(pairs, pair) {
				pairs = append(pairs, pair)
			}
		}
	}
	return pairs
}

// tolerance is how far a share among n samples may be off, in percent.
func tolerance(share float64, n int64, sigmas float64) float64 {
	const others = 0.01 // runtime and start of a program are not in its shares: the whole deviates too
	return 3 + sigmas*100*math.Sqrt(max(share*(1-share), others*(1-others))/float64(n))
}

func compare(t *testing.T, p *profile.Profile, shares *loads.Shares, sigmas float64) {
	t.Helper()
	pid := strconv.Itoa(shares.PID)
	var taken int64
	under := make(map[[2]string]int64)
	for _, s := range p.Sample {
		if !slices.Equal(s.Label["pid"], []string{pid}) {
			continue
		}
		taken += s.Value[0]
		stack := functions(s)
		for _, pair := range calls(shares) {
			for i := 1; i < len(stack); i++ {
				if stack[i-1] == pair[0] && stack[i] == pair[1] {
					under[pair] += s.Value[0]
					break
				}
			}
		}
	}
	// The load's CPU time at 99 Hz; that much is due however busy the machine is.
	if due := 99 * float64(shares.Total()) / 1e9; math.Abs(float64(taken)-due) > 0.05*due+3*math.Sqrt(due) {
		t.Errorf("%d samples, want about the %.0f that its CPU time makes", taken, due)
	}
	if taken == 0 {
		t.Fatal("no sample")
	}
	for _, pair := range calls(shares) {
		want := float64(shares.Under(pair[0], pair[1])) / float64(shares.Total())
		got := float64(under[pair]) / float64(taken)
		atMost := tolerance(want, taken, sigmas)
		t.Logf("%s > %s: %.1f %%, known %.1f %%, of %d samples", pair[0], pair[1], 100*got, 100*want, taken)
		if off := 100 * math.Abs(got-want); off > atMost {
			t.Errorf("%s > %s has %.1f %% of %d samples, want %.1f ± %.1f", pair[0], pair[1], 100*got, taken, 100*want, atMost)
		}
	}
}

// functions is a stack by name, root first, inlined calls included.
func functions(s *profile.Sample) []string {
	var names []string
	for _, l := range slices.Backward(s.Location) {
		for _, line := range slices.Backward(l.Line) {
			names = append(names, line.Function.Name)
		}
	}
	return names
}

// A line of pprof's top: flat, flat %, sum %, cum, cum %, name.
var topLine = regexp.MustCompile(`(?m)^\s*\S+\s+([\d.]+)%\s+[\d.]+%\s+\S+\s+([\d.]+)%\s+(\S+)`)

func comparePprof(t *testing.T, url string, shares *loads.Shares, sigmas float64) {
	t.Helper()
	cmd := exec.Command("go", "tool", "pprof", "-top", "-nodefraction=0", url)
	cmd.Env = append(os.Environ(), "PPROF_TMPDIR="+t.TempDir()) // keeps what it fetched
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, &stderr)
	}
	cum := make(map[string]float64)
	for _, m := range topLine.FindAllStringSubmatch(string(out), -1) {
		percent, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			t.Fatalf("line %q: %v", m[0], err)
		}
		cum[m[3]] = percent
	}
	n := int64(99 * float64(shares.Total()) / 1e9)
	for _, stack := range shares.Stacks {
		name := stack.Functions[len(stack.Functions)-1]
		want := float64(shares.Under(name)) / float64(shares.Total())
		if off, atMost := math.Abs(cum[name]-100*want), tolerance(want, n, sigmas); off > atMost {
			t.Errorf("pprof gives %s %.1f %%, want %.1f ± %.1f\n%s", name, cum[name], 100*want, atMost, strings.TrimSpace(string(out)))
		}
	}
}
