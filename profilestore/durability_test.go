package profilestore

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestReopen(t *testing.T) {
	g := newSource(1)
	s := open(t, t.TempDir(), testOptions())
	first, second := g.batch(t, 5), g.batch(t, 3)
	mustAppend(t, s, first...)
	s = reopen(t, s, testOptions())
	mustAppend(t, s, second...)
	mustAppend(t, s, first...) // a retry over a restart
	wantStored(t, s, append(first, second...)...)
	settle(t, s)
	mustAppend(t, s, first...) // and of what is in a block
	wantStored(t, s, append(first, second...)...)
	s = reopen(t, s, testOptions())
	mustAppend(t, s, second...)
	wantStored(t, s, append(first, second...)...)
}

// cutLog cuts the last file of the log at every step-th byte, as a crash may: what ended before the cut is there, and
// the store goes on.
func cutLog(t *testing.T, batches, step int) (cuts int) {
	g := newSource(2)
	disk := newCrashFS()
	s := open(t, "/", crashOptions(disk))
	mustAppend(t, s, g.batch(t, 2)...)
	s = reopen(t, s, crashOptions(disk)) // the last file is not the only one
	sent := stored(t, s)
	var ends []int64
	var records [][]Encoded
	for i := range batches {
		records = append(records, g.batch(t, 1+i%3))
		mustAppend(t, s, records[i]...)
		ends = append(ends, s.wal.size)
	}
	later := g.batch(t, 1)
	path, size := s.wal.path, s.wal.size
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for n := int64(0); n < size; n += int64(step) {
		cuts++
		after := disk.crash()
		after.live[path].data = after.live[path].data[:n]
		s := open(t, "/", crashOptions(after))
		want := maps.Clone(sent)
		for i, end := range ends {
			for _, e := range records[i] {
				if end <= n {
					want[e.ID] = true
				}
			}
		}
		if got := stored(t, s); !maps.Equal(got, want) {
			t.Errorf("%d profiles, want %d", len(got), len(want))
		}
		if d := s.Damage(); len(d) > 0 {
			t.Errorf("damage %v", d)
		}
		mustAppend(t, s, later...)
		s = reopen(t, s, crashOptions(after))
		want[later[0].ID] = true
		if got := stored(t, s); !maps.Equal(got, want) {
			t.Errorf("%d profiles after a restart, want %d", len(got), len(want))
		}
		if err := s.Close(); err != nil || t.Failed() {
			t.Fatalf("cut at %d of %d: %v", n, size, err)
		}
	}
	return cuts
}

// TestTornTail is a small TestVerifyTornTail.
func TestTornTail(t *testing.T) {
	if cuts := cutLog(t, 4, 13); cuts < 100 {
		t.Errorf("%d cuts", cuts)
	}
}

// TestLogBitFlips flips one bit in each byte of the middle record of the log: it costs that record and no more, and
// the bytes are put aside when the others are in blocks.
func TestLogBitFlips(t *testing.T) {
	g := newSource(4)
	dir := t.TempDir()
	s := open(t, dir, testOptions())
	before, middle, after := g.batch(t, 1), g.batch(t, 2), g.batch(t, 1)
	mustAppend(t, s, before...)
	from := s.wal.size
	mustAppend(t, s, middle...)
	to := s.wal.size
	mustAppend(t, s, after...)
	name := filepath.Base(s.wal.path)
	whole, err := os.ReadFile(s.wal.path)
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	for at := from; at < to; at += 7 {
		flipped := bytes.Clone(whole)
		flipped[at] ^= 1 << (at % 8)
		copied := t.TempDir()
		if err := errors.Join(os.CopyFS(copied, os.DirFS(dir)), os.WriteFile(filepath.Join(copied, walDir, name), flipped, 0o600)); err != nil {
			t.Fatal(err)
		}
		s := open(t, copied, testOptions())
		wantStored(t, s, append(before, after...)...)
		if d := s.Damage(); len(d) != 1 || t.Failed() {
			t.Fatalf("flip at %d of [%d, %d): damage %v", at, from, to, d)
		}
		if at == from {
			settle(t, s)
			wantStored(t, s, append(before, after...)...)
			if aside := files(t, s, quarantineDir); len(aside) != 1 || !strings.HasSuffix(aside[0], name) {
				t.Fatalf("put aside: %q", aside)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// flipBits flips so many single bits in each kind of file. Whatever is served is right, what is not is said, and the
// bytes stay.
func flipBits(t *testing.T, flips int) (done map[string]int) {
	g := newSource(5)
	disk := newCrashFS()
	s := open(t, "/", flipOptions(disk))
	batch := g.batch(t, 12)
	mustAppend(t, s, batch[:8]...)
	settle(t, s)
	mustAppend(t, s, batch[8:]...) // in the log, and in nothing else
	inLog := filepath.Base(s.wal.path)
	want, err := s.Select(context.Background(), all(t, ""))
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	done = make(map[string]int)
	for path, n := range disk.crash().live {
		kind := strings.Trim(path, "/0123456789")
		if n.dir || strings.HasPrefix(kind, walDir) && filepath.Base(path) != inLog {
			continue
		}
		bits := 8 * len(n.data)
		for i := range min(flips, bits) {
			at := i * (bits / min(flips, bits))
			after := disk.crash()
			after.live[path].data[at/8] ^= 1 << (at % 8)
			if kind == formatFile {
				checkFormatFlip(t, after)
			} else {
				checkFlipped(t, after, path, want)
			}
			done[kind]++
			if t.Failed() {
				t.Fatalf("bit %d of %s", at, path)
			}
		}
	}
	return done
}

// flipOptions leave no log that would make good for a block.
func flipOptions(disk *crashFS) Options {
	o := crashOptions(disk)
	o.linger = -1
	return o
}

// TestBitFlips is a small TestVerifyBitFlips.
func TestBitFlips(t *testing.T) {
	kinds := flipBits(t, 10)
	if len(kinds) != 1+1+5+6 {
		t.Errorf("%v", kinds)
	}
}

// checkFormatFlip opens a store of another format, or of none: it is refused and nothing in it changes, or the change
// was of space.
func checkFormatFlip(t *testing.T, disk *crashFS) {
	s, err := Open("/", flipOptions(disk))
	if err == nil {
		if got := stored(t, s); len(got) != 12 {
			t.Errorf("%d profiles", len(got))
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	} else if e := (*Error)(nil); !errors.As(err, &e) || disk.ops > 0 {
		t.Errorf("after %d changes: %v", disk.ops, err)
	}
}

// TestLostSegment has a dictionary in two segments and loses the one or the other: profiles that need it are left out
// and said, those that do not are served, and a retry of what is left out is stored.
func TestLostSegment(t *testing.T) {
	for lost := range 2 {
		g := newSource(58)
		dir := t.TempDir()
		s := open(t, dir, testOptions())
		first, second := g.batch(t, 10), g.batch(t, 10)
		mustAppend(t, s, first...)
		settle(t, s)
		mustAppend(t, s, second...)
		settle(t, s)
		if len(s.segments) != 2 || len(s.blocks) != 2 {
			t.Fatalf("%d segments, %d blocks", len(s.segments), len(s.blocks))
		}
		meta := filepath.Join(s.segments[lost].path, metaFile)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(meta, []byte("00000000\n{}"), 0o600); err != nil {
			t.Fatal(err)
		}
		s = open(t, dir, testOptions())
		for _, selector := range selectors {
			q := all(t, selector)
			_, err := s.Select(context.Background(), q)
			_, merr := s.Merge(context.Background(), q)
			_, serr := s.Series(context.Background(), q, []string{"thread"}, time.Minute)
			_, lerr := s.LabelNames(context.Background(), q)
			if err := errors.Join(err, merr, serr, lerr); err != nil {
				t.Errorf("segment %d, %s: %v", lost, selector, err)
			}
		}
		got := stored(t, s)
		if len(s.Damage()) == 0 || lost == 0 && len(got) > 0 || lost == 1 && (len(got) < 10 || len(got) == 20) {
			t.Errorf("segment %d: %d profiles, damage %v", lost, len(got), s.Damage())
		}
		mustAppend(t, s, slices.Concat(first, second)...)
		settle(t, s)
		wantStored(t, s, slices.Concat(first, second)...)
	}
}

// TestLostSegmentInTheMiddle loses the second of five segments: what is before it is served, also after a start in which
// there are enough segments to merge, and the segments behind it are left as they are.
func TestLostSegmentInTheMiddle(t *testing.T) {
	g := newSource(59)
	dir := t.TempDir()
	s := open(t, dir, testOptions())
	var batches []Encoded
	for range fanIn + 1 {
		batches = append(batches, g.batch(t, 10)...)
		mustAppend(t, s, batches[len(batches)-10:]...)
		settle(t, s)
		for _, seg := range s.segments { // neither is to be merged yet
			seg.suspect = true
		}
		for _, b := range s.blocks {
			b.suspect.Store(true)
		}
	}
	if len(s.segments) != fanIn+1 || len(s.blocks) != fanIn+1 {
		t.Fatalf("%d segments, %d blocks", len(s.segments), len(s.blocks))
	}
	q := all(t, "")
	q.To = batches[10].Time
	want, err := s.Select(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	meta := filepath.Join(s.segments[1].path, metaFile)
	if err := errors.Join(s.Close(), os.WriteFile(meta, []byte("00000000\n{}"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s = open(t, dir, testOptions())
		settle(t, s)
		if len(s.segments) != fanIn {
			t.Errorf("%d segments", len(s.segments))
		}
		got, err := s.Select(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if got.Profiles != 10 || !maps.Equal(folded(got.Stacks), folded(want.Stacks)) {
			t.Errorf("%d profiles before the gap, with %v, want %v", got.Profiles, folded(got.Stacks), folded(want.Stacks))
		}
		if ids := stored(t, s); len(s.Damage()) == 0 || len(ids) == len(batches) {
			t.Errorf("%d profiles, damage %v", len(ids), s.Damage())
		}
		if _, err := s.LabelValues(t.Context(), all(t, ""), "thread"); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, dir, testOptions())
	mustAppend(t, s, batches...)
	settle(t, s)
	wantStored(t, s, batches...)
}

// checkFlipped opens a store of which one bit is wrong.
func checkFlipped(t *testing.T, disk *crashFS, path string, want *Result) {
	s, err := Open("/", flipOptions(disk))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, err := s.Select(context.Background(), all(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Series(context.Background(), all(t, ""), []string{"thread"}, time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Merge(context.Background(), all(t, "")); err != nil {
		t.Fatal(err)
	}
	damage := s.Damage()
	if len(damage) == 0 {
		t.Errorf("no damage is reported")
	}
	whole, sums := folded(want.Stacks), folded(got.Stacks)
	for stack, v := range sums {
		if v > whole[stack] {
			t.Errorf("%s: %d, there were %d", stack, v, whole[stack])
		}
	}
	if got.Damaged == 0 && got.Profiles == want.Profiles {
		t.Errorf("all %d profiles are served", got.Profiles)
	}
	// The store goes on: it takes profiles, writes blocks and merges.
	g := newSource(99)
	g.n = 100
	e := g.profile(t)
	mustAppend(t, s, e)
	settle(t, s)
	if ids, err := s.Profiles(context.Background(), all(t, ""), 1000); err != nil || !slices.ContainsFunc(ids, func(i ProfileInfo) bool { return i.ID == e.ID }) {
		t.Errorf("what came later: %v, %v", ids, err)
	}
	if disk.live[path] == nil && len(files(t, s, quarantineDir)) == 0 {
		t.Errorf("the bytes are gone")
	}
}

// TestDeletedDirectory: what goes into a file without a name is not acknowledged.
func TestDeletedDirectory(t *testing.T) {
	g := newSource(59)
	dir := filepath.Join(t.TempDir(), "data")
	s := open(t, dir, testOptions())
	mustAppend(t, s, g.batch(t, 2)...)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err := s.Append(context.Background(), g.batch(t, 1))
		if e := (*Error)(nil); !errors.As(err, &e) || e.Code != Unavailable {
			t.Errorf("append: %v", err)
		}
	}
}

func TestConcurrentAppends(t *testing.T) {
	const senders, batches = 8, 10
	s := open(t, t.TempDir(), testOptions())
	var want []Encoded
	var wg sync.WaitGroup
	g := newSource(8)
	for range senders {
		mine := make([][]Encoded, batches)
		for i := range mine {
			mine[i] = g.batch(t, 2)
			want = append(want, mine[i]...)
		}
		for range 2 { // two senders of the same
			wg.Go(func() {
				for _, batch := range mine {
					if err := s.Append(context.Background(), batch); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Go(func() {
		for range 20 {
			if _, err := s.Select(context.Background(), all(t, "")); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		for range 6 {
			settle(t, s)
		}
	})
	wg.Wait()
	wantStored(t, s, want...)
	wantStored(t, reopen(t, s, testOptions()), want...)
}

// TestRetentionUnderQueries: a query that has begun reads blocks that expire meanwhile, the merged one and those that it
// stands for, with what they refer to. Their files go at once, what they refer to when it has ended.
func TestRetentionUnderQueries(t *testing.T) {
	now := start.Add(time.Hour)
	o := testOptions()
	o.now = func() time.Time { return now }
	s := open(t, t.TempDir(), o)
	g := newSource(13)
	fill := func(n int) {
		for range n {
			mustAppend(t, s, g.batch(t, 4)...)
			settle(t, s)
		}
		clear(s.open) // so that dictionaries are read from files, as after a restart
		clear(s.inMemory)
	}
	fill(fanIn - 1)
	before, err := s.view(all(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	fill(1)
	after, err := s.view(all(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	if len(before.parts) != fanIn-1 || len(after.parts) != 1 {
		t.Fatalf("%d and %d parts", len(before.parts), len(after.parts))
	}
	now = now.Add(s.o.Retention + time.Hour)
	for range 2 {
		settle(t, s)
		if blocks := files(t, s, blocksDir); len(blocks) > 0 {
			t.Errorf("blocks %q", blocks)
		}
	}
	for i, v := range []*view{before, after} {
		w, err := v.choose(t.Context())
		if err == nil {
			err = w.addUp(t.Context(), w.dictionaries())
		}
		if err != nil {
			t.Fatal(err)
		}
		profiles, damaged := 0, w.damaged
		for _, d := range w.dictionaries() {
			profiles += d.profiles
			damaged += d.damaged
		}
		if profiles != 4*(fanIn-1+i) || damaged > 0 {
			t.Errorf("query %d: %d profiles, %d damaged", i, profiles, damaged)
		}
		if err := v.release(); err != nil {
			t.Error(err)
		}
	}
	settle(t, s)
	if symbols := files(t, s, symbolsDir); len(symbols) > 0 || len(s.leaving) > 0 || s.cacheBytes.Load() != 0 {
		t.Errorf("when the queries have ended: symbols %q, %d blocks, %d bytes in caches", symbols, len(s.leaving), s.cacheBytes.Load())
	}
}

// TestTicksDoNotStopAppends: while the maintainer is busy, however long, ticks go by and batches are stored.
func TestTicksDoNotStopAppends(t *testing.T) {
	busy, free := make(chan struct{}), make(chan struct{})
	disk := newCrashFS()
	o := crashOptions(disk)
	tick := make(chan time.Time)
	var once sync.Once
	o.tick = tick
	o.fs = hookFS{disk, func(op, name string) error {
		if op == "mkdir" && filepath.Base(filepath.Dir(name)) == blocksDir {
			once.Do(func() { close(busy) })
			<-free
		}
		return nil
	}}
	s := open(t, "/", o)
	g := newSource(11)
	first, second := g.batch(t, 2), g.batch(t, 2)
	mustAppend(t, s, first...)
	done := make(chan struct{})
	s.requests <- request{done}
	<-busy
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for i := range 2 * cap(s.work) {
		select {
		case tick <- start:
		case <-ctx.Done():
			t.Errorf("the writer stands still at tick %d", i)
		}
	}
	if err := s.Append(ctx, second); err != nil {
		t.Error(err)
	}
	close(free)
	<-done
	settle(t, s)
	wantStored(t, s, slices.Concat(first, second)...)
}

func TestRetention(t *testing.T) {
	t.Run("age", func(t *testing.T) {
		var mu sync.Mutex
		now := start.Add(time.Hour)
		o := testOptions()
		o.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
		o.Retention = 24 * time.Hour
		s := open(t, t.TempDir(), o)
		g := newSource(9)
		old := g.batch(t, 6)
		mustAppend(t, s, old...)
		settle(t, s)
		mu.Lock()
		now = time.Unix(0, old[5].Time).Add(o.Retention)
		mu.Unlock()
		g.n = 24 * 360
		fresh := g.batch(t, 6)
		mustAppend(t, s, fresh...)
		settle(t, s)
		q := all(t, "")
		q.To += int64(24 * time.Hour)
		if infos, err := s.Profiles(context.Background(), q, 100); err != nil || len(infos) != 12 {
			t.Errorf("%d profiles, %v", len(infos), err)
		}
		mu.Lock()
		now = now.Add(1)
		mu.Unlock()
		settle(t, s)
		if infos, err := s.Profiles(context.Background(), q, 100); err != nil || len(infos) != 6 {
			t.Errorf("%d profiles, %v", len(infos), err)
		}
		if blocks, symbols := files(t, s, blocksDir), files(t, s, symbolsDir); len(blocks) != 1 || len(symbols) != 1 {
			t.Errorf("%q, %q", blocks, symbols)
		}
	})
	t.Run("size", func(t *testing.T) {
		o := testOptions()
		o.RetentionBytes = 200_000
		s := open(t, t.TempDir(), o)
		g := newSource(9)
		var last Encoded
		for range 20 {
			batch := g.batch(t, 20)
			mustAppend(t, s, batch...)
			settle(t, s)
			last = batch[19]
		}
		var size int64
		for _, b := range s.blocks {
			size += b.meta.size()
		}
		for _, seg := range s.segments {
			size += seg.meta.size()
		}
		if size > o.RetentionBytes || size < o.RetentionBytes/4 {
			t.Errorf("%d bytes left of %d", size, o.RetentionBytes)
		}
		if got := stored(t, s); !got[last.ID] || len(got) >= 400 {
			t.Errorf("%d left, the newest: %v", len(got), got[last.ID])
		}
	})
}

// TestCachesOfMergedBlocks: what a query reads of blocks that are merged meanwhile is not kept when it ends.
func TestCachesOfMergedBlocks(t *testing.T) {
	s := open(t, t.TempDir(), testOptions())
	g := newSource(12)
	for range fanIn - 1 {
		mustAppend(t, s, g.batch(t, 4)...)
		settle(t, s)
	}
	v, err := s.view(all(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, g.batch(t, 4)...)
	settle(t, s)
	if len(s.blocks) != 1 {
		t.Fatalf("%d blocks", len(s.blocks))
	}
	for _, p := range v.parts {
		if _, err := p.profiles(); err != nil {
			t.Fatal(err)
		}
	}
	if s.cacheBytes.Load() == 0 {
		t.Error("nothing is cached")
	}
	if err := v.release(); err != nil {
		t.Error(err)
	}
	settle(t, s)
	for _, b := range s.blocks {
		b.evict()
	}
	if n := s.cacheBytes.Load(); n != 0 {
		t.Errorf("%d bytes are counted as cached", n)
	}
}

// TestCloseWhileReading closes the store under a query.
func TestCloseWhileReading(t *testing.T) {
	s := open(t, t.TempDir(), testOptions())
	batch := newSource(5).batch(t, 8)
	mustAppend(t, s, batch...)
	settle(t, s)
	v, err := s.view(all(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	seen := 0
	if err := v.each(context.Background(), false, func(chosen) error { seen++; return nil }); err != nil || seen != len(batch) {
		t.Errorf("%d profiles, %v", seen, err)
	}
	if err := v.release(); err != nil {
		t.Error(err)
	}
	if _, err := s.Select(context.Background(), all(t, "")); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := s.Append(context.Background(), batch[:1]); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestOpenRefused(t *testing.T) {
	write := func(t *testing.T, name, text string) string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for _, test := range []struct{ name, dir, want string }{
		{"foreign", write(t, "notes.txt", "x"), "holds other files"},
		{"newer", write(t, formatFile, formatText+"5\n"), "newer pilotlight"},
		{"not a format", write(t, formatFile, "x"), "not a profile store"},
		{"a file", write(t, "notes.txt", "x") + "/notes.txt", "not a directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before, _ := os.ReadDir(test.dir)
			_, err := Open(test.dir, testOptions())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if after, _ := os.ReadDir(test.dir); !slices.EqualFunc(before, after, func(a, b os.DirEntry) bool { return a.Name() == b.Name() }) {
				t.Errorf("directory changed: %v", after)
			}
		})
	}
	t.Run("in use", func(t *testing.T) {
		dir := t.TempDir()
		open(t, dir, testOptions())
		if _, err := Open(dir, testOptions()); err == nil || !strings.Contains(err.Error(), "in use") {
			t.Error(err)
		}
	})
}

// TestLateProfilesAreMergedByLevels has profiles of a day that is over come in several flushes: the day is not written
// again after each, and is one block once nothing more comes.
func TestLateProfilesAreMergedByLevels(t *testing.T) {
	now := start.AddDate(0, 0, 2)
	o := testOptions()
	o.now = func() time.Time { return now }
	s := open(t, t.TempDir(), o)
	g := newSource(77)
	flush := func() {
		mustAppend(t, s, g.batch(t, 5)...)
		settle(t, s)
	}
	flush()
	now = now.Add(settledAfter + 1)
	settle(t, s)
	for n := 2; n < fanIn; n++ {
		flush()
		if len(s.blocks) != n {
			t.Fatalf("%d blocks after %d flushes", len(s.blocks), n)
		}
	}
	flush()
	if len(s.blocks) != 1 || s.blocks[0].meta.Level != 1 {
		t.Fatalf("%d blocks after %d flushes, the first of level %d", len(s.blocks), fanIn, s.blocks[0].meta.Level)
	}
	flush()
	now = now.Add(settledAfter)
	settle(t, s)
	if len(s.blocks) != 2 {
		t.Fatalf("%d blocks, want two until nothing came for more than %v", len(s.blocks), settledAfter)
	}
	now = now.Add(1)
	settle(t, s)
	if len(s.blocks) != 1 {
		t.Fatalf("%d blocks of a settled day", len(s.blocks))
	}
}
