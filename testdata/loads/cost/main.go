// Command cost measures what `pilotlight run` costs on the idle and the mix load, at 19 and 99 Hz, with empty
// data directory, and beside it `perf record -a -g -F 99` in the same run of the load. It needs
// root, and a machine that does nothing else. It prints one figure a line:
//
//	bench: mix 19Hz agent_cpu_percent 0.34
//
// Percents are of one CPU. An always-on profiler starts once and then runs for weeks, so they are of the seconds
// after start-up; what start-up takes, symbols of the kernel and the first window included, is
// startup_cpu_ms, and first_minute_cpu_percent has both. CPU time is that of the processes with the children
// they waited for; what the BPF programs take in interrupts of other processes is bpf_cpu_percent, measured by
// the kernel (BPF_ENABLE_STATS, which ends with this program). perf has such a part too, which nobody counts.
// Memory is in MiB: RSS counts what the two processes share twice, PSS once. The maps are those of which the
// processes hold descriptors; bpf_reported_mib is what pilotlight_bpf_memory_bytes says.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"pilotlight/testdata/loads"
)

// Compilers and caches of the loads are warm by then.
const warmUp = 5 * time.Second

const (
	// When start-up is over: the first whole window has then been appended.
	settle = 25 * time.Second
	// For stopping what is measured, on top of the seconds in which it is.
	slack = 5 * time.Second
)

func main() {
	seconds := flag.Int("seconds", 60, "measure for so many seconds each")
	names := flag.String("loads", "idle,mix", "the loads to measure on")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: cost [flags] bin/pilotlight")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 || *seconds < 2 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, flag.Arg(0), strings.Split(*names, ","), time.Duration(*seconds)*time.Second); err != nil {
		fmt.Fprintln(os.Stderr, "cost:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, pilotlight string, names []string, d time.Duration) error {
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		return fmt.Errorf("have the kernel measure BPF programs (run as root): %w", err)
	}
	defer stats.Close()
	for _, name := range names {
		if err := measure(ctx, pilotlight, name, d); err != nil {
			return fmt.Errorf("on %s: %w", name, err)
		}
	}
	return nil
}

// measure takes all figures on one load, in one run of it.
func measure(ctx context.Context, pilotlight, name string, d time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	phases := []func() error{
		func() error { return measureAgent(ctx, pilotlight, name, 19, d) },
		func() error { return measureAgent(ctx, pilotlight, name, 99, d) },
		func() error { return measurePerf(ctx, name, d) },
	}
	length := warmUp + time.Duration(len(phases))*(settle+d+slack)
	start := time.Now()
	load, err := loads.Start(ctx, name, length)
	if err != nil {
		return err
	}
	err = sleep(ctx, warmUp)
	for _, phase := range phases {
		if err == nil {
			err = phase()
		}
	}
	if err == nil && time.Since(start) > length {
		err = fmt.Errorf("the load ended after %s, before it was measured", length)
	}
	if err != nil {
		cancel()
	}
	report, loadErr := load.Wait()
	if err != nil {
		// What the killed load has to say is of no interest then.
		return err
	}
	if loadErr != nil {
		return loadErr
	}
	var cpu float64
	for _, part := range report.Parts {
		cpu += part.CPUSeconds
	}
	fmt.Printf("bench: %s load_cpu_percent %.1f\n", name, 100*cpu/report.Seconds)
	return nil
}

// figures prints lines of one form.
type figures struct {
	load      string
	frequency int
}

func (f figures) print(name string, value float64) {
	format := "bench: %s %dHz %s %.2f\n"
	if value == float64(int64(value)) {
		format = "bench: %s %dHz %s %.0f\n"
	}
	fmt.Printf(format, f.load, f.frequency, name, value)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

func percent(part, whole time.Duration) float64 { return 100 * part.Seconds() / whole.Seconds() }

func mib(bytes uint64) float64 { return float64(bytes) / (1 << 20) }

func measureAgent(ctx context.Context, pilotlight, load string, frequency int, d time.Duration) error {
	a, err := startAgent(ctx, pilotlight, frequency)
	if err != nil {
		return err
	}
	result, err := a.observe(ctx, settle, d)
	if err = errors.Join(err, a.stop()); err != nil {
		return fmt.Errorf("pilotlight at %d Hz: %w\nits log:\n%s", frequency, err, a.log.tail())
	}

	f := figures{load, frequency}
	start, end := result.settled, result.end
	agentCPU, otherCPU := end.agent.cpu-start.agent.cpu, end.other.cpu-start.other.cpu
	bpfTime, bpfRuns := end.bpfTime-start.bpfTime, end.bpfRuns-start.bpfRuns
	startup := start.agent.cpu + start.other.cpu
	f.print("agent_and_bpf_cpu_percent", percent(agentCPU+otherCPU+bpfTime, d))
	f.print("agent_half_cpu_percent", percent(agentCPU, d))
	f.print("other_half_cpu_percent", percent(otherCPU, d))
	f.print("bpf_cpu_percent", percent(bpfTime, d))
	f.print("startup_cpu_ms", float64(startup.Milliseconds()))
	perMinute := float64(time.Minute-settle) / float64(d)
	f.print("first_minute_cpu_percent", percent(startup+start.bpfTime, time.Minute)+perMinute*percent(agentCPU+otherCPU+bpfTime, time.Minute))
	f.print("bpf_runs", float64(bpfRuns))
	if bpfRuns > 0 {
		f.print("bpf_run_ns", float64(bpfTime)/float64(bpfRuns))
	}
	f.print("rss_mib", mib(end.agent.rss+end.other.rss))
	f.print("pss_mib", mib(end.agent.pss+end.other.pss))
	f.print("agent_half_rss_mib", mib(end.agent.rss))
	f.print("agent_half_rss_peak_mib", mib(end.agent.rssPeak))
	f.print("other_half_rss_mib", mib(end.other.rss))
	f.print("other_half_rss_peak_mib", mib(end.other.rssPeak))
	f.print("bpf_maps_mib", mib(end.mapBytes))
	f.print("bpf_reported_mib", mib(uint64(result.metrics["pilotlight_bpf_memory_bytes"])))
	f.print("samples_taken", result.metrics["pilotlight_samples_taken_total"])
	f.print("attached_ms", float64(result.attached.Milliseconds()))
	f.print("first_sample_ms", float64(result.firstSample.Milliseconds()))
	return nil
}
