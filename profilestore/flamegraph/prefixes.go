package flamegraph

// prefixes is a tree of stacks in preorder: all stacks that begin with one follow it. It never changes.
type prefixes struct {
	label []uint32 // what a stack has called last; the first is the empty stack, whose label says nothing
	end   []uint32 // where the stacks that begin with it end
	total []int64  // value of all of them; never 0, but for the empty stack

	frames func(label uint32) []int32 // nil: a label is the number of a frame
}

// newPrefixes leaves out stacks without a value of which none with one begins. values become totals.
func newPrefixes(callers, labels []uint32, values []int64) *prefixes {
	size := make([]uint32, len(callers))
	for i := len(callers) - 1; i > 0; i-- {
		if values[i] == 0 {
			continue
		}
		size[i]++
		values[callers[i]] += values[i]
		size[callers[i]] += size[i]
	}
	n := size[0] + 1
	p := &prefixes{label: make([]uint32, n), end: make([]uint32, n), total: make([]int64, n)}
	p.end[0], p.total[0] = n, values[0]
	next := size // once a stack has its place: that of the next one which it calls
	next[0] = 1
	for i, caller := range callers {
		if i == 0 || values[i] == 0 {
			continue
		}
		at := next[caller]
		next[caller] = at + size[i]
		p.label[at], p.end[at], p.total[at] = labels[i], at+size[i], values[i]
		next[i] = at + 1
	}
	return p
}

func (p *prefixes) size() int64 { return 16 * int64(len(p.label)) }

// framesAt are the frames of the last call of a stack.
func (p *prefixes) framesAt(at uint32, one *[1]int32) []int32 {
	if p.frames == nil {
		one[0] = int32(p.label[at])
		return one[:]
	}
	return p.frames(p.label[at])
}

// selfs are the values of the stacks themselves.
func (p *prefixes) selfs() []int64 {
	self := make([]int64, len(p.total))
	copy(self, p.total)
	var path []uint32
	for at := range p.total {
		for len(path) > 0 && p.end[path[len(path)-1]] <= uint32(at) {
			path = path[:len(path)-1]
		}
		if len(path) > 0 {
			self[path[len(path)-1]] -= p.total[at]
		}
		path = append(path, uint32(at))
	}
	return self
}

// walk calls enter for each frame, callers first, with the value of the stack that ends there and of those that
// begin so; and leave when it has done so for all below it.
func (p *prefixes) walk(enter func(frame int32, self, total int64), leave func(frame int32)) {
	type open struct {
		end    uint32
		frames int // of the call, the last ones on the path
	}
	var calls []open
	var path []int32
	var one [1]int32
	self := p.selfs()
	pop := func() {
		last := calls[len(calls)-1]
		calls = calls[:len(calls)-1]
		for range last.frames {
			leave(path[len(path)-1])
			path = path[:len(path)-1]
		}
	}
	for at := uint32(1); at < uint32(len(p.label)); at++ {
		for len(calls) > 0 && calls[len(calls)-1].end <= at {
			pop()
		}
		frames := p.framesAt(at, &one)
		for i, f := range frames {
			own := int64(0)
			if i == len(frames)-1 {
				own = self[at]
			}
			path = append(path, f)
			enter(f, own, p.total[at])
		}
		calls = append(calls, open{p.end[at], len(frames)})
	}
	for len(calls) > 0 {
		pop()
	}
}

// flatten makes the tree one of frames, as Stacks.Add does, but does not look for what is there already.
func (p *prefixes) flatten() (parent, frame []int32, self []int64) {
	n := len(p.label) - 1
	parent, frame, self = make([]int32, 0, n), make([]int32, 0, n), make([]int64, 0, n)
	var path []int32
	above := func() int32 {
		if len(path) == 0 {
			return -1
		}
		return path[len(path)-1]
	}
	p.walk(func(f int32, own, _ int64) {
		parent, frame, self = append(parent, above()), append(frame, f), append(self, own)
		path = append(path, int32(len(parent)-1))
	}, func(int32) { path = path[:len(path)-1] })
	return parent, frame, self
}
