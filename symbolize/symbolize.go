// Package symbolize turns addresses into function names, files and lines.
//
// Addresses of user code are ELF virtual addresses of one file, the ones that nm and objdump print: the step from
// a program counter in a process to an address in a file is the caller's. Addresses of kernel code are those of
// the running kernel, as /proc/kallsyms prints them.
//
// The package reads what any user of the machine may have made, on behalf of a process that may be root. So files
// are read with ReadAt and never mapped (a mapped file that is truncated raises SIGBUS), every table is bounded
// before anything is allocated for it, and damage is an error, not a panic.
package symbolize

import "fmt"

// Frame is one function that was executing at an address: the function that holds the address, or one of the
// calls that the compiler inlined there.
type Frame struct {
	// Function is the name for people, demangled in full, parameters included, and without a symbol version. Go
	// functions are named as the Go runtime prints them, with type arguments as [...].
	Function string
	// SystemName is the name as the file has it.
	SystemName string
	// File is the source file as the file has it; empty if it is not known.
	File string
	// Line is the line that was executing or, in the callers of an inlined call, the line of that call. It is
	// zero if it is not known.
	Line int
	// StartLine is the line on which the function's source begins; zero if it is not known.
	StartLine int
	// Source is where the name comes from.
	Source Rank
}

// Rank orders the sources of names: the names of a higher rank replace those of a lower.
type Rank uint8

const (
	// None is the rank of an address without a name.
	None Rank = iota
	// Dynsym is the dynamic symbol table: exported functions only.
	Dynsym
	// Symtab is the full symbol table of an ELF file, or the kernel's.
	Symtab
	// Pclntab is the Go runtime's table of functions, inlined calls and lines.
	Pclntab
	// DWARF is debug information.
	DWARF
)

// String returns the rank in lower case, as the command line prints it.
func (r Rank) String() string {
	switch r {
	case None:
		return "none"
	case Dynsym:
		return "dynsym"
	case Symtab:
		return "symtab"
	case Pclntab:
		return "pclntab"
	case DWARF:
		return "dwarf"
	default:
		return fmt.Sprintf("Rank(%d)", uint8(r))
	}
}

// Resolver names addresses. File and Kallsyms are Resolvers; both may be used by several goroutines at once.
type Resolver interface {
	// Resolve appends the frames at addr to dst, the innermost inlined call first and the function that holds
	// addr last, and returns the extended slice. It returns dst unchanged if nothing is known about addr.
	//
	// For a frame that was making a call, addr is the return address minus one: the return address itself may
	// already belong to the next line or the next function.
	Resolve(dst []Frame, addr uint64) []Frame
}
