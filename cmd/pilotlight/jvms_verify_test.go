//go:build verify

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pilotlight/testdata/loads"
)

// TestVerifyJVMNames has JVMs asked that run as root, as another user with a /tmp of its own, and one that SIGQUIT would
// end, which is to live.
func TestVerifyJVMNames(t *testing.T) {
	needRoot(t)
	if err := loads.Build(t.Context(), "java"); err != nil {
		t.Fatal(err)
	}
	classes, err := filepath.Abs("../../testdata/loads/build")
	if err != nil {
		t.Fatal(err)
	}
	s, err := startServer(filepath.Join(makeDir(t), "data"), "127.0.0.1:0", 99, "--jvm-names")
	if err != nil {
		t.Fatal(err)
	}
	s.killAtEnd(t)
	const ownTmp = `mount -t tmpfs -o mode=1777 none /tmp && exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"`
	java := []string{"java", "-Xmx256m", "-cp", classes, "Worker", "50"}
	begun := time.Now()
	for _, jvm := range []struct {
		name  string
		argv  []string
		named bool
	}{
		{"root", java, true},
		{"another user", append([]string{"unshare", "-m", "sh", "-c", ownTmp, "sh"}, java...), true},
		{"-Xrs", append([]string{"java", "-Xrs"}, java[1:]...), false},
	} {
		cmd := exec.CommandContext(t.Context(), jvm.argv[0], jvm.argv[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid := cmd.Process.Pid
		t.Cleanup(func() { os.Remove(fmt.Sprintf("/tmp/perf-%d.map", pid)) }) // may not have been made
		defer func() {
			if err := cmd.Wait(); err != nil {
				t.Errorf("%s: %v\n%s", jvm.name, err, out.String())
			}
			if strings.Contains(out.String(), "Full thread dump") {
				t.Errorf("%s was had to print its threads:\n%s", jvm.name, out.String())
			}
			if err := s.waitWindow(begun.Add(50 * time.Second)); err != nil {
				t.Fatal(err)
			}
			// They compile most when they begin, and are asked after 5, 15 and 35 s.
			all, named := int64(0), int64(0)
			for _, sample := range s.profileOf(t, pid, begun.Add(30*time.Second), begun.Add(50*time.Second)).Sample {
				leaf := sample.Location[0]
				if len(leaf.Line) == 0 || leaf.Mapping == nil || leaf.Mapping.File != "//anon" {
					continue
				}
				all += sample.Value[0]
				if name := leaf.Line[0].Function.Name; strings.Contains(name, "Worker") || strings.Contains(name, "java.") {
					named += sample.Value[0]
				}
			}
			t.Logf("%s: %d of %d samples of compiled code have names", jvm.name, named, all)
			if all < 100 || jvm.named && named < all*3/4 || !jvm.named && named > 0 {
				t.Errorf("%s: %d of %d samples of compiled code have names", jvm.name, named, all)
			}
		}()
	}
}
