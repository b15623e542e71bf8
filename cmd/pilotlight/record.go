package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/google/pprof/profile"
	"golang.org/x/sys/unix"

	"pilotlight/bpf"
	"pilotlight/cmd/pilotlight/agent"
	"pilotlight/profilestore"
	"pilotlight/profilestore/flamegraph"
)

// recordCmd profiles for a while and writes one file. It needs no server.
type recordCmd struct {
	PID       uint32        `short:"p" name:"pid" xor:"whom" help:"Profile this process and what it starts." placeholder:"PID"`
	All       bool          `short:"a" name:"all" xor:"whom" help:"Profile the whole machine. This is the default."`
	Duration  time.Duration `short:"d" help:"How long; with a command, at most so long. Default: 10s, or until the command ends."`
	Frequency hertz         `short:"F" help:"Samples per second of each busy CPU." default:"99" placeholder:"HZ"`
	Cache     string        `help:"Directory of unwind tables and indexes of debug information. Default: /var/cache/pilotlight as root, else below XDG_CACHE_HOME." placeholder:"DIR"`
	Output    string        `short:"o" help:"File to write. Default: profile.pb.gz, or profile and what the format is called." placeholder:"FILE"`
	Format    string        `short:"f" help:"pprof, folded, speedscope, firefox or svg." enum:"pprof,folded,speedscope,firefox,svg" default:"pprof"`
	Command   []string      `arg:"" optional:"" passthrough:"partial" help:"Command to run and profile, after --."`
}

// indexWait is how long record waits for debug information to be read.
const indexWait = 20 * time.Second

// topFunctions is how many functions record lists at its end.
const topFunctions = 10

func (c *recordCmd) Run(g *globals) error {
	if len(c.Command) > 0 && c.Command[0] == "--" {
		c.Command = c.Command[1:]
	}
	if err := c.check(); err != nil {
		return err
	}
	format := flamegraph.Format(c.Format)
	if c.Output == "" {
		c.Output = "profile.pb.gz"
		if format != formatPprof {
			c.Output = format.FileName()
		}
	}
	// Opened first: whoever cannot write the file need not wait to be told.
	out, err := openOutput(c.Output)
	if err != nil {
		return err
	}
	prof, report, err := c.record(g)
	if err != nil {
		return errors.Join(err, out.discard())
	}
	if err := out.write(prof, format); err != nil {
		return err
	}
	return summarize(g.stderr, c.Output, prof, report)
}

// output is a file that keeps what it held until there is something to put in
// its place.
type output struct {
	*os.File
	made bool // it was not there before
}

func openOutput(path string) (*output, error) {
	_, err := os.Stat(path)
	out := &output{made: errors.Is(err, fs.ErrNotExist)}
	if out.File, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o666); err != nil {
		return nil, fmt.Errorf("write profile: %w: choose another file with -o", err)
	}
	return out, nil
}

func (o *output) discard() error {
	err := o.Close()
	if o.made {
		err = errors.Join(err, os.Remove(o.Name()))
	}
	return err
}

// formatPprof is the format that flamegraph.Export need not know.
const formatPprof flamegraph.Format = "pprof"

func (o *output) write(p *profile.Profile, format flamegraph.Format) error {
	info, err := o.Stat()
	if err == nil && info.Mode().IsRegular() { // a pipe cannot be cut, and need not be
		err = o.Truncate(0)
	}
	if err == nil {
		err = writeProfile(o, p, format)
	}
	return errors.Join(err, o.Close())
}

func writeProfile(w io.Writer, p *profile.Profile, format flamegraph.Format) error {
	if format == formatPprof {
		return p.Write(w)
	}
	const cpu = 1 // of the agent's sample types
	stacks, err := flamegraph.FromProfile(p, cpu)
	if err != nil {
		return err
	}
	return flamegraph.Export(context.Background(), w, stacks, format, p.SampleType[cpu].Unit)
}

func (c *recordCmd) check() error {
	if len(c.Command) > 0 && (c.PID != 0 || c.All) {
		return errors.New("record a command, or -p PID, or -a: not two of them")
	}
	if c.Duration < 0 {
		return fmt.Errorf("-d %v: give a time above zero", c.Duration)
	}
	if c.PID != 0 {
		if err := unix.Kill(int(c.PID), 0); errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("-p %d: there is no such process: give the pid of one that runs", c.PID)
		}
	}
	return checkInitialPIDNamespace()
}

// record profiles until its time is over, the command ends or a signal comes.
func (c *recordCmd) record(g *globals) (*profile.Profile, agent.Report, error) {
	fail := func(err error) (*profile.Profile, agent.Report, error) { return nil, agent.Report{}, err }
	cache, err := cacheDir(c.Cache)
	if err != nil {
		return fail(err)
	}
	sampler, err := bpf.Open(bpf.Options{Frequency: int(c.Frequency)})
	if err != nil {
		return fail(err)
	}
	defer sampler.Close()
	if err := sampler.Start(); err != nil {
		return fail(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	duration := c.Duration
	if duration == 0 && len(c.Command) == 0 {
		duration = 10 * time.Second
	}
	if duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, duration)
		defer cancel()
	}
	pid := c.PID
	if len(c.Command) > 0 {
		cmd := exec.Command(c.Command[0], c.Command[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			return fail(fmt.Errorf("run %s: %w: give a command that can be run, and its arguments, after --", c.Command[0], err))
		}
		pid = uint32(cmd.Process.Pid)
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		go func() {
			defer cancel()
			if err := cmd.Wait(); err != nil {
				g.log.Warn("command ended", "command", c.Command[0], "err", err)
			}
		}()
	}

	user, err := otherUser()
	if err != nil {
		return fail(err)
	}
	giveCache(cache, user, g)
	if err := keepCapabilities(agentCapabilities, user); err != nil {
		return fail(err)
	}
	var kept collector
	var report agent.Report
	a, err := agent.New(sampler, &kept, agent.Options{
		Version:  g.version,
		PID:      pid,
		CacheDir: cache,
		CPULimit: -1, // what it takes was asked for, and ends
		Index:    indexFile,
		// Who records something wants its names, and there is no later window.
		IndexWait: indexWait,
		Logger:    g.log,
		OnReport:  func(r agent.Report) { report = r },
	})
	if err != nil {
		return fail(err)
	}
	progressed := make(chan struct{})
	go func() {
		defer close(progressed)
		if len(c.Command) == 0 { // which has the terminal
			showProgress(ctx, os.Stderr, sampler.Stats)
		}
	}()
	err = a.Run(ctx)
	stop()
	<-progressed
	if err != nil {
		return fail(err)
	}
	prof, err := kept.merge()
	return prof, report, err
}

// collector is an agent.Appender that keeps the profiles in memory.
type collector struct {
	mu       sync.Mutex
	profiles []*profile.Profile
}

// Append implements agent.Appender.
func (c *collector) Append(_ context.Context, batch []profilestore.Encoded) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range batch {
		p, err := profile.ParseData(e.Pprof)
		if err != nil {
			return fmt.Errorf("parse own profile: %w", err)
		}
		// Mappings are numbered anew when profiles are merged.
		p.Comments = slices.DeleteFunc(p.Comments, func(s string) bool { return strings.HasPrefix(s, "file_key ") })
		c.profiles = append(c.profiles, p)
	}
	return nil
}

func (c *collector) merge() (*profile.Profile, error) {
	if len(c.profiles) == 0 {
		return nil, errors.New("no sample was taken: what was to be profiled did not run; record longer")
	}
	// A profile's duration is that of all windows, not the sum over processes.
	first, last := c.profiles[0].TimeNanos, int64(0)
	for _, p := range c.profiles {
		first, last = min(first, p.TimeNanos), max(last, p.TimeNanos+p.DurationNanos)
	}
	merged, err := profile.Merge(c.profiles)
	if err != nil {
		return nil, fmt.Errorf("merge profiles: %w", err)
	}
	merged.TimeNanos, merged.DurationNanos = first, last-first
	return merged, nil
}

// showProgress writes once a second how far it is, if there is somebody to see it.
func showProgress(ctx context.Context, w *os.File, stats func() (bpf.Stats, error)) {
	if !isTerminal(w) {
		return
	}
	begun := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			fmt.Fprint(w, "\r\x1b[K")
			return
		case <-tick.C:
		}
		if st, err := stats(); err == nil {
			fmt.Fprintf(w, "\r%v, %d samples\x1b[K", time.Since(begun).Round(time.Second), st.Taken)
		}
	}
}

// summarize tells what a recording is worth and what it found.
func summarize(w io.Writer, path string, p *profile.Profile, r agent.Report) error {
	var kept, truncated uint64
	for o, n := range r.Total.Outcomes {
		if bpf.Outcome(o) != bpf.DroppedRing && bpf.Outcome(o) != bpf.DroppedUser {
			kept += n
			if bpf.Outcome(o).Truncated() {
				truncated += n
			}
		}
	}
	fmt.Fprintf(w, "%s: %d samples in %v, %d truncated, %d of other processes; whole machine: %d taken, %d missed\n",
		path, kept, time.Duration(p.DurationNanos).Round(10*time.Millisecond), truncated, r.Total.Skipped, r.Total.Taken, r.Total.Missed)
	self, total := map[string]int64{}, int64(0)
	for _, s := range p.Sample {
		total += s.Value[1]
		if len(s.Location) > 0 && len(s.Location[0].Line) > 0 {
			self[s.Location[0].Line[0].Function.Name] += s.Value[1]
		}
	}
	names := make([]string, 0, len(self))
	for name := range self {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if self[a] != self[b] {
			return int(self[b] - self[a])
		}
		return strings.Compare(a, b)
	})
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, name := range names[:min(len(names), topFunctions)] {
		fmt.Fprintf(out, "%.1f%%\t%v\t  %s\n", 100*float64(self[name])/float64(total), time.Duration(self[name]).Round(time.Millisecond), name)
	}
	return out.Flush()
}
