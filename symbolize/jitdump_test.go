package symbolize

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const emptyJitdump = "DTiJ\x01\x00\x00\x00\x28\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// jitRecord is a record of a jitdump.
func jitRecord(id uint32, body string) string {
	b := binary.LittleEndian.AppendUint32(nil, id)
	b = binary.LittleEndian.AppendUint32(b, uint32(jitdumpPrefix+len(body)))
	return string(b) + "at a tim" + body
}

func numbers(ns ...uint64) string {
	var b []byte
	for _, n := range ns {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return string(b)
}

func jitLoad(addr uint64, code, name string) string {
	return jitRecord(jitdumpLoad, numbers(0, addr, addr, uint64(len(code)), 1)+name+"\x00"+code)
}

func jitMove(from, to, size uint64) string {
	return jitRecord(jitdumpMove, numbers(0, from, from, to, size, 1))
}

// TestJitdumpStory follows a file as a runtime writes it.
func TestJitdumpStory(t *testing.T) {
	second := jitLoad(0x2000, strings.Repeat("\n", 0x10), "LazyCompile:*second /src/app.js:10:14")
	followFile(t, []fileStep{
		{what: "half a header", text: emptyJitdump[:20], want: map[uint64]string{0x1000: ""}},
		{what: "the other half, and a function", text: emptyJitdump[20:] + jitLoad(0x1000, strings.Repeat("c", 0x100), "first"),
			want: map[uint64]string{0xfff: "", 0x1000: "first", 0x10ff: "first", 0x1100: ""}},
		{what: "lines and a part of the next", text: jitRecord(2, "lines") + second[:70], want: map[uint64]string{0x2000: ""}},
		{what: "the other part", text: second[70:], want: map[uint64]string{0x2000: "LazyCompile:*second /src/app.js:10:14", 0x1000: "first"}},
		{what: "a function moves", text: jitMove(0x1000, 0x3000, 0x80), want: map[uint64]string{0x3000: "first", 0x307f: "first", 0x3080: ""}},
		{what: "what is not known moves", text: jitMove(0x8000, 0x9000, 0x80), want: map[uint64]string{0x9000: ""}},
		{what: "code that there cannot be", text: jitRecord(jitdumpLoad, numbers(0, 0, 1<<63, 1<<63, 1)+"over\x00") + jitLoad(0x5000, "", "empty"),
			want: map[uint64]string{1 << 63: "", 0x5000: ""}},
		{what: "a place is used again", text: jitLoad(0x1000, strings.Repeat("c", 0x10), "later"), want: map[uint64]string{0x1000: "later", 0x1010: "first"}},
		{what: "written anew", anew: true, text: emptyJitdump + jitLoad(0x1000, "code", "new"), want: map[uint64]string{0x1000: "new", 0x2000: ""}},
		{what: "and as text", anew: true, text: "1000 10 text\n", want: map[uint64]string{0x1000: "text"}},
	})
}

func TestJitdumpDamage(t *testing.T) {
	good := emptyJitdump + jitLoad(0x1000, "code", "first")
	for _, tt := range []struct{ what, text, err string }{
		{"a header without end", "DTiJ\x01\x00\x00\x00\xff\xff\xff\xff" + strings.Repeat("\x00", 100), "a header of 4294967295 bytes"},
		{"a header too short", "DTiJ\x01\x00\x00\x00\x00\x00\x00\x00" + strings.Repeat("\x00", 100), "a header of 0 bytes"},
		{"a record without size", good + strings.Repeat("\x00", 100), "a record of 0 bytes"},
	} {
		m := NewPerfMap(bytes.NewReader([]byte(tt.text)))
		if err := m.Update(int64(len(tt.text))); err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v, want %q", tt.what, err, tt.err)
		}
		if got := nameAt(m, 0x1000); strings.HasPrefix(tt.text, good) && got != "first" {
			t.Errorf("%s: %q, want what came before it", tt.what, got)
		}
	}
}

// TestJitdumpIsBounded reads a file of more records than are looked at.
func TestJitdumpIsBounded(t *testing.T) {
	text := []byte(emptyJitdump + strings.Repeat(jitRecord(2, ""), maxJitdumpRecords+1))
	if err := NewPerfMap(bytes.NewReader(text)).Update(int64(len(text))); !errors.Is(err, errPerfMapLarge) {
		t.Errorf("got %v, want errPerfMapLarge", err)
	}
}

// TestJitdumpEqualsPerfMap has node write both files: code has the same name by either.
func TestJitdumpEqualsPerfMap(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		skip(t, "node is not installed")
	}
	dir := t.TempDir()
	script := `function work(n) { let s = 0; for (let i = 0; i < n; i++) s += Math.sqrt(i) % 3; return s }
		for (const end = Date.now() + 300; Date.now() < end;) work(1e4)`
	cmd := exec.Command(node, "--perf-basic-prof", "--perf-prof", "-e", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("node: %v\n%s", err, out)
	}
	// The map is in /tmp and has the pid, as the dump has.
	dumps, err := filepath.Glob(filepath.Join(dir, "jit-*.dump"))
	if err != nil || len(dumps) != 1 {
		t.Fatalf("dumps %v, %v", dumps, err)
	}
	pid := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(dumps[0]), "jit-"), ".dump")
	path := "/tmp/perf-" + pid + ".map"
	defer os.Remove(path)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dump, err := os.ReadFile(dumps[0])
	if err != nil {
		t.Fatal(err)
	}
	byMap, byDump := NewPerfMap(bytes.NewReader(text)), NewPerfMap(bytes.NewReader(dump))
	if err := errors.Join(byMap.Update(int64(len(text))), byDump.Update(int64(len(dump)))); err != nil {
		t.Fatal(err)
	}
	equal, work := 0, 0
	for _, run := range byDump.runs {
		for _, e := range run {
			got, want := nameAt(byDump, e.start), nameAt(byMap, e.start)
			if got != want {
				t.Errorf("%#x is %q, want %q", e.start, got, want)
				continue
			}
			equal++
			if strings.Contains(got, "*work ") {
				work++
			}
		}
	}
	t.Logf("%d pieces of code have the same name, %d of them are the function that was called", equal, work)
	if equal < 10 || work == 0 {
		t.Errorf("%d pieces of code in the dump, %d of the function that was called", equal, work)
	}
}
