package agent

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"pilotlight/bpf"
	"pilotlight/cmd/pilotlight/config"
	"pilotlight/cmd/pilotlight/containers"
	"pilotlight/cmd/pilotlight/process"
	"pilotlight/profilestore"
)

// settings reads those of a configuration file.
func settings(t *testing.T, text string) Settings {
	t.Helper()
	c, err := config.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return Settings{RelabelConfigs: c.RelabelConfigs, ReadEnviron: c.ReadEnviron}
}

func testLabeler(t *testing.T, names *containers.Names, text string) *labeler {
	t.Helper()
	l, err := newLabeler(Options{Version: "test", Hostname: "host", Names: names, Settings: settings(t, text), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// runtimeNames are Names that have got the answer for a container already.
func runtimeNames(t *testing.T, c containers.Container) *containers.Names {
	t.Helper()
	names, err := containers.NewNames(func(context.Context, []string) (containers.Answer, error) {
		return containers.Answer{Containers: []containers.Container{c}}, nil
	}, containers.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go names.Run(ctx)
	for end := time.Now().Add(10 * time.Second); names.Get(c.ID) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no answer")
		}
	}
	return names
}

const containerID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func webProcess() *process.Process {
	return &process.Process{
		Key: process.Key{PID: 42, Start: 1}, PPID: 7, Comm: "worker", Exe: "/usr/bin/python3.11", Program: "app.py", Cmdline: []string{"python3", "app.py"},
		Cgroup: process.Cgroup{Path: "/docker/" + containerID, ContainerID: containerID},
	}
}

func TestRelabel(t *testing.T) {
	docker := containers.Container{ID: containerID, Kind: containers.Docker, Name: "web", Image: "nginx:1", Labels: map[string]string{"com.docker.compose.service": "front", "1odd": "x"}}
	pod := containers.Container{ID: containerID, Kind: containers.CRI, Name: "server", Image: "api:1.4", Pod: "api-7d9", Namespace: "shop", PodUID: "9b2c",
		PodLabels: map[string]string{"app.kubernetes.io/version": "1.4"}, PodAnnotations: map[string]string{"team": "infra"}}
	own := fmt.Sprintf(`cgroup="/docker/%s", container_id="%[1]s", `, containerID)
	const rest = `exe="/usr/bin/python3.11", hostname="host", `
	for _, tc := range []struct {
		name      string
		container *containers.Container
		rules     string
		want      string // "": it is left out
	}{
		{"no rules, no runtime", nil, "", "{" + own + rest + `service_name="app.py"}`},
		{"no rules", &docker, "", "{" + own + `container_name="web", ` + rest + `service_name="web"}`},
		{"pod", &pod, "", "{" + own + `container_name="server", ` + rest + `namespace="shop", pod="api-7d9", service_name="server"}`},
		{"replace", &docker, `[{source_labels: [__meta_docker_container_label_com_docker_compose_service], target_label: service_name}, {action: labeldrop, regex: cgroup|container_id}]`,
			`{container_name="web", ` + rest + `service_name="front"}`},
		{"pod's labels", &pod, `[{source_labels: [__meta_kubernetes_pod_label_app_kubernetes_io_version], target_label: service_version},
			{source_labels: [__meta_kubernetes_pod_annotation_team, __meta_kubernetes_pod_labelpresent_app_kubernetes_io_version, __meta_kubernetes_pod_container_image, __meta_kubernetes_pod_uid], target_label: team},
			{action: labelkeep, regex: service_.*|team|namespace}]`,
			`{namespace="shop", service_name="server", service_version="1.4", team="infra;true;api:1.4;9b2c"}`},
		{"process and machine", nil, `[{source_labels: [__meta_process_pid, __meta_process_ppid, __meta_process_cmdline, __meta_process_executable_name, comm, __meta_agent_revision], target_label: who}, {action: labelkeep, regex: who}]`,
			`{service_name="app.py", who="42;7;python3 app.py;python3.11;worker;test"}`},
		{"drop", &docker, `[{source_labels: [container_name], regex: web, action: drop}]`, ""},
		{"keep what is not", &docker, `[{source_labels: [namespace], regex: shop, action: keep}]`, ""},
		{"keep what is", &pod, `[{source_labels: [namespace], regex: shop, action: keep}, {action: labelkeep, regex: pod}]`, `{pod="api-7d9", service_name="server"}`},
		{"a profile has a service", nil, `[{action: labelkeep, regex: hostname}]`, `{hostname="host", service_name="app.py"}`},
		{"names that labels cannot have", &docker, `[{action: labelmap, regex: __meta_docker_container_label_(.+)}, {action: labeldrop, regex: cgroup|container.*|exe|hostname}]`,
			`{com_docker_compose_service="front", service_name="web"}`},
		{"labels of samples", nil, `[{action: labelmap, regex: __meta_process_(pid|cgroup)}, {action: labelkeep, regex: pid}]`, `{service_name="app.py"}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var names *containers.Names
			if tc.container != nil {
				names = runtimeNames(t, *tc.container)
			}
			text := ""
			if tc.rules != "" {
				text = "relabel_configs: " + tc.rules
			}
			l := testLabeler(t, names, text)
			p := webProcess()
			if l.drops(p) {
				t.Error("it is left out before its labels were made")
			}
			labels, ok := l.labels(p)
			switch {
			case ok != (tc.want != ""):
				t.Errorf("kept %v, labels %v", ok, labels)
			case ok && labels.String() != tc.want:
				t.Errorf("got\n%s\nwant\n%s", labels, tc.want)
			}
			if l.drops(p) != (tc.want == "") {
				t.Errorf("it is left out: %v", l.drops(p))
			}
		})
	}
}

// TestRelabelLimits: what no store would take is left out, the labels that all profiles have last.
func TestRelabelLimits(t *testing.T) {
	var rules strings.Builder
	for i := range 40 {
		fmt.Fprintf(&rules, "\n- {target_label: a%02d, replacement: %s}", i, strings.Repeat("x", 2000))
	}
	l := testLabeler(t, nil, "relabel_configs:"+rules.String())
	labels, _ := l.labels(webProcess())
	if len(labels) != profilestore.MaxLabels {
		t.Errorf("%d labels, want %d", len(labels), profilestore.MaxLabels)
	}
	for _, name := range []string{"service_name", "hostname", "exe", "cgroup", "container_id", "a00", "a26"} {
		if labels.Get(name) == "" || len(labels.Get(name)) > 1024 {
			t.Errorf("label %s has %d bytes", name, len(labels.Get(name)))
		}
	}
	var refused dto.Metric
	if err := l.refused.Write(&refused); err != nil || refused.Counter.GetValue() != 13 {
		t.Errorf("%v labels were refused, want 13; %v", refused.Counter.GetValue(), err)
	}
}

// TestRelabelOnce: labels are made once, until something that they are made of changes.
func TestRelabelOnce(t *testing.T) {
	const rules = "relabel_configs: [{source_labels: [service_name], target_label: copy}]"
	l := testLabeler(t, nil, rules)
	p := webProcess()
	made := func() *labeled {
		l.labels(p)
		return l.known[p.Key]
	}
	first := made()
	for range 3 * unusedWindows {
		l.turn()
		if made() != first {
			t.Fatal("labels were made again though nothing has changed")
		}
	}
	for _, change := range []struct {
		name string
		do   func()
	}{
		{"comm", func() { p.Comm = "other" }},
		{"service", func() { p.OTelService = "shop" }},
		{"cgroup", func() { p.Cgroup.Path = "/x" }},
		{"settings", func() { l.configure(settings(t, rules)) }},
		{"rules that look at comm", func() { l.configure(settings(t, "relabel_configs: [{source_labels: [comm], target_label: copy}]")) }},
		{"comm that rules look at", func() { p.Comm = "third" }},
		{"no rules", func() { l.configure(Settings{}) }},
	} {
		before := l.known[p.Key]
		change.do()
		if (made() == before) != (change.name == "comm") {
			t.Errorf("%s: labels were made again: %v", change.name, made() != before)
		}
	}
	for range unusedWindows + 1 {
		l.turn()
	}
	if len(l.known) != 0 {
		t.Errorf("%d processes are remembered that are not sampled", len(l.known))
	}
}

// TestFilter: samples of a process that a rule drops are counted as skipped, in the window in which that is found
// out, and in those after it.
func TestFilter(t *testing.T) {
	var to collector
	drop := Options{Settings: settings(t, "relabel_configs: [{source_labels: [__meta_process_executable_name], regex: agent.test, action: drop}]")}
	ghost := bpf.Sample{Time: second / 4, PID: nobody, TID: nobody, Comm: comm("ghost"), Outcome: bpf.NoTable, User: []uint64{0x1000}}
	report := playWith(t, drop, &to,
		bpf.Batch{Samples: []bpf.Sample{ghost, self(t, second/2), self(t, second*3/4)}, Upto: second * 2},
		bpf.Batch{Samples: []bpf.Sample{self(t, second*11)}, Upto: second * 12},
	)
	if len(to.batch) != 1 || to.batch[0].Labels.Get(serviceName) != "ghost" {
		t.Errorf("%d profiles, want that of the other process", len(to.batch))
	}
	if report.Total.Taken != 4 || report.Total.Skipped != 3 || report.Total.Outcomes[bpf.DroppedUser] != 0 {
		t.Errorf("report %+v, want 3 of 4 samples skipped", report.Total)
	}
}

func BenchmarkLabels(b *testing.B) {
	c, err := config.Parse([]byte(`relabel_configs:
- {source_labels: [__meta_docker_container_label_com_docker_compose_service], regex: (.+), target_label: service_name}
- {source_labels: [__meta_kubernetes_pod_label_app_kubernetes_io_name], regex: (.+), target_label: service_name}
- {source_labels: [unit, __meta_process_executable_name], regex: agent;.*|.*;(cc1|ld), action: drop}
- {regex: cgroup, action: labeldrop}`))
	if err != nil {
		b.Fatal(err)
	}
	for _, rules := range []Settings{{}, {RelabelConfigs: c.RelabelConfigs}} {
		l, err := newLabeler(Options{Hostname: "host", Settings: rules, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		p := webProcess()
		for _, remembered := range []bool{false, true} {
			b.Run(fmt.Sprintf("rules=%d/remembered=%v", len(rules.RelabelConfigs), remembered), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if !remembered {
						clear(l.known)
					}
					l.labels(p)
				}
			})
		}
	}
}
