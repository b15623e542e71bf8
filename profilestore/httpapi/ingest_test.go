package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/pprof/profile"
	"github.com/grafana/pyroscope-go"

	"pilotlight/profilestore"
)

// clientLog is what pyroscope-go says of its uploads.
type clientLog struct{ t *testing.T }

func (clientLog) Infof(string, ...any)  {}
func (clientLog) Debugf(string, ...any) {}
func (l clientLog) Errorf(format string, args ...any) {
	l.t.Errorf("pyroscope-go: "+format, args...)
}

// TestPyroscopeGo has Pyroscope's own client profile this process and upload what it finds.
func TestPyroscopeGo(t *testing.T) {
	s := newTestServer(t, newTestStore(t), Options{})
	p, err := pyroscope.Start(pyroscope.Config{
		ApplicationName: "self", ServerAddress: s.URL, Tags: map[string]string{"region": "eu"}, Logger: clientLog{t},
		UploadRate: time.Hour, HTTPClient: s.Client(), DisableGCRuns: true,
		ProfileTypes: []pyroscope.ProfileType{pyroscope.ProfileCPU, pyroscope.ProfileInuseSpace, pyroscope.ProfileGoroutines},
	})
	if err != nil {
		t.Fatal(err)
	}
	kept := make([][]byte, 64)
	for end := cpuTime(t) + 300*time.Millisecond; cpuTime(t) < end; { // on the clock it may get none on a busy machine
		for i := range kept {
			kept[i] = bytes.Repeat([]byte{1}, 64<<10)
		}
	}
	p.Flush(true)
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	_, b := get(t, s, "/api/v1/types")
	for _, want := range []string{"process_cpu:cpu:nanoseconds:cpu:nanoseconds", "memory:inuse_space:bytes:space:bytes", "goroutine"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("types %s lack %s", b, want)
		}
	}
	_, b = get(t, s, "/api/v1/top?query="+url.QueryEscape(`{service_name="self", region="eu"}`))
	if !strings.Contains(string(b), "TestPyroscopeGo") {
		t.Errorf("the table lacks this test: %.400s", b)
	}
}

// cpuTime is what this process has taken.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestIngest(t *testing.T) {
	base := testBase()
	raw := encode(t, "api", "100", base, stacks{"main;work": 3}).Pprof
	form := func(parts map[string]string) (string, []byte) {
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		for name, content := range parts {
			part, err := w.CreateFormFile(name, name)
			if err == nil {
				_, err = part.Write([]byte(content))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return w.FormDataContentType(), b.Bytes()
	}
	formType, formBody := form(map[string]string{"profile": string(raw)})
	mutexType, mutexBody := form(map[string]string{"profile": string(raw), "sample_type_config": `{"samples":{"display-name":"mutex_count","units":"lock_samples"}}`})
	from, until := base.Unix(), base.Unix()+10
	for _, tt := range []struct {
		name, params, contentType string
		body                      []byte
		want                      string // type, labels, value
	}{
		{"folded", fmt.Sprintf("name=app{region=eu,k8s.pod=a-1}&from=%d&until=%d&sampleRate=50", from, until), "", []byte("main;work 3\nmain;idle 1\n\nmain;work 2\n"),
			"process_cpu map[k8s_pod:a-1 region:eu service_name:app] 120000000 10s"},
		{"folded without a rate is 100 Hz", fmt.Sprintf("name=app.cpu&from=%d&until=%d&format=folded&units=samples&spyName=rbspy&aggregationType=sum", from, until), "binary/octet-stream",
			[]byte("main 7\r\n"), "process_cpu map[service_name:app] 70000000 10s"},
		{"lines", fmt.Sprintf("name=app&from=%d&until=%d&format=lines", from, until), "text/plain", []byte("main;a b\nmain;a b\n"), "process_cpu map[service_name:app] 20000000 10s"},
		{"memory", fmt.Sprintf("name=app.alloc_space{}&from=%d&until=%d&units=bytes", from, until), "", []byte("main 4096\n"), "memory map[service_name:app] 4096 10s"},
		{"a service name with a dot", fmt.Sprintf("name=com.example.api&from=%d000&until=%d000", from, until), "", []byte("main 1\n"), "process_cpu map[service_name:com.example.api] 10000000 10s"},
		{"service_name among the tags", fmt.Sprintf("name=app{service_name=api,__session_id__=77}&from=%d000000&until=%d000000", from, until), "", []byte("main 1\n"),
			"process_cpu map[app_name:app service_name:api] 10000000 10s"},
		{"pprof", fmt.Sprintf("name=app&format=pprof&from=%d000000000&until=%d000000000", from, until), "", raw, "process_cpu map[service_name:app] 30000000 10s"},
		{"pprof with its own time", "name=app&format=pprof", "", raw, "process_cpu map[service_name:app] 30000000 10s"},
		{"form", fmt.Sprintf("name=app{a=1}&from=%d&until=%d", from, until), formType, formBody, "process_cpu map[a:1 service_name:app] 30000000 10s"},
		{"form with a display name", fmt.Sprintf("name=app&from=%d&until=%d", from, until), mutexType, mutexBody, "mutex map[service_name:app] 30000000 10s"},
		{"nothing ran", "name=app", "", nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newTestServer(t, newTestStore(t), Options{})
			header := http.Header{}
			if tt.contentType != "" {
				header.Set("Content-Type", tt.contentType)
			}
			for range 2 { // the second is a retry after a lost answer
				resp, b := send(t, s, http.MethodPost, "/ingest?"+strings.NewReplacer("{", "%7B", "}", "%7D").Replace(tt.params), header, bytes.NewReader(tt.body))
				if resp.StatusCode != http.StatusOK {
					t.Fatalf("%s: %s", resp.Status, b)
				}
			}
			var got []string
			for _, e := range everything(t, s.URL, s.Client()) {
				if e.TimeMS != base.UnixMilli() {
					t.Errorf("time %d, want %d", e.TimeMS, base.UnixMilli())
				}
				got = append(got, fmt.Sprint(e.Name, " ", e.Labels, " ", e.Value, " ", time.Duration(e.DurationMS)*time.Millisecond))
			}
			if strings.Join(got, "\n") != tt.want {
				t.Errorf("stored %q, want %q", got, tt.want)
			}
		})
	}
}

// everything lists the profiles of all kinds, once each, with the value of their last sample type.
func everything(t *testing.T, server string, c *http.Client) []ProfileEntry {
	t.Helper()
	ask := func(path string, answer any) {
		resp, err := c.Get(server + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
			t.Fatal(err)
		}
	}
	var types struct{ Types []string }
	ask("/api/v1/types", &types)
	found := map[string]ProfileEntry{}
	for _, typ := range types.Types {
		if strings.Contains(typ, ":samples:") {
			continue
		}
		var ans ProfilesAnswer
		ask("/api/v1/profiles?type="+url.QueryEscape(typ), &ans)
		for _, e := range ans.Profiles {
			found[e.ID] = e
		}
	}
	var list []ProfileEntry
	for e := range maps.Values(found) {
		list = append(list, e)
	}
	return list
}

// A folded profile is stored with its stacks the right way round.
func TestIngestStacks(t *testing.T) {
	s := newTestServer(t, newTestStore(t), Options{})
	if resp, b := send(t, s, http.MethodPost, "/ingest?name=app&sampleRate=1000", nil, strings.NewReader("main;a;leaf 2\nmain;b 1\n")); resp.StatusCode != 200 {
		t.Fatalf("%s: %s", resp.Status, b)
	}
	_, b := get(t, s, "/api/v1/pprof?from=now-1m&to="+url.QueryEscape(time.Now().Add(time.Minute).UTC().Format(time.RFC3339)))
	p, err := profile.ParseData(b)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for _, sample := range p.Sample {
		var names []string
		for _, l := range sample.Location {
			names = append(names, l.Line[0].Function.Name)
		}
		values[strings.Join(names, "<")] = fmt.Sprint(sample.Value)
	}
	if want := map[string]string{"leaf<a<main": "[2 2000000]", "b<main": "[1 1000000]"}; !maps.Equal(values, want) || p.Period != 1e6 {
		t.Errorf("%v with a period of %d, want %v", values, p.Period, want)
	}
}

func TestIngestRefusals(t *testing.T) {
	s := newTestServer(t, nil, Options{})
	var many strings.Builder
	for i := range maxFoldedStacks + 1 {
		fmt.Fprintf(&many, "f%d 1\n", i)
	}
	var names strings.Builder
	for i := range maxFoldedNames + 1 {
		fmt.Fprintf(&names, "%d", i)
		if names.WriteByte(';'); i%100 == 0 {
			names.WriteString("x 1\n")
		}
	}
	names.WriteString("x 1\n")
	bomb := gzipped(t, make([]byte, maxInflated+1))
	for _, tt := range []struct {
		params, body string
		status       int
		want         string
	}{
		{"", "main 1", 400, "write the name of the application"},
		{"name=%7Ba=b%7D", "main 1", 400, "write the name of the application"},
		{"name=app%7Ba=b", "main 1", 400, "as in api{region=eu,pod=a}"},
		{"name=app%7Ba%7D", "main 1", 400, "as in api{region=eu,pod=a}"},
		{"name=app&from=yesterday", "main 1", 400, "not a time"},
		{"name=app&from=1763690410&until=1763690400", "main 1", 400, "swap them"},
		{"name=app&sampleRate=0", "main 1", 400, "samples a second"},
		{"name=app&units=bytes", "main 1", 400, "api.alloc_space"},
		{"name=app&format=jfr", "main 1", 400, "send pprof or folded"},
		{"name=app", "main one", 400, "line 1"},
		{"name=app", "main 1\nmain\n", 400, "line 2"},
		{"name=app", "main -1\n", 400, "a whole number"},
		{"name=app", "main 1099511627777\n", 400, "2^40"},
		{"name=app", many.String(), 413, "65536 stacks"},
		{"name=app", strings.Repeat("x", maxFoldedLine+1) + " 1", 413, "line 1 is above 4 MB"},
		{"name=app", names.String(), 413, "262144 functions"},
		{"name=app&format=pprof", "GIF89a", 400, "not a pprof profile"},
		{"name=app&format=pprof", "", 400, "not a pprof profile"},
		{"name=app&format=pprof", string(bomb), 413, "inflated profile is above 64 MB"},
	} {
		resp, b := send(t, s, http.MethodPost, "/ingest?"+tt.params, nil, strings.NewReader(tt.body))
		var e struct{ Error errorBody }
		if err := json.Unmarshal(b, &e); err != nil || resp.StatusCode != tt.status || !strings.Contains(e.Error.Message, tt.want) {
			t.Errorf("%s, %.40q: %s: %s, want %d with %q", tt.params, tt.body, resp.Status, b, tt.status, tt.want)
		}
	}
	for body, want := range map[string]string{
		"--x\r\nContent-Disposition: form-data; name=\"other\"\r\n\r\nz\r\n--x--\r\n":                                                                       "no part named profile",
		"--x\r\nContent-Disposition: form-data; name=\"profile\"\r\n\r\nz":                                                                                  "read form",
		"--x\r\nContent-Disposition: form-data; name=\"profile\"\r\n\r\nz\r\n--x\r\nContent-Disposition: form-data; name=\"profile\"\r\n\r\nz\r\n--x--\r\n": "two parts named profile",
		"--x\r\nContent-Disposition: form-data; name=\"prev_profile\"\r\n\r\nz\r\n--x--\r\n":                                                                "prev_profile",
		"--x\r\nContent-Disposition: form-data; name=\"sample_type_config\"\r\n\r\nz\r\n--x--\r\n":                                                          "not JSON",
	} {
		resp, b := send(t, s, http.MethodPost, "/ingest?name=app", http.Header{"Content-Type": {"multipart/form-data; boundary=x"}}, strings.NewReader(body))
		if resp.StatusCode != 400 || !strings.Contains(string(b), want) {
			t.Errorf("%q: %s: %s", body, resp.Status, b)
		}
	}
}

// Whatever is read as a folded profile, the store takes or refuses with a reason.
func FuzzFolded(f *testing.F) {
	f.Add([]byte("main;work 3\nmain 1\n"), false)
	f.Add([]byte("main;work\n;;\n"), true)
	f.Add([]byte(" 1\n; 2\n\xff\xfe 3\n"), false)
	store, err := profilestore.Open(f.TempDir(), profilestore.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { store.Close() })
	f.Fuzz(func(t *testing.T, b []byte, one bool) {
		stacks, err := parseFolded(bytes.NewReader(b), one)
		if err != nil || len(stacks) == 0 {
			return
		}
		now := time.Now()
		e := profilestore.Encoded{Name: "process_cpu", Time: now.UnixNano(), Labels: profilestore.NewLabels(map[string]string{"service_name": "x"})}
		var encoded bytes.Buffer
		p, err := folded["cpu"].profile(stacks, int64(10*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.CheckValid(); err != nil {
			t.Fatal(err)
		}
		if err := p.Write(&encoded); err != nil {
			t.Fatal(err)
		}
		e.Pprof = encoded.Bytes()
		var refused *profilestore.Error
		if err := store.Append(t.Context(), []profilestore.Encoded{e}); err != nil && !errors.As(err, &refused) {
			t.Fatal(err)
		}
	})
}
