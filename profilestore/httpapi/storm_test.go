package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"pilotlight/profilestore"
)

// deepStacks are n stacks of a depth, of 1,000 functions at most; those that are near each other share callers.
func deepStacks(n, depth int) stacks {
	ss := make(stacks, n)
	for i := range n {
		var b strings.Builder
		b.WriteString("main")
		for level := 1; level < depth; level++ {
			fmt.Fprintf(&b, ";f%d", (i*level*level/(depth*depth)+7*level)%1000)
		}
		ss[b.String()] = int64(1 + i%3)
	}
	return ss
}

// queryStorm has readers ask for everything, all at once and again and again, while profiles are pushed. Each answer
// has all that was acknowledged before it was asked for and nothing that was not sent when it came, and no push is
// refused. It says how long pushes took before there were readers, and beside them, and how many queries were told to
// come again.
func queryStorm(t *testing.T, readers, each, profiles int, ss stacks) (alone, beside []time.Duration, answers, refusals int) {
	s := newTestServer(t, newTestStore(t), Options{})
	transport := &http.Transport{MaxIdleConnsPerHost: readers}
	defer transport.CloseIdleConnections()
	c, err := NewClient(s.URL, ClientOptions{HTTP: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	perProfile := int64(0)
	for _, n := range ss {
		perProfile += n * testPeriod
	}
	base := testBase()
	var sent, acked atomic.Int64
	push := func() time.Duration {
		n := sent.Load()
		e := encode(t, fmt.Sprint("service", n%7), fmt.Sprint(n%5), base.Add(time.Duration(n)*time.Second/20), ss)
		e.ID = profilestore.ID{0: 2, 14: byte(n >> 8), 15: byte(n)}
		sent.Add(1)
		began := time.Now()
		if err := c.Append(t.Context(), []profilestore.Encoded{e}); err != nil {
			t.Errorf("push: %v", err)
			return 0
		}
		acked.Add(1)
		return time.Since(began)
	}
	for range profiles {
		alone = append(alone, push())
	}
	path := func(route string) string { return "/api/v1/" + route + during(base, -3600, 3600) }
	var refused atomic.Int64
	var ask func(path string) ([]byte, error)
	ask = func(path string) ([]byte, error) {
		resp, err := (&http.Client{Transport: transport}).Get(s.URL + path)
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err == nil && resp.StatusCode == http.StatusTooManyRequests {
			refused.Add(1)
			return ask(path) // it has waited for ten seconds already
		}
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s: %.200s", path, resp.Status, b)
		}
		return b, err
	}
	total := func(route string) (int64, error) {
		var ans struct{ Total int64 }
		b, err := ask(path(route))
		if err == nil {
			err = json.Unmarshal(b, &ans)
		}
		return ans.Total, err
	}
	totals := []func() (int64, error){
		func() (int64, error) { return total("flamegraph") },
		func() (int64, error) { return total("top") },
		func() (sum int64, err error) {
			var ans SeriesAnswer
			b, err := ask(path("series"))
			if err == nil {
				err = json.Unmarshal(b, &ans)
			}
			for _, one := range ans.Series {
				for _, p := range one.Points {
					sum += p[1]
				}
			}
			return sum, err
		},
		func() (sum int64, err error) {
			b, err := ask(path("pprof"))
			if err != nil {
				return 0, err
			}
			p, err := profile.ParseData(b)
			if err != nil {
				return 0, err
			}
			for _, sample := range p.Sample {
				sum += sample.Value[1]
			}
			return sum, nil
		},
	}
	var reading sync.WaitGroup
	var count atomic.Int64
	for i := range readers {
		reading.Go(func() {
			for j := range each {
				least := acked.Load()
				got, err := totals[(i+j)%len(totals)]()
				if most := sent.Load(); err != nil || got < least*perProfile || got > most*perProfile || got%perProfile != 0 {
					t.Errorf("query %d of reader %d: %d is not that of %d to %d profiles of %d, %v", j, i, got, least, most, perProfile, err)
					return
				}
				count.Add(1)
			}
		})
	}
	done := make(chan struct{})
	go func() { reading.Wait(); close(done) }()
	for {
		select {
		case <-done:
			slices.Sort(alone)
			slices.Sort(beside)
			return alone, beside, int(count.Load()), int(refused.Load())
		default:
			beside = append(beside, push())
		}
	}
}

// TestQueriesBesideIngest is a small TestVerifyQueriesBesideIngest.
func TestQueriesBesideIngest(t *testing.T) {
	_, beside, answers, _ := queryStorm(t, 100, 2, 20, deepStacks(30, 10))
	if answers != 200 || len(beside) == 0 {
		t.Errorf("%d answers, %d profiles pushed beside them", answers, len(beside))
	}
}
