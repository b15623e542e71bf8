package flamegraph

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// ColumnsType is the media type of AppendColumns.
const ColumnsType = "application/x-pilotlight-columns"

const columnsVersion = 1

var errColumns = errors.New("malformed columns")

// AppendColumns appends g in its compact form, which is meant to be gzipped:
//
//	version (1 byte), sides: 1, or 2 in a diff (1 byte), unit, total [, total of B],
//	number of names, name..., file of each name..., number of file names, file name...,
//	number of nodes, depth (less that of the node before, zigzag)..., name..., pruned count...,
//	self..., pruned value... [, self of B..., pruned value of B...]
//
// Numbers are unsigned varints unless said; strings carry their length in front.
func (g *Graph) AppendColumns(dst []byte) []byte {
	dst = append(dst, columnsVersion)
	if g.GraphB == nil {
		dst = append(dst, 1)
	} else {
		dst = append(dst, 2)
	}
	dst = appendStrings(dst, g.Unit)
	dst = binary.AppendUvarint(dst, uint64(g.Total))
	if g.GraphB != nil {
		dst = binary.AppendUvarint(dst, uint64(g.TotalB))
	}
	dst = binary.AppendUvarint(dst, uint64(len(g.Names)))
	dst = appendStrings(dst, g.Names...)
	dst = appendColumn(dst, g.Files)
	dst = binary.AppendUvarint(dst, uint64(len(g.FileNames)))
	dst = appendStrings(dst, g.FileNames...)
	dst = binary.AppendUvarint(dst, uint64(len(g.Depth)))
	before := int32(0)
	for _, d := range g.Depth {
		dst = binary.AppendVarint(dst, int64(d-before))
		before = d
	}
	dst = appendColumn(dst, g.Name)
	dst = appendColumn(dst, g.PrunedCount)
	dst = appendColumn(dst, g.Self)
	dst = appendColumn(dst, g.PrunedValue)
	if g.GraphB != nil {
		dst = appendColumn(dst, g.SelfB)
		dst = appendColumn(dst, g.PrunedValueB)
	}
	return dst
}

func appendStrings(dst []byte, ss ...string) []byte {
	for _, s := range ss {
		dst = binary.AppendUvarint(dst, uint64(len(s)))
		dst = append(dst, s...)
	}
	return dst
}

func appendColumn[T int32 | int64](dst []byte, column []T) []byte {
	for _, v := range column {
		dst = binary.AppendUvarint(dst, uint64(v))
	}
	return dst
}

// DecodeColumns reads what AppendColumns wrote. What it accepts is a tree in preorder whose indexes are in
// range; the sums are not checked.
func DecodeColumns(b []byte) (*Graph, error) {
	if len(b) < 2 {
		return nil, fmt.Errorf("read columns: %w", io.ErrUnexpectedEOF)
	}
	if b[0] != columnsVersion {
		return nil, fmt.Errorf("read columns: version %d, this program knows %d", b[0], columnsVersion)
	}
	if b[1] < 1 || b[1] > 2 {
		return nil, fmt.Errorf("read columns of %d sides: %w", b[1], errColumns)
	}
	d := columnsDecoder{b: b[2:]}
	g := &Graph{Unit: d.string(), Total: int64(d.number(math.MaxInt64))}
	if b[1] == 2 {
		g.GraphB = &GraphB{TotalB: int64(d.number(math.MaxInt64))}
	}
	g.Names = d.strings()
	files := len(g.Names)
	g.Files = make([]int32, 0, files)
	for range files {
		g.Files = append(g.Files, int32(d.number(math.MaxInt32)))
	}
	g.FileNames = d.strings()
	for _, f := range g.Files {
		if int(f) >= len(g.FileNames) {
			d.fail()
		}
	}
	nodes := d.count(5)
	if nodes == 0 || len(g.Names) == 0 {
		d.fail()
	}
	g.Depth = make([]int32, 0, nodes)
	depth := int64(0)
	for i := range nodes {
		delta := d.varint()
		depth += delta
		if delta > 1 || depth < 0 || (depth == 0) != (i == 0) {
			d.fail()
		}
		g.Depth = append(g.Depth, int32(depth))
	}
	g.Name = column[int32](&d, nodes, uint64(len(g.Names))-1)
	g.PrunedCount = column[int32](&d, nodes, math.MaxInt32)
	g.Self = column[int64](&d, nodes, math.MaxInt64)
	g.PrunedValue = column[int64](&d, nodes, math.MaxInt64)
	if g.GraphB != nil {
		g.SelfB = column[int64](&d, nodes, math.MaxInt64)
		g.PrunedValueB = column[int64](&d, nodes, math.MaxInt64)
	}
	if len(d.b) > 0 {
		d.fail()
	}
	if d.bad {
		return nil, fmt.Errorf("read columns: %w", errColumns)
	}
	return g, nil
}

// columnsDecoder gives zeros after the first malformed byte.
type columnsDecoder struct {
	b   []byte
	bad bool
}

func (d *columnsDecoder) fail() { d.b, d.bad = nil, true }

func (d *columnsDecoder) number(most uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > most {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *columnsDecoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 || v < math.MinInt32 || v > math.MaxInt32 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count reads a number of things of at least size bytes each, no more than can follow.
func (d *columnsDecoder) count(size int) int { return int(d.number(uint64(len(d.b) / size))) }

func (d *columnsDecoder) string() string {
	n := d.count(1)
	if n > len(d.b) {
		d.fail()
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *columnsDecoder) strings() []string {
	n := d.count(1)
	ss := make([]string, 0, n)
	for range n {
		ss = append(ss, d.string())
	}
	return ss
}

func column[T int32 | int64](d *columnsDecoder, n int, most uint64) []T {
	c := make([]T, 0, n)
	for range n {
		c = append(c, T(d.number(most)))
	}
	return c
}
