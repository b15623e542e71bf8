package unwind

// maxRows bounds the rows of a table, to 64 MiB, which is also what the kernel has for all tables. Those that fold away
// count too, as they take their time. The largest programs have some million.
const maxRows = 16 << 20

// rowWriter makes a table from rows that come in the order of their addresses.
type rowWriter struct {
	t    Table
	dict dictionary
	// page is the page that rows are added to, first the index of its first row, rule the rule of its last.
	page   uint64
	first  int
	added  int
	rule   uint16
	byHash map[uint32]Page // pages by the hash of their rows
}

// newRowWriter returns a writer for code in some segments, with room for a number of rows.
func newRowWriter(arch Arch, text []segment, room int) rowWriter {
	w := rowWriter{dict: newDictionary(), byHash: map[uint32]Page{}}
	w.t.Arch, w.t.Rows = arch, make([]Row, 0, room)
	if len(text) > 0 {
		first, last := text[0].addr, text[len(text)-1].end()-1
		w.t.FirstPage = first >> pageBits
		w.t.Pages = make([]Page, last>>pageBits-w.t.FirstPage+1)
		w.page = w.t.FirstPage
	}
	return w
}

// begin goes to the first page of a segment. Pages on the way have no rows.
func (w *rowWriter) begin(s segment) {
	if page := s.addr >> pageBits; page != w.page {
		w.closePage()
		w.page = page
	}
}

// add says that from addr on a rule applies. Within a segment, the first is added at its beginning.
func (w *rowWriter) add(addr uint64, rule uint16) {
	w.continueTo(addr)
	w.added++
	off := uint16(addr & (pageSize - 1))
	switch n := len(w.t.Rows); {
	case n == w.first:
		// A segment is mapped by whole pages, also when it begins within one.
		w.t.Rows = append(w.t.Rows, Row{0, rule})
	case rule == w.rule:
	case w.t.Rows[n-1].Offset == off:
		w.t.Rows[n-1].Rule = rule // in place of the one that continued on this page
	default:
		w.t.Rows = append(w.t.Rows, Row{off, rule})
	}
	w.rule = rule
}

// continueTo goes to the page of an address. Pages on the way continue with the last rule.
func (w *rowWriter) continueTo(addr uint64) {
	for w.page < addr>>pageBits {
		w.closePage()
		w.page++
		w.t.Rows = append(w.t.Rows, Row{0, w.rule})
	}
}

// end goes to the last page of a segment, of which the rest gets the rule of a gap.
func (w *rowWriter) end(s segment, gap uint16) {
	w.continueTo(s.end() - 1)
	if s.end()&(pageSize-1) != 0 {
		w.add(s.end(), gap)
	}
}

// closePage ends the page, and gives it the rows of an earlier one if they are the same.
func (w *rowWriter) closePage() {
	rows := w.t.Rows[w.first:]
	if len(rows) == 0 {
		return
	}
	hash := uint32(0)
	for _, r := range rows {
		hash = (hash<<5 | hash>>27) ^ (uint32(r.Offset) | uint32(r.Rule)<<16)
		hash *= 0x9e3779b1
	}
	p, ok := w.byHash[hash]
	if ok && equalRows(w.t.Rows[p.First:p.First+p.Count], rows) {
		w.t.Rows = w.t.Rows[:w.first]
	} else {
		p = Page{uint32(w.first), uint32(len(rows))}
		w.byHash[hash] = p
	}
	w.t.Pages[w.page-w.t.FirstPage] = p
	w.first = len(w.t.Rows)
}

func equalRows(a, b []Row) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// full reports whether the table has more rows than it may.
func (w *rowWriter) full() bool { return w.added > maxRows }

// table returns the table. Nothing is added any more.
func (w *rowWriter) table() *Table {
	w.closePage()
	t := w.t
	// Without the room that they grew into: tables are kept.
	t.Rows = append([]Row(nil), t.Rows...)
	t.Rules = append([]Rule(nil), w.dict.rules...)
	return &t
}

// dictionary numbers rules. It is a map that costs a tenth of Go's, for it is asked for each row of a file.
type dictionary struct {
	rules []Rule
	slots []uint16 // open addressing: index into rules, 0 if free; a power of two, at most half full
}

// newDictionary returns a dictionary in which the zero rule is number 0.
func newDictionary() dictionary {
	return dictionary{rules: make([]Rule, 1, 256), slots: make([]uint16, 1<<10)}
}

// index returns the number of a rule. When there are too many rules, the rest is number 0, which is CFAInvalid.
func (d *dictionary) index(r Rule) uint16 {
	if r == (Rule{}) {
		return 0
	}
	slot := d.slot(r)
	if i := d.slots[slot]; i != 0 {
		return i
	}
	if len(d.rules) == maxRules {
		return 0
	}
	i := uint16(len(d.rules))
	d.rules = append(d.rules, r)
	d.slots[slot] = i
	if 2*len(d.rules) > len(d.slots) {
		d.grow()
	}
	return i
}

// slot returns where a rule is, or where it belongs.
func (d *dictionary) slot(r Rule) uint32 {
	h := uint64(uint32(r.CFAOff)) | uint64(r.CFA)<<32 | uint64(r.CFAReg)<<40 | uint64(uint8(r.CFAAdd))<<48 | uint64(r.FP)<<56
	h *= 0x9e3779b97f4a7c15
	h ^= h>>29 ^ (uint64(uint16(r.FPOff)) | uint64(uint16(r.RBXOff))<<16 | uint64(uint16(r.RAOff))<<32 | uint64(r.RBX)<<48 | uint64(r.RA)<<56)
	h *= 0xbf58476d1ce4e5b9
	mask := uint32(len(d.slots) - 1)
	for slot := uint32(h>>32) & mask; ; slot = (slot + 1) & mask {
		if i := d.slots[slot]; i == 0 || d.rules[i] == r {
			return slot
		}
	}
}

func (d *dictionary) grow() {
	d.slots = make([]uint16, 2*len(d.slots))
	for i, r := range d.rules[1:] {
		d.slots[d.slot(r)] = uint16(i + 1)
	}
}
