package bpf

import (
	"fmt"
	"time"

	"github.com/cilium/ebpf"
)

// Stats are the sampler's counters since Open.
type Stats struct {
	Taken    uint64              // samples the kernel took
	Outcomes [NumOutcomes]uint64 // how their walk in the kernel ended; sums to Taken when no sample is under way
	Run      time.Duration       // CPU time of the programs
	// TableBytes is what unwind tables and the mappings of processes take.
	TableBytes uint64
	// Memory is the bytes that the kernel holds for the maps, rings and room for tables included.
	Memory uint64
}

// Stats reads the counters of all CPUs. It may be called until Close.
func (s *Sampler) Stats() (Stats, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var perCPU []samplerCounters
	if err := s.objs.Counts.Lookup(uint32(0), &perCPU); err != nil {
		return Stats{}, fmt.Errorf("read sampler counters: %w", err)
	}
	used, held := s.tables.stats()
	st := Stats{TableBytes: used, Memory: s.memory + held}
	for _, c := range perCPU {
		st.Taken += c.Taken
		st.Run += time.Duration(c.RunNs + c.ExitNs)
		for i, n := range c.Outcomes {
			st.Outcomes[i] += n
		}
	}
	return st, nil
}

// memoryOf returns the bytes that the kernel holds for maps.
func memoryOf(maps ...*ebpf.Map) (uint64, error) {
	var sum uint64
	for _, m := range maps {
		info, err := m.Info()
		if err != nil {
			return 0, fmt.Errorf("read map info: %w", err)
		}
		if bytes, ok := info.Memlock(); ok {
			sum += bytes
		}
	}
	return sum, nil
}
