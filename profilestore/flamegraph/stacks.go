// Package flamegraph turns stacks with values into what a browser draws: a call tree pruned to a number of
// nodes, and a table of functions. It knows nothing of storage or HTTP.
package flamegraph

import "strings"

// Frame is one line of a stack: a function, or a call inlined into one.
type Frame struct {
	Function string
	Binary   string // file of the mapping: "/usr/bin/app", "[kernel.kallsyms]"; "" unknown
	File     string // source file; "" unknown
	Line     int    // line in File; 0 unknown
	Inlined  bool   // into the frame before it, outside of it in the stack: both are one location of the program
}

// Stacks is a set of stacks with values, kept as trees from the root so that common callers are stored once. The
// zero value is empty and ready. It is not safe for concurrent use, not even by what only reads it: frames of
// trees get their names when they are first needed.
type Stacks struct {
	frames   []Frame
	frameIDs map[frameKey]int32

	names     []string
	nameIDs   map[string]int32
	nameBytes int64

	// The stacks of Add: one entry for each distinct stack prefix; a parent comes before its children. -1 stands
	// for the root.
	parent   []int32
	self     []int64
	children // their labels are frames
	root     int64

	trees []*prefixes // of AddTrees

	total int64
}

// frameKey is a frame by the numbers of its names.
type frameKey struct {
	line                   int
	function, binary, file int32
	inlined                bool
}

// Frame interns f and returns its number for Add. The strings are copied: they may be parts of a larger one.
func (s *Stacks) Frame(f Frame) int32 {
	return s.FrameOf(s.Name(f.Function), s.Name(f.Binary), s.Name(f.File), f.Line, f.Inlined)
}

// FrameOf is Frame for who knows the numbers of the names.
func (s *Stacks) FrameOf(function, binary, file int32, line int, inlined bool) int32 {
	key := frameKey{line, function, binary, file, inlined}
	id, ok := s.frameIDs[key]
	if !ok {
		if s.frameIDs == nil {
			s.frameIDs = make(map[frameKey]int32)
		}
		id = int32(len(s.frames))
		s.frames = append(s.frames, Frame{s.names[function], s.names[binary], s.names[file], line, inlined})
		s.frameIDs[key] = id
	}
	return id
}

// Name interns the name of a function, binary or source file, and returns its number for FrameOf. The string is copied.
func (s *Stacks) Name(name string) int32 {
	if id, ok := s.nameIDs[name]; ok {
		return id
	}
	return s.own(strings.Clone(name))
}

// own is Name for a string that is not a part of a larger one.
func (s *Stacks) own(name string) int32 {
	if id, ok := s.nameIDs[name]; ok {
		return id
	}
	if s.nameIDs == nil {
		s.nameIDs = make(map[string]int32)
	}
	id := int32(len(s.names))
	s.names = append(s.names, name)
	s.nameIDs[name] = id
	s.nameBytes += 80 + int64(len(name)) // headers, twice for what the map holds in reserve
	return id
}

// Add adds value to a stack of frames, root first. The value must not be negative (0 adds nothing), and the
// sum of all values must fit an int64. The slice is not kept.
func (s *Stacks) Add(stack []int32, value int64) {
	if value == 0 {
		return
	}
	node := root
	for _, f := range stack {
		node = s.child(node, f)
	}
	s.addAt(node, value)
}

// Legend says what the labels of trees mean.
type Legend struct {
	// Frames are what a label stands for, numbers of Frame, outermost first and at least one. It is called when they are
	// needed, once or again.
	Frames func(label uint32) []int32
	*Functions
}

// Functions are those of the frames of labels, by numbers of their own. They never change: what many graphs are made with.
type Functions struct {
	Of     []int32   // by label: its function, or -1-index of Chains
	Chains [][]int32 // functions of a label that stands for several frames, outermost first
	// Name is what a function is called, and its binary. Those that have both in common are one.
	Name   func(function int32) (name, binary string)
	Hashes []FunctionHash // by function, of HashFunction: two that have the same are one
}

// AddTrees adds stacks that are kept as trees already.
func (s *Stacks) AddTrees(legend *Legend, trees ...*Tree) {
	for _, t := range trees {
		p := t.prefixes
		p.legend = legend
		s.trees = append(s.trees, &p)
		s.total += p.total
	}
}

// all are the trees of both kinds.
func (s *Stacks) all() []*prefixes {
	if s.total == s.totalOfTrees() {
		return s.trees
	}
	return append([]*prefixes{s.ownTree()}, s.trees...)
}

// functions are those of the labels of a tree.
func (p *prefixes) functions(s *Stacks) *Functions {
	if p.legend != nil {
		return p.legend.Functions
	}
	f := &Functions{Of: make([]int32, len(s.frames)), Hashes: make([]FunctionHash, len(s.frames))}
	for i, own := range s.frames {
		f.Of[i], f.Hashes[i] = int32(i), HashFunction(own.Function, own.Binary)
	}
	f.Name = func(i int32) (name, binary string) { return s.frames[i].Function, s.frames[i].Binary }
	return f
}

// ownTree is what Add made.
func (s *Stacks) ownTree() *prefixes {
	callers, labels := make([]uint32, len(s.parent)+1), make([]uint32, len(s.parent)+1)
	values := make([]int64, len(s.parent)+1)
	values[0] = s.root
	for i, p := range s.parent {
		callers[i+1], labels[i+1], values[i+1] = uint32(p+1), uint32(s.labels[i]), s.self[i]
	}
	return new(TreeWriter).write(callers, labels, values, 1)
}

func (s *Stacks) totalOfTrees() int64 {
	sum := int64(0)
	for _, t := range s.trees {
		sum += t.total
	}
	return sum
}

// Total is the sum of all values added.
func (s *Stacks) Total() int64 { return s.total }

// Nodes is the number of prefixes of stacks, those that several trees have counted for each.
func (s *Stacks) Nodes() int {
	n := len(s.parent)
	for _, t := range s.trees {
		n += t.count
	}
	return n
}

// Size estimates the memory held, in bytes.
func (s *Stacks) Size() int64 {
	// A node is 12 bytes in the columns, a frame 88 in the lists and 40 in the map; slices and maps hold up to twice of
	// what they use.
	size := 2*(12*int64(len(s.parent))+128*int64(len(s.frames))) + s.children.size() + s.nameBytes
	for _, t := range s.trees {
		size += t.size()
	}
	return size
}

// root is the node of the empty stack.
const root int32 = -1

// child is the node of a stack that goes on with one more frame.
func (s *Stacks) child(node, frame int32) int32 {
	next, added := s.find(node, frame)
	if added {
		s.parent = append(s.parent, node)
		s.self = append(s.self, 0)
	}
	return next
}

// addAt adds value to the stack of a node.
func (s *Stacks) addAt(node int32, value int64) {
	s.total += value
	if node == root {
		s.root += value
		return
	}
	s.self[node] += value
}
