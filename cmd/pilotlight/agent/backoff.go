package agent

import "time"

// backoff spaces out work that others can make wanted all the time. What is wanted
// now and then is done at once; the pauses double while it goes on, and are short
// again after one that nothing was wanted in. The zero value is ready.
type backoff struct {
	pause time.Duration
	next  uint64 // CLOCK_MONOTONIC, ns
}

func (b *backoff) ready(now uint64) bool { return now >= b.next }

// done tells that the work was done; the next pause is within [least, most].
func (b *backoff) done(now uint64, least, most time.Duration) {
	if now > b.next+uint64(b.pause) {
		b.pause = least
	} else {
		b.pause = min(2*b.pause, most)
	}
	b.next = now + uint64(b.pause)
}
