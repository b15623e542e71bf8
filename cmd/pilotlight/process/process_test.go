package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
)

// fakeProc is a /proc that tests change as time goes on.
type fakeProc struct{ fstest.MapFS }

func newProc() fakeProc { return fakeProc{fstest.MapFS{}} }

// fakeProcess is one of its processes; zero fields take plain values.
type fakeProcess struct {
	comm    string
	ppid    int
	ticks   uint64
	state   string
	flags   int
	threads int
	exe     string
	cmdline string // arguments separated by blanks
	maps    string
	cgroup  string
	environ string
	cpu     int // ticks
}

func (f fakeProc) put(pid int, p fakeProcess) {
	f.kill(pid)
	if p.state == "" {
		p.state = "S"
	}
	if p.threads == 0 {
		p.threads = 1
	}
	put := func(name, text string) {
		f.MapFS[fmt.Sprintf("%d/%s", pid, name)] = &fstest.MapFile{Data: []byte(text)}
	}
	put("stat", fmt.Sprintf("%d (%s) %s %d 1 1 0 -1 %d 0 0 0 0 %d 1 0 0 20 0 %d 0 %d 1 1 1 0\n",
		pid, p.comm, p.state, p.ppid, p.flags, p.cpu, p.threads, p.ticks))
	put("maps", p.maps)
	put("cgroup", p.cgroup)
	put("environ", p.environ)
	put("cmdline", "")
	if p.cmdline != "" {
		put("cmdline", strings.ReplaceAll(p.cmdline, " ", "\x00")+"\x00")
	}
	if p.exe != "" {
		f.MapFS[fmt.Sprintf("%d/exe", pid)] = &fstest.MapFile{Data: []byte(p.exe), Mode: fs.ModeSymlink}
	}
}

func (f fakeProc) kill(pid int) {
	for _, name := range []string{"stat", "maps", "cgroup", "environ", "cmdline", "exe"} {
		delete(f.MapFS, fmt.Sprintf("%d/%s", pid, name))
	}
}

func TestRead(t *testing.T) {
	proc := newProc()
	proc.put(42, fakeProcess{
		comm: "a) S 1 (b\nc", ppid: 7, ticks: 1234, exe: "/opt/my app/bin (deleted)",
		cmdline: "bin -x", cgroup: "0::/system.slice/web.service\n",
		maps: "00400000-00401000 r--p 00000000 08:01 11 /opt/my app/bin (deleted)\n" +
			"00401000-00403000 r-xp 00001000 08:01 11                         /opt/my app/bin (deleted)\n" +
			"7f0000000000-7f0000001000 r-xp 00002000 00:10 12 /lib/a\\012b\n",
	})
	p, err := Read(proc, 42)
	if err != nil {
		t.Fatal(err)
	}
	want := &Process{
		Key: Key{PID: 42, Start: 12_340_000_000}, PPID: 7, Comm: "a) S 1 (b\nc",
		Exe: "/opt/my app/bin", Cmdline: []string{"bin", "-x"},
		Cgroup: Cgroup{Path: "/system.slice/web.service", Unit: "web.service"},
		Mappings: Mappings{
			{0x401000, 0x403000, 0x1000, &Object{Path: "/opt/my app/bin", Deleted: true, Inode: Inode{Dev: 8<<20 | 1, Number: 11}}},
			{0x7f0000000000, 0x7f0000001000, 0x2000, &Object{Path: "/lib/a\nb", Inode: Inode{Dev: 0x10, Number: 12}}},
		},
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("got  %+v\nwant %+v", p, want)
	}
}

func TestReadKernelThread(t *testing.T) {
	proc := newProc()
	proc.put(9, fakeProcess{comm: "kworker/0:1", ppid: 2, flags: 0x208040, cgroup: "0::/\n"})
	p, err := Read(proc, 9)
	if err != nil {
		t.Fatal(err)
	}
	if !p.KernelThread || p.Comm != "kworker/0:1" || p.Exe != "" || p.Mappings != nil {
		t.Errorf("got %+v", p)
	}
}

// failing makes one file of a process fail when it is opened, as if the process
// went away between two reads.
type failing struct {
	fs.FS
	name string
	err  error
}

func (f failing) Open(name string) (fs.File, error) {
	if strings.HasSuffix(name, "/"+f.name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: f.err}
	}
	return f.FS.Open(name)
}

func (f failing) ReadLink(name string) (string, error) {
	if strings.HasSuffix(name, "/"+f.name) {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: f.err}
	}
	return fs.ReadLink(f.FS, name)
}

func (f failing) Lstat(name string) (fs.FileInfo, error) { return fs.Lstat(f.FS, name) }

func TestReadVanishing(t *testing.T) {
	proc := newProc()
	proc.put(42, fakeProcess{comm: "x", exe: "/bin/x", maps: "00400000-00401000 r-xp 00000000 08:01 11 /bin/x\n"})
	proc.put(43, fakeProcess{comm: "x", state: "Z"})
	if _, err := Read(proc, 42); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"stat", "cgroup", "exe", "cmdline", "maps"} {
		for _, cause := range []error{syscall.ENOENT, syscall.ESRCH} {
			if _, err := Read(failing{proc, name, cause}, 42); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s fails with %v: error %v does not wrap fs.ErrNotExist", name, cause, err)
			}
		}
		if _, err := Read(failing{proc, name, syscall.EACCES}, 42); !errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is forbidden: error %v", name, err)
		}
	}
	for _, pid := range []uint32{43, 44} {
		if _, err := Read(proc, pid); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("process %d: error %v does not wrap fs.ErrNotExist", pid, err)
		}
	}
}

func TestReadBounded(t *testing.T) {
	proc := newProc()
	var maps strings.Builder
	for i := range 65530 {
		fmt.Fprintf(&maps, "%x-%x r-xp 00000000 00:00 0 \n", 0x10000+i*0x2000, 0x11000+i*0x2000)
	}
	proc.put(42, fakeProcess{comm: "x", exe: "/usr/bin/python3",
		cmdline: "python3 -X " + strings.Repeat("a", 30_000) + " /srv/app.py " + strings.Repeat("b ", 1<<20),
		maps:    maps.String()})
	p, err := Read(proc, 42)
	if err != nil {
		t.Fatal(err)
	}
	if p.Program != "app.py" {
		t.Errorf("program %q is not found behind a long argument", p.Program)
	}
	if n := len(strings.Join(p.Cmdline, " ")); n > keptCmdline {
		t.Errorf("%d bytes of command line are kept", n)
	}
	if len(p.Mappings) != defaultMaxMappingsPerProcess {
		t.Errorf("%d mappings are kept", len(p.Mappings))
	}
}

// TestReadSelf compares this process with what the os package says of it.
func TestReadSelf(t *testing.T) {
	p, err := Read(os.DirFS("/proc"), uint32(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if p.Exe != exe || p.PPID != uint32(os.Getppid()) || !reflect.DeepEqual(p.Cmdline, keep(os.Args, keptCmdline)) {
		t.Errorf("got %+v", p)
	}
	pc := uint64(reflect.ValueOf(TestReadSelf).Pointer())
	m, ok := p.Mappings.Find(pc)
	if !ok || m.Path != exe || m.Kind != FileBacked {
		t.Errorf("pc %#x of this test lies in %+v, not in %s", pc, m, exe)
	}
}

func TestParseStatErrors(t *testing.T) {
	for _, text := range []string{"", "1", "1 (x", "1 )x(", "1 (x)", "1 (x) S", "1 (x) S 1 1 1 1 1 y", "1 (x) S 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0",
		"1 (x) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 18446744073709551615"} {
		if st, err := parseStat([]byte(text)); err == nil {
			t.Errorf("%q gives %+v", text, st)
		}
	}
}

func FuzzStat(f *testing.F) {
	f.Add([]byte("1 (a) b) S 2 1 1 0 -1 0 0 0 0 0 1 1 0 0 20 0 1 0 55 1 1 1 0"))
	f.Add([]byte("1 ()("))
	f.Fuzz(func(t *testing.T, data []byte) {
		if st, err := parseStat(data); err == nil && st.start%tick != 0 {
			t.Errorf("start %d is no whole tick", st.start)
		}
	})
}

func FuzzCmdline(f *testing.F) {
	f.Add("/usr/bin/python3", []byte("python3\x00-X\x00dev\x00app.py\x00"))
	f.Add("/usr/bin/java", []byte("java\x00-cp\x00x\x00a.b.Main\x00"))
	f.Add("/bin/sh", []byte("sh\x00-ec\x00\x00+o\x00"))
	f.Add("/usr/bin/php8.2", []byte("php\x00-f\x00"))
	f.Fuzz(func(t *testing.T, exe string, data []byte) {
		args := parseCmdline(data, len(data)%2 == 0)
		if n := len(strings.Join(args, "\x00")); n > len(data) {
			t.Errorf("%d bytes of arguments out of %d", n, len(data))
		}
		p := &Process{Exe: exe, Cmdline: keep(args, 100), Program: program(exe, args)}
		for _, l := range p.Labels() {
			if l.Value == "" || len(l.Value) > maxLabelValue {
				t.Errorf("label %q has a value of %d bytes", l.Name, len(l.Value))
			}
		}
	})
}

func BenchmarkRead(b *testing.B) {
	proc := os.DirFS("/proc")
	pid := uint32(os.Getpid())
	for b.Loop() {
		if _, err := Read(proc, pid); err != nil {
			b.Fatal(err)
		}
	}
}
