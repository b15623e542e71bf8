package symbolize

import (
	"debug/elf"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// firstThere returns the first file that a pattern matches, or "".
func firstThere(t testing.TB, patterns ...string) string {
	t.Helper()
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err != nil {
			t.Fatal(err)
		}
		if len(found) > 0 {
			return found[0]
		}
	}
	return ""
}

func libc(t testing.TB) string {
	t.Helper()
	path := firstThere(t, "/lib/*-linux-gnu/libc.so.6", "/lib64/libc.so.6", "/usr/lib/libc.so.6")
	if path == "" {
		skip(t, "there is no glibc")
	}
	return path
}

// toolSymbol is a symbol as readelf prints it.
type toolSymbol struct {
	start, size uint64
	name        string
}

// toolSymbols returns the functions of a file as readelf (binutils or LLVM) lists them, by start.
func toolSymbols(t testing.TB, path string) []toolSymbol {
	t.Helper()
	var out []byte
	var err error
	for _, tool := range []string{"readelf", "llvm-readelf-19", "llvm-readelf"} {
		if out, err = exec.Command(tool, "--symbols", "--dyn-syms", "--wide", path).Output(); err == nil {
			break
		}
	}
	if err != nil {
		skip(t, fmt.Sprint("readelf does not run: ", err))
	}
	var symbols []toolSymbol
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 8 || f[3] != "FUNC" && f[3] != "IFUNC" && f[3] != "NOTYPE" || f[6] == "UND" || f[6] == "ABS" {
			continue
		}
		start, err := strconv.ParseUint(f[1], 16, 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		size, err := strconv.ParseUint(f[2], 0, 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		// readelf prints versions in one style where the table has another.
		name, _, _ := strings.Cut(f[7], "@")
		symbols = append(symbols, toolSymbol{start, size, name})
	}
	slices.SortStableFunc(symbols, func(a, b toolSymbol) int {
		switch {
		case a.start < b.start:
			return -1
		case a.start > b.start:
			return 1
		}
		return 0
	})
	return symbols
}

// randomCode returns random addresses in the sections of a file that are executed, but for stubs, which have no symbols:
// TestStubsEqualObjdump has those.
func randomCode(t testing.TB, path string, seed uint64, count int) []uint64 {
	t.Helper()
	return randomIn(t, path, seed, count, func(name string) bool { return !strings.HasPrefix(name, ".plt") })
}

// randomText returns random addresses in those of them that hold what was compiled.
func randomText(t testing.TB, path string, seed uint64, count int) []uint64 {
	t.Helper()
	return randomIn(t, path, seed, count, func(name string) bool { return strings.Contains(name, ".text") })
}

func randomIn(t testing.TB, path string, seed uint64, count int, sections func(name string) bool) []uint64 {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var total uint64
	var code []*elf.Section
	for _, s := range f.Sections {
		if s.Flags&elf.SHF_EXECINSTR != 0 && s.Flags&elf.SHF_ALLOC != 0 && sections(s.Name) {
			code, total = append(code, s), total+s.Size
		}
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	addrs := make([]uint64, count)
	for i := range addrs {
		n := rng.Uint64N(total)
		for _, s := range code {
			if n < s.Size {
				addrs[i] = s.Addr + n
				break
			}
			n -= s.Size
		}
	}
	return addrs
}

// compareWithReadelf looks random addresses up and compares with a search through all that readelf lists.
func compareWithReadelf(t *testing.T, path string, count int) {
	t.Helper()
	f := openFile(t, path)
	symbols := toolSymbols(t, path)
	named, aliases := 0, 0
	for _, addr := range randomCode(t, path, 1, count) {
		// The sized symbols that hold addr and start last.
		var want []string
		wantStart := uint64(0)
		i, _ := slices.BinarySearchFunc(symbols, addr+1, func(s toolSymbol, a uint64) int {
			if s.start < a {
				return -1
			}
			return 1
		})
		for j := i - 1; j >= 0 && (want == nil || symbols[j].start == wantStart); j-- {
			if s := symbols[j]; addr < s.start+s.size {
				want, wantStart = append(want, s.name), s.start
			} else if i-j > 50_000 {
				break // no function is as far back
			}
		}
		got, _, _ := strings.Cut(names(f, addr), "@")
		if want == nil && got != "" {
			// Only a symbol without a size can be it.
			k := slices.IndexFunc(symbols, func(s toolSymbol) bool { return s.name == got && s.size == 0 })
			if k < 0 {
				t.Errorf("%#x: got %q, want nothing", addr, got)
			}
			continue
		}
		if want != nil && !slices.Contains(want, got) {
			t.Errorf("%#x: got %q, want one of %q", addr, got, want)
		}
		if want != nil {
			named++
		}
		if len(want) > 1 {
			aliases++
		}
	}
	if err := f.Err(); err != nil {
		t.Error(err)
	}
	if named < count/10 {
		t.Errorf("%d of %d addresses are in functions", named, count)
	}
	t.Logf("%d addresses, %d in functions, %d of them with aliases", count, named, aliases)
}

func TestLibcEqualsReadelf(t *testing.T) {
	compareWithReadelf(t, libc(t), 10_000)
}
