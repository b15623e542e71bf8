package httpapi

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
)

func TestBody(t *testing.T) {
	const limit = 200_000
	random := make([]byte, 300_000)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	for _, size := range []int{0, 1, 32<<10 - 1, 32 << 10, 32<<10 + 1, 96 << 10, limit, limit + 1, len(random)} {
		for _, wrap := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.HalfReader, iotest.DataErrReader} {
			var b body
			if err := b.readFrom(wrap(bytes.NewReader(random[:size])), limit, newRoom(1<<20).share()); err != nil {
				t.Fatal(err)
			}
			if size > limit {
				if b.size <= limit {
					t.Errorf("%d bytes: read %d, want more than the limit of %d", size, b.size, limit)
				}
				continue
			}
			got, err := io.ReadAll(&b.chunks)
			if err != nil {
				t.Fatal(err)
			}
			if b.size != int64(size) || !bytes.Equal(got, random[:size]) {
				t.Errorf("%d bytes: read %d of size %d, or others", size, len(got), b.size)
			}
		}
	}
}

// A body that was cut off is not a short body.
func TestBodyCutOff(t *testing.T) {
	var squeezed bytes.Buffer
	w := gzip.NewWriter(&squeezed)
	if _, err := w.Write(make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := gzip.NewReader(bytes.NewReader(squeezed.Bytes()[:squeezed.Len()-10]))
	if err != nil {
		t.Fatal(err)
	}
	if err := new(body).readFrom(r, 1<<20, newRoom(1<<20).share()); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read of a body that was cut off ended with %v", err)
	}
}
