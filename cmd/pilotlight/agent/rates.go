package agent

import "slices"

// rates are the sampling frequencies of late, oldest first: a sample stands for
// the period that held when it was taken. There is always one.
type rates []rate

type rate struct {
	since uint64 // CLOCK_MONOTONIC, ns
	hz    int
}

// at returns the frequency in Hz at a time. Before the first it is that.
func (r rates) at(time uint64) int {
	for _, rate := range slices.Backward(r) {
		if rate.since <= time {
			return rate.hz
		}
	}
	return r[0].hz
}

// set adds a change. Of those before, as many are kept as samples that are still
// to be read can want.
func (r *rates) set(now uint64, hz int) {
	const kept = 4
	*r = append(*r, rate{now, hz})
	if len(*r) > kept {
		*r = slices.Delete(*r, 0, len(*r)-kept)
	}
}

// period returns the CPU time in ns that a sample taken at hz stands for.
func period(hz int) int64 { return 1e9 / int64(hz) }
