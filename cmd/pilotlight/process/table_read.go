package process

import (
	"errors"
	"io/fs"
	"strings"
)

// This file is what a Table reads from /proc, beside what records tell it.

// count notes an error of a read of /proc, and reports whether there was one.
func (t *Table) count(err error) bool {
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.stats.ReadErrors++
	}
	return err != nil
}

// reread makes e what /proc says of it now, and reports whether it is still
// there. If not, nothing better will ever be known about it.
func (t *Table) reread(e *entry) bool {
	e.epoch = t.epoch
	st, err := readStat(t.proc, e.pid)
	if t.count(err) || !e.bears(st.start) {
		return false
	}
	var exe string
	var ms Mappings
	from := st.shownAs(t.proc, e.pid)
	switch {
	case st.kernel:
	case st.state == 'Z' && from == e.pid:
		// The leader has exited and the last of its threads just now: there is no memory to show.
		exe, ms = e.image.exe, e.space.mappings
	default:
		if exe, err = readExe(t.proc, from); t.count(err) {
			return false
		}
		room := min(t.options.MaxMappingsPerProcess, max(0, t.options.MaxMappings-t.stats.Mappings))
		var refused int
		if ms, refused, err = readMaps(t.proc, from, room); t.count(err) {
			return false
		}
		t.stats.RefusedMappings += uint64(refused)
	}
	if !e.exact {
		e.start = st.start
	}
	e.ppid, e.comm, e.kernel, e.cpu = st.ppid, st.comm, st.kernel, st.cpu
	e.threaded = e.threaded || st.threads > 1
	switch {
	case st.state != 'Z':
		e.exited = 0
	case e.exited == 0:
		t.exit(e) // no record will tell of the end of its last thread
	}
	if e.image.exe != exe {
		e.image = &image{exe: exe}
		e.cgroupKnown = false
		e.view = nil
	}
	t.replace(e, ms.adopt(e.space.mappings))
	return true
}

// adopt returns ms, with the objects of old for mappings that are the same, so
// that their files need not be opened again.
func (ms Mappings) adopt(old Mappings) Mappings {
	for i := range ms {
		if m, ok := old.Find(ms[i].Start); ok && m.same(ms[i].Object) {
			ms[i].Object = m.Object
		}
	}
	return ms
}

// describe gives an entry the Process that Lookup returns, and reads for it what
// records do not say.
func (t *Table) describe(e *entry) {
	if !e.kernel {
		alive := e.exited == 0 && t.present(e)
		if !e.image.read {
			t.readImage(e, alive)
		}
		if !e.cgroupKnown {
			t.readCgroup(e, alive)
		}
	}
	e.view = &Process{
		Key:          Key{e.pid, e.start, e.exec},
		PPID:         e.ppid,
		Exe:          e.image.exe,
		Cmdline:      e.image.cmdline,
		Program:      e.image.program,
		OTelService:  e.image.otelService,
		KernelThread: e.kernel,
	}
	if e.cgroup != nil {
		e.view.Cgroup = *e.cgroup
	}
}

// present reports whether what /proc has under the entry's pid is this process.
func (t *Table) present(e *entry) bool {
	st, err := readStat(t.proc, e.pid)
	return !t.count(err) && e.bears(st.start)
}

// readImage reads the command line, of the process itself or of one up its line
// that has the same image and still lives.
func (t *Table) readImage(e *entry, alive bool) {
	im := e.image
	im.read = true
	for range maxAncestors {
		if alive {
			break
		}
		p := t.parentOf(e)
		if p == nil || p.image != im {
			return
		}
		e, alive = p, p.exited == 0 && t.present(p)
	}
	if !alive {
		return
	}
	args, err := readCmdline(t.proc, e.pid)
	if t.count(err) {
		return
	}
	service := ""
	if t.options.ReadEnviron {
		service, err = readOTelService(t.proc, e.pid)
		t.count(err)
	}
	// The process may be another program by now, whose exec comes with the next
	// records; so this is read last. Below a chroot, records have the shorter path.
	exe, err := readExe(t.proc, e.pid)
	if t.count(err) || !strings.HasSuffix(exe, im.exe) {
		return
	}
	if im.exe == "" {
		im.exe = exe
	}
	im.cmdline, im.program, im.otelService = keep(args, keptCmdline), program(im.exe, args), service
}

// readCgroup reads the cgroup of the process. If it is gone, that is the one it
// was forked in: its parent's.
func (t *Table) readCgroup(e *entry, alive bool) {
	e.cgroupKnown = true
	if alive {
		c, err := readCgroup(t.proc, e.pid)
		if !t.count(err) {
			e.cgroup = &c
			return
		}
	}
	for p, n := t.parentOf(e), 0; e.cgroup == nil && p != nil && n < maxAncestors; p, n = t.parentOf(p), n+1 {
		if p.cgroup == nil && p.exited == 0 && t.present(p) {
			c, err := readCgroup(t.proc, p.pid)
			if !t.count(err) {
				p.cgroup = &c
			}
		}
		e.cgroup = p.cgroup
	}
}

// maxAncestors bounds how far up its line a process that is gone inherits.
const maxAncestors = 16

// parentOf returns the entry of the process that forked e, if it is still here.
func (t *Table) parentOf(e *entry) *entry {
	for p := t.pids[e.ppid]; p != nil; p = p.previous {
		if p.serial == e.parent {
			return p
		}
	}
	return nil
}
