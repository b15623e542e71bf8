package profilestore

import (
	"hash/maphash"
	"path"
	"slices"
	"strings"
)

// What a frame is, is a place in a file; names are what is known about it. Better ones may come later, when debug
// information has been read or installed: then they are those of what was stored before, too. Nothing is rewritten
// for it. A dictionary has a location for each way in which a place was described, and a query reads all of them from
// the one that says most.
//
// Two locations are the same place if their mappings have the same file and build ID and they have the same offset in
// it. Code without a build ID, as from a just-in-time compiler, is never taken for other code.

// rank is how much a location says about its place.
type rank uint8

const (
	unnamed rank = iota // an address
	named               // functions, as symbol tables have them
	lined               // functions, files and lines, as debug information has them
)

// rankOf is the rank of a location.
func (s *symbols) rankOf(l uint32) rank {
	lines := s.linesOf(l)
	if len(lines) == 0 {
		return unnamed
	}
	for _, one := range lines {
		if one.line > 0 {
			return lined
		}
	}
	name := s.strings[s.functions[lines[0].function].name]
	file := s.strings[s.mappings[s.locations[l].mapping-1].file]
	if name == "" || strings.HasPrefix(name, path.Base(file)+"+0x") { // agents write the address where a name should be
		return unnamed
	}
	return named
}

// place is where in which file a location is; ok is false where that is not known for certain.
func (s *symbols) place(l uint32) (_ place, ok bool) {
	at := &s.locations[l]
	if at.mapping == 0 {
		return place{}, false
	}
	m := &s.mappings[at.mapping-1]
	return place{m.file, m.buildID, at.address - m.start + m.offset}, s.strings[m.buildID] != ""
}

type place struct {
	file, buildID uint32 // strings
	offset        uint64
}

// named is the location with the best names of the place of l: l itself if there is none better.
func (s *symbols) named(l uint32) uint32 {
	for int(l) < len(s.better) && s.better[l] > 0 {
		l = s.better[l] - 1
	}
	return l
}

// setBetter has the names of l read from another location.
func (s *symbols) setBetter(l, than uint32) {
	if n := len(s.locations); len(s.better) < n {
		s.better = slices.Grow(s.better, n-len(s.better))[:n]
	}
	s.better[l] = than + 1
	s.bettered++
}

// places finds the location with the best names of each place.
type places struct {
	seed  maphash.Seed
	first stackTable // the location, +1, that came first
}

// add takes note of a location. One that says as much as the best, but something else, keeps what it says. Chains of
// better ones are short: each has a higher rank than the one before, but for the first step, which may lead to one that
// says the same.
func (p *places) add(s *symbols, l uint32) {
	at, ok := s.place(l)
	if !ok {
		return
	}
	hash := maphash.Comparable(p.seed, at)
	for first, next := p.first.find(hash, 0); first != 0; first, next = p.first.find(hash, next) {
		if other, _ := s.place(first - 1); other != at {
			continue
		}
		best := s.named(first - 1)
		switch have, new := s.rankOf(best), s.rankOf(l); {
		case new > have:
			s.setBetter(best, l)
		case new < have || slices.Equal(s.linesOf(best), s.linesOf(l)):
			s.setBetter(l, best)
		}
		return
	}
	p.first.add(hash, l+1)
}

// findBetter looks at all locations.
func (s *symbols) findBetter() {
	p := places{seed: maphash.MakeSeed()}
	for l := range s.locations {
		p.add(s, uint32(l))
	}
}
