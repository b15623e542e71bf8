//go:build verify

// The long tests: they take the large programs of a developer's machine. make verify runs them, or
//
//	go test -tags verify -run TestVerify -v ./unwind

package unwind

import (
	"path/filepath"
	"testing"
)

// TestVerifyTables compares the tables of large programs with llvm-dwarfdump, row by row.
func TestVerifyTables(t *testing.T) {
	for _, patterns := range [][]string{
		{"/usr/lib/*-linux-gnu/libstdc++.so.6"},
		{"/usr/lib/*-linux-gnu/libcrypto.so.3"},
		{"/usr/lib/*-linux-gnu/libLLVM.so.19*"},
		{"/usr/aarch64-linux-gnu/lib/libstdc++.so.6"},
		{"/usr/bin/node"},
		{"/usr/bin/python3.11"},
		{"/usr/lib/jvm/*/lib/server/libjvm.so"},
	} {
		t.Run(filepath.Base(patterns[0]), func(t *testing.T) {
			path := firstThere(t, patterns...)
			if path == "" {
				skip(t, "not on this machine: "+patterns[0])
			}
			compareWithDwarfdump(t, buildFile(t, path, Options{}), "--eh-frame", path)
		})
	}
}

// TestVerifyGoARM64 compares rules of a Go program for the other processor with its .debug_frame.
func TestVerifyGoARM64(t *testing.T) {
	compareWithDebugFrame(t, buildGo(t, []string{"GOARCH=arm64"}, "-ldflags=-compressdwarf=false"))
}

// TestVerifyGoToolchains does so for the releases whose tables are read. Go 1.19 is not among them: its go command does
// not build when another one has switched to it. Its tables are those of 1.18.
func TestVerifyGoToolchains(t *testing.T) {
	for _, version := range []string{
		"go1.18.10", "go1.20.14", "go1.21.13", "go1.22.12", "go1.23.4", "go1.24.4", "go1.25.3",
	} {
		t.Run(version, func(t *testing.T) {
			compareWithDebugFrame(t, buildGo(t, []string{"GOTOOLCHAIN=" + version}, "-ldflags=-compressdwarf=false"))
		})
	}
}
