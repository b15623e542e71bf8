package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"pilotlight/cmd/pilotlight/agent"
	"pilotlight/testdata/loads"
)

// confined starts an agent as a container's runtime or systemd does: as the user 65534 with the six capabilities and
// no others, without new privileges, on a root file system that is read-only but for data and cache, in a network
// namespace in which there is nobody but the server.
const confined = `set -eu
data=$1 cache=$2; shift 2
mount --bind "$data" "$data"
mount --bind "$cache" "$cache"
# All mounts, as each has a flag of its own; /proc and /sys are not written to either.
cut -d' ' -f2 /proc/self/mounts | while read -r at; do
	case $at in "$data"|"$cache") ;; *) mount -o remount,bind,ro "$at" 2>/dev/null || true ;; esac
done
caps=bpf,perfmon,sys_ptrace,dac_read_search,checkpoint_restore,syslog
set -- --reuid=65534 --regid=65534 --clear-groups --no-new-privs \
	--bounding-set="-all,+${caps//,/,+}" --inh-caps="-all,+${caps//,/,+}" --ambient-caps="-all,+${caps//,/,+}" "$@"
exec setpriv "$@"
`

// TestKernelLeastPrivilege has such an agent profile processes of another user: stacks are whole, functions have their
// names, and nobody but the server is asked for anything.
func TestKernelLeastPrivilege(t *testing.T) {
	needRoot(t)
	for _, name := range []string{"deep", "shares"} {
		if err := loads.Build(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	dir := makeDir(t)
	network := newNetwork(t)
	data, cache := filepath.Join(dir, "agent"), filepath.Join(dir, "agent-cache")
	for _, own := range []string{data, cache} {
		if err := os.Mkdir(own, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(own, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	cmd, err := pilotlight(context.Background(), "server", "--data", filepath.Join(dir, "store"), "--listen", "127.0.0.1:7100")
	if err != nil {
		t.Fatal(err)
	}
	binary := cmd.Path
	network.enter(cmd)
	s := network.launch(t, cmd, servingURL, "")
	cmd, err = pilotlight(context.Background(), "agent")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path, cmd.Args = "/usr/bin/unshare", []string{"unshare", "--mount", "bash", "-c", confined, "confined", data, cache,
		binary, "agent", "--server", s.url, "--data", data, "--cache", cache, "--frequency", "99", "--listen", "127.0.0.1:7101"}
	network.enter(cmd)
	a := network.launch(t, cmd, metricsURL, "send-half")
	checkPrivileges(t, a.cmd.Process.Pid, "65534", "65534", agentHalfCaps, agentHalfCaps)
	checkPrivileges(t, a.other, "65534", "65534", noCaps, agentHalfCaps) // whose bounding set it takes CAP_SETPCAP to change
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/root%s/x", a.cmd.Process.Pid, dir), nil, 0o600); err == nil {
		t.Error("the agent's root file system can be written to")
	}

	begun := time.Now()
	running := map[string]*loads.Load{}
	for _, name := range []string{"deep", "shares"} {
		if running[name], err = loads.Start(t.Context(), name, 25*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	for _, load := range running {
		if _, err := load.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(time.Until(time.Now().Truncate(agent.Window).Add(agent.Window + time.Second)))
	// What programs do before their tables are loaded is another test's matter.
	whole := begun.Truncate(agent.Window).Add(agent.Window)
	text := network.get(t, s.url+"/api/v1/pprof?query=%7B%7D&from="+unixSeconds(whole)+"&to=now")
	p, err := profile.ParseData(text)
	if err != nil {
		t.Fatal(err)
	}
	wantComplete(t, p, 99, "deep", "shares-c", "shares-go")
	wantNamed(t, p, 99, "deep", "shares-c", "shares-go")

	// Who called connect was let in: by the server, or by the agent, for this test. Nobody else listens.
	c := network.counters(t)
	t.Logf("%d TCP connections made, %d of them taken, %d failed; %d datagrams sent, %d packets without a route", c["Tcp ActiveOpens"], c["Tcp PassiveOpens"],
		c["Tcp AttemptFails"], c["Udp OutDatagrams"], c["Ip OutNoRoutes"])
	if c["Tcp ActiveOpens"] != c["Tcp PassiveOpens"] || c["Tcp ActiveOpens"] == 0 || c["Tcp AttemptFails"] > 0 {
		t.Error("not all connections went to the server")
	}
	if c["Udp OutDatagrams"] > 0 || c["Ip OutNoRoutes"] > 0 {
		t.Error("somebody else than the server was asked for something")
	}
}

// wantNamed wants so many percent of the frames of programs to have a function's name, but for those in the distribution's
// C library, which is stripped.
func wantNamed(t *testing.T, p *profile.Profile, percent int64, comms ...string) {
	t.Helper()
	var all, named int64
	others := map[string]int64{}
	for _, s := range of(p, comms...) {
		for _, l := range s.Location {
			if l.Mapping != nil && strings.HasPrefix(l.Mapping.File, "/usr/lib/") {
				continue
			}
			all += s.Value[0]
			switch {
			case len(l.Line) > 0 && l.Line[0].Function.SystemName != "":
				named += s.Value[0]
			case len(l.Line) > 0:
				others[l.Line[0].Function.Name] += s.Value[0]
			}
		}
	}
	t.Logf("%v: %d of %d frames have names; others %v", comms, named, all, others)
	if all == 0 || named*100 < all*percent {
		t.Errorf("%v: %d of %d frames have names, want %d %%", comms, named, all, percent)
	}
}

// network is a network namespace with a loopback device alone.
type network struct{ file *os.File }

func newNetwork(t *testing.T) *network {
	t.Helper()
	made := make(chan error)
	n := new(network)
	go func() {
		runtime.LockOSThread() // and lost with this goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			var out []byte
			if out, err = exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
				err = fmt.Errorf("ip link: %w: %s", err, out)
			}
		}
		if err == nil {
			n.file, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		}
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.file.Close() })
	return n
}

// within calls f on a thread in the namespace.
func (n *network) within(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and lost with this goroutine
		err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}

// enter has a command run in the namespace.
func (n *network) enter(cmd *exec.Cmd) {
	cmd.Args = append([]string{"nsenter", "--net=/proc/self/fd/3", cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/usr/bin/nsenter"
	cmd.ExtraFiles = []*os.File{n.file}
}

// client is one in the namespace.
func (n *network) client() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = n.within(func() (err error) {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}}}
}

func (n *network) launch(t *testing.T, cmd *exec.Cmd, url *regexp.Regexp, half string) *server {
	t.Helper()
	s, err := launchWith(n.client(), cmd, url, half)
	if err != nil {
		t.Fatal(err)
	}
	s.killAtEnd(t)
	return s
}

func (n *network) get(t *testing.T, url string) []byte {
	t.Helper()
	answer, err := n.client().Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s: %s, %v", url, answer.Status, body, err)
	}
	return body
}

// counters are those of proc_net_snmp, by protocol and name.
func (n *network) counters(t *testing.T) map[string]int64 {
	t.Helper()
	counters := make(map[string]int64)
	err := n.within(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		names := map[string][]string{} // a line of names, then one of values
		for line := range strings.Lines(string(text)) {
			protocol, rest, _ := strings.Cut(line, ":")
			fields := strings.Fields(rest)
			if names[protocol] == nil {
				names[protocol] = fields
				continue
			}
			for i, name := range names[protocol] {
				if counters[protocol+" "+name], err = strconv.ParseInt(fields[i], 10, 64); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return counters
}

// TestKernelSixCapabilities starts an agent in each of the ways to have these six capabilities and no others. It has
// them, and its other half has none.
func TestKernelSixCapabilities(t *testing.T) {
	needRoot(t)
	const six = "+bpf,+perfmon,+sys_ptrace,+dac_read_search,+checkpoint_restore,+syslog"
	for _, tt := range []struct {
		name, user string
		setpriv    []string
		file       bool // they are the file's
	}{
		{"systemd", "65534", []string{"--no-new-privs", "--inh-caps=-all," + six, "--ambient-caps=-all," + six}, false},
		{"setcap", "65534", nil, true},
		{"kubernetes", "0", []string{"--no-new-privs", "--inh-caps=-all"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := makeDir(t)
			data := filepath.Join(dir, "data")
			if err := os.Mkdir(data, 0o777); err != nil {
				t.Fatal(err)
			}
			user, err := strconv.Atoi(tt.user)
			if err == nil {
				err = os.Chown(data, user, user)
			}
			if err != nil {
				t.Fatal(err)
			}
			cmd, err := pilotlight(context.Background(), "agent")
			if err != nil {
				t.Fatal(err)
			}
			binary := cmd.Path
			if tt.file {
				if binary, err = withCapabilities(binary, filepath.Join(dir, "pilotlight")); err != nil {
					t.Fatal(err)
				}
			}
			cmd.Path = "/usr/bin/setpriv"
			cmd.Args = slices.Concat([]string{"setpriv", "--reuid=" + tt.user, "--regid=" + tt.user, "--clear-groups", "--bounding-set=-all," + six}, tt.setpriv,
				[]string{binary, "agent", "--server", "http://127.0.0.1:1", "--data", data, "--cache", filepath.Join(data, "cache"), "--listen", "127.0.0.1:0"})
			a, err := launch(cmd, metricsURL, "send-half")
			if err != nil {
				t.Fatal(err)
			}
			a.killAtEnd(t)
			checkPrivileges(t, a.cmd.Process.Pid, tt.user, tt.user, agentHalfCaps, agentHalfCaps)
			checkPrivileges(t, a.other, tt.user, tt.user, noCaps, agentHalfCaps)
			if err := a.stop(); err != nil {
				t.Errorf("ended with %v\n%s", err, a.log)
			}
		})
	}
}

// withCapabilities copies a binary and gives the copy the six capabilities.
func withCapabilities(from, to string) (string, error) {
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, content, 0o755)
	}
	if err != nil {
		return "", err
	}
	set := cap.NewSet()
	if err := errors.Join(set.SetFlag(cap.Permitted, true, agentCapabilities...), set.SetFlag(cap.Effective, true, agentCapabilities...)); err != nil {
		return "", err
	}
	return to, set.SetFile(to)
}
