//go:build verify

package symbolize

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pilotlight/testdata/debian"
)

// The large sets of debug information are Debian's packages, 3.5 GB when they are unpacked.

// unpackDebian returns the folder that packages are unpacked in.
func unpackDebian(t *testing.T, packages ...string) string {
	t.Helper()
	root, err := debian.Unpack(t.TempDir(), packages...)
	if errors.Is(err, exec.ErrNotFound) {
		skip(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// cloudKernel returns the name of the newest cloud kernel of a series whose debug package apt has.
func cloudKernel(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("apt-cache", "depends", "linux-image-cloud-amd64-dbg").Output()
	if err != nil {
		skip(t, "apt does not know the kernel's debug packages: "+err.Error())
	}
	for line := range strings.Lines(string(out)) {
		if _, name, ok := strings.Cut(strings.TrimSpace(line), "Depends: "); ok {
			return name
		}
	}
	t.Fatalf("no package in %q", out)
	return ""
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// verifySymbols compares and prints what the index cost.
func verifySymbols(t *testing.T, path string, inC bool) {
	t.Helper()
	start := cpuTime(t)
	x, stats := openTestIndex(t, path, IndexOptions{OpenSplit: openSplitFile})
	cost := cpuTime(t) - start
	if stats.Skipped != nil {
		t.Error(stats.Skipped)
	}
	f, err := debugFile(path)
	if err != nil {
		t.Fatal(err)
	}
	links, err := ReadDebugLinks(f, f.Size)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %d MB of debug information, index %.1f MB (%.1f %%), %.2f s of CPU; %d units, %d functions, %d ranges",
		filepath.Base(path), links.DebugBytes>>20, float64(stats.Bytes)/(1<<20), 100*float64(stats.Bytes)/float64(links.DebugBytes),
		cost.Seconds(), stats.Units, stats.Functions, stats.Ranges)
	holdShare(t, compareWithLLVM(t, path, x, 1, 10_000, inC))
	measureLookups(t, path, x)
}

// holdShare holds that of all addresses, those without debug information too, 99.9 % are as llvm-symbolizer has them.
func holdShare(t *testing.T, e equality) {
	t.Helper()
	if e.share() < 0.999 {
		t.Errorf("less than 99.9 %% are equal")
	}
}

// measureLookups prints the time of a lookup whose names were asked for before.
func measureLookups(t *testing.T, path string, x *Index) {
	t.Helper()
	addrs := randomCode(t, path, 2, 1000)
	var frames []Frame
	for range 2 {
		for _, addr := range addrs {
			frames = x.Resolve(frames[:0], addr)
		}
	}
	const rounds = 100
	start := cpuTime(t)
	for range rounds {
		for _, addr := range addrs {
			frames = x.Resolve(frames[:0], addr)
		}
	}
	t.Logf("%.2f us of CPU a lookup, %d KiB held", float64((cpuTime(t)-start).Nanoseconds())/1000/rounds/float64(len(addrs)), x.MemoryBytes()>>10)
}

func vmlinux(t *testing.T) string {
	t.Helper()
	root := unpackDebian(t, cloudKernel(t))
	path := firstThere(t, filepath.Join(root, "usr/lib/debug/boot/vmlinux-*"))
	if path == "" {
		t.Fatalf("no vmlinux below %s", root)
	}
	return path
}

// cephDebug returns the file with the debug information of ceph-osd, found as the profiler finds it.
func cephDebug(t *testing.T) string {
	t.Helper()
	root := unpackDebian(t, "ceph-osd", "ceph-osd-dbg")
	f, err := debugFile(filepath.Join(root, "usr/bin/ceph-osd"))
	if err != nil {
		t.Fatal(err)
	}
	links, err := ReadDebugLinks(f, f.Size)
	if err != nil {
		t.Fatal(err)
	}
	_, path, err := OpenDebug(os.DirFS(root), "/usr/bin/ceph-osd", links)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, path)
}

func TestVerifySymbolsKernel(t *testing.T) { verifySymbols(t, vmlinux(t), true) }

func TestVerifySymbolsCeph(t *testing.T) { verifySymbols(t, cephDebug(t), false) }

func TestVerifySymbolsLibc(t *testing.T) {
	verifySymbols(t, debugOf(t, libc(t)), true)
}

// TestVerifySymbolsGo takes the go command, whose DWARF the Go linker writes: with its debug information beside
// llvm-symbolizer, and with its pclntab, stripped too, beside go tool addr2line. compareWithRuntime compares pclntabs
// with runtime.CallersFrames.
func TestVerifySymbolsGo(t *testing.T) {
	dir := t.TempDir()
	path, stripped := filepath.Join(dir, "go"), filepath.Join(dir, "stripped")
	run(t, ".", "go", "build", "-o", path, "cmd/go")
	run(t, dir, "llvm-strip-19", "-o", stripped, path)
	verifySymbols(t, path, false)
	addrs := randomText(t, path, 3, 10_000)
	for _, file := range []string{path, stripped} {
		t.Run(filepath.Base(file), func(t *testing.T) {
			equal := compareWithAddr2line(t, path, openFile(t, file), addrs)
			t.Logf("%d addresses, %.2f %% equal to go tool addr2line's", len(addrs), 100*float64(equal)/float64(len(addrs)))
		})
	}
}

// TestVerifySymbolsForms takes more addresses of each form of DWARF than TestIndexEqualsLLVM.
func TestVerifySymbolsForms(t *testing.T) {
	for _, form := range dwarfForms() {
		t.Run(form.name, func(t *testing.T) { holdShare(t, compareForm(t, form, 10_000)) })
	}
}

// TestVerifySymbolsRust takes a debug build. Some of the libraries in it have no debug information, and functions with
// several names among them are one address in a thousand: more addresses tell more surely.
func TestVerifySymbolsRust(t *testing.T) {
	holdShare(t, compareRust(t, "0", 100_000))
}

var mutantCount = flag.Int("mutants", 200_000, "how many files TestVerifySymbolsMutants damages")

// TestVerifySymbolsMutants damages the files of each form of DWARF, of symbols in .gnu_debugdata, of a Go program, and
// indexes.
func TestVerifySymbolsMutants(t *testing.T) {
	subjects := []*mutantSubject{miniDebugSubject(t), indexSubject(t), goSubject(t)}
	for _, form := range dwarfForms() {
		subjects = append(subjects, newMutantSubject(t, form))
	}
	tryMutants(t, subjects, *mutantCount)
}
