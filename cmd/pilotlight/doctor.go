package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"pilotlight/cmd/pilotlight/agent"
)

// doctorCmd says whether Pilotlight can work on this machine and, where it cannot, what mends it. It changes
// nothing: the sampler is loaded and unloaded, the data directory is not made.
//
// With --json it prints one object:
//
//	{"ok": false, "checks": [
//	  {"name": "cap_bpf", "status": "fail", "detail": "missing: the sampler cannot be loaded", "mend": "start it with sudo; ..."},
//	  ...]}
//
// ok is false if at least one status is "fail"; the exit code is then 1. Every check is there exactly once, in the
// same order on every machine. status is "ok", "warn" (it works, but worse, or it could not be tried) or "fail".
// detail is one line. mend is the command or setting that mends it, and is empty exactly where status is "ok".
type doctorCmd struct {
	Data  string `help:"Data directory to look at. Default: the one of run." placeholder:"DIR"`
	Cache string `help:"Cache directory to look at. Default: the one of run." placeholder:"DIR"`
	JSON  bool   `name:"json" help:"Print JSON."`
	configFlags
}

// status is how a check ended.
type status string

const (
	statusOK   status = "ok"
	statusWarn status = "warn"
	statusFail status = "fail"
)

// check is the result of looking at one thing.
type check struct {
	Name   string `json:"name"`
	Status status `json:"status"`
	Detail string `json:"detail"`
	Mend   string `json:"mend"`
}

// Run prints the checks. It returns exitError(1) if one fails.
func (c *doctorCmd) Run(g *globals) error {
	checks, err := c.examine(g)
	if err != nil {
		return err
	}
	failed := slices.ContainsFunc(checks, func(c check) bool { return c.Status == statusFail })
	if c.JSON {
		out := json.NewEncoder(g.stdout)
		out.SetEscapeHTML(false)
		out.SetIndent("", "  ")
		err = out.Encode(struct {
			OK     bool    `json:"ok"`
			Checks []check `json:"checks"`
		}{!failed, checks})
	} else {
		err = printChecks(g.stdout, checks)
	}
	if err != nil {
		return fmt.Errorf("print checks: %w", err)
	}
	if failed {
		return exitError(1)
	}
	return nil
}

// printChecks writes a line a check, and below it its mend. Neighbours that one thing mends share its line.
func printChecks(w io.Writer, checks []check) error {
	width := 0
	for _, c := range checks {
		width = max(width, len(c.Name))
	}
	out := bufio.NewWriter(w)
	for i, c := range checks {
		fmt.Fprintf(out, "%-4s  %-*s  %s\n", c.Status, width, c.Name, c.Detail)
		shared := i+1 < len(checks) && checks[i+1].Mend == c.Mend
		if c.Mend != "" && !shared {
			fmt.Fprintf(out, "      %-*s  mend: %s\n", width, "", c.Mend)
		}
	}
	return out.Flush()
}

// examine looks at the machine.
func (c *doctorCmd) examine(g *globals) ([]check, error) {
	root := os.DirFS("/")
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the path of this program: %w", err)
	}
	selfStatus, err := fs.ReadFile(root, "proc/self/status")
	if err != nil {
		return nil, fmt.Errorf("read the capabilities: %w: mount /proc", err)
	}
	caps, err := parseCapabilities(string(selfStatus))
	if err != nil {
		return nil, fmt.Errorf("read the capabilities: /proc/self/status: %w", err)
	}
	data, err := dataDir(c.Data)
	if err != nil {
		return nil, err
	}
	cache, err := cacheDir(c.Cache)
	if err != nil {
		return nil, err
	}
	owner, err := otherUser()
	if err != nil {
		return nil, err
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return nil, fmt.Errorf("read the limit of open files: %w", err)
	}

	pidNamespace, userNamespace := checkPIDNamespace(root), checkUserNamespace(root)
	caps.confined = userNamespace.Status != statusOK
	checks := []check{checkKernel(root), checkBTF(root), pidNamespace, userNamespace}
	checks = append(checks, checkCapabilities(caps, exe)...)
	checks = append(checks,
		checkParanoid(root, caps, exe),
		checkPerfEvent(openClockEvent(root), caps, exe),
		checkFeatures(probeFeatures(), caps, exe),
		checkSampler(trySampler, caps, exe),
		checkKallsyms(root, caps, exe),
		checkMemory(root),
		checkDisk(lookAtDisk(data, owner)),
		checkCache(lookAtDisk(cache, nil), agent.CheckCacheDir(cache, agentUser(owner))),
		checkFiles(files.Cur, runtime.NumCPU()),
	)
	return append(checks, checkNames(c.configFlags, g)...), nil
}

// agentUser is who the agent runs as once it samples.
func agentUser(other *syscall.Credential) int {
	if other == nil {
		return os.Geteuid()
	}
	return int(other.Uid)
}

// text reads a small file of /proc or /sys without the spaces around it.
func text(root fs.FS, name string) (string, error) {
	b, err := fs.ReadFile(root, name)
	return strings.TrimSpace(string(b)), err
}
