package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"
)

// TestKernelCompiling profiles code in anonymous memory that keeps frame pointers and has a perf-PID.map: its frames
// have names, and stacks go on through it.
func TestKernelCompiling(t *testing.T) {
	needRoot(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("the code that the program writes is for amd64")
	}
	dir := makeDir(t)
	source, err := filepath.Abs("testdata/compiling/compiling.c")
	if err != nil {
		t.Fatal(err)
	}
	inDir(t, dir, "gcc", "-O1", "-o", "compiling", source)
	pid := startProgram(t, filepath.Join(dir, "compiling"))
	t.Cleanup(func() {
		if err := os.Remove(fmt.Sprintf("/tmp/perf-%d.map", pid)); err != nil {
			t.Error(err)
		}
	})
	p := record(t, pid, 2*time.Second)
	whole, all := int64(0), int64(0)
	for _, s := range p.Sample {
		all += s.Value[0]
		stack := callers(s)
		if slices.Equal(stack[:min(3, len(stack))], []string{"compiled_inner", "outer", "main"}) && stack[len(stack)-1] == "_start" {
			whole += s.Value[0]
		} else {
			t.Logf("%d samples of %v", s.Value[0], stack)
		}
	}
	if all < 10 || whole < all*9/10 {
		t.Errorf("%d of %d stacks are whole", whole, all)
	}
	outer := slices.IndexFunc(p.Function, func(f *profile.Function) bool { return f.Name == "outer" })
	if outer < 0 || p.Function[outer].Filename != "/src/outer.py" || p.Function[outer].SystemName != "py::outer:/src/outer.py" {
		t.Errorf("outer is not as its name in the file says: %v", p.Function)
	}
}

// callers are the functions of a stack of user space, the leaf first.
func callers(s *profile.Sample) (names []string) {
	for _, l := range s.Location {
		if l.Mapping != nil && strings.HasPrefix(l.Mapping.File, "[kernel") {
			continue
		}
		for _, line := range l.Line {
			names = append(names, line.Function.Name)
		}
	}
	return names
}
