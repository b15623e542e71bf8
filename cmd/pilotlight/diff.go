package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"pilotlight/profilestore/flamegraph"
	"pilotlight/profilestore/httpapi"
)

// exitAbove is how diff ends when something grew by more than --fail-above.
const exitAbove = 3

// diffCmd compares B with A and prints the functions whose totals changed most. A change is what a function's
// total is more in B than in A, in percent of everything in A; with --normalize it is its share of everything
// in B less that in A. It ends with 0, with 3 when a function or everything grew by more than --fail-above,
// with 1 when it could not compare, as when one side has no samples, with 2 when the command line is wrong.
type diffCmd struct {
	A string `arg:"" help:"Before: a pprof file, or with --source a selector, as {service_version=\"1\"}."`
	B string `arg:"" help:"After: the same."`

	Source string `help:"URL of a server or data directory in which A and B select profiles." placeholder:"SOURCE"`
	From   string `help:"With --source: start of the range of both." default:"now-1h" placeholder:"TIME"`
	To     string `help:"With --source: its end." default:"now" placeholder:"TIME"`
	BFrom  string `name:"b-from" help:"With --source: start of the range of B, if it is another." placeholder:"TIME"`
	BTo    string `name:"b-to" help:"With --source: its end." placeholder:"TIME"`
	Type   string `help:"Profile type; of files also the name of a sample type." placeholder:"TYPE"`
	tokenFlags
	filterFlags

	FailAbove *percent `help:"End with status 3 when something grew by more than this, as 5%." placeholder:"PERCENT"`
	Normalize bool     `help:"Compare shares: for sides that differ in length or load."`
	Number    int      `short:"n" help:"How many functions; 0: all that changed." default:"20" placeholder:"N"`
	JSON      bool     `name:"json" help:"Print JSON."`
}

// percent is a number of at least 0 with its sign: 5%.
type percent float64

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *percent) UnmarshalText(text []byte) error {
	number, ok := strings.CutSuffix(string(text), "%")
	v, err := strconv.ParseFloat(number, 64)
	if !ok || err != nil || !(v >= 0 && v <= 1e6) {
		return fmt.Errorf("%.40q: write percents, as 5%%", text)
	}
	*p = percent(v)
	return nil
}

// comparison is what diff found, and what --json prints.
type comparison struct {
	Unit       string          `json:"unit"`
	Total      int64           `json:"total"`
	TotalB     int64           `json:"total_b"`
	Change     float64         `json:"change_percent"` // of everything
	Worst      float64         `json:"worst_percent"`  // the largest growth, of a function or everything; not below 0
	Normalized bool            `json:"normalized"`
	Functions  []functionDelta `json:"functions"` // those that changed, largest change of the total first
}

// functionDelta is one function in both.
type functionDelta struct {
	flamegraph.Row
	SelfChange  float64 `json:"self_change_percent"`
	TotalChange float64 `json:"total_change_percent"`
}

// Run compares and prints.
func (c *diffCmd) Run(g *globals) error {
	table, err := c.table()
	if err != nil {
		return err
	}
	if table.Total == 0 || table.TotalB == 0 {
		side, name := "A", c.A
		if table.Total > 0 {
			side, name = "B", c.B
		}
		return fmt.Errorf("%s, %s, has no samples: there is nothing to compare", side, name)
	}
	found := newComparison(table, c.Normalize)
	print := found.print
	if c.JSON {
		print = found.printJSON
	}
	if err := print(g.stdout, c.Number); err != nil {
		return fmt.Errorf("print comparison: %w", err)
	}
	if c.FailAbove != nil && found.Worst > float64(*c.FailAbove) {
		fmt.Fprintf(g.stderr, "pilotlight: grew by %.2f%%, more than %v%%\n", found.Worst, float64(*c.FailAbove))
		return exitError(exitAbove)
	}
	return nil
}

// table compares as the API does.
func (c *diffCmd) table() (_ *flamegraph.Table, err error) {
	if c.Source == "" {
		return c.fileTable()
	}
	s, err := c.open(c.Source)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	params := selectFlags{Query: c.A, From: c.From, To: c.To, Type: c.Type}.params()
	params["filter"] = c.Filter
	params.Set("b.query", c.B)
	params.Set("normalize", strconv.FormatBool(c.Normalize))
	for name, value := range map[string]string{"b.from": c.BFrom, "b.to": c.BTo} {
		if value != "" {
			params.Set(name, value)
		}
	}
	var answer httpapi.TopAnswer
	if err := s.query(context.Background(), "/api/v1/top", params, &answer); err != nil {
		return nil, err
	}
	if answer.Table == nil || answer.TableB == nil {
		return nil, errors.New("the server does not know diffs: use one of this version")
	}
	return answer.Table, nil
}

func (c *diffCmd) fileTable() (*flamegraph.Table, error) {
	var sides [2]*flamegraph.Stacks
	var units [2]string
	for i, name := range []string{c.A, c.B} {
		p, err := readProfileFile(name)
		if err != nil {
			return nil, fmt.Errorf("%w: name pprof files, or where to select profiles with --source", err)
		}
		if sides[i], units[i], err = (&source{file: p}).stacks(selectFlags{Type: c.Type}, c.filterFlags); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if units[0] != units[1] {
		return nil, fmt.Errorf("values of A are %s, those of B %s: name a type that both have with --type", units[0], units[1])
	}
	return flamegraph.Top(context.Background(), sides[0], flamegraph.Options{Unit: units[0], B: sides[1], Normalize: c.Normalize})
}

// newComparison works out the changes of a table of which no side is empty.
func newComparison(t *flamegraph.Table, normalize bool) *comparison {
	change := func(a, b int64) float64 {
		if normalize {
			return share(b, t.TotalB) - share(a, t.Total)
		}
		return share(b-a, t.Total)
	}
	found := &comparison{
		Unit: t.Unit, Total: t.Total, TotalB: t.TotalB, Normalized: normalize,
		Change: change(t.Total, t.TotalB), Functions: []functionDelta{},
	}
	found.Worst = max(found.Change, 0)
	for _, r := range t.Rows {
		d := functionDelta{r, change(r.Self, r.SelfB), change(r.Total, r.RowB.TotalB)}
		found.Worst = max(found.Worst, d.TotalChange)
		if d.TotalChange != 0 || d.SelfChange != 0 {
			found.Functions = append(found.Functions, d)
		}
	}
	slices.SortStableFunc(found.Functions, func(x, y functionDelta) int {
		return cmp.Compare(max(y.TotalChange, -y.TotalChange), max(x.TotalChange, -x.TotalChange))
	})
	return found
}

// cut leaves the n functions that changed most; 0: all.
func (d *comparison) cut(n int) {
	if n > 0 {
		d.Functions = d.Functions[:min(n, len(d.Functions))]
	}
}

func (d *comparison) printJSON(w io.Writer, n int) error {
	d.cut(n)
	return printJSON(w, d)
}

func (d *comparison) print(w io.Writer, n int) error {
	all := len(d.Functions)
	d.cut(n)
	fmt.Fprintf(w, "A %s, B %s, %+.2f%%; %d of %d functions that changed\n", amount(d.Total, d.Unit), amount(d.TotalB, d.Unit), share(d.TotalB-d.Total, d.Total), len(d.Functions), all)
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "change\ttotal A\ttotal B\tself change\tself A\tself B\t  function")
	for _, f := range d.Functions {
		fmt.Fprintf(out, "%+.2f%%\t%s\t%s\t%+.2f%%\t%s\t%s\t  %s\n", f.TotalChange, amount(f.Total, d.Unit), amount(f.RowB.TotalB, d.Unit),
			f.SelfChange, amount(f.Self, d.Unit), amount(f.SelfB, d.Unit), f.Function)
	}
	return out.Flush()
}
