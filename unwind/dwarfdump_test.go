package unwind

import (
	"bufio"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// skip skips a test that lacks something, or fails it with REQUIRE_ALL=1.
func skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("REQUIRE_ALL") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// firstThere returns the first file that matches one of the patterns, or "".
func firstThere(t testing.TB, patterns ...string) string {
	t.Helper()
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err != nil {
			t.Fatal(err)
		}
		if len(found) > 0 {
			return found[0]
		}
	}
	return ""
}

// buildFile builds the table of a file.
func buildFile(t testing.TB, path string, opts Options) *Table {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := Build(f, info.Size(), opts)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return table
}

// described is a piece of code with the words that llvm-dwarfdump has for its row, as far as rules have them too.
type described struct {
	start, end uint64
	text       string
}

// dwarfdump returns the rows of a file's unwind information, FDE after FDE, as llvm-dwarfdump reads them.
func dwarfdump(t *testing.T, arch Arch, section, path string) []described {
	t.Helper()
	const tool = "llvm-dwarfdump-19"
	if _, err := exec.LookPath(tool); err != nil {
		skip(t, tool+" is not installed")
	}
	cmd := exec.Command(tool, section, path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	rows, err := parseDwarfdump(arch, out)
	if err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return rows
}

func parseDwarfdump(arch Arch, r io.Reader) ([]described, error) {
	var rows []described
	var end uint64 // of the FDE
	first := 0     // its first row
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if _, pcs, ok := strings.Cut(line, " FDE "); ok {
			_, pcs, _ = strings.Cut(pcs, "pc=")
			_, after, _ := strings.Cut(pcs, "...")
			var err error
			if end, err = strconv.ParseUint(after, 16, 64); err != nil {
				return nil, fmt.Errorf("%q: %w", line, err)
			}
			first = len(rows)
			continue
		}
		addr, text, ok := strings.Cut(strings.TrimPrefix(line, "  0x"), ": CFA=")
		if !ok || !strings.HasPrefix(line, "  0x") {
			continue
		}
		start, err := strconv.ParseUint(addr, 16, 64)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		if len(rows) > first {
			rows[len(rows)-1].end = start
		}
		rows = append(rows, described{start, end, normalize(arch, text)})
	}
	return rows, lines.Err()
}

// normalize reduces what follows CFA= to the registers that rules restore, in a fixed order.
func normalize(arch Arch, text string) string {
	cfa, rest, ok := strings.Cut(text, ": ")
	if !ok {
		cfa = strings.TrimSuffix(cfa, ":")
	}
	want := map[string]string{}
	for item := range strings.SplitSeq(rest, ", ") {
		reg, place, ok := strings.Cut(item, "=")
		if ok {
			want[reg] = place
		}
	}
	out := "CFA=" + cfa
	names := []string{"RBX", "RBP", "RSP", "RIP"}
	if arch == ARM64 {
		names = []string{"W29", "WSP", "W30"}
	}
	for _, n := range names {
		if place, ok := want[n]; ok && place != "same" {
			out += " " + n + "=" + place
		}
	}
	return out
}

// describe puts a rule into the words of llvm-dwarfdump.
func describe(arch Arch, r Rule) string {
	name := func(n uint8) string {
		s := strings.ToUpper(arch.RegisterName(n))
		if arch == ARM64 {
			s = "W" + strings.TrimPrefix(s, "X")
		}
		return s
	}
	offset := func(n int) string {
		if n == 0 {
			return ""
		}
		return fmt.Sprintf("%+d", n)
	}
	breg := func(n uint8, off int) string { return fmt.Sprintf("DW_OP_breg%d %s%+d", n, name(n), off) }
	deref := ", DW_OP_deref"
	if r.CFAAdd != 0 {
		deref += fmt.Sprintf(", DW_OP_plus_uconst %#x", 8*int(r.CFAAdd))
	}
	var out string
	switch r.CFA {
	case CFARegister:
		out = name(r.CFAReg) + offset(int(r.CFAOff))
	case CFADeref:
		out = breg(r.CFAReg, int(r.CFAOff)) + deref
	case CFADerefIndex:
		out = breg(arch.SP(), int(r.CFAOff)) + ", " + breg(r.CFAReg, 0) + ", DW_OP_lit8, DW_OP_mul, DW_OP_plus" + deref
	case CFAPLT:
		out = breg(amd64RSP, 8) + ", " + breg(amd64RIP, 0) +
			fmt.Sprintf(", DW_OP_lit15, DW_OP_and, DW_OP_lit%d, DW_OP_ge, DW_OP_lit3, DW_OP_shl, DW_OP_plus", r.CFAOff)
	case CFASignal:
		at := func(word int) string { return "[" + breg(arch.SP(), int(r.CFAOff)+8*word) + "]" }
		return fmt.Sprintf("CFA=%s, DW_OP_deref RBX=%s RBP=%s RSP=%s RIP=%s", breg(arch.SP(), int(r.CFAOff)+120), at(11), at(10), at(15), at(16))
	case CFAFramePointer:
		return "none"
	default:
		return fmt.Sprintf("%+v", r)
	}
	out = "CFA=" + out
	for _, s := range []struct {
		reg  uint8
		kind SaveKind
		off  int16
	}{{amd64RBX, r.RBX, r.RBXOff}, {arch.FP(), r.FP, r.FPOff}, {registersOf(arch).ra, r.RA, r.RAOff}} {
		switch s.kind {
		case SaveAtCFA:
			out += fmt.Sprintf(" %s=[CFA%s]", name(s.reg), offset(8*int(s.off)))
		case SaveAtFP:
			out += fmt.Sprintf(" %s=[%s]", name(s.reg), breg(arch.FP(), 8*int(s.off)))
		case SaveAtSP:
			out += fmt.Sprintf(" %s=[%s]", name(s.reg), breg(arch.SP(), 8*int(s.off)))
		case SaveRegister:
			out += fmt.Sprintf(" %s=%s", name(s.reg), name(uint8(s.off)))
		case SaveUndefined:
			out += fmt.Sprintf(" %s=undefined", name(s.reg))
		}
	}
	return out
}

// flatten puts the rows of all FDEs in order, cuts off what overlaps the next FDE, and joins neighbours that say the same.
// What lies between FDEs belongs to the row before if it is short and that row's CFA is a register and an offset; else it is "none".
func flatten(rows []described) []described {
	slices.SortStableFunc(rows, func(a, b described) int { return compare(a.start, b.start) })
	var flat []described
	add := func(d described) {
		if n := len(flat); n > 0 && flat[n-1].end == d.start && flat[n-1].text == d.text {
			flat[n-1].end = d.end
		} else if d.end > d.start {
			flat = append(flat, d)
		}
	}
	for i, d := range rows {
		if i+1 < len(rows) {
			d.end = min(d.end, rows[i+1].start)
		}
		if n := len(flat); n > 0 && flat[n-1].end < d.start {
			gap := described{flat[n-1].end, d.start, "none"}
			before := flat[n-1].text
			if gap.end-gap.start < 32 && strings.HasPrefix(before, "CFA=") && !strings.HasPrefix(before, "CFA=DW_OP") {
				gap.text = before
			}
			add(gap)
		}
		add(d)
	}
	return flat
}

// compareWithDwarfdump builds the table of a file and compares all of it with what llvm-dwarfdump says: each
// boundary of a row, in both directions, and what every row says.
func compareWithDwarfdump(t *testing.T, table *Table, section, path string) {
	t.Helper()
	rows := simplify(dwarfdump(t, table.Arch, section, path))
	if len(rows) == 0 {
		t.Fatal("llvm-dwarfdump shows no rows")
	}
	want := flatten(append(rows, entryOf(t, path, rows)...))
	first, last := want[0].start, want[len(want)-1].end
	var got []described
	kinds := map[CFAKind]int{}
	for r := range table.Ranges() {
		// Around the unwind information are pages' rests without any.
		if r.Start, r.End = max(r.Start, first), min(r.End, last); r.Start >= r.End {
			continue
		}
		kinds[r.Rule.CFA]++
		if n := len(got); n > 0 && got[n-1].end < r.Start { // between segments
			got = append(got, described{got[n-1].end, r.Start, "none"})
		}
		text := describe(table.Arch, r.Rule)
		if r.Rule.CFA == CFAEnd {
			text = "end"
		}
		if r.Rule.CFA == CFAInvalid {
			text = "unsupported"
		}
		got = append(got, described{r.Start, r.End, text})
	}
	got, want = simplify(got), simplify(want)
	differ := 0
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got) || i >= len(want):
			differ++
		case got[i] != want[i]:
			if differ++; differ <= 5 {
				t.Errorf("got  %#x to %#x: %s\nwant %#x to %#x: %s",
					got[i].start, got[i].end, got[i].text, want[i].start, want[i].end, want[i].text)
			}
		}
	}
	if differ > 0 {
		t.Errorf("%d of %d rows differ", differ, len(want))
	}
	t.Logf("%s: %d rows equal, by CFAKind %v; %d rules, %d bytes", filepath.Base(path), len(want)-differ, kinds, len(table.Rules), table.Bytes())
}

// entryOf returns the row for the first instructions of a program if llvm-dwarfdump has none for them.
func entryOf(t *testing.T, path string, rows []described) []described {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	image, err := elf.NewFile(f)
	if err != nil {
		t.Fatal(err)
	}
	entry := image.Entry
	if entry == 0 || slices.ContainsFunc(rows, func(d described) bool { return d.start <= entry && entry < d.end }) {
		return nil
	}
	return []described{{entry, entry + 32, "end"}}
}

// simplify replaces what rules say in another way, and joins neighbours: frames whose return address is undefined, and
// those whose stack pointer is not the CFA.
func simplify(rows []described) []described {
	var out []described
	for _, d := range rows {
		if strings.HasSuffix(d.text, "RIP=undefined") || strings.HasSuffix(d.text, "W30=undefined") {
			d.text = "end"
		}
		switch {
		case d.text == "CFA=RDI RBX=[CFA] RBP=R9 RSP=R8 RIP=RDX": // longjmp, whose rule does not find rbx
			d.text = "CFA=R8 RBX=undefined RBP=R9 RIP=RDX"
		case strings.Contains(d.text, " RSP=") && !strings.Contains(d.text, " RSP=[DW_OP_breg7 RSP+160]"): // setcontext
			d.text = "unsupported"
		case strings.HasPrefix(d.text, "CFA=RSP+8 ") && strings.Contains(d.text, " RBP=[DW_OP_breg6 "): // aligned, and popped
			d.text = "CFA=RSP+8 RIP=[CFA-8]"
		case d.text == "CFA=WSP W30=W15": // vfork, whose CIE calls x15 the return address
			d.text = "CFA=WSP"
		}
		if n := len(out); n > 0 && out[n-1].end == d.start && out[n-1].text == d.text {
			out[n-1].end = d.end
			continue
		}
		out = append(out, d)
	}
	return out
}

func TestTablesEqualDwarfdump(t *testing.T) {
	for _, patterns := range [][]string{
		{"/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6", "/lib/aarch64-linux-gnu/libc.so.6"},
		{"/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"},
		{"/usr/aarch64-linux-gnu/lib/libc.so.6"},
		{"/usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1"},
	} {
		path := firstThere(t, patterns...)
		t.Run(patterns[0], func(t *testing.T) {
			if path == "" {
				skip(t, patterns[0]+" is not there")
			}
			compareWithDwarfdump(t, buildFile(t, path, Options{}), "--eh-frame", path)
		})
	}
}
