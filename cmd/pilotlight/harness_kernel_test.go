package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Tests named TestKernel and TestBrowser run the built binary on this kernel.

func TestMain(m *testing.M) {
	// What is tested in this process starts its children as itself.
	if len(os.Args) > 1 && strings.HasSuffix(os.Args[1], "-child") {
		main()
		return
	}
	code := m.Run()
	if err := errors.Join(stopShared(), removeScratch()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// needRoot skips where no sampler can be had.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 && os.Getenv("REQUIRE_ALL") != "1" {
		t.Skip("loading BPF programs needs root")
	}
}

var scratchMade string

// scratch is a directory that everybody may enter, as t.TempDir() is not: the
// store half runs as nobody. It holds the binary.
var scratch = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "pilotlight-test-")
	if err != nil {
		return "", err
	}
	scratchMade = dir
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-ldflags", "-X main.version=test", "-o", dir, ".")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build pilotlight: %w\n%s", err, out)
	}
	return dir, nil
})

func removeScratch() error {
	if scratchMade == "" {
		return nil // no test asked for it
	}
	return os.RemoveAll(scratchMade)
}

// makeDir makes a directory that everybody may enter, for the time of a test.
func makeDir(t *testing.T) string {
	t.Helper()
	root, err := scratch()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(root, "")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// pilotlight is the command, not started. It is to be the leader of a session, as
// a service manager starts it: the scheduler shares CPUs between sessions first,
// and the loads of a test are many.
func pilotlight(ctx context.Context, args ...string) (*exec.Cmd, error) {
	dir, err := scratch()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "pilotlight"), args...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = append(os.Environ(), "PILOTLIGHT_CACHE="+filepath.Join(dir, "cache"))
	return cmd, nil
}

// server is a `pilotlight run`, `agent` or `server`.
type server struct {
	url   string // http://127.0.0.1:port
	data  string
	other int // pid of the store half or send half
	cmd   *exec.Cmd
	log   *log
	ended chan struct{} // closed when it has ended
	err   error         // how it ended
}

// log is what a process writes, also to be read while it does.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

var (
	servingURL = regexp.MustCompile(`msg=serving url=(\S+)`)
	metricsURL = regexp.MustCompile(`msg=sending server=\S+ metrics=(\S+)/metrics`)
)

// startServer starts a run and returns when it is ready.
func startServer(data, listen string, frequency int, more ...string) (*server, error) {
	args := append([]string{"run", "--data", data, "--listen", listen, "--frequency", strconv.Itoa(frequency)}, more...)
	cmd, err := pilotlight(context.Background(), args...)
	if err != nil {
		return nil, err
	}
	s, err := launch(cmd, servingURL, "store-half")
	if err != nil {
		return nil, err
	}
	s.data = data
	return s, nil
}

// launch starts a command that says in its log by which URL it is reached, and has another half unless that is "", and
// returns when it is ready.
func launch(cmd *exec.Cmd, url *regexp.Regexp, half string) (*server, error) {
	return launchWith(http.DefaultClient, cmd, url, half)
}

// launchWith is launch with a client of one's own.
func launchWith(client *http.Client, cmd *exec.Cmd, url *regexp.Regexp, half string) (*server, error) {
	s := &server{cmd: cmd, log: new(log), ended: make(chan struct{})}
	cmd.Stderr = s.log
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // whose end Pdeathsig tells
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			s.err = cmd.Wait()
			close(s.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	err := eventually(20*time.Second, "pilotlight is ready", func() bool {
		if m := url.FindStringSubmatch(s.log.String()); m != nil {
			s.url = m[1]
			answer, err := client.Get(s.url + "/-/ready")
			if err == nil {
				answer.Body.Close()
				return answer.StatusCode == http.StatusOK
			}
		}
		return false
	})
	if err == nil && half != "" {
		s.other, err = halfOf(cmd.Process.Pid, half)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, s.log), s.stop())
	}
	return s, nil
}

func start(t *testing.T, data, listen string, frequency int) *server {
	t.Helper()
	s, err := startServer(data, listen, frequency)
	if err != nil {
		t.Fatal(err)
	}
	s.killAtEnd(t)
	return s
}

// killAtEnd sees to it that nothing of s is left when the test has ended.
func (s *server) killAtEnd(t *testing.T) {
	t.Cleanup(func() {
		s.signal(unix.SIGKILL)
		<-s.ended
	})
}

// signal sends a signal to the agent half, if it still runs.
func (s *server) signal(sig syscall.Signal) {
	select {
	case <-s.ended:
	default:
		unix.Kill(s.cmd.Process.Pid, sig)
	}
}

// stop asks it to end, waits, and returns how it ended.
func (s *server) stop() error {
	s.signal(unix.SIGTERM)
	select {
	case <-s.ended:
		return s.err
	case <-time.After(20 * time.Second):
		s.signal(unix.SIGKILL)
		<-s.ended
		return errors.New("pilotlight did not end within 20 s of SIGTERM")
	}
}

// waitEnd waits until both halves are gone and returns how long that took.
func (s *server) waitEnd(t *testing.T, atMost time.Duration) time.Duration {
	t.Helper()
	begun := time.Now()
	select {
	case <-s.ended:
	case <-time.After(atMost):
		t.Fatalf("the agent half still runs after %v\n%s", atMost, s.log)
	}
	if err := eventually(max(0, atMost-time.Since(begun)), "the other half has ended", func() bool { return !runs(s.other) }); err != nil {
		t.Fatalf("%v\n%s", err, s.log)
	}
	return time.Since(begun)
}

// endpoint is the URL of an API route with parameters, given as name, value, ...
func (s *server) endpoint(route string, params ...string) string {
	v := url.Values{}
	for i := 0; i < len(params); i += 2 {
		v.Set(params[i], params[i+1])
	}
	return s.url + "/api/v1/" + route + "?" + v.Encode()
}

func get(url string) ([]byte, error) {
	answer, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", url, answer.Status, body)
	}
	return body, err
}

func getJSON(t *testing.T, url string, v any) {
	t.Helper()
	body, err := get(url)
	if err == nil {
		err = json.Unmarshal(body, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// eventually asks until the answer is yes, and complains after atMost.
func eventually(atMost time.Duration, what string, ask func() bool) error {
	for end := time.Now().Add(atMost); !ask(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("not within %v: %s", atMost, what)
		}
	}
	return nil
}

// runs says whether a process is there and is not a zombie.
func runs(pid int) bool {
	st, err := procStatus(pid)
	return err == nil && !strings.HasPrefix(st["State"], "Z")
}

// procStatus reads /proc/PID/status, or that of a thread: "task", TID.
func procStatus(pid int, thread ...string) (map[string]string, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), filepath.Join(thread...), "status"))
	if err != nil {
		return nil, err
	}
	st := make(map[string]string)
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		st[name] = strings.TrimSpace(value)
	}
	return st, nil
}

// halfOf returns the child of a run or agent that is its other half. It may have more children for a while.
func halfOf(pid int, half string) (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	var children []int
	for _, e := range entries {
		p, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// One that is gone by now is not a child that matters.
		st, err := procStatus(p)
		cmdline, cerr := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p))
		if err == nil && cerr == nil && st["PPid"] == strconv.Itoa(pid) && bytes.Contains(cmdline, []byte(half)) {
			children = append(children, p)
		}
	}
	if len(children) != 1 {
		return 0, fmt.Errorf("process %d has the children %s %v, want one", pid, half, children)
	}
	return children[0], nil
}
