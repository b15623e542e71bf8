package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/pprof/profile"

	"pilotlight/profilestore"
)

// ingest takes one profile as Pyroscope's older clients send it: all that is not the profile is in the URL.
func (a *api) ingest(_ http.ResponseWriter, r *http.Request, b *body) error {
	params, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return badRequest("", "read parameters: %v: escape ; as %%3B and %% as %%25", err)
	}
	e, err := readIngest(params, r.Header.Get("Content-Type"), b, time.Now())
	if err != nil {
		return err
	}
	if len(e.Pprof) == 0 {
		return nil // of a folded profile without a stack nothing is left
	}
	err = a.store.Append(r.Context(), []profilestore.Encoded{*e})
	if errors.Is(err, context.DeadlineExceeded) {
		// Its clients give up a profile that is answered by 422.
		return &profilestore.Error{Code: profilestore.Unavailable, Message: asError(err).Message, Err: err}
	}
	return err
}

// readIngest makes the profile of a request that came at now.
func readIngest(params url.Values, contentType string, b *body, now time.Time) (*profilestore.Encoded, error) {
	app, tags, err := parseAppName(params.Get("name"))
	if err != nil {
		return nil, err
	}
	until, err := ingestTime(params, "until", now, now.UnixNano())
	if err != nil {
		return nil, err
	}
	from, err := ingestTime(params, "from", now, until)
	if err != nil {
		return nil, err
	}
	if from > until {
		return nil, badRequest("from", "from is after until: swap them")
	}
	e := &profilestore.Encoded{Time: from, Duration: time.Duration(until - from)}
	mediaType, mediaParams, err := mime.ParseMediaType(contentType)
	if err != nil {
		mediaType = "" // some clients send words of their own
	}
	switch format := params.Get("format"); {
	case mediaType == "multipart/form-data":
		err = readForm(e, multipart.NewReader(&b.chunks, mediaParams["boundary"]), b.size)
	case format == "pprof":
		if e.Pprof, err = readAll(&b.chunks, b.size); err == nil {
			err = describePprof(e, nil)
		}
	case (format == "" || format == "folded" || format == "collapsed" || format == "groups" || format == "lines") &&
		!strings.HasPrefix(mediaType, "binary/octet-stream+"):
		app, err = readFolded(e, app, params, &b.chunks, format == "lines")
	default:
		err = badRequest("format", "format %.40q, content type %.40q: send pprof or folded", format, contentType)
	}
	if err != nil {
		return nil, err
	}
	if !params.Has("from") {
		e.Time, e.Duration = 0, 0 // the profile's own
	}
	if tags["service_name"] == "" {
		tags["service_name"] = app
	} else if tags["app_name"] == "" {
		tags["app_name"] = app
	}
	e.Labels = profilestore.NewLabels(tags)
	return e, nil
}

// parseAppName reads name{tag=value,tag=value}. Tags that begin with two underscores are the sender's own.
func parseAppName(s string) (app string, tags map[string]string, err error) {
	bad := func() (string, map[string]string, error) {
		return "", nil, badRequest("name", "name %.80q: write the name of the application, and its tags in braces, as in api{region=eu,pod=a}", s)
	}
	app, rest, braced := strings.Cut(s, "{")
	app = strings.TrimSpace(app)
	tags = make(map[string]string)
	if app == "" {
		return bad()
	}
	if !braced {
		return app, tags, nil
	}
	rest, closed := strings.CutSuffix(strings.TrimSpace(rest), "}")
	if !closed {
		return bad()
	}
	for pair := range strings.SplitSeq(rest, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return bad()
		}
		if !strings.HasPrefix(name, "__") {
			tags[labelName(name)] = strings.TrimSpace(value)
		}
	}
	return app, tags, nil
}

// labelName makes a label that a selector can name: tags may have dots and dashes.
func labelName(tag string) string {
	return strings.Map(func(c rune) rune {
		if c == '.' || c == '-' || c == '/' {
			return '_'
		}
		return c
	}, tag)
}

// ingestTime reads what clients of different ages send: Unix seconds, milliseconds, microseconds or
// nanoseconds, told apart by their size; or a time of this API.
func ingestTime(params url.Values, name string, now time.Time, missing int64) (int64, error) {
	s := params.Get(name)
	if s == "" {
		return missing, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 1e11 {
		for n < 1e17 {
			n *= 1000
		}
		return n, nil
	}
	t, err := parseTime(s, now)
	if err != nil {
		return 0, badRequest(name, "%s: %v", name, err)
	}
	return t, nil
}

// sampleTypeConfig is what a client says of a sample type of its profile; what is not read here does not matter
// to this store.
type sampleTypeConfig struct {
	DisplayName string `json:"display-name"`
}

// readAll reads what has at most size bytes into one slice: io.ReadAll would leave several behind.
func readAll(rd io.Reader, size int64) ([]byte, error) {
	b := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead))
	_, err := b.ReadFrom(rd)
	return b.Bytes(), err
}

const maxConfig = 64 << 10

// readForm reads a pprof profile and its configuration from the parts of a form that has size bytes.
func readForm(e *profilestore.Encoded, form *multipart.Reader, size int64) error {
	var config map[string]sampleTypeConfig
	for {
		part, err := form.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return badRequest("", "read form: %v", err)
		}
		switch name := part.FormName(); {
		case name == "profile" && e.Pprof == nil:
			if e.Pprof, err = readAll(part, size); err != nil {
				return badRequest("", "read form: %v", err)
			}
		case name == "profile":
			return badRequest("", "form has two parts named profile: send one")
		case name == "prev_profile":
			return badRequest("", "form has a prev_profile: send profiles that do not need the one before")
		case name == "sample_type_config":
			if err := json.NewDecoder(io.LimitReader(part, maxConfig)).Decode(&config); err != nil {
				return badRequest("", "sample_type_config is not JSON of at most %d KB: %v", maxConfig>>10, err)
			}
		}
	}
	if len(e.Pprof) == 0 {
		return badRequest("", "form has no part named profile: send a pprof profile in it")
	}
	return describePprof(e, config)
}

// describePprof finds out what kind of profile it is by its sample types, as the sender names them.
func describePprof(e *profilestore.Encoded, config map[string]sampleTypeConfig) error {
	types, err := sampleTypes(e.Pprof)
	if err != nil {
		return err
	}
	for _, t := range types {
		if name := config[t].DisplayName; name != "" {
			t = name
		}
		for _, k := range []struct{ part, name string }{
			{"wall", "wall"}, {"cpu", "process_cpu"}, {"alloc_", "memory"}, {"inuse_", "memory"},
			{"mutex_", "mutex"}, {"block_", "block"}, {"goroutine", "goroutine"},
		} {
			if strings.Contains(t, k.part) {
				e.Name = k.name
				return nil
			}
		}
	}
	e.Name = "other"
	if len(types) == 1 && types[0] == "samples" {
		e.Name = "process_cpu"
	}
	return nil
}

// kind is what the values of a folded profile are.
type kind struct {
	name, sampleType, unit string
	sampled                bool // the numbers count samples, each of which stands for some time
}

// folded has the kinds by the suffix of the application's name that stands for them.
var folded = map[string]kind{
	"cpu":            {"process_cpu", "cpu", "nanoseconds", true},
	"itimer":         {"process_cpu", "cpu", "nanoseconds", true},
	"wall":           {"wall", "wall", "nanoseconds", true},
	"alloc_objects":  {"memory", "alloc_objects", "count", false},
	"alloc_space":    {"memory", "alloc_space", "bytes", false},
	"inuse_objects":  {"memory", "inuse_objects", "count", false},
	"inuse_space":    {"memory", "inuse_space", "bytes", false},
	"goroutines":     {"goroutine", "goroutines", "count", false},
	"mutex_count":    {"mutex", "contentions", "count", false},
	"mutex_duration": {"mutex", "delay", "nanoseconds", false},
	"block_count":    {"block", "contentions", "count", false},
	"block_duration": {"block", "delay", "nanoseconds", false},
	"exceptions":     {"exceptions", "samples", "count", false},
}

const defaultRate = 100 // samples a second, of a folded profile that does not say

// readFolded turns lines of text into a profile, and takes the kind from the application's name.
func readFolded(e *profilestore.Encoded, app string, params url.Values, rd io.Reader, one bool) (string, error) {
	k := folded["cpu"]
	if i := strings.LastIndexByte(app, '.'); i > 0 {
		if named, ok := folded[app[i+1:]]; ok {
			app, k = app[:i], named
		}
	}
	if units := params.Get("units"); k.sampled && units != "" && units != "samples" {
		return "", badRequest("units", "units %.40q: name what they count at the end of the name, as in api.alloc_space, api.inuse_objects or api.wall", units)
	}
	rate := defaultRate
	if s := params.Get("sampleRate"); s != "" {
		var err error
		if rate, err = strconv.Atoi(s); err != nil || rate < 1 || rate > 1e6 {
			return "", badRequest("sampleRate", "sampleRate %.40q: send samples a second, 1 to 1000000", s)
		}
	}
	stacks, err := parseFolded(rd, one)
	if err != nil {
		return "", err
	}
	e.Name = k.name
	if len(stacks) == 0 {
		return app, nil
	}
	p, err := k.profile(stacks, int64(time.Second)/int64(rate))
	if err != nil {
		return "", err
	}
	p.TimeNanos, p.DurationNanos = e.Time, int64(e.Duration)
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		return "", fmt.Errorf("encode folded profile: %w", err)
	}
	e.Pprof = b.Bytes()
	return app, nil
}

const (
	maxFoldedLine   = 4 << 20
	maxFoldedStacks = 65_536  // of a profile; what the store takes
	maxFoldedNames  = 262_144 // of functions; what the store takes
	maxFoldedFrames = 8 << 20 // of all stacks together
	maxFoldedValue  = 1 << 40 // of a line; times the longest period it still fits
)

// parseFolded reads a stack a line, root first, its frames parted by semicolons, and after a space its value:
// main;work 12. With one, lines have no value and each is worth 1.
func parseFolded(rd io.Reader, one bool) (map[string]int64, error) {
	stacks := make(map[string]int64)
	frames := 0
	lines := bufio.NewScanner(rd)
	lines.Buffer(nil, maxFoldedLine)
	number := 0
	for lines.Scan() {
		number++
		stack, value := strings.TrimSpace(lines.Text()), int64(1)
		if stack == "" {
			continue
		}
		if !one {
			i := strings.LastIndexByte(stack, ' ')
			var err error
			if i > 0 {
				value, err = strconv.ParseInt(stack[i+1:], 10, 64)
			}
			if i <= 0 || err != nil || value < 0 {
				return nil, badRequest("", "line %d %.80q: write frames;parted;by;semicolons, a space and a whole number", number, stack)
			}
			stack = strings.TrimSpace(stack[:i])
		}
		if value == 0 {
			continue
		}
		if _, ok := stacks[stack]; !ok {
			frames += strings.Count(stack, ";") + 1
			if len(stacks) == maxFoldedStacks || frames > maxFoldedFrames {
				return nil, &profilestore.Error{Code: profilestore.PayloadTooLarge, Message: fmt.Sprintf("a folded profile of more than %d stacks or %d frames: send shorter profiles", maxFoldedStacks, maxFoldedFrames)}
			}
		}
		if stacks[stack] += value; stacks[stack] > maxFoldedValue {
			return nil, badRequest("", "line %d: the value of its stack exceeds 2^40", number)
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return nil, &profilestore.Error{Code: profilestore.PayloadTooLarge, Message: fmt.Sprintf("line %d is above %d MB: send shorter stacks", number+1, maxFoldedLine>>20)}
	}
	return stacks, lines.Err()
}

// profile makes pprof of the stacks. A sample stands for period nanoseconds.
func (k kind) profile(stacks map[string]int64, period int64) (*profile.Profile, error) {
	p := &profile.Profile{SampleType: []*profile.ValueType{{Type: k.sampleType, Unit: k.unit}}, PeriodType: &profile.ValueType{}}
	if k.sampled {
		p.SampleType = append([]*profile.ValueType{{Type: "samples", Unit: "count"}}, p.SampleType...)
		p.PeriodType, p.Period = &profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, period
	}
	locations := make(map[string]*profile.Location)
	for _, stack := range slices.Sorted(maps.Keys(stacks)) { // so that a retry is the same profile
		s := &profile.Sample{Value: []int64{stacks[stack]}}
		if k.sampled {
			s.Value = append(s.Value, stacks[stack]*period)
		}
		for name := range strings.SplitSeq(stack, ";") {
			l := locations[name]
			if l == nil {
				if len(locations) == maxFoldedNames {
					return nil, &profilestore.Error{Code: profilestore.PayloadTooLarge, Message: fmt.Sprintf("a folded profile of more than %d functions: send shorter profiles", maxFoldedNames)}
				}
				id := uint64(len(locations) + 1)
				f := &profile.Function{ID: id, Name: name, SystemName: name}
				l = &profile.Location{ID: id, Line: []profile.Line{{Function: f}}}
				locations[name] = l
				p.Function, p.Location = append(p.Function, f), append(p.Location, l)
			}
			s.Location = append(s.Location, l)
		}
		slices.Reverse(s.Location) // pprof has the leaf first
		p.Sample = append(p.Sample, s)
	}
	return p, nil
}
