package flamegraph

import "context"

// Invert makes the call tree upside down: below the root each function with the value of the stacks that end in it,
// below each the functions that call it. A value stands at the outermost frame of its stack. Options.Root is a path
// from the innermost function. The error is [ErrTooLarge] or that of ctx.
func Invert(ctx context.Context, s *Stacks, o Options) (*Graph, error) {
	all := newForest(ctx, "", &o, o.sides(s))
	all.addSides()
	c := newCallers(o.rootName(), all)
	if err := c.addEnds(o.Root); err != nil {
		return nil, err
	}
	return c.forest(&o).graph()
}

// addEnds adds all stacks that end in a path of names, from the innermost one outwards.
func (c *callers) addEnds(end []string) error {
	for i := range c.of.sources {
		src := &c.of.sources[i]
		var path []int32 // functions
		empty := src.total
		src.walk(c.of.ctx, func(frame int32, self, _ int64) {
			path = append(path, c.of.function(src.side, frame))
			empty -= self
			if self > 0 && c.endsIn(path, end) {
				c.add(path[:len(path)-len(end)], src.side, self)
			}
		}, func(int32) { path = path[:len(path)-1] })
		if len(end) == 0 {
			c.add(nil, src.side, empty)
		}
		if c.tooLarge() {
			return ErrTooLarge
		}
	}
	return nil
}

// endsIn says whether a path of functions ends in these names, and notes what node 0 is then.
func (c *callers) endsIn(path []int32, end []string) bool {
	if len(path) < len(end) {
		return false
	}
	for i, name := range end {
		if c.of.named(path[len(path)-1-i]).name != name {
			return false
		}
	}
	if len(end) > 0 {
		c.found(path[len(path)-len(end)])
	}
	return true
}
