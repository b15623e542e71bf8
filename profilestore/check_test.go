package profilestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/pprof/profile"
	"github.com/klauspost/compress/gzip"
	"google.golang.org/protobuf/encoding/protowire"

	"pilotlight/profilestore/flamegraph"
)

// message builds protobuf by hand, for what pprof's own writer would not write.
type message []byte

func (m message) num(field protowire.Number, v uint64) message {
	return protowire.AppendVarint(protowire.AppendTag(m, field, protowire.VarintType), v)
}

func (m message) bytes(field protowire.Number, b []byte) message {
	return protowire.AppendBytes(protowire.AppendTag(m, field, protowire.BytesType), b)
}

func (m message) times(n int, field protowire.Number, b []byte) message {
	for range n {
		m = m.bytes(field, b)
	}
	return m
}

// profileHead is a profile with one sample type and the strings "", "cpu", "ns"; nothing follows that counts twice.
func profileHead() message {
	return message{}.bytes(fieldString, nil).bytes(fieldString, []byte("cpu")).bytes(fieldString, []byte("ns")).
		bytes(fieldSampleType, message{}.num(1, 1).num(2, 2))
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// bomb is a megabyte or so that inflates to n bytes.
func bomb(t testing.TB, n int64) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	piece := message{}.bytes(100, make([]byte, 1<<20)) // of a field that pprof does not have
	for ; n > 0; n -= int64(len(piece)) {
		if _, err := w.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func hostile(t testing.TB) map[string][]byte {
	line := message{}.num(1, 1)
	function := message{}.num(1, 1)
	location := message{}.num(1, 1)
	value := message{}.num(2, 1)
	deep := message{}
	for range maxDepth + 1 {
		deep = deep.num(1, 1)
	}
	labels := value
	for range maxSampleLabels + 1 {
		labels = labels.bytes(3, message{}.num(1, 1).num(2, 1))
	}
	return map[string][]byte{
		"more than 67108864 bytes inflated":          bomb(t, 2600<<20),
		"more than 65536 samples":                    gzipped(t, profileHead().times(4_000_000, fieldSample, nil)),
		"more than 262144 locations":                 numbered(profileHead(), fieldLocation, maxLocations+1),
		"more than 262144 functions":                 numbered(profileHead(), fieldFunction, maxFunctions+1),
		"more than 65536 mappings":                   numbered(profileHead(), fieldMapping, maxMappings+1),
		"more than 1048576 strings":                  profileHead().times(maxStrings, fieldString, nil),
		"more than 16777216 bytes of strings":        profileHead().bytes(fieldString, make([]byte, maxStringBytes)),
		"more than 8192 frames in a stack":           profileHead().bytes(fieldLocation, location).bytes(fieldSample, deep),
		"more than 8192 frames in a stack, inlined":  profileHead().bytes(fieldFunction, function).bytes(fieldLocation, location.times(5000, 4, line)).bytes(fieldSample, message{}.num(1, 1).num(1, 1)),
		"more than 327680 lines":                     profileHead().bytes(fieldFunction, function).bytes(fieldLocation, location.times(maxLines+1, 4, line)),
		"more than 16 sample types":                  profileHead().times(maxSampleTypes, fieldSampleType, nil),
		"more than 32 labels on a sample":            profileHead().bytes(fieldSample, labels),
		"more than 4096 comments":                    profileHead().bytes(fieldComment, make([]byte, 5000)),
		"has the value -1":                           profileHead().bytes(fieldSample, message{}.num(2, math.MaxUint64)),
		"sum to more than 2^53":                      profileHead().times(3, fieldSample, message{}.num(2, 1<<52)),
		"has 0 values for 1":                         profileHead().bytes(fieldSample, nil),
		"more values than the 1":                     profileHead().bytes(fieldSample, value.num(2, 1)),
		"names location 7":                           profileHead().bytes(fieldSample, value.num(1, 7)),
		"names function 7":                           profileHead().bytes(fieldLocation, location.bytes(4, message{}.num(1, 7))),
		"location id 1 is zero or there twice":       profileHead().times(2, fieldLocation, location),
		"function id 0 is zero or there twice":       profileHead().bytes(fieldFunction, nil),
		"string index out of range":                  profileHead().bytes(fieldFunction, function.num(2, 3)),
		"string index out of range, in a label":      profileHead().bytes(fieldSample, value.bytes(3, message{}.num(1, 9))),
		"no sample type":                             message{}.bytes(fieldString, nil),
		"empty or there twice":                       profileHead().bytes(fieldSampleType, message{}.num(1, 1).num(2, 2)),
		"does not begin with":                        {},
		"two profiles in one":                        profileHead().num(fieldTime, 1).num(fieldTime, 1),
		"not a pprof protobuf":                       []byte("heap profile: 1: 2 [3: 4] @ heap/1\n"),
		"not a pprof protobuf, cut":                  profileHead()[:20],
		"not a pprof protobuf, number for a message": profileHead().num(fieldSample, 1),
		"not a pprof protobuf, HTML":                 []byte("<!DOCTYPE html><html></html>"),
		"inflate":                                    {0x1f, 0x8b, 8, 0, 0, 0},
		"inflate, cut":                               gzipped(t, profileHead())[:30],
	}
}

// numbered adds n messages with the ids from 1 on.
func numbered(m message, field protowire.Number, n int) message {
	for id := range n {
		m = m.bytes(field, message{}.num(1, uint64(id+1)))
	}
	return m
}

func TestHostileProfiles(t *testing.T) {
	s := open(t, t.TempDir(), testOptions())
	for want, body := range hostile(t) {
		t.Run(want, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := s.Append(context.Background(), []Encoded{newSource(1).profile(t), {Name: "process_cpu", Time: start.UnixNano(), Pprof: body}})
			runtime.ReadMemStats(&after)

			e := (*Error)(nil)
			want, _, _ := strings.Cut(want, ",")
			if !errors.As(err, &e) || !strings.Contains(e.Message, want) || !strings.HasPrefix(e.Message, "profile 2 of 2") {
				t.Fatalf("got %v", err)
			}
			if code := map[bool]Code{true: PayloadTooLarge, false: BadRequest}[strings.HasPrefix(want, "more than ")]; e.Code != code {
				t.Errorf("code %s, want %s", e.Code, code)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 288<<20 {
				t.Errorf("%d MB allocated for %d bytes", used>>20, len(body))
			}
		})
	}
	if got := stored(t, s); len(got) != 0 {
		t.Errorf("%d profiles of refused batches are stored", len(got))
	}
}

func TestRefused(t *testing.T) {
	s := open(t, t.TempDir(), testOptions())
	now := start.Add(time.Hour)
	tests := []struct {
		want   string
		change func(e *Encoded)
	}{
		{"profile name", func(e *Encoded) { e.Name = "a b" }},
		{"before the retention", func(e *Encoded) { e.Time = now.Add(-7*24*time.Hour - 1).UnixNano() }},
		{"ahead of the server's clock", func(e *Encoded) { e.Time = now.Add(10*time.Minute + 1).UnixNano() }},
		{"duration", func(e *Encoded) { e.Duration = -1 }},
		{"label name", func(e *Encoded) { e.Labels = Labels{{"a-b", "x"}} }},
		{"is empty", func(e *Encoded) { e.Labels = Labels{{"a", ""}} }},
		{"not in order", func(e *Encoded) { e.Labels = Labels{{"b", "x"}, {"a", "x"}} }},
		{"not in order", func(e *Encoded) { e.Labels = Labels{{"a", "x"}, {"a", "y"}} }},
		{"not UTF-8", func(e *Encoded) { e.Labels = Labels{{"a", "\xff"}} }},
		{"33 labels", func(e *Encoded) { e.Labels = make(Labels, 33) }},
		{"bytes", func(e *Encoded) { e.Labels = Labels{{"a", strings.Repeat("x", maxLabelValue+1)}} }},
	}
	for _, test := range tests {
		e := newSource(1).profile(t)
		test.change(&e)
		err := s.Append(context.Background(), []Encoded{e})
		if got := (*Error)(nil); !errors.As(err, &got) || got.Code != BadRequest || !strings.Contains(got.Message, test.want) {
			t.Errorf("%s: %v", test.want, err)
		}
	}
	for _, at := range []time.Time{now.Add(-7 * 24 * time.Hour), now.Add(10 * time.Minute)} {
		e := newSource(1).profile(t)
		e.ID, e.Time = ID{}, at.UnixNano()
		mustAppend(t, s, e)
	}
}

func TestMaxSeries(t *testing.T) {
	o := testOptions()
	o.MaxSeries = 3
	s := open(t, t.TempDir(), o)
	g := newSource(2)
	with := func(i int) Encoded {
		e := g.profile(t)
		e.Labels = Labels{{"service_name", fmt.Sprint("s", i)}}
		return e
	}
	mustAppend(t, s, with(0), with(1), with(1))
	err := s.Append(context.Background(), []Encoded{with(2), with(3)})
	if e := (*Error)(nil); !errors.As(err, &e) || e.Code != TooManyRequests {
		t.Fatal(err)
	}
	mustAppend(t, s, with(2), with(0))
	if got := stored(t, s); len(got) != 5 {
		t.Errorf("%d profiles", len(got))
	}
}

// TestRefusedBatchLeavesNoDictionary has batches of many services refused: for the number of series, for their last
// profile, for the number of profiles, and because the sender gave up.
func TestRefusedBatchLeavesNoDictionary(t *testing.T) {
	o := testOptions()
	o.MaxSeries = 30
	s := open(t, t.TempDir(), o)
	g := newSource(2)
	body := g.profile(t)
	mustAppend(t, s, body)
	services := func(n int) []Encoded {
		batch := make([]Encoded, n)
		for i := range batch {
			batch[i] = body
			batch[i].ID = ID{2, byte(i >> 8), byte(i)}
			batch[i].Labels = Labels{{"service_name", fmt.Sprint("s", i)}}
		}
		return append(batch, body)
	}
	bad := services(20)
	bad[20].Pprof = []byte("x")
	many := make([]Encoded, maxBatchProfiles+1)
	grown := s.grown.Load()
	for _, test := range []struct {
		batch []Encoded
		code  Code
	}{{services(31), TooManyRequests}, {bad, BadRequest}, {many, PayloadTooLarge}} {
		err := s.Append(t.Context(), test.batch)
		if e := (*Error)(nil); !errors.As(err, &e) || e.Code != test.code {
			t.Errorf("%v, want %s", err, test.code)
		}
	}
	c, err := s.checkBatch(t.Context(), services(20))
	if err != nil || len(s.open) != 21 || s.grown.Load() < grown+20*dictionaryBytes {
		t.Fatalf("%v, %d dictionaries of %d bytes", err, len(s.open), s.grown.Load()-grown)
	}
	s.forget(c.entries)
	if len(s.open) != 1 || len(s.inMemory) != 1 || s.grown.Load() != grown {
		t.Errorf("%d dictionaries are left, %d in memory, which grew by %d bytes", len(s.open), len(s.inMemory), s.grown.Load()-grown)
	}
	for range 2 { // of the head, and of a segment
		if c, err = s.checkBatch(t.Context(), services(0)); err != nil {
			t.Fatal(err)
		}
		s.forget(c.entries)
		if len(s.open) != 1 {
			t.Errorf("a dictionary that profiles are stored with is gone")
		}
		settle(t, s)
	}
	mustAppend(t, s, services(20)...)
	if got := stored(t, s); len(got) != 21 {
		t.Errorf("%d profiles", len(got))
	}
}

// TestBlockHas asks a block for IDs that it has and for others, also when a dictionary is short.
func TestBlockHas(t *testing.T) {
	s := open(t, t.TempDir(), testOptions())
	batch := newSource(16).batch(t, 200)
	mustAppend(t, s, batch...)
	settle(t, s)
	b := s.blocks[0]
	for range 2 {
		for i := range batch {
			id := batch[i].ID
			if ok, err := b.has(id); err != nil || !ok {
				t.Errorf("%s: %v, %v", id, ok, err)
			}
			id[15]++
			if ok, err := b.has(id); err != nil || ok {
				t.Errorf("%s: %v, %v", id, ok, err)
			}
		}
		if n := s.cacheBytes.Load(); n < b.cached.size()+8*int64(len(batch)) {
			t.Errorf("%d bytes are counted", n)
		}
		b.evict()
		if n := s.cacheBytes.Load(); n != 0 {
			t.Errorf("%d bytes are counted as cached", n)
		}
	}
	b.short = map[uint32]bool{b.meta.Dictionaries[0]: true}
	has := 0
	for i := range batch {
		if ok, err := b.has(batch[i].ID); err != nil {
			t.Error(err)
		} else if ok {
			has++
		}
	}
	if has == 0 || has == len(batch) {
		t.Errorf("%d of %d, which one dictionary of %d has not", has, len(batch), len(b.meta.Dictionaries))
	}
}

func TestIDs(t *testing.T) {
	s := open(t, t.TempDir(), testOptions())
	g := newSource(3)
	a, b := g.profile(t), g.profile(t)
	mustAppend(t, s, a, a, b)
	mustAppend(t, s, a)
	if got := stored(t, s); len(got) != 2 {
		t.Errorf("%d profiles, want 2", len(got))
	}
	a.ID, b.ID = ID{}, ID{}
	mustAppend(t, s, a, b)
	mustAppend(t, s, b)
	if got := stored(t, s); len(got) != 4 {
		t.Errorf("%d profiles, want 4: those without an ID are told apart by content", len(got))
	}
}

// TestLargeBatch is refused for what its profiles inflate to together.
func TestLargeBatch(t *testing.T) {
	s := open(t, t.TempDir(), testOptions())
	var batch []Encoded
	for i := range 3 {
		body := profileHead().bytes(fieldSample, message{}.num(2, 1)).times(30, 100, make([]byte, 1<<20)) // of a field that pprof does not have
		batch = append(batch, Encoded{Name: "process_cpu", Time: start.UnixNano() + int64(i), Pprof: gzipped(t, body)})
	}
	err := s.Append(context.Background(), batch)
	if e := (*Error)(nil); !errors.As(err, &e) || e.Code != PayloadTooLarge || !strings.Contains(e.Message, "inflate to more than 64 MB") {
		t.Errorf("three: %v", err)
	}
	q := all(t, "")
	q.Type = ProfileType{Name: "process_cpu", SampleType: "cpu", SampleUnit: "ns"}
	for _, want := range []int{0, 2} {
		if infos, err := s.Profiles(context.Background(), q, 10); err != nil || len(infos) != want {
			t.Errorf("%d profiles, %v, want %d", len(infos), err, want)
		}
		mustAppend(t, s, batch[:2]...)
	}
}

// TestPlainProfile stores what came without gzip.
func TestPlainProfile(t *testing.T) {
	var plain bytes.Buffer
	p := cpuProfile()
	p.Sample = []*profile.Sample{{Value: []int64{1, 50}, Label: map[string][]string{"comm": {"a\xffb"}}}}
	if err := p.WriteUncompressed(&plain); err != nil {
		t.Fatal(err)
	}
	s := open(t, t.TempDir(), testOptions())
	mustAppend(t, s, Encoded{Name: "process_cpu", Time: start.UnixNano(), Pprof: plain.Bytes()})
	res, err := s.Select(context.Background(), all(t, `{comm="a?b"}`))
	if err != nil || res.Stacks.Total() != 50 {
		t.Errorf("%v, %v", res, err)
	}
}

//go:noinline
func allocate(depth int) []byte {
	if depth > 0 {
		return slices.Concat(allocate(depth-1), allocateLeaf(depth))
	}
	return allocateLeaf(1)
}

//go:noinline
func allocateLeaf(n int) []byte { return make([]byte, n<<10) }

// TestTopEqualsPprof compares with what pprof prints for a real profile: Go's own of its memory, with inlined
// calls and a recursion.
func TestTopEqualsPprof(t *testing.T) {
	rate := runtime.MemProfileRate
	runtime.MemProfileRate = 1
	runtime.KeepAlive(allocate(20))
	runtime.MemProfileRate = rate
	runtime.GC()
	var heap bytes.Buffer
	if err := pprof.Lookup("allocs").WriteTo(&heap, 0); err != nil {
		t.Fatal(err)
	}
	whole, err := profile.Parse(&heap)
	if err != nil {
		t.Fatal(err)
	}
	// Other tests may have left functions whose names pprof shortens: what is in brackets of generic ones.
	whole.FilterSamplesByName(regexp.MustCompile(`profilestore\.allocate`), nil, nil, nil)
	s := open(t, t.TempDir(), testOptions())
	mustAppend(t, s, Encoded{Name: "memory", Labels: Labels{{"service_name", "test"}}, Time: start.UnixNano(), Pprof: encode(t, whole)})
	q := all(t, "")
	if q.Type, err = ParseProfileType("memory:alloc_objects:count:space:bytes"); err != nil {
		t.Fatal(err)
	}
	res, err := s.Select(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	merged, err := s.Merge(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "merged.pb.gz")
	if err := os.WriteFile(path, encode(t, merged), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "tool", "pprof", "-top", "-nodecount=0", "-nodefraction=0", "-edgefraction=0", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	type line struct{ self, total int64 }
	want := make(map[string]line)
	for text := range strings.Lines(string(out)) {
		f := strings.Fields(text) // flat flat% sum% cum cum% name
		if len(f) < 6 || !strings.HasSuffix(f[1], "%") {
			continue
		}
		self, selfErr := strconv.ParseInt(f[0], 10, 64)
		total, totalErr := strconv.ParseInt(f[3], 10, 64)
		if selfErr != nil || totalErr != nil {
			t.Fatalf("line %q", text)
		}
		name := strings.TrimSuffix(strings.Join(f[5:], " "), " (inline)")
		want[strings.TrimSuffix(name, " (partial-inline)")] = line{self, total}
	}
	if len(want) < 5 || want["pilotlight/profilestore.allocate"].total < 20 {
		t.Fatalf("the profile shows nothing:\n%s", out)
	}
	table, err := flamegraph.Top(t.Context(), res.Stacks, flamegraph.Options{Unit: res.Unit})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range table.Rows {
		if want[r.Function] != (line{r.Self, r.Total}) {
			t.Errorf("%s: self %d, total %d; pprof says %v", r.Function, r.Self, r.Total, want[r.Function])
		}
		delete(want, r.Function)
	}
	if len(want) > 0 {
		t.Errorf("pprof also has %v", want)
	}
}

// TestLargeProfile is one of several megabytes, which is inflated twice.
func TestLargeProfile(t *testing.T) {
	r := rand.New(rand.NewPCG(70, 1))
	p := cpuProfile()
	for id := range uint64(3000) {
		p.Location = append(p.Location, &profile.Location{ID: id + 1, Address: r.Uint64()})
	}
	for range 60_000 {
		s := &profile.Sample{Value: []int64{1, 7}}
		for range 60 {
			s.Location = append(s.Location, p.Location[r.IntN(len(p.Location))])
		}
		p.Sample = append(p.Sample, s)
	}
	var plain bytes.Buffer
	if err := p.WriteUncompressed(&plain); err != nil {
		t.Fatal(err)
	}
	var reader profileReader
	if err := reader.read(gzipped(t, plain.Bytes())); err != nil {
		t.Fatal(err)
	}
	if plain.Len() < atOnce || !bytes.Equal(reader.raw, plain.Bytes()) || len(reader.samples) != len(p.Sample) {
		t.Errorf("%d bytes of %d, %d samples", len(reader.raw), plain.Len(), len(reader.samples))
	}
}

// normal writes a profile so that two that say the same are equal: samples with the same stack and labels are summed,
// and what no sample needs is left out.
func normal(t testing.TB, p *profile.Profile) string {
	t.Helper()
	sums := make(map[string][]int64)
	for _, s := range p.Sample {
		var b strings.Builder
		for _, l := range s.Location {
			fmt.Fprintf(&b, "%#x %v", l.Address, l.IsFolded)
			if m := l.Mapping; m != nil {
				fmt.Fprintf(&b, " %x-%x+%x %q %q %v %v %v %v", m.Start, m.Limit, m.Offset, m.File, m.BuildID, m.HasFunctions, m.HasFilenames, m.HasLineNumbers, m.HasInlineFrames)
			}
			for _, line := range l.Line {
				f := line.Function
				fmt.Fprintf(&b, "; %q %q %q %d %d:%d", f.Name, f.SystemName, f.Filename, f.StartLine, line.Line, line.Column)
			}
			b.WriteByte('\n')
		}
		names := make(map[string]bool)
		for name := range s.Label {
			names[name] = true
		}
		for name := range s.NumLabel {
			names[name] = true
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			fmt.Fprintf(&b, "%q=%q %d %q\n", name, s.Label[name], s.NumLabel[name], strings.Trim(strings.Join(s.NumUnit[name], ","), ","))
		}
		sum := sums[b.String()]
		if sum == nil {
			sum = make([]int64, len(s.Value))
			sums[b.String()] = sum
		}
		for i, v := range s.Value {
			sum[i] += v
		}
	}
	var b strings.Builder
	for _, text := range slices.Sorted(maps.Keys(sums)) {
		fmt.Fprintf(&b, "%d %s", sums[text], text)
	}
	return b.String()
}

// FuzzDecode: what is taken must be readable by pprof and say the same, and no input may do harm.
func FuzzDecode(f *testing.F) {
	plain := func(b []byte) []byte {
		var r profileReader
		if err := r.read(b); err != nil {
			f.Fatal(err)
		}
		return bytes.Clone(r.raw)
	}
	g := newSource(4)
	for range 4 {
		f.Add(plain(g.profile(f).Pprof))
	}
	f.Add([]byte(profileHead().bytes(fieldLocation, message{}.num(1, 1)).bytes(fieldSample, message{}.num(1, 1).num(2, 5).bytes(3, message{}.num(1, 1).num(3, 7)))))
	f.Add([]byte(profileHead().bytes(fieldSample, message{}.bytes(2, []byte{5})).num(fieldTime, 3).bytes(fieldPeriodType, message{}.num(1, 1))))
	for _, body := range hostile(f) {
		if len(body) < 10_000 && !isGzip(body) {
			f.Add(body)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if isGzip(raw) {
			return
		}
		var r profileReader
		if err := r.read(raw); err != nil {
			return
		}
		want, err := profile.ParseData(raw)
		if err != nil {
			t.Fatalf("pprof refuses it: %v", err)
		}
		types := r.schema("x")
		if len(types) != len(want.SampleType) || len(r.samples) != len(want.Sample) {
			t.Fatalf("%d types and %d samples, pprof has %d and %d", len(types), len(r.samples), len(want.SampleType), len(want.Sample))
		}
		d := newDictionary(1, "", 0, new(atomic.Int64))
		stacks, sets, _ := d.add(&r.decoded, nil, nil)
		own := &series{types: types, columns: r.plan()}
		columns := r.columnValues(own)
		rows := newMergedRows(len(types))
		for i := range stacks {
			at := rows.row(stacks[i], sets[i])
			for j, c := range own.columns {
				rows.values[j][at] += columns[c.column][i] * c.factor
			}
		}
		var b bytes.Buffer
		w := newPprofWriter(&b)
		w.writeTypes(types)
		w.begin(d.view())
		if err := errors.Join(w.add(rows, t.Context().Err), w.close()); err != nil {
			t.Fatal(err)
		}
		got, err := profile.ParseUncompressed(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if a, b := normal(t, got), normal(t, want); a != b {
			t.Fatalf("got\n%s\nwant\n%s", a, b)
		}
	})
}

// FuzzUnmarshalBatch: any bytes give an error or a batch that marshals again.
func FuzzUnmarshalBatch(f *testing.F) {
	f.Add(MarshalBatch(nil, []Encoded{{Name: "x", Labels: Labels{{"a", "b"}}, Pprof: []byte("p")}, {}}))
	f.Add([]byte{batchVersion, 0xff, 0xff, 0x03})
	f.Fuzz(func(t *testing.T, raw []byte) {
		batch, err := UnmarshalBatch(raw)
		if err != nil {
			return
		}
		again, err := UnmarshalBatch(MarshalBatch(nil, batch))
		if err != nil || len(again) != len(batch) {
			t.Fatalf("%d profiles, then %d, %v", len(batch), len(again), err)
		}
	})
}
