package agent

import (
	"encoding/binary"
	"time"

	"pilotlight/bpf"
	"pilotlight/cmd/pilotlight/process"
	"pilotlight/profilestore"
)

// codeBinary is what a pprof Mapping says: a piece of code and where it comes
// from. Equal values are one mapping.
type codeBinary struct {
	kind    process.Kind
	path    string
	key     process.FileKey // if opened
	opened  bool
	buildID string
	process process.Key // of anonymous memory: its addresses are of one process
	// As in a pprof Mapping, but of the file: [start, limit) holds the addresses.
	start, limit, offset uint64
}

// The binaries that every window has.
const (
	noBinary     = iota // raw addresses of unknown processes, and markers
	kernelBinary        // addresses of the running kernel
	firstBinary
)

func binaryOf(m process.Mapping) codeBinary {
	b := codeBinary{kind: m.Kind, path: m.Path, buildID: m.BuildID.String()}
	if m.Kind == process.Anonymous {
		if b.path == "" {
			b.path = "//anon"
		}
		b.limit = ^uint64(0) // JIT code of one process is one piece, wherever it lies
	} else {
		b.start, b.limit, b.offset = m.Offset, m.Offset+m.End-m.Start, m.Offset
	}
	if file, _ := m.File(); file != nil {
		b.key, b.opened, b.buildID = file.Key, true, file.BuildID
		if seg, ok := file.Segment(m.Offset); ok {
			b.start, b.limit, b.offset = seg.Addr, seg.Addr+seg.FileSize, seg.Offset
		}
	}
	return b
}

// location is one address of one binary, or a marker.
type location struct {
	binary uint32
	marker bpf.Outcome // of a location without binary and address: why the stack ends here; Complete is none
	addr   uint64
}

// labels are those of a sample that differ within a process.
type labels struct {
	comm, thread bpf.Comm
}

// row is one distinct stack of a process.
type row struct {
	labels     uint32
	locations  []uint32 // leaf first
	leafCaller uint32   // 1 + location of what may be the leaf's caller, 0 if there is none
	userLeaf   uint32   // index in locations of the user leaf
	count      int64
	cpu        int64 // ns that the samples stand for
}

// stacks are those of one process in a window.
type stacks struct {
	process  *process.Process
	rows     []row
	index    map[string]uint32 // row by its content
	samples  uint64
	outcomes [bpf.NumOutcomes]uint64 // of the samples

	// Of the publishing goroutine.
	labels profilestore.Labels
	frames frameCounts
	kept   bool // the appender has the profile
}

// window is what was sampled in one span of time. It belongs to one goroutine
// at a time.
type window struct {
	start              time.Time // wall clock, as it was when the window began
	length             time.Duration
	frequency          int      // Hz, when the window began
	level              int      // the governor's, when the window ended
	sheds              []string // as then
	monoStart, monoEnd uint64   // the same on the monotonic clock

	processes map[process.Key]*stacks
	order     []*stacks
	mapped    map[mapped]uint32    // binary of a mapping that has been looked at in this window
	compiling map[process.Key]bool // processes that were asked for the names of what they compile
	binaries  interned[codeBinary]
	locations interned[location]
	labels    interned[labels]

	samples uint64
	skipped uint64    // left out by Options.PID or a relabeling rule
	stats   bpf.Stats // at the window's end

	// The stack under construction.
	current *stacks
	stack   row
	key     []byte
}

// mapped is a part of a mapped object.
type mapped struct {
	object  *process.Object
	offset  uint64
	process process.Key // of anonymous memory: fork makes copies of one object
}

// interned numbers distinct values in the order in which they come.
type interned[T comparable] struct {
	list  []T
	index map[T]uint32
}

func (in *interned[T]) id(v T) uint32 {
	if id, ok := in.index[v]; ok {
		return id
	}
	if in.index == nil {
		in.index = make(map[T]uint32)
	}
	id := uint32(len(in.list))
	in.list = append(in.list, v)
	in.index[v] = id
	return id
}

// clockJitter is how far apart the two clocks may be read: a window that begins
// so close to a multiple of Window begins at it.
const clockJitter = 50 * time.Millisecond

// newWindow begins a window at from, where the one before ended, on the monotonic
// clock. It ends at the next multiple of Window on the wall clock; windows that
// are over by now, while nothing was read, are left out. The offset between the
// clocks is taken here, so that a step of the wall clock moves no sample taken
// before.
func (a *Agent) newWindow(from, now uint64) *window {
	mono, wall := a.clock()
	wall = wall.Round(0) // time.Time's own monotonic reading would be preferred to the wall clock's
	wallAt := func(t uint64) time.Time { return wall.Add(time.Duration(t - mono)) }
	start := wallAt(from)
	if aligned := start.Round(Window); start.Sub(aligned).Abs() < clockJitter {
		start = aligned
	}
	if current := wallAt(now).Truncate(Window); current.After(start) {
		start = current
	}
	w := &window{
		start:     start,
		length:    start.Truncate(Window).Add(Window).Sub(start),
		frequency: a.rates.at(from),
		monoStart: mono + uint64(start.Sub(wall)),
		processes: make(map[process.Key]*stacks),
		mapped:    make(map[mapped]uint32),
		compiling: make(map[process.Key]bool),
	}
	w.monoEnd = w.monoStart + uint64(w.length)
	w.binaries.id(codeBinary{})
	w.binaries.id(codeBinary{path: kernelFile})
	return w
}

// end cuts the window short.
func (w *window) end(mono uint64) {
	w.monoEnd = max(w.monoStart, min(w.monoEnd, mono))
	w.length = time.Duration(w.monoEnd - w.monoStart)
}

func (w *window) binary(b codeBinary) uint32 { return w.binaries.id(b) }

// begin begins the stack of a sample of p, which stands for period ns of CPU time.
func (w *window) begin(p *process.Process, s *bpf.Sample, period int64) {
	st := w.processes[p.Key]
	if st == nil {
		// The table goes on to change p: what the profile says is what held
		// when it was sampled first.
		first := *p
		st = &stacks{process: &first, index: make(map[string]uint32)}
		w.processes[p.Key] = st
		w.order = append(w.order, st)
	}
	w.current = st
	w.stack = row{labels: w.labels.id(labels{s.Comm, s.Thread}), locations: w.stack.locations[:0], count: 1, cpu: period}
}

// add adds a frame, going from the leaf to the root.
func (w *window) add(binary uint32, addr uint64) {
	w.stack.locations = append(w.stack.locations, w.locations.id(location{binary: binary, addr: addr}))
}

// addLeafCaller tells the address in the binary of the frame just added that
// called it if it has no frame of its own.
func (w *window) addLeafCaller(addr uint64) {
	at := len(w.stack.locations) - 1
	leaf := w.locations.list[w.stack.locations[at]]
	w.stack.userLeaf = uint32(at)
	w.stack.leafCaller = 1 + w.locations.id(location{binary: leaf.binary, addr: addr})
}

// commit counts the stack.
func (w *window) commit(outcome bpf.Outcome) {
	st := w.current
	w.samples++
	st.samples++
	st.outcomes[outcome]++
	if outcome.Truncated() {
		w.stack.locations = append(w.stack.locations, w.locations.id(location{marker: outcome}))
	}
	key := binary.NativeEndian.AppendUint32(w.key[:0], w.stack.labels)
	key = binary.NativeEndian.AppendUint32(key, w.stack.leafCaller)
	for _, id := range w.stack.locations {
		key = binary.NativeEndian.AppendUint32(key, id)
	}
	w.key = key
	if i, ok := st.index[string(key)]; ok {
		st.rows[i].count++
		st.rows[i].cpu += w.stack.cpu
		return
	}
	st.index[string(key)] = uint32(len(st.rows))
	kept := w.stack
	kept.locations = append([]uint32(nil), w.stack.locations...)
	st.rows = append(st.rows, kept)
}
