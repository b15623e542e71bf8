package bpf

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"pilotlight/testdata/stacks"
)

// The stacks of the sampler are compared with gdb's, which shares nothing with them. A variant of the sampler stops
// the thread that it has sampled; gdb walks that thread, and every pc has to be the same.

// truth is what gdb saw of a stopped thread, as testdata/walk.py answers.
type truth struct {
	TID   uint32
	PCs   []uint64
	End   string // why gdb saw no further frame
	Ended string // the process did not stop but for this

	since uint64 // CLOCK_MONOTONIC, ns, just before the sample
	code  []area // of the process at that moment
}

// area is a mapping with code in it.
type area struct {
	start, end uint64
	offset     uint64 // in the file
	path       string // empty for code made at run time
}

func (t *truth) areaOf(pc uint64) (area, bool) {
	at := slices.IndexFunc(t.code, func(a area) bool { return a.start <= pc && pc < a.end })
	if at < 0 {
		return area{}, false
	}
	return t.code[at], true
}

// debugger is a gdb that is attached to one process.
type debugger struct {
	cmd      *exec.Cmd
	commands *os.File
	answers  chan []byte // closed when gdb has ended
	output   bytes.Buffer
}

func attachDebugger(pid int) (*debugger, error) {
	theirCommands, commands, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirCommands.Close()
	answers, theirAnswers, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, commands.Close())
	}
	defer theirAnswers.Close()
	d := &debugger{commands: commands, answers: make(chan []byte)}
	d.cmd = exec.Command("gdb", "-nx", "-q", "-batch", "-iex", "set auto-load no", "-iex", "set debuginfod enabled off",
		"-p", strconv.Itoa(pid), "-x", "testdata/walk.py")
	d.cmd.ExtraFiles = []*os.File{theirCommands, theirAnswers}
	d.cmd.Stdout, d.cmd.Stderr = &d.output, &d.output
	if err := d.cmd.Start(); err != nil {
		return nil, errors.Join(err, commands.Close(), answers.Close())
	}
	go func() {
		defer close(d.answers)
		defer answers.Close()
		lines := bufio.NewScanner(answers)
		for lines.Buffer(nil, 1<<20); lines.Scan(); {
			d.answers <- bytes.Clone(lines.Bytes())
		}
	}()
	// It says that it is attached; until then the signal would kill the process.
	if _, err := d.walk(time.Minute); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// resume lets the process run. It has to be followed by a walk.
func (d *debugger) resume() error {
	_, err := fmt.Fprintln(d.commands, "continue")
	return err
}

var errNoStop = errors.New("the process did not stop")

// walk returns the stack of the thread that stopped, or errNoStop if none does within atMost.
func (d *debugger) walk(atMost time.Duration) (*truth, error) {
	select {
	case line, ok := <-d.answers:
		if !ok {
			return nil, errors.New("gdb ended")
		}
		t := new(truth)
		if err := json.Unmarshal(line, t); err != nil {
			return nil, fmt.Errorf("gdb answered %q: %w", line, err)
		}
		return t, nil
	case <-time.After(atMost):
		return nil, errNoStop
	}
}

// close lets gdb detach and end. Its process runs on.
func (d *debugger) close() error {
	err := d.commands.Close()
	timer := time.AfterFunc(20*time.Second, func() { d.cmd.Process.Kill() })
	defer timer.Stop()
	for range d.answers { // of a round that was given up
	}
	if err = errors.Join(err, d.cmd.Wait()); err != nil {
		err = fmt.Errorf("gdb: %w", err)
	}
	return err
}

// tail is the end of what gdb printed, once it is closed.
func (d *debugger) tail() []byte {
	const most = 2 << 10
	out := d.output.Bytes()
	return out[max(0, len(out)-most):]
}

// stopper is the variant of the sampler that stops what it samples.
type stopper struct {
	*Sampler
	stops *ebpf.Map
}

func openStopper(t *testing.T, opts Options) *stopper {
	t.Helper()
	spec, err := loadStopper()
	if err != nil {
		t.Fatal(err)
	}
	spec.Programs["sample"] = spec.Programs["sample_and_stop"]
	s := new(stopper)
	if s.Sampler, err = openSpec(spec, opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if s.stops, err = mapOf(s.objs.Sample, "stops"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.stops.Close() })
	return s
}

// mapOf returns a map that a program uses and that the Sampler knows nothing of.
func mapOf(prog *ebpf.Program, name string) (*ebpf.Map, error) {
	info, err := prog.Info()
	if err != nil {
		return nil, err
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return nil, err
		}
		if info, err := m.Info(); err == nil && info.Name == name {
			return m, nil
		}
		m.Close()
	}
	return nil, fmt.Errorf("the program has no map %q", name)
}

// round lets the process run for a while, stops it at a sample and returns what gdb saw there.
func (s *stopper) round(d *debugger, pid int, pause time.Duration) (*truth, error) {
	if err := d.resume(); err != nil {
		return nil, err
	}
	time.Sleep(pause)
	t, err := s.stopOnce(d, pid)
	if err != nil {
		return nil, err
	}
	if t.Ended != "" {
		return nil, fmt.Errorf("the process did not stop at a sample but for %s", t.Ended)
	}
	var stop stopperStop
	if err := s.stops.Lookup(uint32(0), &stop); err != nil {
		return nil, err
	}
	if stop.Result != 0 || stop.Tid != t.TID {
		return nil, fmt.Errorf("gdb saw thread %d stop, the sampler had sent thread %d a signal: %d", t.TID, stop.Tid, stop.Result)
	}
	t.since = stop.Time
	t.code, err = codeOf(pid)
	return t, err
}

// stopOnce has the sampler stop the process. A thread that is about to end when it is sampled never stops; then the next
// one is to.
func (s *stopper) stopOnce(d *debugger, pid int) (*truth, error) {
	for range 10 {
		if err := s.stops.Put(uint32(0), stopperStop{Pid: uint32(pid)}); err != nil {
			return nil, err
		}
		if t, err := d.walk(5 * time.Second); !errors.Is(err, errNoStop) {
			return t, err
		}
	}
	return nil, errNoStop
}

// codeOf returns the mappings of a process with code in them.
func codeOf(pid int) ([]area, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	var code []area
	for line := range strings.Lines(string(text)) {
		var a area
		var access string
		if _, err := fmt.Sscanf(line, "%x-%x %s %x", &a.start, &a.end, &access, &a.offset); err != nil {
			return nil, fmt.Errorf("mapping %q: %w", line, err)
		}
		if fields := strings.Fields(line); len(fields) > 5 && !strings.HasPrefix(fields[5], "[anon") {
			a.path = fields[5]
		}
		if access[2] == 'x' {
			code = append(code, a)
		}
	}
	return code, nil
}

// held is the samples of one process as they are read, to be matched later: waiting for each would cost a drain
// interval each.
type held struct {
	samples []Sample
	err     error
	done    chan struct{}
}

// hold reads the sampler until it is stopped and keeps what belongs to pid.
func hold(s *Sampler, pid int) *held {
	h := &held{done: make(chan struct{})}
	go func() {
		defer close(h.done)
		for b := new(Batch); ; {
			err := readSoon(s, b)
			if errors.Is(err, os.ErrClosed) {
				return
			}
			if err != nil {
				h.err = err
				return
			}
			for _, sample := range b.Samples {
				if sample.PID == uint32(pid) {
					sample.User, sample.Kernel, sample.Stack, sample.Registers = slices.Clone(sample.User), nil, nil, nil
					h.samples = append(h.samples, sample)
				}
			}
		}
	}()
	return h
}

// of returns the sample at which the thread was stopped: its first one from then on.
func (h *held) of(t *truth) *Sample {
	at, _ := slices.BinarySearchFunc(h.samples, t.since, func(s Sample, since uint64) int { return cmp.Compare(s.Time, since) })
	for i := at; i < len(h.samples); i++ {
		if h.samples[i].TID == t.TID {
			return &h.samples[i]
		}
	}
	return nil
}

// The ways in which a stack may differ from gdb's and yet be right, in the order in which they are tried. Whatever is
// equal has been counted before; whatever none of them explains is wrong.
var allowed = []struct {
	name string
	// explains is asked about stacks that are not equal.
	explains func(*Sample, *truth, *coverage) bool
}{
	// A system call that the signal interrupts is to be made again: the kernel has set the pc back to the instruction.
	{"restarted system call", func(s *Sample, t *truth, _ *coverage) bool {
		const syscallBytes = 2
		return s.Outcome == Complete && s.InKernel && s.User[0] == t.PCs[0]+syscallBytes && slices.Equal(s.User[1:], t.PCs[1:])
	}},
	// Another signal was delivered before the sampler's: the thread stands before the first instruction of its handler,
	// and the trampoline is between that and the stack that was sampled.
	{"another signal first", func(s *Sample, t *truth, _ *coverage) bool {
		return s.Outcome == Complete && s.InKernel && len(t.PCs) > 2 && s.User[0]+1 == t.PCs[2] && slices.Equal(s.User[1:], t.PCs[3:])
	}},
	// gdb has put a breakpoint into the loader, where it learns of libraries. The sample was taken in the kernel's handling
	// of it, just behind the breakpoint, which is where no program comes without gdb.
	{"gdb's own breakpoint", func(s *Sample, t *truth, _ *coverage) bool {
		const breakpointBytes = 1
		a, _ := t.areaOf(t.PCs[0])
		return s.InKernel && s.User[0] == t.PCs[0]+breakpointBytes && strings.Contains(a.path, "/ld-linux")
	}},
	// The thread ran on before the signal reached it: it had all signals blocked, as libc has while it makes a thread, or the
	// interrupt that delivers the signal came late. gdb's stack is another one, and says nothing about the sample's.
	{ranOn, func(s *Sample, t *truth, _ *coverage) bool { return s.User[0] != t.PCs[0] }},
	// What was mapped after the process had been published is the agent's to learn of; the sampler says that it does not
	// know it, and all is the same up to there.
	{"mapped later", func(s *Sample, t *truth, c *coverage) bool {
		n := len(s.User)
		a, _ := t.areaOf(s.User[n-1])
		return (s.Outcome == NoMapping || s.Outcome == NoTable) && n < len(t.PCs) && slices.Equal(s.User, t.PCs[:n]) && !slices.Contains(c.published, a)
	}},
	// gdb says that it could not go on: all that it saw is the same, whether the sampler saw more or not.
	{"gdb gave up", func(s *Sample, t *truth, _ *coverage) bool {
		return t.End != outermost && t.End != noReason && len(s.User) >= len(t.PCs) && slices.Equal(s.User[:len(t.PCs)], t.PCs)
	}},
	// A process of 32 bits is walked by frame pointers, which libc's start code has not, two frames above the entry.
	{"32-bit libc", func(s *Sample, t *truth, _ *coverage) bool {
		const startFrames = 2
		n := len(s.User)
		return s.Outcome == NoTable && t.code[len(t.code)-1].end <= 1<<32 && n >= len(t.PCs)-startFrames && n < len(t.PCs) && slices.Equal(s.User, t.PCs[:n])
	}},
	// Code without unwind information, such as what is made at run time or what calls main in some libcs: gdb guesses its
	// caller. All is the same up to there, that place included, and the sampler says how it ended.
	{"equal to the end of unwind information", func(s *Sample, t *truth, c *coverage) bool {
		n := c.judged(t)
		return n < len(t.PCs) && len(s.User) >= n && slices.Equal(s.User[:n], t.PCs[:n])
	}},
}

// ranOn is the class of samples that were not compared.
const ranOn = "ran on"

// What gdb says at the end of a whole stack: the unwind information says that there is no caller, or gdb was told to stop
// there.
const (
	outermost = "outermost"
	noReason  = "no reason"
)

// coverage knows what code had been mapped when the process was published, and, from readelf, for which code of files there is unwind information.
type coverage struct {
	published []area // what the sampler may know of
	files     map[string]*file
	errs      []error
}

type file struct {
	loads []elf.ProgHeader
	fdes  [][2]uint64 // address ranges by their starts
}

var fdeLine = regexp.MustCompile(`(?m)FDE .*pc=([0-9a-f]+)\.\.([0-9a-f]+)$`)

// open returns what is known of a file, of which nothing is if it cannot be read.
func (c *coverage) open(path string) *file {
	if f := c.files[path]; f != nil {
		return f
	}
	f := new(file)
	c.files[path] = f
	image, err := elf.Open(path)
	if err != nil {
		c.errs = append(c.errs, err)
		return f
	}
	defer image.Close()
	for _, p := range image.Progs {
		if p.Type == elf.PT_LOAD {
			f.loads = append(f.loads, p.ProgHeader)
		}
	}
	out, err := exec.Command("readelf", "--debug-dump=frames", "--wide", path).Output()
	var complaint *exec.ExitError // of debug files that are not there, for one
	if err != nil && !(errors.As(err, &complaint) && len(out) > 0) {
		c.errs = append(c.errs, fmt.Errorf("readelf %s: %w", path, err))
	}
	for _, m := range fdeLine.FindAllSubmatch(out, -1) {
		start, _ := strconv.ParseUint(string(m[1]), 16, 64)
		end, _ := strconv.ParseUint(string(m[2]), 16, 64)
		f.fdes = append(f.fdes, [2]uint64{start, end})
	}
	slices.SortFunc(f.fdes, func(a, b [2]uint64) int { return cmp.Compare(a[0], b[0]) })
	return f
}

// address returns the address in the file of a pc in a mapping of it.
func (f *file) address(pc uint64, a area) uint64 {
	offset := pc - a.start + a.offset
	for _, p := range f.loads {
		if p.Off <= offset && offset < p.Off+p.Filesz {
			return offset - p.Off + p.Vaddr
		}
	}
	return 0
}

func (f *file) covers(addr uint64) bool {
	at, found := slices.BinarySearchFunc(f.fdes, addr, func(r [2]uint64, addr uint64) int { return cmp.Compare(r[0], addr) })
	return found || at > 0 && addr < f.fdes[at-1][1]
}

// judged returns how many frames of gdb's can be relied on: those up to the first one in code without unwind information,
// that one included.
func (c *coverage) judged(t *truth) int {
	at := slices.IndexFunc(t.PCs, func(pc uint64) bool {
		a, ok := t.areaOf(pc)
		if !ok || a.path == "" {
			return true
		}
		if a.path == "[vdso]" {
			return false
		}
		f := c.open(a.path)
		addr := f.address(pc, a)
		return !f.covers(addr) && !f.covers(addr-1) // a return address may be the first behind its function
	})
	if at < 0 {
		return len(t.PCs)
	}
	return at + 1
}

// places words a stack by files and addresses in them.
func (c *coverage) places(pcs []uint64, t *truth) string {
	var b strings.Builder
	for i, pc := range pcs {
		if i == 40 {
			fmt.Fprintf(&b, " and %d more", len(pcs)-i)
			break
		}
		if a, ok := t.areaOf(pc); ok && strings.HasPrefix(a.path, "/") {
			fmt.Fprintf(&b, " %s+%#x", filepath.Base(a.path), c.open(a.path).address(pc, a))
		} else {
			fmt.Fprintf(&b, " %s%#x", a.path, pc)
		}
	}
	return b.String()
}

// tally is what came of the comparison of one program's stacks.
type tally struct {
	program string
	samples int
	lost    int // without a sample, or without a user stack in it
	equal   int
	whole   int // of gdb's stacks, those that it says are whole
	leaves  int // with gdb's first pc, whatever follows: the thread was stopped where it was sampled
	allowed map[string]int
	short   map[string]int // not whole, as the sampler itself says by the outcome that is the key; right as far as they go
	wrong   map[string]int // with a pc that is not gdb's, or said to be whole and not; by outcome too
	// compared counts the pcs of gdb's in the stacks that are equal or allowed, as far as they can be judged.
	compared int
	seen     coverage
	show     []string // of what is neither equal nor allowed, the first few
}

func (c *tally) add(s *Sample, t *truth) {
	c.samples++
	if t.End == outermost {
		c.whole++
	}
	if s == nil || len(s.User) == 0 {
		c.lost++
		return
	}
	if s.User[0] == t.PCs[0] {
		c.leaves++
	}
	if s.Outcome == Complete && slices.Equal(s.User, t.PCs) {
		c.equal++
		c.compared += len(t.PCs)
		return
	}
	for _, class := range allowed {
		if class.explains(s, t, &c.seen) {
			c.allowed[class.name]++
			if class.name != ranOn {
				c.compared += min(c.seen.judged(t), len(s.User))
			}
			return
		}
	}
	if s.Outcome.Truncated() && len(s.User) < len(t.PCs) && slices.Equal(s.User, t.PCs[:len(s.User)]) {
		c.short[s.Outcome.String()]++
	} else {
		c.wrong[s.Outcome.String()]++
	}
	if len(c.show) < 3 {
		c.show = append(c.show, fmt.Sprintf("in kernel %v, outcome %v:%s\ngdb, which ended with %q:%s",
			s.InKernel, s.Outcome, c.seen.places(s.User, t), t.End, c.seen.places(t.PCs, t)))
	}
}

func (c *tally) right() int {
	n := c.equal
	for _, count := range c.allowed {
		n += count
	}
	return n
}

func (c *tally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-16s %5d samples, gdb's whole %d, first pc equal %d, %d pcs compared; %d equal",
		c.program, c.samples, c.whole, c.leaves, c.compared, c.equal)
	if c.lost > 0 {
		fmt.Fprintf(&b, ", %d LOST", c.lost)
	}
	for _, class := range allowed {
		if n := c.allowed[class.name]; n > 0 {
			fmt.Fprintf(&b, ", %d %s", n, class.name)
		}
	}
	for _, outcome := range slices.Sorted(maps.Keys(c.short)) {
		fmt.Fprintf(&b, ", %d cut short (%s)", c.short[outcome], outcome)
	}
	for _, outcome := range slices.Sorted(maps.Keys(c.wrong)) {
		fmt.Fprintf(&b, ", %d WRONG (%s)", c.wrong[outcome], outcome)
	}
	return b.String()
}

// identity compares n stacks of a program with gdb's. The program runs for up to pause between two of them.
func identity(t *testing.T, program string, n int, pause time.Duration) *tally {
	t.Helper()
	if os.Geteuid() != 0 && os.Getenv("REQUIRE_ALL") != "1" {
		t.Skip("loading BPF programs needs root")
	}
	if err := stacks.Build(context.Background(), program); err != nil {
		t.Fatal(err)
	}
	s := openStopper(t, Options{Frequency: 499})
	running, err := stacks.Start(program)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := running.Stop(); err != nil {
			t.Error(err)
		}
	}()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	before, err := codeOf(running.PID)
	if err != nil {
		t.Fatal(err)
	}
	publish(t, s.Sampler, running.PID)
	after, err := codeOf(running.PID)
	if err != nil {
		t.Fatal(err)
	}
	published := slices.DeleteFunc(before, func(a area) bool { return !slices.Contains(after, a) })
	d, err := attachDebugger(running.PID)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("gdb printed: %s", d.tail())
		}
	}()
	h := hold(s.Sampler, running.PID)
	var truths []*truth
	for range n {
		truth, err := s.round(d, running.PID, rand.N(pause))
		if err != nil {
			t.Fatalf("%s, sample %d: %v", program, len(truths), err)
		}
		truths = append(truths, truth)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	<-h.done
	if h.err != nil {
		t.Fatal(h.err)
	}
	c := &tally{program: program, allowed: map[string]int{}, short: map[string]int{}, wrong: map[string]int{},
		seen: coverage{published: published, files: map[string]*file{}}}
	for _, truth := range truths {
		c.add(h.of(truth), truth)
	}
	if err := errors.Join(c.seen.errs...); err != nil {
		t.Error(err)
	}
	return c
}

// TestKernelGDB is a small TestVerifyGDB.
func TestKernelGDB(t *testing.T) {
	if !withTables {
		// What of the stack is right then depends on the compiler. That the thread stops at its sample does not.
		c := identity(t, "deep-frames", 50, 5*time.Millisecond)
		t.Log(c)
		if c.leaves < c.samples {
			t.Errorf("%v: %d stopped where they were sampled, want all\n%s", c, c.leaves, strings.Join(c.show, "\n"))
		}
		return
	}
	for _, program := range []string{"deep", "altstack", "callbacks", "exceptions"} {
		t.Run(program, func(t *testing.T) {
			c := identity(t, program, 50, 5*time.Millisecond)
			t.Log(c)
			if c.right() < c.samples {
				t.Errorf("%v\n%s", c, strings.Join(c.show, "\n"))
			}
		})
	}
}
