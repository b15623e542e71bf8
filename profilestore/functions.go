package profilestore

import (
	"slices"
	"sync"

	"pilotlight/profilestore/flamegraph"
)

// functionTable says which functions the locations of a dictionary are in: for all queries until there are more locations, or
// better names.
type functionTable struct {
	once sync.Once
	flamegraph.Functions
}

// namedFunction is the name of a function and a binary, both strings; or a location without a name, whose function is noFunction.
type namedFunction struct{ function, binary uint32 }

const noFunction = ^uint32(0)

// functionsOf are the functions of all locations.
func (s *symbols) functionsOf() *flamegraph.Functions {
	s.table.once.Do(func() {
		own := *s
		own.tree = tree{}
		own.findFunctions(&s.table.Functions)
	})
	return &s.table.Functions
}

func (s *symbols) findFunctions(f *flamegraph.Functions) {
	var list []namedFunction
	first := make([]int32, len(s.strings)) // by name in the list, +1: nearly always a function is in one binary alone
	others := make(map[namedFunction]int32)
	add := func(function, binary uint32) int32 {
		key := namedFunction{s.functions[function].name, binary}
		at := &first[key.function]
		if *at == 0 {
			list = append(list, key)
			*at = int32(len(list))
			return *at - 1
		}
		if list[*at-1] == key {
			return *at - 1
		}
		other, ok := others[key]
		if !ok {
			other = int32(len(list))
			list = append(list, key)
			others[key] = other
		}
		return other
	}
	f.Of = make([]int32, len(s.locations))
	for l := range uint32(len(s.locations)) {
		lines := s.linesOf(s.named(l))
		switch len(lines) {
		case 0:
			f.Of[l] = int32(len(list))
			list = append(list, namedFunction{noFunction, l})
		case 1:
			f.Of[l] = add(lines[0].function, s.binary(l))
		default:
			chain := make([]int32, 0, len(lines))
			for _, line := range slices.Backward(lines) {
				chain = append(chain, add(line.function, s.binary(l)))
			}
			f.Chains = append(f.Chains, chain)
			f.Of[l] = -int32(len(f.Chains))
		}
	}
	f.Name = func(n int32) (name, binary string) {
		if own := list[n]; own.function != noFunction {
			return s.strings[own.function], s.strings[own.binary]
		}
		l := list[n].binary
		return s.address(l), s.strings[s.binary(l)]
	}
	f.Hashes = make([]uint64, len(list))
	for n := range f.Hashes {
		f.Hashes[n] = flamegraph.Hash(f.Name(int32(n)))
	}
}
