package bpf

import (
	"bytes"
	"fmt"
	"unsafe"
)

// Outcome says how the walk of one sample ended.
type Outcome uint32

const (
	Complete    = Outcome(samplerOutcomeOUTCOME_COMPLETE)     // the last frame is the thread's entry
	KernelOnly  = Outcome(samplerOutcomeOUTCOME_KERNEL_ONLY)  // no user stack: a kernel thread, between two programs, or after the last
	NoMapping   = Outcome(samplerOutcomeOUTCOME_NO_MAPPING)   // a pc in no executable mapping of its process
	NoTable     = Outcome(samplerOutcomeOUTCOME_NO_TABLE)     // code without frame pointer and without unwind table
	BadRule     = Outcome(samplerOutcomeOUTCOME_BAD_RULE)     // the unwind table has no rule the sampler can follow
	Unreadable  = Outcome(samplerOutcomeOUTCOME_UNREADABLE)   // stack memory was not resident
	JITEnd      = Outcome(samplerOutcomeOUTCOME_JIT_END)      // stopped in anonymous code
	TooDeep     = Outcome(samplerOutcomeOUTCOME_TOO_DEEP)     // more frames than a sample holds
	DroppedRing = Outcome(samplerOutcomeOUTCOME_DROPPED_RING) // the ring was full
	DroppedUser = Outcome(samplerOutcomeOUTCOME_DROPPED_USER) // user space let it go

	// NumOutcomes is the number of outcomes.
	NumOutcomes = int(samplerOutcomeOUTCOME_COUNT)
)

// outcomes has for each Outcome its value of the metric label and its words in a marker frame.
var outcomes = [NumOutcomes]struct{ label, words string }{
	Complete:    {"complete", "complete"},
	KernelOnly:  {"kernel_only", "kernel only"},
	NoMapping:   {"no_mapping", "no mapping"},
	NoTable:     {"no_table", "no table"},
	BadRule:     {"bad_rule", "bad rule"},
	Unreadable:  {"unreadable", "unreadable"},
	JITEnd:      {"jit_end", "jit end"},
	TooDeep:     {"too_deep", "too deep"},
	DroppedRing: {"dropped_ring", "dropped ring"},
	DroppedUser: {"dropped_user", "dropped user"},
}

// String returns the outcome as metrics label it, for example "no_table".
func (o Outcome) String() string {
	if int(o) < len(outcomes) {
		return outcomes[o].label
	}
	return fmt.Sprintf("outcome_%d", uint32(o))
}

// Words returns the outcome as a marker frame words it, for example "no table".
func (o Outcome) Words() string {
	if int(o) < len(outcomes) {
		return outcomes[o].words
	}
	return fmt.Sprintf("outcome %d", uint32(o))
}

// Truncated reports whether frames are missing at the root of a sample that
// ended so.
func (o Outcome) Truncated() bool { return o != Complete && o != KernelOnly }

// Comm is a task's name as the kernel keeps it, padded with zero bytes. Any
// user can set it to any bytes.
type Comm [16]byte

func (c Comm) String() string {
	name, _, _ := bytes.Cut(c[:], []byte{0})
	return string(name)
}

// Sample is one stack trace of one thread.
//
// PID, ProcessStart and ExecID together name one program run by one process:
// a reused pid has another start, an exec another ExecID.
type Sample struct {
	Time         uint64 // CLOCK_MONOTONIC, ns
	ProcessStart uint64 // start of the process, ns since boot (CLOCK_BOOTTIME)
	PID          uint32 // the process
	TID          uint32 // the thread
	CPU          uint32
	ExecID       uint32 // exec calls of the process and of those it was forked from
	Outcome      Outcome
	InKernel     bool // the sample interrupted the kernel: User starts with the system call's or fault's return
	Comm         Comm // of the process
	Thread       Comm // of the thread

	// Program counters, leaf first. All but the leaf of each are return
	// addresses, and one less is in the instruction that the frame is at; so for
	// what a signal interrupted they are one more than its program counter. They are
	// valid until the next Read into the same Batch.
	Kernel []uint64
	User   []uint64
	// Where user space is to finish the walk, Registers are those of the last
	// frame in User, in the order of the architecture's pt_regs, and Stack is the
	// user stack from its stack pointer up, as far as it was resident. If that
	// frame is not the first, only program counter, stack pointer, frame pointer
	// and, on amd64, rbx mean something.
	//
	// Without Registers, Stack is nothing, or two words for a leaf that may have
	// no frame, the first of them the return address it then has: the top of the
	// stack on amd64, the link register on arm64.
	Registers []uint64
	Stack     []byte
	Exact     bool // with Registers: the last of User is no return address, but the leaf or what a signal interrupted
}

const headerSize = int(unsafe.Sizeof(samplerSampleHeader{}))

// appendSample decodes one ring record. The words that follow the header are
// copied to words, which grows as needed and is returned.
func appendSample(dst []Sample, words []uint64, raw []byte) ([]Sample, []uint64, error) {
	if len(raw) < headerSize {
		return dst, words, fmt.Errorf("decode sample: %d bytes, the header alone has %d", len(raw), headerSize)
	}
	var h samplerSampleHeader
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&h)), headerSize), raw)
	numWords := int(h.KernelFrames) + int(h.UserFrames) + int(h.Registers)
	stackWords := (int(h.StackBytes) + 7) / 8
	if body := len(raw) - headerSize; body < (numWords+stackWords)*8 {
		return dst, words, fmt.Errorf("decode sample of pid %d: %d bytes follow the header, want %d", h.Pid, body, (numWords+stackWords)*8)
	}
	start := len(words)
	for range numWords + stackWords {
		words = append(words, 0)
	}
	rest := words[start:len(words):len(words)]
	copy(wordBytes(rest), raw[headerSize:])
	take := func(n uint16) []uint64 {
		taken := rest[:n:n]
		rest = rest[n:]
		return taken
	}
	return append(dst, Sample{
		Time:         h.Time,
		ProcessStart: h.ProcessStart,
		PID:          h.Pid,
		TID:          h.Tid,
		CPU:          h.Cpu,
		ExecID:       h.ExecId,
		Outcome:      Outcome(h.Outcome),
		InKernel:     h.Flags&inKernel != 0,
		Exact:        h.Flags&exactPC != 0,
		Comm:         h.Comm,
		Thread:       h.Thread,
		Kernel:       take(h.KernelFrames),
		User:         take(h.UserFrames),
		Registers:    take(h.Registers),
		Stack:        wordBytes(rest)[:h.StackBytes],
	}), words, nil
}

// SAMPLE_IN_KERNEL and SAMPLE_EXACT_PC of sampler.h.
const (
	inKernel = 1 << iota
	exactPC
)

func wordBytes(words []uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), len(words)*8)
}
