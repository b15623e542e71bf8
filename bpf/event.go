package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// EventKind is the kind of an Event.
type EventKind uint8

const (
	EventFork       EventKind = iota + 1 // PPID made PID; only new processes, not threads
	EventExec                            // PID runs a new program: Comm; its mappings follow
	EventComm                            // thread TID of PID is now called Comm
	EventMmap                            // PID has a new executable Mapping
	EventExit                            // thread TID of PID ended; the process, where TID is PID
	EventKernelCode                      // the kernel has new code, or less: a BPF program came or went
	EventLost                            // Lost records were dropped, or so many and more never made: what was learnt may be stale
)

// Event is something that changed which program a process runs or where code
// lies, as perf's side-band records tell it.
type Event struct {
	Time    uint64 // CLOCK_MONOTONIC, ns
	Kind    EventKind
	PID     uint32
	TID     uint32
	PPID    uint32
	Comm    string
	Mapping Mapping
	Lost    uint64
}

// Mapping is one executable mapping: the pc range [Start, End) shows the file
// Path from Offset on. Anonymous memory has a Path of "//anon" or in brackets.
type Mapping struct {
	Start, End, Offset uint64
	Path               string
	BuildID            []byte // GNU build ID where the kernel could read it, else nil
	Dev, Inode         uint64 // the kernel's of the file, where there is no BuildID; Dev is major<<20 | minor
	Generation         uint64 // of the inode: the next file that gets its number has another; 0 where the file system keeps none
}

// Flags of perf_event_header.misc, include/uapi/linux/perf_event.h.
const (
	miscCommExec    = unix.PERF_RECORD_MISC_COMM_EXEC
	miscMmapBuildID = unix.PERF_RECORD_MISC_MMAP_BUILD_ID
)

const (
	recordHeaderSize = 8  // u32 type, u16 misc, u16 size
	sampleIDSize     = 16 // u32 pid, u32 tid, u64 time: PERF_SAMPLE_TID | PERF_SAMPLE_TIME with sample_id_all
)

// parseEvent decodes one side-band record, header included. ok is false for a
// record that says nothing about code.
//
// Layouts: enum perf_event_type in include/uapi/linux/perf_event.h.
func parseEvent(rec []byte) (ev Event, ok bool, err error) {
	if len(rec) < recordHeaderSize+sampleIDSize {
		return Event{}, false, fmt.Errorf("decode side-band record: %d bytes are too few", len(rec))
	}
	order := binary.NativeEndian
	kind, misc := order.Uint32(rec), order.Uint16(rec[4:])
	body, trailer := rec[recordHeaderSize:len(rec)-sampleIDSize], rec[len(rec)-sampleIDSize:]
	ev.Time = order.Uint64(trailer[8:])

	need := map[uint32]int{unix.PERF_RECORD_MMAP2: 64, unix.PERF_RECORD_COMM: 8, unix.PERF_RECORD_FORK: 24, unix.PERF_RECORD_EXIT: 24, unix.PERF_RECORD_LOST: 16, unix.PERF_RECORD_KSYMBOL: 16}[kind]
	if len(body) < need {
		return Event{}, false, fmt.Errorf("decode side-band record of type %d: %d bytes, want %d", kind, len(body), need)
	}
	switch kind {
	case unix.PERF_RECORD_MMAP2:
		ev.Kind = EventMmap
		ev.PID, ev.TID = order.Uint32(body), order.Uint32(body[4:])
		start, length := order.Uint64(body[8:]), order.Uint64(body[16:])
		ev.Mapping = Mapping{Start: start, End: start + length, Offset: order.Uint64(body[24:]), Path: cString(body[64:])}
		if size := body[32]; misc&miscMmapBuildID != 0 && size > 0 && size <= 20 {
			ev.Mapping.BuildID = bytes.Clone(body[36 : 36+size])
		} else if misc&miscMmapBuildID == 0 {
			ev.Mapping.Dev = uint64(order.Uint32(body[32:]))<<20 | uint64(order.Uint32(body[36:]))
			ev.Mapping.Inode, ev.Mapping.Generation = order.Uint64(body[40:]), order.Uint64(body[48:])
		}
	case unix.PERF_RECORD_COMM:
		ev.Kind = EventComm
		if misc&miscCommExec != 0 {
			ev.Kind = EventExec
		}
		ev.PID, ev.TID = order.Uint32(body), order.Uint32(body[4:])
		ev.Comm = cString(body[8:])
	case unix.PERF_RECORD_FORK, unix.PERF_RECORD_EXIT:
		ev.Kind = EventExit
		ev.PID, ev.PPID, ev.TID = order.Uint32(body), order.Uint32(body[4:]), order.Uint32(body[8:])
		if kind == unix.PERF_RECORD_FORK {
			ev.Kind = EventFork
			if ev.PID == ev.PPID { // a thread
				return Event{}, false, nil
			}
		}
	case unix.PERF_RECORD_KSYMBOL:
		ev.Kind = EventKernelCode
		// The kernel makes the record 16 bytes longer for each event that had it before, of whoever, and does not write them
		// (perf_event_ksymbol_output keeps the size of one event for the next): what follows the name is the sample_id, not
		// what stands at the end.
		name := rec[recordHeaderSize+16:]
		length := (len(cString(name)) + 8) / 8 * 8 // with at least one 0
		if len(name) < length+sampleIDSize {
			return Event{}, false, fmt.Errorf("decode side-band record of type %d: a name of %d bytes or more in %d bytes", kind, length, len(rec))
		}
		ev.Time = order.Uint64(name[length+8:])
	case unix.PERF_RECORD_LOST:
		ev.Kind, ev.Lost = EventLost, order.Uint64(body[8:])
	default:
		return Event{}, false, nil
	}
	return ev, true, nil
}

func cString(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}
