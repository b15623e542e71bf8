package profilestore

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"
)

// TestHeadEqualsFiles asks the same of a head, of a block, and of merged blocks.
func TestHeadEqualsFiles(t *testing.T) {
	batch := newSource(40).batch(t, 48)
	inMemory, written, merged := open(t, t.TempDir(), testOptions()), open(t, t.TempDir(), testOptions()), open(t, t.TempDir(), testOptions())
	mustAppend(t, inMemory, batch...)
	mustAppend(t, written, batch...)
	settle(t, written)
	for part := range slices.Chunk(batch, 3) {
		mustAppend(t, merged, part...)
		settle(t, merged)
	}
	if n, m := len(files(t, written, blocksDir)), len(files(t, merged, blocksDir)); n != 1 || m > 4 || len(merged.segments) > 4 {
		t.Fatalf("%d blocks, %d merged ones of 16, %d segments", n, m, len(merged.segments))
	}
	for _, s := range []*Store{inMemory, written, merged} {
		for _, selector := range selectors {
			q := all(t, selector)
			q.From = start.Add(100 * time.Second).UnixNano()
			checkQuery(context.Background(), t, s, batch, q)
		}
	}
}

// TestProfilesOfPprof stores each profile that google/pprof is tested with and takes it out again: it says the same.
func TestProfilesOfPprof(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/pprof").Output()
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "profile", "testdata", "*"))
	if err != nil {
		t.Fatal(err)
	}
	tested := 0
	for _, path := range paths {
		if strings.HasSuffix(path, ".string") {
			continue
		}
		t.Run(filepath.Base(path), func(t *testing.T) {
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			p, err := profile.Parse(f)
			if err != nil {
				t.Fatalf("pprof does not read it: %v", err)
			}
			if len(p.SampleType) == 0 || len(p.Sample) == 0 {
				return // nothing to store
			}
			tested++
			want, err := profile.ParseData(encode(t, p)) // as it is sent
			if err != nil {
				t.Fatal(err)
			}
			checkRoundTrip(t, want)
		})
	}
	if tested < 10 {
		t.Errorf("%d profiles", tested)
	}
}

func checkRoundTrip(t *testing.T, want *profile.Profile) {
	s := open(t, t.TempDir(), testOptions())
	mustAppend(t, s, Encoded{Name: "x", Time: start.UnixNano(), Pprof: encode(t, want)})
	q := all(t, "")
	q.Type = ProfileType{"x", want.SampleType[0].Type, want.SampleType[0].Unit, want.PeriodType.Type, want.PeriodType.Unit}
	for range 2 {
		got, err := s.Merge(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		if got, err = profile.ParseData(encode(t, got)); err != nil {
			t.Fatal(err)
		}
		if a, b := normal(t, got), normal(t, want); a != b {
			t.Fatalf("got\n%.2000s\nwant\n%.2000s", a, b)
		}
		if got.Period != want.Period || got.DropFrames != want.DropFrames || got.KeepFrames != want.KeepFrames || !slices.Equal(got.Comments, want.Comments) || got.DocURL != want.DocURL {
			t.Errorf("header: %v, want %v", got, want)
		}
		if len(want.Mapping) > 0 && (len(got.Mapping) == 0 || got.Mapping[0].File != want.Mapping[0].File) {
			t.Errorf("the program is %v, want %v", got.Mapping, want.Mapping[0])
		}
		settle(t, s)
	}
}

// TestTimeFromPprof: without a time of its own, a profile is of the time that the pprof says.
func TestTimeFromPprof(t *testing.T) {
	p := cpuProfile()
	p.TimeNanos, p.DurationNanos = start.Add(time.Minute).UnixNano(), int64(10*time.Second)
	p.Sample = []*profile.Sample{{Value: []int64{1, 50}}}
	s := open(t, t.TempDir(), testOptions())
	mustAppend(t, s, Encoded{Name: "process_cpu", Pprof: encode(t, p)})
	p.TimeNanos = 0
	mustAppend(t, s, Encoded{Name: "process_cpu", Pprof: bytes.Clone(encode(t, p))})
	infos, err := s.Profiles(context.Background(), all(t, ""), 10)
	if err != nil || len(infos) != 2 {
		t.Fatalf("%v, %v", infos, err)
	}
	if now := start.Add(time.Hour).Add(-10 * time.Second); infos[0].Time != now.UnixNano() || infos[1].Time != start.Add(time.Minute).UnixNano() || infos[1].Duration != 10*time.Second {
		t.Errorf("%+v", infos)
	}
}
