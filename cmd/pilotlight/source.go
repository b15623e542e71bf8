package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/google/pprof/profile"
	"github.com/klauspost/compress/gzip"

	"pilotlight/profilestore"
	"pilotlight/profilestore/flamegraph"
	"pilotlight/profilestore/httpapi"
)

// source is where profiles are asked for: a server, a data directory or a pprof file.
type source struct {
	client *httpapi.Client     // of the server, or of a handler in this process for a directory
	store  *profilestore.Store // of a directory
	file   *profile.Profile    // of a file; then the others are nil
}

// tokenFlags are the flags of what asks a server.
type tokenFlags struct {
	TokenFile string `type:"path" help:"File with the token to send to a server." placeholder:"FILE"`
}

// open opens a source: a URL, a directory or a file, whichever the name is.
func (f tokenFlags) open(name string) (*source, error) {
	if strings.Contains(name, "://") {
		o := httpapi.ClientOptions{}
		if f.TokenFile != "" {
			b, err := os.ReadFile(f.TokenFile)
			if err != nil {
				return nil, fmt.Errorf("--token-file: %w", err)
			}
			o.Token = strings.TrimSpace(string(b))
		}
		c, err := httpapi.NewClient(name, o)
		return &source{client: c}, err
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("%w: name the URL of a server, as http://127.0.0.1:7100, a data directory or a pprof file", err)
	}
	if info.IsDir() {
		return openDirectory(name)
	}
	p, err := readProfileFile(name)
	return &source{file: p}, err
}

func (s *source) close() error {
	if s.store != nil {
		return s.store.Close()
	}
	return nil
}

// openDirectory opens a data directory for reading: one that a server has open, one of another user, or a backup.
func openDirectory(name string) (*source, error) {
	store, err := profilestore.OpenReadOnly(name, profilestore.Options{})
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	h := httpapi.NewHandler(store, httpapi.Options{Logger: slog.New(slog.DiscardHandler)})
	c, err := httpapi.NewClient("http://localhost", httpapi.ClientOptions{HTTP: &http.Client{Transport: inProcess{h}}})
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return &source{client: c, store: store}, nil
}

// inProcess asks a handler without a network.
type inProcess struct{ http.Handler }

// RoundTrip implements http.RoundTripper.
func (h inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	a := &memoryAnswer{header: make(http.Header), status: http.StatusOK}
	r = r.Clone(r.Context())
	r.RequestURI = r.URL.RequestURI()
	r.Host = r.URL.Host
	if r.Body == nil {
		r.Body = http.NoBody
	}
	h.ServeHTTP(a, r)
	return &http.Response{
		Status: fmt.Sprintf("%d %s", a.status, http.StatusText(a.status)), StatusCode: a.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: a.header, Body: io.NopCloser(&a.body), ContentLength: int64(a.body.Len()), Request: r,
	}, nil
}

// memoryAnswer is an http.ResponseWriter in memory.
type memoryAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *memoryAnswer) Header() http.Header         { return a.header }
func (a *memoryAnswer) WriteHeader(status int)      { a.status = status }
func (a *memoryAnswer) Write(b []byte) (int, error) { return a.body.Write(b) }

// maxProfileBytes is what a pprof file may inflate to.
const maxProfileBytes = 256 << 20

// readProfileFile reads a pprof file, gzipped or plain.
func readProfileFile(name string) (*profile.Profile, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, 2)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && err != io.EOF {
		return nil, err
	}
	rd := io.MultiReader(bytes.NewReader(head[:n]), f)
	if bytes.Equal(head, []byte{0x1f, 0x8b}) {
		if rd, err = gzip.NewReader(rd); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	b, err := io.ReadAll(io.LimitReader(rd, maxProfileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(b) > maxProfileBytes {
		return nil, fmt.Errorf("%s inflates to more than %d MB", name, maxProfileBytes>>20)
	}
	p, err := profile.ParseUncompressed(b)
	if err == nil && len(p.SampleType) == 0 {
		err = errors.New("it has no sample type")
	}
	if err == nil {
		err = p.CheckValid()
	}
	if err != nil {
		return nil, fmt.Errorf("%s is not a pprof file: %w", name, err)
	}
	return p, nil
}

// selectFlags say which profiles, and which of their values.
type selectFlags struct {
	Query string `short:"q" help:"Which profiles, as {service_name=\"api\"}." default:"{}" placeholder:"SELECTOR"`
	From  string `help:"Start of the range: 2025-11-21T02:00:00Z, Unix seconds, now-15m." default:"now-1h" placeholder:"TIME"`
	To    string `help:"End of the range." default:"now" placeholder:"TIME"`
	Type  string `help:"Profile type, as process_cpu:cpu:nanoseconds:cpu:nanoseconds; of a file also the name of a sample type." placeholder:"TYPE"`
}

// params are the flags as the API takes them.
func (f selectFlags) params() url.Values {
	v := url.Values{"query": {f.Query}, "from": {f.From}, "to": {f.To}}
	if f.Type != "" {
		v.Set("type", f.Type)
	}
	return v
}

// filterFlags change stacks.
type filterFlags struct {
	Filter []string `sep:"none" help:"focus:RE, ignore:RE, hide:RE or show_from:RE; may be repeated, applied in the order given." placeholder:"FILTER"`
}

// stacks makes the stacks of a file, as a server does.
func (s *source) stacks(f selectFlags, filters filterFlags) (*flamegraph.Stacks, string, error) {
	index, err := sampleIndex(s.file, f.Type)
	if err != nil {
		return nil, "", err
	}
	var fs []flamegraph.Filter
	for _, text := range filters.Filter {
		one, err := flamegraph.ParseFilter(text)
		if err != nil {
			return nil, "", fmt.Errorf("--filter %w", err)
		}
		fs = append(fs, one)
	}
	stacks, err := flamegraph.FromProfile(s.file, index)
	if err != nil {
		return nil, "", err
	}
	stacks, err = stacks.Filter(context.Background(), fs...)
	return stacks, s.file.SampleType[index].Unit, err
}

// sampleIndex finds a sample type by its name or profile type; "" is the one that go tool pprof shows.
func sampleIndex(p *profile.Profile, typ string) (int, error) {
	name := typ
	if t, err := profilestore.ParseProfileType(typ); err == nil && typ != "" {
		name = t.SampleType
	}
	i, err := p.SampleIndexByName(name)
	if err != nil {
		return 0, fmt.Errorf("--type %s: %w", typ, err)
	}
	return i, nil
}

// printJSON prints an answer for programs.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// amount writes a value with its unit as people read it.
func amount(v int64, unit string) string {
	switch unit {
	case "nanoseconds":
		d := time.Duration(v)
		switch {
		case d.Abs() >= time.Minute:
			return d.Round(time.Second).String()
		case d.Abs() >= time.Second:
			return d.Round(10 * time.Millisecond).String()
		}
		return d.Round(10 * time.Microsecond).String()
	case "bytes":
		if v < 0 {
			return "-" + humanize.IBytes(uint64(-v))
		}
		return humanize.IBytes(uint64(v))
	}
	return humanize.Comma(v)
}

// share is a part of a whole in percent.
func share(part, whole int64) float64 {
	if whole == 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}

// query asks the server or the directory.
func (s *source) query(ctx context.Context, route string, params url.Values, answer any) error {
	if s.file != nil {
		return errors.New("a pprof file answers top, pprof and diff: name a server or a data directory for this")
	}
	return s.client.Query(ctx, route, params, answer)
}
