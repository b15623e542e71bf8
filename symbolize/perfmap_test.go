package symbolize

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// textFile is a file that grows and is written anew.
type textFile struct{ text string }

func (f *textFile) ReadAt(b []byte, off int64) (int, error) {
	return strings.NewReader(f.text).ReadAt(b, off)
}

func (f *textFile) update(t *testing.T, m *PerfMap) {
	t.Helper()
	if err := m.Update(int64(len(f.text))); err != nil {
		t.Fatal(err)
	}
}

func nameAt(m *PerfMap, addr uint64) string {
	frames := m.Resolve(nil, addr)
	if len(frames) == 0 {
		return ""
	}
	return frames[0].SystemName
}

// fileStep is what is added to a file, or what it is written anew with, and what code is called then.
type fileStep struct {
	what, text string
	anew       bool
	want       map[uint64]string
}

// followFile takes a map through what becomes of its file.
func followFile(t *testing.T, steps []fileStep) {
	t.Helper()
	f := new(textFile)
	m := NewPerfMap(f)
	for _, step := range steps {
		if step.anew {
			f.text = ""
		}
		f.text += step.text
		f.update(t, m)
		for addr, want := range step.want {
			if got := nameAt(m, addr); got != want {
				t.Errorf("%s: %#x is %q, want %q", step.what, addr, got, want)
			}
		}
	}
}

// TestPerfMapStory follows a file as a runtime writes it.
func TestPerfMapStory(t *testing.T) {
	followFile(t, []fileStep{
		{what: "empty", want: map[uint64]string{0x1000: ""}},
		{what: "two functions", text: "1000 100 first\n0x2000 0x10 second one\n",
			want: map[uint64]string{0xfff: "", 0x1000: "first", 0x10ff: "first", 0x1100: "", 0x200f: "second one"}},
		{what: "half a line", text: "3000 10 thi", want: map[uint64]string{0x3000: ""}},
		{what: "the other half", text: "rd\n", want: map[uint64]string{0x3000: "third", 0x1000: "first"}},
		{what: "a place is used again, in part", text: "1080 10 inner\n",
			want: map[uint64]string{0x107f: "first", 0x1080: "inner", 0x1090: "first"}},
		{what: "damage", text: "\nzz 10 x\n4000\n4000 10\n4000 0 empty\nffffffffffffffff 2 over\n4000 10 \n",
			want: map[uint64]string{0x4000: "", 0xffffffffffffffff: "", 0x1080: "inner"}},
		{what: "a line too long", text: "5000 10 " + strings.Repeat("x", 3*perfChunk) + "\n6000 10 after\n",
			want: map[uint64]string{0x5000: "", 0x6000: "after"}},
		{what: "written anew, shorter", anew: true, text: "1000 100 new\n",
			want: map[uint64]string{0x1000: "new", 0x1080: "new", 0x2000: ""}},
		{what: "written anew, longer", anew: true, text: "1000 100 newer\n2000 10 still newer\n",
			want: map[uint64]string{0x1000: "newer", 0x2000: "still newer"}},
	})
}

// TestPerfMapLaterLinesCount compares with a byte for each address, for files that grow by random pieces.
func TestPerfMapLaterLinesCount(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		f := new(textFile)
		m := NewPerfMap(f)
		var want [2000]string
		for line := range 300 {
			start, size := random.IntN(1900), 1+random.IntN(100)
			name := fmt.Sprintf("f%d", line)
			f.text += fmt.Sprintf("%x %x %s\n", start, size, name)
			for i := start; i < start+size; i++ {
				want[i] = name
			}
			if random.IntN(7) == 0 {
				f.update(t, m)
			}
		}
		f.update(t, m)
		for addr, name := range want {
			if got := nameAt(m, uint64(addr)); got != name {
				t.Fatalf("%#x is %q, want %q", addr, got, name)
			}
		}
		if len(m.runs) > 12 {
			t.Errorf("%d runs of %d pieces", len(m.runs), m.pieces)
		}
	}
}

func TestPerfMapIsBounded(t *testing.T) {
	var text strings.Builder
	for i := range maxPerfPieces + 10_000 {
		fmt.Fprintf(&text, "%x 10 f\n", i*32)
	}
	f := &textFile{text.String()}
	m := NewPerfMap(f)
	if err := m.Update(int64(len(f.text))); !errors.Is(err, errPerfMapLarge) {
		t.Errorf("got %v, want errPerfMapLarge", err)
	}
	if got, most := m.MemoryBytes(), 16*(maxPerfPieces+perfChunk/5)+1024; got > most {
		t.Errorf("%d bytes of memory, want at most %d", got, most)
	}
	if nameAt(m, 0) != "f" {
		t.Error("what was read has no names")
	}
}

func TestPerfMapNames(t *testing.T) {
	for _, tt := range []struct {
		name string
		want Frame
	}{
		{"LazyCompile:*work /src/a b/app.js:10:14", Frame{Function: "work /src/a", File: "b/app.js", StartLine: 10}},
		{"JS:^get value file:///src/app.mjs:3:1", Frame{Function: "get value", File: "file:///src/app.mjs", StartLine: 3}},
		{"JS:~ /src/app.js:1:1", Frame{Function: "(anonymous)", File: "/src/app.js", StartLine: 1}},
		{"JS:*noposition", Frame{Function: "JS:*noposition"}},
		{"Script:~ node:internal/main:x:1", Frame{Function: "Script:~ node:internal/main:x:1"}},
		{"py::work:/src/app.py", Frame{Function: "work", File: "/src/app.py"}},
		{"py::work", Frame{Function: "py::work"}},
		{"java.lang.String::hashCode", Frame{Function: "java.lang.String::hashCode"}},
	} {
		want := tt.want
		want.SystemName, want.Source = tt.name, Symtab
		if got := newPerfFrame(tt.name); got != want {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, want)
		}
	}
}

// FuzzPerfMap updates a map with two halves of a file.
func FuzzPerfMap(f *testing.F) {
	f.Add([]byte("1000 10 a\n0x1008 10 b\n"), 5)
	f.Add([]byte(emptyJitdump+jitLoad(0x1000, "code", "f")+jitMove(0x1000, 0x2000, 4)+jitRecord(2, "x")), 100)
	f.Add([]byte("ffffffffffffffff ffffffff a\n0 ffffffff b\n\n"), 30)
	f.Fuzz(func(t *testing.T, text []byte, cut int) {
		m := NewPerfMap(bytes.NewReader(text))
		for _, size := range []int{min(max(cut, 0), len(text)), len(text)} {
			if err := m.Update(int64(size)); err != nil && !errors.Is(err, errPerfMapLarge) && !errors.Is(err, errJitdump) {
				t.Fatal(err)
			}
		}
		for _, run := range m.runs {
			end := uint64(0)
			for _, e := range run {
				if e.start < end || e.size == 0 {
					t.Fatalf("%+v follows %#x", e, end)
				}
				end = e.end()
				m.Resolve(nil, e.start)
			}
		}
	})
}
