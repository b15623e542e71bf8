// Package containers knows what container runtimes call the containers that
// processes run in.
//
// [Ask] asks runtimes, over connections that somebody else opened: Docker over
// its HTTP API, and CRI and containerd over gRPC. It reads what the owners of
// containers wrote and what HTTP makes of it, so it is for a process without
// privileges. [Names] is for the one with them: it remembers answers, has
// somebody ask for what it does not know, and never makes who looks for a name
// wait for it.
package containers

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Kind is what a runtime speaks.
type Kind string

// The kinds that there are.
const (
	Docker     Kind = "docker"     // Docker's HTTP API, which podman has too
	CRI        Kind = "cri"        // runtime.v1, what a kubelet speaks with containerd and CRI-O
	Containerd Kind = "containerd" // containerd's own services
)

// Container is what a runtime says of a container. What it does not say is
// empty.
type Container struct {
	ID   string
	Kind Kind // of the runtime
	// Name is what its users call it: the name in the pod, or the name that
	// docker, podman or nerdctl show. It is empty for a pod's sandbox.
	Name  string
	Image string // as it was asked for, "nginx:1.27"
	// Of Kubernetes, as the kubelet told the runtime.
	Pod, Namespace, PodUID string
	Labels                 map[string]string
	PodLabels              map[string]string
	PodAnnotations         map[string]string
}

// Bounds on what is kept of a container. Whoever may start one chooses them all.
const (
	maxText       = 1 << 10 // bytes of a name or a label
	maxLabels     = 128     // of each kind
	maxLabelBytes = 8 << 10 // of all labels of each kind
)

// bounded returns c with what is kept of it.
func (c Container) bounded() Container {
	for _, s := range []*string{&c.Name, &c.Image, &c.Pod, &c.Namespace, &c.PodUID} {
		*s = strings.Clone(text(*s))
	}
	c.Labels = boundedLabels(c.Labels)
	c.PodLabels = boundedLabels(c.PodLabels)
	c.PodAnnotations = boundedLabels(c.PodAnnotations)
	return c
}

// boundedLabels keeps the shortest labels: annotations hold whole documents.
func boundedLabels(labels map[string]string) map[string]string {
	if len(labels) == 0 {
		return nil
	}
	size := func(name string) int { return len(name) + len(labels[name]) }
	names := slices.SortedFunc(maps.Keys(labels), func(a, b string) int { return cmp.Or(cmp.Compare(size(a), size(b)), cmp.Compare(a, b)) })
	kept := make(map[string]string, min(len(names), maxLabels))
	room := maxLabelBytes
	for _, name := range names {
		if room -= size(name); room < 0 || len(kept) == maxLabels || len(name) > maxText || len(labels[name]) > maxText {
			break
		}
		kept[name] = strings.ToValidUTF8(labels[name], string(utf8.RuneError))
	}
	return kept
}

// text makes s fit.
func text(s string) string {
	s = strings.ToValidUTF8(s, string(utf8.RuneError))
	if len(s) <= maxText {
		return s
	}
	cut := maxText
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}

// Labels that the kubelet gives each container.
const (
	labelContainer = "io.kubernetes.container.name"
	labelPod       = "io.kubernetes.pod.name"
	labelNamespace = "io.kubernetes.pod.namespace"
	labelPodUID    = "io.kubernetes.pod.uid"
)

// sandboxName is what Docker's shim calls the container that only holds a pod's
// namespaces.
const sandboxName = "POD"

// fromKubelet takes over what labels say about a pod, if they do.
func (c *Container) fromKubelet() {
	if c.Labels[labelPod] == "" {
		return
	}
	c.Name, c.Pod, c.Namespace, c.PodUID = c.Labels[labelContainer], c.Labels[labelPod], c.Labels[labelNamespace], c.Labels[labelPodUID]
	if c.Name == sandboxName {
		c.Name = ""
	}
}

// known reports whether the runtime said more than that the container exists.
// containerd knows those of Docker too, but not what they are called.
func (c *Container) known() bool { return c.Name != "" || c.Pod != "" }
