package httpapi

import (
	"bytes"
	"cmp"
	"errors"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"pilotlight/profilestore"
	"pilotlight/profilestore/flamegraph"
)

const (
	defaultNodes = 1 << 14 // as the pages of others ask for: a tenth of a pixel of a wide screen
	maxNodes     = 1_000_000
)

// Source says what an answer was made from.
type Source struct {
	Profiles int     `json:"profiles"`          // with at least one matching sample
	Damaged  int     `json:"damaged"`           // matching profiles left out because their stored bytes are damaged
	Removed  []int64 `json:"removed,omitempty"` // by each filter in its order: value of the samples that it dropped
	*SourceB
}

// SourceB says the same of what a diff compares with; in another answer it is nil.
type SourceB struct {
	ProfilesB int `json:"profiles_b"`
	DamagedB  int `json:"damaged_b"`
}

// FlamegraphAnswer is the answer of /api/v1/flamegraph: the columns of [flamegraph.Graph], and with them where
// they come from.
type FlamegraphAnswer struct {
	*flamegraph.Graph
	Source
}

// TopAnswer is the answer of /api/v1/top: [flamegraph.Table], whole, and with it where it comes from.
type TopAnswer struct {
	*flamegraph.Table
	Source
}

// SandwichAnswer is the answer of /api/v1/sandwich: [flamegraph.Sandwich], and with it where it comes from.
type SandwichAnswer struct {
	*flamegraph.Sandwich
	Source
}

// stacked are the parameters of the routes that merge stacks, beside the selection.
var stacked = []string{"filter", "b.query", "b.from", "b.to", "normalize"}

// selected is what such a route works on.
type selected struct {
	params
	stacks  *flamegraph.Stacks
	options flamegraph.Options // what was asked for, but for Root
	source  Source
}

// selectStacks merges what a request selects, and what it compares that with, and filters both.
func (a *api) selectStacks(r *http.Request, others ...string) (*selected, error) {
	p, q, err := readQuery(r, append(stacked[:len(stacked):len(stacked)], others...)...)
	if err != nil {
		return nil, err
	}
	s := &selected{params: p}
	filters, err := p.filters()
	if err != nil {
		return nil, err
	}
	b, diff, err := p.other(q)
	if err != nil {
		return nil, err
	}
	if s.options.Normalize, err = p.bool("normalize"); err != nil {
		return nil, err
	}
	if s.options.Normalize && !diff {
		return nil, badRequest("normalize", "normalize is for a diff: give b.query, b.from or b.to too")
	}
	if s.options.MaxNodes, err = p.int("max_nodes", 1, maxNodes, defaultNodes); err != nil {
		return nil, err
	}
	res, err := a.store.Select(r.Context(), q)
	if err != nil {
		return nil, err
	}
	s.options.Unit = res.Unit
	s.source = Source{Profiles: res.Profiles, Damaged: res.Damaged}
	s.stacks = res.Stacks
	for _, f := range filters {
		before := s.stacks.Total()
		if s.stacks, err = s.stacks.Filter(r.Context(), f); err != nil {
			return nil, err
		}
		s.source.Removed = append(s.source.Removed, before-s.stacks.Total())
	}
	if diff {
		b.Held = s.stacks.Size()
		if res, err = a.store.Select(r.Context(), b); err != nil {
			return nil, err
		}
		if s.options.B, err = res.Stacks.Filter(r.Context(), filters...); err != nil {
			return nil, err
		}
		s.source.SourceB = &SourceB{res.Profiles, res.Damaged}
	}
	return s, nil
}

func (a *api) flamegraph(w http.ResponseWriter, r *http.Request) error {
	s, err := a.selectStacks(r, "root", "max_nodes", "inverted")
	if err != nil {
		return err
	}
	inverted, err := s.bool("inverted")
	if err != nil {
		return err
	}
	s.options.Root = flamegraph.ParsePath(s.Get("root"))
	var g *flamegraph.Graph
	if inverted {
		g, err = flamegraph.Invert(r.Context(), s.stacks, s.options)
	} else {
		g, err = flamegraph.Build(r.Context(), s.stacks, s.options)
	}
	if err != nil {
		return tooManyNodes(err)
	}
	h := w.Header()
	h.Add("Vary", "Accept")
	if !accepts(r, flamegraph.ColumnsType) {
		writeJSON(w, r, http.StatusOK, FlamegraphAnswer{g, s.source})
		return nil
	}
	h.Set("Content-Type", flamegraph.ColumnsType)
	h.Set("Pilotlight-Profiles", strconv.Itoa(s.source.Profiles))
	h.Set("Pilotlight-Damaged", strconv.Itoa(s.source.Damaged))
	for _, value := range s.source.Removed {
		h.Add("Pilotlight-Removed", strconv.FormatInt(value, 10))
	}
	if b := s.source.SourceB; b != nil {
		h.Set("Pilotlight-Profiles-B", strconv.Itoa(b.ProfilesB))
		h.Set("Pilotlight-Damaged-B", strconv.Itoa(b.DamagedB))
	}
	write(w, r, string(g.AppendColumns(nil)))
	return nil
}

// accepts says whether a request names the media type, and not only by a wildcard.
func accepts(r *http.Request, mediaType string) bool {
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		name, params, err := mime.ParseMediaType(part)
		if err != nil || name != mediaType {
			continue
		}
		q, err := strconv.ParseFloat(cmp.Or(params["q"], "1"), 64)
		return err == nil && q > 0
	}
	return false
}

func (a *api) top(r *http.Request) (any, error) {
	s, err := a.selectStacks(r)
	if err != nil {
		return nil, err
	}
	table, err := flamegraph.Top(r.Context(), s.stacks, s.options)
	if err != nil {
		return nil, err
	}
	return TopAnswer{table, s.source}, nil
}

func (a *api) sandwich(r *http.Request) (any, error) {
	if !r.URL.Query().Has("function") {
		return nil, badRequest("function", "function is missing: name the function whose callers and callees are wanted")
	}
	s, err := a.selectStacks(r, "function", "max_nodes")
	if err != nil {
		return nil, err
	}
	w, err := flamegraph.BuildSandwich(r.Context(), s.stacks, s.Get("function"), s.options)
	if err != nil {
		return nil, tooManyNodes(err)
	}
	return SandwichAnswer{w, s.source}, nil
}

// export answers the selection in a format of another tool.
func (a *api) export(w http.ResponseWriter, r *http.Request) error {
	format := flamegraph.Format(r.URL.Query().Get("format"))
	if !slices.Contains(flamegraph.Formats, format) {
		return badRequest("format", "format %.40q: write folded, speedscope, firefox or svg", format)
	}
	s, err := a.selectStacks(r, "format")
	if err != nil {
		return err
	}
	if s.options.B != nil {
		return badRequest("b.query", "an export has one side: leave b.query, b.from and b.to out")
	}
	b := exported{most: maxExport}
	if err := flamegraph.Export(r.Context(), &b, s.stacks, format, s.options.Unit); err != nil {
		return tooManyNodes(err)
	}
	h := w.Header()
	h.Set("Content-Type", format.ContentType())
	h.Set("Content-Disposition", "attachment; filename="+format.FileName())
	write(w, r, b.file.Bytes())
	return nil
}

// maxExport is how long an export may be: in some formats a stack is written with all its functions.
const maxExport = 256 << 20

// exported is an export in memory, of so many bytes at most.
type exported struct {
	file bytes.Buffer
	most int
}

func (e *exported) Write(b []byte) (int, error) {
	if e.file.Len()+len(b) > e.most {
		return 0, flamegraph.ErrTooLarge
	}
	return e.file.Write(b)
}

// tooManyNodes says what to do about a tree that is too large.
func tooManyNodes(err error) error {
	if errors.Is(err, flamegraph.ErrTooLarge) {
		return &profilestore.Error{Code: profilestore.Unprocessable, Message: "the stacks make too large a tree: take a shorter range, or name a service in the query", Err: err}
	}
	return err
}
