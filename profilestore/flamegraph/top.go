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
	Rows  []Row  `json:"rows"` // largest self first, then largest total, then by name
}

// Row is one function.
type Row struct {
	Function string `json:"function"`
	Binary   string `json:"binary"` // that with most of Total, when several have a function of that name
	File     string `json:"file"`   // source file; "" unknown
	Self     int64  `json:"self"`   // with the function innermost
	Total    int64  `json:"total"`  // with the function anywhere in the stack, a recursion counted once
}

// Top makes the table of all functions by name, as `go tool pprof -top` counts them.
func Top(s *Stacks, unit string) *Table {
	t := newTree(s, nil)
	rows := make([]Row, 0, len(t.functions))
	rowOf := make([]int32, len(t.functions)) // of "total": unused
	byName := map[string]int32{}
	for i, f := range t.functions[1:] {
		row, ok := byName[f.name]
		if !ok {
			row = int32(len(rows))
			byName[f.name] = row
			rows = append(rows, Row{Function: f.name})
		}
		rowOf[i+1] = row
	}

	var path []int32
	open := make([]int32, len(rows)) // nodes of the row on the path
	inBinary := make([]int64, len(t.functions))
	for _, node := range t.preorder(0)[1:] {
		for len(path) > 0 && path[len(path)-1] != t.parent[node] {
			open[rowOf[t.function[path[len(path)-1]]]]--
			path = path[:len(path)-1]
		}
		path = append(path, node)
		f := t.function[node]
		row := rowOf[f]
		rows[row].Self += t.self[node]
		if open[row] == 0 {
			rows[row].Total += t.total[node]
			inBinary[f] += t.total[node]
		}
		open[row]++
	}

	heaviest := make([]int64, len(rows))
	for i, f := range t.functions[1:] {
		row, value := rowOf[i+1], inBinary[i+1]
		if r := &rows[row]; value > heaviest[row] || value == heaviest[row] && (r.Binary == "" || f.binary < r.Binary) {
			r.Binary, heaviest[row] = f.binary, value
		}
	}
	for _, f := range s.frames {
		if r := &rows[byName[f.Function]]; f.Binary == r.Binary && f.File != "" && (r.File == "" || f.File < r.File) {
			r.File = f.File
		}
	}
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(b.Self, a.Self), cmp.Compare(b.Total, a.Total), strings.Compare(a.Function, b.Function))
	})
	return &Table{Unit: unit, Total: t.total[0], Rows: rows}
}
