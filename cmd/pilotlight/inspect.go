package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"pilotlight/profilestore"
	"pilotlight/symbolize"
)

// inspectCmd shows what Pilotlight knows of single things, for people who look for an error in it.
type inspectCmd struct {
	Symbols inspectSymbolsCmd `cmd:"" help:"Name addresses of an ELF file, with their inlined calls."`
	Unwind  inspectUnwindCmd  `cmd:"" help:"Show how stacks are walked through the code of an ELF file."`
	Stack   inspectStackCmd   `cmd:"" help:"Show the stacks of a process as they are now."`
	Block   inspectBlockCmd   `cmd:"" help:"Print and verify what a profile store has on disk; nothing is written."`
}

// inspectBlockCmd prints the files of a profile store and compares all of them with their checksums, and the samples
// of each block with its totals. It ends with an error when something is damaged.
type inspectBlockCmd struct {
	Dir string `arg:"" help:"Data directory, or one of those below its blocks/ and symbols/."`
}

// Run prints what the directory holds.
func (c *inspectBlockCmd) Run(g *globals) error { return profilestore.Inspect(g.stdout, c.Dir) }

// inspectSymbolsCmd names addresses as the profiler does: from debug information, in the file or in one that goes
// with it (by build ID, .gnu_debuglink, or beside it as .dwp), and from symbols where that has nothing. For each address it prints the function and, where it
// was inlined, its callers:
//
//	0x48f2a4: strings.Index at /usr/local/go/src/strings/strings.go:1217
//	 (inlined by) main.find at /src/find.go:31
//
// What is not known is left out; an address without a name prints as ??. With --json it prints an array with an
// element for each address, in the order given:
//
//	[{"address": "0x48f2a4", "frames": [{"function": "main.find", "system_name": "main.find",
//	  "file": "/src/find.go", "line": 31, "start_line": 20, "source": "pclntab"}]}]
//
// frames has the innermost inlined call first, and is empty for an address without a name. A file is "" and a line
// 0 where it is not known. source is "dwarf", "pclntab", "symtab" or "dynsym".
type inspectSymbolsCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
	debuginfodFlags
	Cache     string   `help:"Directory below which downloads of --debuginfod are kept. Default: /var/cache/pilotlight as root, else below XDG_CACHE_HOME." placeholder:"DIR"`
	File      string   `arg:"" help:"Executable or shared object."`
	Addresses []string `arg:"" name:"address" help:"Address in the file, as nm prints it: hexadecimal, with or without 0x."`
}

// resolved is an address with its names.
type resolved struct {
	addr   uint64
	frames []symbolize.Frame
}

// Run prints the names of the addresses.
func (c *inspectSymbolsCmd) Run(g *globals) (err error) {
	names, addrs := make([]resolved, len(c.Addresses)), make([]uint64, len(c.Addresses))
	for i, s := range c.Addresses {
		if names[i].addr, err = parseAddress(s); err != nil {
			return err
		}
		addrs[i] = names[i].addr
	}
	slices.Sort(addrs)
	file, err := openSymbols(c.File)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	cache, err := cacheDir(c.Cache)
	if err != nil {
		return err
	}
	fetch, err := c.debuginfodFlags.open(cache, g)
	if err != nil {
		return err
	}
	indexed, err := indexDebug(context.Background(), c.File, addrs, fetch)
	if err != nil {
		fmt.Fprintf(g.stderr, "pilotlight: without debug information: %s\n", oneLine(err))
		indexed = new(indexedFile)
	}
	defer func() { err = errors.Join(err, indexed.Close()) }()
	if indexed.skipped != "" {
		fmt.Fprintf(g.stderr, "pilotlight: %s: parts were skipped: %s\n", indexed.from, oneLine(errors.New(indexed.skipped)))
	}
	for i := range names {
		names[i].frames = resolveBest(file, indexed.index, names[i].addr)
	}
	print := printSymbols
	if c.JSON {
		print = printSymbolsJSON
	}
	if err := print(g.stdout, names); err != nil {
		return fmt.Errorf("print symbols: %w", err)
	}
	err = file.Err()
	if indexed.index != nil {
		err = errors.Join(err, indexed.index.Err())
	}
	if err != nil {
		return fmt.Errorf("%s: names are missing: %w", c.File, err)
	}
	return nil
}

// resolveBest returns the frames at addr from the source of the highest rank.
func resolveBest(file *symbolize.File, x *symbolize.Index, addr uint64) []symbolize.Frame {
	frames := file.Resolve(nil, addr)
	if x == nil {
		return frames
	}
	indexed := x.Resolve(nil, addr)
	if len(indexed) > 0 && (len(frames) == 0 || indexed[0].Source >= frames[0].Source) {
		return indexed
	}
	return frames
}

// parseAddress reads hexadecimal digits, with or without 0x.
func parseAddress(s string) (uint64, error) {
	digits, ok := strings.CutPrefix(s, "0x")
	if !ok {
		digits = strings.TrimPrefix(s, "0X")
	}
	addr, err := strconv.ParseUint(digits, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("address %q: give up to 16 hexadecimal digits, with or without 0x", s)
	}
	return addr, nil
}

// openSymbols opens a file that exists by name. The symbolizer reads from it until it is closed.
func openSymbols(path string) (*symbolize.File, error) {
	f, size, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	file, err := symbolize.Open(f, size)
	if err != nil {
		f.Close()
		if errors.Is(err, symbolize.ErrNotELF) {
			return nil, fmt.Errorf("%s: %w: give an executable or a shared object", path, err)
		}
		return nil, fmt.Errorf("read symbols of %s: %w", path, err)
	}
	return file, nil
}

// openRegular opens a file to inspect.
func openRegular(path string) (f *os.File, size int64, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, 0, err // names the operation and the path
	}
	if !info.Mode().IsRegular() { // opening a pipe would wait for its writer
		return nil, 0, fmt.Errorf("%s: not a regular file: give an executable or a shared object", path)
	}
	f, err = os.Open(path)
	return f, info.Size(), err
}

func printSymbols(w io.Writer, names []resolved) error {
	out := bufio.NewWriter(w)
	for _, n := range names {
		fmt.Fprintf(out, "%#x: ", n.addr)
		if len(n.frames) == 0 {
			fmt.Fprintln(out, "??")
		}
		for i, f := range n.frames {
			if i > 0 {
				fmt.Fprint(out, " (inlined by) ")
			}
			fmt.Fprint(out, cmp.Or(f.Function, "??"))
			if f.File != "" {
				fmt.Fprintf(out, " at %s:%d", f.File, f.Line)
			}
			fmt.Fprintln(out)
		}
	}
	return out.Flush()
}

func printSymbolsJSON(w io.Writer, names []resolved) error {
	type frame struct {
		Function   string `json:"function"`
		SystemName string `json:"system_name"`
		File       string `json:"file"`
		Line       int    `json:"line"`
		StartLine  int    `json:"start_line"`
		Source     string `json:"source"`
	}
	type address struct {
		Address string  `json:"address"`
		Frames  []frame `json:"frames"`
	}
	addresses := make([]address, 0, len(names))
	for _, n := range names {
		frames := make([]frame, 0, len(n.frames))
		for _, f := range n.frames {
			frames = append(frames, frame{f.Function, f.SystemName, f.File, f.Line, f.StartLine, f.Source.String()})
		}
		addresses = append(addresses, address{fmt.Sprintf("%#x", n.addr), frames})
	}
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	return out.Encode(addresses)
}
