package agent

import (
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/bpf"
	"pilotlight/cmd/pilotlight/process"
	"pilotlight/symbolize"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func TestKernelBuildIDFromNotes(t *testing.T) {
	note := func(name string, kind byte, desc string) string {
		return string([]byte{byte(len(name)), 0, 0, 0, byte(len(desc)), 0, 0, 0, kind, 0, 0, 0}) + name + desc
	}
	for _, tc := range []struct{ name, notes, want string }{
		{"second of two", note("Xen\x00", 3, "none") + note("GNU\x00", 3, "\x01\x02\x03\xff"), "010203ff"},
		{"none", note("GNU\x00", 1, "abcd"), ""},
		{"cut short", note("GNU\x00", 3, "abcd")[:17], ""},
		{"size beyond the end", "\xff\xff\xff\xff\xff\xff\xff\xff\x03\x00\x00\x00", ""},
		{"empty", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := kernelBuildID([]byte(tc.notes)); got != tc.want {
				t.Errorf("build ID %q, want %q", got, tc.want)
			}
		})
	}
}

func TestKernelFramesWithoutSymbols(t *testing.T) {
	s := newSymbols(fstest.MapFS{}, fstest.MapFS{}, quiet)
	kind, frames := s.resolve(&codeBinary{path: kernelFile}, location{binary: kernelBinary, addr: 0xffffffff81234567})
	if kind != kernelFrame || len(frames) != 1 || frames[0].Function != "[kernel]+0xffffffff81234567" {
		t.Errorf("%v %+v, want one kernel frame with its address", kind, frames)
	}
}

func TestKernelAddressesAreThoseOfVmlinux(t *testing.T) {
	const list = `ffffffff9a000000 T _stext
ffffffff9a000000 T _text
ffffffff9a000100 T do_something
ffffffff9b000000 T _etext
ffffffffc0100000 t xfs_first\t[xfs]
ffffffffc0100200 t xfs_second\t[xfs]
`
	s := newSymbols(fstest.MapFS{"kallsyms": {Data: []byte(strings.ReplaceAll(list, `\t`, "\t"))}}, fstest.MapFS{}, quiet)
	for _, tc := range []struct {
		pc             uint64
		function, file string
		addr           uint64
	}{
		{0xffffffff9a000104, "do_something", "[kernel.kallsyms]", kernelLinkBase + 0x104},
		{0xffffffffc0100204, "xfs_second", "[xfs]", 0x204},
	} {
		_, frames := s.resolve(&codeBinary{path: kernelFile}, location{binary: kernelBinary, addr: tc.pc})
		b, addr := s.kernel.place(tc.pc)
		if frames[0].Function != tc.function || b.path != tc.file || addr != tc.addr {
			t.Errorf("%#x is %s at %s+%#x, want %s at %s+%#x", tc.pc, frames[0].Function, b.path, addr, tc.function, tc.file, tc.addr)
		}
		if addr < b.start || addr >= b.limit {
			t.Errorf("%#x is outside [%#x, %#x) of %s", addr, b.start, b.limit, b.path)
		}
	}
}

// TestProgramsThatComeLater has a BPF program come where the one before it seems to go on.
func TestProgramsThatComeLater(t *testing.T) {
	const first, second = "ffffffffc0001000 t bpf_prog_first\t[bpf]\n", "ffffffffc0001200 t bpf_prog_second\t[bpf]\n"
	const pc = 0xffffffffc0001204
	list := &fstest.MapFile{Data: []byte(first)}
	s := newSymbols(fstest.MapFS{"kallsyms": list}, fstest.MapFS{}, quiet)
	a := &Agent{symbols: s}
	expect := func(when, want string) {
		t.Helper()
		if got := s.kernel.resolve(pc)[0].Function; got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	expect("at first", "bpf_prog_first")
	list.Data = []byte(first + second)
	a.event(&bpf.Event{Kind: bpf.EventKernelCode})
	expect("within a minute", "bpf_prog_first")
	s.kernel.read = s.kernel.read.Add(-2 * kernelInterval)
	expect("later", "bpf_prog_second")
	list.Data = []byte(second)
	s.kernel.read = s.kernel.read.Add(-2 * kernelInterval)
	if s.kernel.resolve(pc); s.kernel.symbols.Functions() != 2 {
		t.Error("symbols are read again although nothing has changed")
	}
}

// TestKallsymsFail has the kernel's symbols not be read, at first, and when they are read again.
func TestKallsymsFail(t *testing.T) {
	const good, bad = "ffffffffc0001000 t bpf_prog_first\t[bpf]\n", "no memory\n"
	const pc = 0xffffffffc0001004
	list := &fstest.MapFile{Data: []byte(bad)}
	s := newSymbols(fstest.MapFS{"kallsyms": list}, fstest.MapFS{}, quiet)
	for _, step := range []struct {
		when, list, want string
		later            bool
	}{
		{"at first", bad, "[kernel]+0xffffffffc0001004", false},
		{"within a minute", good, "[kernel]+0xffffffffc0001004", false},
		{"later", good, "bpf_prog_first", true},
		{"when they cannot be read again", bad, "bpf_prog_first", true},
		{"when they can", strings.ReplaceAll(good, "first", "second"), "bpf_prog_second", true},
	} {
		list.Data = []byte(step.list)
		if step.later {
			s.kernel.changed.Store(true)
			s.kernel.read = s.kernel.read.Add(-2 * kernelInterval)
		}
		if got := s.kernel.resolve(pc)[0].Function; got != step.want {
			t.Errorf("%s: %s, want %s", step.when, got, step.want)
		}
	}
	list.Data = []byte(strings.ReplaceAll(good, "ffffffffc0001000", "0000000000000000"))
	hidden := newSymbols(fstest.MapFS{"kallsyms": list}, fstest.MapFS{}, quiet)
	hidden.kernel.resolve(pc)
	hidden.kernel.read = hidden.kernel.read.Add(-2 * kernelInterval)
	read := hidden.kernel.read
	if hidden.kernel.resolve(pc); hidden.kernel.read != read {
		t.Error("symbols that the kernel hides are read again")
	}
}

// TestWhatIsRememberedIsBounded holds what others decide the number of: kernel
// addresses that they make it run, files that they map.
func TestWhatIsRememberedIsBounded(t *testing.T) {
	s := newSymbols(fstest.MapFS{}, fstest.MapFS{}, quiet)
	for pc := range uint64(2*maxNamed + 1) {
		if s.kernel.resolve(pc); len(s.kernel.named) > maxNamed {
			t.Fatalf("%d kernel addresses are remembered, want at most %d", len(s.kernel.named), maxNamed)
		}
	}
	opened, closed := 0, 0
	for i := range MaxOpenFiles + 3 {
		opened++
		f := &process.OpenFile{File: &process.File{Key: process.FileKey{byte(i), byte(i >> 8)}}, Handle: closer{&closed}}
		if err := s.offer(f, owner{}); (err != nil) != (i >= MaxOpenFiles) {
			t.Fatalf("file %d: %v", i, err)
		}
		if opened-closed > MaxOpenFiles {
			t.Fatalf("%d files are open, want at most %d", opened-closed, MaxOpenFiles)
		}
	}
	if err := s.close(); err != nil || closed != opened {
		t.Errorf("%d of %d files closed at the end: %v", closed, opened, err)
	}
}

// closer counts how often it is closed.
type closer struct{ closed *int }

func (c closer) Close() error                      { *c.closed++; return nil }
func (closer) ReadAt([]byte, int64) (int, error)   { return 0, io.EOF }
func (closer) Stat() (info fs.FileInfo, err error) { return nil, errors.ErrUnsupported }

// TestVDSOFunction names the function that processes call to read the clock.
func TestVDSOFunction(t *testing.T) {
	image, err := symbolize.VDSO()
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	clock := slices.IndexFunc(symbols, func(s elf.Symbol) bool { return strings.HasSuffix(s.Name, "clock_gettime") })
	p, err := process.Read(os.DirFS("/proc"), uint32(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	vdso := slices.IndexFunc(p.Mappings, func(m process.Mapping) bool { return m.Kind == process.VDSO })
	if clock < 0 || vdso < 0 {
		t.Fatalf("clock_gettime is symbol %d, the vDSO mapping %d: both should be there", clock, vdso)
	}
	m := p.Mappings[vdso]
	b := binaryOf(m)
	addr, ok := m.Addr(m.Start + symbols[clock].Value + 1)
	kind, frames := newSymbols(fstest.MapFS{}, fstest.MapFS{}, quiet).resolve(&b, location{binary: firstBinary, addr: addr})
	if !ok || kind != fileFrame || !strings.HasSuffix(frames[0].Function, "clock_gettime") {
		t.Errorf("vDSO address %#x is %v %+v, want clock_gettime", addr, kind, frames)
	}
}

func TestMarkersTellWhy(t *testing.T) {
	s := newSymbols(fstest.MapFS{}, fstest.MapFS{}, quiet)
	kind, frames := s.resolve(new(codeBinary), location{marker: bpf.NoTable})
	if kind != markerFrame || frames[0].Function != "[truncated: no table]" {
		t.Errorf("%v %+v", kind, frames)
	}
}

// TestFailuresOfTheTableAreMetrics gathers what the table of processes told at a window's end.
func TestFailuresOfTheTableAreMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	a, err := newAccount(&replay{}, os.DirFS("/proc"), newAllowance(), Options{Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.end(new(window), process.TableStats{RefusedProcesses: 1, RefusedMappings: 2, ExpiredEarly: 3, ReadErrors: 4}); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "pilotlight_agent_process_failures_total" {
			for _, m := range f.GetMetric() {
				got[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	if want := map[string]float64{"refused_process": 1, "refused_mapping": 2, "expired_early": 3, "read_error": 4}; !maps.Equal(got, want) {
		t.Errorf("metrics %v, want %v", got, want)
	}
}
