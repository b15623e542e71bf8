package symbolize

import (
	"cmp"
	"fmt"
	"slices"
)

const (
	// maxDepth bounds how deep entries nest. Those of templates nest some hundred deep.
	maxDepth = 4096
	// maxNodes bounds the inlined calls of a function.
	maxNodes = 1 << 20
	// maxOrigins bounds how often an entry says that its name is elsewhere: two are common, and a hostile file may
	// make a circle of them.
	maxOrigins = 16
	// maxKnownOrigins bounds the entries whose function is remembered.
	maxKnownOrigins = 1 << 20
)

// inlineNode is a function or a call that was inlined into it.
type inlineNode struct {
	parent   int32 // -1 for the function itself
	depth    int32
	function uint32
	callFile uint32 // number in the unit
	callLine uint32
}

// nodeSpan is code of a node. Those of a function are in the order of its entries, so that what is within comes
// after what it is within.
type nodeSpan struct {
	span
	node int32
}

// function is a function of a unit while its entries are read.
type function struct {
	nodes []inlineNode
	spans []nodeSpan
}

// scope is an open entry.
type scope struct {
	fn   *function // nil outside of functions with code
	node int32
	root bool // the entry is that of fn itself
}

// walker reads the functions of one unit after the other.
type walker struct {
	b       *indexBuilder
	x       *unitContext
	c       cursor
	lines   lineTable
	unit    unitIndex
	abbrevs abbrevTable
	// abbrevsOf is the table that abbrevs holds.
	abbrevsOf struct {
		d   *debugInfo
		off uint64
		u   unit
	}
	buf     []byte
	stack   []scope
	free    []*function
	spanBuf []span
	origins map[uint64]uint32 // function of an entry of this unit
}

// read reads a unit of d. skeleton is the unit in the executable where d is a split file, else nil.
func (w *walker) read(d *debugInfo, u unit, skeleton *unitContext) error {
	if u.kind == unitType || u.kind == unitSplitType {
		return nil
	}
	size := u.end - u.off
	if size > maxUnitBytes {
		return fmt.Errorf("unit at %#x: %d bytes: %w", u.off, size, errLimit)
	}
	if uint64(cap(w.buf)) < size {
		w.buf = make([]byte, size)
	}
	w.buf = w.buf[:size]
	if err := d.info.blob.in.read(d.info.blob.at, u.off, w.buf); err != nil {
		return err
	}
	if err := w.readAbbrevs(d, &u); err != nil {
		return fmt.Errorf("unit at %#x: %w", u.off, err)
	}
	w.x = &unitContext{unit: u, b: w.b, d: d, abbrevs: &w.abbrevs}
	w.c = cursor{b: w.buf, off: int(u.die - u.off)}
	root := w.abbrevs.find(w.c.uleb())
	if root == nil || root.kind != dieUnit {
		return nil // empty
	}
	if skeleton != nil {
		w.x.inherit(skeleton)
	}
	if err := w.x.readRoot(&w.c, root); err != nil {
		return fmt.Errorf("unit at %#x: %w", u.off, err)
	}
	if skeleton == nil && w.x.dwoName != "" {
		return w.b.readSplit(w.x)
	}
	linesFrom, lineContext := d, w.x
	if skeleton != nil {
		linesFrom, lineContext = skeleton.d, skeleton
	}
	w.unit.reset()
	w.lines.reset()
	if lineContext.hasLines {
		if err := w.lines.read(linesFrom, lineContext.stmtList, int(u.addrSize), w.b.isCode); err != nil {
			w.b.note(err)
		}
	}
	clear(w.origins)
	if root.children {
		if err := w.walk(); err != nil {
			return fmt.Errorf("unit at %#x: %w", u.off, err)
		}
	}
	return w.b.finishUnit(w)
}

// inherit takes what a split unit has from its skeleton (section 3.1.3).
func (x *unitContext) inherit(skeleton *unitContext) {
	x.lowPC, x.compDir, x.addrBase = skeleton.lowPC, skeleton.compDir, skeleton.addrBase
	if x.version < 5 {
		x.rangesBase = skeleton.rangesBase
	}
}

func (w *walker) readAbbrevs(d *debugInfo, u *unit) error {
	of := &w.abbrevsOf
	if of.d == d && of.off == u.abbrevOff && of.u.version == u.version && of.u.offSize == u.offSize && of.u.addrSize == u.addrSize {
		return nil
	}
	of.d = nil
	if err := w.abbrevs.read(&d.abbrev, u.abbrevOff, u); err != nil {
		return err
	}
	of.d, of.off, of.u = d, u.abbrevOff, *u
	return nil
}

// walk reads the entries below the unit's own.
func (w *walker) walk() error {
	c, u := &w.c, &w.x.unit
	w.stack = append(w.stack[:0], scope{node: -1})
	for c.off < len(c.b) && len(w.stack) > 0 {
		code := c.uleb()
		if code == 0 {
			top := w.stack[len(w.stack)-1]
			w.stack = w.stack[:len(w.stack)-1]
			if top.root {
				if err := w.finish(top.fn); err != nil {
					return err
				}
			}
			continue
		}
		a := w.abbrevs.find(code)
		if a == nil {
			return fmt.Errorf("entry at %#x: no abbreviation %d", u.off+uint64(c.off), code)
		}
		if err := w.entry(a); err != nil {
			return fmt.Errorf("entry at %#x: %w", u.off+uint64(c.off), err)
		}
		if c.short {
			return errShortUnit
		}
	}
	return nil
}

// entry reads an entry with the cursor at its attributes.
func (w *walker) entry(a *abbrev) error {
	c := &w.c
	outer := w.stack[len(w.stack)-1]
	switch a.kind {
	case dieScope:
		if err := c.skipAttrs(a, &w.x.unit); err != nil || !a.children {
			return err
		}
		return w.push(scope{fn: outer.fn, node: outer.node})
	case dieFunction:
		return w.function(a)
	case dieInlined:
		if outer.fn == nil {
			return w.skipEntry(a)
		}
		return w.inlined(a, outer)
	}
	return w.skipEntry(a)
}

func (w *walker) push(s scope) error {
	if len(w.stack) == maxDepth {
		return fmt.Errorf("more than %d open: %w", maxDepth, errLimit)
	}
	w.stack = append(w.stack, s)
	return nil
}

// skipEntry gets over an entry and all that is below it.
func (w *walker) skipEntry(a *abbrev) error {
	c, u := &w.c, &w.x.unit
	for depth := 0; ; {
		if next, ok := c.siblingOf(a); ok && a.children {
			if next <= uint64(c.off) || next > uint64(len(c.b)) {
				return fmt.Errorf("its sibling is at %#x", next)
			}
			c.off = int(next)
		} else {
			if err := c.skipAttrs(a, u); err != nil {
				return err
			}
			if a.children {
				depth++
			}
		}
		for {
			if depth == 0 || c.short {
				return nil
			}
			code := c.uleb()
			if code != 0 {
				if a = w.abbrevs.find(code); a == nil {
					return fmt.Errorf("no abbreviation %d", code)
				}
				break
			}
			depth--
		}
	}
}

// function reads a subprogram.
func (w *walker) function(a *abbrev) error {
	if !a.hasCode {
		if err := w.c.skipAttrs(a, &w.x.unit); err != nil || !a.children {
			return err
		}
		return w.push(scope{node: -1})
	}
	var d die
	if err := w.x.readDIE(&w.c, a, &d); err != nil {
		return err
	}
	spans, err := w.code(&d)
	if err != nil {
		return err
	}
	if len(spans) == 0 || !w.b.wantsAny(spans) {
		// A declaration, or the abstract of what was inlined; local types in it may have functions with code.
		if !a.children {
			return nil
		}
		return w.push(scope{node: -1})
	}
	fn := w.newFunction()
	id, err := w.functionOf(&d)
	if err != nil {
		return err
	}
	fn.nodes = append(fn.nodes, inlineNode{parent: -1, function: id})
	for _, s := range spans {
		fn.spans = append(fn.spans, nodeSpan{s, 0})
	}
	if !a.children {
		return w.finish(fn)
	}
	return w.push(scope{fn: fn, root: true})
}

// inlined reads an inlined call.
func (w *walker) inlined(a *abbrev, outer scope) error {
	var d die
	if err := w.x.readDIE(&w.c, a, &d); err != nil {
		return err
	}
	spans, err := w.code(&d)
	if err != nil {
		return err
	}
	fn, node := outer.fn, outer.node
	depth := fn.nodes[node].depth + 1
	if len(spans) > 0 && depth < maxInline {
		if len(fn.nodes) == maxNodes || len(fn.spans)+len(spans) > 4*maxNodes {
			return fmt.Errorf("more than %d inlined calls in a function: %w", maxNodes, errLimit)
		}
		id, err := w.functionOf(&d)
		if err != nil {
			return err
		}
		call := inlineNode{parent: node, depth: depth, function: id, callFile: uint32(min(d.callFile.v, lineEnd)), callLine: uint32(d.callLine.v)}
		node = int32(len(fn.nodes))
		fn.nodes = append(fn.nodes, call)
		for _, s := range spans {
			fn.spans = append(fn.spans, nodeSpan{s, node})
		}
	}
	if !a.children {
		return nil
	}
	return w.push(scope{fn: fn, node: node})
}

// code returns the ranges of an entry that are code of the file: what the linker left out lies at 0 or at the end.
func (w *walker) code(d *die) ([]span, error) {
	spans, err := w.x.spans(w.spanBuf[:0], d)
	if err != nil {
		// One list that cannot be read costs its function, not the unit.
		w.b.note(fmt.Errorf("unit at %#x: %w", w.x.off, err))
		spans = spans[:0]
	}
	w.spanBuf = slices.DeleteFunc(spans, func(s span) bool { return !w.b.isCode(s) })
	return w.spanBuf, nil
}

func (w *walker) newFunction() *function {
	if n := len(w.free); n > 0 {
		fn := w.free[n-1]
		w.free = w.free[:n-1]
		return fn
	}
	return new(function)
}

// finish hands a function over to the index.
func (w *walker) finish(fn *function) error {
	err := w.b.addFunction(w, fn)
	fn.nodes, fn.spans = fn.nodes[:0], fn.spans[:0]
	w.free = append(w.free, fn)
	return err
}

// functionOf returns the number of the function that an entry is, or is a copy of.
func (w *walker) functionOf(d *die) (uint32, error) {
	// An inlined call has nothing but its origin, and those are few in a unit.
	known := w.origins
	plain := d.origin.form != 0 && d.spec.form == 0 && d.linkage.form == 0 && d.name.form == 0 && d.declLine.form == 0
	var r dieRef
	if plain {
		var ok bool
		if r, ok = w.x.ref(d.origin); !ok {
			return w.b.functions.number(functionKey{})
		}
		if !w.x.holds(r) {
			known = r.d.origins
		}
		if id, ok := known[r.off]; ok {
			return id, nil
		}
	}
	key, err := w.nameOf(d)
	if err != nil {
		return 0, err
	}
	id, err := w.b.functions.number(key)
	if plain && len(known) < maxKnownOrigins {
		known[r.off] = id
	}
	return id, err
}

// holds reports whether an entry is of the unit.
func (x *unitContext) holds(r dieRef) bool {
	return r.d == x.d && r.off >= x.off && r.off < x.end
}

// nameOf follows an entry to those that it is made from, up to its name.
func (w *walker) nameOf(d *die) (functionKey, error) {
	var name, linkage stringRef
	var line uint64
	x, next := w.x, *d
	for range maxOrigins {
		// C mangles nothing: a linkage name there is an alias that the author keeps for the inside of a library.
		if linkage == 0 && !w.x.isC() && next.linkage.form != 0 {
			linkage = x.stringRef(next.linkage)
		}
		if name == 0 && next.name.form != 0 {
			name = x.stringRef(next.name)
		}
		if line == 0 && next.declLine.form != 0 {
			line = next.declLine.v
		}
		v := next.origin
		if v.form == 0 {
			v = next.spec
		}
		if v.form == 0 || line != 0 && (linkage != 0 || name != 0 && w.x.isC()) {
			break
		}
		r, ok := x.ref(v)
		if !ok {
			break
		}
		var err error
		if x, err = w.entryAt(r, &next); err != nil {
			return functionKey{}, err
		}
		if x == nil {
			break
		}
	}
	if linkage != 0 {
		name = linkage
	}
	return functionKey{name, uint32(line)}, nil
}

// entryAt reads an entry of this unit or another one. The context is nil if there is none.
func (w *walker) entryAt(r dieRef, d *die) (*unitContext, error) {
	if w.x.holds(r) {
		c := cursor{b: w.buf, off: int(r.off - w.x.off)}
		if a := w.abbrevs.find(c.uleb()); a != nil {
			return w.x, w.x.readDIE(&c, a, d)
		}
		return nil, nil
	}
	x, err := w.b.contextAt(r)
	if x == nil || err != nil {
		return nil, err
	}
	found := false
	err = r.d.info.parse(r.off, func(c *cursor) error {
		a := x.abbrevs.find(c.uleb())
		if a == nil {
			return nil
		}
		found = true
		return x.readDIE(c, a, d)
	})
	if !found {
		return nil, err
	}
	return x, err
}

// paint makes of spans that lie within each other, the inner ones later in the list, runs of code that have one node
// each. Where spans cross, the later counts. It sorts spans.
func paint(dst []nodeSpan, spans []nodeSpan) []nodeSpan {
	// The order of entries is that of the nodes.
	slices.SortFunc(spans, func(a, b nodeSpan) int {
		return cmp.Or(cmp.Compare(a.lo, b.lo), cmp.Compare(a.node, b.node))
	})
	var open []nodeSpan // by node
	at := uint64(0)
	advance := func(to uint64) {
		for len(open) > 0 && at < to {
			top := open[len(open)-1]
			end := min(top.hi, to)
			if end > at {
				if n := len(dst); n > 0 && dst[n-1].node == top.node && dst[n-1].hi == at {
					dst[n-1].hi = end
				} else {
					dst = append(dst, nodeSpan{span{at, end}, top.node})
				}
				at = end
			}
			if top.hi <= at {
				open = open[:len(open)-1]
			}
		}
		at = max(at, to)
	}
	for _, s := range spans {
		advance(s.lo)
		i := len(open)
		for i > 0 && open[i-1].node > s.node {
			i--
		}
		open = slices.Insert(open, i, s)
	}
	advance(1<<64 - 1)
	return dst
}
