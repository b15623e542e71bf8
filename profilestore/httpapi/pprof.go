package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/pprof/profile"
	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/prometheus/model/labels"

	"pilotlight/profilestore"
	"pilotlight/profilestore/flamegraph"
)

// pprof answers the selection as one file that `go tool pprof` reads from this URL.
func (a *api) pprof(w http.ResponseWriter, r *http.Request) error {
	p, q, err := readQuery(r, "seconds", "filter")
	if err != nil {
		return err
	}
	filters, err := p.filters()
	if err != nil {
		return err
	}
	seconds, err := p.int("seconds", 1, 366*24*3600, 0)
	if err != nil {
		return err
	}
	if seconds > 0 {
		if q, err = a.last(r.Context(), q, time.Duration(seconds)*time.Second); err != nil {
			return err
		}
	}
	var b bytes.Buffer
	if err := a.writePprof(r.Context(), &b, q, filters); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", fileName(q)))
	write(w, r, b.Bytes())
	return nil
}

// writePprof writes a gzipped profile. It is packed at the level that costs least: at pprof's own that takes longer than all
// the rest.
func (a *api) writePprof(ctx context.Context, out *bytes.Buffer, q profilestore.Query, filters []flamegraph.Filter) error {
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if len(filters) == 0 {
		err = a.store.WriteMerged(ctx, q, z)
	} else {
		var prof *profile.Profile
		if prof, err = a.store.Merge(ctx, q); err == nil {
			err = filterProfile(prof, filters).WriteUncompressed(z)
		}
	}
	return errors.Join(err, z.Close())
}

// filterProfile filters by pprof's own functions, and leaves out what no sample needs any more.
func filterProfile(p *profile.Profile, filters []flamegraph.Filter) *profile.Profile {
	if len(filters) == 0 {
		return p
	}
	for _, f := range filters {
		switch f.Kind {
		case flamegraph.Focus:
			p.FilterSamplesByName(f.Regexp, nil, nil, nil)
		case flamegraph.Ignore:
			p.FilterSamplesByName(nil, f.Regexp, nil, nil)
		case flamegraph.Hide:
			p.FilterSamplesByName(nil, nil, f.Regexp, nil)
		case flamegraph.ShowFrom:
			p.ShowFrom(f.Regexp)
		case flamegraph.Collapse:
			collapse(p, f)
		}
	}
	return p.Compact()
}

// collapse does to a profile what flamegraph.Collapse does to stacks: it takes out lines whose caller is the same
// function. pprof has nothing for it.
func collapse(p *profile.Profile, f flamegraph.Filter) {
	type cut struct {
		of     *profile.Location
		caller *profile.Function
	}
	cuts := make(map[cut]*profile.Location) // nil: nothing is left
	cutOf := func(c cut) *profile.Location {
		if l, ok := cuts[c]; ok {
			return l
		}
		l := *c.of
		l.Line = nil
		caller := c.caller
		for _, line := range slices.Backward(c.of.Line) { // outermost first
			if line.Function == nil || line.Function != caller || !f.Matches(frameOf(c.of, line.Function)) {
				l.Line = append([]profile.Line{line}, l.Line...)
			}
			caller = line.Function
		}
		switch len(l.Line) {
		case len(c.of.Line):
			cuts[c] = c.of
		case 0:
			cuts[c] = nil
		default:
			l.ID = uint64(len(p.Location)) + 1
			p.Location = append(p.Location, &l)
			cuts[c] = &l
		}
		return cuts[c]
	}
	for _, s := range p.Sample {
		var kept []*profile.Location // outermost first
		var caller *profile.Function
		for _, l := range slices.Backward(s.Location) {
			if len(l.Line) == 0 {
				kept, caller = append(kept, l), nil
				continue
			}
			if own := cutOf(cut{l, caller}); own != nil {
				kept = append(kept, own)
			}
			caller = l.Line[0].Function
		}
		slices.Reverse(kept)
		s.Location = kept
	}
}

func frameOf(l *profile.Location, f *profile.Function) *flamegraph.Frame {
	frame := &flamegraph.Frame{Function: f.Name, File: f.Filename}
	if l.Mapping != nil {
		frame.Binary = l.Mapping.File
	}
	return frame
}

// last makes q the profiles that cover the last d before q.To. A profile is only
// there once its window is over, so d ends with the newest profile; and it takes
// whole profiles, because one belongs to where it starts.
func (a *api) last(ctx context.Context, q profilestore.Query, d time.Duration) (profilestore.Query, error) {
	q.From = max(q.To-int64(d+staleAfter), 0)
	newest, err := a.store.Profiles(ctx, q, 1)
	if err != nil {
		return q, err
	}
	q.From = max(q.To-int64(d), 0)
	if len(newest) > 0 {
		end := min(newest[0].Time+int64(newest[0].Duration), q.To)
		q.From = max(min(end-int64(d), newest[0].Time), 0)
	}
	return q, nil
}

// staleAfter is how old the newest profile may be to count as the present.
const staleAfter = time.Minute

// fileName tells a download from the next: pilotlight-api-4711-20251121T020000Z-20251121T030000Z.pb.gz.
func fileName(q profilestore.Query) string {
	what := "selection"
	if len(q.Matchers) == 0 {
		what = "all"
	}
	var values []string
	for _, m := range q.Matchers {
		if m.Type == labels.MatchEqual && m.Value != "" {
			values = append(values, m.Value)
		}
	}
	if len(values) > 0 {
		what = strings.Map(func(c rune) rune {
			if c == '-' || c == '_' || c == '.' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
				return c
			}
			return '_'
		}, strings.Join(values, "-"))
		what = what[:min(len(what), 100)]
	}
	const format = "20060102T150405Z"
	return fmt.Sprintf("pilotlight-%s-%s-%s.pb.gz", what, time.Unix(0, q.From).UTC().Format(format), time.Unix(0, q.To).UTC().Format(format))
}
