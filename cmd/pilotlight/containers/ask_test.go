package containers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// IDs of containers.
var (
	web  = strings.Repeat("a1", 32)
	job  = strings.Repeat("b2", 32)
	none = strings.Repeat("c3", 32)
)

// socket listens where a runtime would and returns a connection to it.
func socket(t *testing.T, serve func(net.Listener)) net.Conn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve(l)
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// dockerd answers as Docker's API does: containers that match a filter by ID.
func dockerd(t *testing.T, containers ...map[string]any) net.Conn {
	return httpServer(t, func(w http.ResponseWriter, r *http.Request) {
		var filters struct{ ID []string }
		if err := json.Unmarshal([]byte(r.URL.Query().Get("filters")), &filters); r.Method != http.MethodGet || r.URL.Path != "/containers/json" || err != nil {
			t.Errorf("asked for %s %s, %v", r.Method, r.URL, err)
		}
		answer := []map[string]any{}
		for _, c := range containers {
			if slices.Contains(filters.ID, c["Id"].(string)) {
				answer = append(answer, c)
			}
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	})
}

func httpServer(t *testing.T, handle http.HandlerFunc) net.Conn {
	t.Helper()
	s := &http.Server{Handler: handle}
	t.Cleanup(func() { s.Close() })
	return socket(t, func(l net.Listener) { s.Serve(l) })
}

// bytesCodec passes messages on as they are on the wire.
type bytesCodec struct{}

func (bytesCodec) Marshal(v any) ([]byte, error)   { return *v.(*[]byte), nil }
func (bytesCodec) Unmarshal(b []byte, v any) error { *v.(*[]byte) = slices.Clone(b); return nil }
func (bytesCodec) Name() string                    { return "proto" }

// grpcServer answers calls with gRPC's own server. Messages are bytes that the test lays out by the numbers in the
// services' definitions.
func grpcServer(t *testing.T, answer func(method, namespace string, request []byte) ([]byte, error)) net.Conn {
	t.Helper()
	s := grpc.NewServer(grpc.ForceServerCodec(bytesCodec{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(stream)
		md, _ := metadata.FromIncomingContext(stream.Context())
		var request []byte
		if err := stream.RecvMsg(&request); err != nil {
			return err
		}
		b, err := answer(method, strings.Join(md.Get("containerd-namespace"), ","), request)
		if err != nil {
			return err
		}
		return stream.SendMsg(&b)
	}))
	t.Cleanup(s.Stop)
	return socket(t, func(l net.Listener) { s.Serve(l) })
}

// message lays out fields: a number, then a string, the bytes of a message or a map.
func message(fields ...any) []byte {
	var b []byte
	for i := 0; i < len(fields); i += 2 {
		number := protowire.Number(fields[i].(int))
		add := func(value []byte) {
			b = protowire.AppendTag(b, number, protowire.BytesType)
			b = protowire.AppendBytes(b, value)
		}
		switch v := fields[i+1].(type) {
		case string:
			add([]byte(v))
		case []byte:
			add(v)
		case map[string]string:
			for key, value := range v {
				add(message(1, key, 2, value))
			}
		case int:
			b = protowire.AppendTag(b, number, protowire.VarintType)
			b = protowire.AppendVarint(b, uint64(v))
		}
	}
	return b
}

// kubelet are the labels that it gives a container.
func kubelet(container string) map[string]string {
	return map[string]string{
		"io.kubernetes.container.name": container, "io.kubernetes.pod.name": "api-7d9", "io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.uid": "9b2c",
	}
}

// criService answers as a runtime of Kubernetes that has a pod with the container web.
func criService(t *testing.T) net.Conn {
	sandbox := message(
		1, "5a4d", 2, message(1, "api-7d9", 2, "9b2c", 3, "shop", 4, 1), 3, 0, 4, 1763690400,
		5, map[string]string{"app.kubernetes.io/name": "api"}, 6, map[string]string{"checked": "yes"}, 7, "runc",
	)
	container := message(
		1, web, 2, "5a4d", 3, message(1, "server", 2, 3), 4, message(1, "sha256:0011", 18, "registry/api:1.4"), 5, "sha256:0011", 6, 1, 7, 1763690400,
		8, kubelet("server"), 9, map[string]string{"io.kubernetes.container.hash": "1"},
	)
	other := message(1, none[:60]+"ffff", 2, "5a4d", 3, message(1, "other"))
	return grpcServer(t, func(method, _ string, request []byte) ([]byte, error) {
		if len(request) > 0 {
			t.Errorf("%s with a request of %d bytes", method, len(request))
		}
		switch method {
		case "/runtime.v1.RuntimeService/ListContainers":
			return message(1, other, 1, container), nil
		case "/runtime.v1.RuntimeService/ListPodSandbox":
			return message(1, sandbox), nil
		}
		return nil, status.Error(codes.Unimplemented, method)
	})
}

// containerdService answers as containerd with Docker's, Kubernetes's and nerdctl's containers in their namespaces.
func containerdService(t *testing.T) net.Conn {
	return grpcServer(t, func(method, namespace string, request []byte) ([]byte, error) {
		switch method {
		case "/containerd.services.namespaces.v1.Namespaces/List":
			return message(1, message(1, "default"), 1, message(1, "moby"), 1, message(1, "k8s.io")), nil
		case "/containerd.services.containers.v1.Containers/List":
			if !strings.Contains(string(request), "id=="+job) {
				t.Errorf("request %q does not ask for %s", request, job)
			}
			switch namespace {
			case "default":
				return message(1, message(1, job, 2, map[string]string{"nerdctl/name": "nightly"}, 3, "docker.io/library/job:2", 5, message(1, "spec", 2, "{}"))), nil
			case "moby":
				return message(1, message(1, none, 2, map[string]string{"com.docker/engine.bundle.path": "/x"})), nil
			case "k8s.io":
				return message(1, message(1, web, 2, kubelet("server"))), nil
			}
		}
		return nil, status.Error(codes.Unimplemented, method)
	})
}

func summary(cs []Container) string {
	var parts []string
	for _, c := range cs {
		parts = append(parts, fmt.Sprintf("%s %s name=%s image=%s pod=%s/%s/%s labels=%d podlabels=%v annotations=%v",
			c.Kind, c.ID[:2], c.Name, c.Image, c.Namespace, c.Pod, c.PodUID, len(c.Labels), c.PodLabels, c.PodAnnotations))
	}
	return strings.Join(parts, "\n")
}

func TestAsk(t *testing.T) {
	docker := func(t *testing.T) net.Conn {
		return dockerd(t,
			map[string]any{"Id": web, "Names": []string{"/shop/db", "/web"}, "Image": "nginx:1.27", "Labels": map[string]string{"a": "b"}},
			map[string]any{"Id": job, "Names": []string{"/k8s_server_api"}, "Image": "x", "Labels": kubelet("server")},
		)
	}
	for _, tc := range []struct {
		name     string
		runtimes map[Kind]func(*testing.T) net.Conn
		ids      []string
		want     string
	}{
		{"docker", map[Kind]func(*testing.T) net.Conn{Docker: docker}, []string{web, none},
			"docker a1 name=web image=nginx:1.27 pod=// labels=1 podlabels=map[] annotations=map[]"},
		{"a kubelet's container in docker", map[Kind]func(*testing.T) net.Conn{Docker: docker}, []string{job},
			"docker b2 name=server image=x pod=shop/api-7d9/9b2c labels=4 podlabels=map[] annotations=map[]"},
		{"cri", map[Kind]func(*testing.T) net.Conn{CRI: criService}, []string{none, web},
			"cri a1 name=server image=registry/api:1.4 pod=shop/api-7d9/9b2c labels=4 podlabels=map[app.kubernetes.io/name:api] annotations=map[checked:yes]"},
		{"containerd", map[Kind]func(*testing.T) net.Conn{Containerd: containerdService}, []string{web, job, none},
			"containerd b2 name=nightly image=docker.io/library/job:2 pod=// labels=1 podlabels=map[] annotations=map[]\n" +
				"containerd a1 name=server image= pod=shop/api-7d9/9b2c labels=4 podlabels=map[] annotations=map[]"},
		{"a containerd without cri", map[Kind]func(*testing.T) net.Conn{CRI: containerdService, Containerd: containerdService}, []string{job},
			"containerd b2 name=nightly image=docker.io/library/job:2 pod=// labels=1 podlabels=map[] annotations=map[]"},
		{"the first that knows one names it", map[Kind]func(*testing.T) net.Conn{Docker: docker, CRI: criService}, []string{web, job},
			"docker a1 name=web image=nginx:1.27 pod=// labels=1 podlabels=map[] annotations=map[]\n" +
				"docker b2 name=server image=x pod=shop/api-7d9/9b2c labels=4 podlabels=map[] annotations=map[]"},
		{"nobody", nil, []string{web}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var runtimes []Runtime
			for _, kind := range []Kind{Docker, CRI, Containerd} {
				if make := tc.runtimes[kind]; make != nil {
					runtimes = append(runtimes, Runtime{kind, make(t)})
				}
			}
			found, err := Ask(t.Context(), runtimes, tc.ids)
			if err != nil {
				t.Error(err)
			}
			if got := summary(found); got != tc.want {
				t.Errorf("got\n%s\nwant\n%s", got, tc.want)
			}
		})
	}
}

// TestAskSandbox: what runs in a pod's own cgroup is the pod's.
func TestAskSandbox(t *testing.T) {
	found, err := Ask(t.Context(), []Runtime{{CRI, criService(t)}}, []string{"5a4d"})
	if err != nil || len(found) != 1 || found[0].Pod != "api-7d9" || found[0].Name != "" {
		t.Errorf("got %+v, %v", found, err)
	}
}

// TestAskBadRuntime: one that does not answer as it should is an error that says which, and keeps none from asking
// the next.
func TestAskBadRuntime(t *testing.T) {
	accept := func(t *testing.T, then func(net.Conn)) net.Conn {
		return socket(t, func(l net.Listener) {
			if c, err := l.Accept(); err == nil {
				defer c.Close()
				then(c)
			}
		})
	}
	silent := func(t *testing.T) net.Conn {
		return accept(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	}
	closes := func(t *testing.T) net.Conn { return accept(t, func(net.Conn) {}) }
	says := func(s string) func(*testing.T) net.Conn {
		return func(t *testing.T) net.Conn {
			return accept(t, func(c net.Conn) {
				go io.Copy(io.Discard, c)
				for range 1 << 10 {
					if _, err := io.WriteString(c, s); err != nil {
						return
					}
				}
			})
		}
	}
	dockerSays := func(body string) func(*testing.T) net.Conn {
		return func(t *testing.T) net.Conn {
			return httpServer(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) })
		}
	}
	grpcSays := func(answer []byte) func(*testing.T) net.Conn {
		return func(t *testing.T) net.Conn {
			return grpcServer(t, func(string, string, []byte) ([]byte, error) { return answer, nil })
		}
	}
	for _, tc := range []struct {
		name    string
		kind    Kind
		runtime func(*testing.T) net.Conn
		want    string
	}{
		{"docker is silent", Docker, silent, "deadline exceeded"},
		{"docker closes", Docker, closes, "ask docker: "},
		{"docker says what is not HTTP", Docker, says("\x00\xff garbage\n"), "malformed"},
		{"docker has a header without end", Docker, says("HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", 1<<10) + "\r\n"), "ask docker: "},
		{"docker refuses", Docker, func(t *testing.T) net.Conn {
			return httpServer(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
		}, "it answers 403"},
		{"docker says what is not JSON", Docker, dockerSays("[{"), "read its answer: unexpected end of JSON input"},
		{"docker says other JSON", Docker, dockerSays(`[{"Id":{}}]`), "read its answer: "},
		{"docker says too much", Docker, dockerSays(strings.Repeat(" ", maxAnswer+1)), "its answer is longer than 16777216 bytes"},
		{"cri is silent", CRI, silent, "deadline"},
		{"cri closes", CRI, closes, "ask cri: "},
		{"cri says what is not HTTP/2", CRI, says("HTTP/1.1 200 OK\r\n\r\n"), "ask cri: "},
		{"cri says what is no message", CRI, grpcSays([]byte("\x0a\xff")), "ask cri: "},
		{"cri says too much", CRI, grpcSays(message(1, strings.Repeat("a", maxAnswer))), "larger than configured max"},
		{"containerd refuses", Containerd, func(t *testing.T) net.Conn {
			return grpcServer(t, func(string, string, []byte) ([]byte, error) { return nil, status.Error(codes.PermissionDenied, "no") })
		}, "permission_denied"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if strings.Contains(tc.name, "silent") {
				cancel()
				ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
			}
			defer cancel()
			found, err := Ask(ctx, []Runtime{{tc.kind, tc.runtime(t)}}, []string{web})
			if len(found) != 0 || err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %d containers, error %v, want %q", len(found), err, tc.want)
			}
			if !strings.HasPrefix(fmt.Sprint(err), "ask "+string(tc.kind)) {
				t.Errorf("error %q does not say who was asked", err)
			}
			if strings.Contains(fmt.Sprint(err), web) {
				t.Errorf("error %q has all IDs in it, of which there may be 64", err)
			}
		})
	}
	good := dockerd(t, map[string]any{"Id": web, "Names": []string{"/web"}})
	found, err := Ask(t.Context(), []Runtime{{CRI, closes(t)}, {Docker, good}}, []string{web})
	if err == nil || len(found) != 1 || found[0].Name != "web" {
		t.Errorf("after one that does not answer: %+v, %v", found, err)
	}
}

// TestBounded: what is kept of a container is bounded, whatever its owner calls it.
func TestBounded(t *testing.T) {
	long := strings.Repeat("é", 600)
	labels := map[string]string{"a": "\xff", "long": long}
	for i := range 1000 {
		labels[fmt.Sprintf("label-%04d", i)] = "v"
	}
	c := Container{Name: "a" + long, Image: "\xff", PodAnnotations: map[string]string{"document": strings.Repeat("x", 5000), "short": "y"}, Labels: labels}.bounded()
	if want := "a" + long[:maxText-2]; c.Name != want {
		t.Errorf("name of %d bytes, want %d", len(c.Name), len(want))
	}
	if c.Image != "\uFFFD" || c.Labels["a"] != "\uFFFD" || len(c.Labels) != maxLabels {
		t.Errorf("image %q, label %q, %d labels", c.Image, c.Labels["a"], len(c.Labels))
	}
	if want := map[string]string{"short": "y"}; !reflect.DeepEqual(c.PodAnnotations, want) {
		t.Errorf("annotations %v, want %v", c.PodAnnotations, want)
	}
}

var errTest = errors.New("test")

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
