package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// TestDescribe describes this test's own binary.
func TestDescribe(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	page := filepath.Join(t.TempDir(), "package.json")
	if err := os.WriteFile(page, []byte(`{"dependencies":{"uplot":"1.6.32","preact":"11.2.0"},"devDependencies":{"vite":"7.0.0"}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	for _, out := range []*bytes.Buffer{&first, &second} {
		if err := run([]string{self, "v1.2.3", page}, out); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the second time it says something else")
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(&first, cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	if c := bom.Metadata.Component; c.Name != "pilotlight" || c.Version != "v1.2.3" || len((*c.Hashes)[0].Value) != 64 {
		t.Errorf("it describes %+v", c)
	}
	var purls []string
	for _, c := range *bom.Components {
		purls = append(purls, c.PackageURL)
	}
	has := func(prefix string) bool {
		return slices.ContainsFunc(purls, func(p string) bool { return strings.HasPrefix(p, prefix) })
	}
	for _, want := range []string{"pkg:golang/stdlib@1.", "pkg:golang/github.com/CycloneDX/cyclonedx-go@v", "pkg:npm/preact@11.2.0", "pkg:npm/uplot@1.6.32"} {
		if !has(want) {
			t.Errorf("%s is not among %v", want, purls)
		}
	}
	if has("pkg:npm/vite") {
		t.Error("what only builds the page is no part of it")
	}
	if deps := *bom.Dependencies; len(deps) != 1 || len(*deps[0].Dependencies) != len(purls) {
		t.Errorf("dependencies %+v", deps)
	}
}
