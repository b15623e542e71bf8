package symbolize

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"sort"
)

// symbol is one entry of a symbol table while an index is made of it.
type symbol struct {
	start uint64
	size  uint32
	// key holds the class, inverted, above nameBits of name: symbols of one start sort the preferred first.
	key uint32
}

const (
	nameBits = 29
	// maxName is the largest name offset that a symbol holds.
	maxName = 1<<nameBits - 1
)

// Classes of symbols, as bits: of symbols with one start only those of the highest class are kept.
const (
	// classExported marks a symbol that other files see.
	classExported = 1 << iota
	// classFunction marks a symbol that says it is a function.
	classFunction
	// classSized marks a symbol with a size of its own. One without names what follows up to the next symbol, and
	// at most its size, except where a sized symbol lies: labels inside of functions are no functions.
	classSized

	classMask = 1<<3 - 1
)

func newSymbol(start, size uint64, class, name uint32) symbol {
	return symbol{start, uint32(min(size, math.MaxUint32)), (classMask^class)<<nameBits | name}
}

func (s symbol) class() uint32 { return classMask ^ s.key>>nameBits }
func (s symbol) name() uint32  { return s.key & maxName }

// end returns the address after the symbol.
func (s symbol) end() uint64 {
	if s.start > math.MaxUint64-uint64(s.size) {
		return math.MaxUint64
	}
	return s.start + uint64(s.size)
}

const (
	// maxAliases is how many names of one address are weighed when the address is looked up. Identical code
	// folding gives some functions thousands.
	maxAliases = 16
	// aliased marks a name that is an index into table.aliases.
	aliased = 1 << 31
)

// table maps addresses to the names of the ranges that hold them, in 12 bytes a range. Ranges do not overlap:
// where symbols nest, as labels with sizes inside of assembly do, the outer one becomes the pieces around the
// inner ones.
type table struct {
	// regions cut the ranges into runs that span less than 4 GiB, so that 32 bits are enough for a start.
	regions []region
	starts  []uint32 // relative to the region
	sizes   []uint32
	names   []uint32 // offset of the name, or aliased | index into aliases
	aliases []uint32 // runs of name offsets, the last of each run with aliased set
}

type region struct {
	base  uint64
	first int // index of the region's first range
}

// newSizedTable returns an empty table with room for n ranges.
func newSizedTable(n int) *table {
	return &table{starts: make([]uint32, 0, n), sizes: make([]uint32, 0, n), names: make([]uint32, 0, n)}
}

// newTable makes an index of syms, which it reorders.
func newTable(syms []symbol) *table {
	slices.SortFunc(syms, func(a, b symbol) int {
		if a.start != b.start {
			return cmp.Compare(a.start, b.start)
		}
		return cmp.Compare(a.key, b.key)
	})
	starts := 0
	for i := range syms {
		if i == 0 || syms[i].start != syms[i-1].start {
			starts++
		}
	}
	b := builder{table: newSizedTable(starts)}
	for i := 0; i < len(syms); {
		n := 1
		for i+n < len(syms) && syms[i+n].start == syms[i].start {
			n++
		}
		next := uint64(math.MaxUint64)
		if i+n < len(syms) {
			next = syms[i+n].start
		}
		b.add(syms[i:i+n], next)
		i += n
	}
	b.closeUpTo(math.MaxUint64)
	return b.table
}

// builder sweeps over symbols by rising address.
type builder struct {
	table *table
	// open holds the ranges that are not ended yet, each started after the one before it.
	open []openRange
	// done is the address up to which ranges have been written.
	done uint64
}

type openRange struct {
	end  uint64
	name uint32
}

// add takes the symbols of one start; next is the start of those that follow.
func (b *builder) add(group []symbol, next uint64) {
	best := group[0]
	b.closeUpTo(best.start)
	sized := best.class()&classSized != 0
	if !sized && len(b.open) > 0 {
		return
	}
	var end uint64
	for _, s := range group {
		if s.class()&classSized == best.class()&classSized {
			end = max(end, s.end())
		}
	}
	if !sized {
		end = min(end, next)
	}
	if len(b.open) > 0 {
		outer := b.open[len(b.open)-1]
		b.write(best.start, outer.name)
	}
	b.done = best.start
	b.open = append(b.open, openRange{end, b.name(group)})
}

// name stores the names of a group.
func (b *builder) name(group []symbol) uint32 {
	names := group[:1]
	for len(names) < min(len(group), maxAliases) && group[len(names)].class() == group[0].class() {
		names = group[:len(names)+1]
	}
	if len(names) == 1 {
		return names[0].name()
	}
	index := len(b.table.aliases)
	for _, s := range names {
		b.table.aliases = append(b.table.aliases, s.name())
	}
	b.table.aliases[len(b.table.aliases)-1] |= aliased
	return aliased | uint32(index)
}

// closeUpTo writes what remains of the ranges that end at or before addr.
func (b *builder) closeUpTo(addr uint64) {
	for len(b.open) > 0 {
		top := b.open[len(b.open)-1]
		if top.end > addr {
			return
		}
		b.write(top.end, top.name)
		b.open = b.open[:len(b.open)-1]
	}
}

// write adds the range from b.done to end. What a range has beyond 4 GiB is left out: no function is that long.
func (b *builder) write(end uint64, name uint32) {
	if b.done >= end {
		return
	}
	t := b.table
	if n := len(t.regions); n == 0 || b.done-t.regions[n-1].base > math.MaxUint32 {
		t.regions = append(t.regions, region{b.done, len(t.starts)})
	}
	t.starts = append(t.starts, uint32(b.done-t.regions[len(t.regions)-1].base))
	t.sizes = append(t.sizes, uint32(min(end-b.done, math.MaxUint32)))
	t.names = append(t.names, name)
	b.done = end
}

// find returns the index of the range that holds addr.
func (t *table) find(addr uint64) (int, bool) {
	r := sort.Search(len(t.regions), func(i int) bool { return t.regions[i].base > addr }) - 1
	if r < 0 {
		return 0, false
	}
	first, end := t.regions[r].first, len(t.starts)
	if r+1 < len(t.regions) {
		end = t.regions[r+1].first
	}
	off := addr - t.regions[r].base
	i := first + sort.Search(end-first, func(i int) bool { return uint64(t.starts[first+i]) > off }) - 1
	if off-uint64(t.starts[i]) >= uint64(t.sizes[i]) {
		return 0, false
	}
	return i, true
}

// eachIn calls f with each range that lies in s, cut to s, by address.
func (t *table) eachIn(s span, f func(i int, piece span) error) error {
	for r := range t.regions {
		base, first, end := t.regions[r].base, t.regions[r].first, len(t.starts)
		if r+1 < len(t.regions) {
			end = t.regions[r+1].first
		}
		i := first + sort.Search(end-first, func(i int) bool {
			return base+uint64(t.starts[first+i])+uint64(t.sizes[first+i]) > s.lo
		})
		for ; i < end && base+uint64(t.starts[i]) < s.hi; i++ {
			start := base + uint64(t.starts[i])
			piece := span{max(start, s.lo), min(start+uint64(t.sizes[i]), s.hi)}
			if err := f(i, piece); err != nil {
				return err
			}
		}
	}
	return nil
}

// namesOf calls f with the offset of each name of range i.
func (t *table) namesOf(i int, f func(name uint32)) {
	name := t.names[i]
	if name&aliased == 0 {
		f(name)
		return
	}
	for _, n := range t.aliases[name&^aliased:] {
		f(n &^ aliased)
		if n&aliased != 0 {
			return
		}
	}
}

func (t *table) memoryBytes() int {
	return 4*(cap(t.starts)+cap(t.sizes)+cap(t.names)+cap(t.aliases)) + 16*cap(t.regions)
}

// compareNames orders the names of one address by how well they tell people what runs there: fewer leading
// underscores (read before __read), then the shorter, then the alphabet.
func compareNames(a, b []byte) int {
	return cmp.Or(
		cmp.Compare(underscores(a), underscores(b)),
		cmp.Compare(len(a), len(b)),
		bytes.Compare(a, b),
	)
}

func underscores(name []byte) int { return len(name) - len(bytes.TrimLeft(name, "_")) }
