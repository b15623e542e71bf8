package main

import (
	"bytes"
	"io"
	"os"
	"unicode"

	"golang.org/x/sys/unix"
)

// forTerminal returns a writer to f that, if f is a terminal, does not let others tell that what to do: anybody may give a
// function, a file or a process a name with control characters in it. Files and pipes get all as it is.
func forTerminal(f *os.File) io.Writer {
	if !isTerminal(f) {
		return f
	}
	return plainWriter{f}
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// plainWriter writes what is not printable, but for the ends of lines and tabs, as U+FFFD.
type plainWriter struct{ io.Writer }

func (w plainWriter) Write(b []byte) (int, error) {
	plain := bytes.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return unicode.ReplacementChar
		}
		return r
	}, b)
	if _, err := w.Writer.Write(plain); err != nil {
		return 0, err
	}
	return len(b), nil
}
