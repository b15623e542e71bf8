package profilestore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
)

// series is what a set of series labels and a schema have in common. The store holds each once.
type series struct {
	labels Labels
	types  []ProfileType // one for each value of a sample; at least one
}

func (s *series) key() string {
	var b []byte
	for _, t := range s.types {
		b = appendString(b, t.String())
	}
	b = append(b, 0)
	for _, l := range s.labels {
		b = appendString(b, l.Name)
		b = appendString(b, l.Value)
	}
	return string(b)
}

// typeIndex finds a type among the values of a sample, -1: not there.
func (s *series) typeIndex(t ProfileType) int { return slices.Index(s.types, t) }

// entry is one profile in an index: 56 bytes, because all of them are in memory.
type entry struct {
	id       ID
	time     int64
	duration int64
	offset   uint32 // of the gzipped pprof in its file
	length   uint32
	crc      uint32 // CRC-32C of the pprof
	series   uint32 // index.series
	totals   uint32 // index.totals[totals:], one for each type of the series
	sets     uint32 // index.lists[sets:]: a number, then that many indexes of label sets
}

// manySets in place of the number of label sets says that they were too many to list: the samples must be
// looked at.
const manySets = math.MaxUint32

// maxSets is how many distinct label sets of one profile are listed.
const maxSets = 64

// index is what is in memory of one segment. All slices only grow, so that a copy of the struct stays a valid
// view while the writer appends.
type index struct {
	series  []*series
	strings []string
	pairs   []uint32 // label sets: name and value of each label, indexes of strings
	setEnds []uint32 // of set i in pairs
	lists   []uint32
	totals  []int64
	entries []entry

	minTime, maxTime int64 // of entries
}

func (x *index) set(i uint32) []uint32 {
	start := uint32(0)
	if i > 0 {
		start = x.setEnds[i-1]
	}
	return x.pairs[start:x.setEnds[i]]
}

// setsOf gives the label sets of an entry; ok is false when they are not listed.
func (x *index) setsOf(e *entry) (sets []uint32, ok bool) {
	n := x.lists[e.sets]
	if n == manySets {
		return nil, false
	}
	return x.lists[e.sets+1:][:n], true
}

func (x *index) totalsOf(e *entry) []int64 {
	return x.totals[e.totals:][:len(x.series[e.series].types)]
}

// labelSet writes set i as labels.
func (x *index) labelSet(i uint32) Labels {
	pairs := x.set(i)
	ls := make(Labels, 0, len(pairs)/2)
	for ; len(pairs) > 0; pairs = pairs[2:] {
		ls = append(ls, Label{x.strings[pairs[0]], x.strings[pairs[1]]})
	}
	return ls
}

// size estimates the memory held, in bytes; the series are shared by all segments.
func (x *index) size() int64 {
	n := 56*len(x.entries) + 8*(len(x.totals)+len(x.series)) + 4*(len(x.pairs)+len(x.setEnds)+len(x.lists))
	for _, s := range x.strings {
		n += 16 + len(s)
	}
	return int64(n)
}

// clip gives back what the slices hold in reserve.
func (x *index) clip() {
	x.series = slices.Clone(x.series)
	x.strings = slices.Clone(x.strings)
	x.pairs = slices.Clone(x.pairs)
	x.setEnds = slices.Clone(x.setEnds)
	x.lists = slices.Clone(x.lists)
	x.totals = slices.Clone(x.totals)
	x.entries = slices.Clone(x.entries)
}

// profileMeta is one profile as the index takes it.
type profileMeta struct {
	id             ID
	time, duration int64
	offset, length uint32
	crc            uint32
	series         *series
	totals         []int64
	sets           []Labels
	many           bool // sets is not complete
}

// indexBuilder is an index that profiles can be added to.
type indexBuilder struct {
	index
	seriesIDs map[*series]uint32
	stringIDs map[string]uint32
	setIDs    map[string]uint32
	listIDs   map[string]uint32
	ids       map[ID]struct{}
}

func newIndexBuilder() *indexBuilder {
	return &indexBuilder{
		seriesIDs: make(map[*series]uint32),
		stringIDs: make(map[string]uint32),
		setIDs:    make(map[string]uint32),
		listIDs:   make(map[string]uint32),
		ids:       make(map[ID]struct{}),
	}
}

func (b *indexBuilder) string(s string) uint32 {
	id, ok := b.stringIDs[s]
	if !ok {
		s = strings.Clone(s) // it may be a piece of the strings of a whole profile
		id = uint32(len(b.strings))
		b.strings = append(b.strings, s)
		b.stringIDs[s] = id
	}
	return id
}

// add takes a profile whose series is the store's own object.
func (b *indexBuilder) add(p *profileMeta) {
	sid, ok := b.seriesIDs[p.series]
	if !ok {
		sid = uint32(len(b.series))
		b.series = append(b.series, p.series)
		b.seriesIDs[p.series] = sid
	}
	list := make([]uint32, 1, 1+len(p.sets))
	if p.many {
		list[0] = manySets
	} else {
		list[0] = uint32(len(p.sets))
		for _, set := range p.sets {
			list = append(list, b.set(set))
		}
		slices.Sort(list[1:])
	}
	key := string(appendUint32s(nil, list))
	lid, ok := b.listIDs[key]
	if !ok {
		lid = uint32(len(b.lists))
		b.lists = append(b.lists, list...)
		b.listIDs[key] = lid
	}
	if len(b.entries) == 0 {
		b.minTime, b.maxTime = p.time, p.time
	}
	b.minTime, b.maxTime = min(b.minTime, p.time), max(b.maxTime, p.time)
	e := entry{id: p.id, time: p.time, duration: p.duration, offset: p.offset, length: p.length, crc: p.crc, series: sid, totals: uint32(len(b.totals)), sets: lid}
	b.totals = append(b.totals, p.totals...)
	b.entries = append(b.entries, e)
	b.ids[p.id] = struct{}{}
}

func (b *indexBuilder) set(set Labels) uint32 {
	pairs := make([]uint32, 0, 2*len(set))
	for _, l := range set {
		pairs = append(pairs, b.string(l.Name), b.string(l.Value))
	}
	key := string(appendUint32s(nil, pairs))
	id, ok := b.setIDs[key]
	if !ok {
		id = uint32(len(b.setEnds))
		b.pairs = append(b.pairs, pairs...)
		b.setEnds = append(b.setEnds, uint32(len(b.pairs)))
		b.setIDs[key] = id
	}
	return id
}

func appendUint32s(dst []byte, vs []uint32) []byte {
	for _, v := range vs {
		dst = binary.LittleEndian.AppendUint32(dst, v)
	}
	return dst
}

// meta is the entry as it was added.
func (x *index) meta(e *entry) profileMeta {
	p := profileMeta{id: e.id, time: e.time, duration: e.duration, offset: e.offset, length: e.length, crc: e.crc, series: x.series[e.series], totals: x.totalsOf(e)}
	sets, ok := x.setsOf(e)
	p.many = !ok
	for _, i := range sets {
		p.sets = append(p.sets, x.labelSet(i))
	}
	return p
}

// appendIndex appends the encoding that FORMAT.md draws under "Profile table".
func appendIndex(dst []byte, x *index) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(x.series)))
	for _, s := range x.series {
		dst = binary.AppendUvarint(dst, uint64(len(s.types)))
		for _, t := range s.types {
			for _, part := range []string{t.Name, t.SampleType, t.SampleUnit, t.PeriodType, t.PeriodUnit} {
				dst = appendString(dst, part)
			}
		}
		dst = binary.AppendUvarint(dst, uint64(len(s.labels)))
		for _, l := range s.labels {
			dst = appendString(dst, l.Name)
			dst = appendString(dst, l.Value)
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(x.strings)))
	for _, s := range x.strings {
		dst = appendString(dst, s)
	}
	dst = binary.AppendUvarint(dst, uint64(len(x.setEnds)))
	for i := range x.setEnds {
		pairs := x.set(uint32(i))
		dst = binary.AppendUvarint(dst, uint64(len(pairs)/2))
		for _, v := range pairs {
			dst = binary.AppendUvarint(dst, uint64(v))
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(x.lists)))
	for _, v := range x.lists {
		dst = binary.AppendUvarint(dst, uint64(v))
	}
	dst = binary.AppendUvarint(dst, uint64(len(x.entries)))
	for i := range x.entries {
		e := &x.entries[i]
		dst = append(dst, e.id[:]...)
		dst = binary.LittleEndian.AppendUint32(dst, e.crc)
		dst = binary.AppendVarint(dst, e.time)
		dst = binary.AppendUvarint(dst, uint64(e.duration))
		dst = binary.AppendUvarint(dst, uint64(e.offset))
		dst = binary.AppendUvarint(dst, uint64(e.length))
		dst = binary.AppendUvarint(dst, uint64(e.series))
		dst = binary.AppendUvarint(dst, uint64(e.sets))
		for _, v := range x.totalsOf(e) {
			dst = binary.AppendUvarint(dst, uint64(v))
		}
	}
	return dst
}

// readIndex reads what appendIndex wrote. The series are new objects: intern them.
func readIndex(b []byte) (*index, error) {
	d := decoder{b: b}
	x := new(index)
	x.series = make([]*series, d.count(3))
	for i := range x.series {
		s := new(series)
		s.types = make([]ProfileType, d.count(5))
		for j := range s.types {
			s.types[j] = ProfileType{string(d.bytes()), string(d.bytes()), string(d.bytes()), string(d.bytes()), string(d.bytes())}
		}
		s.labels = make(Labels, d.count(2))
		for j := range s.labels {
			s.labels[j] = Label{string(d.bytes()), string(d.bytes())}
		}
		if len(s.types) == 0 {
			d.fail(errRange)
		}
		x.series[i] = s
	}
	x.strings = make([]string, d.count(1))
	for i := range x.strings {
		x.strings[i] = string(d.bytes())
	}
	x.setEnds = make([]uint32, d.count(1))
	for i := range x.setEnds {
		for range 2 * d.count(2) {
			x.pairs = append(x.pairs, d.below(len(x.strings)))
		}
		x.setEnds[i] = uint32(len(x.pairs))
	}
	x.lists = make([]uint32, d.count(1))
	for i := range x.lists {
		x.lists[i] = d.below(math.MaxUint32 + 1)
	}
	const minEntry = len(ID{}) + 4 + 7
	x.entries = make([]entry, d.count(minEntry))
	for i := range x.entries {
		e := &x.entries[i]
		copy(e.id[:], d.take(len(e.id)))
		if crc := d.take(4); crc != nil {
			e.crc = binary.LittleEndian.Uint32(crc)
		}
		e.time = d.varint()
		e.duration = int64(d.uvarint())
		e.offset = d.below(math.MaxUint32 + 1)
		e.length = d.below(math.MaxUint32 + 1)
		e.series = d.below(len(x.series))
		e.sets = d.below(len(x.lists))
		e.totals = uint32(len(x.totals))
		if d.err != nil {
			break
		}
		sets, listed := x.lists[e.sets], x.lists[e.sets] != manySets
		if listed && uint64(sets) > uint64(len(x.lists)-int(e.sets)-1) {
			d.fail(errRange)
			break
		}
		if listed {
			for _, set := range x.lists[e.sets+1:][:sets] {
				if int(set) >= len(x.setEnds) {
					d.fail(errRange)
				}
			}
		}
		for range x.series[e.series].types {
			x.totals = append(x.totals, int64(d.uvarint()))
		}
		if i == 0 {
			x.minTime, x.maxTime = e.time, e.time
		}
		x.minTime, x.maxTime = min(x.minTime, e.time), max(x.maxTime, e.time)
	}
	if d.err == nil && len(d.b) > 0 {
		d.err = fmt.Errorf("%d bytes too many", len(d.b))
	}
	if d.err != nil {
		return nil, fmt.Errorf("read profile table: %w", d.err)
	}
	return x, nil
}

// byID is the order of entries by ID: what a sealed segment finds a double with.
func (x *index) byID() []uint32 {
	order := make([]uint32, len(x.entries))
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(a, b uint32) int { return bytes.Compare(x.entries[a].id[:], x.entries[b].id[:]) })
	return order
}
