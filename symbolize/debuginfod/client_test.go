package debuginfod

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const testID = BuildID("00112233445566778899aabbccddeeff00112233")

// serve starts a server and returns its base.
func serve(t *testing.T, h http.HandlerFunc) *url.URL {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func newFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func content(t *testing.T, f *os.File) string {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestBuildID(t *testing.T) {
	note := []byte{0xab, 1, 2, 3, 4, 5, 6, 7}
	id, err := NewBuildID(note)
	if err != nil || id != "ab01020304050607" {
		t.Errorf("got %q, %v", id, err)
	}
	if again, err := ParseBuildID(string(id)); err != nil || again != id {
		t.Errorf("got %q, %v", again, err)
	}
	for _, s := range []string{"", "ab", "AB01020304050607", "../../etc/passwd", "ab0102030405060", "zz01020304050607", strings.Repeat("00", 65), "ab010203/4050607"} {
		if id, err := ParseBuildID(s); err == nil {
			t.Errorf("%q is build ID %q", s, id)
		}
	}
	for _, n := range []int{0, 7, 65} {
		if id, err := NewBuildID(make([]byte, n)); err == nil {
			t.Errorf("%d bytes are build ID %q", n, id)
		}
	}
}

func TestParseURLs(t *testing.T) {
	for _, tt := range []struct{ in, want, err string }{
		{"", "[]", ""},
		{" https://debuginfod.debian.net/  http://[::1]:8002 ", "[https://debuginfod.debian.net/ http://[::1]:8002]", ""},
		{"ima:enforcing https://debuginfod.example", "[https://debuginfod.example]", ""},
		{"file:///srv", "", "give an http or https URL"},
		{"debuginfod.example", "", "give an http or https URL"},
		{"http://a\x7f", "", "invalid control character"},
	} {
		got, err := ParseURLs(tt.in)
		if tt.err == "" && (err != nil || fmt.Sprint(got) != tt.want) || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%q: got %v, %v, want %q %q", tt.in, got, err, tt.want, tt.err)
		}
	}
}

func TestDownload(t *testing.T) {
	has := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if want := "/base/buildid/" + string(testID) + "/debuginfo"; r.URL.Path != want || r.Header.Get("User-Agent") != "tester" {
				t.Errorf("asked %s as %s, want %s", r.URL.Path, r.UserAgent(), want)
			}
			io.WriteString(w, text)
		}
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "an answer that is not the file", code) }
	}
	unsized := func(n int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for range n {
				io.WriteString(w, "x")
				w.(http.Flusher).Flush()
			}
		}
	}
	for _, tt := range []struct {
		name    string
		servers []http.HandlerFunc
		want    string
		err     string
		is      error
	}{
		{name: "there", servers: []http.HandlerFunc{has("debug")}, want: "debug"},
		{name: "at the second", servers: []http.HandlerFunc{status(404), has("debug")}, want: "debug"},
		{name: "the first is out of order", servers: []http.HandlerFunc{status(503), has("debug")}, want: "debug"},
		{name: "the first breaks off", want: "debug", servers: []http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9")
			io.WriteString(w, "a piece")
		}, has("debug")}},
		{name: "nowhere", servers: []http.HandlerFunc{status(404), status(404)}, is: ErrNotFound},
		{name: "perhaps somewhere", servers: []http.HandlerFunc{status(404), status(503)}, err: "503"},
		{name: "no servers", is: ErrNotFound},
		{name: "as large as may be", servers: []http.HandlerFunc{unsized(10)}, want: "xxxxxxxxxx"},
		{name: "too large, and says so", servers: []http.HandlerFunc{has("more than ten"), has("debug")}, is: ErrTooLarge},
		{name: "too large, and does not say so", servers: []http.HandlerFunc{unsized(11)}, is: ErrTooLarge},
		{name: "encoded", err: "not asked for", servers: []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept-Encoding") != "" {
				t.Errorf("asks for %s", r.Header.Get("Accept-Encoding"))
			}
			w.Header().Set("Content-Encoding", "gzip")
			io.WriteString(w, "x")
		}}},
		{name: "elsewhere", want: "debug", servers: []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasPrefix(r.URL.Path, "/moved") {
				http.Redirect(w, r, "/moved", http.StatusFound)
				return
			}
			io.WriteString(w, "debug")
		}}},
		{name: "in a circle", err: "more than five redirects", servers: []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/", http.StatusFound)
		}}},
		{name: "to another kind of place", err: "redirect to ftp", servers: []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "ftp://x/", http.StatusFound)
		}}},
		{name: "silent", err: "nothing came for", servers: []http.HandlerFunc{func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }}},
		{name: "silent in the middle", err: "nothing came for", servers: []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "x")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var urls []*url.URL
			for _, h := range tt.servers {
				urls = append(urls, serve(t, h).JoinPath("base"))
			}
			out := newFile(t)
			// The stall is long enough for a busy machine in those that are to succeed.
			stall := time.Minute
			if strings.Contains(tt.err, "nothing came") {
				stall = 50 * time.Millisecond
			}
			n, err := NewClient(urls, ClientOptions{MaxBytes: 10, Stall: stall, UserAgent: "tester"}).Download(t.Context(), testID, out)
			switch {
			case tt.is != nil || tt.err != "":
				if err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %q %v", err, tt.err, tt.is)
				}
			case err != nil || n != int64(len(tt.want)) || content(t, out) != tt.want:
				t.Errorf("got %q, %d, %v, want %q", content(t, out), n, err, tt.want)
			}
			if tt.is == ErrNotFound && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v is no fs.ErrNotExist", err)
			}
		})
	}
}

// TestDownloadTimeout has a server that always says something.
func TestDownloadTimeout(t *testing.T) {
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			w.Write(bytes.Repeat([]byte{'x'}, 1000))
			w.(http.Flusher).Flush()
			time.Sleep(time.Millisecond)
		}
	})
	_, err := NewClient([]*url.URL{u, u}, ClientOptions{Timeout: 100 * time.Millisecond}).Download(t.Context(), testID, newFile(t))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
