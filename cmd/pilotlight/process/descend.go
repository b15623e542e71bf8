package process

// Descends reports whether p is the process with the pid root, or was started
// by it, directly or through others. A chain that leads through a process that
// has been forgotten is broken.
func (t *Table) Descends(p *Process, root uint32) bool {
	if p.PID == root || p.PPID == root {
		return true
	}
	e := t.pids[p.PID]
	for e != nil && !e.bears(p.Start) {
		e = e.previous
	}
	for range maxAncestors {
		if e == nil {
			return false
		}
		if e.pid == root || e.ppid == root {
			return true
		}
		e = t.parentOf(e)
	}
	return false
}
