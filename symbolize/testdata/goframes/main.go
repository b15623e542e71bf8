// Command goframes is a Go program that symbolizes itself: it prints what its own runtime says about random
// addresses of its code, for the tests to compare with what its file says.
//
//	goframes SEED COUNT
//
// Each line is an ELF address and, for each frame from the innermost on, the function, the file, the line and the
// first line of the function, all separated by tabs.
//
// Recipe: go build [-ldflags='-s -w'] [-buildmode=pie] . It has no dependency, so that any toolchain from Go 1.18
// on builds it.
package main

import (
	"bufio"
	"debug/elf"
	"fmt"
	"math/rand"
	"os"
	"runtime"
	"sort"
	"strconv"
	"strings"
	_ "unsafe" // for linkname
)

// expand appends the addresses of the calls inlined at the last address of a stack.
//
//go:linkname expand runtime/pprof.runtime_expandFinalInlineFrame
func expand(stk []uintptr) []uintptr

type number interface{ ~int | ~float64 }

type pair[T number] struct{ a, b T }

func (p *pair[T]) sum() T { return add(p.a, p.b) }

func add[T number](a, b T) T { return a + b }

func fold[T number](v []T, f func(a, b T) T) (s T) {
	for _, x := range v {
		s = f(s, x)
	}
	return s
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: goframes SEED COUNT")
		os.Exit(2)
	}
	seed, err := strconv.ParseInt(os.Args[1], 10, 64)
	check(err)
	count, err := strconv.Atoi(os.Args[2])
	check(err)
	rng := rand.New(rand.NewSource(seed))

	// Generic methods and closures that must be in the program to be found.
	p := pair[float64]{rng.Float64(), 1}
	ints := fold(rng.Perm(9), func(a, b int) int { return add(a, b) })
	fmt.Fprintln(os.Stderr, p.sum(), ints)

	start, end, bias := text()
	pcs := make([]int, 0, count)
	for len(pcs) < count {
		pc := uintptr(start + uint64(rng.Int63n(int64(end-start))))
		// What the runtime takes are return addresses, and in the byte before a function it sees that function.
		if f := runtime.FuncForPC(pc + 1); f == nil || f.Entry() != pc+1 {
			pcs = append(pcs, int(pc))
		}
	}
	sort.Ints(pcs)
	out := bufio.NewWriter(os.Stdout)
	for _, pc := range pcs {
		frames := runtime.CallersFrames(expand([]uintptr{uintptr(pc) + 1}))
		line := []string{strconv.FormatUint(uint64(pc)-bias, 16)}
		for {
			f, more := frames.Next()
			if f.PC != 0 {
				line = append(line, f.Function, f.File, strconv.Itoa(f.Line), strconv.Itoa(startLine(&f)))
			}
			if !more {
				break
			}
		}
		fmt.Fprintln(out, strings.Join(line, "\t"))
	}
	check(out.Flush())
}

// text returns the range of the program's code in memory, and by how much its addresses are above those in the file.
func text() (start, end, bias uint64) {
	f, err := elf.Open("/proc/self/exe")
	check(err)
	maps, err := os.ReadFile("/proc/self/maps")
	check(err)
	exe, err := os.Readlink("/proc/self/exe")
	check(err)
	for _, line := range strings.Split(string(maps), "\n") {
		if !strings.HasSuffix(line, exe) {
			continue
		}
		var perms string
		var off uint64
		_, err := fmt.Sscanf(line, "%x-%x %s %x", &start, &end, &perms, &off)
		check(err)
		for _, p := range f.Progs {
			if perms[2] == 'x' && p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 {
				return start, end, start - (p.Vaddr - p.Off + off)
			}
		}
	}
	panic("no code in /proc/self/maps")
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
