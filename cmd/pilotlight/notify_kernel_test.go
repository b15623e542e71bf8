package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestKernelServiceManager listens as systemd does to what a run and a server tell it.
func TestKernelServiceManager(t *testing.T) {
	needRoot(t)
	t.Parallel() // it waits most of the time
	for verb, half := range map[string]string{"run": "store-half", "server": ""} {
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
			cmd, err := pilotlight(context.Background(), verb, "--data", filepath.Join(dir, "data"), "--listen", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=2000000")
			s, err := launch(cmd, servingURL, half)
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
