package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

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

// indexDebug indexes the debug information of an ELF file, in it or in one that goes with it.
func indexDebug(ctx context.Context, path string) (_ *indexedFile, err error) {
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
	open := []*os.File{in}
	defer func() {
		for _, f := range open {
			err = errors.Join(err, f.Close())
		}
	}()
	links, err := symbolize.ReadDebugLinks(in, size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	job, from := indexJob{in: in}, path
	if links.DebugBytes == 0 {
		debug, name, err := symbolize.OpenDebug(os.DirFS("/"), path, links)
		switch {
		case errors.Is(err, fs.ErrNotExist) && !links.MiniDebug:
			return new(indexedFile), nil
		case err == nil:
			job.in, from = debug.ReaderAt.(*os.File), name
			open = append(open, job.in)
			if links, err = symbolize.ReadDebugLinks(debug, debug.Size); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	job.debugBytes = links.DebugBytes
	if links.Alt != "" {
		alt, err := symbolize.OpenAlt(os.DirFS("/"), from, links)
		if err != nil {
			return nil, err
		}
		job.alt = alt.ReaderAt.(*os.File)
		open = append(open, job.alt)
		altLinks, err := symbolize.ReadDebugLinks(alt, alt.Size)
		if err != nil {
			return nil, err
		}
		job.debugBytes += altLinks.DebugBytes
	}
	if job.pack, err = os.Open(path + ".dwp"); err == nil {
		open = append(open, job.pack)
	}
	if job.spill, err = unnamedFile(); err != nil {
		return nil, err
	}
	open = append(open, job.spill)
	if job.out, err = unnamedFile(); err != nil {
		return nil, err
	}
	report, err := indexFile(ctx, job)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", from, err), job.out.Close())
	}
	x, err := symbolize.OpenIndex(job.out, report.Bytes)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("index of %s: %w", from, err), job.out.Close())
	}
	return &indexedFile{x, from, report.Skipped}, nil
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
