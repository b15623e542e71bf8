package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"pilotlight/cmd/pilotlight/agent"
	"pilotlight/cmd/pilotlight/process"
	"pilotlight/symbolize"
)

// indexedFile is the debug information of a file, indexed to a file without a name.
type indexedFile struct {
	index *symbolize.Index // nil if there is no debug information
	from  string           // where it was
	// skipped is the first thing of it that could not be read; "" for sound ones.
	skipped string
}

func (f *indexedFile) Close() error {
	if f.index == nil {
		return nil
	}
	return f.index.Close()
}

// indexDebug indexes the debug information of an ELF file for these addresses, in rising order. It is in the file or in
// one that goes with it, which fetch gets if it is not on the machine; fetch may be nil.
func indexDebug(ctx context.Context, path string, addrs []uint64, fetch agent.FetchDebug) (_ *indexedFile, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return nil, err
	}
	in, size, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	root, err := process.OpenRootDir("/")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	files, err := agent.OpenDebugFiles(ctx, in, size, path, fetch, root)
	if errors.Is(err, agent.ErrNoDebug) {
		return new(indexedFile), nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer func() { err = errors.Join(err, files.Close()) }()
	files.Split = root
	spill, err := unnamedFile()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, spill.Close()) }()
	out, err := unnamedFile()
	if err != nil {
		return nil, err
	}
	result, err := indexFile(ctx, agent.IndexRequest{DebugFiles: files, Only: addrs, Out: out, Spill: spill})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", files.Path, err), out.Close())
	}
	x, err := symbolize.OpenIndex(out, result.Bytes)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("index of %s: %w", files.Path, err), out.Close())
	}
	return &indexedFile{x, files.Path, result.Skipped}, nil
}

// unnamedFile makes a file that goes when it is closed.
func unnamedFile() (*os.File, error) {
	f, err := os.CreateTemp("", "pilotlight-index-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
