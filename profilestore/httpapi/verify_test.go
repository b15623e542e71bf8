//go:build verify

package httpapi

import (
	"fmt"
	"testing"
	"time"
)

// TestVerifyKill9 kills a server 200 times while it takes 10,000 profiles.
func TestVerifyKill9(t *testing.T) { killStore(t, 200, 10_000) }

// TestVerifyQueriesBesideIngest asks 100 times at once for everything, while profiles of 797 stacks are pushed.
func TestVerifyQueriesBesideIngest(t *testing.T) {
	alone, beside, answers, refused := queryStorm(t, 100, 4, 300, deepStacks(797, 38))
	p95 := func(d []time.Duration) time.Duration { return d[len(d)*95/100].Round(time.Millisecond) }
	fmt.Printf("100 readers had %d answers over everything, none wrong, after %d refusals; %d pushes beside them, none refused, p95 %s (%s without readers)\n",
		answers, refused, len(beside), p95(beside), p95(alone))
}
