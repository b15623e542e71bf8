package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// goMemoryPercent is how much of its cgroup's memory Go may take in a process that has a store. The rest is the agent
// half's and its children's, and the kernel's.
const goMemoryPercent = 80

// limitMemory has garbage collected the more often, the nearer this process is to the limit of its cgroup: the kernel
// would kill it there for garbage too. GOMEMLIMIT wins.
func limitMemory(root fs.FS) error {
	if os.Getenv("GOMEMLIMIT") != "" {
		return nil
	}
	limit, err := cgroupMemory(root)
	if err != nil || limit == 0 {
		return err
	}
	debug.SetMemoryLimit(limit / 100 * goMemoryPercent)
	return nil
}

// cgroupMemory returns the least memory.max of this process's cgroup and those around it, as far as they can be seen; 0:
// there is no limit. Of cgroup v1, nothing is looked for.
func cgroupMemory(root fs.FS) (int64, error) {
	cgroups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0, fmt.Errorf("find the limit of memory: %w", err)
	}
	const mount = "sys/fs/cgroup"
	least := int64(0)
	for line := range strings.Lines(string(cgroups)) {
		own, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::") // the hierarchy of v2, cgroups(7)
		if !ok {
			continue
		}
		// In a container the path may be the host's, and what is mounted the container's: that is then a parent.
		for dir := path.Join(mount, path.Join("/", own)); dir != path.Dir(mount); dir = path.Dir(dir) {
			content, err := fs.ReadFile(root, path.Join(dir, "memory.max"))
			if errors.Is(err, fs.ErrNotExist) { // so it is of the root
				continue
			}
			value := strings.TrimSpace(string(content))
			if err == nil && value == "max" {
				continue
			}
			limit := int64(0)
			if err == nil {
				limit, err = strconv.ParseInt(value, 10, 64)
			}
			if err != nil {
				return 0, fmt.Errorf("find the limit of memory: %w", err)
			}
			if least == 0 || limit < least {
				least = limit
			}
		}
	}
	return least, nil
}
