package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"pilotlight/cmd/pilotlight/config"
)

// TestConfigFlag: a configuration that was named must be there and right.
func TestConfigFlag(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pilotlight.yaml")
	for _, tc := range []struct{ text, want string }{
		{"", "read configuration: open " + path + ": no such file or directory"},
		{"relabel_config: []\n", path + ": line 1: unknown key relabel_config"},
	} {
		if tc.text != "" {
			if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := (configFlags{Config: path}).open(&globals{}); err == nil || err.Error() != tc.want {
			t.Errorf("got %v, want %s", err, tc.want)
		}
	}
}

// TestConfigReload takes a file that nobody named through its life: what is right takes effect, what is wrong is said
// once, or whenever somebody asks.
func TestConfigReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pilotlight.yaml")
	var said strings.Builder
	c := &configuration{path: path, optional: true, log: slog.New(slog.NewTextHandler(&said, nil))}
	now, err := c.load()
	if err != nil {
		t.Fatal(err)
	}
	c.put(now)
	metrics := prometheus.NewRegistry()
	if err := c.register(metrics); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name, text string // of the file; "-": it is removed
		asked      bool
		said       string // "": nothing
		applied    bool
		successful float64
	}{
		{"not there yet", "-", false, "", false, 1},
		{"not there, and somebody asks", "-", true, "configuration read", true, 1},
		{"comes to be", "read_environ: true\n", false, "configuration read", true, 1},
		{"as before", "read_environ: true\n", false, "", false, 1},
		{"as before, and somebody asks", "read_environ: true\n", true, "configuration read", true, 1},
		{"wrong", "read_env: true\n", false, "line 1: unknown key read_env", false, 0},
		{"as wrong as before", "read_env: true\n", false, "", false, 0},
		{"as wrong, and somebody asks", "read_env: true\n", true, "line 1: unknown key read_env", false, 0},
		{"wrong in another way", "read: true\n", false, "line 1: unknown key read", false, 0},
		{"right again, as it was", "read_environ: true\n", false, "configuration read", true, 1},
		{"removed", "-", false, "no such file", false, 0},
		{"back", "read_environ: false\n", false, "configuration read", true, 1},
	} {
		err := os.WriteFile(path, []byte(step.text), 0o600)
		if err == nil && step.text == "-" {
			err = os.Remove(path)
		}
		if err != nil {
			t.Fatal(err)
		}
		said.Reset()
		before := c.current
		var applied *config.Config
		c.reload(step.asked, func(now *config.Config) { applied = now })
		if (said.Len() > 0) != (step.said != "") || !strings.Contains(said.String(), step.said) {
			t.Errorf("%s: said %q, want %q", step.name, &said, step.said)
		}
		if (applied != nil) != step.applied || step.applied && applied != c.current || !step.applied && c.current != before {
			t.Errorf("%s: applied %+v, current %+v, before %+v", step.name, applied, c.current, before)
		}
		if got := gauge(t, metrics, "pilotlight_config_last_reload_successful"); got != step.successful {
			t.Errorf("%s: successful is %v, want %v", step.name, got, step.successful)
		}
	}
	if gauge(t, metrics, "pilotlight_config_last_reload_success_timestamp_seconds") < 1.7e9 {
		t.Error("the time of the last success is not told")
	}
}

// TestConfigAtStart has somebody ask for the file to be read again, and change it, before it is followed: neither ends
// the process, or is forgotten.
func TestConfigAtStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pilotlight.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name string
		do   func()
	}{
		{"SIGHUP", func() {
			if err := unix.Kill(os.Getpid(), unix.SIGHUP); err != nil {
				t.Fatal(err)
			}
		}},
		{"change", func() { write("read_environ: true\n") }},
	} {
		write("read_environ: false\n")
		c, err := configFlags{Config: path}.open(&globals{log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		tc.do()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		applied := false
		c.follow(ctx, func(*config.Config) { applied = true; cancel() })
		cancel()
		if !applied {
			t.Errorf("%s: the configuration is not read again", tc.name)
		}
	}
}

// gauge returns a metric.
func gauge(t *testing.T, from prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.Metric[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}
