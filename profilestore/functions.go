package profilestore

import (
	"slices"
	"sync"

	"pilotlight/profilestore/flamegraph"
)

// functionTable says which functions the locations of a dictionary are in. It goes on with the dictionary, for all queries,
// until there are better names of what it has.
type functionTable struct {
	mu sync.Mutex
	flamegraph.Functions
	list   []namedFunction
	first  []int32                 // by name in the list, +1: nearly always a function is in one binary alone
	others map[namedFunction]int32 // in the list
	chains []int32                 // memory for chains
}

// namedFunction is the name of a function and a binary, both strings; or a location without a name, whose function is noFunction.
type namedFunction struct{ function, binary uint32 }

const noFunction = ^uint32(0)

// functionsOf are the functions of all locations.
func (s *symbols) functionsOf() *flamegraph.Functions {
	t := s.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.Of) < len(s.locations) {
		own := *s
		own.tree = tree{}
		t.extend(&own)
	}
	now := t.Functions
	return &now
}

// extend takes the locations that are new.
func (t *functionTable) extend(s *symbols) {
	t.first = lengthened(t.first, len(s.strings))
	t.Of = slices.Grow(t.Of, len(s.locations)-len(t.Of))
	for l := uint32(len(t.Of)); l < uint32(len(s.locations)); l++ {
		lines := s.linesOf(s.named(l))
		switch len(lines) {
		case 0:
			t.Of = append(t.Of, int32(len(t.list)))
			t.list = append(t.list, namedFunction{noFunction, l})
		case 1:
			t.Of = append(t.Of, t.function(s, lines[0].function, s.binary(l)))
		default:
			if cap(t.chains)-len(t.chains) < len(lines) {
				t.chains = make([]int32, 0, max(1<<10, len(lines)))
			}
			from := len(t.chains)
			for _, line := range slices.Backward(lines) {
				t.chains = append(t.chains, t.function(s, line.function, s.binary(l)))
			}
			t.Chains = append(t.Chains, t.chains[from:len(t.chains):len(t.chains)])
			t.Of = append(t.Of, -int32(len(t.Chains)))
		}
	}
	list := t.list
	t.Name = func(n int32) (name, binary string) {
		if own := list[n]; own.function != noFunction {
			return s.strings[own.function], s.strings[own.binary]
		}
		l := list[n].binary
		return s.address(l), s.strings[s.binary(l)]
	}
	for n := len(t.Hashes); n < len(list); n++ {
		t.Hashes = append(t.Hashes, flamegraph.HashFunction(t.Name(int32(n))))
	}
}

// function is the number of a function in a binary.
func (t *functionTable) function(s *symbols, function, binary uint32) int32 {
	key := namedFunction{s.functions[function].name, binary}
	first := &t.first[key.function]
	if *first > 0 && t.list[*first-1] == key {
		return *first - 1
	}
	n, known := t.others[key]
	if known {
		return n
	}
	n = int32(len(t.list))
	t.list = append(t.list, key)
	if *first == 0 {
		*first = n + 1
		return n
	}
	if t.others == nil {
		t.others = make(map[namedFunction]int32)
	}
	t.others[key] = n
	return n
}
