package bpf

import (
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pilotlight/unwind"
)

// TestKernelEnding samples the kernel while it takes back the memory of a process that has ended. The process still shows
// where it called for that, on kernels that tell of the end while there is a stack to be read.
func TestKernelEnding(t *testing.T) {
	name := kernelFunctions(t)
	s := open(t, Options{Frequency: MaxFrequency})
	p := run(t, s, compile(t, "ending"))
	ending := endOf(t, p, func(s *Sample) bool {
		return slices.ContainsFunc(s.Kernel, func(pc uint64) bool { return name(pc) == "exit_mmap" })
	})
	if len(ending) == 0 {
		t.Fatal("no sample was taken while the kernel took the memory back")
	}
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		t.Fatal(err)
	}
	kept := !olderThan(host.Release[:], 6, 16)
	t.Logf("%d samples in exit_mmap; their stacks are to be kept: %v", len(ending), kept)
	for _, sample := range ending {
		if !kept {
			if sample.Outcome != KernelOnly || len(sample.User)+len(sample.Registers)+len(sample.Stack) > 0 {
				t.Fatalf("%v with %d frames, %d registers and %d bytes, want nothing of user space", sample.Outcome, len(sample.User), len(sample.Registers), len(sample.Stack))
			}
			continue
		}
		if sample.Outcome != NoMapping || len(sample.Registers) == 0 || !sample.Exact {
			t.Fatalf("%v with %d registers, want registers and stack for user space to walk", sample.Outcome, len(sample.Registers))
		}
		stack, err := p.finish(sample)
		if names := p.names(stack); !isChain(names, []string{"libc.so.6", "leave", "main"}) || !errors.Is(err, unwind.ErrEnd) {
			t.Fatalf("%v: %v, want that of leave", names, err)
		}
	}
	st, err := s.Stats()
	if err != nil {
		t.Fatal(err)
	}
	var sum uint64
	for _, n := range st.Outcomes {
		sum += n
	}
	if under := st.Taken - sum; under > uint64(len(s.cpus)) {
		t.Errorf("outcomes sum to %d of %d taken", sum, st.Taken)
	}
}

// endOf has a target end, and returns those samples of it that are wanted.
func endOf(t *testing.T, p *target, wanted func(*Sample) bool) []Sample {
	t.Helper()
	if err := unix.Kill(int(p.id.PID), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var samples []Sample
	var b Batch
	for start := time.Now(); ; {
		if err := readSoon(p.s, &b); err != nil {
			t.Fatal(err)
		}
		for _, s := range b.Samples {
			if s.PID == p.id.PID && wanted(&s) {
				s.User, s.Registers, s.Stack = slices.Clone(s.User), slices.Clone(s.Registers), slices.Clone(s.Stack)
				samples = append(samples, s)
			}
		}
		if slices.ContainsFunc(b.Events, func(e Event) bool { return e.Kind == EventExit && e.PID == p.id.PID }) && len(samples) > 0 {
			return samples
		}
		if time.Since(start) > 10*time.Second {
			return samples
		}
	}
}

// olderThan tells whether a kernel's release, such as "6.1.0-56-cloud-amd64", is older than major.minor.
func olderThan(release []byte, major, minor int) bool {
	var is [2]int
	part := 0
	for _, c := range release {
		switch {
		case c >= '0' && c <= '9':
			is[part] = is[part]*10 + int(c-'0')
		case c == '.' && part == 0:
			part++
		default:
			return slices.Compare(is[:], []int{major, minor}) < 0
		}
	}
	return false
}
