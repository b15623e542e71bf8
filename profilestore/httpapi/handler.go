package httpapi

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"net/url"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/gzhttp"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/time/rate"

	"pilotlight/profilestore"
	"pilotlight/profilestore/flamegraph"
)

// Options tune a handler. The zero value is the documented default.
type Options struct {
	UI         http.Handler          // answers GET of every path that is not the API's; nil: not found
	Agents     *Agents               // where agents' reports are kept; nil: in this handler alone
	Ready      func() error          // says why /-/ready is to answer 503; nil: always ready
	Gatherer   prometheus.Gatherer   // what /metrics shows; nil: the metrics of this handler alone
	Registerer prometheus.Registerer // takes pilotlight_query_seconds; nil: it is not registered, unless Gatherer is nil too
	Logger     *slog.Logger          // nil: slog.Default()
	Hosts      []string              // names by which clients without a token may call this server, without port, beside localhost and every IP address

	SourceRoot string // directory below which /api/v1/source finds source text; "": it serves none

	ReadTokens  *Tokens // who may read; nil: everybody
	WriteTokens *Tokens // who may write; nil: everybody

	// ClientCertificates asks for a certificate to write, of an authority that the server's TLSConfig trusts. Who
	// has none may use one of WriteTokens, if there are any.
	ClientCertificates bool
}

// NewHandler serves a store: the API of the package comment, and beside it /metrics, /debug/pprof/, /-/healthy
// and /-/ready. The store stays the caller's to close, after the server has shut down. Serve the handler by
// [NewServer], which has the timeouts that it counts on.
func NewHandler(store *profilestore.Store, o Options) http.Handler {
	a := newAPI(store, o)
	return a.record(a.trust(a.router()))
}

// NewStatusHandler serves /metrics, /-/healthy and /-/ready alone, as [NewHandler] does, for a process without a store.
func NewStatusHandler(o Options) http.Handler {
	a := newAPI(nil, o)
	a.anyHost = true // Prometheus calls it by any name, and there is nothing that a page of another site may not see
	r := a.newRouter()
	a.status(r)
	return a.record(a.trust(r))
}

// NewServer returns a server for h with the timeouts that keep a slow or silent client from holding a connection
// for good. Set Addr, or call Serve with a listener. Shutdown it to let answers under way end.
func NewServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       longest,         // a body of 32 MB at 0.3 MB/s; it also ends the context of what runs longer
		WriteTimeout:      longest,         // longer than wait and query together; bounds /debug/pprof/profile?seconds=
		IdleTimeout:       2 * time.Minute, // longer than a window, so that agents keep their connection
		MaxHeaderBytes:    64 << 10,
	}
}

// api is what the handlers share.
type api struct {
	store    *profilestore.Store
	agents   *Agents
	ui       http.Handler
	ready    func() error
	gatherer prometheus.Gatherer
	hosts    map[string]bool
	anyHost  bool // clients may call it by any name
	log      *slog.Logger
	badLog   *rate.Limiter // lines about what clients did wrong

	sourceRoot string

	readTokens, writeTokens *Tokens
	clientCertificates      bool

	merges   places
	lookups  places
	pushes   places
	bodies   *room
	answers  *room
	patience time.Duration
	seconds  *prometheus.HistogramVec
}

func newAPI(store *profilestore.Store, o Options) *api {
	a := &api{
		store:    store,
		agents:   o.Agents,
		ui:       o.UI,
		ready:    o.Ready,
		gatherer: o.Gatherer,
		hosts:    map[string]bool{"localhost": true},
		log:      o.Logger,

		sourceRoot:  o.SourceRoot,
		readTokens:  o.ReadTokens,
		writeTokens: o.WriteTokens,

		clientCertificates: o.ClientCertificates,

		badLog:   rate.NewLimiter(rate.Every(6*time.Second), 10),
		merges:   make(places, maxMerges),
		lookups:  make(places, maxLookups),
		pushes:   make(places, maxPushes),
		bodies:   newRoom(bodyBytes),
		answers:  newRoom(answerBytes),
		patience: patience,
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "pilotlight_query_seconds",
			Help:    "Time to answer a query, by route.",
			Buckets: prometheus.ExponentialBuckets(0.001, 3, 10), // 1 ms to 20 s
		}, []string{"route"}),
	}
	if a.agents == nil {
		a.agents = new(Agents)
	}
	if a.ui == nil {
		a.ui = http.HandlerFunc(notFound)
	}
	if a.ready == nil {
		a.ready = func() error { return nil }
	}
	if a.gatherer == nil {
		own := prometheus.NewRegistry()
		a.gatherer = own
		if o.Registerer == nil {
			o.Registerer = own
		}
	}
	if o.Registerer != nil {
		o.Registerer.MustRegister(a.seconds)
	}
	if a.log == nil {
		a.log = slog.Default()
	}
	for _, h := range o.Hosts {
		a.hosts[hostName(h)] = true
	}
	return a
}

// router maps methods and paths to handlers, all of them plain http.Handlers: echo does nothing else here.
type router struct {
	*echo.Echo
	api *api
}

func (a *api) newRouter() router {
	e := echo.New()
	// Only the router itself returns errors: for a method that the path does not have, and for an unknown path.
	e.HTTPErrorHandler = func(err error, c echo.Context) {
		allowed := ""
		if err == echo.ErrMethodNotAllowed {
			allowed = c.Response().Header().Get(echo.HeaderAllow)
		}
		a.require(accessRead, a.elsewhere(allowed)).ServeHTTP(c.Response().Writer, c.Request())
	}
	return router{e, a}
}

func (r router) add(ac access, method, path string, h http.Handler) {
	h = r.api.require(ac, h)
	r.Add(method, path, func(c echo.Context) error {
		r := c.Request()
		for _, name := range c.ParamNames() {
			r.SetPathValue(name, c.Param(name))
		}
		h.ServeHTTP(c.Response().Writer, r)
		return nil
	})
}

func (r router) get(ac access, path string, h http.Handler) {
	r.add(ac, http.MethodGet, path, h)
	r.add(ac, http.MethodHead, path, h)
}

// status has the routes of every process.
func (a *api) status(r router) {
	r.get(accessRead, "/metrics", promhttp.HandlerFor(a.gatherer, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(a.log.Handler(), slog.LevelError),
		MaxRequestsInFlight: 4,
	}))
	r.get(accessOpen, "/-/healthy", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { write(w, r, "healthy\n") }))
	r.get(accessOpen, "/-/ready", errorFunc(a.serveReady))
}

// router has all routes.
func (a *api) router() router {
	e := a.newRouter()
	a.status(e)
	get, add := e.get, e.add
	for _, q := range []struct {
		path string
		at   places
		f    http.Handler
	}{
		{"/api/v1/types", a.lookups, answer(a.types)},
		{"/api/v1/labels", a.lookups, answer(a.labels)},
		{"/api/v1/label/:name/values", a.lookups, answer(a.labelValues)},
		{"/api/v1/services", a.lookups, answer(a.services)},
		{"/api/v1/series", a.lookups, answer(a.series)},
		{"/api/v1/profiles", a.lookups, answer(a.profiles)},
		{"/api/v1/agents", a.lookups, answer(a.listAgents)},
		{"/api/v1/flamegraph", a.merges, errorFunc(a.flamegraph)},
		{"/api/v1/top", a.merges, answer(a.top)},
		{"/api/v1/sandwich", a.merges, answer(a.sandwich)},
		{"/api/v1/source", a.merges, answer(a.source)},
		{"/api/v1/pprof", a.merges, errorFunc(a.pprof)},
		{"/api/v1/export", a.merges, errorFunc(a.export)},
	} {
		get(accessRead, q.path, a.query(q.path, q.at, compress(q.f)))
	}
	add(accessWrite, http.MethodPost, "/api/v1/agents", errorFunc(a.putAgent))
	push := connect.NewUnaryHandler(pushProcedure, a.push, connect.WithReadMaxBytes(maxInflated))
	add(accessWrite, http.MethodPost, pushProcedure, a.pushing(messages(counted(connected(push)))))
	add(accessWrite, http.MethodPost, "/ingest", a.pushing(a.ingest))
	for name, h := range a.querier() {
		add(accessRead, http.MethodPost, querierPrefix+name, h)
	}

	get(accessRead, "/debug/pprof/*", http.HandlerFunc(pprof.Index))
	get(accessRead, "/debug/pprof/cmdline", http.HandlerFunc(pprof.Cmdline))
	get(accessRead, "/debug/pprof/profile", http.HandlerFunc(pprof.Profile))
	get(accessRead, "/debug/pprof/symbol", http.HandlerFunc(pprof.Symbol))
	add(accessRead, http.MethodPost, "/debug/pprof/symbol", http.HandlerFunc(pprof.Symbol))
	get(accessRead, "/debug/pprof/trace", http.HandlerFunc(pprof.Trace))
	return e
}

// elsewhere serves what no route has: the page. allowed are the methods that the path has, if it has any.
func (a *api) elsewhere(allowed string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case allowed != "":
			writeError(w, r, &profilestore.Error{Code: codeMethodNotAllowed, Message: fmt.Sprintf("%s %.80s: use %s", r.Method, r.URL.Path, allowed)})
		case own(r.URL.Path) || r.Method != http.MethodGet && r.Method != http.MethodHead:
			notFound(w, r)
		default:
			a.ui.ServeHTTP(w, r)
		}
	})
}

// own says whether a path belongs to the API even if no route has it.
func own(path string) bool {
	first, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return first == "api" || first == "debug" || first == "-" || path == "/ingest" || rest != "" && strings.Contains(first, ".v1.")
}

func notFound(w http.ResponseWriter, r *http.Request) {
	writeError(w, r, &profilestore.Error{Code: codeNotFound, Message: fmt.Sprintf("no such path: %.80s", (&url.URL{Path: r.URL.Path}).String())})
}

// errorFunc is a handler whose error becomes the answer; then it must not have written.
type errorFunc func(http.ResponseWriter, *http.Request) error

func (f errorFunc) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := f(w, r); err != nil {
		writeError(w, r, err)
	}
}

// jsonFunc is a handler that answers JSON.
type jsonFunc func(*http.Request) (any, error)

func answer(f jsonFunc) http.Handler {
	return errorFunc(func(w http.ResponseWriter, r *http.Request) error {
		v, err := f(r)
		if err != nil {
			return err
		}
		writeJSON(w, r, http.StatusOK, v)
		return nil
	})
}

func (a *api) serveReady(w http.ResponseWriter, r *http.Request) error {
	recordOf(r.Context()).probe = true
	if err := a.ready(); err != nil {
		return &profilestore.Error{Code: profilestore.Unavailable, Message: err.Error()}
	}
	write(w, r, "ready\n")
	return nil
}

// compress packs answers for clients that take zstd or gzip.
func compress(h http.Handler) http.Handler {
	wrap, err := gzhttp.NewWrapper(gzhttp.ContentTypes([]string{"application/json", "text/plain", "image/svg+xml", flamegraph.ColumnsType}))
	if err != nil {
		panic(err) // the options above are wrong
	}
	return wrap(h)
}
