package httpapi

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pilotlight/profilestore"
	"pilotlight/profilestore/flamegraph"
)

// impatientServer gives up on slow clients sooner than the real one.
func impatientServer(t *testing.T, store *profilestore.Store, patience time.Duration, tune func(*api, *http.ServeMux)) (*httptest.Server, *api) {
	t.Helper()
	a := newAPI(store, Options{Logger: slog.New(slog.DiscardHandler)})
	a.patience = patience
	mux := http.NewServeMux()
	mux.Handle("/", a.router())
	if tune != nil {
		tune(a, mux)
	}
	s := httptest.NewUnstartedServer(nil)
	s.Config = NewServer(a.record(a.trust(mux)))
	s.Config.ReadHeaderTimeout = patience
	s.Start()
	t.Cleanup(s.Close)
	return s, a
}

// whole waits until a room is empty again.
func whole(t *testing.T, r *room, size int64) {
	t.Helper()
	for range 1000 {
		if r.left.Load() == size {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d of %d bytes are left after all have gone", r.left.Load(), size)
}

// TestSlowClients has 500 clients that send a request and never its end: a third stops in the header, a third in the
// body, a third sends a byte now and then. Others push and query meanwhile, and the slow ones are told why they
// are cut off.
func TestSlowClients(t *testing.T) {
	const clients = 500
	store := newTestStore(t)
	s, a := impatientServer(t, store, 3*time.Second, nil)
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/proto\r\n", pushProcedure)
	var wg sync.WaitGroup
	var sent sync.WaitGroup
	sent.Add(clients)
	refused := make(chan string, clients)
	for i := range clients {
		wg.Go(func() {
			conn, err := net.Dial("tcp", s.Listener.Addr().String())
			if err != nil {
				t.Error(err)
				sent.Done()
				return
			}
			defer conn.Close()
			request := head
			if i%3 > 0 {
				request += "Content-Length: 1000000\r\n\r\nbeginning"
			}
			_, err = conn.Write([]byte(request))
			sent.Done()
			if err != nil {
				t.Error(err)
				return
			}
			if i%3 == 2 {
				stop := make(chan struct{})
				defer close(stop)
				wg.Go(func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(200 * time.Millisecond):
							if _, err := conn.Write([]byte{0}); err != nil {
								return // it has been cut off
							}
						}
					}
				})
			}
			answer, err := bufio.NewReader(conn).ReadString('}')
			if i%3 > 0 && err == nil {
				refused <- answer
			}
		})
	}
	sent.Wait()
	base := testBase()
	fill(t, s, base)
	if _, b := get(t, s, "/api/v1/label/service_name/values"); !strings.Contains(string(b), "cron") {
		t.Errorf("a query beside slow clients: %s", b)
	}
	wg.Wait()
	close(refused)
	told := 0
	for answer := range refused {
		if strings.HasPrefix(answer, "HTTP/1.1 400") && strings.Contains(answer, "the body comes too slowly: send at least 64 KB every 3s") {
			told++
		} else {
			t.Errorf("answer %q", answer)
		}
	}
	// A reset may overtake the answer of one that still sends.
	if told < clients/3 {
		t.Errorf("%d clients were told why they were cut off", told)
	}
	whole(t, a.bodies, bodyBytes)
	if len(a.pushes) > 0 {
		t.Errorf("%d places are still taken", len(a.pushes))
	}
}

// TestStalledReaders has 200 clients that ask for 8 MB and do not read. There is room for ten such answers: the
// other clients are refused, small answers go out, and when patience is over all the room is there again.
func TestStalledReaders(t *testing.T) {
	const readers, size, room = 200, 8 << 20, 100 << 20
	big := strings.Repeat("x", size)
	s, a := impatientServer(t, newTestStore(t), time.Second, func(a *api, mux *http.ServeMux) {
		a.answers = newRoom(room)
		mux.Handle("/big", a.query("/big", a.merges, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { write(w, r, big) })))
	})
	conns := make([]net.Conn, readers)
	for i := range conns {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "GET /big HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		conns[i] = conn
	}
	fill(t, s, testBase())
	if resp, b := get(t, s, "/api/v1/top"); resp.StatusCode != 200 {
		t.Errorf("a query beside stalled readers: %s: %s", resp.Status, b)
	}
	served, refused := 0, 0
	for _, conn := range conns {
		status, err := bufio.NewReader(conn).ReadString('\n')
		switch {
		case err != nil:
			t.Fatal(err)
		case strings.Contains(status, "200"):
			served++
		case strings.Contains(status, "429"):
			refused++
		}
	}
	if served == 0 || refused == 0 || served+refused != readers {
		t.Errorf("%d served, %d refused", served, refused)
	}
	whole(t, a.answers, room)
	if len(a.merges) > 0 {
		t.Errorf("%d places are still taken", len(a.merges))
	}
}

// A client that reads steadily gets an answer that takes longer than patience.
func TestSteadyReader(t *testing.T) {
	const size = 6 << 20
	s, _ := impatientServer(t, nil, time.Second, func(a *api, mux *http.ServeMux) {
		mux.Handle("/big", a.query("/big", a.merges, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { write(w, r, strings.Repeat("x", size)) })))
	})
	resp, err := s.Client().Get(s.URL + "/big")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	n := 0
	for buf := make([]byte, 256<<10); err == nil; {
		var m int
		m, err = io.ReadFull(resp.Body, buf)
		n += m
		time.Sleep(60 * time.Millisecond)
	}
	if n != size {
		t.Errorf("%d of %d bytes, %v", n, size, err)
	}
	// The same connection goes on.
	if resp, _ := get(t, s, "/-/healthy"); resp.StatusCode != 200 {
		t.Errorf("afterwards: %s", resp.Status)
	}
}

// An answer may be empty, packed too.
func TestEmptyAnswer(t *testing.T) {
	s := newTestServer(t, newTestStore(t), Options{})
	for _, encoding := range []string{"gzip", "identity"} {
		resp, b := send(t, s, http.MethodGet, "/api/v1/export?format=folded", http.Header{"Accept-Encoding": {encoding}}, nil)
		if resp.StatusCode != 200 || len(b) > 0 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") || !slices.Contains(resp.Header.Values("Vary"), "Accept-Encoding") {
			t.Errorf("%s: %s: %q, header %v", encoding, resp.Status, b, resp.Header)
		}
		header := http.Header{"Accept-Encoding": {encoding}, "Content-Type": {messageProto}}
		if resp, b := send(t, s, http.MethodPost, querierPrefix+"LabelNames", header, http.NoBody); resp.StatusCode != 200 {
			t.Errorf("%s: %s: %q", encoding, resp.Status, b)
		}
	}
}

// A refusal in place of an answer has nothing of its header.
func TestRefusedAnswer(t *testing.T) {
	s, a := impatientServer(t, newTestStore(t), patience, func(a *api, mux *http.ServeMux) {
		a.answers = newRoom(1 << 10)
		mux.Handle("/big", a.query("/big", a.merges, compress(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Content-Disposition", "attachment")
			write(w, r, strings.Repeat("x", 64)+fmt.Sprintf("%x", noise(1<<20)))
		}))))
	})
	resp, b := send(t, s, http.MethodGet, "/big", http.Header{"Accept-Encoding": {"gzip"}}, nil)
	if resp.StatusCode != 429 || !strings.Contains(string(b), `"code":"too_many_requests"`) || resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("X-Request-Id") == "" {
		t.Errorf("%s: %.200q, header %v", resp.Status, b, resp.Header)
	}
	for _, name := range []string{"Content-Encoding", "Content-Disposition", "Vary"} {
		if v := resp.Header.Get(name); v != "" {
			t.Errorf("%s: %s", name, v)
		}
	}
	whole(t, a.answers, 1<<10)
}

// An export ends at its limit, before it is all in memory.
func TestLongExport(t *testing.T) {
	s := new(flamegraph.Stacks)
	var stack []int32
	for range 50 {
		stack = append(stack, s.Frame(flamegraph.Frame{Function: strings.Repeat("f", 2500) + fmt.Sprint(len(stack))}))
		s.Add(stack, 1)
	}
	b := exported{most: 1 << 20}
	err := tooManyNodes(flamegraph.Export(t.Context(), &b, s, flamegraph.Folded, "nanoseconds"))
	var e *profilestore.Error
	if !errors.As(err, &e) || e.Code != profilestore.Unprocessable || b.file.Len() > b.most {
		t.Errorf("%d bytes, error %v", b.file.Len(), err)
	}
}

// noise does not pack.
func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// A body that comes steadily may take longer than patience.
func TestSteadySender(t *testing.T) {
	s, _ := impatientServer(t, newTestStore(t), time.Second, nil)
	raw := message(t, encode(t, "api", "1", testBase(), stacks{"main": 1}).Pprof, "")
	// Field 15 of the message is unknown: what decodes it passes over it.
	padding := append([]byte{0x7a, 0x80, 0x80, 0x20}, make([]byte, 512<<10)...)
	rd, w := io.Pipe()
	go func() {
		all := append(raw, padding...)
		for len(all) > 0 {
			n := min(len(all), 64<<10)
			if _, err := w.Write(all[:n]); err != nil {
				return
			}
			all = all[n:]
			time.Sleep(150 * time.Millisecond)
		}
		w.Close()
	}()
	resp, b := send(t, s, http.MethodPost, pushProcedure, http.Header{"Content-Type": {"application/proto"}}, rd)
	if resp.StatusCode != 200 {
		t.Fatalf("%s: %s", resp.Status, b)
	}
	if got := stored(t, s); len(got) != 1 {
		t.Errorf("stored %+v", got)
	}
}

// Bodies share their memory: what is above it is refused at once, and taken later.
func TestBodiesRoom(t *testing.T) {
	s, a := impatientServer(t, newTestStore(t), patience, func(a *api, _ *http.ServeMux) { a.bodies = newRoom(1 << 20) })
	header := http.Header{"Content-Type": {"application/proto"}}
	resp, b := send(t, s, http.MethodPost, pushProcedure, header, bytes.NewReader(make([]byte, 2<<20)))
	if resp.StatusCode != 429 || !strings.Contains(string(b), "resource_exhausted") || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%s: %s", resp.Status, b)
	}
	whole(t, a.bodies, 1<<20)
	held := a.bodies.share()
	if err := held.take(1 << 20); err != nil {
		t.Fatal(err)
	}
	var e *profilestore.Error
	if err := a.bodies.share().take(1); !errors.As(err, &e) || e.Code != profilestore.TooManyRequests {
		t.Errorf("more than there is: %v", err)
	}
	held.release()
	fill(t, s, testBase())
}
