package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"pilotlight/unwind"
)

// inspectUnwindCmd prints the rules by which the profiler goes from a frame to its caller, in the manner of
// readelf --debug-dump=frames-interp, for the registers that it follows:
//
//	   LOC           CFA      rbx   rbp   ra
//	0000000000027441 rsp+16   c-16  u     c-8
//
// In the function's code from that address on, the caller's stack pointer is rsp+16 (the canonical frame address, CFA), its
// rbx and the return address are in memory at CFA-16 and CFA-8, and its rbp is unchanged. readelf's exp is written
// out, with *(rsp+8) for the word at rsp+8. Code that no unwind information covers is walked by the frame pointer,
// and says so; a signal's frame has all registers on the stack; end is where threads begin.
type inspectUnwindCmd struct {
	Debug     string   `name:"debug" placeholder:"FILE" help:"File with the debug information that was split off."`
	File      string   `arg:"" help:"Executable or shared object."`
	Addresses []string `arg:"" optional:"" name:"address" help:"Show the row for this address only: hexadecimal, with or without 0x."`
}

// Run prints all rows, or those of the addresses.
func (c *inspectUnwindCmd) Run(g *globals) (err error) {
	addrs := make([]uint64, len(c.Addresses))
	for i, s := range c.Addresses {
		if addrs[i], err = parseAddress(s); err != nil {
			return err
		}
	}
	table, err := c.build()
	if err != nil {
		return err
	}
	if err := printUnwind(g.stdout, table, addrs); err != nil {
		return fmt.Errorf("print rows: %w", err)
	}
	return nil
}

// build reads the unwind information.
func (c *inspectUnwindCmd) build() (table *unwind.Table, err error) {
	f, size, err := openRegular(c.File)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var opts unwind.Options
	if c.Debug != "" {
		debug, debugSize, err := openRegular(c.Debug)
		if err != nil {
			return nil, err
		}
		defer debug.Close()
		opts = unwind.Options{Debug: debug, DebugSize: debugSize}
	}
	table, err = unwind.Build(f, size, opts)
	switch {
	case errors.Is(err, unwind.ErrNotELF):
		return nil, fmt.Errorf("%s: %w: give an executable or a shared object", c.File, err)
	case err != nil:
		return nil, fmt.Errorf("read unwind information of %s: %w", c.File, err)
	}
	return table, nil
}

func printUnwind(w io.Writer, table *unwind.Table, addrs []uint64) error {
	out := bufio.NewWriter(w)
	var rbx string
	if table.Arch == unwind.AMD64 {
		rbx = "rbx"
	}
	printUnwindRow(out, "   LOC          ", unwind.Text{
		CFA: "CFA", RBX: rbx, FP: table.Arch.RegisterName(table.Arch.FP()), RA: "ra",
	})
	row := func(r unwind.Range) {
		printUnwindRow(out, fmt.Sprintf("%016x", r.Start), r.Rule.Text(table.Arch))
	}
	if len(addrs) == 0 {
		for r := range table.Ranges() {
			row(r)
		}
	}
	for _, addr := range addrs {
		r, ok := table.Range(addr)
		if !ok {
			fmt.Fprintf(out, "%016x not code of this file\n", addr)
			continue
		}
		row(r)
	}
	return out.Flush()
}

// printUnwindRow prints the columns that are not empty, as wide as readelf's.
func printUnwindRow(w io.Writer, loc string, t unwind.Text) {
	line := fmt.Sprintf("%s %-8s", loc, t.CFA)
	for _, s := range []string{t.RBX, t.FP, t.RA} {
		if s != "" {
			line += fmt.Sprintf(" %-5s", s)
		}
	}
	fmt.Fprintln(w, strings.TrimRight(line, " "))
}
