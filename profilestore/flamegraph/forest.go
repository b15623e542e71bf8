package flamegraph

import (
	"cmp"
	"context"
	"encoding/binary"
	"iter"
	"math"
	"math/bits"
	"slices"
	"strings"
	"sync"
)

// function is what makes two frames the same node.
type function struct{ name, binary string }

// forest makes one call tree of functions from many trees, and only that part of it that is asked for: a node is a
// set of places in those trees, and its children are found when it is expanded.
type forest struct {
	ctx   context.Context // of the request that it is made for: when it ends, what is found is not whole
	o     *Options
	whole []*Stacks // what is weighed: A, and B in a diff

	functions []origin // the first is that of node 0, and no other node has it
	names     []function
	isNamed   bool // node 0 is a function that was found
	ids       functionIDs
	of        [2][]int32 // by side and frame; 0: not known yet
	sources   []source

	slot []int32 // by function: the child that has it, of the node that is being expanded
	room

	cut     cut
	touched byte // keeps the compiler from leaving out what touch reads
}

// room is memory of nodes and of what finds them, megabytes for milliseconds: a forest takes that of one before.
type room struct {
	nodes   []node
	places  []place
	dropped []siblings // that cannot survive

	// Of the node that is being expanded:
	steps []step   // from its places
	kept  []int32  // of its children, which node each became, -1: none; empty: all are the nodes that they were
	runs  []cursor // in which its places are
}

// origin is where the names of a function are found: they are of no use for those that are pruned, nearly all.
type origin struct {
	of   *Functions // nil: the names are known
	own  int32      // its number there
	name int32      // index of forest.names, +1; 0: not asked for yet
}

// source is one tree.
type source struct {
	*prefixes
	side      int
	functions *Functions
	of        []int32 // those of functions, one load nearer
	ids       []int32 // in the forest, by number there; 0: not known yet. Trees with the same labels share it
}

// place is a prefix in a tree. A graph has many: four of them are a cache line.
type place struct {
	source, at uint32 // tree, and where its bytes have the run
	frames     int32  // how many of the frames of the next label belong to it
	inRun
}

// inRun is how much of a run belongs to a place. It is a type so that places have few enough fields to be kept in registers.
type inRun struct {
	labels int8  // how many labels, or atEnd
	next   uint8 // how far behind the run's beginning the next one begins
}

const _ = uint8(longestHead + longestRun*binary.MaxVarintLen32) // next can be as much

// atEnd stands for all labels of a run: at is then where the runs are that go on from it, 0: nowhere.
const atEnd = -1

// begin is the place in a run before its first label.
func (r *run) begin(source, at uint32) place {
	return place{source, at, 0, inRun{next: uint8(r.labels - at)}}.in(r)
}

// in is a place of a run, of which all labels may belong to it.
func (p place) in(r *run) place {
	if int32(p.labels) == r.count {
		p.at, p.labels = r.below, atEnd
	}
	return p
}

// step leads to a place that is one frame further.
type step struct {
	place
	total           int64
	run, label      uint32 // where it comes from: a run, and the label there that it goes on with
	function, child int32
}

// cursor is a place in the middle of a run, and the one that is a frame further.
type cursor struct {
	place, next place
	run         run
}

// node is one of the call tree.
type node struct {
	totals          [2]int64 // by side
	weight          int64    // what nodes are ordered and pruned by: no parent has less than its child
	function        int32
	place, placeEnd int32
	child, childEnd int32 // 0: not expanded
	dropped         int32 // index of forest.dropped, +1; 0: all its children are nodes
}

// siblings are some children of a node, or all.
type siblings struct {
	count  int32
	totals [2]int64
}

func (s *siblings) add(totals [2]int64) {
	s.count++
	s.totals[0] += totals[0]
	s.totals[1] += totals[1]
}

// cut tells while nodes are found which cannot be among the heaviest ones: as many as are wanted are heavier. Without
// it a stack that was seen once would cost a node, and there may be millions.
type cut struct {
	most   int        // wanted; 0: all
	counts [ranks]int // found so far, by class
	class  int        // nodes of lower ones do not survive
	above  int        // found in this class and in higher ones
}

// admits says whether a node of a class may survive, and counts it.
func (c *cut) admits(class int) bool {
	if class < c.class {
		return false
	}
	c.counts[class]++
	c.above++
	return true
}

func (c *cut) rise() {
	for c.most > 0 && c.above-c.counts[c.class] >= c.most {
		c.above -= c.counts[c.class]
		c.class++
	}
}

func newForest(ctx context.Context, name string, o *Options, whole []*Stacks) *forest {
	return &forest{
		ctx: ctx, o: o, whole: whole,
		functions: []origin{{name: 1}}, names: []function{{name: name}}, slot: []int32{0},
		ids: functionIDs{hashes: make([]FunctionHash, 1)},
	}
}

// addSides takes all trees that are weighed.
func (f *forest) addSides() {
	shared := make(map[*Functions][]int32)
	for side, s := range f.whole {
		for _, p := range s.all() {
			functions := p.functions(s)
			ids := shared[functions]
			if ids == nil {
				ids = make([]int32, len(functions.Hashes))
				shared[functions] = ids
			}
			f.sources = append(f.sources, source{p, side, functions, functions.Of, ids})
		}
	}
}

// function is that of a frame.
func (f *forest) function(side int, frame int32) int32 {
	if missing := len(f.whole[side].frames) - len(f.of[side]); missing > 0 {
		f.of[side] = append(f.of[side], make([]int32, missing)...)
	}
	known := &f.of[side][frame]
	if *known == 0 {
		own := &f.whole[side].frames[frame]
		var added bool
		if *known, added = f.intern(HashFunction(own.Function, own.Binary), origin{}); added {
			f.name(*known, own.Function, own.Binary)
		}
	}
	return *known
}

// functionOf is one of those of a source.
func (f *forest) functionOf(src *source, own int32) int32 {
	if src.ids[own] == 0 {
		src.ids[own], _ = f.intern(src.functions.Hashes[own], origin{of: src.functions, own: own})
	}
	return src.ids[own]
}

// intern numbers a function, which comes from o if it is new.
func (f *forest) intern(hash FunctionHash, o origin) (fn int32, added bool) {
	fn, added = f.ids.number(hash)
	if added {
		f.functions = append(f.functions, o)
		f.slot = append(f.slot, 0)
	}
	return fn, added
}

func (f *forest) name(fn int32, name, binary string) {
	f.names = append(f.names, function{name, binary})
	f.functions[fn].name = int32(len(f.names))
}

// named is a function with its names.
func (f *forest) named(fn int32) *function {
	if o := &f.functions[fn]; o.name == 0 {
		name, binary := o.of.Name(o.own)
		f.name(fn, name, binary)
	}
	return &f.names[f.functions[fn].name-1]
}

// below appends to f.steps those from a place to the ones that are one frame further, without their functions.
func (f *forest) below(p place) {
	src := &f.sources[p.source]
	if p.labels != atEnd {
		r := src.read(p.at)
		label, end := src.varint(p.at + uint32(p.next))
		run := p.at
		p.labels, p.next = p.labels+1, uint8(end-run)
		f.steps = append(f.steps, step{place: p.in(&r), total: r.total, run: run, label: uint32(label)})
		return
	}
	for run := p.at; run != 0; {
		r := src.read(run)
		label, end := src.varint(r.labels)
		next := place{p.source, run, 0, inRun{1, uint8(end - run)}}
		f.steps = append(f.steps, step{place: next.in(&r), total: r.total, run: run, label: uint32(label)})
		run = r.next
	}
}

// findFunctions gives f.steps their functions. What it does for each of them is a cache miss or two, and little, so that the
// processor waits for many at once.
func (f *forest) findFunctions() {
	for i := range f.steps {
		s := &f.steps[i]
		s.function = f.sources[s.source].of[s.label]
	}
	for i := range f.steps {
		s := &f.steps[i]
		src := &f.sources[s.source]
		if s.function >= 0 {
			s.function = f.functionOf(src, s.function)
			continue
		}
		r := src.read(s.run)
		s.function, s.place = f.further(s.back(src, &r))
		s.place = s.place.in(&r)
	}
}

// back is the place that a step came from, which below took to go on by one frame: few labels are several.
func (s *step) back(src *source, r *run) place {
	p := place{s.source, s.run, s.frames, s.inRun}
	if p.labels == atEnd {
		p.labels = int8(r.count)
	}
	p.labels--
	p.next = uint8(src.skip(r.labels, int(p.labels)) - s.run)
	return p
}

// further is the place one frame further in a run, which may be its end, and the function of that frame.
func (f *forest) further(p place) (function int32, _ place) {
	src := &f.sources[p.source]
	label, end := src.varint(p.at + uint32(p.next))
	own := src.of[label]
	if own >= 0 {
		p.labels, p.next = p.labels+1, uint8(end-p.at)
		return f.functionOf(src, own), p
	}
	chain := src.functions.Chains[-1-own]
	function = f.functionOf(src, chain[p.frames])
	if p.frames++; int(p.frames) == len(chain) {
		p.labels, p.next, p.frames = p.labels+1, uint8(end-p.at), 0
	}
	return function, p
}

// start is where a tree begins: the places of its root, and the values of all that begins there, by side.
type start struct {
	places []place
	totals [2]int64
}

func (s *start) add(p place, side int, total int64) {
	s.places = append(s.places, p)
	s.totals[side] += total
}

// begin makes node 0.
func (f *forest) begin(at start) {
	if f.o.MaxNodes > 0 {
		f.room = rooms.Get().(*room).emptied(f.expected())
	}
	f.places = append(f.places, at.places...)
	f.nodes = append(f.nodes, node{placeEnd: int32(len(at.places)), totals: at.totals, weight: f.weigh(at.totals)})
}

var rooms = sync.Pool{New: func() any { return new(room) }}

// emptied is the room without what is in it, with memory for so many nodes: else it would be made larger again and again.
func (r *room) emptied(nodes int) room {
	return room{
		nodes: slices.Grow(r.nodes[:0], nodes), places: slices.Grow(r.places[:0], nodes), dropped: r.dropped[:0],
		steps: r.steps[:0], kept: r.kept[:0], runs: r.runs[:0],
	}
}

// expected is how many nodes may be found, of all that there are: often more than three times as many as are wanted.
func (f *forest) expected() int {
	count := 1
	for i := range f.sources {
		count += f.sources[i].count
	}
	return min(count, 4*min(f.o.MaxNodes, 1<<15))
}

// leave gives the memory to another forest, unless it is rarely so much: nothing in it has more than nodes, places and steps.
func (f *forest) leave() {
	const most = 1 << 18
	if r := f.room; f.o.MaxNodes > 0 && cap(r.nodes) <= most && cap(r.places) <= 2*most && cap(r.steps) <= 2*most {
		rooms.Put(&r)
	}
	f.room = room{}
}

// roots are the empty stacks.
func (f *forest) roots() start {
	var all start
	for i := range f.sources {
		src := &f.sources[i]
		r := src.read(src.root)
		all.add(r.begin(uint32(i), src.root), src.side, r.total)
	}
	return all
}

// follow goes down a path of names, of any binaries. Node 0 becomes the last of them that was found.
func (f *forest) follow(path []string) start {
	at := f.roots()
	for i, name := range path {
		var found start
		for _, p := range at.places {
			f.steps = f.steps[:0]
			f.below(p)
			f.findFunctions()
			for _, s := range f.steps {
				if f.named(s.function).name != name {
					continue
				}
				if i == len(path)-1 {
					f.found(s.function)
				}
				found.add(s.place, f.sources[p.source].side, s.total)
			}
		}
		at = found
	}
	return at
}

// found gives node 0 the function that was looked for by its name, of the first binary by name that has it.
func (f *forest) found(fn int32) {
	if binary := f.named(fn).binary; !f.isNamed || binary < f.names[0].binary {
		f.isNamed, f.names[0].binary = true, binary
	}
}

func (f *forest) weigh(totals [2]int64) int64 {
	if len(f.whole) == 1 {
		return totals[0]
	}
	return max(f.o.scaled(totals[0], totals[1], f.whole))
}

// scaled makes values of the two sides comparable: as they are, or in 2^-62 of all that their side has.
func (o *Options) scaled(a, b int64, whole []*Stacks) (int64, int64) {
	if !o.Normalize {
		return a, b
	}
	return share(a, whole[0].total), share(b, whole[1].total)
}

func share(value, total int64) int64 {
	if total == 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(value), 1<<62)
	quotient, _ := bits.Div64(hi, lo, uint64(total)) // value <= total, so that it fits
	return int64(quotient)
}

// expand finds the children of a node.
func (f *forest) expand(n int32) {
	if f.nodes[n].child > 0 || f.expandRuns(n) {
		return
	}
	first := int32(len(f.nodes))
	f.steps = f.steps[:0]
	for _, p := range f.places[f.nodes[n].place:f.nodes[n].placeEnd] {
		f.below(p)
	}
	f.findFunctions()
	for i := range f.steps {
		s := &f.steps[i]
		side := f.sources[s.source].side
		s.child = f.slot[s.function]
		if s.child == 0 {
			s.child = int32(len(f.nodes))
			f.slot[s.function] = s.child
			f.nodes = append(f.nodes, node{function: s.function})
		}
		child := &f.nodes[s.child]
		child.totals[side] += s.total
		if s.at > 0 { // something goes on from there
			child.placeEnd++
		}
	}
	f.keep(n, first)
	at := int32(len(f.places))
	for c := first; c < int32(len(f.nodes)); c++ {
		own := &f.nodes[c]
		own.place, own.placeEnd, at = at, at, at+own.placeEnd
	}
	f.places = slices.Grow(f.places, int(at)-len(f.places))[:at]
	for i := range f.steps {
		s := &f.steps[i]
		if s.at == 0 {
			continue
		}
		child := s.child
		if len(f.kept) > 0 {
			if child = f.kept[child-first]; child < 0 {
				continue
			}
		}
		own := &f.nodes[child]
		f.places[own.placeEnd] = s.place
		own.placeEnd++
	}
}

// expandRuns is expand for a node that is in the middle of runs which go on with the same function, and for the nodes below
// it as far as they do: each has one child, and all have the same value. It returns false if it is not so.
func (f *forest) expandRuns(n int32) bool {
	places := f.places[f.nodes[n].place:f.nodes[n].placeEnd]
	if len(places) == 0 || slices.ContainsFunc(places, func(p place) bool { return p.labels == atEnd }) {
		return false
	}
	var own node
	f.runs = f.runs[:0]
	for _, p := range places {
		src := &f.sources[p.source]
		r := src.read(p.at)
		own.totals[src.side] += r.total
		f.runs = append(f.runs, cursor{place: p, run: r})
	}
	own.weight = f.weigh(own.totals)
	begun := n
	for ended := false; !ended; {
		var alike bool
		if own.function, alike = f.ahead(); !alike {
			break
		}
		for i := range f.runs {
			r := &f.runs[i]
			r.place = r.next.in(&r.run)
			ended = ended || r.place.labels == atEnd
		}
		child := int32(len(f.nodes))
		f.nodes[n].child, f.nodes[n].childEnd = child, child
		if f.cut.most > 0 && !f.cut.admits(rank(own.weight)) {
			f.drop(n, siblings{1, own.totals})
			return true
		}
		f.nodes[n].childEnd++
		f.nodes = append(f.nodes, own)
		f.cut.rise()
		n = child
	}
	if n == begun {
		return false
	}
	last := &f.nodes[n]
	last.place = int32(len(f.places))
	for i := range f.runs {
		if p := f.runs[i].place; p.at > 0 {
			f.places = append(f.places, p)
		}
	}
	last.placeEnd = int32(len(f.places))
	return true
}

// ahead looks one frame further in all of f.runs, and says whether that is the same function in all of them.
func (f *forest) ahead() (function int32, alike bool) {
	for i := range f.runs {
		r := &f.runs[i]
		fn, next := f.further(r.place)
		if i > 0 && fn != function {
			return 0, false
		}
		function, r.next = fn, next
	}
	return function, true
}

// keep leaves of the children of a node, which are the last nodes, those that may survive.
func (f *forest) keep(n, first int32) {
	f.kept = f.kept[:0]
	var none siblings
	kept := first
	for c := first; c < int32(len(f.nodes)); c++ {
		own := &f.nodes[c]
		f.slot[own.function] = 0
		own.weight = f.weigh(own.totals)
		if f.cut.most == 0 {
			kept++
			continue
		}
		if !f.cut.admits(rank(own.weight)) {
			f.kept = append(f.kept, -1)
			none.add(own.totals)
			continue
		}
		f.kept = append(f.kept, kept)
		if kept < c {
			f.nodes[kept] = *own
		}
		kept++
	}
	f.nodes = f.nodes[:kept]
	f.nodes[n].child, f.nodes[n].childEnd = first, kept
	if none.count > 0 {
		f.drop(n, none)
	}
	f.cut.rise()
}

// drop takes note of what expand left out of a node's children.
func (f *forest) drop(n int32, children siblings) {
	f.dropped = append(f.dropped, children)
	f.nodes[n].dropped = int32(len(f.dropped))
}

// droppedOf is what expand left out of a node's children.
func (f *forest) droppedOf(n *node) siblings {
	if n.dropped == 0 {
		return siblings{}
	}
	return f.dropped[n.dropped-1]
}

// limit says which nodes survive: those that weigh more than lightest, and of those that weigh as much the first
// `ties` in preorder.
type limit struct {
	lightest int64
	ties     int
}

// rank puts weights into classes: those of a higher class are larger, those of one class differ by an eighth at most.
func rank(weight int64) int {
	shift := max(0, bits.Len64(uint64(weight))-4)
	return shift*8 + int(weight>>shift)
}

const ranks = 61 * 8

// heaviest finds out which nodes are the heaviest ones, besides node 0; most 0 is all of them. It expands those that
// are heavy enough, class by class, and few others.
func (f *forest) heaviest(most int) limit {
	all := limit{0, math.MaxInt}
	if most == 0 {
		return all
	}
	f.cut.most = most
	var waiting [ranks][]int32
	const batch = 8 // of nodes that are touched together
	count := 0
	add := func(n int32) {
		f.expand(n)
		for c := f.nodes[n].child; c < f.nodes[n].childEnd; c++ {
			r := rank(f.nodes[c].weight)
			waiting[r] = append(waiting[r], c)
		}
	}
	add(0)
	for r := ranks - 1; r >= 0; r-- {
		before := count
		low, high, seen := int64(math.MaxInt64), int64(0), 0
		for i := 0; i < len(waiting[r]); i++ {
			if i%batch == 0 {
				f.touch(waiting[r][i:min(i+batch, len(waiting[r]))])
			}
			n := waiting[r][i]
			for ; seen < len(waiting[r]); seen++ {
				w := f.nodes[waiting[r][seen]].weight
				low, high = min(low, w), max(high, w)
			}
			if len(waiting[r])+before >= most && low == high {
				// What is not expanded yet has no heavier children: they are ties too.
				return limit{low, most - before}
			}
			if f.ctx.Err() != nil {
				return all
			}
			count++
			add(n)
		}
		if count >= most {
			slices.SortFunc(waiting[r], func(a, b int32) int { return cmp.Compare(f.nodes[b].weight, f.nodes[a].weight) })
			lightest := f.nodes[waiting[r][most-before-1]].weight
			heavier := slices.IndexFunc(waiting[r], func(n int32) bool { return f.nodes[n].weight == lightest })
			return limit{lightest, most - before - heavier}
		}
		waiting[r] = nil
	}
	return all
}

// touch has the places of nodes in the cache by the time that they are expanded: the processor waits for all of them at once.
func (f *forest) touch(nodes []int32) {
	sum := byte(0)
	for _, n := range nodes {
		for _, p := range f.places[f.nodes[n].place:f.nodes[n].placeEnd] {
			sum += f.sources[p.source].bytes[p.at]
		}
	}
	f.touched = sum
}

// survivor is a node of the graph.
type survivor struct {
	node
	parent   int32    // which one of the graph is, -1: none
	children siblings // all of them, also those that survive
}

// preorder yields the nodes that survive, in the order of Graph, until the context ends or there are too many. So a parent
// always survives when its child does, and the order of Add does not matter.
func (f *forest) preorder(l limit) iter.Seq[survivor] {
	return func(yield func(survivor) bool) {
		type waiting struct{ node, parent int32 }
		stack := []waiting{{0, -1}}
		for count := int32(0); len(stack) > 0 && f.ctx.Err() == nil && !f.tooLarge(); {
			next := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			if next.node != 0 && f.nodes[next.node].weight == l.lightest {
				if l.ties == 0 {
					continue // its children are no heavier and come later
				}
				l.ties--
			}
			f.expand(next.node)
			s := survivor{node: f.nodes[next.node], parent: next.parent}
			s.children = f.droppedOf(&s.node)
			first := len(stack)
			for c := s.child; c < s.childEnd; c++ {
				own := &f.nodes[c]
				s.children.add(own.totals)
				if own.weight >= l.lightest {
					stack = append(stack, waiting{c, count})
				}
			}
			if children := stack[first:]; len(children) > 1 {
				slices.SortFunc(children, func(a, b waiting) int { return f.later(a.node, b.node) })
			}
			count++
			if !yield(s) {
				return
			}
		}
	}
}

// tooLarge says whether the tree has too many nodes. One that is cut has few more than are wanted.
func (f *forest) tooLarge() bool { return f.cut.most == 0 && len(f.nodes) > maxWhole }

// later orders siblings, the last one first.
func (f *forest) later(a, b int32) int {
	x, y := &f.nodes[a], &f.nodes[b]
	if c := cmp.Compare(x.weight, y.weight); c != 0 {
		return c
	}
	fx, fy := *f.named(x.function), *f.named(y.function)
	return cmp.Or(strings.Compare(fy.name, fx.name), strings.Compare(fy.binary, fx.binary))
}
