//go:build verify

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/pprof/profile"
	"github.com/klauspost/compress/gzip"
	"google.golang.org/protobuf/encoding/protowire"

	"pilotlight/cmd/pilotlight/agent"
	"pilotlight/profilestore"
	"pilotlight/profilestore/httpapi"
	"pilotlight/profilestore/httpapi/pyroscope"
	"pilotlight/testdata/loads"
)

const (
	fleetProcesses = 50 // of each agent
	fleetVariants  = 4  // profiles of each process, which come in turn
	fleetWindows   = 6  // at each size
)

var (
	fleetAgents = flag.Int("agents", 200, "the most agents of TestVerifyFleet")
	fleetFlood  = flag.Duration("flood", time.Minute, "how long they send as fast as the server takes it")
)

// TestVerifyFleet has 10, 50 and 200 agents send to one server what was recorded of the mix on this machine, with hosts,
// pids and times of their own: every window to the second when it ends, as agents do. It holds that the server takes all of
// it before the next window, and that what an agent costs does not grow with their number. Then they send as fast as the
// server takes it, as after an outage of all.
func TestVerifyFleet(t *testing.T) {
	const growthGate = 1.3 // of the CPU time of a profile, from the fewest agents to the most
	needRoot(t)
	recorded := recordWindows(t)
	var fewest, most float64
	sizes := []int{10, 50, *fleetAgents}
	for _, n := range sizes {
		f := newFleet(t, recorded, n)
		cost := f.replay(t)
		if n == sizes[0] {
			fewest = cost
		}
		most = cost
		if n == sizes[len(sizes)-1] {
			f.flood(t, *fleetFlood)
		}
		if err := f.server.stop(); err != nil {
			t.Error(err)
		}
	}
	t.Logf("CPU of the server for a profile: %.2f times as much with %d agents as with %d", most/fewest, sizes[len(sizes)-1], sizes[0])
	if most > growthGate*fewest {
		t.Errorf("a profile takes %.2f ms of CPU with %d agents and %.2f with %d", most, sizes[len(sizes)-1], fewest, sizes[0])
	}
}

// recordWindows has an agent profile the mix for a minute and returns the profiles of each process in the order of time.
func recordWindows(t *testing.T) [][]profilestore.Encoded {
	t.Helper()
	var mu sync.Mutex
	recorded := make(map[string][]profilestore.Encoded) // by labels and pid
	const push = "/push.v1.PusherService/Push"
	routes := http.NewServeMux()
	routes.Handle(push, connect.NewUnaryHandler(push, func(_ context.Context, r *connect.Request[pyroscope.PushRequest]) (*connect.Response[pyroscope.PushResponse], error) {
		mu.Lock()
		defer mu.Unlock()
		for _, s := range r.Msg.Series {
			labels := make(map[string]string)
			for _, l := range s.Labels {
				labels[l.Name] = l.Value
			}
			e := profilestore.Encoded{Name: labels["__name__"], Pprof: s.Samples[0].RawProfile}
			delete(labels, "__name__")
			e.Labels = profilestore.NewLabels(labels)
			p, err := profile.ParseData(e.Pprof)
			if err != nil {
				return nil, err
			}
			key := fmt.Sprint(e.Labels, p.Sample[0].Label["pid"])
			recorded[key] = append(recorded[key], e)
		}
		return connect.NewResponse(new(pyroscope.PushResponse)), nil
	}))
	routes.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	server := httptest.NewServer(routes)
	defer server.Close()

	if err := loads.Build(t.Context(), "mix"); err != nil {
		t.Fatal(err)
	}
	a := startAgent(t, filepath.Join(makeDir(t), "agent"), server.URL, "--frequency", "19", "--log-level", "info")
	load, err := loads.Start(t.Context(), "mix", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := load.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	// Those of most profiles first: they lived as long as the recording.
	keys := slices.SortedFunc(maps.Keys(recorded), func(a, b string) int {
		return cmp.Or(len(recorded[b])-len(recorded[a]), cmp.Compare(a, b))
	})
	var processes [][]profilestore.Encoded
	count, size := 0, 0
	for _, key := range keys[:min(len(keys), fleetProcesses)] {
		processes = append(processes, recorded[key])
		for _, e := range recorded[key] {
			count++
			size += len(e.Pprof)
		}
	}
	if count < fleetProcesses {
		t.Fatalf("%d profiles of %d processes were recorded: too few to go round", count, len(keys))
	}
	t.Logf("recorded: %d profiles of %d processes, %.1f KB each", count, len(processes), float64(size)/float64(count)/1000)
	return processes
}

// fleet is a server and the agents that send to it.
type fleet struct {
	server *server
	client *httpapi.Client
	agents []*simulated
	sent   int     // windows of each
	each   float64 // bytes of log of a profile
}

// simulated is an agent: of each of its processes some profiles, without time.
type simulated struct {
	number    int
	processes [fleetProcesses][fleetVariants]profilestore.Encoded
}

func newFleet(t *testing.T, recorded [][]profilestore.Encoded, agents int) *fleet {
	t.Helper()
	f := &fleet{server: startStore(t, filepath.Join(makeDir(t), "store"), "127.0.0.1:0")}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = agents
	t.Cleanup(transport.CloseIdleConnections)
	var err error
	if f.client, err = httpapi.NewClient(f.server.url, httpapi.ClientOptions{HTTP: &http.Client{Transport: transport}}); err != nil {
		t.Fatal(err)
	}
	for n := range agents {
		s := &simulated{number: n}
		for i := range s.processes {
			// Where fewer processes were recorded, several are alike, but for when they do what.
			of := recorded[i%len(recorded)]
			for v := range s.processes[i] {
				e, err := s.impersonate(of[(i/len(recorded)+n+v)%len(of)], i)
				if err != nil {
					t.Fatal(err)
				}
				s.processes[i][v] = e
			}
		}
		f.agents = append(f.agents, s)
	}
	return f
}

// impersonate returns a recorded profile as that of a process of this agent.
func (s *simulated) impersonate(e profilestore.Encoded, process int) (profilestore.Encoded, error) {
	p, err := profile.ParseData(e.Pprof)
	if err != nil {
		return e, err
	}
	p.TimeNanos = 0 // and so is not written: send adds it
	for _, sample := range p.Sample {
		sample.Label["pid"] = []string{fmt.Sprint(1000 + s.number*fleetProcesses + process)}
	}
	labels := make(map[string]string)
	for _, l := range e.Labels {
		labels[l.Name] = l.Value
	}
	labels["hostname"] = fmt.Sprintf("node%03d", s.number)
	e.Labels = profilestore.NewLabels(labels)
	var plain bytes.Buffer
	if err := p.WriteUncompressed(&plain); err != nil {
		return e, err
	}
	e.Pprof, err = gzipped(plain.Bytes())
	return e, err
}

func gzipped(b []byte) ([]byte, error) {
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err == nil {
		_, err = z.Write(b)
	}
	if err == nil {
		err = z.Close()
	}
	return packed.Bytes(), err
}

// send sends the window that begins at a time.
func (s *simulated) send(client *httpapi.Client, window int, begin time.Time) error {
	const timeField = 9 // time_nanos of pprof's Profile
	// A second member of the gzip file: packing all of it anew would cost this process as much as the server.
	stamp, err := gzipped(protowire.AppendVarint(protowire.AppendTag(nil, timeField, protowire.VarintType), uint64(begin.UnixNano())))
	if err != nil {
		return err
	}
	batch := make([]profilestore.Encoded, fleetProcesses)
	for i := range batch {
		e := s.processes[i][window%fleetVariants]
		e.Pprof = append(slices.Clip(e.Pprof), stamp...)
		binary.BigEndian.PutUint64(e.ID[:], uint64(begin.UnixNano()))
		binary.BigEndian.PutUint32(e.ID[8:], uint32(s.number+1))
		binary.BigEndian.PutUint32(e.ID[12:], uint32(i))
		batch[i] = e
	}
	return client.Append(context.Background(), batch)
}

// serverUse is what a server has taken up to now.
type serverUse struct {
	cpu    time.Duration
	log    int64 // bytes of the log
	blocks int64 // bytes of blocks and dictionaries
}

func (f *fleet) use(t *testing.T) serverUse {
	t.Helper()
	u := serverUse{cpu: cpuOf(t, f.server.cmd.Process.Pid)}
	err := filepath.WalkDir(f.server.data, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // replaced by now
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if filepath.Base(filepath.Dir(path)) == "wal" {
			u.log += info.Size()
		} else {
			u.blocks += info.Size()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// replay has all agents send some windows, each when it ends, and returns the CPU time of the server for a profile in ms.
func (f *fleet) replay(t *testing.T) float64 {
	t.Helper()
	var mu sync.Mutex
	var took []time.Duration
	var failed error
	slowest, memory := time.Duration(0), uint64(0)
	before := f.use(t)
	start := time.Now().Truncate(agent.Window).Add(agent.Window)
	for w := range fleetWindows {
		end := start.Add(time.Duration(w) * agent.Window)
		time.Sleep(time.Until(end))
		var sending sync.WaitGroup
		for _, s := range f.agents {
			sending.Go(func() {
				time.Sleep(rand.N(time.Second)) // agents look at their rings twice a second, and have names to find
				begun := time.Now()
				err := s.send(f.client, w, end.Add(-agent.Window))
				mu.Lock()
				defer mu.Unlock()
				failed = errors.Join(failed, err)
				took = append(took, time.Since(begun))
			})
		}
		sending.Wait()
		slowest = max(slowest, time.Since(end))
		memory = max(memory, rssOf(t, f.server.cmd.Process.Pid))
	}
	f.sent = fleetWindows
	if failed != nil {
		t.Fatal(failed)
	}
	time.Sleep(time.Until(start.Add(fleetWindows * agent.Window)))
	after := f.use(t)
	profiles := len(took) * fleetProcesses
	each := (after.cpu - before.cpu).Seconds() * 1000 / float64(profiles)
	f.each = float64(after.log-before.log) / float64(profiles)
	slices.Sort(took)
	t.Logf("%3d agents x %d processes, %.0f profiles a second: server %.1f %% of a core, %.3f ms a profile, RSS %.0f MB, %.2f KB of log a profile; a window was stored after %v (median) and %v (most) of sending, all %v after it ended",
		len(f.agents), fleetProcesses, float64(profiles)/(fleetWindows*agent.Window).Seconds(), 100*(after.cpu-before.cpu).Seconds()/(fleetWindows*agent.Window).Seconds(), each, mb(memory),
		float64(after.log-before.log)/float64(profiles)/1000, took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), slowest.Round(time.Millisecond))
	if slowest > agent.Window {
		t.Errorf("a window was stored %v after it ended, when the next one had", slowest)
	}
	return each
}

// flood has all agents send windows of the past hours as fast as the server takes them.
func (f *fleet) flood(t *testing.T, d time.Duration) {
	t.Helper()
	var sending sync.WaitGroup
	var sent, refused atomic.Int64
	before := f.use(t)
	begun := time.Now()
	newest := begun.Truncate(agent.Window).Add(-time.Hour)
	memory := uint64(0)
	for _, s := range f.agents {
		sending.Go(func() {
			for w := 0; time.Since(begun) < d; {
				err := s.send(f.client, w, newest.Add(-time.Duration(w)*agent.Window))
				var busy interface{ RetryAfter() time.Duration }
				switch {
				case err == nil:
					sent.Add(fleetProcesses)
					w++
				case errors.As(err, &busy):
					refused.Add(1)
					time.Sleep(max(busy.RetryAfter(), time.Second))
				default:
					t.Error(err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { sending.Wait(); close(done) }()
	for over := false; !over; {
		select {
		case <-done:
			over = true
		case <-time.After(time.Second):
			memory = max(memory, rssOf(t, f.server.cmd.Process.Pid))
		}
	}
	took := time.Since(begun)
	// What has been acknowledged is in the log, a file of which becomes blocks when it is 48 MB, and blocks become one once a
	// minute. What they replace is kept for ten minutes, for whoever copies the directory.
	last := f.use(t)
	err := eventually(20*time.Minute, "what was sent has become blocks", func() bool {
		was := last
		time.Sleep(90 * time.Second)
		last = f.use(t)
		return last.log < 64<<20 && last.blocks == was.blocks
	})
	if err != nil {
		t.Error(err)
	}
	after := f.use(t)
	profiles := float64(sent.Load())
	t.Logf("as fast as it takes them, on %d CPUs that it shares with the senders: %.0f profiles a second for %v, %d answers to come again later; server %.1f %% of a core while they came, %.3f ms a profile, RSS %.0f MB",
		runtime.NumCPU(), profiles/took.Seconds(), took.Round(time.Second), refused.Load(), 100*(after.cpu-before.cpu).Seconds()/took.Seconds(), 1000*(after.cpu-before.cpu).Seconds()/profiles, mb(memory))
	inBlocks := profiles + float64(f.sent*len(f.agents)*fleetProcesses) - f.server.metric(t, "pilotlight_store_wal_bytes", "")/f.each
	perDay := float64(len(f.agents)*fleetProcesses) * float64(24*time.Hour/agent.Window)
	t.Logf("on disk: %.3f KB a profile in blocks and dictionaries, of %.0f profiles of which each process has %d to repeat: %.1f GB a day of %d agents; %.0f MB of log",
		float64(after.blocks)/inBlocks/1000, inBlocks, fleetVariants, perDay*float64(after.blocks)/inBlocks/1e9, len(f.agents), float64(after.log)/1e6)
}
