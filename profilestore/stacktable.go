package profilestore

// stackTable finds stacks by a hash of all their locations. It is a third of the size of a map, and a stack is found at
// once, not caller by caller: of a new one, only how much of it is known is searched for.
type stackTable struct {
	hashes []uint64
	stacks []uint32 // 0: the slot is free, for the empty stack needs none
	count  int
}

// find returns the stacks with a hash one after the other, beginning with at 0; 0 when there are no more. Nearly always
// there is one.
func (t *stackTable) find(hash uint64, at int) (stack uint32, next int) {
	if len(t.stacks) == 0 {
		return 0, 0
	}
	mask := len(t.stacks) - 1
	for ; ; at++ {
		slot := (int(hash) + at) & mask
		if t.stacks[slot] == 0 {
			return 0, 0
		}
		if t.hashes[slot] == hash {
			return t.stacks[slot], at + 1
		}
	}
}

// add takes a stack that is not there yet.
func (t *stackTable) add(hash uint64, stack uint32) {
	if 4*(t.count+1) > 3*len(t.stacks) {
		old := *t
		size := max(64, 2*len(old.stacks))
		*t = stackTable{hashes: make([]uint64, size), stacks: make([]uint32, size)}
		for i, stack := range old.stacks {
			if stack != 0 {
				t.put(old.hashes[i], stack)
			}
		}
	}
	t.put(hash, stack)
}

func (t *stackTable) put(hash uint64, stack uint32) {
	mask := len(t.stacks) - 1
	slot := int(hash) & mask
	for t.stacks[slot] != 0 {
		slot = (slot + 1) & mask
	}
	t.hashes[slot], t.stacks[slot] = hash, stack
	t.count++
}

// size is the memory held, in bytes.
func (t *stackTable) size() int64 { return 12 * int64(len(t.stacks)) }
