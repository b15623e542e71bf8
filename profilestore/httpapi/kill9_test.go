package httpapi

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pilotlight/profilestore"
)

// childDir is where the environment tells a child of the tests which store to serve, childAddress where.
const (
	childDir     = "PILOTLIGHT_TEST_STORE"
	childAddress = "PILOTLIGHT_TEST_ADDRESS"
)

// serveChild serves a store until it is killed. Its memory is so small that it writes and merges blocks all the time.
func serveChild(dir, address string) error {
	store, err := profilestore.Open(dir, profilestore.Options{MemoryBytes: 1 << 20})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	return NewServer(NewHandler(store, Options{Logger: slog.New(slog.DiscardHandler)})).Serve(l)
}

// startChild returns when the child is ready, and how long that took.
func startChild(t *testing.T, dir, address string) (*exec.Cmd, time.Duration) {
	t.Helper()
	began := time.Now()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, childAddress+"="+address)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() }) // of a test that failed; else it is long gone
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for time.Since(began) < time.Minute {
		resp, err := c.Get("http://" + address + "/-/ready")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return cmd, time.Since(began)
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
	killChild(t, cmd)
	t.Fatal("the server does not become ready")
	return nil, 0
}

func killChild(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var exit *exec.ExitError
	if err := errors.Join(cmd.Process.Kill(), ignoring(cmd.Wait(), &exit)); err != nil {
		t.Error(err)
	} else if status, ok := exit.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Errorf("the server ended with %v before it was killed", exit)
	}
}

func ignoring(err error, exit **exec.ExitError) error {
	if errors.As(err, exit) {
		return nil
	}
	return err
}

// sender pushes profiles, each of them until it is acknowledged.
type sender struct {
	number int
	sent   atomic.Int64 // profiles begun; all but those of the last batch are acknowledged
	acked  atomic.Int64
}

func (s *sender) id(n int64) profilestore.ID {
	id := profilestore.ID{0: 1, 1: byte(s.number)}
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	return id
}

func (s *sender) run(ctx context.Context, t *testing.T, address string) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	c, err := NewClient("http://"+address, ClientOptions{HTTP: &http.Client{Transport: transport}})
	if err != nil {
		t.Error(err)
		return
	}
	r := rand.New(rand.NewPCG(uint64(s.number), 9))
	for ctx.Err() == nil {
		n := s.sent.Load()
		batch := make([]profilestore.Encoded, 1+r.IntN(3))
		for i := range batch {
			id := n + int64(i)
			batch[i] = encode(t, fmt.Sprint("service", s.number), "1", time.Now(), stacks{fmt.Sprintf("main;work;leaf%d", id%97): 1, fmt.Sprint("main;new", id): 1})
			batch[i].ID = s.id(id)
		}
		s.sent.Add(int64(len(batch)))
		for c.Append(ctx, batch) != nil {
			if ctx.Err() != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		s.acked.Add(int64(len(batch)))
	}
}

// checkKilled counts what a directory has of all that was sent. acked is how many each sender had acknowledged.
func checkKilled(t *testing.T, dir string, senders []*sender, acked []int64) (lost, doubled int) {
	t.Helper()
	store, err := profilestore.OpenReadOnly(dir, profilestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	q := profilestore.Query{From: 0, To: math.MaxInt64}
	infos, err := store.Profiles(t.Context(), q, math.MaxInt32)
	if err != nil {
		t.Fatal(err)
	}
	times := make(map[profilestore.ID]int)
	for _, i := range infos {
		times[i.ID]++
	}
	for i, s := range senders {
		for n := range acked[i] {
			if times[s.id(n)] == 0 {
				lost++
			}
		}
		for n := range s.sent.Load() {
			doubled += max(0, times[s.id(n)]-1)
			delete(times, s.id(n))
		}
	}
	if len(times) > 0 {
		t.Errorf("%d profiles were never sent", len(times))
	}
	res, err := store.Select(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(2*len(infos)) * testPeriod; res.Stacks.Total() != want {
		t.Errorf("%d profiles have a sum of %d, want %d", len(infos), res.Stacks.Total(), want)
	}
	if d := store.Damage(); len(d) > 0 {
		t.Errorf("damage %v", d)
	}
	if lost > 0 || doubled > 0 {
		t.Errorf("%d lost, %d doubled", lost, doubled)
	}
	return lost, doubled
}

// killStore kills a server at random moments while clients push to it and send again what was not acknowledged, and
// looks after each time at what is on disk.
func killStore(t *testing.T, rounds int, least int64) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var senders []*sender
	var sending sync.WaitGroup
	for i := range 4 {
		s := &sender{number: i}
		senders = append(senders, s)
		sending.Go(func() { s.run(ctx, t, address) })
	}
	defer sending.Wait()
	defer stop()
	total := func() (n int64) {
		for _, s := range senders {
			n += s.acked.Load()
		}
		return n
	}
	var ready []time.Duration
	r := rand.New(rand.NewPCG(10, uint64(rounds)))
	lost, doubled := 0, 0
	for round := range rounds {
		cmd, took := startChild(t, dir, address)
		ready = append(ready, took)
		time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
		for total() < least*int64(round+1)/int64(rounds) {
			time.Sleep(time.Millisecond)
		}
		var acked []int64
		killChild(t, cmd)
		for _, s := range senders {
			acked = append(acked, s.acked.Load())
		}
		l, d := checkKilled(t, dir, senders, acked)
		lost, doubled = lost+l, doubled+d
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
	cmd, took := startChild(t, dir, address)
	ready = append(ready, took)
	slices.Sort(ready)
	stop()
	sending.Wait()
	killChild(t, cmd)
	fmt.Printf("%d rounds of kill -9: %d profiles acknowledged, %d lost, %d doubled; ready after %s (median), %s (longest)\n",
		rounds, total(), lost, doubled, ready[len(ready)/2].Round(time.Millisecond), ready[len(ready)-1].Round(time.Millisecond))
}

// TestKill9 is three rounds of TestVerifyKill9.
func TestKill9(t *testing.T) { killStore(t, 3, 200) }
