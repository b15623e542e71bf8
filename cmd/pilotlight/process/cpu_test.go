package process

import (
	"math"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

func TestParseBusy(t *testing.T) {
	got, err := parseBusy(strings.NewReader("cpu  100 20 3 9999 888 7 6 555 50 0\ncpu0 60 20 3 9 8 7 6 5 0 0\ncpu3 40 0 0 9 8 0 0 5 50 0\nintr 5 cpu\n"))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Busy{Total: 1.36, CPUs: []CPUBusy{{0, .96}, {3, .4}}}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, text := range []string{"", "intr 5\n", "cpu 1 2 3\n", "cpu 1 2 3 4 5 6 x 8\n", "cpu 1 2 3 4 5 6 7 8\ncpuX 1 2 3 4 5 6 7 8\n"} {
		if got, err := parseBusy(strings.NewReader(text)); err == nil {
			t.Errorf("%q gives %v", text, got)
		}
	}
}

func TestReadBusy(t *testing.T) {
	busy, err := ReadBusy(os.DirFS("/proc"))
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, c := range busy.CPUs {
		sum += c.Busy
	}
	// The kernel reads the counters of the lines of CPUs after those of the first,
	// and rounds each of them down.
	if math.Abs(busy.Total-sum) > 1 {
		t.Errorf("total %v s, CPUs together %v s", busy.Total, sum)
	}
}

func TestBootID(t *testing.T) {
	id, err := BootID(os.DirFS("/proc"))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(id) {
		t.Errorf("got %q", id)
	}
}

func FuzzBusy(f *testing.F) {
	f.Add("cpu  100 20 3 9999 888 7 6 555 50 0\ncpu0 60 20 3 9 8 7 6 5 0 0\n")
	f.Fuzz(func(t *testing.T, text string) {
		if busy, err := parseBusy(strings.NewReader(text)); err == nil && busy.Total < 0 {
			t.Errorf("total %v", busy.Total)
		}
	})
}
