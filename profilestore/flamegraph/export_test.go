package flamegraph

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const exported = "main@app;a;b@app 2\nmain@app;vector<int>::push&back@libc 4\nmain@app 1\n[jit] 3\n"

func TestExportGolden(t *testing.T) {
	for _, format := range Formats {
		var b strings.Builder
		if err := Export(t.Context(), &b, parse(t, exported), format, "nanoseconds"); err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", "export."+string(format))
		if *update {
			if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if b.String() != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", format, b.String(), want)
		}
	}
}

// Where there is no cut, a tree has 2 million nodes at most.
func TestExportTooLarge(t *testing.T) {
	s := new(Stacks)
	var frames []int32
	for i := range 1450 {
		frames = append(frames, s.Frame(Frame{Function: fmt.Sprint("f", i)}))
	}
	for _, caller := range frames {
		for _, callee := range frames {
			s.Add([]int32{caller, callee}, 1)
		}
	}
	if err := Export(t.Context(), io.Discard, s, Folded, "nanoseconds"); !errors.Is(err, ErrTooLarge) {
		t.Errorf("error %v", err)
	}
	if g := build(t, s, Options{MaxNodes: 1000}); len(g.Depth) != 1001 || g.Total != s.Total() {
		t.Errorf("%d nodes of %d", len(g.Depth), g.Total)
	}
}

// A stack that ends at each level of a deep one: 6,500 of them have 21 million frames.
func TestExportManyFrames(t *testing.T) {
	s := new(Stacks)
	var stack []int32
	for i := range 6500 {
		stack = append(stack, s.Frame(Frame{Function: fmt.Sprint("level", i)}))
		s.Add(stack, 1)
	}
	if err := Export(t.Context(), io.Discard, s, Speedscope, "nanoseconds"); !errors.Is(err, ErrTooLarge) {
		t.Errorf("error %v", err)
	}
	if err := Export(t.Context(), io.Discard, s, Firefox, "nanoseconds"); err != nil {
		t.Error(err)
	}
}

// What a reader of each format adds up is the total.
func TestExportSums(t *testing.T) {
	s := parse(t, exported+"with;semi\\colon 5\n")
	write := func(format Format) string {
		var b strings.Builder
		if err := Export(t.Context(), &b, s, format, "nanoseconds"); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if got := parse(t, write(Folded)).Total(); got != s.Total() {
		t.Errorf("folded: %d, want %d", got, s.Total())
	}
	var scope struct {
		Profiles []struct {
			EndValue int64
			Samples  [][]int
			Weights  []int64
		}
	}
	if err := json.Unmarshal([]byte(write(Speedscope)), &scope); err != nil {
		t.Fatal(err)
	}
	sum := int64(0)
	for _, w := range scope.Profiles[0].Weights {
		sum += w
	}
	if p := scope.Profiles[0]; sum != s.Total() || p.EndValue != sum || len(p.Samples) != len(p.Weights) {
		t.Errorf("speedscope: %d of %d", sum, s.Total())
	}
	var fox struct {
		Threads []struct {
			Samples    struct{ Weight []float64 }
			StackTable struct {
				Frame  []int
				Prefix []*int
			}
			FuncTable   struct{ Name []int }
			StringArray []string
		}
	}
	if err := json.Unmarshal([]byte(write(Firefox)), &fox); err != nil {
		t.Fatal(err)
	}
	thread := fox.Threads[0]
	ms := 0.0
	for _, w := range thread.Samples.Weight {
		ms += w
	}
	if int64(ms*1e6+0.5) != s.Total() {
		t.Errorf("firefox: %g ms of %d ns", ms, s.Total())
	}
	for i, p := range thread.StackTable.Prefix {
		if p != nil && *p >= i {
			t.Errorf("firefox: stack %d has the prefix %d", i, *p)
		}
	}
	d := xml.NewDecoder(strings.NewReader(write(SVG)))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("svg: %v", err)
		}
	}
}
