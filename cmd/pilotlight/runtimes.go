package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pilotlight/cmd/pilotlight/config"
	"pilotlight/cmd/pilotlight/containers"
)

// Container runtimes are asked by a child without privileges: what they answer is HTTP, and what is in it others
// wrote. The agent half connects to their sockets, for which it may need to be who it is, and hands the connections on.

const (
	// namesTime bounds how long the child takes for all runtimes together, namesCPU its CPU time and namesMemory what
	// it may write to.
	namesTime   = 10 * time.Second
	namesCPU    = 5 * time.Second
	namesMemory = 256 << 20
	// maxNamesReport bounds what is read of its report: 30 KiB for each of 64 containers, and JSON may take six bytes for one.
	maxNamesReport = 12 << 20
	// connectTime bounds how long one runtime may take to accept a connection.
	connectTime = time.Second
	// namesFD is the child's first connection.
	namesFD = 3
)

// runtimeSocket is where a runtime may listen.
type runtimeSocket struct {
	kind  containers.Kind
	paths []string // the first that is there counts
}

// hostRoot is the root of the machine also for a container that shares its pid namespace, as the agent's must.
const hostRoot = "/proc/1/root"

// runtimeSockets returns where to ask, in that order: who has the names of most containers comes first.
func runtimeSockets(r config.Runtimes) []runtimeSocket {
	var sockets []runtimeSocket
	for _, s := range []struct {
		kind   containers.Kind
		given  config.Socket
		places []string
	}{
		{containers.Docker, r.Docker, []string{"/run/docker.sock", "/run/podman/podman.sock"}},
		{containers.CRI, r.CRI, []string{"/run/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock", "/run/crio/crio.sock", "/run/cri-dockerd.sock"}},
		{containers.Containerd, r.Containerd, []string{"/run/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock"}},
	} {
		switch {
		case s.given.Path != "":
			sockets = append(sockets, runtimeSocket{s.kind, []string{s.given.Path}})
		case !s.given.Given:
			for _, path := range s.places {
				sockets = append(sockets, runtimeSocket{s.kind, []string{path, hostRoot + path}})
			}
		}
	}
	return sockets
}

// runtimeGroups are the groups that may connect to the sockets that are there. Who may ask a runtime rules the machine;
// so does who may look into all processes.
func runtimeGroups(r config.Runtimes) []uint32 {
	var groups []uint32
	for _, s := range runtimeSockets(r) {
		for _, path := range s.paths {
			var st unix.Stat_t
			const groupWrites = 0o020 // what connecting takes
			if unix.Stat(path, &st) == nil && st.Mode&groupWrites != 0 && !slices.Contains(groups, st.Gid) {
				groups = append(groups, st.Gid)
			}
		}
	}
	return groups
}

// runtimes asks the container runtimes of this machine.
type runtimes struct {
	sockets atomic.Pointer[[]runtimeSocket]
}

// use has other sockets asked.
func (r *runtimes) use(c config.Runtimes) {
	sockets := runtimeSockets(c)
	r.sockets.Store(&sockets)
}

// ask is a containers.Asker.
func (r *runtimes) ask(ctx context.Context, ids []string) (containers.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, namesTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "names-child")
	cmd.Args[0] = "pilotlight"
	cmd.Env = []string{}
	var errs []error
	for _, s := range *r.sockets.Load() {
		conn, err := s.connect(ctx)
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w: "+runtimesMend, err, s.kind)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("connect to %s: %w", s.kind, err))
		}
		if conn == nil {
			continue
		}
		defer conn.Close()
		cmd.Args = append(cmd.Args, "--runtime", string(s.kind))
		cmd.ExtraFiles = append(cmd.ExtraFiles, conn)
	}
	var answer containers.Answer
	if len(cmd.ExtraFiles) > 0 {
		cmd.Args = append(cmd.Args, ids...)
		var err error
		answer, err = runNamesChild(cmd)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return answer, errors.New(oneLine(err))
	}
	return answer, nil
}

// connect connects to the first of the paths that is there. It returns nil and no error if none is.
func (s runtimeSocket) connect(ctx context.Context) (*os.File, error) {
	dialer := net.Dialer{Timeout: connectTime}
	for _, path := range s.paths {
		conn, err := dialer.DialContext(ctx, "unix", path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && strings.HasPrefix(path, hostRoot) && !exists(path) {
			continue
		}
		if err != nil {
			return nil, err
		}
		file, err := conn.(*net.UnixConn).File()
		return file, errors.Join(err, conn.Close())
	}
	return nil, nil
}

// exists reports whether there is something at path, as far as this process may see.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// namesReport is what the child says.
type namesReport struct {
	Containers []containers.Container
	Err        string // why a runtime did not answer
}

func runNamesChild(cmd *exec.Cmd) (containers.Answer, error) {
	out, diagnosis := capped{limit: maxNamesReport}, capped{limit: 4 << 10}
	cmd.Stdout, cmd.Stderr = &out, &diagnosis
	owner, err := otherUser()
	if err != nil {
		return containers.Answer{}, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	if err := startWithoutPrivileges(cmd); err != nil {
		return containers.Answer{}, fmt.Errorf("start names child: %w", err)
	}
	err = cmd.Wait()
	answer := containers.Answer{CPU: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	if err != nil {
		return answer, fmt.Errorf("names child: %w: %q", err, diagnosis.Bytes())
	}
	var report namesReport
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		return answer, fmt.Errorf("names child's report: %w", err)
	}
	answer.Containers = report.Containers
	if report.Err != "" {
		return answer, errors.New(report.Err)
	}
	return answer, nil
}

// namesChildCmd is the child. Its connections are inherited, from namesFD on, one for each runtime.
type namesChildCmd struct {
	Runtime []containers.Kind
	IDs     []string `arg:"" name:"id"`
}

// namesCalls are the system calls that the child needs besides: to learn what its connections are.
var namesCalls = []uint32{unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT}

func (c *namesChildCmd) Run(g *globals) error {
	debug.SetMemoryLimit(namesMemory / 2)
	limits := childLimits{cpu: namesCPU, data: namesMemory}
	if err := limits.confine(slices.Concat(childCalls, namesCalls)); err != nil {
		return fmt.Errorf("names-child: %w", err)
	}
	var asked []containers.Runtime
	for i, kind := range c.Runtime {
		f := os.NewFile(uintptr(namesFD+i), string(kind))
		if f == nil {
			return errors.New("names-child is started by others")
		}
		conn, err := net.FileConn(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("names-child is started by others: %w", err)
		}
		asked = append(asked, containers.Runtime{Kind: kind, Conn: conn})
	}
	found, err := containers.Ask(context.Background(), asked, c.IDs)
	report := namesReport{Containers: found}
	if err != nil {
		report.Err = oneLine(err)
	}
	return json.NewEncoder(g.stdout).Encode(report)
}
