package profilestore

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
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

// TestRetryInTheGroupOfAFailure: of a batch that fails midway nothing is stored, and a retry of it that the writer met at the
// same time is no double of it.
func TestRetryInTheGroupOfAFailure(t *testing.T) {
	disk := newCrashFS()
	o := crashOptions(disk)
	failing := false
	o.fs = hookFS{disk, func(op, _ string) error {
		if failing && op == "open" {
			return errCrashed
		}
		return nil
	}}
	s := open(t, "/", o)
	g := newSource(14)
	old, fresh := g.profile(t), g.profile(t)
	mustAppend(t, s, old)
	settle(t, s)
	var group []*commit
	for _, batch := range [][]Encoded{{fresh, old}, {fresh}} {
		c, err := s.checkBatch(t.Context(), batch)
		if err != nil {
			t.Fatal(err)
		}
		group = append(group, c)
	}
	failing = true // so that it cannot be seen whether the old one is stored
	s.commitGroup(group)
	if first, second := <-group[0].done, <-group[1].done; !errors.Is(first, errCrashed) || second != nil {
		t.Fatalf("%v, %v", first, second)
	}
	failing = false
	wantStored(t, s, old, fresh)
	mustAppend(t, s, fresh, old)
	wantStored(t, s, old, fresh)
}

// TestFailedRemoval: when a block that was replaced cannot be removed, the one that replaced it, and was replaced too, stays
// as well, so that a start knows that neither is to be served.
func TestFailedRemoval(t *testing.T) {
	disk := newCrashFS()
	o := crashOptions(disk)
	var fails string
	failed := 0
	o.fs = hookFS{disk, func(op, name string) error {
		if op == "rename" && name == fails {
			failed++
			return errCrashed
		}
		return nil
	}}
	s := open(t, "/", o)
	g := newSource(15)
	var kept []Encoded
	for range fanIn * fanIn {
		kept = append(kept, g.batch(t, 1)...)
		mustAppend(t, s, kept[len(kept)-1])
		settle(t, s)
	}
	if len(s.blocks) != 1 || s.blocks[0].meta.Level != 2 {
		t.Fatalf("%d blocks", len(s.blocks))
	}
	for _, l := range s.lingering {
		if filepath.Base(filepath.Dir(l.path)) == blocksDir {
			fails = l.path
			break
		}
	}
	s.full.Store(true)
	if err := s.removeLingering(); !errors.Is(err, errCrashed) || failed != 1 {
		t.Fatalf("%v, %d failures for %q", err, failed, fails)
	}
	again := open(t, "/", crashOptions(disk.crash()))
	wantStored(t, again, kept...)
	fails = ""
	s.full.Store(true)
	settle(t, s)
	if len(s.lingering) > 0 || len(files(t, s, blocksDir)) != 1 {
		t.Errorf("%d are left, blocks %q", len(s.lingering), files(t, s, blocksDir))
	}
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
