package ui

import (
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
)

func get(t *testing.T, h http.Handler, method, path string, header map[string]string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	for k, v := range header {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPages(t *testing.T) {
	h := Handler()
	for _, test := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/", 200},
		{"GET", "/explore?q=%7B%7D", 200},
		{"GET", "/targets", 200},
		{"HEAD", "/explore", 200},
		{"GET", "/index.html", 404},
		{"GET", "/explore/", 404},
		{"GET", "/assets/", 404},
		{"GET", "/assets/none.js", 404},
		{"GET", "/../ui.go", 404},
		{"GET", "/api/v1/none", 404},
		{"POST", "/", 405},
	} {
		r := get(t, h, test.method, test.path, nil)
		if r.StatusCode != test.status {
			t.Errorf("%s %s: status %d, want %d", test.method, test.path, r.StatusCode, test.status)
		}
		if csp := r.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s %s: Content-Security-Policy %q", test.method, test.path, csp)
		}
		if got := r.Header.Get("X-Content-Type-Options"); got != "nosniff" {
			t.Errorf("%s %s: X-Content-Type-Options %q", test.method, test.path, got)
		}
		isIndex := strings.Contains(body(t, r), `id="app"`)
		if want := test.status == 200 && test.method == "GET"; isIndex != want {
			t.Errorf("%s %s: index.html served: %v, want %v", test.method, test.path, isIndex, want)
		}
	}
}

// What index.html asks for must be there, cacheable for ever, and of a type that nosniff lets a browser use.
func TestIndexAssets(t *testing.T) {
	h := Handler()
	r := get(t, h, "GET", "/", nil)
	if got := r.Header.Get("Cache-Control"); got != "no-cache" {
		t.Errorf("/: Cache-Control %q, want no-cache", got)
	}
	index := body(t, r)
	if regexp.MustCompile(`<script[^>]*>[^<]|<style|\sstyle=|\son\w+=|https?://`).MatchString(strings.ReplaceAll(index, "http://HOST", "")) {
		t.Error("index.html has inline code or another origin, which its policy forbids")
	}
	refs := regexp.MustCompile(`(?:src|href)="(/[^"]+)"`).FindAllStringSubmatch(index, -1)
	if len(refs) < 3 {
		t.Fatalf("index.html asks for %d files, want a script, a style and an icon", len(refs))
	}
	types := map[string]string{"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
	for _, ref := range refs {
		r := get(t, h, "GET", ref[1], nil)
		if r.StatusCode != 200 {
			t.Errorf("%s: status %d", ref[1], r.StatusCode)
		}
		if got := r.Header.Get("Cache-Control"); got != "public, max-age=31536000, immutable" {
			t.Errorf("%s: Cache-Control %q", ref[1], got)
		}
		ext := ref[1][strings.LastIndexByte(ref[1], '.')+1:]
		if got := r.Header.Get("Content-Type"); got != types[ext] {
			t.Errorf("%s: Content-Type %q, want %q", ref[1], got, types[ext])
		}
	}
}

func TestETag(t *testing.T) {
	h := Handler()
	plain := get(t, h, "GET", "/", nil)
	zipped := get(t, h, "GET", "/", map[string]string{"Accept-Encoding": "br, gzip"})
	if got := zipped.Header.Get("Content-Encoding"); got != "gzip" {
		t.Fatalf("Content-Encoding %q, want gzip", got)
	}
	zr, err := gzip.NewReader(zipped.Body)
	if err != nil {
		t.Fatal(err)
	}
	unzipped, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	if want := body(t, plain); string(unzipped) != want {
		t.Errorf("the gzipped page differs from the plain one")
	}
	if plain.Header.Get("ETag") == zipped.Header.Get("ETag") {
		t.Errorf("both encodings have the ETag %s", plain.Header.Get("ETag"))
	}
	for _, r := range []*http.Response{plain, zipped} {
		etag := r.Header.Get("ETag")
		header := map[string]string{"If-None-Match": etag, "Accept-Encoding": r.Header.Get("Content-Encoding")}
		if again := get(t, h, "GET", "/", header); again.StatusCode != 304 {
			t.Errorf("If-None-Match %s: status %d, want 304", etag, again.StatusCode)
		}
	}
	stale := get(t, h, "GET", "/", map[string]string{"If-None-Match": `"0"`})
	if stale.StatusCode != 200 {
		t.Errorf("another ETag: status %d, want 200", stale.StatusCode)
	}
}

func TestAcceptsGzip(t *testing.T) {
	for field, want := range map[string]bool{
		"": false, "gzip": true, "deflate, gzip;q=0.5": true, "GZIP": true, "*": true, "br": false,
		"gzip;q=0": false, "gzip; q=0.000": false, "gzip;q=0.001": true, "*, gzip;q=0": false, "gzipped": false,
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Accept-Encoding", field)
		if got := acceptsGzip(r); got != want {
			t.Errorf("acceptsGzip(%q) = %v, want %v", field, got, want)
		}
	}
}

func TestNewHandlerNeedsIndex(t *testing.T) {
	if _, err := newHandler(fstest.MapFS{"assets/a.js": {Data: []byte("1")}}); err == nil || !strings.Contains(err.Error(), "index.html") {
		t.Errorf("newHandler without index.html: %v", err)
	}
}

// The page is to load fast over a thin line: scripts and styles together stay below 80 KB gzipped.
func TestBundleSize(t *testing.T) {
	const limit = 80_000
	sum := 0
	err := fs.WalkDir(dist, "dist", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(dist, name)
		if err != nil {
			return err
		}
		var buf bytes.Buffer
		zw := gzip.NewWriter(&buf)
		if _, err := zw.Write(b); err != nil {
			return err
		}
		if err := zw.Close(); err != nil {
			return err
		}
		sum += buf.Len()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("bundle: %d bytes gzipped", sum)
	if sum > limit {
		t.Errorf("bundle is %d bytes gzipped, the limit is %d", sum, limit)
	}
}
