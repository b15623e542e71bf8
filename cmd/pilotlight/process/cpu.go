package process

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
)

// Busy is the time in seconds that CPUs spent running something since boot: user (which
// has that of guests in it), nice, system, irq and softirq, in steps of 10 ms.
// Idle and iowait are not work, and stolen time is another machine's: a sampler
// that runs on the CPU clock cannot see either.
type Busy struct {
	Total float64
	// CPUs has the online CPUs, in the kernel's order. Counters of a CPU survive
	// its being offline.
	CPUs []CPUBusy
}

// CPUBusy is the busy time of one CPU.
type CPUBusy struct {
	CPU  int
	Busy float64
}

// ReadBusy reads /proc/stat (proc_stat(5)).
func ReadBusy(proc fs.FS) (Busy, error) {
	f, err := proc.Open("stat")
	if err != nil {
		return Busy{}, fmt.Errorf("read busy time: %w", err)
	}
	defer f.Close()
	busy, err := parseBusy(f)
	if err != nil {
		return Busy{}, fmt.Errorf("read busy time: %w", err)
	}
	return busy, nil
}

func parseBusy(r io.Reader) (Busy, error) {
	var busy Busy
	seen := false
	// The lines of CPUs come first; the one after them counts every interrupt
	// and is long, so it is not asked for.
	in := bufio.NewReader(r)
	for {
		if head, err := in.Peek(3); err != nil || !bytes.Equal(head, []byte("cpu")) {
			if !seen {
				return Busy{}, errors.New("no line \"cpu\"")
			}
			return busy, nil
		}
		line, err := in.ReadString('\n')
		if err != nil && err != io.EOF {
			return Busy{}, err
		}
		fields := strings.Fields(line)
		if len(fields) < 8 {
			return Busy{}, fmt.Errorf("line of %q has %d fields, not 8", fields[0], len(fields))
		}
		var sum uint64
		for _, i := range []int{1, 2, 3, 6, 7} { // user nice system; irq softirq
			v, err := strconv.ParseUint(fields[i], 10, 60)
			if err != nil {
				return Busy{}, fmt.Errorf("line of %q: %w", fields[0], err)
			}
			sum += v
		}
		seconds := float64(sum) * (tick / 1e9)
		if number := fields[0][len("cpu"):]; number == "" {
			busy.Total, seen = seconds, true
		} else {
			cpu, err := strconv.Atoi(number)
			if err != nil {
				return Busy{}, fmt.Errorf("line of %q: %w", fields[0], err)
			}
			busy.CPUs = append(busy.CPUs, CPUBusy{cpu, seconds})
		}
	}
}

// BootID returns the random ID that the kernel gave to this boot, as 36
// characters of UUID text.
func BootID(proc fs.FS) (string, error) {
	data, err := fs.ReadFile(proc, "sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot ID: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}
