package agent

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"pilotlight/cmd/pilotlight/process"
)

func TestTableQueue(t *testing.T) {
	q := newTableQueue(nil)
	for _, j := range []tableJob{queued(1, 10, true), queued(2, 20, true), queued(3, 300, false), queued(4, 40, false), queued(5, 5, true)} {
		q.push(j)
	}
	q.ask(process.FileKey{2})
	if got, want := popped(t, q, 4), []byte{2, 4, 3, 5}; !slices.Equal(got, want) {
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

// TestLargeTablesWait has large files that wait for CPU time, the one that most samples wait for first, while small ones pass.
func TestLargeTablesWait(t *testing.T) {
	const mb = 1 << 20
	spare := newAllowance()
	q := newTableQueue(spare)
	for i, size := range []int64{100 * mb, 50 * mb, 900 * mb} {
		j := queued(byte(i+1), size, false)
		j.large = true
		q.push(j)
	}
	for _, key := range []byte{1, 1, 2, 3, 3, 3} {
		q.ask(process.FileKey{key})
	}
	if !q.empty() {
		t.Error("there is no CPU time for large files, and one could be done")
	}
	q.push(queued(4, mb, false))
	if got := popped(t, q, 1); got[0] != 4 {
		t.Errorf("job %d came, want the small file's", got[0])
	}
	came := make(chan tableJob)
	go func() {
		for {
			j, ok := q.pop()
			if !ok {
				close(came)
				return
			}
			spare.spend(j.cost())
			came <- j
		}
	}()
	// Of the reserve the first two can be had. What is left of the minute besides is for any one of them.
	spare.grant(-time.Second, time.Second+leastGrant+150*mb)
	q.retry()
	for _, want := range []byte{1, 2} {
		if j := <-came; j.key[0] != want {
			t.Errorf("job %d came, want %d", j.key[0], want)
		}
	}
	if !q.empty() {
		t.Error("a file that costs more than there is could be done")
	}
	spare.grant(leastGrant, 0)
	q.retry()
	if j := <-came; j.key[0] != 3 {
		t.Errorf("job %d came, want 3", j.key[0])
	}
	if err := q.close(); err != nil {
		t.Error(err)
	}
	<-came
}

// TestTablesAreToldBeforeAWait has a file that waits for CPU time come last.
func TestTablesAreToldBeforeAWait(t *testing.T) {
	told := make(chan int, 10)
	var ts *tables
	ts = newTables(nil, func() { told <- len(ts.results) }, newAllowance(), quiet)
	for i, size := range []int64{10, 20, 2 * largeFile} {
		j := queued(byte(i+1), size, false)
		j.build = true
		ts.jobs.push(j)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ts.run(nil)
	}()
	// The second comes too soon after the first for a word of its own, unless the machine is slow.
	for timeout, n := time.After(10*time.Second), 0; n < 2; {
		select {
		case n = <-told:
		case <-timeout:
			t.Error("nobody was told of the second")
			n = 2
		}
	}
	if err := ts.close(); err != nil {
		t.Error(err)
	}
	<-ended
}

func queued(number byte, size int64, early bool) tableJob {
	file := &process.OpenFile{File: &process.File{Size: size}, Handle: memoryFile{bytes.NewReader(nil)}}
	return tableJob{key: process.FileKey{number}, file: file, early: early}
}

func popped(t *testing.T, q *tableQueue, n int) []byte {
	t.Helper()
	var keys []byte
	for range n {
		j, ok := q.pop()
		if !ok {
			t.Fatal("the queue is closed")
		}
		keys = append(keys, j.key[0])
	}
	return keys
}
