package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"

	"pilotlight/profilestore/flamegraph"
	"pilotlight/profilestore/httpapi"
)

// queryTopCmd prints what go tool pprof -top does. With --json it prints the answer of /api/v1/top, its rows
// cut to -n.
type queryTopCmd struct {
	sourceArg
	selectFlags
	filterFlags
	Number int  `short:"n" help:"How many functions; 0: all." default:"20" placeholder:"N"`
	JSON   bool `name:"json" help:"Print JSON."`
}

// Run prints the table.
func (c *queryTopCmd) Run(g *globals) (err error) {
	s, err := c.open(c.Source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	table, err := c.table(s)
	if err != nil {
		return err
	}
	all := len(table.Rows)
	if c.Number > 0 {
		table.Rows = table.Rows[:min(all, c.Number)]
	}
	if c.JSON {
		return printJSON(g.stdout, table)
	}
	fmt.Fprintf(g.stdout, "%s, %d of %d functions\n", amount(table.Total, table.Unit), len(table.Rows), all)
	out := tabwriter.NewWriter(g.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "self\tself%\ttotal\ttotal%\t  function")
	for _, r := range table.Rows {
		fmt.Fprintf(out, "%s\t%.2f%%\t%s\t%.2f%%\t  %s\n", amount(r.Self, table.Unit), share(r.Self, table.Total), amount(r.Total, table.Unit), share(r.Total, table.Total), r.Function)
	}
	return out.Flush()
}

func (c *queryTopCmd) table(s *source) (*flamegraph.Table, error) {
	if s.file != nil {
		stacks, unit, err := s.stacks(c.selectFlags, c.filterFlags)
		if err != nil {
			return nil, err
		}
		return flamegraph.Top(context.Background(), stacks, flamegraph.Options{Unit: unit})
	}
	params := c.params()
	params["filter"] = c.Filter
	var answer httpapi.TopAnswer
	if err := s.query(context.Background(), "/api/v1/top", params, &answer); err != nil {
		return nil, err
	}
	return answer.Table, nil
}
