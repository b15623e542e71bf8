// Package httpapi is both ends of Pilotlight's HTTP API: [NewHandler] serves a store, [Client] sends profiles to
// such a server. All sizes are bytes, all values of a profile are in the "unit" beside them.
//
// # Queries
//
// Everything under /api/v1/ is GET and answers JSON, except where a route says otherwise. The parameters common
// to all of them:
//
//	query  a PromQL selector, {service_name="api", comm=~"w.*"}; "" and {} select everything
//	from   start of the range, included; missing: one hour before to
//	to     end of the range, excluded; missing: now
//	type   profile type; missing: process_cpu:cpu:nanoseconds:cpu:nanoseconds; not taken by /types
//
// Times are RFC 3339, Unix seconds with up to nine decimals, now, or now minus a duration (now-90s, now-15m,
// now-1h, now-7d). A parameter that a route does not know is refused, as is one given twice. JSON is gzipped or
// zstd for clients that take it.
//
//	/api/v1/types
//	    {"types": ["process_cpu:cpu:nanoseconds:cpu:nanoseconds"]}
//	/api/v1/labels
//	    {"labels": ["comm", "service_name"]}
//	/api/v1/label/{name}/values
//	    {"values": ["api", "db"]}
//	/api/v1/services                [ServicesAnswer]
//	/api/v1/series                  [SeriesAnswer]; also by=, step=
//	/api/v1/flamegraph              [FlamegraphAnswer]; also filter=, b.*=, root=, max_nodes=, inverted=
//	/api/v1/top                     [TopAnswer]; also filter=, b.*=
//	/api/v1/sandwich                [SandwichAnswer]; also filter=, b.*=, function=, max_nodes=
//	/api/v1/source                  [SourceAnswer]; also function=, filter=
//	/api/v1/profiles                [ProfilesAnswer]; also limit=
//	/api/v1/pprof                   a gzipped pprof file; also filter=, seconds=
//	/api/v1/export                  a file for another tool: format= folded, speedscope, firefox or svg; also filter=
//	/api/v1/agents                  {"agents": [...]}, each an [AgentReport]; takes no parameters
//
// by= names labels, separated by commas or given more than once. step= is a duration of at least 1s, 30s or
// 5m; missing, it is a round multiple of the samplers' 10 s window that gives at most 300 points. root= is the
// path of functions that the graph shall start from, as flamegraph.ParsePath reads it; max_nodes= is 1 to
// 1,000,000, missing 16,384. limit= is 1 to 1,000, missing 100. seconds= takes the place of from: the
// last so many seconds before to of which there are profiles; `go tool pprof -seconds` sets it.
//
// filter= is kind:expression, where the kind is focus, ignore, hide, show_from or collapse (see flamegraph.Filter);
// given more than once, filters are applied in their order. In pprof's own order, which is this one, the answer is
// pprof's; collapse is not one of pprof's options, and takes direct recursion out. "removed" is what each filter
// dropped. With inverted=true the flame graph is that of flamegraph.Invert, and root= begins innermost.
//
// b.query=, b.from= and b.to= make the answer a diff: "self_b" and the like stand for the second selection.
// What is not given is as in the first; of a range with one end, the other is as far away as in the first. With
// normalize=true the nodes and rows are ordered and pruned by their share of the total of their side; the
// values stay as they are.
//
// With Accept: application/x-pilotlight-columns a flame graph comes as flamegraph.Graph.AppendColumns writes
// it, and what it was made from in the headers Pilotlight-Profiles, -Damaged, -Removed (one for each filter), -Profiles-B and -Damaged-B.
//
// # Writing
//
// POST /push.v1.PusherService/Push is Pyroscope's push API in the Connect protocol, protobuf or JSON, as its
// clients and Alloy speak it. A request is one batch: stored as a whole and durable when it is answered, or
// refused as a whole. The body may be gzipped or zstd, 32 MB at most, 64 MB inflated, and so may all profiles in
// it together, and 500,000 series, labels and profiles. The label __name__ is the kind of profile; other labels that begin with two underscores are the
// sender's own and are not stored. RawSample.id makes a retry harmless. A profile starts at its time_nanos, or,
// without one, at its arrival less its duration.
//
// POST /ingest is the API of Pyroscope's older clients: one profile, pprof (format=pprof, or a form with a part
// named profile) or folded, whose name{tags}, from, until and sampleRate are in the URL. The name is the
// service_name, unless a tag is; at the end of the name of a folded profile .cpu, .wall, .alloc_space and the
// like say what was counted.
//
// POST /api/v1/agents takes an [AgentReport] and answers 204.
//
// # Grafana
//
// Grafana's Pyroscope data source reads this server as it is: POST /querier.v1.QuerierService/ProfileTypes,
// LabelNames, LabelValues, Series, SelectSeries, SelectMergeStacktraces, SelectMergeProfile and Diff, in the
// Connect protocol. The label __profile_type__ stands for the type there. What would narrow an answer and is
// not known here (spans, traces, single profiles) is refused as unimplemented.
//
// # Errors
//
//	{"error":{"code":"bad_request","message":"from is after to: swap them","param":"from","request_id":"5f0c..."}}
//
// param is absent where no parameter is to blame. The codes and their statuses:
//
//	bad_request 400, unauthenticated 401, forbidden 403, not_found 404, method_not_allowed 405, payload_too_large 413,
//	unprocessable 422 (too much memory or time), too_many_requests 429, internal 500, unavailable 503,
//	insufficient_storage 507
//
// Push answers in Connect's form, {"code":"invalid_argument","message":"..."}; 413, 429 and 507 are
// resource_exhausted there, and what takes too much time is deadline_exceeded; /ingest answers that by 503. Every
// answer carries its request ID in X-Request-Id, which a request may choose.
//
// # Trust
//
// With [Options].ReadTokens what shows something needs a token of theirs, with WriteTokens what stores
// something; /-/healthy and /-/ready never do. A token comes as Authorization: Bearer, or as the password of
// Basic with any user name: browsers and `go tool pprof` send nothing else. A token of the other kind is
// answered by 403, another or none by 401.
//
// Against DNS rebinding the Host of a request must be an IP address, localhost, or one of [Options].Hosts,
// unless what it asks for needs a token, or is a probe. An Origin, when a browser sends one, must be the Host
// itself. So other sites' pages neither read nor write. Queries and pushes are limited in number and in time; a client that hangs up
// ends its query. Who sends a body or reads an answer at less than 64 KB in 10 s is cut off, and takes no place
// of the others while it lasts.
package httpapi
