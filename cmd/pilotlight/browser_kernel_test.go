package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestBrowserFlameGraph looks at the shares load on the page of a live server.
func TestBrowserFlameGraph(t *testing.T) {
	ui := filepath.Join("..", "..", "ui")
	if _, err := os.Stat(filepath.Join(ui, "node_modules")); err != nil && os.Getenv("REQUIRE_ALL") != "1" {
		t.Skipf("the browser is driven by a package of npm: make ui-modules: %v", err)
	}
	s := needShared(t)
	for program, functions := range map[string][]string{
		"shares-c":  {"hash", "sort", "parse"},
		"shares-go": {"main.hash", "main.sort", "main.parse"},
	} {
		t.Run(program, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "node", append([]string{filepath.Join("test", "browser", "live.mjs"), s.url, program}, functions...)...)
			cmd.Dir = ui
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v\n%s", err, &stderr)
			}
			var shown map[string]struct{ Graph, Table float64 }
			if err := json.Unmarshal(out, &shown); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			shares := s.shares[program]
			n := int64(99 * float64(shares.Total()) / 1e9)
			for _, name := range functions {
				want := float64(shares.Under(name)) / float64(shares.Total())
				atMost := tolerance(want, n, 3)
				t.Logf("%s: %.1f %% in the flame graph, %.1f %% in the table, known %.1f %%", name, shown[name].Graph, shown[name].Table, 100*want)
				for where, got := range map[string]float64{"flame graph": shown[name].Graph, "table": shown[name].Table} {
					if math.Abs(got-100*want) > atMost {
						t.Errorf("the %s gives %s %.1f %%, want %.1f ± %.1f", where, name, got, 100*want, atMost)
					}
				}
			}
		})
	}
}
