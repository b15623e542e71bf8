package symbolize

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const kallsyms = `0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000000 T first
ffffffff81000040 t local
ffffffff81000040 t __pi_local
ffffffff81000080 W weak
ffffffff81000080 T strong
ffffffff810000f0 t __pfx_padded
ffffffff81000100 T padded
ffffffff81001000 T _etext
ffffffff81200000 D data
ffffffff81200100 t _RNvNtCs1234_7mycrate3foo3bar
ffffffffc0000000 t xfs_open	[xfs]
ffffffffc0000100 t xfs_last	[xfs]
ffffffffc0000800 t ext4_first	[ext4]
ffffffffc0000810 d ext4_data	[ext4]
ffff800000001000 t bpf_prog_6deef7357e7b4530_sched	[bpf]
`

func TestKallsyms(t *testing.T) {
	k, err := ReadKallsyms(strings.NewReader(kallsyms))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := k.Text(), (KernelText{0xffffffff81000000, 0xffffffff81000000, 0xffffffff81001000}); got != want {
		t.Errorf("text: got %#x, want %#x", got, want)
	}
	if got := k.Functions(); got != 11 {
		t.Errorf("%d functions, want 11", got)
	}
	for _, tt := range []struct {
		addr         uint64
		name, module string
	}{
		{0, "", ""},
		{0xffffffff80ffffff, "", ""},
		{0xffffffff81000000, "first", ""},
		{0xffffffff8100003f, "first", ""},
		{0xffffffff81000040, "local", ""},
		{0xffffffff81000081, "strong", ""},
		{0xffffffff810000f0, "__pfx_padded", ""},
		{0xffffffff81000100, "padded", ""},
		{0xffffffff81200000, "", ""},
		{0xffffffff81200100, "_RNvNtCs1234_7mycrate3foo3bar", ""},
		// The last function before a module ends at the end of the page after its own.
		{0xffffffff81201fff, "_RNvNtCs1234_7mycrate3foo3bar", ""},
		{0xffffffff81202000, "", ""},
		{0xffffffffc0000001, "xfs_open", "xfs"},
		{0xffffffffc00007ff, "xfs_last", "xfs"},
		{0xffffffffc0000800, "ext4_first", "ext4"},
		{0xffffffffc0000810, "", ""},
		{0xffff800000001800, "bpf_prog_6deef7357e7b4530_sched", "bpf"},
		{0xffff800000003000, "", ""},
		{^uint64(0), "", ""},
	} {
		if got := names(k, tt.addr); got != tt.name {
			t.Errorf("%#x: got %q, want %q", tt.addr, got, tt.name)
		}
		if m, ok := k.Module(tt.addr); m.Name != tt.module || ok != (tt.module != "") {
			t.Errorf("%#x: got module %+v, want %q", tt.addr, m, tt.module)
		}
	}
	if m, _ := k.Module(0xffffffffc0000150); m != (Module{"xfs", 0xffffffffc0000000, 0xffffffffc0000800}) {
		t.Errorf("got module %+v", m)
	}
	if f := k.Resolve(nil, 0xffffffff81200100); f[0].Function != "mycrate::foo::bar" || f[0].Source != Symtab {
		t.Errorf("got %+v", f)
	}
}

func TestKallsymsErrors(t *testing.T) {
	for _, tt := range []struct {
		name, text, want string
	}{
		{"empty", "", "kallsyms has no symbols: the kernel needs CONFIG_KALLSYMS"},
		{"hidden", "0000000000000000 T _text\n0000000000000000 T _stext\n", "sysctl kernel.kptr_restrict"},
		{"address", "x T f\n", `kallsyms line 1: address "x": invalid syntax`},
		{"fields", "ffffffff81000000 T f\nffffffff81000000 T\n", `kallsyms line 2: "ffffffff81000000 T" is not an address, a type and a name`},
		{"type", "ffffffff81000000 TT f\n", "is not an address, a type and a name"},
		{"name", "ffffffff81000000 T " + strings.Repeat("f", 1025) + "\n", "kallsyms line 1: name of 1025 bytes"},
		{"line", strings.Repeat("f", 10000), "read kallsyms: bufio.Scanner: token too long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ReadKallsyms(strings.NewReader(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want %q", err, tt.want)
			}
			if errors.Is(err, ErrAddressesHidden) != (tt.name == "hidden") {
				t.Errorf("got error %v", err)
			}
		})
	}
}

// TestRunningKernel looks up each function of the running kernel at its address.
func TestRunningKernel(t *testing.T) {
	text, err := os.ReadFile("/proc/kallsyms")
	if err != nil {
		skip(t, fmt.Sprint("there is no kallsyms: ", err))
	}
	k, err := ReadKallsyms(strings.NewReader(string(text)))
	if errors.Is(err, ErrAddressesHidden) {
		skip(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	at := map[uint64][]string{}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		addr, err := strconv.ParseUint(fields[0], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains("tTwW", fields[1]) {
			at[addr] = append(at[addr], fields[2])
		}
	}
	for addr, want := range at {
		got := k.Resolve(nil, addr)
		if len(got) != 1 || !slices.Contains(want, got[0].SystemName) {
			t.Errorf("%#x: got %+v, want one of %q", addr, got, want)
		}
	}
	if k.Text().Stext == 0 {
		t.Error("no _stext")
	}
	t.Logf("%d functions in %d bytes", k.Functions(), k.MemoryBytes())
}

// TestKallsymsMemory holds what a kernel with 200,000 symbols takes.
func TestKallsymsMemory(t *testing.T) {
	var b strings.Builder
	const n = 200_000
	for i := range n {
		fmt.Fprintf(&b, "%016x t a_function_name_%06d\n", 0xffffffff81000000+uint64(i)*64, i)
	}
	k, err := ReadKallsyms(strings.NewReader(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	if got := k.MemoryBytes(); got > n*36 {
		t.Errorf("%d bytes", got)
	}
	if got := names(k, 0xffffffff81000000+199_999*64+63); got != "a_function_name_199999" {
		t.Errorf("got %q", got)
	}
}
