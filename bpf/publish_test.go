package bpf

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"
	"testing"
)

// withTables says whether the sampler unwinds by tables: only then are programs without frame pointers held to it.
const withTables = true

// publish tells the sampler all that it is to know of a process: the unwind tables of the files that it maps, and where.
// The sampler has been started, and nobody reads it yet: the process's identity is known from its samples.
func publish(t testing.TB, s *Sampler, pid int) {
	t.Helper()
	p := inspect(t, s, pid)
	image, err := elf.Open(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if image.Class == elf.ELFCLASS32 {
		for i := range p.code {
			p.code[i].Kind = CodeFramePointer
		}
	}
	areas, err := codeOf(pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range areas {
		if a.path == "" {
			p.code = append(p.code, Code{Start: a.start, End: a.end, Kind: CodeJIT})
		}
	}
	slices.SortFunc(p.code, func(a, b Code) int { return cmp.Compare(a.Start, b.Start) })
	p.publish(t)
}
