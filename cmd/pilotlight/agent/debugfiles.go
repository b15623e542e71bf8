package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"pilotlight/symbolize"
)

// DebugFiles are the open files that have the debug information of an ELF file.
type DebugFiles struct {
	In      *os.File // the ELF file itself, or the one that its debug information was put into
	Alt     *os.File // what dwz took out of In; nil if there is none
	Package *os.File // the .dwp file beside the ELF file; nil if there is none
	Path    string   // of In, below the root where it was found
	Bytes   uint64   // of debug information in In and Alt, inflated
	// Split is where the .dwo files are that In names; nil if none may be opened.
	Split  fs.FS
	opened []io.Closer
}

// FetchDebug opens the debug information of a build ID, which is on no root, and
// which the caller closes. The error wraps fs.ErrNotExist if nobody has any.
type FetchDebug func(ctx context.Context, buildID []byte) (*os.File, error)

// ErrNoDebug is the error of an ELF file whose debug information is nowhere.
var ErrNoDebug = errors.New("no debug information")

// OpenDebugFiles opens what has the debug information of the ELF file in, of size
// bytes, whose path is an absolute one below each of roots. Those are searched in
// their order, as symbolize.OpenDebug says; their files must be *os.Files, as those
// of process.Root are. What they do not have is fetched, unless fetch is nil. If the
// file that dwz made is missing, so will the names in it. in stays the caller's.
func OpenDebugFiles(ctx context.Context, in *os.File, size int64, path string, fetch FetchDebug, roots ...fs.FS) (*DebugFiles, error) {
	d := &DebugFiles{In: in, Path: path}
	if fetch == nil {
		fetch = func(context.Context, []byte) (*os.File, error) { return nil, fs.ErrNotExist }
	}
	if err := d.open(ctx, size, fetch, roots); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *DebugFiles) open(ctx context.Context, size int64, fetch FetchDebug, roots []fs.FS) error {
	in, path := d.In, d.Path
	links, err := symbolize.ReadDebugLinks(in, size)
	if err != nil {
		return err
	}
	if links.DebugBytes == 0 {
		mini := links.MiniDebug
		if links, err = d.findIn(ctx, fetch, roots, links); err != nil {
			return err
		}
		if d.In == in && !mini {
			return ErrNoDebug
		}
	}
	d.Bytes = links.DebugBytes
	if d.Bytes == 0 {
		return nil
	}
	if err := d.findAlt(ctx, fetch, roots, links); err != nil {
		return err
	}
	return d.findPackage(roots, path)
}

// findIn looks for the file with the debug information of the one that has these
// links, and returns the links of what it found; d.In stays if that is nothing.
func (d *DebugFiles) findIn(ctx context.Context, fetch FetchDebug, roots []fs.FS, links symbolize.DebugLinks) (symbolize.DebugLinks, error) {
	for _, root := range roots {
		found, path, err := symbolize.OpenDebug(root, d.Path, links)
		if notThere(err) {
			continue
		}
		if err != nil {
			return links, err
		}
		if d.In, err = d.own(found); err != nil {
			return links, err
		}
		d.Path = path
		return symbolize.ReadDebugLinks(found, found.Size)
	}
	in, fetched, err := d.fetch(ctx, fetch, links.BuildID)
	if in != nil {
		d.In, d.Path, links = in, in.Name(), fetched
	}
	return links, err
}

// fetch gets the file of a build ID and its links; nil if there is none to be had.
func (d *DebugFiles) fetch(ctx context.Context, fetch FetchDebug, buildID []byte) (*os.File, symbolize.DebugLinks, error) {
	if len(buildID) == 0 {
		return nil, symbolize.DebugLinks{}, nil
	}
	f, err := fetch(ctx, buildID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, symbolize.DebugLinks{}, nil
	}
	if err != nil {
		return nil, symbolize.DebugLinks{}, err
	}
	d.opened = append(d.opened, f)
	info, err := f.Stat()
	if err != nil {
		return nil, symbolize.DebugLinks{}, err
	}
	links, err := symbolize.ReadDebugLinks(f, info.Size())
	return f, links, err
}

func (d *DebugFiles) findAlt(ctx context.Context, fetch FetchDebug, roots []fs.FS, links symbolize.DebugLinks) error {
	for _, root := range roots {
		found, err := symbolize.OpenAlt(root, d.Path, links)
		if notThere(err) {
			continue
		}
		if err == nil {
			d.Alt, err = d.own(found)
		}
		if err != nil {
			return err
		}
		links, err := symbolize.ReadDebugLinks(found, found.Size)
		d.Bytes += links.DebugBytes
		return err
	}
	alt, fetched, err := d.fetch(ctx, fetch, links.AltBuildID)
	d.Alt = alt
	d.Bytes += fetched.DebugBytes
	return err
}

func (d *DebugFiles) findPackage(roots []fs.FS, path string) error {
	for _, root := range roots {
		f, err := root.Open(path[1:] + ".dwp")
		if notThere(err) {
			continue
		}
		if err != nil {
			return err
		}
		d.Package, err = d.own(&symbolize.DebugFile{ReaderAt: f.(*os.File)})
		return err
	}
	return nil
}

// notThere reports whether there is no such file to be had: what is in its place
// or may not be read is none.
func notThere(err error) bool {
	var failed *fs.PathError
	return errors.Is(err, fs.ErrNotExist) || errors.As(err, &failed)
}

// own takes a file over, to be closed with d.
func (d *DebugFiles) own(f *symbolize.DebugFile) (*os.File, error) {
	file, ok := f.ReaderAt.(*os.File)
	if !ok {
		return nil, fmt.Errorf("a file of type %T cannot be handed on", f.ReaderAt)
	}
	d.opened = append(d.opened, file)
	return file, nil
}

// Close closes the files that OpenDebugFiles opened.
func (d *DebugFiles) Close() error {
	var err error
	for _, f := range d.opened {
		err = errors.Join(err, f.Close())
	}
	d.opened = nil
	return err
}
