package profilestore

import "slices"

// stackSearch looks for the stacks of a profile in a dictionary, many at once and step by step: a tree of a million stacks is
// in no cache, and the processor waits for many places in memory together, as long as none of them decides which is the next.
type stackSearch struct {
	paths    []uint32 // for each of the stacks its locations, outermost first
	wanted   []wantedStack
	prefixes []uint64 // for each unknown stack the hashes of its path up to each location
	unknown  []unknownStack
	walks    []stackWalk
	others   []int32
}

// searchedAtOnce is how many stacks are enough to wait for many places in memory, and few enough for what is known of them to
// stay in a cache.
const searchedAtOnce = 256

type wantedStack struct {
	hash     uint64
	slot     stackSlot // where the search for the hash begins
	from, to int32     // of its path in paths
	stack    uint32    // in the tree; 0: not there
}

func (w *wantedStack) depth() int { return int(w.to - w.from) }

// unknownStack is a wanted one that is not there, while the longest part of it is searched for that is.
type unknownStack struct {
	of          int32
	prefixes    int32     // where its own begin
	least, most int32     // length of that part
	stack       uint32    // the part of the length least
	slot        stackSlot // where the search for the part in the middle begins
}

// middle is the prefix in the middle.
func (u *unknownStack) middle() int32 { return u.prefixes + (u.least+u.most+1)/2 - 1 }

// stackWalk is a stack that is compared with a path, which ends before to, from its leaf on.
type stackWalk struct {
	stack        uint32
	of, from, to int32
}

// size is the memory held, in bytes.
func (s *stackSearch) size() int {
	return 4*cap(s.paths) + 32*cap(s.wanted) + 8*cap(s.prefixes) + 28*cap(s.unknown) + 16*cap(s.walks) + 4*cap(s.others)
}

// addStacks appends the stack of each sample.
func (d *dictionary) addStacks(p *decoded, stacks []uint32) []uint32 {
	s := &p.search
	for samples := range slices.Chunk(p.samples, searchedAtOnce) {
		d.readPaths(p, samples)
		d.findWanted(s)
		d.findUnknown(s)
		for i := range s.unknown {
			d.addUnknown(s, &s.unknown[i])
		}
		for i := range s.wanted {
			if stack := s.wanted[i].stack; stack > 0 {
				stacks = append(stacks, d.base+stack)
			} else {
				stacks = append(stacks, 0)
			}
		}
	}
	return stacks
}

// readPaths begins the search for the stacks of some samples.
func (d *dictionary) readPaths(p *decoded, samples []rawSample) {
	s := &p.search
	s.paths, s.wanted = s.paths[:0], s.wanted[:0]
	for i := range samples {
		w := wantedStack{hash: d.start, from: int32(len(s.paths))}
		for _, index := range slices.Backward(p.stack[samples[i].stack:samples[i].stackEnd]) {
			l := d.scratch.locations[index] - 1
			s.paths = append(s.paths, l)
			w.hash = mix(w.hash, uint64(l))
		}
		w.to = int32(len(s.paths))
		s.wanted = append(s.wanted, w)
	}
}

// findWanted finds the stacks that are there. The others become unknown ones.
func (d *dictionary) findWanted(s *stackSearch) {
	for i := range s.wanted {
		s.wanted[i].slot = d.known.first(s.wanted[i].hash)
	}
	s.walks = s.walks[:0]
	for i := range s.wanted {
		w := &s.wanted[i]
		if w.depth() == 0 {
			continue
		}
		if w.stack = d.known.from(w.slot, w.hash); w.stack > 0 {
			s.walks = append(s.walks, stackWalk{w.stack, int32(i), w.from, w.to})
		}
	}
	for _, i := range d.differ(s) {
		s.wanted[i].stack = 0
	}
	s.unknown, s.prefixes = s.unknown[:0], s.prefixes[:0]
	for i := range s.wanted {
		if w := &s.wanted[i]; w.stack == 0 && w.depth() > 0 {
			s.unknown = append(s.unknown, unknownStack{of: int32(i), prefixes: int32(len(s.prefixes)), most: w.to - w.from})
			s.prefixes = d.hashPrefixes(s.prefixes, s.paths[w.from:w.to])
		}
	}
}

// findUnknown finds as much as is there of each of the unknown stacks.
func (d *dictionary) findUnknown(s *stackSearch) {
	for more := len(s.unknown) > 0; more; {
		for i := range s.unknown {
			if u := &s.unknown[i]; u.least < u.most {
				u.slot = d.known.first(s.prefixes[u.middle()])
			}
		}
		more = false
		for i := range s.unknown {
			u := &s.unknown[i]
			if u.least == u.most {
				continue
			}
			middle := u.middle()
			if found := d.known.from(u.slot, s.prefixes[middle]); found > 0 {
				u.least, u.stack = middle-u.prefixes+1, found
			} else {
				u.most = middle - u.prefixes
			}
			more = more || u.least < u.most
		}
	}
	s.walks = s.walks[:0]
	for i := range s.unknown {
		u := &s.unknown[i]
		from := s.wanted[u.of].from
		s.walks = append(s.walks, stackWalk{u.stack, int32(i), from, from + u.least})
	}
	for _, i := range d.differ(s) { // hashes are the same, stacks are not
		s.unknown[i].least, s.unknown[i].stack = 0, 0
	}
}

// differ says which stacks are others than their paths. It walks all at once, a location each at a time.
func (d *dictionary) differ(s *stackSearch) []int32 {
	s.others = s.others[:0]
	callers, leaf := d.callers, d.leaf[:len(d.callers)]
	for walks := s.walks; len(walks) > 0; {
		left := 0
		for _, w := range walks {
			if w.from == w.to || w.stack == 0 {
				if w.from != w.to || w.stack != 0 {
					s.others = append(s.others, w.of)
				}
				continue
			}
			w.to--
			if leaf[w.stack] != s.paths[w.to] {
				s.others = append(s.others, w.of)
				continue
			}
			w.stack = callers[w.stack]
			walks[left] = w
			left++
		}
		walks = walks[:left]
	}
	return s.others
}

// hashPrefixes appends the hashes of a path up to each of its locations.
func (d *dictionary) hashPrefixes(dst []uint64, path []uint32) []uint64 {
	hash := d.start
	for _, l := range path {
		hash = mix(hash, uint64(l))
		dst = append(dst, hash)
	}
	return dst
}

// addUnknown adds what is not there of a stack.
func (d *dictionary) addUnknown(s *stackSearch, u *unknownStack) {
	w := &s.wanted[u.of]
	w.stack = u.stack
	for i := u.least; i < w.to-w.from; i++ {
		w.stack = d.child(w.stack, s.paths[w.from+i], s.prefixes[u.prefixes+i])
	}
}
