package process

import (
	"fmt"
	"io/fs"
	"strings"
)

// Cgroup is where a process runs, and what the path tells about it. Fields that
// do not apply are empty; the zero value is the root cgroup.
type Cgroup struct {
	// Path is the process's cgroup. Under cgroup v1, where there is one for each
	// hierarchy, it is the one that tells most.
	Path string
	// ContainerID is the 64 hexadecimal digits, or what the runtime uses
	// instead, of the innermost container.
	ContainerID string
	// ContainerName is the container's name. The path has it for LXC; of others,
	// who asks their runtimes fills it in.
	ContainerName string
	// Pod and Namespace are those of Kubernetes. No path has them: they are
	// filled in, too.
	Pod, Namespace string
	// Unit is the systemd service, "nginx.service" or "getty@tty1.service", of
	// the system's or of a user's manager. Scopes are not units here: their
	// names hold session numbers, pids and random digits, so that each would be
	// a series of its own.
	Unit string
}

func readCgroup(proc fs.FS, pid uint32) (Cgroup, error) {
	data, err := readFile(proc, pid, "cgroup", maxCgroup)
	if err != nil {
		return Cgroup{}, fmt.Errorf("read cgroup of process %d: %w", pid, err)
	}
	return parseCgroup(string(data)), nil
}

// parseCgroup parses /proc/PID/cgroup: a line "id:controllers:path" for each
// hierarchy (cgroups(7)). The unified one of v2 has the id 0 and no controllers.
// The path that names a container wins, then one that names a unit, then one
// that is not the root; among equals the unified hierarchy and that of systemd
// come first, as the kernel's order says nothing.
func parseCgroup(text string) Cgroup {
	var best Cgroup
	bestRank := 0
	for line := range strings.Lines(text) {
		_, rest, ok1 := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, path, ok2 := strings.Cut(rest, ":")
		if !ok1 || !ok2 {
			continue
		}
		c := newCgroup(path)
		rank := 0
		switch {
		case c.ContainerID != "" || c.ContainerName != "":
			rank = 6
		case c.Unit != "":
			rank = 4
		case c.Path != "":
			rank = 2
		}
		if rank > 0 && (controllers == "" || controllers == "name=systemd") {
			rank++
		}
		if rank > bestRank {
			best, bestRank = c, rank
		}
	}
	return best
}

// newCgroup reads a cgroup path from the outside in, as containers and managers
// nest: a container hides the unit of its runtime, and a systemd inside a
// container has units again.
func newCgroup(path string) Cgroup {
	path = strings.TrimSuffix(path, deletedSuffix) // the group was removed
	if path == "/" {
		return Cgroup{}
	}
	c := Cgroup{Path: path}
	previous := ""
	for part := range strings.SplitSeq(path, "/") {
		switch {
		case strings.HasSuffix(part, ".service"):
			c.Unit = part
		case containerID(part, previous) != "":
			c.ContainerID, c.ContainerName = containerID(part, previous), ""
			// The service that podman runs a container in ("split" cgroups) is
			// that container's; any other one is the runtime itself.
			if !strings.HasPrefix(part, "libpod-payload-") {
				c.Unit = ""
			}
		case lxcName(part, previous) != "":
			c.ContainerName, c.ContainerID = lxcName(part, previous), ""
			c.Unit = ""
		case strings.HasSuffix(part, ".scope") && part != "init.scope":
			c.Unit = ""
		}
		previous = part
	}
	return c
}

// containerID returns the container that a path component names, if it does:
//
//	<id>                            docker, podman, Kubernetes with cgroupfs
//	docker-<id>.scope, cri-containerd-<id>.scope, crio-<id>.scope,
//	libpod-<id>.scope, libpod-payload-<id>
//	kubepods-...slice:cri-containerd:<id>
//	<task>-<number>                 below ecs/<task>
//
// The monitor of a container (conmon) has its ID in a scope of its own, but runs
// outside.
func containerID(part, previous string) string {
	name := strings.TrimSuffix(part, ".scope")
	const size = 64
	if len(name) >= size {
		prefix, id := name[:len(name)-size], name[len(name)-size:]
		if !isHex(id) || strings.HasSuffix(prefix, "conmon-") {
			return ""
		}
		if prefix == "" || strings.HasSuffix(prefix, "-") || strings.HasSuffix(prefix, ":") {
			return id
		}
		return ""
	}
	if len(previous) == 32 && isHex(previous) {
		if number, ok := strings.CutPrefix(part, previous+"-"); ok && isDigits(number) {
			return part
		}
	}
	return ""
}

// lxcName returns the name of the LXC container that a path component names:
// "lxc.payload.NAME", or NAME below "lxc" or "lxc.payload".
func lxcName(part, previous string) string {
	if name, ok := strings.CutPrefix(part, "lxc.payload."); ok {
		return name
	}
	if previous == "lxc" || previous == "lxc.payload" {
		return part
	}
	return ""
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
