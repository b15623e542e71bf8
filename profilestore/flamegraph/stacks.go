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

// Stacks is a set of stacks with values, kept as a tree from the root so that common callers are stored once.
// The zero value is empty and ready. It is not safe for concurrent use while it is added to.
type Stacks struct {
	frames   []Frame
	frameIDs map[Frame]int32

	// One entry for each distinct stack prefix; a parent comes before its children. -1 stands for the root.
	parent   []int32
	self     []int64
	children // their labels are frames

	names     map[string]string
	nameBytes int64

	root  int64 // value of empty stacks
	total int64
}

// Frame interns f and returns its number for Add. The strings are copied: they may be parts of a larger one.
func (s *Stacks) Frame(f Frame) int32 {
	if id, ok := s.frameIDs[f]; ok {
		return id
	}
	if s.frameIDs == nil {
		s.frameIDs = make(map[Frame]int32)
		s.names = make(map[string]string)
	}
	f.Function, f.Binary, f.File = s.name(f.Function), s.name(f.Binary), s.name(f.File)
	id := int32(len(s.frames))
	s.frames = append(s.frames, f)
	s.frameIDs[f] = id
	return id
}

func (s *Stacks) name(name string) string {
	own, ok := s.names[name]
	if !ok {
		own = strings.Clone(name)
		s.names[own] = own
		s.nameBytes += 64 + int64(len(own)) // headers of key and value, twice for what the map holds in reserve
	}
	return own
}

// Add adds value to a stack of frames, root first. The value must not be negative (0 adds nothing), and the
// sum of all values must fit an int64. The slice is not kept.
func (s *Stacks) Add(stack []int32, value int64) {
	if value == 0 {
		return
	}
	node := Root
	for _, f := range stack {
		node = s.Child(node, f)
	}
	s.AddAt(node, value)
}

// Total is the sum of all values added.
func (s *Stacks) Total() int64 { return s.total }

// Nodes is the number of distinct stack prefixes.
func (s *Stacks) Nodes() int { return len(s.parent) }

// Size estimates the memory held, in bytes.
func (s *Stacks) Size() int64 {
	// A node is 12 bytes in the columns, a frame 64 in the list and in the map; slices and maps hold up to twice of
	// what they use.
	return 2*(12*int64(len(s.parent))+128*int64(len(s.frames))) + s.children.size() + s.nameBytes
}

// Root is the node of the empty stack, for [Stacks.Child] and [Stacks.AddAt].
const Root int32 = -1

// Child is the node of a stack that goes on with one more frame.
func (s *Stacks) Child(node, frame int32) int32 {
	next, added := s.find(node, frame)
	if added {
		s.parent = append(s.parent, node)
		s.self = append(s.self, 0)
	}
	return next
}

// AddAt adds value to the stack of a node, as [Stacks.Add] does.
func (s *Stacks) AddAt(node int32, value int64) {
	s.total += value
	if node == Root {
		s.root += value
		return
	}
	s.self[node] += value
}
