package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// serverCmd keeps and serves the profiles that agents send. It is a store half without an agent half.
type serverCmd struct {
	Listen string `help:"Address of the web page and the API." default:"127.0.0.1:7100" placeholder:"HOST:PORT"`
	Data   string `help:"Directory of the profiles. Default: /var/lib/pilotlight as root, else below XDG_STATE_HOME." placeholder:"DIR"`
	storeFlags
	serveFlags
}

// Run prepares what takes privileges, if there are any, and serves without them: as root by beginning anew as another
// user, in the same process, so that a service manager goes on to know it.
func (c *serverCmd) Run(g *globals) error {
	data, err := dataDir(c.Data)
	if err != nil {
		return err
	}
	owner, err := otherUser()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return explainListen(c.Listen, err)
	}
	if err := makeDataDir(data, owner); err != nil {
		return err
	}
	half := storeCmd{Data: data, storeFlags: c.storeFlags, serveFlags: c.serveFlags}
	if owner == nil {
		if err := os.Chdir(data); err != nil {
			return explainData(data, err)
		}
		if err := keepCapabilities(nil, nil); err != nil {
			return err
		}
		return half.serveAlone(g, listener)
	}
	socket, err := listener.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	dir, err := os.OpenFile(data, unix.O_DIRECTORY, 0)
	if err != nil {
		return explainData(data, err)
	}
	passed, err := passOn(socket, dir)
	if err != nil {
		return err
	}
	args := slices.Concat([]string{
		"pilotlight", "server-half", "--data", data, "--log-level", g.logLevel.String(), "--listener", fmt.Sprint(passed[0]), "--directory", fmt.Sprint(passed[1]),
	}, c.storeFlags.args(), c.serveFlags.args())
	return becomeWithoutPrivileges(owner, args, environment([]string{"PATH", "GOMEMLIMIT", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}))
}

// serverHalfCmd is what a server that was started as root becomes.
type serverHalfCmd struct {
	storeCmd
	Listener, Directory uint `required:""` // descriptors that it inherits
}

func (c *serverHalfCmd) Run(g *globals) error {
	h, err := openHalf(g, c.Data, uintptr(c.Listener), uintptr(c.Directory), c.open)
	if err != nil {
		return err
	}
	return h.serveAlone(g, c.scheme())
}

// serveAlone opens the store in the working directory and serves it.
func (c *storeCmd) serveAlone(g *globals, listener net.Listener) error {
	h, err := c.open(g, listener)
	if err != nil {
		return err
	}
	return h.serveAlone(g, c.scheme())
}

// serveAlone serves until this process is asked to end.
func (h *half) serveAlone(g *globals, scheme string) error {
	manager, err := findServiceManager(g.log)
	if err != nil {
		return err
	}
	h.attached.Store(true) // there is no sampler to wait for
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	end := make(chan error, 1)
	context.AfterFunc(ctx, func() {
		manager.stopping()
		end <- nil
	})
	g.log.Info("serving", "url", scheme+"://"+h.listener.Addr().String())
	manager.ready()
	go manager.watch(ctx, h.healthy)
	return h.serve(end)
}

// healthy reports whether a request is answered.
func (h *half) healthy() bool {
	client := http.Client{Transport: inProcess{h.server.Handler}}
	answer, err := client.Get("http://localhost/-/healthy")
	if err != nil {
		return false
	}
	answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// becomeWithoutPrivileges has this process begin anew with other arguments and environment, as user and without
// capabilities. It returns only if that fails.
func becomeWithoutPrivileges(user *syscall.Credential, args, env []string) error {
	return onLostThread(func() error {
		if err := giveUpThreadsPrivileges(true); err != nil {
			return err
		}
		// Of this thread alone: the others end when it calls exec.
		for _, call := range [][4]uintptr{
			{unix.SYS_SETGROUPS}, {unix.SYS_SETRESGID, uintptr(user.Gid), uintptr(user.Gid), uintptr(user.Gid)},
			{unix.SYS_SETRESUID, uintptr(user.Uid), uintptr(user.Uid), uintptr(user.Uid)},
		} {
			if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
				return fmt.Errorf("become user %d: %w", user.Uid, errno)
			}
		}
		return fmt.Errorf("begin anew as user %d: %w", user.Uid, unix.Exec("/proc/self/exe", args, env))
	})
}

// passOn returns descriptors of files for what this process executes next. They are new ones: in a place of its choice,
// one may be of the Go runtime, whose threads run until then.
func passOn(files ...*os.File) ([]int, error) {
	passed := make([]int, len(files))
	for i, f := range files {
		var err error
		if passed[i], err = unix.FcntlInt(f.Fd(), unix.F_DUPFD, 0); err != nil {
			return nil, fmt.Errorf("pass on %s: %w", f.Name(), err)
		}
	}
	return passed, nil
}
