package profilestore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"
	"github.com/prometheus/prometheus/model/labels"

	"pilotlight/profilestore/flamegraph"
)

// reference answers from decoded profiles, one sample after the other.
type reference []Encoded

// sample is one with all its labels.
type refSample struct {
	e      *Encoded
	labels map[string]string
	stack  string // functions root first
	value  int64  // cpu
}

func (r reference) samples(t testing.TB, q Query) []refSample {
	t.Helper()
	var found []refSample
	for i := range r {
		e := &r[i]
		if e.Time < q.From || e.Time >= q.To {
			continue
		}
		p, err := profile.ParseData(e.Pprof)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range p.Sample {
			ls := make(map[string]string)
			for name, values := range s.Label {
				ls[name] = values[0]
			}
			for _, l := range e.Labels {
				ls[l.Name] = l.Value
			}
			if slices.ContainsFunc(q.Matchers, func(m *labels.Matcher) bool { return !m.Matches(ls[m.Name]) }) {
				continue
			}
			var stack []string
			for _, l := range slices.Backward(s.Location) {
				for _, line := range slices.Backward(l.Line) {
					stack = append(stack, line.Function.Name)
				}
				if len(l.Line) == 0 {
					stack = append(stack, fmt.Sprintf("%s+%#x", strings.TrimPrefix(l.Mapping.File, "/"), l.Address))
				}
			}
			found = append(found, refSample{e, ls, strings.Join(stack, ";"), s.Value[1]})
		}
	}
	return found
}

// folded writes a tree as one line for each path, by function.
func folded(s *flamegraph.Stacks) map[string]int64 {
	g, err := flamegraph.Build(context.Background(), s, flamegraph.Options{})
	if err != nil {
		panic(err)
	}
	sums := make(map[string]int64)
	var path []string
	for i, depth := range g.Depth {
		if depth > 0 {
			path = append(path[:depth-1], g.Names[g.Name[i]])
		}
		if g.Self[i] > 0 {
			sums[strings.Join(path, ";")] += g.Self[i]
		}
	}
	return sums
}

// matchers over series labels, sample labels, both, absent ones and nothing at all.
var selectors = []string{
	``, `{}`, ` { } `,
	`{service_name="api"}`, `{service_name!="api"}`, `{service_name=~"a.*|d.*"}`, `{service_name=~"a"}`, `{service_name!~"a.*"}`,
	`{pid="101"}`, `{pid!="101"}`, `{pid=""}`, `{pid=~".+"}`, `{thread="t1"}`, `{thread!="t1"}`, `{thread=~"t[01]"}`, `{thread=~"t[01]|"}`,
	`{service_name="api", pid="101"}`, `{service_name="api", pid="101", thread="t2"}`, `{service_name="api", thread=""}`,
	`{nothing=""}`, `{nothing!=""}`, `{service_name="nobody"}`, `{pid="9"}`, `{hostname="h", thread=~"t.", pid!~"10[12]"}`,
}

// filled makes a store with random profiles: merged blocks, blocks, a head.
func filled(t testing.TB, extra ...Encoded) (*Store, reference) {
	s := open(t, t.TempDir(), testOptions())
	g := newSource(20)
	var ref reference
	for i := range 60 {
		batch := g.batch(t, 4)
		mustAppend(t, s, batch...)
		ref = append(ref, batch...)
		if i%10 == 9 && i < 55 {
			settle(t, s)
		}
	}
	for _, e := range extra {
		mustAppend(t, s, e)
		ref = append(ref, e)
	}
	return s, ref
}

// manyLabels is a profile with many label sets.
func manyLabels(t testing.TB) Encoded {
	p := cpuProfile()
	f := &profile.Function{ID: 1, Name: "f"}
	l := &profile.Location{ID: 1, Line: []profile.Line{{Function: f}}}
	p.Function, p.Location = []*profile.Function{f}, []*profile.Location{l}
	for i := range 128 {
		p.Sample = append(p.Sample, &profile.Sample{Location: p.Location, Value: []int64{1, 50}, Label: map[string][]string{"pid": {"101"}, "thread": {fmt.Sprint("t", i)}, "request": {fmt.Sprint("r", i)}}})
	}
	return Encoded{ID: ID{9}, Name: "process_cpu", Labels: NewLabels(map[string]string{"service_name": "api", "unit": "many"}), Time: start.UnixNano(), Pprof: encode(t, p)}
}

// inlinedProfile is a stack of three functions in two locations: leaf was inlined into middle, which main calls.
func inlinedProfile(t testing.TB) Encoded {
	p := cpuProfile()
	for i, name := range []string{"leaf", "middle", "main"} {
		p.Function = append(p.Function, &profile.Function{ID: uint64(i + 1), Name: name})
	}
	p.Location = []*profile.Location{
		{ID: 1, Line: []profile.Line{{Function: p.Function[0], Line: 3}, {Function: p.Function[1], Line: 7}}},
		{ID: 2, Line: []profile.Line{{Function: p.Function[2], Line: 9}}},
	}
	p.Sample = []*profile.Sample{{Location: p.Location, Value: []int64{1, 50}}}
	return Encoded{ID: ID{9}, Name: "process_cpu", Labels: NewLabels(map[string]string{"service_name": "api"}), Time: start.UnixNano(), Pprof: encode(t, p)}
}

// Which frames are inlined shows in what show_from does: of a location whose inlined frame matches, pprof drops the
// frame that it was inlined into.
func TestSelectMarksInlinedFrames(t *testing.T) {
	s := open(t, t.TempDir(), testOptions())
	e := inlinedProfile(t)
	mustAppend(t, s, e)
	p, err := profile.ParseData(e.Pprof)
	if err != nil {
		t.Fatal(err)
	}
	expression := regexp.MustCompile("^(main|leaf)$")
	p.ShowFrom(expression)
	var want []string
	for _, l := range slices.Backward(p.Sample[0].Location) {
		for _, line := range slices.Backward(l.Line) {
			want = append(want, line.Function.Name)
		}
	}
	for _, place := range []string{"head", "files"} {
		res, err := s.Select(t.Context(), all(t, ""))
		if err != nil {
			t.Fatal(err)
		}
		shown, err := res.Stacks.Filter(t.Context(), flamegraph.Filter{Kind: flamegraph.ShowFrom, Regexp: expression})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := folded(shown), map[string]int64{strings.Join(want, ";"): 50}; !maps.Equal(got, want) {
			t.Errorf("%s: %v, pprof shows %v", place, got, want)
		}
		settle(t, s)
	}
}

func TestQueriesEqualReference(t *testing.T) {
	s, ref := filled(t, manyLabels(t))
	ctx := context.Background()
	for _, selector := range selectors {
		for _, from := range []time.Duration{-24 * time.Hour, 10 * time.Minute} {
			t.Run(fmt.Sprint(selector, from), func(t *testing.T) {
				q := all(t, selector)
				q.From, q.To = start.Add(from).UnixNano(), start.Add(30*time.Minute).UnixNano()
				checkQuery(ctx, t, s, ref, q)
			})
		}
	}
}

func checkQuery(ctx context.Context, t *testing.T, s *Store, ref reference, q Query) {
	samples := ref.samples(t, q)
	stacks := make(map[string]int64)
	services := make(map[string]int64)
	names, pids := make(map[string]struct{}), make(map[string]struct{})
	profiles := make(map[ID]bool)
	step := time.Minute
	by := []string{"service_name", "thread"}
	type cell struct {
		service, thread string
		at              int64
	}
	cells := make(map[cell]int64)
	for _, sample := range samples {
		stacks[sample.stack] += sample.value
		services[sample.labels["service_name"]] += sample.value
		profiles[sample.e.ID] = true
		for name := range sample.labels {
			names[name] = struct{}{}
		}
		if pid := sample.labels["pid"]; pid != "" {
			pids[pid] = struct{}{}
		}
		at := time.Unix(0, sample.e.Time).Truncate(step).UnixNano()
		cells[cell{sample.labels["service_name"], sample.labels["thread"], at}] += sample.value
	}

	res, err := s.Select(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	if got := folded(res.Stacks); !maps.Equal(got, stacks) {
		t.Errorf("Select:\n got %v\nwant %v", got, stacks)
	}
	if res.Profiles != len(profiles) || res.Unit != "nanoseconds" {
		t.Errorf("Select: %d profiles, want %d; unit %s", res.Profiles, len(profiles), res.Unit)
	}

	series, err := s.Series(ctx, q, by, step)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[cell]int64)
	for _, one := range series {
		if !slices.IsSortedFunc(one.Points, func(a, b Point) int { return cmp.Compare(a.Time, b.Time) }) {
			t.Errorf("Series: points are not sorted")
		}
		for _, p := range one.Points {
			got[cell{one.Labels.Get("service_name"), one.Labels.Get("thread"), p.Time}] = p.Value
		}
	}
	if !maps.Equal(got, cells) {
		t.Errorf("Series:\n got %v\nwant %v", got, cells)
	}

	list, err := s.Services(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	gotServices := make(map[string]int64)
	for _, service := range list {
		gotServices[service.Name] = service.Value
	}
	if !maps.Equal(gotServices, services) {
		t.Errorf("Services: got %v, want %v", gotServices, services)
	}

	if got, err := s.LabelNames(ctx, q); err != nil || !slices.Equal(got, sortedKeys(names)) {
		t.Errorf("LabelNames: got %v, %v, want %v", got, err, sortedKeys(names))
	}
	if got, err := s.LabelValues(ctx, q, "pid"); err != nil || !slices.Equal(got, sortedKeys(pids)) {
		t.Errorf("LabelValues: got %v, %v, want %v", got, err, sortedKeys(pids))
	}

	infos, err := s.Profiles(ctx, q, 7)
	if err != nil {
		t.Fatal(err)
	}
	var newest []int64
	for _, e := range ref {
		if profiles[e.ID] {
			newest = append(newest, e.Time)
		}
	}
	slices.SortFunc(newest, func(a, b int64) int { return cmp.Compare(b, a) })
	newest = newest[:min(7, len(newest))]
	var times []int64
	for _, info := range infos {
		times = append(times, info.Time)
		if !profiles[info.ID] {
			t.Errorf("Profiles: %s has no matching sample", info.ID)
		}
	}
	if !slices.Equal(times, newest) {
		t.Errorf("Profiles: got %v, want %v", times, newest)
	}

	merged, err := s.Merge(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	// What pprof reads from the merged profile is what it read from the single ones.
	again, err := profile.ParseData(encode(t, merged))
	if err != nil {
		t.Fatal(err)
	}
	mergedStacks := make(map[string]int64)
	for _, sample := range (reference{{Labels: nil, Pprof: encode(t, again)}}).samples(t, Query{To: 1}) {
		mergedStacks[sample.stack] += sample.value
	}
	if !maps.Equal(mergedStacks, stacks) && len(samples) > 0 {
		t.Errorf("Merge:\n got %v\nwant %v", mergedStacks, stacks)
	}
	labelSums, wantSums := make(map[string]int64), make(map[string]int64)
	for _, sample := range again.Sample {
		labelSums[fmt.Sprint(sample.Label)] += sample.Value[len(sample.Value)-1]
	}
	for _, sample := range samples {
		own := make(map[string][]string)
		for name, value := range sample.labels {
			if sample.e.Labels.Get(name) == "" {
				own[name] = []string{value}
			}
		}
		wantSums[fmt.Sprint(own)] += sample.value
	}
	if !maps.Equal(labelSums, wantSums) {
		t.Errorf("Merge, labels:\n got %v\nwant %v", labelSums, wantSums)
	}
}

func TestTypes(t *testing.T) {
	heap := cpuProfile()
	heap.SampleType = []*profile.ValueType{{Type: "inuse", Unit: "bytes"}, {Type: "cpu", Unit: "nanoseconds"}}
	heap.Sample = []*profile.Sample{{Value: []int64{7, 11}}}
	s := open(t, t.TempDir(), testOptions())
	g := newSource(21)
	one := g.profile(t)
	odd := Encoded{Name: "process_cpu", Labels: one.Labels, Time: one.Time, Pprof: encode(t, heap)}
	other := Encoded{Name: "memory", Labels: one.Labels, Time: one.Time, Pprof: encode(t, heap)}
	mustAppend(t, s, one, odd, other)

	types, err := s.Types(context.Background(), all(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, typ := range types {
		texts = append(texts, typ.String())
	}
	want := []string{
		"memory:cpu:nanoseconds:cpu:nanoseconds", "memory:inuse:bytes:cpu:nanoseconds",
		"process_cpu:cpu:nanoseconds:cpu:nanoseconds", "process_cpu:inuse:bytes:cpu:nanoseconds", "process_cpu:samples:count:cpu:nanoseconds",
	}
	if !slices.Equal(texts, want) {
		t.Errorf("got %q, want %q", texts, want)
	}
	q := all(t, "")
	if q.Type, err = ParseProfileType("memory:inuse:bytes:cpu:nanoseconds"); err != nil {
		t.Fatal(err)
	}
	if res, err := s.Select(context.Background(), q); err != nil || res.Stacks.Total() != 7 || res.Unit != "bytes" {
		t.Errorf("%+v, %v", res, err)
	}
	// Profiles with different sample types merge into what they share.
	merged, err := s.Merge(context.Background(), all(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	if len(merged.SampleType) != 1 || merged.SampleType[0].Type != "cpu" || merged.DefaultSampleType != "cpu" {
		t.Errorf("%v, %s", merged.SampleType, merged.DefaultSampleType)
	}
}

func TestMergeHeader(t *testing.T) {
	s := open(t, t.TempDir(), testOptions())
	for i := range 2 {
		p := cpuProfile()
		p.Comments = []string{"pilotlight 1.0", "file_key 1 aabb"}
		p.Sample = []*profile.Sample{{Value: []int64{1, 1}}}
		mustAppend(t, s, Encoded{Name: "process_cpu", Time: start.Add(time.Duration(i) * time.Minute).UnixNano(), Duration: 10 * time.Second, Pprof: encode(t, p)})
	}
	p, err := s.Merge(context.Background(), all(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	if p.TimeNanos != start.UnixNano() || p.DurationNanos != int64(70*time.Second) || !reflect.DeepEqual(p.Comments, []string{"pilotlight 1.0"}) {
		t.Errorf("%d, %d, %q", p.TimeNanos, p.DurationNanos, p.Comments)
	}
}

// TestWriteMergedInLittleMemory: what is written is not held, so that far more can be downloaded than pprof can take apart
// in the same memory.
func TestWriteMergedInLittleMemory(t *testing.T) {
	s := open(t, t.TempDir(), testOptions())
	const profiles = 5
	for service := range 2 {
		load := newLoadService(t, service, 1, 1)
		for i := range profiles {
			mustAppend(t, s, Encoded{Name: "process_cpu", Labels: loadLabels(service, 0), Time: start.Add(time.Duration(i) * time.Minute).UnixNano(), Pprof: load.profile(t, 0)})
		}
	}
	q := all(t, "")
	refused := func(err error) bool {
		e := (*Error)(nil)
		return errors.As(err, &e) && e.Code == Unprocessable
	}
	whole, err := s.Merge(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	s.o.QueryBytes = 3 << 20
	if _, err := s.Merge(t.Context(), q); !refused(err) {
		t.Errorf("Merge in 3 MB: %v", err)
	}
	var b bytes.Buffer
	if err := s.WriteMerged(t.Context(), q, &b); err != nil {
		t.Fatal(err)
	}
	written, err := profile.ParseUncompressed(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	sum := func(p *profile.Profile) (sum int64) {
		for _, sample := range p.Sample {
			sum += sample.Value[1]
		}
		return sum
	}
	if len(written.Sample) < 5000 || len(written.Sample) != len(whole.Sample) || sum(written) != sum(whole) {
		t.Errorf("%d samples of %d written, %d of %d", len(written.Sample), sum(written), len(whole.Sample), sum(whole))
	}
	s.o.QueryBytes = 200 << 10
	if err := s.WriteMerged(t.Context(), q, io.Discard); !refused(err) {
		t.Errorf("WriteMerged in 200 KB: %v", err)
	}
}

// TestQueryHeld: the two queries of a diff share what one may use.
func TestQueryHeld(t *testing.T) {
	s, _ := filled(t)
	q := all(t, "")
	if _, err := s.Select(context.Background(), q); err != nil {
		t.Fatal(err)
	}
	q.Held = s.o.QueryBytes - 1000
	_, err := s.Select(context.Background(), q)
	if e := (*Error)(nil); !errors.As(err, &e) || e.Code != Unprocessable {
		t.Errorf("with 1,000 bytes left: %v", err)
	}
}

func TestQueryErrors(t *testing.T) {
	s, _ := filled(t)
	s.o.QueryBytes = 1000
	ctx := context.Background()
	q := all(t, "")
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	tests := []struct {
		name string
		code Code
		err  error
		run  func() error
	}{
		{"select", Unprocessable, nil, func() error { _, err := s.Select(ctx, q); return err }},
		{"series", Unprocessable, nil, func() error { _, err := s.Series(ctx, q, []string{"pid"}, time.Second); return err }},
		{"label names", Unprocessable, nil, func() error { _, err := s.LabelNames(ctx, q); return err }},
		{"label values", Unprocessable, nil, func() error { _, err := s.LabelValues(ctx, q, "thread"); return err }},
		{"series of label sets", Unprocessable, nil, func() error { _, err := s.Series(ctx, q, []string{"nothing"}, 24*time.Hour); return err }},
		{"merge", Unprocessable, nil, func() error { _, err := s.Merge(ctx, q); return err }},
		{"profiles", Unprocessable, nil, func() error { _, err := s.Profiles(ctx, q, 100); return err }},
		{"limit", BadRequest, nil, func() error { _, err := s.Profiles(ctx, q, 0); return err }},
		{"step", BadRequest, nil, func() error { _, err := s.Series(ctx, q, nil, 0); return err }},
		{"from after to", BadRequest, nil, func() error { _, err := s.Select(ctx, Query{From: 2, To: 1}); return err }},
		{"canceled", "", context.Canceled, func() error { _, err := s.Select(canceled, q); return err }},
		{"canceled append", "", context.Canceled, func() error { return s.Append(canceled, newSource(1).batch(t, 1)) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := test.run()
			e := (*Error)(nil)
			if test.err != nil && !errors.Is(err, test.err) || test.code != "" && (!errors.As(err, &e) || e.Code != test.code) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestParseSelector(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{`process_cpu{a="b"}`, "braces"},
		{`{a="b"`, "query"},
		{`{a=~"("}`, "query"},
		{`{__name__="x"}`, "not a label"},
		{`{"x"}`, "not a label"},
		{`{a="b"} or {c="d"}`, "query"},
		{`}`, "braces"},
		{`{`, "query"},
	} {
		_, err := ParseSelector(test.in)
		e := (*Error)(nil)
		if !errors.As(err, &e) || e.Code != BadRequest || e.Param != "query" || !strings.Contains(e.Message, test.want) || strings.Contains(e.Message, "\n") {
			t.Errorf("%s: %v", test.in, err)
		}
	}
	ms, err := ParseSelector(`{a="x", b=~"y|z",}`)
	if err != nil || len(ms) != 2 || !ms[1].Matches("z") || ms[1].Matches("zz") {
		t.Errorf("%v, %v", ms, err)
	}
}

func TestText(t *testing.T) {
	id := ID{0: 0xab, 15: 0x01}
	if got, err := ParseID(strings.ToUpper(id.String())); err != nil || got != id || id.String() != "ab000000-0000-0000-0000-000000000001" {
		t.Errorf("%s, %v", id, err)
	}
	for _, bad := range []string{"", "x", strings.Repeat("0", 36), "zz000000-0000-0000-0000-000000000001"} {
		if _, err := ParseID(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if got, err := ParseProfileType(DefaultType.String()); err != nil || got != DefaultType {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"cpu", "a:b:c:d:e:f", ":b:c:d:e"} {
		if _, err := ParseProfileType(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	ls := NewLabels(map[string]string{"b": `"`, "a": "1", "gone": ""})
	if ls.String() != `{a="1", b="\""}` || ls.Get("b") != `"` || ls.Get("gone") != "" {
		t.Error(ls)
	}
}

func TestMarshalBatch(t *testing.T) {
	batch := newSource(3).batch(t, 5)
	batch = append(batch, Encoded{Name: "x", Time: -1, Pprof: []byte{}})
	b := MarshalBatch(nil, batch)
	got, err := UnmarshalBatch(b)
	if err != nil || !reflect.DeepEqual(got, batch) {
		t.Errorf("%v, %v", got, err)
	}
	for n := range b {
		if _, err := UnmarshalBatch(b[:n]); err == nil {
			t.Errorf("cut at %d: no error", n)
		}
	}
}

// Values of profiles with different periods are added up in a unit that both are multiples of.
func TestPeriodsOfAnAnswer(t *testing.T) {
	s := open(t, t.TempDir(), testOptions())
	want := map[string]int64{}
	add := func(n int, period int64, values ...int64) {
		p := cpuProfile()
		p.Period = period
		f := &profile.Function{ID: 1, Name: fmt.Sprint("every ", period)}
		l := &profile.Location{ID: 1, Line: []profile.Line{{Function: f}}}
		p.Function, p.Location = []*profile.Function{f}, []*profile.Location{l}
		p.Sample = []*profile.Sample{{Location: p.Location, Value: values}}
		mustAppend(t, s, Encoded{ID: ID{byte(n)}, Name: "process_cpu", Labels: NewLabels(map[string]string{"service_name": "x"}), Time: start.UnixNano(), Pprof: encode(t, p)})
		want[f.Name] += values[1]
	}
	check := func() {
		t.Helper()
		res, err := s.Select(t.Context(), all(t, ""))
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]int64{}
		table, err := flamegraph.Top(t.Context(), res.Stacks, flamegraph.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range table.Rows {
			got[row.Function] = row.Total
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
	add(1, 10_000_000, 3, 30_000_000)
	check()
	add(2, 4_000_000, 5, 20_000_000)
	add(3, 10_000_000, 2, 20_000_000)
	check()
	settle(t, s)
	check()
	add(4, 1000, 7, 6999) // no multiple of its period
	check()
}
