package process

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
)

func TestParseJVM(t *testing.T) {
	const head = "Name:\tjava\nUid:\t0\t33\t0\t0\nGid:\t0\t34\t0\t0\nNSpid:\t4711\t7\n"
	jvm, err := parseJVM([]byte(head + "SigCgt:\t2000000181005ccf\n"))
	if err != nil || jvm.PID != "7" || jvm.User.Uid != 33 || jvm.User.Gid != 34 {
		t.Errorf("%+v, %v", jvm, err)
	}
	if _, err := parseJVM([]byte(head + "SigCgt:\t2000000181005ccb\n")); !errors.Is(err, errQuits) {
		t.Errorf("without SIGQUIT: %v", err)
	}
	for _, status := range []string{"", head, head + "SigCgt:\tx\n", strings.Replace(head, "34", "x", 1) + "SigCgt:\t4\n"} {
		if _, err := parseJVM([]byte(status)); err == nil {
			t.Errorf("%q: no error", status)
		}
	}
}

// TestFindJVM does not take this process for a JVM, nor one that is gone for another.
func TestFindJVM(t *testing.T) {
	proc := os.DirFS("/proc")
	self, err := Read(proc, uint32(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := FindJVM(proc, self.Key); err == nil || !strings.Contains(err.Error(), "runs no JVM") {
		t.Errorf("of a test: %v", err)
	}
	before := self.Key
	before.Start -= 1e9
	if _, err := FindJVM(proc, before); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of an earlier bearer of the pid: %v", err)
	}
}
