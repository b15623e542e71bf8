// Package unwind turns the unwind information of ELF files into compact tables, and walks stacks by them.
//
// A table has addresses of one file, the ones that nm and objdump print: the step from a program counter in a
// process to an address in a file is the caller's.
//
// The package reads what any user of the machine may have made, on behalf of a process that may be root. So files
// are read with ReadAt and never mapped (a mapped file that is truncated raises SIGBUS), time and memory are bounded by
// the size of the file, and damage is an error, not a panic.
package unwind

import (
	"iter"
	"sort"
)

const (
	pageBits = 12
	pageSize = 1 << pageBits
)

// Row says that from an address in its page on, up to the next row, a rule applies. The kernel's copy is a word:
// Offset in the low half, Rule in the high half.
type Row struct {
	// Offset is the address less that of the page, below 4096.
	Offset uint16
	// Rule is an index into Table.Rules.
	Rule uint16
}

// Page is where the rows of 4 KiB of addresses are. A page that unwind information or code touches has at least one
// row, the first of them with Offset 0: a search within a page always finds one. Other pages have none.
type Page struct {
	// First is an index into Table.Rows.
	First uint32
	// Count is the number of rows.
	Count uint32
}

// Table has the unwind rules of an ELF file. It is not changed once it is built, and may be used by several goroutines.
type Table struct {
	Arch Arch
	// FirstPage is the address of Pages[0], divided by 4096.
	FirstPage uint64
	// Pages covers consecutive pages.
	Pages []Page
	// Rows has the rows of each page in the order of their offsets. Pages whose rows are the same share them.
	Rows []Row
	// Rules has each rule once.
	Rules []Rule
	// Kept is code of AMD64 in which the frame pointer points to a frame record of this very frame, {the caller's frame
	// pointer, return address}, at each return address: the caller is found without a rule. It is in order.
	Kept []Span
}

// Span is a piece of code.
type Span struct {
	Start, End uint64
}

// Find returns the rule for an address. It reports false if the address is outside of the file's code: code without
// unwind information has a rule, CFAFramePointer.
func (t *Table) Find(addr uint64) (Rule, bool) {
	rows := t.page(addr)
	if len(rows) == 0 {
		return Rule{}, false
	}
	return t.Rules[rows[find(rows, addr)].Rule], true
}

// page returns the rows of the page of an address.
func (t *Table) page(addr uint64) []Row {
	i := addr>>pageBits - t.FirstPage
	if i >= uint64(len(t.Pages)) {
		return nil
	}
	p := t.Pages[i]
	return t.Rows[p.First : p.First+p.Count]
}

// find returns the index of the row for an address in its page, which has rows.
func find(rows []Row, addr uint64) int {
	off := uint16(addr & (pageSize - 1))
	return sort.Search(len(rows), func(i int) bool { return rows[i].Offset > off }) - 1
}

// Bytes returns the size of the table as the kernel holds it, without its rules, which tables share.
func (t *Table) Bytes() int { return 4*len(t.Rows) + 8*len(t.Pages) }

// Range is a piece of code with one rule.
type Range struct {
	Start, End uint64
	Rule       Rule
}

// Ranges returns the code of the table in the order of its addresses. Neighbours have different rules.
func (t *Table) Ranges() iter.Seq[Range] {
	return func(yield func(Range) bool) {
		var last Range
		for i, p := range t.Pages {
			page := (t.FirstPage + uint64(i)) << pageBits
			rows := t.Rows[p.First : p.First+p.Count]
			for j := range rows {
				r := t.rowRange(rows, j, page)
				if r.Start == last.End && r.Rule == last.Rule {
					last.End = r.End
					continue
				}
				if last.End > 0 && !yield(last) {
					return
				}
				last = r
			}
		}
		if last.End > 0 {
			yield(last)
		}
	}
}

// Range returns the piece of code that an address is in, within its page. It reports false if the address is outside of the
// file's code.
func (t *Table) Range(addr uint64) (Range, bool) {
	rows := t.page(addr)
	if len(rows) == 0 {
		return Range{}, false
	}
	return t.rowRange(rows, find(rows, addr), addr&^(pageSize-1)), true
}

// rowRange returns what a row covers in its page.
func (t *Table) rowRange(rows []Row, i int, page uint64) Range {
	r := Range{page + uint64(rows[i].Offset), page + pageSize, t.Rules[rows[i].Rule]}
	if i+1 < len(rows) {
		r.End = page + uint64(rows[i+1].Offset)
	}
	return r
}
