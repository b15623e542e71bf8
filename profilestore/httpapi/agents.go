package httpapi

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"pilotlight/profilestore"
)

// AgentReport is what an agent says of itself once a window.
type AgentReport struct {
	Version      string   `json:"version"`
	Hostname     string   `json:"hostname"`
	StartMS      int64    `json:"start_ms"`           // Unix ms when the agent started
	WindowMS     int64    `json:"window_ms"`          // Unix ms when the window started
	CPUs         int      `json:"cpus"`               // online
	FrequencyHz  int      `json:"frequency_hz"`       // samples per second of each busy CPU
	RSSBytes     int64    `json:"rss_bytes"`          // of the agent
	BPFBytes     int64    `json:"bpf_memory_bytes"`   // of its maps and programs
	Level        int      `json:"governor_level"`     // how much work it sheds to keep to its limits; 0: none
	Sheds        []string `json:"governor_sheds"`     // which work that is: "finishing" of stacks, "records" of processes, "samples", "all"
	CPULimit     float64  `json:"cpu_limit_seconds"`  // CPU time that it may take in any minute; 0: no limit
	MemoryLimit  int64    `json:"memory_limit_bytes"` // 0: no limit
	TableBytes   int64    `json:"unwind_table_bytes"`
	Off          bool     `json:"off"`            // it takes no samples: its off file is there
	SpoolBytes   int64    `json:"spool_bytes"`    // of profiles that wait for the server
	Window       Account  `json:"window"`         // this window
	Total        Account  `json:"total"`          // since the agent started
	SentMS       int64    `json:"sent_ms"`        // Unix ms of the agent's clock when it was sent; 0: by an agent of this process
	LastReportMS int64    `json:"last_report_ms"` // Unix ms when the server got it; what the agent sends is replaced, as is
	ClockSkewMS  int64    `json:"clock_skew_ms"`  // by how much the agent's clock is ahead of the server's, less the way here
}

// Account says what became of the samples of a span of time, and what they cost.
type Account struct {
	SamplesTaken  int64            `json:"samples_taken"`
	SamplesMissed int64            `json:"samples_missed"` // busy time x frequency less taken
	Outcomes      map[string]int64 `json:"outcomes"`       // samples by outcome: "complete", "no_table"...; they sum to taken
	Frames        int64            `json:"frames"`
	FramesUnnamed int64            `json:"frames_unnamed"`    // of Frames, those without a function name
	Unfinished    int64            `json:"unfinished"`        // samples that came with registers and a piece of stack, for want of an unwind table in the kernel
	Finished      int64            `json:"finished"`          // of them, those whose stack the agent walked
	CPUSeconds    float64          `json:"agent_cpu_seconds"` // user and system time of the agent
	BPFSeconds    float64          `json:"bpf_run_seconds"`   // time in its BPF programs; 0 when the kernel does not count it
}

const (
	maxAgents      = 4096
	agentExpiry    = time.Hour
	maxReportBytes = 64 << 10
	maxUnixMS      = 1 << 50 // that does not overflow
)

// Agents keeps the last report of each agent, told apart by host and start. A report is forgotten after one hour,
// and the oldest goes when there are more than 4,096. The zero value is empty and ready; all methods may be
// called from many goroutines.
type Agents struct {
	mu   sync.Mutex
	last map[agentKey]AgentReport
}

type agentKey struct {
	hostname string
	startMS  int64
}

// Put takes a report, and refuses one that does not say whose it is.
func (a *Agents) Put(r AgentReport) error {
	if err := r.check(); err != nil {
		return err
	}
	now := time.Now()
	r.LastReportMS, r.ClockSkewMS = now.UnixMilli(), 0
	if r.SentMS != 0 {
		r.ClockSkewMS = r.SentMS - r.LastReportMS
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last == nil {
		a.last = make(map[agentKey]AgentReport)
	}
	a.last[agentKey{r.Hostname, r.StartMS}] = r
	a.expire(now)
	if len(a.last) > maxAgents {
		var oldest *AgentReport
		for _, r := range a.last {
			if oldest == nil || r.LastReportMS < oldest.LastReportMS {
				oldest = &r
			}
		}
		delete(a.last, agentKey{oldest.Hostname, oldest.StartMS})
	}
	return nil
}

// List returns the reports by host name, the agent that started last first.
func (a *Agents) List() []AgentReport {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.expire(time.Now())
	list := make([]AgentReport, 0, len(a.last))
	for _, r := range a.last {
		list = append(list, r)
	}
	slices.SortFunc(list, func(x, y AgentReport) int {
		return cmp.Or(strings.Compare(x.Hostname, y.Hostname), cmp.Compare(y.StartMS, x.StartMS))
	})
	return list
}

func (a *Agents) expire(now time.Time) {
	before := now.Add(-agentExpiry).UnixMilli()
	for k, r := range a.last {
		if r.LastReportMS <= before {
			delete(a.last, k)
		}
	}
}

// check bounds what anybody may make this process keep.
func (r *AgentReport) check() error {
	for _, f := range []struct{ name, value string }{{"hostname", r.Hostname}, {"version", r.Version}} {
		if f.value == "" || len(f.value) > 255 || !utf8.ValidString(f.value) {
			return badRequest("", "agent report: %s %.40q: send 1 to 255 bytes of UTF-8", f.name, f.value)
		}
	}
	if r.StartMS <= 0 {
		return badRequest("", "agent report: start_ms %d: send when the agent started, in Unix milliseconds", r.StartMS)
	}
	if r.SentMS < 0 || r.SentMS > maxUnixMS {
		return badRequest("", "agent report: sent_ms %d: send the time in Unix milliseconds", r.SentMS)
	}
	if len(r.Sheds) > 16 {
		return badRequest("", "agent report: %d kinds of shed work: send at most 16", len(r.Sheds))
	}
	for _, work := range r.Sheds {
		if len(work) > 64 {
			return badRequest("", "agent report: shed work %.40q has %d bytes: send at most 64", work, len(work))
		}
	}
	for _, a := range []*Account{&r.Window, &r.Total} {
		if len(a.Outcomes) > 64 {
			return badRequest("", "agent report: %d outcomes: send at most 64", len(a.Outcomes))
		}
		for name := range a.Outcomes {
			if len(name) > 64 {
				return badRequest("", "agent report: outcome %.40q has %d bytes: send at most 64", name, len(name))
			}
		}
	}
	return nil
}

func (a *api) listAgents(r *http.Request) (any, error) {
	if _, err := readParams(r); err != nil {
		return nil, err
	}
	return struct {
		Agents []AgentReport `json:"agents"`
	}{a.agents.List()}, nil
}

func (a *api) putAgent(w http.ResponseWriter, r *http.Request) error {
	if _, err := readParams(r); err != nil {
		return err
	}
	var report AgentReport
	if err := json.NewDecoder(limitBody(r, maxReportBytes)).Decode(&report); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return &profilestore.Error{Code: profilestore.PayloadTooLarge, Message: fmt.Sprintf("agent report is above %d bytes: send one report", maxReportBytes), Err: err}
		}
		return badRequest("", "agent report is not JSON: %v", err)
	}
	if err := a.agents.Put(report); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
