package symbolize

import (
	"bytes"
	"debug/elf"
	"strings"
	"testing"
)

func TestVDSO(t *testing.T) {
	image, err := VDSO()
	if err != nil {
		t.Fatal(err)
	}
	f := mustOpen(t, image)
	ref, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	symbols, err := ref.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	functions := 0
	for _, s := range symbols {
		if elf.ST_TYPE(s.Info) != elf.STT_FUNC {
			continue
		}
		functions++
		// clock_gettime and __vdso_clock_gettime are one function.
		want := strings.TrimPrefix(s.Name, "__vdso_")
		if got := names(f, s.Value+s.Size/2); strings.TrimPrefix(got, "__vdso_") != want {
			t.Errorf("%#x: got %q, want %q", s.Value, got, s.Name)
		}
	}
	if functions == 0 {
		t.Error("the vDSO has no functions")
	}
}

func TestFindVDSO(t *testing.T) {
	for _, tt := range []struct {
		maps       string
		start, end uint64
		want       string
	}{
		{"400000-401000 r-xp 0 fe:00 1 /bin/[vdso]\n7ffd1000-7ffd3000 r-xp 00000000 00:00 0                          [vdso]\n", 0x7ffd1000, 0x7ffd3000, ""},
		{"400000-401000 r-xp 00000000 fe:00 1 /bin/true\n", 0, 0, "no [vdso] line: file does not exist"},
		{"x-401000 r-xp 00000000 00:00 0 [vdso]\n", 0, 0, "invalid syntax"},
		{"400000 r-xp 00000000 00:00 0 [vdso]\n", 0, 0, "invalid syntax"},
		{"400000-80400000 r-xp 00000000 00:00 0 [vdso]\n", 0, 0, "range 400000-80400000"},
		{"400000-3ff000 r-xp 00000000 00:00 0 [vdso]\n", 0, 0, "range 400000-3ff000"},
	} {
		start, end, err := findVDSO(tt.maps)
		if start != tt.start || end != tt.end || (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %#x, %#x, %v", tt.maps, start, end, err)
		}
	}
}
