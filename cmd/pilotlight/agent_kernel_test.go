package main

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pilotlight/cmd/pilotlight/agent"
)

// freeAddress is one that nobody listens at now, for a server that is to come and go.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func storeArgs(data, listen string, more ...string) []string {
	return append([]string{"server", "--data", data, "--listen", listen}, more...)
}

// agentArgs has the agent log the profiles that it has handed over.
func agentArgs(data, server string, more ...string) []string {
	return append([]string{
		"agent", "--server", server, "--data", data, "--listen", "127.0.0.1:0", "--log-level", "debug", "--frequency", "99", "--off-file", filepath.Join(filepath.Dir(data), "off"),
	}, more...)
}

// startStore starts a `server`.
func startStore(t *testing.T, data, listen string, more ...string) *server {
	t.Helper()
	cmd, err := pilotlight(context.Background(), storeArgs(data, listen, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	s, err := launch(cmd, servingURL, "")
	if err != nil {
		t.Fatal(err)
	}
	s.data = data
	s.killAtEnd(t)
	return s
}

// startAgent starts an `agent`.
func startAgent(t *testing.T, data, server string, more ...string) *server {
	t.Helper()
	cmd, err := pilotlight(context.Background(), agentArgs(data, server, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	a, err := launch(cmd, metricsURL, "send-half")
	if err != nil {
		t.Fatal(err)
	}
	a.data = data
	a.killAtEnd(t)
	return a
}

var acknowledged = regexp.MustCompile(`msg="profiles acknowledged" start=(\S+) ids="?\[([^\]]*)\]`)

// handedOver returns the profiles that the agent half has handed over, and the time that they are of.
func (s *server) handedOver(t *testing.T) (ids map[string]bool, in span) {
	t.Helper()
	ids = make(map[string]bool)
	for _, m := range acknowledged.FindAllStringSubmatch(s.log.String(), -1) {
		start, err := time.Parse(time.RFC3339Nano, m[1])
		if err != nil {
			t.Fatal(err)
		}
		if in.from.IsZero() {
			in.from = start
		}
		in.to = start.Add(agent.Window)
		for _, id := range strings.Fields(m[2]) {
			ids[id] = true
		}
	}
	return ids, in
}

var sampleOf = `(?m)^%s(?:\{%s\})? (\S+)$`

// metric is the value of a metric now; -1 if there is none.
func (s *server) metric(t *testing.T, name, labels string) float64 {
	t.Helper()
	text, err := get(s.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(fmt.Sprintf(sampleOf, name, labels)).FindSubmatch(text)
	if m == nil {
		return -1
	}
	v, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// wantOnce wants on the server, once each, all profiles that agents handed over.
func wantOnce(t *testing.T, s *server, agents ...*server) {
	t.Helper()
	want := make(map[string]bool)
	var in span
	for _, a := range agents {
		ids, of := a.handedOver(t)
		maps.Copy(want, ids)
		if in.from.IsZero() || of.from.Before(in.from) {
			in.from = of.from
		}
		if of.to.After(in.to) {
			in.to = of.to
		}
	}
	got := make(map[string]int)
	for at := in.from.Truncate(agent.Window); at.Before(in.to); at = at.Add(agent.Window) {
		for id, n := range s.sampled(t, span{at, at.Add(agent.Window)}) {
			got[id] += n
		}
	}
	lost, doubled := 0, 0
	for id := range want {
		switch n := got[id]; {
		case n == 0:
			lost++
		case n > 1:
			doubled++
		}
	}
	t.Logf("%d profiles of %v handed over: %d lost, %d doubled", len(want), in.to.Sub(in.from), lost, doubled)
	if len(want) == 0 || lost > 0 || doubled > 0 {
		t.Errorf("of %d profiles that agents handed over, %d are lost and %d doubled", len(want), lost, doubled)
	}
}

// waitDrained waits until an agent's spool is empty.
func (s *server) waitDrained(t *testing.T, atMost time.Duration) time.Duration {
	t.Helper()
	begun := time.Now()
	for s.metric(t, "pilotlight_spool_batches", "") != 0 {
		if time.Since(begun) > atMost {
			t.Fatalf("the spool is not empty after %v: %v batches\n%s", atMost, s.metric(t, "pilotlight_spool_batches", ""), s.log)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return time.Since(begun)
}

// TestKernelAgent has an agent send to a server: profiles, what it says of itself, and its own metrics.
func TestKernelAgent(t *testing.T) {
	needRoot(t)
	t.Parallel() // it waits most of the time
	dir := makeDir(t)
	token := filepath.Join(dir, "token")
	owner, err := otherUser()
	if err != nil {
		t.Fatal(err)
	}
	writeToken := func(token, text string) {
		t.Helper()
		if err := os.WriteFile(token, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(token, int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	writeToken(token, strings.Repeat("a", 32))
	s := startStore(t, filepath.Join(dir, "store"), "127.0.0.1:0", "--write-token-file", token)
	a := startAgent(t, filepath.Join(dir, "agent"), s.url, "--token-file", token)
	checkPrivileges(t, s.cmd.Process.Pid, fmt.Sprint(owner.Uid), fmt.Sprint(owner.Gid), noCaps, noCaps)
	checkPrivileges(t, a.cmd.Process.Pid, fmt.Sprint(owner.Uid), fmt.Sprint(owner.Gid), agentHalfCaps, agentHalfCaps)
	checkPrivileges(t, a.other, fmt.Sprint(owner.Uid), fmt.Sprint(owner.Gid), noCaps, noCaps)

	if err := eventually(15*time.Second, "a report", func() bool { _, err := s.lastReport(); return err == nil }); err != nil {
		t.Fatalf("%v\n%s", err, a.log)
	}
	report, err := s.lastReport()
	if err != nil {
		t.Fatal(err)
	}
	if skew := time.Duration(report.ClockSkewMS) * time.Millisecond; report.SentMS == 0 || skew.Abs() > time.Second || report.Off {
		t.Errorf("report %+v, of the same machine", report)
	}
	wantOnce(t, s, a)
	if n := a.metric(t, "pilotlight_send_profiles_total", `result="sent"`); n < 1 {
		t.Errorf("%v profiles sent", n)
	}
	if left, err := os.ReadDir(filepath.Join(a.data, "spool")); err != nil || len(left) > 0 {
		t.Errorf("spooled while the server is there: %v, %v", left, err)
	}
	for path, want := range map[string]int{"/": 404, "/api/v1/agents": 404, "/debug/pprof/": 404, "/-/healthy": 200} {
		answer, err := http.Get(a.url + path)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%s of the agent: %d, want %d", path, answer.StatusCode, want)
		}
	}

	// Both read another token when they next look.
	writeToken(token, strings.Repeat("b", 32))
	sent := a.metric(t, "pilotlight_send_profiles_total", `result="sent"`)
	if err := eventually(15*time.Second, "profiles with the new token", func() bool {
		return a.metric(t, "pilotlight_send_profiles_total", `result="sent"`) > sent
	}); err != nil {
		t.Fatalf("%v\n%s", err, a.log)
	}
	if err := a.stop(); err != nil {
		t.Errorf("the agent ended with %v\n%s", err, a.log)
	}
	wantOnce(t, s, a)
	if err := s.stop(); err != nil {
		t.Errorf("the server ended with %v\n%s", err, s.log)
	}
}

// TestKernelOutage has the server away for a minute, and the agent killed meanwhile.
func TestKernelOutage(t *testing.T) {
	needRoot(t)
	t.Parallel() // it waits most of the time
	outage(t, time.Minute)
}

// outage has the server away for so long; halfway the agent is killed and started anew.
func outage(t *testing.T, away time.Duration, flags ...string) {
	dir := makeDir(t)
	address := freeAddress(t)
	s := startStore(t, filepath.Join(dir, "store"), address)
	first := startAgent(t, filepath.Join(dir, "agent"), s.url, flags...)
	if err := first.waitHandedOver(t, 15*time.Second); err != nil {
		t.Fatal(err)
	}
	s.signal(unix.SIGKILL)
	<-s.ended
	time.Sleep(away / 2)
	if n := first.metric(t, "pilotlight_spool_batches", ""); n < 1 {
		t.Errorf("%v batches in the spool while the server is away", n)
	}
	first.signal(unix.SIGKILL)
	first.waitEnd(t, 5*time.Second)
	second := startAgent(t, filepath.Join(dir, "agent"), "http://"+address, flags...)
	time.Sleep(away / 2)
	t.Logf("spooled: %v batches, %v bytes", second.metric(t, "pilotlight_spool_batches", ""), second.metric(t, "pilotlight_spool_bytes", ""))

	s = startStore(t, filepath.Join(dir, "store"), address)
	t.Logf("drained %v after the server was back", second.waitDrained(t, time.Minute))
	if err := second.stop(); err != nil {
		t.Errorf("the agent ended with %v\n%s", err, second.log)
	}
	wantOnce(t, s, first, second)
}

// waitHandedOver waits until the agent has handed over a window.
func (s *server) waitHandedOver(t *testing.T, atMost time.Duration) error {
	return eventually(atMost, "profiles are handed over", func() bool { ids, _ := s.handedOver(t); return len(ids) > 0 })
}

// TestKernelOffFile switches sampling off and on, and works through a window each time.
func TestKernelOffFile(t *testing.T) {
	needRoot(t)
	t.Parallel() // it waits most of the time
	dir := makeDir(t)
	s := startStore(t, filepath.Join(dir, "store"), "127.0.0.1:0")
	a := startAgent(t, filepath.Join(dir, "agent"), s.url)
	off := filepath.Join(dir, "off")
	for _, tt := range []struct {
		name     string
		flip     func() error
		sampling bool
	}{
		{"off", func() error { return os.WriteFile(off, nil, 0o644) }, false},
		{"on", func() error { return os.Remove(off) }, true},
	} {
		from := time.Now().Add(time.Second).Truncate(agent.Window).Add(agent.Window)
		time.Sleep(time.Until(from) - time.Second)
		if err := tt.flip(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(from))
		for begun := ownCPU(t); ownCPU(t)-begun < 300*time.Millisecond; {
		}
		if err := s.waitWindow(from.Add(agent.Window)); err != nil {
			t.Fatal(err)
		}
		r, err := s.lastReport()
		if err != nil {
			t.Fatal(err)
		}
		stored := s.stored(t, fmt.Sprintf(`{pid="%d"}`, os.Getpid()), span{from, from.Add(agent.Window)})
		if on := r.Window.SamplesTaken > 0; on != tt.sampling || r.Off == tt.sampling || len(stored) > 0 != tt.sampling {
			t.Errorf("%s: %d samples taken in the window, off %v, %d profiles of this process", tt.name, r.Window.SamplesTaken, r.Off, len(stored))
		}
		if missed := r.Window.SamplesMissed; !tt.sampling && missed > 0 {
			t.Errorf("off: %d samples count as missed", missed)
		}
		want := 0.0
		if tt.sampling {
			want = 1
		}
		if v := a.metric(t, "pilotlight_sampling", ""); v != want {
			t.Errorf("%s: pilotlight_sampling is %v", tt.name, v)
		}
	}
}
