package agent

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/pprof/profile"
	"github.com/klauspost/compress/gzip"

	"pilotlight/bpf"
	"pilotlight/cmd/pilotlight/process"
	"pilotlight/profilestore"
	"pilotlight/symbolize"
)

// ProfileName is the first part of the profile type of what the agent sends.
const ProfileName = "process_cpu"

// encoder turns windows into profiles. It belongs to the publishing goroutine.
type encoder struct {
	symbols  *symbols
	labeler  *labeler
	hostname string
	version  string
	patience time.Duration // for indexes
	plain    bytes.Buffer
	gzip     *gzip.Writer
}

func newEncoder(s *symbols, l *labeler, o Options) (*encoder, error) {
	gz, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	return &encoder{symbols: s, labeler: l, hostname: o.Hostname, version: o.Version, patience: o.IndexWait, gzip: gz}, nil
}

// encode names the locations of w and returns a profile for each process that no
// rule leaves out. id names the profiles.
func (e *encoder) encode(w *window, id func(process.Key) profilestore.ID) ([]profilestore.Encoded, error) {
	e.symbols.takeIndexes()
	e.label(w)
	names := e.name(w)
	e.symbols.weigh(w, names)
	if e.symbols.awaitIndexes(&e.patience) {
		names = e.name(w)
	}
	batch := make([]profilestore.Encoded, 0, len(w.order))
	for _, st := range w.order {
		st.frames = frameCounts{}
		language := language(st, names)
		for i := range st.rows {
			for _, id := range st.rows[i].locations {
				st.frames.add(&names[id], language, uint64(st.rows[i].count))
			}
		}
		packed, err := e.compress(e.profile(w, st, names))
		if err != nil {
			return nil, fmt.Errorf("encode profile of process %d: %w", st.process.PID, err)
		}
		batch = append(batch, profilestore.Encoded{
			ID:       id(st.process.Key),
			Name:     ProfileName,
			Labels:   st.labels,
			Time:     w.start.UnixNano(),
			Duration: w.length,
			Pprof:    packed,
		})
	}
	return batch, nil
}

// label gives processes their labels, and leaves out those that rules drop.
func (e *encoder) label(w *window) {
	kept := w.order[:0]
	for _, st := range w.order {
		labels, ok := e.labeler.labels(st.process)
		if !ok {
			w.skipped += st.samples
			continue
		}
		st.labels = labels
		kept = append(kept, st)
	}
	clear(w.order[len(kept):])
	w.order = kept
	e.labeler.turn()
}

// language says what a process runs, for metrics.
func language(st *stacks, names []named) string {
	if st.process.KernelThread {
		return "kernel"
	}
	if name := st.process.Interpreter(); name != "" {
		return name
	}
	for i := range st.rows {
		for _, id := range st.rows[i].locations {
			if n := &names[id]; n.frames[0].Source == symbolize.Pclntab && n.binary.path == st.process.Exe {
				return "go"
			}
		}
	}
	return "native"
}

// named is a location of a window with its name.
type named struct {
	kind    frameKind
	frames  []symbolize.Frame // innermost first, at least one; of rank None if no symbol names them
	binary  codeBinary        // the location's, or that of a kernel module; zero if there is none
	address uint64            // in the binary
}

// name resolves all locations of w.
func (e *encoder) name(w *window) []named {
	names := make([]named, len(w.locations.list))
	for i, l := range w.locations.list {
		n := named{binary: w.binaries.list[l.binary], address: l.addr}
		n.kind, n.frames = e.symbols.resolve(&n.binary, l)
		if l.binary == kernelBinary {
			n.binary, n.address = e.symbols.kernel.place(l.addr)
		}
		names[i] = n
	}
	return names
}

func (e *encoder) profile(w *window, st *stacks, names []named) *profile.Profile {
	b := &profileBuilder{
		window:    w,
		names:     names,
		locations: make(map[uint32]*profile.Location),
		mappings:  make(map[codeBinary]*profile.Mapping),
		functions: make(map[function]*profile.Function),
		profile: &profile.Profile{
			SampleType:    []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}},
			PeriodType:    &profile.ValueType{Type: "cpu", Unit: "nanoseconds"},
			Period:        period(w.frequency),
			TimeNanos:     w.start.UnixNano(),
			DurationNanos: int64(w.length),
			Comments:      []string{"pilotlight " + e.version, "host " + e.hostname},
		},
	}
	pid := strconv.FormatUint(uint64(st.process.PID), 10)
	for i := range st.rows {
		r := &st.rows[i]
		l := w.labels.list[r.labels]
		b.profile.Sample = append(b.profile.Sample, &profile.Sample{
			Location: b.stack(r, e.symbols),
			Value:    []int64{r.count, r.cpu},
			Label:    map[string][]string{"pid": {pid}, "comm": {text(l.comm)}, "thread": {text(l.thread)}},
		})
	}
	return b.profile
}

// text is a comm as pprof, a protobuf, can carry it.
func text(c bpf.Comm) string { return strings.ToValidUTF8(c.String(), "\uFFFD") }

// compress encodes p. Little time is spent on its size: the store packs it better.
func (e *encoder) compress(p *profile.Profile) ([]byte, error) {
	e.plain.Reset()
	if err := p.WriteUncompressed(&e.plain); err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	e.gzip.Reset(&packed)
	if _, err := e.gzip.Write(e.plain.Bytes()); err != nil {
		return nil, err
	}
	if err := e.gzip.Close(); err != nil {
		return nil, err
	}
	return packed.Bytes(), nil
}

// profileBuilder makes the profile of one process.
type profileBuilder struct {
	window    *window
	names     []named // of the window's locations
	profile   *profile.Profile
	locations map[uint32]*profile.Location
	mappings  map[codeBinary]*profile.Mapping
	functions map[function]*profile.Function
}

// function is what makes a pprof Function.
type function struct {
	name, systemName, file string
	startLine              int
}

func (b *profileBuilder) stack(r *row, s *symbols) []*profile.Location {
	stack := make([]*profile.Location, 0, len(r.locations)+1)
	for i, id := range r.locations {
		stack = append(stack, b.location(id))
		if r.leafCaller != 0 && uint32(i) == r.userLeaf && s.leafHasNoFrame(&b.names[id].binary, b.names[id].address) {
			stack = append(stack, b.location(r.leafCaller-1))
		}
	}
	return stack
}

func (b *profileBuilder) location(id uint32) *profile.Location {
	if l := b.locations[id]; l != nil {
		return l
	}
	n := &b.names[id]
	l := &profile.Location{ID: uint64(len(b.profile.Location) + 1), Address: n.address}
	if n.binary != (codeBinary{}) {
		l.Mapping = b.mapping(n)
	}
	for _, f := range n.frames {
		l.Line = append(l.Line, profile.Line{Function: b.function(f), Line: int64(f.Line)})
	}
	b.locations[id] = l
	b.profile.Location = append(b.profile.Location, l)
	return l
}

// mapping returns the mapping of a named location. The kind of names found in
// it is that of its best.
func (b *profileBuilder) mapping(n *named) *profile.Mapping {
	m := b.mappings[n.binary]
	if m == nil {
		m = &profile.Mapping{
			ID:      uint64(len(b.profile.Mapping) + 1),
			Start:   n.binary.start,
			Limit:   n.binary.limit,
			Offset:  n.binary.offset,
			File:    strings.ToValidUTF8(n.binary.path, "\uFFFD"),
			BuildID: n.binary.buildID,
		}
		b.mappings[n.binary] = m
		b.profile.Mapping = append(b.profile.Mapping, m)
		if n.binary.opened {
			b.profile.Comments = append(b.profile.Comments, fmt.Sprintf("file_key %d %s", m.ID, n.binary.key))
		}
	}
	rank := n.frames[0].Source
	// pprof looks for names of its own where there are none, and would take them
	// from whatever has the path today if no build ID says otherwise.
	m.HasFunctions = m.HasFunctions || rank > symbolize.None || m.BuildID == ""
	if rank >= symbolize.Pclntab {
		m.HasFilenames, m.HasLineNumbers, m.HasInlineFrames = true, true, true
	}
	return m
}

func (b *profileBuilder) function(f symbolize.Frame) *profile.Function {
	key := function{f.Function, f.SystemName, f.File, f.StartLine}
	fn := b.functions[key]
	if fn == nil {
		fn = &profile.Function{
			ID:         uint64(len(b.profile.Function) + 1),
			Name:       key.name,
			SystemName: key.systemName,
			Filename:   key.file,
			StartLine:  int64(key.startLine),
		}
		b.functions[key] = fn
		b.profile.Function = append(b.profile.Function, fn)
	}
	return fn
}
