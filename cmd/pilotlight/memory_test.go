package main

import (
	"runtime/debug"
	"testing"
)

func TestCgroupMemory(t *testing.T) {
	const unit = "0::/system.slice/pilotlight.service\n"
	for _, test := range []struct {
		name  string
		files map[string]string
		want  int64
		fails bool
	}{
		{"own", map[string]string{
			"proc/self/cgroup": unit, "sys/fs/cgroup/system.slice/memory.max": "max\n", "sys/fs/cgroup/system.slice/pilotlight.service/memory.max": "4294967296\n",
		}, 4 << 30, false},
		{"a parent's", map[string]string{
			"proc/self/cgroup": unit, "sys/fs/cgroup/system.slice/memory.max": "1073741824\n", "sys/fs/cgroup/system.slice/pilotlight.service/memory.max": "4294967296\n",
		}, 1 << 30, false},
		{"a container's", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "536870912\n"}, 512 << 20, false},
		{"a container's with the host's path", map[string]string{"proc/self/cgroup": unit, "sys/fs/cgroup/memory.max": "536870912\n"}, 512 << 20, false},
		{"outside of what is mounted", map[string]string{"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/memory.max": "536870912\n"}, 512 << 20, false},
		{"none", map[string]string{"proc/self/cgroup": unit, "sys/fs/cgroup/system.slice/pilotlight.service/memory.max": "max\n"}, 0, false},
		{"version 1", map[string]string{"proc/self/cgroup": "4:memory:/x\n", "sys/fs/cgroup/memory/x/memory.max": "1\n"}, 0, false},
		{"no figure", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "much\n"}, 0, true},
		{"no proc", nil, 0, true},
	} {
		if got, err := cgroupMemory(machine(test.files)); got != test.want || (err != nil) != test.fails {
			t.Errorf("%s: %d, %v, want %d", test.name, got, err, test.want)
		}
	}
}

// TestLimitMemory holds that the garbage collector is told of the cgroup's limit, unless the operator has said one.
func TestLimitMemory(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(1 << 50))
	limited := machine(map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1000000000000\n"})
	for _, test := range []struct {
		given string
		want  int64
	}{{"1PiB", 1 << 50}, {"", 800_000_000_000}} {
		t.Setenv("GOMEMLIMIT", test.given)
		if err := limitMemory(limited); err != nil {
			t.Fatal(err)
		}
		if got := debug.SetMemoryLimit(-1); got != test.want {
			t.Errorf("with GOMEMLIMIT=%s the limit is %d, want %d", test.given, got, test.want)
		}
	}
}
