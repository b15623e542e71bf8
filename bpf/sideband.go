package bpf

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// perfBitBuildID is perf_event_attr.build_id: mapping records carry the build
// ID instead of the inode (Linux 5.12).
const perfBitBuildID = 1 << 34

// perfBitKsymbol is perf_event_attr.ksymbol: records of code that the kernel
// makes or removes while it runs, BPF programs above all (Linux 5.1).
const perfBitKsymbol = 1 << 29

// sideband is the ring of one CPU on which the kernel reports forks, execs,
// mappings and exits of all processes. It belongs to one reader.
type sideband struct {
	fd     int
	memory []byte // one control page, then the ring
	meta   *unix.PerfEventMmapPage
	ring   []byte // a power of two long
	record []byte // holds a record that wraps around the ring's end
}

// openSideband opens and enables the ring of cpu with room for size bytes, a
// power of two of pages. The reader is woken when a quarter is full: on a busy machine
// it may take a while to come.
func openSideband(cpu, size int) (*sideband, error) {
	attr := unix.PerfEventAttr{
		Type:        unix.PERF_TYPE_SOFTWARE,
		Size:        uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Config:      unix.PERF_COUNT_SW_DUMMY,
		Sample_type: unix.PERF_SAMPLE_TID | unix.PERF_SAMPLE_TIME,
		Read_format: unix.PERF_FORMAT_TOTAL_TIME_RUNNING,
		Bits: unix.PerfBitMmap | unix.PerfBitMmap2 | unix.PerfBitComm | unix.PerfBitCommExec | unix.PerfBitTask |
			unix.PerfBitSampleIDAll | unix.PerfBitUseClockID | unix.PerfBitWatermark | perfBitBuildID | perfBitKsymbol,
		Wakeup:  uint32(size / 4),
		Clockid: unix.CLOCK_MONOTONIC,
	}
	fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open side-band event on CPU %d: %w", cpu, err)
	}
	page := os.Getpagesize()
	memory, err := unix.Mmap(fd, 0, page+size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("map %d bytes of side-band ring on CPU %d: %w", page+size, cpu, err)
	}
	return &sideband{
		fd:     fd,
		memory: memory,
		meta:   (*unix.PerfEventMmapPage)(unsafe.Pointer(unsafe.SliceData(memory))),
		ring:   memory[page:],
	}, nil
}

// enable has records made, or none.
func (s *sideband) enable(on bool) error {
	request := uint(unix.PERF_EVENT_IOC_DISABLE)
	if on {
		request = unix.PERF_EVENT_IOC_ENABLE
	}
	return unix.IoctlSetInt(s.fd, request, 0)
}

// tooLate is how much later than the limit of a read nothing can have happened. A record that says otherwise would be waited for,
// and all that come after it.
const tooLate = uint64(time.Minute)

// read appends the events up to and including time limit, a moment ago, to dst and
// leaves later ones on the ring. A record that makes no sense counts as lost.
func (s *sideband) read(dst []Event, limit uint64) []Event {
	head := atomic.LoadUint64(&s.meta.Data_head)
	tail := s.meta.Data_tail // nobody else writes it
	for tail < head {
		rec := s.at(tail, head)
		if rec == nil { // the ring cannot be followed from here; what comes next can
			dst = append(dst, Event{Time: limit, Kind: EventLost, Lost: 1})
			tail = head
			break
		}
		ev, ok, err := parseEvent(rec)
		if err != nil || ok && ev.Time > limit && ev.Time-limit > tooLate {
			ev, ok = Event{Time: limit, Kind: EventLost, Lost: 1}, true
		}
		if ok && ev.Time > limit {
			break
		}
		if ok {
			dst = append(dst, ev)
		}
		tail += uint64(len(rec))
	}
	atomic.StoreUint64(&s.meta.Data_tail, tail)
	return dst
}

// at returns the record at position tail of the ring, valid until the next
// call, or nil where there is none before head.
func (s *sideband) at(tail, head uint64) []byte {
	mask := uint64(len(s.ring) - 1)
	// Records are u64-aligned, so their headers never wrap.
	size := uint64(binary.NativeEndian.Uint16(s.ring[tail&mask+6:]))
	if size < recordHeaderSize || size > head-tail {
		return nil
	}
	start := tail & mask
	if end := start + size; end <= uint64(len(s.ring)) {
		return s.ring[start:end]
	}
	s.record = append(s.record[:0], s.ring[start:]...)
	s.record = append(s.record, s.ring[:int(size)-len(s.record)]...)
	return s.record
}

func (s *sideband) close() error {
	if err := unix.Munmap(s.memory); err != nil {
		return fmt.Errorf("unmap side-band ring: %w", err)
	}
	return unix.Close(s.fd)
}
