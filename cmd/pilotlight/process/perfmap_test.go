package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestOpenPerfMap opens a file for this process, which is its own, another user's, and none.
func TestOpenPerfMap(t *testing.T) {
	proc := os.DirFS("/proc")
	p, err := Read(proc, uint32(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenPerfMap(proc, "/proc", p); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: got %v, want fs.ErrNotExist", err)
	}
	path := fmt.Sprintf("/tmp/perf-%d.map", os.Getpid())
	if err := os.WriteFile(path, []byte("1000 10 f\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(path)
	f, err := OpenPerfMap(proc, "/proc", p)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	dump := filepath.Join(t.TempDir(), "jit-1.dump")
	if err := os.WriteFile(dump, []byte("DTiJ"), 0o644); err != nil {
		t.Fatal(err)
	}
	dumping := *p
	dumping.Mappings = Mappings{{Object: newObject("/bin/jit-less", "", Inode{})}, {Object: newObject(dump, "", Inode{})}}
	f, err = OpenPerfMap(proc, "/proc", &dumping)
	if err != nil {
		t.Fatal(err)
	}
	if f.Close(); filepath.Base(f.Name()) != "jit-1.dump" {
		t.Errorf("opened %s, want the jitdump that is mapped", f.Name())
	}
	if os.Geteuid() != 0 {
		if os.Getenv("REQUIRE_ALL") == "1" {
			t.Fatal("giving a file to another user needs root")
		}
		t.Skip("giving a file to another user needs root")
	}
	if err := os.Chown(path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenPerfMap(proc, "/proc", p); !errors.Is(err, errNotOwner) {
		t.Errorf("another user's: got %v, want errNotOwner", err)
	}
}

func TestParseStatus(t *testing.T) {
	for _, tt := range []struct {
		status, pid string
		uid         uint32
		ok          bool
	}{
		{"Name:\tx\nUid:\t0\t33\t0\t0\nNSpid:\t4711\t12\t7\n", "7", 33, true},
		{"Uid:\t0\t0\t0\t0\n", "", 0, false},
		{"Uid:\t0\t0\t0\t0\nNSpid:\t../../x\n", "", 0, false},
		{"", "", 0, false},
	} {
		pid, uid, err := parseStatus([]byte(tt.status))
		if pid != tt.pid || uid != tt.uid || (err == nil) != tt.ok {
			t.Errorf("%q: %q, %d, %v", tt.status, pid, uid, err)
		}
	}
}

func TestFramePointersOfJIT(t *testing.T) {
	jvm := Mappings{{Object: newObject("/usr/lib/jvm/lib/server/libjvm.so", "", Inode{})}}
	for _, tt := range []struct {
		p    Process
		want bool
	}{
		{Process{Cmdline: []string{"node"}}, true},
		{Process{Cmdline: []string{"java", "x"}, Mappings: jvm}, false},
		{Process{Cmdline: []string{"java", "-XX:+PreserveFramePointer", "x"}, Mappings: jvm}, true},
	} {
		if got := tt.p.FramePointers(); got != tt.want {
			t.Errorf("%v: %v", tt.p.Cmdline, got)
		}
	}
}
