//go:build verify

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"
)

// TestVerifyPGO pulls a profile of a service in Go under load and builds the service with it: the compiler takes the
// profile, and inlines the hot call that it would not inline else.
func TestVerifyPGO(t *testing.T) {
	needRoot(t)
	dir := makeDir(t)
	source, err := filepath.Abs("testdata/service")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "service")
	build := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("go", append(append([]string{"build", "-buildvcs=false", "-gcflags=-m", "-o", program}, args...), ".")...)
		cmd.Dir = source
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	const inlined = "inlining call to weigh"
	if said := build("-pgo=off"); strings.Contains(said, inlined) {
		t.Fatalf("the call is inlined without a profile:\n%s", said)
	}
	startProgram(t, program)
	s := start(t, filepath.Join(makeDir(t), "data"), "127.0.0.1:0", 99)
	var body []byte
	err = eventually(time.Minute, "200 samples of the service", func() bool {
		body, err = get(s.endpoint("pprof", "query", `{service_name="service"}`, "from", "now-5m", "to", "now"))
		if err != nil {
			return false
		}
		p, err := profile.ParseData(body)
		if err != nil {
			t.Fatal(err)
		}
		samples := int64(0)
		for _, sample := range p.Sample {
			samples += sample.Value[0]
		}
		return samples >= 200
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, s.log)
	}
	file := filepath.Join(dir, "service.pgo")
	if err := os.WriteFile(file, body, 0o644); err != nil {
		t.Fatal(err)
	}
	said := build("-pgo=" + file)
	if !strings.Contains(said, inlined) {
		t.Errorf("the hot call is not inlined:\n%s", said)
	}
	for line := range strings.Lines(said) {
		if strings.Contains(line, inlined) {
			t.Logf("go build -pgo -gcflags=-m: %s", strings.TrimSpace(line))
		}
	}
}
