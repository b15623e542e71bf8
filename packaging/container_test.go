package packaging_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestContainer holds that the image is made of nothing but the directory that packaging/container/root makes, that it
// has in it what it copies, and that it starts nothing as root by itself.
func TestContainer(t *testing.T) {
	dir := t.TempDir()
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(here, filepath.Join(dir, "packaging")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "bin/linux-amd64/pilotlight"), "")
	cmd := exec.Command("packaging/container/root", "amd64", "echo certificates")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	root := filepath.Join(dir, "bin/image-amd64")

	text, err := os.ReadFile("container/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	last := make(map[string]string)
	for line := range strings.Lines(strings.ReplaceAll(string(text), "\\\n", "")) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if word == "" || word == "#" {
			continue
		}
		last[word] = rest
		switch word {
		case "FROM":
			if rest != "scratch" {
				t.Errorf("FROM %s needs a registry", rest)
			}
		case "RUN", "ADD":
			t.Errorf("%s %s: there is nothing in the image that could run, and nothing to download", word, rest)
		case "COPY":
			args := slices.DeleteFunc(strings.Fields(rest), func(a string) bool { return strings.HasPrefix(a, "--") })
			if info, err := os.Stat(filepath.Join(root, args[0])); err != nil || !info.IsDir() || "/"+args[0] != args[1] {
				t.Errorf("COPY %s: %v", rest, err)
			}
		}
	}
	if last["USER"] != "65534:65534" {
		t.Errorf("USER %s: want nobody, by number, as Kubernetes asks for", last["USER"])
	}
	if !strings.HasSuffix(last["HEALTHCHECK"], `CMD ["/usr/bin/pilotlight", "health"]`) || last["ENTRYPOINT"] != `["/usr/bin/pilotlight"]` {
		t.Errorf("HEALTHCHECK %s, ENTRYPOINT %s: there is no shell", last["HEALTHCHECK"], last["ENTRYPOINT"])
	}
	for _, path := range []string{"usr/bin/pilotlight", "etc/passwd", "etc/group", "etc/ssl/certs/ca-certificates.crt"} {
		if info, err := os.Stat(filepath.Join(root, path)); err != nil || info.Mode()&0o022 != 0 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
}
