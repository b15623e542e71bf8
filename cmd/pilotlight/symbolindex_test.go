package main

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pilotlight/cmd/pilotlight/agent"
)

// compileC builds a C program with an inlined call and returns its path.
func compileC(t *testing.T, flags ...string) string {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil && os.Getenv("REQUIRE_ALL") != "1" {
		t.Skip("gcc is not installed")
	}
	dir := t.TempDir()
	source := `static inline __attribute__((always_inline)) int inner(int x) { return x / (x + 3); }
int main(int argc, char **argv) { return inner(argc); }
`
	if err := os.WriteFile(filepath.Join(dir, "a.c"), []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("gcc", append([]string{"-O2", "-o", "a", "a.c"}, flags...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return filepath.Join(dir, "a")
}

// symbolAddress returns where a function is.
func symbolAddress(t *testing.T, path, name string) uint64 {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range symbols {
		if s.Name == name {
			return s.Value
		}
	}
	t.Fatalf("%s has no %s", path, name)
	return 0
}

// TestInspectSymbolsDWARF finds debug information in the file, and in the one that it was put into.
func TestInspectSymbolsDWARF(t *testing.T) {
	for _, tt := range []struct {
		name  string
		flags []string
		after [][]string
	}{
		{name: "in the file", flags: []string{"-g"}},
		{name: "compressed", flags: []string{"-g", "-gz"}},
		{name: "by .gnu_debuglink", flags: []string{"-g"}, after: [][]string{
			{"objcopy", "--only-keep-debug", "a", "a.debug"},
			{"objcopy", "--strip-debug", "--add-gnu-debuglink=a.debug", "a"},
		}},
		{name: "split", flags: []string{"-g", "-gsplit-dwarf"}},
		{name: "split, DWARF 4", flags: []string{"-gdwarf-4", "-gsplit-dwarf"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := compileC(t, tt.flags...)
			for _, args := range tt.after {
				cmd := exec.Command(args[0], args[1:]...)
				cmd.Dir = filepath.Dir(path)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v: %v\n%s", args, err, out)
				}
			}
			addr := symbolAddress(t, path, "main")
			source := filepath.Join(filepath.Dir(path), "a.c")
			want := fmt.Sprintf("inner at %s:1\n (inlined by) main at %s:2\n", source, source)
			out := ""
			for off := uint64(0); off < 12 && !strings.Contains(out, want); off++ {
				var err error
				if out, err = inspect(t, "symbols", path, fmt.Sprintf("%#x", addr+off)); err != nil {
					t.Fatal(err)
				}
			}
			if !strings.Contains(out, want) {
				t.Errorf("got %s, want %s", out, want)
			}
		})
	}
}

// elfWith makes an ELF file with 4 KiB of code at 0x1000 and these sections.
func elfWith(sections map[string][]byte) []byte {
	const headSize, entrySize = 64, 64
	names := []byte("\x00.text\x00")
	body := make([]byte, headSize)
	table := make([]byte, entrySize)
	entry := func(name uint32, typ elf.SectionType, flags elf.SectionFlag, addr, off, size uint64) {
		b := make([]byte, entrySize)
		le := binary.LittleEndian
		le.PutUint32(b, name)
		le.PutUint32(b[4:], uint32(typ))
		le.PutUint64(b[8:], uint64(flags))
		le.PutUint64(b[16:], addr)
		le.PutUint64(b[24:], off)
		le.PutUint64(b[32:], size)
		table = append(table, b...)
	}
	entry(1, elf.SHT_NOBITS, elf.SHF_ALLOC|elf.SHF_EXECINSTR, 0x1000, 0, 0x1000)
	for name, data := range sections {
		typ := elf.SHT_PROGBITS
		if strings.HasPrefix(name, ".note") {
			typ = elf.SHT_NOTE
		}
		entry(uint32(len(names)), typ, 0, 0, uint64(len(body)), uint64(len(data)))
		names = append(append(names, name...), 0)
		body = append(body, data...)
	}
	entry(uint32(len(names)), elf.SHT_STRTAB, 0, 0, uint64(len(body)), uint64(len(names))+1)
	body = append(append(body, names...), 0)
	copy(body, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(body[16:], uint16(elf.ET_DYN))
	le.PutUint16(body[18:], uint16(elf.EM_X86_64))
	body[20] = byte(elf.EV_CURRENT)
	le.PutUint64(body[40:], uint64(len(body)))
	le.PutUint16(body[58:], entrySize)
	le.PutUint16(body[60:], uint16(len(table)/entrySize))
	le.PutUint16(body[62:], uint16(len(table)/entrySize-1))
	return append(body, table...)
}

// endlessDWARF is 1 MB of debug information that takes hours to read: each of many functions has the same long list
// of ranges.
func endlessDWARF() []byte {
	abbrev := []byte{1, 0x11, 1, 0, 0, 2, 0x2e, 0, 0x55, 0x17, 0, 0, 0}
	list := append(bytes.Repeat([]byte{4, 0, 0}, 60_000), 0)
	info := []byte{0, 0, 0, 0, 5, 0, 1, 8, 0, 0, 0, 0, 1}
	info = append(info, bytes.Repeat([]byte{2, 0, 0, 0, 0}, 160_000)...)
	binary.LittleEndian.PutUint32(info, uint32(len(info)-4))
	return elfWith(map[string][]byte{".debug_info": info, ".debug_abbrev": abbrev, ".debug_rnglists": list})
}

// newIndexRequest makes a request for what a file has in it.
func newIndexRequest(t *testing.T, image []byte) agent.IndexRequest {
	t.Helper()
	var files [3]*os.File
	for i := range files {
		f, err := unnamedFile()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		files[i] = f
	}
	if _, err := files[0].Write(image); err != nil {
		t.Fatal(err)
	}
	return agent.IndexRequest{DebugFiles: &agent.DebugFiles{In: files[0]}, Out: files[1], Spill: files[2]}
}

// childWith returns the pid of the child of parent with a command line that has word in it.
func childWith(t *testing.T, parent int, word string) int {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
		if err != nil {
			t.Fatal(err)
		}
		for _, list := range lists {
			text, _ := os.ReadFile(list) // a thread may have ended
			for pid := range strings.FieldsSeq(string(text)) {
				cmdline, _ := os.ReadFile("/proc/" + pid + "/cmdline")
				var n int
				if _, err := fmt.Sscan(pid, &n); err == nil && bytes.Contains(cmdline, []byte(word)) {
					return n
				}
			}
		}
	}
	t.Fatalf("no child with %q", word)
	return 0
}

// checkConfined holds that a child has given up what it should, once it has had the time to, and has memory left to work in.
func checkConfined(t *testing.T, pid, memory int) {
	t.Helper()
	want := []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"}
	if os.Geteuid() != 0 {
		want = want[:2]
	}
	var status string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		if status = string(text); strings.Contains(status, want[1]) {
			break
		}
	}
	for _, line := range want {
		if !strings.Contains(status, line) {
			t.Errorf("the child's status has no %q:\n%s", line, status)
		}
	}
	if os.Geteuid() == 0 && strings.Contains(status, "Uid:\t0") {
		t.Error("the child is root")
	}
	_, mapped, _ := strings.Cut(status, "VmData:")
	const room = 32 << 10 // KiB
	var data int
	if _, err := fmt.Sscan(mapped, &data); err != nil || data == 0 || data+room > memory>>10 {
		t.Errorf("of its %d KiB %d are mapped to begin with, %v", memory>>10, data, err)
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if want := regexp.MustCompile(fmt.Sprintf(`Max data size +%d +%d `, memory, memory)); err != nil || !want.Match(limits) {
		t.Errorf("its limits have no %v, %v:\n%s", want, err, limits)
	}
	if attr, err := unix.SchedGetAttr(pid, 0); err != nil || attr.Nice != 19 {
		t.Errorf("scheduled as %+v, %v", attr, err)
	}
}

// TestIndexFileBudget has a file that takes too long, and looks at the child meanwhile.
func TestIndexFileBudget(t *testing.T) {
	request := newIndexRequest(t, endlessDWARF())
	ended := make(chan error, 1)
	var result agent.IndexResult
	go func() {
		var err error
		result, err = indexFile(context.Background(), request)
		ended <- err
	}()
	checkConfined(t, childWith(t, os.Getpid(), "index-child"), indexMemory)
	if err := <-ended; !errors.Is(err, agent.ErrIndexBudget) {
		t.Errorf("got %v, want agent.ErrIndexBudget", err)
	}
	if result.CPU < time.Second || result.CPU > indexBase+2*time.Second {
		t.Errorf("ended after %v of CPU time, %v allowed", result.CPU, indexBase)
	}
}

func TestIndexFileCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	request := newIndexRequest(t, endlessDWARF())
	ended := make(chan error, 1)
	go func() {
		_, err := indexFile(ctx, request)
		ended <- err
	}()
	pid := childWith(t, os.Getpid(), "index-child")
	cancel()
	if err := <-ended; err == nil {
		t.Error("no error")
	}
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the child is there still: %v", err)
	}
}

func TestIndexFileErrors(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		image      []byte
	}{
		{"not ELF", "not an ELF file", []byte("text")},
		{"a piece of ELF", "ELF header", []byte("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 20))},
	} {
		if _, err := indexFile(context.Background(), newIndexRequest(t, tt.image)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestCapped holds that what copies to it, as exec.Cmd does what a child prints, does not go round its limit.
func TestCapped(t *testing.T) {
	c := capped{limit: 10}
	n, err := io.Copy(&c, strings.NewReader(strings.Repeat("0123456789", 1000)))
	if err != nil || n != 10_000 || string(c.Bytes()) != "0123456789" {
		t.Errorf("%d bytes copied, %d kept: %v", n, len(c.Bytes()), err)
	}
}
