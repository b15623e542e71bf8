package symbolize

import (
	"strings"

	"github.com/ianlancetaylor/demangle"
)

const (
	// maxString bounds names and paths read from a file. The longest C++ names of real programs are some KiB.
	maxString = 64 << 10
	// maxMangled bounds what is demangled. The work can grow with the square of the length: names nested in names
	// take 45 ms at this one. The longest name in LLVM 19, V8 and the JVM has 537 bytes.
	maxMangled = 2 << 10
	// maxDemangledPow bounds the demangled name, 64 KiB: back references make its length exponential in that of
	// the mangled name.
	maxDemangledPow = 16
)

// demangled returns the name of a symbol as people read it: C++ (Itanium ABI) and Rust (legacy and v0) demangled
// in full, a symbol version (read@@GLIBC_2.2.5) taken off. A name that is not mangled, or too long to demangle
// safely, is returned as it is.
func demangled(name string) string {
	if i := strings.IndexByte(name, '@'); i > 0 {
		name = name[:i]
	}
	if len(name) > maxMangled {
		return name
	}
	return demangle.Filter(name, demangle.MaxLength(maxDemangledPow))
}
