//go:build verify

package symbolize

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestVerifySymbolsCost names 1,000 random addresses from nothing, as `inspect symbols` does: it makes the index, in
// the child with its limits, and looks them up. Beside it runs the addr2line crate of Rust, which testdata/addr2line
// calls; it reads what the addresses need and keeps nothing.
func TestVerifySymbolsCost(t *testing.T) {
	ours := filepath.Join(t.TempDir(), "pilotlight")
	run(t, "..", "go", "build", "-o", ours, "./cmd/pilotlight")
	theirs := buildAddr2line(t)
	for name, path := range map[string]string{"ceph-osd": cephDebug(t), "vmlinux": vmlinux(t)} {
		t.Run(name, func(t *testing.T) {
			var args []string
			for _, addr := range randomText(t, path, 4, 1000) {
				args = append(args, fmt.Sprintf("%#x", addr))
			}
			var mine, other []usage
			for range 3 { // one after the other, so that both see the same machine
				mine = append(mine, usageOf(t, exec.Command(ours, append([]string{"inspect", "symbols", path}, args...)...), ""))
				other = append(other, usageOf(t, exec.Command(theirs, path), strings.Join(args, "\n")))
			}
			t.Logf("1,000 addresses of %s from nothing: %v; Rust's addr2line %v", name, median(mine), median(other))
			for _, u := range mine {
				if u.peak > 300<<20 {
					t.Errorf("peak of %d MB, want at most 300", u.peak>>20)
				}
			}
		})
	}
}

// buildAddr2line builds testdata/addr2line from Debian's packages of crates, without a network.
func buildAddr2line(t *testing.T) string {
	t.Helper()
	const crates = "/usr/share/cargo/registry"
	if _, err := os.Stat(filepath.Join(crates, "addr2line-0.19.0")); err != nil {
		skip(t, "librust-addr2line+std-object-dev and librust-memmap2-dev are not installed")
	}
	target := t.TempDir()
	source := filepath.Join(target, "source")
	run(t, ".", "cp", "-r", "testdata/addr2line", source) // cargo writes a lock file beside it
	run(t, source, "cargo", "build", "--release", "--offline", "--target-dir", target,
		"--config", `source.crates-io.replace-with="debian"`, "--config", fmt.Sprintf("source.debian.directory=%q", crates))
	return filepath.Join(target, "release", "inlines")
}

// usage is what a program took with its children.
type usage struct {
	cpu  time.Duration
	peak int64 // resident memory of the largest of them
}

func (u usage) String() string {
	return fmt.Sprintf("%.2f s of CPU, %d MB", u.cpu.Seconds(), u.peak>>20)
}

func median(of []usage) usage {
	slices.SortFunc(of, func(a, b usage) int { return int(a.cpu - b.cpu) })
	return of[len(of)/2]
}

func usageOf(t *testing.T, cmd *exec.Cmd, in string) usage {
	t.Helper()
	cmd.Stdin, cmd.Stderr = strings.NewReader(in), os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v", cmd.Path, err)
	}
	u := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return usage{time.Duration(u.Utime.Nano() + u.Stime.Nano()), u.Maxrss << 10}
}
