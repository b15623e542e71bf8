package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"golang.org/x/sys/unix"

	"pilotlight/bpf"
	"pilotlight/cmd/pilotlight/agent"
)

// stopTimeout is how long the other half may take to end in good order. With the
// agent's last window before it, that is less than 5 s.
const stopTimeout = 2 * time.Second

// peerOptions say what the other half is to be.
type peerOptions struct {
	name   string   // as people read it: "store half"
	verb   string   // of its command line
	data   string   // its directory
	listen string   // the address at which it serves HTTP
	flags  []string // besides
	env    []string // besides
	counts bool     // what it takes is the agent's cost; else that of those who ask it
}

// peer is the other half, as the agent half has it.
type peer struct {
	name   string
	counts bool // as in peerOptions
	cmd    *exec.Cmd
	link   *agentLink
	log    *slog.Logger
}

// Files that the other half inherits.
const (
	linkFD     = 3
	listenerFD = 4
	dataFD     = 5
)

// startPeer starts the other half as owner; nil: as this user.
func startPeer(listener *net.TCPListener, owner *syscall.Credential, o peerOptions, g *globals) (*peer, error) {
	conn, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	socket, err := listener.File()
	if err != nil {
		return nil, fmt.Errorf("pass on listener: %w", err)
	}
	defer socket.Close()
	if err := listener.Close(); err != nil { // the child's copy goes on listening
		return nil, fmt.Errorf("pass on listener: %w", err)
	}
	dir, err := os.OpenFile(o.data, unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("data directory: %w: name another with --data", err), conn.Close())
	}
	defer dir.Close()

	cmd := exec.Command("/proc/self/exe", append([]string{o.verb, "--data", o.data, "--log-level", g.logLevel.String()}, o.flags...)...)
	cmd.Args[0] = "pilotlight"
	cmd.Env = append([]string{"PATH=/usr/bin:/bin"}, o.env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs, socket, dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	if err := startWithoutPrivileges(cmd); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", o.name, err), conn.Close())
	}
	return &peer{name: o.name, counts: o.counts, cmd: cmd, link: newAgentLink(conn), log: g.log}, nil
}

// reportFirstSample has the metrics tell that the sampler works before the first
// window is over, once there is somebody to be told. Later, reports do.
func (p *peer) reportFirstSample(ctx context.Context, s *bpf.Sampler, metrics prometheus.Gatherer, serving <-chan struct{}) {
	select {
	case <-serving:
	case <-ctx.Done():
		return
	}
	ctx, cancel := context.WithTimeout(ctx, agent.Window)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if st, err := s.Stats(); err != nil || st.Taken > 0 {
			break
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	p.log.Info("first sample taken", "after", time.Since(started).Round(time.Millisecond))
	if err := p.sendWithMetrics(ctx, metrics); err != nil {
		p.log.Warn("report to other half", "err", err)
	}
}

// report tells the other half how the agent does.
func (p *peer) report(r agent.Report, metrics prometheus.Gatherer) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	report, err := json.Marshal(agentReport(r))
	if err == nil {
		err = p.sendWithMetrics(ctx, metrics, message{messageReport, report})
	}
	if err != nil && !errors.Is(err, errPeerGone) { // stop says why
		p.log.Warn("report to other half", "err", err)
	}
}

// sendWithMetrics sends messages and the metrics.
func (p *peer) sendWithMetrics(ctx context.Context, metrics prometheus.Gatherer, messages ...message) error {
	families, err := metrics.Gather()
	if err != nil {
		return err
	}
	var encoded bytes.Buffer
	enc := expfmt.NewEncoder(&encoded, expfmt.NewFormat(expfmt.TypeProtoDelim))
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			return err
		}
	}
	return p.link.send(ctx, append(messages, message{messageMetrics, encoded.Bytes()})...)
}

// stop ends the other half in good order, or else at once.
func (p *peer) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	// One that stands still does not end by itself, whatever became of the link.
	kill := time.AfterFunc(stopTimeout, func() {
		if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			p.log.Error("kill other half", "err", err)
		}
	})
	defer kill.Stop()
	select {
	case <-p.link.broken: // it ended by itself
		err := p.link.conn.Close()
		if errors.Is(err, net.ErrClosed) {
			err = nil // a write to it had to be cut off
		}
		exit := p.cmd.Wait()
		switch {
		case p.link.refused != nil:
			exit = p.link.refused
		case exit != nil:
			exit = fmt.Errorf("%s ended: %w: start pilotlight again; what was acknowledged is kept", p.name, exit)
		default:
			exit = fmt.Errorf("%s ended without being asked to: start pilotlight again; what was acknowledged is kept", p.name)
		}
		return errors.Join(exit, err)
	default:
	}
	if err := p.link.end(ctx); err != nil {
		return errors.Join(err, p.cmd.Wait())
	}
	return p.cmd.Wait()
}
