package tools_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// objects is what `kubectl kustomize` makes of packaging/kubernetes.
type objects struct {
	Namespace   corev1.Namespace
	DaemonSet   appsv1.DaemonSet
	StatefulSet appsv1.StatefulSet
	Service     corev1.Service
	accounts    []corev1.ServiceAccount
}

// render decodes each object into its type of Kubernetes's API: a field that the type has not is an error. Components are
// those that an operator may add.
func render(t *testing.T, components ...string) objects {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../kubernetes")); err != nil {
		t.Fatal(err)
	}
	if len(components) > 0 {
		f, err := os.OpenFile(filepath.Join(dir, "kustomization.yaml"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = fmt.Fprintf(f, "components: [%s]\n", strings.Join(components, ", "))
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	o := krusty.MakeDefaultOptions()
	o.LoadRestrictions = types.LoadRestrictionsRootOnly
	rendered, err := krusty.MakeKustomizer(o).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatal(err)
	}
	var all objects
	seen := make(map[string]bool)
	for _, r := range rendered.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		var into any
		if r.GetKind() == "ServiceAccount" {
			all.accounts = append(all.accounts, corev1.ServiceAccount{})
			into = &all.accounts[len(all.accounts)-1]
		} else if field := reflect.ValueOf(&all).Elem().FieldByName(r.GetKind()); field.IsValid() && !seen[r.GetKind()] {
			into = field.Addr().Interface()
		} else {
			t.Fatalf("one more %s than there should be", r.GetKind())
		}
		seen[r.GetKind()] = true
		if err := yaml.UnmarshalStrict(text, into); err != nil {
			t.Errorf("%s %s: %v", r.GetKind(), r.GetName(), err)
		}
		if r.GetKind() != "Namespace" && r.GetNamespace() != "pilotlight" {
			t.Errorf("%s %s is in namespace %q", r.GetKind(), r.GetName(), r.GetNamespace())
		}
	}
	if len(seen) != 5 {
		t.Errorf("rendered %v", seen)
	}
	return all
}

func TestKubernetesAgent(t *testing.T) {
	all := render(t)
	pod := all.DaemonSet.Spec.Template.Spec
	if !pod.HostPID || pod.HostNetwork || pod.HostIPC {
		t.Errorf("hostPID %v, hostNetwork %v, hostIPC %v: want the node's pids and nothing else", pod.HostPID, pod.HostNetwork, pod.HostIPC)
	}
	if level := all.Namespace.Labels["pod-security.kubernetes.io/enforce"]; level != "privileged" {
		t.Errorf("pods with hostPID are refused at level %q", level)
	}
	c := pod.Containers[0]
	s := c.SecurityContext
	want := &corev1.Capabilities{
		Drop: []corev1.Capability{"ALL"},
		Add:  []corev1.Capability{"BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH", "CHECKPOINT_RESTORE", "SYSLOG"},
	}
	if !reflect.DeepEqual(s.Capabilities, want) {
		t.Errorf("capabilities %+v, want %+v", s.Capabilities, want)
	}
	if s.Privileged != nil || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem {
		t.Errorf("security context %+v", s)
	}
	// The runtime gives capabilities to user 0 only, which without CAP_DAC_OVERRIDE writes as its group.
	if p := pod.SecurityContext; *p.RunAsUser != 0 || *p.RunAsGroup != *p.FSGroup || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("security context %+v", p)
	}
	for _, v := range pod.Volumes {
		if v.HostPath != nil {
			t.Errorf("volume %s is the node's", v.Name)
		}
	}
	if len(pod.Tolerations) != 1 || pod.Tolerations[0] != (corev1.Toleration{Operator: corev1.TolerationOpExists}) {
		t.Errorf("tolerations %v: want agents on all nodes", pod.Tolerations)
	}
	if _, limited := c.Resources.Limits[corev1.ResourceCPU]; limited {
		t.Error("an agent that is throttled loses samples")
	}
	if len(c.Env) != 1 || c.Env[0].Name != "PILOTLIGHT_HOSTNAME" || c.Env[0].ValueFrom.FieldRef.FieldPath != "spec.nodeName" {
		t.Errorf("environment %+v: profiles are to name the node", c.Env)
	}
	if off := flag(c.Args, "--off-file"); off != "/proc/1/root/run/pilotlight.off" {
		t.Errorf("the file that switches sampling off is %s, want the node's", off)
	}
	port := all.Service.Spec.Ports[0].Port
	if server := flag(c.Args, "--server"); server != "http://"+all.Service.Name+":7100" || port != 7100 {
		t.Errorf("agents send to %s, the service is %s:%d", server, all.Service.Name, port)
	}
	checkPod(t, pod, all.DaemonSet.Spec.Selector.MatchLabels, all.DaemonSet.Spec.Template.Labels)
}

// TestKubernetesParanoid holds that the component adds the one capability.
func TestKubernetesParanoid(t *testing.T) {
	plain, with := render(t).DaemonSet.Spec.Template.Spec, render(t, "paranoid").DaemonSet.Spec.Template.Spec
	s := with.Containers[0].SecurityContext
	last := len(s.Capabilities.Add) - 1
	if s.Capabilities.Add[last] != "SYS_ADMIN" || s.AllowPrivilegeEscalation != nil {
		t.Errorf("security context %+v", s)
	}
	s.Capabilities.Add, s.AllowPrivilegeEscalation = s.Capabilities.Add[:last], new(bool)
	if !reflect.DeepEqual(plain, with) {
		t.Errorf("without it it is %+v, want %+v", with, plain)
	}
}

func TestKubernetesServer(t *testing.T) {
	all := render(t)
	pod := all.StatefulSet.Spec.Template.Spec
	c := pod.Containers[0]
	s, p := c.SecurityContext, pod.SecurityContext
	if *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 {
		t.Errorf("security context %+v", s)
	}
	if !*p.RunAsNonRoot || *p.RunAsUser == 0 || pod.HostPID {
		t.Errorf("security context %+v, hostPID %v", p, pod.HostPID)
	}
	if *all.StatefulSet.Spec.Replicas != 1 || all.StatefulSet.Spec.ServiceName != all.Service.Name {
		t.Errorf("%d replicas of %s", *all.StatefulSet.Spec.Replicas, all.StatefulSet.Spec.ServiceName)
	}
	if scraped := all.StatefulSet.Spec.Template.Annotations["prometheus.io/scrape"]; scraped != "" {
		t.Errorf("prometheus.io/scrape is %q: Prometheus has no token then, and gets none of the metrics", scraped)
	}
	// Only then does it take requests under the service's name.
	for _, f := range []string{"--read-token-file", "--write-token-file"} {
		if !strings.HasPrefix(flag(c.Args, f), "/etc/pilotlight/") {
			t.Errorf("%s is %q", f, flag(c.Args, f))
		}
	}
	if !reflect.DeepEqual(all.Service.Spec.Selector, all.StatefulSet.Spec.Selector.MatchLabels) {
		t.Errorf("the service is for %v, the pods are %v", all.Service.Spec.Selector, all.StatefulSet.Spec.Selector.MatchLabels)
	}
	if !slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == all.Service.Spec.Ports[0].TargetPort.StrVal }) {
		t.Errorf("the service's port %+v is none of %+v", all.Service.Spec.Ports[0], c.Ports)
	}
	checkPod(t, pod, all.StatefulSet.Spec.Selector.MatchLabels, all.StatefulSet.Spec.Template.Labels)
	if claims := all.StatefulSet.Spec.VolumeClaimTemplates; len(claims) != 1 || claims[0].Name != "data" {
		t.Errorf("claims %+v", claims)
	}
}

// checkPod looks at what both kinds of pods have in common.
func checkPod(t *testing.T, pod corev1.PodSpec, selector, labels map[string]string) {
	t.Helper()
	for key, value := range selector {
		if labels[key] != value {
			t.Errorf("label %s is %q, selected is %q", key, labels[key], value)
		}
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		t.Error("nothing asks the API server, so nothing needs its token")
	}
	if pod.EnableServiceLinks == nil || *pod.EnableServiceLinks {
		t.Error("variables of services look like flags")
	}
	c := pod.Containers[0]
	if c.StartupProbe == nil || c.LivenessProbe == nil || c.ReadinessProbe == nil {
		t.Error("a probe is missing")
	}
	for _, m := range c.VolumeMounts {
		i := slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		switch {
		case i < 0 && m.Name != "data": // which may be a claim
			t.Errorf("no volume %s", m.Name)
		case i >= 0 && pod.Volumes[i].Secret != nil && *pod.Volumes[i].Secret.DefaultMode&0o027 != 0:
			t.Errorf("the secret %s has mode %#o, which the program refuses", m.Name, *pod.Volumes[i].Secret.DefaultMode)
		}
	}
}

// flag returns the value of --name=value among args.
func flag(args []string, name string) string {
	for _, a := range args {
		if n, value, _ := strings.Cut(a, "="); n == name {
			return value
		}
	}
	return ""
}
