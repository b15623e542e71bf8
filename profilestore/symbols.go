package profilestore

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// symbols is what the rows of samples refer to: the content of one dictionary, in columns. They only grow, so
// that a copy of the struct stays a valid view while the dictionary is added to.
type symbols struct {
	strings   []string // the first is ""
	mappings  []mapping
	functions []function
	locations []location
	lines     []line
	better    []uint32 // of a location the one, +1, that its names are read from, see named; nil: each has its own
	bettered  int      // how often that was changed
	table     *functionTable

	tree
	stacks int // in all trees: ids are below

	setEnds []uint32 // of label set i in labels
	labels  []label
}

// tree is some of the stacks of a dictionary: a stack is its callers, and the location that they called. Both are meant by
// where they stand in the tree; callers come before what they call. The first is the empty stack, which has the id 0, the
// others those from base+1 on. A dictionary begins a new tree when there is no more memory for what finds stacks in the
// one before, and a query reads those trees that its samples are in. What names and label sets are known goes on.
type tree struct {
	base    uint32
	callers []uint32
	leaf    []uint32

	locations int // that it needs the dictionary to have, if it was read from a file
}

func newTree(base uint32) tree { return tree{base: base, callers: []uint32{0}, leaf: []uint32{0}} }

// end is the id after the last one.
func (t *tree) end() int { return int(t.base) + len(t.callers) }

// ids are the stacks of the tree, the empty one only in the first tree of a dictionary: so each is in one.
func (t *tree) ids() (first, count uint32) {
	if t.base == 0 {
		return 0, uint32(len(t.callers))
	}
	return t.base + 1, uint32(len(t.callers)) - 1
}

type (
	mapping struct {
		start, limit, offset uint64
		file, buildID        uint32 // strings
		flags                uint8  // hasFunctions and so on
	}
	function struct {
		name, systemName, file uint32
		startLine              int64
	}
	line struct {
		function     uint32
		line, column int64
	}
	location struct {
		address uint64
		mapping uint32 // index+1, 0: none
		end     uint32 // of its lines, which begin where those of the location before end
		folded  bool
	}
	label struct {
		name, str, unit uint32
		num             int64
		text            bool // it is str, not num and unit
	}
)

func (s *symbols) linesOf(l uint32) []line {
	start := uint32(0)
	if l > 0 {
		start = s.locations[l-1].end
	}
	return s.lines[start:s.locations[l].end]
}

func (s *symbols) set(i uint32) []label {
	start := uint32(0)
	if i > 0 {
		start = s.setEnds[i-1]
	}
	return s.labels[start:s.setEnds[i]]
}

// value is the value of a string label in a set, "" when it is absent. Of a label that is there twice the first
// value that is not empty counts.
func (s *symbols) value(set uint32, name string) string {
	for _, l := range s.set(set) {
		if l.text && s.strings[l.str] != "" && validUTF8(s.strings[l.name]) == name {
			return validUTF8(s.strings[l.str])
		}
	}
	return ""
}

// validUTF8 makes text that a selector can name: a comm may hold any bytes, PromQL and JSON cannot.
func validUTF8(s string) string { return strings.ToValidUTF8(s, "?") }

// size estimates the memory held, in bytes.
func (s *symbols) size() int64 {
	const ofTable = 20 // of a function or location, in all
	return 48*int64(len(s.mappings)) + 24*int64(len(s.lines)+len(s.labels)) + (24+ofTable)*int64(len(s.functions)+len(s.locations)) + 40*int64(len(s.strings)) + 8*int64(len(s.callers)) + 4*int64(len(s.setEnds)+len(s.better))
}

// dictionary gives dense ids to what the profiles of one service and day refer to.
type dictionary struct {
	id      uint32 // never used again in the store
	service string
	day     int64 // Unix days of the profiles

	pins atomic.Int32 // entries on their way into the head: what they refer to must not be forgotten

	mu sync.Mutex
	symbols
	older []tree        // that are not in segments yet, or not whole
	trees []uint32      // ids that trees begin with, but for the first
	bytes int64         // estimate of the memory held, maps and strings included
	grown *atomic.Int64 // the store's count of what its dictionaries have grown by, in bytes

	stringIDs  map[string]uint32
	mappingIDs map[mapping]uint32
	setIDs     map[string]uint32

	// known finds a stack by a hash of its locations, which are then compared. content finds a location by the hash of all
	// that it says: it would take most of the time of adding a profile to look up its functions and their names, each in
	// another place in memory, to find that they are what they were.
	known          stackTable
	content        stackTable    // of locations, +1
	locationHashes []contentHash // by location
	names          stackTable    // of functions, +1
	seeds          contentSeeds
	start          uint64 // the hash of the empty stack: nobody can foresee the others
	places         places

	saved   extent // what the segments on disk hold; belongs to the flush
	tableOf int    // bettered, when the table was begun

	scratch translation
}

// extent is how much of a dictionary's tables is meant.
type extent struct{ mappings, functions, locations, stacks, sets int }

func (s *symbols) extent() extent {
	return extent{len(s.mappings), len(s.functions), len(s.locations), s.stacks, len(s.setEnds)}
}

const dictionaryBytes = 2 << 10 // of an empty one: its maps, and what its columns hold in reserve

func newDictionary(id uint32, service string, day int64, grown *atomic.Int64) *dictionary {
	seeds := newContentSeeds()
	grown.Add(dictionaryBytes)
	return &dictionary{
		id: id, service: service, day: day, grown: grown, bytes: dictionaryBytes,
		symbols:    symbols{strings: []string{""}, tree: newTree(0), stacks: 1},
		stringIDs:  map[string]uint32{"": 0},
		mappingIDs: make(map[mapping]uint32),
		setIDs:     make(map[string]uint32),
		seeds:      seeds,
		places:     places{seed: seeds[0]},
		start:      maphash.String(seeds[0], service),
	}
}

// view is the content as it is now, with the newest tree.
func (d *dictionary) view() *symbols {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.table == nil || d.tableOf != d.bettered {
		d.table, d.tableOf = new(functionTable), d.bettered
	}
	s := d.symbols
	s.better = slices.Clone(s.better) // the other columns only grow
	return &s
}

// viewOf is view with the tree that has a base; nil if it is in memory no more.
func (d *dictionary) viewOf(base uint32) *symbols {
	s := d.view()
	if s.base == base {
		return s
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.older {
		if t.base == base {
			s.tree = t
			return s
		}
	}
	return nil
}

const stackBytes = 34 // two columns and a slot of 8, with what they hold in reserve

// beginTree forgets the stacks, and says how much memory that gives back. It is the flush's, as saved is.
func (d *dictionary) beginTree() (freed int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.callers) == 1 {
		return 0
	}
	freed = stackBytes * int64(len(d.callers)-1)
	if d.end() > d.saved.stacks {
		d.older = append(d.older, d.tree)
	}
	d.trees = append(d.trees, uint32(d.stacks))
	d.tree = newTree(uint32(d.stacks) - 1)
	d.known = stackTable{}
	d.bytes -= freed
	return freed
}

// isSaved says whether segments have something of it.
func (d *dictionary) isSaved() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.saved != extent{}
}

// setSaved takes note of what segments have.
func (d *dictionary) setSaved(to extent) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.saved = to
	d.older = slices.DeleteFunc(d.older, func(t tree) bool { return t.end() <= to.stacks })
}

// translation is from the indexes of one profile to ids, +1; 0 is not looked up yet.
type translation struct {
	strings, mappings, functions, locations []uint32
	hashes                                  struct{ strings, mappings, functions []contentHash } // 0 is not known yet
	wanted                                  []wantedLocation
	key, content                            []byte
	sets                                    map[string]uint32
}

// wantedLocation is one of a profile.
type wantedLocation struct {
	hash  contentHash
	slot  stackSlot // where the search for it begins
	index int
}

// zeroed is n zeros, in the memory of s if that is enough.
func zeroed[T any](s []T, n int) []T {
	s = slices.Grow(s[:0], n)[:n]
	clear(s)
	return s
}

func (t *translation) reset(p *decoded) {
	t.strings = zeroed(t.strings, len(p.strings))
	t.mappings = zeroed(t.mappings, len(p.mappings))
	t.functions = zeroed(t.functions, len(p.functions))
	t.locations = zeroed(t.locations, len(p.locations))
	t.hashes.strings = zeroed(t.hashes.strings, len(p.strings))
	t.hashes.mappings = zeroed(t.hashes.mappings, len(p.mappings))
	t.hashes.functions = zeroed(t.hashes.functions, len(p.functions))
	if t.sets == nil {
		t.sets = make(map[string]uint32)
	}
	clear(t.sets)
}

// add gives each sample of p its stack and label set, appended to the two slices. main is the first mapping of
// p, +1.
func (d *dictionary) add(p *decoded, stacks, sets []uint32) (_, _ []uint32, main uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.bytes
	t := &d.scratch
	t.reset(p)
	if len(p.mappings) > 0 {
		main = d.mapping(p, 0) + 1
	}
	d.addLocations(p)
	stacks = d.addStacks(p, stacks)
	for i := range p.samples {
		s := &p.samples[i]
		sets = append(sets, d.labelSet(p, p.labels[s.labels:s.labelEnd]))
	}
	d.grown.Add(d.bytes - before)
	if len(t.locations)+len(t.functions)+len(t.mappings) > 1<<15 || len(t.strings) > 1<<16 { // of a rare large profile
		d.scratch = translation{}
	}
	return stacks, sets, main
}

// addLocations looks for all locations of stacks in their order in the profile: what the profiles of a program have in
// common is found in the order in which it came first, one place in memory after the other.
func (d *dictionary) addLocations(p *decoded) {
	const wanted = math.MaxUint32
	t := &d.scratch
	for _, l := range p.stack {
		t.locations[l] = wanted
	}
	t.wanted = t.wanted[:0]
	for i, id := range t.locations {
		if id == wanted {
			t.wanted = append(t.wanted, wantedLocation{hash: d.hashLocation(p, &p.locations[i]), index: i})
		}
	}
	for i := range t.wanted { // the processor waits for many of these at once, if it has nothing to decide
		w := &t.wanted[i]
		w.slot = d.content.first(w.hash[0])
	}
	for i := range t.wanted {
		w := &t.wanted[i]
		if known := d.content.from(w.slot, w.hash[0]); known > 0 && d.locationHashes[known-1] == w.hash {
			t.locations[w.index] = known
		} else {
			t.locations[w.index] = d.location(p, w) + 1 // which searches anew: others came meanwhile
		}
	}
}

func (d *dictionary) string(p *decoded, i uint32) uint32 {
	if id := d.scratch.strings[i]; id > 0 {
		return id - 1
	}
	id := d.intern(p.str(i))
	d.scratch.strings[i] = id + 1
	return id
}

func (d *dictionary) intern(s string) uint32 {
	id, ok := d.stringIDs[s]
	if !ok {
		s = strings.Clone(s)
		id = uint32(len(d.strings))
		d.strings = append(d.strings, s)
		d.stringIDs[s] = id
		d.bytes += 64 + int64(len(s))
	}
	return id
}

func (d *dictionary) mapping(p *decoded, i uint32) uint32 {
	if id := d.scratch.mappings[i]; id > 0 {
		return id - 1
	}
	raw := &p.mappings[i]
	m := mapping{raw.start, raw.limit, raw.offset, d.string(p, raw.file), d.string(p, raw.buildID), raw.flags}
	id, ok := d.mappingIDs[m]
	if !ok {
		id = uint32(len(d.mappings))
		d.mappings = append(d.mappings, m)
		d.mappingIDs[m] = id
		d.bytes += 120
	}
	d.scratch.mappings[i] = id + 1
	return id
}

func (d *dictionary) function(p *decoded, i uint32) uint32 {
	if id := d.scratch.functions[i]; id > 0 {
		return id - 1
	}
	raw := &p.functions[i]
	f := function{d.string(p, raw.name), d.string(p, raw.systemName), d.string(p, raw.file), raw.startLine}
	hash := d.hashFunction(p, i)
	for known, next := d.names.find(hash[0], 0); known != 0; known, next = d.names.find(hash[0], next) {
		if d.functions[known-1] == f {
			d.scratch.functions[i] = known
			return known - 1
		}
	}
	id := uint32(len(d.functions))
	d.functions = append(d.functions, f)
	d.names.add(hash[0], id+1)
	d.bytes += 88
	d.scratch.functions[i] = id + 1
	return id
}

func (d *dictionary) location(p *decoded, w *wantedLocation) uint32 {
	for known, next := d.content.find(w.hash[0], 0); known != 0; known, next = d.content.find(w.hash[0], next) {
		if d.locationHashes[known-1] == w.hash {
			return known - 1
		}
	}
	id := d.addLocation(p, &p.locations[w.index])
	d.locationHashes = append(d.locationHashes, w.hash)
	d.content.add(w.hash[0], id+1)
	return id
}

const hashFactor = 0x9e3779b97f4a7c15 // 2^64 divided by the golden ratio

func mix(hash, v uint64) uint64 {
	hash = (hash ^ v) * hashFactor
	return hash ^ hash>>29
}

// hashLocation is the hash of all that a profile says of a location.
func (d *dictionary) hashLocation(p *decoded, raw *rawLocation) contentHash {
	content := d.scratch.content[:0]
	if raw.mapping > 0 {
		content = d.hashMapping(p, raw.mapping-1).appendTo(content)
	}
	content = append(content, flag(raw.mapping > 0), flag(raw.folded))
	content = binary.NativeEndian.AppendUint64(content, raw.address)
	for i := raw.line; i < raw.end; i++ {
		l := &p.lines[i]
		content = d.hashFunction(p, l.function).appendTo(content)
		content = binary.NativeEndian.AppendUint64(content, uint64(l.line))
		content = binary.NativeEndian.AppendUint64(content, uint64(l.column))
	}
	d.scratch.content = content
	return d.seeds.hash(content)
}

func (d *dictionary) hashMapping(p *decoded, i uint32) contentHash {
	known := &d.scratch.hashes.mappings[i]
	if *known == (contentHash{}) {
		m := &p.mappings[i]
		var room [64]byte
		content := d.hashString(p, m.file).appendTo(room[:0])
		content = d.hashString(p, m.buildID).appendTo(content)
		content = binary.NativeEndian.AppendUint64(content, m.start)
		content = binary.NativeEndian.AppendUint64(content, m.limit)
		content = binary.NativeEndian.AppendUint64(content, m.offset)
		*known = d.seeds.hash(append(content, m.flags))
	}
	return *known
}

func (d *dictionary) hashFunction(p *decoded, i uint32) contentHash {
	known := &d.scratch.hashes.functions[i]
	if *known == (contentHash{}) {
		f := &p.functions[i]
		var room [64]byte
		content := d.hashString(p, f.name).appendTo(room[:0])
		content = d.hashString(p, f.systemName).appendTo(content)
		content = d.hashString(p, f.file).appendTo(content)
		*known = d.seeds.hash(binary.NativeEndian.AppendUint64(content, uint64(f.startLine)))
	}
	return *known
}

func (d *dictionary) hashString(p *decoded, i uint32) contentHash {
	known := &d.scratch.hashes.strings[i]
	if *known == (contentHash{}) {
		*known = d.seeds.hash(p.strings[i])
	}
	return *known
}

func (d *dictionary) addLocation(p *decoded, raw *rawLocation) (id uint32) {
	at := location{address: raw.address, folded: raw.folded}
	if raw.mapping > 0 {
		at.mapping = d.mapping(p, raw.mapping-1) + 1
	}
	for _, l := range p.lines[raw.line:raw.end] {
		d.lines = append(d.lines, line{d.function(p, l.function), l.line, l.column})
		d.bytes += 32
	}
	at.end = uint32(len(d.lines))
	id = uint32(len(d.locations))
	d.locations = append(d.locations, at)
	d.places.add(&d.symbols, id)
	d.bytes += 134 // columns and slots of two tables, with what they hold in reserve
	return id
}

// child takes the hash of the stack that it returns.
func (d *dictionary) child(callers, leaf uint32, hash uint64) uint32 {
	for node, next := d.known.find(hash, 0); node != 0; node, next = d.known.find(hash, next) {
		if d.callers[node] == callers && d.leaf[node] == leaf {
			return node
		}
	}
	id := uint32(len(d.callers))
	d.callers = append(d.callers, callers)
	d.leaf = append(d.leaf, leaf)
	d.stacks++
	d.known.add(hash, id)
	d.bytes += stackBytes
	return id
}

// labelSet takes the labels of a sample. Sets that differ only in the order of names are the same.
func (d *dictionary) labelSet(p *decoded, labels []rawLabel) uint32 {
	key := d.scratch.key[:0]
	for _, l := range labels {
		key = binary.AppendUvarint(key, uint64(l.name))
		key = binary.AppendUvarint(key, uint64(l.str))
		key = binary.AppendUvarint(key, uint64(l.unit))
		key = binary.AppendVarint(key, l.num)
	}
	d.scratch.key = key
	if id, ok := d.scratch.sets[string(key)]; ok {
		return id
	}
	own := make([]label, len(labels))
	for i, l := range labels {
		own[i] = label{d.string(p, l.name), d.string(p, l.str), d.string(p, l.unit), l.num, l.str != 0}
	}
	slices.SortStableFunc(own, func(a, b label) int { return strings.Compare(d.strings[a.name], d.strings[b.name]) })
	id := d.internSet(own)
	d.scratch.sets[string(key)] = id
	return id
}

func (d *dictionary) internSet(labels []label) uint32 {
	var key []byte
	for _, l := range labels {
		key = binary.AppendUvarint(key, uint64(l.name))
		key = binary.AppendUvarint(key, uint64(l.str))
		key = binary.AppendUvarint(key, uint64(l.unit))
		key = binary.AppendVarint(key, l.num)
		key = append(key, flag(l.text))
	}
	id, ok := d.setIDs[string(key)]
	if !ok {
		id = uint32(len(d.setEnds))
		d.labels = append(d.labels, labels...)
		d.setEnds = append(d.setEnds, uint32(len(d.labels)))
		d.setIDs[string(key)] = id
		d.bytes += 80 + int64(len(key)) + 24*int64(len(labels))
	}
	return id
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}
