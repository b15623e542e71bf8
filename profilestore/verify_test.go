//go:build verify

package profilestore

import (
	"fmt"
	"testing"
)

// TestVerifyCrashes runs 10,000 stories that end in power losses.
func TestVerifyCrashes(t *testing.T) {
	const seeds = 10_000
	bodies := newSource(30).batch(t, 60)
	for seed := range uint64(seeds) {
		crashSeed(t, seed, bodies)
	}
	fmt.Printf("%d seeds, three lives each: nothing acknowledged is lost or doubled\n", seeds)
}
