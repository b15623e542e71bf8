package profilestore

// stackTable finds stacks by a hash of all their locations. It is a third of the size of a map, and a stack is found at
// once, not caller by caller: of a new one, only how much of it is known is searched for. A slot has half of the hash, so that
// it is one place in memory, and a small one: what is found is to be compared.
type stackTable struct {
	slots []stackSlot
	count int
}

type stackSlot struct{ hash, stack uint32 } // stack 0: the slot is free, for the empty stack needs none

// slotOf is where the search for a hash begins, and what is left of the hash.
func slotOf(hash uint64) uint32 { return uint32(hash>>32) ^ uint32(hash) }

// find returns the stacks that may have a hash one after the other, beginning with at 0; 0 when there are no more. Nearly
// always there is one, and it has it.
func (t *stackTable) find(hash uint64, at int) (stack uint32, next int) {
	if len(t.slots) == 0 {
		return 0, 0
	}
	own, mask := slotOf(hash), len(t.slots)-1
	for ; ; at++ {
		slot := t.slots[(int(own)+at)&mask]
		if slot.stack == 0 {
			return 0, 0
		}
		if slot.hash == own {
			return slot.stack, at + 1
		}
	}
}

// first is the slot where the search for a hash begins, for from.
func (t *stackTable) first(hash uint64) stackSlot {
	if len(t.slots) == 0 {
		return stackSlot{}
	}
	return t.slots[int(slotOf(hash))&(len(t.slots)-1)]
}

// from is the first stack that find returns, where first is known.
func (t *stackTable) from(first stackSlot, hash uint64) (stack uint32) {
	if first.stack == 0 || first.hash == slotOf(hash) {
		return first.stack
	}
	stack, _ = t.find(hash, 1)
	return stack
}

// add takes a stack that is not there yet.
func (t *stackTable) add(hash uint64, stack uint32) {
	if 4*(t.count+1) > 3*len(t.slots) {
		old := t.slots
		t.slots = make([]stackSlot, max(64, 2*len(old)))
		for _, slot := range old {
			if slot.stack != 0 {
				t.put(slot)
			}
		}
	}
	t.put(stackSlot{slotOf(hash), stack})
	t.count++
}

func (t *stackTable) put(slot stackSlot) {
	mask := len(t.slots) - 1
	at := int(slot.hash) & mask
	for t.slots[at].stack != 0 {
		at = (at + 1) & mask
	}
	t.slots[at] = slot
}

// size is the memory held, in bytes.
func (t *stackTable) size() int64 { return 8 * int64(len(t.slots)) }
