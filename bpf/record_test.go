package bpf

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// encodeSample is the inverse of appendSample: what the program writes to its ring.
func encodeSample(s Sample) []byte {
	h := samplerSampleHeader{
		Time: s.Time, ProcessStart: s.ProcessStart, Pid: s.PID, Tid: s.TID, Cpu: s.CPU, ExecId: s.ExecID,
		KernelFrames: uint16(len(s.Kernel)), UserFrames: uint16(len(s.User)),
		Registers: uint16(len(s.Registers)), StackBytes: uint16(len(s.Stack)),
		Outcome: samplerOutcome(s.Outcome), Comm: s.Comm, Thread: s.Thread,
	}
	if s.InKernel {
		h.Flags |= inKernel
	}
	if s.Exact {
		h.Flags |= exactPC
	}
	raw := slices.Clone(unsafe.Slice((*byte)(unsafe.Pointer(&h)), headerSize))
	for _, words := range [][]uint64{s.Kernel, s.User, s.Registers} {
		raw = append(raw, wordBytes(words)...)
	}
	raw = append(raw, s.Stack...)
	for len(raw)%8 != 0 {
		raw = append(raw, 0)
	}
	return raw
}

func TestSampleRoundTrip(t *testing.T) {
	want := []Sample{
		{Time: 1, ProcessStart: 2, PID: 3, TID: 4, CPU: 5, ExecID: 6, Outcome: TooDeep, InKernel: true,
			Comm: Comm{'a'}, Thread: Comm{'b'}, Kernel: []uint64{7, 8}, User: []uint64{9}, Registers: []uint64{10, 11}, Stack: []byte("0123456789"), Exact: true},
		{Kernel: []uint64{}, User: []uint64{}, Registers: []uint64{}, Stack: []byte{}},
	}
	var got []Sample
	var words []uint64
	var err error
	for _, s := range want {
		if got, words, err = appendSample(got, words, encodeSample(s)); err != nil {
			t.Fatal(err)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestSampleCutShort(t *testing.T) {
	raw := encodeSample(Sample{User: []uint64{1, 2, 3}, Stack: make([]byte, 16)})
	for n := range raw {
		if _, _, err := appendSample(nil, nil, raw[:n]); err == nil {
			t.Errorf("a sample cut after %d of %d bytes was decoded", n, len(raw))
		}
	}
}

func TestOutcomesHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for o := range Outcome(NumOutcomes) {
		if o.String() == "" || o.Words() == "" || seen[o.String()] {
			t.Errorf("outcome %d: label %q, words %q", uint32(o), o, o.Words())
		}
		seen[o.String()] = true
	}
}

// record builds a side-band record.
func record(kind uint32, misc uint16, body []byte) []byte {
	for len(body)%8 != 0 {
		body = append(body, 0)
	}
	body = binary.NativeEndian.AppendUint32(body, 11) // sample_id: pid, tid, time
	body = binary.NativeEndian.AppendUint32(body, 12)
	body = binary.NativeEndian.AppendUint64(body, 99)
	rec := binary.NativeEndian.AppendUint32(nil, kind)
	rec = binary.NativeEndian.AppendUint16(rec, misc)
	rec = binary.NativeEndian.AppendUint16(rec, uint16(8+len(body)))
	return append(rec, body...)
}

// longer adds bytes that nobody wrote to a record.
func longer(rec []byte, bytes int) []byte {
	for range bytes {
		rec = append(rec, 0x5a)
	}
	binary.NativeEndian.PutUint16(rec[6:], uint16(len(rec)))
	return rec
}

func u32s(v ...uint32) (b []byte) {
	for _, x := range v {
		b = binary.NativeEndian.AppendUint32(b, x)
	}
	return b
}

func u64s(v ...uint64) (b []byte) {
	for _, x := range v {
		b = binary.NativeEndian.AppendUint64(b, x)
	}
	return b
}

func mmapBody(path string) []byte {
	id := append([]byte{3, 0, 0, 0, 0xaa, 0xbb, 0xcc}, make([]byte, 17)...)
	return mmapBodyOf(id, path)
}

// mmapBodyOf has the 24 bytes that are a build ID, or device and inode.
func mmapBodyOf(file []byte, path string) []byte {
	return slices.Concat(u32s(11, 12), u64s(0x1000, 0x2000, 0x3000), file, u32s(5, 2), []byte(path), []byte{0})
}

var recordTests = []struct {
	name string
	rec  []byte
	want Event // the zero Event: no event
}{
	{"mmap", record(unix.PERF_RECORD_MMAP2, miscMmapBuildID, mmapBody("/usr/lib/libc.so.6")), Event{Time: 99, Kind: EventMmap, PID: 11, TID: 12,
		Mapping: Mapping{Start: 0x1000, End: 0x3000, Offset: 0x3000, Path: "/usr/lib/libc.so.6", BuildID: []byte{0xaa, 0xbb, 0xcc}}}},
	{"mmap without build ID", record(unix.PERF_RECORD_MMAP2, 0, mmapBodyOf(slices.Concat(u32s(254, 1), u64s(77, 3)), "/bin/go")), Event{Time: 99, Kind: EventMmap, PID: 11, TID: 12,
		Mapping: Mapping{Start: 0x1000, End: 0x3000, Offset: 0x3000, Path: "/bin/go", Dev: 254<<20 | 1, Inode: 77, Generation: 3}}},
	{"comm", record(unix.PERF_RECORD_COMM, 0, append(u32s(11, 12), "worker\x00"...)), Event{Time: 99, Kind: EventComm, PID: 11, TID: 12, Comm: "worker"}},
	{"exec", record(unix.PERF_RECORD_COMM, miscCommExec, append(u32s(11, 11), "ls\x00"...)), Event{Time: 99, Kind: EventExec, PID: 11, TID: 11, Comm: "ls"}},
	{"fork", record(unix.PERF_RECORD_FORK, 0, append(u32s(11, 10, 11, 10), u64s(98)...)), Event{Time: 99, Kind: EventFork, PID: 11, PPID: 10, TID: 11}},
	{"new thread", record(unix.PERF_RECORD_FORK, 0, append(u32s(11, 11, 13, 11), u64s(98)...)), Event{}},
	{"exit", record(unix.PERF_RECORD_EXIT, 0, append(u32s(11, 10, 11, 10), u64s(98)...)), Event{Time: 99, Kind: EventExit, PID: 11, PPID: 10, TID: 11}},
	{"lost", record(unix.PERF_RECORD_LOST, 0, u64s(1, 42)), Event{Time: 99, Kind: EventLost, Lost: 42}},
	{"BPF program", record(unix.PERF_RECORD_KSYMBOL, 0, slices.Concat(u64s(0xffffffffc0001000), u32s(300, 1), []byte("bpf_prog_a\x00"))), Event{Time: 99, Kind: EventKernelCode}},
	{"BPF program that others were told of before", longer(record(unix.PERF_RECORD_KSYMBOL, 0, slices.Concat(u64s(0xffffffffc0001000), u32s(300, 1), []byte("bpf_prog_abcdefg\x00"))), 32), Event{Time: 99, Kind: EventKernelCode}},
	{"something else", record(unix.PERF_RECORD_THROTTLE, 0, u64s(1, 2, 3)), Event{}},
}

func TestParseEvent(t *testing.T) {
	for _, tc := range recordTests {
		t.Run(tc.name, func(t *testing.T) {
			got, ok, err := parseEvent(tc.rec)
			if err != nil {
				t.Fatal(err)
			}
			if ok != (tc.want.Kind != 0) || ok && !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %+v, %v\nwant %+v", got, ok, tc.want)
			}
		})
	}
}

func FuzzParseEvent(f *testing.F) {
	for _, tc := range recordTests {
		f.Add(tc.rec)
	}
	f.Fuzz(func(t *testing.T, rec []byte) {
		ev, ok, err := parseEvent(rec)
		if err != nil && ok {
			t.Errorf("both an event %+v and an error %v", ev, err)
		}
		if n := len(ev.Comm) + len(ev.Mapping.Path) + len(ev.Mapping.BuildID); n > len(rec) {
			t.Errorf("%d bytes of names out of %d bytes", n, len(rec))
		}
	})
}

// ringOf lays records around the end of a small ring, as the kernel does.
func ringOf(size int, tail uint64, recs ...[]byte) *sideband {
	s := &sideband{ring: make([]byte, size), meta: &unix.PerfEventMmapPage{Data_tail: tail, Data_head: tail}}
	for _, rec := range recs {
		for _, b := range rec {
			s.ring[s.meta.Data_head%uint64(size)] = b
			s.meta.Data_head++
		}
	}
	return s
}

func TestSidebandWrapsAround(t *testing.T) {
	recs := [][]byte{recordTests[0].rec, recordTests[2].rec, recordTests[6].rec}
	for tail := uint64(0); tail < 512; tail += 8 {
		s := ringOf(256, tail, recs...)
		if got := s.read(nil, 98); len(got) != 0 {
			t.Fatalf("tail %d: %d events of time 99 read up to 98", tail, len(got))
		}
		got := s.read(nil, 99)
		want := []Event{recordTests[0].want, recordTests[2].want, recordTests[6].want}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("tail %d: got %+v\nwant %+v", tail, got, want)
		}
		if s.meta.Data_tail != s.meta.Data_head {
			t.Fatalf("tail %d: %d bytes left on the ring", tail, s.meta.Data_head-s.meta.Data_tail)
		}
	}
}

func TestSidebandDamageCountsAsLost(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		s := ringOf(256, 0, recordTests[0].rec, recordTests[2].rec)
		s.ring[rng.IntN(int(s.meta.Data_head))] = byte(rng.Uint32())
		s.read(nil, 99)
		s.read(nil, 99+tooLate)
		if s.meta.Data_tail != s.meta.Data_head {
			t.Fatalf("a damaged ring is not drained: %d of %d", s.meta.Data_tail, s.meta.Data_head)
		}
	}
	s := ringOf(256, 0, []byte{0, 0, 0, 0, 0, 0, 0, 0}) // a record of size 0
	if got := s.read(nil, 99); len(got) != 1 || got[0].Kind != EventLost {
		t.Errorf("a record of size 0 gave %+v, want one EventLost", got)
	}
}

func TestParseCPUList(t *testing.T) {
	for list, want := range map[string][]int{"0\n": {0}, "0-3,7": {0, 1, 2, 3, 7}, "2,4-5\n": {2, 4, 5}} {
		if got, err := parseCPUList(list); err != nil || !slices.Equal(got, want) {
			t.Errorf("parseCPUList(%q) = %v, %v; want %v", list, got, err, want)
		}
	}
	if got, err := parseCPUList("none"); err == nil {
		t.Errorf("parseCPUList(none) = %v", got)
	}
}

func TestRingsStaySmallOnLargeMachines(t *testing.T) {
	for cpus, want := range map[int]int{1: 512 << 10, 12: 512 << 10, 13: 256 << 10, 1024: 64 << 10} {
		if got := ringSize(cpus); got != want || got%os.Getpagesize() != 0 {
			t.Errorf("ringSize(%d) = %d, want %d", cpus, got, want)
		}
	}
}
