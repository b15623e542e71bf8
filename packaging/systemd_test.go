// Package packaging_test holds that the files beside it say what they must: to systemd, Debian, container runtimes,
// Kubernetes, Prometheus and Grafana.
package packaging_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// capabilities are those that sampling takes.
var capabilities = []string{"CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_CHECKPOINT_RESTORE", "CAP_SYSLOG"}

// unit is a unit file: values by section and key, in their order.
type unit map[string]map[string][]string

// readUnit reads what systemd.syntax(7) describes, but for continued lines.
func readUnit(t *testing.T, name string) unit {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("systemd", name))
	if err != nil {
		t.Fatal(err)
	}
	u, section := unit{}, ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		key, value, assigned := strings.Cut(line, "=")
		switch {
		case line == "", strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = strings.Trim(line, "[]")
			u[section] = map[string][]string{}
		case section == "" || !assigned || strings.HasSuffix(line, `\`):
			t.Fatalf("%s: %q", name, line)
		default:
			u[section][key] = append(u[section][key], value)
		}
	}
	return u
}

func units(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("systemd/*.service")
	if err != nil || len(names) != 3 {
		t.Fatalf("units are %v, %v", names, err)
	}
	for i := range names {
		names[i] = filepath.Base(names[i])
	}
	return names
}

// TestUnits looks at what an operator counts on.
func TestUnits(t *testing.T) {
	six := slices.Sorted(slices.Values(capabilities))
	for _, name := range units(t) {
		t.Run(name, func(t *testing.T) {
			service := readUnit(t, name)["Service"]
			is := func(key, want string) {
				t.Helper()
				if got := service[key]; len(got) != 1 || got[0] != want {
					t.Errorf("%s=%v, want %s", key, got, want)
				}
			}
			is("Type", "notify")
			is("WatchdogSec", "60s")
			is("Restart", "always")
			is("User", "pilotlight")
			is("NoNewPrivileges", "yes")
			is("ProtectSystem", "strict")
			is("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6")
			for _, key := range []string{"MemoryMax", "StateDirectory", "SystemCallFilter"} {
				if len(service[key]) == 0 {
					t.Errorf("no %s=", key)
				}
			}
			if name == "pilotlight-server.service" {
				is("CapabilityBoundingSet", "")
				is("AmbientCapabilities", "")
				is("ProtectHome", "yes")
				if filters := service["SystemCallFilter"]; filters[len(filters)-1] != "capset" {
					t.Errorf("SystemCallFilter=%v: it cannot give up capabilities", filters)
				}
				return
			}
			for _, key := range []string{"CapabilityBoundingSet", "AmbientCapabilities"} {
				if len(service[key]) != 1 || !slices.Equal(slices.Sorted(strings.FieldsSeq(service[key][0])), six) {
					t.Errorf("%s=%v, want %v", key, service[key], six)
				}
			}
			is("CacheDirectory", "pilotlight")
			is("ProtectHome", "read-only")
			for _, blinding := range []string{"ProtectProc", "ProcSubset", "PrivatePIDs", "PrivateUsers", "PrivateTmp", "ProtectKernelLogs", "ProtectKernelTunables", "PrivateNetwork"} {
				if value, ok := service[blinding]; ok {
					t.Errorf("%s=%v blinds the profiler", blinding, value)
				}
			}
			filter := strings.Fields(strings.Join(service["SystemCallFilter"], " "))
			for _, call := range []string{"@system-service", "bpf", "perf_event_open", "seccomp"} {
				if !slices.Contains(filter, call) {
					t.Errorf("SystemCallFilter= lacks %s", call)
				}
			}
		})
	}
}

// TestUnitsAlike holds that what samples alone and what samples for a server are confined alike.
func TestUnitsAlike(t *testing.T) {
	own, agent := readUnit(t, "pilotlight.service")["Service"], readUnit(t, "pilotlight-agent.service")["Service"]
	differ := []string{"ExecStart", "EnvironmentFile", "MemoryMax", "StateDirectory", "TimeoutStartSec"}
	for key, value := range own {
		if !slices.Contains(differ, key) && !slices.Equal(agent[key], value) {
			t.Errorf("%s: %v alone, %v for a server", key, value, agent[key])
		}
	}
	for key, value := range agent {
		if _, ok := own[key]; !ok {
			t.Errorf("%s=%v is the agent's only", key, value)
		}
	}
}

// needProgram skips a test where a program is missing, unless nothing may be skipped.
func needProgram(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); errors.Is(err, exec.ErrNotFound) && os.Getenv("REQUIRE_ALL") != "1" {
		t.Skipf("%s is not there, which .ci/deps installs", name)
	}
}

// TestUnitsVerify has systemd read the units in a root directory that has nothing else but what they start.
func TestUnitsVerify(t *testing.T) {
	needProgram(t, "systemd-analyze")
	root := t.TempDir()
	for source, to := range map[string]string{
		"/bin/true": "usr/bin/pilotlight", "/bin/kill": "bin/kill", "/bin/sh": "bin/sh",
		"systemd/pilotlight.service":        "etc/systemd/system/pilotlight.service",
		"systemd/pilotlight-agent.service":  "etc/systemd/system/pilotlight-agent.service",
		"systemd/pilotlight-server.service": "etc/systemd/system/pilotlight-server.service",
	} {
		install(t, source, filepath.Join(root, to))
	}
	for _, target := range []string{"sysinit", "basic", "shutdown", "multi-user", "network"} {
		write(t, filepath.Join(root, "etc/systemd/system", target+".target"), "[Unit]\nDescription="+target+"\n")
	}
	write(t, filepath.Join(root, "usr/share/doc/pilotlight/README.md"), "")
	for _, name := range units(t) {
		out, err := exec.Command("systemd-analyze", "verify", "--man=no", "--root="+root, name).CombinedOutput()
		// Of units that this root does not have and of this machine's own it says things too.
		complaints := regexp.MustCompile(`(?m)^.*pilotlight.*$`).FindAllString(string(out), -1)
		if err != nil || len(complaints) > 0 {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// TestUnitsExposure bounds what systemd-analyze calls the exposure of a unit, which is 10 without any confinement. What
// is left of a sampler's is the network (0.8), its capabilities (0.8) and that it looks at every process and the kernel (0.7).
func TestUnitsExposure(t *testing.T) {
	needProgram(t, "systemd-analyze")
	for name, tenths := range map[string]string{"pilotlight.service": "32", "pilotlight-agent.service": "32", "pilotlight-server.service": "14"} {
		out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold="+tenths, filepath.Join("systemd", name)).CombinedOutput()
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		t.Log(lines[len(lines)-1])
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func install(t *testing.T, source, to string) {
	t.Helper()
	in, err := os.Open(source)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to, string(text))
	if err := os.Chmod(to, info.Mode()); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
