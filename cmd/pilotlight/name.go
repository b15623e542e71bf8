package main

import (
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A half or a child is started as /proc/self/exe, and would be called exe by ps, top and the kernel's log. A process is called
// what its main thread is, on which only initialisers are sure to run.
func init() {
	name := append([]byte(filepath.Base(os.Args[0])), 0)
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0) // it cannot fail, and would not matter
}
