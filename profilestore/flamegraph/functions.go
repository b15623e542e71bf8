package flamegraph

import (
	"hash/maphash"
	"math/bits"
)

// FunctionHash stands for the names of a function, so that they need not be read. It has 128 bits, made with seeds that nobody
// knows: of ten million functions two have the same with a probability of 2^-82.
type FunctionHash [2]uint64

var hashSeeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}

// HashFunction is the hash of a function in a binary, in this process.
func HashFunction(name, binary string) (h FunctionHash) {
	for i, seed := range hashSeeds {
		h[i] = maphash.String(seed, name) ^ bits.RotateLeft64(maphash.String(seed, binary), 1)
	}
	return h
}

// functionIDs numbers functions by their hashes.
type functionIDs struct {
	hashes []FunctionHash // by number; none has the first
	slots  []functionSlot
}

// functionSlot has a part of the hash, so that few others are looked at.
type functionSlot struct {
	part uint32
	id   int32 // 0: the slot is free
}

// number is that of a function, a new one if it was not asked for before.
func (t *functionIDs) number(h FunctionHash) (id int32, added bool) {
	if 2*len(t.hashes) > len(t.slots) {
		t.grow()
	}
	slot := t.slot(h)
	if slot.id == 0 {
		*slot = functionSlot{uint32(h[1]), int32(len(t.hashes))}
		t.hashes = append(t.hashes, h)
		return slot.id, true
	}
	return slot.id, false
}

// slot is that of a function, or the one where it belongs.
func (t *functionIDs) slot(h FunctionHash) *functionSlot {
	mask := uint64(len(t.slots) - 1)
	for at := h[0] & mask; ; at = (at + 1) & mask {
		if slot := &t.slots[at]; slot.id == 0 || slot.part == uint32(h[1]) && t.hashes[slot.id] == h {
			return slot
		}
	}
}

func (t *functionIDs) grow() {
	t.slots = make([]functionSlot, max(1<<10, 2*len(t.slots)))
	for id := 1; id < len(t.hashes); id++ {
		*t.slot(t.hashes[id]) = functionSlot{uint32(t.hashes[id][1]), int32(id)}
	}
}
