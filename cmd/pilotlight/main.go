// Pilotlight profiles the CPU use of a whole machine, all the time.
package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"pilotlight/bpf"
)

// version is set by the linker; a build without it says what Go knows of the commit.
var version string

// started is when the process began, as far as Go can tell.
var started = time.Now()

// cli is the command line. Every flag can be given in the environment too, as
// PILOTLIGHT_ and its name; the flag wins.
type cli struct {
	LogLevel slog.Level       `help:"Least level that is logged: debug, info, warn or error." default:"info" placeholder:"LEVEL"`
	Version  kong.VersionFlag `help:"Print the version and exit." env:"-"`

	Run     runCmd     `cmd:"" help:"Profile this machine, keep the profiles and serve them to browsers and go tool pprof."`
	Agent   agentCmd   `cmd:"" help:"Profile this machine and send the profiles to a server."`
	Server  serverCmd  `cmd:"" help:"Keep the profiles that agents send, and serve them."`
	Record  recordCmd  `cmd:"" help:"Profile for a while and write a file for pprof or another tool."`
	Query   queryCmd   `cmd:"" help:"Ask a server or a data directory for what is stored, or a pprof file."`
	Diff    diffCmd    `cmd:"" help:"Compare profiles; for tests that are to fail when something got slower."`
	Doctor  doctorCmd  `cmd:"" help:"Say whether this machine can be profiled, and what mends it if not."`
	Health  healthCmd  `cmd:"" help:"Say whether the Pilotlight of this machine answers; for container runtimes."`
	Inspect inspectCmd `cmd:"" help:"Show what Pilotlight sees in a file, a process or a data directory."`
	Vers    versionCmd `cmd:"" name:"version" help:"Print the version."`

	Store storeCmd      `cmd:"" name:"store-half" hidden:"" help:"The unprivileged half of run, which starts it."`
	Send  sendCmd       `cmd:"" name:"send-half" hidden:"" help:"The unprivileged half of agent, which starts it."`
	Serve serverHalfCmd `cmd:"" name:"server-half" hidden:"" help:"What a server that was started as root becomes."`
	Index indexChildCmd `cmd:"" name:"index-child" hidden:"" help:"Indexes debug information for those who start it."`
	Fetch fetchChildCmd `cmd:"" name:"fetch-child" hidden:"" help:"Gets debug information over HTTP for those who start it."`
	Names namesChildCmd `cmd:"" name:"names-child" hidden:"" help:"Asks container runtimes for those who start it."`
	JVMs  jvmsChildCmd  `cmd:"" name:"jvms-child" hidden:"" help:"Has JVMs asked for those who start it."`
	JVM   jvmChildCmd   `cmd:"" name:"jvm-child" hidden:"" help:"Asks a JVM for those who start it."`
}

// globals is what every command gets.
type globals struct {
	stdout, stderr io.Writer
	log            *slog.Logger
	logLevel       slog.Level
	version        string
}

// exitError ends the program with a status and says nothing more.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func main() {
	if version == "" {
		version = buildVersion()
	}
	stdout, stderr := forTerminal(os.Stdout), forTerminal(os.Stderr)
	var c cli
	parsed, err := kong.Must(&c,
		kong.Name("pilotlight"),
		kong.Description("An always-on profiler of the whole machine."),
		kong.DefaultEnvars("PILOTLIGHT"),
		kong.Vars{"version": version},
	).Parse(os.Args[1:])
	if err != nil {
		fmt.Fprintf(stderr, "pilotlight: %s: see %s --help\n", oneLine(err), asked(err))
		os.Exit(2)
	}
	g := &globals{
		stdout:   stdout,
		stderr:   stderr,
		log:      slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: c.LogLevel})),
		version:  version,
		logLevel: c.LogLevel,
	}
	if err := parsed.Run(g); err != nil {
		var code exitError
		if errors.As(err, &code) {
			os.Exit(int(code))
		}
		fmt.Fprintf(stderr, "pilotlight: %s\n", oneLine(err))
		os.Exit(1)
	}
}

// oneLine writes an error in one line: those that were joined have several, and
// the verifier's.
func oneLine(err error) string {
	return strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
}

// asked is the command that a command line got right before it went wrong.
func asked(err error) string {
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil && parse.Context.Selected() != nil {
		return parse.Context.Selected().FullPath()
	}
	return "pilotlight"
}

// buildVersion is the commit that the binary was built from, or "devel".
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	revision, modified := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "-dirty"
		}
	}
	if revision == "" {
		return "devel"
	}
	return revision + modified
}

// hertz is a sampling frequency that is possible.
type hertz int

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *hertz) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 || n > bpf.MaxFrequency {
		return fmt.Errorf("%.40q: choose 1 to %d samples per second", text, bpf.MaxFrequency)
	}
	*h = hertz(n)
	return nil
}

type versionCmd struct{}

func (versionCmd) Run(g *globals) error {
	_, err := fmt.Fprintln(g.stdout, g.version)
	return err
}
