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

// MaxMatched is how much of a name is looked at, in bytes: an expression may need a thousand steps for each of them.
const MaxMatched = 8 << 10

// Matches says whether the expression is found in a frame.
func (f *Filter) Matches(frame *Frame) bool {
	for _, name := range []string{frame.Function, frame.File, frame.Binary} {
		if (name != "" || name == frame.Function) && f.Regexp.MatchString(name[:min(len(name), MaxMatched)]) {
			return true
		}
	}
	return false
}

// Filter applies filters in their order and returns the stacks that are left. s is not changed, and is itself the
// answer when there are no filters. The error is that of ctx, which ends it between two frames.
func (s *Stacks) Filter(ctx context.Context, filters ...Filter) (*Stacks, error) {
	for i := range filters {
		r := rewriter{filter: &filters[i], frames: s, to: new(Stacks)}
		for _, p := range s.trees {
			r.parent, r.labels, r.self = p.flatten(ctx)
			if err := r.rewrite(ctx); err != nil {
				return nil, err
			}
			r.to.settleTree()
		}
		r.parent, r.labels, r.self = s.parent, s.labels, s.self
		if err := r.rewrite(ctx); err != nil {
			return nil, err
		}
		s = r.to
	}
	return s, nil
}

// settleTree makes what was added so far one of the trees, which takes less memory, and begins anew.
func (s *Stacks) settleTree() {
	if len(s.parent) > 0 {
		s.trees = append(s.trees, s.ownTree())
	}
	s.parent, s.self, s.children, s.root = nil, nil, children{}, 0
}

// rewriter makes one set of stacks from another, prefix by prefix: a prefix that stacks share is looked at once.
type rewriter struct {
	filter  *Filter
	frames  *Stacks
	matches []bool  // by frame of frames
	renamed []int32 // by frame of frames and whether it is to stand for a location: its number in to, less one
	to      *Stacks

	// Stacks as Stacks.Add has them; labels are frames.
	parent, labels []int32
	self           []int64
}

func (r *rewriter) rewrite(ctx context.Context) error {
	for i := len(r.matches); i < len(r.frames.frames); i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		r.matches = append(r.matches, r.filter.Matches(&r.frames.frames[i]))
		r.renamed = append(r.renamed, 0, 0)
	}
	switch r.filter.Kind {
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
	return ctx.Err()
}

// frame returns the number in r.to of a frame of r.from. outermost says that the frames of its location that
// were outside of it are gone.
func (r *rewriter) frame(id int32, outermost bool) int32 {
	at := 2 * id
	if outermost {
		at++
	}
	if r.renamed[at] == 0 {
		f := r.frames.frames[id]
		r.renamed[at] = r.to.FrameOf(r.to.own(f.Function), r.to.own(f.Binary), r.to.own(f.File), f.Line, f.Inlined && !outermost) + 1
	}
	return r.renamed[at] - 1
}

func (r *rewriter) add(node int32, value int64) {
	if node == root || value == 0 {
		return // pprof drops what has no frames
	}
	r.to.self[node] += value
	r.to.total += value
}

// keep leaves the stacks that have a matching frame, or those that have none.
func (r *rewriter) keep(matching bool) {
	matched := make([]bool, len(r.parent))
	needed := make([]bool, len(r.parent))
	for i, p := range r.parent {
		matched[i] = r.matches[r.labels[i]] || p >= 0 && matched[p]
		needed[i] = matched[i] == matching && r.self[i] > 0
	}
	for i := len(needed) - 1; i >= 0; i-- {
		if p := r.parent[i]; needed[i] && p >= 0 {
			needed[p] = true
		}
	}
	at := make([]int32, len(r.parent))
	for i, p := range r.parent {
		if !needed[i] {
			continue
		}
		above := root
		if p >= 0 {
			above = at[p]
		}
		at[i] = r.to.child(above, r.frame(r.labels[i], false))
		if matched[i] == matching {
			r.add(at[i], r.self[i])
		}
	}
}

// recursive says whether the last frame of a prefix is called by its own function.
func (r *rewriter) recursive(prefix int) bool {
	p := r.parent[prefix]
	if p < 0 {
		return false
	}
	callee, caller := &r.frames.frames[r.labels[prefix]], &r.frames.frames[r.labels[p]]
	return callee.Function == caller.Function && callee.Binary == caller.Binary
}

// hide takes out the frames that match, at the end of the prefixes that are chosen.
func (r *rewriter) hide(chosen func(prefix int) bool) {
	at := make([]int32, len(r.parent))
	headless := make([]bool, len(r.parent)) // the outermost frame of the location is hidden, and all after it
	for i, p := range r.parent {
		above, lost := root, false
		if p >= 0 {
			above, lost = at[p], headless[p]
		}
		lost = lost && r.frames.frames[r.labels[i]].Inlined
		if r.matches[r.labels[i]] && chosen(i) {
			at[i], headless[i] = above, lost || !r.frames.frames[r.labels[i]].Inlined
		} else {
			at[i] = r.to.child(above, r.frame(r.labels[i], lost))
		}
		r.add(at[i], r.self[i])
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
	states := make([]shown, len(r.parent))
	for i, p := range r.parent {
		now := shown{node: root}
		f := r.frames.frames[r.labels[i]]
		if p >= 0 {
			now = states[p]
			if !f.Inlined { // a new location
				now = shown{any: now.any, node: r.settle(p, now)}
			}
		}
		switch {
		case now.here:
			now.node = r.to.child(now.node, r.frame(r.labels[i], false))
		case r.matches[r.labels[i]]:
			now = shown{any: true, here: true, node: r.to.child(now.node, r.frame(r.labels[i], true))}
		default:
			now.waiting++
		}
		states[i] = now
		if now.any && r.self[i] > 0 {
			r.add(r.settle(int32(i), now), r.self[i])
		}
	}
}

// settle adds the frames that waited in vain, and returns the last node.
func (r *rewriter) settle(prefix int32, now shown) int32 {
	if !now.any {
		return root
	}
	waiting := make([]int32, now.waiting)
	for i := len(waiting) - 1; i >= 0; i-- {
		waiting[i] = r.labels[prefix]
		prefix = r.parent[prefix]
	}
	for _, f := range waiting {
		now.node = r.to.child(now.node, r.frame(f, false))
	}
	return now.node
}
