package bpf

// tables says whether the sampler unwinds by tables: only then are programs without frame pointers held to it.
const tables = false

// publish tells the sampler all that it is to know of a process before it is sampled: the unwind tables of the files
// that it maps, and where. Without tables there is nothing to tell.
func publish(*Sampler, int) error { return nil }
