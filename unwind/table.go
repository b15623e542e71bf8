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
}

// Find returns the rule for an address. It reports false if the address is outside of the file's code: code without
// unwind information has a rule, CFAFramePointer.
func (t *Table) Find(addr uint64) (Rule, bool) {
	page := addr>>pageBits - t.FirstPage
	if page >= uint64(len(t.Pages)) {
		return Rule{}, false
	}
	p := t.Pages[page]
	if p.Count == 0 {
		return Rule{}, false
	}
	rows := t.Rows[p.First : p.First+p.Count]
	off := uint16(addr & (pageSize - 1))
	i := sort.Search(len(rows), func(i int) bool { return rows[i].Offset > off })
	return t.Rules[rows[i-1].Rule], true
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
			for j, row := range rows {
				r := Range{page + uint64(row.Offset), page + pageSize, t.Rules[row.Rule]}
				if j+1 < len(rows) {
					r.End = page + uint64(rows[j+1].Offset)
				}
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
