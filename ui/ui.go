// Package ui embeds the built web page and serves it.
//
// The sources are TypeScript in src/; `npm run build` writes the bundle to dist/, which is committed so
// that `go build` needs Go alone. The page talks to /api/v1 on its own origin and to nothing else.
package ui

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed dist
var dist embed.FS

// contentSecurityPolicy lets the page load scripts, styles and data from its own origin only. Nothing
// inline: the bundle has no inline script, and styles are set through the CSSOM, which the policy allows.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; " +
	"connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// pages are the routes that the script in index.html draws.
var pages = []string{"/", "/explore", "/diff", "/targets", "/open", "/fn"}

// asset is one file of the bundle, ready to send.
type asset struct {
	name         string // its last element decides the content type
	contentType  string
	cacheControl string
	plain        encoding
	gzipped      encoding // body is nil if compression does not pay
}

type encoding struct {
	body []byte
	etag string // strong, so it differs between encodings of one file
}

// Handler serves the embedded page: index.html at each of pages, the bundle under
// `/assets/`, and 404 for everything else. Files under /assets/ carry a hash of their content in their name
// and may be cached for ever; index.html is revalidated by its ETag on each load. Only GET and HEAD are
// answered. The handler is safe for concurrent use.
//
// Handler panics if the embedded bundle is unreadable, which only a broken build can cause.
func Handler() http.Handler {
	root, err := fs.Sub(dist, "dist")
	if err != nil {
		panic(fmt.Sprintf("ui: embedded bundle: %v", err))
	}
	h, err := newHandler(root)
	if err != nil {
		panic(fmt.Sprintf("ui: embedded bundle: %v", err))
	}
	return h
}

type handler map[string]*asset // by URL path

func newHandler(root fs.FS) (handler, error) {
	h := handler{}
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		a, err := newAsset(name, body)
		if err != nil {
			return err
		}
		h["/"+name] = a
		return nil
	})
	if err != nil {
		return nil, err
	}
	index, ok := h["/index.html"]
	if !ok {
		return nil, fmt.Errorf("index.html: %w", fs.ErrNotExist)
	}
	delete(h, "/index.html")
	for _, p := range pages {
		h[p] = index
	}
	return h, nil
}

func newAsset(name string, body []byte) (*asset, error) {
	sum := sha256.Sum256(body)
	tag := hex.EncodeToString(sum[:12])
	a := &asset{
		name:         name,
		contentType:  contentType(name),
		cacheControl: "no-cache",
		plain:        encoding{body, `"` + tag + `"`},
	}
	if strings.HasPrefix(name, "assets/") {
		a.cacheControl = "public, max-age=31536000, immutable"
	}
	var buf bytes.Buffer
	zw, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := zw.Write(body); err != nil {
		return nil, fmt.Errorf("compress %s: %w", name, err)
	}
	if err := zw.Close(); err != nil {
		return nil, fmt.Errorf("compress %s: %w", name, err)
	}
	if buf.Len() < len(body) {
		a.gzipped = encoding{buf.Bytes(), `"` + tag + `-gzip"`}
	}
	return a, nil
}

// contentType knows the bundle's own kinds first: package mime reads the host's tables, and a machine that
// maps .js to text/plain would break the page under nosniff.
func contentType(name string) string {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	}
	if t := mime.TypeByExtension(path.Ext(name)); t != "" {
		return t
	}
	return "application/octet-stream"
}

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", contentSecurityPolicy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")

	a, ok := h[r.URL.Path]
	if !ok {
		http.Error(w, "no such page; the profiler's pages are "+strings.Join(pages, ", "), http.StatusNotFound)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, r.Method+" is not allowed here: use GET", http.StatusMethodNotAllowed)
		return
	}
	header.Set("Content-Type", a.contentType)
	header.Set("Cache-Control", a.cacheControl)
	e := a.plain
	if a.gzipped.body != nil {
		header.Set("Vary", "Accept-Encoding")
		if acceptsGzip(r) {
			e = a.gzipped
			header.Set("Content-Encoding", "gzip")
		}
	}
	header.Set("ETag", e.etag)
	http.ServeContent(w, r, a.name, time.Time{}, bytes.NewReader(e.body))
}

// acceptsGzip reports whether Accept-Encoding names gzip (or *) with a weight above zero (RFC 9110, 12.5.3).
func acceptsGzip(r *http.Request) bool {
	star := false
	for _, field := range r.Header.Values("Accept-Encoding") {
		for part := range strings.SplitSeq(field, ",") {
			coding, params, _ := strings.Cut(strings.TrimSpace(part), ";")
			weight := strings.ReplaceAll(params, " ", "")
			refused := strings.HasPrefix(weight, "q=0") && strings.Trim(weight[len("q=0"):], ".0") == ""
			switch strings.ToLower(strings.TrimSpace(coding)) {
			case "gzip":
				return !refused
			case "*":
				star = !refused
			}
		}
	}
	return star
}
