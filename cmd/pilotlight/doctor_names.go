package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"pilotlight/cmd/pilotlight/config"
)

// checkConfiguration says whether the configuration file, which was opened with that error, is right.
func checkConfiguration(c *configuration, err error) check {
	const name = "configuration"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return check{name, statusFail, oneLine(err), "name the file that is meant with --config"}
	case errors.Is(err, fs.ErrPermission):
		return check{name, statusFail, oneLine(err), "let the agent's user read it"}
	case err != nil:
		return check{name, statusFail, oneLine(err), "mend that line"}
	case c.optional:
		return check{Name: name, Status: statusOK, Detail: c.path + " is not there, and need not be"}
	}
	return check{Name: name, Status: statusOK, Detail: fmt.Sprintf("%s: relabel_configs has %d rules", c.path, len(c.current.RelabelConfigs))}
}

// runtimesMend lets the agent ask a runtime that is there, or not try to.
const runtimesMend = `put the agent's user into the group of the socket, which is as good as root for docker's; restart one that was started as root before the runtime was; or have runtimes: {%s: ""} in the configuration`

// checkRuntimes says whether containers can be named: whether the agent may connect to the sockets of runtimes, which
// access tells.
func checkRuntimes(sockets []runtimeSocket, access func(path string) error) check {
	c := check{Name: "container runtimes", Status: statusOK}
	var found []string
	for _, s := range sockets {
		path := s.find()
		if path == "" {
			continue
		}
		found = append(found, fmt.Sprintf("%s at %s", s.kind, path))
		if err := access(path); err != nil && c.Status == statusOK {
			c = check{c.Name, statusWarn, fmt.Sprintf("%s: %v: its containers have no names", path, err), fmt.Sprintf(runtimesMend, s.kind)}
		}
	}
	switch {
	case c.Status != statusOK:
	case found == nil:
		c.Detail = "none is here"
	default:
		c.Detail = strings.Join(found, ", ")
	}
	return c
}

// mayConnect tells whether this process may connect to a socket. It does not: the service of one may be one that is
// started by that.
func mayConnect(path string) error {
	return unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS)
}

// find returns the first of the paths that is there, or "".
func (s runtimeSocket) find() string {
	for _, path := range s.paths {
		if exists(path) {
			return path
		}
	}
	return ""
}

// checkNames looks at all that processes are named by.
func checkNames(f configFlags, g *globals) []check {
	c, err := f.open(g)
	runtimes := config.Runtimes{}
	if err == nil {
		runtimes = c.current.Runtimes
	}
	return []check{checkConfiguration(c, err), checkRuntimes(runtimeSockets(runtimes), mayConnect)}
}
