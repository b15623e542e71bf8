package profilestore

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestInspect(t *testing.T) {
	s, _ := filled(t)
	dir := s.dir
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := Inspect(&out, dir); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"log ", "block ", "level 1", "rows add up to the totals of", `dictionary 1, "`, "of 2026-03-01", "samples.parquet"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	samples, err := filepath.Glob(filepath.Join(dir, blocksDir, "*", "samples.parquet"))
	if err != nil || len(samples) == 0 {
		t.Fatal(samples, err)
	}
	b, err := os.ReadFile(samples[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 4
	if err := os.WriteFile(samples[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, filepath.Dir(samples[0])} {
		out.Reset()
		if err := Inspect(&out, path); !errors.Is(err, ErrDamaged) || !strings.Contains(out.String(), "DAMAGED "+samples[0]) {
			t.Errorf("%s: %v\n%s", path, err, out.String())
		}
	}
	if err := Inspect(&out, t.TempDir()); err == nil {
		t.Error("an empty directory is taken for a store")
	}
}
