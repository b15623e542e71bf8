package agent

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"time"

	"pilotlight/cmd/pilotlight/process"
)

// tableJob is a file whose table is wanted.
type tableJob struct {
	key     process.FileKey
	file    *process.OpenFile
	owner   process.Key // for whom it was opened
	build   bool        // if it is not in the cache
	early   bool        // no sample has asked for it yet
	large   bool        // it is not in the cache, and is built when there is CPU time to spare
	damaged bool        // what the cache had of it
	samples int         // that have waited for it while it was large
}

// cost is about what it takes to build the table of a large file: 0.4 to 1.6 ns a byte were measured.
func (j *tableJob) cost() time.Duration { return time.Duration(j.file.Size) }

// tableQueue has the jobs that wait: those first that samples wait for, and small
// files before large ones, so that most stacks are whole soonest. Large ones wait
// until there is CPU time for them, in nobody's way. It may be used by several
// goroutines.
type tableQueue struct {
	allowance *allowance

	mu     sync.Mutex // guards what follows
	more   sync.Cond
	jobs   []tableJob
	closed bool
}

func newTableQueue(spare *allowance) *tableQueue {
	q := &tableQueue{allowance: spare}
	q.more.L = &q.mu
	return q
}

// push takes a job, and with it its file, unless the queue was closed.
func (q *tableQueue) push(job tableJob) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.jobs = append(q.jobs, job)
	q.more.Signal()
	return true
}

// pop waits for a job. It returns false once the queue was closed.
func (q *tableQueue) pop() (tableJob, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	first := q.first()
	for ; first < 0 && !q.closed; first = q.first() {
		q.more.Wait()
	}
	if q.closed {
		return tableJob{}, false
	}
	job := q.jobs[first]
	q.jobs = slices.Delete(q.jobs, first, first+1)
	return job, true
}

// first is the index of the job to be done first, or -1 if all have to wait. q.mu is held.
func (q *tableQueue) first() int {
	first := -1
	for i := range q.jobs {
		j := &q.jobs[i]
		if (first < 0 || j.compare(&q.jobs[first]) < 0) && (!j.large || q.allowance.affords(j.cost())) {
			first = i
		}
	}
	return first
}

func (j *tableJob) compare(other *tableJob) int {
	switch {
	case j.large != other.large:
		return order(j.large)
	case j.large && j.samples != other.samples:
		return order(j.samples < other.samples)
	case j.early != other.early:
		return order(j.early)
	}
	return cmp.Compare(j.file.Size, other.file.Size)
}

// order is the result of a comparison in which one is to come later, or else sooner.
func order(later bool) int {
	if later {
		return 1
	}
	return -1
}

// ask tells that a sample waits for the table of a file.
func (q *tableQueue) ask(key process.FileKey) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.jobs {
		if j := &q.jobs[i]; j.key == key {
			j.early = false
			if j.large {
				j.samples++
			}
		}
	}
}

// retry looks again whether large files can be afforded.
func (q *tableQueue) retry() {
	q.mu.Lock() // or one that has just looked, and does not wait yet, would miss it
	defer q.mu.Unlock()
	q.more.Signal()
}

// empty reports whether no job can be done now.
func (q *tableQueue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.first() < 0
}

// close lets go of the jobs that wait.
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
