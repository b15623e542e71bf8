package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/google/pprof/profile"

	"pilotlight/profilestore"
)

// SourceAnswer is the answer of /api/v1/source: the lines of a function, some before and behind them, and what each
// of them used.
type SourceAnswer struct {
	Unit     string       `json:"unit"`
	Function string       `json:"function"`
	File     string       `json:"file"` // as profiles name it; of several the one with most
	Lines    []SourceLine `json:"lines"`
}

// SourceLine is one line of text.
type SourceLine struct {
	Line  int    `json:"line"` // from 1 on
	Text  string `json:"text"`
	Self  int64  `json:"self"`
	Total int64  `json:"total"` // with the line anywhere in the stack, a recursion counted once
}

const (
	maxSource   = 4 << 20 // bytes of a file
	aroundLines = 10      // shown before the first and behind the last line that was seen
)

func (a *api) source(r *http.Request) (any, error) {
	p, q, err := readQuery(r, "function")
	if err != nil {
		return nil, err
	}
	name := p.Get("function")
	if name == "" {
		return nil, badRequest("function", "function is missing: name the function whose source is wanted")
	}
	if a.sourceRoot == "" {
		return nil, &profilestore.Error{Code: codeNotFound, Message: "source text is not served: name a directory that has it with --source-root"}
	}
	merged, err := a.store.Merge(r.Context(), q)
	if err != nil {
		return nil, err
	}
	file, lines, err := linesOf(merged, q.Type.SampleType, name)
	if err != nil {
		return nil, err
	}
	text, err := readSource(a.sourceRoot, file)
	if err != nil {
		return nil, err
	}
	return &SourceAnswer{q.Type.SampleUnit, name, file, annotate(text, lines)}, nil
}

// lineValue is what one line used.
type lineValue struct{ self, total int64 }

// linesOf finds the file of a function, and what each of its lines used.
func linesOf(p *profile.Profile, sampleType, name string) (file string, lines map[int64]*lineValue, err error) {
	index, err := p.SampleIndexByName(sampleType)
	if err != nil {
		return "", nil, err
	}
	type place struct {
		file string
		line int64
	}
	files := make(map[string]map[int64]*lineValue)
	sums := make(map[string]int64)
	for _, s := range p.Sample {
		seen := make(map[place]bool)
		for i, l := range s.Location {
			for j, one := range l.Line {
				if one.Function == nil || one.Function.Name != name || one.Function.Filename == "" {
					continue
				}
				at := place{one.Function.Filename, one.Line}
				if files[at.file] == nil {
					files[at.file] = make(map[int64]*lineValue)
				}
				v := files[at.file][at.line]
				if v == nil {
					v = new(lineValue)
					files[at.file][at.line] = v
				}
				if i == 0 && j == 0 {
					v.self += s.Value[index]
				}
				if !seen[at] {
					seen[at] = true
					v.total += s.Value[index]
					sums[at.file] += s.Value[index]
				}
			}
		}
	}
	for one, sum := range sums {
		if file == "" || sum > sums[file] || sum == sums[file] && one < file {
			file = one
		}
	}
	if file == "" {
		return "", nil, &profilestore.Error{Code: codeNotFound, Message: fmt.Sprintf("no profile in the range names a file of %.80q", name)}
	}
	return file, files[file], nil
}

// readSource reads a file below root, and nothing that a link or ".." leads to elsewhere. Profiles name files as they
// were where the program was built: the longest end of that path counts that is a file below root. Hidden files are not
// source.
func readSource(root, file string) ([]byte, error) {
	notThere := &profilestore.Error{Code: codeNotFound, Message: fmt.Sprintf("%.200q is not below the directory of --source-root", file)}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return nil, fmt.Errorf("--source-root: %w", err)
	}
	defer dir.Close()
	name := strings.TrimPrefix(path.Clean("/"+filepath.ToSlash(file)), "/")
	if below, err := filepath.Rel(root, file); err == nil && filepath.IsLocal(below) {
		name = below
	}
	if strings.HasPrefix(name, ".") || strings.Contains(name, "/.") {
		return nil, notThere
	}
	for rest, ok := name, true; ok && rest != ""; _, rest, ok = strings.Cut(rest, "/") {
		info, err := dir.Stat(rest) // not opened before it is known to be a file: a pipe would wait
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		return readText(dir, rest)
	}
	return nil, notThere
}

func readText(dir *os.Root, name string) (_ []byte, err error) {
	f, err := dir.Open(name)
	if errors.Is(err, fs.ErrPermission) {
		return nil, &profilestore.Error{Code: codeNotFound, Message: fmt.Sprintf("%.200q may not be read by the server", name)}
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	text, err := io.ReadAll(io.LimitReader(f, maxSource+1))
	if err != nil {
		return nil, fmt.Errorf("read source: %w", err)
	}
	if len(text) > maxSource || !utf8.Valid(text) || bytes.IndexByte(text, 0) >= 0 {
		return nil, &profilestore.Error{Code: profilestore.Unprocessable, Message: fmt.Sprintf("%.200q is not text of at most %d MB", name, maxSource>>20)}
	}
	return text, nil
}

// annotate takes the lines of a text that have values, those in between and some around them.
func annotate(text []byte, values map[int64]*lineValue) []SourceLine {
	all := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	var seen []int64
	for n := range values {
		seen = append(seen, n)
	}
	first, last := max(slices.Min(seen)-aroundLines, 1), min(slices.Max(seen)+aroundLines, int64(len(all)))
	lines := []SourceLine{}
	for n := first; n <= last; n++ {
		l := SourceLine{Line: int(n), Text: strings.TrimSuffix(all[n-1], "\r")}
		if v := values[n]; v != nil {
			l.Self, l.Total = v.self, v.total
		}
		lines = append(lines, l)
	}
	return lines
}
