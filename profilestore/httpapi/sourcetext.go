package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
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

// SourceAnswer is the answer of /api/v1/source: the lines of a function and what each of them used; with their text,
// and then with the lines between and around them, if the server has it.
type SourceAnswer struct {
	Unit     string       `json:"unit"`
	Total    int64        `json:"total"` // of everything that was selected
	Function string       `json:"function"`
	File     string       `json:"file"` // as profiles name it, of several the one with most; "" unknown
	Lines    []SourceLine `json:"lines"`
	NoText   string       `json:"no_text,omitempty"` // why there is no text: a sentence
}

// SourceLine is one line of text.
type SourceLine struct {
	Line  int    `json:"line"` // from 1 on; 0: what the profiles have no line for
	Text  string `json:"text"`
	Self  int64  `json:"self"`
	Total int64  `json:"total"` // with the line anywhere in the stack, a recursion counted once
}

const (
	maxSource   = 4 << 20 // bytes of a file
	aroundLines = 10      // shown before the first and behind the last line that was seen
)

func (a *api) source(r *http.Request) (any, error) {
	p, q, err := readQuery(r, "function", "filter")
	if err != nil {
		return nil, err
	}
	name := p.Get("function")
	if name == "" {
		return nil, badRequest("function", "function is missing: name the function whose source is wanted")
	}
	filters, err := p.filters()
	if err != nil {
		return nil, err
	}
	merged, err := a.store.Merge(r.Context(), q)
	if err != nil {
		return nil, err
	}
	if merged, err = filterProfile(r.Context(), merged, filters); err != nil {
		return nil, err
	}
	index, err := merged.SampleIndexByName(q.Type.SampleType)
	if err != nil {
		return nil, err
	}
	ans := &SourceAnswer{Unit: q.Type.SampleUnit, Function: name}
	for _, s := range merged.Sample {
		ans.Total += s.Value[index]
	}
	file, values := linesOf(merged, index, name)
	ans.File = file
	ans.Lines, err = a.annotated(file, values)
	var none *profilestore.Error
	if errors.As(err, &none) {
		// Which line it is can be told without its text.
		ans.Lines, ans.NoText, err = withoutText(values), none.Message, nil
	}
	return ans, err
}

// annotated are the lines of a file with their text. A [profilestore.Error] says why there is none.
func (a *api) annotated(file string, values map[int64]*lineValue) ([]SourceLine, error) {
	none := func(format string, args ...any) ([]SourceLine, error) {
		return nil, &profilestore.Error{Code: codeNotFound, Message: fmt.Sprintf(format, args...)}
	}
	if file == "" {
		return none("no profile in the range names the file of this function: its binary has no debug information")
	}
	if a.sourceRoot == "" {
		return none("source text is not served: name a directory that has it with --source-root")
	}
	text, err := readSource(a.sourceRoot, file)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if last := slices.Max(slices.Collect(maps.Keys(values))); last > int64(len(lines)) {
		return none("%.200q has %d lines below --source-root and line %d in profiles: it is another version", file, len(lines), last)
	}
	return annotate(lines, values), nil
}

// lineValue is what one line used.
type lineValue struct{ self, total int64 }

// linesOf finds the file of a function, and what each of its lines used. The file is "" if no location names one.
func linesOf(p *profile.Profile, index int, name string) (file string, lines map[int64]*lineValue) {
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
	return file, files[file]
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
func annotate(text []string, values map[int64]*lineValue) []SourceLine {
	var seen []int64
	for n := range values {
		if n > 0 {
			seen = append(seen, n)
		}
	}
	if len(seen) == 0 {
		return withoutText(values)
	}
	first, last := max(slices.Min(seen)-aroundLines, 1), min(slices.Max(seen)+aroundLines, int64(len(text)))
	lines := withoutLine(values)
	for n := first; n <= last; n++ {
		l := SourceLine{Line: int(n), Text: strings.TrimSuffix(text[n-1], "\r")}
		if v := values[n]; v != nil {
			l.Self, l.Total = v.self, v.total
		}
		lines = append(lines, l)
	}
	return lines
}

// withoutText are the lines that have values.
func withoutText(values map[int64]*lineValue) []SourceLine {
	lines := []SourceLine{}
	for _, n := range slices.Sorted(maps.Keys(values)) {
		lines = append(lines, SourceLine{Line: int(n), Self: values[n].self, Total: values[n].total})
	}
	return lines
}

// withoutLine is what has a file and no line.
func withoutLine(values map[int64]*lineValue) []SourceLine {
	if v := values[0]; v != nil {
		return []SourceLine{{Self: v.self, Total: v.total}}
	}
	return []SourceLine{}
}
