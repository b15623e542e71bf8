package httpapi

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSource(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for name, text := range map[string]string{
		"root/src/api.c":   strings.Repeat("before\n", 6) + "int handle() {}\r\nafter\n",
		"root/src/bin.c":   "a\x00b",
		"root/src/.env":    "SECRET=1\n",
		"root/.git/config": "secret\n",
		"outside.c":        "secret\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(dir, "outside.c"), filepath.Join(root, "src", "link.c")); err != nil {
		t.Fatal(err)
	}
	s := newTestServer(t, newTestStore(t), Options{SourceRoot: root})
	base := testBase()
	fill(t, s, base) // files are api.c, cron.c and db.c, lines are 7
	ask := func(s *http.Response, b []byte) (ans SourceAnswer) {
		t.Helper()
		if err := json.Unmarshal(b, &ans); err != nil || s.StatusCode != 200 {
			t.Fatalf("%s: %s", s.Status, b)
		}
		return ans
	}
	// Without a text the lines with values are told: that of the profile is "api.c", and below the root it is in src.
	bare := []SourceLine{{7, "", 0, 6 * testPeriod}}
	off := newTestServer(t, newTestStore(t), Options{})
	fill(t, off, base)
	for _, tt := range []struct {
		server           *httptest.Server
		function, filter string
		file, why        string
		lines            []SourceLine
		total            int64
	}{
		{s, "handle", "", "api.c", `"api.c" is not below`, bare, 11 * testPeriod},
		{off, "handle", "", "api.c", "--source-root", bare, 11 * testPeriod},
		{off, "handle", "focus:encode", "api.c", "--source-root", []SourceLine{{7, "", 0, testPeriod}}, testPeriod},
		{off, "nothing", "", "", "no debug information", []SourceLine{}, 11 * testPeriod},
	} {
		params := []string{"function", tt.function}
		if tt.filter != "" {
			params = append(params, "filter", tt.filter)
		}
		ans := ask(get(t, tt.server, "/api/v1/source"+during(base, 0, 60, params...)))
		if !strings.Contains(ans.NoText, tt.why) || ans.File != tt.file || ans.Total != tt.total || !slices.Equal(ans.Lines, tt.lines) {
			t.Errorf("%s %s: %+v", tt.function, tt.filter, ans)
		}
	}
	src := newTestServer(t, newTestStore(t), Options{SourceRoot: filepath.Join(root, "src")})
	fill(t, src, base)
	ans := ask(get(t, src, "/api/v1/source"+during(base, 0, 60, "function", "handle")))
	if ans.File != "api.c" || ans.Unit != "nanoseconds" || ans.NoText != "" || len(ans.Lines) != 8 {
		t.Fatalf("%+v", ans)
	}
	// A text that is shorter than what profiles say is not what was built.
	if err := os.WriteFile(filepath.Join(root, "src", "api.c"), []byte("one line"), 0o644); err != nil {
		t.Fatal(err)
	}
	if short := ask(get(t, src, "/api/v1/source"+during(base, 0, 60, "function", "handle"))); !strings.Contains(short.NoText, "another version") || !slices.Equal(short.Lines, bare) {
		t.Errorf("%+v", short)
	}
	if l := ans.Lines[6]; l != (SourceLine{7, "int handle() {}", 0, 6 * testPeriod}) {
		t.Errorf("%+v", l)
	}
	for _, tt := range []struct{ params, want string }{
		{"", "function is missing"},
		{"function=main&filter=x", "write focus:"},
		{"function=handle&root=x", "unknown parameter"},
	} {
		values, err := url.ParseQuery(tt.params)
		if err != nil {
			t.Fatal(err)
		}
		if resp, b := get(t, src, "/api/v1/source?"+values.Encode()); resp.StatusCode < 400 || !strings.Contains(string(b), tt.want) {
			t.Errorf("%s: %s: %s", tt.params, resp.Status, b)
		}
	}

	for file, ok := range map[string]bool{
		"api.c": false, "src/api.c": true, "/build/src/api.c": true, filepath.Join(root, "src", "api.c"): true, "../../src/api.c": true,
		"outside.c": false, "../outside.c": false, filepath.Join(dir, "outside.c"): false, "src/link.c": false, "src/.env": false, ".git/config": false,
		"src": false, "src/bin.c": false, "": false, "/": false, "src/none.c": false,
	} {
		text, err := readSource(root, file)
		if (err == nil) != ok || strings.Contains(string(text), "secret") {
			t.Errorf("%q: %q, %v", file, text, err)
		}
	}
}
