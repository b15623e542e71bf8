package httpapi

import (
	"strings"
	"testing"
	"time"
)

func TestParseTime(t *testing.T) {
	now := time.Unix(1_763_690_400, 5).UTC()
	for _, tt := range []struct {
		in   string
		want int64
		err  string // part of the error
	}{
		{in: "now", want: now.UnixNano()},
		{in: "now-90s", want: now.UnixNano() - 90e9},
		{in: "now-15m", want: now.UnixNano() - 900e9},
		{in: "now-1h", want: now.UnixNano() - 3600e9},
		{in: "now-7d", want: now.UnixNano() - 7*86400e9},
		{in: "now-1h30m", want: now.UnixNano() - 5400e9},
		{in: "0", want: 0},
		{in: "1763690400", want: 1_763_690_400e9},
		{in: "1763690400.5", want: 1_763_690_400_500_000_000},
		{in: "1763690400.123456789", want: 1_763_690_400_123_456_789}, // a float64 would make ...768 of it
		{in: "2025-11-21T02:00:00Z", want: 1_763_690_400e9},
		{in: "2025-11-21T03:00:00.25+01:00", want: 1_763_690_400_250_000_000},

		{in: "", err: "is not a time"},
		{in: "yesterday", err: "is not a time"},
		{in: "now-", err: "write now-90s"},
		{in: "now+5m", err: "write now-90s"},
		{in: "now-5", err: "write now-90s"},
		{in: "now--5m", err: "write now-90s"},
		{in: "now-300y", err: "write now-90s"},
		{in: "-5", err: "is not a time"},
		{in: "1e9", err: "is not a time"},
		{in: "1763690400000", err: "not milliseconds"},
		{in: "9223372036", err: "not milliseconds"},
		{in: "1.", err: "one to nine decimals"},
		{in: "1.0123456789", err: "one to nine decimals"},
		{in: ".5", err: "Unix seconds"},
		{in: "1.2.3", err: "one decimal point"},
		{in: "2025-11-21T03:00:00 01:00", err: "a + as %2B"},
		{in: "2025-11-21", err: "is not a time"},
		{in: "1969-12-31T23:59:59Z", err: "between 1970 and 2262"},
		{in: "2300-01-01T00:00:00Z", err: "between 1970 and 2262"},
	} {
		got, err := parseTime(tt.in, now)
		switch {
		case tt.err == "" && (err != nil || got != tt.want):
			t.Errorf("parseTime(%q) = %d, %v; want %d", tt.in, got, err, tt.want)
		case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
			t.Errorf("parseTime(%q) = %d, %v; want an error with %q", tt.in, got, err, tt.err)
		}
	}
}

// What is read is a time that time.Time writes and this reads again, and never before 1970.
func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"now", "now-7d", "1763690400.123456789", "2025-11-21T02:00:00.5+01:00", "1.", "now-9999999999d"} {
		f.Add(s)
	}
	now := time.Unix(1_763_690_400, 0)
	f.Fuzz(func(t *testing.T, s string) {
		ns, err := parseTime(s, now)
		if err != nil {
			return
		}
		if ns < 0 {
			t.Fatalf("parseTime(%q) = %d", s, ns)
		}
		again, err := parseTime(time.Unix(0, ns).UTC().Format(time.RFC3339Nano), now)
		if err != nil || again != ns {
			t.Fatalf("parseTime(%q) = %d, and written as RFC 3339 %d, %v", s, ns, again, err)
		}
	})
}

func TestChooseStep(t *testing.T) {
	const start = 1_763_690_403e9 // on no step
	for _, tt := range []struct{ length, want time.Duration }{
		{0, 10 * time.Second},
		{time.Minute, 10 * time.Second},
		{2990 * time.Second, 10 * time.Second},
		{3000 * time.Second, 20 * time.Second}, // touches 301 steps of 10 s
		{time.Hour, 20 * time.Second},
		{24 * time.Hour, 5 * time.Minute},
		{7 * 24 * time.Hour, time.Hour},
		{365 * 24 * time.Hour, 48 * time.Hour},
		{50 * 365 * 24 * time.Hour, 64 * 24 * time.Hour},
	} {
		got := chooseStep(start, start+int64(tt.length), defaultPoints)
		if got != tt.want {
			t.Errorf("chooseStep(%v) = %v, want %v", tt.length, got, tt.want)
		}
		if n := countSteps(start, start+int64(tt.length), got); n > defaultPoints {
			t.Errorf("chooseStep(%v) = %v makes %d points", tt.length, got, n)
		}
	}
}
