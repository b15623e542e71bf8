package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pilotlight/profilestore/httpapi"
)

var skippedMetric = regexp.MustCompile(`(?m)^pilotlight_samples_skipped_total [1-9]`)

// TestKernelWhoIsWho runs a program in the cgroup of a container, whose runtime says what it is called, and one
// that a rule leaves out; then changes the configuration under the running agent, first to a wrong one.
func TestKernelWhoIsWho(t *testing.T) {
	needRoot(t)
	dir := makeDir(t)
	id := strings.Repeat("0123456789abcdef", 4)
	fakeDocker(t, filepath.Join(dir, "docker.sock"), map[string]any{
		"Id": id, "Names": []string{"/web"}, "Image": "nginx:1", "Labels": map[string]string{"com.example.team": "infra"},
	})
	path := filepath.Join(dir, "pilotlight.yaml")
	configure := func(rules string, readEnviron bool) {
		t.Helper()
		text := fmt.Sprintf("relabel_configs:\n%sread_environ: %v\nruntimes: {docker: 'unix://%s/docker.sock', cri: '', containerd: ''}\n", rules, readEnviron, dir)
		if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	const leaveOut = "- {source_labels: [__meta_process_cmdline], regex: .*nobody-wants-this.*, action: drop}\n"
	configure(leaveOut+"- {source_labels: [__meta_docker_container_label_com_example_team], target_label: team}\n", false)

	inside := spinningShell(t, "in a container")
	enterCgroup(t, inside, "docker-"+id+".scope")
	unwanted := spinningShell(t, "nobody-wants-this")
	s, err := startServer(filepath.Join(dir, "data"), "127.0.0.1:0", 99, "--config", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.signal(unix.SIGKILL)
		<-s.ended
	})
	find := func(selector string, pid int, from time.Time) int {
		t.Helper()
		var answer httpapi.ProfilesAnswer
		getJSON(t, s.endpoint("profiles", "query", fmt.Sprintf(`{pid="%d"%s}`, pid, selector), "from", unixSeconds(from), "to", unixSeconds(time.Now().Add(time.Minute))), &answer)
		return len(answer.Profiles)
	}
	within := func(what string, ask func() bool) {
		t.Helper()
		if err := eventually(30*time.Second, what, ask); err != nil {
			t.Fatalf("%v\n%s", err, s.log)
		}
	}
	start := time.Now().Add(-time.Minute)
	within("a profile of the container", func() bool {
		return find(`, service_name="web", container_name="web", container_id="`+id+`", team="infra"`, inside, start) > 0
	})
	if n := find("", unwanted, start); n != 0 {
		t.Errorf("%d profiles of what a rule leaves out", n)
	}

	configure("- {source_labels: [service_name], target: other}\n", false)
	within("the wrong configuration is refused", func() bool {
		return strings.Contains(s.log.String(), path+": line 2: unknown key target")
	})
	within("samples that were left out are counted", func() bool {
		text, err := get(s.url + "/metrics")
		return err == nil && skippedMetric.Match(text)
	})
	// A file that cannot be watched, as on some network file systems, is read at SIGHUP.
	configure("- {source_labels: [container_name], target_label: service_name, replacement: renamed-$1, regex: (.+)}\n", true)
	s.signal(unix.SIGHUP)
	if err := unix.Kill(s.other, unix.SIGHUP); err != nil { // as of `systemctl kill`, or a terminal's
		t.Fatal(err)
	}
	within("the configuration is read again", func() bool { return strings.Contains(s.log.String(), `msg="configuration read"`) })
	changed := time.Now()
	within("a profile with the other name", func() bool { return find(`, service_name="renamed-web", team=""`, inside, changed) > 0 })
	within("a profile of what was left out, as it calls itself", func() bool { return find(`, service_name="from-environ"`, unwanted, changed) > 0 })
	if err := s.stop(); err != nil {
		t.Errorf("%v\n%s", err, s.log)
	}
}

// spinningShell starts a shell that uses a CPU until the test is over, and has a name for itself in its environment.
func spinningShell(t *testing.T, argument string) (pid int) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "while :; do :; done", argument)
	cmd.Env = append(os.Environ(), "OTEL_SERVICE_NAME=from-environ")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		cmd.Wait() // it was killed
	})
	return cmd.Process.Pid
}

// enterCgroup puts a process into a cgroup of its own with that name, whatever hierarchy this machine has, until the
// test is over.
func enterCgroup(t *testing.T, pid int, name string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	root := ""
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) > 3 && (f[2] == "cgroup2" || f[2] == "cgroup" && root == "" && strings.Contains(f[3], "pids")) {
			root = f[1]
		}
	}
	dir := filepath.Join(root, name)
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		t.Fatalf("make a cgroup: %v", err)
	}
	move := func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Appendf(nil, "%d", pid), 0)
	}
	if err := move(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := move(root); err != nil {
			t.Error(err)
		}
		// The kernel is not done with it at once.
		var err error
		if eventually(5*time.Second, "", func() bool { err = os.Remove(dir); return err == nil }) != nil {
			t.Error(err)
		}
	})
}

// fakeDocker answers at a socket as Docker does when it is asked for containers.
func fakeDocker(t *testing.T, path string, containers ...map[string]any) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o660) // dockerd's
	}
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/containers/json" {
			http.NotFound(w, r)
			return
		}
		if err := json.NewEncoder(w).Encode(containers); err != nil {
			t.Error(err)
		}
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(l) // until it is closed
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
}
