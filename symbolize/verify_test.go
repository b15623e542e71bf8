//go:build verify

// The long tests: they take the large programs of a developer's machine, and download Go toolchains through the Go
// module proxy. make verify runs them, or
//
//	go test -tags verify -run TestVerify -v ./symbolize

package symbolize

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestVerifyGoToolchains builds the program with the Go releases whose tables this package reads. Go 1.19 is not
// among them: its go command does not build when another one has switched to it. Its tables are those of 1.18.
func TestVerifyGoToolchains(t *testing.T) {
	for _, version := range []string{
		"go1.18.10", "go1.20.14", "go1.21.13", "go1.22.12", "go1.23.4", "go1.24.4", "go1.25.3",
	} {
		for _, mode := range []string{"exe", "pie"} {
			t.Run(version+" "+mode, func(t *testing.T) {
				env := []string{"GOTOOLCHAIN=" + version}
				compareWithRuntime(t, buildGo(t, env, "-buildmode="+mode, "-ldflags=-s -w"), 10_000)
			})
		}
	}
}

func TestVerifyBinariesEqualReadelf(t *testing.T) {
	for _, path := range largeBinaries(t) {
		t.Run(filepath.Base(path), func(t *testing.T) { compareWithReadelf(t, path, 20_000) })
	}
}

func largeBinaries(t testing.TB) []string {
	t.Helper()
	var paths []string
	for _, patterns := range [][]string{
		{"/usr/bin/node"},
		{"/usr/lib/llvm-*/bin/clang"},
		{"/usr/lib/*-linux-gnu/libLLVM.so.*", "/usr/lib/*-linux-gnu/libLLVM-*.so.1"},
		{"/usr/lib/*-linux-gnu/libclang-cpp.so.*"},
		{"/usr/lib/*-linux-gnu/libstdc++.so.6"},
		{"/usr/lib/*-linux-gnu/libcrypto.so.3"},
		{"/usr/lib/jvm/*/lib/server/libjvm.so"},
		{"/usr/bin/bash"},
	} {
		if path := firstThere(t, patterns...); path != "" {
			paths = append(paths, path)
		} else {
			t.Logf("not on this machine: %v", patterns)
		}
	}
	if len(paths) < 4 {
		skip(t, "fewer than four of the large programs are installed")
	}
	return paths
}

// TestVerifyBinariesEqualLLVM compares with llvm-symbolizer.
func TestVerifyBinariesEqualLLVM(t *testing.T) {
	const tool = "llvm-symbolizer-19"
	if _, err := exec.LookPath(tool); err != nil {
		skip(t, tool+" is not installed")
	}
	for _, path := range largeBinaries(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			f := openFile(t, path)
			symbols := toolSymbols(t, path)
			const count = 20_000
			addrs := randomCode(t, path, 2, count)
			var in bytes.Buffer
			for _, addr := range addrs {
				fmt.Fprintf(&in, "%#x\n", addr)
			}
			cmd := exec.Command(tool, "--obj="+path, "--no-demangle", "--no-inlines", "--functions=linkage", "--output-style=GNU")
			cmd.Stdin, cmd.Stderr = &in, os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(string(out), "\n")
			byName := map[string][]toolSymbol{}
			for _, s := range symbols {
				byName[s.name] = append(byName[s.name], s)
			}
			holds := func(name string, addr uint64) (starts []uint64, sized bool) {
				for _, s := range byName[name] {
					if addr >= s.start && (s.size == 0 || addr < s.start+s.size) {
						starts, sized = append(starts, s.start), sized || s.size > 0
					}
				}
				return starts, sized
			}
			equal, aliases, outer, none, notCode, wrong := 0, 0, 0, 0, 0, 0
			for i, addr := range addrs {
				want, _, _ := strings.Cut(lines[2*i], "@")
				got, _, _ := strings.Cut(names(f, addr), "@")
				starts, sized := holds(got, addr)
				wantStarts, wantSized := holds(want, addr)
				switch {
				case got == want:
					equal++
				case want == "??" && got == "":
					none++
				case slices.ContainsFunc(starts, func(s uint64) bool { return slices.Contains(wantStarts, s) }):
					aliases++
				case sized && !wantSized:
					// llvm-symbolizer names labels, and nothing after an inner symbol's end, where an outer function is.
					outer++
				case got == "" && !wantSized:
					// Data in the text, or a label of a section before this one.
					notCode++
				default:
					if wrong++; wrong <= 5 {
						t.Errorf("%#x: got %q, want %q", addr, got, want)
					}
				}
			}
			t.Logf("%d addresses: %d equal, %d unnamed in both, %d aliases, %d in a function around a label, %d not code, %d wrong",
				count, equal, none, aliases, outer, notCode, wrong)
			if err := f.Err(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestVerifyDemangledEqualsFilt compares with binutils' c++filt.
func TestVerifyDemangledEqualsFilt(t *testing.T) {
	if _, err := exec.LookPath("c++filt"); err != nil {
		skip(t, "c++filt is not installed")
	}
	var mangled []string
	for _, path := range largeBinaries(t) {
		for _, s := range toolSymbols(t, path) {
			if strings.HasPrefix(s.name, "_Z") {
				mangled = append(mangled, s.name)
			}
		}
	}
	cmd := exec.Command("c++filt")
	cmd.Stdin = strings.NewReader(strings.Join(mangled, "\n"))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(want) != len(mangled) {
		t.Fatalf("%d names became %d", len(mangled), len(want))
	}
	differ := 0
	for i, name := range mangled {
		if demangled(name) != want[i] {
			differ++
		}
	}
	// c++filt spells std::string out inside of that class, and the two read some names of old compilers differently.
	if differ > len(mangled)/50 {
		t.Errorf("%d of %d names differ", differ, len(mangled))
	}
	t.Logf("%d names, %d differ", len(mangled), differ)
}
