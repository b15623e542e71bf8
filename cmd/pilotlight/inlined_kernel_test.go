package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"
)

// buildInlined compiles testdata/inlined into a directory that everybody may enter.
func buildInlined(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil && os.Getenv("REQUIRE_ALL") != "1" {
		t.Skip("gcc is not installed")
	}
	dir := makeDir(t)
	source, err := os.ReadFile("testdata/inlined/inlined.c")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "inlined.c"), source, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	inDir(t, dir, "gcc", "-O2", "-g", "-o", "inlined", "inlined.c")
	return dir
}

// inDir runs a command in a directory.
func inDir(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// startProgram runs a program until the test ends, and returns its pid.
func startProgram(t *testing.T, args ...string) int {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = filepath.Dir(args[0])
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait() // it was killed
	})
	return cmd.Process.Pid
}

// record records a process.
func record(t *testing.T, pid int, d time.Duration) *profile.Profile {
	t.Helper()
	file := filepath.Join(makeDir(t), "profile.pb.gz")
	cmd, err := pilotlight(t.Context(), "record", "-p", strconv.Itoa(pid), "-d", d.String(), "-F", "99", "-o", file)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p, err := profile.ParseData(data)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// shareOfInlined is how many of the samples with the function work have a frame
// with all of its inlined calls, files and lines.
func shareOfInlined(p *profile.Profile, source string) (whole, all int64) {
	want := []string{"mix from 3", "round_of " + source + ":12 from 10", "work " + source + ":18 from 15"}
	for _, s := range p.Sample {
		at := slices.IndexFunc(s.Location, func(l *profile.Location) bool {
			return len(l.Line) > 0 && l.Line[len(l.Line)-1].Function.SystemName == "work"
		})
		if at < 0 {
			continue
		}
		all += s.Value[0]
		var got []string
		for i, l := range s.Location[at].Line {
			where := fmt.Sprintf(" %s:%d", l.Function.Filename, l.Line)
			if i == 0 && (where == " "+source+":5" || where == " "+source+":6") {
				where = "" // both are its loop
			}
			got = append(got, fmt.Sprintf("%s%s from %d", l.Function.Name, where, l.Function.StartLine))
		}
		if slices.Equal(got, want) {
			whole += s.Value[0]
		}
	}
	return whole, all
}

// TestKernelInlined profiles a program whose debug information is in it, or in
// another file: its inlined calls have names, files and lines.
func TestKernelInlined(t *testing.T) {
	needRoot(t)
	for _, tt := range []struct {
		name  string
		after [][]string
	}{
		{name: "in the file"},
		{name: "in a .dwo file", after: [][]string{{"gcc", "-O2", "-g", "-gsplit-dwarf", "-o", "inlined", "inlined.c"}}},
		{name: "in .debug", after: [][]string{
			{"mkdir", ".debug"},
			{"objcopy", "--only-keep-debug", "inlined", ".debug/inlined.debug"},
			{"objcopy", "--strip-all", "--add-gnu-debuglink=.debug/inlined.debug", "inlined"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := buildInlined(t)
			for _, args := range tt.after {
				inDir(t, dir, args...)
			}
			pid := startProgram(t, filepath.Join(dir, "inlined"))
			p := record(t, pid, 2*time.Second)
			whole, all := shareOfInlined(p, filepath.Join(dir, "inlined.c"))
			if all < 10 || whole < all*9/10 {
				t.Errorf("%d of %d samples of work have all of its inlined calls\n%v", whole, all, p)
			}
		})
	}
}

// TestKernelInlinedLater has a run find names after its first window.
func TestKernelInlinedLater(t *testing.T) {
	needRoot(t)
	dir := buildInlined(t)
	startProgram(t, filepath.Join(dir, "inlined"))
	s := start(t, filepath.Join(makeDir(t), "data"), "127.0.0.1:0", 99)
	var last string
	err := eventually(45*time.Second, "inlined calls in the profile", func() bool {
		body, err := get(s.endpoint("pprof", "query", `{service_name="inlined"}`, "from", "now-1m", "to", "now"))
		if err != nil {
			last = err.Error()
			return false
		}
		p, err := profile.ParseData(body)
		if err != nil {
			t.Fatal(err)
		}
		whole, all := shareOfInlined(p, filepath.Join(dir, "inlined.c"))
		last = fmt.Sprintf("%d of %d", whole, all)
		return whole > 50
	})
	if err != nil {
		t.Errorf("%v: %s\n%s", err, last, s.log)
	}
	metrics, err := get(s.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`pilotlight_symbol_indexes_total{result="built"}`, `pilotlight_symbol_cache_bytes`, `pilotlight_frames_total{kind="file",language="native",named="true"}`} {
		if !strings.Contains(string(metrics), want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}
