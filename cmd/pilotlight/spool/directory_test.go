package spool

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestDirectory spools to a real directory, finds it again, and sends it.
func TestDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "spool")
		o := Options{Logger: slog.New(slog.DiscardHandler)}
		srv := &server{down: errAway}
		s, err := Open(dir, srv, o)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 3 {
			mustAppend(t, s, batch(1000, n))
		}
		mustClose(t, s)
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "0000000000000009.batch.tmp"), []byte("half"), 0o600),
			os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		srv.set(func(s *server) { s.down = nil })
		if s, err = Open(dir, srv, o); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		mustClose(t, s)
		if got := srv.has(); !slices.Equal(got, numbers(0, 2)) {
			t.Errorf("the server has %v", got)
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) != 1 || left[0].Name() != "notes.txt" {
			t.Errorf("left: %v, %v", fmt.Sprint(left), err)
		}
	})
}
