package bpf

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"pilotlight/unwind"
)

// DefaultTableBytes is how much memory unwind tables may take when Options do not say, and the most that they can.
const DefaultTableBytes = maxShards * shardBytes

const (
	shardBytes = shardWords * 4
	maxShards  = 256 // MAX_SHARDS of sampler.h

	pageBits = 12
	// A page has at most as many rows as bytes.
	maxRowsPerPage = 1 << pageBits
	// Rows and page directories are written in pieces of at most this many words: small enough that little of a shard is
	// left over, large enough that a mapping seldom needs more than one directory.
	maxPieceWords = shardWords / 4
	pagesPerPiece = maxPieceWords / 2
	maxMappings   = 4096 // MAX_MAPPINGS of sampler.h
)

var (
	// ErrTableSpace is wrapped by errors of LoadTable and SetProcess when there is no room for the table or the
	// process: Options.TableBytes are used, or one of the sampler's fixed limits is reached.
	ErrTableSpace = errors.New("no room for unwind tables")
	// ErrTableRoom is wrapped by errors of LoadTable and SetProcess when room is being made, which takes some time: the
	// same call may succeed soon. It does not wait, because whoever calls it has samples to read.
	ErrTableRoom = errors.New("room for unwind tables is being made")
	// ErrTableInUse is wrapped by UnloadTable's error while a process refers to the table.
	ErrTableInUse = errors.New("unwind table in use")
)

// TableID names a table that was loaded. The zero TableID names none.
type TableID uint32

// CodeKind says how the stack of some code is unwound.
type CodeKind uint8

const (
	// CodeUnknown is code whose table has not been loaded yet. Samples in it carry registers and a piece of stack.
	CodeUnknown = CodeKind(samplerCodeKindCODE_UNKNOWN)
	// CodeTable is code with a table.
	CodeTable = CodeKind(samplerCodeKindCODE_TABLE)
	// CodeFramePointer is code that keeps frame pointers, such as Go's. If it has a table too, that goes first: Go
	// programs with C in them.
	CodeFramePointer = CodeKind(samplerCodeKindCODE_FRAME_POINTER)
	// CodeJIT is anonymous code: a stack ends there.
	CodeJIT = CodeKind(samplerCodeKindCODE_JIT)
	// CodeJITFramePointer is anonymous code that keeps frame pointers: a stack ends there if it does not.
	CodeJITFramePointer = CodeKind(samplerCodeKindCODE_JIT_FRAME_POINTER)
)

// Code is a range of code in a process.
type Code struct {
	Start, End uint64 // of pcs
	Bias       uint64 // pc - Bias is an address of the table
	Kind       CodeKind
	Table      TableID // of CodeTable, and of CodeFramePointer unless it is zero
}

// ProcessID names one program run by one process, as Sample does.
type ProcessID struct {
	PID    uint32
	Start  uint64 // Sample.ProcessStart
	ExecID uint32
}

// tables is what the sampler knows about code: tables, their rules and the mappings of processes. The program may look
// at any of it at any time. So nothing is changed in place: what replaces it is written elsewhere and then referred to,
// and the place of what nothing refers to any more is used again after a grace period. A goroutine, keep, waits for
// those, without the lock.
type tables struct {
	shardMap, processMap *ebpf.Map
	maxShards            int

	mu        sync.Mutex // guards what follows
	space     space
	shards    []shard // by number
	rules     *ruleBook
	loaded    map[TableID]*table
	published map[uint32]publication // by pid
	lastID    TableID
	retired   []piece // nothing refers to them, but the program may still look at them
	memory    uint64  // bytes of the shards
	wanted    wanted
	tidying   bool  // keep is at work on what was wanted
	failed    error // of keep, not told yet
	closed    bool

	wake chan struct{} // has keep look at what is wanted; closed in the end
	kept chan struct{} // closed when keep has ended
	made func()        // called when room was made that somebody waits for
}

// table is a table as it was loaded.
type table struct {
	firstPage   uint64
	pages       int
	directories []piece // of pagesPerPiece pages each
	rows        []piece
	rules       []uint16
	kept        []unwind.Span
	processes   int // that refer to it
}

// publication is what was published about a process.
type publication struct {
	piece
	tables map[TableID]bool
}

// newTables returns the tables of a sampler, of at most limit bytes. made is called, from another goroutine, when there
// is room after an ErrTableRoom.
func newTables(objs *samplerMaps, limit int, made func()) (*tables, error) {
	rules, err := newRuleBook(objs.Rules)
	if err != nil {
		return nil, err
	}
	t := &tables{
		shardMap:   objs.Shards,
		processMap: objs.Processes,
		maxShards:  limit / shardBytes,
		rules:      rules,
		loaded:     map[TableID]*table{},
		published:  map[uint32]publication{},
		wanted:     wanted{words: 1}, // soon
		wake:       make(chan struct{}, 1),
		kept:       make(chan struct{}),
		made:       made,
	}
	t.call()
	go t.keep()
	return t, nil
}

// LoadTable hands a table to the kernel. It is used from the moment that SetProcess names it.
func (s *Sampler) LoadTable(t *unwind.Table) (TableID, error) { return s.tables.load(t) }

// UnloadTable takes back a table that no process refers to.
func (s *Sampler) UnloadTable(id TableID) error { return s.tables.unload(id) }

// SetProcess says which code a process has, and replaces what was said before. Code is sorted by Start and does not
// overlap. Samples of the process whose stacks lead elsewhere carry registers and a piece of stack.
func (s *Sampler) SetProcess(id ProcessID, code []Code) error { return s.tables.setProcess(id, code) }

// Forget takes back what was said about a process. It does nothing for one that is not known.
func (s *Sampler) Forget(pid uint32) error { return s.tables.forget(pid) }

func (t *tables) load(table *unwind.Table) (TableID, error) {
	if err := checkTable(table); err != nil {
		return 0, fmt.Errorf("load unwind table: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return 0, os.ErrClosed
	}
	id, err := t.write(table)
	if err := errors.Join(err, t.unmap()); err != nil {
		return 0, fmt.Errorf("load unwind table: %w", err)
	}
	return id, nil
}

// checkTable finds out whether the parts of a table refer to parts that there are.
func checkTable(t *unwind.Table) error {
	if t.Arch.String() != runtime.GOARCH {
		return fmt.Errorf("it is for %s", t.Arch)
	}
	for i, p := range t.Pages {
		if p.Count > maxRowsPerPage || uint64(p.First)+uint64(p.Count) > uint64(len(t.Rows)) {
			return fmt.Errorf("page %d has rows %d to %d of %d", i, p.First, uint64(p.First)+uint64(p.Count), len(t.Rows))
		}
	}
	last := uint64(0)
	for _, s := range t.Kept {
		if s.Start < last || s.End <= s.Start {
			return fmt.Errorf("code from %#x to %#x is out of order", s.Start, s.End)
		}
		last = s.End
	}
	for i, r := range t.Rows {
		if int(r.Rule) >= len(t.Rules) {
			return fmt.Errorf("row %d has rule %d of %d", i, r.Rule, len(t.Rules))
		}
	}
	return nil
}

// write takes room for a table and fills it in.
func (t *tables) write(from *unwind.Table) (TableID, error) {
	to := &table{firstPage: from.FirstPage, pages: len(from.Pages), kept: from.Kept}
	err := t.makeRoom(len(from.Rows) + 2*len(from.Pages))
	if err == nil {
		err = t.takeRules(to, from.Rules)
	}
	if err == nil {
		err = t.writePages(to, from)
	}
	if err != nil {
		t.discard(to)
		return 0, err
	}
	t.lastID++
	t.loaded[t.lastID] = to
	return t.lastID, nil
}

// drop gives back what belongs to a table.
func (t *tables) drop(table *table) {
	t.retired = append(append(t.retired, table.rows...), table.directories...)
	t.rules.release(table.rules)
}

// discard gives back what belongs to a table that nothing has referred to yet.
func (t *tables) discard(table *table) {
	for _, p := range append(table.rows, table.directories...) {
		t.space.free(p)
	}
	t.rules.release(table.rules)
}

func (t *tables) takeRules(to *table, rules []unwind.Rule) error {
	for _, rule := range rules {
		number, ok := t.rules.take(rule)
		if !ok {
			return t.askForRules()
		}
		to.rules = append(to.rules, number)
	}
	return nil
}

// writePages writes the rows of all pages, and the directories of where they are.
func (t *tables) writePages(to *table, from *unwind.Table) error {
	at := make(map[unwind.Page]position) // pages may share rows
	var group []unwind.Page              // whose rows are to be one piece
	rows := 0                            // of the group
	for _, page := range from.Pages {
		if _, ok := at[page]; ok || page.Count == 0 {
			continue
		}
		if rows+int(page.Count) > maxPieceWords {
			if err := t.writeRows(to, from, group, rows, at); err != nil {
				return err
			}
			group, rows = group[:0], 0
		}
		at[page] = 0 // writeRows knows better
		group = append(group, page)
		rows += int(page.Count)
	}
	if err := t.writeRows(to, from, group, rows, at); err != nil {
		return err
	}
	for pages := range slices.Chunk(from.Pages, pagesPerPiece) {
		if err := t.writeDirectory(to, pages, at); err != nil {
			return err
		}
	}
	return nil
}

// writeRows writes the rows of some pages and notes where those of each are.
func (t *tables) writeRows(to *table, from *unwind.Table, pages []unwind.Page, rows int, at map[unwind.Page]position) error {
	if rows == 0 {
		return nil
	}
	p, err := t.alloc(rows)
	if err != nil {
		return err
	}
	to.rows = append(to.rows, p)
	words, err := t.words(p)
	if err != nil {
		return err
	}
	next := p.at
	for _, page := range pages {
		at[page] = next
		for _, row := range from.Rows[page.First : page.First+page.Count] {
			words[next-p.at] = uint32(row.Offset) | uint32(to.rules[row.Rule])<<16
			next++
		}
	}
	return nil
}

// writeDirectory writes where the rows of some pages are and how many.
func (t *tables) writeDirectory(to *table, pages []unwind.Page, at map[unwind.Page]position) error {
	p, err := t.alloc(2 * len(pages))
	if err != nil {
		return err
	}
	to.directories = append(to.directories, p)
	words, err := t.words(p)
	if err != nil {
		return err
	}
	for i, page := range pages {
		words[2*i], words[2*i+1] = uint32(at[page]), page.Count
	}
	return nil
}

func (t *tables) unload(id TableID) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return os.ErrClosed
	}
	table, ok := t.loaded[id]
	if !ok {
		return fmt.Errorf("unload unwind table %d: there is none", id)
	}
	if table.processes > 0 {
		return fmt.Errorf("unload unwind table %d: %w by %d processes", id, ErrTableInUse, table.processes)
	}
	delete(t.loaded, id)
	t.drop(table)
	t.tidyRetired()
	return nil
}

func (t *tables) setProcess(id ProcessID, code []Code) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return os.ErrClosed
	}
	err := t.publish(id, code)
	if err := errors.Join(err, t.unmap()); err != nil {
		return fmt.Errorf("publish process %d: %w", id.PID, err)
	}
	return nil
}

// publish writes a process and its mappings, and then has the program find them.
func (t *tables) publish(id ProcessID, code []Code) error {
	mappings, used, err := t.mappings(code)
	if err != nil {
		return err
	}
	if len(mappings) > maxMappings {
		return fmt.Errorf("%w: %d mappings are more than %d", ErrTableSpace, len(mappings), maxMappings)
	}
	p, err := t.alloc(unitWords * (1 + len(mappings)))
	if err != nil {
		return err
	}
	words, err := t.words(p)
	if err != nil {
		t.space.free(p)
		return err
	}
	*(*samplerProcess)(unsafe.Pointer(&words[0])) = samplerProcess{Start: id.Start, Pid: id.PID, ExecId: id.ExecID, Mappings: uint32(len(mappings))}
	if len(mappings) > 0 {
		copy(unsafe.Slice((*samplerMapping)(unsafe.Pointer(&words[unitWords])), len(mappings)), mappings)
	}
	if err := t.processMap.Put(id.PID, uint32(p.at)); err != nil {
		t.space.free(p)
		if errors.Is(err, unix.E2BIG) {
			err = fmt.Errorf("%w: %d processes are published", ErrTableSpace, len(t.published))
		}
		return err
	}
	t.replace(id.PID, publication{p, used})
	t.tidyRetired()
	return nil
}

// replace notes what is published about a process. The zero publication is nothing.
func (t *tables) replace(pid uint32, now publication) {
	for id := range now.tables {
		t.loaded[id].processes++
	}
	if before, ok := t.published[pid]; ok {
		for id := range before.tables {
			t.loaded[id].processes--
		}
		t.retired = append(t.retired, before.piece)
	}
	delete(t.published, pid)
	if now.words > 0 {
		t.published[pid] = now
	}
}

// mappings returns what the kernel is told about the code of a process, and the tables it refers to.
func (t *tables) mappings(code []Code) ([]samplerMapping, map[TableID]bool, error) {
	mappings := make([]samplerMapping, 0, len(code))
	used := make(map[TableID]bool)
	last := uint64(0)
	for _, c := range code {
		if c.Start >= c.End || c.Start < last {
			return nil, nil, fmt.Errorf("code %#x to %#x after %#x is out of order", c.Start, c.End, last)
		}
		last = c.End
		if c.Kind != CodeTable && (c.Kind != CodeFramePointer || c.Table == 0) {
			mappings = append(mappings, samplerMapping{Start: c.Start, End: c.End, Kind: samplerCodeKind(c.Kind)})
			continue
		}
		table, ok := t.loaded[c.Table]
		if !ok {
			return nil, nil, fmt.Errorf("code %#x to %#x: there is no unwind table %d", c.Start, c.End, c.Table)
		}
		used[c.Table] = true
		mappings = table.appendMappings(mappings, c)
	}
	return mappings, used, nil
}

// appendMappings divides code by the page directories of its table, and by where it keeps frame pointers. What lies outside of
// the directories is no code.
func (t *table) appendMappings(dst []samplerMapping, c Code) []samplerMapping {
	from := c.Start
	add := func(to uint64, m samplerMapping) {
		if to = min(to, c.End); to > from {
			m.Start, m.End = from, to
			dst = append(dst, m)
			from = to
		}
	}
	kind, none := samplerCodeKindCODE_TABLE, samplerMapping{Kind: samplerCodeKindCODE_NONE}
	if c.Kind == CodeFramePointer {
		kind = samplerCodeKindCODE_FRAME_POINTER_TABLE
	}
	base := c.Bias + t.firstPage<<pageBits // of the first directory, in pcs
	end := base + uint64(t.pages)<<pageBits
	if base > end || base >= c.End || end <= c.Start {
		add(c.End, none)
		return dst
	}
	add(base, none)
	for _, directory := range t.directories {
		next := min(base+pagesPerPiece<<pageBits, end)
		for _, s := range t.kept {
			add(min(c.Bias+s.Start, next), samplerMapping{Base: base, Directory: uint32(directory.at), Kind: kind})
			add(min(c.Bias+s.End, next), samplerMapping{Base: base, Directory: uint32(directory.at), Kind: samplerCodeKindCODE_KEPT})
		}
		add(next, samplerMapping{Base: base, Directory: uint32(directory.at), Kind: kind})
		base = next
	}
	add(c.End, none)
	return dst
}

func (t *tables) forget(pid uint32) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return os.ErrClosed
	}
	if _, ok := t.published[pid]; !ok {
		return nil
	}
	if err := t.processMap.Delete(pid); err != nil {
		return fmt.Errorf("forget process %d: %w", pid, err)
	}
	t.replace(pid, publication{})
	t.tidyRetired()
	return nil
}

// stats returns the bytes in use and those held.
func (t *tables) stats() (used, memory uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return uint64(t.space.used) * 4, t.memory
}

func (t *tables) close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	close(t.wake)
	t.mu.Unlock()
	<-t.kept

	t.mu.Lock()
	defer t.mu.Unlock()
	err := errors.Join(t.failed, t.unmap(), t.rules.close())
	for _, s := range t.shards {
		if s.m != nil {
			err = errors.Join(err, s.m.Close())
		}
	}
	return err
}

// ruleBook is the dictionary of rules that all tables share. A rule that no table has any more keeps its number until
// that is needed: tables come back.
type ruleBook struct {
	memory  []byte // of the map
	numbers map[unwind.Rule]uint16
	entries []ruleEntry
	free    []uint16
	idle    int // entries without a table
}

type ruleEntry struct {
	rule   unwind.Rule
	tables int
	uses   uint64 // how often a table has taken it
}

// idleRule is a rule that no table had, and how often one had taken it by then.
type idleRule struct {
	number uint16
	uses   uint64
}

func newRuleBook(m *ebpf.Map) (*ruleBook, error) {
	memory, err := unix.Mmap(m.FD(), 0, int(m.MaxEntries()*m.ValueSize()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the rules: %w", err)
	}
	return &ruleBook{memory: memory, numbers: map[unwind.Rule]uint16{}}, nil
}

// take returns the number of a rule, for one more table. It reports false if all numbers are taken.
func (b *ruleBook) take(rule unwind.Rule) (uint16, bool) {
	number, ok := b.numbers[rule]
	if ok {
		if b.entries[number].tables == 0 {
			b.idle--
		}
		b.entries[number].tables++
		b.entries[number].uses++
		return number, true
	}
	const size = int(unsafe.Sizeof(samplerRule{}))
	switch {
	case len(b.free) > 0:
		number, b.free = b.free[len(b.free)-1], b.free[:len(b.free)-1]
	case (len(b.entries)+1)*size <= len(b.memory):
		number, b.entries = uint16(len(b.entries)), append(b.entries, ruleEntry{})
	default:
		return 0, false
	}
	b.entries[number] = ruleEntry{rule, 1, b.entries[number].uses + 1}
	b.numbers[rule] = number
	*(*samplerRule)(unsafe.Pointer(&b.memory[int(number)*size])) = samplerRule{
		CfaOffset: rule.CFAOff, FpOffset: rule.FPOff, RbxOffset: rule.RBXOff, RaOffset: rule.RAOff,
		Cfa: uint8(rule.CFA), CfaRegister: rule.CFAReg, CfaAdd: rule.CFAAdd,
		Fp: uint8(rule.FP), Rbx: uint8(rule.RBX), Ra: uint8(rule.RA),
	}
	return number, true
}

// release takes back numbers of one table.
func (b *ruleBook) release(numbers []uint16) {
	for _, number := range numbers {
		if b.entries[number].tables--; b.entries[number].tables == 0 {
			b.idle++
		}
	}
}

// unused returns the rules that no table has.
func (b *ruleBook) unused() []idleRule {
	var list []idleRule
	for number, e := range b.entries {
		if known, ok := b.numbers[e.rule]; ok && int(known) == number && e.tables == 0 {
			list = append(list, idleRule{uint16(number), e.uses})
		}
	}
	return list
}

// reclaim frees the numbers of rules that no table has had since they were listed. The program must not have been looking
// at them since then.
func (b *ruleBook) reclaim(list []idleRule) {
	for _, idle := range list {
		if e := b.entries[idle.number]; e.tables == 0 && e.uses == idle.uses {
			delete(b.numbers, e.rule)
			b.free = append(b.free, idle.number)
			b.idle--
		}
	}
}

func (b *ruleBook) close() error { return unix.Munmap(b.memory) }
