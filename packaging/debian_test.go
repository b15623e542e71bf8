package packaging_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestDebianFiles holds that what the package is made of is there, and that all files of it which an administrator may
// change are configuration files.
func TestDebianFiles(t *testing.T) {
	text, err := os.ReadFile("debian/nfpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Contents []struct{ Src, Dst, Type string }
		Scripts  map[string]string
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	installed := make(map[string]bool)
	for _, c := range config.Contents {
		installed[c.Dst] = true
		if (c.Type == "config") != strings.HasPrefix(c.Dst, "/etc/") {
			t.Errorf("%s has the type %q", c.Dst, c.Type)
		}
		if strings.HasPrefix(c.Src, "bin/") {
			continue // which has to be built
		}
		if _, err := os.Stat(filepath.Join("..", c.Src)); err != nil {
			t.Error(err)
		}
	}
	for _, name := range units(t) {
		if !installed["/usr/lib/systemd/system/"+name] {
			t.Errorf("%s is not installed", name)
		}
		for _, file := range readUnit(t, name)["Service"]["EnvironmentFile"] {
			if path := strings.TrimPrefix(file, "-"); !installed[path] {
				t.Errorf("%s reads %s, which is not installed", name, path)
			}
		}
	}
	for _, script := range config.Scripts {
		if out, err := exec.Command("sh", "-n", filepath.Join("..", script)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
	}
}

// TestDebianVersion goes from what git describe says to versions that dpkg takes, and that rise from build to build.
func TestDebianVersion(t *testing.T) {
	const before, later = "1763690400", "1763700000"
	rising := []struct{ describe, time, want string }{
		{"08360b6", before, "0~20251121020000.08360b6"},
		{"1234567-dirty", later, "0~20251121044000.1234567+dirty"},
		{"v0.1.0-rc1", later, "0.1.0~rc1"},
		{"v0.1.0-rc1-3-gabcdef0", later, "0.1.0~rc1+3.gabcdef0"},
		{"v0.1.0", later, "0.1.0"},
		{"v0.1.0-4-g08360b6-dirty", later, "0.1.0+4.g08360b6+dirty"},
		{"v0.1.0-12-g08360b6", later, "0.1.0+12.g08360b6"},
		{"v1.2.3", later, "1.2.3"},
	}
	for i, c := range rising {
		out, err := exec.Command("debian/version", c.describe, c.time).CombinedOutput()
		if err != nil || string(out) != c.want+"\n" {
			t.Errorf("%s: %q, %v, want %q", c.describe, out, err, c.want)
		}
		if i == 0 {
			continue
		}
		needProgram(t, "dpkg")
		if out, err := exec.Command("dpkg", "--compare-versions", rising[i-1].want, "lt", c.want).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s is no version after %s: %v\n%s", c.want, rising[i-1].want, err, out)
		}
	}
}

// TestNotices holds that each package in the bundle of the page has its license among the notices.
func TestNotices(t *testing.T) {
	text, err := os.ReadFile("../ui/package.json")
	if err != nil {
		t.Fatal(err)
	}
	var ui struct{ Dependencies map[string]string }
	if err := json.Unmarshal(text, &ui); err != nil || len(ui.Dependencies) == 0 {
		t.Fatalf("%v, dependencies %v", err, ui.Dependencies)
	}
	notices, err := os.ReadFile("notices.page")
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(notices), "\n")
	for name := range ui.Dependencies {
		if !slices.Contains(strings.FieldsFunc(head, func(r rune) bool { return r == ' ' || r == ',' }), name) {
			t.Errorf("%s is not in %q", name, head)
		}
	}
}
