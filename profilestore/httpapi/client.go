package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"connectrpc.com/connect"

	"pilotlight/profilestore"
	"pilotlight/profilestore/httpapi/pyroscope"
)

// Client sends profiles and reports to a server. All methods may be called from many goroutines.
type Client struct {
	server string
	http   *http.Client
	push   *connect.Client[pyroscope.PushRequest, pyroscope.PushResponse]
}

// NewClient returns a client of the server at a base URL, http://host:7100. hc nil means http.DefaultClient;
// time limits are those of each call's context.
func NewClient(server string, hc *http.Client) (*Client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" {
		return nil, fmt.Errorf("server %q: write http://host:7100", server)
	}
	if hc == nil {
		hc = http.DefaultClient
	}
	server = strings.TrimSuffix(server, "/")
	return &Client{
		server: server,
		http:   hc,
		// Requests are not gzipped: the profiles in them are.
		push: connect.NewClient[pyroscope.PushRequest, pyroscope.PushResponse](hc, server+pushProcedure, connect.WithReadMaxBytes(1<<20)),
	}, nil
}

// Append sends a batch and returns when the server has made it durable. Time and Duration travel inside the pprof.
// Sending a batch again is safe where its profiles have IDs. connect.CodeOf tells a refusal
// (CodeInvalidArgument) from what may pass (CodeUnavailable, CodeResourceExhausted).
func (c *Client) Append(ctx context.Context, batch []profilestore.Encoded) error {
	msg := &pyroscope.PushRequest{Series: make([]*pyroscope.RawProfileSeries, len(batch))}
	for i, e := range batch {
		s := &pyroscope.RawProfileSeries{Labels: []*pyroscope.LabelPair{{Name: "__name__", Value: e.Name}}}
		for _, l := range e.Labels {
			s.Labels = append(s.Labels, &pyroscope.LabelPair{Name: l.Name, Value: l.Value})
		}
		sample := &pyroscope.RawSample{RawProfile: e.Pprof}
		if e.ID != (profilestore.ID{}) {
			sample.ID = e.ID.String()
		}
		s.Samples = []*pyroscope.RawSample{sample}
		msg.Series[i] = s
	}
	if _, err := c.push.CallUnary(ctx, connect.NewRequest(msg)); err != nil {
		return fmt.Errorf("push %d profiles to %s: %w", len(batch), c.server, err)
	}
	return nil
}

// Report sends an agent's report.
func (c *Client) Report(ctx context.Context, r AgentReport) error {
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("marshal agent report: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.server+"/api/v1/agents", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		var answer struct{ Error errorBody }
		b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		if err != nil {
			return fmt.Errorf("report to %s: %s: %w", c.server, resp.Status, err)
		}
		if json.Unmarshal(b, &answer) != nil {
			return fmt.Errorf("report to %s: %s", c.server, resp.Status)
		}
		return fmt.Errorf("report to %s: %s: %s", c.server, resp.Status, answer.Error.Message)
	}
	return nil
}
