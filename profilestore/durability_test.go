package profilestore

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
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
	s = reopen(t, s, testOptions())
	wantStored(t, s, append(first, second...)...)
}

// cutCopy copies the store's directory with its one segment cut to n bytes.
func cutCopy(t *testing.T, dir string, n int64) string {
	t.Helper()
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	segs := segments(t, copied, ".seg")
	if err := os.Truncate(segs[len(segs)-1], n); err != nil {
		t.Fatal(err)
	}
	return copied
}

// TestTornTail cuts the file at every byte of its last record, as a crash may.
func TestTornTail(t *testing.T) {
	g := newSource(2)
	dir := t.TempDir()
	s := open(t, dir, testOptions())
	kept, torn, later := g.batch(t, 2), g.batch(t, 1), g.batch(t, 1)
	mustAppend(t, s, kept...)
	from := s.segments[0].size
	mustAppend(t, s, torn...)
	to := s.segments[0].size
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for n := from; n < to; n++ {
		cut := open(t, cutCopy(t, dir, n), testOptions())
		wantStored(t, cut, kept...)
		if d := cut.Damage(); len(d) > 0 {
			t.Fatalf("cut at %d: %v", n, d)
		}
		mustAppend(t, cut, later...)
		cut = reopen(t, cut, testOptions())
		wantStored(t, cut, append(later, kept...)...)
		if t.Failed() {
			t.Fatalf("cut at %d of [%d, %d)", n, from, to)
		}
		if err := cut.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTornHeader cuts inside the header of the file.
func TestTornHeader(t *testing.T) {
	g := newSource(3)
	dir := t.TempDir()
	if err := open(t, dir, testOptions()).Close(); err != nil {
		t.Fatal(err)
	}
	for n := range int64(len(segmentMagic)) {
		s := open(t, cutCopy(t, dir, n), testOptions())
		e := g.profile(t)
		mustAppend(t, s, e)
		wantStored(t, reopen(t, s, testOptions()), e)
	}
}

// TestBitFlips flips one bit in each byte of the middle record: it costs what it is in and no more, nothing
// wrong is served, and the bytes stay.
func TestBitFlips(t *testing.T) {
	g := newSource(4)
	dir := t.TempDir()
	s := open(t, dir, testOptions())
	before, middle, after := g.batch(t, 1), g.batch(t, 2), g.batch(t, 1)
	mustAppend(t, s, before...)
	from := s.segments[0].size
	mustAppend(t, s, middle...)
	to := s.segments[0].size
	mustAppend(t, s, after...)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := segments(t, dir, ".seg")[0]
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := from; at < to; at++ {
		flipped := bytes.Clone(whole)
		flipped[at] ^= 1 << (at % 8)
		if err := os.WriteFile(path, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, dir, testOptions())
		got := stored(t, s)
		lost := 0
		for _, e := range middle {
			if !got[e.ID] {
				lost++
			}
		}
		if lost == 0 || !got[before[0].ID] || !got[after[0].ID] || len(s.Damage()) != 1 {
			t.Fatalf("flip at %d of [%d, %d): %d lost, damage %v", at, from, to, lost, s.Damage())
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, flipped) {
			t.Fatalf("flip at %d: the bytes were changed: %v", at, err)
		}
	}
}

// sealed makes a store with two sealed segments and closes it.
func sealed(t *testing.T, dir string) []Encoded {
	t.Helper()
	g := newSource(5)
	tick := make(chan time.Time)
	o := testOptions()
	now := start.Add(time.Hour)
	var mu sync.Mutex
	o.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	o.tick = tick
	s := open(t, dir, o)
	var batch []Encoded
	for range 2 {
		part := g.batch(t, 4)
		mustAppend(t, s, part...)
		batch = append(batch, part...)
		mu.Lock()
		now = now.Add(2 * segmentAge)
		mu.Unlock()
		tick <- now
	}
	mustAppend(t, s, batch[0]) // a double in a sealed segment, and the end of the tick before
	if err := errors.Join(s.Err(), s.Close()); err != nil {
		t.Fatal(err)
	}
	return batch
}

func TestSealed(t *testing.T) {
	dir := t.TempDir()
	batch := sealed(t, dir)
	if segs, idx := segments(t, dir, ".seg"), segments(t, dir, ".idx"); len(segs) != 3 || len(idx) != 2 {
		t.Fatalf("%q, %q", segs, idx)
	}
	wantStored(t, open(t, dir, testOptions()), batch...)
}

// TestSidecarDamage flips a bit in each byte of a sidecar: it is made again.
func TestSidecarDamage(t *testing.T) {
	dir := t.TempDir()
	batch := sealed(t, dir)
	path := segments(t, dir, ".idx")[0]
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		s := open(t, dir, testOptions())
		wantStored(t, s, batch...)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, whole) {
			t.Fatalf("the sidecar was not made again: %v", err)
		}
	}
	for at := range whole {
		flipped := bytes.Clone(whole)
		flipped[at] ^= 1 << (at % 8)
		if err := os.WriteFile(path, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		check()
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	check()
}

func TestDamageInSealedSegment(t *testing.T) {
	dir := t.TempDir()
	batch := sealed(t, dir)
	path := segments(t, dir, ".seg")[0]
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	blob := bytes.Index(whole, batch[1].Pprof)
	whole[blob+20] ^= 1
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, testOptions())
	for range 2 { // the second query counts it no second time
		res, err := s.Select(context.Background(), all(t, ""))
		if err != nil {
			t.Fatal(err)
		}
		if res.Damaged != 1 || res.Profiles != len(batch)-1 {
			t.Errorf("%d damaged, %d served", res.Damaged, res.Profiles)
		}
		if d := s.Damage(); len(d) != 1 || d[0].Path != path || d[0].Offset != int64(blob) {
			t.Errorf("damage %v", d)
		}
	}

	// Without its header the whole segment is out of use, and stays.
	if err := errors.Join(s.Close(), os.Remove(segments(t, dir, ".idx")[0])); err != nil {
		t.Fatal(err)
	}
	whole[0] ^= 1
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, testOptions())
	wantStored(t, s, batch[4:]...)
	if d := s.Damage(); len(d) != 1 || d[0].Length != int64(len(whole)) {
		t.Errorf("damage %v", d)
	}
}

// faultyFile fails when its disk does.
type faultyFile struct {
	*os.File
	disk *faultyDisk
}

// faultyDisk takes `free` more bytes; sync is the error of the next fsync.
type faultyDisk struct {
	mu   sync.Mutex
	free int
	sync error
}

func (d *faultyDisk) set(free int, sync error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free, d.sync = free, sync
}

func (d *faultyDisk) open(path string, flags int) (segmentFile, error) {
	f, err := os.OpenFile(path, flags, 0o640)
	return &faultyFile{f, d}, err
}

func (f *faultyFile) WriteAt(b []byte, off int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if len(b) > f.disk.free {
		n, err := f.File.WriteAt(b[:f.disk.free], off)
		if err == nil {
			err = &os.PathError{Op: "write", Path: f.Name(), Err: syscall.ENOSPC}
		}
		f.disk.free = 0
		return n, err
	}
	f.disk.free -= len(b)
	return f.File.WriteAt(b, off)
}

func (f *faultyFile) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.disk.sync; err != nil {
		f.disk.sync = nil
		return err
	}
	return f.File.Sync()
}

func TestDiskFull(t *testing.T) {
	g := newSource(6)
	disk := &faultyDisk{free: 1 << 20}
	o := testOptions()
	o.open = disk.open
	s := open(t, t.TempDir(), o)
	kept, refused := g.batch(t, 2), g.batch(t, 2)
	mustAppend(t, s, kept...)
	size := s.segments[0].size
	for _, free := range []int{0, 1, 30, 400} {
		disk.set(free, nil)
		err := s.Append(context.Background(), refused)
		if e := (*Error)(nil); !errors.As(err, &e) || e.Code != InsufficientStorage || !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("%d bytes free: %v", free, err)
		}
		info, err := os.Stat(s.segments[0].path)
		if err != nil || info.Size() != size {
			t.Fatalf("%d bytes free: the piece is still there: %d bytes, %v", free, info.Size(), err)
		}
		wantStored(t, s, kept...)
	}
	disk.set(1<<20, nil)
	mustAppend(t, s, refused...)
	wantStored(t, reopen(t, s, testOptions()), append(kept, refused...)...)
}

// TestDiskFullAtRotation has no room for a new segment.
func TestDiskFullAtRotation(t *testing.T) {
	g := newSource(10)
	disk := &faultyDisk{free: 1 << 20}
	o := testOptions()
	o.open, o.RetentionBytes = disk.open, 1<<20
	s := open(t, t.TempDir(), o)
	var kept []Encoded
	for len(s.segments) == 1 && s.segments[0].size < s.segmentBytes() {
		batch := g.batch(t, 20)
		mustAppend(t, s, batch...)
		kept = append(kept, batch...)
	}
	batch := g.batch(t, 2)
	disk.set(3, nil)
	for range 2 {
		err := s.Append(context.Background(), batch)
		if e := (*Error)(nil); !errors.As(err, &e) || e.Code != InsufficientStorage {
			t.Fatal(err)
		}
	}
	wantStored(t, s, kept...)
	disk.set(1<<20, nil)
	mustAppend(t, s, batch...)
	if segs := segments(t, s.dir, ".seg"); len(segs) != 2 {
		t.Errorf("%q", segs)
	}
	wantStored(t, reopen(t, s, o), append(kept, batch...)...)
}

func TestFailedSync(t *testing.T) {
	g := newSource(7)
	disk := &faultyDisk{free: 1 << 20}
	o := testOptions()
	o.open = disk.open
	s := open(t, t.TempDir(), o)
	kept, refused := g.batch(t, 2), g.batch(t, 2)
	mustAppend(t, s, kept...)
	disk.set(1<<20, syscall.EIO)
	err := s.Append(context.Background(), refused)
	if e := (*Error)(nil); !errors.As(err, &e) || e.Code != Unavailable {
		t.Fatal(err)
	}
	wantStored(t, s, kept...)
	mustAppend(t, s, refused...)
	if n := len(s.segments); n != 2 {
		t.Errorf("%d segments: the one with the failed fsync is still written to", n)
	}
	wantStored(t, reopen(t, s, testOptions()), append(kept, refused...)...)
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
	wg.Wait()
	wantStored(t, s, want...)
	wantStored(t, reopen(t, s, testOptions()), want...)
}

func TestRetention(t *testing.T) {
	t.Run("age", func(t *testing.T) {
		dir := t.TempDir()
		batch := sealed(t, dir)
		o := testOptions()
		last := time.Unix(0, batch[3].Time)
		o.now = func() time.Time { return last.Add(o.Retention) }
		o.Retention = 24 * time.Hour
		s := open(t, dir, o)
		wantStored(t, s, batch...)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		o.now = func() time.Time { return last.Add(o.Retention + 1) }
		wantStored(t, open(t, dir, o), batch[4:]...)
		if segs := segments(t, dir, ".seg"); len(segs) != 2 {
			t.Errorf("%q", segs)
		}
	})
	t.Run("size", func(t *testing.T) {
		o := testOptions()
		tick := make(chan time.Time)
		o.tick, o.RetentionBytes = tick, 100_000
		dir := t.TempDir()
		s := open(t, dir, o)
		g := newSource(9)
		var last Encoded
		for range 200 {
			batch := g.batch(t, 2)
			mustAppend(t, s, batch...)
			last = batch[1]
		}
		tick <- start
		mustAppend(t, s, last) // the tick has ended
		bytes := int64(0)
		for _, path := range segments(t, dir, ".seg") {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			bytes += info.Size()
		}
		if bytes > o.RetentionBytes || bytes < o.RetentionBytes/2 {
			t.Errorf("%d bytes left of %d", bytes, o.RetentionBytes)
		}
		if got := stored(t, s); !got[last.ID] || len(got) >= 400 {
			t.Errorf("%d left, the newest: %v", len(got), got[last.ID])
		}
	})
}

// TestDropWhileReading deletes a segment under a query.
func TestDropWhileReading(t *testing.T) {
	dir := t.TempDir()
	batch := sealed(t, dir)
	s := open(t, dir, testOptions())
	q := all(t, "")
	seen := 0
	err := s.query(context.Background(), &q, false, func(m match) error {
		if seen == 0 {
			if err := s.Close(); err != nil {
				return err
			}
		}
		seen++
		_, err := s.pprof(&m, nil, func([]byte) error { return nil })
		return err
	})
	if err != nil || seen != len(batch) {
		t.Errorf("%d profiles, %v", seen, err)
	}
	if _, err := s.Select(context.Background(), q); !errors.Is(err, ErrClosed) {
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
		{"newer", write(t, formatFile, formatText+"2\n"), "newer pilotlight"},
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
