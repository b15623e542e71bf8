package symbolize

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
	"strconv"
)

// Kallsyms names addresses of the running kernel, of its modules and of BPF programs. It is a snapshot: modules
// and BPF programs that are loaded later are not in it. It may be used by several goroutines at once.
type Kallsyms struct {
	table   *table
	names   []byte // NUL-terminated
	modules []Module
	text    KernelText
}

// KernelText is where the kernel's own code lies in memory. KASLR moves it at every boot: addresses less Text are
// the same for every boot of one kernel, and Text is where the ELF file's _text goes.
type KernelText struct {
	Text  uint64 // _text, the start of the image; on x86-64, linked at 0xffffffff81000000
	Stext uint64 // _stext, the start of code
	Etext uint64 // _etext, the end of code
}

// Module is a run of code of one kernel module. Addresses less Start are the same for every load of one build of
// a module that is loaded in one piece.
type Module struct {
	// Name is the module's name without brackets: "xfs"; "bpf" for BPF programs.
	Name string
	// Start and End bound the code, [Start, End).
	Start, End uint64
}

// ErrAddressesHidden is the error of a kallsyms that tells names but no addresses.
var ErrAddressesHidden = errors.New("all kernel addresses read as zero: run as root (CAP_SYSLOG), with sysctl kernel.kptr_restrict at 0 or 1")

const (
	// usualKallsyms and usualNames have room for a distribution's kernel: 122,000 symbols, 1.8 MB of names. Slices
	// that grow up to there leave five times as much behind.
	usualKallsyms = 128 << 10
	usualNames    = 2 << 20
	// maxKallsyms and maxKallsymsText bound what is read.
	maxKallsyms     = 4 << 20
	maxKallsymsText = 128 << 20
	// maxKernelSymbol is the kernel's KSYM_NAME_LEN twice over.
	maxKernelSymbol = 1024
	// kernelPage rounds up the last function of a run: kallsyms has no sizes.
	kernelPage = 4096
)

// kallsym is a line of kallsyms.
type kallsym struct {
	addr   uint64
	name   uint32 // offset in the names
	module uint16 // index in the module names; 0 is the kernel
	class  kernelClass
}

// kernelClass orders the symbols of one address.
type kernelClass uint8

const (
	kernelData kernelClass = iota // names no code, but ends the code before it
	kernelLocal
	kernelGlobal
)

// ReadKallsyms reads the format of /proc/kallsyms (kernel/kallsyms.c, s_show): address, type, name and, after a
// tab, the module in brackets. Kept are the symbols of code (types t, T, w, W). One of a module ends where the next
// symbol does; the last of a run at the end of the next page. ErrAddressesHidden is the error if the kernel hides
// addresses from the reader; other errors name the line.
func ReadKallsyms(r io.Reader) (*Kallsyms, error) {
	p := kallsymsParser{
		syms:    make([]kallsym, 0, usualKallsyms),
		names:   make([]byte, 0, usualNames),
		modules: []string{""},
		byName:  map[string]uint16{},
	}
	in := bufio.NewScanner(io.LimitReader(r, maxKallsymsText))
	in.Buffer(make([]byte, 0, 4096), 4*maxKernelSymbol)
	for line := 1; in.Scan(); line++ {
		if err := p.add(in.Bytes()); err != nil {
			return nil, fmt.Errorf("kallsyms line %d: %w", line, err)
		}
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("read kallsyms: %w", err)
	}
	switch {
	case len(p.syms) == 0:
		return nil, errors.New("kallsyms has no symbols: the kernel needs CONFIG_KALLSYMS")
	case !p.addresses:
		return nil, ErrAddressesHidden
	}
	return p.finish(), nil
}

type kallsymsParser struct {
	syms      []kallsym
	names     []byte
	modules   []string
	byName    map[string]uint16
	text      KernelText
	addresses bool // one address at least is not zero
}

func (p *kallsymsParser) add(line []byte) error {
	address, rest, ok := bytes.Cut(line, []byte(" "))
	kind, name, ok2 := bytes.Cut(rest, []byte(" "))
	if !ok || !ok2 || len(kind) != 1 {
		return fmt.Errorf("%.80q is not an address, a type and a name", line)
	}
	addr, err := strconv.ParseUint(string(address), 16, 64)
	if err != nil {
		return fmt.Errorf("address %.80q: %w", address, errors.Unwrap(err))
	}
	name, module, _ := bytes.Cut(name, []byte("\t"))
	if len(name) == 0 || len(name) > maxKernelSymbol {
		return fmt.Errorf("name of %d bytes", len(name))
	}
	p.addresses = p.addresses || addr != 0
	if len(p.syms) >= maxKallsyms {
		return fmt.Errorf("more than %d symbols", maxKallsyms)
	}
	s := kallsym{addr: addr}
	if len(module) > 0 {
		if s.module, err = p.module(string(bytes.Trim(module, "[]"))); err != nil {
			return err
		}
	} else {
		switch string(name) {
		case "_text":
			p.text.Text = addr
		case "_stext":
			p.text.Stext = addr
		case "_etext":
			p.text.Etext = addr
		}
	}
	switch kind[0] {
	case 'T':
		s.class = kernelGlobal
	case 't', 'w', 'W':
		s.class = kernelLocal
	}
	if s.class != kernelData {
		s.name = p.store(name)
	}
	p.syms = append(p.syms, s)
	return nil
}

// store keeps a name and returns its offset. With the padding that some kernels have before each function, every other
// name is the end of the one before: __pfx_schedule, schedule.
func (p *kallsymsParser) store(name []byte) uint32 {
	if off := len(p.names) - 1 - len(name); off >= 0 && bytes.Equal(p.names[off:len(p.names)-1], name) {
		return uint32(off)
	}
	off := len(p.names)
	p.names = append(append(p.names, name...), 0)
	return uint32(off)
}

func (p *kallsymsParser) module(name string) (uint16, error) {
	if i, ok := p.byName[name]; ok {
		return i, nil
	}
	if len(p.modules) > math.MaxUint16 {
		return 0, fmt.Errorf("more than %d modules", math.MaxUint16)
	}
	i := uint16(len(p.modules))
	p.modules, p.byName[name] = append(p.modules, name), i
	return i, nil
}

// finish makes the index.
func (p *kallsymsParser) finish() *Kallsyms {
	// Of several names for one address the best comes first.
	slices.SortFunc(p.syms, func(a, b kallsym) int {
		if c := cmp.Or(cmp.Compare(a.addr, b.addr), cmp.Compare(b.class, a.class)); c != 0 || a.class == kernelData {
			return c
		}
		return compareNames(p.name(a.name), p.name(b.name))
	})
	p.syms = slices.CompactFunc(p.syms, func(a, b kallsym) bool { return a.addr == b.addr })
	code := 0
	for _, s := range p.syms {
		if s.class != kernelData {
			code++
		}
	}
	k := &Kallsyms{text: p.text}
	b := builder{table: newSizedTable(code)}
	for i, s := range p.syms {
		if s.class == kernelData {
			continue
		}
		end := (s.addr/kernelPage + 2) * kernelPage
		if end < s.addr {
			end = math.MaxUint64
		}
		if i+1 < len(p.syms) {
			next := p.syms[i+1]
			if next.module == s.module {
				end = next.addr
			} else {
				end = min(end, next.addr)
			}
		}
		b.done = s.addr
		b.write(end, s.name)
		k.extend(p.modules[s.module], s.addr, end)
	}
	k.table, k.names = b.table, slices.Clone(p.names)
	k.modules = slices.Clip(k.modules)
	return k
}

// name returns the name at an offset.
func (p *kallsymsParser) name(off uint32) []byte {
	name, _, _ := bytes.Cut(p.names[off:], []byte{0})
	return name
}

// extend adds code of a module at a higher address than all before.
func (k *Kallsyms) extend(module string, start, end uint64) {
	if n := len(k.modules); n > 0 && k.modules[n-1].Name == module {
		k.modules[n-1].End = end
		return
	}
	k.modules = append(k.modules, Module{module, start, end})
}

// Resolve implements Resolver for addresses of the running kernel.
func (k *Kallsyms) Resolve(dst []Frame, addr uint64) []Frame {
	i, ok := k.table.find(addr)
	if !ok {
		return dst
	}
	name, _, _ := bytes.Cut(k.names[k.table.names[i]:], []byte{0})
	return append(dst, Frame{Function: demangled(string(name)), SystemName: string(name), Source: Symtab})
}

// Module returns the module whose code holds addr; ok is false for the kernel's own code and for unknown addresses.
func (k *Kallsyms) Module(addr uint64) (m Module, ok bool) {
	i := sort.Search(len(k.modules), func(i int) bool { return k.modules[i].Start > addr }) - 1
	if i < 0 || addr >= k.modules[i].End || k.modules[i].Name == "" {
		return Module{}, false
	}
	return k.modules[i], true
}

// Text returns where the kernel's own code lies. A field is zero if kallsyms lacks its symbol.
func (k *Kallsyms) Text() KernelText { return k.text }

// Functions returns the number of addresses that have a name.
func (k *Kallsyms) Functions() int { return len(k.table.starts) }

// MemoryBytes returns how much memory k holds.
func (k *Kallsyms) MemoryBytes() int {
	return k.table.memoryBytes() + cap(k.names) + 48*cap(k.modules)
}
