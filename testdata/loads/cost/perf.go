package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const perfFrequency = 99

// measurePerf measures perf recording the same load.
func measurePerf(ctx context.Context, load string, d time.Duration) error {
	dir, err := os.MkdirTemp("", "pilotlight-cost-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	data := filepath.Join(dir, "perf.data")
	cmd := exec.CommandContext(ctx, "perf", "record", "-e", "cpu-clock", "-a", "-g", "-F", fmt.Sprint(perfFrequency),
		"--no-buildid", // perf 6.1 aborts over build IDs of more than 20 bytes, which Go binaries have
		"-o", data)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		return err
	}
	err = sleep(ctx, d)
	var recording usage
	if err == nil {
		recording, err = usageOf(cmd.Process.Pid)
	}
	// An interrupt is how perf is told to stop; it then reads what it wrote once more, to note build IDs.
	if signalErr := cmd.Process.Signal(syscall.SIGINT); signalErr != nil && !errors.Is(signalErr, os.ErrProcessDone) {
		err = errors.Join(err, signalErr)
	}
	waitErr := cmd.Wait()
	if state, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && state.Signaled() && state.Signal() == syscall.SIGINT {
		waitErr = nil
	}
	if err = errors.Join(err, waitErr); err != nil {
		return fmt.Errorf("perf record: %w\n%s", err, output.Bytes())
	}
	info, err := os.Stat(data)
	if err != nil {
		return err
	}
	f := figures{load, perfFrequency}
	f.print("perf_cpu_percent", percent(recording.agent.cpu, d))
	f.print("perf_total_cpu_percent", percent(cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime(), d))
	f.print("perf_rss_mib", mib(recording.agent.rss))
	f.print("perf_data_mib", mib(uint64(info.Size())))
	return nil
}
