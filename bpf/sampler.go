// Package bpf samples the stacks of everything that runs: an eBPF program on a
// perf event per CPU takes them, user space drains them from ring buffers
// together with perf's side-band records of forks, execs and mappings.
//
// It needs Linux 6.1 or later with BTF, and CAP_BPF and CAP_PERFMON or root.
package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// DefaultFrequency is the sampling frequency in Hz when Options name none. It
// is a prime, so that it keeps no step with timers.
const DefaultFrequency = 19

// MaxFrequency is the highest sampling frequency in Hz that Open accepts.
const MaxFrequency = 1000

// DrainInterval is how often the rings are drained when none fills up before.
const DrainInterval = 500 * time.Millisecond

// restApart is how far apart samples are, on average, for the reader to rest: most of what an idle machine pays for is
// being woken. While it rests only samples of processes or code that it does not know yet wake it.
const restApart = 2 * DrainInterval

const (
	// 0.3 s at 99 Hz with a piece of stack each. As much again is for side-band records: 1.5 s of a thousand processes a
	// second on two CPUs, and what a process without CAP_IPC_LOCK may have (kernel.perf_event_mlock_kb).
	ringBytesPerCPU = 512 << 10
	// The rings of all CPUs together stay below this: machines with very many CPUs get smaller ones.
	maxRingBytes = 6 << 20
	minRingBytes = 64 << 10
)

// ErrNotSupported is returned by Open when the kernel lacks what the sampler
// needs. The error that wraps it says what.
var ErrNotSupported = errors.New("not supported by this kernel")

// Options configure a Sampler. The zero value is the default.
type Options struct {
	Frequency  int // samples per second and busy CPU, up to MaxFrequency; 0 is DefaultFrequency
	TableBytes int // of kernel memory that unwind tables may take, up to DefaultTableBytes; 0 is that
}

// Sampler takes samples of all CPUs from Start to Stop. Read belongs to one
// goroutine; the other methods may be called from any.
type Sampler struct {
	objs      samplerObjects
	ringBytes int
	tables    *tables

	poller *os.File // an epoll of the rings: readable when one fills up

	mu         sync.Mutex // guards what follows
	frequency  int        // Hz
	cpus       []*cpu
	online     []int // CPUs that are sampled
	exits      link.Link
	memory     uint64 // bytes of all maps
	started    bool
	paused     bool
	unrecorded bool // no side-band records are made
	stopped    bool
	closed     bool
	woken      bool // since the last drain

	reading    sync.Mutex // held by Read, guards what follows
	lastDrain  time.Time
	resting    bool // until a sample wakes the reader
	nextFollow time.Time
	drained    bool // of everything there was at Stop
}

// cpu is the sampler's part on one CPU.
type cpu struct {
	id       int
	ringMap  *ebpf.Map
	ring     *ringbuf.Reader
	next     ringbuf.Record // the oldest record that no Batch had yet, if haveNext
	haveNext bool
	sideband *sideband
	event    int // perf event fd, -1 while the CPU is offline
	link     link.Link
}

// Open loads the sampler into the kernel. It samples from Start on and must be
// closed.
func Open(opts Options) (*Sampler, error) {
	spec, err := loadSampler()
	if err != nil {
		return nil, fmt.Errorf("read sampler object: %w", err)
	}
	return openSpec(spec, opts)
}

// openSpec loads spec, which is the sampler's or a test's variant of it.
func openSpec(spec *ebpf.CollectionSpec, opts Options) (*Sampler, error) {
	if opts.Frequency == 0 {
		opts.Frequency = DefaultFrequency
	}
	if err := checkFrequency(opts.Frequency); err != nil {
		return nil, err
	}
	if opts.TableBytes == 0 {
		opts.TableBytes = DefaultTableBytes
	}
	if opts.TableBytes < shardBytes || opts.TableBytes > DefaultTableBytes {
		return nil, fmt.Errorf("%d bytes for unwind tables: choose %d to %d", opts.TableBytes, shardBytes, DefaultTableBytes)
	}
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("load sampler: %w: no BTF at /sys/kernel/btf/vmlinux: use a kernel built with CONFIG_DEBUG_INFO_BTF", ErrNotSupported)
	}
	possible, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count CPUs: %w", err)
	}
	s := &Sampler{frequency: opts.Frequency, lastDrain: time.Now(), ringBytes: ringSize(possible)}
	spec.Maps["rings"].MaxEntries = uint32(possible)
	spec.Maps["rings"].InnerMap.MaxEntries = uint32(s.ringBytes)
	// Early, because a ring fills up when there are processes to be published.
	if err := spec.Variables["wake_at_bytes"].Set(uint64(s.ringBytes / 8)); err != nil {
		return nil, fmt.Errorf("set wake_at_bytes: %w", err)
	}
	if err := spec.Variables["ship_below_bytes"].Set(uint64(s.ringBytes / 4 * 3)); err != nil {
		return nil, fmt.Errorf("set ship_below_bytes: %w", err)
	}
	exitStacks := exitStacksOf(possible)
	spec.Maps["exit_stacks"].MaxEntries = exitStacks
	if err := spec.Variables["exit_stacks_mask"].Set(exitStacks - 1); err != nil {
		return nil, fmt.Errorf("set exit_stacks_mask: %w", err)
	}
	if err := spec.LoadAndAssign(&s.objs, nil); err != nil {
		return nil, fmt.Errorf("load sampler: %w", explain(err))
	}
	m := &s.objs.samplerMaps
	if err := s.openPoll(); err != nil {
		s.Close()
		return nil, err
	}
	if s.memory, err = memoryOf(m.Counts, m.Rings, m.Scratches, m.Shards, m.Processes, m.Rules, m.ExitStacks); err == nil {
		s.tables, err = newTables(m, opts.TableBytes, s.Wake)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// ringSize returns the bytes of one CPU's ring: a power of two of pages.
func ringSize(cpus int) int {
	size := ringBytesPerCPU
	for size > minRingBytes && size*cpus > maxRingBytes {
		size /= 2
	}
	return size
}

// exitStacksOf returns how many threads may be ending at a time, a power of two.
func exitStacksOf(cpus int) uint32 {
	n := uint32(64)
	for n < uint32(cpus)*4 {
		n *= 2
	}
	return n
}

// explain adds the mend to the errors that a user can mend.
func explain(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		var verifier *ebpf.VerifierError
		if !errors.As(err, &verifier) {
			// Not err itself: the library's guess at a limit is for its callers.
			return fmt.Errorf("%w: run as root, or with CAP_BPF and CAP_PERFMON and, on Debian and Ubuntu, sysctl kernel.perf_event_paranoid=2", unix.EPERM)
		}
	}
	if errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("%w: %w: Linux 6.1 or later is needed", ErrNotSupported, err)
	}
	return err
}

// openPoll makes the poller. It is nonblocking, so that Read waits in Go's own
// poller, which lets the whole runtime sleep: a thread that sits in epoll_wait
// keeps the runtime's monitor awake.
func (s *Sampler) openPoll() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("create epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return errors.Join(fmt.Errorf("create epoll: %w", err), unix.Close(fd))
	}
	s.poller = os.NewFile(uintptr(fd), "epoll")
	return nil
}

// poll has Read wake when fd, a ring, fills up. It is edge-triggered, because a
// ring always has data: what is to wake is the kernel's saying so.
func (s *Sampler) poll(fd int) error {
	conn, err := s.poller.SyscallConn()
	if err != nil {
		return fmt.Errorf("poll: %w", err)
	}
	var ctlErr error
	err = conn.Control(func(epoll uintptr) {
		ctlErr = unix.EpollCtl(int(epoll), unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)})
	})
	if err := errors.Join(err, ctlErr); err != nil {
		return fmt.Errorf("poll: %w", err)
	}
	return nil
}

func checkFrequency(hz int) error {
	if hz < 1 || hz > MaxFrequency {
		return fmt.Errorf("sampling frequency %d Hz: choose 1 to %d", hz, MaxFrequency)
	}
	return nil
}

// Frequency returns the sampling frequency in Hz.
func (s *Sampler) Frequency() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.frequency
}

// SetFrequency changes the sampling frequency, on all CPUs within a period of
// the one before. An error may leave some of them at that.
func (s *Sampler) SetFrequency(hz int) error {
	if err := checkFrequency(hz); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frequency = hz
	for _, c := range s.cpus {
		if c.event < 0 {
			continue
		}
		// The kernel turns the frequency of a clock event into a period when the
		// event is opened (perf_swevent_init_hrtimer), and so takes a period here.
		period := uint64(time.Second) / uint64(hz)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.event), unix.PERF_EVENT_IOC_PERIOD, uintptr(unsafe.Pointer(&period))); errno != 0 {
			return fmt.Errorf("set frequency of CPU %d to %d Hz: %w", c.id, hz, errno)
		}
	}
	return nil
}

// SetSampling stops taking samples on all CPUs, also on those to come, or goes on
// with it. Events are told either way unless SetRecords says otherwise, so that it
// goes on with what processes are by then. An error may leave some of the CPUs as they were.
func (s *Sampler) SetSampling(on bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = !on
	request := uint(unix.PERF_EVENT_IOC_ENABLE)
	if s.paused {
		request = unix.PERF_EVENT_IOC_DISABLE
	}
	for _, c := range s.cpus {
		if c.event < 0 {
			continue
		}
		if err := unix.IoctlSetInt(c.event, request, 0); err != nil {
			return fmt.Errorf("switch sampling on CPU %d: %w", c.id, err)
		}
	}
	return nil
}

// SetRecords has the kernel tell nothing of what becomes of processes, on any CPU,
// or tell it again: Read then has no events. What was missed is nowhere but in
// /proc. Nor are the stacks of threads that end kept meanwhile. An error may leave
// some of the CPUs as they were.
func (s *Sampler) SetRecords(on bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unrecorded = !on
	for _, c := range s.cpus {
		if c.sideband == nil {
			continue
		}
		if err := c.sideband.enable(on); err != nil {
			return fmt.Errorf("switch side-band records of CPU %d: %w", c.id, err)
		}
	}
	switch {
	case !s.started || s.stopped || s.closed:
		return nil
	case !on:
		return s.detachExits()
	case s.exits == nil:
		return s.attachExits()
	}
	return nil
}

// Start begins to sample on every online CPU. The side-band records of all
// CPUs are on before the first sample is taken, so whoever reads /proc after
// Start misses no process. CPUs that come online later are followed by Read.
func (s *Sampler) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return os.ErrClosed
	}
	if s.started {
		return errors.New("start sampler: it runs already")
	}
	s.started = true
	if err := s.attachExits(); err != nil {
		return err
	}
	online, err := onlineCPUs()
	if err != nil {
		return err
	}
	return s.attach(online)
}

// attach makes online the set of sampled CPUs. One that goes offline meanwhile is
// left for the next time.
func (s *Sampler) attach(online []int) error {
	for _, c := range s.cpus {
		if !slices.Contains(online, c.id) {
			if err := c.detach(); err != nil {
				return err
			}
		}
	}
	var added []*cpu
	for _, id := range online {
		if slices.Contains(s.online, id) {
			continue
		}
		c, err := s.openCPU(id)
		if errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return err
		}
		added = append(added, c)
	}
	// The events of the CPUs start one after the other, spread over one
	// period, so that no two CPUs sample at the same moment.
	gap := time.Second / time.Duration(s.frequency) / time.Duration(max(len(added), 1))
	for i, c := range added {
		if i > 0 {
			time.Sleep(gap)
		}
		err := s.sampleOn(c)
		if errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return err
		}
	}
	s.online = s.online[:0]
	for _, c := range s.cpus {
		if c.link != nil {
			s.online = append(s.online, c.id)
		}
	}
	slices.Sort(s.online)
	return nil
}

// openCPU prepares the rings of a CPU that came online. The sample ring is
// kept from an earlier time.
func (s *Sampler) openCPU(id int) (*cpu, error) {
	at := slices.IndexFunc(s.cpus, func(c *cpu) bool { return c.id == id })
	if at < 0 {
		c, err := s.newCPU(id)
		if err != nil {
			return nil, err
		}
		at = len(s.cpus)
		s.cpus = append(s.cpus, c)
	}
	c := s.cpus[at]
	if c.sideband != nil { // of the time before the CPU went offline
		err := c.sideband.close()
		c.sideband = nil
		if err != nil {
			return nil, err
		}
	}
	var err error
	if c.sideband, err = openSideband(id, s.ringBytes); err != nil {
		return nil, explain(err)
	}
	if s.unrecorded {
		if err := c.sideband.enable(false); err != nil {
			return nil, fmt.Errorf("switch side-band records of CPU %d: %w", id, err)
		}
	}
	return c, s.poll(c.sideband.fd)
}

func (s *Sampler) newCPU(id int) (*cpu, error) {
	ringMap, err := ebpf.NewMap(&ebpf.MapSpec{Name: "ring", Type: ebpf.RingBuf, MaxEntries: uint32(s.ringBytes)})
	if err != nil {
		return nil, fmt.Errorf("make ring of CPU %d: %w", id, err)
	}
	if err := s.objs.Rings.Put(uint32(id), ringMap); err != nil {
		ringMap.Close()
		return nil, fmt.Errorf("publish ring of CPU %d: %w", id, err)
	}
	ring, err := ringbuf.NewReader(ringMap)
	if err != nil {
		ringMap.Close()
		return nil, fmt.Errorf("map ring of CPU %d: %w", id, err)
	}
	bytes, err := memoryOf(ringMap)
	if err != nil {
		return nil, errors.Join(err, ring.Close(), ringMap.Close())
	}
	s.memory += max(bytes, uint64(s.ringBytes)) // before Linux 6.4 the kernel says 0
	ring.SetDeadline(time.Unix(1, 0))           // the ring is only read when it is time to, never waited for
	return &cpu{id: id, ringMap: ringMap, ring: ring, event: -1}, s.poll(ringMap.FD())
}

// sampleOn opens the clock event of a CPU, hands it to the program and starts it.
func (s *Sampler) sampleOn(c *cpu) error {
	attr := unix.PerfEventAttr{
		Type:   unix.PERF_TYPE_SOFTWARE,
		Size:   uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Config: unix.PERF_COUNT_SW_CPU_CLOCK,
		Sample: uint64(s.frequency),
		// For follow to see whether it runs.
		Read_format: unix.PERF_FORMAT_TOTAL_TIME_RUNNING,
		Bits:        unix.PerfBitFreq | unix.PerfBitExcludeIdle | unix.PerfBitDisabled,
	}
	fd, err := unix.PerfEventOpen(&attr, -1, c.id, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open clock event on CPU %d: %w", c.id, explain(err))
	}
	c.event = fd
	c.link, err = link.AttachRawLink(link.RawLinkOptions{Target: fd, Program: s.objs.Sample, Attach: ebpf.AttachPerfEvent})
	if err != nil {
		return fmt.Errorf("attach sampler to CPU %d: %w", c.id, explain(err))
	}
	if s.paused {
		return nil
	}
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0); err != nil {
		return fmt.Errorf("enable sampler on CPU %d: %w", c.id, err)
	}
	return nil
}

// detach stops sampling on a CPU and keeps what its rings hold.
func (c *cpu) detach() error {
	var err error
	if c.link != nil {
		err = c.link.Close()
		c.link = nil
	}
	if c.event >= 0 {
		err = errors.Join(err, unix.Close(c.event))
		c.event = -1
	}
	if err != nil {
		return fmt.Errorf("detach sampler from CPU %d: %w", c.id, err)
	}
	return nil
}

func (c *cpu) close() error {
	err := errors.Join(c.detach(), c.ring.Close(), c.ringMap.Close())
	if c.sideband != nil {
		err = errors.Join(err, c.sideband.close())
	}
	return err
}

// Stop ends sampling. Read then returns what the rings still hold, and after
// that os.ErrClosed.
func (s *Sampler) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || s.closed {
		return nil
	}
	s.stopped = true
	err := s.detachExits()
	for _, c := range s.cpus {
		err = errors.Join(err, c.detach())
	}
	return errors.Join(err, s.interrupt())
}

// attachExits begins to keep the stacks of threads that end.
func (s *Sampler) attachExits() error {
	var err error
	s.exits, err = link.AttachRawTracepoint(link.RawTracepointOptions{Name: "sched_process_exit", Program: s.objs.KeepExitStack})
	if err != nil {
		return fmt.Errorf("attach to sched_process_exit: %w", explain(err))
	}
	return nil
}

// Wake has a Read that waits return early, or the next one not wait.
func (s *Sampler) Wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.woken = true
	if !s.closed {
		s.poller.SetReadDeadline(time.Unix(1, 0)) // it fails where there is nothing to wait for
	}
}

// detachExits ends the keeping of the stacks of threads that end.
func (s *Sampler) detachExits() error {
	if s.exits == nil {
		return nil
	}
	err := s.exits.Close()
	s.exits = nil
	if err != nil {
		return fmt.Errorf("detach from sched_process_exit: %w", err)
	}
	return nil
}

// interrupt ends a Read that waits.
func (s *Sampler) interrupt() error {
	if s.poller == nil {
		return nil
	}
	if err := s.poller.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return fmt.Errorf("interrupt read: %w", err)
	}
	return nil
}

// Close stops sampling and frees everything. A Read that waits returns
// os.ErrClosed.
func (s *Sampler) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	err := s.interrupt()
	s.mu.Unlock()

	s.reading.Lock() // a Read that waited is gone from here on
	defer s.reading.Unlock()
	err = errors.Join(err, s.detachExits())
	for _, c := range s.cpus {
		err = errors.Join(err, c.close())
	}
	s.cpus = nil
	if s.poller != nil {
		err = errors.Join(err, s.poller.Close())
	}
	if s.tables != nil {
		err = errors.Join(err, s.tables.close())
	}
	return errors.Join(err, s.objs.Close())
}
