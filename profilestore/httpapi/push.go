package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	pushv1 "github.com/grafana/pyroscope/api/gen/proto/go/push/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"pilotlight/profilestore"
)

const (
	pushPrefix    = "/push.v1.PusherService/"
	pushProcedure = pushPrefix + "Push"

	maxBody     = 32 << 20 // as sent
	maxInflated = 64 << 20 // the message, and again all profiles in it together
)

// pushHandler speaks Connect. It inflates bodies itself: connect, past its limit, reads on to the end of the
// stream in the hope of using the connection again, which a bomb never reaches.
func (a *api) pushHandler() http.Handler {
	unary := connect.NewUnaryHandler(pushProcedure, a.push)
	return errorFunc(func(w http.ResponseWriter, r *http.Request) error {
		if err := a.pushes.take(r.Context()); err != nil {
			return err
		}
		defer func() { <-a.pushes }()
		body, err := readBody(r)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		r = r.WithContext(ctx)
		r.Header.Del("Content-Encoding")
		r.ContentLength = body.size
		r.Body = io.NopCloser(&body.chunks)
		unary.ServeHTTP(w, r)
		return nil
	})
}

func tooLarge(what string, limit int) *profilestore.Error {
	return &profilestore.Error{Code: profilestore.PayloadTooLarge, Message: fmt.Sprintf("%s above %d MB: send fewer or smaller profiles in one push", what, limit>>20)}
}

// body is a body in pieces: one slice that doubles as it grows would take, with what it leaves behind, several
// times as much.
type body struct {
	chunks net.Buffers
	size   int64
}

// readFrom reads to the end, or until there is more than limit.
func (b *body) readFrom(rd io.Reader, limit int64) error {
	const first, largest = 32 << 10, 4 << 20
	for next := first; b.size <= limit; next = min(2*next, largest) {
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

// readBody reads and inflates the body of a push within the limits.
func readBody(r *http.Request) (*body, error) {
	if r.ContentLength > maxBody {
		return nil, tooLarge("body is", maxBody)
	}
	var rd io.Reader = limitBody(r, maxBody)
	var err error
	encoding := strings.ToLower(r.Header.Get("Content-Encoding"))
	switch encoding {
	case "", "identity":
		encoding = "plain"
	case "gzip":
		rd, err = gzip.NewReader(rd)
	case "zstd":
		var z *zstd.Decoder
		// One goroutine's worth of work, so that Close leaves nothing behind.
		z, err = zstd.NewReader(rd, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20))
		if err == nil {
			defer z.Close()
			rd = z
		}
	default:
		return nil, badRequest("", "content encoding %.40q: send gzip, zstd or none", encoding)
	}
	b := new(body)
	if err == nil {
		err = b.readFrom(rd, maxInflated)
	}
	var tooMany *http.MaxBytesError
	switch {
	case errors.As(err, &tooMany):
		return nil, tooLarge("body is", maxBody)
	case r.Context().Err() != nil:
		return nil, r.Context().Err()
	case err != nil:
		return nil, badRequest("", "read %s body: %v", encoding, err)
	case b.size > maxInflated:
		return nil, tooLarge("inflated body is", maxInflated)
	}
	return b, nil
}

func (a *api) push(ctx context.Context, req *connect.Request[pushv1.PushRequest]) (*connect.Response[pushv1.PushResponse], error) {
	batch, err := readPush(req.Msg, time.Now())
	if err == nil && len(batch) > 0 {
		err = a.store.Append(ctx, batch)
	}
	if err != nil {
		recordOf(ctx).err = err
		e := asError(err)
		return nil, connect.NewError(statuses[e.Code].connect, errors.New(e.Message))
	}
	return connect.NewResponse(&pushv1.PushResponse{}), nil
}

// readPush turns a message into a batch. now is when it arrived.
func readPush(msg *pushv1.PushRequest, now time.Time) ([]profilestore.Encoded, error) {
	var batch []profilestore.Encoded
	budget := int64(maxInflated)
	for i, s := range msg.Series {
		var name string
		labels := make(map[string]string, len(s.Labels))
		seen := make(map[string]bool, len(s.Labels))
		for _, l := range s.Labels {
			if seen[l.Name] {
				return nil, badRequest("", "series %d: label %.40q is there twice: send it once", i, l.Name)
			}
			seen[l.Name] = true
			if l.Name == "__name__" {
				name = l.Value
			} else if !strings.HasPrefix(l.Name, "__") {
				labels[l.Name] = l.Value
			}
		}
		if name == "" {
			return nil, badRequest("", "series %d: no label __name__: send the kind of profile in it, as process_cpu", i)
		}
		set := profilestore.NewLabels(labels)
		for j, sample := range s.Samples {
			e := profilestore.Encoded{Name: name, Labels: set, Pprof: sample.RawProfile}
			var err error
			if sample.ID != "" {
				if e.ID, err = profilestore.ParseID(sample.ID); err != nil {
					return nil, badRequest("", "series %d, sample %d: %v", i, j, err)
				}
			}
			var inflated int64
			e.Time, e.Duration, inflated, err = profileTime(sample.RawProfile, budget)
			if budget -= inflated; budget < 0 {
				return nil, tooLarge("inflated profiles are", maxInflated)
			}
			if err != nil {
				return nil, badRequest("", "series %d, sample %d: not a pprof profile: %v", i, j, err)
			}
			if e.Time == 0 {
				e.Time = now.UnixNano() - int64(e.Duration)
			}
			batch = append(batch, e)
		}
	}
	return batch, nil
}
