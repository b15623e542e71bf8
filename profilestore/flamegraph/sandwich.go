package flamegraph

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
)

// Sandwich is one function between those that call it and those that it calls.
type Sandwich struct {
	Unit     string `json:"unit"`
	Total    int64  `json:"total"` // of everything
	Function Row    `json:"function"`
	Callers  []Call `json:"callers"` // heaviest first, of a diff largest change; then by name
	Callees  []Call `json:"callees"`

	// Each stack is cut at the outermost call of the function: CallerGraph has what is above, the function as its
	// root and each caller below what it calls; CalleeGraph has what is below. The total of both is the function's.
	CallerGraph *Graph `json:"caller_graph"`
	CalleeGraph *Graph `json:"callee_graph"`
	*TableB
}

// Call is what one function used while it called the function, or was called by it. As in `go tool pprof -peek`
// a stack counts once for each pair of functions that call each other in it, and a function's calls of itself
// are left out.
type Call struct {
	Function string `json:"function"`
	Value    int64  `json:"value"`
	*CallB
}

// CallB is what a call in a diff has besides; in another it is nil.
type CallB struct {
	ValueB int64 `json:"value_b"`
}

// ErrTooLarge is the error of a tree of too many nodes: of a graph that has no Options.MaxNodes, or of the callers that a
// sandwich or an inverted tree has. Those may be many times as large as the stacks: read upwards, stacks that share their
// root share nothing.
var ErrTooLarge = errors.New("the tree is too large")

// maxWhole bounds the nodes of a tree that is made as a whole: some 200 MB.
const maxWhole = 2_000_000

// BuildSandwich looks at one function, by its name in any binary. Of one that is nowhere all values are 0.
// Options.Root is not looked at; Options.MaxNodes bounds each of the two graphs. The error is [ErrTooLarge]
// or that of ctx.
func BuildSandwich(ctx context.Context, s *Stacks, name string, o Options) (*Sandwich, error) {
	sides := o.sides(s)
	all, callees := newForest(ctx, "", &o, sides), newForest(ctx, name, &o, sides)
	all.addSides()
	callees.addSides() // which numbers functions on its own
	callers := newCallers(name, all)
	if err := callers.addCalls(); err != nil {
		return nil, err
	}
	callees.begin(callees.calls(name))
	w := &Sandwich{Unit: o.Unit, Total: s.total, Function: Row{Function: name}}
	var err error
	if w.CallerGraph, err = callers.forest(&o).graph(); err != nil {
		return nil, err
	}
	if w.CalleeGraph, err = callees.graph(); err != nil {
		return nil, err
	}
	if len(sides) > 1 {
		w.TableB = &TableB{sides[1].total}
		w.Function.RowB = new(RowB)
	}
	for _, row := range all.table() {
		if row.Function == name {
			w.Function = row
		}
	}
	w.Callers, w.Callees = all.edges(name)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return w, nil
}

// calls are the places of the outermost calls of a function. Node 0 becomes one of them.
func (f *forest) calls(name string) start {
	var all start
	for i := range f.sources {
		src := &f.sources[i]
		count := 0
		runs := []uint32{src.read(src.root).below}
		for len(runs) > 0 {
			at := runs[len(runs)-1]
			runs = runs[:len(runs)-1]
			if at == 0 {
				continue
			}
			if count++; count%stacksBetween == 0 && f.ctx.Err() != nil {
				return all
			}
			r := src.read(at)
			runs = append(runs, r.next)
			if p, ok := f.call(r.begin(uint32(i), at), &r, name); ok {
				all.add(p.in(&r), src.side, r.total)
			} else {
				runs = append(runs, r.below)
			}
		}
	}
	return all
}

// call is the place of the outermost call of a function in a run, which p is the beginning of.
func (f *forest) call(p place, r *run, name string) (_ place, ok bool) {
	for int32(p.labels) < r.count {
		var function int32
		function, p = f.further(p)
		if f.named(function).name == name {
			f.found(function)
			return p, true
		}
	}
	return p, false
}

// callers is a tree read upwards: below node 0, a function or what all stacks end in, the innermost caller comes first.
type callers struct {
	of       *forest // whose functions are meant
	name     function
	named    bool // its binary is known
	parent   []uint32
	children children // labelled by function; they are one less than here, where 0 is node 0
	self     [2][]int64
}

func newCallers(name string, f *forest) *callers {
	return &callers{of: f, name: function{name: name}, parent: []uint32{0}, self: [2][]int64{{0}, {0}}}
}

// addCalls adds the outermost calls of the function, from all trees.
func (c *callers) addCalls() error {
	for i := range c.of.sources {
		src := &c.of.sources[i]
		var path []int32 // functions
		inside := 0
		src.walk(c.of.ctx, func(frame int32, _, total int64) {
			fn := c.of.function(src.side, frame)
			if inside > 0 || c.of.named(fn).name == c.name.name {
				if inside == 0 {
					c.found(fn)
					c.add(path, src.side, total)
				}
				inside++
			}
			path = append(path, fn)
		}, func(int32) {
			path = path[:len(path)-1]
			if inside > 0 {
				inside--
			}
		})
		if c.tooLarge() {
			return ErrTooLarge
		}
	}
	return nil
}

// found tells of a function that node 0 may be; of several the first by its binary is.
func (c *callers) found(fn int32) {
	if binary := c.of.named(fn).binary; !c.named || binary < c.name.binary {
		c.named, c.name.binary = true, binary
	}
}

func (c *callers) tooLarge() bool { return len(c.parent) > maxWhole }

// add adds what was called by a path of functions, outermost first, until the tree is too large.
func (c *callers) add(path []int32, side int, value int64) {
	if c.tooLarge() {
		return
	}
	node := int32(0)
	for _, caller := range slices.Backward(path) {
		below, added := c.children.find(node-1, caller)
		if added {
			c.parent = append(c.parent, uint32(node))
			for side := range c.self {
				c.self[side] = append(c.self[side], 0)
			}
		}
		node = below + 1
	}
	c.self[side][node] += value
}

func (c *callers) forest(o *Options) *forest {
	f := newForest(c.of.ctx, c.name.name, o, c.of.whole)
	f.functions, f.names = append(f.functions, c.of.functions[1:]...), append([]function{c.name}, c.of.names[1:]...)
	f.slot = make([]int32, len(f.functions))
	labels, own := make([]uint32, len(c.parent)), make([]int32, len(f.functions))
	for i, fn := range c.children.labels {
		labels[i+1] = uint32(fn)
	}
	for fn := range own {
		own[fn] = int32(fn)
	}
	functions := &Functions{Of: own} // all ids are known
	for side := range c.of.whole {
		f.sources = append(f.sources, source{prefixes: new(TreeWriter).write(c.parent, labels, c.self[side], 1), side: side, functions: functions, of: own, ids: own})
	}
	f.begin(f.roots())
	return f
}

// edges lists who calls a function and whom it calls.
func (f *forest) edges(name string) (in, out []Call) {
	var n byName
	target := int32(-1)
	type pair struct {
		open int32 // how many of these calls are on the path
		sums [2]int64
	}
	var pairs [2][]pair // calls of the function, and those by it, by the other one
	// edge is what the last call on the path is of the two; nil for another one.
	edge := func(path []int32) *pair {
		if len(path) < 2 {
			return nil
		}
		caller, callee := path[len(path)-2], path[len(path)-1]
		kind, other := 0, caller
		switch {
		case caller == callee:
			return nil
		case callee == target:
		case caller == target:
			kind, other = 1, callee
		default:
			return nil
		}
		if missing := len(n.names) - len(pairs[kind]); missing > 0 {
			pairs[kind] = append(pairs[kind], make([]pair, missing)...)
		}
		return &pairs[kind][other]
	}
	for i := range f.sources {
		src := &f.sources[i]
		var path []int32 // by name
		src.walk(f.ctx, func(frame int32, _, total int64) {
			id := n.id(f, f.function(src.side, frame))
			if target < 0 && n.names[id] == name {
				target = id
			}
			path = append(path, id)
			if e := edge(path); e != nil {
				if e.open == 0 {
					e.sums[src.side] += total
				}
				e.open++
			}
		}, func(int32) {
			if e := edge(path); e != nil {
				e.open--
			}
			path = path[:len(path)-1]
		})
	}
	list := func(pairs []pair) []Call {
		calls := []Call{}
		for i, p := range pairs {
			if p.sums == [2]int64{} {
				continue
			}
			c := Call{Function: n.names[i], Value: p.sums[0]}
			if len(f.whole) > 1 {
				c.CallB = &CallB{p.sums[1]}
			}
			calls = append(calls, c)
		}
		key := func(c Call) int64 {
			if c.CallB == nil {
				return c.Value
			}
			a, b := f.o.scaled(c.Value, c.ValueB, f.whole)
			return max(a-b, b-a)
		}
		slices.SortFunc(calls, func(x, y Call) int {
			return cmp.Or(cmp.Compare(key(y), key(x)), strings.Compare(x.Function, y.Function))
		})
		return calls
	}
	return list(pairs[0]), list(pairs[1])
}
