package agent

import (
	"io"
	"slices"

	"pilotlight/bpf"
	"pilotlight/cmd/pilotlight/process"
)

// maxPendingBytes is what the samples that wait for a table take at most.
const maxPendingBytes = 4 << 20

// finish says what became of a sample that the sampler could not finish.
type finish uint8

const (
	finishedWhole  finish = iota // to the thread's entry
	finishedCut                  // to where it could not go on
	finishLate                   // its table was not there by the end of the window
	finishShed                   // the governor objected
	finishRefused                // too many were waiting
	finishOutcomes               // their number
)

var finishNames = [finishOutcomes]string{"complete", "truncated", "late", "shed", "refused"}

// pendingSample waits for a table.
type pendingSample struct {
	process process.Process // as of the sample's time
	sample  bpf.Sample
}

// finisher walks the stacks of samples that came with registers and a piece of
// stack, by the mappings that their process had at their time. It belongs to the
// draining goroutine.
type finisher struct {
	tables  *tables
	pending []pendingSample
	bytes   int // of pending
	counts  [finishOutcomes]uint64

	stack stackPiece
	pcs   []uint64
}

// stackPiece is memory of a process from start on.
type stackPiece struct {
	start uint64
	bytes []byte
}

// ReadAt implements io.ReaderAt at addresses of the process.
func (s *stackPiece) ReadAt(b []byte, at int64) (int, error) {
	offset := uint64(at) - s.start
	if offset > uint64(len(s.bytes)) {
		return 0, io.EOF
	}
	n := copy(b, s.bytes[offset:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// finish walks on from where the sampler stopped, changes s to say so, and
// returns true. It returns false, and changes nothing, if a table is still to come.
func (f *finisher) finish(p *process.Process, s *bpf.Sample) bool {
	regs, ok := Registers(s.Registers)
	if !ok || len(s.User) == 0 {
		f.counts[finishedCut]++
		return true
	}
	if regs.Exact = s.Exact; !regs.Exact {
		regs.Known &= arch.Followed() // the others are those of the first frame
	}
	f.stack = stackPiece{regs.R[arch.SP()], s.Stack}
	f.pcs = append(f.pcs[:0], s.User...)
	loading, missing := false, false
	var at process.Mapping // the last
	var c code
	find := func(pc uint64) (Code, bpf.Outcome) {
		if pc < at.Start || pc >= at.End {
			if at, ok = p.Mappings.Find(pc); !ok {
				return Code{}, bpf.NoMapping
			}
			c = f.tables.code(p, at, pc)
			c.Start, c.End = at.Start, at.End
		}
		switch c.kind {
		case codeJIT:
			return Code{}, bpf.JITEnd
		case codeJITFramePointer:
			return Code{JIT: true}, bpf.Complete
		case codeLoading, codeAbsent:
			loading = true
			return Code{}, bpf.NoTable
		default:
			missing = missing || c.kind == codeMissing
			return c.Code, bpf.Complete
		}
	}
	pcs, outcome := Walk(regs, &f.stack, f.pcs, find)
	f.pcs = pcs
	if loading {
		return false
	}
	if missing && outcome == bpf.Complete {
		outcome = bpf.NoTable // whether that code keeps frame pointers, nobody knows
	}
	s.User, s.Outcome = slices.Clone(pcs), outcome
	s.Stack, s.Registers = nil, nil
	if outcome == bpf.Complete {
		f.counts[finishedWhole]++
	} else {
		f.counts[finishedCut]++
	}
	return true
}

// wait keeps a copy of a sample until its table is there, and reports whether
// there was room.
func (f *finisher) wait(p *process.Process, s *bpf.Sample) bool {
	size := len(s.Stack) + 8*(len(s.Registers)+len(s.User)+len(s.Kernel))
	if f.bytes+size > maxPendingBytes {
		f.counts[finishRefused]++
		return false
	}
	f.bytes += size
	kept := *s
	kept.Kernel, kept.User = slices.Clone(s.Kernel), slices.Clone(s.User)
	kept.Stack, kept.Registers = slices.Clone(s.Stack), slices.Clone(s.Registers)
	f.pending = append(f.pending, pendingSample{*p, kept})
	return true
}

// retry finishes what can be, and hands it to add; all of it, finished or not, at
// the end of a window.
func (f *finisher) retry(end bool, add func(*process.Process, *bpf.Sample)) {
	waiting := f.pending[:0]
	f.bytes = 0
	for i := range f.pending {
		w := &f.pending[i]
		switch finished := f.finish(&w.process, &w.sample); {
		case finished:
			add(&w.process, &w.sample)
		case end:
			f.counts[finishLate]++
			add(&w.process, &w.sample)
		default:
			f.bytes += len(w.sample.Stack) + 8*(len(w.sample.Registers)+len(w.sample.User)+len(w.sample.Kernel))
			waiting = append(waiting, *w)
		}
	}
	clear(f.pending[len(waiting):])
	f.pending = waiting
}
