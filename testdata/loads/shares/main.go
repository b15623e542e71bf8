// Command shares is the shares load in Go: known CPU shares in named functions, with the same stacks, shares
// and reasons as c/shares.c. Leaves copy the request into their frame, because Go saves no frame pointer in a
// function without a frame, and a walk along frame pointers would lose its caller.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"pilotlight/testdata/loads"
)

type slot int

const (
	slotParse slot = iota
	slotParseChecksum
	slotHash
	slotSort
	slotEncode
	slotEncodeChecksum
	slots
)

var stacks = [slots]loads.Stack{
	slotParse:          {Percent: 4, Functions: []string{"main.main", "main.serve", "main.handleRequest", "main.parse"}},
	slotParseChecksum:  {Percent: 6, Functions: []string{"main.main", "main.serve", "main.handleRequest", "main.parse", "main.checksum"}},
	slotHash:           {Percent: 40, Functions: []string{"main.main", "main.serve", "main.handleRequest", "main.compute", "main.hash"}},
	slotSort:           {Percent: 20, Functions: []string{"main.main", "main.serve", "main.handleRequest", "main.compute", "main.sort"}},
	slotEncode:         {Percent: 12, Functions: []string{"main.main", "main.serve", "main.handleRequest", "main.encode"}},
	slotEncodeChecksum: {Percent: 18, Functions: []string{"main.main", "main.serve", "main.handleRequest", "main.encode", "main.checksum"}},
}

var request [256]byte

//go:noinline
func checksum(n uint64) uint64 {
	frame := request
	a, b := uint64(1), uint64(0)
	for i := range n {
		a += uint64(frame[i%256])
		b ^= a << 1
	}
	return a ^ b
}

//go:noinline
func parse(s slot, n uint64) uint64 {
	if s == slotParseChecksum {
		return checksum(n)
	}
	var fields, value uint64
	for i := range n {
		if c := request[i%256]; c == ' ' {
			fields++
		} else {
			value = value*10 + uint64(c-'0')
		}
	}
	return fields + value
}

//go:noinline
func hash(n uint64) uint64 {
	frame := request
	h := uint64(14695981039346656037)
	for i := range n {
		h = (h ^ uint64(frame[i%256])) * 1099511628211
	}
	return h
}

//go:noinline
func sort(n uint64) uint64 {
	var values [64]uint32
	seed := uint32(n)
	for steps := uint64(0); steps < n; {
		for i := range values {
			seed = seed*1664525 + 1013904223
			values[i] = seed
		}
		for i := 1; i < len(values); i++ {
			v, j := values[i], i
			for ; j > 0 && values[j-1] > v; j-- {
				values[j] = values[j-1]
				steps++
			}
			values[j] = v
		}
	}
	return uint64(values[0])
}

//go:noinline
func compute(s slot, n uint64) uint64 {
	if s == slotHash {
		return hash(n)
	}
	return sort(n)
}

var encoded [256]byte

//go:noinline
func encode(s slot, n uint64) uint64 {
	if s == slotEncodeChecksum {
		return checksum(n)
	}
	var bits uint64
	for i := range n {
		bits = bits<<6 | uint64(request[i%256])
		encoded[i%256] = 'A' + byte(bits%61)
	}
	return bits ^ uint64(encoded[n%256])
}

//go:noinline
func handleRequest(s slot, n uint64) uint64 {
	switch s {
	case slotParse, slotParseChecksum:
		return parse(s, n)
	case slotHash, slotSort:
		return compute(s, n)
	default:
		return encode(s, n)
	}
}

func threadCPU() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		// Every Linux has this clock; without it there is no load to speak of.
		panic(err)
	}
	return t.Nano()
}

//go:noinline
func serve(d time.Duration) (iterations uint64) {
	var total int64
	random := uint32(1)
	last := threadCPU()
	for deadline := time.Now().Add(d); time.Now().Before(deadline); iterations++ {
		next, most := slot(0), int64(-1<<63)
		for s := range stacks {
			if behind := total*int64(stacks[s].Percent) - stacks[s].CPU*100; behind > most {
				next, most = slot(s), behind
			}
		}
		random = random*1664525 + 1013904223
		handleRequest(next, uint64(300_000+random%600_000))
		now := threadCPU()
		stacks[next].CPU += now - last
		total += now - last
		last = now
	}
	return iterations
}

func main() {
	seconds, err := strconv.ParseFloat(append(os.Args, "")[1], 64)
	if err != nil || len(os.Args) != 2 || seconds <= 0 {
		fmt.Fprintf(os.Stderr, "usage: %s SECONDS\n", os.Args[0])
		os.Exit(2)
	}
	// The clock is the thread's.
	runtime.LockOSThread()
	for i := range request {
		request[i] = '0' + byte(i%10)
		if i%7 == 6 {
			request[i] = ' '
		}
	}
	start := time.Now()
	iterations := serve(time.Duration(seconds * float64(time.Second)))
	err = json.NewEncoder(os.Stdout).Encode(loads.Shares{
		Program:    "shares-go",
		PID:        os.Getpid(),
		Seconds:    time.Since(start).Seconds(),
		Iterations: iterations,
		Stacks:     stacks[:],
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
