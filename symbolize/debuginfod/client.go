// Package debuginfod gets debug information by build ID from servers that speak the protocol of elfutils' debuginfod
// (debuginfod(8), "WEBAPI"), and keeps it on disk.
//
// What a server answers is foreign: a Client bounds its size and its time, and is best run in a process that has no
// privileges. A Cache, which may belong to one that has them, never reads what was got.
package debuginfod

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// BuildID is a build ID in lower-case hexadecimal digits, as URLs and file names have it.
type BuildID string

// Build IDs of linkers have 8 bytes (lld's fast ones) to 20 (SHA-1); the protocol has no bound.
const minBuildID, maxBuildID = 8, 64

// NewBuildID returns the build ID that a file's note has.
func NewBuildID(note []byte) (BuildID, error) {
	if len(note) < minBuildID || len(note) > maxBuildID {
		return "", fmt.Errorf("build ID of %d bytes, want %d to %d", len(note), minBuildID, maxBuildID)
	}
	return BuildID(hex.EncodeToString(note)), nil
}

// ParseBuildID reads a build ID that was written as a BuildID.
func ParseBuildID(s string) (BuildID, error) {
	note, err := hex.DecodeString(s)
	if err != nil {
		return "", fmt.Errorf("build ID %.40q: %w", s, err)
	}
	id, err := NewBuildID(note)
	if err == nil && string(id) != s {
		err = fmt.Errorf("build ID %q: its digits are in upper case", s)
	}
	return id, err
}

// ParseURLs reads what DEBUGINFOD_URLS has: the bases of servers, apart by spaces, in the order in which they are
// asked. Only http and https are spoken; what begins with ima: is a policy for signatures, and is left out.
func ParseURLs(list string) ([]*url.URL, error) {
	var urls []*url.URL
	for word := range strings.FieldsSeq(list) {
		if strings.HasPrefix(word, "ima:") {
			continue
		}
		u, err := url.Parse(word)
		if err != nil {
			return nil, fmt.Errorf("debuginfod server: %w", err)
		}
		if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("debuginfod server %q: give an http or https URL", u.Redacted())
		}
		urls = append(urls, u)
	}
	return urls, nil
}

// ErrNotFound is the error of a build ID that all servers were asked for and none has. It is an fs.ErrNotExist.
var ErrNotFound = fmt.Errorf("no debuginfod server has it: %w", fs.ErrNotExist)

// ErrTooLarge is wrapped by the error of a file that is larger than may be got.
var ErrTooLarge = errors.New("debug information is too large")

// ClientOptions bounds what a Client takes.
type ClientOptions struct {
	MaxBytes  int64         // of a file; 0 is 2 GiB
	Timeout   time.Duration // of a file; 0 is 10 minutes
	Stall     time.Duration // for as long nothing may come, before the answer and in it; 0 is 90 s
	UserAgent string        // "" is that of net/http
	// Proxy is that of http.Transport; nil is none.
	Proxy func(*http.Request) (*url.URL, error)
}

// Client asks servers. It may be used by several goroutines at once.
type Client struct {
	urls []*url.URL
	opts ClientOptions
	http http.Client
}

// NewClient returns a Client of the servers at these bases.
func NewClient(urls []*url.URL, opts ClientOptions) *Client {
	if opts.MaxBytes == 0 {
		opts.MaxBytes = 2 << 30
	}
	if opts.Timeout == 0 {
		opts.Timeout = 10 * time.Minute
	}
	if opts.Stall == 0 {
		opts.Stall = 90 * time.Second // as long as elfutils waits: servers unpack what they are asked for
	}
	c := &Client{urls: urls, opts: opts}
	c.http.Transport = &http.Transport{
		Proxy:                  opts.Proxy,
		DisableCompression:     true, // what comes has the size it says
		MaxResponseHeaderBytes: 64 << 10,
		DisableKeepAlives:      true,
	}
	c.http.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		switch {
		case len(via) > 5:
			return errors.New("more than five redirects")
		case via[0].URL.Scheme == "https" && r.URL.Scheme != "https", r.URL.Scheme != "http" && r.URL.Scheme != "https":
			return fmt.Errorf("redirect to %s", r.URL.Scheme)
		}
		return nil
	}
	return c
}

// File is what a download is written to.
type File interface {
	io.WriterAt
	Truncate(size int64) error
}

// Download writes the debug information of a build ID to out, from its beginning, and returns its size. The error
// is ErrNotFound if every server says that it has none; it wraps ErrTooLarge if a server has too much of it. After an
// error out has pieces.
func (c *Client) Download(ctx context.Context, id BuildID, out File) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	var failed error
	for _, u := range c.urls {
		if err := out.Truncate(0); err != nil {
			return 0, err
		}
		n, err := c.get(ctx, u.JoinPath("buildid", string(id), "debuginfo"), io.NewOffsetWriter(out, 0))
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, ErrTooLarge) || ctx.Err() != nil:
			return 0, err
		case !errors.Is(err, ErrNotFound):
			failed = errors.Join(failed, err)
		}
	}
	if failed == nil {
		failed = ErrNotFound
	}
	return 0, failed
}

// get gets one URL.
func (c *Client) get(ctx context.Context, u *url.URL, out io.Writer) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := fmt.Errorf("%s: nothing came for %v", u.Host, c.opts.Stall)
	watch := time.AfterFunc(c.opts.Stall, func() { cancel(stalled) })
	defer watch.Stop()
	n, err := c.copy(ctx, u, out, func() { watch.Reset(c.opts.Stall) })
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return n, cause
	}
	return n, err
}

// copy is get without its watch, which alive winds up.
func (c *Client) copy(ctx context.Context, u *url.URL, out io.Writer, alive func()) (int64, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return 0, err
	}
	if c.opts.UserAgent != "" {
		r.Header.Set("User-Agent", c.opts.UserAgent)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return 0, err // names the URL, without its password
	}
	defer answer.Body.Close() // which has no error but that of reading
	switch encoding := answer.Header.Get("Content-Encoding"); {
	case answer.StatusCode == http.StatusNotFound:
		return 0, ErrNotFound
	case answer.StatusCode != http.StatusOK:
		return 0, fmt.Errorf("%s: %s", u.Host, answer.Status)
	case encoding != "" && encoding != "identity":
		return 0, fmt.Errorf("%s: answer is encoded as %.20q, which was not asked for", u.Host, encoding)
	case answer.ContentLength > c.opts.MaxBytes:
		return 0, fmt.Errorf("%s: %w: %d bytes, at most %d are taken", u.Host, ErrTooLarge, answer.ContentLength, c.opts.MaxBytes)
	}
	n, err := io.Copy(out, io.LimitReader(watched{answer.Body, alive}, c.opts.MaxBytes+1))
	if err == nil && n > c.opts.MaxBytes {
		err = fmt.Errorf("%s: %w: more than %d bytes", u.Host, ErrTooLarge, c.opts.MaxBytes)
	}
	return n, err
}

// watched tells when something was read.
type watched struct {
	io.Reader
	alive func()
}

// Read implements io.Reader.
func (w watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	if n > 0 {
		w.alive()
	}
	return n, err
}
