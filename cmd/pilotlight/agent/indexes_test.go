package agent

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/cmd/pilotlight/process"
	"pilotlight/symbolize"
)

// indexing is symbols with a file that has debug information, and the indexes of that.
type indexing struct {
	*symbols
	t     *testing.T
	path  string // of the program
	key   process.FileKey
	dir   string // of the cache
	built []string
	stop  func()
	// build is what Options.Index does; nil: it builds indexes.
	build func(IndexRequest) (IndexResult, error)
}

// program compiles a C program with an inlined call and 1 MiB of debug information at most.
func program(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil && os.Getenv("REQUIRE_ALL") != "1" {
		t.Skip("gcc is not installed")
	}
	dir := t.TempDir()
	source := `static inline __attribute__((always_inline)) int inner(int x) { return x / (x + 3); }
int main(int argc, char **argv) { return inner(argc); }
`
	if err := os.WriteFile(filepath.Join(dir, "a.c"), []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("gcc", "-g", "-O2", "-o", "a", "a.c")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return filepath.Join(dir, "a")
}

func newIndexing(t *testing.T, path, dir string) *indexing {
	t.Helper()
	x := &indexing{t: t, path: path, dir: dir, key: process.FileKey{1}}
	proc := os.DirFS("/proc")
	x.symbols = newSymbols(proc, os.DirFS("/sys"), quiet)
	x.offerFile(x.key)
	x.start("test")
	return x
}

// start starts the indexes of an agent of some version.
func (x *indexing) start(version string) {
	x.t.Helper()
	var err error
	x.indexes, err = openIndexes(x.dir, os.DirFS("/proc"), newAllowance(), Options{Version: version, Logger: quiet, Index: x.index})
	if err != nil {
		x.t.Fatal(err)
	}
	x.allow(unlimited)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		x.indexes.run(ctx)
	}()
	x.stop = func() {
		cancel()
		<-done
		if err := errors.Join(x.indexes.close(), x.close()); err != nil {
			x.t.Error(err)
		}
	}
}

// allow grants CPU time.
func (x *indexing) allow(d time.Duration) {
	x.indexes.cpu.grant(d, 0)
	signal(x.indexes.changed)
}

func (x *indexing) offerFile(key process.FileKey) {
	x.t.Helper()
	f, err := os.Open(x.path)
	if err != nil {
		x.t.Fatal(err)
	}
	info, err := f.Stat()
	if err == nil {
		err = x.offer(&process.OpenFile{File: &process.File{Key: key, Size: info.Size()}, Handle: f}, owner{path: x.path})
	}
	if err != nil {
		x.t.Fatal(err)
	}
}

func (x *indexing) index(ctx context.Context, r IndexRequest) (IndexResult, error) {
	x.built = append(x.built, r.Path)
	if x.build != nil {
		return x.build(r)
	}
	info, err := r.In.Stat()
	if err != nil {
		return IndexResult{}, err
	}
	stats, err := symbolize.BuildIndex(ctx, r.In, info.Size(), r.Out, symbolize.IndexOptions{Spill: r.Spill})
	return IndexResult{Bytes: stats.Bytes}, err
}

// sampled has samples hit main, and returns its names at the end of the window.
func (x *indexing) sampled(samples int64) []symbolize.Frame {
	x.t.Helper()
	table, err := symbolize.Open(x.files[x.key].file, x.files[x.key].file.Size)
	if err != nil {
		x.t.Fatal(err)
	}
	b := codeBinary{key: x.key, opened: true, path: x.path}
	addr := uint64(0)
	for a := uint64(0x1000); addr == 0 && a < 0x2000; a++ {
		if f := table.Resolve(nil, a); len(f) > 0 && f[0].Function == "main" {
			addr = a + 2 // within the division
		}
	}
	x.takeIndexes()
	w := &window{order: []*stacks{{rows: []row{{locations: []uint32{0}, count: samples}}}}}
	name := func() []symbolize.Frame {
		kind, frames := x.resolve(&b, location{binary: firstBinary, addr: addr})
		x.weigh(w, []named{{kind: kind, frames: frames, binary: b, address: addr}})
		return frames
	}
	frames := name()
	patience := 10 * time.Second
	if x.awaitIndexes(&patience) {
		frames = name()
	}
	if patience <= 0 {
		x.t.Error("no answer within 10 s")
	}
	return frames
}

func namesOf(frames []symbolize.Frame) (names []string) {
	for _, f := range frames {
		names = append(names, f.Function)
	}
	return names
}

// TestIndexComesAfterEnoughSamples goes from the symbol table's name to the index's, and on to the index on disk.
func TestIndexComesAfterEnoughSamples(t *testing.T) {
	path, dir := program(t), t.TempDir()
	x := newIndexing(t, path, dir)
	if got := namesOf(x.sampled(leastSamples - 1)); !slices.Equal(got, []string{"main"}) || len(x.built) > 0 {
		t.Errorf("few samples: %v, built %v", got, x.built)
	}
	got := x.sampled(1)
	if !slices.Equal(namesOf(got), []string{"inner", "main"}) || !slices.Equal(x.built, []string{path}) {
		t.Fatalf("enough samples: %+v, built %v", got, x.built)
	}
	if want := (symbolize.Frame{Function: "inner", SystemName: "inner", File: filepath.Join(filepath.Dir(path), "a.c"), Line: 1, StartLine: 1, Source: symbolize.DWARF}); got[0] != want {
		t.Errorf("got %+v, want %+v", got[0], want)
	}
	x.stop()

	again := newIndexing(t, path, dir)
	defer again.stop()
	if got := namesOf(again.sampled(leastSamples)); !slices.Equal(got, []string{"inner", "main"}) || len(again.built) > 0 {
		t.Errorf("from disk: %v, built %v", got, again.built)
	}
	if st := again.indexes.current(); st.cached != 1 || st.bytes == 0 {
		t.Errorf("counted %+v", st)
	}
}

// TestDamagedIndexIsBuiltAgain damages an index on disk, and one in use.
func TestDamagedIndexIsBuiltAgain(t *testing.T) {
	path, dir := program(t), t.TempDir()
	x := newIndexing(t, path, dir)
	x.sampled(leastSamples)
	x.stop()
	file := filepath.Join(dir, indexesName, x.key.String())
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	x = newIndexing(t, path, dir)
	defer x.stop()
	if got := namesOf(x.sampled(leastSamples)); !slices.Equal(got, []string{"inner", "main"}) {
		t.Errorf("got %v", got)
	}
	if st := x.indexes.current(); st.damaged != 1 || st.built != 1 {
		t.Errorf("counted %+v", st)
	}
	if err := os.Truncate(file, 10); err != nil {
		t.Fatal(err)
	}
	x.forget(x.files[x.key])
	if got := namesOf(x.sampled(leastSamples)); !slices.Equal(got, []string{"main"}) {
		t.Errorf("from an index that was cut: %v", got)
	}
	if err := x.trim(); err != nil {
		t.Fatal(err)
	}
	if got := namesOf(x.sampled(leastSamples)); !slices.Equal(got, []string{"inner", "main"}) {
		t.Errorf("built again: %v", got)
	}
}

// TestIndexOverBudgetIsNotTriedAgain has a child be killed, then another agent of the same version, and one of the next.
func TestIndexOverBudgetIsNotTriedAgain(t *testing.T) {
	path, dir := program(t), t.TempDir()
	for _, tt := range []struct {
		version string
		built   int
	}{{"1", 1}, {"1", 0}, {"2", 1}} {
		x := newIndexing(t, path, dir)
		x.stop()
		x.symbols = newSymbols(os.DirFS("/proc"), os.DirFS("/sys"), quiet)
		x.offerFile(x.key)
		x.build = func(IndexRequest) (IndexResult, error) { return IndexResult{CPU: time.Second}, ErrIndexBudget }
		x.start(tt.version)
		for range 3 {
			if got := namesOf(x.sampled(leastSamples)); !slices.Equal(got, []string{"main"}) {
				t.Errorf("got %v, want the quick answer", got)
			}
		}
		if len(x.built) != tt.built {
			t.Errorf("version %s: tried %d times, want %d", tt.version, len(x.built), tt.built)
		}
		if st := x.indexes.current(); st.killed != 1 || st.cpu != time.Duration(tt.built)*time.Second {
			t.Errorf("version %s: counted %+v", tt.version, st)
		}
		x.stop()
	}
}

// TestIndexesWaitForCredit asks for three, the last the one of most samples, while nothing may be spent.
func TestIndexesWaitForCredit(t *testing.T) {
	x := newIndexing(t, program(t), t.TempDir())
	x.build = func(IndexRequest) (IndexResult, error) { return IndexResult{}, errors.New("no") }
	x.allow(0)
	var order []uint64
	for i := range 3 {
		key := process.FileKey{2, byte(i)}
		x.offerFile(key)
		x.indexes.want(indexJob{file: x.files[key].file, owner: owner{path: x.path}, samples: uint64(10 + i), build: true})
	}
	if x.indexes.wait(time.After(50 * time.Millisecond)) {
		t.Error("an index was built without credit")
	}
	x.allow(time.Hour)
	for len(order) < 3 && x.indexes.wait(time.After(10*time.Second)) {
		for _, a := range x.indexes.collect() {
			order = append(order, uint64(a.key[1]))
		}
	}
	if !slices.Equal(order, []uint64{2, 1, 0}) {
		t.Errorf("in the order %v", order)
	}
	x.stop()
}

// TestGovernorGrantsWhatIsLeft has work that can wait take all that it is granted: nothing else is shed for it, and no
// minute takes more than it may.
func TestGovernorGrantsWhatIsLeft(t *testing.T) {
	g := newGovernor(Options{CPULimit: 0.02, MemoryLimit: -1}, 0, cost{})
	minute := g.worth(budgetSpan)
	if got := g.credit(); got != minute/2 {
		t.Errorf("credit at first %v, want %v", got, minute/2)
	}
	granted := time.Duration(0)
	for range 100 {
		c := g.last().cost
		c.cpu += g.worth(governorInterval) / 5
		if credit := g.credit(); credit > 0 {
			granted += credit
			c.cpu += credit
			c.spare += credit
		}
		g.look(g.last().time+uint64(governorInterval), c)
		if g.level != 0 {
			t.Fatal("work is shed for what can wait")
		}
		if g.spent() > minute {
			t.Fatalf("%v spent of %v", g.spent(), minute)
		}
	}
	if granted < minute {
		t.Errorf("%v granted in 500 s, of a limit of %v a minute", granted, minute)
	}
}

// TestIndexMetrics gathers what became of files, and frames by language.
func TestIndexMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	a, err := newAccount(&replay{}, os.DirFS("/proc"), newAllowance(), Options{Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	a.indexes.Store(&indexes{stats: indexStats{built: 1, cached: 2, absent: 3, killed: 4, failed: 5, damaged: 6, bytes: 7}})
	a.frames.add(&named{kind: jitFrame, frames: unnamed("[jit]")}, "java", 8)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var results, bytes, unnamed float64
	for _, f := range families {
		for _, m := range f.GetMetric() {
			switch f.GetName() {
			case "pilotlight_symbol_indexes_total":
				results += m.GetCounter().GetValue()
			case "pilotlight_symbol_cache_bytes":
				bytes = m.GetGauge().GetValue()
			case "pilotlight_frames_total":
				unnamed = m.GetCounter().GetValue()
			}
		}
	}
	if results != 21 || bytes != 7 || unnamed != 8 {
		t.Errorf("%v results, %v bytes, %v frames", results, bytes, unnamed)
	}
}
