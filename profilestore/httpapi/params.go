package httpapi

import (
	"errors"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"pilotlight/profilestore"
	"pilotlight/profilestore/flamegraph"
)

const defaultRange = time.Hour

// selection are the parameters that say which profiles, and which of their values.
var selection = []string{"query", "from", "to", "type"}

// params are the parameters of one request.
type params struct {
	url.Values
	now time.Time
}

// readParams refuses parameters that the route does not know: an ignored filter would be a wrong answer.
func readParams(r *http.Request, known ...string) (params, error) {
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return params{}, badRequest("", "read parameters: %v: escape ; as %%3B and %% as %%25", err)
	}
	for _, name := range slices.Sorted(maps.Keys(v)) {
		if !slices.Contains(known, name) {
			if len(known) == 0 {
				return params{}, badRequest(name, "unknown parameter %.40q: this route takes none", name)
			}
			return params{}, badRequest(name, "unknown parameter %.40q: this route takes %s", name, strings.Join(known, ", "))
		}
		if len(v[name]) > 1 && name != "by" && name != "filter" {
			return params{}, badRequest(name, "%s is given %d times: give it once", name, len(v[name]))
		}
	}
	return params{v, time.Now()}, nil
}

// readQuery reads the parameters of a route that takes the selection and others.
func readQuery(r *http.Request, others ...string) (params, profilestore.Query, error) {
	p, err := readParams(r, append(selection[:len(selection):len(selection)], others...)...)
	if err != nil {
		return p, profilestore.Query{}, err
	}
	q, err := p.query()
	return p, q, err
}

// other reads the selection that a diff compares with: what is not given is as in q, and a range of which one end is
// given is as long as that of q. ok is false when there is none.
func (p params) other(q profilestore.Query) (b profilestore.Query, ok bool, err error) {
	hasFrom, hasTo := p.Has("b.from"), p.Has("b.to")
	if !hasFrom && !hasTo && !p.Has("b.query") {
		return b, false, nil
	}
	b = q
	if p.Has("b.query") {
		if b.Matchers, err = profilestore.ParseSelector(p.Get("b.query")); err != nil {
			var e *profilestore.Error
			if errors.As(err, &e) {
				e.Param = "b.query"
			}
			return b, false, err
		}
	}
	if err := errors.Join(p.time("b.from", &b.From), p.time("b.to", &b.To)); err != nil {
		return b, false, err
	}
	length := q.To - q.From
	switch {
	case hasFrom && !hasTo:
		b.To = b.From + min(length, math.MaxInt64-b.From)
	case hasTo && !hasFrom:
		b.From = max(b.To-length, 0)
	}
	if b.From > b.To {
		return b, false, badRequest("b.from", "b.from is after b.to: swap them")
	}
	return b, true, nil
}

// maxFilters bounds the passes over all stacks that one request may ask for.
const maxFilters = 32

// filters reads the filters in their order.
func (p params) filters() ([]flamegraph.Filter, error) {
	if n := len(p.Values["filter"]); n > maxFilters {
		return nil, badRequest("filter", "filter is given %d times: give it at most %d times, joining expressions by |", n, maxFilters)
	}
	fs := make([]flamegraph.Filter, len(p.Values["filter"]))
	for i, s := range p.Values["filter"] {
		var err error
		if fs[i], err = flamegraph.ParseFilter(s); err != nil {
			return nil, badRequest("filter", "filter %v", err)
		}
	}
	return fs, nil
}

// bool reads true or false; false if it is missing.
func (p params) bool(name string) (bool, error) {
	switch v := p.Get(name); {
	case v == "true":
		return true, nil
	case v == "false" || !p.Has(name):
		return false, nil
	default:
		return false, badRequest(name, "%s %.40q: write true or false", name, v)
	}
}

// query reads the selection.
func (p params) query() (profilestore.Query, error) {
	var q profilestore.Query
	var err error
	if q.Matchers, err = profilestore.ParseSelector(p.Get("query")); err != nil {
		return q, err
	}
	if q.Type, err = profilestore.ParseProfileType(p.Get("type")); err != nil {
		return q, err
	}
	if q.Type == (profilestore.ProfileType{}) {
		q.Type = profilestore.DefaultType
	}
	q.To = p.now.UnixNano()
	if err := p.time("to", &q.To); err != nil {
		return q, err
	}
	q.From = max(q.To-int64(defaultRange), 0)
	if err := p.time("from", &q.From); err != nil {
		return q, err
	}
	if q.From > q.To {
		return q, badRequest("from", "from is after to: swap them")
	}
	return q, nil
}

// time overwrites t if the parameter is there.
func (p params) time(name string, t *int64) error {
	if !p.Has(name) {
		return nil
	}
	v, err := parseTime(p.Get(name), p.now)
	if err != nil {
		return badRequest(name, "%s: %v", name, err)
	}
	*t = v
	return nil
}

// duration reads a duration of at least min; def if it is missing.
func (p params) duration(name string, min, def time.Duration) (time.Duration, error) {
	if !p.Has(name) {
		return def, nil
	}
	d, err := model.ParseDuration(p.Get(name))
	if err != nil || time.Duration(d) < min {
		return 0, badRequest(name, "%s %.40q: write a duration of at least %v, as 30s, 5m or 1h", name, p.Get(name), min)
	}
	return time.Duration(d), nil
}

// int reads a whole number from min to max; def if it is missing.
func (p params) int(name string, min, max, def int) (int, error) {
	if !p.Has(name) {
		return def, nil
	}
	n, err := strconv.Atoi(p.Get(name))
	if err != nil || n < min || n > max {
		return 0, badRequest(name, "%s %.40q: write a whole number from %d to %d", name, p.Get(name), min, max)
	}
	return n, nil
}

// by reads the names of labels to group by.
func (p params) by() []string {
	var names []string
	for _, v := range p.Values["by"] {
		for name := range strings.SplitSeq(v, ",") {
			if name = strings.TrimSpace(name); name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}
