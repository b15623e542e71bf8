package spool

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"pilotlight/profilestore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is an Appender as a store behind HTTP is one: it knows what it has, and fails when it is told to.
type server struct {
	mu      sync.Mutex
	down    error           // what it answers
	slow    time.Duration   // how long it takes to
	bad     profilestore.ID // the profile for which it refuses a batch
	badCode profilestore.Code
	most    int // profiles that it takes at once; 0: any number
	got     []int
	asked   int
}

var errAway = errors.New("connection refused")

func (s *server) Append(ctx context.Context, batch []profilestore.Encoded) error {
	s.mu.Lock()
	slow := s.slow
	s.mu.Unlock()
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	switch {
	case s.down != nil:
		return s.down
	case s.most > 0 && len(batch) > s.most:
		return fmt.Errorf("push: %w", &profilestore.Error{Code: profilestore.PayloadTooLarge, Message: "too large"})
	case slices.ContainsFunc(batch, func(e profilestore.Encoded) bool { return s.bad != profilestore.ID{} && e.ID == s.bad }):
		return fmt.Errorf("push: %w", &profilestore.Error{Code: s.badCode, Message: "not a profile"})
	}
	for _, e := range batch {
		s.got = append(s.got, int(binary.BigEndian.Uint64(e.ID[:])))
	}
	return nil
}

func (s *server) set(f func(*server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *server) has() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// batch has the profiles with these numbers, of so many bytes each.
func batch(size int, numbers ...int) []profilestore.Encoded {
	var b []profilestore.Encoded
	for _, n := range numbers {
		b = append(b, profilestore.Encoded{ID: id(n), Name: "process_cpu", Pprof: []byte(strings.Repeat("x", size))})
	}
	return b
}

func id(n int) (id profilestore.ID) {
	binary.BigEndian.PutUint64(id[:], uint64(n))
	return id
}

func open(t *testing.T, disk fileSystem, next Appender, o Options) *Spool {
	t.Helper()
	o.fs = disk
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := Open("", next, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustAppend(t *testing.T, s *Spool, b []profilestore.Encoded) {
	t.Helper()
	if err := s.Append(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

func mustClose(t *testing.T, s *Spool) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func numbers(from, to int) (all []int) {
	for n := from; n <= to; n++ {
		all = append(all, n)
	}
	return all
}

func sorted(numbers []int) []int {
	numbers = slices.Clone(numbers)
	slices.Sort(numbers)
	return numbers
}

func TestServerThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, srv := newMemory(), new(server)
		s := open(t, disk, srv, Options{})
		for n := range 10 {
			mustAppend(t, s, batch(100, n))
			time.Sleep(10 * time.Second)
		}
		mustClose(t, s)
		if got := srv.has(); !slices.Equal(got, numbers(0, 9)) || disk.changes > 0 {
			t.Errorf("the server has %v after %d changes of the disk, want 0 to 9 and none", got, disk.changes)
		}
	})
}

// TestOutage has the server away for ten minutes, with a batch every ten seconds: it is asked now and then, all arrives
// once, what is live first, and the rest in its order within a minute.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, srv := newMemory(), &server{down: errAway}
		s := open(t, disk, srv, Options{})
		n := 0
		for range 60 {
			mustAppend(t, s, batch(100, n, n+1))
			n += 2
			time.Sleep(10 * time.Second)
		}
		if got := s.files.batches(); got != 60 || len(disk.names()) != 60 {
			t.Errorf("%d batches, %d files, want 60", got, len(disk.names()))
		}
		if srv.asked < 20 || srv.asked > 60 { // every 10 to 30 s
			t.Errorf("the server was asked %d times in ten minutes", srv.asked)
		}
		back := time.Now()
		srv.set(func(s *server) { s.down, s.slow = nil, 100*time.Millisecond })
		for len(srv.has()) == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		noticed := time.Since(back)
		mustAppend(t, s, batch(100, n)) // now it is live again
		if got := srv.has(); len(got) > 6 || !slices.Contains(got, n) {
			t.Errorf("of what waited, %d profiles came before the live one", len(got))
		}
		for s.Bytes() > 0 {
			time.Sleep(10 * time.Millisecond)
		}
		took := time.Since(back)
		t.Logf("noticed after %v, drained %v after the server was back", noticed, took)
		if took > time.Minute || noticed > 30*time.Second {
			t.Errorf("drained in %v", took)
		}
		if busy := 59 * srv.slow; took-noticed < 3*busy/2 {
			t.Errorf("drained %v after it was noticed: the server was to have as much rest as it was busy, %v", took-noticed, busy)
		}
		mustClose(t, s)
		got := srv.has()
		if !slices.Equal(sorted(got), numbers(0, n)) {
			t.Errorf("the server has %v, want 0 to %d once", got, n)
		}
		spooled := slices.DeleteFunc(got, func(m int) bool { return m == n })
		if !slices.IsSorted(spooled) {
			t.Errorf("what was spooled came as %v, want the oldest first", spooled)
		}
		if left := disk.names(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		if kept := testutil.ToFloat64(s.metrics.profiles.WithLabelValues(resultKept)); kept != 120 {
			t.Errorf("%v profiles kept, want 120", kept)
		}
	})
}

// TestSlowServer wants a batch to be durable soon, whatever the server does with it.
func TestSlowServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			name string
			slow time.Duration
			asks int
		}{
			{"answers late", 5 * time.Second, 1},
			{"does not answer", time.Hour, 1},
		} {
			disk, srv := newMemory(), &server{slow: tt.slow}
			s := open(t, disk, srv, Options{})
			begun := time.Now()
			mustAppend(t, s, batch(100, 1))
			if took := time.Since(begun); took != patience {
				t.Errorf("%s: Append took %v", tt.name, took)
			}
			if len(disk.names()) != 1 {
				t.Errorf("%s: %d files, want one", tt.name, len(disk.names()))
			}
			time.Sleep(30 * time.Second)
			if tt.slow < time.Minute {
				if got := srv.has(); !slices.Equal(got, []int{1}) || len(disk.names()) > 0 {
					t.Errorf("%s: the server has %v, the disk %v", tt.name, got, disk.names())
				}
			}
			mustClose(t, s)
			if tt.slow > time.Minute && len(disk.names()) != 1 {
				t.Errorf("%s: the batch is lost", tt.name)
			}
		}
	})
}

type retryLater struct{ after time.Duration }

func (e retryLater) Error() string             { return "busy" }
func (e retryLater) RetryAfter() time.Duration { return e.after }

func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &server{down: fmt.Errorf("push: %w", retryLater{5 * time.Minute})}
		s := open(t, newMemory(), srv, Options{})
		mustAppend(t, s, batch(100, 1))
		time.Sleep(5*time.Minute - time.Second)
		if srv.asked != 1 {
			t.Errorf("asked %d times within the time that the server wanted to be left alone", srv.asked)
		}
		srv.set(func(s *server) { s.down = nil })
		time.Sleep(2 * time.Second)
		if got := srv.has(); !slices.Equal(got, []int{1}) {
			t.Errorf("the server has %v", got)
		}
		mustClose(t, s)
	})
}

// TestRefusal has one bad profile in a batch: of a live one the caller is told, of a spooled one it costs the others
// nothing.
func TestRefusal(t *testing.T) {
	for _, code := range []profilestore.Code{profilestore.BadRequest, profilestore.PayloadTooLarge, profilestore.TooManyRequests} {
		synctest.Test(t, func(t *testing.T) {
			disk, srv := newMemory(), &server{bad: id(3), badCode: code}
			s := open(t, disk, srv, Options{})
			err := s.Append(t.Context(), batch(100, 1, 2, 3, 4))
			if e := (*profilestore.Error)(nil); !errors.As(err, &e) || e.Code != code {
				t.Errorf("%s: live: %v", code, err)
			}
			srv.set(func(s *server) { s.down = errAway })
			mustAppend(t, s, batch(100, 1, 2, 3, 4))
			mustAppend(t, s, batch(100, 5))
			srv.set(func(s *server) { s.down = nil })
			time.Sleep(time.Minute)
			if got := srv.has(); !slices.Equal(got, []int{1, 2, 4, 5}) || len(disk.names()) > 0 {
				t.Errorf("%s: the server has %v, the disk %v", code, got, disk.names())
			}
			if n := testutil.ToFloat64(s.metrics.profiles.WithLabelValues(resultRefused)); n != 1 {
				t.Errorf("%s: %v profiles refused, want 1", code, n)
			}
			mustClose(t, s)
		})
	}
}

func TestTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &server{down: errAway, most: 3}
		s := open(t, newMemory(), srv, Options{})
		mustAppend(t, s, batch(100, numbers(1, 10)...))
		srv.set(func(s *server) { s.down = nil })
		time.Sleep(time.Minute)
		if got := srv.has(); !slices.Equal(got, numbers(1, 10)) {
			t.Errorf("the server has %v", got)
		}
		mustClose(t, s)
	})
}

// TestPoison has a batch for which the server fails as if it were ill, or takes too long: it does not keep the others
// waiting.
func TestPoison(t *testing.T) {
	for _, code := range []profilestore.Code{internalError, profilestore.Unprocessable} {
		synctest.Test(t, func(t *testing.T) {
			srv := &server{down: errAway}
			s := open(t, newMemory(), srv, Options{})
			for _, n := range numbers(1, 10) {
				mustAppend(t, s, batch(100, n))
			}
			srv.set(func(s *server) { s.down, s.bad, s.badCode = nil, id(1), code })
			time.Sleep(2 * time.Minute)
			if got := sorted(srv.has()); !slices.Equal(got, numbers(2, 10)) {
				t.Errorf("%s: the server has %v, want 2 to 10", code, got)
			}
			mustClose(t, s)
		})
	}
}

func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 10_000
		disk, srv := newMemory(), &server{down: errAway}
		s := open(t, disk, srv, Options{MaxBytes: limit})
		for n := range 30 {
			mustAppend(t, s, batch(1000, n))
			if s.Bytes() > limit {
				t.Fatalf("%d bytes", s.Bytes())
			}
		}
		kept := s.files.batches()
		if dropped := testutil.ToFloat64(s.metrics.dropped); int(dropped)+kept != 30 || kept < 8 {
			t.Errorf("%v dropped, %d kept", dropped, kept)
		}
		if err := s.Append(t.Context(), batch(limit, 99)); !errors.Is(err, errFull) {
			t.Errorf("more than the limit: %v", err)
		}
		mustClose(t, s)
		// A lower limit holds from the start.
		s = open(t, disk, srv, Options{MaxBytes: limit / 2})
		if s.Bytes() > limit/2 {
			t.Errorf("%d bytes after a start", s.Bytes())
		}
		mustClose(t, s)
	})
}

// TestDropsLogged has a full spool say so without a line for each batch.
func TestDropsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said strings.Builder
		s := open(t, newMemory(), &server{down: errAway}, Options{MaxBytes: 3000, Logger: slog.New(slog.NewTextHandler(&said, nil))})
		for n := range 360 { // an hour
			mustAppend(t, s, batch(1000, n))
			time.Sleep(10 * time.Second)
		}
		mustClose(t, s)
		if lines := strings.Count(said.String(), "profiles dropped"); lines < 3 || lines > 63 {
			t.Errorf("%d lines in an hour", lines)
		}
	})
}

// TestFullDisk has a disk with room for five batches, and then for none.
func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, srv := newMemory(), &server{down: errAway}
		disk.free = 5500
		s := open(t, disk, srv, Options{})
		for n := range 20 {
			mustAppend(t, s, batch(1000, n))
		}
		dropped := testutil.ToFloat64(s.metrics.dropped)
		srv.set(func(s *server) { s.down = nil })
		time.Sleep(time.Minute)
		if got := srv.has(); !slices.Equal(got, numbers(int(dropped), 19)) || len(got) < 4 {
			t.Errorf("%v dropped; the server has %v, want the last", dropped, got)
		}
		mustClose(t, s)

		disk.free = 100
		srv.set(func(s *server) { s.down = errAway })
		s = open(t, disk, srv, Options{})
		if err := s.Append(t.Context(), batch(1000, 99)); err == nil {
			t.Error("acknowledged on a disk without room")
		}
		if left := disk.names(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		// Nothing waits on disk, so nothing but the next batch finds out that the server is back.
		srv.set(func(s *server) { s.down, s.got = nil, nil })
		time.Sleep(10 * time.Second)
		mustAppend(t, s, batch(1000, 100))
		if got := srv.has(); !slices.Equal(got, []int{100}) {
			t.Errorf("the server has %v, want what came after it was back", got)
		}
		mustClose(t, s)
	})
}

// TestDamage flips a byte in each place of a file: it is found out, costs that file alone, and the bytes stay.
func TestDamage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, srv := newMemory(), &server{down: errAway}
		s := open(t, disk, srv, Options{})
		for n := range 3 {
			mustAppend(t, s, batch(40, n))
		}
		mustClose(t, s)
		middle := disk.names()[1]
		size := len(disk.live[middle])
		for at := range size {
			after := disk.afterKill()
			after.flip(middle, at)
			srv := new(server)
			s := open(t, after, srv, Options{})
			time.Sleep(time.Minute)
			got, left := srv.has(), after.names()
			if !slices.Equal(got, []int{0, 2}) || len(left) != 1 || !strings.HasSuffix(left[0], damagedSuffix) {
				t.Errorf("byte %d of %d: the server has %v, the disk %v", at, size, got, left)
			}
			if n := testutil.ToFloat64(s.metrics.damaged); n != 1 {
				t.Errorf("byte %d: %v damaged", at, n)
			}
			mustClose(t, s)
			// The next start knows it, and it goes first when there is no room.
			s = open(t, after, srv, Options{MaxBytes: int64(size)})
			srv.set(func(s *server) { s.down = errAway })
			mustAppend(t, s, batch(40, 7))
			if left := after.names(); len(left) != 1 || !strings.HasSuffix(left[0], batchSuffix) {
				t.Errorf("byte %d: on disk %v", at, left)
			}
			mustClose(t, s)
		}
	})
}

// TestUnreadable has a disk that does not give a file back: it costs that file alone, and a start is one all the same.
func TestUnreadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, srv := newMemory(), &server{down: errAway}
		s := open(t, disk, srv, Options{})
		for n := range 3 {
			mustAppend(t, s, batch(40, n))
		}
		mustClose(t, s)
		disk.bad = disk.names()[1]
		srv.set(func(s *server) { s.down = nil })
		s = open(t, disk, srv, Options{})
		time.Sleep(time.Minute)
		if got, left := srv.has(), disk.names(); !slices.Equal(got, []int{0, 2}) || len(left) != 1 || !strings.HasSuffix(left[0], damagedSuffix) {
			t.Errorf("the server has %v, the disk %v", got, left)
		}
		mustClose(t, s)
	})
}

// TestCrash ends the process, or the power, at each change of the disk while batches are spooled and drained: what was
// acknowledged is on the server after the next start, and what is there was sent.
func TestCrash(t *testing.T) {
	for name, crash := range map[string]func(*memory) *memory{"kill": (*memory).afterKill, "power loss": (*memory).afterPowerLoss} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				points := 0
				for ; crashAt(t, points+1, crash); points++ {
				}
				t.Logf("crashed at %d points", points)
				if points < 50 {
					t.Errorf("crashed at %d points", points)
				}
			})
		})
	}
}

// crashAt returns false if there was no such change.
func crashAt(t *testing.T, at int, crash func(*memory) *memory) bool {
	disk, srv := newMemory(), &server{down: errAway}
	disk.failAt = at
	s := open(t, disk, srv, Options{})
	var acked, sent []int
	for n := range 12 {
		if n == 8 {
			srv.set(func(s *server) { s.down = nil })
			time.Sleep(time.Minute)
			srv.set(func(s *server) { s.down = errAway })
		}
		sent = append(sent, n)
		if s.Append(t.Context(), batch(100, n)) == nil {
			acked = append(acked, n)
		}
	}
	mustClose(t, s)
	after := crash(disk)
	srv.set(func(s *server) { s.down = nil })
	s = open(t, after, srv, Options{})
	time.Sleep(time.Minute)
	mustClose(t, s)
	got := srv.has()
	for _, n := range acked {
		if !slices.Contains(got, n) {
			t.Errorf("change %d: %d was acknowledged and is lost: the server has %v", at, n, got)
		}
	}
	for _, n := range got {
		if !slices.Contains(sent, n) {
			t.Errorf("change %d: %d was never sent", at, n)
		}
	}
	if damaged := testutil.ToFloat64(s.metrics.damaged); damaged > 0 || len(after.names()) > 0 {
		t.Errorf("change %d: %v damaged, left %v", at, damaged, after.names())
	}
	return disk.changes >= at
}

func TestDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, new(server), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, new(server), Options{}); !errors.Is(err, errInUse) {
		t.Errorf("a second one: %v", err)
	}
	mustClose(t, s)
	s, err = Open(dir, new(server), Options{})
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(batch(10, 1, 2)))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decode(b)
		if err != nil {
			if !errors.Is(err, errDamaged) {
				t.Errorf("%v", err)
			}
			return
		}
		if again, err := decode(encode(got)); err != nil || len(again) != len(got) {
			t.Errorf("%d profiles, again %d: %v", len(got), len(again), err)
		}
	})
}
