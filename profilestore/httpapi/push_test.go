package httpapi

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	pushv1 "github.com/grafana/pyroscope/api/gen/proto/go/push/v1"
	typesv1 "github.com/grafana/pyroscope/api/gen/proto/go/types/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"pilotlight/profilestore"
)

func gzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstandard(t *testing.T, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

// message is a push of one profile.
func message(t *testing.T, raw []byte, id string) []byte {
	t.Helper()
	b, err := proto.Marshal(&pushv1.PushRequest{Series: []*pushv1.RawProfileSeries{{
		Labels:  []*typesv1.LabelPair{{Name: "__name__", Value: "process_cpu"}, {Name: "service_name", Value: "api"}, {Name: "__session_id__", Value: "77"}},
		Samples: []*pushv1.RawSample{{RawProfile: raw, ID: id}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func stored(t *testing.T, s *httptest.Server) []ProfileEntry {
	t.Helper()
	_, b := get(t, s, "/api/v1/profiles")
	var ans ProfilesAnswer
	if err := json.Unmarshal(b, &ans); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return ans.Profiles
}

// What Pyroscope's clients and Alloy send, and what curl may.
func TestPush(t *testing.T) {
	const id = "734fd599-6865-419e-9475-932762d8f469"
	base := testBase()
	raw := encode(t, "api", "100", base, stacks{"main;work": 3}).Pprof
	inJSON := fmt.Sprintf(`{"series":[{"labels":[{"name":"__name__","value":"process_cpu"},{"name":"service_name","value":"api"}],
		"samples":[{"rawProfile":%q,"ID":%q}]}]}`, base64.StdEncoding.EncodeToString(raw), strings.ToUpper(id))
	for _, tt := range []struct {
		name, contentType, encoding string
		body                        []byte
	}{
		{"protobuf", "application/proto", "", message(t, raw, id)},
		{"JSON", "application/json", "", []byte(inJSON)},
		{"gzip", "application/proto", "gzip", gzipped(t, message(t, raw, id))},
		{"zstd", "application/proto", "zstd", zstandard(t, message(t, raw, id))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newTestServer(t, newTestStore(t), Options{})
			header := http.Header{"Content-Type": {tt.contentType}, "Connect-Protocol-Version": {"1"}}
			if tt.encoding != "" {
				header.Set("Content-Encoding", tt.encoding)
			}
			for range 2 { // the second is a retry after a lost answer
				if resp, b := send(t, s, http.MethodPost, pushProcedure, header, bytes.NewReader(tt.body)); resp.StatusCode != 200 {
					t.Fatalf("%s: %s", resp.Status, b)
				}
			}
			got := stored(t, s)
			if len(got) != 1 || got[0].ID != id || got[0].TimeMS != base.UnixMilli() || got[0].Value != 3*testPeriod {
				t.Fatalf("stored %+v", got)
			}
			if fmt.Sprint(got[0].Labels) != "map[service_name:api]" {
				t.Errorf("labels %v", got[0].Labels)
			}
		})
	}
}

// A profile of the Go runtime, by Connect's own client with gzip, as pyroscope-go sends it.
func TestPushRuntimeProfile(t *testing.T) {
	s := newTestServer(t, newTestStore(t), Options{})
	c := connect.NewClient[pushv1.PushRequest, pushv1.PushResponse](s.Client(), s.URL+pushProcedure, connect.WithSendGzip())
	req := &pushv1.PushRequest{}
	if err := proto.Unmarshal(message(t, cpuProfile(t), ""), req); err != nil {
		t.Fatal(err)
	}
	before := time.Now().Add(-time.Minute).UnixMilli()
	if _, err := c.CallUnary(t.Context(), connect.NewRequest(req)); err != nil {
		t.Fatal(err)
	}
	got := stored(t, s)
	if len(got) != 1 || got[0].TimeMS < before {
		t.Errorf("stored %+v", got)
	}
}

// zeros is a body that never ends by itself, and counts what was taken of it.
type zeros struct{ n atomic.Int64 }

func (z *zeros) Read(p []byte) (int, error) {
	clear(p)
	z.n.Add(int64(len(p)))
	return len(p), nil
}

func TestPushHostile(t *testing.T) {
	s := newTestServer(t, newTestStore(t), Options{})
	bomb := gzipped(t, make([]byte, maxInflated+1))
	large := make([]byte, maxInflated+1) // packs to a fortieth
	for i := 0; i < len(large); i += 40_000 {
		part := large[i:min(i+1000, len(large))]
		for j := range part {
			part[j] = byte(rand.Uint32())
		}
	}
	for _, tt := range []struct {
		name, encoding string
		body           []byte
		status         int
		code, message  string
	}{
		{"gzip bomb", "gzip", bomb, 413, "resource_exhausted", "inflates to more than 100 times"},
		{"zstd bomb", "zstd", zstandard(t, make([]byte, maxInflated+1)), 413, "resource_exhausted", "inflates to more than 100 times"},
		{"large gzip", "gzip", gzipped(t, large), 413, "resource_exhausted", "inflated body is above 64 MB"},
		{"large zstd", "zstd", zstandard(t, large), 413, "resource_exhausted", "inflated body is above 64 MB"},
		{"bomb in a profile", "", message(t, bomb, ""), 400, "invalid_argument", "not a pprof protobuf"},
		{"bomb in gzip", "gzip", gzipped(t, message(t, bomb, "")), 400, "invalid_argument", "not a pprof protobuf"},
		{"not gzip", "gzip", []byte("plain"), 400, "invalid_argument", "read gzip body"},
		{"torn gzip", "gzip", bomb[:1000], 400, "invalid_argument", "read gzip body: unexpected EOF"},
		{"not zstd", "zstd", []byte("plain"), 400, "invalid_argument", "read zstd body"},
		{"brotli", "br", []byte("plain"), 400, "invalid_argument", "send gzip, zstd or none"},
		{"not protobuf", "", []byte("\xff\xff\xff"), 400, "invalid_argument", "unmarshal message"},
		{"not pprof", "", message(t, []byte("GIF89a"), ""), 400, "invalid_argument", "profile 1 of 1"},
		{"torn pprof", "", message(t, encode(t, "api", "1", testBase(), stacks{"main": 1}).Pprof[:40], ""), 400, "invalid_argument", "profile 1 of 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			header := http.Header{"Content-Type": {"application/proto"}}
			if tt.encoding != "" {
				header.Set("Content-Encoding", tt.encoding)
			}
			resp, b := send(t, s, http.MethodPost, pushProcedure, header, bytes.NewReader(tt.body))
			var e struct{ Code, Message string }
			if err := json.Unmarshal(b, &e); err != nil {
				t.Fatalf("%s: %s: %v", resp.Status, b, err)
			}
			if resp.StatusCode != tt.status || e.Code != tt.code || !strings.Contains(e.Message, tt.message) || strings.Contains(e.Message, "\n") {
				t.Errorf("%s: %s", resp.Status, b)
			}
		})
	}
	if got := stored(t, s); len(got) > 0 {
		t.Errorf("stored %+v", got)
	}
}

// A push of many parts, each of which is a few bytes long, is refused before it is unmarshalled.
func TestPushManyParts(t *testing.T) {
	s := newTestServer(t, newTestStore(t), Options{})
	field := func(number byte, b []byte) []byte {
		return append(binary.AppendUvarint([]byte{number<<3 | wireBytes}, uint64(len(b))), b...)
	}
	empty := func(number byte, n int) []byte { return bytes.Repeat(field(number, nil), n) }
	object := func(before, one, after string, n int) []byte {
		return []byte(before + strings.Repeat(one+",", n-1) + one + after)
	}
	const largest = 32 << 20 / 2
	for _, tt := range []struct {
		name, contentType string
		body              []byte
		message           string
	}{
		{"most series", messageProto, empty(fieldSeries, maxParts), "series 0: no label __name__"},
		{"series", messageProto, empty(fieldSeries, maxParts+1), "more than 500000"},
		{"most series there can be", messageProto, empty(fieldSeries, largest), "more than 500000"},
		{"most labels", messageProto, field(fieldSeries, empty(fieldLabels, maxParts-1)), "label \"\" is there twice"},
		{"labels", messageProto, field(fieldSeries, empty(fieldLabels, maxParts)), "more than 500000"},
		{"profiles", messageProto, field(fieldSeries, empty(fieldSamples, maxParts)), "more than 500000"},
		{"labels behind other fields", messageProto, append(field(15, make([]byte, 40_000)), field(fieldSeries, append(field(9, make([]byte, 70_000)), empty(fieldLabels, maxParts)...))...), "more than 500000"},
		{"series behind a profile", messageProto, append(field(fieldSeries, field(fieldSamples, empty(fieldSeries, maxParts))), empty(fieldSeries, maxParts-1)...), "more than 500000"},
		{"a profile of what looks like series", messageProto, field(fieldSeries, field(fieldSamples, empty(fieldSeries, maxParts))), "series 0: no label __name__"},
		{"groups", messageProto, []byte("\x0b\x0c"), "unmarshal message: field 1 has wire type 3"},
		{"a label longer than its series", messageProto, []byte("\x0a\x02\x0a\x05\x0a\x03\x0a\x01a"), "unmarshal message: unexpected EOF"},
		{"a length past the end of its series", messageProto, []byte("\x0a\x01\x0a\x00"), "unmarshal message: unexpected EOF"},
		{"a huge length", messageProto, []byte("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "unmarshal message: unexpected EOF"},
		{"most series in JSON", messageJSON, object(`{"series":[`, "{}", "]}", maxParts), "series 0: no label __name__"},
		{"series in JSON", messageJSON, object(`{"series":[`, "{}", "]}", maxParts+1), "more than 500000"},
		{"labels in JSON", messageJSON + "; charset=utf-8", object(`{"series":[{"labels":[`, "{}", "]}]}", maxParts), "more than 500000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			resp, b := send(t, s, http.MethodPost, pushProcedure, http.Header{"Content-Type": {tt.contentType}}, bytes.NewReader(tt.body))
			runtime.ReadMemStats(&after)
			status := 400
			if strings.HasPrefix(tt.message, "more") {
				status = 413
			}
			var e struct{ Message string }
			if err := json.Unmarshal(b, &e); err != nil || resp.StatusCode != status || !strings.Contains(e.Message, tt.message) {
				t.Errorf("%s: %s", resp.Status, b)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 512<<20 {
				t.Errorf("%d MB for a body of %d KB", n>>20, len(tt.body)>>10)
			}
		})
	}
}

// What gRPC packs inside of the body is not unpacked, also not over HTTP/1.1, for which gRPC-Web is meant.
func TestPushGRPC(t *testing.T) {
	s := newTestServer(t, newTestStore(t), Options{})
	bomb := gzipped(t, make([]byte, maxInflated))
	bomb = append(binary.BigEndian.AppendUint32([]byte{1}, uint32(len(bomb))), bomb...)
	for _, path := range []string{pushProcedure, querierPrefix + "SelectSeries"} {
		for _, contentType := range []string{
			"application/grpc", "application/grpc+proto", "application/grpc-web", "application/grpc-web+proto", "application/grpc-web+json",
			"application/connect+proto", "application/proto, application/grpc", "text/plain", "",
		} {
			header := http.Header{"Content-Type": {contentType}, "Grpc-Encoding": {"gzip"}, "Te": {"trailers"}}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			resp, b := send(t, s, http.MethodPost, path, header, bytes.NewReader(bomb))
			runtime.ReadMemStats(&after)
			if resp.StatusCode != 400 || !strings.Contains(string(b), `"code":"invalid_argument"`) || !strings.Contains(string(b), "send application/proto or application/json") {
				t.Errorf("%s as %q: %s: %s", path, contentType, resp.Status, b)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > maxInflated/4 {
				t.Errorf("%s as %q: %d MB for a body of %d KB", path, contentType, n>>20, len(bomb)>>10)
			}
		}
	}
}

// A gigabyte is refused by its length before a byte of it is read, and without a length when 32 MB are through;
// then the connection ends.
func TestPushGigabyte(t *testing.T) {
	s := newTestServer(t, nil, Options{})
	const size = 1 << 30
	for _, tt := range []struct {
		name   string
		length int64 // -1: chunked
		most   int64 // that the client may get rid of: the limit, and what sockets hold
	}{
		{"announced", size, 16 << 20},
		{"chunked", -1, maxBody + 16<<20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var body zeros
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+pushProcedure, io.LimitReader(&body, size))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/proto")
			req.ContentLength = tt.length
			resp, err := s.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if want := `{"code":"resource_exhausted","message":"body is above 32 MB: send fewer or smaller profiles in one push"}` + "\n"; resp.StatusCode != 413 || string(b) != want {
				t.Errorf("%s: %s", resp.Status, b)
			}
			if !resp.Close {
				t.Error("the connection stays open")
			}
			if n := body.n.Load(); n > tt.most {
				t.Errorf("%d MB were sent before the refusal", n>>20)
			}
		})
	}
}

func TestClient(t *testing.T) {
	s := newTestServer(t, newTestStore(t), Options{})
	c, err := NewClient(s.URL+"/", ClientOptions{HTTP: s.Client()})
	if err != nil {
		t.Fatal(err)
	}
	base := testBase()
	for range 2 {
		if err := c.Append(t.Context(), testBatch(t, base)); err != nil {
			t.Fatal(err)
		}
	}
	if got := stored(t, s); len(got) != 4 {
		t.Errorf("stored %+v", got)
	}

	bad := testBatch(t, base)[:1]
	bad[0].Pprof = []byte("GIF89a")
	if err := c.Append(t.Context(), bad); connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), "not a pprof protobuf") {
		t.Errorf("Append of a picture: %v", err)
	}
	if err := c.Report(t.Context(), AgentReport{Version: "1", Hostname: "h", StartMS: 1}); err != nil {
		t.Error(err)
	}
	if err := c.Report(t.Context(), AgentReport{}); err == nil || !strings.Contains(err.Error(), "400 Bad Request: agent report: hostname") {
		t.Errorf("Report of nobody: %v", err)
	}
	s.Close()
	if err := c.Append(t.Context(), testBatch(t, base)); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("Append without a server: %v", err)
	}
	for _, bad := range []string{"", "host:7100", "ftp://host", "http://", "http://host?x=1", "http://host#x", "http://[::1"} {
		if _, err := NewClient(bad, ClientOptions{}); err == nil {
			t.Errorf("NewClient(%q) took it", bad)
		}
	}
}

// What the store refuses arrives with the store's words and Connect's code.
func TestPushStoreError(t *testing.T) {
	store, err := profilestore.Open(t.TempDir(), profilestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := newTestServer(t, store, Options{})
	c, err := NewClient(s.URL, ClientOptions{HTTP: s.Client()})
	if err != nil {
		t.Fatal(err)
	}
	future := encode(t, "api", "1", time.Now().Add(time.Hour), stacks{"main": 1})
	if err := c.Append(t.Context(), []profilestore.Encoded{future}); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("Append an hour ahead: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Append(t.Context(), testBatch(t, testBase())); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("Append to a closed store: %v", err)
	}
	if resp, b := get(t, s, "/api/v1/top"); resp.StatusCode != 503 {
		t.Errorf("query of a closed store: %s: %s", resp.Status, b)
	}
}

// A client that waits for "100 Continue" gets the answer too when the server refuses what it sent then before all of it has come:
// net/http closes such a connection at once, and what the server has not read by then takes back what it wrote.
func TestPushRefusedHalfway(t *testing.T) {
	s := newTestServer(t, newTestStore(t), Options{})
	body := make([]byte, 8<<20)
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: 10 * time.Second}}
	defer client.CloseIdleConnections()
	for range 20 {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+pushProcedure, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header = http.Header{"Content-Type": {"application/proto"}, "Content-Encoding": {"gzip"}, "Expect": {"100-continue"}}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 400 || !strings.Contains(string(b), "read gzip body") {
			t.Fatalf("%s: %s", resp.Status, b)
		}
	}
}
