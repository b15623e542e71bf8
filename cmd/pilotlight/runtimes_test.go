package main

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"pilotlight/cmd/pilotlight/config"
	"pilotlight/cmd/pilotlight/containers"
)

// TestRuntimes has the child ask a runtime that answers, one that is not there, and one at whose socket nobody listens.
func TestRuntimes(t *testing.T) {
	dir := t.TempDir()
	socket := func(name string) config.Socket { return config.Socket{Given: true, Path: filepath.Join(dir, name)} }
	id := strings.Repeat("0123456789abcdef", 4)
	fakeDocker(t, socket("docker").Path, map[string]any{"Id": id, "Names": []string{"/web"}, "Labels": map[string]string{"a": "b"}})
	l, err := net.Listen("unix", socket("stale").Path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name     string
		runtimes config.Runtimes
		want     string // of the container
		err      string
	}{
		{"docker alone", config.Runtimes{Docker: socket("docker"), CRI: socket("absent"), Containerd: config.Socket{Given: true}}, "web", ""},
		{"a stale socket too", config.Runtimes{Docker: socket("docker"), CRI: socket("stale"), Containerd: socket("absent")}, "web", "connect to cri: "},
		{"nobody", config.Runtimes{Docker: socket("absent"), CRI: config.Socket{Given: true}, Containerd: socket("absent")}, "", ""},
		{"docker asked as containerd", config.Runtimes{Docker: socket("absent"), CRI: socket("absent"), Containerd: socket("docker")}, "", "ask containerd: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var r runtimes
			r.use(tc.runtimes)
			answer, err := r.ask(t.Context(), []string{id, strings.Repeat("0", 64)})
			if (err == nil) != (tc.err == "") || err != nil && !strings.HasPrefix(err.Error(), tc.err) {
				t.Errorf("error %v, want %q", err, tc.err)
			}
			got := ""
			for _, c := range answer.Containers {
				got += c.Name
				if c.Kind != containers.Docker || c.ID != id || c.Labels["a"] != "b" {
					t.Errorf("got %+v", c)
				}
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			t.Logf("asking took %v of CPU time", answer.CPU)
			if len(answer.Containers) > 0 && answer.CPU == 0 {
				t.Error("the child's CPU time is not told")
			}
		})
	}
}

// TestRuntimesLongest: containers whose owners chose the longest names and labels that are kept, of what JSON takes most
// for, cost no other its name.
func TestRuntimesLongest(t *testing.T) {
	longest := strings.Repeat("\x01", 1<<10)
	labels := map[string]any{"io.kubernetes.container.name": longest, "io.kubernetes.pod.name": longest, "io.kubernetes.pod.namespace": longest, "io.kubernetes.pod.uid": longest}
	for i := range 3 {
		labels[fmt.Sprint(i)] = longest
	}
	var ids []string
	var all []map[string]any
	for i := range 64 {
		ids = append(ids, fmt.Sprintf("%064x", i))
		all = append(all, map[string]any{"Id": ids[i], "Names": []string{"/" + longest}, "Image": longest, "Labels": labels})
	}
	socket := filepath.Join(t.TempDir(), "docker")
	fakeDocker(t, socket, all...)
	var r runtimes
	r.use(config.Runtimes{Docker: config.Socket{Given: true, Path: socket}, CRI: config.Socket{Given: true}, Containerd: config.Socket{Given: true}})
	answer, err := r.ask(t.Context(), ids)
	if err != nil || len(answer.Containers) != len(ids) {
		t.Errorf("%d of %d containers have names: %v", len(answer.Containers), len(ids), err)
	}
}

// TestRuntimeSockets: what nobody named is looked for where it usually is, also from inside a container.
func TestRuntimeSockets(t *testing.T) {
	sockets := runtimeSockets(config.Runtimes{Docker: config.Socket{Given: true, Path: "/x"}, CRI: config.Socket{Given: true}})
	var got []string
	for _, s := range sockets {
		got = append(got, string(s.kind)+" "+strings.Join(s.paths, " "))
	}
	want := "docker /x\n" +
		"containerd /run/containerd/containerd.sock /proc/1/root/run/containerd/containerd.sock\n" +
		"containerd /run/k3s/containerd/containerd.sock /proc/1/root/run/k3s/containerd/containerd.sock"
	if s := strings.Join(got, "\n"); s != want {
		t.Errorf("got\n%s\nwant\n%s", s, want)
	}
}
