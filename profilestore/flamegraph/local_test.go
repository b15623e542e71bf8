package flamegraph

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/pprof/profile"
)

// localProfile has what the page's own reader must understand: inlined calls, code without names, recursion,
// functions of one name in two binaries, two sample types.
func localProfile() *profile.Profile {
	r := rand.New(rand.NewPCG(1, 2))
	p := &profile.Profile{
		SampleType:        []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}},
		DefaultSampleType: "cpu",
		Mapping:           []*profile.Mapping{{ID: 1, File: "/usr/bin/app"}, {ID: 2, File: "/usr/lib/libapp.so"}, {ID: 3}},
	}
	for i := range 24 {
		p.Function = append(p.Function, &profile.Function{ID: uint64(i) + 1, Name: fmt.Sprintf("pkg%d.Fn%d", i%3, i/2), Filename: []string{"", fmt.Sprintf("f%d.go", i)}[i%2]})
	}
	for i := range 60 {
		l := &profile.Location{ID: uint64(i) + 1, Mapping: p.Mapping[i%3], Address: 0xffffffff81000000 + uint64(i)}
		for range r.IntN(4) {
			l.Line = append(l.Line, profile.Line{Function: p.Function[r.IntN(len(p.Function))], Line: int64(i)})
		}
		p.Location = append(p.Location, l)
	}
	for range 200 {
		s := &profile.Sample{Value: []int64{int64(r.IntN(4)), int64(r.IntN(1 << 40))}}
		for range 1 + r.IntN(12) {
			s.Location = append(s.Location, p.Location[r.IntN(len(p.Location))])
		}
		p.Sample = append(p.Sample, s)
	}
	return p
}

// TestLocalGolden writes, with -update, the profile that the page's own reader is tested with, and what it is to
// make of it.
func TestLocalGolden(t *testing.T) {
	file := filepath.Join("testdata", "local.pb.gz")
	if *update {
		var b bytes.Buffer
		if err := localProfile().Write(&b); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p, err := profile.ParseData(content)
	if err != nil {
		t.Fatal(err)
	}
	var got []any
	for i, st := range p.SampleType {
		s, err := FromProfile(p, i)
		if err != nil {
			t.Fatal(err)
		}
		o := Options{Unit: st.Unit}
		got = append(got, map[string]any{"graph": build(t, s, o), "top": top(t, s, o)})
	}
	b, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "local.json")
	if *update {
		if err := os.WriteFile(golden, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.TrimSpace(want), b) {
		t.Error("the answers differ from the golden file: run with -update and look at what changed")
	}
}
