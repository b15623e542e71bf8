package agent

import (
	"bytes"
	"slices"
	"testing"

	"pilotlight/cmd/pilotlight/process"
)

func TestTableQueue(t *testing.T) {
	q := newTableQueue()
	job := func(number byte, size int64, early bool) tableJob {
		file := &process.OpenFile{File: &process.File{Size: size}, Handle: memoryFile{bytes.NewReader(nil)}}
		return tableJob{key: process.FileKey{number}, file: file, early: early}
	}
	for _, j := range []tableJob{job(1, 10, true), job(2, 20, true), job(3, 300, false), job(4, 40, false), job(5, 5, true)} {
		q.push(j)
	}
	q.ask(process.FileKey{2})
	var got []byte
	for len(got) < 4 {
		j, ok := q.pop()
		if !ok {
			t.Fatal("the queue is closed")
		}
		got = append(got, j.key[0])
	}
	if want := []byte{2, 4, 3, 5}; !slices.Equal(got, want) {
		t.Errorf("jobs came in the order %d, want %d: what samples wait for first, small files first", got, want)
	}
	if q.empty() {
		t.Error("the last job is gone")
	}
	ended := make(chan bool)
	if err := q.close(); err != nil {
		t.Error(err)
	}
	go func() {
		_, ok := q.pop()
		ended <- ok
	}()
	if <-ended {
		t.Error("a job came out of a closed queue")
	}
}
