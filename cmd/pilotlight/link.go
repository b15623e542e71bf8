package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"pilotlight/cmd/pilotlight/agent"
	"pilotlight/profilestore"
)

// The link joins the agent half, which has capabilities, and the other half, which
// speaks HTTP and has none. It is a socket pair. The agent half believes nothing
// that comes over it: it reads answers of a fixed form and a bounded size.
//
// A message to the other half:
//
//	u8 kind | u32 length | payload
//
// An answer, to messageBatch and once after start with sequence 0:
//
//	u64 sequence | u8 result | u16 length | error text
//
// All numbers are big-endian. The n-th messageBatch has sequence n. When the
// agent half is done it sends messageEnd; a link that ends without one means
// that it died.
const (
	messageBatch   = 1 // profilestore.MarshalBatch
	messageReport  = 2 // JSON, httpapi.AgentReport
	messageMetrics = 3 // delimited protobuf, the agent half's metrics
	messageReady   = 4 // the sampler is attached
	messageEnd     = 5
)

// Results in an answer.
const (
	resultFailed  = 0
	resultStored  = 1 // durably, here or elsewhere
	resultRefused = 2 // for what is in the batch
)

const (
	linkHeader = 5
	// maxMessage bounds what the other half takes at once: far more than the
	// profiles of one window.
	maxMessage = 256 << 20
	maxAnswer  = 1 << 10
)

// agentLink is the agent half's end. It is an agent.Appender.
type agentLink struct {
	conn net.Conn

	write    sync.Mutex // guards writing to conn and sequence
	sequence uint64

	answers chan answer   // of batches
	started chan struct{} // gets one value when the other half has started
	broken  chan struct{} // closed when no answer can come any more
	refused error         // why it did not start, if it said so; set before broken is closed
}

// errPeerGone is the error of all that is asked of another half that has ended.
// Why it did, peer.stop tells.
var errPeerGone = errors.New("the other half is gone")

type answer struct {
	sequence uint64
	err      error
}

func newAgentLink(conn net.Conn) *agentLink {
	l := &agentLink{
		conn:    conn,
		answers: make(chan answer, 16),
		started: make(chan struct{}, 1),
		broken:  make(chan struct{}),
	}
	go l.read()
	return l
}

// read takes the answers off the link until it ends.
func (l *agentLink) read() {
	defer close(l.broken)
	in := bufio.NewReader(l.conn)
	for {
		a, err := readAnswer(in)
		if err != nil {
			return
		}
		if a.sequence == 0 {
			if a.err != nil {
				l.refused = a.err
				return
			}
			select {
			case l.started <- struct{}{}:
			default: // it starts once
			}
			continue
		}
		select {
		case l.answers <- a:
		default: // nobody waits any more for one so old
		}
	}
}

func readAnswer(r io.Reader) (answer, error) {
	var head [11]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return answer{}, err
	}
	a := answer{sequence: binary.BigEndian.Uint64(head[:])}
	n := binary.BigEndian.Uint16(head[9:])
	if n > maxAnswer {
		return answer{}, fmt.Errorf("answer of %d bytes, want at most %d", n, maxAnswer)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return answer{}, err
	}
	switch head[8] {
	case resultStored:
	case resultRefused:
		a.err = &profilestore.Error{Code: profilestore.BadRequest, Message: string(text)}
	default:
		a.err = errors.New(string(text))
	}
	return a, nil
}

func appendAnswer(b []byte, sequence uint64, err error) []byte {
	result, text := byte(resultStored), ""
	if err != nil {
		result, text = resultFailed, err.Error()
		text = text[:min(len(text), maxAnswer)]
	}
	if agent.Refused(err) {
		result = resultRefused
	}
	b = binary.BigEndian.AppendUint64(b, sequence)
	b = append(b, result)
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	return append(b, text...)
}

// message is one to the other half.
type message struct {
	kind    byte
	payload []byte
}

// send writes messages, at once so that the other half wakes up once. When ctx is done before they are written, the link
// ends.
func (l *agentLink) send(ctx context.Context, messages ...message) error {
	l.write.Lock()
	defer l.write.Unlock()
	return l.sendLocked(ctx, messages...)
}

func (l *agentLink) sendLocked(ctx context.Context, messages ...message) error {
	var buffers net.Buffers
	for _, m := range messages {
		if len(m.payload) > maxMessage {
			return fmt.Errorf("message of %d bytes to the other half, at most %d are taken", len(m.payload), maxMessage)
		}
		buffers = append(buffers, binary.BigEndian.AppendUint32([]byte{m.kind}, uint32(len(m.payload))), m.payload)
	}
	err := l.conn.SetWriteDeadline(time.Time{})
	if errors.Is(err, net.ErrClosed) {
		return errPeerGone
	}
	if err != nil {
		return fmt.Errorf("write to other half: %w", err)
	}
	interrupted := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { interrupted <- l.conn.SetWriteDeadline(time.Unix(1, 0)) })
	_, err = buffers.WriteTo(l.conn)
	if !stop() {
		err = errors.Join(err, <-interrupted) // or it would interrupt the next write
	}
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		<-l.broken // soon: read comes to the end of what was answered before
		return errPeerGone
	}
	if err != nil {
		// Half a message may have gone out: the other end cannot find the next.
		return errors.Join(fmt.Errorf("write to other half: %w", err), l.conn.Close())
	}
	return nil
}

// Append implements agent.Appender. The profiles are durable when it returns nil: in the store, here or on a server, or in
// the spool.
func (l *agentLink) Append(ctx context.Context, batch []profilestore.Encoded) error {
	payload := profilestore.MarshalBatch(nil, batch)
	l.write.Lock()
	l.sequence++
	sequence := l.sequence
	err := l.sendLocked(ctx, message{messageBatch, payload})
	l.write.Unlock()
	if err != nil {
		return err
	}
	for {
		select {
		case a := <-l.answers:
			if a.sequence == sequence {
				return a.err
			}
		case <-l.broken:
			return errPeerGone
		case <-ctx.Done():
			return fmt.Errorf("wait for other half: %w", ctx.Err())
		}
	}
}

// end tells the other half to end in good order. It does, or is killed,
// before the deadline of ctx.
func (l *agentLink) end(ctx context.Context) error {
	err := l.send(ctx, message{messageEnd, nil})
	select {
	case <-l.broken:
	case <-ctx.Done():
		err = errors.Join(err, fmt.Errorf("other half does not end: %w", ctx.Err()))
	}
	return errors.Join(err, l.conn.Close())
}

// readMessage reads one message of the agent half.
func readMessage(r io.Reader) (kind byte, payload []byte, err error) {
	var head [linkHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxMessage {
		return 0, nil, fmt.Errorf("message of %d bytes, want at most %d", n, maxMessage)
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, err
	}
	return head[0], payload, nil
}

// socketPair returns the two ends of a link: a connection, and the file that the
// other half is to inherit.
func socketPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	end := os.NewFile(uintptr(fds[0]), "link")
	theirs = os.NewFile(uintptr(fds[1]), "link")
	ours, err = net.FileConn(end)
	if err := errors.Join(err, end.Close()); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make socket pair: %w", err), theirs.Close())
	}
	return ours, theirs, nil
}
