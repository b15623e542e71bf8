package process

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

func TestParseMapsLine(t *testing.T) {
	for _, tc := range []struct {
		line string
		want string // kind path deleted offset, "" if not executable
	}{
		{"00400000-00401000 r--p 00000000 08:01 11 /bin/x", ""},
		{"00400000-00401000 r-xp 00001000 08:01 11 /bin/x", "0 \"/bin/x\" false 0x1000"},
		{"00400000-00401000 r-xp 00001000 08:01 11 /bin/x (deleted)", "0 \"/bin/x\" true 0x1000"},
		{"00400000-00401000 r-xp 00001000 08:01 11 /a b/ c", "0 \"/a b/ c\" false 0x1000"},
		{`00400000-00401000 r-xp 00001000 08:01 11 /a\012b\134`, "0 \"/a\\nb\\\\134\" false 0x1000"},
		{"00400000-00401000 rwxp 00000000 00:00 0 ", "1 \"\" false 0x0"},
		{"00400000-00401000 rwxp 00000000 00:00 0", "1 \"\" false 0x0"},
		{"00400000-00401000 rwxp 00000000 00:00 0          [heap]", "1 \"[heap]\" false 0x0"},
		{"00400000-00401000 rwxp 00000000 00:00 0          [stack]", "1 \"[stack]\" false 0x0"},
		{"00400000-00401000 rwxp 00000000 00:00 0          [anon:v8 code]", "1 \"[anon:v8 code]\" false 0x0"},
		{"00400000-00401000 r-xs 00002000 00:01 9          /memfd:jit code (deleted)", "1 \"/memfd:jit code\" true 0x2000"},
		{"00400000-00401000 rwxs 00002000 00:01 9          /dev/zero (deleted)", "1 \"/dev/zero\" true 0x0"},
		{"00400000-00401000 rwxs 00000000 00:01 9          /SYSV00000000 (deleted)", "1 \"/SYSV00000000\" true 0x0"},
		{"7ffc1000-7ffc3000 r-xp 00000000 00:00 0          [vdso]", "2 \"[vdso]\" false 0x0"},
		{"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0  [vsyscall]", "3 \"[vsyscall]\" false 0x0"},
	} {
		m, ok, err := parseMapsLine([]byte(tc.line))
		if err != nil {
			t.Errorf("%s: %v", tc.line, err)
			continue
		}
		got := ""
		if ok {
			got = fmt.Sprintf("%d %q %t %#x", m.Kind, m.Path, m.Deleted, m.Offset)
		}
		if got != tc.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tc.line, got, tc.want)
		}
	}
}

func TestParseMapsErrors(t *testing.T) {
	for _, text := range []string{
		"\n",
		"00400000-00401000\n",
		"00400000 r-xp 00001000 08:01 11 /bin/x\n",
		"00401000-00400000 r-xp 00001000 08:01 11 /bin/x\n",
		"00400000-00401000 r-xp 0000z000 08:01 11 /bin/x\n",
		"00400000-00401000 r-xp 00001000 0801 11 /bin/x\n",
		"00400000-00401000 r-xp 00001000 08:01 /bin/x\n",
		"00400000-00401000 r-xp 00001000 08:01 11 /" + strings.Repeat("x", maxMapsLine) + "\n",
	} {
		if ms, _, err := parseMaps(strings.NewReader(text), 10); err == nil {
			t.Errorf("%.80q gives %v", text, ms)
		}
	}
}

// pages is the simplest model of an address space: what each page maps.
type pages map[uint64]string

const modelPage = 0x1000

func (p pages) mmap(m Mapping) {
	for a := m.Start; a < m.End; a += modelPage {
		p[a] = describePage(m, a)
	}
}

func describePage(m Mapping, a uint64) string {
	offset := uint64(0)
	if m.Kind == FileBacked {
		offset = a - m.Start + m.Offset
	}
	return fmt.Sprintf("%s+%#x", m.Path, offset)
}

// TestInsertModel compares mappings after each of many random insertions with a
// model that knows each page.
func TestInsertModel(t *testing.T) {
	const space = 64 // pages
	names := []string{"/lib/a", "/lib/b", "/lib/c", "", "[heap]"}
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 0))
		model := pages{}
		var ms Mappings
		for step := range 100 {
			start := random.Uint64N(space)
			end := start + 1 + random.Uint64N(min(space-start, 1+random.Uint64N(space)))
			id := random.IntN(len(names))
			m, ok := newMapping(start*modelPage, end*modelPage, random.Uint64N(8)*modelPage, names[id], "", Inode{Dev: 1, Number: uint64(id + 1)})
			if !ok {
				t.Fatal("empty range")
			}
			model.mmap(m)
			ms = ms.insert(m)
			for i := range ms {
				if ms[i].Start >= ms[i].End || i > 0 && ms[i-1].End > ms[i].Start {
					t.Fatalf("seed %d, step %d: not sorted or overlapping: %v", seed, step, ms)
				}
			}
			for page := range uint64(space + 1) {
				got := ""
				// The last byte of a page must be found as well as the first.
				for _, pc := range []uint64{page * modelPage, page*modelPage + modelPage - 1} {
					got = ""
					if found, ok := ms.Find(pc); ok {
						got = describePage(found, page*modelPage)
					}
					if got != model[page*modelPage] {
						t.Fatalf("seed %d, step %d, pc %#x: got %q, want %q", seed, step, pc, got, model[page*modelPage])
					}
				}
			}
		}
	}
}

func TestInsertSharesObjects(t *testing.T) {
	file := func(start, end uint64, path string, id BuildID, inode uint64) Mapping {
		m, _ := newMapping(start, end, 0, path, id, Inode{Dev: 1, Number: inode})
		return m
	}
	var ms Mappings
	first := file(0x1000, 0x9000, "/lib/a", "", 5)
	ms = ms.insert(first)
	ms = ms.insert(file(0x3000, 0x4000, "/lib/b", "", 6))
	if len(ms) != 3 || ms[0].Object != first.Object || ms[2].Object != first.Object {
		t.Errorf("the pieces of a split mapping do not share its object: %v", ms)
	}
	ms = ms.insert(file(0x9000, 0xa000, "/lib/a", "", 5))
	if ms[3].Object != first.Object {
		t.Error("the next segment of a file does not share the object")
	}
	if again := ms.insert(file(0x9000, 0xa000, "/lib/a", "", 5)); len(again) != 4 {
		t.Errorf("the same mapping again gives %v", again)
	}
	// Same path, same place: but nothing says that it is the same file.
	for _, other := range []Mapping{
		file(0x9000, 0xa000, "/lib/a", "", 7),
		file(0x9000, 0xa000, "/lib/a", "id", 0),
		file(0x9000, 0xa000, "/lib/a (deleted)", "", 5),
		file(0x9000, 0xa000, "/lib/a", "", 0),
	} {
		if ms = ms.insert(other); ms[3].Object != other.Object {
			t.Errorf("%+v is taken for %+v", other.Object, first.Object)
		}
	}
}

func FuzzMaps(f *testing.F) {
	f.Add([]byte("00400000-00401000 r-xp 00001000 08:01 11 /bin/x\n00401000-00402000 rw-p 00001000 08:01 11 /bin/x\n"))
	f.Add([]byte("00400000-00403000 rwxp 00000000 00:00 0 \n00401000-00402000 r-xs 00000000 00:01 9 /memfd:j (deleted)\n"))
	f.Add([]byte("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]"))
	if data, err := os.ReadFile("/proc/self/maps"); err == nil {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ms, _, err := parseMaps(strings.NewReader(string(data)), 100)
		if err != nil {
			return
		}
		for i, m := range ms {
			if m.Object == nil || m.Start >= m.End || i > 0 && ms[i-1].End > m.Start {
				t.Fatalf("mapping %d of %v", i, ms)
			}
			for _, pc := range []uint64{m.Start, m.End - 1} {
				if found, ok := ms.Find(pc); !ok || found != m {
					t.Errorf("pc %#x gives %v, not %v", pc, found, m)
				}
			}
		}
	})
}

func BenchmarkFind(b *testing.B) {
	var ms Mappings
	for i := range uint64(200) {
		m, _ := newMapping(i*0x3000, i*0x3000+0x2000, 0, "/lib/a", "", Inode{Dev: 1, Number: 1})
		ms = ms.insert(m)
	}
	pc := uint64(0)
	for b.Loop() {
		ms.Find(pc)
		pc = (pc + 0x7654) % (200 * 0x3000)
	}
}
