package flamegraph

import (
	"cmp"
	"errors"
	"maps"
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

// ErrTooLarge is the error of a sandwich whose callers make a tree many times as large as the stacks: read upwards,
// stacks that share their root share nothing.
var ErrTooLarge = errors.New("the callers make too large a tree")

// maxCallers bounds the nodes of the tree of callers: some 200 MB.
const maxCallers = 2_000_000

// BuildSandwich looks at one function, by its name in any binary. Of one that is nowhere all values are 0.
// Options.Root is not looked at; Options.MaxNodes bounds each of the two graphs. The error is [ErrTooLarge].
func BuildSandwich(s *Stacks, name string, o Options) (*Sandwich, error) {
	sides := o.sides(s)
	all := newTree("total", len(sides))
	callers, callees := newTree(name, len(sides)), newTree(name, len(sides))
	for i, sd := range sides {
		all.addBelow(i, sd, nil)
		callees.addFrom(i, sd, name)
		if err := callers.addAbove(i, sd, name); err != nil {
			return nil, err
		}
	}
	for _, t := range []*tree{all, callers, callees} {
		t.finish(&o, sides...)
	}
	w := &Sandwich{
		Unit: o.Unit, Total: all.sides[0].total[0], Function: Row{Function: name},
		CallerGraph: callers.graph(&o), CalleeGraph: callees.graph(&o),
	}
	if len(sides) > 1 {
		w.TableB = &TableB{all.sides[1].total[0]}
		w.Function.RowB = new(RowB)
	}
	for _, row := range all.table(sides) {
		if row.Function == name {
			w.Function = row
		}
	}
	w.Callers, w.Callees = all.calls(name, &o, sides)
	return w, nil
}

// addFrom adds what lies below the outermost calls of a function.
func (t *tree) addFrom(to int, s *Stacks, name string) {
	functionOf := t.functionsOf(s)
	at := make([]int32, len(s.parent)) // for each prefix its node
	for i, p := range s.parent {
		fn := functionOf[s.labels[i]]
		switch {
		case p >= 0 && at[p] != elsewhere:
			at[i] = t.child(at[p], fn)
		case t.functions[fn].name == name:
			t.found(fn) // node 0
		default:
			at[i] = elsewhere
			continue
		}
		t.sides[to].self[at[i]] += s.self[i]
	}
}

// addAbove adds what lies above the outermost calls of a function, innermost caller first.
func (t *tree) addAbove(to int, s *Stacks, name string) error {
	functionOf := t.functionsOf(s)
	total := slices.Clone(s.self)
	for i := len(total) - 1; i >= 0; i-- {
		if p := s.parent[i]; p >= 0 {
			total[p] += total[i]
		}
	}
	inside := make([]bool, len(s.parent))
	calls := make(map[int32]int64) // by the prefix of the caller
	for i, p := range s.parent {
		inside[i] = p >= 0 && inside[p]
		fn := functionOf[s.labels[i]]
		if !inside[i] && t.functions[fn].name == name {
			inside[i] = true
			t.found(fn)
			calls[p] += total[i]
		}
	}
	for _, p := range slices.Sorted(maps.Keys(calls)) {
		node := int32(0)
		for prefix := p; prefix >= 0; prefix = s.parent[prefix] {
			node = t.child(node, functionOf[s.labels[prefix]])
		}
		t.sides[to].self[node] += calls[p]
		if len(t.parent) > maxCallers {
			return ErrTooLarge
		}
	}
	return nil
}

// calls lists who calls a function and whom it calls, in a tree of everything.
func (t *tree) calls(name string, o *Options, sides []*Stacks) (callers, callees []Call) {
	n := t.byName()
	target := int32(slices.Index(n.names, name))
	if target < 0 {
		return []Call{}, []Call{}
	}
	// For each function: how many edges lead from it to the target, and to it from there, on the path.
	to, from := make([]int32, len(n.names)), make([]int32, len(n.names))
	sumsTo, sumsFrom := make([][2]int64, len(n.names)), make([][2]int64, len(n.names))
	edgeAt := func(node int32) (open []int32, sums [][2]int64, other int32) {
		callee, caller := n.of[t.function[node]], n.of[t.function[t.parent[node]]]
		switch {
		case caller == callee || caller < 0:
			return nil, nil, 0
		case callee == target:
			return to, sumsTo, caller
		case caller == target:
			return from, sumsFrom, callee
		}
		return nil, nil, 0
	}
	t.walk(func(node int32) {
		open, sums, other := edgeAt(node)
		if open == nil {
			return
		}
		if open[other] == 0 {
			for i, sd := range t.sides {
				sums[other][i] += sd.total[node]
			}
		}
		open[other]++
	}, func(node int32) {
		if open, _, other := edgeAt(node); open != nil {
			open[other]--
		}
	})
	list := func(sums [][2]int64) []Call {
		calls := []Call{}
		for i, sum := range sums {
			if sum == [2]int64{} {
				continue
			}
			c := Call{Function: n.names[i], Value: sum[0]}
			if len(sides) > 1 {
				c.CallB = &CallB{sum[1]}
			}
			calls = append(calls, c)
		}
		key := func(c Call) int64 {
			if c.CallB == nil {
				return c.Value
			}
			a, b := o.scaled(c.Value, c.ValueB, sides)
			return max(a-b, b-a)
		}
		slices.SortFunc(calls, func(x, y Call) int {
			return cmp.Or(cmp.Compare(key(y), key(x)), strings.Compare(x.Function, y.Function))
		})
		return calls
	}
	return list(sumsTo), list(sumsFrom)
}
