package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
)

// queryPprofCmd writes a gzipped pprof file.
type queryPprofCmd struct {
	sourceArg
	selectFlags
	filterFlags
	Output string `short:"o" help:"File to write; - is standard output." default:"profile.pb.gz" placeholder:"FILE"`
}

// Run writes the file.
func (c *queryPprofCmd) Run(g *globals) (err error) {
	s, err := c.open(c.Source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	content, err := c.pprof(s)
	if err != nil {
		return err
	}
	if c.Output == "-" {
		_, err = g.stdout.Write(content)
		return err
	}
	if err := os.WriteFile(c.Output, content, 0o666); err != nil {
		return fmt.Errorf("write profile: %w: choose another file with -o", err)
	}
	return nil
}

func (c *queryPprofCmd) pprof(s *source) ([]byte, error) {
	if s.file != nil {
		if len(c.Filter) > 0 {
			return nil, errors.New("--filter of a pprof file: go tool pprof has the same as -focus, -ignore, -hide and -show_from")
		}
		var b bytes.Buffer
		err := s.file.Write(&b)
		return b.Bytes(), err
	}
	params := c.params()
	params["filter"] = c.Filter
	return s.client.Get(context.Background(), "/api/v1/pprof", params)
}
