package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"pilotlight/profilestore/httpapi"
)

// querySeriesCmd prints a line for each step of each series: its start, its value, the labels. With --json it
// prints the answer of /api/v1/series.
type querySeriesCmd struct {
	sourceArg
	selectFlags
	By   []string `help:"A series for each combination of values of these labels." placeholder:"LABEL"`
	Step string   `help:"Length of a step, as 30s or 1h. Default: a round one that gives at most 300 steps." placeholder:"TIME"`
	JSON bool     `name:"json" help:"Print JSON."`
}

// Run prints the series.
func (c *querySeriesCmd) Run(g *globals) (err error) {
	s, err := c.open(c.Source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	params := c.params()
	if len(c.By) > 0 {
		params["by"] = c.By
	}
	if c.Step != "" {
		params.Set("step", c.Step)
	}
	var answer httpapi.SeriesAnswer
	if err := s.query(context.Background(), "/api/v1/series", params, &answer); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(g.stdout, answer)
	}
	out := tabwriter.NewWriter(g.stdout, 0, 0, 2, ' ', 0)
	for _, series := range answer.Series {
		var labels []string
		for _, name := range slices.Sorted(maps.Keys(series.Labels)) {
			labels = append(labels, name+"="+series.Labels[name])
		}
		for _, point := range series.Points {
			fmt.Fprintf(out, "%s\t%s\t%s\n", time.UnixMilli(point[0]).Format(time.RFC3339), amount(point[1], answer.Unit), strings.Join(labels, " "))
		}
	}
	return out.Flush()
}
