package config

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const complete = `
# everything
relabel_configs:
  - source_labels: [__meta_kubernetes_pod_label_app, __meta_docker_container_name]
    separator: ""
    regex: (.+)
    target_label: service_name
  - source_labels: [namespace]
    regex: kube-system
    action: drop
  - {action: labeldrop, regex: cgroup}
read_environ: true
runtimes:
  docker: unix:///var/run/docker.sock
  containerd: ""
`

func TestParse(t *testing.T) {
	c, err := Parse([]byte(complete))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.RelabelConfigs) != 3 || c.RelabelConfigs[0].TargetLabel != "service_name" || c.RelabelConfigs[1].Action != "drop" ||
		c.RelabelConfigs[0].Regex.String() != "(.+)" || c.RelabelConfigs[1].Separator != ";" {
		t.Errorf("rules %+v", c.RelabelConfigs)
	}
	want := Runtimes{Docker: Socket{true, "/var/run/docker.sock"}, Containerd: Socket{Given: true}}
	if !c.ReadEnviron || c.Runtimes != want {
		t.Errorf("got %+v", c)
	}
	again, err := Parse([]byte(complete))
	if err != nil || !again.Equal(c) {
		t.Errorf("read twice it is not the same, %v", err)
	}
	for _, empty := range []string{"", "# nothing\n", "---\n", "relabel_configs:\n", "relabel_configs: []\nruntimes: {}\n"} {
		c, err := Parse([]byte(empty))
		if err != nil || len(c.RelabelConfigs) > 0 || c.ReadEnviron || c.Runtimes != (Runtimes{}) {
			t.Errorf("%q: got %+v, %v", empty, c, err)
		}
		if c != nil && c.Equal(again) {
			t.Errorf("%q is the same as another", empty)
		}
	}
}

// TestParseErrors holds that each error says where it is, in words of the file.
func TestParseErrors(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"unknown key", "read_environ: true\nread_environment: true\n", "line 2: unknown key read_environment"},
		{"several", "a: 1\nb: 2\n", "line 1: unknown key a; line 2: unknown key b"},
		{"unknown key of a rule", "relabel_configs:\n  - source_labels: [a]\n    target: b\n", "line 3: unknown key target"},
		{"unknown runtime", "runtimes:\n  podman: unix:///x\n", "line 2: unknown key podman"},
		{"key twice", "read_environ: true\nread_environ: false\n", `line 2: mapping key "read_environ" already defined at line 1`},
		{"no YAML", "a: [\n", "line 1: did not find expected node content"},
		{"tab", "relabel_configs:\n\t- a\n", "line 2: found character that cannot start any token"},
		{"not settings", "just text\n", "line 1: cannot unmarshal !!str `just text` into settings"},
		{"not a list", "relabel_configs: yes\n", "line 1: cannot unmarshal !!str `yes` into a list of rules"},
		{"not a rule", "relabel_configs:\n- source_labels: [a]\n  target_label: b\n- x\n", "line 4: cannot unmarshal !!str `x` into a rule"},
		{"not a bool", "read_environ: 7\n", "line 1: cannot unmarshal !!int `7` into true or false"},
		{"not a list of labels", "relabel_configs:\n- source_labels: a\n", "line 2: cannot unmarshal !!str `a` into a list of label names"},
		{"empty rule", "relabel_configs:\n-\n", "line 2: relabel_configs: rule 1: nothing in it"},
		{"empty rule before another", "relabel_configs:\n- {regex: a, action: labeldrop}\n- ~\n- {action: kept}\n", "line 3: relabel_configs: rule 2: nothing in it"},
		{"action", "relabel_configs:\n- action: keep\n  regex: a\n  source_labels: [b]\n- action: kept\n", `line 5: relabel_configs: rule 2: unknown relabel action "kept"`},
		{"regex", "relabel_configs:\n- regex: (\n  target_label: a\n", "line 2: relabel_configs: rule 1: error parsing regexp: missing closing ): `^(?s:()$`"},
		{"no target", "\n\nrelabel_configs:\n- source_labels: [a]\n", "line 4: relabel_configs: rule 1: relabel configuration for replace action requires 'target_label' value"},
		{"name", "relabel_configs: [{source_labels: [a], target_label: a-b}]\n", `line 1: relabel_configs: rule 1: "a-b" is invalid 'target_label' for replace action`},
		{"label of samples", "relabel_configs:\n- source_labels: [__meta_process_pid]\n  target_label: pid\n",
			"line 2: relabel_configs: rule 1: target_label pid: samples have a label of that name, which it would hide: choose another"},
		{"no socket", "runtimes:\n  docker: tcp://127.0.0.1:2375\n  cri: unix://relative\n",
			`line 2: "tcp://127.0.0.1:2375": write unix:///path/to/a.sock, or "" to ask none; line 3: "unix://relative": write unix:///path/to/a.sock, or "" to ask none`},
		{"socket is no text", "runtimes:\n  docker: [a]\n", "line 2: cannot unmarshal !!seq into text"},
		{"two documents", "read_environ: true\n---\nread_environ: false\n", "line 2: a second document: put everything into the first"},
		{"too long", strings.Repeat("#", maxBytes+1), "it is longer than 1048576 bytes"},
		{"aliases", "a: &a [x,x,x,x,x,x,x,x,x]\n" + func() string {
			var b strings.Builder
			for c := 'b'; c < 'k'; c++ {
				b.WriteString(string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+string(c-1)+",", 9) + "]\n")
			}
			return b.String()
		}() + "runtimes: *j\n", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := Parse([]byte(tc.text))
			if err == nil {
				t.Fatalf("no error, got %+v", c)
			}
			if tc.want != "" && err.Error() != tc.want {
				t.Errorf("got\n%s\nwant\n%s", err, tc.want)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pilotlight.yaml")
	if _, err := Load(path); !os.IsNotExist(err) && !strings.Contains(err.Error(), "no such file") {
		t.Errorf("absent: %v", err)
	}
	if err := os.WriteFile(path, []byte("\nfoo: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || err.Error() != path+": line 2: unknown key foo" {
		t.Errorf("got %v", err)
	}

	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	loaded := make(chan error, 1)
	go func() {
		_, err := Load(pipe)
		loaded <- err
	}()
	select {
	case err := <-loaded:
		if err == nil || !strings.Contains(err.Error(), "is a pipe") {
			t.Errorf("a pipe: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("who reads a pipe waits for a writer")
		if err := os.WriteFile(pipe, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReadme holds that the example that everybody copies is right.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(readme), "\n## Configuration\n")
	var example strings.Builder
	for line := range strings.Lines(text) {
		if code, ok := strings.CutPrefix(line, "    "); ok {
			example.WriteString(code)
		} else if strings.HasPrefix(line, "## ") {
			break
		}
	}
	c, err := Parse([]byte(example.String()))
	if err != nil || len(c.RelabelConfigs) != 5 || !c.Runtimes.CRI.Given {
		t.Errorf("%+v, %v, of\n%s", c, err, &example)
	}
}

// goType is what an error says of a type that inWords has no words for.
var goType = regexp.MustCompile(`into \S*(config|relabel|model)\.[A-Za-z]+$`)

func FuzzParse(f *testing.F) {
	for _, seed := range []string{complete, "", "runtimes: {docker: \"\"}", "relabel_configs: [{action: labelmap, regex: (.+), replacement: x_$1}]",
		"relabel_configs: &a [*a]", "a: &a {b: *a}", "<<: {read_environ: true}", "relabel_configs:\n-\n-", "--- a\n--- b", "relabel_configs: [{modulus: 8, action: hashmod, target_label: a}]"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		switch {
		case err != nil && c != nil, err == nil && c == nil:
			t.Fatalf("%+v and error %v", c, err)
		case err != nil && goType.MatchString(err.Error()):
			t.Fatalf("an error with a type of Go: %v", err)
		case err != nil:
			return
		}
		for _, r := range c.RelabelConfigs {
			if r.Regex.Regexp == nil || r.Action == "" {
				t.Fatalf("a rule that cannot be applied: %+v", r)
			}
		}
	})
}
