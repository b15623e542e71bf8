//go:build verify

package main

import (
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pilotlight/testdata/loads"
)

// TestVerifyOutage has the server away for ten minutes and for two hours while the machine is busy, and the agent killed
// meanwhile.
func TestVerifyOutage(t *testing.T) {
	needRoot(t)
	for _, away := range []time.Duration{10 * time.Minute, 2 * time.Hour} {
		t.Run(away.String(), func(t *testing.T) {
			if err := loads.Build(t.Context(), "mix"); err != nil {
				t.Fatal(err)
			}
			load, err := loads.Start(t.Context(), "mix", away)
			if err != nil {
				t.Fatal(err)
			}
			// At 99 Hz two hours are more than the spool holds.
			outage(t, away, "--frequency", "19")
			if _, err := load.Wait(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestVerifyKill9Spooling kills an agent at any moment while it spools, ten times over.
func TestVerifyKill9Spooling(t *testing.T) {
	needRoot(t)
	dir := makeDir(t)
	address := freeAddress(t)
	var agents []*server
	for round := range 10 {
		a := startAgent(t, filepath.Join(dir, "agent"), "http://"+address)
		time.Sleep(10*time.Second + time.Duration(round)*1100*time.Millisecond)
		a.signal(unix.SIGKILL)
		a.waitEnd(t, 5*time.Second)
		agents = append(agents, a)
	}
	s := startStore(t, filepath.Join(dir, "store"), address)
	last := startAgent(t, filepath.Join(dir, "agent"), s.url)
	t.Logf("drained in %v", last.waitDrained(t, time.Minute))
	wantOnce(t, s, agents...)
}
