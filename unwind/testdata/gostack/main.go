// Command gostack says what its stack is, as the Go runtime sees it, and then waits in a system call for ever: the
// number of the thread and the program counters, those of callers being return addresses, on one line.
package main

import (
	"fmt"
	"runtime"
	"syscall"
)

//go:noinline
func wait(values map[string]int) int {
	pcs := make([]uintptr, 64)
	pcs = pcs[:runtime.Callers(2, pcs)]
	line := fmt.Sprint(syscall.Gettid())
	for _, pc := range pcs {
		line += fmt.Sprintf(" %#x", pc)
	}
	fmt.Println(line)
	for {
		if _, _, errno := syscall.RawSyscall(syscall.SYS_PPOLL, 0, 0, 0); errno != 0 {
			values["interrupted"]++
		}
	}
}

//go:noinline
func recurse(n int, values map[string]int) int {
	var large [300]byte
	large[n] = byte(n)
	if n == 0 {
		return wait(values)
	}
	return recurse(n-1, values) + int(large[n/2])
}

type sorter struct{ values map[string]int }

func (s sorter) call(n int) int { return recurse(n, s.values) }

func main() {
	done := make(chan int)
	go func() {
		runtime.LockOSThread()
		f := sorter{map[string]int{}}.call
		defer func() { done <- 1 }()
		f(5)
	}()
	<-done
}
