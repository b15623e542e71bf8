package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"pilotlight/profilestore"
)

// bodyFunc is a handler of a request whose body is here.
type bodyFunc func(http.ResponseWriter, *http.Request, *body) error

// taking reads a body of up to sent bytes, inflated bytes unpacked, before anything else: a slow client takes
// no place.
func (a *api) taking(sent, inflated int64, next bodyFunc) http.Handler {
	return errorFunc(func(w http.ResponseWriter, r *http.Request) error {
		held := a.bodies.share()
		defer held.release()
		b, err := a.readBody(w, r, sent, inflated, held)
		if err != nil {
			return err
		}
		return next(w, r, b)
	})
}

// pushing bounds in number and time what stores profiles.
func (a *api) pushing(next bodyFunc) http.Handler {
	return a.taking(maxBody, maxInflated, func(w http.ResponseWriter, r *http.Request, b *body) error {
		if err := a.pushes.take(r.Context()); err != nil {
			return err
		}
		defer a.pushes.leave()
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		return next(w, r.WithContext(ctx), b)
	})
}

// Media types of Connect's messages.
const (
	messageProto = "application/proto"
	messageJSON  = "application/json"
)

// messageType is the media type of a request, without its parameters; "" if it has none that can be read.
func messageType(r *http.Request) string {
	name, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return name
}

// messages refuses what is not a message of the Connect protocol. Connect reads gRPC too, where a message is packed by
// itself, inside of the body.
func messages(next bodyFunc) bodyFunc {
	return func(w http.ResponseWriter, r *http.Request, b *body) error {
		if name := messageType(r); name != messageProto && name != messageJSON {
			return badRequest("", "content type %.40q: send %s or %s, as the Connect protocol has it", r.Header.Get("Content-Type"), messageProto, messageJSON)
		}
		return next(w, r, b)
	}
}

// connected has connect read a body that was inflated already: past its own limit it reads on to the end of the
// stream in the hope of using the connection again, which a bomb never reaches.
func connected(unary http.Handler) bodyFunc {
	return func(w http.ResponseWriter, r *http.Request, b *body) error {
		r.Header.Del("Content-Encoding")
		r.ContentLength = b.size
		r.Body = io.NopCloser(&b.chunks)
		unary.ServeHTTP(w, r)
		return nil
	}
}

func tooLarge(what string, limit int64) *profilestore.Error {
	return &profilestore.Error{Code: profilestore.PayloadTooLarge, Message: fmt.Sprintf("%s above %d MB: send fewer or smaller profiles in one push", what, limit>>20)}
}

// body is a body in pieces: one slice that doubles as it grows would take, with what it leaves behind, several
// times as much.
type body struct {
	chunks net.Buffers
	size   int64
}

// readFrom reads to the end, or until there is more than limit. What it keeps it takes from held.
func (b *body) readFrom(rd io.Reader, limit int64, held *share) error {
	const first, largest = 32 << 10, 4 << 20
	for next := first; b.size <= limit; next = min(2*next, largest) {
		if err := held.take(int64(next)); err != nil {
			return err
		}
		chunk := make([]byte, next)
		n, err := 0, error(nil)
		for n < len(chunk) && err == nil {
			var m int
			m, err = rd.Read(chunk[n:])
			n += m
		}
		b.chunks, b.size = append(b.chunks, chunk[:n]), b.size+int64(n)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// limitBody is http.MaxBytesReader with the server's own writer, which alone knows how to keep a connection open
// until the client has read that its body was refused.
func limitBody(r *http.Request, limit int64) io.ReadCloser {
	return http.MaxBytesReader(recordOf(r.Context()).ResponseWriter, r.Body, limit)
}

// pacedBody is a body that has to come at some speed: slowestBytes in a.patience.
type pacedBody struct {
	io.Reader
	rc       *http.ResponseController
	patience time.Duration
	end      time.Time // of all patience
	left     int       // bytes until the next deadline
	read     int64     // bytes so far
}

func (p *pacedBody) Read(b []byte) (int, error) {
	if p.left <= 0 {
		if err := p.deadline(earlier(time.Now().Add(p.patience), p.end)); err != nil {
			return 0, err
		}
		p.left = slowestBytes
	}
	n, err := p.Reader.Read(b)
	p.left -= n
	p.read += int64(n)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = &profilestore.Error{Code: profilestore.BadRequest, Message: fmt.Sprintf("the body comes too slowly: send at least %d KB every %v", slowestBytes>>10, p.patience), Err: err}
	case err == io.EOF:
		// What follows has a limit of its own, and a deadline that passes would end the request.
		if derr := p.deadline(time.Time{}); derr != nil {
			return n, derr
		}
	}
	return n, err
}

func (p *pacedBody) deadline(t time.Time) error {
	err := p.rc.SetReadDeadline(t)
	if errors.Is(err, http.ErrNotSupported) {
		return nil // not a connection
	}
	return err
}

// bombReader ends bodies that are small as they are sent and huge as they are read before they are all in
// memory. What is sent here in earnest packs to a tenth: pprof, text, and mostly what is packed already.
type bombReader struct {
	io.Reader
	sent     *pacedBody
	inflated int64
}

const (
	bombBytes = 4 << 20
	bombRatio = 100
)

func (b *bombReader) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if b.inflated += int64(n); b.inflated > bombBytes && b.inflated > bombRatio*b.sent.read {
		return 0, &profilestore.Error{Code: profilestore.PayloadTooLarge, Message: fmt.Sprintf("the body inflates to more than %d times what is sent: send it unpacked", bombRatio)}
	}
	return n, err
}

// zstdBytes is what a decoder may hold for a window of 8 MB.
const zstdBytes = 9 << 20

// readBody reads and inflates a body within the limits.
func (a *api) readBody(w http.ResponseWriter, r *http.Request, sent, inflated int64, held *share) (*body, error) {
	if r.ContentLength > sent {
		return nil, tooLarge("body is", sent)
	}
	raw := &pacedBody{
		Reader: limitBody(r, sent), rc: http.NewResponseController(w), patience: a.patience, end: time.Now().Add(longest),
	}
	var rd io.Reader = raw
	var err error
	encoding := strings.ToLower(r.Header.Get("Content-Encoding"))
	switch encoding {
	case "", "identity":
		encoding = "plain"
	case "gzip":
		if rd, err = gzip.NewReader(raw); err == nil {
			rd = &bombReader{Reader: rd, sent: raw}
		}
	case "zstd":
		if err := held.take(zstdBytes); err != nil {
			return nil, err
		}
		var z *zstd.Decoder
		// One goroutine's worth of work, so that Close leaves nothing behind.
		z, err = zstd.NewReader(raw, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20))
		if err == nil {
			defer z.Close()
			rd = &bombReader{Reader: z, sent: raw}
		}
	default:
		return nil, badRequest("", "content encoding %.40q: send gzip, zstd or none", encoding)
	}
	b := new(body)
	if err == nil {
		err = b.readFrom(rd, inflated, held)
	}
	if err != nil || b.size > inflated {
		// What is not read when a connection is closed takes the answer with it. This ends when any other body does.
		_, _ = io.Copy(io.Discard, raw)
	}
	var tooMany *http.MaxBytesError
	var own *profilestore.Error
	switch {
	case errors.As(err, &own):
		return nil, own
	case errors.As(err, &tooMany):
		return nil, tooLarge("body is", sent)
	case r.Context().Err() != nil:
		return nil, r.Context().Err()
	case err != nil:
		return nil, badRequest("", "read %s body: %v", encoding, err)
	case b.size > inflated:
		return nil, tooLarge("inflated body is", inflated)
	}
	return b, nil
}
