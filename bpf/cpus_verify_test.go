//go:build verify

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"
)

// TestVerifyFollowsCPUThatWasAway takes a CPU offline and back between two looks for such.
func TestVerifyFollowsCPUThatWasAway(t *testing.T) {
	for _, paused := range []bool{false, true} {
		t.Run(fmt.Sprintf("paused=%v", paused), func(t *testing.T) {
			s := open(t, Options{Frequency: 199})
			if err := s.SetSampling(!paused); err != nil {
				t.Fatal(err)
			}
			look(t, s)
			id := s.online[len(s.online)-1]
			path := fmt.Sprintf("/sys/devices/system/cpu/cpu%d/online", id)
			if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && os.Getenv("REQUIRE_ALL") != "1" {
				t.Skip("the last CPU cannot go offline")
			}
			t.Cleanup(func() {
				if err := os.WriteFile(path, []byte("1"), 0); err != nil {
					t.Errorf("CPU %d stays offline: %v", id, err)
				}
			})
			for _, on := range []string{"0", "1"} {
				if err := os.WriteFile(path, []byte(on), 0); err != nil {
					t.Fatal(err)
				}
			}
			if paused { // a CPU may be back when sampling is switched on, before there was a look
				if err := s.SetSampling(true); err != nil {
					t.Fatal(err)
				}
			}
			if lost := look(t, s); lost != 1 {
				t.Errorf("%d records lost on a CPU that was away, want 1", lost)
			}
			checkFollowed(t, s, id)
		})
	}
}
