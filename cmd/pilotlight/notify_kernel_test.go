package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pilotlight/cmd/pilotlight/agent"
)

// TestKernelServiceManager listens as systemd does to what is told it. What samples gives no sign of life while its other
// half stands still.
func TestKernelServiceManager(t *testing.T) {
	needRoot(t)
	t.Parallel() // it waits most of the time
	for verb, half := range map[string]string{"run": "store-half", "agent": "send-half", "server": ""} {
		t.Run(verb, func(t *testing.T) {
			dir := makeDir(t)
			path := filepath.Join(dir, "notify")
			socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer socket.Close()
			if err := os.Chmod(path, 0o777); err != nil { // as systemd's
				t.Fatal(err)
			}
			url := servingURL
			args := []string{verb, "--data", filepath.Join(dir, "data"), "--listen", "127.0.0.1:0"}
			if verb == "agent" {
				url, args = metricsURL, append(args, "--server", "http://"+freeAddress(t))
			}
			cmd, err := pilotlight(context.Background(), args...)
			if err != nil {
				t.Fatal(err)
			}
			cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=2000000")
			s, err := launch(cmd, url, half)
			if err != nil {
				t.Fatal(err)
			}
			s.killAtEnd(t)
			var told []string
			next := func(want string) {
				t.Helper()
				b := make([]byte, 256)
				err := socket.SetReadDeadline(time.Now().Add(15 * time.Second))
				n := 0
				for err == nil && (n == 0 || string(b[:n]) != want) {
					if n, err = socket.Read(b); err == nil {
						told = append(told, string(b[:n]))
					}
				}
				if err != nil {
					t.Fatalf("wanted %s, told %q: %v\n%s", want, told, err, s.log)
				}
			}
			next("READY=1")
			next("WATCHDOG=1")
			next("WATCHDOG=1")
			if half != "" {
				if err := unix.Kill(s.other, unix.SIGSTOP); err != nil {
					t.Fatal(err)
				}
				quiet := false
				for end := time.Now().Add(time.Minute); !quiet && time.Now().Before(end); {
					if err := socket.SetReadDeadline(time.Now().Add(2 * agent.Window)); err != nil {
						t.Fatal(err)
					}
					_, err := socket.Read(make([]byte, 256))
					quiet = errors.Is(err, os.ErrDeadlineExceeded)
				}
				if !quiet {
					t.Error("signs of life while the other half stands still")
				}
				if err := unix.Kill(s.other, unix.SIGCONT); err != nil {
					t.Fatal(err)
				}
				next("WATCHDOG=1")
			}
			if err := s.stop(); err != nil {
				t.Errorf("ended with %v", err)
			}
			next("STOPPING=1")
			if told[0] != "READY=1" || slices.Index(told, "STOPPING=1") < 3 {
				t.Errorf("told %q", told)
			}
		})
	}
}
