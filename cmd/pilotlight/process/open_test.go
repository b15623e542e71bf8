package process

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

var le = binary.LittleEndian

// fakeHost is an Opener over files on disk, by the path that is asked for.
type fakeHost struct {
	files map[string]string
	asked []string
}

func (h *fakeHost) Open(path string) (Handle, error) {
	h.asked = append(h.asked, path)
	real, ok := h.files[path]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: syscall.ENOENT}
	}
	return os.Open(real)
}

func (h *fakeHost) OpenBelow(root, path string) (Handle, error) { return h.Open(root + path) }

func TestFilesOpenOrder(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, id string) (string, BuildID) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, tinyELF(elf.ELFCLASS64, le, noteOf(le, 3, "GNU\x00", id)), 0o644); err != nil {
			t.Fatal(err)
		}
		return path, BuildID(id)
	}
	mapped, id := write("mapped", "right")
	other, _ := write("other", "wrong")
	const (
		mapFiles = "/proc/100/map_files/401000-403000"
		root     = "/proc/100/root/bin/sh"
		host     = "/bin/sh"
	)
	for _, tc := range []struct {
		name  string
		files map[string]string
		id    BuildID
		path  string
		gone  bool
		want  string // the last path that was asked for, "" if none is right
	}{
		{name: "map_files", files: map[string]string{mapFiles: mapped, root: other, host: other}, id: id, want: mapFiles},
		{name: "map_files, no build ID", files: map[string]string{mapFiles: other}, want: mapFiles},
		{name: "root", files: map[string]string{root: mapped, host: other}, id: id, want: root},
		{name: "another program at that address", files: map[string]string{mapFiles: other, root: mapped}, id: id, want: root},
		{name: "host", files: map[string]string{root: other, host: mapped}, id: id, want: host},
		{name: "another file on the host", files: map[string]string{host: other}, id: id},
		{name: "host, no build ID", files: map[string]string{host: mapped}},
		{name: "gone", files: map[string]string{mapFiles: other, root: other, host: mapped}, id: id, gone: true, want: host},
		{name: "gone, no build ID", files: map[string]string{mapFiles: mapped, root: mapped, host: mapped}, gone: true},
		{name: "deleted", files: map[string]string{root: other, mapFiles: mapped}, path: "/bin/sh (deleted)", want: mapFiles},
		{name: "deleted and replaced", files: map[string]string{root: other}, path: "/bin/sh (deleted)"},
		{name: "memfd", files: map[string]string{mapFiles: mapped}, path: "/memfd:x (deleted)", want: mapFiles},
		{name: "a name that perf could not get", files: map[string]string{"//toolong": mapped}, id: id, path: "//toolong"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			proc := newProc()
			if !tc.gone {
				proc.put(shellPID, shell())
			} else {
				next := shell()
				next.ticks++
				proc.put(shellPID, next)
			}
			opener := &fakeHost{files: tc.files}
			files := NewFiles(proc, "/proc", opener)
			path := tc.path
			if path == "" {
				path = "/bin/sh"
			}
			m, _ := newMapping(0x401000, 0x403000, 0x80, path, tc.id, Inode{})
			f, err := files.Open(&Process{Key: Key{PID: shellPID, Start: shellStart}}, m)
			known, knownErr := m.File()
			if tc.want == "" {
				// That one process is gone is nothing to remember: others may share the Object.
				wantKnown := !errors.Is(err, errNoWay)
				if err == nil || known != nil || (knownErr != nil) != wantKnown || strings.Contains(err.Error(), "\n") {
					t.Fatalf("opened %v, error %v, remembered %v and %v", opener.asked, err, known, knownErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if last := opener.asked[len(opener.asked)-1]; last != tc.want || known != f.File || knownErr != nil {
				t.Errorf("opened %s, not %s; remembered %v, %v", last, tc.want, known, knownErr)
			}
			if addr, ok := m.Addr(0x401010); !ok || addr != 0x2090 {
				t.Errorf("address %#x, %t", addr, ok)
			}
		})
	}
}

// TestFilesOpenRecorded: a process that is gone ran a program without a build ID.
func TestFilesOpenRecorded(t *testing.T) {
	const mapFiles, host = "/proc/100/map_files/401000-403000", "/bin/sh"
	inode, bare := Inode{Dev: 8 << 20, Number: 11, Generation: 5}, Inode{Dev: 8 << 20, Number: 11}
	for _, tc := range []struct {
		name   string
		first  Inode  // of the first process, if another than inode
		inode  Inode  // of the process that is gone
		mapped uint64 // the file of the first process is opened at 50
		path   string
		change func(t *testing.T, file string)
		want   bool
	}{
		{name: "the same", inode: inode, path: host, want: true},
		{name: "a later file of that inode", inode: Inode{Dev: 8 << 20, Number: 11, Generation: 6}, path: host},
		{name: "another device", inode: Inode{Dev: 9 << 20, Number: 11, Generation: 5}, path: host},
		{name: "no generation", inode: Inode{Dev: 8 << 20, Number: 11}, path: host, mapped: 51},
		{name: "a file system without generations", first: bare, inode: bare, path: host, mapped: 51, want: true},
		{name: "there, mapped before the file was seen", first: bare, inode: bare, path: host, mapped: 49},
		{name: "there, from maps", first: bare, inode: bare, path: host},
		{name: "another path", inode: inode, path: "/bin/bash"},
		{name: "written since", inode: inode, path: host, change: func(t *testing.T, file string) {
			if err := os.WriteFile(file, tinyELF(elf.ELFCLASS64, le, noteOf(le, 4, "Go\x00\x00", "longer")), 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "replaced since", inode: inode, path: host, change: func(t *testing.T, file string) {
			beside := file + ".new"
			if err := errors.Join(os.WriteFile(beside, tinyELF(elf.ELFCLASS64, le, nil), 0o644), os.Rename(beside, file)); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "x")
			if err := os.WriteFile(file, tinyELF(elf.ELFCLASS64, le, nil), 0o644); err != nil {
				t.Fatal(err)
			}
			proc := newProc()
			proc.put(shellPID, shell())
			files := NewFiles(proc, "/proc", &fakeHost{files: map[string]string{mapFiles: file, host: file, "/bin/bash": file}})
			files.now = func() uint64 { return 50 }
			firstInode := inode
			if tc.first != (Inode{}) {
				firstInode = tc.first
			}
			lives, _ := newMapping(0x401000, 0x403000, 0x80, host, "", firstInode)
			first, err := files.Open(&Process{Key: Key{PID: shellPID, Start: shellStart}}, lives)
			if err != nil {
				t.Fatal(err)
			}
			first.Close()
			if tc.change != nil {
				tc.change(t, file)
			}
			gone, _ := newMapping(0x401000, 0x403000, 0x80, tc.path, "", tc.inode)
			gone.Mapped = tc.mapped
			f, err := files.Open(&Process{Key: Key{PID: shellPID + 1, Start: shellStart}}, gone)
			if tc.want != (err == nil) {
				t.Fatalf("opened with %v", err)
			}
			if err == nil {
				f.Close()
				if f.File != first.File {
					t.Errorf("%+v, not the file of the first process", f.File)
				}
			}
		})
	}
}

// TestFilesOpenSplitMapping: the VMA has shrunk since its record.
func TestFilesOpenSplitMapping(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, tinyELF(elf.ELFCLASS64, le, nil), 0o644); err != nil {
		t.Fatal(err)
	}
	proc := newProc()
	proc.put(shellPID, shell())
	files := NewFiles(proc, "/proc", &fakeHost{files: map[string]string{"/proc/100/map_files/401000-403000": path}})
	m, _ := newMapping(0x401000, 0x409000, 0, "/bin/sh", "", Inode{})
	f, err := files.Open(&Process{Key: Key{PID: shellPID, Start: shellStart}}, m)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func TestFilesReadOnceUntilChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	write := func(id string) {
		if err := os.WriteFile(path, tinyELF(elf.ELFCLASS64, le, noteOf(le, 3, "GNU\x00", id)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("1")
	proc := newProc()
	proc.put(shellPID, shell())
	files := NewFiles(proc, "/proc", &fakeHost{files: map[string]string{"/proc/100/map_files/401000-403000": path}})
	open := func() *File {
		m, _ := newMapping(0x401000, 0x403000, 0, "/bin/sh", "", Inode{})
		f, err := files.Open(&Process{Key: Key{PID: shellPID, Start: shellStart}}, m)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		return f.File
	}
	first := open()
	if open() != first {
		t.Error("an unchanged file is identified twice")
	}
	write("another") // of another size, whatever the clock's steps
	if next := open(); next == first || next.Key == first.Key {
		t.Error("a changed file is taken for what it was")
	}
}

func TestFilesOpenNoFile(t *testing.T) {
	m, _ := newMapping(0x401000, 0x403000, 0, "[vdso]", "", Inode{})
	if _, err := NewFiles(newProc(), "/proc", &fakeHost{}).Open(&Process{}, m); !errors.Is(err, ErrNoFile) {
		t.Errorf("error %v", err)
	}
}

// TestHostRefuses: neither a FIFO, whose opening would wait, nor a device nor a
// directory is opened, nor a link that leads out of a root.
func TestHostRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "fifo"), "/dev/null", "/dev/tty", dir} {
		if h, err := (Host{}).Open(path); err == nil {
			h.Close()
			t.Errorf("%s was opened", path)
		} else if !errors.Is(err, errNotRegular) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "inside"), []byte("inside"), 0o600); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{
		"absolute": "/inside", "relative": "../../../inside", "escape": "/etc/passwd", "magic": "/proc/self/root/etc/passwd",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
		h, err := Host{}.OpenBelow(dir, "/"+link)
		if target[len(target)-1] == 'd' {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: error %v", link, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", link, err)
			continue
		}
		data := make([]byte, 6)
		if _, err := h.ReadAt(data, 0); err != nil || string(data) != "inside" {
			t.Errorf("%s: read %q, %v", link, data, err)
		}
		h.Close()
	}
}

// TestFilesRealProcess opens what a running program has mapped after its file
// was deleted, which only map_files can do, and after it was copied and the
// program is gone, which only the host's path can do.
func TestFilesRealProcess(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("REQUIRE_ALL") == "1" {
			t.Fatal("map_files can only be opened by root, and REQUIRE_ALL=1")
		}
		t.Skip("map_files can only be opened by root")
	}
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "sleep copy")
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	want := identifyPath(t, path)
	cmd := exec.Command(path, "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill() // already dead if the test went well
		_ = cmd.Wait()
	}()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	proc := os.DirFS("/proc")
	var p *Process
	var exe Mapping
	// exec returns in the parent before the dynamic linker has mapped the rest.
	for deadline := time.Now().Add(10 * time.Second); exe.Object == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the program does not appear in its mappings")
		}
		if p, err = Read(proc, uint32(cmd.Process.Pid)); err != nil {
			t.Fatal(err)
		}
		for _, m := range p.Mappings {
			if m.Path == path && m.Deleted {
				exe = m
			}
		}
	}
	files := NewFiles(proc, "/proc", Host{})
	f, err := files.Open(p, exe)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if f.Key != want.Key {
		t.Errorf("got %+v, want %+v", f.File, want)
	}

	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // "signal: killed"
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	gone, _ := newMapping(exe.Start, exe.End, exe.Offset, path, BuildID(mustDecode(t, want.BuildID)), Inode{})
	if f, err = files.Open(p, gone); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if f.Key != want.Key {
		t.Errorf("got %+v, want %+v", f.File, want)
	}
}

// BenchmarkFilesOpen opens this program through map_files; it has been
// identified before.
func BenchmarkFilesOpen(b *testing.B) {
	proc := os.DirFS("/proc")
	p, err := Read(proc, uint32(os.Getpid()))
	if err != nil {
		b.Fatal(err)
	}
	m, ok := p.Mappings.Find(uint64(reflect.ValueOf(BenchmarkFilesOpen).Pointer()))
	if !ok {
		b.Fatal("this program is not mapped")
	}
	files := NewFiles(proc, "/proc", Host{})
	for b.Loop() {
		f, err := files.Open(p, m)
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}
