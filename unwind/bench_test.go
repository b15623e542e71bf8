package unwind

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// benchFiles are programs to measure: the large ones where installed.
func benchFiles(t testing.TB) map[string]string {
	files := map[string]string{}
	for name, patterns := range map[string][]string{
		"libc":    {"/lib/*-linux-gnu/libc.so.6", "/lib64/libc.so.6"},
		"node":    {"/usr/bin/node"},
		"libLLVM": {"/usr/lib/*-linux-gnu/libLLVM.so.19*"},
	} {
		if path := firstThere(t, patterns...); path != "" {
			files[name] = path
		}
	}
	return files
}

// cpuTime returns the CPU time of the process, the garbage collector's included.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkBuild reports the CPU time of a table, which counts what the garbage collector does beside, and its size for
// each byte of .eh_frame.
func BenchmarkBuild(b *testing.B) {
	for name, path := range benchFiles(b) {
		b.Run(name, func(b *testing.B) {
			f, err := os.Open(path)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				b.Fatal(err)
			}
			m, err := readImage(f, info.Size())
			if err != nil {
				b.Fatal(err)
			}
			section := m.section(".eh_frame")
			if section == nil {
				b.Fatalf("%s has no .eh_frame", path)
			}
			b.ReportAllocs()
			var table *Table
			start := cpuTime(b)
			for b.Loop() {
				if table, err = Build(f, info.Size(), Options{}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpuTime(b)-start).Microseconds())/1e3/float64(b.N), "cpu-ms/op")
			b.ReportMetric(float64(table.Bytes())/float64(section.size), "B/eh_frame-B")
			b.ReportMetric(float64(len(table.Rows)), "rows")
			b.ReportMetric(float64(len(table.Rules)), "rules")
		})
	}
}

func BenchmarkReadTable(b *testing.B) {
	for name, path := range benchFiles(b) {
		b.Run(name, func(b *testing.B) {
			table := buildFile(b, path, Options{})
			encoded := encode(b, table)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ReadTable(encoded); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(encoded))/float64(table.Bytes()), "B/table-B")
		})
	}
}

func BenchmarkAppendBinary(b *testing.B) {
	for name, path := range benchFiles(b) {
		b.Run(name, func(b *testing.B) {
			table := buildFile(b, path, Options{})
			var encoded []byte
			var err error
			for b.Loop() {
				if encoded, err = table.AppendBinary(encoded[:0]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkFind(b *testing.B) {
	for name, path := range benchFiles(b) {
		b.Run(name, func(b *testing.B) {
			table := buildFile(b, path, Options{})
			first, size := table.FirstPage<<pageBits, uint64(len(table.Pages))<<pageBits
			addr := uint64(0)
			for b.Loop() {
				addr = (addr + 0x9e3779b97f4a7c15) % size
				table.Find(first + addr)
			}
		})
	}
}
