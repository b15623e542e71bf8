// Command run runs a load for some seconds and prints as JSON what each of its programs did.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"pilotlight/testdata/loads"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "run:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: run LOAD DURATION, as in `run mix 60s`; loads are %s", strings.Join(loads.Names(), " "))
	}
	d, err := time.ParseDuration(args[1])
	if err != nil || d <= 0 {
		return fmt.Errorf("duration %q: write it as 60s or 2m", args[1])
	}
	load, err := loads.Start(ctx, args[0], d)
	if err != nil {
		return err
	}
	report, err := load.Wait()
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	return out.Encode(report)
}
