package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/bpf"
	"pilotlight/cmd/pilotlight/agent"
)

// What samples all the time is two processes. The agent half samples: it has the capabilities for that, and parses no
// byte that comes over a network. It starts the other half, which has none, and hands its profiles to it over a link.
// That one keeps and serves them in `run` (the store half) and sends them to a server in `agent` (the send half).

// gcPercent is how much garbage the agent half lets lie, in percent of what it
// holds. It allocates little, so collecting twice as often as by default costs
// nothing that can be measured, and takes 4 MB off what it needs.
const gcPercent = 50

// agentFlags are the flags of the agent half.
type agentFlags struct {
	Cache       string   `help:"Directory of unwind tables and indexes of debug information. Default: /var/cache/pilotlight as root, else below XDG_CACHE_HOME." placeholder:"DIR"`
	Frequency   hertz    `help:"Samples per second of each busy CPU." default:"19" placeholder:"HZ"`
	CPULimit    fraction `name:"cpu-limit" help:"Share of the machine's CPU time that sampling may take. Above it, less is done." default:"2%" placeholder:"PERCENT"`
	MemoryLimit byteSize `help:"Memory that it may take, with the kernel's for it." default:"256MiB" placeholder:"SIZE"`
	Hostname    string   `help:"What profiles call this machine. Default: the name that it has itself; in a container, that is the container's." placeholder:"NAME"`
	OffFile     string   `type:"path" help:"While this file exists, no samples are taken." default:"/run/pilotlight.off" placeholder:"FILE"`
	JVMNames    bool     `name:"jvm-names" help:"Ask running Java virtual machines for the names of what they compiled, each as the user whom it runs as. Needs root."`
	configFlags
	debuginfodFlags
}

// fraction is a part of a whole, above none of it, written as 2%.
type fraction float64

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *fraction) UnmarshalText(text []byte) error {
	digits, ok := strings.CutSuffix(string(text), "%")
	percent, err := strconv.ParseFloat(digits, 64)
	if err != nil || !ok || !(percent > 0 && percent <= 100) {
		return fmt.Errorf("%.40q: write a part of the whole above 0, as 2%%", text)
	}
	*s = fraction(percent / 100)
	return nil
}

// agentHalf is one that samples.
type agentHalf struct {
	*globals
	flags    *agentFlags
	settings *configuration
	cache    string
	fetch    agent.FetchDebug
	sampler  *bpf.Sampler
	peer     *peer
	manager  *serviceManager
	jvms     *jvmAsker
	registry *prometheus.Registry
}

// run samples, with another half as p says, until it is asked to end or that half ends. serving says where that half
// listens.
func (f *agentFlags) run(g *globals, p peerOptions, serving func(net.Addr)) (err error) {
	if err := checkInitialPIDNamespace(); err != nil {
		return err
	}
	h := &agentHalf{globals: g, flags: f, registry: prometheus.NewRegistry()}
	if h.manager, err = findServiceManager(g.log); err != nil {
		return err
	}
	if h.settings, err = f.configFlags.open(g); err != nil {
		return err
	}
	if h.cache, err = cacheDir(f.Cache); err != nil {
		return err
	}
	if h.fetch, err = f.debuginfodFlags.open(h.cache, g); err != nil {
		return err
	}
	slowDown, err := hurry()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", p.listen)
	if err != nil {
		return explainListen(p.listen, err)
	}
	// What cannot sample is to find out before it makes a directory; and what
	// happens while the other half starts is sampled already.
	if h.sampler, err = bpf.Open(bpf.Options{Frequency: int(f.Frequency)}); err != nil {
		return errors.Join(err, listener.Close())
	}
	defer h.sampler.Close()
	if err := h.sampler.Start(); err != nil {
		return errors.Join(err, listener.Close())
	}
	attached := time.Since(started).Round(time.Millisecond)
	if err := slowDown(); err != nil {
		return err
	}
	if err := relaxTimers(); err != nil {
		return err
	}
	// From here on one CPU is plenty for the agent half. With more, the garbage
	// collector takes whichever are idle, a fifth of all that this process costs.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(gcPercent)
	runtime.MemProfileRate = 0 // nobody can ask this half for a heap profile

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := h.part(listener, p); err != nil {
		return err
	}
	context.AfterFunc(ctx, h.manager.stopping)
	err = h.sample(ctx, func() {
		g.log.Info("sampling", "frequency", h.sampler.Frequency(), "cpus", runtime.NumCPU(), "attached_after", attached)
		serving(listener.Addr())
		h.manager.ready()
	})
	if errors.Is(err, errPeerGone) {
		err = nil // stop knows why it went
	}
	return errors.Join(err, h.jvms.stop(), h.peer.stop())
}

// part starts the other half and gives up what sampling does not take.
func (h *agentHalf) part(listener net.Listener, p peerOptions) error {
	owner, err := otherUser()
	if err != nil {
		return err
	}
	if err := makeDataDir(p.data, owner); err != nil {
		return err
	}
	giveCache(h.cache, owner, h.globals)
	if h.flags.JVMNames {
		if h.jvms, err = startJVMAsker(); err != nil {
			return err
		}
	}
	if owner == nil {
		// Before it starts another: the thread that does so loses all its privileges,
		// and no call on all threads must meet it.
		if err := keepCapabilities(agentCapabilities, nil); err != nil {
			return err
		}
	}
	if h.peer, err = startPeer(listener.(*net.TCPListener), owner, p, h.globals); err != nil {
		return err
	}
	if owner != nil { // who had to be able to become owner until now
		user := *owner
		user.Groups = runtimeGroups(h.settings.current.Runtimes)
		if err := keepCapabilities(agentCapabilities, &user); err != nil {
			return errors.Join(err, h.peer.stop())
		}
	}
	return nil
}

// beside returns what tells the cost of the other half, if that counts.
func (h *agentHalf) beside() func() (time.Duration, uint64, error) {
	if !h.peer.counts {
		return nil
	}
	pid := h.peer.cmd.Process.Pid
	return func() (cpu time.Duration, memory uint64, err error) {
		cpu, err = cpuTime(pid)
		if err == nil {
			memory, err = agent.ResidentBytes(os.DirFS("/proc"), strconv.Itoa(pid))
		}
		return cpu, memory, err
	}
}

// sample profiles until ctx is done or the other half ends. It calls ready when
// that has started.
func (h *agentHalf) sample(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	link := h.peer.link
	serving := make(chan struct{})
	go func() {
		defer cancel()
		select {
		case <-link.started:
			// Not before: what keeps the other half from starting is all there is to say.
			ready()
			close(serving)
		case <-link.broken:
		}
		<-link.broken
	}()
	if err := link.send(ctx, message{messageReady, nil}); err != nil {
		return err
	}
	start := startUp{log: h.log}
	who, err := newWhoIsWho(h.settings, h.registry, h.log)
	if err != nil {
		return err
	}
	a, err := agent.New(h.sampler, link, agent.Options{
		Version:     h.version,
		Hostname:    h.flags.Hostname,
		CacheDir:    h.cache,
		Index:       indexFile,
		FetchDebug:  h.fetch,
		AskJVM:      h.jvms.asker(),
		CPULimit:    float64(h.flags.CPULimit),
		MemoryLimit: int64(h.flags.MemoryLimit),
		Beside:      h.beside(),
		Settings:    agentSettings(h.settings.current),
		Names:       who.names,
		Registerer:  h.registry,
		Logger:      h.log,
		OnReport: func(r agent.Report) {
			h.peer.report(r, h.registry)
			h.manager.alive()
			start.window()
		},
	})
	if err != nil {
		return err
	}
	unwatch, err := watchOffFile(h.flags.OffFile, a.SetSampling, h.log)
	if err != nil {
		return fmt.Errorf("--off-file: %w", err)
	}
	defer unwatch()
	// One that cannot start says so at once, and that is then all there is to say. The
	// rings hold what is sampled meanwhile.
	select {
	case <-serving:
	case <-link.broken:
		return errPeerGone
	case <-time.After(time.Second): // a store half that reads a long log
	}
	go h.peer.reportFirstSample(ctx, h.sampler, h.registry, serving)
	defer who.follow(ctx, a)()
	return a.Run(ctx)
}
