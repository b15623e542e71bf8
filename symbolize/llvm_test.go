package symbolize

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Indexes are compared with what llvm-symbolizer-19 says of the same code, at random addresses of the sections with
// .text in their name: stubs of the linker (.plt) have no names in either, File has those, and llvm-symbolizer goes on with
// what is before them.
//
// At an address that has debug information the same functions have to come in the same order, each with the same file
// and line; at another the same symbol and file, or none. TestVerifySymbols... hold 99.9 % of all addresses to that,
// and what differs has to be of one of the classes below. Functions are compared demangled, by one demangler; in C, where
// linkage names are the aliases that libraries use inside, as the source has them. llvm-symbolizer takes the outermost
// name from the symbol table if there is one, so that it is asked about a copy without; how its answer with symbols
// differs from Frame.SystemName is counted by itself, and has to be of the same classes.
//
//   - alias: the symbols differ, and both are of one address. Where the linker has several names for one function,
//     llvm-symbolizer takes one by their order in the table.
//   - unsized: llvm-symbolizer has a symbol without a size go on, past the end of its section too, and takes a label
//     within a function for one; or Pilotlight has such a symbol go on up to the next, within its section.
const llvmSymbolizer = "llvm-symbolizer-19"

// equality counts addresses.
type equality struct {
	all             int
	unnamed         int // equal as neither has a name: padding, mostly
	debug, equal    int // with debug information, and of these the equal ones
	symbols, same   int // with symbols only
	differ, renamed map[string]int
	depth, inlined  int
}

func newEquality(count int) equality {
	return equality{all: count, differ: make(map[string]int), renamed: make(map[string]int)}
}

// share is the share of the addresses that are equal, before any explanation.
func (e equality) share() float64 {
	return float64(e.unnamed+e.equal+e.same) / float64(e.all)
}

func (e equality) String() string {
	return fmt.Sprintf("%d addresses, %.2f %% equal: %d of %d with debug information, %d of %d with symbols only, %d unnamed in both; "+
		"not equal %v; %d with inlined calls, up to %d frames; symbols other than llvm-symbolizer's %v",
		e.all, 100*e.share(), e.equal, e.debug, e.same, e.symbols, e.unnamed, e.differ, e.inlined, e.depth, e.renamed)
}

type llvmFrame struct {
	FunctionName string
	FileName     string
	Line         int
}

// askLLVM returns the frames of each address, without demangling.
func askLLVM(t testing.TB, path, functions string, addrs []uint64) [][]llvmFrame {
	t.Helper()
	if _, err := exec.LookPath(llvmSymbolizer); err != nil {
		skip(t, llvmSymbolizer+" is not installed")
	}
	var in bytes.Buffer
	for _, addr := range addrs {
		fmt.Fprintf(&in, "%#x\n", addr)
	}
	cmd := exec.Command(llvmSymbolizer, "--obj="+path, "--output-style=JSON", "--no-demangle", "--functions="+functions)
	cmd.Stdin, cmd.Stderr, cmd.Dir = &in, os.Stderr, filepath.Dir(path)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	frames := make([][]llvmFrame, 0, len(addrs))
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var answer struct{ Symbol []llvmFrame }
		if err := dec.Decode(&answer); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, answer.Symbol)
	}
	if len(frames) != len(addrs) {
		t.Fatalf("%d answers for %d addresses", len(frames), len(addrs))
	}
	return frames
}

// withoutSymbols returns a copy of a file that has no symbol table.
func withoutSymbols(t testing.TB, path string) string {
	t.Helper()
	bare := filepath.Join(t.TempDir(), "bare")
	run(t, filepath.Dir(path), "llvm-objcopy-19", "-R", ".symtab", "-R", ".strtab", path, bare)
	if _, err := os.Stat(path + ".dwp"); err == nil {
		run(t, filepath.Dir(path), "cp", path+".dwp", bare+".dwp")
	}
	return bare
}

// compareWithLLVM looks random addresses of the code of a file up in its index. model is the file that
// llvm-symbolizer is asked about.
func compareWithLLVM(t *testing.T, model string, x *Index, seed uint64, count int, inC bool) equality {
	t.Helper()
	addrs := randomText(t, model, seed, count)
	symbols := askLLVM(t, model, "linkage", addrs)
	var debug [][]llvmFrame
	if inC {
		debug = askLLVM(t, model, "short", addrs)
	} else {
		bare := withoutSymbols(t, model)
		debug = askLLVM(t, bare, "linkage", addrs)
	}
	aliases := make(map[string][]toolSymbol)
	for _, s := range toolSymbols(t, model) {
		aliases[s.name] = append(aliases[s.name], s)
	}
	e := newEquality(count)
	for i, addr := range addrs {
		e.add(t, addr, x.Resolve(nil, addr), debug[i], symbols[i], aliases)
	}
	if err := x.Err(); err != nil {
		t.Error(err)
	}
	// In small programs the share hangs on single functions with several names.
	if e.share() < 0.995 {
		t.Errorf("less than 99.5 %% are equal")
	}
	t.Logf("%s: %v", filepath.Base(model), e)
	return e
}

// add counts an address. debug is what llvm-symbolizer has from debug information, symbols what it has in all.
func (e *equality) add(t *testing.T, addr uint64, frames []Frame, debug, symbols []llvmFrame, aliases map[string][]toolSymbol) {
	t.Helper()
	known := func(f []llvmFrame) bool { return len(f) > 0 && f[0].FunctionName != "" }
	class, classes := "equal", e.differ
	switch {
	case !known(symbols) && !known(debug) && len(frames) == 0:
		e.unnamed++ // padding, which may have a line
	case known(debug) && debug[0].FileName != "":
		e.debug++
		e.depth = max(e.depth, len(debug))
		if len(debug) > 1 {
			e.inlined++
		}
		equal := slices.EqualFunc(frames, debug, func(f Frame, want llvmFrame) bool {
			return f.Function == demangled(want.FunctionName) && f.File == want.FileName && f.Line == want.Line
		})
		if !equal {
			class = "wrong"
			break
		}
		e.equal++
		if known(symbols) {
			class, classes = classOf(frames[len(frames)-1].SystemName, symbols[len(symbols)-1].FunctionName, aliases), e.renamed
		}
	default:
		e.symbols++
		class = symbolClass(frames, symbols, aliases)
		if class == "equal" {
			e.same++
		}
	}
	if class == "equal" {
		return
	}
	if classes[class]++; class == "wrong" && classes[class] <= 5 {
		t.Errorf("%#x:\n got %+v\nwant %+v\n and %+v", addr, frames, debug, symbols)
	}
}

// classOf says how two symbols differ.
func classOf(got, want string, aliases map[string][]toolSymbol) string {
	got, _, _ = strings.Cut(got, "@")
	want, _, _ = strings.Cut(want, "@")
	if demangled(got) == demangled(want) {
		return "equal"
	}
	for _, g := range aliases[got] {
		for _, w := range aliases[want] {
			switch {
			case g.start == w.start:
				return "alias"
			case w.size == 0 && g.start <= w.start && w.start < g.start+g.size:
				return "unsized"
			}
		}
	}
	return "wrong"
}

// symbolClass says how frames without debug information differ.
func symbolClass(got []Frame, want []llvmFrame, aliases map[string][]toolSymbol) string {
	if len(want) > 0 && want[0].FunctionName == "" {
		want = nil
	}
	switch {
	case len(got) == 0 && len(want) == 1 && want[0].Line == 0, len(want) == 0 && len(got) == 1 && got[0].Line == 0:
		return "unsized"
	case len(got) != 1 || len(want) != 1:
		return "wrong"
	}
	if got[0].File != want[0].FileName || got[0].Line != want[0].Line {
		return "wrong"
	}
	return classOf(got[0].SystemName, want[0].FunctionName, aliases)
}

// openTestIndex builds the index of a file. Split files are found where the file says.
func openTestIndex(t testing.TB, path string, opts IndexOptions) (*Index, IndexStats) {
	t.Helper()
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	spill, err := os.Create(filepath.Join(dir, "spill"))
	if err != nil {
		t.Fatal(err)
	}
	defer spill.Close()
	out, err := os.Create(filepath.Join(dir, "index"))
	if err != nil {
		t.Fatal(err)
	}
	opts.Spill = spill
	stats, err := BuildIndex(context.Background(), in, info.Size(), out, opts)
	if err != nil {
		t.Fatal(err)
	}
	x, err := OpenIndex(out, stats.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	return x, stats
}

// debugFile opens a file for IndexOptions.
func debugFile(path string) (*DebugFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return &DebugFile{f, info.Size()}, nil
}

func openSplitFile(dir, name string) (*DebugFile, error) {
	if !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	return debugFile(name)
}

// run runs a tool in a directory, and skips the test if the tool is not there.
func run(t testing.TB, dir, tool string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		skip(t, tool+" is not installed")
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", tool, strings.Join(args, " "), err, out)
	}
}

// compileInline builds the C++ program of testdata/inline in a directory of its own and returns its path.
func compileInline(t testing.TB, compiler string, flags ...string) string {
	t.Helper()
	src, err := filepath.Abs("testdata/inline")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, unit := range []string{"main", "other"} {
		args := append([]string{"-std=c++17", "-c", "-o", unit + ".o", filepath.Join(src, unit+".cc")}, flags...)
		run(t, dir, compiler, args...)
	}
	run(t, dir, compiler, append([]string{"-o", "inline", "main.o", "other.o"}, flags...)...)
	return filepath.Join(dir, "inline")
}

// dwarfForm is a form in which compilers and tools leave DWARF.
type dwarfForm struct {
	name, compiler string
	flags          []string
	after          func(t *testing.T, path string, opts *IndexOptions)
	original       bool // llvm-symbolizer cannot read what after makes, so that it is asked about what was before
}

func dwarfForms() []dwarfForm {
	return []dwarfForm{
		{name: "DWARF 5", compiler: "g++", flags: []string{"-O2", "-g"}},
		{name: "DWARF 4", compiler: "g++", flags: []string{"-O2", "-gdwarf-4"}},
		{name: "DWARF 3", compiler: "g++", flags: []string{"-O2", "-gdwarf-3", "-gstrict-dwarf"}},
		{name: "64-bit DWARF", compiler: "g++", flags: []string{"-O2", "-g", "-gdwarf64"}},
		{name: "unoptimized", compiler: "g++", flags: []string{"-O0", "-g"}},
		{name: "position-dependent", compiler: "g++", flags: []string{"-O2", "-g", "-no-pie"}},
		{name: "type units", compiler: "g++", flags: []string{"-O2", "-g", "-fdebug-types-section"}},
		{name: "link-time optimized", compiler: "g++", flags: []string{"-O2", "-g", "-flto"}},
		{name: "link-time optimized, zlib", compiler: "g++", flags: []string{"-O2", "-g", "-flto", "-gz"}},
		{name: "zlib", compiler: "g++", flags: []string{"-O2", "-g", "-gz"}},
		{name: "zstd", compiler: "g++", flags: []string{"-O2", "-g"}, after: func(t *testing.T, path string, opts *IndexOptions) {
			run(t, filepath.Dir(path), "llvm-objcopy-19", "--compress-debug-sections=zstd", path)
		}},
		{name: "split", compiler: "g++", flags: []string{"-O2", "-g", "-gsplit-dwarf"}, after: withSplitFiles},
		{name: "split, DWARF 4", compiler: "g++", flags: []string{"-O2", "-gdwarf-4", "-gsplit-dwarf"}, after: withSplitFiles},
		{name: "split, clang", compiler: "clang++-19", flags: []string{"-O2", "-g", "-gsplit-dwarf"}, after: withSplitFiles},
		{name: "split package", compiler: "clang++-19", flags: []string{"-O2", "-g", "-gsplit-dwarf"}, after: withPackage},
		{name: "split package, DWARF 4", compiler: "clang++-19", flags: []string{"-O2", "-gdwarf-4", "-gsplit-dwarf"}, after: withPackage},
		{name: "clang", compiler: "clang++-19", flags: []string{"-O2", "-g"}},
		{name: "clang, DWARF 4", compiler: "clang++-19", flags: []string{"-O2", "-gdwarf-4"}},
		{name: "dwz", compiler: "g++", flags: []string{"-O2", "-g"}, after: func(t *testing.T, path string, opts *IndexOptions) {
			run(t, filepath.Dir(path), "dwz", path)
		}},
		{name: "dwz, alternate file", compiler: "g++", flags: []string{"-O2", "-g"}, original: true, after: func(t *testing.T, path string, opts *IndexOptions) {
			dir := filepath.Dir(path)
			run(t, dir, "cp", path, path+"2")
			run(t, dir, "dwz", "-m", filepath.Join(dir, "common"), path, path+"2")
			var err error
			if opts.Alt, err = debugFile(filepath.Join(dir, "common")); err != nil {
				t.Fatal(err)
			}
		}},
	}
}

// build compiles the program of testdata/inline and returns its path, and that of the file to ask llvm-symbolizer about.
func (f dwarfForm) build(t *testing.T, opts *IndexOptions) (path, model string) {
	path = compileInline(t, f.compiler, f.flags...)
	model = path
	if f.original {
		model = path + ".original"
		run(t, filepath.Dir(path), "cp", path, model)
	}
	if f.after != nil {
		f.after(t, path, opts)
	}
	return path, model
}

func TestIndexEqualsLLVM(t *testing.T) {
	for _, form := range dwarfForms() {
		t.Run(form.name, func(t *testing.T) { compareForm(t, form, 2000) })
	}
}

func compareForm(t *testing.T, form dwarfForm, count int) equality {
	t.Helper()
	var opts IndexOptions
	path, model := form.build(t, &opts)
	x, stats := openTestIndex(t, path, opts)
	if stats.Skipped != nil {
		t.Error(stats.Skipped)
	}
	compareOnly(t, path, x, opts)
	e := compareWithLLVM(t, model, x, 1, count, false)
	if e.debug < count/2 || e.inlined < count/20 && form.name != "unoptimized" {
		t.Errorf("too little to compare: %v", e)
	}
	return e
}

// compareOnly holds that an index for some addresses has for them what the whole index has.
func compareOnly(t *testing.T, path string, whole *Index, opts IndexOptions) {
	t.Helper()
	opts.Only = randomCode(t, path, 7, 50)
	slices.Sort(opts.Only)
	x, stats := openTestIndex(t, path, opts)
	for _, addr := range opts.Only {
		if got, want := brief(x.Resolve(nil, addr)), brief(whole.Resolve(nil, addr)); got != want {
			t.Errorf("%#x in an index for some addresses: got %s, want %s", addr, got, want)
		}
	}
	if size := whole.in.size; uint64(stats.Bytes) >= size {
		t.Errorf("an index for some addresses has %d bytes, the whole one %d", stats.Bytes, size)
	}
}

func withSplitFiles(_ *testing.T, _ string, opts *IndexOptions) { opts.OpenSplit = openSplitFile }

// withPackage puts the .dwo files into a package and removes them.
func withPackage(t *testing.T, path string, opts *IndexOptions) {
	run(t, filepath.Dir(path), "llvm-dwp-19", "-e", path, "-o", path+".dwp")
	var err error
	if opts.Package, err = debugFile(path + ".dwp"); err != nil {
		t.Fatal(err)
	}
	for _, unit := range []string{"main.dwo", "other.dwo"} {
		if err := os.Remove(filepath.Join(filepath.Dir(path), unit)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestIndexRustEqualsLLVM takes a debug and an optimized build, which bring the standard library's units along.
func TestIndexRustEqualsLLVM(t *testing.T) {
	for _, level := range []string{"0", "2"} {
		t.Run("opt-level="+level, func(t *testing.T) { compareRust(t, level, 10_000) })
	}
}

func compareRust(t *testing.T, level string, count int) equality {
	t.Helper()
	path := filepath.Join(t.TempDir(), "inline")
	run(t, ".", "rustc", "-g", "-Copt-level="+level, "-o", path, "testdata/inline/main.rs")
	x, stats := openTestIndex(t, path, IndexOptions{})
	if stats.Skipped != nil {
		t.Error(stats.Skipped)
	}
	e := compareWithLLVM(t, path, x, 1, count, false)
	if e.debug < count/10 {
		t.Errorf("too little to compare: %v", e)
	}
	return e
}

// debugOf returns the file with the debug information of a system's library.
func debugOf(t testing.TB, path string) string {
	t.Helper()
	out, err := exec.Command("readelf", "-n", path).Output()
	if err != nil {
		skip(t, fmt.Sprint("readelf does not run: ", err))
	}
	_, id, _ := strings.Cut(string(out), "Build ID: ")
	id, _, _ = strings.Cut(id, "\n")
	if len(id) < 4 {
		skip(t, path+" has no build ID")
	}
	debug := fmt.Sprintf("/usr/lib/debug/.build-id/%s/%s.debug", id[:2], id[2:])
	if _, err := os.Stat(debug); err != nil {
		skip(t, "debug information of "+path+" is not installed")
	}
	return debug
}

func TestIndexLibcEqualsLLVM(t *testing.T) {
	debug := debugOf(t, libc(t))
	x, stats := openTestIndex(t, debug, IndexOptions{})
	if stats.Skipped != nil {
		t.Error(stats.Skipped)
	}
	compareWithLLVM(t, debug, x, 1, 10_000, true)
}
