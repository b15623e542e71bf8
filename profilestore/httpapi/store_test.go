package httpapi

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"pilotlight/profilestore"
)

const ms = int64(time.Millisecond)

// testPeriod is the CPU time of one sample.
const testPeriod = 10 * ms

func newTestStore(t *testing.T) *profilestore.Store {
	t.Helper()
	s, err := profilestore.Open(t.TempDir(), profilestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// newTestServer serves a store on a real listener with the timeouts of NewServer. The store is nil in tests of
// what must be answered without asking it.
func newTestServer(t *testing.T, store *profilestore.Store, o Options) *httptest.Server {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := httptest.NewUnstartedServer(nil)
	s.Config = NewServer(NewHandler(store, o))
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// stacks are samples of a profile: "main;handle;parse", root first, with their number.
type stacks map[string]int64

// encode makes a profile as an agent sends it.
func encode(t *testing.T, service, pid string, start time.Time, ss stacks) profilestore.Encoded {
	t.Helper()
	m := &profile.Mapping{ID: 1, Start: 0x1000, Limit: 0x9000, File: "/usr/bin/" + service, BuildID: "abcd", HasFunctions: true, HasFilenames: true, HasLineNumbers: true}
	p := &profile.Profile{
		SampleType:    []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}},
		PeriodType:    &profile.ValueType{Type: "cpu", Unit: "nanoseconds"},
		Period:        testPeriod,
		TimeNanos:     start.UnixNano(),
		DurationNanos: int64(10 * time.Second),
		Mapping:       []*profile.Mapping{m},
	}
	locations := map[string]*profile.Location{}
	// In order, so that a function of a build ID has the same address in each profile that has the same stacks.
	for _, stack := range slices.Sorted(maps.Keys(ss)) {
		n := ss[stack]
		var leafFirst []*profile.Location
		for name := range strings.SplitSeq(stack, ";") {
			l := locations[name]
			if l == nil {
				id := uint64(len(locations) + 1)
				f := &profile.Function{ID: id, Name: name, SystemName: name, Filename: service + ".c"}
				l = &profile.Location{ID: id, Mapping: m, Address: 0x1000 + id*16, Line: []profile.Line{{Function: f, Line: 7}}}
				locations[name] = l
				p.Function = append(p.Function, f)
				p.Location = append(p.Location, l)
			}
			leafFirst = append([]*profile.Location{l}, leafFirst...)
		}
		p.Sample = append(p.Sample, &profile.Sample{
			Location: leafFirst, Value: []int64{n, n * testPeriod}, Label: map[string][]string{"pid": {pid}, "comm": {service}},
		})
	}
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	id := profilestore.ID{15: byte(len(service))}
	copy(id[:], fmt.Sprintf("%s%s%d", service, pid, start.Unix()%1e6))
	return profilestore.Encoded{
		ID: id, Name: "process_cpu", Labels: profilestore.NewLabels(map[string]string{"service_name": service, "hostname": "box"}),
		Time: start.UnixNano(), Duration: 10 * time.Second, Pprof: b.Bytes(),
	}
}

// testBase is when the profiles of testBatch begin: on a minute, and inside every retention.
func testBase() time.Time { return time.Now().Truncate(time.Minute).Add(-10 * time.Minute) }

// testBatch is two windows of a small machine:
//
//	          base   base+10s
//	api        40       20     ms, pid 100 and then 101
//	cron       10
//	db                  40
func testBatch(t *testing.T, base time.Time) []profilestore.Encoded {
	later := base.Add(10 * time.Second)
	return []profilestore.Encoded{
		encode(t, "api", "100", base, stacks{"main;handle;parse": 3, "main;handle;encode": 1}),
		encode(t, "cron", "300", base, stacks{"main;tick": 1}),
		encode(t, "api", "101", later, stacks{"main;handle;parse": 2}),
		encode(t, "db", "200", later, stacks{"main;scan": 4}),
	}
}

// fill pushes testBatch by the client.
func fill(t *testing.T, s *httptest.Server, base time.Time) {
	t.Helper()
	c, err := NewClient(s.URL, ClientOptions{HTTP: s.Client()})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Append(t.Context(), testBatch(t, base)); err != nil {
		t.Fatal(err)
	}
}

// during are parameters for [base+from, base+to) in seconds.
func during(base time.Time, from, to int64, more ...string) string {
	v := url.Values{"from": {strconv.FormatInt(base.Unix()+from, 10)}, "to": {strconv.FormatInt(base.Unix()+to, 10)}}
	for i := 0; i < len(more); i += 2 {
		v.Add(more[i], more[i+1])
	}
	return "?" + v.Encode()
}

// unix is a time some seconds after base as a parameter.
func unix(base time.Time, seconds int64) string { return strconv.FormatInt(base.Unix()+seconds, 10) }

// get returns the answer to a request and its body.
func get(t *testing.T, s *httptest.Server, path string) (*http.Response, []byte) {
	t.Helper()
	return send(t, s, http.MethodGet, path, nil, nil)
}

func send(t *testing.T, s *httptest.Server, method, path string, header http.Header, body io.Reader) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range header {
		req.Header[name] = v
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, b
}
