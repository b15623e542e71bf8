package symbolize

// FrameSize returns how many bytes of stack the Go function at addr holds when it executes addr, not counting its
// return address: at 0 that lies on top of the stack, as in the whole of a small leaf function, and in the first and
// last instructions of any other. ok is false where that is not known, as for code that is not Go.
func (f *File) FrameSize(addr uint64) (size int, ok bool) {
	if f.golang == nil {
		return 0, false
	}
	p := f.scratch.Get().(*[]byte)
	defer f.scratch.Put(p)
	size, ok, err := f.golang.frameSize(addr, *p)
	if err != nil {
		f.note(err)
	}
	return size, ok
}

func (t *pclntab) frameSize(addr uint64, buf []byte) (size int, ok bool, err error) {
	if !t.covers(addr) {
		return 0, false, nil
	}
	pc := uint32(addr - t.text)
	fn, err := t.find(pc, buf)
	if err != nil || fn.pcsp == 0 {
		return 0, false, err
	}
	budget := maxWalk
	v, err := t.value(fn.pcsp, fn.entry, pc, &budget, buf)
	return int(v), err == nil && v >= 0, err
}
