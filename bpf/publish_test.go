package bpf

import "testing"

// withTables says whether the sampler unwinds by tables: only then are programs without frame pointers held to it.
const withTables = false

// publish tells the sampler all that it is to know of a process: the unwind tables of the files that it maps, and where.
// The sampler has been started, and nobody reads it yet: the process's identity is known from its samples. Without tables
// there is nothing to tell.
func publish(testing.TB, *Sampler, int) {}
