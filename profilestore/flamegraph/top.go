package flamegraph

import (
	"cmp"
	"slices"
	"strings"
)

// Table lists functions with what they used, the answer of [Top].
type Table struct {
	Unit  string `json:"unit"`
	Total int64  `json:"total"`
	Rows  []Row  `json:"rows"` // largest self first, then largest total, then by name; of a diff largest change
	*TableB
}

// TableB is what the table of a diff has besides; in another it is nil.
type TableB struct {
	TotalB int64 `json:"total_b"`
}

// Row is one function.
type Row struct {
	Function string `json:"function"`
	Binary   string `json:"binary"` // that with most of Total, when several have a function of that name
	File     string `json:"file"`   // source file; "" unknown
	Self     int64  `json:"self"`   // with the function innermost
	Total    int64  `json:"total"`  // with the function anywhere in the stack, a recursion counted once
	*RowB
}

// RowB is what a row of a diff has besides; in another it is nil.
type RowB struct {
	SelfB  int64 `json:"self_b"`
	TotalB int64 `json:"total_b"`
}

// Top makes the table of all functions by name, as `go tool pprof -top` counts them.
func Top(s *Stacks, o Options) *Table {
	sides := o.sides(s)
	t := newTree("total", len(sides))
	for i, sd := range sides {
		t.addBelow(i, sd, nil)
	}
	t.finish(&o, sides...)
	table := &Table{Unit: o.Unit, Total: t.sides[0].total[0], Rows: t.table(sides)}
	if len(sides) > 1 {
		table.TableB = &TableB{t.sides[1].total[0]}
	}
	key := func(a, b int64) int64 {
		if len(sides) == 1 {
			return a
		}
		a, b = o.scaled(a, b, sides)
		return max(a-b, b-a)
	}
	slices.SortFunc(table.Rows, func(x, y Row) int {
		return cmp.Or(cmp.Compare(key(y.self()), key(x.self())), cmp.Compare(key(y.total()), key(x.total())), strings.Compare(x.Function, y.Function))
	})
	return table
}

func (r *Row) self() (a, b int64) {
	if r.RowB == nil {
		return r.Self, 0
	}
	return r.Self, r.SelfB
}

func (r *Row) total() (a, b int64) {
	if r.RowB == nil {
		return r.Total, 0
	}
	return r.Total, r.RowB.TotalB
}

// byName numbers functions by their name alone. The first number is 0; node 0 of a tree of everything, "total",
// has none.
type byName struct {
	names []string
	of    []int32 // by function of the tree; -1: none
}

func (t *tree) byName() byName {
	n := byName{of: make([]int32, len(t.functions))}
	n.of[0] = -1
	ids := make(map[string]int32)
	for i, f := range t.functions[1:] {
		id, ok := ids[f.name]
		if !ok {
			id = int32(len(n.names))
			ids[f.name] = id
			n.names = append(n.names, f.name)
		}
		n.of[i+1] = id
	}
	return n
}

// table makes the rows of a tree of everything, in no order.
func (t *tree) table(sides []*Stacks) []Row {
	n := t.byName()
	rows := make([]Row, len(n.names))
	for i, name := range n.names {
		rows[i].Function = name
	}
	if len(sides) > 1 {
		b := make([]RowB, len(rows))
		for i := range rows {
			rows[i].RowB = &b[i]
		}
	}
	open := make([]int32, len(rows)) // nodes of the row on the path
	inBinary := make([]int64, len(t.functions))
	t.walk(func(node int32) {
		f := t.function[node]
		row := &rows[n.of[f]]
		outer := open[n.of[f]] == 0
		row.Self += t.sides[0].self[node]
		if outer {
			row.Total += t.sides[0].total[node]
			inBinary[f] += t.weight[node]
		}
		if row.RowB != nil {
			row.SelfB += t.sides[1].self[node]
			if outer {
				row.RowB.TotalB += t.sides[1].total[node]
			}
		}
		open[n.of[f]]++
	}, func(node int32) { open[n.of[t.function[node]]]-- })

	heaviest := make([]int64, len(rows))
	for i, f := range t.functions[1:] {
		row, value := n.of[i+1], inBinary[i+1]
		if r := &rows[row]; value > heaviest[row] || value == heaviest[row] && (r.Binary == "" || f.binary < r.Binary) {
			r.Binary, heaviest[row] = f.binary, value
		}
	}
	for _, s := range sides {
		for _, f := range s.frames {
			if r := &rows[n.of[t.ids[function{f.Function, f.Binary}]]]; f.Binary == r.Binary && f.File != "" && (r.File == "" || f.File < r.File) {
				r.File = f.File
			}
		}
	}
	return rows
}
