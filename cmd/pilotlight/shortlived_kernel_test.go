package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"pilotlight/testdata/loads"
)

// TestKernelShortLived runs a program of Go's linker, which leaves no build ID where the kernel looks for one, for so short
// a time that most of its processes are gone before their files can be opened. One of them was not.
func TestKernelShortLived(t *testing.T) {
	needRoot(t)
	t.Parallel() // it waits most of the time
	if err := loads.Build(t.Context(), "shares-go"); err != nil {
		t.Fatal(err)
	}
	program, err := filepath.Abs("../../testdata/loads/build/shares-go")
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, filepath.Join(makeDir(t), "data"), "127.0.0.1:0", 99)
	run := func(seconds string) int {
		cmd := exec.CommandContext(t.Context(), program, seconds)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v\n%s", program, seconds, err, out)
		}
		return cmd.Process.Pid
	}
	first := run("2")
	for range 150 {
		run("0.015")
	}
	if err := s.waitWindow(time.Now()); err != nil {
		t.Fatal(err)
	}
	body, err := get(s.endpoint("pprof", "query", fmt.Sprintf(`{exe=%q, pid!="%d"}`, program, first), "from", "now-5m", "to", "now"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := profile.ParseData(body)
	if err != nil {
		t.Fatal(err)
	}
	var all, cut, unnamed int64
	for _, sample := range p.Sample {
		n := sample.Value[0]
		all += n
		names := callers(sample)
		if len(names) == 0 {
			continue // in the kernel alone
		}
		if strings.HasPrefix(names[len(names)-1], "[truncated") {
			cut += n
		}
		if strings.HasPrefix(names[0], "shares-go+0x") {
			unnamed += n
		}
	}
	t.Logf("%d samples, %d cut, %d without a name", all, cut, unnamed)
	// What runs while a process starts and ends may be cut; of an unknown program all is.
	if all < 50 || cut > all/4 || unnamed > all/10 {
		t.Errorf("of %d samples %d are cut and %d have no name", all, cut, unnamed)
	}
}
