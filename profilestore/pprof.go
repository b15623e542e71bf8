package profilestore

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"io"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// pprofWriter writes a merged profile while it is found, one dictionary after the other, and keeps no sample of it.
// Mappings, locations, functions and strings are those of all dictionaries, each once, and are written last.
type pprofWriter struct {
	out   *bufio.Writer
	err   error
	bytes int64 // written

	strings, mappings, functions, locations messages
	named                                   map[uint32]bool // mappings whose functions came from elsewhere

	empty int64 // where the string table has "" once more; 0: it does not

	trees, samples, depths int64 // written; depths are the locations of all samples

	// Of the dictionary whose samples are written.
	*symbols
	known   struct{ strings, mappings, functions, locations []uint32 } // in the tables above; 0: not known yet
	sets    [][]byte                                                   // by label set: its labels as they stand in a sample; nil: not known yet
	paths   []writtenStack                                             // by stack of the tree: what was written of it
	written []byte                                                     // of locations, of stacks that were written
	room    []byte                                                     // for values of a sample
	one     []byte                                                     // for a message of the profile
}

// writtenStack is where the ids of the locations of a stack are, leaf first, and how many; from and to are the same: nowhere.
// Most stacks go on from one that was written.
type writtenStack struct{ from, to, depth uint32 }

// idsKept bounds the memory of what was written of stacks.
const idsKept = 1 << 20

func newPprofWriter(out io.Writer) *pprofWriter {
	seed := maphash.MakeSeed()
	w := &pprofWriter{
		out: bufio.NewWriterSize(out, 64<<10), named: make(map[uint32]bool),
		strings: messages{seed: seed}, mappings: messages{seed: seed}, functions: messages{seed: seed}, locations: messages{seed: seed},
	}
	w.text("")
	return w
}

// size estimates the memory held, in bytes.
func (w *pprofWriter) size() int64 {
	known := 4 * int64(cap(w.known.strings)+cap(w.known.mappings)+cap(w.known.functions)+cap(w.known.locations))
	known += 12*int64(cap(w.paths)) + int64(cap(w.written))
	return known + 100*int64(cap(w.sets)) + w.strings.size() + w.mappings.size() + w.functions.size() + w.locations.size()
}

// messages are distinct messages without their ids, or strings, with numbers from 1 on in the order in which they come.
type messages struct {
	seed    maphash.Seed
	content []byte
	ends    []int
	index   stackTable
}

func (m *messages) id(content []byte) uint32 {
	hash := maphash.Bytes(m.seed, content)
	for id, next := m.index.find(hash, 0); id != 0; id, next = m.index.find(hash, next) {
		if bytes.Equal(m.get(id), content) {
			return id
		}
	}
	id := m.add(content)
	m.index.add(hash, id)
	return id
}

// add does not look for content that is there already, and does not let id find it.
func (m *messages) add(content []byte) uint32 {
	m.content = append(m.content, content...)
	m.ends = append(m.ends, len(m.content))
	return uint32(len(m.ends))
}

func (m *messages) get(id uint32) []byte {
	start := 0
	if id > 1 {
		start = m.ends[id-2]
	}
	return m.content[start:m.ends[id-1]]
}

func (m *messages) size() int64 {
	return int64(cap(m.content)) + 8*int64(cap(m.ends)) + m.index.size()
}

// appendNumber appends a field; one that is 0 is left out, as protobuf has it.
func appendNumber[N uint32 | uint64 | int64](b []byte, field protowire.Number, v N) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), uint64(v))
}

func appendMessage(b []byte, field protowire.Number, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), content)
}

func (w *pprofWriter) write(b []byte) {
	if w.err == nil {
		_, w.err = w.out.Write(b)
		w.bytes += int64(len(b))
	}
}

func (w *pprofWriter) writeMessage(field protowire.Number, content []byte) {
	w.one = appendMessage(w.one[:0], field, content)
	w.write(w.one)
}

func (w *pprofWriter) writeNumber(field protowire.Number, v int64) {
	w.write(appendNumber(w.one[:0], field, v))
}

// text is where a string stands in the table.
func (w *pprofWriter) text(s string) int64 { return int64(w.strings.id([]byte(s))) - 1 }

func (w *pprofWriter) writeText(field protowire.Number, s string) { w.writeNumber(field, w.text(s)) }

func (w *pprofWriter) writeTexts(field protowire.Number, texts []string) {
	var all []byte
	for _, s := range texts {
		all = protowire.AppendVarint(all, uint64(w.text(s)))
	}
	w.writeMessage(field, all)
}

func (w *pprofWriter) writeType(field protowire.Number, name, unit string) {
	w.writeMessage(field, appendNumber(appendNumber(nil, 1, w.text(name)), 2, w.text(unit)))
}

func (w *pprofWriter) writeTypes(types []ProfileType) {
	for _, t := range types {
		w.writeType(fieldSampleType, t.SampleType, t.SampleUnit)
	}
	w.writeType(fieldPeriodType, types[0].PeriodType, types[0].PeriodUnit)
}

// begin takes the dictionary that the next samples are of, and one of its trees.
func (w *pprofWriter) begin(s *symbols) {
	w.known.mappings, w.known.functions, w.known.locations = w.known.mappings[:0], w.known.functions[:0], w.known.locations[:0]
	w.sets = w.sets[:0]
	w.goOn(s)
}

// goOn takes another tree of the dictionary.
func (w *pprofWriter) goOn(s *symbols) {
	w.trees++
	w.symbols = s
	w.known.strings = zeroed(w.known.strings, len(s.strings)) // the dictionary may have been read anew, and has other numbers for them
	w.known.mappings = lengthened(w.known.mappings, len(s.mappings))
	w.known.functions = lengthened(w.known.functions, len(s.functions))
	w.known.locations = lengthened(w.known.locations, len(s.locations))
	w.sets = lengthened(w.sets, len(s.setEnds))
	w.paths, w.written = zeroed(w.paths, len(s.callers)), w.written[:0]
}

// lengthened is s with zeros up to n.
func lengthened[T any](s []T, n int) []T {
	have := len(s)
	if n <= have {
		return s
	}
	s = slices.Grow(s, n-have)[:n]
	clear(s[have:])
	return s
}

// add writes the samples of those rows whose stacks are in the tree. proceed is asked now and then whether it may go on.
func (w *pprofWriter) add(rows *mergedRows, proceed func() error) error {
	var sample []byte
	first, count := w.ids()
	for i, stack := range rows.stack {
		const samplesBetween = 1 << 12
		if i%samplesBetween == 0 {
			if err := proceed(); err != nil {
				return err
			}
		}
		if stack-first >= count {
			continue
		}
		sample = appendMessage(sample[:0], 1, w.stack(stack-w.base))
		values := w.room[:0]
		for _, v := range rows.values {
			values = protowire.AppendVarint(values, uint64(v[i]))
		}
		w.room = values
		sample = append(appendMessage(sample, 2, values), w.labelSet(rows.labels[i])...)
		w.writeMessage(fieldSample, sample)
		w.samples++
	}
	return w.err
}

// stack are the ids of the locations of a stack of the tree, leaf first, valid until the next call.
func (w *pprofWriter) stack(stack uint32) []byte {
	if len(w.written) > idsKept {
		clear(w.paths)
		w.written = w.written[:0]
	}
	from, fresh := uint32(len(w.written)), uint32(0)
	known := stack // as much of it as was written
	for ; known != 0 && w.paths[known].to == 0; known = w.callers[known] {
		w.paths[known].from = uint32(len(w.written))
		w.written = binary.AppendUvarint(w.written, uint64(w.locationID(w.leaf[known])))
		fresh++
	}
	p := w.paths[known]
	w.written = append(w.written, w.written[p.from:p.to]...)
	to, depth := uint32(len(w.written)), p.depth+fresh
	w.depths += int64(depth)
	for ; stack != known; stack = w.callers[stack] {
		w.paths[stack].to, w.paths[stack].depth = to, depth
		depth--
	}
	return w.written[from:to]
}

// locationID is the id of a location of the dictionary.
func (w *pprofWriter) locationID(l uint32) uint32 {
	if w.known.locations[l] == 0 {
		w.known.locations[l] = w.location(l)
	}
	return w.known.locations[l]
}

func (w *pprofWriter) labelSet(set uint32) []byte {
	if w.sets[set] != nil {
		return w.sets[set]
	}
	all := []byte{}
	for _, l := range w.set(set) {
		m := appendNumber(nil, 1, w.string(l.name))
		if l.text {
			m = appendNumber(m, 2, w.labelValue(l.str))
		} else {
			m = appendNumber(appendNumber(m, 3, l.num), 4, w.string(l.unit))
		}
		all = appendMessage(all, 3, m)
	}
	w.sets[set] = all
	return all
}

// labelValue is not 0, which says that the label is a number.
func (w *pprofWriter) labelValue(i uint32) int64 {
	if at := w.string(i); at > 0 {
		return at
	}
	if w.empty == 0 {
		w.empty = int64(w.strings.add(nil)) - 1
	}
	return w.empty
}

// string is where a string of the dictionary stands in the table.
func (w *pprofWriter) string(i uint32) int64 {
	if w.known.strings[i] == 0 {
		w.known.strings[i] = w.strings.id([]byte(w.symbols.strings[i]))
	}
	return int64(w.known.strings[i]) - 1
}

func (w *pprofWriter) mapping(i uint32) uint32 {
	if id := w.known.mappings[i]; id > 0 {
		return id
	}
	at := &w.symbols.mappings[i]
	m := appendNumber(appendNumber(appendNumber(nil, 2, at.start), 3, at.limit), 4, at.offset)
	m = appendNumber(appendNumber(m, 5, w.string(at.file)), 6, w.string(at.buildID))
	for bit := range protowire.Number(4) {
		m = appendNumber(m, 7+bit, uint32(at.flags)>>bit&1)
	}
	id := w.mappings.id(m)
	w.known.mappings[i] = id
	return id
}

func (w *pprofWriter) function(i uint32) uint32 {
	if id := w.known.functions[i]; id > 0 {
		return id
	}
	at := &w.symbols.functions[i]
	m := appendNumber(appendNumber(nil, 2, w.string(at.name)), 3, w.string(at.systemName))
	id := w.functions.id(appendNumber(appendNumber(m, 4, w.string(at.file)), 5, at.startLine))
	w.known.functions[i] = id
	return id
}

func (w *pprofWriter) location(i uint32) uint32 {
	at := &w.symbols.locations[i]
	best := w.symbols.named(i)
	lines := w.linesOf(best)
	var m []byte
	if at.mapping > 0 {
		id := w.mapping(at.mapping - 1)
		if best != i && len(lines) > 0 {
			w.named[id] = true // or pprof would look for names itself
		}
		m = appendNumber(m, 2, id)
	}
	m = appendNumber(m, 3, at.address)
	for _, one := range lines {
		m = appendMessage(m, 4, appendNumber(appendNumber(appendNumber(nil, 1, w.function(one.function)), 2, one.line), 3, one.column))
	}
	if at.folded {
		m = appendNumber(m, 5, uint32(1))
	}
	return w.locations.id(m)
}

// close writes what the samples refer to.
func (w *pprofWriter) close() error {
	for _, table := range []struct {
		field    protowire.Number
		messages *messages
	}{{fieldMapping, &w.mappings}, {fieldLocation, &w.locations}, {fieldFunction, &w.functions}} {
		for i := range table.messages.ends {
			id := uint32(i) + 1
			m := append(appendNumber(nil, 1, id), table.messages.get(id)...)
			if table.field == fieldMapping && w.named[id] {
				m = appendNumber(m, 7, uint32(1))
			}
			w.writeMessage(table.field, m)
		}
	}
	for i := range w.strings.ends {
		w.writeMessage(fieldString, w.strings.get(uint32(i)+1))
	}
	if w.err != nil {
		return w.err
	}
	return w.out.Flush()
}
