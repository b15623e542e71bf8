package flamegraph

import (
	"encoding/json"
	"encoding/xml"
	"errors"
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
