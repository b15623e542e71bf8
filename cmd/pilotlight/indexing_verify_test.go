//go:build verify

package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pilotlight/cmd/pilotlight/agent"
	"pilotlight/profilestore/httpapi"
	"pilotlight/testdata/debian"
)

// unpackCeph returns a directory that has ceph-osd and its debug information, which are very large.
func unpackCeph(t *testing.T) string {
	t.Helper()
	root, err := debian.Unpack(makeDir(t), "ceph-osd", "ceph-osd-dbg")
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("REQUIRE_ALL") != "1" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// TestVerifyIndexing has a run index the debug information of a very large program, ceph-osd, and holds what that costs
// the agent half and the samples of the machine meanwhile.
func TestVerifyIndexing(t *testing.T) {
	const growthGate = 30 << 20 // bytes of the agent half
	needRoot(t)
	root := unpackCeph(t)
	dir := makeDir(t)
	s, err := startServer(filepath.Join(dir, "data"), "127.0.0.1:0", 99, "--cache", filepath.Join(dir, "cache"), "--log-level", "debug")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.signal(unix.SIGKILL)
		<-s.ended
	})
	s.reportAt(t, time.Now().Truncate(agent.Window).Add(2*agent.Window)) // what a start takes has been given back
	startSpinning(t, root, "/usr/bin/ceph-osd")

	// Its index is asked for after some windows: it has hundreds of MB of debug information.
	var child int
	var before uint64
	err = eventually(5*time.Minute, "the debug information of ceph-osd is read", func() bool {
		before = rssOf(t, s.cmd.Process.Pid)
		child = s.largeIndexChild()
		return child != 0
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, s.log)
	}
	begun := time.Now()
	first := s.mustReport(t)
	checkConfined(t, child, indexMemory)
	most := uint64(0)
	watch := func() { most = max(most, rssOf(t, s.cmd.Process.Pid)) }
	err = eventually(10*time.Minute, "the debug information of ceph-osd has been read", func() bool {
		watch()
		return !runs(child)
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, s.log)
	}
	took := time.Since(begun)
	last := s.reportAfter(t, time.Now(), watch) // the index is in use then
	growth := int64(most) - int64(before)
	t.Logf("agent half: %.1f MB before, at most %.1f MB in the %v that it took, %+.1f MB", mb(before), mb(most), took.Round(time.Second), float64(growth)/(1<<20))
	if growth > growthGate {
		t.Errorf("the agent half grew by %d MB, want at most %d", growth>>20, growthGate>>20)
	}
	s.checkIndexed(t)

	taken, missed := last.Total.SamplesTaken-first.Total.SamplesTaken, last.Total.SamplesMissed-first.Total.SamplesMissed
	t.Logf("samples: %d taken meanwhile, %d missed; before, %d and %d; outcomes %v", taken, missed, first.Total.SamplesTaken, first.Total.SamplesMissed, last.Total.Outcomes)
	// /proc/stat counts in ticks of 10 ms, as often as samples are taken.
	if missed > taken/100+4 {
		t.Errorf("%d samples were missed beside %d taken", missed, taken)
	}
	for _, lost := range []string{"dropped_ring", "dropped_user"} {
		if n := last.Total.Outcomes[lost] - first.Total.Outcomes[lost]; n > 0 {
			t.Errorf("%d samples: %s", n, lost)
		}
	}
}

func mb(n uint64) float64 { return float64(n) / (1 << 20) }

// indexedLine is what the agent logs of an index.
var indexedLine = regexp.MustCompile(`msg="indexed debug information" path=(\S+) bytes=(\d+) cpu=(\S+) peak=(\d+)`)

// checkIndexed holds that the index of the largest file that was indexed was built within the limits.
func (s *server) checkIndexed(t *testing.T) {
	t.Helper()
	var largest, peak int64
	for _, m := range indexedLine.FindAllStringSubmatch(s.log.String(), -1) {
		size, err := strconv.ParseInt(m[2], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if size < largest {
			continue
		}
		largest = size
		if peak, err = strconv.ParseInt(m[4], 10, 64); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: an index of %.1f MB, %s of CPU time, %.1f MB at most", m[1], mb(uint64(size)), m[3], mb(uint64(peak)))
	}
	// What is resident includes the program, which is no data.
	if most := int64(indexMemory + 64<<20); largest < 1<<20 || peak > most {
		t.Errorf("the largest index has %d bytes, its child had %d MB, want at most %d\n%s", largest, peak>>20, most>>20, s.log)
	}
}

// startSpinning runs a copy of a program below a root of its own that does nothing but a jump to itself where it would
// begin: it needs none of its libraries, and its build ID is that of the program.
func startSpinning(t *testing.T, root, path string) int {
	t.Helper()
	image, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	if err := spin(image); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(root, "spinning-")
	if err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		err = os.WriteFile(filepath.Join(dir, filepath.Base(path)), image, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/" + filepath.Join(filepath.Base(dir), filepath.Base(path)))
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait() // it was killed
	})
	return cmd.Process.Pid
}

// spin has a program run without a dynamic linker, and jump to its entry for ever.
func spin(image []byte) error {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return err
	}
	const headerSize = 56
	headers := image[binary.LittleEndian.Uint64(image[32:]):]
	for i, p := range f.Progs {
		switch {
		case p.Type == elf.PT_INTERP:
			binary.LittleEndian.PutUint32(headers[headerSize*i:], uint32(elf.PT_NULL))
		case p.Type == elf.PT_LOAD && f.Entry-p.Vaddr < p.Filesz:
			copy(image[p.Off+f.Entry-p.Vaddr:], "\xeb\xfe") // jmp .
		}
	}
	return nil
}

// rssOf is the resident memory of a process in bytes.
func rssOf(t *testing.T, pid int) uint64 {
	t.Helper()
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseUint(strings.Fields(string(statm))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * uint64(os.Getpagesize())
}

// childrenOf returns the pids of the children of a process.
func childrenOf(pid int) (children []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		text, _ := os.ReadFile(list) // a thread may have ended
		for field := range strings.FieldsSeq(string(text)) {
			if n, err := strconv.Atoi(field); err == nil {
				children = append(children, n)
			}
		}
	}
	return children
}

// largeIndexChild returns the child that reads a file as large as the debug information of ceph-osd, 0 if there is none.
func (s *server) largeIndexChild() int {
	for _, pid := range childrenOf(s.cmd.Process.Pid) {
		info, err := os.Stat(fmt.Sprintf("/proc/%d/fd/%d", pid, indexInFD))
		if err == nil && info.Mode().IsRegular() && info.Size() > 100<<20 {
			return pid
		}
	}
	return 0
}

// mustReport is what the agent half reported last.
func (s *server) mustReport(t *testing.T) *httpapi.AgentReport {
	t.Helper()
	r, err := s.lastReport()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// reportAfter waits for the report about a window that ends after a time, and calls watch meanwhile.
func (s *server) reportAfter(t *testing.T, after time.Time, watch func()) *httpapi.AgentReport {
	t.Helper()
	var report *httpapi.AgentReport
	err := eventually(3*agent.Window, "the agent reported", func() bool {
		watch()
		r, err := s.lastReport()
		report = r
		return err == nil && windowEnd(r).After(after.Add(agent.Window))
	})
	if err != nil {
		t.Fatal(err)
	}
	return report
}
