package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// How long `pilotlight run` may take to attach and to take a sample, and to stop when asked to.
const (
	startLimit = 15 * time.Second
	stopLimit  = 5 * time.Second
)

// agent is a `pilotlight run` with empty directories.
type agent struct {
	cmd     *exec.Cmd
	dir     string
	metrics string // URL
	started time.Time
	log     *logWatcher
}

// result is what was seen of an agent.
type result struct {
	attached, firstSample time.Duration // after the start of the process
	settled, end          usage         // when start-up was over, and at the end
	metrics               map[string]float64
}

func startAgent(ctx context.Context, pilotlight string, frequency int) (*agent, error) {
	// The port is free a moment later still, as nothing else on this machine is to run.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pilotlight-cost-")
	if err != nil {
		return nil, err
	}
	// The unprivileged half must be able to come by.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	a := &agent{dir: dir, metrics: "http://" + address + "/metrics", log: newLogWatcher("attached")}
	a.cmd = exec.CommandContext(ctx, pilotlight, "run", "--listen", address, "--frequency", strconv.Itoa(frequency),
		"--data", filepath.Join(dir, "data"))
	a.cmd.Cancel = func() error { return a.cmd.Process.Signal(syscall.SIGTERM) }
	a.cmd.WaitDelay = stopLimit
	// As a service manager starts it: the scheduler shares CPUs between sessions first.
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	a.cmd.Stderr = a.log
	a.started = time.Now()
	if err := a.cmd.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return a, nil
}

// observe waits for the agent to take its first sample and then looks at it twice: when settle has passed since its
// start, and d later.
func (a *agent) observe(ctx context.Context, settle, d time.Duration) (*result, error) {
	var r result
	limit, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for r.firstSample == 0 {
		// A server that does not listen yet, or has no figure yet, is asked again.
		if metrics, err := a.scrape(limit); err == nil && metrics["pilotlight_samples_taken_total"] > 0 {
			r.firstSample = time.Since(a.started)
		} else if sleepErr := sleep(limit, 5*time.Millisecond); sleepErr != nil {
			return nil, fmt.Errorf("no sample within %s (last answer of %s: %v)", startLimit, a.metrics, err)
		}
	}
	select {
	case <-limit.Done():
		return nil, fmt.Errorf("no log line with \"attached\" within %s", startLimit)
	case at := <-a.log.found:
		r.attached = at.Sub(a.started)
	}
	for _, step := range []struct {
		at  time.Duration
		use *usage
	}{{settle, &r.settled}, {settle + d, &r.end}} {
		if err := sleep(ctx, time.Until(a.started.Add(step.at))); err != nil {
			return nil, err
		}
		var err error
		if *step.use, err = usageOf(a.cmd.Process.Pid); err != nil {
			return nil, err
		}
	}
	var err error
	r.metrics, err = a.scrape(ctx)
	return &r, err
}

// stop asks the agent to stop and says what was wrong with the way it did.
func (a *agent) stop() error {
	// It may have ended by itself; Wait says how.
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	late := time.AfterFunc(stopLimit, func() { a.cmd.Process.Kill() })
	defer late.Stop()
	err := a.cmd.Wait()
	if err != nil {
		err = fmt.Errorf("stop: %w", err)
	}
	return errors.Join(err, os.RemoveAll(a.dir))
}

// scrape returns the metrics by name, those with labels summed.
func (a *agent) scrape(ctx context.Context) (map[string]float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.metrics, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", a.metrics, response.Status)
	}
	return parseMetrics(response.Body)
}

// parseMetrics reads the text format of Prometheus as far as one sum for each name needs it: no timestamps.
func parseMetrics(r io.Reader) (map[string]float64, error) {
	sums := make(map[string]float64)
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		space := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || space < 0 {
			continue
		}
		value, err := strconv.ParseFloat(line[space+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metrics: line %q: %w", line, err)
		}
		name, _, _ := strings.Cut(line[:space], "{")
		sums[name] += value
	}
	return sums, lines.Err()
}

// logWatcher keeps what is written to it and tells when a word first occurs in it.
type logWatcher struct {
	found chan time.Time // gets one value

	mu   sync.Mutex
	word []byte
	text []byte
	seen bool
}

func newLogWatcher(word string) *logWatcher {
	return &logWatcher{found: make(chan time.Time, 1), word: []byte(word)}
}

func (w *logWatcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, p...)
	if !w.seen && bytes.Contains(w.text, w.word) {
		w.seen = true
		w.found <- time.Now()
	}
	return len(p), nil
}

// tail returns the last 2 KiB.
func (w *logWatcher) tail() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Clone(w.text[max(0, len(w.text)-2048):])
}
