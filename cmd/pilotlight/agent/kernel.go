package agent

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"pilotlight/symbolize"
)

// kernelFile is the mapping of the kernel's own code, as perf calls it.
const kernelFile = "[kernel.kallsyms]"

// kernelLinkBase is where _text lies in the kernel's ELF file, vmlinux:
// __START_KERNEL of arch/x86/kernel/vmlinux.lds.S, KIMAGE_VADDR of
// arch/arm64/include/asm/memory.h with 48-bit addresses.
var kernelLinkBase = map[string]uint64{
	"amd64": 0xffffffff81000000,
	"arm64": 0xffff800080000000,
}[runtime.GOARCH]

// kernelSymbols names addresses of the running kernel. The zero value with proc
// set is ready; the symbols are read when they are first asked for.
type kernelSymbols struct {
	proc    fs.FS
	log     *slog.Logger
	symbols *symbolize.Kallsyms // as read last; nil: there are none yet
	read    time.Time           // when that was tried last
	none    bool                // there are none to be had
	buildID string
	named   map[uint64][]symbolize.Frame
	// changed is set when BPF programs came or went since. Kallsyms has no sizes: a new
	// one may lie where those that were read before seem to go on.
	changed atomic.Bool
}

// resolve returns the frame at pc. There is always one.
func (k *kernelSymbols) resolve(pc uint64) []symbolize.Frame {
	missing := k.symbols == nil && !k.none
	if k.read.IsZero() || (missing || k.changed.Load()) && time.Since(k.read) > kernelInterval && (missing || k.isBPF(pc)) {
		k.load()
	}
	if frames, ok := k.named[pc]; ok {
		return frames
	}
	frames := k.lookup(pc)
	if len(frames) == 0 && k.symbols != nil && time.Since(k.read) > kernelInterval {
		k.load() // a module or BPF program was loaded since
		frames = k.lookup(pc)
	}
	if len(frames) == 0 {
		frames = unnamed(fmt.Sprintf("[kernel]+%#x", pc))
	}
	if len(k.named) >= maxNamed {
		clear(k.named)
	}
	k.named[pc] = frames
	return frames
}

func (k *kernelSymbols) lookup(pc uint64) []symbolize.Frame {
	if k.symbols == nil {
		return nil
	}
	return k.symbols.Resolve(nil, pc)
}

// isBPF reports whether pc was in a BPF program, or seemed to be.
func (k *kernelSymbols) isBPF(pc uint64) bool {
	if k.symbols == nil {
		return false
	}
	m, ok := k.symbols.Module(pc)
	return ok && m.Name == "bpf"
}

// load reads the kernel's symbols, and keeps those that were read before where that fails. Without any the kernel's frames
// have no names.
func (k *kernelSymbols) load() {
	k.read, k.named = time.Now(), make(map[uint64][]symbolize.Frame)
	k.changed.Store(false)
	symbols, err := k.readSymbols()
	if err == nil {
		k.symbols = symbols
		return
	}
	k.changed.Store(true) // to be tried again
	k.none = errors.Is(err, symbolize.ErrAddressesHidden) || errors.Is(err, fs.ErrNotExist)
	if k.symbols == nil {
		k.log.Warn("kernel functions will have no names", "err", err)
	} else {
		k.log.Warn("kernel functions that came lately will have no names", "err", err)
	}
}

func (k *kernelSymbols) readSymbols() (*symbolize.Kallsyms, error) {
	f, err := k.proc.Open("kallsyms")
	if err != nil {
		return nil, err
	}
	symbols, err := symbolize.ReadKallsyms(f)
	return symbols, errors.Join(err, f.Close())
}

// place returns the binary that holds pc, and pc's address in it: for the
// kernel's own code that in vmlinux, wherever KASLR put it this time; for a
// module, counted from the start of its code.
func (k *kernelSymbols) place(pc uint64) (codeBinary, uint64) {
	whole := codeBinary{path: kernelFile, buildID: k.buildID, limit: ^uint64(0)}
	if k.symbols == nil {
		return whole, pc
	}
	text := k.symbols.Text()
	if text.Text != 0 && kernelLinkBase != 0 && text.Text <= pc && pc < text.Etext {
		whole.start, whole.limit = kernelLinkBase, kernelLinkBase+text.Etext-text.Text
		return whole, pc - text.Text + kernelLinkBase
	}
	if m, ok := k.symbols.Module(pc); ok {
		return codeBinary{path: "[" + m.Name + "]", limit: m.End - m.Start}, pc - m.Start
	}
	return whole, pc
}

// kernelBuildID returns the running kernel's GNU build ID in hexadecimal, empty
// if it has none. notes is /sys/kernel/notes: ELF notes without a file around them.
func kernelBuildID(notes []byte) string {
	const header, typeBuildID = 12, 3 // Elf64_Nhdr; NT_GNU_BUILD_ID
	align := func(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }
	for len(notes) >= header {
		nameSize, descSize := binary.NativeEndian.Uint32(notes), binary.NativeEndian.Uint32(notes[4:])
		desc := header + align(nameSize)
		end := desc + align(descSize)
		if end > uint64(len(notes)) {
			return ""
		}
		if binary.NativeEndian.Uint32(notes[8:]) == typeBuildID && string(notes[header:header+nameSize]) == "GNU\x00" {
			return hex.EncodeToString(notes[desc : desc+uint64(descSize)])
		}
		notes = notes[end:]
	}
	return ""
}
