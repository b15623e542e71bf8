package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"
	"github.com/klauspost/compress/zstd"

	"pilotlight/profilestore/flamegraph"
)

// TestRoutes asks each route of the router for something real. A route without a case fails.
func TestRoutes(t *testing.T) {
	store := newTestStore(t)
	s := newTestServer(t, store, Options{})
	base := testBase()
	fill(t, s, base)
	all := func(more ...string) string { return during(base, 0, 60, more...) }

	type check func(t *testing.T, resp *http.Response, body []byte)
	is := func(want string) check { // JSON, or a part of a text
		return func(t *testing.T, resp *http.Response, body []byte) {
			t.Helper()
			if resp.Header.Get("Content-Type") != "application/json" {
				if !strings.Contains(string(body), want) {
					t.Errorf("the answer lacks %q: %.400s", want, body)
				}
				return
			}
			var got, exp any
			if err := json.Unmarshal(body, &got); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(want), &exp); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, exp) {
				t.Errorf("got  %s\nwant %s", body, want)
			}
		}
	}
	baseMS := base.UnixMilli()
	report := `{"version":"1","hostname":"box","start_ms":5,"window":{"samples_taken":3,"outcomes":{"complete":3}}}`

	cases := []struct {
		route, path, body string
		check             check
	}{
		{"POST /api/v1/agents", "/api/v1/agents", report, is("")},
		{"GET /api/v1/agents", "/api/v1/agents", "", func(t *testing.T, _ *http.Response, body []byte) {
			var got struct{ Agents []AgentReport }
			if err := json.Unmarshal(body, &got); err != nil || len(got.Agents) != 1 {
				t.Fatalf("%s: %v", body, err)
			}
			if a := got.Agents[0]; a.Hostname != "box" || a.Window.Outcomes["complete"] != 3 || a.LastReportMS < baseMS {
				t.Errorf("%+v", a)
			}
		}},
		{"GET /api/v1/types", "/api/v1/types" + all(), "",
			is(`{"types":["process_cpu:cpu:nanoseconds:cpu:nanoseconds","process_cpu:samples:count:cpu:nanoseconds"]}`)},
		{"GET /api/v1/labels", "/api/v1/labels" + all(), "", is(`{"labels":["comm","hostname","pid","service_name"]}`)},
		{"GET /api/v1/labels", "/api/v1/labels" + during(base, 60, 120), "", is(`{"labels":[]}`)},
		{"GET /api/v1/label/:name/values", "/api/v1/label/service_name/values" + all(), "", is(`{"values":["api","cron","db"]}`)},
		{"GET /api/v1/label/:name/values", "/api/v1/label/pid/values" + all("query", `{service_name="api"}`), "", is(`{"values":["100","101"]}`)},
		{"GET /api/v1/label/:name/values", "/api/v1/label/nothing/values" + all(), "", is(`{"values":[]}`)},
		{"GET /api/v1/services", "/api/v1/services" + during(base, 10, 20), "",
			is(fmt.Sprintf(`{"unit":"nanoseconds","from_ms":%[2]d,"to_ms":%[3]d,"start_ms":%[2]d,"step_ms":10000,"services":[
				{"name":"db","value":40000000,"previous":0,"change":null,"profiles":1,"last_seen_ms":%[2]d,"points":[40000000]},
				{"name":"api","value":20000000,"previous":40000000,"change":-0.5,"profiles":1,"last_seen_ms":%[2]d,"points":[20000000]},
				{"name":"cron","value":0,"previous":10000000,"change":-1,"profiles":0,"last_seen_ms":%[1]d,"points":[0]}]}`,
				baseMS, baseMS+10_000, baseMS+20_000))},
		{"GET /api/v1/series", "/api/v1/series" + all("by", "service_name"), "",
			is(fmt.Sprintf(`{"unit":"nanoseconds","step_ms":10000,"series":[
				{"labels":{"service_name":"api"},"points":[[%[1]d,40000000],[%[2]d,20000000]]},
				{"labels":{"service_name":"db"},"points":[[%[2]d,40000000]]},
				{"labels":{"service_name":"cron"},"points":[[%[1]d,10000000]]}]}`, baseMS, baseMS+10_000))},
		{"GET /api/v1/series", "/api/v1/series" + all("step", "1m", "type", "process_cpu:samples:count:cpu:nanoseconds"), "",
			is(fmt.Sprintf(`{"unit":"count","step_ms":60000,"series":[{"labels":{},"points":[[%d,11]]}]}`, baseMS))},
		{"GET /api/v1/flamegraph", "/api/v1/flamegraph" + all("query", `{service_name="api"}`), "",
			is(`{"unit":"nanoseconds","total":60000000,"names":["total","main","handle","parse","encode"],"files":[0,1,1,1,1],
				"file_names":["","/usr/bin/api"],"depth":[0,1,2,3,3],"name":[0,1,2,3,4],"self":[0,0,0,50000000,10000000],
				"pruned_count":[0,0,0,0,0],"pruned_value":[0,0,0,0,0],"profiles":2,"damaged":0}`)},
		{"GET /api/v1/flamegraph", "/api/v1/flamegraph" + all("query", `{pid="100"}`, "root", "main;handle", "max_nodes", "1"), "",
			func(t *testing.T, _ *http.Response, body []byte) {
				var g FlamegraphAnswer
				if err := json.Unmarshal(body, &g); err != nil {
					t.Fatal(err)
				}
				if len(g.Depth) != 2 || g.Total != 4*testPeriod || g.PrunedValue[0] != testPeriod || g.PrunedCount[0] != 1 {
					t.Errorf("%s", body)
				}
			}},
		{"GET /api/v1/top", "/api/v1/top" + all("query", `{service_name=~"api|db"}`), "",
			func(t *testing.T, _ *http.Response, body []byte) {
				var top TopAnswer
				if err := json.Unmarshal(body, &top); err != nil {
					t.Fatal(err)
				}
				want := []flamegraph.Row{
					{Function: "parse", Binary: "/usr/bin/api", File: "api.c", Self: 5 * testPeriod, Total: 5 * testPeriod},
					{Function: "scan", Binary: "/usr/bin/db", File: "db.c", Self: 4 * testPeriod, Total: 4 * testPeriod},
					{Function: "encode", Binary: "/usr/bin/api", File: "api.c", Self: testPeriod, Total: testPeriod},
					{Function: "main", Binary: "/usr/bin/api", File: "api.c", Self: 0, Total: 10 * testPeriod},
					{Function: "handle", Binary: "/usr/bin/api", File: "api.c", Self: 0, Total: 6 * testPeriod},
				}
				if top.Total != 10*testPeriod || top.Source.Profiles != 3 || !reflect.DeepEqual(top.Rows, want) {
					t.Errorf("%s", body)
				}
			}},
		{"GET /api/v1/flamegraph", "/api/v1/flamegraph" + during(base, 0, 10, "query", `{service_name="api"}`, "b.from", unix(base, 10)), "",
			is(`{"unit":"nanoseconds","total":40000000,"names":["total","main","handle","parse","encode"],"files":[0,1,1,1,1],
				"file_names":["","/usr/bin/api"],"depth":[0,1,2,3,3],"name":[0,1,2,3,4],"self":[0,0,0,30000000,10000000],
				"pruned_count":[0,0,0,0,0],"pruned_value":[0,0,0,0,0],"total_b":20000000,"self_b":[0,0,0,20000000,0],
				"pruned_value_b":[0,0,0,0,0],"profiles":1,"damaged":0,"profiles_b":1,"damaged_b":0}`)},
		{"GET /api/v1/export", "/api/v1/export" + all("query", `{pid="100"}`, "format", "folded"), "",
			is("main;handle;parse 30000000\nmain;handle;encode 10000000\n")},
		{"GET /api/v1/flamegraph", "/api/v1/flamegraph" + all("filter", "ignore:tick", "filter", "hide:^main$", "filter", "focus:handle"), "",
			is(`{"unit":"nanoseconds","total":60000000,"names":["total","handle","parse","encode"],"files":[0,1,1,1],
				"file_names":["","/usr/bin/api"],"depth":[0,1,2,2],"name":[0,1,2,3],"self":[0,0,50000000,10000000],
				"pruned_count":[0,0,0,0],"pruned_value":[0,0,0,0],"profiles":4,"damaged":0,"removed":[10000000,0,40000000]}`)},
		{"GET /api/v1/top", "/api/v1/top" + all("query", `{service_name="db"}`, "b.query", `{service_name="cron"}`, "normalize", "true"), "",
			is(`{"unit":"nanoseconds","total":40000000,"total_b":10000000,"rows":[
				{"function":"scan","binary":"/usr/bin/db","file":"db.c","self":40000000,"total":40000000,"self_b":0,"total_b":0},
				{"function":"tick","binary":"/usr/bin/cron","file":"cron.c","self":0,"total":0,"self_b":10000000,"total_b":10000000},
				{"function":"main","binary":"/usr/bin/cron","file":"cron.c","self":0,"total":40000000,"self_b":0,"total_b":10000000}],
				"profiles":1,"damaged":0,"profiles_b":1,"damaged_b":0}`)},
		{"GET /api/v1/sandwich", "/api/v1/sandwich" + all("function", "handle"), "",
			is(`{"unit":"nanoseconds","total":110000000,"function":{"function":"handle","binary":"/usr/bin/api","file":"api.c","self":0,"total":60000000},
				"callers":[{"function":"main","value":60000000}],"callees":[{"function":"parse","value":50000000},{"function":"encode","value":10000000}],
				"caller_graph":{"unit":"nanoseconds","total":60000000,"names":["handle","main"],"files":[1,1],"file_names":["","/usr/bin/api"],
					"depth":[0,1],"name":[0,1],"self":[0,60000000],"pruned_count":[0,0],"pruned_value":[0,0]},
				"callee_graph":{"unit":"nanoseconds","total":60000000,"names":["handle","parse","encode"],"files":[1,1,1],"file_names":["","/usr/bin/api"],
					"depth":[0,1,1],"name":[0,1,2],"self":[0,50000000,10000000],"pruned_count":[0,0,0],"pruned_value":[0,0,0]},
				"profiles":4,"damaged":0}`)},
		{"GET /api/v1/pprof", "/api/v1/pprof" + all("filter", "focus:parse", "filter", "show_from:handle"), "",
			func(t *testing.T, _ *http.Response, body []byte) {
				p, err := profile.ParseData(body)
				if err != nil {
					t.Fatal(err)
				}
				if len(p.Sample) != 2 || len(p.Sample[0].Location) != 2 || len(p.Function) != 2 {
					t.Errorf("%v", p)
				}
			}},
		{"GET /api/v1/profiles", "/api/v1/profiles" + all("limit", "3"), "",
			func(t *testing.T, _ *http.Response, body []byte) {
				var got ProfilesAnswer
				if err := json.Unmarshal(body, &got); err != nil {
					t.Fatal(err)
				}
				if len(got.Profiles) != 3 || !got.More || got.Profiles[0].TimeMS != baseMS+10_000 || got.Profiles[2].TimeMS != baseMS {
					t.Errorf("%s", body)
				}
			}},
		{"GET /api/v1/profiles", "/api/v1/profiles" + all("query", `{service_name="db"}`), "",
			func(t *testing.T, _ *http.Response, body []byte) {
				var got ProfilesAnswer
				if err := json.Unmarshal(body, &got); err != nil {
					t.Fatal(err)
				}
				e := testBatch(t, base)[3]
				want := ProfileEntry{
					ID: e.ID.String(), Name: "process_cpu", Labels: labelMap(e.Labels), TimeMS: baseMS + 10_000,
					DurationMS: 10_000, Value: 4 * testPeriod,
				}
				if len(got.Profiles) == 1 {
					want.Bytes = got.Profiles[0].Bytes
				}
				if len(got.Profiles) != 1 || got.More || want.Bytes == 0 || !reflect.DeepEqual(got.Profiles[0], want) {
					t.Errorf("%s, want %+v", body, want)
				}
			}},
		{"GET /api/v1/pprof", "/api/v1/pprof" + all("query", `{service_name="api", pid="100"}`), "",
			func(t *testing.T, resp *http.Response, body []byte) {
				_, disposition, err := mime.ParseMediaType(resp.Header.Get("Content-Disposition"))
				const format = "20060102T150405Z"
				want := "pilotlight-api-100-" + base.UTC().Format(format) + "-" + base.Add(time.Minute).UTC().Format(format) + ".pb.gz"
				if err != nil || disposition["filename"] != want {
					t.Errorf("Content-Disposition %q, want %s", resp.Header.Get("Content-Disposition"), want)
				}
				if !bytes.HasPrefix(body, []byte{0x1f, 0x8b}) || resp.Header.Get("Content-Encoding") != "" {
					t.Error("not a gzipped file")
				}
				p, err := profile.ParseData(body)
				if err != nil {
					t.Fatal(err)
				}
				if err := p.CheckValid(); err != nil || len(p.Sample) != 2 || p.DefaultSampleType != "cpu" {
					t.Errorf("%v, %v", err, p)
				}
			}},
		{"GET /metrics", "/metrics", "", is(`pilotlight_query_seconds_count{route="/api/v1/top"} 4`)},
		{"GET /debug/pprof/*", "/debug/pprof/", "", is("goroutine")},
		{"GET /debug/pprof/*", "/debug/pprof/goroutine?debug=1", "", is("goroutine profile: total")},
		{"GET /debug/pprof/cmdline", "/debug/pprof/cmdline", "", is("test")},
		{"GET /debug/pprof/profile", "/debug/pprof/profile?seconds=1", "", is("\x1f\x8b")},
		{"GET /debug/pprof/symbol", "/debug/pprof/symbol", "", is("num_symbols: 1")},
		{"POST /debug/pprof/symbol", "/debug/pprof/symbol", "0x1", is("num_symbols: 1")},
		{"GET /debug/pprof/trace", "/debug/pprof/trace?seconds=0.1", "", is("go 1.")},
		{"GET /-/healthy", "/-/healthy", "", is("healthy\n")},
		{"GET /-/ready", "/-/ready", "", is("ready\n")},
		{"POST " + pushProcedure, pushProcedure, "{}", is("{}")},
		{"POST /ingest", "/ingest?name=cron&from=" + unix(base, 30), "", is("")},
		{"POST " + querierPrefix + "ProfileTypes", querierPrefix + "ProfileTypes", "{}", is(`{"profileTypes":[
			{"ID":"process_cpu:cpu:nanoseconds:cpu:nanoseconds","name":"process_cpu","sampleType":"cpu","sampleUnit":"nanoseconds","periodType":"cpu","periodUnit":"nanoseconds"},
			{"ID":"process_cpu:samples:count:cpu:nanoseconds","name":"process_cpu","sampleType":"samples","sampleUnit":"count","periodType":"cpu","periodUnit":"nanoseconds"}]}`)},
		{"POST " + querierPrefix + "LabelNames", querierPrefix + "LabelNames", "{}",
			is(`{"names":["__profile_type__","comm","hostname","pid","service_name"]}`)},
		{"POST " + querierPrefix + "LabelValues", querierPrefix + "LabelValues", `{"name":"pid","matchers":["{service_name=\"api\"}"]}`, is(`{"names":["100","101"]}`)},
		{"POST " + querierPrefix + "Series", querierPrefix + "Series", `{"labelNames":["service_name"],"matchers":["{service_name=~\"api|db\"}"]}`,
			is(`{"labelsSet":[{"labels":[{"name":"service_name","value":"api"}]},{"labels":[{"name":"service_name","value":"db"}]}]}`)},
		{"POST " + querierPrefix + "SelectSeries", querierPrefix + "SelectSeries",
			fmt.Sprintf(`{"profile_typeID":"process_cpu:samples:count:cpu:nanoseconds","labelSelector":"{}","start":%d,"end":%d,"step":60}`, baseMS, baseMS+59_999),
			is(fmt.Sprintf(`{"series":[{"points":[{"value":11,"timestamp":"%d"}]}]}`, baseMS+60_000))},
		{"POST " + querierPrefix + "SelectMergeStacktraces", querierPrefix + "SelectMergeStacktraces", `{"labelSelector":"{service_name=\"db\"}"}`,
			is(`{"flamegraph":{"names":["total","main","scan"],"levels":[{"values":["0","40000000","0","0"]},{"values":["0","40000000","0","1"]},
				{"values":["0","40000000","40000000","2"]}],"total":"40000000","maxSelf":"40000000"}}`)},
		{"POST " + querierPrefix + "SelectMergeProfile", querierPrefix + "SelectMergeProfile", `{"labelSelector":"{service_name=\"db\"}"}`,
			func(t *testing.T, _ *http.Response, body []byte) {
				var p struct{ StringTable []string }
				if err := json.Unmarshal(body, &p); err != nil || !slices.Contains(p.StringTable, "scan") {
					t.Errorf("%s: %v", body, err)
				}
			}},
		{"POST " + querierPrefix + "Diff", querierPrefix + "Diff", `{"left":{"labelSelector":"{service_name=\"db\"}"},"right":{"labelSelector":"{service_name=\"cron\"}"}}`,
			is(`{"flamegraph":{"names":["total","main","scan","main","tick"],"levels":[{"values":["0","40000000","0","0","10000000","0","0"]},
				{"values":["0","40000000","0","0","0","0","1","0","0","0","0","10000000","0","3"]},
				{"values":["0","40000000","40000000","0","0","0","2","0","0","0","0","10000000","10000000","4"]}],
				"total":"50000000","maxSelf":"40000000","leftTicks":"40000000","rightTicks":"10000000"}}`)},
	}
	tested := map[string]bool{"GET /api/v1/source": true} // by TestSource, with files to serve
	for _, tt := range cases {
		tested[tt.route] = true
		t.Run(tt.route, func(t *testing.T) {
			method, _, _ := strings.Cut(tt.route, " ")
			var body io.Reader
			header := http.Header{}
			if method == http.MethodPost {
				body = strings.NewReader(tt.body)
				header.Set("Content-Type", "application/json")
			}
			resp, b := send(t, s, method, tt.path, header, body)
			if resp.StatusCode/100 != 2 {
				t.Fatalf("%s: %s: %s", tt.path, resp.Status, b)
			}
			tt.check(t, resp, b)
			if method == http.MethodGet && !strings.Contains(tt.path, "seconds=") {
				if resp, b := send(t, s, http.MethodHead, tt.path, nil, nil); resp.StatusCode != 200 || len(b) > 0 {
					t.Errorf("HEAD: %s, %d bytes", resp.Status, len(b))
				}
			}
		})
	}
	for _, r := range newAPI(store, Options{}).router().Routes() {
		if r.Method == http.MethodHead {
			r.Method = http.MethodGet // asked beside it
		}
		if !tested[r.Method+" "+r.Path] {
			t.Errorf("route %s %s has no case here", r.Method, r.Path)
		}
	}
}

func TestDefaultRange(t *testing.T) {
	s := newTestServer(t, newTestStore(t), Options{})
	fill(t, s, testBase())
	for path, want := range map[string]string{
		"/api/v1/label/service_name/values":             `{"values":["api","cron","db"]}`, // the last hour
		"/api/v1/label/service_name/values?from=now-1m": `{"values":[]}`,
		"/api/v1/label/service_name/values?to=now-30m":  `{"values":[]}`, // the hour before that
	} {
		if _, b := get(t, s, path); strings.TrimSpace(string(b)) != want {
			t.Errorf("%s: %s, want %s", path, b, want)
		}
	}
}

func TestPackedAnswer(t *testing.T) {
	s := newTestServer(t, newTestStore(t), Options{})
	batch := testBatch(t, testBase())
	deep := stacks{}
	for i := range 200 {
		deep[fmt.Sprintf("main;function_%d", i)] = 1
	}
	batch = append(batch, encode(t, "wide", "1", testBase(), deep))
	c, err := NewClient(s.URL, ClientOptions{HTTP: s.Client()})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Append(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	const path = "/api/v1/flamegraph"
	// The transport asks for gzip by itself, and says so when it has unpacked it.
	resp, body := get(t, s, path)
	if !resp.Uncompressed || !json.Valid(body) {
		t.Errorf("not gzipped: %v", resp.Header)
	}
	// A browser offers more.
	resp, packed := send(t, s, http.MethodGet, path, http.Header{"Accept-Encoding": {"gzip, deflate, br, zstd"}}, nil)
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	if b, err := z.DecodeAll(packed, nil); err != nil || resp.Header.Get("Content-Encoding") != "zstd" || !bytes.Equal(b, body) {
		t.Errorf("not zstd: %v, %v", err, resp.Header)
	}
	resp, plain := send(t, s, http.MethodGet, path, http.Header{"Accept-Encoding": {"identity"}}, nil)
	if resp.Header.Get("Content-Encoding") != "" || !bytes.Equal(plain, body) {
		t.Errorf("identity: %v", resp.Header)
	}
	if !strings.Contains(resp.Header.Get("Vary"), "Accept-Encoding") {
		t.Errorf("Vary: %q", resp.Header.Get("Vary"))
	}
}

// TestColumns asks for the compact form, which holds what JSON does.
func TestColumns(t *testing.T) {
	s := newTestServer(t, newTestStore(t), Options{})
	base := testBase()
	fill(t, s, base)
	for _, path := range []string{
		"/api/v1/flamegraph" + during(base, 0, 60),
		"/api/v1/flamegraph" + during(base, 0, 10, "b.to", unix(base, 20), "max_nodes", "3"),
	} {
		resp, packed := send(t, s, http.MethodGet, path, http.Header{"Accept": {"text/html, " + flamegraph.ColumnsType + ";q=0.5"}}, nil)
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != flamegraph.ColumnsType || resp.Header.Get("Pilotlight-Damaged") != "0" {
			t.Fatalf("%s: %v", resp.Status, resp.Header)
		}
		g, err := flamegraph.DecodeColumns(packed)
		if err != nil {
			t.Fatal(err)
		}
		resp, body := get(t, s, path)
		var want FlamegraphAnswer
		if err := json.Unmarshal(body, &want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(g, want.Graph) || !slices.Contains(resp.Header.Values("Vary"), "Accept") {
			t.Errorf("got  %+v\nwant %+v\n%v", g, want.Graph, resp.Header)
		}
	}
	for accept, want := range map[string]bool{
		"": false, "*/*": false, "application/*": false, "application/json": false, flamegraph.ColumnsType: true,
		flamegraph.ColumnsType + ";q=0": false, "a/b;;," + flamegraph.ColumnsType: true,
	} {
		if got := accepts(&http.Request{Header: http.Header{"Accept": {accept}}}, flamegraph.ColumnsType); got != want {
			t.Errorf("Accept: %s: %v", accept, got)
		}
	}
}

// Of a range of which one end is given, the other is as far away as in the range that it is compared with.
func TestOtherRange(t *testing.T) {
	for _, tt := range []struct {
		params   string
		from, to int64 // of b, Unix seconds
	}{
		{"b.from=100", 100, 110},
		{"b.to=100", 90, 100},
		{"b.from=100&b.to=103", 100, 103},
		{"b.query={}", 1000, 1010},
		{"b.to=3", 0, 3},
	} {
		r := httptest.NewRequest("GET", "/?from=1000&to=1010&"+tt.params, nil)
		p, q, err := readQuery(r, stacked...)
		if err != nil {
			t.Fatal(err)
		}
		b, diff, err := p.other(q)
		if err != nil || !diff || b.From != tt.from*1e9 || b.To != tt.to*1e9 {
			t.Errorf("%s: %v, %d to %d, %v", tt.params, diff, b.From, b.To, err)
		}
	}
}

func TestReady(t *testing.T) {
	var logs logBuffer
	s := newTestServer(t, nil, Options{
		Ready:  func() error { return errors.New("the sampler is not attached") },
		Logger: slog.New(slog.NewTextHandler(&logs, nil)),
	})
	resp, b := get(t, s, "/-/ready")
	if resp.StatusCode != 503 || !strings.Contains(string(b), "the sampler is not attached") {
		t.Errorf("%s: %s", resp.Status, b)
	}
	if resp, _ := get(t, s, "/-/healthy"); resp.StatusCode != 200 {
		t.Errorf("healthy: %s", resp.Status)
	}
	s.Close() // waits for the log
	if logs.String() != "" {
		t.Errorf("who asks too early is told so, and nobody else: %s", logs.String())
	}
}

// The page gets what is a page's, and no path of the API that is only misspelt.
func TestUI(t *testing.T) {
	ui := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "page "+r.URL.Path) })
	s := newTestServer(t, nil, Options{UI: ui})
	for _, path := range []string{"/", "/explore", "/assets/app.js", "/favicon.v1.ico"} {
		if resp, b := get(t, s, path); resp.StatusCode != 200 || string(b) != "page "+path {
			t.Errorf("%s: %s: %s", path, resp.Status, b)
		}
	}
	for _, req := range []string{"GET /api", "GET /api/v1/flamegraf", "GET /api/v2/top", "GET /debug/", "GET /-/nothing", "POST /", "POST /ingest/x", "POST /other.v1.Service/Do"} {
		method, path, _ := strings.Cut(req, " ")
		resp, b := send(t, s, method, path, nil, nil)
		var body struct{ Error errorBody }
		if err := json.Unmarshal(b, &body); err != nil || resp.StatusCode != 404 || body.Error.Code != "not_found" {
			t.Errorf("%s: %s: %s", req, resp.Status, b)
		}
	}
}
