package profilestore

import (
	"math"
	"path/filepath"
	"slices"
	"sort"
)

// Rollups are sums over profiles: for the whole hour of a section, and for its windows of ten seconds, in which all
// instances of a service have a profile each. A query that wants all profiles of a kind in an hour or window reads those
// instead of the samples, so that what it costs does not grow with the number of instances. They are written where they
// have at most half as many rows.
const (
	window  = int64(10e9) // ns
	windows = int(hour / window)
	pays    = 2
)

// rolled is a piece of a rollup: rows [First, First+Rows) of a row group, for the profiles of a kind in a section.
type rolled struct {
	Kind  uint32 `json:"kind"`
	Group int    `json:"group"`
	First int    `json:"first"`
	Rows  int    `json:"rows"`
}

// Columns of hours.parquet and windows.parquet, in the order of their names.
const (
	columnSecond = iota
	columnRolledStack
	firstRolledValue
)

// windowOf is the window of the hour in which a profile starts.
func windowOf(t int64) int { return int(mod(t, hour) / window) }

// rollup is rows of sums, sorted by stack, then by window.
type rollup struct {
	window, stack []uint32
	values        [][]int64
}

// add adds a row of samples; they come in the order of the rollup.
func (r *rollup) add(window, stack uint32, values [][]int64, row int) {
	n := len(r.stack)
	if n == 0 || r.stack[n-1] != stack || r.window[n-1] != window {
		r.window, r.stack = append(r.window, window), append(r.stack, stack)
		for c := range r.values {
			r.values[c] = append(r.values[c], 0)
		}
		n++
	}
	for c := range r.values {
		r.values[c][n-1] += values[c][row]
	}
}

// rollupFile is hours.parquet or windows.parquet while it is written. One without rows is not there.
type rollupFile struct {
	fs    fileSystem
	path  string
	width int
	w     *columnWriter
}

func (f *rollupFile) write(kind uint32, r *rollup) (rolled, error) {
	if f.w == nil {
		w, err := createColumns(f.fs, f.path, numbersSchema("rollup", []string{"second", "stack"}, valueNames(f.width)))
		if err != nil {
			return rolled{}, err
		}
		f.w = w
	}
	if f.w.rows > 0 && f.w.rows+int64(len(r.stack)) > groupRows {
		if err := f.w.endGroup(); err != nil {
			return rolled{}, err
		}
	}
	p := rolled{Kind: kind, Group: len(f.w.out.info.Ranges), First: int(f.w.rows), Rows: len(r.stack)}
	seconds := make([]uint32, len(r.window))
	for i, w := range r.window {
		seconds[i] = w * uint32(window/1e9)
	}
	if err := writeNumbers(f.w, columnSecond, seconds); err != nil {
		return rolled{}, err
	}
	if err := writeNumbers(f.w, columnRolledStack, r.stack); err != nil {
		return rolled{}, err
	}
	for c, values := range r.values {
		if err := writeNumbers(f.w, firstRolledValue+c, values); err != nil {
			return rolled{}, err
		}
	}
	f.w.rows += int64(p.Rows)
	return p, nil
}

func (f *rollupFile) close(err error) (tableInfo, error) {
	if f.w == nil {
		return tableInfo{}, err
	}
	return f.w.close(err)
}

// rollups writes both files of a block.
type rollups struct {
	m              *merging
	hours, windows rollupFile
}

func (m *merging) rollups(fs fileSystem, dir string) *rollups {
	file := func(name string) rollupFile {
		return rollupFile{fs: fs, path: filepath.Join(dir, name), width: m.width}
	}
	return &rollups{m: m, hours: file("hours.parquet"), windows: file("windows.parquet")}
}

// add writes what the sorted rows of a section add up to, where it pays.
func (r *rollups) add(s *section, sorted *rows, from, to uint32) error {
	for kind := range r.m.kinds {
		profiles, busy := 0, 0 // windows with a profile
		last := -1
		for n := from; n < to; n++ {
			if r.m.kindOf[n] == uint32(kind) {
				profiles++
				if w := windowOf(r.m.row(r.m.order[n]).time); w != last {
					last = w
					busy++
				}
			}
		}
		if profiles < pays {
			continue
		}
		p, err := r.roll(&r.hours, uint32(kind), sorted, func(uint32) uint32 { return 0 })
		if err != nil {
			return err
		}
		s.Hours = append(s.Hours, p...)
		if busy == 1 || pays*busy > profiles {
			continue
		}
		p, err = r.roll(&r.windows, uint32(kind), sorted, func(n uint32) uint32 {
			return uint32(windowOf(r.m.row(r.m.order[n]).time))
		})
		if err != nil {
			return err
		}
		s.Windows = append(s.Windows, p...)
	}
	return nil
}

func (r *rollups) roll(f *rollupFile, kind uint32, sorted *rows, window func(profile uint32) uint32) ([]rolled, error) {
	sums := rollup{values: make([][]int64, len(sorted.values))}
	count := 0
	for i, stack := range sorted.stack {
		if n := sorted.profile[i]; r.m.kindOf[n] == kind {
			sums.add(window(n), stack, sorted.values, i)
			count++
		}
	}
	if pays*len(sums.stack) > count {
		return nil, nil
	}
	p, err := f.write(kind, &sums)
	return []rolled{p}, err
}

// rolledReader reads the rollups of a block for one pass after the other. It keeps the row group that it read last.
type rolledReader struct {
	table  *table
	want   []int // columns of values
	group  int   // -1: none
	window []uint32
	stack  []uint32
	values [][]int64 // by column; those that are not wanted are nil
}

// read gives the rows of a piece.
func (r *rolledReader) read(p *rolled) (piece rollup, err error) {
	if p.Group != r.group {
		r.group = -1
		group, err := r.table.group(p.Group)
		if err != nil {
			return piece, err
		}
		if r.window, err = readNumbers(r.table, group, columnSecond, r.window[:0]); err != nil {
			return piece, err
		}
		if r.stack, err = readNumbers(r.table, group, columnRolledStack, r.stack[:0]); err != nil {
			return piece, err
		}
		for _, c := range r.want {
			if firstRolledValue+c >= len(group.ColumnChunks()) {
				continue
			}
			for len(r.values) <= c {
				r.values = append(r.values, nil)
			}
			if r.values[c], err = readNumbers(r.table, group, firstRolledValue+c, r.values[c][:0]); err != nil {
				return piece, err
			}
		}
		r.group = p.Group
	}
	to := p.First + p.Rows
	if p.First < 0 || p.Rows < 0 || to > len(r.stack) {
		return piece, errRows
	}
	piece = rollup{window: r.window[p.First:to], stack: r.stack[p.First:to], values: make([][]int64, len(r.values))}
	for c, v := range r.values {
		if v != nil {
			piece.values[c] = v[p.First:to]
		}
	}
	return piece, nil
}

// cover adds what the rollups of a section have of a pass, and says whether profiles are left whose samples must be
// read. The weights of those that are not left are covered.
func (b *blockReader) cover(p *pass, part int, s *section, t *profileTable, sums *sums) (left bool, err error) {
	weights := p.weights[part]
	if weights == nil {
		return false, nil
	}
	from, to := t.span(s.Dictionary, s.Hour)
	if !slices.ContainsFunc(weights[from:to], isWeight) {
		return false, nil
	}
	if p.rest != nil || len(s.Hours)+len(s.Windows) == 0 || b.noRollups.Load() {
		return true, nil
	}
	for i := range s.Hours {
		weight, ok := t.same(s.Hours[i].Kind, weights, from, to)
		if !ok || weight == 0 {
			continue
		}
		piece, err := b.hours.read(&s.Hours[i])
		if err != nil {
			return false, err
		}
		if err := piece.addTo(p.column, sums, func(uint32) int64 { return weight }); err != nil {
			return false, err
		}
		b.take(t, s.Hours[i].Kind, weights, from, to)
	}
	for i := range s.Windows {
		if err := b.coverWindows(p, &s.Windows[i], t, weights, from, to, sums); err != nil {
			return false, err
		}
	}
	return slices.ContainsFunc(weights[from:to], isWeight), nil
}

func (b *blockReader) coverWindows(p *pass, own *rolled, t *profileTable, weights []int64, from, to int, sums *sums) error {
	var byWindow [windows]int64
	any := false
	for from < to {
		w := windowOf(t.rows[from].time)
		next := from + 1
		for next < to && windowOf(t.rows[next].time) == w {
			next++
		}
		if weight, ok := t.same(own.Kind, weights, from, next); ok && weight != 0 {
			byWindow[w], any = weight, true
			b.take(t, own.Kind, weights, from, next)
		}
		from = next
	}
	if !any {
		return nil
	}
	piece, err := b.windows.read(own)
	if err != nil {
		return err
	}
	return piece.addTo(p.column, sums, func(second uint32) int64 {
		if w := int64(second) * 1e9 / window; w < int64(windows) {
			return byWindow[w]
		}
		return 0
	})
}

// addTo adds the values of a column, times the weight of their window.
func (r *rollup) addTo(column int, sums *sums, weight func(second uint32) int64) error {
	if column >= len(r.values) || r.values[column] == nil {
		return nil
	}
	for i, stack := range r.stack {
		if stack-sums.first >= sums.count {
			if stack >= sums.stacks {
				return errRows
			}
			continue // it is in another tree
		}
		sums.values[stack-sums.base] += r.values[column][i] * weight(r.window[i])
	}
	return nil
}

// take covers the profiles of a kind.
func (b *blockReader) take(t *profileTable, kind uint32, weights []int64, from, to int) {
	for n := from; n < to; n++ {
		if t.kinds[n] == kind {
			b.covered.take(&weights[n])
		}
	}
}

// span are the profiles of a dictionary that start in an hour, in a table that is sorted.
func (t *profileTable) span(dictionary uint32, h int64) (from, to int) {
	return t.first(dictionary, h*hour), t.first(dictionary, (h+1)*hour)
}

// spanOf are the profiles of a dictionary, in a table that is sorted.
func (t *profileTable) spanOf(dictionary uint32) (from, to int) {
	return t.first(dictionary, math.MinInt64), t.first(dictionary+1, math.MinInt64)
}

// first is the first profile of a dictionary that starts at a time or later, or what comes after it.
func (t *profileTable) first(dictionary uint32, time int64) int {
	return sort.Search(len(t.rows), func(i int) bool {
		r := &t.rows[i]
		return r.dictionary > dictionary || r.dictionary == dictionary && r.time >= time
	})
}

// same is the weight that all profiles of a kind have; ok is false when they have several.
func (t *profileTable) same(kind uint32, weights []int64, from, to int) (weight int64, ok bool) {
	first := true
	for n := from; n < to; n++ {
		if t.kinds[n] != kind {
			continue
		}
		if !first && weights[n] != weight {
			return 0, false
		}
		first, weight = false, weights[n]
	}
	return weight, true
}

// isRollup says whether a file has nothing but sums of what is in samples.
func (b *block) isRollup(path string) bool { return path == b.hours.path || path == b.windows.path }
