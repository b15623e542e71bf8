package bpf

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

const (
	// worthWaiting is how many retired words are worth a grace period.
	worthWaiting = shardWords / 4
	// growth is how many shards are made at once at least, and how many without use are kept: publishing some takes as
	// long as publishing one.
	growth = 4
)

// shard is a map of one value, words. They are mapped while they are written.
type shard struct {
	m      *ebpf.Map
	memory []byte
}

// wanted is what keep is to do.
type wanted struct {
	words int  // that do not fit into the shards there are
	tidy  bool // free what was retired
	rules bool // free numbers of rules
}

// call has keep look at what is wanted.
func (t *tables) call() {
	select {
	case t.wake <- struct{}{}:
	default: // it has been told already
	}
}

// alloc returns a piece of n words, or an error that says whether there will be room for it.
func (t *tables) alloc(n int) (piece, error) {
	if p, ok := t.space.alloc(n); ok {
		return p, nil
	}
	return piece{}, t.ask(n)
}

// makeRoom asks for all that a large table needs at once.
func (t *tables) makeRoom(words int) error {
	if free := t.numShards()*shardWords - t.space.used; free < words {
		return t.ask(words - free)
	}
	return nil
}

// ask has room made for so many words more, and returns an error that says whether there can be.
func (t *tables) ask(words int) error {
	if err := t.failed; err != nil {
		t.failed = nil
		return err
	}
	if t.numShards() >= t.maxShards && len(t.retired) == 0 && !t.tidying {
		return fmt.Errorf("%w: %d of %d bytes are used", ErrTableSpace, t.space.used*4, t.maxShards*shardBytes)
	}
	t.wanted.words += words
	t.wanted.tidy = true
	t.call()
	return ErrTableRoom
}

// askForRules is ask for numbers of rules.
func (t *tables) askForRules() error {
	if t.rules.idle == 0 && !t.tidying {
		return fmt.Errorf("%w: there are %d rules", ErrTableSpace, len(t.rules.entries))
	}
	t.wanted.rules = true
	t.call()
	return ErrTableRoom
}

// tidyRetired has retired words freed once they are worth it.
func (t *tables) tidyRetired() {
	if retiredWords(t.retired) >= worthWaiting {
		t.wanted.tidy = true
		t.call()
	}
}

func retiredWords(pieces []piece) (n int) {
	for _, p := range pieces {
		n += p.words
	}
	return n
}

func (t *tables) numShards() (n int) {
	for _, s := range t.shards {
		if s.m != nil {
			n++
		}
	}
	return n
}

// keep makes room and frees what was retired, as it is asked to.
func (t *tables) keep() {
	defer close(t.kept)
	for range t.wake {
		t.mu.Lock()
		if t.closed {
			t.mu.Unlock()
			return
		}
		want, retired := t.wanted, []piece(nil)
		var idle []idleRule
		if want.tidy {
			retired, t.retired = t.retired, nil
		}
		if want.rules {
			idle = t.rules.unused()
		}
		numbers := t.space.vacant(t.shardsFor(want.words))
		t.wanted, t.tidying = wanted{}, true
		t.mu.Unlock()

		err := t.tidy(numbers, retired, idle)
		t.mu.Lock()
		t.tidying = false
		t.failed = errors.Join(t.failed, err)
		t.mu.Unlock()
		if want.words > 0 || want.rules {
			t.made()
		}
	}
}

// shardsFor returns how many shards to make for words that do not fit into those there are.
func (t *tables) shardsFor(words int) int {
	if words == 0 {
		return 0
	}
	return min(max((words+shardWords-1)/shardWords, growth), t.maxShards-t.numShards())
}

// tidy makes shards with these numbers, frees what was retired, and gives back shards without use.
func (t *tables) tidy(numbers []int, retired []piece, idle []idleRule) error {
	added, err := t.publishShards(numbers)
	waited := len(added) > 0 && err == nil // that has waited for the program
	if !waited && len(retired)+len(idle) > 0 {
		err = errors.Join(err, t.wait())
		waited = err == nil
	}
	t.mu.Lock()
	for number, m := range added {
		t.space.add(number)
		for number >= len(t.shards) {
			t.shards = append(t.shards, shard{})
		}
		t.shards[number] = shard{m: m}
		t.memory += shardBytes
	}
	if !waited {
		t.retired = append(t.retired, retired...)
		t.mu.Unlock()
		return err
	}
	for _, p := range retired {
		t.space.free(p)
	}
	t.rules.reclaim(idle)
	surplus := make(map[int]*ebpf.Map)
	if unused := t.space.unused(); len(added) == 0 && len(unused) > growth {
		for _, number := range unused[growth:] {
			surplus[number] = t.shards[number].m
			t.space.remove(number)
			t.shards[number] = shard{}
			t.memory -= shardBytes
		}
	}
	t.mu.Unlock()
	return errors.Join(err, t.removeShards(surplus))
}

// publishShards makes shards and has the program find them. It returns those that it does find.
func (t *tables) publishShards(numbers []int) (map[int]*ebpf.Map, error) {
	made := make(map[int]*ebpf.Map)
	for _, number := range numbers {
		m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "shard", Type: ebpf.Array, KeySize: 4, ValueSize: shardBytes, MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("make shard: %w", err), t.removeShards(made))
		}
		made[number] = m
	}
	if err := atOnce(numbers, func(number int) error { return t.shardMap.Put(uint32(number), made[number]) }); err != nil {
		return nil, errors.Join(fmt.Errorf("publish shards: %w", err), t.removeShards(made))
	}
	return made, nil
}

// removeShards takes back shards of which nothing is in use.
func (t *tables) removeShards(shards map[int]*ebpf.Map) error {
	err := atOnce(slices.Collect(maps.Keys(shards)), func(number int) error {
		err := t.shardMap.Delete(uint32(number))
		if errors.Is(err, ebpf.ErrKeyNotExist) { // it could not be published
			return nil
		}
		return err
	})
	for _, m := range shards {
		err = errors.Join(err, m.Close())
	}
	if err != nil {
		return fmt.Errorf("remove shards: %w", err)
	}
	return nil
}

// atOnce does something to several shards. Each change of the map of shards waits for the program; they do so together.
func atOnce(numbers []int, do func(number int) error) error {
	const threads = 16
	var err error
	for some := range slices.Chunk(numbers, threads) {
		errs := make([]error, len(some))
		var wg sync.WaitGroup
		for i, number := range some {
			wg.Go(func() { errs[i] = do(number) })
		}
		wg.Wait()
		err = errors.Join(err, errors.Join(errs...))
	}
	return err
}

// wait returns when all runs of the program that were under way have ended.
//
// maybe_wait_bpf_programs in kernel/bpf/syscall.c: an update of a map of maps waits for them.
func (t *tables) wait() error {
	t.mu.Lock()
	at := slices.IndexFunc(t.shards, func(s shard) bool { return s.m != nil })
	if at < 0 {
		t.mu.Unlock()
		return nil // nothing was ever published
	}
	m := t.shards[at].m // which only this goroutine closes
	t.mu.Unlock()
	if err := t.shardMap.Put(uint32(at), m); err != nil {
		return fmt.Errorf("wait for the sampler: %w", err)
	}
	return nil
}

// words returns the words of a piece, mapped until unmap.
func (t *tables) words(p piece) ([]uint32, error) {
	s := &t.shards[p.at.shard()]
	if s.memory == nil {
		memory, err := unix.Mmap(s.m.FD(), 0, shardBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return nil, fmt.Errorf("map shard %d: %w", p.at.shard(), err)
		}
		s.memory = memory
	}
	return unsafe.Slice((*uint32)(unsafe.Pointer(&s.memory[p.at.word()*4])), p.words), nil
}

// unmap unmaps the shards that were written, so that they count once.
func (t *tables) unmap() error {
	var err error
	for i := range t.shards {
		if s := &t.shards[i]; s.memory != nil {
			err = errors.Join(err, unix.Munmap(s.memory))
			s.memory = nil
		}
	}
	return err
}
