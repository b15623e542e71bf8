//go:build verify

package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"
	"golang.org/x/sys/unix"

	"pilotlight/cmd/pilotlight/agent"
	"pilotlight/symbolize"
)

// damaged are sections that a program runs without, and that are read to walk its stacks and to name them.
var damaged = regexp.MustCompile(`^(\.eh_frame|\.eh_frame_hdr|\.symtab|\.strtab|\.shstrtab|\.debug_.*)$`)

// breakELF damages sections of a program that runs all the same: their contents, or what the section table says of them.
// Its build ID becomes another, so that it is another file than the others. What was done comes back.
func breakELF(rng *rand.Rand, image []byte, seed int) (string, error) {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return "", err
	}
	id := f.Section(".note.gnu.build-id")
	if id == nil {
		return "", fmt.Errorf("no build ID")
	}
	binary.LittleEndian.PutUint32(image[id.Offset+id.Size-4:], uint32(seed))
	table := binary.LittleEndian.Uint64(image[40:])
	var targets []int
	for i, s := range f.Sections {
		if damaged.MatchString(s.Name) && s.FileSize > 0 {
			targets = append(targets, i)
		}
	}
	what := ""
	for range 1 + rng.IntN(3) {
		i := targets[rng.IntN(len(targets))]
		s := f.Sections[i]
		piece := image[s.Offset : s.Offset+s.FileSize]
		switch rng.IntN(6) {
		case 0: // a field of the section table; those that say where it is in memory are not used
			field := []uint64{24, 32, 40, 56}[rng.IntN(4)] // offset, size, link and info, size of entries
			v := []uint64{0, 1, uint64(len(image)), 1 << 31, 1 << 40, 1<<63 - 1, ^uint64(0)}[rng.IntN(7)]
			binary.LittleEndian.PutUint64(image[table+64*uint64(i)+field:], v)
			what += fmt.Sprintf("%s: %#x in its header at %d; ", s.Name, v, field)
		case 1: // it says that it is compressed
			binary.LittleEndian.PutUint64(image[table+64*uint64(i)+8:], uint64(s.Flags|elf.SHF_COMPRESSED))
			what += s.Name + ": compressed; "
		case 2: // noise
			n := min(len(piece), 1+rng.IntN(4096))
			at := rng.IntN(len(piece) - n + 1)
			for j := range n {
				piece[at+j] = byte(rng.Uint32())
			}
			what += fmt.Sprintf("%s: %d bytes of noise at %#x; ", s.Name, n, at)
		case 3: // one byte again and again
			v := []byte{0, 1, 0x7f, 0x80, 0xff}[rng.IntN(5)]
			n := min(len(piece), 1+rng.IntN(4096))
			at := rng.IntN(len(piece) - n + 1)
			copy(piece[at:], bytes.Repeat([]byte{v}, n))
			what += fmt.Sprintf("%s: %d times %#x at %#x; ", s.Name, n, v, at)
		default: // some bytes
			for range 1 + rng.IntN(16) {
				at, v := rng.IntN(len(piece)), []byte{0, 1, 0x7f, 0x80, 0xff, byte(rng.Uint32())}[rng.IntN(6)]
				piece[at] = v
				what += fmt.Sprintf("%s: %#x at %#x; ", s.Name, v, at)
			}
		}
	}
	return what, nil
}

// buildPaced compiles testdata/paced in a form.
func buildPaced(t *testing.T, name string, flags ...string) string {
	t.Helper()
	dir := makeDir(t)
	source, err := filepath.Abs("testdata/paced/paced.c")
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"gcc", "-O2", "-fno-omit-frame-pointer", "-o", name, source}, flags...)
	if strings.Contains(name, "unframed") {
		args = append(args, "-fomit-frame-pointer")
	}
	inDir(t, dir, args...)
	return filepath.Join(dir, name)
}

// startMutants runs damaged programs until the test ends, and returns their pids with what was done to each.
func startMutants(t *testing.T, count int, forms []string, run func(path string) int) map[int]string {
	t.Helper()
	dir := makeDir(t)
	whats := make(map[int]string)
	for i := range count {
		form := forms[i%len(forms)]
		image, err := os.ReadFile(form)
		if err != nil {
			t.Fatal(err)
		}
		what, err := breakELF(rand.New(rand.NewPCG(uint64(i), 0)), image, i+1)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, fmt.Sprintf("mutant%d", i))
		if err := os.WriteFile(path, image, 0o755); err != nil {
			t.Fatal(err)
		}
		whats[run(path)] = fmt.Sprintf("mutant %d of %s: %s", i, filepath.Base(form), what)
	}
	return whats
}

// indexMutants reads the debug information of each of the damaged programs as an agent does that has the time for all of
// them, each in its child.
func indexMutants(t *testing.T, whats map[int]string) {
	t.Helper()
	var all, most agent.IndexResult
	built, skipped, refused := 0, 0, 0
	for pid, what := range whats {
		image, err := os.ReadFile(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil {
			t.Fatal(err)
		}
		request := newIndexRequest(t, image)
		links, err := symbolize.ReadDebugLinks(request.In, int64(len(image)))
		if err != nil || links.DebugBytes == 0 {
			refused++ // the agent asks for no index of it
			continue
		}
		request.Bytes = links.DebugBytes
		result, err := indexFile(t.Context(), request)
		switch {
		case err == nil && result.Skipped == "":
			built++
		case err == nil:
			skipped++
		default:
			refused++
			for _, bad := range []string{"panic", "fatal error", "signal"} {
				if strings.Contains(err.Error(), bad) {
					t.Errorf("%s: %v", what, err)
				}
			}
		}
		if limit := budget(request.Bytes) + 2*time.Second; result.CPU > limit || result.Peak > indexMemory+64<<20 {
			t.Errorf("%s: its child took %v of CPU time of %v, and %d MB", what, result.CPU, limit, result.Peak>>20)
		}
		all.CPU += result.CPU
		most.CPU, most.Peak = max(most.CPU, result.CPU), max(most.Peak, result.Peak)
	}
	t.Logf("debug information of %d: read of %d, in parts of %d, not at all of %d; %v of CPU time in all, at most %v and %d MB a child",
		len(whats), built, skipped, refused, all.CPU, most.CPU, most.Peak>>20)
	if skipped == 0 || refused == 0 {
		t.Error("no damage was found")
	}
}

// TestVerifyHostileProcesses runs 200 programs at once whose unwind tables, symbols and debug information are damaged,
// each in another way, beside one that is sound. All are sampled; the agent half lives, keeps to what it may take, and
// names the sound one as it should.
func TestVerifyHostileProcesses(t *testing.T) {
	const (
		mutants   = 200
		namedGate = 99.5      // percent of the frames of the sound program
		costGate  = 256 << 20 // bytes of the agent half and the maps of the kernel, as it is limited to
		bpfGate   = 64 << 20  // of these the maps
	)
	needRoot(t)
	forms := []string{
		buildPaced(t, "static", "-g", "-static"),
		buildPaced(t, "static-unframed", "-g", "-static"),
		buildPaced(t, "packed-unframed", "-g", "-gz"),
		buildPaced(t, "dwarf4", "-gdwarf-4"),
	}
	dir := makeDir(t)
	s, err := startServer(filepath.Join(dir, "data"), "127.0.0.1:0", 99, "--cache", filepath.Join(dir, "cache"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.signal(unix.SIGKILL)
		<-s.ended
	})
	// They take a CPU in all, so that there is time for what the agent does.
	whats := startMutants(t, mutants, forms, func(path string) int { return startProgram(t, path, "0.002", "0.4") })
	sound := startProgram(t, forms[1], "0.002", "0.02")
	from := time.Now().Truncate(agent.Window).Add(agent.Window)
	indexMutants(t, whats)
	to := time.Now().Truncate(agent.Window).Add(4 * agent.Window)
	most := uint64(0)
	for time.Now().Before(to) {
		select {
		case <-s.ended:
			t.Fatalf("the agent half has ended: %v\n%s", s.err, s.log)
		case <-time.After(100 * time.Millisecond):
			most = max(most, rssOf(t, s.cmd.Process.Pid))
		}
	}
	report := s.reportAt(t, to)
	s.checkSampled(t, whats, from, to)
	c := s.countFrames(t, sound, to.Add(-3*agent.Window), to) // by then it has its symbols
	named := 100 * float64(c.all-c.unnamed) / float64(max(c.all, 1))
	t.Logf("the sound program: %d frames, %.2f %% with a name, the others %v", c.all, named, c.where)
	if c.all == 0 || named < namedGate {
		t.Errorf("%.2f %% of the frames of the sound program have names, want %.1f", named, namedGate)
	}
	t.Logf("agent half: %.1f MB at most, %.1f %% of a CPU with its children; maps of the kernel %.1f MB; outcomes %v",
		mb(most), 100*report.Total.CPUSeconds/time.Since(time.UnixMilli(report.StartMS)).Seconds(), float64(report.BPFBytes)/(1<<20), report.Total.Outcomes)
	if most+uint64(report.BPFBytes) > costGate || report.BPFBytes > bpfGate {
		t.Errorf("the agent half had %d MB and the kernel's maps %d, want at most %d in all and %d", most>>20, report.BPFBytes>>20, costGate>>20, bpfGate>>20)
	}
	for _, bad := range []string{"panic", "fatal error"} {
		if strings.Contains(s.log.String(), bad) {
			t.Errorf("%s in the log:\n%s", bad, s.log)
		}
	}
	metrics, err := get(s.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range regexp.MustCompile(`(?m)^pilotlight_(symbol_indexes|unwind_tables|unwind_refused)_total.*|^pilotlight_agent_governor_level.*`).FindAllString(string(metrics), -1) {
		t.Log(line)
	}
}

// checkSampled holds that each of the processes runs and was sampled.
func (s *server) checkSampled(t *testing.T, whats map[int]string, from, to time.Time) {
	t.Helper()
	sampled := make(map[int]int64)
	for _, sample := range s.profileOf(t, 0, from, to).Sample {
		sampled[pidOf(t, sample)] += sample.Value[0]
	}
	least := int64(math.MaxInt64)
	for pid, what := range whats {
		if !runs(pid) {
			t.Errorf("does not run any more: %s", what)
		}
		if sampled[pid] == 0 {
			t.Errorf("no sample: %s", what)
		}
		least = min(least, sampled[pid])
	}
	t.Logf("%d damaged programs ran, each in %d samples or more", len(whats), least)
}

// pidOf is the process of a sample.
func pidOf(t *testing.T, sample *profile.Sample) (pid int) {
	t.Helper()
	label := sample.Label["pid"]
	if len(label) != 1 {
		t.Fatalf("a sample with pids %v", label)
	}
	if _, err := fmt.Sscan(label[0], &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}
