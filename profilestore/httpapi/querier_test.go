package httpapi

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	googlev1 "github.com/grafana/pyroscope/api/gen/proto/go/google/v1"
	querierv1 "github.com/grafana/pyroscope/api/gen/proto/go/querier/v1"
	typesv1 "github.com/grafana/pyroscope/api/gen/proto/go/types/v1"

	"pilotlight/profilestore/flamegraph"
)

// grafana calls procedures with the messages of Pyroscope's own module, as the client does that Grafana's data
// source has in it.
type grafana struct {
	server *httptest.Server
	gzip   bool
}

func call[Res, Req any](ctx context.Context, g grafana, name string, req *Req) (*Res, error) {
	var o []connect.ClientOption
	if g.gzip {
		o = append(o, connect.WithSendGzip())
	}
	res, err := connect.NewClient[Req, Res](g.server.Client(), g.server.URL+"/querier.v1.QuerierService/"+name, o...).CallUnary(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// TestGrafana asks what the data source asks: in milliseconds, with a selector that may be {}, a step in
// seconds, sometimes with a number of nodes.
func TestGrafana(t *testing.T) {
	s := newTestServer(t, newTestStore(t), Options{})
	base := testBase()
	fill(t, s, base)
	c := grafana{s, false}
	ctx := t.Context()
	start, end := base.UnixMilli(), base.UnixMilli()+60_000
	const cpu = "process_cpu:cpu:nanoseconds:cpu:nanoseconds"

	types, err := call[querierv1.ProfileTypesResponse](ctx, c, "ProfileTypes", &querierv1.ProfileTypesRequest{Start: start, End: end})
	if err != nil {
		t.Fatal(err)
	}
	if len(types.ProfileTypes) != 2 || types.ProfileTypes[0].ID != cpu || types.ProfileTypes[0].SampleType != "cpu" {
		t.Errorf("types %v", types)
	}

	names, err := call[typesv1.LabelNamesResponse](ctx, c, "LabelNames", &typesv1.LabelNamesRequest{Matchers: []string{"{}"}, Start: start, End: end})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"__profile_type__", "comm", "hostname", "pid", "service_name"}; !slices.Equal(names.Names, want) {
		t.Errorf("label names %v, want %v", names.Names, want)
	}
	for _, tt := range []struct {
		name     string
		matchers []string
		want     []string
	}{
		{"service_name", []string{"{}"}, []string{"api", "cron", "db"}},
		{"service_name", nil, []string{"api", "cron", "db"}},
		{"service_name", []string{`{pid="100"}`, `{pid="300"}`}, []string{"api", "cron"}},
		{"service_name", []string{`{__profile_type__="` + cpu + `"}`}, []string{"api", "cron", "db"}},
		{"service_name", []string{`{__profile_type__="memory:inuse_space:bytes:space:bytes"}`}, nil},
		{"__profile_type__", []string{`{service_name="api"}`}, []string{cpu, "process_cpu:samples:count:cpu:nanoseconds"}},
	} {
		values, err := call[typesv1.LabelValuesResponse](ctx, c, "LabelValues", &typesv1.LabelValuesRequest{Name: tt.name, Matchers: tt.matchers, Start: start, End: end})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(values.Names, tt.want) {
			t.Errorf("values of %s for %v: %v, want %v", tt.name, tt.matchers, values.Names, tt.want)
		}
	}

	series, err := call[querierv1.SeriesResponse](ctx, c, "Series", &querierv1.SeriesRequest{Start: start, End: end, LabelNames: []string{"service_name", "__profile_type__"}})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(series.LabelsSet); n != 6 || len(series.LabelsSet[0].Labels) != 2 {
		t.Errorf("%d sets of labels of 3 services with 2 types: %v", n, series)
	}
	if series, err = call[querierv1.SeriesResponse](ctx, c, "Series", &querierv1.SeriesRequest{Start: start, End: end}); err != nil || len(series.LabelsSet) != 6 || len(series.LabelsSet[0].Labels) != 3 {
		t.Errorf("all labels of the series: %v, %v", series, err)
	}

	limit := int64(1)
	lines, err := call[querierv1.SelectSeriesResponse](ctx, c, "SelectSeries", &querierv1.SelectSeriesRequest{
		ProfileTypeID: cpu, LabelSelector: "{}", Start: start, End: end, Step: 10, GroupBy: []string{"service_name"}, Limit: &limit,
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(lines.Series) != 1 || len(lines.Series[0].Points) != 2 || lines.Series[0].Labels[0].Value != "api" ||
		lines.Series[0].Points[0].Value != 40e6 || lines.Series[0].Points[0].Timestamp != start+10_000 {
		t.Errorf("series %v", lines)
	}

	nodes := int64(3)
	stacks, err := call[querierv1.SelectMergeStacktracesResponse](ctx, c, "SelectMergeStacktraces", &querierv1.SelectMergeStacktracesRequest{
		ProfileTypeID: cpu, LabelSelector: `{service_name="api"}`, Start: start, End: end, MaxNodes: &nodes,
	})
	if err != nil {
		t.Fatal(err)
	}
	g := stacks.Flamegraph
	if got, want := drawLevels(g.Names, levelValues(g.Levels), 1), "total 60/0\n main 60/0\n  handle 60/0\n   other 10/10\n   parse 50/50\n"; got != want || g.Total != 60e6 || g.MaxSelf != 50e6 {
		t.Errorf("flame graph\n%swant\n%s%v", got, want, g)
	}

	merged, err := call[googlev1.Profile](ctx, c, "SelectMergeProfile", &querierv1.SelectMergeProfileRequest{ProfileTypeID: cpu, LabelSelector: "{}", Start: start, End: end})
	if err != nil {
		t.Fatal(err)
	}
	sum := int64(0)
	for _, sample := range merged.Sample {
		sum += sample.Value[1]
	}
	if sum != 11*testPeriod || !slices.Contains(merged.StringTable, "parse") || merged.Mapping[0].BuildId == 0 {
		t.Errorf("merged profile of %d: %v", sum, merged)
	}
	asPprof, err := call[querierv1.SelectMergeStacktracesResponse](ctx, c, "SelectMergeStacktraces", &querierv1.SelectMergeStacktracesRequest{
		ProfileTypeID: cpu, LabelSelector: "{}", Start: start, End: end, Format: querierv1.ProfileFormat_PROFILE_FORMAT_PPROF,
	})
	if err != nil || len(asPprof.Pprof.GetProfile().GetSample()) != len(merged.Sample) {
		t.Errorf("stack traces as pprof: %v, %v", asPprof, err)
	}

	side := func(selector string) *querierv1.SelectMergeStacktracesRequest {
		return &querierv1.SelectMergeStacktracesRequest{ProfileTypeID: cpu, LabelSelector: selector, Start: start, End: end}
	}
	diff, err := call[querierv1.DiffResponse](ctx, c, "Diff", &querierv1.DiffRequest{Left: side(`{pid="100"}`), Right: side(`{pid="101"}`)})
	if err != nil {
		t.Fatal(err)
	}
	d := diff.Flamegraph
	if got, want := drawLevels(d.Names, levelValues(d.Levels), 2), "total 40/0 20/0\n main 40/0 20/0\n  handle 40/0 20/0\n   parse 30/30 20/20\n   encode 10/10 0/0\n"; got != want || d.LeftTicks != 40e6 || d.RightTicks != 20e6 || d.Total != 60e6 {
		t.Errorf("diff\n%swant\n%s%v", got, want, d)
	}
}

// Refusals carry Connect's codes.
func TestGrafanaErrors(t *testing.T) {
	s := newTestServer(t, newTestStore(t), Options{})
	c := grafana{s, true}
	ask := func(req *querierv1.SelectMergeStacktracesRequest) error {
		_, err := call[querierv1.SelectMergeStacktracesResponse](t.Context(), c, "SelectMergeStacktraces", req)
		return err
	}
	series := func(req *querierv1.SelectSeriesRequest) error {
		_, err := call[querierv1.SelectSeriesResponse](t.Context(), c, "SelectSeries", req)
		return err
	}
	average := typesv1.TimeSeriesAggregationType_TIME_SERIES_AGGREGATION_TYPE_AVERAGE
	_, spans := call[querierv1.SelectMergeSpanProfileResponse](t.Context(), c, "SelectMergeSpanProfile", &querierv1.SelectMergeSpanProfileRequest{})
	_, half := call[querierv1.DiffResponse](t.Context(), c, "Diff", &querierv1.DiffRequest{})
	for _, tt := range []struct {
		err  error
		code connect.Code
		want string
	}{
		{ask(&querierv1.SelectMergeStacktracesRequest{LabelSelector: "api"}), connect.CodeInvalidArgument, "write the labels in braces"},
		{ask(&querierv1.SelectMergeStacktracesRequest{ProfileTypeID: "cpu"}), connect.CodeInvalidArgument, "profile type"},
		{ask(&querierv1.SelectMergeStacktracesRequest{Start: 2, End: 1}), connect.CodeInvalidArgument, "start is after end"},
		{ask(&querierv1.SelectMergeStacktracesRequest{Start: -1, End: 1}), connect.CodeInvalidArgument, "Unix milliseconds"},
		{ask(&querierv1.SelectMergeStacktracesRequest{Start: 1, End: 1 << 62}), connect.CodeInvalidArgument, "Unix milliseconds"},
		{ask(&querierv1.SelectMergeStacktracesRequest{ProfileTypeID: "a:b:c:d:e", LabelSelector: `{__profile_type__="x"}`}), connect.CodeInvalidArgument, "does not match"},
		{ask(&querierv1.SelectMergeStacktracesRequest{Format: querierv1.ProfileFormat_PROFILE_FORMAT_DOT}), connect.CodeUnimplemented, "PROFILE_FORMAT_DOT"},
		{ask(&querierv1.SelectMergeStacktracesRequest{SpanSelector: []string{"9a517183f26a089d"}}), connect.CodeUnimplemented, "span_selector"},
		{ask(&querierv1.SelectMergeStacktracesRequest{ProfileIdSelector: []string{"x"}}), connect.CodeUnimplemented, "profile_id_selector"},
		{ask(&querierv1.SelectMergeStacktracesRequest{StackTraceSelector: &typesv1.StackTraceSelector{CallSite: []*typesv1.Location{{Name: "main"}}}}), connect.CodeUnimplemented, "stack_trace_selector"},
		{ask(&querierv1.SelectMergeStacktracesRequest{LabelSelector: strings.Repeat("x", maxMessage+1)}), connect.CodeResourceExhausted, "above 1 MB"},
		{series(&querierv1.SelectSeriesRequest{}), connect.CodeInvalidArgument, "send seconds"},
		{series(&querierv1.SelectSeriesRequest{Step: 1, End: 1e12}), connect.CodeInvalidArgument, "points"},
		{series(&querierv1.SelectSeriesRequest{Step: 1, Aggregation: &average}), connect.CodeUnimplemented, "average"},
		{spans, connect.CodeUnimplemented, ""},
		{half, connect.CodeInvalidArgument, "send both"},
	} {
		if connect.CodeOf(tt.err) != tt.code || !strings.Contains(tt.err.Error(), tt.want) {
			t.Errorf("%v, want %v with %q", tt.err, tt.code, tt.want)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := call[querierv1.ProfileTypesResponse](gone, c, "ProfileTypes", &querierv1.ProfileTypesRequest{}); connect.CodeOf(err) != connect.CodeCanceled {
		t.Errorf("canceled: %v", err)
	}
}

func levelValues(levels []*querierv1.Level) [][]int64 {
	var values [][]int64
	for _, l := range levels {
		values = append(values, l.Values)
	}
	return values
}

// drawLevels reads levels as Grafana does: a node belongs to the one above it in whose width it lies. It writes
// name and total/self in milliseconds for each side.
func drawLevels(names []string, levels [][]int64, sides int) string {
	type node struct {
		x, total, self []int64
		name           string
		used           bool
	}
	width := 3*sides + 1
	all := make([][]node, len(levels))
	for d, values := range levels {
		end := make([]int64, sides)
		for i := 0; i < len(values); i += width {
			n := node{name: names[values[i+width-1]]}
			for s := range sides {
				v := values[i+3*s:]
				x := end[s] + v[0]
				end[s] = x + v[1]
				n.x, n.total, n.self = append(n.x, x), append(n.total, v[1]), append(n.self, v[2])
			}
			all[d] = append(all[d], n)
		}
	}
	var b strings.Builder
	var walk func(depth int, n *node)
	walk = func(depth int, n *node) {
		fmt.Fprintf(&b, "%s%s", strings.Repeat(" ", depth), n.name)
		for s := range sides {
			fmt.Fprintf(&b, " %d/%d", n.total[s]/ms, n.self[s]/ms)
		}
		b.WriteByte('\n')
		if depth+1 == len(all) {
			return
		}
		for i := range all[depth+1] {
			child := &all[depth+1][i]
			inside := !child.used
			for s := range sides {
				inside = inside && child.x[s] >= n.x[s] && child.x[s]+child.total[s] <= n.x[s]+n.total[s]
			}
			if inside {
				child.used = true
				walk(depth+1, child)
			}
		}
	}
	walk(0, &all[0][0])
	for d := range all {
		for _, n := range all[d] {
			if d > 0 && !n.used {
				fmt.Fprintf(&b, "lost: %s\n", n.name)
			}
		}
	}
	return b.String()
}

// TestLayout lays out random graphs and finds each node again, below its parent and as wide.
func TestLayout(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		s := new(flamegraph.Stacks)
		for range 1 + r.IntN(20) {
			var stack []int32
			for range r.IntN(6) {
				stack = append(stack, s.Frame(flamegraph.Frame{Function: fmt.Sprint("f", r.IntN(5))}))
			}
			s.Add(stack, ms*(1+r.Int64N(9)))
		}
		g, err := flamegraph.Build(t.Context(), s, flamegraph.Options{MaxNodes: 1 + r.IntN(30)})
		if err != nil {
			t.Fatal(err)
		}
		var want strings.Builder
		total := make([]int64, len(g.Depth))
		var path []int
		for i, d := range g.Depth {
			path = append(path[:d], i)
			for _, p := range path {
				total[p] += g.Self[i] + g.PrunedValue[i]
			}
		}
		for i, d := range g.Depth {
			fmt.Fprintf(&want, "%s%s %d/%d\n", strings.Repeat(" ", int(d)), g.Names[g.Name[i]], total[i]/ms, g.Self[i]/ms)
			if g.PrunedCount[i] > 0 {
				fmt.Fprintf(&want, "%sother %d/%[2]d\n", strings.Repeat(" ", int(d)+1), g.PrunedValue[i]/ms)
			}
		}
		fb := flamebearer(g)
		var values [][]int64
		for _, l := range fb.Levels {
			values = append(values, l.Values)
		}
		if got := drawLevels(fb.Names, values, 1); got != want.String() {
			t.Fatalf("got\n%swant\n%s", got, want.String())
		}
		if !reflect.DeepEqual(fb.Names[:len(g.Names)], g.Names) {
			t.Fatalf("names %v, want %v", fb.Names, g.Names)
		}
	}
}
