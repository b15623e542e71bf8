package agent

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"pilotlight/cmd/pilotlight/process"
)

// TestJVMsAsked says when a JVM is asked, and when one that does not answer is.
func TestJVMsAsked(t *testing.T) {
	jvm := &process.Process{Key: process.Key{PID: 7}, Mappings: process.Mappings{{Object: &process.Object{Kind: process.FileBacked, Path: "/usr/lib/jvm/libjvm.so"}}}}
	refused := errors.New("no")
	for _, tc := range []struct {
		name string
		err  error
		want []int // seconds after it was seen first
	}{
		{"answers", nil, []int{5, 15, 35, 75, 155, 315, 635, 1235}},
		{"refuses", refused, []int{5, 605, 1205}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			j, err := newJVMs(Options{Logger: slog.New(slog.DiscardHandler), AskJVM: func(context.Context, process.Key) (time.Duration, error) { return time.Millisecond, tc.err }})
			if err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			var asked []int
			for s := range 1300 {
				j.seen(&process.Process{Key: process.Key{PID: 8}}, begin) // no JVM
				j.seen(jvm, begin.Add(time.Duration(s)*time.Second))
				select {
				case p := <-j.queue:
					if p != jvm.Key {
						t.Fatalf("%v is asked", p)
					}
					asked = append(asked, s)
					j.one(t.Context(), p, begin.Add(time.Duration(s)*time.Second))
				default:
				}
			}
			if !slices.Equal(asked, tc.want) {
				t.Errorf("asked at %v, want %v", asked, tc.want)
			}
			if j.CPU() == 0 {
				t.Error("asking took no CPU time")
			}
		})
	}
	var none *jvms
	none.seen(jvm, time.Now())
	if none.CPU() != 0 {
		t.Error("nobody asked")
	}
}
