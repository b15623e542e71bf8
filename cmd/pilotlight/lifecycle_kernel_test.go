package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/pprof/profile"
	"golang.org/x/sys/unix"

	"pilotlight/profilestore"
	"pilotlight/profilestore/httpapi"
)

// span is a time, half-open.
type span struct{ from, to time.Time }

// stored counts the profiles that a selector finds in a span, by ID.
func (s *server) stored(t *testing.T, selector string, in span) map[string]int {
	t.Helper()
	ids := make(map[string]int)
	var answer httpapi.ProfilesAnswer
	getJSON(t, s.endpoint("profiles", "query", selector, "from", unixSeconds(in.from), "to", unixSeconds(in.to), "limit", "1000"), &answer)
	if answer.More {
		t.Fatalf("more than 1000 profiles are in %s: this test would not see them all", selector)
	}
	for _, p := range answer.Profiles {
		ids[p.ID]++
	}
	return ids
}

// sampled counts the profiles that the agent made in a span, by ID: those that
// have a pid, and a tenth of them at once, as this machine may start many processes.
func (s *server) sampled(t *testing.T, in span) map[string]int {
	t.Helper()
	ids := make(map[string]int)
	for digit := range 10 {
		maps.Copy(ids, s.stored(t, fmt.Sprintf(`{pid=~".*%d"}`, digit), in))
	}
	return ids
}

func unixSeconds(t time.Time) string {
	return strconv.FormatFloat(float64(t.UnixNano())/1e9, 'f', 3, 64)
}

// pusher pushes small profiles, one after the other, until the server is gone.
type pusher struct {
	service string
	acked   []string             // IDs that the server has acknowledged
	unsure  profilestore.Encoded // the one that was under way when it went
}

func (p *pusher) run(ctx context.Context, client *httpapi.Client) error {
	for {
		e, err := smallProfile(p.service)
		if err != nil {
			return err
		}
		if err := client.Append(ctx, []profilestore.Encoded{e}); err != nil {
			p.unsure = e
			return nil
		}
		p.acked = append(p.acked, e.ID.String())
		time.Sleep(25 * time.Millisecond) // keeps them below what one answer lists
	}
}

func smallProfile(service string) (profilestore.Encoded, error) {
	e := profilestore.Encoded{Name: "process_cpu", Labels: profilestore.NewLabels(map[string]string{"service_name": service})}
	for i := range e.ID {
		e.ID[i] = byte(rand.Uint32())
	}
	f := &profile.Function{ID: 1, Name: "work"}
	l := &profile.Location{ID: 1, Line: []profile.Line{{Function: f}}}
	p := &profile.Profile{
		SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}},
		PeriodType: &profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, Period: 1e7,
		TimeNanos: time.Now().UnixNano(), DurationNanos: 1e7,
		Sample:   []*profile.Sample{{Location: []*profile.Location{l}, Value: []int64{1, 1e7}}},
		Location: []*profile.Location{l}, Function: []*profile.Function{f},
	}
	var b strings.Builder
	err := p.Write(&b)
	e.Pprof = []byte(b.String())
	return e, err
}

// TestKernelKill9 kills the agent half at a random moment and wants every
// profile that was acknowledged, its own and pushed ones, back once.
func TestKernelKill9(t *testing.T) {
	needRoot(t)
	kill9(t, 2, time.Second)
}

// kill9 does it so many times over, each up to moment after a window's
// profiles could be seen.
func kill9(t *testing.T, rounds int, moment time.Duration) {
	data := filepath.Join(makeDir(t), "data")
	type seen struct {
		span
		service string
		own     map[string]int // the agent's, by ID
		pushed  []string
	}
	var past []seen
	from := time.Now() // before the agent's first window
	s := start(t, data, "127.0.0.1:0", 99)
	for round := range rounds {
		service := fmt.Sprintf("kill9-%d", round)
		client, err := httpapi.NewClient(s.url, httpapi.ClientOptions{HTTP: &http.Client{Transport: &http.Transport{}}})
		if err != nil {
			t.Fatal(err)
		}
		p := pusher{service: service}
		var pushing sync.WaitGroup
		var pushErr error
		pushing.Go(func() { pushErr = p.run(t.Context(), client) })

		if err := eventually(15*time.Second, "the window is stored", func() bool { return len(s.sampled(t, span{from, time.Now()})) > 0 }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(rand.N(moment))
		in := span{from, time.Now()}
		own := s.sampled(t, in)
		s.signal(unix.SIGKILL)
		took := s.waitEnd(t, 5*time.Second)
		pushing.Wait()
		if pushErr != nil {
			t.Fatal(pushErr)
		}
		past = append(past, seen{in, service, own, p.acked})
		t.Logf("round %d: %d profiles of its own and %d pushed; the store half ended %v after the agent half was killed",
			round+1, len(own), len(p.acked), took.Round(time.Millisecond))

		from = time.Now()
		s = start(t, data, strings.TrimPrefix(s.url, "http://"), 99)
		// Whether the last one arrived nobody knows; so it is sent again.
		if client, err = httpapi.NewClient(s.url, httpapi.ClientOptions{}); err == nil {
			err = client.Append(t.Context(), []profilestore.Encoded{p.unsure})
		}
		if err != nil {
			t.Fatal(err)
		}
		past[round].pushed = append(p.acked, p.unsure.ID.String())
		for _, seen := range past {
			pushed := s.stored(t, `{service_name="`+seen.service+`"}`, span{seen.from, time.Now()})
			for _, id := range seen.pushed {
				if pushed[id] != 1 {
					t.Errorf("pushed profile %s of %s is there %d times, want once", id, seen.service, pushed[id])
				}
			}
			if len(pushed) != len(seen.pushed) {
				t.Errorf("%d profiles of %s are there, %d were pushed", len(pushed), seen.service, len(seen.pushed))
			}
			now := s.sampled(t, seen.span)
			for id := range maps.Keys(seen.own) {
				if now[id] != 1 {
					t.Errorf("profile %s, visible before the kill, is there %d times, want once", id, now[id])
				}
			}
		}
	}
}

// TestKernelKill9StoreHalf wants the agent half to end when the store half is
// gone, and to say so.
func TestKernelKill9StoreHalf(t *testing.T) {
	needRoot(t)
	s := start(t, filepath.Join(makeDir(t), "data"), "127.0.0.1:0", 19)
	if err := unix.Kill(s.other, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	t.Logf("ended after %v", s.waitEnd(t, 5*time.Second).Round(time.Millisecond))
	if s.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("run ended with %v, want exit status 1", s.cmd.ProcessState)
	}
	lines := strings.Split(strings.TrimSpace(s.log.String()), "\n")
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "pilotlight: store half ended: signal: killed: start pilotlight again") {
		t.Errorf("the last line is %q", last)
	}
}

// TestKernelStop wants both halves gone in time and the window that had begun kept.
func TestKernelStop(t *testing.T) {
	needRoot(t)
	for _, test := range []struct {
		name string
		send func(*server) error
	}{
		{"SIGTERM to the agent half", func(s *server) error { return unix.Kill(s.cmd.Process.Pid, unix.SIGTERM) }},
		{"SIGINT to all, as a terminal does", func(s *server) error { return unix.Kill(-s.cmd.Process.Pid, unix.SIGINT) }},
		{"SIGTERM to all, as systemd does", func(s *server) error { return unix.Kill(-s.cmd.Process.Pid, unix.SIGTERM) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			data := filepath.Join(makeDir(t), "data")
			s := start(t, data, "127.0.0.1:0", 99)
			const burnt = 300 * time.Millisecond
			for from := ownCPU(t); ownCPU(t)-from < burnt; {
			}
			if err := test.send(s); err != nil {
				t.Fatal(err)
			}
			t.Logf("ended after %v", s.waitEnd(t, 5*time.Second).Round(time.Millisecond))
			if s.err != nil {
				t.Errorf("run ended with %v, want exit status 0\n%s", s.err, s.log)
			}

			s = start(t, data, "127.0.0.1:0", 19)
			var value int64
			var answer httpapi.ProfilesAnswer
			getJSON(t, s.endpoint("profiles", "query", fmt.Sprintf(`{pid="%d"}`, os.Getpid()), "from", "now-5m", "to", "now"), &answer)
			for _, p := range answer.Profiles {
				value += p.Value
			}
			if cpu := time.Duration(value); cpu < burnt/2 {
				t.Errorf("%v of this test's CPU time are in the store, want about %v", cpu, burnt)
			}
		})
	}
}

func ownCPU(t *testing.T) time.Duration {
	t.Helper()
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// agentHalfCaps is the mask of CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, CAP_CHECKPOINT_RESTORE and
// CAP_SYSLOG, as /proc/PID/status has it.
const agentHalfCaps, noCaps = "000001c400080004", "0000000000000000"

// checkPrivileges wants all threads of a process to be those of a user, and to have these capabilities and no others, nor
// more in the bounding set.
func checkPrivileges(t *testing.T, pid int, uid, gid, caps, bound string) {
	t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		status, err := procStatus(tid)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{
			"Uid":        strings.Join([]string{uid, uid, uid, uid}, "\t"),
			"Gid":        strings.Join([]string{gid, gid, gid, gid}, "\t"),
			"Groups":     "",
			"CapInh":     noCaps,
			"CapPrm":     caps,
			"CapEff":     caps,
			"CapBnd":     bound,
			"CapAmb":     noCaps,
			"NoNewPrivs": "1",
		} {
			if status[name] != want {
				t.Errorf("thread %d of process %d: %s is %q, want %q", tid, pid, name, status[name], want)
			}
		}
	}
}

// TestKernelPrivileges looks at what the two halves may do.
func TestKernelPrivileges(t *testing.T) {
	s := needShared(t)
	owner, err := otherUser()
	if err != nil {
		t.Fatal(err)
	}
	uid, gid := fmt.Sprint(owner.Uid), fmt.Sprint(owner.Gid)
	checkPrivileges(t, s.cmd.Process.Pid, uid, gid, agentHalfCaps, agentHalfCaps)
	checkPrivileges(t, s.other, uid, gid, noCaps, noCaps)
	for _, half := range []struct {
		name string
		pid  int
		want int
	}{{"agent half", s.cmd.Process.Pid, 0}, {"store half", s.other, 1}} {
		listening, err := listeners(half.pid)
		if err != nil {
			t.Fatal(err)
		}
		if len(listening) != half.want {
			t.Errorf("%s listens on %q, want %d sockets", half.name, listening, half.want)
		}
	}
	if status, err := procStatus(s.other); err != nil || status["Name"] != "pilotlight" {
		t.Errorf("ps calls the store half %q, want pilotlight (%v)", status["Name"], err)
	}
}

// listeners returns the local addresses of the TCP sockets on which a process
// listens, as /proc/net/tcp has them.
func listeners(pid int) ([]string, error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	entries, err := os.ReadDir(dir + "fd")
	if err != nil {
		return nil, err
	}
	var sockets []string
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, "fd", e.Name()))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			sockets = append(sockets, strings.TrimSuffix(inode, "]"))
		}
	}
	var found []string
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		text, err := os.ReadFile(dir + table)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			// sl local_address rem_address st ... inode: proc_net_tcp.rst of the kernel's documentation.
			const listen = "0A"
			if f := strings.Fields(line); len(f) > 9 && f[3] == listen && slices.Contains(sockets, f[9]) {
				found = append(found, f[1])
			}
		}
	}
	return found, nil
}
