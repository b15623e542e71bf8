package profilestore

import (
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"pilotlight/profilestore/flamegraph"
)

// Query says which profiles, and which value of them. From and To are Unix nanoseconds, half-open; From
// must not be after To. All matchers must match; they look at series and sample labels alike (see the package
// comment), and an absent label has the value "".
type Query struct {
	Type     ProfileType // zero: DefaultType
	Matchers []*labels.Matcher
	From, To int64
	Held     int64 // bytes of Options.QueryBytes that the same request has used: a diff is two queries
}

// ParseSelector reads a PromQL selector: {service_name="api", comm=~"w.*"}. "" and "{}" select everything.
// Regular expressions are anchored at both ends. The error is an [*Error] for the parameter "query".
func ParseSelector(s string) ([]*labels.Matcher, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return nil, nil
	}
	if s[0] != '{' {
		return nil, &Error{Code: BadRequest, Param: "query", Message: fmt.Sprintf(`query %.80q: write the labels in braces, as in {service_name="api"}; the kind of profile goes into "type"`, s)}
	}
	if strings.TrimSpace(strings.TrimSuffix(s[1:], "}")) == "" && strings.HasSuffix(s, "}") {
		return nil, nil
	}
	ms, err := parser.NewParser(parser.Options{}).ParseMetricSelector(s)
	if err != nil {
		return nil, &Error{Code: BadRequest, Param: "query", Message: fmt.Sprintf(`query %.80q: %v: write it as in {service_name="api", comm=~"w.*"}`, s, err), Err: err}
	}
	for _, m := range ms {
		if m.Name == "__name__" { // {"x"} and {__name__="x"} are PromQL for a metric's name
			return nil, &Error{Code: BadRequest, Param: "query", Message: fmt.Sprintf(`query %.80q: the kind of profile is not a label: name it in "type"`, s)}
		}
	}
	return ms, nil
}

// Result is the answer of [Store.Select].
type Result struct {
	Unit     string // of the values: the sample unit of the type
	Stacks   *flamegraph.Stacks
	Profiles int // profiles with at least one matching sample
	Damaged  int // matching profiles that are left out because their stored bytes are damaged
}

// Series is one line of a chart.
type Series struct {
	Labels Labels  // the labels of `by` that are present
	Points []Point // by time; steps without a profile are absent
}

// Point is the sum of the values of all profiles that start in [Time, Time+step).
type Point struct {
	Time  int64 // Unix nanoseconds, a multiple of the step
	Value int64
}

// Service is one value of service_name with what it used.
type Service struct {
	Name        string
	Value       int64 // in the unit of the query's type
	Profiles    int
	First, Last int64 // Unix nanoseconds: start of the first and of the last profile in the range
}

// ProfileInfo is one stored profile.
type ProfileInfo struct {
	ID       ID
	Name     string
	Labels   Labels // of the series
	Time     int64  // Unix nanoseconds
	Duration time.Duration
	Bytes    int   // as stored, compressed
	Value    int64 // of all its samples, in the unit of the query's type
}
