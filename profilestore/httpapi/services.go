package httpapi

import (
	"net/http"
	"time"

	"pilotlight/profilestore"
)

// servicePoints is how many points a sparkline has at most.
const servicePoints = 60

// ServicesAnswer is the answer of /api/v1/services. Services come largest value first; those that only ran in the
// window before are last, with value 0.
type ServicesAnswer struct {
	Unit     string         `json:"unit"`
	FromMS   int64          `json:"from_ms"` // Unix ms, with to_ms the range asked for
	ToMS     int64          `json:"to_ms"`
	StartMS  int64          `json:"start_ms"` // Unix ms, start of the first point
	StepMS   int64          `json:"step_ms"`
	Services []ServiceEntry `json:"services"`
}

// ServiceEntry is one value of service_name; "" are the profiles without one.
type ServiceEntry struct {
	Name       string   `json:"name"`
	Value      int64    `json:"value"`        // used from from_ms to to_ms
	Previous   int64    `json:"previous"`     // used in the window before, which is as long and ends at from_ms
	Change     *float64 `json:"change"`       // value/previous - 1; null when previous is 0
	Profiles   int      `json:"profiles"`     // from from_ms to to_ms
	LastSeenMS int64    `json:"last_seen_ms"` // Unix ms, start of the last profile in either window
	Points     []int64  `json:"points"`       // value per step, 0 where there was none; all services have the same number
}

func (a *api) services(r *http.Request) (any, error) {
	_, q, err := readQuery(r)
	if err != nil {
		return nil, err
	}
	before := q
	before.From, before.To = max(q.From-(q.To-q.From), 0), q.From
	now, err := a.store.Services(r.Context(), q)
	if err != nil {
		return nil, err
	}
	then, err := a.store.Services(r.Context(), before)
	if err != nil {
		return nil, err
	}
	step := chooseStep(q.From, q.To, servicePoints)
	series, err := a.store.Series(r.Context(), q, []string{"service_name"}, step)
	if err != nil {
		return nil, err
	}

	start := q.From / int64(step) * int64(step)
	count := countSteps(q.From, q.To, step)
	ans := ServicesAnswer{
		Unit: q.Type.SampleUnit, FromMS: toMS(q.From), ToMS: toMS(q.To), StartMS: toMS(start), StepMS: step.Milliseconds(),
		Services: make([]ServiceEntry, 0, len(now)),
	}
	index := make(map[string]int, len(now))
	entry := func(s profilestore.Service) *ServiceEntry {
		i, ok := index[s.Name]
		if !ok {
			i = len(ans.Services)
			index[s.Name] = i
			ans.Services = append(ans.Services, ServiceEntry{Name: s.Name, LastSeenMS: toMS(s.Last), Points: make([]int64, count)})
		}
		return &ans.Services[i]
	}
	for _, s := range now {
		e := entry(s)
		e.Value, e.Profiles = s.Value, s.Profiles
	}
	for _, s := range then {
		e := entry(s)
		e.Previous = s.Value
		if s.Value != 0 {
			change := float64(e.Value)/float64(s.Value) - 1
			e.Change = &change
		}
	}
	for _, s := range series {
		// A profile that came between the two questions may bring a service that the first did not know.
		if i, ok := index[s.Labels.Get("service_name")]; ok {
			for _, pt := range s.Points {
				ans.Services[i].Points[(pt.Time-start)/int64(step)] = pt.Value
			}
		}
	}
	return ans, nil
}

func toMS(ns int64) int64 { return ns / int64(time.Millisecond) }
