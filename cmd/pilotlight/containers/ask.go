package containers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"pilotlight/cmd/pilotlight/containers/api"
)

// Runtime is a connection to a container runtime.
type Runtime struct {
	Kind Kind
	Conn net.Conn
}

const (
	// askTimeout is how long one runtime may take.
	askTimeout = 2 * time.Second
	// maxAnswer bounds an answer, in bytes.
	maxAnswer = 16 << 20
	// maxHeader bounds what comes before it.
	maxHeader = 64 << 10
	// maxNamespaces bounds how many of containerd's are looked through.
	maxNamespaces = 16
)

// Ask asks runtimes, one after the other, for the containers with these IDs
// until all are found. It returns those that a runtime can name, and why a
// runtime did not answer, both at once if need be. Each has 2 s. It closes the
// connections.
func Ask(ctx context.Context, runtimes []Runtime, ids []string) ([]Container, error) {
	var found []Container
	var errs []error
	for _, r := range runtimes {
		defer r.Conn.Close() // only read from, and it may be closed already
	}
	for _, r := range runtimes {
		if len(ids) == 0 {
			break
		}
		answer, err := r.ask(ctx, ids)
		if err != nil {
			errs = append(errs, fmt.Errorf("ask %s: %w", r.Kind, err))
		}
		for _, c := range answer {
			if i := slices.Index(ids, c.ID); i >= 0 && c.known() {
				c.Kind = r.Kind
				found = append(found, c.bounded())
				ids = slices.Delete(slices.Clone(ids), i, i+1)
			}
		}
	}
	return found, errors.Join(errs...)
}

func (r Runtime) ask(ctx context.Context, ids []string) ([]Container, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var protocols http.Protocols
	ask := askDocker
	switch r.Kind {
	case Docker:
		protocols.SetHTTP1(true)
	case CRI:
		protocols.SetUnencryptedHTTP2(true)
		ask = askCRI
	case Containerd:
		protocols.SetUnencryptedHTTP2(true)
		ask = askContainerd
	default:
		return nil, fmt.Errorf("unknown kind of runtime %q", r.Kind)
	}
	only := make(chan net.Conn, 1)
	only <- r.Conn
	transport := &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			select {
			case conn := <-only:
				return conn, nil
			default:
				return nil, errors.New("it closed the connection")
			}
		},
		Protocols:              &protocols,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
	}
	defer transport.CloseIdleConnections()
	return ask(ctx, &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, ids)
}

// base is where requests go: there is no name for the other end of a socket.
const base = "http://localhost"

// askDocker asks for running containers; see
// https://docs.docker.com/reference/api/engine, ContainerList.
func askDocker(ctx context.Context, client *http.Client, ids []string) ([]Container, error) {
	filters, err := json.Marshal(map[string][]string{"id": ids})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/containers/json?filters="+url.QueryEscape(string(filters)), nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	var long *url.Error // which has the URL, and so all IDs
	if errors.As(err, &long) {
		err = long.Err
	}
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("its answer is longer than %d bytes", maxAnswer)
	}
	var list []struct {
		ID     string `json:"Id"`
		Names  []string
		Image  string
		Labels map[string]string
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("read its answer: %w", err)
	}
	found := make([]Container, 0, len(list))
	for _, l := range list {
		c := Container{ID: l.ID, Name: dockerName(l.Names), Image: l.Image, Labels: l.Labels}
		c.fromKubelet()
		found = append(found, c)
	}
	return found, nil
}

// dockerName returns a container's own name: "/web", beside which there may be
// what others that are linked to it call it, "/shop/db".
func dockerName(names []string) string {
	for _, n := range names {
		if n = strings.TrimPrefix(n, "/"); !strings.Contains(n, "/") {
			return n
		}
	}
	return ""
}

// call calls a method of a gRPC service.
func call[Request, Response any](ctx context.Context, client *http.Client, method string, header http.Header, msg *Request) (*Response, error) {
	c := connect.NewClient[Request, Response](client, base+method, connect.WithGRPC(), connect.WithReadMaxBytes(maxAnswer),
		connect.WithAcceptCompression("gzip", nil, nil)) // a small answer is to be small inflated, too
	req := connect.NewRequest(msg)
	for name, values := range header {
		req.Header()[name] = values
	}
	resp, err := c.CallUnary(ctx, req)
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

// askCRI lists all containers and pods, as the kubelet does each second: two
// answers are less work for all than two for each container.
func askCRI(ctx context.Context, client *http.Client, ids []string) ([]Container, error) {
	list, err := call[api.CRIContainersRequest, api.CRIContainersResponse](ctx, client, "/runtime.v1.RuntimeService/ListContainers", nil, &api.CRIContainersRequest{})
	if connect.CodeOf(err) == connect.CodeUnimplemented {
		return nil, nil // a containerd without that plugin, as Docker's is
	}
	if err != nil {
		return nil, err
	}
	pods, err := call[api.CRISandboxesRequest, api.CRISandboxesResponse](ctx, client, "/runtime.v1.RuntimeService/ListPodSandbox", nil, &api.CRISandboxesRequest{})
	if err != nil {
		return nil, err
	}
	sandboxes := make(map[string]*api.CRISandbox, len(pods.Items))
	var found []Container
	for _, s := range pods.Items {
		sandboxes[s.Id] = s
		if slices.Contains(ids, s.Id) {
			found = append(found, Container{ID: s.Id}.in(s))
		}
	}
	for _, l := range list.Containers {
		if !slices.Contains(ids, l.Id) {
			continue
		}
		image := l.GetImage().GetUserSpecifiedImage()
		if image == "" {
			image = l.GetImage().GetImage()
		}
		c := Container{ID: l.Id, Image: image, Labels: l.Labels}
		c.fromKubelet()
		c.Name = l.GetMetadata().GetName()
		found = append(found, c.in(sandboxes[l.PodSandboxId]))
	}
	return found, nil
}

// in returns c with what CRI says of its pod; nil if it says nothing.
func (c Container) in(s *api.CRISandbox) Container {
	if m := s.GetMetadata(); m != nil {
		c.Pod, c.Namespace, c.PodUID = m.Name, m.Namespace, m.Uid
	}
	c.PodLabels, c.PodAnnotations = s.GetLabels(), s.GetAnnotations()
	return c
}

// nerdctlName is the label in which nerdctl keeps a container's name.
const nerdctlName = "nerdctl/name"

// askContainerd looks through containerd's namespaces.
func askContainerd(ctx context.Context, client *http.Client, ids []string) ([]Container, error) {
	namespaces, err := call[api.NamespacesRequest, api.NamespacesResponse](ctx, client, "/containerd.services.namespaces.v1.Namespaces/List", nil, &api.NamespacesRequest{})
	if err != nil {
		return nil, err
	}
	filters := make([]string, len(ids))
	for i, id := range ids {
		filters[i] = "id==" + id
	}
	var found []Container
	for _, ns := range namespaces.Namespaces[:min(len(namespaces.Namespaces), maxNamespaces)] {
		header := http.Header{"Containerd-Namespace": {ns.Name}}
		list, err := call[api.ContainersRequest, api.ContainersResponse](ctx, client, "/containerd.services.containers.v1.Containers/List", header, &api.ContainersRequest{Filters: filters})
		if err != nil {
			return found, err
		}
		for _, l := range list.Containers {
			c := Container{ID: l.Id, Name: l.Labels[nerdctlName], Image: l.Image, Labels: l.Labels}
			c.fromKubelet()
			found = append(found, c)
		}
	}
	return found, nil
}
