package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
)

// queryLabelsCmd prints a name, or a value, a line; with --json an array of them.
type queryLabelsCmd struct {
	sourceArg
	selectFlags
	Values string `help:"Print the values of this label." placeholder:"LABEL"`
	JSON   bool   `name:"json" help:"Print JSON."`
}

// Run prints the labels.
func (c *queryLabelsCmd) Run(g *globals) (err error) {
	s, err := c.open(c.Source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	route := "/api/v1/labels"
	if c.Values != "" {
		route = "/api/v1/label/" + url.PathEscape(c.Values) + "/values"
	}
	var answer struct{ Labels, Values []string }
	if err := s.query(context.Background(), route, c.params(), &answer); err != nil {
		return err
	}
	list := append(answer.Labels, answer.Values...)
	if c.JSON {
		return printJSON(g.stdout, append([]string{}, list...))
	}
	for _, name := range list {
		if _, err := fmt.Fprintln(g.stdout, name); err != nil {
			return err
		}
	}
	return nil
}
