package bpf

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
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
	filed int    // frames before the first one that is not in code of a file
	jit   bool   // that one is in code all the same: made at run time
}

// debugger is a gdb that is attached to one process.
type debugger struct {
	cmd      *exec.Cmd
	commands *os.File
	answers  *os.File
	lines    *bufio.Scanner
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
	d := &debugger{commands: commands, answers: answers, lines: bufio.NewScanner(answers)}
	d.lines.Buffer(nil, 1<<20)
	d.cmd = exec.Command("gdb", "-nx", "-q", "-batch", "-iex", "set auto-load no", "-iex", "set debuginfod enabled off",
		"-p", strconv.Itoa(pid), "-x", "testdata/walk.py")
	d.cmd.ExtraFiles = []*os.File{theirCommands, theirAnswers}
	d.cmd.Stdout, d.cmd.Stderr = &d.output, &d.output
	if err := d.cmd.Start(); err != nil {
		return nil, errors.Join(err, commands.Close(), answers.Close())
	}
	if _, err := d.walk(); err != nil { // of nothing: it says that it is attached, and until then a signal would kill
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// resume lets the process run. It has to be followed by a walk.
func (d *debugger) resume() error {
	_, err := fmt.Fprintln(d.commands, "continue")
	return err
}

// walk returns the stack of the thread that stopped, once one did.
func (d *debugger) walk() (*truth, error) {
	if err := d.answers.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	if !d.lines.Scan() {
		return nil, fmt.Errorf("gdb does not answer: %w", cmp.Or(d.lines.Err(), errors.New("it ended")))
	}
	t := new(truth)
	if err := json.Unmarshal(d.lines.Bytes(), t); err != nil {
		return nil, fmt.Errorf("gdb answered %q: %w", d.lines.Bytes(), err)
	}
	return t, nil
}

// close lets gdb detach and end. Its process runs on.
func (d *debugger) close() error {
	err := d.commands.Close()
	timer := time.AfterFunc(20*time.Second, func() { d.cmd.Process.Kill() })
	defer timer.Stop()
	err = errors.Join(err, d.cmd.Wait(), d.answers.Close())
	if err != nil {
		err = fmt.Errorf("gdb: %w\n%s", err, d.output.Bytes())
	}
	return err
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
	if err := s.stops.Put(uint32(0), stopperStop{Pid: uint32(pid)}); err != nil {
		return nil, err
	}
	t, err := d.walk()
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
	return t, t.place(pid)
}

// place finds out where the code of files ends. The process must still be stopped.
func (t *truth) place(pid int) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return err
	}
	type area struct {
		from, to uint64
		file     bool
	}
	var code []area
	for line := range strings.Lines(string(text)) {
		var a area
		var access string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &a.from, &a.to, &access); err != nil {
			return fmt.Errorf("mapping %q: %w", line, err)
		}
		fields := strings.Fields(line)
		a.file = len(fields) > 5 && !strings.HasPrefix(fields[5], "[anon")
		if access[2] == 'x' {
			code = append(code, a)
		}
	}
	for i, pc := range t.PCs {
		at := slices.IndexFunc(code, func(a area) bool { return a.from <= pc && pc < a.to })
		if at < 0 || !code[at].file {
			t.filed, t.jit = i, at >= 0
			return nil
		}
	}
	t.filed = len(t.PCs)
	return nil
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
			err := s.Read(b)
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
	explains func(*Sample, *truth) bool
}{
	// A system call that the signal interrupts is to be made again: the kernel has set the pc back to the instruction.
	{"restarted system call", func(s *Sample, t *truth) bool {
		const syscallBytes = 2
		return s.Outcome == Complete && s.InKernel && len(s.User) == len(t.PCs) && s.User[0] == t.PCs[0]+syscallBytes && slices.Equal(s.User[1:], t.PCs[1:])
	}},
	// Code made at run time has no unwind information: gdb guesses from there on. Up to there every pc is compared.
	{"equal up to run-time code", func(s *Sample, t *truth) bool {
		n := t.filed + 1
		return t.jit && len(s.User) >= n && slices.Equal(s.User[:n], t.PCs[:n])
	}},
	// Some start code has no unwind information and no caller either; gdb guesses one, which is in no code at all.
	{"gdb goes on below the entry", func(s *Sample, t *truth) bool {
		return s.Outcome == Complete && len(s.User) == t.filed && !t.jit && slices.Equal(s.User, t.PCs[:t.filed])
	}},
	// gdb takes two frames at one place for a loop, and memory that it cannot read for an end; it says that it gave up.
	{"gdb gave up", func(s *Sample, t *truth) bool {
		return s.Outcome == Complete && t.End != outermost && t.End != noReason && len(s.User) > len(t.PCs) && slices.Equal(s.User[:len(t.PCs)], t.PCs)
	}},
}

// What gdb says at the end of a whole stack: the unwind information says that there is no caller, or gdb was told to stop there.
const (
	outermost = "outermost"
	noReason  = "no reason"
)

// tally is what came of the comparison of one program's stacks.
type tally struct {
	program string
	samples int
	lost    int // without a sample, or without a user stack in it
	equal   int
	whole   int // of gdb's stacks, those that it says are whole and that are in code all along
	leaves  int // with gdb's first pc, whatever follows: the thread was stopped where it was sampled
	allowed map[string]int
	short   map[string]int // not whole, as the sampler itself says by the outcome that is the key; right as far as they go
	wrong   map[string]int // with a pc that is not gdb's, or said to be whole and not; by outcome too
	example string         // of what is wrong
}

func (c *tally) add(s *Sample, t *truth) {
	c.samples++
	if t.End == outermost && t.filed == len(t.PCs) {
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
		return
	}
	for _, class := range allowed {
		if class.explains(s, t) {
			c.allowed[class.name]++
			return
		}
	}
	if s.Outcome.Truncated() && len(s.User) < len(t.PCs) && slices.Equal(s.User, t.PCs[:len(s.User)]) {
		c.short[s.Outcome.String()]++
	} else {
		c.wrong[s.Outcome.String()]++
	}
	if c.example == "" {
		c.example = fmt.Sprintf("in kernel %v, outcome %v: %s\ngdb, which ended with %q: %s", s.InKernel, s.Outcome, hex(s.User), t.End, hex(t.PCs))
	}
}

func hex(pcs []uint64) string {
	if len(pcs) > 60 {
		return fmt.Sprintf("%x and %d more", pcs[:60], len(pcs)-60)
	}
	return fmt.Sprintf("%x", pcs)
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
	fmt.Fprintf(&b, "%-16s %5d samples, gdb's whole %d, first pc equal %d; %d equal", c.program, c.samples, c.whole, c.leaves, c.equal)
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
	if os.Geteuid() != 0 && os.Getenv("REQUIRE_ALL") == "" {
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
	publish(t, s.Sampler, running.PID)
	d, err := attachDebugger(running.PID)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.close(); err != nil {
			t.Error(err)
		}
	}()
	h := hold(s.Sampler, running.PID)
	var truths []*truth
	for range n {
		truth, err := s.round(d, running.PID, rand.N(pause))
		if err != nil {
			t.Fatalf("%s, sample %d: %v\n%s", program, len(truths), err, d.output.Bytes())
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
	c := &tally{program: program, allowed: map[string]int{}, short: map[string]int{}, wrong: map[string]int{}}
	for _, truth := range truths {
		c.add(h.of(truth), truth)
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
			t.Errorf("%v: %d stopped where they were sampled, want all\n%s", c, c.leaves, c.example)
		}
		return
	}
	for _, program := range []string{"deep", "altstack", "callbacks", "exceptions"} {
		t.Run(program, func(t *testing.T) {
			c := identity(t, program, 50, 5*time.Millisecond)
			t.Log(c)
			if c.right() < c.samples {
				t.Errorf("%v\n%s", c, c.example)
			}
		})
	}
}
