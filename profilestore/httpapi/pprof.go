package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/pprof/profile"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/pgzip"
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

const packedAtOnce = 256 << 10 // bytes; what is found while a piece is packed is the next one

// writePprof writes a gzipped profile. It is packed at the level that costs least, while what comes next is found: at pprof's
// own that takes longer than all the rest.
func (a *api) writePprof(ctx context.Context, out *bytes.Buffer, q profilestore.Query, filters []flamegraph.Filter) error {
	z, err := pgzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if err := z.SetConcurrency(packedAtOnce, min(runtime.GOMAXPROCS(0), 4)); err != nil {
		return err
	}
	if len(filters) == 0 {
		err = a.store.WriteMerged(ctx, q, z)
	} else {
		var prof *profile.Profile
		if prof, err = a.store.Merge(ctx, q); err == nil {
			if prof, err = filterProfile(ctx, prof, filters); err == nil {
				err = prof.WriteUncompressed(z)
			}
		}
	}
	return errors.Join(err, z.Close())
}

// filterProfile filters by pprof's own functions, and leaves out what no sample needs any more. The error is that of ctx.
func filterProfile(ctx context.Context, p *profile.Profile, filters []flamegraph.Filter) (*profile.Profile, error) {
	if len(filters) == 0 {
		return p, nil
	}
	for _, f := range filters {
		if f.Kind == flamegraph.Collapse {
			collapse(p, f)
			continue
		}
		names, err := mark(ctx, p, f.Regexp)
		if err != nil {
			return nil, err
		}
		switch f.Kind {
		case flamegraph.Focus:
			p.FilterSamplesByName(marked, nil, nil, nil)
		case flamegraph.Ignore:
			p.FilterSamplesByName(nil, marked, nil, nil)
		case flamegraph.Hide:
			p.FilterSamplesByName(nil, nil, marked, nil)
		case flamegraph.ShowFrom:
			p.ShowFrom(marked)
		}
		names.restore(p)
	}
	return p.Compact(), ctx.Err()
}

// marked is found in the mark of what matches.
var marked = regexp.MustCompile("x")

// profileNames are those by which pprof filters: of each function, of its file and of each mapping.
type profileNames struct{ functions, files, mappings []string }

// mark puts marks in place of the names of a profile. pprof would look at the whole of each name, for each location, and
// whatever became of the client.
func mark(ctx context.Context, p *profile.Profile, re *regexp.Regexp) (*profileNames, error) {
	matches := func(name string) bool { return re.MatchString(name[:min(len(name), flamegraph.MaxMatched)]) }
	of := map[bool]string{true: "x"}
	marks, names := make([]string, len(p.Function)+len(p.Mapping)), new(profileNames)
	for i, f := range p.Function {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		marks[i] = of[matches(f.Name) || matches(f.Filename)]
	}
	for i, m := range p.Mapping {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		marks[len(p.Function)+i] = of[matches(m.File)]
	}
	for i, f := range p.Function {
		names.functions, names.files = append(names.functions, f.Name), append(names.files, f.Filename)
		f.Name, f.Filename = marks[i], ""
	}
	for i, m := range p.Mapping {
		names.mappings = append(names.mappings, m.File)
		m.File = marks[len(p.Function)+i]
	}
	return names, nil
}

// restore puts the names back.
func (n *profileNames) restore(p *profile.Profile) {
	for i, f := range p.Function {
		f.Name, f.Filename = n.functions[i], n.files[i]
	}
	for i, m := range p.Mapping {
		m.File = n.mappings[i]
	}
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
