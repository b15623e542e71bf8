package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"pilotlight/cmd/pilotlight/agent"
	"pilotlight/symbolize"
	"pilotlight/symbolize/debuginfod"
)

// Servers of debug information are asked by a child without privileges, as no byte of HTTP is parsed as root. It
// writes what it got to a file that it was given; the index child reads that.

// debuginfodFlags are the flags of everything that looks for debug information. It is off by default: the servers
// learn which programs run here.
type debuginfodFlags struct {
	Debuginfod bool `help:"Get debug information that is not on this machine from the servers in DEBUGINFOD_URLS. They learn the build IDs of what runs here."`
}

// open returns what asks the servers, nil if nobody is to be asked.
func (f debuginfodFlags) open(cache string, g *globals) (agent.FetchDebug, error) {
	if !f.Debuginfod {
		return nil, nil
	}
	urls := os.Getenv("DEBUGINFOD_URLS")
	switch parsed, err := debuginfod.ParseURLs(urls); {
	case err != nil:
		return nil, fmt.Errorf("DEBUGINFOD_URLS: %w", err)
	case len(parsed) == 0:
		return nil, errors.New("DEBUGINFOD_URLS names no server: set it, or leave out --debuginfod")
	}
	fetch := func(ctx context.Context, id debuginfod.BuildID, out *os.File) error {
		return fetchFile(ctx, id, out, g.version)
	}
	c, err := debuginfod.OpenCache(filepath.Join(cache, debuginfodName), fetch, debuginfod.CacheOptions{})
	if err != nil {
		return nil, err
	}
	return c.Open, nil
}

// debuginfodName is the directory, within the cache directory, of what servers sent.
const debuginfodName = "debuginfod"

// fetchOutFD is the descriptor of the file that the child is to fill.
const fetchOutFD = 3

const (
	// maxFetch bounds a file: the largest of Debian, of browsers, have some 1.5 GB.
	maxFetch = 2 << 30
	// fetchTime bounds the time of all servers together, fetchCPU the child's CPU time and fetchMemory its memory.
	fetchTime   = 10 * time.Minute
	fetchCPU    = time.Minute
	fetchMemory = 200 << 20
)

// fetchReport is how the child went, if it was told what there is.
type fetchReport struct {
	Absent, TooLarge bool
}

// fetchFile is a debuginfod.Fetch that has a child do it.
func fetchFile(ctx context.Context, id debuginfod.BuildID, out *os.File, version string) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTime+time.Minute) // the child ends itself
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "fetch-child", "--agent", "pilotlight/"+version, string(id))
	cmd.Args[0] = "pilotlight"
	cmd.Env = environment(append([]string{"DEBUGINFOD_URLS"}, httpEnv...))
	cmd.ExtraFiles = []*os.File{out}
	said, diagnosis := capped{limit: 4 << 10}, capped{limit: 4 << 10}
	cmd.Stdout, cmd.Stderr = &said, &diagnosis
	owner, err := otherUser()
	if err != nil {
		return err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	if err := startWithoutPrivileges(cmd); err != nil {
		return fmt.Errorf("start fetch child: %w", err)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("fetch child: %w: %q", err, diagnosis.Bytes())
	}
	var report fetchReport
	switch err := json.Unmarshal(said.Bytes(), &report); {
	case err != nil:
		return fmt.Errorf("fetch child's report: %w", err)
	case report.Absent:
		return debuginfod.ErrNotFound
	case report.TooLarge:
		return debuginfod.ErrTooLarge
	}
	return nil
}

// fetchChildCmd is the child.
type fetchChildCmd struct {
	Agent   string `required:"" env:"-"`
	BuildID string `arg:"" name:"build-id"`
}

func (c *fetchChildCmd) Run(g *globals) error {
	id, err := debuginfod.ParseBuildID(c.BuildID)
	if err != nil {
		return err
	}
	urls, err := debuginfod.ParseURLs(os.Getenv("DEBUGINFOD_URLS"))
	if err != nil {
		return err
	}
	debug.SetMemoryLimit(fetchMemory / 2)
	limits := childLimits{cpu: fetchCPU, data: fetchMemory, file: maxFetch}
	if err := limits.confine(slices.Concat(childCalls, networkCalls)); err != nil {
		return fmt.Errorf("fetch-child: %w", err)
	}
	out := os.NewFile(fetchOutFD, "debug information")
	if out == nil {
		return errors.New("fetch-child is started by others")
	}
	client := debuginfod.NewClient(urls, debuginfod.ClientOptions{
		MaxBytes: maxFetch, Timeout: fetchTime, UserAgent: c.Agent, Proxy: http.ProxyFromEnvironment,
	})
	n, err := client.Download(context.Background(), id, out)
	report := fetchReport{Absent: errors.Is(err, debuginfod.ErrNotFound), TooLarge: errors.Is(err, debuginfod.ErrTooLarge)}
	if err == nil {
		err = checkFetched(out, n, id)
	}
	if err != nil && report == (fetchReport{}) {
		return err
	}
	return json.NewEncoder(g.stdout).Encode(report)
}

// checkFetched holds that a server sent what it was asked for.
func checkFetched(f *os.File, size int64, id debuginfod.BuildID) error {
	links, err := symbolize.ReadDebugLinks(f, size)
	if err != nil {
		return fmt.Errorf("what a debuginfod server sent: %w", err)
	}
	want, err := hex.DecodeString(string(id))
	if err == nil && !bytes.Equal(links.BuildID, want) {
		err = fmt.Errorf("a debuginfod server sent the file with build ID %x for %s", links.BuildID, id)
	}
	return err
}
