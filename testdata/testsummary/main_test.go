package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	passing = `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"quiet\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestKernelB/sub"}
{"Action":"pass","Package":"p","Test":"TestKernelB"}
{"Action":"output","Package":"p","Test":"BenchmarkC","Output":"BenchmarkC 1 2 ns/op\n"}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p"}
`
	skipping = `{"Action":"output","Package":"p","Test":"TestS","Output":"needs root\n"}
{"Action":"skip","Package":"p","Test":"TestS"}
`
	failing = `{"Action":"output","Package":"p","Test":"TestF","Output":"got 1, want 2\n"}
{"Action":"fail","Package":"p","Test":"TestF"}
{"Action":"fail","Package":"p"}
`
	crashing = `{"Action":"output","Package":"q","Test":"TestQ","Output":"panic: oh\n"}
{"Action":"fail","Package":"q"}
`
	notBuilding = `{"ImportPath":"r","Action":"build-output","Output":"r.go:1: syntax error\n"}
{"ImportPath":"r","Action":"build-fail"}
{"Action":"fail","Package":"r","FailedBuild":"r"}
`
)

func TestRun(t *testing.T) {
	for _, test := range []struct {
		name, golang, ui, browser string
		requireAll                bool
		want                      []string // in what is shown
		wantErr                   string
	}{
		{
			name: "all passes", golang: passing, ui: "Test Files  1 passed (1)\n     Tests  4 passed (4)\n  Start at 10:00\n", browser: "ok 1\n2 passed, 0 failed\n", requireAll: true,
			want: []string{"ok  \tp\t0.1s", "9 tests passed, 0 failed, 0 skipped: 3 in Go, of which 2 on the real kernel; 4 of the UI, and 2 in the real browser"},
		},
		{name: "no UI", golang: passing, want: []string{"3 tests passed"}},
		{
			name: "Go in the browser", golang: `{"Action":"pass","Package":"p","Test":"TestBrowserD"}` + "\n" + passing,
			want: []string{"4 in Go, of which 2 on the real kernel; 0 of the UI, and 1 in the real browser"},
		},
		{name: "skip", golang: passing + skipping, want: []string{"needs root", "1 skipped"}},
		{name: "skip with REQUIRE_ALL", golang: passing + skipping, requireAll: true, want: []string{"1 skipped"}, wantErr: "REQUIRE_ALL"},
		{name: "failure", golang: passing + failing, want: []string{"got 1, want 2", "1 failed"}, wantErr: "1 tests failed"},
		{name: "crash", golang: passing + crashing, want: []string{"panic: oh", "1 failed"}, wantErr: "1 tests failed"},
		{name: "no build", golang: passing + notBuilding, want: []string{"syntax error", "1 failed"}, wantErr: "1 tests failed"},
		{name: "nothing ran", wantErr: "no Go test"},
		{name: "browser silent", golang: passing, browser: "listening\n", wantErr: "no test that it ran"},
		{name: "browser failure", golang: passing, browser: "3 passed, 1 failed\n", want: []string{"1 failed"}, wantErr: "1 tests failed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := func(name, text string) string {
				if text == "" {
					return ""
				}
				path := filepath.Join(t.TempDir(), name)
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			}
			var out strings.Builder
			err := run(strings.NewReader(test.golang), &out, file("ui", test.ui), file("browser", test.browser), test.requireAll)
			for _, want := range test.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("shown:\n%s\nwant in it: %s", out.String(), want)
				}
			}
			if strings.Contains(out.String(), "quiet") {
				t.Errorf("the output of a test that passed is shown:\n%s", out.String())
			}
			if (err == nil) != (test.wantErr == "") || err != nil && !strings.Contains(err.Error(), test.wantErr) {
				t.Errorf("error %v, want %q", err, test.wantErr)
			}
		})
	}
}
