package packaging_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// maintained is a machine for scripts of the package: a root directory, and programs that only say how they were called.
type maintained struct {
	root     string
	programs map[string]string // what each does besides, in shell
}

// run runs a script, whose absolute paths it has lead into the root directory, and returns what was called.
func (m maintained) run(t *testing.T, name, argument string) (calls string, err error) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("debian", name))
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	log := filepath.Join(bin, "calls")
	for _, program := range []string{"rm", "chown", "chmod", "id", "getent", "userdel", "systemctl", "systemd-sysusers", "deb-systemd-helper", "deb-systemd-invoke"} {
		called := fmt.Sprintf("#!/bin/sh\necho %s \"$@\" >>%s\n%s\n", program, log, m.programs[program])
		if err := os.WriteFile(filepath.Join(bin, program), []byte(called), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script := filepath.Join(bin, "script")
	inside := regexp.MustCompile(`/(run|var)/`).ReplaceAllString(string(text), m.root+"$0")
	if err := os.WriteFile(script, []byte(inside), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", script, argument)
	cmd.Env = []string{"PATH=" + bin}
	out, err := cmd.CombinedOutput()
	t.Logf("%s %s: %v\n%s", name, argument, err, out)
	said, rerr := os.ReadFile(log)
	if rerr != nil {
		t.Fatal(rerr)
	}
	return strings.ReplaceAll(string(said), m.root, ""), err
}

// newMaintained has systemd run on the machine, and these directories.
func newMaintained(t *testing.T, dirs ...string) maintained {
	t.Helper()
	m := maintained{root: t.TempDir(), programs: map[string]string{"id": "echo 996"}}
	for _, dir := range append(dirs, "run/systemd/system") {
		if err := os.MkdirAll(filepath.Join(m.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// TestDebianRestart holds that an upgrade restarts what runs, and starts nothing that would stop it.
func TestDebianRestart(t *testing.T) {
	for _, tt := range []struct{ active, restarted string }{ // the first as sh matches it
		{"", "pilotlight.service"},
		{"|pilotlight.service", "pilotlight.service"},
		{"|pilotlight-agent.service", "pilotlight-agent.service"},
		{"|pilotlight-agent.service|pilotlight-server.service", "pilotlight-agent.service pilotlight-server.service"},
	} {
		m := newMaintained(t)
		m.programs["systemctl"] = fmt.Sprintf(`case "$*" in "--quiet is-active "*) ;; *) exit 0 ;; esac; case $3 in none%s) ;; *) exit 3 ;; esac`, tt.active)
		calls, err := m.run(t, "postinst", "configure")
		restarts := regexp.MustCompile(`(?m)^deb-systemd-invoke restart .*$`).FindAllString(calls, -1)
		if want := "deb-systemd-invoke restart " + tt.restarted; err != nil || len(restarts) != 1 || restarts[0] != want {
			t.Errorf("while %q is active: %v, %q, want %q", tt.active, err, restarts, want)
		}
	}
}

// TestDebianForeignUser has a user called pilotlight who was there before: somebody who logs in is not made a service, and
// nobody but whom the package made is deleted.
func TestDebianForeignUser(t *testing.T) {
	m := newMaintained(t)
	m.programs["id"] = "echo 1000"
	if calls, err := m.run(t, "postinst", "configure"); err == nil || strings.Contains(calls, "deb-systemd") {
		t.Errorf("installed: %v\n%s", err, calls)
	}
	for _, tt := range []struct {
		name, passwd string
		deleted      bool
	}{
		{"the package's", "pilotlight:!*:996:996:Pilotlight profiler:/var/lib/pilotlight:/usr/sbin/nologin", true},
		{"a person", "pilotlight:x:1000:1000:Pilot Light,,,:/home/pilotlight:/bin/bash", false},
		{"another service's", "pilotlight:!*:995:995::/srv/pilotlight:/usr/sbin/nologin", false},
		{"none", "", false},
	} {
		m := newMaintained(t, "var/lib/pilotlight")
		// As the script has it after its paths were changed.
		m.programs["getent"] = "echo '" + strings.ReplaceAll(tt.passwd, "/var/", m.root+"/var/") + "'"
		calls, err := m.run(t, "postrm", "purge")
		if deleted := strings.Contains(calls, "userdel pilotlight\n"); err != nil || deleted != tt.deleted {
			t.Errorf("%s: %v, deleted %v", tt.name, err, deleted)
		}
		if !strings.Contains(calls, "chown -Rh root:root /var/lib/pilotlight/\n") || strings.Contains(calls, "pilotlight-agent/") {
			t.Errorf("%s: profiles:\n%s", tt.name, calls)
		}
	}
}

// TestDebianRemove holds that remove leaves profiles and their user as they are, the second time as well.
func TestDebianRemove(t *testing.T) {
	m := newMaintained(t, "var/lib/pilotlight", "var/cache/pilotlight")
	for range 2 {
		if calls, err := m.run(t, "postrm", "remove"); err != nil || calls != "rm -rf /var/cache/pilotlight\nsystemctl daemon-reload\n" {
			t.Errorf("%v\n%s", err, calls)
		}
	}
}
