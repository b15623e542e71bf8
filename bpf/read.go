package bpf

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// A sample or record is on its ring this long after its time stamp at the
	// latest, but for a virtual CPU that stands still.
	settleTime = 2 * time.Millisecond
	// followInterval is how often CPUs that come and go are looked for.
	followInterval = 10 * time.Second
	// Where the kernel's clock only goes on with its timer tick, it has gone on after this long.
	clockTick = 20 * time.Millisecond
)

// Batch is what one drain of the rings returned. Each Read into it reuses its
// memory.
type Batch struct {
	Samples []Sample // by time
	Events  []Event  // by time
	Upto    uint64   // CLOCK_MONOTONIC, ns: what happened until then is in this Batch or an earlier one

	words []uint64 // backs the Samples' slices
}

// Read waits until a drain is due, and fills b. A drain is due at the latest when
// b can reach up to a time, upto (CLOCK_MONOTONIC, ns). Before that one is due
// DrainInterval after the last; or, while there is less than a sample a second,
// soon after a sample of a process or of code that the sampler has not been told
// of. Read returns os.ErrClosed after Close, and after Stop once everything was read.
func (s *Sampler) Read(b *Batch, upto uint64) error {
	s.reading.Lock()
	defer s.reading.Unlock()
	b.Samples, b.Events, b.words = b.Samples[:0], b.Events[:0], b.words[:0]
	if s.drained {
		return os.ErrClosed
	}
	if err := s.wait(upto); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.woken = false // whoever called Wake until now is served by this drain
	if s.closed {
		return os.ErrClosed
	}
	now, err := monotonic()
	if err != nil {
		return err
	}
	b.Upto = now - uint64(settleTime)
	if s.stopped {
		b.Upto = ^uint64(0)
		s.drained = true
	}
	// Samples before records: a record older than a sample in this batch is then in it too.
	for _, c := range s.cpus {
		if err := c.drain(b); err != nil {
			return fmt.Errorf("drain CPU %d: %w", c.id, err)
		}
	}
	for _, c := range s.cpus {
		if c.sideband != nil {
			b.Events = c.sideband.read(b.Events, b.Upto)
		}
	}
	if s.stopped {
		b.Upto = now
	}
	if err := s.rest(len(b.Samples)); err != nil {
		return err
	}
	slices.SortStableFunc(b.Samples, func(x, y Sample) int { return cmp.Compare(x.Time, y.Time) })
	slices.SortStableFunc(b.Events, func(x, y Event) int { return cmp.Compare(x.Time, y.Time) })
	return s.follow(b)
}

// wait returns when a drain is due: what happened up to a time can be read, the
// interval is over, a ring woke it, or Stop, Wake or Close was called.
func (s *Sampler) wait(upto uint64) error {
	now, err := monotonic()
	if err != nil {
		return err
	}
	const longest = uint64(time.Hour) // upto may be any number
	due := time.Now().Add(time.Duration(min(max(upto, now)-now, longest)) + settleTime)
	if next := s.lastDrain.Add(DrainInterval); !s.resting && next.Before(due) {
		due = next
	}
	woken, err := s.waitUntil(due)
	if err != nil || !woken || !s.resting {
		return err
	}
	// For the sample to be older than what is drained. By this thread, because the Go runtime's timers wake another one too.
	settle := unix.NsecToTimespec(int64(settleTime))
	if err := unix.Nanosleep(&settle, nil); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for samples: %w", err)
	}
	return nil
}

// waitUntil waits until a time, and reports whether a ring ended that.
func (s *Sampler) waitUntil(due time.Time) (woken bool, err error) {
	s.mu.Lock()
	if s.stopped || s.closed || s.woken {
		s.mu.Unlock()
		return false, nil
	}
	err = s.poller.SetReadDeadline(due)
	s.mu.Unlock()
	if err != nil {
		return false, fmt.Errorf("wait for samples: %w", err)
	}
	conn, err := s.poller.SyscallConn()
	if err != nil {
		return false, fmt.Errorf("wait for samples: %w", err)
	}
	var waitErr error
	err = conn.Read(func(fd uintptr) bool {
		var events [8]unix.EpollEvent
		n, err := unix.EpollWait(int(fd), events[:], 0)
		if err != nil && !errors.Is(err, unix.EINTR) {
			waitErr = err
		}
		woken = n > 0
		return woken || waitErr != nil
	})
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		waitErr = errors.Join(waitErr, err)
	}
	if waitErr != nil {
		return false, fmt.Errorf("wait for samples: %w", waitErr)
	}
	return woken, nil
}

// rest has the reader rest if samples are far enough apart, after so many in the
// drain that has just been.
func (s *Sampler) rest(samples int) error {
	now := time.Now()
	// That a drain soon after the last one found no sample says nothing.
	if elapsed := now.Sub(s.lastDrain); samples > 0 || elapsed >= DrainInterval {
		s.resting = time.Duration(samples)*restApart <= elapsed
	}
	s.lastDrain = now
	if err := s.objs.ReaderRests.Set(s.resting); err != nil {
		return fmt.Errorf("set reader_rests: %w", err)
	}
	// What came before the program knew would wake nobody.
	unread := func(c *cpu) bool { return c.haveNext || c.ring.AvailableBytes() > 0 }
	s.resting = s.resting && !slices.ContainsFunc(s.cpus, unread)
	return nil
}

// drain moves the samples up to and including b.Upto from the ring to b.
func (c *cpu) drain(b *Batch) error {
	for {
		if !c.haveNext {
			if c.ring.AvailableBytes() == 0 {
				return nil
			}
			err := c.ring.ReadInto(&c.next)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			if err != nil {
				return err
			}
			c.haveNext = true
		}
		samples, words, err := appendSample(b.Samples, b.words, c.next.RawSample)
		if err != nil {
			return err
		}
		if samples[len(samples)-1].Time > b.Upto {
			return nil
		}
		b.Samples, b.words, c.haveNext = samples, words, false
	}
}

// follow attaches CPUs that came online and detaches those that went. What
// happened on those that came, no record told: b is added that some were lost.
func (s *Sampler) follow(b *Batch) error {
	if s.stopped || time.Until(s.nextFollow) > 0 {
		return nil
	}
	s.nextFollow = time.Now().Add(followInterval)
	if err := s.detachGone(); err != nil {
		return err
	}
	online, err := onlineCPUs()
	if err != nil {
		return err
	}
	if slices.Equal(online, s.online) {
		return nil
	}
	before := slices.Clone(s.online)
	if err := s.attach(online); err != nil {
		return err
	}
	came := slices.DeleteFunc(slices.Clone(s.online), func(id int) bool { return slices.Contains(before, id) })
	if len(came) > 0 && !s.unrecorded {
		b.Events = append(b.Events, Event{Time: b.Upto, Kind: EventLost, Lost: uint64(len(came))}) // that many at least
	}
	return nil
}

// detachGone detaches the CPUs that went offline, also those that are back by
// now, as all but the first are after a suspend: the kernel takes the events of
// a CPU that goes out of its context for good (perf_event_exit_cpu), silently.
func (s *Sampler) detachGone() error {
	if s.paused && s.unrecorded { // which stops them too
		return nil
	}
	still := make(map[*cpu][2]uint64) // whose events stand still at these times
	for _, c := range s.cpus {
		if c.link == nil {
			continue
		}
		var err error
		if still[c], err = c.timesRunning(); err != nil {
			return err
		}
	}
	for _, wait := range []time.Duration{0, clockTick} {
		if len(still) == 0 {
			return nil
		}
		time.Sleep(wait)
		for c, then := range still {
			now, err := c.timesRunning()
			if err != nil {
				return err
			}
			if (s.paused || now[0] != then[0]) && (s.unrecorded || now[1] != then[1]) {
				delete(still, c)
			}
		}
	}
	for c := range still {
		if err := c.detach(); err != nil {
			return err
		}
		s.online = slices.DeleteFunc(s.online, func(id int) bool { return id == c.id })
	}
	return nil
}

// timesRunning returns how many ns the clock event and the side-band event were
// on their CPU.
func (c *cpu) timesRunning() (times [2]uint64, err error) {
	for i, event := range []int{c.event, c.sideband.fd} {
		var values [2]uint64 // the count, and PERF_FORMAT_TOTAL_TIME_RUNNING; nothing is read of an event in error state
		if _, err := unix.Read(event, (*[unsafe.Sizeof(values)]byte)(unsafe.Pointer(&values))[:]); err != nil {
			return times, fmt.Errorf("read perf event of CPU %d: %w", c.id, err)
		}
		times[i] = values[1]
	}
	return times, nil
}

// onlineCPUs returns the numbers of the online CPUs in ascending order.
func onlineCPUs() ([]int, error) {
	const path = "/sys/devices/system/cpu/online"
	list, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("list online CPUs: %w", err)
	}
	cpus, err := parseCPUList(string(list))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cpus, nil
}

// parseCPUList reads a list such as "0-3,7".
func parseCPUList(list string) ([]int, error) {
	var cpus []int
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		var first, last int
		if n, err := fmt.Sscanf(part, "%d-%d", &first, &last); n == 1 {
			last = first
		} else if err != nil {
			return nil, fmt.Errorf("CPU list %q: %w", list, err)
		}
		for id := first; id <= last; id++ {
			cpus = append(cpus, id)
		}
	}
	return cpus, nil
}

// monotonic returns CLOCK_MONOTONIC in ns.
func monotonic() (uint64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("read CLOCK_MONOTONIC: %w", err)
	}
	return uint64(ts.Nano()), nil
}
