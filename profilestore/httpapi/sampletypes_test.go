package httpapi

import (
	"bytes"
	"crypto/sha256"
	"runtime/pprof"
	"slices"
	"testing"

	"github.com/google/pprof/profile"
)

// cpuProfile has the Go runtime profile this process until it has caught it working.
func cpuProfile(t *testing.T) []byte {
	t.Helper()
	for {
		var b bytes.Buffer
		if err := pprof.StartCPUProfile(&b); err != nil {
			t.Fatal(err)
		}
		sum := []byte("work")
		for range 50_000 {
			h := sha256.Sum256(sum)
			sum = h[:]
		}
		pprof.StopCPUProfile()
		p, err := profile.ParseData(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Sample) > 0 {
			return b.Bytes()
		}
	}
}

func TestSampleTypesOfRuntimeProfile(t *testing.T) {
	if names, err := sampleTypes(cpuProfile(t)); err != nil || !slices.Equal(names, []string{"samples", "cpu"}) {
		t.Errorf("%q, %v", names, err)
	}
}

// Where google/pprof reads a profile, its sample types are those found here.
func FuzzSampleTypes(f *testing.F) {
	p := &profile.Profile{SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}}}
	var plain, gzipped bytes.Buffer
	if err := p.WriteUncompressed(&plain); err != nil {
		f.Fatal(err)
	}
	if err := p.Write(&gzipped); err != nil {
		f.Fatal(err)
	}
	f.Add(plain.Bytes())
	f.Add(gzipped.Bytes())
	f.Add(gzipped.Bytes()[:20])
	f.Add([]byte{})
	f.Add([]byte("not a profile"))
	f.Add([]byte{9<<3 | 2, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Add([]byte{0x1f, 0x8b})
	f.Fuzz(func(t *testing.T, b []byte) {
		names, err := sampleTypes(b)
		if bytes.HasPrefix(b, []byte{0x1f, 0x8b}) {
			return // google/pprof has no limit, do not show it the bomb
		}
		p, perr := profile.ParseData(b)
		if perr != nil || err != nil {
			return
		}
		var want []string
		for _, st := range p.SampleType {
			want = append(want, st.Type)
		}
		if !slices.Equal(names, want) {
			t.Fatalf("%q; google/pprof reads %q", names, want)
		}
	})
}
