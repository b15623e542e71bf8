package profilestore

import (
	"context"
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"
)

// crashOptions is a store on a file system in memory.
func crashOptions(c *crashFS) Options {
	o := testOptions()
	o.fs, o.linger = c, 0
	return o
}

// crashSeed runs one story: batches, blocks, merges and retries until the disk goes at a random operation, a power
// loss, a restart that may lose its disk too, and then the check.
func crashSeed(t testing.TB, seed uint64, bodies []Encoded) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 3))
	disk := newCrashFS()
	acknowledged := make(map[ID]bool)
	sent := make(map[ID]bool)
	next := 0
	for life := range 3 {
		if life < 2 {
			disk.ops, disk.failAt, disk.once = 0, 1+r.IntN(250), r.IntN(3) == 0
		}
		s, err := Open("/", crashOptions(disk))
		if err == nil {
			for range 12 {
				batch := make([]Encoded, 1+r.IntN(3))
				for i := range batch {
					if next > 0 && r.IntN(4) == 0 {
						batch[i] = bodies[r.IntN(min(next, len(bodies)))] // a retry
					} else {
						batch[i] = bodies[next%len(bodies)]
						next++
					}
					sent[batch[i].ID] = true
				}
				if s.Append(context.Background(), batch) == nil {
					for i := range batch {
						acknowledged[batch[i].ID] = true
					}
				}
				if r.IntN(3) == 0 {
					done := make(chan struct{})
					s.requests <- request{done}
					<-done
				}
			}
			if err := s.Close(); err != nil && !errors.Is(err, errCrashed) {
				t.Fatalf("seed %d: close: %v", seed, err)
			}
		} else if !errors.Is(err, errCrashed) {
			t.Fatalf("seed %d, life %d: open: %v", seed, life, err)
		}
		disk = disk.crash()
	}
	s, err := Open("/", crashOptions(disk))
	if err != nil {
		t.Fatalf("seed %d: open: %v", seed, err)
	}
	defer s.Close()
	got := stored(t, s)
	for id := range acknowledged {
		if !got[id] {
			t.Errorf("%s was acknowledged and is lost", id)
		}
	}
	for id := range got {
		if !sent[id] {
			t.Errorf("%s was never sent", id)
		}
	}
	if d := s.Damage(); len(d) > 0 {
		t.Errorf("damage: %v", d)
	}
	if t.Failed() {
		t.Fatalf("seed %d: %d acknowledged, %d stored", seed, len(acknowledged), len(got))
	}
}

// TestCrashes is the first of the seeds of TestVerifyCrashes.
func TestCrashes(t *testing.T) {
	bodies := newSource(30).batch(t, 60)
	for seed := range uint64(100) {
		crashSeed(t, seed, bodies)
	}
}

// TestFullDisk fills the disk at several places: writes are refused with the reason, reads go on, and writing resumes
// by itself.
func TestFullDisk(t *testing.T) {
	disk := newCrashFS()
	s := open(t, "/", crashOptions(disk))
	g := newSource(6)
	kept := g.batch(t, 4)
	mustAppend(t, s, kept...)
	settle(t, s)
	for _, free := range []int64{0, 1, 30, 400, 3000, 9000} {
		disk.mu.Lock()
		disk.free = free
		disk.mu.Unlock()
		var refused []Encoded
		for range 200 {
			batch := g.batch(t, 1)
			err := s.Append(context.Background(), batch)
			if err == nil {
				kept = append(kept, batch...)
				continue
			}
			refused = batch
			if e := (*Error)(nil); !errors.As(err, &e) || e.Code != InsufficientStorage || !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("%d bytes free: %v", free, err)
			}
			break
		}
		if refused == nil {
			t.Fatalf("%d bytes free: nothing is refused", free)
		}
		done := make(chan struct{})
		s.requests <- request{done} // blocks cannot be written either
		<-done
		wantStored(t, s, kept...)
		disk.mu.Lock()
		disk.free = 1 << 30
		disk.mu.Unlock()
		mustAppend(t, s, refused...)
		kept = append(kept, refused...)
		settle(t, s)
		wantStored(t, s, kept...)
		g.n = 20 + len(kept)%200
	}
	wantStored(t, reopen(t, s, crashOptions(disk)), kept...)
}

// TestFailedSync: nobody can tell what a disk holds after a failed fsync, so nothing may follow it in its file.
func TestFailedSync(t *testing.T) {
	disk := newCrashFS()
	s := open(t, "/", crashOptions(disk))
	g := newSource(7)
	kept, refused := g.batch(t, 2), g.batch(t, 2)
	mustAppend(t, s, kept...)
	disk.mu.Lock()
	disk.failAt, disk.once = disk.ops+2, true // the write is the first
	disk.mu.Unlock()
	err := s.Append(context.Background(), refused)
	if e := (*Error)(nil); !errors.As(err, &e) || e.Code != Unavailable {
		t.Fatal(err)
	}
	wantStored(t, s, kept...)
	mustAppend(t, s, refused...)
	if logs := files(t, s, walDir); len(logs) != 2 {
		t.Errorf("logs %q: the one with the failed fsync is still written to", logs)
	}
	wantStored(t, reopen(t, s, crashOptions(disk.crash())), append(kept, refused...)...)
}

// TestClock moves the clock under a store: what is stored stays, what comes is judged by the new time.
func TestClock(t *testing.T) {
	now := start.Add(time.Hour)
	o := crashOptions(newCrashFS())
	o.now = func() time.Time { return now }
	s := open(t, "/", o)
	g := newSource(8)
	kept := g.batch(t, 3)
	mustAppend(t, s, kept...)
	for _, move := range []time.Duration{time.Hour, -time.Hour, 24 * time.Hour, -24 * time.Hour, -start.Sub(time.Unix(0, 0))} {
		settle(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		now = start.Add(time.Hour).Add(move)
		s = open(t, "/", o)
		settle(t, s)
		wantStored(t, s, kept...)
		if t.Failed() {
			t.Fatalf("clock moved by %s", move)
		}
		now = start.Add(time.Hour)
	}
}
