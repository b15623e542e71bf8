package symbolize

import (
	"bytes"
	"debug/elf"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

// linkedELF makes a file with a build ID and links.
func linkedELF(id, link string, crc uint32, alt, altID string) []byte {
	var sections []testSection
	if id != "" {
		note := append(put(nil, uint32(4), uint32(len(id)), uint32(3)), "GNU\x00"+id...)
		sections = append(sections, testSection{name: ".note.gnu.build-id", typ: elf.SHT_NOTE, data: note})
	}
	if link != "" {
		b := append([]byte(link), 0)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
		sections = append(sections, testSection{name: ".gnu_debuglink", typ: elf.SHT_PROGBITS, data: put(b, crc)})
	}
	if alt != "" {
		sections = append(sections, testSection{name: ".gnu_debugaltlink", typ: elf.SHT_PROGBITS, data: []byte(alt + "\x00" + altID)})
	}
	return makeELF(elf.ELFCLASS64, elf.EM_X86_64, sections...)
}

func linksOf(t *testing.T, image []byte) DebugLinks {
	t.Helper()
	l, err := ReadDebugLinks(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestOpenDebug(t *testing.T) {
	const id = "\xab\xcd\xef"
	plain := linkedELF("", "", 0, "", "")
	withID, other := linkedELF(id, "", 0, "", ""), linkedELF("\xab\xcd\x00", "", 0, "", "")
	crc := crc32.ChecksumIEEE(plain)
	for _, tt := range []struct {
		name  string
		file  []byte
		there map[string][]byte
		want  string
	}{
		{"by build ID", linkedELF(id, "x.debug", 1, "", ""), map[string][]byte{"usr/lib/debug/.build-id/ab/cdef.debug": withID, "usr/bin/x.debug": withID},
			"/usr/lib/debug/.build-id/ab/cdef.debug"},
		{"another build ID at its path", linkedELF(id, "x.debug", 1, "", ""), map[string][]byte{"usr/lib/debug/.build-id/ab/cdef.debug": other, "usr/bin/x.debug": withID},
			"/usr/bin/x.debug"},
		{"not ELF at its path", linkedELF(id, "", 1, "", ""), map[string][]byte{"usr/lib/debug/.build-id/ab/cdef.debug": []byte("text")}, ""},
		{"by CRC", linkedELF("", "x.debug", crc, "", ""), map[string][]byte{"usr/bin/.debug/x.debug": plain}, "/usr/bin/.debug/x.debug"},
		{"another CRC", linkedELF("", "x.debug", crc+1, "", ""), map[string][]byte{"usr/bin/.debug/x.debug": plain}, ""},
		{"below the debug folder", linkedELF(id, "x.debug", 0, "", ""), map[string][]byte{"usr/lib/debug/usr/bin/x.debug": withID}, "/usr/lib/debug/usr/bin/x.debug"},
		{"a link with a folder", linkedELF(id, "../x.debug", 0, "", ""), map[string][]byte{"usr/x.debug": withID}, ""},
		{"a link to itself", linkedELF(id, "x", 0, "", ""), map[string][]byte{"usr/bin/x": withID}, ""},
		{"no links", plain, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := fstest.MapFS{}
			for name, b := range tt.there {
				root[name] = &fstest.MapFile{Data: b}
			}
			f, got, err := OpenDebug(root, "/usr/bin/x", linksOf(t, tt.file))
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Fatalf("got %q, %v, want %q", got, err, tt.want)
			}
			if err != nil {
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("got %v, want fs.ErrNotExist", err)
				}
				return
			}
			if b, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size)); err != nil || !bytes.HasPrefix(b, []byte(elf.ELFMAG)) {
				t.Errorf("what it opened is no ELF file: %v", err)
			}
		})
	}
}

func TestOpenAlt(t *testing.T) {
	common := linkedELF("\x01\x02\x03", "", 0, "", "")
	for _, tt := range []struct{ name, alt, id, at string }{
		{"absolute", "/usr/lib/debug/.dwz/common", "\x01\x02\x03", "usr/lib/debug/.dwz/common"},
		{"relative", "../.dwz/common", "\x01\x02\x03", "usr/lib/debug/.dwz/common"},
		{"by build ID", "/gone", "\x01\x02\x03", "usr/lib/debug/.build-id/01/0203.debug"},
		{"out of the root", "../../../../../../etc/passwd", "\x01\x02\x03", ""},
		{"another", "/usr/lib/debug/.dwz/common", "\x01\x02\x04", ""},
	} {
		root := fstest.MapFS{"usr/lib/debug/.dwz/common": &fstest.MapFile{Data: common}}
		if tt.at != "" {
			root = fstest.MapFS{tt.at: &fstest.MapFile{Data: common}}
		}
		f, err := OpenAlt(root, "/usr/lib/debug/ab/x.debug", linksOf(t, linkedELF("", "", 0, tt.alt, tt.id)))
		if (err == nil) != (tt.at != "") || err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got %v, %v", tt.name, f, err)
		}
	}
}

// TestOpenDebugOfLibc finds what Debian's package installed.
func TestOpenDebugOfLibc(t *testing.T) {
	path, err := filepath.EvalSymlinks(libc(t))
	if err != nil {
		t.Fatal(err)
	}
	want := debugOf(t, path)
	f, err := debugFile(path)
	if err != nil {
		t.Fatal(err)
	}
	links, err := ReadDebugLinks(f, f.Size)
	if err != nil {
		t.Fatal(err)
	}
	debug, got, err := OpenDebug(os.DirFS("/"), path, links)
	if err != nil || got != want {
		t.Fatalf("got %q, %v, want %q", got, err, want)
	}
	if links, err := ReadDebugLinks(debug, debug.Size); err != nil || links.DebugBytes < 1<<20 {
		t.Errorf("%s has no debug information: %v", got, err)
	}
}

// TestMiniDebugInfo makes a file as Fedora ships them: no .symtab, the functions in .gnu_debugdata.
func TestMiniDebugInfo(t *testing.T) {
	path := compileInline(t, "g++", "-O2")
	dir := filepath.Dir(path)
	run(t, dir, "objcopy", "--only-keep-debug", path, "mini")
	run(t, dir, "objcopy", "--remove-section=.comment", "mini")
	for _, level := range []string{"-0", "-9e"} {
		run(t, dir, "xz", "-k", "-f", level, "mini")
		run(t, dir, "objcopy", "--strip-all", "--add-section", ".gnu_debugdata=mini.xz", path, "stripped")
		x, stats := openTestIndex(t, filepath.Join(dir, "stripped"), IndexOptions{})
		if stats.Skipped != nil {
			t.Error(stats.Skipped)
		}
		f := openFile(t, path)
		named := 0
		for _, addr := range randomCode(t, path, 1, 1000) {
			want, got := f.Resolve(nil, addr), x.Resolve(nil, addr)
			if len(want) > 0 && want[0].Source == Symtab {
				named++
				for i := range got {
					got[i].File = "" // of local symbols, which an index alone says
				}
				if brief(got) != brief(want) {
					t.Errorf("%#x: got %q, want %q", addr, brief(got), brief(want))
				}
			}
		}
		if named < 100 {
			t.Errorf("%d addresses have symbols", named)
		}
	}
}

// xzOf compresses with the tool of the system.
func xzOf(t testing.TB, data []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("xz", append([]string{"-c"}, args...)...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		skip(t, "xz does not run: "+err.Error())
	}
	return out
}

// memoryFile is a file in memory.
type memoryFile struct{ b []byte }

func (f *memoryFile) ReadAt(b []byte, off int64) (int, error) {
	return bytes.NewReader(f.b).ReadAt(b, off)
}

func (f *memoryFile) WriteAt(b []byte, off int64) (int, error) {
	if end := int(off) + len(b); end > len(f.b) {
		f.b = append(f.b, make([]byte, end-len(f.b))...)
	}
	return copy(f.b[off:], b), nil
}

func inflateXZ(packed []byte) ([]byte, error) {
	var spill memoryFile
	u := unpacker{spill: &spill, limit: 1 << 30}
	_, err := u.keepXZ(blob{source{bytes.NewReader(packed), uint64(len(packed))}, extent{0, uint64(len(packed))}})
	return spill.b, err
}

func TestXZ(t *testing.T) {
	data := bytes.Repeat([]byte("pilotlight\x00\xff"), 300_000)
	for _, args := range [][]string{{"-0"}, {"-6", "--check=sha256"}, {"-1", "--check=none", "--block-size=100000"}, {"-2", "--check=crc32", "-T2"}} {
		packed := xzOf(t, data, args...)
		got, err := inflateXZ(packed)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%v: %d bytes, %v", args, len(got), err)
		}
		if _, err := inflateXZ(packed[:len(packed)/2]); err == nil {
			t.Errorf("%v: half of it is no error", args)
		}
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--lzma2=dict=128MiB"}, "dictionary of 134217728 bytes: over the limit"},
		{[]string{"--x86", "--lzma2"}, "filters other than LZMA2"},
		{[]string{"--format=lzma"}, "not an xz stream"},
	} {
		if _, err := inflateXZ(xzOf(t, data[:1000], tt.args...)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: got %v, want %q", tt.args, err, tt.want)
		}
	}
	if _, err := inflateXZ(xzOf(t, make([]byte, maxMiniDebug+1), "-0")); !errors.Is(err, errLimit) {
		t.Errorf("a bomb: %v", err)
	}
}

// FuzzXZ inflates what may be xz.
func FuzzXZ(f *testing.F) {
	f.Add(xzOf(f, []byte("pilotlight pilotlight"), "-0"))
	f.Add(xzOf(f, bytes.Repeat([]byte{1, 2, 3}, 5000), "-1", "--block-size=4096"))
	f.Fuzz(func(t *testing.T, packed []byte) {
		if got, err := inflateXZ(packed); err == nil && len(got) > maxMiniDebug {
			t.Fatalf("%d bytes", len(got))
		}
	})
}

// FuzzReadDebugLinks reads the links of what may be an ELF file.
func FuzzReadDebugLinks(f *testing.F) {
	f.Add(linkedELF("id", "x.debug", 7, "/alt", "other"))
	f.Fuzz(func(t *testing.T, image []byte) {
		l, err := ReadDebugLinks(bytes.NewReader(image), int64(len(image)))
		if err == nil && strings.Contains(l.Link, "/") {
			t.Fatalf("link %q", l.Link)
		}
	})
}
