package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"
)

// startUpWindows is after how many windows everything was done once that is done
// again and again. The first is shorter than a window.
const startUpWindows = 2

// startUp is one that is not over. It belongs to one goroutine.
type startUp struct {
	log     *slog.Logger
	windows int
}

// window tells that a window is over.
func (s *startUp) window() {
	if s.windows++; s.windows != startUpWindows {
		return
	}
	if err := forgetStartUp(); err != nil {
		s.log.Warn("memory that starting took is kept", "err", err)
	}
}

// forgetStartUp gives back the memory that starting took: garbage, and pages of the
// binary. The packages' initialisers lie all over it, and the kernel maps 64 KiB
// around what one of them touches, which comes to three quarters of it, of which
// a third is used again. Those pages come back from the page cache.
func forgetStartUp() error {
	debug.FreeOSMemory()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("look for pages of the binary: %w", err)
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("look for pages of the binary: %w", err)
	}
	for _, m := range unwrittenMappings(smaps, exe) {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, uintptr(m.start), uintptr(m.end-m.start), unix.MADV_DONTNEED); errno != 0 {
			err = errors.Join(err, fmt.Errorf("give back pages of the binary: %w", errno))
		}
	}
	return err
}

type addressRange struct{ start, end uint64 }

// unwrittenMappings returns where a file is mapped that nobody can write to, and
// nobody has: what a linker relocated or a debugger changed would be lost. smaps is
// as in proc_pid_smaps(5).
func unwrittenMappings(smaps []byte, path string) []addressRange {
	var unwritten []addressRange
	var at addressRange
	lines := bufio.NewScanner(bytes.NewReader(smaps))
	for lines.Scan() {
		fields := bytes.Fields(lines.Bytes())
		if len(fields) < 2 {
			continue
		}
		from, to, ok := bytes.Cut(fields[0], []byte("-"))
		start, err := strconv.ParseUint(string(from), 16, 64)
		end, errEnd := strconv.ParseUint(string(to), 16, 64)
		switch {
		case ok && err == nil && errEnd == nil: // the head of a mapping
			at = addressRange{}
			if bytes.HasSuffix(lines.Bytes(), []byte(" "+path)) && fields[1][1] == '-' {
				at = addressRange{start, end}
			}
		case string(fields[0]) == "Anonymous:" && string(fields[1]) == "0" && at.end > 0:
			unwritten = append(unwritten, at)
		}
	}
	return unwritten
}
