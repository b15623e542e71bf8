package process

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Label is a name and a value. The value is never empty.
type Label struct {
	Name, Value string
}

// maxLabelValue bounds a value in bytes; paths may have 4096.
const maxLabelValue = 1024

// Labels returns the labels of the series that p's profiles belong to, sorted by
// name: those of service_name, exe, container_id, container_name, pod, namespace,
// unit and cgroup that apply. Values are valid UTF-8 and at most 1024 bytes long.
func (p *Process) Labels() []Label {
	var ls []Label
	add := func(name, value string) {
		if value = LabelValue(value); value != "" {
			ls = append(ls, Label{name, value})
		}
	}
	add("service_name", p.serviceName())
	if !p.KernelThread {
		add("exe", p.Exe)
		add("cgroup", p.Cgroup.Path)
		add("container_id", p.Cgroup.ContainerID)
		add("container_name", p.Cgroup.ContainerName)
		add("pod", p.Cgroup.Pod)
		add("namespace", p.Cgroup.Namespace)
		add("unit", p.Cgroup.Unit)
	}
	slices.SortFunc(ls, func(a, b Label) int { return strings.Compare(a.Name, b.Name) })
	return ls
}

// serviceName is what most people would call p: what it calls itself, else the
// container's name, the systemd unit, the program that an interpreter runs, the
// executable. It is never empty.
func (p *Process) serviceName() string {
	if p.KernelThread {
		return "kernel"
	}
	for _, name := range []string{
		p.OTelService,
		p.Cgroup.ContainerName,
		strings.TrimSuffix(p.Cgroup.Unit, ".service"),
		p.Program,
		p.executable(),
		p.Comm,
	} {
		if LabelValue(name) != "" {
			return name
		}
	}
	return "unknown"
}

// executable returns the base name of the executable, or "" if comm says more:
// the path of an executable in a memfd is what its maker liked.
func (p *Process) executable() string {
	if strings.HasPrefix(p.Exe, memfdPrefix) {
		return ""
	}
	name := baseName(p.Exe)
	if name == "" && len(p.Cmdline) > 0 {
		name = baseName(p.Cmdline[0])
	}
	// The kernel names a process that was started through "#!" after the script.
	// It is all that is known of one whose command line nobody read.
	if len(p.Cmdline) == 0 && p.Comm != "" && interpreterOf(name) != nil && interpreterOf(p.Comm) == nil {
		return p.Comm
	}
	return name
}

// Meta returns what relabeling rules may look at beside the labels, under the
// names that Parca's agent has for it: pid, parent, command line, cgroup and
// executable. Values are as those of Labels. Comm, which may change at any time,
// is not among it.
func (p *Process) Meta() []Label {
	ls := []Label{
		{"__meta_process_pid", strconv.FormatUint(uint64(p.PID), 10)},
		{"__meta_process_ppid", strconv.FormatUint(uint64(p.PPID), 10)},
	}
	for _, l := range []Label{
		{"__meta_process_cmdline", strings.Join(p.Cmdline, " ")},
		{"__meta_process_cgroup", p.Cgroup.Path},
		{"__meta_process_executable_name", baseName(p.Exe)},
	} {
		if l.Value = LabelValue(l.Value); l.Value != "" {
			ls = append(ls, l)
		}
	}
	return ls
}

// SampleLabel reports whether samples have, or may have, a label of that name. A
// series with one would hide that of its samples.
func SampleLabel(name string) bool {
	switch name {
	case "pid", "comm", "thread", "tid", "cpu":
		return true
	}
	return false
}

// LabelValue makes s fit for a label: valid UTF-8 of at most 1024 bytes.
func LabelValue(s string) string {
	s = strings.ToValidUTF8(s, string(utf8.RuneError))
	if len(s) > maxLabelValue {
		cut := maxLabelValue
		for !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut]
	}
	return s
}

// baseName returns what follows the last slash. Unlike path.Base it does not
// invent "." and "/" for names that have none.
func baseName(path string) string {
	return path[strings.LastIndexByte(path, '/')+1:]
}
