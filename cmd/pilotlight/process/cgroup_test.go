package process

import (
	"strings"
	"testing"
)

const (
	id1 = "4f3c6f1f6b1a7a0f3d8a5b6c7d8e9f00112233445566778899aabbccddeeff00"
	id2 = "0f1e2d3c4b5a69788796a5b4c3d2e1f000112233445566778899aabbccddeeff"
)

func TestParseCgroup(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       Cgroup
	}{
		{"root, v2", "0::/", Cgroup{}},
		{"empty", "", Cgroup{}},
		{"no line of the format", "hello\n", Cgroup{}},
		{"init", "0::/init.scope", Cgroup{}},
		{"service", "0::/system.slice/nginx.service", Cgroup{Unit: "nginx.service"}},
		{"service that was stopped", "0::/system.slice/nginx.service (deleted)", Cgroup{Unit: "nginx.service"}},
		{"template", "0::/system.slice/system-getty.slice/getty@tty1.service", Cgroup{Unit: "getty@tty1.service"}},
		{"template with escapes", `0::/system.slice/system-postgresql.slice/postgresql@14\x2dmain.service`, Cgroup{Unit: `postgresql@14\x2dmain.service`}},
		{"delegated below a service", "0::/system.slice/foo.service/payload/a", Cgroup{Unit: "foo.service"}},
		{"service in a slice of its own", "0::/web.slice/web-front.slice/api.service", Cgroup{Unit: "api.service"}},
		{"session", "0::/user.slice/user-1000.slice/session-3.scope", Cgroup{}},
		{"user manager", "0::/user.slice/user-1000.slice/user@1000.service/init.scope", Cgroup{Unit: "user@1000.service"}},
		{"user's service", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/pipewire.service", Cgroup{Unit: "pipewire.service"}},
		{"user's service of the session", "0::/user.slice/user-1000.slice/user@1000.service/session.slice/org.gnome.Shell@wayland.service", Cgroup{Unit: "org.gnome.Shell@wayland.service"}},
		{"user's application", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-firefox-4711.scope", Cgroup{}},
		{"systemd-run --scope", "0::/system.slice/run-r5f2d.scope", Cgroup{}},
		{"virtual machine", `0::/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator`, Cgroup{}},
		{"cron, v1", "9:name=systemd:/system.slice/cron.service\n4:memory:/system.slice/cron.service\n1:cpu,cpuacct:/\n", Cgroup{Unit: "cron.service"}},
		{"session and memory group, v1", "4:memory:/user.slice/user-0.slice/session-1.scope\n9:name=systemd:/user.slice/user-0.slice/session-1.scope\n", Cgroup{}},
		{"only memory, hybrid", "9:name=systemd:/\n8:pids:/\n4:memory:/sandbox/0f1e2d3c4b5a69788796a5b4c3d2e1f0\n0::/\n", Cgroup{}},
		{"colon in the path", "0::/system.slice/dbus-:1.2-org.freedesktop.problems@0.service", Cgroup{Unit: "dbus-:1.2-org.freedesktop.problems@0.service"}},
		{"outside our cgroup namespace", "0::/../../system.slice/a.service", Cgroup{Unit: "a.service"}},

		{"docker, v2", "0::/system.slice/docker-" + id1 + ".scope", Cgroup{ContainerID: id1}},
		{"docker, cgroupfs, v1", "11:memory:/docker/" + id1 + "\n1:name=systemd:/docker/" + id1 + "\n0::/system.slice/containerd.service\n", Cgroup{ContainerID: id1}},
		{"docker, below", "0::/docker/" + id1 + "/init", Cgroup{ContainerID: id1}},
		{"dockerd", "0::/system.slice/docker.service", Cgroup{Unit: "docker.service"}},
		{"docker in docker", "0::/docker/" + id1 + "/docker/" + id2, Cgroup{ContainerID: id2}},
		{"systemd in docker", "0::/docker/" + id1 + "/system.slice/nginx.service", Cgroup{ContainerID: id1, Unit: "nginx.service"}},
		{"kind", "0::/system.slice/docker-" + id1 + ".scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod6f2e.slice/cri-containerd-" + id2 + ".scope", Cgroup{ContainerID: id2}},
		{"kubernetes, containerd", "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9.slice/cri-containerd-" + id1 + ".scope", Cgroup{ContainerID: id1}},
		{"kubernetes, containerd, cgroupfs", "0::/kubepods/burstable/pod0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9/" + id1, Cgroup{ContainerID: id1}},
		{"kubernetes, containerd, mixed drivers", "0::/system.slice/containerd.service/kubepods-besteffort-pod0a1b.slice:cri-containerd:" + id1, Cgroup{ContainerID: id1}},
		{"kubernetes, cri-o", "0::/kubepods.slice/kubepods-pod0a1b.slice/crio-" + id1 + ".scope/container", Cgroup{ContainerID: id1}},
		{"kubernetes, cri-o's monitor", "0::/kubepods.slice/kubepods-pod0a1b.slice/crio-conmon-" + id1 + ".scope", Cgroup{}},
		{"kubernetes, docker", "4:memory:/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0a1b.slice/docker-" + id1 + ".scope", Cgroup{ContainerID: id1}},
		{"k3s itself", "0::/system.slice/k3s.service", Cgroup{Unit: "k3s.service"}},
		{"podman, root", "0::/machine.slice/libpod-" + id1 + ".scope/container", Cgroup{ContainerID: id1}},
		{"podman, user", "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id1 + ".scope/container", Cgroup{ContainerID: id1}},
		{"podman, pod", "0::/machine.slice/machine-libpod_pod_" + id2 + ".slice/libpod-" + id1 + ".scope", Cgroup{ContainerID: id1}},
		{"podman's monitor", "0::/machine.slice/libpod-conmon-" + id1 + ".scope", Cgroup{}},
		{"podman, cgroupfs", "4:memory:/libpod_parent/libpod-" + id1, Cgroup{ContainerID: id1}},
		{"podman, quadlet", "0::/system.slice/web.service/libpod-payload-" + id1, Cgroup{ContainerID: id1, Unit: "web.service"}},
		{"podman, quadlet's monitor", "0::/system.slice/web.service/runtime", Cgroup{Unit: "web.service"}},
		{"nerdctl", "0::/system.slice/nerdctl-" + id1 + ".scope", Cgroup{ContainerID: id1}},
		{"ctr", "0::/k8s.io/" + id1, Cgroup{ContainerID: id1}},
		{"ecs", "9:memory:/ecs/0f1e2d3c4b5a69788796a5b4c3d2e1f0/0f1e2d3c4b5a69788796a5b4c3d2e1f0-2591377822", Cgroup{ContainerID: "0f1e2d3c4b5a69788796a5b4c3d2e1f0-2591377822"}},
		{"lxc", "0::/lxc.payload.web/system.slice/nginx.service", Cgroup{ContainerName: "web", Unit: "nginx.service"}},
		{"lxc, v1", "4:memory:/lxc/web\n", Cgroup{ContainerName: "web"}},
		{"lxc's monitor", "0::/lxc.monitor.web", Cgroup{}},
		{"lxc, split", "0::/lxc.payload/web/init.scope", Cgroup{ContainerName: "web"}},
		{"docker in lxc", "0::/lxc.payload.web/docker/" + id1, Cgroup{ContainerID: id1}},
		{"64 digits that are no id", "0::/system.slice/x" + id1, Cgroup{}},
		{"64 letters that are no digits", "0::/docker/" + strings.ToUpper(id1), Cgroup{}},
	} {
		got := parseCgroup(tc.text)
		path := got.Path
		got.Path = ""
		if got != tc.want {
			t.Errorf("%s: %s\ngot  %+v\nwant %+v", tc.name, tc.text, got, tc.want)
		}
		if path == "/" || path != "" && !strings.Contains(tc.text, ":"+path) {
			t.Errorf("%s: path %q", tc.name, path)
		}
	}
}

func TestParseCgroupPath(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"0::/\n", ""},
		{"9:name=systemd:/\n8:pids:/\n4:memory:/sandbox/1\n0::/\n", "/sandbox/1"},
		{"8:pids:/a\n9:name=systemd:/b\n", "/b"},
		{"8:pids:/a\n0::/c\n", "/c"},
		{"8:pids:/docker/" + id1 + "\n0::/system.slice/docker.service\n", "/docker/" + id1},
		{"0::/a.slice (deleted)\n", "/a.slice"},
	} {
		if got := parseCgroup(tc.text).Path; got != tc.want {
			t.Errorf("%q gives %q, not %q", tc.text, got, tc.want)
		}
	}
}

func FuzzCgroup(f *testing.F) {
	f.Add("9:name=systemd:/system.slice/cron.service\n4:memory:/docker/" + id1 + "\n0::/\n")
	f.Add("0::/lxc.payload.web/a.service/" + id1 + ".scope")
	f.Add("0::/ecs/0f1e2d3c4b5a69788796a5b4c3d2e1f0/0f1e2d3c4b5a69788796a5b4c3d2e1f0-1")
	f.Fuzz(func(t *testing.T, text string) {
		c := parseCgroup(text)
		for _, part := range []string{c.ContainerID, c.ContainerName, c.Unit} {
			if !strings.Contains(c.Path, part) || strings.Contains(part, "/") {
				t.Errorf("%q is no component of %q", part, c.Path)
			}
		}
	})
}
