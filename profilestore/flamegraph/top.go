package flamegraph

import (
	"cmp"
	"context"
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

// Top makes the table of all functions by name, as `go tool pprof -top` counts them. The error is that of ctx.
func Top(ctx context.Context, s *Stacks, o Options) (*Table, error) {
	sides := o.sides(s)
	f := newForest(ctx, "", &o, sides)
	f.addSides()
	table := &Table{Unit: o.Unit, Total: s.total, Rows: f.table()}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(sides) > 1 {
		table.TableB = &TableB{sides[1].total}
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
	return table, nil
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

// byName numbers functions by their name alone.
type byName struct {
	names []string
	ids   map[string]int32
	of    []int32 // by function, +1; 0: not known yet
}

func (n *byName) id(f *forest, fn int32) int32 {
	if missing := len(f.functions) - len(n.of); missing > 0 {
		n.of = append(n.of, make([]int32, missing)...)
	}
	if n.of[fn] == 0 {
		name := f.named(fn).name
		id, ok := n.ids[name]
		if !ok {
			if n.ids == nil {
				n.ids = make(map[string]int32)
			}
			id = int32(len(n.names))
			n.ids[name] = id
			n.names = append(n.names, name)
		}
		n.of[fn] = id + 1
	}
	return n.of[fn] - 1
}

// sums is what the functions of a name used.
type sums struct {
	self, total [2]int64 // by side
	open        int32    // how many of them are on the path
}

// table makes the rows, in no order.
func (f *forest) table() []Row {
	var n byName
	var all []sums
	var inBinary [][2]int64 // totals by function
	for i := range f.sources {
		src := &f.sources[i]
		src.walk(f.ctx, func(frame int32, self, total int64) {
			fn := f.function(src.side, frame)
			id := n.id(f, fn)
			if int(id) == len(all) {
				all = append(all, sums{})
			}
			if missing := len(f.functions) - len(inBinary); missing > 0 {
				inBinary = append(inBinary, make([][2]int64, missing)...)
			}
			own := &all[id]
			own.self[src.side] += self
			if own.open == 0 {
				own.total[src.side] += total
				inBinary[fn][src.side] += total
			}
			own.open++
		}, func(frame int32) { all[n.id(f, f.function(src.side, frame))].open-- })
	}
	rows := make([]Row, len(all))
	for i, own := range all {
		rows[i] = Row{Function: n.names[i], Self: own.self[0], Total: own.total[0]}
		if len(f.whole) > 1 {
			rows[i].RowB = &RowB{own.self[1], own.total[1]}
		}
	}
	f.origins(rows, &n, inBinary)
	return rows
}

// origins says for each row which binary and file it is from.
func (f *forest) origins(rows []Row, n *byName, inBinary [][2]int64) {
	heaviest := slices.Repeat([]int64{-1}, len(rows))
	for fn := 1; fn < len(inBinary); fn++ {
		row, value, binary := n.id(f, int32(fn)), f.weigh(inBinary[fn]), f.named(int32(fn)).binary
		if r := &rows[row]; value > heaviest[row] || value == heaviest[row] && binary != "" && (r.Binary == "" || binary < r.Binary) {
			r.Binary, heaviest[row] = binary, value
		}
	}
	for side, s := range f.whole {
		for frame := range s.frames {
			own := &s.frames[frame]
			if own.File == "" || frame >= len(f.of[side]) || f.of[side][frame] == 0 {
				continue
			}
			if r := &rows[n.id(f, f.of[side][frame])]; own.Binary == r.Binary && (r.File == "" || own.File < r.File) {
				r.File = own.File
			}
		}
	}
}
