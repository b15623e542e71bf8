package main

import (
	"bytes"
	"compress/zlib"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"pilotlight/cmd/pilotlight/agent"
	"pilotlight/symbolize"
)

// Abbreviations of the hostile files: a unit with functions, one with a line program, a function, an inlined call that
// is a copy of another entry, and a block.
var hostileAbbrevs = []byte{
	1, 0x11, 1, 0, 0,
	2, 0x11, 0, 0x10, 0x17, 0, 0,
	3, 0x2e, 1, 0x11, 0x01, 0x12, 0x06, 0, 0,
	4, 0x1d, 0, 0x31, 0x13, 0x11, 0x01, 0x12, 0x06, 0, 0,
	5, 0x0b, 1, 0, 0,
	0,
}

// hostileUnit is a unit of DWARF 5 with these entries.
func hostileUnit(entries ...[]byte) []byte {
	u := append([]byte{0, 0, 0, 0, 5, 0, 1, 8, 0, 0, 0, 0}, bytes.Join(entries, nil)...)
	binary.LittleEndian.PutUint32(u, uint32(len(u)-4))
	return u
}

// rangeEntry is an entry with a range of code.
func rangeEntry(code byte, origin []byte, lo uint64, size uint32) []byte {
	b := binary.LittleEndian.AppendUint64(append([]byte{code}, origin...), lo)
	return binary.LittleEndian.AppendUint32(b, size)
}

func word(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }

// originCircles are many inlined calls whose origins are copies of each other: 12 is the offset of the first entry in
// the unit.
func originCircles() []byte {
	const function = 13
	first := uint32(12 + 1 + function)
	calls := [][]byte{{1}, rangeEntry(3, nil, 0x1000, 0x1000)}
	for i := range uint32(100_000) {
		calls = append(calls, rangeEntry(4, word(first+17*(i^1)), 0x1000+uint64(i%0xf00), 16))
	}
	return elfWith(map[string][]byte{".debug_info": hostileUnit(calls...), ".debug_abbrev": hostileAbbrevs})
}

// crossingCalls are inlined calls none of which lies within another.
func crossingCalls() []byte {
	calls := [][]byte{{1}, rangeEntry(3, nil, 0x1000, 0x1000)}
	for i := range uint32(100_000) {
		calls = append(calls, rangeEntry(4, word(12), 0x1000+uint64(i%0x7ff), 0x700))
	}
	return elfWith(map[string][]byte{".debug_info": hostileUnit(calls...), ".debug_abbrev": hostileAbbrevs})
}

func deepBlocks() []byte {
	info := hostileUnit([]byte{1}, rangeEntry(3, nil, 0x1000, 0x1000), bytes.Repeat([]byte{5}, 16<<20))
	return elfWith(map[string][]byte{".debug_info": info, ".debug_abbrev": hostileAbbrevs})
}

// lineBomb are many units that all have the same long line program.
func lineBomb() []byte {
	program := append([]byte{0, 9, 2}, binary.LittleEndian.AppendUint64(nil, 0x1000)...)
	program = append(program, bytes.Repeat([]byte{19}, 1<<20)...) // one line on, at the same address
	program = append(program, 2, 16, 0, 1, 1)
	head := []byte{1, 1, 1, 0xfb, 14, 13, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0}
	line := append(append(append([]byte{0, 0, 0, 0, 4, 0}, word(uint32(len(head)))...), head...), program...)
	binary.LittleEndian.PutUint32(line, uint32(len(line)-4))
	unit := hostileUnit(append([]byte{2}, word(0)...))
	return elfWith(map[string][]byte{".debug_info": bytes.Repeat(unit, 50_000), ".debug_abbrev": hostileAbbrevs, ".debug_line": line})
}

// packed makes a section that is compressed and says what size it has.
func packed(t *testing.T, method elf.CompressionType, size int) []byte {
	t.Helper()
	head := make([]byte, 24)
	binary.LittleEndian.PutUint32(head, uint32(method))
	binary.LittleEndian.PutUint64(head[8:], uint64(size))
	out := bytes.NewBuffer(head)
	w, err := zstd.NewWriter(out)
	if err != nil {
		t.Fatal(err)
	}
	var z interface {
		Write([]byte) (int, error)
		Close() error
	} = w
	if method == elf.COMPRESS_ZLIB {
		z = zlib.NewWriter(out)
	}
	zeros := make([]byte, 1<<20)
	for range size >> 20 {
		if _, err := z.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// editSection changes the header of a section of an image.
func editSection(t *testing.T, image []byte, name string, edit func(header []byte)) []byte {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range f.Sections {
		if s.Name == name {
			edit(image[binary.LittleEndian.Uint64(image[40:])+uint64(64*i):])
			return image
		}
	}
	t.Fatalf("no section %s", name)
	return nil
}

func compressedBomb(t *testing.T, section string, method elf.CompressionType, size int) []byte {
	t.Helper()
	sections := map[string][]byte{".debug_info": hostileUnit([]byte{1}), ".debug_abbrev": hostileAbbrevs}
	sections[section] = packed(t, method, size)
	return editSection(t, elfWith(sections), section, func(header []byte) {
		binary.LittleEndian.PutUint64(header[8:], uint64(elf.SHF_COMPRESSED))
	})
}

// giantUnit is a unit of 4 GB that is a hole in the file.
func giantUnit(t *testing.T) []byte {
	t.Helper()
	unit := append(word(0xffffffff), binary.LittleEndian.AppendUint64(nil, giantSize-1<<20)...)
	unit = append(unit, 5, 0, 1, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1)
	image := elfWith(map[string][]byte{".debug_info": unit, ".debug_abbrev": hostileAbbrevs})
	return editSection(t, image, ".debug_info", func(header []byte) {
		binary.LittleEndian.PutUint64(header[32:], giantSize-1<<19)
	})
}

const giantSize = 4 << 30

// TestIndexFileHostile indexes files that are made to take what there is, each in its child: that ends by itself or is
// ended, within what its file may take.
func TestIndexFileHostile(t *testing.T) {
	total, allowed := time.Duration(0), time.Duration(0)
	for _, tt := range []struct {
		name  string
		image []byte
		size  int64 // to which the file is made longer by a hole
		// meanwhile is done to the file once the child runs.
		meanwhile func(t *testing.T, request agent.IndexRequest)
	}{
		{name: "zlib bomb of entries", image: compressedBomb(t, ".debug_info", elf.COMPRESS_ZLIB, 512<<20)},
		{name: "zlib bomb of strings", image: compressedBomb(t, ".debug_str", elf.COMPRESS_ZLIB, 512<<20)},
		{name: "zstd bomb of lines", image: compressedBomb(t, ".debug_line", elf.COMPRESS_ZSTD, 512<<20)},
		{name: "origins in circles", image: originCircles()},
		{name: "calls that cross", image: crossingCalls()},
		{name: "deep nesting", image: deepBlocks()},
		{name: "a line program for all", image: lineBomb()},
		{name: "ranges without end", image: endlessDWARF()},
		{name: "a sparse unit of 4 GB", image: giantUnit(t), size: giantSize},
		{name: "a sparse file of 4 GB", image: endlessDWARF(), size: giantSize},
		{name: "cut while it is read", image: endlessDWARF(), meanwhile: func(t *testing.T, request agent.IndexRequest) {
			if err := request.In.Truncate(1 << 10); err != nil {
				t.Error(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			request := newIndexRequest(t, tt.image)
			size := max(tt.size, int64(len(tt.image)))
			if err := request.In.Truncate(size); err != nil {
				t.Fatal(err)
			}
			links, err := symbolize.ReadDebugLinks(request.In, size)
			if err != nil {
				t.Fatal(err)
			}
			request.Bytes = links.DebugBytes
			ended := make(chan error, 1)
			var result agent.IndexResult
			go func() {
				var err error
				result, err = indexFile(context.Background(), request)
				ended <- err
			}()
			if tt.meanwhile != nil {
				waitForCPU(t, childWith(t, os.Getpid(), "index-child"))
				tt.meanwhile(t, request)
			}
			err = <-ended
			t.Logf("%v of CPU time of %v, %d MB: %v", result.CPU, budget(request.Bytes), result.Peak>>20, err)
			if err != nil && !errors.Is(err, agent.ErrIndexBudget) {
				for _, bad := range []string{"panic", "fatal error", "signal"} {
					if strings.Contains(err.Error(), bad) {
						t.Errorf("%v", err)
					}
				}
			}
			// Limits of CPU time are in whole seconds.
			if most := budget(request.Bytes) + 2*time.Second; result.CPU > most {
				t.Errorf("%v of CPU time, want at most %v", result.CPU, most)
			}
			// What is resident includes the program, which is no data.
			if most := int64(indexMemory + 64<<20); result.Peak > most {
				t.Errorf("%d MB, want at most %d", result.Peak>>20, most>>20)
			}
			total, allowed = total+result.CPU, allowed+budget(request.Bytes)
		})
	}
	t.Logf("in all %v of CPU time of %v", total, allowed)
}

// waitForCPU waits until a process has been running for a while.
func waitForCPU(t *testing.T, pid int) {
	t.Helper()
	var clock int32 = int32(^pid<<3 | 2) // CLOCK_PROCESS_CPUTIME_ID of another process, see clock_getcpuclockid(3)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		var used unix.Timespec
		if err := unix.ClockGettime(clock, &used); err != nil || used.Nano() > int64(500*time.Millisecond) {
			return // it has, or has ended
		}
	}
	t.Errorf("process %d does not run", pid)
}
