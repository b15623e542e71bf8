package bpf

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// BenchmarkKernelWalk takes Go stacks by the sampler's walk and by
// bpf_get_stack at the same time, and reports what each costs.
func BenchmarkKernelWalk(b *testing.B) {
	spec, err := loadWalkbench()
	if err != nil {
		b.Fatal(err)
	}
	var objs struct {
		Ours   *ebpf.Program `ebpf:"walk_ours"`
		Helper *ebpf.Program `ebpf:"walk_helper"`
		Costs  *ebpf.Map     `ebpf:"costs"`
	}
	if err := spec.LoadAndAssign(&objs, nil); err != nil {
		b.Fatal(err)
	}
	defer objs.Ours.Close()
	defer objs.Helper.Close()
	defer objs.Costs.Close()

	var stop atomic.Bool
	var burners sync.WaitGroup
	for range runtime.NumCPU() {
		burners.Go(func() { burnAt(25, stop.Load) })
	}
	for _, prog := range []*ebpf.Program{objs.Ours, objs.Helper} {
		for cpu := range runtime.NumCPU() {
			attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
				Config: unix.PERF_COUNT_SW_CPU_CLOCK, Sample: 997, Bits: unix.PerfBitFreq | unix.PerfBitExcludeIdle}
			fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
			if err != nil {
				b.Fatal(err)
			}
			defer unix.Close(fd)
			l, err := link.AttachRawLink(link.RawLinkOptions{Target: fd, Program: prog, Attach: ebpf.AttachPerfEvent})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
		}
	}
	for b.Loop() {
		time.Sleep(100 * time.Millisecond)
	}
	stop.Store(true)
	burners.Wait()

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
