package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/protobuf/proto"

	"pilotlight/profilestore"
	"pilotlight/profilestore/flamegraph"
	"pilotlight/profilestore/httpapi/pyroscope"
)

const (
	querierPrefix = "/querier.v1.QuerierService/"

	maxMessage        = 1 << 20 // of a query
	grafanaNodes      = 8192    // of a graph that was asked for without a number, as of Pyroscope
	labelProfileType  = "__profile_type__"
	otherNodes        = "other" // what Grafana calls the nodes that were pruned
	millisecondsLimit = math.MaxInt64 / int64(time.Millisecond)
)

// querier has the procedures of Pyroscope's query API that Grafana's data source calls, by their names.
func (a *api) querier() map[string]http.Handler {
	return map[string]http.Handler{
		"ProfileTypes":           procedure(a, "ProfileTypes", a.lookups, a.grafanaTypes),
		"LabelNames":             procedure(a, "LabelNames", a.lookups, a.grafanaLabelNames),
		"LabelValues":            procedure(a, "LabelValues", a.lookups, a.grafanaLabelValues),
		"Series":                 procedure(a, "Series", a.lookups, a.grafanaSeries),
		"SelectSeries":           procedure(a, "SelectSeries", a.lookups, a.grafanaSelectSeries),
		"SelectMergeStacktraces": procedure(a, "SelectMergeStacktraces", a.merges, a.grafanaStacktraces),
		"SelectMergeProfile":     procedure(a, "SelectMergeProfile", a.merges, a.grafanaProfile),
		"Diff":                   procedure(a, "Diff", a.merges, a.grafanaDiff),
	}
}

func procedure[Req, Res any](a *api, name string, at places, f func(context.Context, *Req) (*Res, error)) http.Handler {
	unary := connect.NewUnaryHandler(querierPrefix+name, func(ctx context.Context, req *connect.Request[Req]) (*connect.Response[Res], error) {
		res, err := f(ctx, req.Msg)
		if err != nil {
			return nil, connectError(ctx, err)
		}
		return connect.NewResponse(res), nil
	}, connect.WithReadMaxBytes(maxMessage))
	return a.taking(maxMessage, maxMessage, messages(connected(a.query(querierPrefix+name, at, unary))))
}

func unimplemented(what string) error {
	return &profilestore.Error{Code: codeUnimplemented, Message: what + " is not implemented here: leave it out"}
}

// grafanaRange reads a range in Unix milliseconds, of which both ends belong to it. Without one it is the last hour.
func grafanaRange(start, end int64) (from, to int64, err error) {
	if start == 0 && end == 0 {
		to := time.Now().UnixNano()
		return to - int64(defaultRange), to, nil
	}
	switch {
	case start < 0 || end < 0 || start >= millisecondsLimit || end >= millisecondsLimit:
		return 0, 0, badRequest("start", "range from %d to %d: send Unix milliseconds", start, end)
	case start > end:
		return 0, 0, badRequest("start", "start is after end: swap them")
	}
	return start * int64(time.Millisecond), (end + 1) * int64(time.Millisecond), nil
}

// grafanaQuery reads a selection. The type may be among the labels too, as __profile_type__.
func grafanaQuery(typ, selector string, start, end int64) (q profilestore.Query, err error) {
	if q.From, q.To, err = grafanaRange(start, end); err != nil {
		return q, err
	}
	if q.Matchers, err = profilestore.ParseSelector(selector); err != nil {
		return q, err
	}
	var types []*labels.Matcher
	q.Matchers, types = splitType(q.Matchers)
	for _, m := range types {
		if typ == "" && m.Type == labels.MatchEqual {
			typ = m.Value
		}
		if !m.Matches(typ) {
			return q, badRequest("label_selector", "label %s does not match the type %.80q that is asked for: leave it out", labelProfileType, typ)
		}
	}
	q.Type, err = profilestore.ParseProfileType(typ)
	if q.Type == (profilestore.ProfileType{}) {
		q.Type = profilestore.DefaultType
	}
	return q, err
}

// splitType takes the matchers of the type from the others.
func splitType(ms []*labels.Matcher) (others, types []*labels.Matcher) {
	for _, m := range ms {
		if m.Name == labelProfileType {
			types = append(types, m)
		} else {
			others = append(others, m)
		}
	}
	return others, types
}

// eachType calls fn with the query of each selector for each type of profiles that it selects.
func (a *api) eachType(ctx context.Context, selectors []string, start, end int64, fn func(q profilestore.Query) error) error {
	if len(selectors) == 0 {
		selectors = []string{""}
	}
	for _, selector := range selectors {
		var q profilestore.Query
		var err error
		if q.From, q.To, err = grafanaRange(start, end); err != nil {
			return err
		}
		if q.Matchers, err = profilestore.ParseSelector(selector); err != nil {
			return err
		}
		var wanted []*labels.Matcher
		q.Matchers, wanted = splitType(q.Matchers)
		types, err := a.store.Types(ctx, q)
		if err != nil {
			return err
		}
		for _, t := range types {
			if slices.ContainsFunc(wanted, func(m *labels.Matcher) bool { return !m.Matches(t.String()) }) {
				continue
			}
			q.Type = t
			if err := fn(q); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *api) grafanaTypes(ctx context.Context, req *pyroscope.ProfileTypesRequest) (*pyroscope.ProfileTypesResponse, error) {
	var q profilestore.Query
	var err error
	if q.From, q.To, err = grafanaRange(req.Start, req.End); err != nil {
		return nil, err
	}
	types, err := a.store.Types(ctx, q)
	if err != nil {
		return nil, err
	}
	res := &pyroscope.ProfileTypesResponse{}
	for _, t := range types {
		res.ProfileTypes = append(res.ProfileTypes, &pyroscope.ProfileType{
			ID: t.String(), Name: t.Name, SampleType: t.SampleType, SampleUnit: t.SampleUnit, PeriodType: t.PeriodType, PeriodUnit: t.PeriodUnit,
		})
	}
	return res, nil
}

// union is the sorted set of what the queries answer.
func (a *api) union(ctx context.Context, selectors []string, start, end int64, ask func(profilestore.Query) ([]string, error)) ([]string, error) {
	var all []string
	err := a.eachType(ctx, selectors, start, end, func(q profilestore.Query) error {
		some, err := ask(q)
		all = append(all, some...)
		slices.Sort(all)
		all = slices.Compact(all)
		return err
	})
	return all, err
}

func (a *api) grafanaLabelNames(ctx context.Context, req *pyroscope.LabelNamesRequest) (*pyroscope.LabelNamesResponse, error) {
	names, err := a.union(ctx, req.Matchers, req.Start, req.End, func(q profilestore.Query) ([]string, error) { return a.store.LabelNames(ctx, q) })
	if len(names) > 0 {
		names = append(names, labelProfileType)
		slices.Sort(names)
	}
	return &pyroscope.LabelNamesResponse{Names: names}, err
}

func (a *api) grafanaLabelValues(ctx context.Context, req *pyroscope.LabelValuesRequest) (*pyroscope.LabelValuesResponse, error) {
	values, err := a.union(ctx, req.Matchers, req.Start, req.End, func(q profilestore.Query) ([]string, error) {
		if req.Name == labelProfileType {
			return []string{q.Type.String()}, nil
		}
		return a.store.LabelValues(ctx, q, req.Name)
	})
	return &pyroscope.LabelValuesResponse{Names: values}, err
}

// sampleLabels travel with each stack: Series without label names leaves them out, as each process would be one.
var sampleLabels = []string{"pid", "comm", "thread", "tid", "cpu"}

func (a *api) grafanaSeries(ctx context.Context, req *pyroscope.SeriesRequest) (*pyroscope.SeriesResponse, error) {
	res := &pyroscope.SeriesResponse{}
	seen := make(map[string]bool)
	err := a.eachType(ctx, req.Matchers, req.Start, req.End, func(q profilestore.Query) error {
		by := slices.Clone(req.LabelNames)
		withType := len(by) == 0 || slices.Contains(by, labelProfileType)
		if len(by) == 0 {
			names, err := a.store.LabelNames(ctx, q)
			if err != nil {
				return err
			}
			by = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(sampleLabels, name) })
		}
		by = slices.DeleteFunc(by, func(name string) bool { return name == labelProfileType })
		series, err := a.store.Series(ctx, q, by, math.MaxInt64)
		if err != nil {
			return err
		}
		for _, s := range series {
			pairs := labelPairs(s.Labels)
			key := s.Labels.String()
			if withType {
				pairs = append(pairs, &pyroscope.LabelPair{Name: labelProfileType, Value: q.Type.String()})
				key += q.Type.String()
			}
			if !seen[key] && len(pairs) > 0 {
				seen[key] = true
				res.LabelsSet = append(res.LabelsSet, &pyroscope.Labels{Labels: pairs})
			}
		}
		return nil
	})
	return res, err
}

func labelPairs(ls profilestore.Labels) []*pyroscope.LabelPair {
	pairs := make([]*pyroscope.LabelPair, len(ls))
	for i, l := range ls {
		pairs[i] = &pyroscope.LabelPair{Name: l.Name, Value: l.Value}
	}
	return pairs
}

// grafanaSelectSeries answers points at the end of their steps, where Pyroscope has them.
func (a *api) grafanaSelectSeries(ctx context.Context, req *pyroscope.SelectSeriesRequest) (*pyroscope.SelectSeriesResponse, error) {
	if req.GetAggregation() != pyroscope.Aggregation_TIME_SERIES_AGGREGATION_TYPE_SUM {
		return nil, unimplemented("aggregation by average")
	}
	if len(req.StackTraceSelector.GetCallSite()) > 0 {
		return nil, unimplemented("stack_trace_selector")
	}
	q, err := grafanaQuery(req.ProfileTypeID, req.LabelSelector, req.Start, req.End)
	if err != nil {
		return nil, err
	}
	if !(req.Step >= 1 && req.Step <= 366*24*3600) {
		return nil, badRequest("step", "step %v: send seconds, 1 or more", req.Step)
	}
	step := time.Duration(req.Step * float64(time.Second))
	if n := countSteps(q.From, q.To, step); n > maxPoints {
		return nil, badRequest("step", "step %v makes %d points: send at least %v", step, n, chooseStep(q.From, q.To, maxPoints))
	}
	series, err := a.store.Series(ctx, q, req.GroupBy, step)
	if err != nil {
		return nil, err
	}
	if req.Limit != nil && *req.Limit > 0 && *req.Limit < int64(len(series)) {
		series = series[:*req.Limit]
	}
	res := &pyroscope.SelectSeriesResponse{}
	for _, s := range series {
		points := make([]*pyroscope.Point, len(s.Points))
		for i, pt := range s.Points {
			points[i] = &pyroscope.Point{Value: float64(pt.Value), Timestamp: toMS(pt.Time) + step.Milliseconds()}
		}
		res.Series = append(res.Series, &pyroscope.Series{Labels: labelPairs(s.Labels), Points: points})
	}
	return res, nil
}

// stackRequest is what SelectMergeStacktraces, SelectMergeProfile and the sides of Diff ask for alike.
type stackRequest interface {
	GetProfileTypeID() string
	GetLabelSelector() string
	GetStart() int64
	GetEnd() int64
	GetStackTraceSelector() *pyroscope.StackTraceSelector
	GetProfileIdSelector() []string
	GetTraceIdSelector() []string
}

// stackQuery refuses what would narrow the selection in a way that this server cannot.
func stackQuery(req stackRequest) (profilestore.Query, error) {
	switch {
	case len(req.GetStackTraceSelector().GetCallSite()) > 0:
		return profilestore.Query{}, unimplemented("stack_trace_selector")
	case len(req.GetProfileIdSelector()) > 0:
		return profilestore.Query{}, unimplemented("profile_id_selector")
	case len(req.GetTraceIdSelector()) > 0:
		return profilestore.Query{}, unimplemented("trace_id_selector")
	}
	return grafanaQuery(req.GetProfileTypeID(), req.GetLabelSelector(), req.GetStart(), req.GetEnd())
}

func (a *api) grafanaStacktraces(ctx context.Context, req *pyroscope.SelectMergeStacktracesRequest) (*pyroscope.SelectMergeStacktracesResponse, error) {
	if len(req.SpanSelector) > 0 {
		return nil, unimplemented("span_selector")
	}
	q, err := stackQuery(req)
	if err != nil {
		return nil, err
	}
	switch req.Format {
	case pyroscope.ProfileFormat_PROFILE_FORMAT_UNSPECIFIED, pyroscope.ProfileFormat_PROFILE_FORMAT_FLAMEGRAPH:
		res, err := a.store.Select(ctx, q)
		if err != nil {
			return nil, err
		}
		g, err := flamegraph.Build(ctx, res.Stacks, flamegraph.Options{MaxNodes: graphNodes(req.MaxNodes)})
		if err != nil {
			return nil, err
		}
		return &pyroscope.SelectMergeStacktracesResponse{Flamegraph: flamebearer(g)}, nil
	case pyroscope.ProfileFormat_PROFILE_FORMAT_PPROF:
		p, err := a.mergedProfile(ctx, q)
		return &pyroscope.SelectMergeStacktracesResponse{Pprof: &pyroscope.PprofProfile{Profile: p}}, err
	default:
		return nil, unimplemented(fmt.Sprintf("format %v", req.Format))
	}
}

// graphNodes is how many nodes a graph has at most.
func graphNodes(n *int64) int {
	if n == nil || *n <= 0 {
		return grafanaNodes
	}
	return int(min(*n, maxNodes))
}

func (a *api) grafanaProfile(ctx context.Context, req *pyroscope.SelectMergeProfileRequest) (*pyroscope.Profile, error) {
	q, err := stackQuery(req)
	if err != nil {
		return nil, err
	}
	return a.mergedProfile(ctx, q)
}

func (a *api) mergedProfile(ctx context.Context, q profilestore.Query) (*pyroscope.Profile, error) {
	var b bytes.Buffer
	if err := a.store.WriteMerged(ctx, q, &b); err != nil {
		return nil, err
	}
	res := &pyroscope.Profile{}
	if err := proto.Unmarshal(b.Bytes(), res); err != nil {
		return nil, fmt.Errorf("encode merged profile: %w", err)
	}
	return res, nil
}

func (a *api) grafanaDiff(ctx context.Context, req *pyroscope.DiffRequest) (*pyroscope.DiffResponse, error) {
	if req.Left == nil || req.Right == nil {
		return nil, badRequest("", "a diff has a left and a right: send both")
	}
	var sides [2]*profilestore.Result
	for i, s := range []*pyroscope.SelectMergeStacktracesRequest{req.Left, req.Right} {
		if len(s.SpanSelector) > 0 {
			return nil, unimplemented("span_selector")
		}
		q, err := stackQuery(s)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			q.Held = sides[0].Stacks.Size()
		}
		if sides[i], err = a.store.Select(ctx, q); err != nil {
			return nil, err
		}
	}
	g, err := flamegraph.Build(ctx, sides[0].Stacks, flamegraph.Options{B: sides[1].Stacks, MaxNodes: max(graphNodes(req.Left.MaxNodes), graphNodes(req.Right.MaxNodes))})
	if err != nil {
		return nil, err
	}
	return &pyroscope.DiffResponse{Flamegraph: flamebearerDiff(g)}, nil
}

// both are a value of the two sides of a diff; without a diff the second is 0.
type both [2]int64

// layout places the nodes of a graph from left to right, as Grafana draws them.
type layout struct {
	sides   int
	names   []string
	levels  []*pyroscope.Level
	ends    []both // by level: where its last node ends
	maxSelf int64
}

// add appends a node to its level: for each side its distance from the node before it, its total and its self;
// then its name.
func (l *layout) add(depth int32, x, total, self both, name int64) {
	if int(depth) == len(l.levels) {
		l.levels, l.ends = append(l.levels, &pyroscope.Level{}), append(l.ends, both{})
	}
	level := l.levels[depth]
	for s := range l.sides {
		level.Values = append(level.Values, x[s]-l.ends[depth][s], total[s], self[s])
		l.ends[depth][s] = x[s] + total[s]
		l.maxSelf = max(l.maxSelf, self[s])
	}
	level.Values = append(level.Values, name)
}

func layOut(g *flamegraph.Graph) *layout {
	l := &layout{sides: 1, names: slices.Clone(g.Names)}
	self, pruned := make([]both, len(g.Depth)), make([]both, len(g.Depth))
	for i := range g.Depth {
		self[i][0], pruned[i][0] = g.Self[i], g.PrunedValue[i]
		if g.GraphB != nil {
			l.sides = 2
			self[i][1], pruned[i][1] = g.SelfB[i], g.PrunedValueB[i]
		}
	}
	total := make([]both, len(g.Depth))
	below := make([]both, 1) // by depth, from the last node up: totals of children whose parent is yet to come
	for i := len(g.Depth) - 1; i >= 0; i-- {
		d := int(g.Depth[i])
		for len(below) < d+2 {
			below = append(below, both{})
		}
		for s := range total[i] {
			total[i][s] = self[i][s] + pruned[i][s] + below[d+1][s]
			below[d][s] += total[i][s]
		}
		below[d+1] = both{}
	}
	other := int64(-1)
	next := []both{{}} // by depth: where the next node begins
	for i, d := range g.Depth {
		x := next[d]
		l.add(d, x, total[i], self[i], int64(g.Name[i]))
		inside := x // right of what the node used itself: the pruned children, then the others
		for s := range inside {
			next[d][s] += total[i][s]
			inside[s] += self[i][s]
		}
		if g.PrunedCount[i] > 0 {
			if other < 0 {
				other = int64(len(l.names))
				l.names = append(l.names, otherNodes)
			}
			l.add(d+1, inside, pruned[i], pruned[i], other)
			for s := range inside {
				inside[s] += pruned[i][s]
			}
		}
		next = append(next[:d+1], inside)
	}
	return l
}

func flamebearer(g *flamegraph.Graph) *pyroscope.FlameGraph {
	l := layOut(g)
	return &pyroscope.FlameGraph{Names: l.names, Levels: l.levels, Total: g.Total, MaxSelf: l.maxSelf}
}

func flamebearerDiff(g *flamegraph.Graph) *pyroscope.FlameGraphDiff {
	l := layOut(g)
	return &pyroscope.FlameGraphDiff{
		Names: l.names, Levels: l.levels, Total: g.Total + g.TotalB, MaxSelf: l.maxSelf, LeftTicks: g.Total, RightTicks: g.TotalB,
	}
}
