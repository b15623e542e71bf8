package httpapi

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Agents
		put := func(host string, start, window int64) {
			t.Helper()
			if err := a.Put(AgentReport{Version: "1", Hostname: host, StartMS: start, WindowMS: window}); err != nil {
				t.Fatal(err)
			}
		}
		want := func(want string) {
			t.Helper()
			var got []string
			for _, r := range a.List() {
				got = append(got, fmt.Sprintf("%s/%d/%d", r.Hostname, r.StartMS, r.WindowMS))
			}
			if strings.Join(got, " ") != want {
				t.Fatalf("List = %v, want %s", got, want)
			}
		}
		want("")
		put("b", 1, 10)
		put("a", 1, 10)
		put("b", 2, 10)
		want("a/1/10 b/2/10 b/1/10")
		time.Sleep(time.Minute)
		put("b", 2, 20)
		want("a/1/10 b/2/20 b/1/10")
		time.Sleep(agentExpiry - time.Minute)
		want("b/2/20")

		// One more than there is room for: the one that has been silent longest goes.
		for i := range maxAgents {
			time.Sleep(time.Millisecond)
			put(fmt.Sprintf("host%04d", i), 1, 1)
		}
		list := a.List()
		if len(list) != maxAgents || list[0].Hostname != "host0000" {
			t.Fatalf("%d agents, the first %q", len(list), list[0].Hostname)
		}
	})
}

// TestClockSkew compares the clocks of both ends.
func TestClockSkew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, ahead := range []time.Duration{0, 3 * time.Second, -time.Hour} {
			var a Agents
			if err := a.Put(AgentReport{Version: "1", Hostname: "h", StartMS: 1, SentMS: time.Now().Add(ahead).UnixMilli(), ClockSkewMS: 7}); err != nil {
				t.Fatal(err)
			}
			if got := a.List()[0].ClockSkewMS; got != ahead.Milliseconds() {
				t.Errorf("skew %d ms, want %v", got, ahead)
			}
		}
		var a Agents
		if err := a.Put(AgentReport{Version: "1", Hostname: "h", StartMS: 1}); err != nil || a.List()[0].ClockSkewMS != 0 {
			t.Errorf("an agent of this process: %v, skew %d", err, a.List()[0].ClockSkewMS)
		}
	})
}

func TestAgentReportCheck(t *testing.T) {
	many := make(map[string]int64)
	for i := range 65 {
		many[fmt.Sprint(i)] = 1
	}
	for _, tt := range []struct {
		name string
		edit func(*AgentReport)
		err  string
	}{
		{"whole", func(*AgentReport) {}, ""},
		{"no host", func(r *AgentReport) { r.Hostname = "" }, "hostname"},
		{"long host", func(r *AgentReport) { r.Hostname = strings.Repeat("x", 256) }, "hostname"},
		{"not UTF-8", func(r *AgentReport) { r.Version = "\xff" }, "version"},
		{"sent at no time", func(r *AgentReport) { r.SentMS = -1 << 63 }, "sent_ms"},
		{"no start", func(r *AgentReport) { r.StartMS = 0 }, "start_ms"},
		{"outcomes", func(r *AgentReport) { r.Total.Outcomes = many }, "65 outcomes"},
		{"long outcome", func(r *AgentReport) { r.Window.Outcomes = map[string]int64{strings.Repeat("x", 65): 1} }, "65 bytes"},
	} {
		r := AgentReport{Version: "1", Hostname: "h", StartMS: 1}
		tt.edit(&r)
		err := new(Agents).Put(r)
		if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.err)
		}
	}
}
