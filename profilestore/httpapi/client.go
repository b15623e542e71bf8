package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"pilotlight/profilestore"
	"pilotlight/profilestore/httpapi/pyroscope"
)

// Client sends profiles and reports to a server, and asks it. All methods may be called from many goroutines.
type Client struct {
	server string
	http   *http.Client
	push   *connect.Client[pyroscope.PushRequest, pyroscope.PushResponse]
}

// ClientOptions tune a client. The zero value is the documented default.
type ClientOptions struct {
	HTTP      *http.Client // nil: http.DefaultClient
	Token     string       // sent as bearer; "": none
	TokenFile *TokenFile   // in place of Token; nil: none
}

// withToken adds a token to each request.
type withToken struct {
	next  http.RoundTripper
	token func() (string, error)
}

func (t withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := t.token()
	if err != nil {
		if r.Body != nil {
			r.Body.Close() // as a RoundTripper has to
		}
		return nil, err
	}
	r = r.Clone(r.Context()) // the caller's is not ours to change
	r.Header.Set("Authorization", "Bearer "+token)
	return t.next.RoundTrip(r)
}

// answerHead is what an answer begins with.
type answerHead struct {
	status int
	header http.Header
}

type answerHeadKey struct{}

// withHead notes the head of an answer in the answerHead of the request's context. Connect forgets it where the body is
// not in its own form, as that of a proxy is not. And it reads a body to its end, whatever is too much of it.
type withHead struct{ next http.RoundTripper }

func (h withHead) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := h.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if head, ok := r.Context().Value(answerHeadKey{}).(*answerHead); ok {
		head.status, head.header = resp.StatusCode, resp.Header
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, 2*maxPushAnswer), resp.Body}
	return resp, nil
}

// NewClient returns a client of the server at a base URL, http://host:7100. Time limits are those of each call's
// context. A redirect is an error, so that no token goes to another server.
func NewClient(server string, o ClientOptions) (*Client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("server %q: write http://host:7100", server)
	}
	if o.HTTP == nil {
		o.HTTP = http.DefaultClient
	}
	hc := *o.HTTP
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	token := func() (string, error) { return o.Token, nil }
	if o.TokenFile != nil {
		token = o.TokenFile.Token
	}
	if hc.Transport == nil {
		hc.Transport = http.DefaultTransport
	}
	if o.Token != "" || o.TokenFile != nil {
		hc.Transport = withToken{hc.Transport, token}
	}
	pushing := hc
	pushing.Transport = withHead{hc.Transport}
	server = strings.TrimSuffix(server, "/")
	return &Client{
		server: server,
		http:   &hc,
		// Requests are not gzipped: the profiles in them are.
		push: connect.NewClient[pyroscope.PushRequest, pyroscope.PushResponse](&pushing, server+pushProcedure, connect.WithReadMaxBytes(maxPushAnswer)),
	}, nil
}

// Append sends a batch and returns when the server has made it durable. Time and Duration travel inside the pprof.
// Sending a batch again is safe where its profiles have IDs.
//
// An error is a [profilestore.Error] too, with the server's words: its code tells what is refused for what is in the
// batch (BadRequest, PayloadTooLarge; TooManyRequests: too many series) from what may pass (Unavailable, which is also
// that of a server that does not answer, and all others). It has RetryAfter() time.Duration, which is how long the server
// wants to be left alone, if it says. connect.CodeOf knows it too.
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
	var head answerHead
	if _, err := c.push.CallUnary(context.WithValue(ctx, answerHeadKey{}, &head), connect.NewRequest(msg)); err != nil {
		return fmt.Errorf("push %d profiles to %s: %w", len(batch), c.server, newPushError(err, head))
	}
	return nil
}

// pushError is why a push was not taken.
type pushError struct {
	refusal *profilestore.Error
	after   time.Duration
	cause   error
}

func (e *pushError) Error() string             { return e.cause.Error() }
func (e *pushError) Unwrap() []error           { return []error{e.refusal, e.cause} }
func (e *pushError) RetryAfter() time.Duration { return e.after }

// newPushError finds out what Connect's few codes stand for. The head is of the answer, if there was one: this server's
// has the code, that of another, or of a proxy before it, a status.
func newPushError(err error, head answerHead) *pushError {
	e := &pushError{refusal: &profilestore.Error{Code: profilestore.Unavailable, Message: err.Error(), Err: err}, cause: err}
	var answer *connect.Error
	if !errors.As(err, &answer) {
		return e
	}
	e.refusal.Message = answer.Message()
	if seconds, err := strconv.Atoi(head.header.Get("Retry-After")); err == nil && seconds > 0 {
		e.after = time.Duration(min(seconds, 3600)) * time.Second
	}
	switch code := profilestore.Code(head.header.Get(codeHeader)); {
	case code == profilestore.TooManyRequests && e.after > 0: // it is busy
	case code != "":
		e.refusal.Code = code
	case answer.Code() == connect.CodeInvalidArgument:
		e.refusal.Code = profilestore.BadRequest
	case head.status == http.StatusRequestEntityTooLarge:
		e.refusal.Code = profilestore.PayloadTooLarge
	case head.status == http.StatusInternalServerError:
		e.refusal.Code = codeInternal
	}
	return e
}

// Report sends an agent's report, with the time at which it does.
func (c *Client) Report(ctx context.Context, r AgentReport) error {
	r.SentMS = time.Now().UnixMilli()
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("marshal agent report: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.server+"/api/v1/agents", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	_, err = c.do(req, http.StatusNoContent, maxReportBytes)
	return err
}

const (
	// maxAnswer is what a client reads of an answer to a query.
	maxAnswer = 1 << 30
	// maxPushAnswer is how long an answer to a push may be.
	maxPushAnswer = 1 << 20
)

// Query asks a route of the API, as /api/v1/top, and decodes its JSON into answer.
func (c *Client) Query(ctx context.Context, route string, params url.Values, answer any) error {
	b, err := c.Get(ctx, route, params)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, answer); err != nil {
		return fmt.Errorf("%s of %s: %w", route, c.server, err)
	}
	return nil
}

// Get asks a route and returns its answer as it is: of /api/v1/pprof a gzipped profile.
func (c *Client) Get(ctx context.Context, route string, params url.Values) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.server+route+"?"+params.Encode(), nil)
	if err != nil {
		return nil, err
	}
	return c.do(req, http.StatusOK, maxAnswer)
}

// do returns the body of the answer that is wanted, up to a limit. Another answer is an error: a [profilestore.Error] with the
// server's words, where it has some.
func (c *Client) do(req *http.Request, want int, limit int64) ([]byte, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit))
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %s: %w", req.URL.Path, c.server, resp.Status, err)
	}
	if resp.StatusCode == want {
		return b, nil
	}
	var answer struct{ Error errorBody }
	if json.Unmarshal(b, &answer) != nil || answer.Error.Message == "" {
		return nil, fmt.Errorf("%s of %s: %s", req.URL.Path, c.server, resp.Status)
	}
	e := answer.Error
	return nil, fmt.Errorf("%s of %s: %s: %w", req.URL.Path, c.server, resp.Status, &profilestore.Error{Code: e.Code, Param: e.Param, Message: e.Message})
}
