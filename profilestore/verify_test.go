//go:build verify

package profilestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/pprof/profile"
	"golang.org/x/sys/unix"
)

// TestVerifyCrashes runs 10,000 stories that end in power losses.
func TestVerifyCrashes(t *testing.T) {
	const seeds = 10_000
	bodies := newSource(30).batch(t, 60)
	for seed := range uint64(seeds) {
		crashSeed(t, seed, bodies)
		if seed%1000 == 999 {
			fmt.Printf("%d seeds\n", seed+1)
		}
	}
	fmt.Printf("%d seeds, three lives each: nothing acknowledged is lost or doubled\n", seeds)
}

// TestVerifyTornTail cuts the log at every byte of its last file.
func TestVerifyTornTail(t *testing.T) {
	fmt.Printf("log cut at every byte of its last file, %d cuts: only what the cut is in is missing\n", cutLog(t, 10, 1))
}

// TestVerifyBitFlips flips single bits, spread over each kind of file.
func TestVerifyBitFlips(t *testing.T) {
	kinds := flipBits(t, 1000)
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		fmt.Printf("%5d flips of %s: nothing wrong was served, and each was said\n", kinds[kind], kind)
	}
}

// TestVerifyMutants changes single bytes and pieces of profiles: none does harm, and what is taken is readable by pprof.
func TestVerifyMutants(t *testing.T) {
	const mutants = 1_000_000
	g := newSource(60)
	var bodies [][]byte
	for range 20 {
		var r profileReader
		if err := r.read(g.profile(t).Pprof); err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, bytes.Clone(r.raw))
	}
	runtime.GC()
	before := residentMB(t)
	r := rand.New(rand.NewPCG(61, 1))
	var reader profileReader
	d := newDictionary(1, "", 0, new(atomic.Int64))
	taken := 0
	var stacks, sets []uint32
	for i := range mutants {
		b := bytes.Clone(bodies[i%len(bodies)])
		for range 1 + r.IntN(4) {
			switch at := r.IntN(len(b)); r.IntN(4) {
			case 0:
				b[at] = byte(r.Uint32())
			case 1:
				b[at] ^= 1 << r.IntN(8)
			case 2:
				b = append(b[:at], b[min(len(b), at+r.IntN(20)):]...)
			case 3:
				b = slices.Insert(b, at, b[at:min(len(b), at+r.IntN(20))]...)
			}
			if len(b) == 0 {
				b = []byte{0}
			}
		}
		if reader.read(b) != nil {
			continue
		}
		taken++
		stacks, sets, _ = d.add(&reader.decoded, stacks[:0], sets[:0])
		if taken%1000 == 0 {
			d = newDictionary(1, "", 0, new(atomic.Int64)) // hostile names fill any dictionary: the store retires it
		}
		if taken%50 == 0 {
			if _, err := profile.ParseData(b); err != nil {
				t.Fatalf("pprof refuses what is taken: %v", err)
			}
		}
	}
	rise := residentMB(t) - before
	fmt.Printf("%d mutants, %d taken, resident memory up by %d MB (to reach: 64)\n", mutants, taken, rise)
	if taken == 0 || rise > 64 {
		t.Errorf("%d taken, up by %d MB", taken, rise)
	}
}

// TestVerifyBombs measures what the hostile profiles of TestHostileProfiles take.
func TestVerifyBombs(t *testing.T) {
	s := open(t, t.TempDir(), testOptions())
	most, longest := 0, time.Duration(0)
	bombs := hostile(t)
	for what, body := range bombs {
		debug.FreeOSMemory()
		before, began := residentMB(t), time.Now()
		err := s.Append(context.Background(), []Encoded{{Name: "process_cpu", Time: start.UnixNano(), Pprof: body}})
		took, rise := time.Since(began), residentMB(t)-before
		most, longest = max(most, rise), max(longest, took)
		if e := (*Error)(nil); !errors.As(err, &e) {
			t.Errorf("%s: %v", what, err)
		}
		if took > time.Second || rise > 64 {
			t.Errorf("%s: %d bytes, %s, resident memory up by %d MB (to reach: 64 MB, 1 s)", what, len(body), took.Round(time.Millisecond), rise)
		}
	}
	fmt.Printf("%d bombs: refused within %s, resident memory up by %d MB at most\n", len(bombs), longest.Round(time.Millisecond), most)
}

// residentMB is the memory of this process.
func residentMB(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kb >> 10
}

// TestVerifySmallDisk fills a file system of 64 MB ten times: retention and refusals take turns, nothing that was
// acknowledged within the retention's size is damaged, and writing goes on.
func TestVerifySmallDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	ballast := filepath.Join(dir, "ballast")
	o := testOptions()
	o.RetentionBytes = 20 << 20
	data := filepath.Join(dir, "data")
	s := open(t, data, o)
	load := newLoadService(t, 1, 1, 0.3)
	stored, refused := 0, 0
	send := func(i int) error {
		return s.Append(context.Background(), []Encoded{{Name: "process_cpu", Labels: loadLabels(1, 0), Time: start.Add(time.Duration(i) * 100 * time.Millisecond).UnixNano(), Pprof: load.profile(t, 0)}})
	}
	n := 0
	for round := range 10 {
		full := false
		var disk syscall.Statfs_t
		if err := syscall.Statfs(dir, &disk); err != nil {
			t.Fatal(err)
		}
		const left = 4 << 20 // which the log fills
		if err := os.WriteFile(ballast, make([]byte, max(0, int(disk.Bfree)*int(disk.Bsize)-left)), 0o600); err != nil {
			t.Fatal(err)
		}
		for !full {
			n++
			err := send(n)
			if e := (*Error)(nil); errors.As(err, &e) && e.Code == InsufficientStorage {
				full = true
				refused++
			} else if err != nil {
				t.Fatal(err)
			} else {
				stored++
			}
		}
		if _, err := s.Select(context.Background(), all(t, "")); err != nil {
			t.Fatalf("round %d: read on a full disk: %v", round, err)
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		settle(t, s)
		if err := send(n); err != nil {
			t.Fatalf("round %d: there is room again: %v", round, err)
		}
		stored++
		if d := s.Damage(); len(d) > 0 {
			t.Fatalf("round %d: %v", round, d)
		}
	}
	fmt.Printf("filled 10 times: %d profiles stored, %d refusals, each mended by room alone\n", stored, refused)
}
