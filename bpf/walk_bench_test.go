package bpf

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// BenchmarkKernelWalk takes stacks by the sampler's walk and by bpf_get_stack at the same time, and reports what each
// costs. The kernel's goes by frame pointers alone: of C it sees next to nothing.
func BenchmarkKernelWalk(b *testing.B) {
	b.Run("Go", func(b *testing.B) {
		var stop atomic.Bool
		var burners sync.WaitGroup
		for range runtime.NumCPU() {
			burners.Go(func() { burnAt(25, stop.Load) })
		}
		benchmarkWalk(b, inspect(b, open(b, Options{Frequency: 99}), os.Getpid()))
		stop.Store(true)
		burners.Wait()
	})
	b.Run("C", func(b *testing.B) {
		path := compile(b, "recursion")
		benchmarkWalk(b, run(b, open(b, Options{Frequency: 99}), path, "45"))
	})
}

// benchmarkWalk measures on a process that computes.
func benchmarkWalk(b *testing.B, p *target) {
	spec, err := loadWalkbench()
	if err != nil {
		b.Fatal(err)
	}
	var objs walkbenchObjects
	if err := spec.LoadAndAssign(&objs, nil); err != nil {
		b.Fatal(err)
	}
	defer objs.Close()
	tables, err := newTables(&samplerMaps{Shards: objs.Shards, Processes: objs.Processes, Rules: objs.Rules}, DefaultTableBytes, func() {})
	if err != nil {
		b.Fatal(err)
	}
	defer tables.close()
	code := slices.Clone(p.code)
	for i := range code {
		err := whenRoom(func() (err error) {
			code[i].Table, err = tables.load(p.tables[p.code[i].Table])
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	if err := whenRoom(func() error { return tables.setProcess(p.id, code) }); err != nil {
		b.Fatal(err)
	}
	for _, prog := range []*ebpf.Program{objs.WalkOurs, objs.WalkHelper} {
		for cpu := range runtime.NumCPU() {
			defer attach(b, prog, cpu)()
		}
	}
	for b.Loop() {
		time.Sleep(100 * time.Millisecond)
	}

	perCall := [2]float64{}
	for i, name := range []string{"ours", "helper"} {
		var perCPU []walkbenchWalkCost
		if err := objs.Costs.Lookup(uint32(i), &perCPU); err != nil {
			b.Fatal(err)
		}
		var sum walkbenchWalkCost
		for _, c := range perCPU {
			sum.Calls, sum.Frames, sum.Ns = sum.Calls+c.Calls, sum.Frames+c.Frames, sum.Ns+c.Ns
		}
		if sum.Calls == 0 {
			b.Fatalf("%s: no sample", name)
		}
		perCall[i] = float64(sum.Ns) / float64(sum.Calls)
		b.ReportMetric(perCall[i], name+"-ns/sample")
		b.ReportMetric(float64(sum.Frames)/float64(sum.Calls), name+"-frames/sample")
	}
	b.ReportMetric(perCall[0]/perCall[1], "ours/helper")
	b.ReportMetric(0, "ns/op") // the time of a sleep
}

// attach runs a program on the clock of a CPU until what it returns is called.
func attach(b *testing.B, prog *ebpf.Program, cpu int) func() {
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Config: unix.PERF_COUNT_SW_CPU_CLOCK, Sample: 997, Bits: unix.PerfBitFreq | unix.PerfBitExcludeIdle}
	fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		b.Fatal(err)
	}
	l, err := link.AttachRawLink(link.RawLinkOptions{Target: fd, Program: prog, Attach: ebpf.AttachPerfEvent})
	if err != nil {
		b.Fatal(err)
	}
	return func() {
		if err := errors.Join(l.Close(), unix.Close(fd)); err != nil {
			b.Error(err)
		}
	}
}
