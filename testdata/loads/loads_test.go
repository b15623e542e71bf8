package loads_test

import (
	"debug/elf"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pilotlight/testdata/loads"
)

// run builds a load, runs it and decodes what its only program printed into out.
func run(t *testing.T, name string, d time.Duration, out any) loads.PartReport {
	t.Helper()
	for _, tool := range []string{"make", "gcc"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("REQUIRE_ALL") == "1" {
				t.Fatal(err)
			}
			t.Skipf("the loads are built with make and gcc: %v", err)
		}
	}
	if err := loads.Build(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	load, err := loads.Start(t.Context(), name, d)
	if err != nil {
		t.Fatal(err)
	}
	report, err := load.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Parts) != 1 || report.Parts[0].PID != load.PIDs()[0] {
		t.Fatalf("%s reported %+v, want the one part with pid %v", name, report.Parts, load.PIDs())
	}
	if err := json.Unmarshal(report.Parts[0].Output, out); err != nil {
		t.Fatal(err)
	}
	return report.Parts[0]
}

// The shares that the programs print are what other tests hold a profiler to: they must be as announced, add
// up, be no more than the kernel says the process used, and name functions that are in the file.
func TestShares(t *testing.T) {
	for _, name := range []string{"shares-c", "shares-go"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var shares loads.Shares
			part := run(t, name, 2*time.Second, &shares)

			if shares.Program != name || shares.PID != part.PID || shares.Iterations == 0 {
				t.Errorf("program %q, pid %d, %d iterations; want %s, %d, some", shares.Program, shares.PID, shares.Iterations, name, part.PID)
			}
			total, percents := float64(shares.Total()), 0
			for _, stack := range shares.Stacks {
				percents += stack.Percent
				if got := 100 * float64(stack.CPU) / total; math.Abs(got-float64(stack.Percent)) > 1 {
					t.Errorf("%s has %.2f %%, want %d", strings.Join(stack.Functions, ";"), got, stack.Percent)
				}
			}
			if percents != 100 {
				t.Errorf("the shares sum to %d %%", percents)
			}
			if used := part.CPUSeconds * 1e9; total > used || total < 0.9*used {
				t.Errorf("the stacks sum to %.0f ns of CPU, the kernel charged %.0f", total, used)
			}

			symbols := symbolsOf(t, filepath.Join("build", name))
			for _, stack := range shares.Stacks {
				for _, function := range stack.Functions {
					if !symbols[function] {
						t.Errorf("%s is not a symbol of %s", function, name)
					}
				}
			}
		})
	}
}

func symbolsOf(t *testing.T, path string) map[string]bool {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, s := range symbols {
		names[s.Name] = elf.ST_TYPE(s.Info) == elf.STT_FUNC
	}
	return names
}

func TestBurners(t *testing.T) {
	var burners loads.Burners
	part := run(t, "burners", time.Second, &burners)
	if len(burners.Burners) != 2 || burners.Burners[0].CPU == burners.Burners[1].CPU {
		t.Fatalf("burners %+v, want two on different CPUs", burners.Burners)
	}
	sum := float64(burners.Burners[0].NS+burners.Burners[1].NS) / 1e9
	if sum > part.CPUSeconds || sum < 0.9*part.CPUSeconds {
		t.Errorf("the burners used %.3f s of CPU, parent and children %.3f", sum, part.CPUSeconds)
	}
}

func TestForkStorm(t *testing.T) {
	var storm loads.ForkStorm
	part := run(t, "forkstorm", time.Second, &storm)
	var sum float64
	for _, c := range storm.Commands {
		if c.Runs == 0 || c.NS == 0 {
			t.Errorf("%s ran %d times for %d ns", c.Command, c.Runs, c.NS)
		}
		sum += float64(c.NS) / 1e9
	}
	if len(storm.Commands) != 3 || sum > part.CPUSeconds {
		t.Errorf("%d commands used %.3f s of CPU, the load with all its children %.3f", len(storm.Commands), sum, part.CPUSeconds)
	}
}

func TestChurn(t *testing.T) {
	var churn struct{ Iterations float64 }
	run(t, "churn", time.Second, &churn)
	if churn.Iterations < 10 || churn.Iterations > 1001 {
		t.Errorf("%v processes in a second, want a thousand, or what a busy machine has room for", churn.Iterations)
	}
}

func TestUnder(t *testing.T) {
	shares := loads.Shares{Stacks: []loads.Stack{
		{Functions: []string{"main", "parse"}, CPU: 1},
		{Functions: []string{"main", "parse", "checksum"}, CPU: 2},
		{Functions: []string{"main", "encode", "checksum"}, CPU: 4},
		{Functions: []string{"main", "checksum", "main", "checksum"}, CPU: 8},
	}}
	for _, test := range []struct {
		functions string
		want      int64
	}{
		{"main", 15}, {"parse", 3}, {"checksum", 14}, {"encode checksum", 4}, {"main checksum", 8}, {"checksum parse", 0},
	} {
		if got := shares.Under(strings.Fields(test.functions)...); got != test.want {
			t.Errorf("Under(%s) = %d, want %d", test.functions, got, test.want)
		}
	}
}

func TestUnknownLoad(t *testing.T) {
	if _, err := loads.Start(t.Context(), "sahres", time.Second); err == nil || !strings.Contains(err.Error(), "shares") {
		t.Errorf("got %v, want an error that lists the loads", err)
	}
}
