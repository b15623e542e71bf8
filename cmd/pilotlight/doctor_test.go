package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"pilotlight/bpf"
	"pilotlight/cmd/pilotlight/config"
)

// machine is a root directory of files with the given texts. A text that begins with -> is a link.
func machine(files map[string]string) fs.FS {
	root := fstest.MapFS{}
	for name, content := range files {
		root[name] = &fstest.MapFile{Data: []byte(content), Mode: 0o444}
		if target, ok := strings.CutPrefix(content, "->"); ok {
			root[name] = &fstest.MapFile{Data: []byte(target), Mode: 0o777 | fs.ModeSymlink}
		}
	}
	return root
}

// all has what root has; the others lack what their names say.
var (
	all        = capabilities{effective: 1<<41 - 1, bounding: 1<<41 - 1, root: true}
	ordinary   = capabilities{bounding: 1<<41 - 1}
	noPerfmon  = capabilities{effective: all.effective &^ (1<<unix.CAP_PERFMON | 1<<unix.CAP_SYS_ADMIN), bounding: all.bounding, root: true}
	noSyslog   = capabilities{effective: all.effective &^ (1 << unix.CAP_SYSLOG), bounding: all.bounding &^ (1 << unix.CAP_SYSLOG), root: true}
	rootless   = capabilities{effective: all.effective, bounding: all.bounding, root: true, confined: true}
	fileCaps   = capabilities{effective: 1<<unix.CAP_BPF | 1<<unix.CAP_PERFMON | 1<<unix.CAP_SYS_PTRACE | 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_CHECKPOINT_RESTORE | 1<<unix.CAP_SYSLOG, bounding: all.bounding}
	onlyCapBPF = capabilities{effective: 1 << unix.CAP_BPF, bounding: all.bounding}
)

const exe = "/usr/bin/pilotlight"

func TestChecks(t *testing.T) {
	denied := fmt.Errorf("open: %w", unix.EPERM)
	probes := func(err error) []probe {
		return []probe{{"ring buffers", "5.8", nil}, {"bpf_task_pt_regs", "5.15", err}, {"bpf_loop", "5.17", err}}
	}
	untouched := func() error { t.Error("the sampler was tried"); return nil }
	fails := func(err error) func() error { return func() error { return err } }

	for _, test := range []struct {
		name   string
		got    check
		want   status
		detail string // these are contained
		mend   string
	}{
		{"floor", checkKernel(machine(map[string]string{"proc/sys/kernel/osrelease": "6.1.0-18-amd64\n"})), statusOK, "6.1.0-18-amd64", ""},
		{"major above the floor", checkKernel(machine(map[string]string{"proc/sys/kernel/osrelease": "7.0-rc1\n"})), statusOK, "7.0-rc1", ""},
		{"old kernel", checkKernel(machine(map[string]string{"proc/sys/kernel/osrelease": "5.15.0-91-generic\n"})), statusWarn, "5.15.0-91-generic is older than 6.1", "boot Linux 6.1"},
		{"odd release", checkKernel(machine(map[string]string{"proc/sys/kernel/osrelease": "custom\n"})), statusWarn, `"custom" has no version`, "boot"},
		{"no proc", checkKernel(machine(nil)), statusWarn, "osrelease", "mount /proc"},

		{"btf", checkBTF(machine(map[string]string{"sys/kernel/btf/vmlinux": strings.Repeat("x", 5e6)})), statusOK, "/sys/kernel/btf/vmlinux, 5.0 MB", ""},
		{"no btf", checkBTF(machine(map[string]string{"sys/kernel/mm/x": ""})), statusFail, "no /sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF=y"},
		{"no sys", checkBTF(machine(nil)), statusFail, "/sys is not mounted", "mount -t sysfs"},

		{"initial pid namespace", checkPIDNamespace(machine(map[string]string{"proc/self/ns/pid": "->pid:[4026531836]"})), statusOK, "initial", ""},
		{"other pid namespace", checkPIDNamespace(machine(map[string]string{"proc/self/ns/pid": "->pid:[4026532178]"})), statusFail, "pid:[4026532178] is not the initial one", "--pid=host"},
		{"odd pid namespace", checkPIDNamespace(machine(map[string]string{"proc/self/ns/pid": "->gone"})), statusFail, `is "gone"`, "--pid=host"},
		{"kernel without pid namespaces", checkPIDNamespace(machine(nil)), statusOK, "but one", ""},
		{"initial user namespace", checkUserNamespace(machine(map[string]string{"proc/self/ns/user": "->user:[4026531837]"})), statusOK, "initial", ""},
		{"other user namespace", checkUserNamespace(machine(map[string]string{"proc/self/ns/user": "->user:[4026532177]"})), statusFail, "do not reach BPF", "rootless"},

		{"paranoid, privileged", checkParanoid(machine(map[string]string{"proc/sys/kernel/perf_event_paranoid": "2\n"}), fileCaps, exe), statusOK, "2, does not bind", ""},
		{"Debian's paranoia", checkParanoid(machine(map[string]string{"proc/sys/kernel/perf_event_paranoid": "3\n"}), fileCaps, exe), statusWarn, "3: kernels of Debian", "sudo sysctl -w kernel.perf_event_paranoid=2"},
		{"Debian's paranoia of root", checkParanoid(machine(map[string]string{"proc/sys/kernel/perf_event_paranoid": "3\n"}), all, exe), statusOK, "3, does not bind", ""},
		{"paranoid, not privileged", checkParanoid(machine(map[string]string{"proc/sys/kernel/perf_event_paranoid": "2\n"}), ordinary, exe), statusWarn, "2: no event on a whole CPU", "sudo setcap"},
		{"not paranoid", checkParanoid(machine(map[string]string{"proc/sys/kernel/perf_event_paranoid": "-1\n"}), ordinary, exe), statusOK, "-1", ""},
		{"no perf events", checkParanoid(machine(nil), all, exe), statusFail, "no perf events", "CONFIG_PERF_EVENTS=y"},

		{"event opens", checkPerfEvent(nil, all, exe), statusOK, "cpu-clock", ""},
		{"event without capability", checkPerfEvent(unix.EACCES, ordinary, exe), statusFail, "permission denied", "setcap"},
		{"event without capability as root", checkPerfEvent(unix.EACCES, noPerfmon, exe), statusFail, "permission denied", "without dropping"},
		{"event in a user namespace", checkPerfEvent(unix.EACCES, rootless, exe), statusFail, "permission denied", "rootless"},
		{"event under seccomp", checkPerfEvent(denied, all, exe), statusFail, "operation not permitted", "seccomp"},
		{"event under SELinux", checkPerfEvent(unix.EACCES, all, exe), statusFail, "permission denied", "SELinux"},
		{"event rate", checkPerfEvent(unix.EINVAL, all, exe), statusFail, "invalid argument", "perf_event_max_sample_rate"},
		{"event without descriptors", checkPerfEvent(unix.EMFILE, all, exe), statusFail, "too many open files", "ulimit -n"},
		{"no clock event", checkPerfEvent(unix.ENOENT, all, exe), statusFail, "no such file", "CONFIG_PERF_EVENTS"},

		{"features", checkFeatures(probes(nil), all, exe), statusOK, "all 3", ""},
		{"old features", checkFeatures(probes(fmt.Errorf("probe: %w", ebpf.ErrNotSupported)), all, exe), statusFail, "lacks bpf_task_pt_regs (Linux 5.15), bpf_loop (Linux 5.17)", "boot Linux 6.1"},
		{"features without capability", checkFeatures(probes(denied), onlyCapBPF, exe), statusWarn, notTried, "setcap"},
		{"features under seccomp", checkFeatures(probes(denied), all, exe), statusWarn, "could not be asked for bpf_loop: open: operation not permitted", "seccomp"},

		{"sampler", checkSampler(fails(nil), fileCaps, exe), statusOK, "loaded, attached", ""},
		{"sampler without capability", checkSampler(untouched, onlyCapBPF, exe), statusWarn, notTried, "setcap"},
		{"sampler in a user namespace", checkSampler(untouched, rootless, exe), statusWarn, notTried, "rootless"},
		{"sampler on an old kernel", checkSampler(fails(fmt.Errorf("load: %w", bpf.ErrNotSupported)), all, exe), statusFail, "load: not supported", "boot Linux 6.1"},
		{"sampler under seccomp", checkSampler(fails(denied), all, exe), statusFail, "not permitted", "seccomp"},
		{"sampler refused", checkSampler(fails(&ebpf.VerifierError{Cause: unix.EPERM, Log: []string{"func", "invalid access"}}), all, exe), statusFail, "invalid access", "report"},
		{"sampler for another reason", checkSampler(fails(unix.ENOMEM), all, exe), statusFail, "cannot allocate memory", "journalctl"},

		{"kallsyms", checkKallsyms(machine(map[string]string{"proc/kallsyms": "0000000000000000 A fixed_percpu_data\nffffffff81000000 T _text\n"}), all, exe), statusOK, "has addresses", ""},
		{"hidden kallsyms", checkKallsyms(machine(map[string]string{"proc/kallsyms": "0000000000000000 A x\n0000000000000000 T _text\n", "proc/sys/kernel/kptr_restrict": "2\n"}), all, exe), statusWarn, "kptr_restrict 2", "sysctl -w kernel.kptr_restrict=1"},
		{"kallsyms without capability", checkKallsyms(machine(map[string]string{"proc/kallsyms": "0000000000000000 T _text\n", "proc/sys/kernel/kptr_restrict": "1\n"}), noSyslog, exe), statusWarn, "kptr_restrict 1", "--cap-add=SYSLOG"},
		{"empty kallsyms", checkKallsyms(machine(map[string]string{"proc/kallsyms": "", "proc/sys/kernel/kptr_restrict": "0"}), ordinary, exe), statusWarn, "zeros", "setcap"},
		{"no kallsyms", checkKallsyms(machine(nil), all, exe), statusWarn, "no /proc/kallsyms", "CONFIG_KALLSYMS=y"},

		{"memory", checkMemory(meminfo("MemFree: 1 kB\nMemAvailable:   24122112 kB\n")), statusOK, "25 GB available", ""},
		{"memory for sampling alone", checkMemory(meminfo("MemAvailable:     307200 kB\n")), statusWarn, "315 MB available, a large query takes up to 537 MB beside 268 MB for sampling", "free 491 MB"},
		{"little memory", checkMemory(meminfo("MemAvailable:      51200 kB\n")), statusFail, "52 MB available, sampling takes up to 268 MB", "free 216 MB"},
		{"memory without a figure", checkMemory(meminfo("MemAvailable: many kB\n")), statusFail, `"MemAvailable: many kB"`, "/proc"},
		{"memory without a line", checkMemory(meminfo("MemFree: 1 kB\n")), statusFail, "no line MemAvailable", "/proc"},
		{"no meminfo", checkMemory(machine(nil)), statusFail, "meminfo", "mount /proc"},

		{"disk", checkDisk(disk{dir: "/d", existing: "/d", isDir: true, free: 80e9}), statusOK, "/d: 80 GB free", ""},
		{"disk to be made", checkDisk(disk{dir: "/v/d", existing: "/v", isDir: true, free: 80e9}), statusOK, "will be made in /v", ""},
		{"disk that holds data", checkDisk(disk{dir: "/d", existing: "/d", isDir: true, free: 2e9, used: 9e9}), statusOK, "2.0 GB free", ""},
		{"small disk", checkDisk(disk{dir: "/d", existing: "/d", isDir: true, free: 4e9, used: 1e9}), statusWarn, "4.0 GB free, the store keeps up to 10 GB", "--retention-size 4500MB"},
		{"full disk", checkDisk(disk{dir: "/d", existing: "/d", isDir: true, free: 1e6, used: 50e9}), statusFail, "1.0 MB free", "free space"},
		{"read-only disk", checkDisk(disk{dir: "/d", existing: "/", isDir: true, writable: unix.EROFS}), statusFail, "read-only", "mount it writable"},
		{"other's parent", checkDisk(disk{dir: "/v/d", existing: "/v", isDir: true, writer: 1000, writable: unix.EACCES}), statusFail, "user 1000 may not write /v: permission denied", "sudo install -d -o 1000 -m 0750 /v/d,"},
		{"other's disk", checkDisk(disk{dir: "/d", existing: "/d", isDir: true, writer: 65534, writable: unix.EACCES}), statusFail, "user 65534 may not write /d: permission denied", "if this one is pilotlight's alone: sudo chown -R 65534 /d"},
		{"file as disk", checkDisk(disk{dir: "/etc/passwd", existing: "/etc/passwd"}), statusFail, "/etc/passwd is not a directory", "--data"},
		{"unreachable disk", checkDisk(disk{dir: "/d", err: denied}), statusFail, "not permitted", "--data"},

		{"cache", checkCache(disk{dir: "/c", existing: "/", isDir: true, free: 80e9}, nil), statusOK, "/c: 80 GB free", ""},
		{"small cache", checkCache(disk{dir: "/c", existing: "/c", isDir: true, free: 1e6}, nil), statusWarn, "1.0 MB free", "free space"},
		{"read-only cache", checkCache(disk{dir: "/c", existing: "/", isDir: true, writable: unix.EROFS}, nil), statusWarn, "read-only", "--cache"},
		{"file as cache", checkCache(disk{dir: "/etc/passwd", existing: "/etc/passwd"}, nil), statusWarn, "/etc/passwd is not a directory", "--cache"},
		{"everybody's cache", checkCache(disk{dir: "/tmp", existing: "/tmp", isDir: true, free: 80e9}, errors.New("others may write it")), statusWarn, "others may write it", "pilotlight's alone"},
		{"unreachable cache", checkCache(disk{dir: "/c", err: denied}, nil), statusWarn, "not permitted", "--cache"},

		{"files", checkFiles(4096, 2), statusOK, "at most 4096, 2576 are needed", ""},
		{"configuration", checkConfiguration(&configuration{path: "/c", current: &config.Config{}}, nil), statusOK, "/c: relabel_configs has 0 rules", ""},
		{"no configuration", checkConfiguration(&configuration{path: "/c", optional: true}, nil), statusOK, "/c is not there, and need not be", ""},
		{"absent configuration", checkConfiguration(nil, fs.ErrNotExist), statusFail, "not exist", "--config"},
		{"secret configuration", checkConfiguration(nil, denied), statusFail, "not permitted", "read it"},
		{"wrong configuration", checkConfiguration(nil, errors.New("/c: line 3: unknown key x")), statusFail, "line 3", "that line"},
		{"no runtimes", checkRuntimes([]runtimeSocket{{"docker", []string{"/nowhere"}}}, anybody), statusOK, "none is here", ""},
		{"runtimes", checkRuntimes([]runtimeSocket{{"docker", []string{"/nowhere", "/dev/null"}}, {"cri", []string{"/dev/null"}}}, anybody), statusOK, "docker at /dev/null, cri at /dev/null", ""},
		{"runtime that may not be asked", checkRuntimes([]runtimeSocket{{"docker", []string{"/dev/null"}}}, func(string) error { return unix.EACCES }),
			statusWarn, "/dev/null: permission denied: its containers have no names", `runtimes: {docker: ""}`},
		{"few files for many CPUs", checkFiles(1024, 128), statusFail, "128 CPUs take up to 3584", "LimitNOFILE"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.got.Status != test.want || !strings.Contains(test.got.Detail, test.detail) || !strings.Contains(test.got.Mend, test.mend) {
				t.Errorf("got %+v\nwant %s, %q, %q", test.got, test.want, test.detail, test.mend)
			}
			wellFormed(t, test.got)
		})
	}
}

func anybody(string) error { return nil }

func meminfo(lines string) fs.FS { return machine(map[string]string{"proc/meminfo": lines}) }

// wellFormed checks what doctorCmd promises of every check.
func wellFormed(t *testing.T, c check) {
	t.Helper()
	if c.Name == "" || c.Detail == "" || strings.Contains(c.Detail+c.Mend, "\n") {
		t.Errorf("%+v: want a name, and a detail and a mend of one line", c)
	}
	if (c.Status == statusOK) != (c.Mend == "") {
		t.Errorf("%+v: want a mend exactly where it is not ok", c)
	}
}

func TestCapabilities(t *testing.T) {
	const list = "cap_bpf,cap_perfmon,cap_sys_ptrace,cap_dac_read_search,cap_checkpoint_restore,cap_syslog"
	for _, test := range []struct {
		name string
		caps capabilities
		want string // the status of each capability that is not ok
		mend string // of the first of them
	}{
		{"root", all, "", ""},
		{"root who may not become another user", capabilities{effective: all.effective &^ (1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID | 1<<unix.CAP_CHOWN), bounding: all.bounding, root: true},
			"warn warn warn", "CAP_SYSLOG CAP_SETUID CAP_SETGID CAP_CHOWN"},
		{"file capabilities", fileCaps, "", ""},
		{"SYS_ADMIN for BPF and PERFMON, DAC_OVERRIDE for reading",
			capabilities{effective: 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_SYS_PTRACE | 1<<unix.CAP_SYSLOG}, "", ""},
		{"none", ordinary, "fail fail warn warn warn warn", "sudo setcap " + list + "=ep " + exe},
		{"only CAP_BPF", onlyCapBPF, "fail warn warn warn warn", "sudo setcap " + list + "=ep " + exe},
		{"none, in systemd", ordinary, "fail fail warn warn warn warn", "in systemd: AmbientCapabilities=" + strings.ToUpper(strings.ReplaceAll(list, ",", " ")) + " CapabilityBoundingSet="},
		{"none, in Kubernetes", ordinary, "fail fail warn warn warn warn", "add: [BPF, PERFMON, SYS_PTRACE, DAC_READ_SEARCH, CHECKPOINT_RESTORE, SYSLOG]}}"},
		{"dropped by root", noPerfmon, "fail", "AmbientCapabilities=CAP_BPF CAP_PERFMON"},
		{"out of the bounding set", noSyslog, "warn", "--cap-add=SYSLOG"},
		{"all in a user namespace", rootless, "fail fail warn warn warn warn warn warn warn", userNamespaceMend},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			var mend string
			for _, c := range checkCapabilities(test.caps, exe) {
				wellFormed(t, c)
				if c.Status != statusOK {
					got = append(got, string(c.Status))
					if mend == "" {
						mend = c.Mend
					}
				}
			}
			if strings.Join(got, " ") != test.want || !strings.Contains(mend, test.mend) {
				t.Errorf("got %q, mend %q\nwant %q, mend %q", got, mend, test.want, test.mend)
			}
		})
	}
}

func TestParseCapabilities(t *testing.T) {
	const good = "Name:\tx\nUid:\t1000\t0\t1000\t1000\nCapEff:\t000000c000000000\nCapBnd:\t000001ffffffffff\n"
	got, err := parseCapabilities(good)
	want := capabilities{effective: 1<<unix.CAP_BPF | 1<<unix.CAP_PERFMON, bounding: 1<<41 - 1, root: true}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{
		"",
		strings.Replace(good, "CapBnd", "CapXyz", 1),
		strings.Replace(good, "000000c000000000", "c0ffee?", 1),
		strings.Replace(good, "\t1000\t0", "\t0", 1),
	} {
		if got, err := parseCapabilities(bad); err == nil {
			t.Errorf("%q: got %+v, want an error", bad, got)
		}
	}
}

func TestPrintChecks(t *testing.T) {
	var out strings.Builder
	err := printChecks(&out, []check{
		{"kernel", statusOK, "6.18.0", ""},
		{"cap_bpf", statusFail, "missing: this", "do it"},
		{"cap_syslog", statusWarn, "missing: that", "do it"},
		{"memory", statusFail, "little", "buy some"},
	})
	want := `ok    kernel      6.18.0
fail  cap_bpf     missing: this
warn  cap_syslog  missing: that
                  mend: do it
fail  memory      little
                  mend: buy some
`
	if err != nil || out.String() != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, out.String(), want)
	}
}

func TestMayWrite(t *testing.T) {
	user := &syscall.Credential{Uid: 10, Gid: 20}
	for _, test := range []struct {
		uid, gid, mode uint32
		want           bool
	}{
		{10, 0, 0o700, true},
		{10, 20, 0o577, false}, // the owner's bits alone count for the owner
		{10, 0, 0o600, false},
		{0, 20, 0o770, true},
		{0, 20, 0o757, false},
		{0, 0, 0o755, false},
		{0, 0, 0o1777, true},
	} {
		if got := mayWrite(&unix.Stat_t{Uid: test.uid, Gid: test.gid, Mode: unix.S_IFDIR | test.mode}, user); got != test.want {
			t.Errorf("%+v: got %t", test, got)
		}
	}
}

func TestLookAtDisk(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "sub", "file")
	if err := os.Mkdir(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, make([]byte, 4321), 0o644); err != nil {
		t.Fatal(err)
	}
	self := &syscall.Credential{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}
	other := &syscall.Credential{Uid: self.Uid + 1, Gid: self.Gid + 1}
	for _, test := range []struct {
		name, dir, existing string
		isDir               bool
		owner               *syscall.Credential
		writable            error
		used                uint64
	}{
		{"there", dir, dir, true, nil, nil, 4321},
		{"there for its owner", dir, dir, true, self, nil, 4321},
		{"there for others", dir, dir, true, other, unix.EACCES, 0},
		{"not there", filepath.Join(dir, "a", "b"), dir, true, other, nil, 0},
		{"a file", file, file, false, nil, unix.EACCES, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := lookAtDisk(test.dir, test.owner)
			if d.err != nil || d.existing != test.existing || d.isDir != test.isDir || d.writable != test.writable || d.used != test.used || d.free == 0 {
				t.Errorf("got %+v, want %+v", d, test)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("looking made the directory: %v", err)
	}
	if d := lookAtDisk(filepath.Join(file, "x"), nil); !errors.Is(d.err, unix.ENOTDIR) {
		t.Errorf("below a file: got %+v, want ENOTDIR", d)
	}
}

// report is the JSON of doctorCmd as its comment has it.
type report struct {
	OK     bool    `json:"ok"`
	Checks []check `json:"checks"`
}

// doctorChild makes TestKernelDoctor print the report on the data directory that it names, and end.
const doctorChild = "PILOTLIGHT_TEST_DOCTOR_DATA"

// TestKernelDoctor examines this machine: as root, and as a child process that lacks something.
func TestKernelDoctor(t *testing.T) {
	if data := os.Getenv(doctorChild); data != "" {
		err := (&doctorCmd{JSON: true, Data: data}).Run(&globals{stdout: os.Stdout})
		if code := exitError(0); errors.As(err, &code) {
			os.Exit(int(code))
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(2)
		}
		os.Exit(0)
	}
	if os.Geteuid() != 0 {
		if os.Getenv("REQUIRE_ALL") == "1" {
			t.Fatal("loading BPF programs needs root")
		}
		t.Skip("loading BPF programs needs root")
	}
	data := filepath.Join(t.TempDir(), "data")
	for _, test := range []struct {
		name   string
		attr   *syscall.SysProcAttr
		failed []string // the checks that fail
	}{
		{"root", nil, nil},
		{"nobody", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}},
			[]string{"cap_bpf", "cap_perfmon", "perf events", "data directory"}},
		{"own pid namespace", &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}, []string{"pid namespace"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			// By this name, because nobody may not enter the directory of the test binary.
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestKernelDoctor$")
			cmd.Env = append(os.Environ(), doctorChild+"="+data)
			cmd.SysProcAttr = test.attr
			var errout bytes.Buffer
			cmd.Stderr = &errout
			out, err := cmd.Output()
			if err != nil && cmd.ProcessState == nil {
				t.Fatal(err)
			}
			var r report
			if err := json.Unmarshal(out, &r); err != nil {
				t.Fatalf("%v in %s%s", err, out, errout.Bytes())
			}
			var failed []string
			seen := map[string]bool{}
			for _, c := range r.Checks {
				wellFormed(t, c)
				if seen[c.Name] {
					t.Errorf("%s is there twice", c.Name)
				}
				seen[c.Name] = true
				if c.Status == statusFail {
					failed = append(failed, c.Name)
					t.Logf("%s: %s: mend: %s", c.Name, c.Detail, c.Mend)
				}
			}
			if !slices.Equal(failed, test.failed) {
				t.Errorf("failed %q, want %q", failed, test.failed)
			}
			if len(r.Checks) != 24 {
				t.Errorf("got %d checks, want 24", len(r.Checks))
			}
			if code := cmd.ProcessState.ExitCode(); r.OK != (test.failed == nil) || (code == 0) != r.OK || code > 1 {
				t.Errorf("ok is %t and the exit code %d after failures %q", r.OK, code, failed)
			}
		})
	}
	if _, err := os.Stat(data); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("doctor made the data directory: %v", err)
	}
}
