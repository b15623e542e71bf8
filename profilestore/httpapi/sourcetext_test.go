package httpapi

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
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
	// The file of the profile is "api.c"; below the root it is in src.
	if resp, b := get(t, s, "/api/v1/source"+during(base, 0, 60, "function", "handle")); resp.StatusCode != 404 || !strings.Contains(string(b), `\"api.c\" is not below`) {
		t.Errorf("%s: %s", resp.Status, b)
	}
	src := newTestServer(t, newTestStore(t), Options{SourceRoot: filepath.Join(root, "src")})
	fill(t, src, base)
	resp, b := get(t, src, "/api/v1/source"+during(base, 0, 60, "function", "handle"))
	ans := ask(resp, b)
	if ans.File != "api.c" || ans.Unit != "nanoseconds" || len(ans.Lines) != 8 {
		t.Fatalf("%+v", ans)
	}
	if l := ans.Lines[6]; l != (SourceLine{7, "int handle() {}", 0, 6 * testPeriod}) {
		t.Errorf("%+v", l)
	}
	for _, tt := range []struct{ params, want string }{
		{"", "function is missing"},
		{"function=nothing", "names a file of"},
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
	off := newTestServer(t, newTestStore(t), Options{})
	if resp, b := get(t, off, "/api/v1/source?function=main"); resp.StatusCode != 404 || !strings.Contains(string(b), "--source-root") {
		t.Errorf("off: %s: %s", resp.Status, b)
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
