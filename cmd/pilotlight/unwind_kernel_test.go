package main

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"pilotlight/testdata/loads"
)

// TestKernelUnwind records a C program 45 deep and processes that live a few milliseconds, both compiled without frame
// pointers, with an agent that knows no table when it starts, and again with those that it has kept.
func TestKernelUnwind(t *testing.T) {
	needRoot(t)
	dir := makeDir(t)
	for _, name := range []string{"deep", "forkstorm"} {
		if err := loads.Build(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	for _, tables := range []string{"built", "kept"} {
		t.Run(tables, func(t *testing.T) {
			file := filepath.Join(dir, tables+".pb.gz")
			record, err := pilotlight(t.Context(), "record", "-a", "-F", "199", "-d", "5s", "--cache", filepath.Join(dir, "cache"), "-o", file)
			if err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			record.Stderr = &log
			if err := record.Start(); err != nil {
				t.Fatal(err)
			}
			var running []*loads.Load
			for _, name := range []string{"deep", "forkstorm"} {
				load, err := loads.Start(t.Context(), name, 4*time.Second)
				if err != nil {
					t.Fatal(err)
				}
				running = append(running, load)
			}
			for _, load := range running {
				if _, err := load.Wait(); err != nil {
					t.Fatal(err)
				}
			}
			if err := record.Wait(); err != nil {
				t.Fatalf("%v\n%s", err, &log)
			}
			p, err := readProfile(file)
			if err != nil {
				t.Fatal(err)
			}
			// The first samples of either come before anything is known about it. Most are finished all the same.
			wantComplete(t, p, 99, "deep")
			wantComplete(t, p, 90, "true", "ls", "gcc", "cc1", "as", "ld", "collect2")
			for _, s := range of(p, "deep") {
				if names := functions(s); slices.Contains(names, "leaf") && slices.Contains(names, "_start") && len(names) < 48 {
					t.Fatalf("complete, with %d frames: %v", len(names), names)
				}
			}
		})
	}
}

// of returns the samples of processes with one of the names.
func of(p *profile.Profile, comms ...string) []*profile.Sample {
	return slices.DeleteFunc(slices.Clone(p.Sample), func(s *profile.Sample) bool { return !slices.Contains(comms, s.Label["comm"][0]) })
}

func wantComplete(t *testing.T, p *profile.Profile, percent int64, comms ...string) {
	t.Helper()
	var all, complete int64
	ends := map[string]int64{}
	for _, s := range of(p, comms...) {
		all += s.Value[0]
		if names := functions(s); strings.HasPrefix(names[0], "[truncated") {
			ends[strings.Join(names[:min(2, len(names))], " > ")] += s.Value[0]
			continue
		}
		complete += s.Value[0]
	}
	t.Logf("%v: %d of %d stacks are complete; others %v", comms, complete, all, ends)
	if all < 50 || complete*100 < all*percent {
		t.Errorf("%v: %d of %d stacks are complete, want %d %%; others %v", comms, complete, all, percent, ends)
	}
}
