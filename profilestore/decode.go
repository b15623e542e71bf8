package profilestore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
	"unsafe"
)

// What one profile may hold. The first six are the contract's; the others keep what is left in proportion,
// so that neither this reader nor pprof's own needs more than a small multiple of the inflated bytes.
const (
	maxInflated    = 64 << 20
	maxSamples     = 65_536
	maxLocations   = 262_144
	maxStrings     = 1 << 20
	maxStringBytes = 16 << 20
	maxDepth       = 8_192 // frames of a stack, inlined calls included

	maxStackLocations = 8 << 20 // of all samples together
	maxSampleTypes    = 16
	maxSampleLabels   = 32
	maxProfileLabels  = 1 << 20 // of all samples together
	maxMappings       = 65_536
	maxFunctions      = 262_144
	maxLines          = 320 << 10
	maxComments       = 4_096
	maxTotal          = 1 << 53 // sum of a sample type: what JSON's numbers still hold exactly
)

// limitError is a count above one of the limits.
type limitError struct {
	what string
	most int
}

func (e *limitError) Error() string { return fmt.Sprintf("more than %d %s", e.most, e.what) }

var (
	errWire   = errors.New("not a pprof protobuf")
	errString = errors.New("string index out of range")
)

// Field numbers of message Profile, github.com/google/pprof/proto/profile.proto.
const (
	fieldSampleType        = 1
	fieldSample            = 2
	fieldMapping           = 3
	fieldLocation          = 4
	fieldFunction          = 5
	fieldString            = 6
	fieldDropFrames        = 7
	fieldKeepFrames        = 8
	fieldTime              = 9
	fieldDuration          = 10
	fieldPeriodType        = 11
	fieldPeriod            = 12
	fieldComment           = 13
	fieldDefaultSampleType = 14
	fieldDocURL            = 15
)

// Protobuf's wire types.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

// cursor reads protobuf. After malformed bytes it is bad and at its end.
type cursor struct {
	b   []byte
	i   int
	bad bool
}

func (c *cursor) fail() { c.i, c.bad = len(c.b), true }

// varint is small so that it is inlined: nearly all numbers of a profile are short.
func (c *cursor) varint() uint64 {
	if c.i < len(c.b) && c.b[c.i] < 0x80 {
		c.i++
		return uint64(c.b[c.i-1])
	}
	return c.longVarint()
}

func (c *cursor) longVarint() uint64 {
	if c.i+1 < len(c.b) && c.b[c.i+1] < 0x80 {
		c.i += 2
		return uint64(c.b[c.i-2]&0x7f) | uint64(c.b[c.i-1])<<7
	}
	v, n := binary.Uvarint(c.b[c.i:])
	if n <= 0 {
		c.fail()
		return 0
	}
	c.i += n
	return v
}

func (c *cursor) take(n uint64) []byte {
	if n > uint64(len(c.b)-c.i) {
		c.fail()
		return nil
	}
	b := c.b[c.i : c.i+int(n)]
	c.i += int(n)
	return b
}

// field is one field of a message: bytes in b, or a number in num and its encoding in b, so that repeated
// numbers read alike whether packed or not.
type field struct {
	n, wire int
	num     uint64
	b       []byte
}

// next reads a field; false at the end and for malformed bytes. Groups do not occur in pprof.
func (c *cursor) next(f *field) bool {
	if c.i >= len(c.b) {
		return false
	}
	tag := c.varint()
	f.n, f.wire = int(tag>>3), int(tag&7)
	if tag>>3 == 0 || tag>>3 > 1<<29-1 {
		c.fail()
	}
	switch f.wire {
	case wireVarint:
		start := c.i
		f.num = c.varint()
		f.b = c.b[start:c.i]
	case wireBytes:
		f.b = c.take(c.varint())
	case wireFixed64:
		c.take(8)
	case wireFixed32:
		c.take(4)
	default:
		c.fail()
	}
	return !c.bad
}

// numbers reads the fields 1 to len(dst)-1 as long as nothing but numbers comes: nearly all of most messages.
func (c *cursor) numbers(dst []uint64) {
	for c.i < len(c.b) {
		tag := c.b[c.i]
		n := int(tag >> 3)
		if tag&0x87 != wireVarint || n == 0 || n >= len(dst) {
			return
		}
		c.i++
		dst[n] = c.varint()
	}
}

func (c *cursor) err() error {
	if c.bad {
		return errWire
	}
	return nil
}

// decoded is a profile in flat tables that are used again for the next one. Strings are pieces of raw.
// Whatever decode accepts, google/pprof/profile accepts too, with the same content.
type decoded struct {
	raw []byte

	strings   [][]byte
	types     []valueType
	period    valueType
	every     int64 // period
	time      int64
	duration  int64
	mappings  []rawMapping
	functions []rawFunction
	locations []rawLocation
	lines     []rawLine
	samples   []rawSample
	stack     []uint32 // indexes of locations, those of one sample leaf first
	values    []int64  // one for each type, sample after sample
	labels    []rawLabel
	comments  []uint32
	inlined   bool // some location has several lines

	dropFrames, keepFrames, defaultType, docURL uint32

	mappingIDs, functionIDs, locationIDs idTable
	search                               stackSearch

	sampleFields [][]byte // read when everything that they name is known
	stringBytes  int
	times        int
	singles      int    // comments, and what counts like them
	highest      uint32 // string that anything named
}

type (
	valueType  struct{ typ, unit uint32 } // strings
	rawMapping struct {
		start, limit, offset uint64
		file, buildID        uint32
		flags                uint8 // hasFunctions and so on
	}
	rawFunction struct {
		name, systemName, file uint32
		startLine              int64
	}
	rawLine struct {
		id           uint64 // of the function
		function     uint32 // its index, from check
		line, column int64
	}
	rawLocation struct {
		id        uint64 // of the mapping
		mapping   uint32 // its index+1, 0: none; from check
		folded    bool
		line, end uint32 // lines[line:end], innermost inlined call first
		address   uint64
	}
	rawSample struct {
		stack, stackEnd  uint32
		labels, labelEnd uint32
	}
	rawLabel struct {
		name, str, unit uint32 // str is 0 for a number
		num             int64
	}
)

// Flags of a mapping.
const (
	hasFunctions = 1 << iota
	hasFilenames
	hasLineNumbers
	hasInlineFrames
)

// idTable finds an index by a protobuf id: almost all profiles number theirs from 1 on.
type idTable struct {
	dense  []int32 // index+1
	sparse map[uint64]int32
}

func (t *idTable) reset() {
	t.dense = t.dense[:0]
	t.sparse = nil
}

func (t *idTable) add(id uint64, index int) bool {
	if _, double := t.find(id); double || id == 0 {
		return false
	}
	if id == uint64(len(t.dense)) || len(t.dense) == 0 && id == 1 {
		if len(t.dense) == 0 {
			t.dense = append(t.dense, 0)
		}
		t.dense = append(t.dense, int32(index+1))
		return true
	}
	if t.sparse == nil {
		t.sparse = make(map[uint64]int32)
	}
	t.sparse[id] = int32(index)
	return true
}

func (t *idTable) find(id uint64) (int, bool) {
	if id < uint64(len(t.dense)) {
		return int(t.dense[id]) - 1, t.dense[id] > 0
	}
	i, ok := t.sparse[id]
	return int(i), ok
}

func (d *decoded) reset() {
	clear(d.strings)
	clear(d.sampleFields)
	*d = decoded{
		strings: d.strings[:0], types: d.types[:0], mappings: d.mappings[:0], functions: d.functions[:0],
		locations: d.locations[:0], lines: d.lines[:0], samples: d.samples[:0], stack: d.stack[:0],
		values: d.values[:0], labels: d.labels[:0], comments: d.comments[:0], sampleFields: d.sampleFields[:0],
		mappingIDs: d.mappingIDs, functionIDs: d.functionIDs, locationIDs: d.locationIDs,
		search: d.search,
	}
	d.mappingIDs.reset()
	d.functionIDs.reset()
	d.locationIDs.reset()
}

// size estimates the memory held besides raw, in bytes.
func (d *decoded) size() int {
	return 24*(cap(d.strings)+cap(d.sampleFields)+cap(d.lines)+cap(d.functions)+cap(d.labels)) + 32*(cap(d.mappings)+cap(d.locations)) +
		16*cap(d.samples) + 4*cap(d.stack) + 8*cap(d.values) + d.search.size()
}

// decode reads and checks a whole profile.
func (d *decoded) decode(raw []byte) error {
	d.raw = raw
	c := cursor{b: raw}
	var f field
	for c.next(&f) {
		if err := d.top(&f); err != nil {
			return err
		}
	}
	if err := c.err(); err != nil {
		return err
	}
	if err := d.check(); err != nil {
		return err
	}
	return d.readSamples()
}

// top takes one field of the profile.
func (d *decoded) top(f *field) error {
	if f.n <= fieldString || f.n == fieldPeriodType {
		if f.wire != wireBytes {
			return errWire
		}
	} else if f.n <= fieldDocURL && f.n != fieldComment && f.wire != wireVarint {
		return errWire
	}
	switch f.n {
	case fieldString:
		if len(d.strings) == maxStrings {
			return &limitError{"strings", maxStrings}
		}
		if d.stringBytes += len(f.b); d.stringBytes > maxStringBytes {
			return &limitError{"bytes of strings", maxStringBytes}
		}
		d.strings = append(d.strings, f.b)
	case fieldSample:
		if len(d.sampleFields) == maxSamples {
			return &limitError{"samples", maxSamples}
		}
		d.sampleFields = append(d.sampleFields, f.b)
	case fieldLocation:
		return d.readLocation(f.b)
	case fieldFunction:
		return d.readFunction(f.b)
	case fieldMapping:
		return d.readMapping(f.b)
	case fieldSampleType:
		if len(d.types) == maxSampleTypes {
			return &limitError{"sample types", maxSampleTypes}
		}
		v, err := d.readValueType(f.b)
		d.types = append(d.types, v)
		return err
	case fieldPeriodType:
		var err error
		d.period, err = d.readValueType(f.b)
		return err
	case fieldTime:
		if d.times++; d.times > 1 {
			return errors.New("two profiles in one: send them apart")
		}
		d.time = int64(f.num)
	case fieldDuration:
		d.duration = int64(f.num)
	case fieldPeriod:
		d.every = int64(f.num)
	case fieldComment:
		return d.readComments(f)
	case fieldDropFrames:
		return d.single(&d.dropFrames, f.num)
	case fieldKeepFrames:
		return d.single(&d.keepFrames, f.num)
	case fieldDefaultSampleType:
		return d.single(&d.defaultType, f.num)
	case fieldDocURL:
		return d.single(&d.docURL, f.num)
	}
	return nil
}

// ref takes the index of a string, which check compares with the table when it is complete.
func (d *decoded) ref(v uint64) uint32 {
	r := uint32(min(v, math.MaxUint32))
	d.highest = max(d.highest, r)
	return r
}

// single takes a string of which the last one counts, so that one may come again and again.
func (d *decoded) single(dst *uint32, v uint64) error {
	if d.singles++; d.singles > maxComments {
		return &limitError{"comments", maxComments}
	}
	*dst = d.ref(v)
	return nil
}

func (d *decoded) readComments(f *field) error {
	if f.wire != wireVarint && f.wire != wireBytes {
		return errWire
	}
	c := cursor{b: f.b}
	for c.i < len(c.b) {
		d.comments = append(d.comments, 0)
		if err := d.single(&d.comments[len(d.comments)-1], c.varint()); err != nil {
			return err
		}
	}
	return c.err()
}

func (d *decoded) readValueType(b []byte) (v valueType, err error) {
	var s [3]uint64
	err = scalars(b, s[:])
	return valueType{d.ref(s[1]), d.ref(s[2])}, err
}

// scalars reads a message of which the fields 1 to len(dst)-1 are numbers; others are passed over.
func scalars(b []byte, dst []uint64) error {
	c := cursor{b: b}
	c.numbers(dst)
	var f field
	for c.next(&f) {
		if f.n >= len(dst) {
			continue
		}
		if f.wire != wireVarint {
			return errWire
		}
		dst[f.n] = f.num
	}
	return c.err()
}

func (d *decoded) readMapping(b []byte) error {
	if len(d.mappings) == maxMappings {
		return &limitError{"mappings", maxMappings}
	}
	var s [11]uint64
	if err := scalars(b, s[:]); err != nil {
		return err
	}
	if !d.mappingIDs.add(s[1], len(d.mappings)) {
		return fmt.Errorf("mapping id %d is zero or there twice", s[1])
	}
	m := rawMapping{start: s[2], limit: s[3], offset: s[4], file: d.ref(s[5]), buildID: d.ref(s[6])}
	for i, flag := range []uint8{hasFunctions, hasFilenames, hasLineNumbers, hasInlineFrames} {
		if s[7+i] != 0 {
			m.flags |= flag
		}
	}
	d.mappings = append(d.mappings, m)
	return nil
}

func (d *decoded) readFunction(b []byte) error {
	if len(d.functions) == maxFunctions {
		return &limitError{"functions", maxFunctions}
	}
	var s [6]uint64
	if err := scalars(b, s[:]); err != nil {
		return err
	}
	if !d.functionIDs.add(s[1], len(d.functions)) {
		return fmt.Errorf("function id %d is zero or there twice", s[1])
	}
	d.functions = append(d.functions, rawFunction{d.ref(s[2]), d.ref(s[3]), d.ref(s[4]), int64(s[5])})
	return nil
}

func (d *decoded) readLocation(b []byte) error {
	if len(d.locations) == maxLocations {
		return &limitError{"locations", maxLocations}
	}
	const fieldID, fieldMappingID, fieldAddress, fieldLine, fieldFolded = 1, 2, 3, 4, 5
	line := uint32(len(d.lines))
	var v [fieldFolded + 1]uint64
	c := cursor{b: b}
	c.numbers(v[:])
	var f field
	for c.next(&f) {
		if f.n == fieldLine {
			if f.wire != wireBytes {
				return errWire
			}
			if len(d.lines) == maxLines {
				return &limitError{"lines", maxLines}
			}
			var s [4]uint64
			if err := scalars(f.b, s[:]); err != nil {
				return err
			}
			d.lines = append(d.lines, rawLine{id: s[1], line: int64(s[2]), column: int64(s[3])})
			continue
		}
		if f.n > fieldFolded {
			continue
		}
		if f.wire != wireVarint {
			return errWire
		}
		v[f.n] = f.num
	}
	if c.bad {
		return errWire
	}
	if !d.locationIDs.add(v[fieldID], len(d.locations)) {
		return fmt.Errorf("location id %d is zero or there twice", v[fieldID])
	}
	d.locations = append(d.locations, rawLocation{
		id: v[fieldMappingID], address: v[fieldAddress], folded: v[fieldFolded] != 0, line: line, end: uint32(len(d.lines)),
	})
	return nil
}

// check looks at what can be known when all tables are read, and makes indexes of ids.
func (d *decoded) check() error {
	n := uint32(len(d.strings))
	if n == 0 || len(d.strings[0]) != 0 {
		return fmt.Errorf("%w: its string table does not begin with \"\"", errWire)
	}
	if d.highest >= n {
		return errString
	}
	for i := range d.lines {
		l := &d.lines[i]
		f, ok := d.functionIDs.find(l.id)
		if !ok {
			return fmt.Errorf("a line names function %d, which is not there", l.id)
		}
		l.function = uint32(f)
	}
	for i := range d.locations {
		l := &d.locations[i]
		if m, ok := d.mappingIDs.find(l.id); ok {
			l.mapping = uint32(m + 1)
		}
		d.inlined = d.inlined || l.end-l.line > 1
	}
	return d.checkTypes()
}

func (d *decoded) checkTypes() error {
	if len(d.types) == 0 {
		return errors.New("no sample type")
	}
	for i, v := range d.types {
		typ, unit := d.str(v.typ), d.str(v.unit)
		for _, s := range []string{typ, unit, d.str(d.period.typ), d.str(d.period.unit)} {
			if len(s) > MaxLabelName || strings.Contains(s, ":") || !utf8.ValidString(s) {
				return fmt.Errorf("sample or period type %.40q: use UTF-8 without colons, at most %d bytes", s, MaxLabelName)
			}
		}
		double := false
		for _, w := range d.types[:i] {
			double = double || d.str(w.typ) == typ && d.str(w.unit) == unit
		}
		if typ == "" || unit == "" || double {
			return fmt.Errorf("sample type %q with unit %q is empty or there twice", typ, unit)
		}
	}
	return nil
}

// str is string i of the table, without a copy: it lives as long as raw.
func (d *decoded) str(i uint32) string {
	b := d.strings[i]
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// schema is what the profile is, apart from its labels. It shares no memory with the profile.
func (d *decoded) schema(name string) []ProfileType {
	types := make([]ProfileType, len(d.types))
	for i, v := range d.types {
		types[i] = ProfileType{name, strings.Clone(d.str(v.typ)), strings.Clone(d.str(v.unit)), strings.Clone(d.str(d.period.typ)), strings.Clone(d.str(d.period.unit))}
	}
	return types
}

func (d *decoded) readSamples() error {
	for _, b := range d.sampleFields {
		if err := d.readSample(b); err != nil {
			return err
		}
		if len(d.stack) > maxStackLocations {
			return &limitError{"locations in all stacks", maxStackLocations}
		}
		if len(d.labels) > maxProfileLabels {
			return &limitError{"labels on samples", maxProfileLabels}
		}
	}
	for i := range d.types {
		sum := int64(0)
		for at := i; at < len(d.values); at += len(d.types) {
			if d.values[at] > maxTotal-sum {
				return fmt.Errorf("the values of sample type %s sum to more than 2^53", d.str(d.types[i].typ))
			}
			sum += d.values[at]
		}
	}
	return nil
}

func (d *decoded) readSample(b []byte) error {
	const fieldLocationID, fieldValue, fieldLabel = 1, 2, 3
	s := rawSample{stack: uint32(len(d.stack)), labels: uint32(len(d.labels))}
	first := len(d.values)
	depth, labels := 0, 0
	c := cursor{b: b}
	var f field
	for c.next(&f) {
		if f.n > fieldLabel {
			continue
		}
		if f.wire != wireBytes && (f.wire != wireVarint || f.n == fieldLabel) {
			return errWire
		}
		numbers := cursor{b: f.b}
		switch f.n {
		case fieldLocationID:
			frames, err := d.readStack(f.b)
			if err != nil {
				return err
			}
			if depth += frames; depth > maxDepth {
				return &limitError{"frames in a stack", maxDepth}
			}
		case fieldValue:
			for numbers.i < len(numbers.b) {
				v := int64(numbers.varint())
				if numbers.bad {
					return errWire
				}
				if v < 0 {
					return fmt.Errorf("a sample has the value %d: values must not be negative", v)
				}
				if len(d.values)-first == len(d.types) {
					return fmt.Errorf("a sample has more values than the %d sample types", len(d.types))
				}
				d.values = append(d.values, v)
			}
		case fieldLabel:
			if labels++; labels > maxSampleLabels {
				return &limitError{"labels on a sample", maxSampleLabels}
			}
			if err := d.readLabel(f.b); err != nil {
				return err
			}
		}
	}
	if c.bad {
		return errWire
	}
	if n := len(d.values) - first; n != len(d.types) {
		return fmt.Errorf("a sample has %d values for %d sample types", n, len(d.types))
	}
	s.stackEnd, s.labelEnd = uint32(len(d.stack)), uint32(len(d.labels))
	d.samples = append(d.samples, s)
	return nil
}

// readStack appends locations of a sample and returns how many frames they have. It is the inner loop of every append.
func (d *decoded) readStack(b []byte) (frames int, err error) {
	first := len(d.stack)
	stack, dense := slices.Grow(d.stack, min(len(b), maxDepth)), d.locationIDs.dense
	for i := 0; i < len(b); {
		id := uint64(b[i])
		i++
		if id >= 0x80 {
			if i < len(b) && b[i] < 0x80 { // nearly all ids have one byte or two
				id = id&0x7f | uint64(b[i])<<7
				i++
			} else {
				v, n := binary.Uvarint(b[i-1:])
				if n <= 0 {
					return 0, errWire
				}
				id, i = v, i-1+n
			}
		}
		l, ok := 0, false
		if id < uint64(len(dense)) {
			l, ok = int(dense[id])-1, dense[id] > 0
		} else {
			l, ok = d.locationIDs.find(id)
		}
		if !ok {
			return 0, fmt.Errorf("a sample names location %d, which is not there", id)
		}
		if len(stack)-first == maxDepth {
			return 0, &limitError{"frames in a stack", maxDepth}
		}
		stack = append(stack, uint32(l))
	}
	d.stack = stack
	frames = len(stack) - first
	if d.inlined {
		for _, l := range stack[first:] {
			at := &d.locations[l]
			frames += max(1, int(at.end-at.line)) - 1
		}
	}
	return frames, nil
}

// readLabel keeps what pprof keeps: a string, or a number that is not 0 or has a unit.
func (d *decoded) readLabel(b []byte) error {
	var s [5]uint64
	if err := scalars(b, s[:]); err != nil {
		return err
	}
	if max(s[1], s[2], s[4]) >= uint64(len(d.strings)) {
		return errString
	}
	l := rawLabel{name: uint32(s[1]), str: uint32(s[2]), num: int64(s[3]), unit: uint32(s[4])}
	if len(d.strings[l.name]) > MaxLabelName || len(d.strings[l.str]) > maxLabelValue || len(d.strings[l.unit]) > MaxLabelName {
		return fmt.Errorf("label %.40q on a sample: its name and unit may have %d bytes, its value %d", d.strings[l.name], MaxLabelName, maxLabelValue)
	}
	if l.str != 0 {
		l.num, l.unit = 0, 0
	} else if l.num == 0 && l.unit == 0 {
		return nil
	}
	d.labels = append(d.labels, l)
	return nil
}
