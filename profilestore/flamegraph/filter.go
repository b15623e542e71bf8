package flamegraph

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// FilterKind says what a [Filter] does with the frames that it matches.
type FilterKind string

// The kinds, named as pprof's options.
const (
	Focus    FilterKind = "focus"     // keeps the stacks with a matching frame
	Ignore   FilterKind = "ignore"    // drops the stacks with a matching frame
	Hide     FilterKind = "hide"      // takes matching frames out of their stacks
	ShowFrom FilterKind = "show_from" // cuts what is above the outermost matching frame; drops stacks without one
	Collapse FilterKind = "collapse"  // takes out matching frames that their own function calls; pprof has no such option
)

var kinds = []FilterKind{Focus, Ignore, Hide, ShowFrom, Collapse}

// Filter changes a set of stacks as pprof's option of the same name does. A frame matches when the expression
// is found in its function, its source file or its binary. A stack that is left without frames is dropped. Only
// in one thing pprof differs: it matches no text against a frame that has an address and no name.
type Filter struct {
	Kind   FilterKind
	Regexp *regexp.Regexp
}

// maxExpression bounds what a filter may cost: compiling takes memory in proportion.
const maxExpression = 4096

// ParseFilter reads kind:expression, as in "focus:^main\.". The error is the end of a sentence: it says what is
// wrong and how to write it.
func ParseFilter(s string) (Filter, error) {
	kind, expr, ok := strings.Cut(s, ":")
	f := Filter{Kind: FilterKind(kind)}
	switch {
	case !ok || !slices.Contains(kinds, f.Kind):
		return f, fmt.Errorf("%.40q: write focus:, ignore:, hide:, show_from: or collapse: and a regular expression", s)
	case expr == "":
		return f, fmt.Errorf("%.40q: write a regular expression after the colon", s)
	case len(expr) > maxExpression:
		return f, fmt.Errorf("%.40q: the expression has %d bytes: write at most %d", s, len(expr), maxExpression)
	}
	var err error
	if f.Regexp, err = regexp.Compile(expr); err != nil {
		return f, fmt.Errorf("%.40q: %v: write a regular expression of RE2", s, err)
	}
	return f, nil
}

// maxMatched is how much of a name is looked at: an expression may need a thousand steps for each of its bytes.
const maxMatched = 8 << 10

// Matches says whether the expression is found in a frame.
func (f *Filter) Matches(frame *Frame) bool {
	for _, name := range []string{frame.Function, frame.File, frame.Binary} {
		if (name != "" || name == frame.Function) && f.Regexp.MatchString(name[:min(len(name), maxMatched)]) {
			return true
		}
	}
	return false
}

// Filter applies filters in their order and returns the stacks that are left. s is not changed, and is itself the
// answer when there are no filters. The error is that of ctx, which ends it between two frames.
func (s *Stacks) Filter(ctx context.Context, filters ...Filter) (*Stacks, error) {
	for _, f := range filters {
		matches := make([]bool, len(s.frames))
		for i := range s.frames {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			matches[i] = f.Matches(&s.frames[i])
		}
		r := rewriter{from: s, matches: matches, to: &Stacks{frameIDs: make(map[Frame]int32)}}
		switch f.Kind {
		case Focus:
			r.keep(true)
		case Ignore:
			r.keep(false)
		case Hide:
			r.hide(func(int) bool { return true })
		case Collapse:
			r.hide(r.recursive)
		case ShowFrom:
			r.showFrom()
		}
		s = r.to
	}
	return s, nil
}

// rewriter makes one set of stacks from another, prefix by prefix: a prefix that stacks share is looked at once.
type rewriter struct {
	from    *Stacks
	matches []bool // by frame of from
	to      *Stacks
	renamed []int32 // by frame of from and whether it is to stand for a location: its number in to, less one
}

// frame returns the number in r.to of a frame of r.from. outermost says that the frames of its location that
// were outside of it are gone.
func (r *rewriter) frame(id int32, outermost bool) int32 {
	if r.renamed == nil {
		r.renamed = make([]int32, 2*len(r.from.frames))
	}
	at := 2 * id
	if outermost {
		at++
	}
	if r.renamed[at] == 0 {
		f := r.from.frames[id]
		f.Inlined = f.Inlined && !outermost
		own, ok := r.to.frameIDs[f]
		if !ok {
			own = int32(len(r.to.frames))
			r.to.frames = append(r.to.frames, f)
			r.to.frameIDs[f] = own
			r.to.nameBytes += int64(len(f.Function) + len(f.Binary) + len(f.File))
		}
		r.renamed[at] = own + 1
	}
	return r.renamed[at] - 1
}

func (r *rewriter) add(node int32, value int64) {
	if node == Root || value == 0 {
		return // pprof drops what has no frames
	}
	r.to.self[node] += value
	r.to.total += value
}

// keep leaves the stacks that have a matching frame, or those that have none.
func (r *rewriter) keep(matching bool) {
	s := r.from
	matched := make([]bool, len(s.parent))
	needed := make([]bool, len(s.parent))
	for i, p := range s.parent {
		matched[i] = r.matches[s.labels[i]] || p >= 0 && matched[p]
		needed[i] = matched[i] == matching && s.self[i] > 0
	}
	for i := len(needed) - 1; i >= 0; i-- {
		if p := s.parent[i]; needed[i] && p >= 0 {
			needed[p] = true
		}
	}
	at := make([]int32, len(s.parent))
	for i, p := range s.parent {
		if !needed[i] {
			continue
		}
		above := Root
		if p >= 0 {
			above = at[p]
		}
		at[i] = r.to.Child(above, r.frame(s.labels[i], false))
		if matched[i] == matching {
			r.add(at[i], s.self[i])
		}
	}
}

// recursive says whether the last frame of a prefix is called by its own function.
func (r *rewriter) recursive(prefix int) bool {
	p := r.from.parent[prefix]
	if p < 0 {
		return false
	}
	callee, caller := &r.from.frames[r.from.labels[prefix]], &r.from.frames[r.from.labels[p]]
	return callee.Function == caller.Function && callee.Binary == caller.Binary
}

// hide takes out the frames that match, at the end of the prefixes that are chosen.
func (r *rewriter) hide(chosen func(prefix int) bool) {
	s := r.from
	at := make([]int32, len(s.parent))
	headless := make([]bool, len(s.parent)) // the outermost frame of the location is hidden, and all after it
	for i, p := range s.parent {
		above, lost := Root, false
		if p >= 0 {
			above, lost = at[p], headless[p]
		}
		lost = lost && s.frames[s.labels[i]].Inlined
		if r.matches[s.labels[i]] && chosen(i) {
			at[i], headless[i] = above, lost || !s.frames[s.labels[i]].Inlined
		} else {
			at[i] = r.to.Child(above, r.frame(s.labels[i], lost))
		}
		r.add(at[i], s.self[i])
	}
}

// shown is where showFrom stands after a prefix.
type shown struct {
	any     bool  // some frame matched: what follows is shown
	here    bool  // some frame of this location matched
	node    int32 // in the new stacks, without the frames that wait
	waiting int32 // how many frames of this location, the last ones of the prefix, wait for one that matches
}

// showFrom cuts each stack at its outermost matching frame. As in pprof, of every other location that matches
// by one of its inlined calls the frames outside of that call go too.
func (r *rewriter) showFrom() {
	s := r.from
	states := make([]shown, len(s.parent))
	for i, p := range s.parent {
		now := shown{node: Root}
		f := s.frames[s.labels[i]]
		if p >= 0 {
			now = states[p]
			if !f.Inlined { // a new location
				now = shown{any: now.any, node: r.settle(p, now)}
			}
		}
		switch {
		case now.here:
			now.node = r.to.Child(now.node, r.frame(s.labels[i], false))
		case r.matches[s.labels[i]]:
			now = shown{any: true, here: true, node: r.to.Child(now.node, r.frame(s.labels[i], true))}
		default:
			now.waiting++
		}
		states[i] = now
		if now.any && s.self[i] > 0 {
			r.add(r.settle(int32(i), now), s.self[i])
		}
	}
}

// settle adds the frames that waited in vain, and returns the last node.
func (r *rewriter) settle(prefix int32, now shown) int32 {
	if !now.any {
		return Root
	}
	waiting := make([]int32, now.waiting)
	for i := len(waiting) - 1; i >= 0; i-- {
		waiting[i] = r.from.labels[prefix]
		prefix = r.from.parent[prefix]
	}
	for _, f := range waiting {
		now.node = r.to.Child(now.node, r.frame(f, false))
	}
	return now.node
}
