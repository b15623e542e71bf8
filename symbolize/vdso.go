package symbolize

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// maxVDSO bounds the image; vDSOs are two pages long.
const maxVDSO = 1 << 20

// VDSO returns the image of the vDSO, the code that the kernel maps into every process for the calls that need no
// kernel (vdso(7)), as the own process has it. It is an ELF file for Open:
//
//	symbolize.Open(bytes.NewReader(image), int64(len(image)))
//
// All processes of the own word size have the same one; 32-bit processes on a 64-bit kernel have another. The
// error wraps os.ErrNotExist if the process has none (vdso=0 on the kernel's command line).
func VDSO() ([]byte, error) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, fmt.Errorf("find the vDSO: %w", err)
	}
	start, end, err := findVDSO(string(maps))
	if err != nil {
		return nil, fmt.Errorf("find the vDSO in /proc/self/maps: %w", err)
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		return nil, fmt.Errorf("read the vDSO: %w", err)
	}
	image := make([]byte, end-start)
	_, err = mem.ReadAt(image, int64(start))
	if err := errors.Join(err, mem.Close()); err != nil {
		return nil, fmt.Errorf("read the vDSO at %#x: %w", start, err)
	}
	return image, nil
}

// findVDSO returns the addresses of the [vdso] line of /proc/PID/maps (proc_pid_maps(5)).
func findVDSO(maps string) (start, end uint64, err error) {
	for line := range strings.Lines(maps) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[5] != "[vdso]" {
			continue
		}
		from, to, _ := strings.Cut(fields[0], "-")
		start, err = strconv.ParseUint(from, 16, 63)
		if err != nil {
			return 0, 0, err
		}
		end, err = strconv.ParseUint(to, 16, 63)
		if err != nil {
			return 0, 0, err
		}
		if end <= start || end-start > maxVDSO {
			return 0, 0, fmt.Errorf("range %s", fields[0])
		}
		return start, end, nil
	}
	return 0, 0, fmt.Errorf("no [vdso] line: %w", os.ErrNotExist)
}
