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
