package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"golang.org/x/sys/unix"

	"pilotlight/bpf"
	"pilotlight/cmd/pilotlight/agent"
)

// stopTimeout is how long the store half may take to end in good order. With the
// agent's last window before it, that is less than 5 s.
const stopTimeout = 2 * time.Second

// gcPercent is how much garbage the agent half lets lie, in percent of what it
// holds. It allocates little, so collecting twice as often as by default costs
// nothing that can be measured, and takes 4 MB off what it needs.
const gcPercent = 50

// runCmd is the agent half of `run`: it samples as root and hands profiles to
// the store half, a child process without privileges that it starts.
type runCmd struct {
	Listen    string `help:"Address of the web page and the API." default:"127.0.0.1:7100" placeholder:"HOST:PORT"`
	Data      string `help:"Directory of the profiles. Default: /var/lib/pilotlight as root, else below XDG_STATE_HOME." placeholder:"DIR"`
	Cache     string `help:"Directory of unwind tables and indexes of debug information. Default: /var/cache/pilotlight as root, else below XDG_CACHE_HOME." placeholder:"DIR"`
	Frequency hertz  `help:"Samples per second of each busy CPU." default:"19" placeholder:"HZ"`
	debuginfodFlags
	storeFlags
	serveFlags
}

func (c *runCmd) Run(g *globals) error {
	if err := checkInitialPIDNamespace(); err != nil {
		return err
	}
	data, err := dataDir(c.Data)
	if err != nil {
		return err
	}
	cache, err := cacheDir(c.Cache)
	if err != nil {
		return err
	}
	fetch, err := c.debuginfodFlags.open(cache, g)
	if err != nil {
		return err
	}
	slowDown, err := hurry()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return explainListen(c.Listen, err)
	}
	// What cannot sample is to find out before it makes a directory; and what
	// happens while the store half opens its store is sampled already.
	sampler, err := bpf.Open(bpf.Options{Frequency: int(c.Frequency)})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer sampler.Close()
	if err := sampler.Start(); err != nil {
		return errors.Join(err, listener.Close())
	}
	attached := time.Since(started).Round(time.Millisecond)
	if err := slowDown(); err != nil {
		return err
	}
	// From here on one CPU is plenty for the agent half. With more, the garbage
	// collector takes whichever are idle, a fifth of all that this process costs.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(gcPercent)
	runtime.MemProfileRate = 0 // nobody can ask this half for a heap profile
	owner, err := storeUser()
	if err != nil {
		return err
	}
	if err := makeDataDir(data, owner); err != nil {
		return err
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	half, err := startStoreHalf(listener.(*net.TCPListener), data, owner, append(c.storeFlags.args(), c.serveFlags.args()...), g)
	if err != nil {
		return err
	}
	err = sample(ctx, g, sampler, cache, fetch, half, func() {
		g.log.Info("sampling", "frequency", sampler.Frequency(), "cpus", runtime.NumCPU(), "attached_after", attached)
		g.log.Info("serving", "url", c.scheme()+"://"+listener.Addr().String())
	})
	if errors.Is(err, errStoreGone) {
		err = nil // stop knows why it went
	}
	return errors.Join(err, half.stop())
}

// sample profiles until ctx is done or the store half ends. It calls ready when
// the store is open.
func sample(ctx context.Context, g *globals, sampler *bpf.Sampler, cache string, fetch agent.FetchDebug, half *storeHalf, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	serving := make(chan struct{})
	go func() {
		defer cancel()
		select {
		case <-half.link.started:
			// Not before: a store that cannot be opened is all there is to say.
			ready()
			close(serving)
		case <-half.link.broken:
		}
		<-half.link.broken
	}()
	if err := half.link.send(ctx, messageReady, nil); err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	start := startUp{log: g.log}
	a, err := agent.New(sampler, half.link, agent.Options{
		Version:    g.version,
		CacheDir:   cache,
		Index:      indexFile,
		FetchDebug: fetch,
		Registerer: registry,
		Logger:     g.log,
		OnReport: func(r agent.Report) {
			half.report(r, registry)
			start.window()
		},
	})
	if err != nil {
		return err
	}
	// A store that refuses does so at once, and is then all there is to say. The
	// rings hold what is sampled meanwhile.
	select {
	case <-serving:
	case <-half.link.broken:
		return errStoreGone
	case <-time.After(time.Second): // it reads a long log
	}
	go half.reportFirstSample(ctx, sampler, registry, serving)
	return a.Run(ctx)
}

// storeHalf is the child process that keeps and serves the profiles.
type storeHalf struct {
	cmd  *exec.Cmd
	link *agentLink
	log  *slog.Logger
}

// Files that the store half inherits.
const (
	linkFD     = 3
	listenerFD = 4
	dataFD     = 5
)

func startStoreHalf(listener *net.TCPListener, data string, owner *syscall.Credential, flags []string, g *globals) (*storeHalf, error) {
	conn, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	socket, err := listener.File()
	if err != nil {
		return nil, fmt.Errorf("pass on listener: %w", err)
	}
	defer socket.Close()
	if err := listener.Close(); err != nil { // the child's copy goes on listening
		return nil, fmt.Errorf("pass on listener: %w", err)
	}
	dir, err := os.OpenFile(data, unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("data directory: %w: name another with --data", err), conn.Close())
	}
	defer dir.Close()

	cmd := exec.Command("/proc/self/exe", append([]string{"store-half", "--data", data, "--log-level", g.logLevel.String()}, flags...)...)
	cmd.Args[0] = "pilotlight"
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs, socket, dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	if err := startWithoutNewPrivileges(cmd); err != nil {
		return nil, errors.Join(fmt.Errorf("start store half: %w", err), conn.Close())
	}
	return &storeHalf{cmd: cmd, link: newAgentLink(conn), log: g.log}, nil
}

// startWithoutNewPrivileges starts cmd so that no setuid or file capability can
// give it back what it does without.
func startWithoutNewPrivileges(cmd *exec.Cmd) error {
	result := make(chan error)
	go func() {
		// Flag and set are the thread's, and are inherited by what it starts. The
		// thread is not unlocked and so ends with this goroutine.
		runtime.LockOSThread()
		err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		if err == nil {
			err = emptyBoundingSet()
		}
		if err != nil {
			result <- fmt.Errorf("give up new privileges: %w", err)
			return
		}
		result <- cmd.Start()
	}()
	return <-result
}

// emptyBoundingSet drops every capability that the kernel knows from the bounding set of the thread. Who is not
// root may not do that, and starts what has no capabilities anyway.
func emptyBoundingSet() error {
	for capability := uintptr(0); ; capability++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0)
		switch {
		case errors.Is(err, unix.EINVAL) && capability > 0: // the last one was
			return nil
		case errors.Is(err, unix.EPERM):
			return nil
		case err != nil:
			return fmt.Errorf("drop capability %d: %w", capability, err)
		}
	}
}

// reportFirstSample has the metrics tell that the sampler works before the first
// window is over, once there is somebody to be told.
func (h *storeHalf) reportFirstSample(ctx context.Context, s *bpf.Sampler, metrics prometheus.Gatherer, serving <-chan struct{}) {
	select {
	case <-serving:
	case <-ctx.Done():
		return
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if st, err := s.Stats(); err != nil || st.Taken > 0 {
			break
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	h.log.Info("first sample taken", "after", time.Since(started).Round(time.Millisecond))
	if err := h.sendMetrics(ctx, metrics); err != nil {
		h.log.Warn("report to store half", "err", err)
	}
}

// report tells the store half how the agent does.
func (h *storeHalf) report(r agent.Report, metrics prometheus.Gatherer) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	report, err := json.Marshal(agentReport(r))
	if err == nil {
		err = h.link.send(ctx, messageReport, report)
	}
	if err := errors.Join(err, h.sendMetrics(ctx, metrics)); err != nil && !errors.Is(err, errStoreGone) { // stop says why
		h.log.Warn("report to store half", "err", err)
	}
}

func (h *storeHalf) sendMetrics(ctx context.Context, metrics prometheus.Gatherer) error {
	families, err := metrics.Gather()
	if err != nil {
		return err
	}
	var encoded bytes.Buffer
	enc := expfmt.NewEncoder(&encoded, expfmt.NewFormat(expfmt.TypeProtoDelim))
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			return err
		}
	}
	return h.link.send(ctx, messageMetrics, encoded.Bytes())
}

// stop ends the store half in good order, or else at once.
func (h *storeHalf) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	// One that stands still does not end by itself, whatever became of the link.
	kill := time.AfterFunc(stopTimeout, func() {
		if err := h.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			h.log.Error("kill store half", "err", err)
		}
	})
	defer kill.Stop()
	select {
	case <-h.link.broken: // it ended by itself
		err := h.link.conn.Close()
		if errors.Is(err, net.ErrClosed) {
			err = nil // a write to it had to be cut off
		}
		exit := h.cmd.Wait()
		switch {
		case h.link.refused != nil:
			exit = h.link.refused
		case exit != nil:
			exit = fmt.Errorf("store half ended: %w: start pilotlight again; what was acknowledged is kept", exit)
		default:
			exit = errors.New("store half ended without being asked to: start pilotlight again; what was acknowledged is kept")
		}
		return errors.Join(exit, err)
	default:
	}
	if err := h.link.end(ctx); err != nil {
		return errors.Join(err, h.cmd.Wait())
	}
	return h.cmd.Wait()
}

// storeUser returns who the store half runs as: the user pilotlight if there is
// one, else nobody; nil, the same user, if this process may not choose.
func storeUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"pilotlight", "nobody"} {
		u, err := user.Lookup(name)
		var unknown user.UnknownUserError
		if errors.As(err, &unknown) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look up user %s: %w", name, err)
		}
		uid, uerr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gerr := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(uerr, gerr); err != nil {
			return nil, fmt.Errorf("look up user %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	const overflow = 65534 // what the kernel calls users it cannot name
	return &syscall.Credential{Uid: overflow, Gid: overflow}, nil
}

// dataDir returns the data directory: the one that was asked for, or the default.
func dataDir(asked string) (string, error) {
	if asked != "" {
		return filepath.Abs(asked)
	}
	if os.Geteuid() == 0 {
		return "/var/lib/pilotlight", nil
	}
	if state := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, "pilotlight"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find a data directory: %w: name one with --data", err)
	}
	return filepath.Join(home, ".local", "state", "pilotlight"), nil
}

// cacheDir returns the cache directory: the one that was asked for, or the default.
func cacheDir(asked string) (string, error) {
	if asked != "" {
		return filepath.Abs(asked)
	}
	if os.Geteuid() == 0 {
		return "/var/cache/pilotlight", nil
	}
	dir, err := os.UserCacheDir() // XDG_CACHE_HOME, or ~/.cache
	if err != nil {
		return "", fmt.Errorf("find a cache directory: %w: name one with --cache", err)
	}
	return filepath.Join(dir, "pilotlight"), nil
}

// makeDataDir makes the data directory if it is not there and gives it to owner.
// One that is there is left as it is: it may be another program's.
func makeDataDir(dir string, owner *syscall.Credential) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("make data directory: %w: name another with --data", err)
	}
	err := os.Mkdir(dir, 0o750)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil && owner != nil {
		err = os.Lchown(dir, int(owner.Uid), int(owner.Gid)) // not where a link leads that took its place
	}
	if err != nil {
		return fmt.Errorf("make data directory: %w: name another with --data", err)
	}
	return nil
}

func explainListen(addr string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("listen on %s: the port is in use: stop what listens there, or choose another with --listen", addr)
	}
	return fmt.Errorf("listen on %s: %w: choose another address with --listen", addr, err)
}
