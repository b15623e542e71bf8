package profilestore

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
	"sync"
)

const (
	hour = int64(3600e9) // ns
	day  = 24 * hour
)

// floorDiv rounds down, also for times before 1970.
func floorDiv(t, unit int64) int64 {
	q := t / unit
	if t%unit < 0 {
		q--
	}
	return q
}

// series is what a set of series labels, the types and how their values are stored have in common. The store holds
// each once.
type series struct {
	labels  Labels
	types   []ProfileType // one for each value of a sample; at least one
	columns []valueColumn // of each type
}

// valueColumn says where the values of a type are: those of a column of the rows, times a factor.
type valueColumn struct {
	column int
	factor int64
}

// width is the number of columns of values.
func (s *series) width() int {
	n := 0
	for _, c := range s.columns {
		n = max(n, c.column+1)
	}
	return n
}

// kind is the same for series whose values mean the same in the same columns.
func (s *series) kind() string {
	var b []byte
	for i, t := range s.types {
		b = appendString(b, t.String())
		b = binary.AppendUvarint(b, uint64(s.columns[i].column))
		b = binary.AppendVarint(b, s.columns[i].factor)
	}
	return string(b)
}

func (s *series) key() string {
	b := append([]byte(s.kind()), 0)
	for _, l := range s.labels {
		b = appendString(b, l.Name)
		b = appendString(b, l.Value)
	}
	return string(b)
}

// typeIndex finds a type among the values of a sample, -1: not there.
func (s *series) typeIndex(t ProfileType) int { return slices.Index(s.types, t) }

// header is what a profile says besides its samples. Profiles that say the same share one.
type header struct {
	period      int64
	comments    string // see joinComments
	dropFrames  string
	keepFrames  string
	defaultType string
	docURL      string
	mapping     uint32 // of the dictionary, +1: the main binary
}

func joinComments(comments []string) string {
	var b []byte
	for _, c := range comments {
		b = appendString(b, c)
	}
	return string(b)
}

func splitComments(s string) []string {
	var comments []string
	for d := (decoder{b: []byte(s)}); len(d.b) > 0; {
		comments = append(comments, string(d.bytes()))
	}
	return comments
}

// profileRow is a profile without its samples.
type profileRow struct {
	id             ID
	time, duration int64
	series         *series
	header         *header
	dictionary     uint32
	bytes          uint32 // of the pprof as it was sent
	total, end     uint32 // its totals are those in between
}

// profileTable has the profiles of a part, and what their samples sum up to for each label set. A profile without
// samples has no totals. It only grows, so that a copy of the struct stays a valid view.
type profileTable struct {
	rows   []profileRow
	labels []uint32  // label set of each total
	values [][]int64 // columns of the totals

	sorted bool     // rows are in the order of (dictionary, time)
	kinds  []uint32 // of a block: the kind of each profile
}

// size estimates the memory held, in bytes.
func (t *profileTable) size() int64 {
	return 92*int64(len(t.rows)) + int64(len(t.labels))*int64(4+8*len(t.values))
}

// rows are samples in columns. One that a profile's series does not have is 0.
type rows struct {
	stack, profile, labels []uint32
	values                 [][]int64
}

func (r *rows) len() int { return len(r.stack) }

func (r *rows) reset() {
	r.stack, r.profile, r.labels = r.stack[:0], r.profile[:0], r.labels[:0]
	for i := range r.values {
		r.values[i] = r.values[i][:0]
	}
}

// widen adds columns of zeros.
func (r *rows) widen(width int) {
	for len(r.values) < width {
		r.values = append(r.values, make([]int64, len(r.stack), max(cap(r.stack), 1)))
	}
}

// part is a head or a block: profiles, and the rows of their samples.
type part interface {
	// profiles is valid for as long as the part is.
	profiles() (*profileTable, error)
	// reader reads rows with the columns that want names.
	reader(want columns) rowReader
	// quarantine takes note of a damage that scan met, and says whether it is new.
	quarantine(*damageError) bool
}

// rowReader reads the rows of one part. It is for one goroutine, and fastest with dictionaries in ascending order.
type rowReader interface {
	// scan calls fn for the rows of a dictionary whose profiles start in an hour of [from, to) or in one near it.
	// What fn gets is valid until it returns.
	scan(dictionary uint32, from, to int64, fn func(r *rows) error) error
	close()
}

// columns says which columns a reader needs besides stack and profile.
type columns struct {
	labels bool
	values []int
}

// entry is a profile on its way into the head.
type entry struct {
	profileRow
	dict *dictionary
	rows rows    // profile is empty
	enc  Encoded // what goes into the log
}

// sums makes the totals of an entry: one line for each of its label sets.
func (e *entry) sums() (labels []uint32, values [][]int64) {
	at := make(map[uint32]int)
	values = make([][]int64, len(e.rows.values))
	for i, set := range e.rows.labels {
		j, ok := at[set]
		if !ok {
			j = len(labels)
			at[set] = j
			labels = append(labels, set)
			for c := range values {
				values[c] = append(values[c], 0)
			}
		}
		for c := range values {
			values[c][j] += e.rows.values[c][i]
		}
	}
	return labels, values
}

// head is what is in memory and in the log only.
type head struct {
	mu       sync.RWMutex
	table    profileTable
	byID     map[ID]struct{}
	rowsOf   map[uint32]*headRows // by dictionary
	dicts    map[uint32]*dictionary
	bytes    int64 // estimate of the memory held
	born     int64 // Unix ns, when the first profile came
	minTime  int64
	maxTime  int64
	walFrom  uint64 // first file of the log that has something of it
	walBytes int64

	written map[int64]*block // by day, while it is being written: the maintainer's
}

// headRows are the rows of one dictionary in chunks, which grow to largestChunk and are never copied.
type headRows struct {
	width  int
	chunks []*rows
}

const (
	firstChunk   = 256
	largestChunk = 16 << 10
)

func newHead(walFrom uint64) *head {
	return &head{byID: make(map[ID]struct{}), rowsOf: make(map[uint32]*headRows), dicts: make(map[uint32]*dictionary), walFrom: walFrom}
}

func (h *headRows) chunk(width int) *rows {
	last := (*rows)(nil)
	if n := len(h.chunks); n > 0 {
		last = h.chunks[n-1]
	}
	if last != nil && len(last.stack) < cap(last.stack) && width <= len(last.values) {
		return last
	}
	size := firstChunk
	if last != nil {
		size = min(2*cap(last.stack), largestChunk)
	}
	h.width = max(h.width, width)
	next := &rows{stack: make([]uint32, 0, size), profile: make([]uint32, 0, size), labels: make([]uint32, 0, size), values: make([][]int64, h.width)}
	for i := range next.values {
		next.values[i] = make([]int64, 0, size)
	}
	h.chunks = append(h.chunks, next)
	return next
}

// add takes entries whose series and header are the store's own objects.
func (h *head) add(entries []*entry, now int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range entries {
		if len(h.table.rows) == 0 {
			h.born, h.minTime, h.maxTime = now, e.time, e.time
		}
		h.minTime, h.maxTime = min(h.minTime, e.time), max(h.maxTime, e.time)
		number := uint32(len(h.table.rows))
		labels, values := e.sums()
		row := e.profileRow
		row.total = uint32(len(h.table.labels))
		row.end = row.total + uint32(len(labels))
		for len(h.table.values) < len(values) {
			h.table.values = append(h.table.values, make([]int64, row.total))
		}
		h.table.labels = append(h.table.labels, labels...)
		for c := range h.table.values {
			if c < len(values) {
				h.table.values[c] = append(h.table.values[c], values[c]...)
			} else {
				h.table.values[c] = append(h.table.values[c], make([]int64, len(labels))...)
			}
		}
		h.table.rows = append(h.table.rows, row)
		h.byID[row.id] = struct{}{}
		h.dicts[e.dictionary] = e.dict
		h.addRows(e, number)
	}
}

func (h *head) addRows(e *entry, number uint32) {
	own := h.rowsOf[e.dictionary]
	if own == nil {
		own = new(headRows)
		h.rowsOf[e.dictionary] = own
	}
	n := e.rows.len()
	h.bytes += 300 + int64(n)*int64(12+8*len(e.rows.values))
	for from := 0; from < n; {
		c := own.chunk(len(e.rows.values))
		to := min(n, from+cap(c.stack)-len(c.stack))
		c.stack = append(c.stack, e.rows.stack[from:to]...)
		c.labels = append(c.labels, e.rows.labels[from:to]...)
		for range to - from {
			c.profile = append(c.profile, number)
		}
		for i := range c.values {
			if i < len(e.rows.values) {
				c.values[i] = append(c.values[i], e.rows.values[i][from:to]...)
			} else {
				c.values[i] = c.values[i][:len(c.stack)]
			}
		}
		from = to
	}
}

func (h *head) has(id ID) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	_, ok := h.byID[id]
	return ok
}

func (h *head) refersTo(dictionary uint32) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.dicts[dictionary] != nil
}

func (h *head) empty() bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return len(h.table.rows) == 0
}

// headView is a head as it was when a query began.
type headView struct {
	table profileTable
	rows  map[uint32][]rows
}

// view is nil if no profile starts in [from, to).
func (h *head) view(from, to int64) *headView {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if len(h.table.rows) == 0 || h.minTime >= to || h.maxTime < from {
		return nil
	}
	v := &headView{table: h.table, rows: make(map[uint32][]rows, len(h.rowsOf))}
	v.table.values = slices.Clone(h.table.values)
	for id, own := range h.rowsOf {
		chunks := make([]rows, len(own.chunks))
		for i, c := range own.chunks {
			chunks[i] = *c
			chunks[i].values = slices.Clone(c.values)
		}
		v.rows[id] = chunks
	}
	return v
}

func (v *headView) profiles() (*profileTable, error) { return &v.table, nil }

func (v *headView) reader(columns) rowReader { return v }

func (v *headView) scan(dictionary uint32, _, _ int64, fn func(r *rows) error) error {
	for i := range v.rows[dictionary] {
		if err := fn(&v.rows[dictionary][i]); err != nil {
			return err
		}
	}
	return nil
}

func (v *headView) close() {}

func (v *headView) quarantine(*damageError) bool { return false }

// newest orders profiles as lists show them.
func newest(a, b *profileRow) int {
	return cmp.Or(cmp.Compare(b.time, a.time), strings.Compare(string(a.id[:]), string(b.id[:])))
}
