package profilestore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
	"google.golang.org/protobuf/encoding/protowire"

	"pilotlight/profilestore/flamegraph"
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
	maxLines          = 1 << 20
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

// isGzip looks at the magic of RFC 1952.
func isGzip(b []byte) bool { return len(b) >= 2 && b[0] == 0x1f && b[1] == 0x8b }

// inflater unpacks one profile at a time and keeps its memory for the next.
type inflater struct {
	r   gzip.Reader
	buf bytes.Buffer
}

var inflaters = sync.Pool{New: func() any { return new(inflater) }}

// inflate calls fn with the plain bytes of a gzipped or plain profile; they are valid until fn returns.
func inflate(b []byte, fn func(raw []byte) error) error {
	if !isGzip(b) {
		if len(b) > maxInflated {
			return &limitError{"bytes", maxInflated}
		}
		return fn(b)
	}
	z := inflaters.Get().(*inflater)
	const keep = 4 << 20 // a rare huge profile should not stay in the pool
	defer func() {
		if z.buf.Cap() <= keep {
			inflaters.Put(z)
		}
	}()
	if err := z.r.Reset(bytes.NewReader(b)); err != nil {
		return fmt.Errorf("inflate: %w", err)
	}
	z.buf.Reset()
	n, err := z.buf.ReadFrom(io.LimitReader(&z.r, maxInflated+1))
	if err != nil {
		return fmt.Errorf("inflate: %w", err)
	}
	if n > maxInflated {
		return &limitError{"bytes inflated", maxInflated}
	}
	return fn(z.buf.Bytes())
}

// pprofTables is a profile without its samples, which are read from raw when asked for: a hostile profile
// costs no more than its tables. Whatever readPprof and samples accept, google/pprof/profile accepts too.
type pprofTables struct {
	raw       []byte
	text      string // all strings of the string table, one after the other
	ends      []int  // of string i in text
	types     []valueType
	period    valueType
	mappings  []pprofMapping
	functions []pprofFunction
	locations []pprofLocation
	lines     []pprofLine
	sampleN   int

	mappingIDs, functionIDs, locationIDs idTable
}

type (
	valueType     struct{ typ, unit uint64 } // strings
	pprofMapping  struct{ id, file uint64 }
	pprofFunction struct{ id, name, file uint64 }
	pprofLine     struct {
		function uint64
		line     int64
	}
	pprofLocation struct {
		id, mapping, address uint64
		line, lines          int // lines[line:line+lines], innermost inlined call first
	}
)

// pprofSample is one sample. Its slices are reused for the next.
type pprofSample struct {
	locations []int // indexes of pprofTables.locations, leaf first
	values    []int64
	labels    []pprofLabel // string labels
}

type pprofLabel struct{ name, value string }

func (s *pprofSample) get(name string) string {
	for _, l := range s.labels {
		if l.name == name {
			return l.value
		}
	}
	return ""
}

// idTable finds an index by a protobuf id: almost all profiles number theirs from 1 on.
type idTable struct {
	dense  []int32 // index+1
	sparse map[uint64]int32
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

// field is one field of a protobuf message: a varint in num, or bytes.
type field struct {
	n   protowire.Number
	typ protowire.Type
	num uint64
	b   []byte
}

// eachField walks a message. Groups do not occur in pprof.
func eachField(b []byte, fn func(f field) error) error {
	for len(b) > 0 {
		n, typ, size := protowire.ConsumeTag(b)
		if size < 0 {
			return errWire
		}
		b = b[size:]
		f := field{n: n, typ: typ}
		switch typ {
		case protowire.VarintType:
			f.num, size = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			f.b, size = protowire.ConsumeBytes(b)
		case protowire.Fixed64Type, protowire.Fixed32Type:
			size = protowire.ConsumeFieldValue(n, typ, b)
		default:
			return errWire
		}
		if size < 0 {
			return errWire
		}
		b = b[size:]
		if err := fn(f); err != nil {
			return err
		}
	}
	return nil
}

// scalars reads a message of which the fields 1 to len(dst) are numbers; nil ones are checked and dropped.
func scalars(b []byte, dst ...*uint64) error {
	return eachField(b, func(f field) error {
		if int(f.n) > len(dst) {
			return nil
		}
		if f.typ != protowire.VarintType {
			return errWire
		}
		if p := dst[f.n-1]; p != nil {
			*p = f.num
		}
		return nil
	})
}

// numbers reads a repeated number, packed or not.
func numbers(f field, fn func(v uint64) error) error {
	switch f.typ {
	case protowire.VarintType:
		return fn(f.num)
	case protowire.BytesType:
		for b := f.b; len(b) > 0; {
			v, size := protowire.ConsumeVarint(b)
			if size < 0 {
				return errWire
			}
			b = b[size:]
			if err := fn(v); err != nil {
				return err
			}
		}
		return nil
	}
	return errWire
}

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

// readPprof reads and checks everything but the samples.
func readPprof(raw []byte) (*pprofTables, error) {
	t := &pprofTables{raw: raw}
	var text []byte
	var refs []uint64 // strings that only pprof's own reader looks at
	var comments, times int
	err := eachField(raw, func(f field) error {
		if f.n <= fieldString || f.n == fieldPeriodType {
			if f.typ != protowire.BytesType {
				return errWire
			}
		} else if f.n <= fieldDocURL && f.n != fieldComment && f.typ != protowire.VarintType {
			return errWire
		}
		switch f.n {
		case fieldSampleType:
			if len(t.types) == maxSampleTypes {
				return &limitError{"sample types", maxSampleTypes}
			}
			var v valueType
			err := scalars(f.b, &v.typ, &v.unit)
			t.types = append(t.types, v)
			return err
		case fieldSample:
			if t.sampleN++; t.sampleN > maxSamples {
				return &limitError{"samples", maxSamples}
			}
		case fieldMapping:
			return t.readMapping(f.b, &refs)
		case fieldLocation:
			return t.readLocation(f.b)
		case fieldFunction:
			return t.readFunction(f.b, &refs)
		case fieldString:
			if len(t.ends) == maxStrings {
				return &limitError{"strings", maxStrings}
			}
			if len(text)+len(f.b) > maxStringBytes {
				return &limitError{"bytes of strings", maxStringBytes}
			}
			text = append(text, f.b...)
			t.ends = append(t.ends, len(text))
		case fieldTime:
			if times++; times > 1 {
				return errors.New("two profiles in one: send them apart")
			}
		case fieldPeriodType:
			t.period = valueType{}
			return scalars(f.b, &t.period.typ, &t.period.unit)
		case fieldComment:
			return numbers(f, func(v uint64) error {
				if comments++; comments > maxComments {
					return &limitError{"comments", maxComments}
				}
				refs = append(refs, v)
				return nil
			})
		case fieldDropFrames, fieldKeepFrames, fieldDefaultSampleType, fieldDocURL:
			// The last one counts; an earlier one out of range is refused all the same, and one may be repeated
			// no more often than comments.
			if comments++; comments > maxComments {
				return &limitError{"comments", maxComments}
			}
			refs = append(refs, f.num)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	t.text = string(text)
	return t, t.check(refs)
}

func (t *pprofTables) readMapping(b []byte, refs *[]uint64) error {
	if len(t.mappings) == maxMappings {
		return &limitError{"mappings", maxMappings}
	}
	var m pprofMapping
	var buildID uint64
	if err := scalars(b, &m.id, nil, nil, nil, &m.file, &buildID, nil, nil, nil, nil); err != nil {
		return err
	}
	if !t.mappingIDs.add(m.id, len(t.mappings)) {
		return fmt.Errorf("mapping id %d is zero or there twice", m.id)
	}
	*refs = append(*refs, m.file, buildID)
	t.mappings = append(t.mappings, m)
	return nil
}

func (t *pprofTables) readFunction(b []byte, refs *[]uint64) error {
	if len(t.functions) == maxFunctions {
		return &limitError{"functions", maxFunctions}
	}
	var f pprofFunction
	var systemName uint64
	if err := scalars(b, &f.id, &f.name, &systemName, &f.file, nil); err != nil {
		return err
	}
	if !t.functionIDs.add(f.id, len(t.functions)) {
		return fmt.Errorf("function id %d is zero or there twice", f.id)
	}
	*refs = append(*refs, f.name, systemName, f.file)
	t.functions = append(t.functions, f)
	return nil
}

func (t *pprofTables) readLocation(b []byte) error {
	if len(t.locations) == maxLocations {
		return &limitError{"locations", maxLocations}
	}
	const fieldID, fieldMappingID, fieldAddress, fieldLine, fieldFolded = 1, 2, 3, 4, 5
	l := pprofLocation{line: len(t.lines)}
	err := eachField(b, func(f field) error {
		switch f.n {
		case fieldID, fieldMappingID, fieldAddress, fieldFolded:
			if f.typ != protowire.VarintType {
				return errWire
			}
			switch f.n {
			case fieldID:
				l.id = f.num
			case fieldMappingID:
				l.mapping = f.num
			case fieldAddress:
				l.address = f.num
			}
		case fieldLine:
			if f.typ != protowire.BytesType {
				return errWire
			}
			if len(t.lines) == maxLines {
				return &limitError{"lines", maxLines}
			}
			var function, line uint64
			if err := scalars(f.b, &function, &line, nil); err != nil {
				return err
			}
			t.lines = append(t.lines, pprofLine{function, int64(line)})
			l.lines++
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !t.locationIDs.add(l.id, len(t.locations)) {
		return fmt.Errorf("location id %d is zero or there twice", l.id)
	}
	t.locations = append(t.locations, l)
	return nil
}

// check looks at what can be known when all tables are read.
func (t *pprofTables) check(refs []uint64) error {
	if len(t.ends) == 0 || t.ends[0] != 0 {
		return fmt.Errorf("%w: its string table does not begin with \"\"", errWire)
	}
	for _, v := range t.types {
		refs = append(refs, v.typ, v.unit)
	}
	refs = append(refs, t.period.typ, t.period.unit)
	for _, r := range refs {
		if r >= uint64(len(t.ends)) {
			return errString
		}
	}
	for i, l := range t.lines {
		f, ok := t.functionIDs.find(l.function)
		if !ok {
			return fmt.Errorf("a line names function %d, which is not there", l.function)
		}
		t.lines[i].function = uint64(f)
	}
	if len(t.types) == 0 {
		return errors.New("no sample type")
	}
	seen := make(map[[2]string]bool, len(t.types))
	for _, v := range t.types {
		typ, unit := t.str(v.typ), t.str(v.unit)
		for _, s := range []string{typ, unit, t.str(t.period.typ), t.str(t.period.unit)} {
			if len(s) > maxLabelName || strings.Contains(s, ":") || !utf8.ValidString(s) {
				return fmt.Errorf("sample or period type %.40q: use UTF-8 without colons, at most %d bytes", s, maxLabelName)
			}
		}
		if typ == "" || unit == "" || seen[[2]string{typ, unit}] {
			return fmt.Errorf("sample type %q with unit %q is empty or there twice", typ, unit)
		}
		seen[[2]string{typ, unit}] = true
	}
	return nil
}

// str returns string i of the string table; i is in range.
func (t *pprofTables) str(i uint64) string {
	if i == 0 {
		return ""
	}
	return t.text[t.ends[i-1]:t.ends[i]]
}

// schema is what the profile is, apart from its labels. It shares no memory with the profile.
func (t *pprofTables) schema(name string) []ProfileType {
	own := func(i uint64) string { return strings.Clone(t.str(i)) }
	types := make([]ProfileType, len(t.types))
	for i, v := range t.types {
		types[i] = ProfileType{name, own(v.typ), own(v.unit), own(t.period.typ), own(t.period.unit)}
	}
	return types
}

// samples calls fn for each sample, in order, and stops at its first error.
func (t *pprofTables) samples(fn func(s *pprofSample) error) error {
	var s pprofSample
	var locations, labels int
	return eachField(t.raw, func(f field) error {
		if f.n != fieldSample {
			return nil
		}
		if err := t.readSample(f.b, &s); err != nil {
			return err
		}
		if locations += len(s.locations); locations > maxStackLocations {
			return &limitError{"locations in all stacks", maxStackLocations}
		}
		if labels += len(s.labels); labels > maxProfileLabels {
			return &limitError{"labels on samples", maxProfileLabels}
		}
		return fn(&s)
	})
}

func (t *pprofTables) readSample(b []byte, s *pprofSample) error {
	const fieldLocationID, fieldValue, fieldLabel = 1, 2, 3
	s.locations, s.values, s.labels = s.locations[:0], s.values[:0], s.labels[:0]
	depth, labels := 0, 0
	err := eachField(b, func(f field) error {
		switch f.n {
		case fieldLocationID:
			return numbers(f, func(id uint64) error {
				l, ok := t.locationIDs.find(id)
				if !ok {
					return fmt.Errorf("a sample names location %d, which is not there", id)
				}
				if depth += max(1, t.locations[l].lines); depth > maxDepth {
					return &limitError{"frames in a stack", maxDepth}
				}
				s.locations = append(s.locations, l)
				return nil
			})
		case fieldValue:
			return numbers(f, func(v uint64) error {
				if int64(v) < 0 {
					return fmt.Errorf("a sample has the value %d: values must not be negative", int64(v))
				}
				if len(s.values) == len(t.types) {
					return fmt.Errorf("a sample has more values than the %d sample types", len(t.types))
				}
				s.values = append(s.values, int64(v))
				return nil
			})
		case fieldLabel:
			if f.typ != protowire.BytesType {
				return errWire
			}
			if labels++; labels > maxSampleLabels {
				return &limitError{"labels on a sample", maxSampleLabels}
			}
			return t.readLabel(f.b, s)
		}
		return nil
	})
	if err == nil && len(s.values) != len(t.types) {
		return fmt.Errorf("a sample has %d values for %d sample types", len(s.values), len(t.types))
	}
	return err
}

func (t *pprofTables) readLabel(b []byte, s *pprofSample) error {
	var key, str, unit uint64
	if err := scalars(b, &key, &str, nil, &unit); err != nil {
		return err
	}
	n := uint64(len(t.ends))
	if key >= n || str >= n || unit >= n {
		return errString
	}
	name, value := t.str(key), t.str(str)
	if name == "" || value == "" {
		return nil // numeric, or absent
	}
	if len(name) > maxLabelName || len(value) > maxLabelValue {
		return fmt.Errorf("label %.40q on a sample: its name may have %d bytes, its value %d", name, maxLabelName, maxLabelValue)
	}
	for _, l := range s.labels {
		if l.name == name {
			return nil
		}
	}
	s.labels = append(s.labels, pprofLabel{validUTF8(name), validUTF8(value)})
	return nil
}

// validUTF8 makes text that a selector can name: a comm may hold any bytes, PromQL and JSON cannot.
func validUTF8(s string) string { return strings.ToValidUTF8(s, "?") }

// frames appends the frames of a location, outermost first. One without a function is named by its address.
func (t *pprofTables) frames(dst []flamegraph.Frame, location int) []flamegraph.Frame {
	l := t.locations[location]
	var binary string
	if m, ok := t.mappingIDs.find(l.mapping); ok {
		binary = t.str(t.mappings[m].file)
	}
	if l.lines == 0 {
		name := fmt.Sprintf("%#x", l.address)
		if binary != "" {
			name = path.Base(binary) + "+" + name
		}
		return append(dst, flamegraph.Frame{Function: name, Binary: binary})
	}
	for i := l.line + l.lines - 1; i >= l.line; i-- {
		f := t.functions[t.lines[i].function]
		dst = append(dst, flamegraph.Frame{
			Function: t.str(f.name), Binary: binary, File: t.str(f.file), Line: int(t.lines[i].line),
			Inlined: i < l.line+l.lines-1,
		})
	}
	return dst
}
