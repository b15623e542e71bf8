// Command sbom prints what a binary of ours is made of, in CycloneDX's JSON: the modules that the Go linker wrote into it,
// Go itself, and the packages in the bundle of the page. It says the same each time of the same binary.
//
//	sbom BINARY VERSION PACKAGE.JSON
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	if len(args) != 3 {
		return errors.New("usage: sbom BINARY VERSION PACKAGE.JSON")
	}
	bom, err := describe(args[0], args[1], args[2])
	if err != nil {
		return err
	}
	encoder := cdx.NewBOMEncoder(out, cdx.BOMFileFormatJSON).SetPretty(true)
	// Not the newest, which fewer readers know.
	return encoder.EncodeVersion(bom, cdx.SpecVersion1_5)
}

func describe(binary, version, packageJSON string) (*cdx.BOM, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(content)
	text, err := os.ReadFile(packageJSON)
	if err != nil {
		return nil, err
	}
	var page struct{ Dependencies map[string]string }
	if err := json.Unmarshal(text, &page); err != nil {
		return nil, fmt.Errorf("%s: %w", packageJSON, err)
	}
	parts := []cdx.Component{library("golang", "stdlib", strings.TrimPrefix(info.GoVersion, "go"))}
	for _, module := range info.Deps {
		parts = append(parts, library("golang", used(module).Path, used(module).Version))
	}
	for _, name := range slices.Sorted(maps.Keys(page.Dependencies)) {
		parts = append(parts, library("npm", name, page.Dependencies[name]))
	}
	whole := cdx.Component{
		BOMRef: "pilotlight", Type: cdx.ComponentTypeApplication, Name: "pilotlight", Version: version,
		Hashes:   &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}},
		Licenses: &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}},
	}
	refs := make([]string, len(parts))
	for i := range parts {
		refs[i] = parts[i].BOMRef
	}
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Component: &whole}
	bom.Components = &parts
	// Of what depends on what among them, a binary says nothing.
	bom.Dependencies = &[]cdx.Dependency{{Ref: whole.BOMRef, Dependencies: &refs}}
	return bom, nil
}

// used is the module that was compiled: the one that replaces another, if there is one.
func used(m *debug.Module) *debug.Module {
	if m.Replace != nil {
		return m.Replace
	}
	return m
}

// library is one package of a registry, under its package URL (purl).
func library(registry, name, version string) cdx.Component {
	purl := fmt.Sprintf("pkg:%s/%s@%s", registry, name, version)
	return cdx.Component{BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: name, Version: version, PackageURL: purl}
}
