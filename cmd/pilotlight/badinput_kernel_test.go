package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestKernelBadCommand gives the binary what it cannot do. It must say so in one
// line that names what was wrong and the mend, and leave all files as they are.
func TestKernelBadCommand(t *testing.T) {
	needRoot(t)
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	deadPID := strconv.Itoa(dead.Process.Pid)

	for _, test := range []struct {
		name  string
		args  string // DIR stands for a directory of the test's own
		files string // name=content of what lies in it
		as    *syscall.Credential
		mode  fs.FileMode // of DIR/data, if not 0
		want  []string    // in the line
	}{
		{name: "port in use", args: "run --data DIR/new --listen " + busy.Addr().String(), want: []string{busy.Addr().String(), "in use", "--listen"}},
		{name: "no port", args: "run --data DIR/new --listen localhost", want: []string{"localhost", "--listen"}},
		{name: "foreign directory", args: "run --data DIR/data --listen 127.0.0.1:0", files: "data/notes.txt=mine", want: []string{"DIR/data", "notes.txt", "--data"}},
		{name: "newer directory", args: "run --data DIR/data --listen 127.0.0.1:0", files: "data/FORMAT=pilotlight profilestore 99\n", want: []string{"DIR/data", "newer", "99", "--data"}},
		{name: "unwritable directory", args: "run --data DIR/data --listen 127.0.0.1:0", mode: 0o700, want: []string{"DIR/data", "may not write", "chown", "--data"}},
		{name: "a file as directory", args: "run --data DIR/data --listen 127.0.0.1:0", files: "data=mine", want: []string{"DIR/data", "not a directory", "--data"}},
		{name: "below a file", args: "run --data DIR/data/store --listen 127.0.0.1:0", files: "data=mine", want: []string{"DIR/data", "not a directory", "--data"}},
		{name: "frequency 0", args: "run --data DIR/new --listen 127.0.0.1:0 --frequency 0", want: []string{"--frequency", `"0"`, "1 to 1000"}},
		{name: "frequency 100000", args: "run --data DIR/new --listen 127.0.0.1:0 --frequency 100000", want: []string{"--frequency", `"100000"`, "1 to 1000"}},
		{name: "retention 0", args: "run --data DIR/new --listen 127.0.0.1:0 --retention 0", want: []string{"--retention", `"0"`, "7d"}},
		{name: "retention-size of nothing", args: "run --data DIR/new --listen 127.0.0.1:0 --retention-size 0", want: []string{"--retention-size", `"0"`, "10GB"}},
		{name: "too little memory", args: "run --data DIR/new --listen 127.0.0.1:0 --store-memory 1MB", want: []string{"--store-memory", `"1MB"`, "32MiB"}},
		{name: "unknown flag", args: "run --data DIR/new --frequenzy 19", want: []string{"--frequenzy", "pilotlight run --help"}},
		{name: "unknown flag of record", args: "record --frequenzy 19", want: []string{"--frequenzy", "pilotlight record --help"}},
		{name: "unknown command", args: "rnu", want: []string{"rnu", "pilotlight --help"}},
		{name: "no command", want: []string{"run", "record", "pilotlight --help"}},
		{name: "no root", args: "run --data DIR/new --listen 127.0.0.1:0", as: nobody, want: []string{"root", "CAP_BPF"}},
		{name: "record: no root", args: "record -d 1s -o DIR/out", as: nobody, files: "out=mine", want: []string{"root", "CAP_BPF"}},
		{name: "record: no root and no file", args: "record -d 1s -o DIR/out", as: nobody, want: []string{"root", "CAP_BPF"}},
		{name: "record: frequency 0", args: "record -F 0 -d 1s -o DIR/out", want: []string{"--frequency", `"0"`, "1 to 1000"}},
		{name: "record: no number", args: "record -d soon -o DIR/out", want: []string{"--duration", "soon", "pilotlight record --help"}},
		{name: "record: process and all", args: "record -p 1 -a -o DIR/out", want: []string{"--pid", "--all", "together"}},
		{name: "record: all and a command", args: "record -a -o DIR/out -- true", want: []string{"-a", "command"}},
		{name: "record: dead process", args: "record -p " + deadPID + " -d 1s -o DIR/out", want: []string{"-p " + deadPID, "no such process", "pid"}},
		{name: "record: missing directory", args: "record -d 1s -o DIR/no/out", want: []string{"DIR/no/out", "no such file", "-o"}},
		{name: "record: no such program", args: "record -o DIR/out -- DIR/program", files: "out=mine", want: []string{"DIR/program", "no such file", "after --"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := makeDir(t)
			if test.as != nil { // who may write here, so that only the lack of root keeps it from working
				if err := os.Chown(dir, int(test.as.Uid), int(test.as.Gid)); err != nil {
					t.Fatal(err)
				}
			}
			if test.mode != 0 {
				if err := os.Mkdir(filepath.Join(dir, "data"), test.mode); err != nil {
					t.Fatal(err)
				}
			}
			if name, content, ok := strings.Cut(test.files, "="); ok {
				path := filepath.Join(dir, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o666)); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(path, 0o666); err != nil { // whatever the umask
					t.Fatal(err)
				}
			}
			before := tree(t, dir)

			cmd, err := pilotlight(t.Context(), strings.Fields(strings.ReplaceAll(test.args, "DIR", dir))...)
			if err != nil {
				t.Fatal(err)
			}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			cmd.Dir = dir
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: test.as}
			killer := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
			defer killer.Stop()
			err = cmd.Run()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() < 1 {
				t.Errorf("ended with %v, want an exit status above 0", err)
			}
			line, ended := strings.CutSuffix(stderr.String(), "\n")
			if !ended || strings.Contains(line, "\n") || !strings.HasPrefix(line, "pilotlight: ") {
				t.Errorf("stderr is not one line that begins with pilotlight: but\n%s", &stderr)
			}
			for _, want := range test.want {
				if want = strings.ReplaceAll(want, "DIR", dir); !strings.Contains(line, want) {
					t.Errorf("%q does not say %q", line, want)
				}
			}
			if after := tree(t, dir); after != before {
				t.Errorf("files before:\n%s\nand after:\n%s", before, after)
			}
		})
	}
}

// tree writes what lies below a directory: names, modes, content.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		var content []byte
		if info.Mode().IsRegular() {
			if content, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		_, err = b.WriteString(info.Mode().String() + " " + path + " " + strconv.Quote(string(content)) + "\n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// zeros is a body without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestKernelBadRequest asks the live server for what it cannot do.
func TestKernelBadRequest(t *testing.T) {
	s := needShared(t)
	const giga = 1 << 30
	push := "/push.v1.PusherService/Push"
	pushed := func(profile string) string {
		return `{"series":[{"labels":[{"name":"__name__","value":"process_cpu"}],"samples":[{"rawProfile":"` + profile + `"}]}]}`
	}
	var bomb bytes.Buffer
	squeeze := gzip.NewWriter(&bomb)
	if _, err := io.CopyN(squeeze, zeros{}, giga); err != nil {
		t.Fatal(err)
	}
	if err := squeeze.Close(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name     string
		path     string
		body     io.Reader // nil: GET
		length   int64     // of the body, -1 where it is not told
		encoding string
		status   int
		code     string
		want     []string // in the message
	}{
		{name: "malformed selector", path: "/api/v1/flamegraph?query=%7Bservice_name%3D%22bad", status: 400, code: "bad_request", want: []string{"query"}},
		{name: "from after to", path: "/api/v1/pprof?from=now&to=now-1h", status: 400, code: "bad_request", want: []string{"from is after to", "swap"}},
		{name: "no time", path: "/api/v1/series?from=yesterday", status: 400, code: "bad_request", want: []string{"from", "yesterday"}},
		{name: "unknown parameter", path: "/api/v1/top?form=now-1h", status: 400, code: "bad_request", want: []string{"form", "from"}},
		{name: "unknown route", path: "/api/v1/flamegraphs", status: 404, code: "not_found", want: []string{"/api/v1/flamegraphs"}},
		{name: "push of text", path: push, body: strings.NewReader("hello"), length: 5, status: 400, code: "invalid_argument"},
		{name: "push of no pprof", path: push, body: strings.NewReader(pushed("aGVsbG8=")), length: -1, status: 400, code: "invalid_argument", want: []string{"profile 1 of 1", "not a pprof protobuf"}},
		{name: "push of 1 GB", path: push, body: io.LimitReader(zeros{}, giga), length: giga, status: 413, code: "resource_exhausted", want: []string{"32 MB", "send fewer or smaller"}},
		{name: "push of 1 GB, length not told", path: push, body: io.LimitReader(zeros{}, giga), length: -1, status: 413, code: "resource_exhausted", want: []string{"32 MB", "send fewer or smaller"}},
		{name: "push of 1 GB, gzipped", path: push, body: &bomb, length: int64(bomb.Len()), encoding: "gzip", status: 413, code: "resource_exhausted", want: []string{"100 times", "send it unpacked"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			method := http.MethodGet
			if test.body != nil {
				method = http.MethodPost
			}
			request, err := http.NewRequestWithContext(t.Context(), method, s.url+test.path, test.body)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Content-Type", "application/json")
			if test.encoding != "" {
				request.Header.Set("Content-Encoding", test.encoding)
			}
			if test.body != nil {
				request.ContentLength = test.length
				// Lets the server refuse before the body is on its way, as curl does.
				request.Header.Set("Expect", "100-continue")
			}
			client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: 10 * time.Second}}
			defer client.CloseIdleConnections()
			answer, err := client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			body, err := io.ReadAll(answer.Body)
			if err != nil {
				t.Fatal(err)
			}
			if answer.StatusCode != test.status {
				t.Errorf("status %s, want %d", answer.Status, test.status)
			}
			if strings.Contains(strings.TrimSuffix(string(body), "\n"), "\n") {
				t.Errorf("the answer has several lines:\n%s", body)
			}
			// The API's own form, and that of Connect.
			var e struct {
				Error         struct{ Code, Message string }
				Code, Message string
			}
			if err := json.Unmarshal(body, &e); err != nil {
				t.Fatalf("%v: %s", err, body)
			}
			if code := e.Code + e.Error.Code; code != test.code {
				t.Errorf("code %q, want %q: %s", code, test.code, body)
			}
			message := e.Message + e.Error.Message
			if message == "" {
				t.Errorf("no message: %s", body)
			}
			for _, want := range test.want {
				if !strings.Contains(message, want) {
					t.Errorf("%q does not say %q", message, want)
				}
			}
		})
	}
	for name, pid := range map[string]int{"store half": s.other, "agent half": s.cmd.Process.Pid} {
		st, err := procStatus(pid)
		if err != nil {
			t.Fatal(err)
		}
		kb, err := strconv.Atoi(strings.TrimSuffix(st["VmHWM"], " kB"))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d MB of memory at most", name, kb>>10)
		if kb >= 200<<10 {
			t.Errorf("%s had %d MB of memory, want less than 200", name, kb>>10)
		}
	}
}
