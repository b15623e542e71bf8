package bpf

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"pilotlight/unwind"
)

// compile builds a program of testdata, unless PREBUILT=1 says that there is nothing to build with, and returns its path.
func compile(t testing.TB, program string) string {
	t.Helper()
	if os.Getenv("PREBUILT") != "1" {
		if _, err := exec.LookPath("gcc"); err != nil && os.Getenv("REQUIRE_ALL") != "1" {
			t.Skip("the programs to sample are built with gcc")
		}
		if out, err := exec.Command("make", "--no-print-directory", "-C", "testdata", "build/"+program).CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", program, err, out)
		}
	}
	return filepath.Join("testdata", "build", program)
}

// target is a running process, and what can be known of its code.
type target struct {
	s       *Sampler
	id      ProcessID
	code    []Code
	tables  map[TableID]*unwind.Table
	symbols []symbol // by address
}

type symbol struct {
	start, end uint64
	name       string
}

// run starts a program that says so by a byte when it is where it stays, and learns about it from the samples it gets.
func run(t testing.TB, s *Sampler, path string, args ...string) *target {
	t.Helper()
	cmd := exec.Command(path, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return inspect(t, s, cmd.Process.Pid)
}

// runSelf publishes the process of the test.
func runSelf(t testing.TB, s *Sampler) {
	t.Helper()
	done := make(chan struct{})
	var burner sync.WaitGroup
	burner.Go(func() {
		burnAt(0, func() bool {
			select {
			case <-done:
				return true
			default:
				return false
			}
		})
	})
	p := inspect(t, s, os.Getpid())
	close(done)
	burner.Wait()
	p.publish(t)
}

// inspect learns about a process.
func inspect(t testing.TB, s *Sampler, pid int) *target {
	t.Helper()
	p := &target{s: s, id: ProcessID{PID: uint32(pid)}, tables: map[TableID]*unwind.Table{}}
	last := p.collect(t, 1)[0]
	p.id.Start, p.id.ExecID = last.ProcessStart, last.ExecID
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]TableID{}
	for line := range strings.Lines(string(raw)) {
		var start, end, offset uint64
		var perms, device, path string
		var inode uint64
		// A line without a path is cut short.
		if n, err := fmt.Sscanf(line, "%x-%x %s %x %s %d %s", &start, &end, &perms, &offset, &device, &inode, &path); n < 6 {
			t.Fatalf("%q: %v", line, err)
		}
		if !strings.Contains(perms, "x") || !strings.HasPrefix(path, "/") && path != "[vdso]" {
			continue
		}
		file := p.open(t, path, start, end)
		if is32Bit(file) && path == "[vdso]" {
			continue
		}
		if ids[path] == 0 && !is32Bit(file) {
			ids[path] = p.load(t, path, file)
		}
		p.add(t, path, file, ids[path], start, end, offset)
	}
	return p
}

func is32Bit(file *bytes.Reader) bool {
	class := make([]byte, 1)
	_, err := file.ReadAt(class, elf.EI_CLASS)
	return err == nil && elf.Class(class[0]) == elf.ELFCLASS32
}

// open returns the ELF file that is mapped.
func (p *target) open(t testing.TB, path string, start, end uint64) *bytes.Reader {
	t.Helper()
	if path != "[vdso]" {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.NewReader(raw)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", p.id.PID))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	raw := make([]byte, end-start)
	if _, err := mem.ReadAt(raw, int64(start)); err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(raw)
}

func (p *target) load(t testing.TB, path string, file *bytes.Reader) TableID {
	t.Helper()
	table, err := unwind.Build(file, file.Size(), unwind.Options{})
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	id, err := loadTable(p.s, table)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	p.tables[id] = table
	return id
}

// add notes the code and the functions of one mapping.
func (p *target) add(t testing.TB, path string, file *bytes.Reader, table TableID, start, end, offset uint64) {
	t.Helper()
	f, err := elf.NewFile(file)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	for _, prog := range f.Progs {
		if prog.Type != elf.PT_LOAD || prog.Flags&elf.PF_X == 0 || prog.Off&^0xfff != offset {
			continue
		}
		bias := start - prog.Vaddr&^0xfff
		kind := CodeTable
		if f.Section(".gopclntab") != nil {
			kind = CodeFramePointer
		}
		p.code = append(p.code, Code{Start: start, End: end, Bias: bias, Kind: kind, Table: table})
		symbols, err := f.Symbols()
		if err != nil { // stripped
			p.symbols = append(p.symbols, symbol{start, end, filepath.Base(path)})
		}
		for _, sym := range symbols {
			if elf.ST_TYPE(sym.Info) == elf.STT_FUNC || sym.Name == "_start" {
				p.symbols = append(p.symbols, symbol{sym.Value + bias, sym.Value + bias + max(sym.Size, 1), sym.Name})
			}
		}
	}
}

// loadTable is LoadTable that waits for room.
func loadTable(s *Sampler, table *unwind.Table) (id TableID, err error) {
	return id, whenRoom(func() error {
		id, err = s.LoadTable(table)
		return err
	})
}

// whenRoom does something again until room for it was made or cannot be made.
func whenRoom(do func() error) error {
	for {
		if err := do(); !errors.Is(err, ErrTableRoom) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

func (p *target) publish(t testing.TB) {
	t.Helper()
	if err := whenRoom(func() error { return p.s.SetProcess(p.id, p.code) }); err != nil {
		t.Fatal(err)
	}
}

// collect returns n samples that are taken from now on.
func (p *target) collect(t testing.TB, n int) []Sample {
	t.Helper()
	now, err := monotonic()
	if err != nil {
		t.Fatal(err)
	}
	var samples []Sample
	var b Batch
	for start := time.Now(); len(samples) < n; {
		if err := p.s.Read(&b, b.Upto+uint64(20*time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		for _, s := range b.Samples {
			if s.PID == p.id.PID && s.Time > now {
				s.User, s.Registers, s.Stack = slices.Clone(s.User), slices.Clone(s.Registers), slices.Clone(s.Stack)
				samples = append(samples, s)
			}
		}
		if time.Since(start) > 30*time.Second {
			t.Fatalf("%d samples of pid %d within 30 s, want %d", len(samples), p.id.PID, n)
		}
	}
	return samples
}

// names returns the functions of a stack, and the files of those in stripped ones.
func (p *target) names(stack []uint64) []string {
	var names []string
	for i, pc := range stack {
		if i > 0 {
			pc--
		}
		i := slices.IndexFunc(p.symbols, func(s symbol) bool { return s.start <= pc && pc < s.end })
		if i < 0 {
			names = append(names, fmt.Sprintf("%#x", pc))
			continue
		}
		names = append(names, p.symbols[i].name)
	}
	return names
}

// finish walks on where the kernel left off, in the sample's own piece of stack.
func (p *target) finish(s Sample) ([]uint64, error) {
	regs := unwind.Registers{PC: s.Registers[16], Exact: s.Exact, Known: hostArch().Followed()}
	if len(s.User) == 1 {
		regs.Known = 1<<16 - 1
	}
	for number, place := range []int{10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0} {
		regs.R[number] = s.Registers[place]
	}
	stack := slices.Clone(s.User)
	mem := pieceOfStack{s.Registers[19], s.Stack}
	for len(stack) < maxUserFrames {
		pc := regs.Lookup()
		i := slices.IndexFunc(p.code, func(c Code) bool { return c.Start <= pc && pc < c.End })
		if i < 0 {
			return stack, fmt.Errorf("no code at %#x", pc)
		}
		var err error
		if regs, err = p.tables[p.code[i].Table].Step(regs, p.code[i].Bias, mem); err != nil {
			return stack, err
		}
		stack = append(stack, regs.Lookup()+1)
	}
	return stack, errors.New("too deep")
}

// pieceOfStack is memory from an address on.
type pieceOfStack struct {
	start uint64
	bytes []byte
}

func (m pieceOfStack) ReadAt(b []byte, addr int64) (int, error) {
	return bytes.NewReader(m.bytes).ReadAt(b, addr-int64(m.start))
}

// recursion returns the stack of the program of that name.
func recursion(depth int) []string {
	stack := []string{"spin"}
	for i := range depth {
		stack = append(stack, []string{"fixed", "dynamic", "aligned"}[(i+1)%3])
	}
	return append(stack, "main")
}

// isChain tells whether a stack is want, called by what calls a main.
func isChain(stack, want []string) bool {
	return len(stack) > len(want) && slices.Equal(stack[:len(want)], want) && stack[len(stack)-1] == "_start" && len(stack) <= len(want)+3
}

func TestKernelTables(t *testing.T) {
	for _, tc := range []struct {
		name, program string
		depth         int
	}{
		{"C", "recursion", 45},
		{"100 deep", "recursion", 100},
		{"200 deep", "recursion", 200},
		{"400 deep", "recursion", 400},
		{"500 deep", "recursion", 500},
		{"frame pointers", "recursion-frames", 45},
		{"static", "recursion-static", 45},
		{"static PIE", "recursion-static-pie", 45},
		{"not PIE", "recursion-no-pie", 45},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := open(t, Options{Frequency: 499})
			p := run(t, s, compile(t, tc.program), fmt.Sprint(tc.depth))
			p.publish(t)
			want := recursion(tc.depth)
			for _, sample := range p.collect(t, 100) {
				if stack := p.names(sample.User); !isChain(stack, want) || sample.Outcome != Complete || len(sample.Registers)+len(sample.Stack) > 0 {
					t.Fatalf("%v: %v with %d registers, %d bytes of stack\nwant %v, complete, and no more", sample.Outcome, stack, len(sample.Registers), len(sample.Stack), want)
				}
			}
		})
	}
}

func TestKernelTablesSignal(t *testing.T) {
	s := open(t, Options{Frequency: 499})
	p := run(t, s, compile(t, "altstack"))
	p.publish(t)
	want := []string{"spin", "handler", "libc.so.6", "fault", "work", "main"}
	for _, sample := range p.collect(t, 100) {
		if stack := p.names(sample.User); !isChain(stack, want) || sample.Outcome != Complete {
			t.Fatalf("%v: %v, want %v", sample.Outcome, stack, want)
		}
	}
}

func TestKernelCompat(t *testing.T) {
	s := open(t, Options{Frequency: 499})
	path := compile(t, "compat")
	p := run(t, s, path)
	want := []string{"spin", "descend", "descend", "descend", "descend", "descend", "entry", "_start"}
	for _, sample := range p.collect(t, 100) {
		if stack := p.names(sample.User); !slices.Equal(stack, want) || sample.Outcome != Complete {
			t.Fatalf("%v: %v, want %v", sample.Outcome, stack, want)
		}
	}
}

// TestKernelUnfinished finishes the stacks of processes that nothing is known of, or not all.
func TestKernelUnfinished(t *testing.T) {
	want := recursion(45)
	whole := func(t *testing.T, p *target, outcome Outcome, leaf bool) {
		t.Helper()
		finished := 0
		for _, sample := range p.collect(t, 100) {
			if len(sample.Registers) == 0 { // there is a limit to the stacks of a second
				continue
			}
			stack, err := p.finish(sample)
			if names := p.names(stack); !isChain(names, want) || !errors.Is(err, unwind.ErrEnd) || sample.Outcome != outcome || leaf != (len(sample.User) == 1) || sample.Exact != leaf {
				t.Fatalf("%v after %d frames; finished %v: %v\nwant %v after one: %v", sample.Outcome, len(sample.User), err, names, outcome, want)
			}
			finished++
		}
		if finished == 0 {
			t.Error("no sample came with registers and stack")
		}
	}
	s := open(t, Options{Frequency: 99})
	p := run(t, s, compile(t, "recursion"), "45")
	t.Run("process", func(t *testing.T) { whole(t, p, NoMapping, true) })
	t.Run("table", func(t *testing.T) {
		code := slices.Clone(p.code)
		code[0].Kind = CodeUnknown
		if err := s.SetProcess(p.id, code); err != nil {
			t.Fatal(err)
		}
		whole(t, p, NoTable, true)
	})
	t.Run("mapping", func(t *testing.T) {
		libc := slices.IndexFunc(p.code, func(c Code) bool { return p.names([]uint64{c.Start})[0] == "libc.so.6" })
		if err := s.SetProcess(p.id, slices.Delete(slices.Clone(p.code), libc, libc+1)); err != nil {
			t.Fatal(err)
		}
		whole(t, p, NoMapping, false)
	})
	t.Run("another program", func(t *testing.T) {
		id := p.id
		id.ExecID++
		if err := s.SetProcess(id, p.code); err != nil {
			t.Fatal(err)
		}
		whole(t, p, NoMapping, true)
	})
}

// TestKernelUnknownByFramePointers takes more samples of an unknown process than may carry stacks.
func TestKernelUnknownByFramePointers(t *testing.T) {
	s := open(t, Options{Frequency: MaxFrequency})
	p := run(t, s, compile(t, "recursion-frames"), "45")
	want := recursion(45)
	shipped, walked := 0, 0
	for _, sample := range p.collect(t, 1000) {
		if len(sample.Registers) > 0 {
			shipped++
			continue
		}
		walked++
		// The C library keeps no frame pointers.
		if stack := p.names(sample.User); len(stack) < len(want) || !slices.Equal(stack[:len(want)], want) {
			t.Fatalf("%v: %v, want %v and more", sample.Outcome, stack, want)
		}
	}
	if shipped == 0 || walked == 0 {
		t.Errorf("%d samples with stacks, %d walked: want both", shipped, walked)
	}
}

func TestKernelTablesJIT(t *testing.T) {
	s := open(t, Options{Frequency: 499})
	p := run(t, s, compile(t, "recursion"), "45")
	for i := range p.code {
		p.code[i].Kind = CodeJIT
	}
	p.publish(t)
	for _, sample := range p.collect(t, 20) {
		if sample.Outcome != JITEnd || len(sample.User) != 1 || len(sample.Registers) > 0 {
			t.Fatalf("%v after %d frames with %d registers, want %v after one", sample.Outcome, len(sample.User), len(sample.Registers), JITEnd)
		}
	}
}

// TestKernelTablesChange has tables and processes come and go while samples are taken: no sample sees half of one.
func TestKernelTablesChange(t *testing.T) {
	s := open(t, Options{Frequency: 97, TableBytes: 4 * shardBytes})
	p := run(t, s, compile(t, "recursion"), "45")
	stop := make(chan struct{})
	stopped := make(chan error)
	go func() {
		rounds := 0
		stopped <- func() error {
			for ; ; rounds++ {
				select {
				case <-stop:
					if rounds < 10 {
						return fmt.Errorf("%d rounds", rounds)
					}
					return nil
				default:
				}
				ids := map[TableID]TableID{}
				code := slices.Clone(p.code)
				for i := range code {
					old := code[i].Table
					if ids[old] == 0 {
						id, err := loadTable(s, p.tables[old])
						if err != nil {
							return err
						}
						ids[old] = id
					}
					code[i].Table = ids[old]
				}
				if err := whenRoom(func() error { return s.SetProcess(p.id, code) }); err != nil {
					return err
				}
				time.Sleep(5 * time.Millisecond)
				if err := s.Forget(p.id.PID); err != nil {
					return err
				}
				for id := range maps.Values(ids) {
					if err := s.UnloadTable(id); err != nil {
						return err
					}
				}
			}
		}()
	}()
	want := recursion(45)
	samples := p.collect(t, 200)
	close(stop)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	seen := map[Outcome]int{}
	for _, sample := range samples {
		seen[sample.Outcome]++
		switch {
		case sample.Outcome == Complete && isChain(p.names(sample.User), want):
		case sample.Outcome == NoMapping && len(sample.User) == 1 && len(sample.Registers) > 0:
		case sample.Outcome == NoTable && len(sample.Registers) == 0: // the ring was too full for a stack: by frame pointers
		default:
			t.Fatalf("%v: %v with %d registers", sample.Outcome, p.names(sample.User), len(sample.Registers))
		}
	}
	if seen[Complete] == 0 || seen[Complete] == len(samples) {
		t.Errorf("outcomes %v: want samples both with and without tables", seen)
	}
}

// TestKernelTablesHostile fills the shards and the rules with anything.
func TestKernelTablesHostile(t *testing.T) {
	s := open(t, Options{Frequency: MaxFrequency})
	p := run(t, s, compile(t, "recursion"), "45")
	p.publish(t)
	at := s.tables.published[p.id.PID].at
	s.tables.mu.Lock()
	words, err := s.tables.words(piece{0, shardWords})
	s.tables.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	rules := unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(s.tables.rules.memory))), len(s.tables.rules.memory)/4)
	header := (*samplerProcess)(unsafe.Pointer(&words[at.word()]))
	first := (*samplerMapping)(unsafe.Pointer(&words[at.word()+unitWords]))
	rng := rand.New(rand.NewPCG(1, 2))
	seen := map[Outcome]int{}
	for round := range 100 {
		keep := *header
		for i := range words {
			words[i] = rng.Uint32()
			if round%2 == 0 { // likely to mean something: in this shard, and a known kind of rule
				words[i] &= 0x7fff
			}
		}
		for i := range rules {
			rules[i] = rng.Uint32() & 0x03030707
		}
		keep.Mappings = []uint32{1, 1, 3, rng.Uint32()}[round%4]
		*header = keep
		*first = samplerMapping{End: 1 << 63, Directory: rng.Uint32N(shardWords), Kind: samplerCodeKindCODE_TABLE}
		for _, sample := range p.collect(t, 10) {
			seen[sample.Outcome]++
			if len(sample.User) == 0 || len(sample.User) > maxUserFrames || int(sample.Outcome) >= NumOutcomes {
				t.Fatalf("%v with %d frames", sample.Outcome, len(sample.User))
			}
		}
	}
	if len(seen) < 3 {
		t.Errorf("outcomes %v: what was to lead astray did not", seen)
	}
}

func TestKernelTableSpace(t *testing.T) {
	s := open(t, Options{TableBytes: 2 * shardBytes})
	table := &unwind.Table{Arch: hostArch(), Rules: []unwind.Rule{{CFA: unwind.CFAEnd}}}
	for i := range uint32(8) {
		table.Pages = append(table.Pages, unwind.Page{First: i * 4096, Count: 4096})
	}
	for i := range 8 * 4096 {
		table.Rows = append(table.Rows, unwind.Row{Offset: uint16(i % 4096)})
	}
	var loaded []TableID
	for {
		id, err := loadTable(s, table)
		if errors.Is(err, ErrTableSpace) {
			break
		}
		if err != nil || len(loaded) > 4 {
			t.Fatalf("table %d: %v, want %v", len(loaded), err, ErrTableSpace)
		}
		loaded = append(loaded, id)
	}
	st, err := s.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if len(loaded) != 3 || st.TableBytes < uint64(3*4*len(table.Rows)) || st.TableBytes > 2*shardBytes || st.Memory < 2*shardBytes {
		t.Errorf("%d tables of %d rows, %d bytes, %d held: want 3 tables in two shards", len(loaded), len(table.Rows), st.TableBytes, st.Memory)
	}
	pid := ProcessID{PID: 1 << 30}
	if err := s.SetProcess(pid, []Code{{Start: 0x1000, End: 0x2000, Kind: CodeTable, Table: loaded[0]}}); err != nil {
		t.Fatal(err)
	}
	if err := s.UnloadTable(loaded[0]); !errors.Is(err, ErrTableInUse) {
		t.Errorf("unload a table in use: %v, want %v", err, ErrTableInUse)
	}
	if err := s.SetProcess(pid, []Code{{Start: 0x1000, End: 0x2000, Kind: CodeTable, Table: 99}}); err == nil {
		t.Error("a process was published with a table that there is not")
	}
	if err := s.Forget(pid.PID); err != nil {
		t.Fatal(err)
	}
	for _, id := range loaded {
		if err := s.UnloadTable(id); err != nil {
			t.Fatal(err)
		}
	}
	if id, err := loadTable(s, table); err != nil {
		t.Errorf("load into what was given back: %v", err)
	} else if err := s.UnloadTable(id); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := loadTable(s, table); !errors.Is(err, os.ErrClosed) {
		t.Errorf("load after Close: %v, want %v", err, os.ErrClosed)
	}
}
