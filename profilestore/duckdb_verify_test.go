//go:build verify

package profilestore

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pilotlight/profilestore/flamegraph"
)

// duckScript runs the query in its file and prints the rows as JSON.
const duckScript = `const { DuckDBInstance } = require('@duckdb/node-api');
(async () => {
  const db = await (await DuckDBInstance.create()).connect();
  const rows = (await db.runAndReadAll(require('fs').readFileSync('query.sql', 'utf8'))).getRowsJson();
  console.log(JSON.stringify(rows));
})().catch(err => { console.error(err); process.exit(1); });
`

// TestVerifyDuckDB runs the query of FORMAT.md over the files and compares it with the top table.
func TestVerifyDuckDB(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "data"), testOptions())
	for service := range 3 {
		load := newLoadService(t, service, 2, 0.3)
		for i := range 10 {
			pod := i % 2
			mustAppend(t, s, Encoded{Name: "process_cpu", Labels: loadLabels(service, pod), Time: start.Add(time.Duration(i) * time.Minute).UnixNano(), Pprof: load.profile(t, pod)})
			if i%3 == 2 {
				settle(t, s)
			}
		}
	}
	settle(t, s)
	res, err := s.Select(context.Background(), all(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string][2]string)
	table, err := flamegraph.Top(t.Context(), res.Stacks, flamegraph.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range table.Rows {
		want[r.Function] = [2]string{fmt.Sprint(r.Self), fmt.Sprint(r.Total)}
	}

	format, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(format), "```sql\n")
	query, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("FORMAT.md has no query")
	}
	for name, text := range map[string]string{"query.sql": query, "run.js": duckScript} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string, args ...string) []byte {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.Stderr = dir, os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %q: %v", name, args, err)
		}
		return out
	}
	run("npm", "install", "--no-audit", "--no-fund", "--prefix", dir, "@duckdb/node-api@1.5.6-r.1")
	var rows [][3]any
	if err := json.Unmarshal(run("node", "run.js"), &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != len(want) {
		t.Errorf("DuckDB has %d functions, the store %d", len(rows), len(want))
	}
	for _, r := range rows {
		got := [2]string{fmt.Sprint(r[1]), fmt.Sprint(r[2])}
		if name := fmt.Sprint(r[0]); got != want[name] {
			t.Errorf("%s: DuckDB says %v, the store %v", name, got, want[name])
		}
	}
	fmt.Println(strconv.Itoa(len(rows)) + " functions: self and total in DuckDB equal those of the store")
}
