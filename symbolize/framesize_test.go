package symbolize

import (
	"os"
	"reflect"
	"runtime"
	"testing"
)

//go:noinline
func leafWithoutFrame(n int) int { return n * 3 }

//go:noinline
func withFrame(n int) int { return leafWithoutFrame(n) + 1 }

// TestFrameSize asks about this very binary: a leaf never holds stack, and a
// function with a frame holds it between its first and its last instruction.
func TestFrameSize(t *testing.T) {
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	info, err := exe.Stat()
	if err != nil {
		t.Fatal(err)
	}
	f, err := Open(exe, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()

	sizes := func(fn any) (first, largest int) {
		entry := reflect.ValueOf(fn).Pointer()
		for pc := entry; runtime.FuncForPC(pc) != nil && runtime.FuncForPC(pc).Entry() == entry; pc++ {
			size, ok := f.FrameSize(uint64(pc))
			if !ok {
				continue // padding behind the last instruction
			}
			if pc == entry {
				first = size
			}
			largest = max(largest, size)
		}
		return first, largest
	}
	if first, largest := sizes(leafWithoutFrame); first != 0 || largest != 0 {
		t.Errorf("leaf holds %d bytes at its entry and up to %d, want 0", first, largest)
	}
	if first, largest := sizes(withFrame); first != 0 || largest < 8 {
		t.Errorf("function with a frame holds %d bytes at its entry and up to %d, want 0 and at least 8", first, largest)
	}
	if _, ok := f.FrameSize(1); ok {
		t.Error("an address outside the text has a frame size")
	}
}
