package main

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// archive writes a cpio archive in the "newc" format, which the kernel unpacks as its first file system
// (Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	w    *bufio.Writer
	seen map[string]bool
	ino  int
	size int64
}

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriter(w), seen: map[string]bool{"/": true}}
}

// entry writes one header with its name and body, each padded to four bytes.
func (a *archive) entry(name string, mode uint32, body []byte) error {
	a.ino++
	name = strings.TrimPrefix(name, "/")
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.ino, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name)+1, 0)
	for _, part := range [][]byte{append([]byte(header+name), 0), body} {
		if _, err := a.w.Write(part); err != nil {
			return err
		}
		a.size += int64(len(part))
		for ; a.size%4 != 0; a.size++ {
			if err := a.w.WriteByte(0); err != nil {
				return err
			}
		}
	}
	return nil
}

// directory adds name and what is above it.
func (a *archive) directory(name string) error {
	if a.seen[name] {
		return nil
	}
	a.seen[name] = true
	if err := a.directory(path.Dir(name)); err != nil {
		return err
	}
	return a.entry(name, 0o40755, nil)
}

// file adds the regular file that source is, after links, under name.
func (a *archive) file(name, source string) error {
	if a.seen[name] {
		return nil
	}
	a.seen[name] = true
	if err := a.directory(path.Dir(name)); err != nil {
		return err
	}
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	body, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	if err := a.entry(name, 0o100000|uint32(info.Mode().Perm()), body); err != nil {
		return err
	}
	return a.libraries(source)
}

// libraries adds the loader and the shared libraries that a program names, each under the path where this
// machine has it.
func (a *archive) libraries(source string) error {
	f, err := elf.Open(source)
	var format *elf.FormatError
	if errors.As(err, &format) || errors.Is(err, io.EOF) {
		return nil // a script, or data
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		name, err := io.ReadAll(p.Open())
		if err != nil {
			return err
		}
		loader := strings.TrimRight(string(name), "\x00")
		if err := a.file(loader, loader); err != nil {
			return err
		}
	}
	needed, err := f.ImportedLibraries()
	if err != nil {
		return nil // a static program
	}
	runpath, err := f.DynString(elf.DT_RUNPATH)
	if err != nil {
		return err
	}
	var search []string
	for _, dirs := range runpath {
		for dir := range strings.SplitSeq(dirs, ":") {
			search = append(search, strings.ReplaceAll(dir, "$ORIGIN", filepath.Dir(source)))
		}
	}
	search = append(search, "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
	for _, library := range needed {
		at := slices.IndexFunc(search, func(dir string) bool {
			_, err := os.Stat(filepath.Join(dir, library))
			return err == nil
		})
		if at < 0 {
			return fmt.Errorf("%s needs %s, which is in none of %v", source, library, search)
		}
		full := filepath.Join(search[at], library)
		if err := a.file(full, full); err != nil {
			return err
		}
	}
	return nil
}

// tree adds all regular files below dir under their own paths.
func (a *archive) tree(dir string) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		return a.file(p, p)
	})
}

func (a *archive) close() error {
	if err := a.entry("TRAILER!!!", 0, nil); err != nil {
		return err
	}
	return a.w.Flush()
}
