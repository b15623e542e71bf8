package httpapi

import (
	"bytes"
	"crypto/sha256"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

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

func TestProfileTimeOfRuntimeProfile(t *testing.T) {
	before := time.Now().UnixNano()
	b := cpuProfile(t)
	start, duration, inflated, err := profileTime(b, maxInflated)
	if err != nil || start < before || start > time.Now().UnixNano() || duration <= 0 {
		t.Fatalf("profileTime = %d, %v, %v; want a start after %d", start, duration, err, before)
	}
	p, err := profile.ParseData(b)
	if err != nil {
		t.Fatal(err)
	}
	if start != p.TimeNanos || int64(duration) != p.DurationNanos {
		t.Errorf("profileTime = %d, %d; google/pprof reads %d, %d", start, duration, p.TimeNanos, p.DurationNanos)
	}
	if _, _, again, _ := profileTime(b, inflated-1); again != inflated {
		t.Errorf("with a limit of %d, %d bytes were read", inflated-1, again)
	}
}

// Where google/pprof reads a profile, its times are those found here.
func FuzzProfileTime(f *testing.F) {
	p := &profile.Profile{
		SampleType: []*profile.ValueType{{Type: "cpu", Unit: "nanoseconds"}},
		TimeNanos:  1_763_690_400_000_000_000, DurationNanos: 10e9,
	}
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
		const limit = 1 << 20
		start, duration, inflated, err := profileTime(b, limit)
		if inflated > limit+1 {
			t.Fatalf("read %d bytes of %d", inflated, limit)
		}
		if inflated > limit {
			return // google/pprof has no limit, do not show it the bomb
		}
		p, perr := profile.ParseData(b)
		if perr != nil {
			return
		}
		if err != nil && strings.Contains(err.Error(), "overflows") {
			return // google/pprof drops the bits that are too many; such a profile has no time to speak of
		}
		if err != nil {
			t.Fatalf("google/pprof reads it, and profileTime says %v", err)
		}
		if start != p.TimeNanos || int64(duration) != p.DurationNanos {
			t.Fatalf("profileTime = %d, %d; google/pprof reads %d, %d", start, duration, p.TimeNanos, p.DurationNanos)
		}
	})
}
