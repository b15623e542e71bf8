//go:build verify

package main

import (
	"path/filepath"
	"testing"
	"time"

	"pilotlight/cmd/pilotlight/agent"
)

// TestVerifyShares is TestKernelShares for a minute: enough samples for 3
// points to be 3 points.
func TestVerifyShares(t *testing.T) {
	needRoot(t)
	o, err := observe(makeDir(t), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.stop(); err != nil {
			t.Error(err)
		}
	})
	o.check(t, 0)
}

// TestVerifyAccounting is TestKernelAccounting for 30 s.
func TestVerifyAccounting(t *testing.T) {
	needRoot(t)
	s := start(t, filepath.Join(makeDir(t), "data"), "127.0.0.1:0", 99)
	account(t, s, 3*agent.Window)
}

// TestVerifyKill9 is TestKernelKill9 ten times, at any moment of a window.
func TestVerifyKill9(t *testing.T) {
	needRoot(t)
	kill9(t, 10, agent.Window)
}
