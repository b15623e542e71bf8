package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"pilotlight/profilestore"
	"pilotlight/profilestore/flamegraph"
	"pilotlight/profilestore/httpapi"
)

// pprofOf makes a profile of stacks "main;work", root first, with milliseconds of CPU.
func pprofOf(t *testing.T, start time.Time, stacks map[string]int64) []byte {
	t.Helper()
	p := &profile.Profile{
		SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}},
		PeriodType: &profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, Period: 1e6,
		TimeNanos: start.UnixNano(), DurationNanos: 10e9,
	}
	known := map[string]*profile.Location{}
	for stack, n := range stacks {
		s := &profile.Sample{Value: []int64{n, n * 1e6}, Label: map[string][]string{"pid": {"1"}}}
		for name := range strings.SplitSeq(stack, ";") {
			if known[name] == nil {
				id := uint64(len(known) + 1)
				f := &profile.Function{ID: id, Name: name, SystemName: name}
				known[name] = &profile.Location{ID: id, Line: []profile.Line{{Function: f}}}
				p.Function, p.Location = append(p.Function, f), append(p.Location, known[name])
			}
			s.Location = append([]*profile.Location{known[name]}, s.Location...)
		}
		p.Sample = append(p.Sample, s)
	}
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var (
	beforeStacks = map[string]int64{"main;parse": 60, "main;write": 40}
	afterStacks  = map[string]int64{"main;parse": 66, "main;write": 40, "main;log": 4}
)

// sources are the same profiles at a server, in the directory that this server has open, and in two files.
func sources(t *testing.T) (server, directory, before, after string) {
	t.Helper()
	dir := t.TempDir()
	before, after = filepath.Join(dir, "before.pb.gz"), filepath.Join(dir, "after.pb.gz")
	start := time.Now().Add(-5 * time.Minute).Truncate(10 * time.Second)
	var batch []profilestore.Encoded
	for file, stacks := range map[string]map[string]int64{before: beforeStacks, after: afterStacks} {
		b := pprofOf(t, start, stacks)
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		version, _, _ := strings.Cut(filepath.Base(file), ".")
		batch = append(batch, profilestore.Encoded{
			Name: "process_cpu", Time: start.UnixNano(), Duration: 10 * time.Second, Pprof: b,
			Labels: profilestore.NewLabels(map[string]string{"service_name": "api", "service_version": version}),
		})
	}
	directory = filepath.Join(dir, "data")
	store, err := profilestore.Open(directory, profilestore.Options{})
	if err == nil {
		err = store.Append(t.Context(), batch)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(httpapi.NewHandler(store, httpapi.Options{Logger: slog.New(slog.DiscardHandler)}))
	t.Cleanup(func() {
		s.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return s.URL, directory, before, after
}

// command runs pilotlight as a user does.
func command(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd, err := pilotlight(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestQuery(t *testing.T) {
	server, directory, before, _ := sources(t)
	const beforeOnly = `{service_version="before"}`
	for _, source := range []string{server, directory} {
		out, errs, status := command(t, "query", "labels", source)
		if status != 0 || out != "pid\nservice_name\nservice_version\n" {
			t.Errorf("labels of %s: %d, %q, %s", source, status, out, errs)
		}
		out, errs, status = command(t, "query", "labels", source, "--values", "service_version", "--json")
		var values []string
		if err := json.Unmarshal([]byte(out), &values); err != nil || status != 0 || len(values) != 2 {
			t.Errorf("values of %s: %d, %q, %s", source, status, out, errs)
		}
		out, errs, status = command(t, "query", "series", source, "--by", "service_version", "--step", "1h")
		if status != 0 || !strings.Contains(out, "110ms  service_version=after\n") || !strings.Contains(out, "100ms  service_version=before\n") {
			t.Errorf("series of %s: %d, %q, %s", source, status, out, errs)
		}
		out, errs, status = command(t, "query", "series", source, "--type", "process_cpu:samples:count:cpu:nanoseconds", "--json")
		var series httpapi.SeriesAnswer
		if err := json.Unmarshal([]byte(out), &series); err != nil || status != 0 || series.Series[0].Points[0][1] != 210 {
			t.Errorf("series of %s: %d, %q, %s", source, status, out, errs)
		}
		file := filepath.Join(t.TempDir(), "out.pb.gz")
		if _, errs, status := command(t, "query", "pprof", source, "-q", beforeOnly, "-o", file, "--filter", "focus:write"); status != 0 {
			t.Errorf("pprof of %s: %d, %s", source, status, errs)
		}
		if p, err := readProfileFile(file); err != nil || len(p.Sample) != 1 || p.Sample[0].Value[0] != 40 {
			t.Errorf("pprof of %s: %v, %v", source, p, err)
		}
	}
	const top = "100ms, 3 of 3 functions\n" +
		"  self   self%  total   total%  function\n" +
		"  60ms  60.00%   60ms   60.00%  parse\n" +
		"  40ms  40.00%   40ms   40.00%  write\n" +
		"    0s   0.00%  100ms  100.00%  main\n"
	for _, args := range [][]string{{server, "-q", beforeOnly}, {directory, "-q", beforeOnly}, {before}, {before, "--type", "process_cpu:cpu:nanoseconds:cpu:nanoseconds"}} {
		if out, errs, status := command(t, append([]string{"query", "top"}, args...)...); status != 0 || out != top {
			t.Errorf("top %s: %d, %s\n%s", args, status, errs, out)
		}
	}
	out, errs, status := command(t, "query", "top", before, "--type", "samples", "--filter", "hide:^main$", "--filter", "ignore:write,x|write", "-n", "1", "--json")
	var table flamegraph.Table
	if err := json.Unmarshal([]byte(out), &table); err != nil || status != 0 || table.Total != 60 || len(table.Rows) != 1 || table.Rows[0].Function != "parse" {
		t.Errorf("%d, %s, %s", status, out, errs)
	}
	if out, _, status := command(t, "query", "pprof", before, "-o", "-"); status != 0 || !strings.HasPrefix(out, "\x1f\x8b") {
		t.Errorf("pprof to standard output: %d, %.20q", status, out)
	}
}

// A data directory is asked and not changed in what it answers: old profiles are not deleted by asking.
func TestQueryKeepsOldProfiles(t *testing.T) {
	dir := t.TempDir()
	store, err := profilestore.Open(dir, profilestore.Options{Retention: 1000 * 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-30 * 24 * time.Hour)
	err = store.Append(t.Context(), []profilestore.Encoded{{
		Name: "process_cpu", Time: old.UnixNano(), Duration: 10 * time.Second, Pprof: pprofOf(t, old, beforeStacks),
		Labels: profilestore.NewLabels(map[string]string{"service_name": "old"}),
	}})
	if err := errors.Join(err, store.Close()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if out, errs, status := command(t, "query", "labels", dir, "--from", "now-40d", "--values", "service_name"); status != 0 || out != "old\n" {
			t.Errorf("%d, %q, %s", status, out, errs)
		}
	}
}

func TestDiff(t *testing.T) {
	server, directory, before, after := sources(t)
	const a, b = `{service_version="before"}`, `{service_version="after"}`
	const text = "A 100ms, B 110ms, +10.00%; 3 of 3 functions that changed\n" +
		"   change  total A  total B  self change  self A  self B  function\n" +
		"  +10.00%    100ms    110ms       +0.00%      0s      0s  main\n" +
		"   +6.00%     60ms     66ms       +6.00%    60ms    66ms  parse\n" +
		"   +4.00%       0s      4ms       +4.00%      0s     4ms  log\n"
	for _, args := range [][]string{{before, after}, {"--source", server, a, b}, {"--source", directory, a, b}} {
		if out, errs, status := command(t, append([]string{"diff"}, args...)...); status != 0 || out != text {
			t.Errorf("%s: %d, %s\n%s", args, status, errs, out)
		}
		for _, tt := range []struct {
			more   []string
			status int
		}{
			{[]string{"--fail-above", "10%"}, 0},
			{[]string{"--fail-above", "9.9%"}, exitAbove},
			{[]string{"--fail-above", "4%", "--normalize"}, 0}, // log has 3.64 % of B
			{[]string{"--fail-above", "3.6%", "--normalize", "--json"}, exitAbove},
			{[]string{"--fail-above", "4%", "--filter", "focus:log|write"}, exitAbove}, // 10 % of 40
			{[]string{"--fail-above", "0%", "--filter", "focus:write"}, 0},
		} {
			out, errs, status := command(t, append(append([]string{"diff"}, args...), tt.more...)...)
			if status != tt.status || out == "" || (status == exitAbove) != strings.Contains(errs, "grew by") {
				t.Errorf("%s %s: status %d, want %d: %s", args, tt.more, status, tt.status, errs)
			}
		}
		swapped := append([]string{"diff", "--json"}, args...)
		swapped[len(swapped)-1], swapped[len(swapped)-2] = swapped[len(swapped)-2], swapped[len(swapped)-1]
		out, _, status := command(t, append(swapped, "--fail-above", "0%")...)
		var found comparison
		if err := json.Unmarshal([]byte(out), &found); err != nil || status != 0 || found.Worst != 0 || found.Total != 110e6 || len(found.Functions) != 3 ||
			found.Functions[0].Function != "main" || fmt.Sprintf("%.2f", found.Functions[0].TotalChange) != "-9.09" {
			t.Errorf("swapped: %d, %+v", status, found)
		}
	}
	// The same selector at two times: the second range is empty.
	if _, errs, status := command(t, "diff", "--source", server, "{}", "{}", "--b-from", "now-3h", "--b-to", "now-2h"); status != 1 || !strings.Contains(errs, "B, {}, has no samples") {
		t.Errorf("%d, %s", status, errs)
	}
}

func TestQueryErrors(t *testing.T) {
	server, directory, before, _ := sources(t)
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("GIF89a"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"query", "top", "http://127.0.0.1:1"}, 1, "connection refused"},
		{[]string{"query", "top", server, "-q", "api"}, 1, "write the labels in braces"},
		{[]string{"query", "top", directory, "--from", "yesterday"}, 1, "is not a time"},
		{[]string{"query", "top", filepath.Join(dir, "none")}, 1, "a data directory or a pprof file"},
		{[]string{"query", "top", text}, 1, "is not a pprof file"},
		{[]string{"query", "top", before, "--type", "wall"}, 1, "--type wall"},
		{[]string{"query", "top", before, "--filter", "show:x"}, 1, "show_from:"},
		{[]string{"query", "labels", before}, 1, "a pprof file answers top, pprof and diff"},
		{[]string{"query", "labels", dir}, 1, "is not a profile store"},
		{[]string{"query", "labels", server, "--token-file", filepath.Join(dir, "none")}, 1, "--token-file"},
		{[]string{"query"}, 2, ""},
		{[]string{"diff", before}, 2, "<b>"},
		{[]string{"diff", before, before, "--fail-above", "5"}, 2, "write percents, as 5%"},
		{[]string{"diff", "{}", "{}"}, 1, "--source"},
		{[]string{"diff", before, text}, 1, "is not a pprof file"},
	} {
		out, errs, status := command(t, tt.args...)
		if status != tt.status || !strings.Contains(errs, tt.want) || strings.Count(errs, "\n") != 1 || out != "" {
			t.Errorf("%s: status %d, want %d: %q, %q, want %q", tt.args, status, tt.status, out, errs, tt.want)
		}
	}
}

// A server that asks for a token gets the one of the file.
func TestQueryToken(t *testing.T) {
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens, err := httpapi.OpenTokens(token)
	if err != nil {
		t.Fatal(err)
	}
	store, err := profilestore.Open(filepath.Join(dir, "data"), profilestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(httpapi.NewHandler(store, httpapi.Options{ReadTokens: tokens, Logger: slog.New(slog.DiscardHandler)}))
	defer func() {
		s.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, errs, status := command(t, "query", "labels", s.URL); status != 1 || !strings.Contains(errs, "401 Unauthorized: a token is needed") {
		t.Errorf("without: %d, %s", status, errs)
	}
	if _, errs, status := command(t, "query", "labels", s.URL, "--token-file", token); status != 0 {
		t.Errorf("with: %d, %s", status, errs)
	}
}
