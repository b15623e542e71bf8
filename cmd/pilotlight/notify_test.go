package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// TestWatchdog gives signs of life as long as there is life, and none without.
func TestWatchdog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	next := func(within time.Duration) (string, error) {
		b := make([]byte, 256)
		if err := socket.SetReadDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		n, err := socket.Read(b)
		return string(b[:n]), err
	}
	m := &serviceManager{watchdog: 20 * time.Millisecond, log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	var healthy atomic.Bool
	asked := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.watch(ctx, func() bool {
			if !healthy.Load() {
				asked <- struct{}{}
				return false
			}
			return true
		})
	}()
	for range 3 {
		<-asked
	}
	if said, err := next(time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("said %q, %v, of what is ill", said, err)
	}
	healthy.Store(true)
	go func() { // it may have been asked in this moment
		select {
		case <-asked:
		case <-ended:
		}
	}()
	for range 3 {
		if said, err := next(10 * time.Second); err != nil || said != "WATCHDOG=1" {
			t.Errorf("said %q, %v", said, err)
		}
	}
	cancel()
	<-ended
}
