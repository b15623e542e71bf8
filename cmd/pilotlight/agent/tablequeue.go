package agent

import (
	"cmp"
	"errors"
	"slices"
	"sync"

	"pilotlight/cmd/pilotlight/process"
)

// tableJob is a file whose table is wanted.
type tableJob struct {
	key   process.FileKey
	file  *process.OpenFile
	build bool // if it is not in the cache
	early bool // no sample has asked for it yet
}

// tableQueue has the jobs that wait: those first that samples wait for, and small
// files before large ones, so that most stacks are whole soonest. It may be used by
// several goroutines.
type tableQueue struct {
	mu     sync.Mutex // guards what follows
	more   sync.Cond
	jobs   []tableJob
	closed bool
}

func newTableQueue() *tableQueue {
	q := new(tableQueue)
	q.more.L = &q.mu
	return q
}

func (q *tableQueue) push(job tableJob) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.jobs = append(q.jobs, job)
	q.more.Signal()
}

// pop waits for a job. It returns false once the queue was closed.
func (q *tableQueue) pop() (tableJob, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.jobs) == 0 && !q.closed {
		q.more.Wait()
	}
	if q.closed {
		return tableJob{}, false
	}
	first := 0
	for i := range q.jobs {
		if q.jobs[i].compare(q.jobs[first]) < 0 {
			first = i
		}
	}
	job := q.jobs[first]
	q.jobs = slices.Delete(q.jobs, first, first+1)
	return job, true
}

func (j tableJob) compare(other tableJob) int {
	if j.early != other.early {
		if j.early {
			return 1
		}
		return -1
	}
	return cmp.Compare(j.file.Size, other.file.Size)
}

// ask tells that a sample waits for the table of a file.
func (q *tableQueue) ask(key process.FileKey) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.jobs {
		if q.jobs[i].key == key {
			q.jobs[i].early = false
		}
	}
}

// empty reports whether no job waits.
func (q *tableQueue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.jobs) == 0
}

// close lets go of the jobs that wait. There must be no push after it.
func (q *tableQueue) close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.more.Broadcast()
	var err error
	for _, job := range q.jobs {
		err = errors.Join(err, job.file.Close())
	}
	q.jobs = nil
	return err
}
