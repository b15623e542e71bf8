package profilestore

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parquet-go/parquet-go"
)

const blocksDir = "blocks"

// blockMeta is meta.json of a block.
type blockMeta struct {
	Sequence uint64   `json:"sequence"`
	Level    int      `json:"level"`              // 0: from a head; else one more than that of the blocks it was made from
	Replaces []uint64 `json:"replaces,omitempty"` // blocks that are to be deleted when this one is there
	Day      int64    `json:"day"`                // Unix days
	MinTime  int64    `json:"min_time"`           // start of the first and of the last profile, Unix ns
	MaxTime  int64    `json:"max_time"`

	Series   tableInfo `json:"series"`
	Profiles tableInfo `json:"profiles"`
	Totals   tableInfo `json:"totals"`
	Samples  tableInfo `json:"samples"`
	Hours    tableInfo `json:"hours"`   // without ranges: there is no such file
	Windows  tableInfo `json:"windows"` // likewise
	Width    int       `json:"width"`   // columns value_0 and so on of totals and samples

	Dictionaries []uint32  `json:"dictionaries"`
	Sections     []section `json:"sections"`
}

// section is where the rows of one dictionary and hour are: rows [First, First+Rows) of a row group of samples. A
// dictionary may have several of an hour.
type section struct {
	Dictionary uint32 `json:"dictionary"`
	Hour       int64  `json:"hour"` // Unix hours
	Group      int    `json:"group"`
	First      int    `json:"first"`
	Rows       int    `json:"rows"`
	Least      int    `json:"least"`  // of the stacks
	Stacks     int    `json:"stacks"` // of the dictionary that the rows need: those below this
	Sets       int    `json:"sets"`   // of labels

	Hours   []rolled `json:"hours,omitempty"`
	Windows []rolled `json:"windows,omitempty"`
}

func (m *blockMeta) size() int64 {
	return m.Series.size() + m.Profiles.size() + m.Totals.size() + m.Samples.size() + m.Hours.size() + m.Windows.size()
}

// What stands in series.parquet and profiles.parquet. Names of columns are part of the format.
type (
	seriesFileRow struct {
		Series uint32            `parquet:"series,delta"`
		Name   string            `parquet:"name,dict"`
		Labels map[string]string `parquet:"labels"`
		Types  []typeFileRow     `parquet:"types,list"`
		Kind   uint32            `parquet:"kind,delta"` // series with the same types and columns are of one kind
	}
	typeFileRow struct {
		SampleType string `parquet:"sample_type,dict"`
		SampleUnit string `parquet:"sample_unit,dict"`
		PeriodType string `parquet:"period_type,dict"`
		PeriodUnit string `parquet:"period_unit,dict"`
		Column     int32  `parquet:"column"`
		Factor     int64  `parquet:"factor"`
	}
	profileFileRow struct {
		Profile     uint32   `parquet:"profile,delta"`
		ID          [16]byte `parquet:"id,uuid"`
		Series      uint32   `parquet:"series,delta"`
		Dictionary  uint32   `parquet:"dictionary,delta"`
		Time        int64    `parquet:"time,delta,timestamp(nanosecond)"`
		Duration    int64    `parquet:"duration,delta"`
		Bytes       uint32   `parquet:"bytes,delta"`
		Period      int64    `parquet:"period,delta"`
		Comments    []string `parquet:"comments,list"`
		DropFrames  string   `parquet:"drop_frames,dict"`
		KeepFrames  string   `parquet:"keep_frames,dict"`
		DefaultType string   `parquet:"default_sample_type,dict"`
		DocURL      string   `parquet:"doc_url,dict"`
		MainMapping uint32   `parquet:"main_mapping,delta"` // +1, 0: none
	}
)

var profileColumns = map[string]func(*profileFileRow, *parquet.Value){
	"profile":               func(r *profileFileRow, v *parquet.Value) { r.Profile = v.Uint32() },
	"id":                    func(r *profileFileRow, v *parquet.Value) { copy(r.ID[:], v.ByteArray()) },
	"series":                func(r *profileFileRow, v *parquet.Value) { r.Series = v.Uint32() },
	"dictionary":            func(r *profileFileRow, v *parquet.Value) { r.Dictionary = v.Uint32() },
	"time":                  func(r *profileFileRow, v *parquet.Value) { r.Time = v.Int64() },
	"duration":              func(r *profileFileRow, v *parquet.Value) { r.Duration = v.Int64() },
	"bytes":                 func(r *profileFileRow, v *parquet.Value) { r.Bytes = v.Uint32() },
	"period":                func(r *profileFileRow, v *parquet.Value) { r.Period = v.Int64() },
	"comments.list.element": func(r *profileFileRow, v *parquet.Value) { r.Comments = append(r.Comments, string(v.ByteArray())) },
	"drop_frames":           func(r *profileFileRow, v *parquet.Value) { r.DropFrames = string(v.ByteArray()) },
	"keep_frames":           func(r *profileFileRow, v *parquet.Value) { r.KeepFrames = string(v.ByteArray()) },
	"default_sample_type":   func(r *profileFileRow, v *parquet.Value) { r.DefaultType = string(v.ByteArray()) },
	"doc_url":               func(r *profileFileRow, v *parquet.Value) { r.DocURL = string(v.ByteArray()) },
	"main_mapping":          func(r *profileFileRow, v *parquet.Value) { r.MainMapping = v.Uint32() },
}

// Columns of samples and totals, in the order of their names, which is that of the files.
const (
	columnLabels = iota
	columnProfile
	columnStack // of samples
)

const (
	firstSampleValue = columnStack + 1
	firstTotalValue  = columnProfile + 1
)

func valueNames(width int) []string {
	names := make([]string, width)
	for i := range names {
		names[i] = fmt.Sprintf("value_%02d", i)
	}
	return names
}

// block is an immutable directory of profiles.
type block struct {
	meta  blockMeta
	path  string
	store *Store

	series, profilesTable, totals, samples, hours, windows table

	prints []uint64 // of the IDs, sorted: finds doubles without the IDs in memory

	refs    atomic.Int32    // the store's, and one for each query
	suspect atomic.Bool     // a damage was found: it is not merged into another
	short   map[uint32]bool // dictionaries of which the segments do not have all that the rows need

	noRollups atomic.Bool // they are damaged: samples are read instead

	reading sync.Mutex // has one reader at a time fill cached

	mu     sync.Mutex // no other lock is taken under it
	cached *profileTable
	rowsOf *stackTable // rows of cached, +1, by the prints of their IDs; nil: nobody has asked for one
	used   int64       // when, by the store's clock of cache use
	known  map[Damage]bool
}

func newBlock(s *Store, path string, meta blockMeta) *block {
	b := &block{meta: meta, path: path, store: s, known: make(map[Damage]bool)}
	for name, t := range map[string]struct {
		table *table
		info  tableInfo
	}{
		"series": {&b.series, meta.Series}, "profiles": {&b.profilesTable, meta.Profiles},
		"totals": {&b.totals, meta.Totals}, "samples": {&b.samples, meta.Samples},
		"hours": {&b.hours, meta.Hours}, "windows": {&b.windows, meta.Windows},
	} {
		t.table.path, t.table.info, t.table.fs = filepath.Join(path, name+".parquet"), t.info, s.fs
	}
	b.refs.Store(1)
	return b
}

// release gives a reference back. With the last one go what is cached and the open files.
func (b *block) release() error {
	if b.refs.Add(-1) > 0 {
		return nil
	}
	b.evict()
	b.store.dropSumsOf(b)
	return errors.Join(b.series.close(), b.profilesTable.close(), b.totals.close(), b.samples.close(), b.hours.close(), b.windows.close())
}

// hold has queries that have begun read on when the files are deleted.
func (b *block) hold() {
	for _, t := range []*table{&b.series, &b.profilesTable, &b.totals, &b.samples, &b.hours, &b.windows} {
		t.hold()
	}
}

// print is a short hash of an ID.
func (id ID) print() uint64 {
	h := uint64(14695981039346656037) // FNV-1a
	for _, c := range id {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

func (b *block) setPrints(t *profileTable) {
	b.prints = make([]uint64, len(t.rows))
	for i := range t.rows {
		b.prints[i] = t.rows[i].id.print()
	}
	slices.Sort(b.prints)
}

// has says whether a profile is in the block, and can be served.
func (b *block) has(id ID) (bool, error) {
	t, err := b.profiles()
	if err != nil {
		return false, err
	}
	rows, print := b.index(t), id.print()
	for row, next := rows.find(print, 0); row != 0; row, next = rows.find(print, next) {
		if r := &t.rows[row-1]; r.id == id && !b.short[r.dictionary] {
			return true, nil
		}
	}
	return false, nil
}

// index finds rows of the table by the prints of their IDs. It is cached with the table: few blocks are ever asked, but
// those by each profile of a log that is read again.
func (b *block) index(t *profileTable) *stackTable {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rowsOf != nil && b.cached == t {
		return b.rowsOf
	}
	rows := new(stackTable)
	for i := range t.rows {
		rows.add(t.rows[i].id.print(), uint32(i)+1)
	}
	if b.cached == t {
		b.rowsOf = rows
		b.store.cacheBytes.Add(rows.size())
	}
	return rows
}

func (b *block) profiles() (*profileTable, error) {
	if t := b.cachedProfiles(); t != nil {
		return t, nil
	}
	b.reading.Lock()
	defer b.reading.Unlock()
	if t := b.cachedProfiles(); t != nil {
		return t, nil
	}
	t, err := b.readProfiles()
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cached = t
	b.store.cacheBytes.Add(t.size())
	return t, nil
}

func (b *block) cachedProfiles() *profileTable {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used = b.store.uses.Add(1)
	return b.cached
}

func (b *block) evict() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cached != nil {
		b.store.cacheBytes.Add(-b.cached.size())
		b.cached = nil
	}
	if b.rowsOf != nil {
		b.store.cacheBytes.Add(-b.rowsOf.size())
		b.rowsOf = nil
	}
}

func (b *block) readProfiles() (*profileTable, error) {
	var all []*series
	var kinds []uint32
	for g := range b.series.groups() {
		rows, err := readRows[seriesFileRow](&b.series, g)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			own, err := rows[i].series(b.meta.Width)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", b.series.path, err)
			}
			all = append(all, b.store.internSeries(own))
			kinds = append(kinds, rows[i].Kind)
		}
	}
	t := &profileTable{values: make([][]int64, b.meta.Width), sorted: true}
	headers := make(map[header]*header)
	for g := range b.profilesTable.groups() {
		rows, err := readColumns(&b.profilesTable, g, profileColumns)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			r := &rows[i]
			if int(r.Series) >= len(all) {
				return nil, fmt.Errorf("read %s: series %d of %d", b.profilesTable.path, r.Series, len(all))
			}
			h := header{r.Period, joinComments(r.Comments), r.DropFrames, r.KeepFrames, r.DefaultType, r.DocURL, r.MainMapping}
			own := headers[h]
			if own == nil {
				own = &h
				headers[h] = own
			}
			t.rows = append(t.rows, profileRow{id: r.ID, time: r.Time, duration: r.Duration, series: all[r.Series], header: own, dictionary: r.Dictionary, bytes: r.Bytes})
			t.kinds = append(t.kinds, kinds[r.Series])
		}
	}
	return t, b.readTotals(t)
}

func (b *block) readTotals(t *profileTable) error {
	var profiles []uint32
	for g := range b.totals.groups() {
		group, err := b.totals.group(g)
		if err != nil {
			return err
		}
		if t.labels, err = readNumbers(&b.totals, group, columnLabels, t.labels); err != nil {
			return err
		}
		if profiles, err = readNumbers(&b.totals, group, columnProfile, profiles); err != nil {
			return err
		}
		for c := range t.values {
			if t.values[c], err = readNumbers(&b.totals, group, firstTotalValue+c, t.values[c]); err != nil {
				return err
			}
		}
	}
	at := 0
	for i := range t.rows {
		t.rows[i].total = uint32(at)
		for at < len(profiles) && profiles[at] == uint32(i) {
			at++
		}
		t.rows[i].end = uint32(at)
	}
	if at != len(profiles) {
		return fmt.Errorf("read %s: totals are not in the order of profiles", b.totals.path)
	}
	return nil
}

func (r *seriesFileRow) series(width int) (*series, error) {
	own := &series{labels: NewLabels(r.Labels)}
	for _, t := range r.Types {
		if t.Column < 0 || int(t.Column) >= width {
			return nil, fmt.Errorf("series %d has a type in column %d of %d", r.Series, t.Column, width)
		}
		if t.Factor < 1 {
			return nil, fmt.Errorf("series %d has the factor %d", r.Series, t.Factor)
		}
		own.types = append(own.types, ProfileType{r.Name, t.SampleType, t.SampleUnit, t.PeriodType, t.PeriodUnit})
		own.columns = append(own.columns, valueColumn{int(t.Column), t.Factor})
	}
	if len(own.types) == 0 {
		return nil, fmt.Errorf("series %d has no type", r.Series)
	}
	return own, nil
}

// blockReader keeps the row group that it read last.
type blockReader struct {
	*block
	want  columns
	group int
	rows  *rows

	hours, windows rolledReader
	covered        covered
}

func (b *block) reader(want columns) rowReader {
	return &blockReader{
		block: b, want: want, group: -1, rows: b.store.rowBuffers.get(),
		hours:   rolledReader{table: &b.hours, want: want.values, group: -1},
		windows: rolledReader{table: &b.windows, want: want.values, group: -1},
	}
}

func (b *blockReader) close() { b.store.rowBuffers.put(b.rows) }

func (b *blockReader) scan(dictionary uint32, from, to int64, fn func(r *rows) error) error {
	return b.eachSection(dictionary, from, to, func(s *section) error {
		piece, err := b.read(s)
		if err != nil {
			return err
		}
		return fn(&piece)
	})
}

// sections are those that scan reads.
func (b *block) sections(dictionary uint32, from, to int64) iter.Seq[*section] {
	return func(yield func(*section) bool) {
		first, _ := slices.BinarySearchFunc(b.meta.Sections, dictionary, func(s section, d uint32) int { return cmp.Compare(s.Dictionary, d) })
		for i := first; i < len(b.meta.Sections) && b.meta.Sections[i].Dictionary == dictionary; i++ {
			s := &b.meta.Sections[i]
			if s.Hour*hour < to && (s.Hour+1)*hour > from && !yield(s) {
				return
			}
		}
	}
}

// eachSection calls fn for the sections that scan reads.
func (b *block) eachSection(dictionary uint32, from, to int64, fn func(s *section) error) error {
	for s := range b.sections(dictionary, from, to) {
		if err := fn(s); err != nil {
			return err
		}
	}
	return nil
}

// read gives the rows of a section, valid until the next one is read.
func (b *blockReader) read(s *section) (rows, error) {
	if s.Group != b.group {
		b.group = -1
		if err := b.readGroup(s.Group, b.want, b.rows); err != nil {
			return rows{}, err
		}
		b.group = s.Group
	}
	if s.First+s.Rows > b.rows.len() {
		return rows{}, fmt.Errorf("read %s: section of rows %d to %d, there are %d", b.samples.path, s.First, s.First+s.Rows, b.rows.len())
	}
	return b.rows.slice(s.First, s.First+s.Rows), nil
}

// slice is rows [from, to); columns that were not read are nil.
func (r *rows) slice(from, to int) rows {
	p := rows{stack: r.stack[from:to], profile: r.profile[from:to], values: make([][]int64, len(r.values))}
	if len(r.labels) > 0 {
		p.labels = r.labels[from:to]
	}
	for i, v := range r.values {
		if len(v) > 0 {
			p.values[i] = v[from:to]
		}
	}
	return p
}

func (b *block) readGroup(group int, want columns, r *rows) error {
	r.reset()
	g, err := b.samples.group(group)
	if err != nil {
		return err
	}
	if r.stack, err = readNumbers(&b.samples, g, columnStack, r.stack); err != nil {
		return err
	}
	if r.profile, err = readNumbers(&b.samples, g, columnProfile, r.profile); err != nil {
		return err
	}
	if want.labels {
		if r.labels, err = readNumbers(&b.samples, g, columnLabels, r.labels); err != nil {
			return err
		}
	}
	for len(r.values) < b.meta.Width {
		r.values = append(r.values, nil)
	}
	for _, c := range want.values {
		if c < b.meta.Width {
			if r.values[c], err = readNumbers(&b.samples, g, firstSampleValue+c, r.values[c]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *block) quarantine(d *damageError) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.suspect.Store(true)
	fresh := !b.known[d.Damage]
	b.known[d.Damage] = true
	return fresh
}

// rowPool keeps the memory of rows between queries.
type rowPool struct{ pool sync.Pool }

func (p *rowPool) get() *rows {
	r, ok := p.pool.Get().(*rows)
	if !ok {
		r = new(rows)
	}
	r.reset()
	return r
}

func (p *rowPool) put(r *rows) { p.pool.Put(r) }

// merging is the profiles of some parts in the order in which a block has them.
type merging struct {
	parts  []part
	tables []*profileTable
	order  []origin
	number [][]uint32 // by part and profile; none: not of this day
	width  int

	kindOf []uint32 // by number
	kinds  []string // what makes a kind, see series.kind
	known  map[*series]uint32

	pause func() error // see Store.writeBlock
}

type origin struct{ part, profile uint32 }

const none = math.MaxUint32

func newMerging(parts []part, wanted int64) (*merging, error) {
	m := &merging{parts: parts, number: make([][]uint32, len(parts)), known: make(map[*series]uint32)}
	for i, p := range parts {
		t, err := p.profiles()
		if err != nil {
			return nil, err
		}
		m.tables = append(m.tables, t)
		m.number[i] = slices.Repeat([]uint32{none}, len(t.rows))
		for j := range t.rows {
			if floorDiv(t.rows[j].time, day) == wanted {
				m.order = append(m.order, origin{uint32(i), uint32(j)})
				m.width = max(m.width, t.rows[j].series.width())
			}
		}
	}
	slices.SortFunc(m.order, func(a, b origin) int {
		x, y := m.row(a), m.row(b)
		return cmp.Or(cmp.Compare(x.dictionary, y.dictionary), cmp.Compare(x.time, y.time), cmp.Compare(string(x.id[:]), string(y.id[:])))
	})
	for n, s := range m.order {
		m.number[s.part][s.profile] = uint32(n)
		m.kindOf = append(m.kindOf, m.kind(m.row(s).series))
	}
	return m, nil
}

// kind is the number of the kind of a series.
func (m *merging) kind(own *series) uint32 {
	if k, ok := m.known[own]; ok {
		return k
	}
	key := own.kind()
	i := slices.Index(m.kinds, key)
	if i < 0 {
		i = len(m.kinds)
		m.kinds = append(m.kinds, key)
	}
	m.known[own] = uint32(i)
	return uint32(i)
}

func (m *merging) row(s origin) *profileRow { return &m.tables[s.part].rows[s.profile] }

// writeBlock writes the profiles of one day in parts into a new directory. pause is called now and then; nil: not.
func (s *Store) writeBlock(parts []part, wanted int64, level int, replaces []uint64, pause func() error) (*block, error) {
	m, err := newMerging(parts, wanted)
	if err != nil {
		return nil, err
	}
	m.pause = pause
	if len(m.order) == 0 {
		return nil, nil
	}
	meta := blockMeta{Sequence: s.nextSequence(), Level: level, Replaces: replaces, Day: wanted, Width: m.width, MinTime: math.MaxInt64, MaxTime: math.MinInt64}
	for _, src := range m.order {
		r := m.row(src)
		meta.MinTime, meta.MaxTime = min(meta.MinTime, r.time), max(meta.MaxTime, r.time)
		if n := len(meta.Dictionaries); n == 0 || meta.Dictionaries[n-1] != r.dictionary {
			meta.Dictionaries = append(meta.Dictionaries, r.dictionary)
		}
	}
	path := filepath.Join(s.dir, blocksDir, fmt.Sprintf("%012d", meta.Sequence))
	prints := make([]uint64, len(m.order))
	for i, src := range m.order {
		prints[i] = m.row(src).id.print()
	}
	slices.Sort(prints)
	err = publish(s.fs, path, func(tmp string) error {
		if err := m.writeProfiles(s.fs, tmp, &meta); err != nil {
			return err
		}
		if err := m.writeTotals(s.fs, tmp, &meta); err != nil {
			return err
		}
		if err := m.writeSamples(s.fs, tmp, &meta); err != nil {
			return err
		}
		return writeMeta(s.fs, tmp, &meta)
	})
	if err != nil {
		return nil, fmt.Errorf("write block %s: %w", path, err)
	}
	b := newBlock(s, path, meta)
	b.prints = prints
	return b, nil
}

func (m *merging) writeProfiles(fs fileSystem, dir string, meta *blockMeta) (err error) {
	ids := make(map[*series]uint32)
	var all []seriesFileRow
	for _, src := range m.order {
		own := m.row(src).series
		if _, ok := ids[own]; !ok {
			ids[own] = uint32(len(all))
			all = append(all, newSeriesFileRow(uint32(len(all)), m.kind(own), own))
		}
	}
	if meta.Series, err = writeTable(fs, filepath.Join(dir, "series.parquet"), oneGroup(all)); err != nil {
		return err
	}
	const perGroup = 64 << 10
	groups := func(yield func([]profileFileRow, error) bool) {
		n := uint32(0)
		for chunk := range slices.Chunk(m.order, perGroup) {
			rows := make([]profileFileRow, len(chunk))
			for i, src := range chunk {
				r, h := m.row(src), m.row(src).header
				rows[i] = profileFileRow{
					Profile: n, ID: r.id, Series: ids[r.series], Dictionary: r.dictionary, Time: r.time, Duration: r.duration, Bytes: r.bytes,
					Period: h.period, Comments: splitComments(h.comments), DropFrames: h.dropFrames, KeepFrames: h.keepFrames,
					DefaultType: h.defaultType, DocURL: h.docURL, MainMapping: h.mapping,
				}
				n++
			}
			if !yield(rows, nil) {
				return
			}
		}
	}
	meta.Profiles, err = writeTable(fs, filepath.Join(dir, "profiles.parquet"), iter.Seq2[[]profileFileRow, error](groups))
	return err
}

func newSeriesFileRow(id, kind uint32, own *series) seriesFileRow {
	r := seriesFileRow{Series: id, Kind: kind, Name: own.types[0].Name, Labels: make(map[string]string, len(own.labels))}
	for _, l := range own.labels {
		r.Labels[l.Name] = l.Value
	}
	for i, t := range own.types {
		r.Types = append(r.Types, typeFileRow{t.SampleType, t.SampleUnit, t.PeriodType, t.PeriodUnit, int32(own.columns[i].column), own.columns[i].factor})
	}
	return r
}

func (m *merging) writeTotals(fs fileSystem, dir string, meta *blockMeta) (err error) {
	w, err := createColumns(fs, filepath.Join(dir, "totals.parquet"), numbersSchema("totals", []string{"labels", "profile"}, valueNames(m.width)))
	if err != nil {
		return err
	}
	write := func() error {
		for n, src := range m.order {
			t, r := m.tables[src.part], m.row(src)
			if r.total == r.end {
				continue
			}
			if err := writeNumbers(w, columnLabels, t.labels[r.total:r.end]); err != nil {
				return err
			}
			count := int(r.end - r.total)
			if err := writeNumbers(w, columnProfile, slices.Repeat([]uint32{uint32(n)}, count)); err != nil {
				return err
			}
			for c := range m.width {
				values := make([]int64, count)
				if c < len(t.values) {
					values = t.values[c][r.total:r.end]
				}
				if err := writeNumbers(w, firstTotalValue+c, values); err != nil {
					return err
				}
			}
			if w.rows += int64(count); w.rows >= totalsRows {
				if err := w.endGroup(); err != nil {
					return err
				}
			}
		}
		return nil
	}
	meta.Totals, err = w.close(write())
	return err
}

const (
	groupRows   = 32 << 10  // of a row group of samples, or more if the section is larger: a query of one service reads whole ones
	totalsRows  = 128 << 10 // of a row group of totals, of which all are read at once
	sectionRows = 256 << 10 // of a section, so that a merge holds little of each input in memory
)

func (m *merging) writeSamples(fs fileSystem, dir string, meta *blockMeta) (err error) {
	w, err := createColumns(fs, filepath.Join(dir, "samples.parquet"), numbersSchema("samples", []string{"labels", "profile", "stack"}, valueNames(m.width)))
	if err != nil {
		return err
	}
	all := columns{labels: true}
	for c := range m.width {
		all.values = append(all.values, c)
	}
	readers := make([]rowReader, len(m.parts))
	for i, p := range m.parts {
		readers[i] = p.reader(all)
		defer readers[i].close()
	}
	r := m.rollups(fs, dir)
	write := func() error {
		for from := 0; from < len(m.order); {
			first := m.row(m.order[from])
			h := floorDiv(first.time, hour)
			to := from + 1
			for to < len(m.order) {
				r := m.row(m.order[to])
				if r.dictionary != first.dictionary || floorDiv(r.time, hour) != h {
					break
				}
				to++
			}
			if err := m.writeHour(readers, w, r, meta, section{Dictionary: first.dictionary, Hour: h}, uint32(from), uint32(to)); err != nil {
				return err
			}
			if m.pause != nil {
				if err := m.pause(); err != nil {
					return err
				}
			}
			from = to
		}
		return nil
	}
	meta.Samples, err = w.close(write())
	meta.Hours, err = r.hours.close(err)
	meta.Windows, err = r.windows.close(err)
	return err
}

// writeHour writes the rows of profiles [from, to), which are those of one dictionary and hour.
func (m *merging) writeHour(readers []rowReader, w *columnWriter, sums *rollups, meta *blockMeta, s section, from, to uint32) error {
	var r rows
	r.widen(m.width)
	for i, reader := range readers {
		number := m.number[i]
		err := reader.scan(s.Dictionary, s.Hour*hour, (s.Hour+1)*hour, func(got *rows) error {
			for j, profile := range got.profile {
				n := number[profile]
				if n < from || n >= to {
					continue
				}
				r.stack = append(r.stack, got.stack[j])
				r.profile = append(r.profile, n)
				r.labels = append(r.labels, got.labels[j])
				for c := range r.values {
					v := int64(0)
					if c < len(got.values) {
						v = got.values[c][j]
					}
					r.values[c] = append(r.values[c], v)
				}
			}
			if r.len() < sectionRows {
				return nil
			}
			return r.writeSection(w, sums, meta, s, from, to)
		})
		if err != nil {
			return err
		}
	}
	return r.writeSection(w, sums, meta, s, from, to)
}

// writeSection sorts the rows, whose profiles are in [from, to), writes them and leaves none.
func (r *rows) writeSection(w *columnWriter, sums *rollups, meta *blockMeta, s section, from, to uint32) error {
	if r.len() == 0 {
		return nil
	}
	if w.rows > 0 && w.rows+int64(r.len()) > groupRows {
		if err := w.endGroup(); err != nil {
			return err
		}
	}
	sorted := r.sorted(from, to)
	s.Group, s.First, s.Rows = len(w.out.info.Ranges), int(w.rows), r.len()
	s.Least, s.Stacks, s.Sets = int(slices.Min(r.stack)), int(slices.Max(r.stack))+1, int(slices.Max(r.labels))+1
	for _, c := range []struct {
		column int
		ids    []uint32
	}{{columnLabels, sorted.labels}, {columnProfile, sorted.profile}, {columnStack, sorted.stack}} {
		if err := writeNumbers(w, c.column, c.ids); err != nil {
			return err
		}
	}
	for c, values := range sorted.values {
		if err := writeNumbers(w, firstSampleValue+c, values); err != nil {
			return err
		}
	}
	w.rows += int64(r.len())
	if err := sums.add(&s, &sorted, from, to); err != nil {
		return err
	}
	meta.Sections = append(meta.Sections, s)
	r.reset()
	return nil
}

// sorted are the rows by stack, then by profile.
func (r *rows) sorted(from, to uint32) rows {
	order := r.order(from, to)
	s := rows{stack: permuted(r.stack, order), profile: permuted(r.profile, order), labels: permuted(r.labels, order)}
	for _, values := range r.values {
		s.values = append(s.values, permuted(values, order))
	}
	return s
}

func permuted[N uint32 | int64](numbers []N, order []uint32) []N {
	p := make([]N, len(order))
	for i, o := range order {
		p[i] = numbers[o]
	}
	return p
}

// order sorts by stack, then by profile: two passes of counting, as both are dense.
func (r *rows) order(from, to uint32) []uint32 {
	byProfile := make([]uint32, r.len())
	count := make([]uint32, to-from+1)
	for _, p := range r.profile {
		count[p-from+1]++
	}
	for i := 1; i < len(count); i++ {
		count[i] += count[i-1]
	}
	for i, p := range r.profile {
		byProfile[count[p-from]] = uint32(i)
		count[p-from]++
	}
	order := make([]uint32, r.len())
	least := slices.Min(r.stack) // ids of the last tree of a dictionary may be large
	count = make([]uint32, slices.Max(r.stack)-least+2)
	for _, s := range r.stack {
		count[s-least+1]++
	}
	for i := 1; i < len(count); i++ {
		count[i] += count[i-1]
	}
	for _, i := range byProfile {
		s := r.stack[i] - least
		order[count[s]] = i
		count[s]++
	}
	return order
}

// before says whether all profiles of the block started before t.
func (b *block) before(t time.Time) bool { return b.meta.MaxTime < t.UnixNano() }
