package agent

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	prom "github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	"golang.org/x/sys/unix"

	"pilotlight/cmd/pilotlight/containers"
	"pilotlight/cmd/pilotlight/process"
	"pilotlight/profilestore"
)

// Settings are what may change while an Agent runs. The zero value is the
// default.
type Settings struct {
	// RelabelConfigs are valid rules that make labels of profiles from labels, or
	// have processes left out. They are not to be changed any more.
	RelabelConfigs []*relabel.Config
	// ReadEnviron allows OTEL_SERVICE_NAME to name a service.
	ReadEnviron bool
}

// seriesLabels are the labels that every profile may have, the most useful
// first: what has no room goes from the other end.
var seriesLabels = []string{
	serviceName, "hostname", "namespace", "pod", "container_name", "unit", "service_version", "exe", "container_id", "cgroup",
}

const (
	serviceName = "service_name"
	// commLabel is a sample's, and rules may look at it.
	commLabel = "comm"
	// unusedWindows is for how many windows the labels of a process are kept that
	// is not sampled.
	unusedWindows = 6
)

// labeler says which labels the profiles of a process have. It remembers them, so
// that rules cost nothing from the second window of a process on. All methods may
// be called from many goroutines.
type labeler struct {
	names    *containers.Names
	hostname string
	machine  []process.Label // what rules may know of it
	log      *slog.Logger
	refused  prometheus.Counter

	mu     sync.Mutex // guards what follows
	rules  *rules
	known  map[process.Key]*labeled
	window uint64
}

// rules are relabeling rules; nil: there are none.
type rules struct {
	configs []*relabel.Config
	comm    bool // they look at commLabel
	warned  bool // it was said that they make labels that no store takes
}

// labeled is a process whose labels are known.
type labeled struct {
	facts   facts
	labels  profilestore.Labels
	dropped bool
	used    uint64 // the window in which they were last
}

// facts are what labels are made of, and may change. Equal facts of one process
// make equal labels.
type facts struct {
	rules                         *rules
	container                     *containers.Container
	exe, program, service, cgroup string
	arguments                     int
	comm                          string // if labels depend on it
}

func newLabeler(o Options) (*labeler, error) {
	l := &labeler{
		names: o.Names, hostname: o.Hostname, log: o.Logger, known: make(map[process.Key]*labeled),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pilotlight_relabel_refused_labels_total",
			Help: "Labels that relabeling rules made and that no store takes: too many, or not named as labels are.",
		}),
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, fmt.Errorf("read kernel release: %w", err)
	}
	l.machine = []process.Label{
		{Name: "__meta_system_kernel_release", Value: unix.ByteSliceToString(name.Release[:])},
		{Name: "__meta_system_kernel_machine", Value: unix.ByteSliceToString(name.Machine[:])},
		{Name: "__meta_agent_revision", Value: o.Version},
	}
	l.configure(o.Settings)
	if o.Registerer == nil {
		return l, nil
	}
	if err := o.Registerer.Register(l.refused); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return l, nil
}

// configure has other rules apply from now on.
func (l *labeler) configure(s Settings) {
	var r *rules
	if len(s.RelabelConfigs) > 0 {
		r = &rules{configs: s.RelabelConfigs}
		for _, c := range s.RelabelConfigs {
			r.comm = r.comm || c.Action == relabel.LabelMap || slices.Contains(c.SourceLabels, model.LabelName(commLabel))
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rules = r
}

// facts returns what the labels of p are made of now. What its container is
// called is asked for if it is not known. l.mu is held.
func (l *labeler) facts(p *process.Process) facts {
	f := facts{
		rules: l.rules, container: l.names.Get(p.Cgroup.ContainerID),
		exe: p.Exe, program: p.Program, service: p.OTelService, cgroup: p.Cgroup.Path, arguments: len(p.Cmdline),
	}
	if l.rules != nil && l.rules.comm || p.Exe == "" {
		f.comm = p.Comm
	}
	return f
}

// drops reports whether it is known that rules leave p out, and notes that its
// labels are going to be asked for.
func (l *labeler) drops(p *process.Process) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.facts(p)
	known := l.known[p.Key]
	if known == nil || known.facts != now {
		return false
	}
	known.used = l.window
	return known.dropped
}

// labels returns the labels of p's profiles, or false if rules leave it out.
func (l *labeler) labels(p *process.Process) (profilestore.Labels, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.facts(p)
	known := l.known[p.Key]
	if known == nil || known.facts != now {
		known = &labeled{facts: now}
		known.labels, known.dropped = l.make(p, now)
		l.known[p.Key] = known
	}
	known.used = l.window
	return known.labels, !known.dropped
}

// turn forgets the processes that were not sampled for some windows. It is called
// after each.
func (l *labeler) turn() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.window++
	for key, known := range l.known {
		if known.used+unusedWindows < l.window {
			delete(l.known, key)
		}
	}
}

// make makes the labels of p.
func (l *labeler) make(p *process.Process, f facts) (made profilestore.Labels, dropped bool) {
	named := *p
	if c := f.container; c != nil {
		named.Cgroup.ContainerName, named.Cgroup.Pod, named.Cgroup.Namespace = c.Name, c.Pod, c.Namespace
	}
	own := append(named.Labels(), process.Label{Name: "hostname", Value: process.LabelValue(l.hostname)})
	if f.rules == nil {
		m := make(map[string]string, len(own))
		for _, label := range own {
			m[label.Name] = label.Value
		}
		return profilestore.NewLabels(m), false
	}
	b := prom.NewBuilder(prom.EmptyLabels())
	service := ""
	for _, list := range [][]process.Label{own, {{Name: commLabel, Value: process.LabelValue(f.comm)}}, l.machine, p.Meta(), containerMeta(f.container)} {
		for _, label := range list {
			b.Set(label.Name, label.Value)
			if label.Name == serviceName {
				service = label.Value
			}
		}
	}
	if !relabel.ProcessBuilder(b, f.rules.configs...) {
		return nil, true
	}
	b.Del(commLabel)
	if b.Get(serviceName) == "" {
		b.Set(serviceName, service) // a profile belongs to some service
	}
	return l.settle(b, f.rules), false
}

// settle returns the labels that a store takes, and counts the others.
func (l *labeler) settle(b *prom.Builder, r *rules) profilestore.Labels {
	var settled profilestore.Labels
	refused := 0
	b.Range(func(label prom.Label) {
		switch {
		case strings.HasPrefix(label.Name, model.ReservedLabelPrefix):
		case !model.LegacyValidation.IsValidLabelName(label.Name) || len(label.Name) > profilestore.MaxLabelName || process.SampleLabel(label.Name):
			refused++
		default:
			settled = append(settled, profilestore.Label{Name: label.Name, Value: process.LabelValue(label.Value)})
		}
	})
	byName := func(a, b profilestore.Label) int { return strings.Compare(a.Name, b.Name) }
	if len(settled) > profilestore.MaxLabels {
		refused += len(settled) - profilestore.MaxLabels
		slices.SortFunc(settled, byName)
		slices.SortStableFunc(settled, func(a, b profilestore.Label) int { return rank(a.Name) - rank(b.Name) })
		settled = settled[:profilestore.MaxLabels]
	}
	slices.SortFunc(settled, byName)
	if refused > 0 {
		l.refused.Add(float64(refused))
		if !r.warned {
			r.warned = true
			l.log.Warn("relabel_configs make labels that are left out: too many, or with names that cannot be used", "labels", refused, "of", settled.String())
		}
	}
	return settled
}

// rank is a label's place in seriesLabels, or behind all of them.
func rank(name string) int {
	if i := slices.Index(seriesLabels, name); i >= 0 {
		return i
	}
	return len(seriesLabels)
}

// containerMeta returns what rules may know of a container, under the names that
// Prometheus and Parca's agent have for it; nil if nothing is known.
func containerMeta(c *containers.Container) []process.Label {
	if c == nil {
		return nil
	}
	var ls []process.Label
	add := func(name, value string) {
		if value != "" {
			ls = append(ls, process.Label{Name: name, Value: process.LabelValue(value)})
		}
	}
	addAll := func(prefix, present string, of map[string]string) {
		for name, value := range of {
			name = labelName(name)
			add(prefix+name, value)
			add(present+name, "true")
		}
	}
	switch c.Kind {
	case containers.Docker:
		add("__meta_docker_container_id", c.ID)
		add("__meta_docker_container_name", c.Name)
		add("__meta_docker_container_image", c.Image)
		addAll("__meta_docker_container_label_", "__meta_docker_container_labelpresent_", c.Labels)
	case containers.Containerd:
		add("__meta_containerd_container_id", c.ID)
		add("__meta_containerd_container_name", c.Name)
		add("__meta_containerd_container_image", c.Image)
		add("__meta_containerd_pod_name", c.Pod)
		addAll("__meta_containerd_container_label_", "__meta_containerd_container_labelpresent_", c.Labels)
	}
	if c.Pod == "" {
		return ls
	}
	add("__meta_kubernetes_namespace", c.Namespace)
	add("__meta_kubernetes_pod_name", c.Pod)
	add("__meta_kubernetes_pod_uid", c.PodUID)
	add("__meta_kubernetes_pod_container_id", c.ID)
	add("__meta_kubernetes_pod_container_name", c.Name)
	add("__meta_kubernetes_pod_container_image", c.Image)
	addAll("__meta_kubernetes_pod_label_", "__meta_kubernetes_pod_labelpresent_", c.PodLabels)
	addAll("__meta_kubernetes_pod_annotation_", "__meta_kubernetes_pod_annotationpresent_", c.PodAnnotations)
	return ls
}

// labelName makes a name of others one of a label, as Prometheus does.
func labelName(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '_'
	}, s)
}
