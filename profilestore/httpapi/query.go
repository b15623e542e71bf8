package httpapi

import (
	"net/http"
	"time"

	"pilotlight/profilestore"
)

const (
	defaultPoints   = 300    // of a series whose step was not given, at most
	maxPoints       = 11_000 // of a series whose step was given: 10 s steps for a day, 1 min steps for a week
	defaultProfiles = 100
	maxProfiles     = 1000
)

func (a *api) types(r *http.Request) (any, error) {
	p, err := readParams(r, "query", "from", "to")
	if err != nil {
		return nil, err
	}
	q, err := p.query()
	if err != nil {
		return nil, err
	}
	types, err := a.store.Types(r.Context(), q)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.String()
	}
	return struct {
		Types []string `json:"types"`
	}{names}, nil
}

func (a *api) labels(r *http.Request) (any, error) {
	_, q, err := readQuery(r)
	if err != nil {
		return nil, err
	}
	names, err := a.store.LabelNames(r.Context(), q)
	return struct {
		Labels []string `json:"labels"`
	}{list(names)}, err
}

func (a *api) labelValues(r *http.Request) (any, error) {
	_, q, err := readQuery(r)
	if err != nil {
		return nil, err
	}
	values, err := a.store.LabelValues(r.Context(), q, r.PathValue("name"))
	return struct {
		Values []string `json:"values"`
	}{list(values)}, err
}

// list is never null in JSON.
func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// labelMap is how labels are written in JSON: an object, {} for none.
func labelMap(ls profilestore.Labels) map[string]string {
	m := make(map[string]string, len(ls))
	for _, l := range ls {
		m[l.Name] = l.Value
	}
	return m
}

// SeriesAnswer is the answer of /api/v1/series. Points are [Unix ms of the step's start, value]; steps without
// a profile are absent. The first and the last step are only as long as the range lets them be.
type SeriesAnswer struct {
	Unit   string         `json:"unit"`
	StepMS int64          `json:"step_ms"`
	Series []SeriesPoints `json:"series"`
}

// SeriesPoints is one line of a chart. Labels are those of by= that its profiles have.
type SeriesPoints struct {
	Labels map[string]string `json:"labels"`
	Points [][2]int64        `json:"points"`
}

func (a *api) series(r *http.Request) (any, error) {
	p, q, err := readQuery(r, "by", "step")
	if err != nil {
		return nil, err
	}
	step, err := p.duration("step", time.Second, chooseStep(q.From, q.To, defaultPoints))
	if err != nil {
		return nil, err
	}
	if n := countSteps(q.From, q.To, step); n > maxPoints {
		return nil, badRequest("step", "step %v makes %d points: choose at least %v", step, n, chooseStep(q.From, q.To, maxPoints))
	}
	series, err := a.store.Series(r.Context(), q, p.by(), step)
	if err != nil {
		return nil, err
	}
	ans := SeriesAnswer{Unit: q.Type.SampleUnit, StepMS: step.Milliseconds(), Series: make([]SeriesPoints, len(series))}
	for i, s := range series {
		points := make([][2]int64, len(s.Points))
		for j, pt := range s.Points {
			points[j] = [2]int64{pt.Time / int64(time.Millisecond), pt.Value}
		}
		ans.Series[i] = SeriesPoints{labelMap(s.Labels), points}
	}
	return ans, nil
}

// ProfilesAnswer is the answer of /api/v1/profiles: single profiles, newest first.
type ProfilesAnswer struct {
	Unit     string         `json:"unit"`
	Profiles []ProfileEntry `json:"profiles"`
	More     bool           `json:"more"` // the range holds older ones that limit= cut off
}

// ProfileEntry is one stored profile.
type ProfileEntry struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"` // kind of profile: process_cpu
	Labels     map[string]string `json:"labels"`
	TimeMS     int64             `json:"time_ms"` // Unix ms
	DurationMS int64             `json:"duration_ms"`
	Bytes      int               `json:"bytes"` // as stored, compressed
	Value      int64             `json:"value"` // of all its samples
}

func (a *api) profiles(r *http.Request) (any, error) {
	p, q, err := readQuery(r, "limit")
	if err != nil {
		return nil, err
	}
	limit, err := p.int("limit", 1, maxProfiles, defaultProfiles)
	if err != nil {
		return nil, err
	}
	infos, err := a.store.Profiles(r.Context(), q, limit+1)
	if err != nil {
		return nil, err
	}
	ans := ProfilesAnswer{Unit: q.Type.SampleUnit, Profiles: []ProfileEntry{}, More: len(infos) > limit}
	for _, i := range infos[:min(len(infos), limit)] {
		ans.Profiles = append(ans.Profiles, ProfileEntry{
			ID: i.ID.String(), Name: i.Name, Labels: labelMap(i.Labels), TimeMS: i.Time / int64(time.Millisecond),
			DurationMS: i.Duration.Milliseconds(), Bytes: i.Bytes, Value: i.Value,
		})
	}
	return ans, nil
}
