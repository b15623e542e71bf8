package profilestore

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"

	"github.com/parquet-go/parquet-go"
)

const symbolsDir = "symbols"

// segmentMeta is meta.json of a segment of dictionaries.
type segmentMeta struct {
	Sequence uint64   `json:"sequence"`
	Level    int      `json:"level"`              // 0: from a head; else one more than that of the segments it was made from
	Replaces []uint64 `json:"replaces,omitempty"` // segments that are to be deleted when this one is there
	First    uint64   `json:"first,omitempty"`    // of a merged one: where the first of them stood in their order

	Dictionaries []dictionaryMeta `json:"dictionaries"` // ascending by ID

	Mappings  tableInfo `json:"mappings"`
	Functions tableInfo `json:"functions"`
	Locations tableInfo `json:"locations"`
	Stacks    tableInfo `json:"stacks"`
	Labels    tableInfo `json:"labels"`
}

// dictionaryMeta is one dictionary in a segment: for each table the first id that it has here, how many, and the
// row group with them.
type dictionaryMeta struct {
	ID        uint32 `json:"id"`
	Service   string `json:"service"`
	Day       int64  `json:"day"` // Unix days
	Mappings  piece  `json:"mappings"`
	Functions piece  `json:"functions"`
	Locations piece  `json:"locations"`
	Stacks    piece  `json:"stacks"`
	Sets      piece  `json:"sets"`

	// Trees are the stacks here that a tree begins with, but for the first of the dictionary. Each tree has a row group
	// of its own, one after the other.
	Trees []int `json:"trees,omitempty"`

	lost bool // what is here goes on from a segment that is not there: nothing can be made of it
}

// from is what segments before have of the dictionary, to what they have with this one.
func (m *dictionaryMeta) from() extent {
	return extent{m.Mappings.First, m.Functions.First, m.Locations.First, m.Stacks.First, m.Sets.First}
}

func (m *dictionaryMeta) to() extent {
	return extent{m.Mappings.First + m.Mappings.Count, m.Functions.First + m.Functions.Count, m.Locations.First + m.Locations.Count, m.Stacks.First + m.Stacks.Count, m.Sets.First + m.Sets.Count}
}

// pieces are the stacks of each tree, and of what is here of a tree that began before.
func (m *dictionaryMeta) pieces() []piece {
	var all []piece
	first, end, group := m.Stacks.First, m.Stacks.First+m.Stacks.Count, m.Stacks.Group
	for _, next := range append(slices.Clone(m.Trees), end) {
		if next > first {
			all = append(all, piece{first, next - first, group})
			group++
		}
		first = next
	}
	return all
}

type piece struct {
	First int `json:"first"`
	Count int `json:"count"`
	Group int `json:"group"` // of no meaning if Count is 0
}

func (m *segmentMeta) size() int64 {
	return m.Mappings.size() + m.Functions.size() + m.Locations.size() + m.Stacks.size() + m.Labels.size()
}

// What stands in the tables of a segment. Names of columns are part of the format.
type (
	mappingFileRow struct {
		Dictionary uint32 `parquet:"dictionary,delta"`
		Mapping    uint32 `parquet:"mapping,delta"`
		Start      uint64 `parquet:"start"`
		Limit      uint64 `parquet:"limit"`
		Offset     uint64 `parquet:"offset"`
		File       string `parquet:"file"`
		BuildID    string `parquet:"build_id"`
		Flags      uint32 `parquet:"flags"`
	}
	functionFileRow struct {
		Dictionary uint32  `parquet:"dictionary,delta"`
		Function   uint32  `parquet:"function,delta"`
		Name       string  `parquet:"name"`
		SystemName *string `parquet:"system_name,optional"` // null: as name
		File       string  `parquet:"file,dict"`
		StartLine  int64   `parquet:"start_line,delta"`
	}
	// locationFileRow is one line of a location, innermost first; one without lines has a row without a function.
	locationFileRow struct {
		Dictionary uint32  `parquet:"dictionary,delta"`
		Location   uint32  `parquet:"location,delta"`
		Mapping    *uint32 `parquet:"mapping,optional"`
		Address    uint64  `parquet:"address,delta"`
		Folded     bool    `parquet:"folded"`
		Inlined    uint32  `parquet:"inlined,delta"` // 0 is the innermost line, each further one called the one before
		Function   *uint32 `parquet:"function,optional"`
		Line       int64   `parquet:"line,delta"`
		Column     int64   `parquet:"column,delta"`
	}
	// labelFileRow is one label of a set; the empty set has a row without a name.
	labelFileRow struct {
		Dictionary uint32  `parquet:"dictionary,delta"`
		Labels     uint32  `parquet:"labels,delta"`
		Name       *string `parquet:"name,optional,dict"`
		Value      *string `parquet:"value,optional,dict"` // null: a number
		Number     int64   `parquet:"number,delta"`
		Unit       string  `parquet:"unit,dict"`
	}
)

var functionColumns = map[string]func(*functionFileRow, *parquet.Value){
	"dictionary":  func(r *functionFileRow, v *parquet.Value) { r.Dictionary = v.Uint32() },
	"function":    func(r *functionFileRow, v *parquet.Value) { r.Function = v.Uint32() },
	"name":        func(r *functionFileRow, v *parquet.Value) { r.Name = string(v.ByteArray()) },
	"system_name": func(r *functionFileRow, v *parquet.Value) { r.SystemName = new(string(v.ByteArray())) },
	"file":        func(r *functionFileRow, v *parquet.Value) { r.File = string(v.ByteArray()) },
	"start_line":  func(r *functionFileRow, v *parquet.Value) { r.StartLine = v.Int64() },
}

var locationColumns = map[string]func(*locationFileRow, *parquet.Value){
	"dictionary": func(r *locationFileRow, v *parquet.Value) { r.Dictionary = v.Uint32() },
	"location":   func(r *locationFileRow, v *parquet.Value) { r.Location = v.Uint32() },
	"mapping":    func(r *locationFileRow, v *parquet.Value) { r.Mapping = new(v.Uint32()) },
	"address":    func(r *locationFileRow, v *parquet.Value) { r.Address = v.Uint64() },
	"folded":     func(r *locationFileRow, v *parquet.Value) { r.Folded = v.Boolean() },
	"inlined":    func(r *locationFileRow, v *parquet.Value) { r.Inlined = v.Uint32() },
	"function":   func(r *locationFileRow, v *parquet.Value) { r.Function = new(v.Uint32()) },
	"line":       func(r *locationFileRow, v *parquet.Value) { r.Line = v.Int64() },
	"column":     func(r *locationFileRow, v *parquet.Value) { r.Column = v.Int64() },
}

// Columns of stacks, in the order of their names.
const (
	columnCallers = iota
	columnDictionary
	columnLocation
	columnID // "stack"
)

// segment is an immutable directory with what some dictionaries gained in one flush.
type segment struct {
	meta segmentMeta
	path string

	mappings, functions, locations, stacks, labels table

	refs    atomic.Int32
	suspect bool // a damage was found, or one before it is lost: it is not merged into another; the maintainer's
}

func newSegment(fs fileSystem, path string, meta segmentMeta) *segment {
	s := &segment{meta: meta, path: path}
	for name, t := range map[string]struct {
		table *table
		info  tableInfo
	}{
		"mappings": {&s.mappings, meta.Mappings}, "functions": {&s.functions, meta.Functions},
		"locations": {&s.locations, meta.Locations}, "stacks": {&s.stacks, meta.Stacks}, "labels": {&s.labels, meta.Labels},
	} {
		t.table.path, t.table.info, t.table.fs = filepath.Join(path, name+".parquet"), t.info, fs
	}
	s.refs.Store(1)
	return s
}

func (s *segment) release() error {
	if s.refs.Add(-1) > 0 {
		return nil
	}
	return errors.Join(s.mappings.close(), s.functions.close(), s.locations.close(), s.stacks.close(), s.labels.close())
}

// find is what the segment has of a dictionary, if that goes on from what other segments have; else nil.
func (s *segment) find(dictionary uint32) *dictionaryMeta {
	i, ok := slices.BinarySearchFunc(s.meta.Dictionaries, dictionary, func(m dictionaryMeta, id uint32) int { return cmp.Compare(m.ID, id) })
	if !ok || s.meta.Dictionaries[i].lost {
		return nil
	}
	return &s.meta.Dictionaries[i]
}

// growth is what a segment has of one dictionary: everything in symbols from an extent on.
type growth struct {
	meta dictionaryMeta
	*symbols
	from, to extent

	callers, leaf []uint32 // of the new stacks, as files have them
}

// growth is what the dictionary has gained since it was saved.
func (d *dictionary) growth() growth {
	d.mu.Lock()
	defer d.mu.Unlock()
	view := d.symbols
	g := growth{meta: dictionaryMeta{ID: d.id, Service: d.service, Day: d.day}, symbols: &view, from: d.saved, to: d.extent()}
	for _, first := range d.trees {
		if int(first) >= g.from.stacks && int(first) < g.to.stacks {
			g.meta.Trees = append(g.meta.Trees, int(first))
		}
	}
	for _, t := range append(slices.Clone(d.older), d.tree) {
		first, count := t.ids()
		for i := max(int(first), g.from.stacks); i < int(first+count); i++ {
			at := i - int(t.base)
			callers := t.callers[at]
			if callers > 0 {
				callers += t.base
			}
			g.callers, g.leaf = append(g.callers, callers), append(g.leaf, t.leaf[at])
		}
	}
	return g
}

// writeSegment writes what is new, in ascending order of dictionaries.
func writeSegment(fs fileSystem, dir string, seq uint64, news []growth) (*segment, error) {
	meta := segmentMeta{Sequence: seq}
	path := filepath.Join(dir, symbolsDir, fmt.Sprintf("%012d", seq))
	err := publish(fs, path, func(tmp string) (err error) {
		if meta.Mappings, err = writeGrowth(fs, tmp, "mappings", news, mappingRows); err != nil {
			return err
		}
		if meta.Functions, err = writeGrowth(fs, tmp, "functions", news, functionRows); err != nil {
			return err
		}
		if meta.Locations, err = writeGrowth(fs, tmp, "locations", news, locationRows); err != nil {
			return err
		}
		if meta.Labels, err = writeGrowth(fs, tmp, "labels", news, labelRows); err != nil {
			return err
		}
		if meta.Stacks, err = writeStacks(fs, filepath.Join(tmp, "stacks.parquet"), news); err != nil {
			return err
		}
		for i := range news {
			meta.Dictionaries = append(meta.Dictionaries, news[i].meta)
		}
		return writeMeta(fs, tmp, &meta)
	})
	if err != nil {
		return nil, fmt.Errorf("write symbols %s: %w", path, err)
	}
	return newSegment(fs, path, meta), nil
}

// writeGrowth writes one table: a row group for each dictionary that has something new in it.
func writeGrowth[T any](fs fileSystem, dir, name string, news []growth, rows func(g *growth) ([]T, *piece)) (tableInfo, error) {
	return writeTable(fs, filepath.Join(dir, name+".parquet"), func(yield func([]T, error) bool) {
		group := 0
		for i := range news {
			all, p := rows(&news[i])
			if len(all) == 0 {
				continue
			}
			p.Group = group
			group++
			if !yield(all, nil) {
				return
			}
		}
	})
}

func mappingRows(g *growth) ([]mappingFileRow, *piece) {
	g.meta.Mappings = piece{First: g.from.mappings, Count: g.to.mappings - g.from.mappings}
	var all []mappingFileRow
	for i, m := range g.mappings[g.from.mappings:g.to.mappings] {
		all = append(all, mappingFileRow{g.meta.ID, uint32(g.from.mappings + i), m.start, m.limit, m.offset, g.strings[m.file], g.strings[m.buildID], uint32(m.flags)})
	}
	return all, &g.meta.Mappings
}

func functionRows(g *growth) ([]functionFileRow, *piece) {
	g.meta.Functions = piece{First: g.from.functions, Count: g.to.functions - g.from.functions}
	var all []functionFileRow
	for i, f := range g.functions[g.from.functions:g.to.functions] {
		r := functionFileRow{Dictionary: g.meta.ID, Function: uint32(g.from.functions + i), Name: g.strings[f.name], File: g.strings[f.file], StartLine: f.startLine}
		if f.systemName != f.name {
			r.SystemName = &g.strings[f.systemName]
		}
		all = append(all, r)
	}
	return all, &g.meta.Functions
}

func locationRows(g *growth) ([]locationFileRow, *piece) {
	g.meta.Locations = piece{First: g.from.locations, Count: g.to.locations - g.from.locations}
	var all []locationFileRow
	for i := g.from.locations; i < g.to.locations; i++ {
		l := &g.locations[i]
		r := locationFileRow{Dictionary: g.meta.ID, Location: uint32(i), Address: l.address, Folded: l.folded}
		if l.mapping > 0 {
			id := l.mapping - 1
			r.Mapping = &id
		}
		lines := g.linesOf(uint32(i))
		for j := range lines {
			one := r
			one.Inlined, one.Function, one.Line, one.Column = uint32(j), &lines[j].function, lines[j].line, lines[j].column
			all = append(all, one)
		}
		if len(lines) == 0 {
			all = append(all, r)
		}
	}
	return all, &g.meta.Locations
}

func labelRows(g *growth) ([]labelFileRow, *piece) {
	g.meta.Sets = piece{First: g.from.sets, Count: g.to.sets - g.from.sets}
	var all []labelFileRow
	for i := g.from.sets; i < g.to.sets; i++ {
		labels := g.set(uint32(i))
		for _, l := range labels {
			r := labelFileRow{Dictionary: g.meta.ID, Labels: uint32(i), Name: &g.strings[l.name], Number: l.num, Unit: g.strings[l.unit]}
			if l.text {
				r.Value = &g.strings[l.str]
			}
			all = append(all, r)
		}
		if len(labels) == 0 {
			all = append(all, labelFileRow{Dictionary: g.meta.ID, Labels: uint32(i)})
		}
	}
	return all, &g.meta.Sets
}

func writeStacks(fs fileSystem, path string, news []growth) (tableInfo, error) {
	w, err := createColumns(fs, path, numbersSchema("stacks", []string{"callers", "dictionary", "location", "stack"}, nil))
	if err != nil {
		return tableInfo{}, err
	}
	write := func() error {
		for i := range news {
			g := &news[i]
			g.meta.Stacks = piece{First: g.from.stacks, Count: len(g.callers), Group: len(w.out.info.Ranges)}
			for _, p := range g.meta.pieces() {
				ids := make([]uint32, p.Count)
				for j := range ids {
					ids[j] = uint32(p.First + j)
				}
				from, to := p.First-g.from.stacks, p.First-g.from.stacks+p.Count
				for _, c := range []struct {
					column int
					ids    []uint32
				}{
					{columnCallers, g.callers[from:to]}, {columnLocation, g.leaf[from:to]},
					{columnDictionary, slices.Repeat([]uint32{g.meta.ID}, p.Count)}, {columnID, ids},
				} {
					if err := writeNumbers(w, c.column, c.ids); err != nil {
						return err
					}
				}
				w.rows += int64(p.Count)
				if err := w.endGroup(); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return w.close(write())
}

// mergeSegments makes one segment of neighbours, without the dictionaries that are not used. pause is called now and then.
func mergeSegments(fs fileSystem, dir string, seq uint64, inputs []*segment, used map[uint32]bool, pause func() error) (*segment, error) {
	meta := segmentMeta{Sequence: seq, First: inputs[0].order()}
	ids := make(map[uint32]bool)
	for _, seg := range inputs {
		meta.Replaces = append(meta.Replaces, seg.meta.Sequence)
		meta.Level = max(meta.Level, seg.meta.Level+1)
		for _, d := range seg.meta.Dictionaries {
			if used[d.ID] && !ids[d.ID] {
				ids[d.ID] = true
				meta.Dictionaries = append(meta.Dictionaries, dictionaryMeta{ID: d.ID, Service: d.Service, Day: d.Day})
			}
		}
	}
	slices.SortFunc(meta.Dictionaries, func(a, b dictionaryMeta) int { return cmp.Compare(a.ID, b.ID) })
	path := filepath.Join(dir, symbolsDir, fmt.Sprintf("%012d", seq))
	err := publish(fs, path, func(tmp string) (err error) {
		if meta.Mappings, err = mergeTable[mappingFileRow](fs, tmp, "mappings", meta.Dictionaries, inputs, func(s *segment) *table { return &s.mappings }, func(m *dictionaryMeta) *piece { return &m.Mappings }); err != nil {
			return err
		}
		if meta.Functions, err = mergeTable[functionFileRow](fs, tmp, "functions", meta.Dictionaries, inputs, func(s *segment) *table { return &s.functions }, func(m *dictionaryMeta) *piece { return &m.Functions }); err != nil {
			return err
		}
		if meta.Locations, err = mergeTable[locationFileRow](fs, tmp, "locations", meta.Dictionaries, inputs, func(s *segment) *table { return &s.locations }, func(m *dictionaryMeta) *piece { return &m.Locations }); err != nil {
			return err
		}
		if meta.Labels, err = mergeTable[labelFileRow](fs, tmp, "labels", meta.Dictionaries, inputs, func(s *segment) *table { return &s.labels }, func(m *dictionaryMeta) *piece { return &m.Sets }); err != nil {
			return err
		}
		if meta.Stacks, err = mergeStacks(fs, filepath.Join(tmp, "stacks.parquet"), meta.Dictionaries, inputs, pause); err != nil {
			return err
		}
		return writeMeta(fs, tmp, &meta)
	})
	if err != nil {
		return nil, fmt.Errorf("write symbols %s: %w", path, err)
	}
	return newSegment(fs, path, meta), nil
}

// extend says that a dictionary goes on with another piece.
func (p *piece) extend(next *piece, group int) {
	if p.Count == 0 {
		p.First, p.Group = next.First, group
	}
	p.Count += next.Count
}

// mergeTable writes, for each dictionary, the rows that the inputs have of it.
func mergeTable[T any](fs fileSystem, dir, name string, dicts []dictionaryMeta, inputs []*segment, tableOf func(*segment) *table, pieceOf func(*dictionaryMeta) *piece) (tableInfo, error) {
	return writeTable(fs, filepath.Join(dir, name+".parquet"), func(yield func([]T, error) bool) {
		group := 0
		for i := range dicts {
			var all []T
			own := pieceOf(&dicts[i])
			first := true
			for _, seg := range inputs {
				m := seg.find(dicts[i].ID)
				if m == nil {
					continue
				}
				next := pieceOf(m)
				if first {
					own.First, first = next.First, false
				}
				if next.Count == 0 {
					continue
				}
				rows, err := readRows[T](tableOf(seg), next.Group)
				if err != nil {
					yield(nil, err)
					return
				}
				own.extend(next, group)
				all = append(all, rows...)
			}
			if len(all) == 0 {
				continue
			}
			group++
			if !yield(all, nil) {
				return
			}
		}
	})
}

func mergeStacks(fs fileSystem, path string, dicts []dictionaryMeta, inputs []*segment, pause func() error) (tableInfo, error) {
	w, err := createColumns(fs, path, numbersSchema("stacks", []string{"callers", "dictionary", "location", "stack"}, nil))
	if err != nil {
		return tableInfo{}, err
	}
	write := func() error {
		var column []uint32
		for i := range dicts {
			own := &dicts[i].Stacks
			first := true
			for _, seg := range inputs {
				m := seg.find(dicts[i].ID)
				if m == nil {
					continue
				}
				if first {
					own.First, first = m.Stacks.First, false
				}
				dicts[i].Trees = append(dicts[i].Trees, m.Trees...)
				for _, p := range m.pieces() {
					if slices.Contains(m.Trees, p.First) {
						if err := w.endGroup(); err != nil {
							return err
						}
					}
					group, err := seg.stacks.group(p.Group)
					if err != nil {
						return err
					}
					for _, c := range []int{columnCallers, columnDictionary, columnLocation, columnID} {
						if column, err = readNumbers(&seg.stacks, group, c, column[:0]); err != nil {
							return err
						}
						if err := writeNumbers(w, c, column); err != nil {
							return err
						}
					}
					own.extend(&p, len(w.out.info.Ranges))
					w.rows += int64(p.Count)
				}
			}
			if err := w.endGroup(); err != nil {
				return err
			}
			if err := pause(); err != nil {
				return err
			}
		}
		return nil
	}
	return w.close(write())
}

// loadNames is the content of a dictionary without its stacks, from the segments that have something of it, oldest first.
func loadNames(segments []*segment, id uint32) (*symbols, error) {
	s := &symbols{strings: []string{""}, table: new(functionTable)}
	l := &loader{symbols: s, ids: map[string]uint32{"": 0}}
	for _, seg := range segments {
		m := seg.find(id)
		if m == nil {
			continue
		}
		if s.extent() != m.from() {
			return nil, missing(seg.path, id)
		}
		if err := l.add(seg, m); err != nil {
			return nil, err
		}
	}
	if s.stacks == 0 {
		return nil, missing(symbolsDir, id)
	}
	s.findBetter()
	return s, nil
}

// loadTree is a tree of a dictionary, in the memory of room, if that is not nil.
func loadTree(segments []*segment, id, base uint32, room *tree) (t tree, err error) {
	if room == nil {
		room = new(tree)
	}
	defer func() { *room = t }() // larger, maybe
	t = tree{base: base, callers: room.callers[:0], leaf: room.leaf[:0]}
	if base > 0 { // else the file has the empty stack
		t.callers, t.leaf = append(t.callers, 0), append(t.leaf, 0)
	}
	for _, seg := range segments {
		m := seg.find(id)
		if m == nil {
			continue
		}
		for _, p := range m.pieces() {
			if p.First != t.end() || base == 0 && p.First > 0 && slices.Contains(m.Trees, p.First) {
				continue
			}
			if len(t.callers) > 1 && slices.Contains(m.Trees, p.First) {
				return t, nil // the next one
			}
			if err := t.read(seg, p); err != nil {
				return t, fmt.Errorf("read dictionary %d of %s: %w", id, seg.path, err)
			}
		}
	}
	return t, nil
}

// treesOf are the ids that trees begin with, 0 for the first.
func treesOf(segments []*segment, id uint32) []uint32 {
	trees := []uint32{0}
	for _, seg := range segments {
		if m := seg.find(id); m != nil {
			for _, first := range m.Trees {
				trees = append(trees, uint32(first))
			}
		}
	}
	return trees
}

// loadLabelSets is loadNames of label sets alone.
func loadLabelSets(segments []*segment, id uint32) (*symbols, error) {
	s := &symbols{strings: []string{""}}
	l := &loader{symbols: s, ids: map[string]uint32{"": 0}}
	known := false
	for _, seg := range segments {
		m := seg.find(id)
		if m == nil {
			continue
		}
		known = true
		if m.Sets.First != len(s.setEnds) {
			return nil, missing(seg.path, id)
		}
		if err := l.readLabels(seg, m); err != nil {
			return nil, fmt.Errorf("read dictionary %d of %s: %w", id, seg.path, err)
		}
	}
	if !known {
		return nil, missing(symbolsDir, id)
	}
	return s, nil
}

// missing is the damage of a dictionary of which a segment was put aside.
func missing(path string, id uint32) *damageError {
	return &damageError{Damage{Path: path, Reason: fmt.Sprintf("a part of dictionary %d is not there", id)}}
}

// loader reads pieces of a dictionary. Every id is compared with the tables that it points into: the checksums say
// that it is what was written, not that it was written right.
type loader struct {
	*symbols
	ids map[string]uint32
}

var errSymbols = errors.New("an id points to nothing")

func (l *loader) string(s string) uint32 {
	id, ok := l.ids[s]
	if !ok {
		id = uint32(len(l.strings))
		l.strings = append(l.strings, s)
		l.ids[s] = id
	}
	return id
}

func (l *loader) add(seg *segment, m *dictionaryMeta) error {
	for _, read := range []func(*segment, *dictionaryMeta) error{l.readMappings, l.readFunctions, l.readLocations, l.readLabels} {
		if err := read(seg, m); err != nil {
			return fmt.Errorf("read dictionary %d of %s: %w", m.ID, seg.path, err)
		}
	}
	l.stacks += m.Stacks.Count
	if have, want := l.extent(), m.to(); have != want {
		return fmt.Errorf("read dictionary %d of %s: %+v, want %+v", m.ID, seg.path, have, want)
	}
	return nil
}

func (l *loader) readMappings(seg *segment, m *dictionaryMeta) error {
	if m.Mappings.Count == 0 {
		return nil
	}
	rows, err := readRows[mappingFileRow](&seg.mappings, m.Mappings.Group)
	for _, r := range rows {
		l.mappings = append(l.mappings, mapping{r.Start, r.Limit, r.Offset, l.string(r.File), l.string(r.BuildID), uint8(r.Flags)})
	}
	return err
}

func (l *loader) readFunctions(seg *segment, m *dictionaryMeta) error {
	if m.Functions.Count == 0 {
		return nil
	}
	rows, err := readColumns(&seg.functions, m.Functions.Group, functionColumns)
	for _, r := range rows {
		f := function{name: l.string(r.Name), file: l.string(r.File), startLine: r.StartLine}
		f.systemName = f.name
		if r.SystemName != nil {
			f.systemName = l.string(*r.SystemName)
		}
		l.functions = append(l.functions, f)
	}
	return err
}

func (l *loader) readLocations(seg *segment, m *dictionaryMeta) error {
	if m.Locations.Count == 0 {
		return nil
	}
	rows, err := readColumns(&seg.locations, m.Locations.Group, locationColumns)
	for _, r := range rows {
		switch n := len(l.locations); {
		case int(r.Location) == n:
			loc := location{address: r.Address, end: uint32(len(l.lines)), folded: r.Folded}
			if r.Mapping != nil {
				loc.mapping = *r.Mapping + 1
			}
			if int(loc.mapping) > len(l.mappings) {
				return errSymbols
			}
			l.locations = append(l.locations, loc)
		case int(r.Location) != n-1:
			return errSymbols
		}
		if r.Function != nil {
			if int(*r.Function) >= len(l.functions) {
				return errSymbols
			}
			l.lines = append(l.lines, line{*r.Function, r.Line, r.Column})
			l.locations[len(l.locations)-1].end = uint32(len(l.lines))
		}
	}
	return err
}

// read goes on with the tree.
func (t *tree) read(seg *segment, p piece) error {
	group, err := seg.stacks.group(p.Group)
	if err != nil {
		return err
	}
	from := len(t.callers)
	if t.callers, err = readNumbers(&seg.stacks, group, columnCallers, t.callers); err != nil {
		return err
	}
	if t.leaf, err = readNumbers(&seg.stacks, group, columnLocation, t.leaf); err != nil {
		return err
	}
	if len(t.leaf) != len(t.callers) {
		return errSymbols
	}
	leaf, most := t.leaf[:len(t.callers)], uint32(0)
	for i := max(from, 1); i < len(leaf); i++ {
		callers := t.callers[i]
		if callers > 0 {
			callers -= t.base
			t.callers[i] = callers
		}
		if callers >= uint32(i) {
			return errSymbols
		}
		most = max(most, leaf[i])
	}
	t.locations = max(t.locations, int(most)+1)
	return nil
}

func (l *loader) readLabels(seg *segment, m *dictionaryMeta) error {
	if m.Sets.Count == 0 {
		return nil
	}
	rows, err := readRows[labelFileRow](&seg.labels, m.Sets.Group)
	for _, r := range rows {
		switch n := len(l.setEnds); {
		case int(r.Labels) == n:
			l.setEnds = append(l.setEnds, uint32(len(l.labels)))
		case int(r.Labels) != n-1:
			return errSymbols
		}
		if r.Name == nil {
			continue
		}
		own := label{name: l.string(*r.Name), num: r.Number, unit: l.string(r.Unit)}
		if r.Value != nil {
			own.str, own.text = l.string(*r.Value), true
		}
		l.labels = append(l.labels, own)
		l.setEnds[len(l.setEnds)-1] = uint32(len(l.labels))
	}
	return err
}
