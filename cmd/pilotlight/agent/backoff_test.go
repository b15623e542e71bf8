package agent

import (
	"slices"
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	const least, most = 10 * time.Millisecond, 100 * time.Millisecond
	var b backoff
	var pauses []time.Duration
	now := uint64(time.Hour)
	for range 6 { // wanted all the time
		if !b.ready(now) {
			t.Fatalf("not ready at its time, after %v", pauses)
		}
		b.done(now, least, most)
		pauses = append(pauses, b.pause)
		if b.ready(now + uint64(b.pause) - 1) {
			t.Errorf("ready before a pause of %v is over", b.pause)
		}
		now += uint64(b.pause)
	}
	if want := []time.Duration{10e6, 20e6, 40e6, 80e6, 100e6, 100e6}; !slices.Equal(pauses, want) {
		t.Errorf("pauses %v, want %v", pauses, want)
	}
	now += uint64(most) + 1
	if b.done(now, least, most); b.pause != least {
		t.Errorf("after a quiet time the pause is %v, want %v", b.pause, least)
	}
}
