package unwind

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
)

// A table on disk, little-endian; uvarint is that of encoding/binary:
//
//	┌───────────┬────────────┬─────────┬─────────┬───────────────┬──────────┬──────────┐
//	│ "PLUW" 4B │ version 1B │ arch 1B │ kept 2B │ first page 8B │ pages 4B │ rules 4B │
//	├───────────┴────────────┴─────────┴─────────┴───────────────┴──────────┴──────────┤
//	│ kept × ( start 8B, end 8B )                                                      │
//	├──────────────────────────────────────────────────────────────────────────────────┤
//	│ rules × 16B: CFAOff 4B, FPOff, RBXOff, RAOff 2B each, CFA, CFAReg, CFAAdd, FP,   │
//	│              RBX, RA 1B each                                                     │
//	├──────────────────────────────────────────────────────────────────────────────────┤
//	│ pages × ( uvarint 2n: n rows follow, each                                        │
//	│             uvarint offset less that of the row before, uvarint rule             │
//	│         | uvarint 2n+1: the rows of the page n+1 pages before )                  │
//	├──────────────────────────────────────────────────────────────────────────────────┤
//	│ CRC-32C of all before 4B                                                         │
//	└──────────────────────────────────────────────────────────────────────────────────┘
//
// A page without rows is a zero. The size that a reader allocates is bounded by that of the bytes it was given.
const (
	tableMagic   = "PLUW"
	tableVersion = 3
	tableHeader  = 24
	ruleSize     = 16
	spanSize     = 16
)

var (
	// ErrTableVersion is the error of a table that another version of this package wrote.
	ErrTableVersion = errors.New("unwind table of another version")
	// ErrTableDamaged is wrapped by the errors for bytes that are not a table, or not any more.
	ErrTableDamaged = errors.New("damaged unwind table")
)

func castagnoli(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// AppendBinary appends the table in the form that ReadTable reads. The error is always nil. Only the first 65,535 spans of
// Kept are written: what is missing costs time, not stacks.
func (t *Table) AppendBinary(b []byte) ([]byte, error) {
	// What a table takes as a rule: two bytes a page, three a row.
	kept := t.Kept[:min(len(t.Kept), math.MaxUint16)]
	b = slices.Grow(b, tableHeader+spanSize*len(kept)+ruleSize*len(t.Rules)+2*len(t.Pages)+3*len(t.Rows)+4)
	start := len(b)
	le := binary.LittleEndian
	b = append(b, tableMagic...)
	b = append(b, tableVersion, byte(t.Arch))
	b = le.AppendUint16(b, uint16(len(kept)))
	b = le.AppendUint64(b, t.FirstPage)
	b = le.AppendUint32(b, uint32(len(t.Pages)))
	b = le.AppendUint32(b, uint32(len(t.Rules)))
	for _, s := range kept {
		b = le.AppendUint64(b, s.Start)
		b = le.AppendUint64(b, s.End)
	}
	for _, r := range t.Rules {
		b = le.AppendUint32(b, uint32(r.CFAOff))
		b = le.AppendUint16(b, uint16(r.FPOff))
		b = le.AppendUint16(b, uint16(r.RBXOff))
		b = le.AppendUint16(b, uint16(r.RAOff))
		b = append(b, byte(r.CFA), r.CFAReg, byte(r.CFAAdd), byte(r.FP), byte(r.RBX), byte(r.RA))
	}
	written := map[uint32]int{} // Page.First -> the page whose rows are there
	for i, p := range t.Pages {
		if earlier, ok := written[p.First]; ok && p.Count > 0 {
			b = binary.AppendUvarint(b, uint64(i-earlier-1)<<1|1)
			continue
		}
		b = binary.AppendUvarint(b, uint64(p.Count)<<1)
		last := uint16(0)
		for _, r := range t.Rows[p.First : p.First+p.Count] {
			b = binary.AppendUvarint(b, uint64(r.Offset-last))
			b = binary.AppendUvarint(b, uint64(r.Rule))
			last = r.Offset
		}
		if p.Count > 0 {
			written[p.First] = i
		}
	}
	return le.AppendUint32(b, castagnoli(b[start:])), nil
}

// ReadTable reads what AppendBinary wrote. The error is ErrTableVersion or wraps ErrTableDamaged. It allocates at most
// ten times the size of data.
func ReadTable(data []byte) (*Table, error) {
	le := binary.LittleEndian
	if len(data) < tableHeader+4 || string(data[:4]) != tableMagic {
		return nil, fmt.Errorf("%w: no header", ErrTableDamaged)
	}
	body := data[:len(data)-4]
	if castagnoli(body) != le.Uint32(data[len(body):]) {
		return nil, fmt.Errorf("%w: checksum does not match", ErrTableDamaged)
	}
	if data[4] != tableVersion {
		return nil, ErrTableVersion
	}
	t := &Table{Arch: Arch(data[5]), FirstPage: le.Uint64(data[8:])}
	pages, rules := uint64(le.Uint32(data[16:])), uint64(le.Uint32(data[20:]))
	if t.Arch != AMD64 && t.Arch != ARM64 || t.FirstPage > 1<<(63-pageBits) {
		return nil, fmt.Errorf("%w: header", ErrTableDamaged)
	}
	r := reader{data: body, pos: tableHeader}
	if err := t.readKept(&r, uint64(le.Uint16(data[6:]))); err != nil {
		return nil, err
	}
	if err := t.readRules(&r, rules); err != nil {
		return nil, err
	}
	if err := t.readPages(&r, pages); err != nil {
		return nil, err
	}
	if r.pos != len(body) {
		return nil, fmt.Errorf("%w: %d bytes too many", ErrTableDamaged, len(body)-r.pos)
	}
	return t, nil
}

func (t *Table) readKept(r *reader, n uint64) error {
	b := r.bytes(n * spanSize)
	if r.short {
		return fmt.Errorf("%w: %d spans", ErrTableDamaged, n)
	}
	le := binary.LittleEndian
	last := uint64(0)
	for ; len(b) > 0; b = b[spanSize:] {
		s := Span{le.Uint64(b), le.Uint64(b[8:])}
		if s.Start < last || s.End <= s.Start {
			return fmt.Errorf("%w: code from %#x to %#x", ErrTableDamaged, s.Start, s.End)
		}
		t.Kept = append(t.Kept, s)
		last = s.End
	}
	return nil
}

func (t *Table) readRules(r *reader, n uint64) error {
	b := r.bytes(n * ruleSize)
	if r.short || n > maxRules {
		return fmt.Errorf("%w: %d rules", ErrTableDamaged, n)
	}
	le := binary.LittleEndian
	t.Rules = make([]Rule, n)
	for i := range t.Rules {
		t.Rules[i] = Rule{
			CFAOff: int32(le.Uint32(b)), FPOff: int16(le.Uint16(b[4:])), RBXOff: int16(le.Uint16(b[6:])), RAOff: int16(le.Uint16(b[8:])),
			CFA: CFAKind(b[10]), CFAReg: b[11], CFAAdd: int8(b[12]), FP: SaveKind(b[13]), RBX: SaveKind(b[14]), RA: SaveKind(b[15]),
		}
		if !t.Rules[i].valid() {
			return fmt.Errorf("%w: rule %d", ErrTableDamaged, i)
		}
		b = b[ruleSize:]
	}
	return nil
}

// valid reports whether all kinds and registers of a rule are ones there are.
func (r Rule) valid() bool {
	save := func(kind SaveKind, off int16) bool {
		return kind <= SaveUndefined && (kind != SaveRegister || off >= 0 && off < 32)
	}
	return r.CFA <= CFAEnd && r.CFAReg < 32 && save(r.FP, r.FPOff) && save(r.RBX, r.RBXOff) && save(r.RA, r.RAOff)
}

func (t *Table) readPages(r *reader, n uint64) error {
	if n > uint64(len(r.data)-r.pos) { // a page is a byte at least
		return fmt.Errorf("%w: %d pages", ErrTableDamaged, n)
	}
	t.Pages = make([]Page, n)
	t.Rows = make([]Row, 0, (len(r.data)-r.pos)/2)
	for i := range t.Pages {
		head := r.uleb()
		if head&1 != 0 {
			back := head>>1 + 1
			if back > uint64(i) {
				return fmt.Errorf("%w: page %d is that %d before", ErrTableDamaged, i, back)
			}
			t.Pages[i] = t.Pages[uint64(i)-back]
			continue
		}
		if err := t.readRows(r, &t.Pages[i], head>>1); err != nil {
			return fmt.Errorf("page %d: %w", i, err)
		}
	}
	if r.short {
		return fmt.Errorf("%w: it ends within a page", ErrTableDamaged)
	}
	return nil
}

func (t *Table) readRows(r *reader, p *Page, n uint64) error {
	if n > pageSize {
		return fmt.Errorf("%w: %d rows", ErrTableDamaged, n)
	}
	if n > 0 {
		*p = Page{uint32(len(t.Rows)), uint32(n)}
	}
	off := uint64(0)
	for i := range n {
		delta, rule := r.uleb(), r.uleb()
		// The first row is at 0, each other one after the one before.
		if (delta == 0) != (i == 0) || delta >= pageSize-off || rule >= uint64(len(t.Rules)) || r.short {
			return fmt.Errorf("%w: row %d", ErrTableDamaged, i)
		}
		off += delta
		t.Rows = append(t.Rows, Row{uint16(off), uint16(rule)})
	}
	return nil
}
