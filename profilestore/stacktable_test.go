package profilestore

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
)

func TestStackTable(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var table stackTable
	want := make(map[uint64][]uint32)
	for stack := uint32(1); stack <= 5000; stack++ {
		hash := r.Uint64N(3000) << (r.IntN(2) * 40) // many are the same, or end in zeros
		table.add(hash, stack)
		want[hash] = append(want[hash], stack)
	}
	for hash, stacks := range want {
		seen := make(map[uint32]bool)
		for stack, next := table.find(hash, 0); stack != 0; stack, next = table.find(hash, next) {
			seen[stack] = true
		}
		for _, stack := range stacks {
			if !seen[stack] {
				t.Fatalf("hash %#x: stack %d of %d is not found", hash, stack, len(stacks))
			}
		}
	}
	if stack, _ := table.find(1<<63, 0); stack != 0 {
		t.Errorf("found %d", stack)
	}
}

// Stacks whose hashes are the same are told apart all the same.
func TestHashCollision(t *testing.T) {
	d := newDictionary(1, "", 0, new(atomic.Int64))
	if a, b := d.child(0, 1, 7), d.child(0, 2, 7); a == b || d.child(0, 1, 7) != a || d.child(0, 2, 7) != b {
		t.Errorf("stacks %d and %d", a, b)
	}

	var r profileReader
	if err := r.read(newLoadService(t, 1, 1, 0).profile(t, 0)); err != nil {
		t.Fatal(err)
	}
	want := newDictionary(1, "", 0, new(atomic.Int64))
	want.start = d.start
	wanted, _, _ := want.add(&r.decoded, nil, nil)
	// The other dictionary has a stack of another content for each of these hashes.
	d = newDictionary(1, "", 0, new(atomic.Int64))
	d.start = want.start
	for _, slot := range want.known.slots {
		if slot.stack != 0 {
			d.known.add(uint64(slot.hash), 1)
		}
	}
	d.callers, d.leaf = append(d.callers, 0), append(d.leaf, 0xffff_ffff)
	got, _, _ := d.add(&r.decoded, nil, nil)
	for i, stack := range got {
		if stack != wanted[i]+1 {
			t.Fatalf("sample %d has stack %d, want %d", i, stack, wanted[i]+1)
		}
	}
}
