package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

const (
	standInEnv     = "COST_TEST_STANDIN" // what the test binary is to be instead of tests
	standInRuns    = 7                   // of its BPF program
	standInMapSize = 1 << 20
	standInBurn    = 200 * time.Millisecond // CPU time of each half
)

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(standInEnv) {
	case "":
		os.Exit(m.Run())
	case "agent":
		err = standIn()
	case "half":
		burn(standInBurn)
		err = waitForSignal()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// standIn does what the measurement needs of `pilotlight run`: it takes its flags, starts an unprivileged half,
// runs a BPF program, logs, serves metrics, uses a known amount of CPU, and stops when asked to.
func standIn() error {
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	listen := flags.String("listen", "", "")
	frequency := flags.Int("frequency", 0, "")
	data := flags.String("data", "", "")
	if err := flags.Parse(os.Args[2:]); err != nil {
		return err
	}
	if err := os.Mkdir(*data, 0o700); err != nil {
		return err
	}

	half := exec.Command("/proc/self/exe")
	half.Env = append(os.Environ(), standInEnv+"=half")
	half.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, Pdeathsig: syscall.SIGKILL}
	if err := half.Start(); err != nil {
		return err
	}

	table, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: standInMapSize / 8})
	if err != nil {
		return err
	}
	defer table.Close()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.SocketFilter,
		License:      "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return err
	}
	defer program.Close()
	if _, err := program.Run(&ebpf.RunOptions{Data: make([]byte, 14), Repeat: standInRuns}); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "level=INFO msg=attached elapsed_ms=1")
	burn(standInBurn)

	http.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "# TYPE pilotlight_samples_taken_total counter\npilotlight_samples_taken_total{cpu=\"0\"} %d\n", *frequency)
	})
	failed := make(chan error, 1)
	go func() { failed <- http.ListenAndServe(*listen, nil) }()
	stopped := make(chan error, 1)
	go func() { stopped <- waitForSignal() }()
	select {
	case err := <-failed:
		return err
	case err := <-stopped:
		return errors.Join(err, half.Process.Kill())
	}
}

func burn(d time.Duration) {
	var t unix.Timespec
	for unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t) == nil && time.Duration(t.Nano()) < d {
		for range 100_000 {
		}
	}
}

func waitForSignal() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
	return nil
}

// The stand-in tells what it did; the measurement must find the same from outside.
func TestKernelCost(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("REQUIRE_ALL") != "1" {
		t.Skip("measuring BPF programs needs root")
	}
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		t.Fatal(err)
	}
	defer stats.Close()
	t.Setenv(standInEnv, "agent")
	a, err := startAgent(t.Context(), "/proc/self/exe", 19)
	if err != nil {
		t.Fatal(err)
	}
	r, err := a.observe(t.Context(), time.Second, time.Second)
	if err = errors.Join(err, a.stop()); err != nil {
		t.Fatalf("%v\n%s", err, a.log.tail())
	}

	used := a.cmd.ProcessState.UserTime() + a.cmd.ProcessState.SystemTime()
	if got := r.end.agent.cpu; got < standInBurn || got > used {
		t.Errorf("agent half used %s of CPU; it burnt %s, and the kernel charged it %s in the end", got, standInBurn, used)
	}
	if got := r.settled.agent.cpu; got < standInBurn || got > r.end.agent.cpu {
		t.Errorf("agent half used %s of CPU when it had settled, %s in the end; it burnt %s at its start", got, r.end.agent.cpu, standInBurn)
	}
	if got := r.end.other.cpu; got == 0 {
		t.Errorf("no CPU time of the other half")
	}
	for _, h := range []half{r.end.agent, r.end.other} {
		if h.rss == 0 || h.rssPeak < h.rss {
			t.Errorf("RSS %d, at most %d", h.rss, h.rssPeak)
		}
	}
	if r.end.bpfRuns != standInRuns || r.end.bpfTime <= 0 {
		t.Errorf("BPF ran %d times for %s, want %d times", r.end.bpfRuns, r.end.bpfTime, standInRuns)
	}
	if r.end.mapBytes < standInMapSize || r.end.mapBytes > 2*standInMapSize {
		t.Errorf("BPF maps take %d bytes, want %d and a little", r.end.mapBytes, standInMapSize)
	}
	if r.attached <= 0 || r.firstSample < r.attached {
		t.Errorf("attached after %s, first sample after %s", r.attached, r.firstSample)
	}
	if r.metrics["pilotlight_samples_taken_total"] != 19 {
		t.Errorf("metrics %v, want 19 samples taken", r.metrics)
	}
	if _, err := os.Stat(a.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", a.dir, err)
	}
}

func TestAgentThatFails(t *testing.T) {
	a, err := startAgent(t.Context(), "/bin/false", 19)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := a.observe(ctx, 0, time.Second); err == nil || !strings.Contains(err.Error(), "no sample") {
		t.Errorf("observe: %v", err)
	}
	if err := a.stop(); err == nil || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("stop: %v", err)
	}
}

func TestParseMetrics(t *testing.T) {
	got, err := parseMetrics(strings.NewReader("# HELP a b 1\na{x=\"1 2\"} 1\na{x=\"3\"} 2.5e1\nb 7\n\n"))
	if err != nil || got["a"] != 26 || got["b"] != 7 || len(got) != 2 {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := parseMetrics(strings.NewReader("a x\n")); err == nil {
		t.Error("no error for a value that is no number")
	}
}

func TestParseStat(t *testing.T) {
	// A process may call itself anything.
	const stat = "42 (a) b (c) S 7 42 42 0 -1 4194304 100 200 0 0 11 12 13 14 20 0 1 0 100 1 1"
	got, err := parseStat([]byte(stat))
	if want := (process{7, 270 * time.Millisecond}); err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if _, err := parseStat([]byte("42 (a) S 7")); err == nil {
		t.Error("no error for a line cut short")
	}
}
