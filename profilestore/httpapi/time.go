package httpapi

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// parseTime reads a time of the API into Unix nanoseconds. The error is the end of a sentence: it says what is
// wrong and how to write it.
func parseTime(s string, now time.Time) (int64, error) {
	if rest, ok := strings.CutPrefix(s, "now"); ok {
		if rest == "" {
			return now.UnixNano(), nil
		}
		if rest[0] == '-' {
			if d, err := model.ParseDuration(rest[1:]); err == nil && time.Duration(d) <= time.Duration(now.UnixNano()) {
				return now.UnixNano() - int64(d), nil
			}
		}
		return 0, fmt.Errorf("%.40q is not a time: write now-90s, now-15m, now-1h or now-7d", s)
	}
	if s != "" && strings.Trim(s, "0123456789.") == "" {
		return parseUnix(s)
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return 0, fmt.Errorf("%.40q is not a time: write it as 2025-11-21T02:00:00Z (a + as %%2B), Unix seconds, now or now-1h", s)
	}
	if t.Unix() < 0 || t.Unix() >= math.MaxInt64/int64(time.Second) {
		return 0, fmt.Errorf("%.40q is out of range: choose a time between 1970 and 2262", s)
	}
	return t.UnixNano(), nil
}

// parseUnix reads seconds with up to nine decimals, exactly: a float64 would be off by up to 200 ns.
func parseUnix(s string) (int64, error) {
	whole, decimals, point := strings.Cut(s, ".")
	if point && (len(decimals) < 1 || len(decimals) > 9) {
		return 0, fmt.Errorf("%.40q is not a time: write Unix seconds with one to nine decimals", s)
	}
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || sec >= math.MaxInt64/int64(time.Second) {
		return 0, fmt.Errorf("%.40q is not a time: write Unix seconds, not milliseconds", s)
	}
	nsec, err := strconv.ParseUint((decimals + "000000000")[:9], 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%.40q is not a time: write Unix seconds with one decimal point", s)
	}
	return sec*int64(time.Second) + int64(nsec), nil
}

// steps are what a chart is cut into: multiples of the samplers' 10 s window, since any other step would hold
// now one window and now two.
var steps = []time.Duration{
	10 * time.Second, 20 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 20 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour,
}

// chooseStep returns the shortest round step that cuts [from, to) into at most max points.
func chooseStep(from, to int64, max int64) time.Duration {
	for _, s := range steps {
		if countSteps(from, to, s) <= max {
			return s
		}
	}
	s := 2 * steps[len(steps)-1]
	for countSteps(from, to, s) > max {
		s *= 2
	}
	return s
}

// countSteps says how many multiples of step, counted from the epoch, [from, to) touches.
func countSteps(from, to int64, step time.Duration) int64 {
	if to <= from {
		return 0
	}
	return (to-1)/int64(step) - from/int64(step) + 1
}
