package main

import (
	"os"
	"slices"
	"testing"
)

const someSmaps = `00400000-0100e000 r-xp 00000000 fe:00 1234 /usr/bin/pilotlight
Size:              12344 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
0100e000-01d0d000 r--p 00c0e000 fe:00 1234 /usr/bin/pilotlight
Anonymous:             4 kB
01d0d000-01e15000 rw-p 0190d000 fe:00 1234 /usr/bin/pilotlight
Anonymous:             0 kB
01e15000-03e60000 rw-p 00000000 00:00 0
Anonymous:             0 kB
c000000000-c000800000 r--p 00000000 00:00 0
Anonymous:             0 kB
7f0000000000-7f0000001000 r--p 00000000 fe:00 99 /usr/bin/other /usr/bin/pilotlight.so
Anonymous:             0 kB
7f0000001000-7f0000002000 r--p 00001000 fe:00 1234 /usr/bin/pilotlight
Anonymous:             0 kB
7ffc00000000-7ffc00002000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
`

func TestUnwrittenMappings(t *testing.T) {
	got := unwrittenMappings([]byte(someSmaps), "/usr/bin/pilotlight")
	if want := []addressRange{{0x400000, 0x100e000}, {0x7f0000001000, 0x7f0000002000}}; !slices.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

// TestForgetStartUp goes on to run what it gave back.
func TestForgetStartUp(t *testing.T) {
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if len(unwrittenMappings(smaps, exe)) == 0 {
		t.Errorf("no code of %s in\n%s", exe, smaps)
	}
	s := startUp{}
	for range startUpWindows + 1 {
		s.window()
	}
	if err := forgetStartUp(); err != nil {
		t.Error(err)
	}
}
