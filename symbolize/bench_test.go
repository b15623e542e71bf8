package symbolize

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// benchFiles returns programs to measure: those of the toolchain are always there, the large ones where installed.
func benchFiles(b *testing.B) map[string]string {
	files := map[string]string{"self": "/proc/self/exe", "goframes": buildGo(b, nil)}
	for _, p := range []string{
		"/lib/*-linux-gnu/libc.so.6", "/usr/bin/node", "/usr/lib/*-linux-gnu/libLLVM.so.*", "/usr/lib/jvm/*/lib/server/libjvm.so",
	} {
		if path := firstThere(b, p); path != "" {
			files[filepath.Base(path)] = path
		}
	}
	return files
}

func BenchmarkOpen(b *testing.B) {
	for name, path := range benchFiles(b) {
		b.Run(name, func(b *testing.B) {
			r, err := os.Open(path)
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			info, err := r.Stat()
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			var f *File
			for b.Loop() {
				if f, err = Open(r, info.Size()); err != nil {
					b.Fatal(err)
				}
			}
			functions := 0
			for _, s := range f.Sources() {
				functions += s.Functions
			}
			b.ReportMetric(float64(functions), "functions")
			b.ReportMetric(float64(f.MemoryBytes()), "held-B")
		})
	}
}

func BenchmarkResolve(b *testing.B) {
	for name, path := range benchFiles(b) {
		b.Run(name, func(b *testing.B) {
			f := openFile(b, path)
			addrs := randomCode(b, path, 1, 1024)
			b.ReportAllocs()
			var frames []Frame
			i := 0
			for b.Loop() {
				frames = f.Resolve(frames[:0], addrs[i%len(addrs)])
				i++
			}
		})
	}
}

// BenchmarkIndexResolve looks addresses up that were looked up before.
func BenchmarkIndexResolve(b *testing.B) {
	path := debugOf(b, libc(b))
	x, _ := openTestIndex(b, path, IndexOptions{})
	addrs := randomCode(b, path, 1, 1024)
	b.ReportAllocs()
	var frames []Frame
	for _, addr := range addrs {
		frames = x.Resolve(frames[:0], addr)
	}
	i := 0
	for b.Loop() {
		frames = x.Resolve(frames[:0], addrs[i%len(addrs)])
		i++
	}
}

// BenchmarkBuildIndex indexes the debug information of libc.
func BenchmarkBuildIndex(b *testing.B) {
	path := debugOf(b, libc(b))
	var stats IndexStats
	b.ReportAllocs()
	for b.Loop() {
		var x *Index
		x, stats = openTestIndex(b, path, IndexOptions{})
		x.Close()
	}
	b.SetBytes(int64(stats.Inflated))
	b.ReportMetric(float64(stats.Bytes), "index-B")
}

func BenchmarkKallsyms(b *testing.B) {
	text, err := os.ReadFile("/proc/kallsyms")
	if err != nil {
		skip(b, err.Error())
	}
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	var k *Kallsyms
	for b.Loop() {
		if k, err = ReadKallsyms(strings.NewReader(string(text))); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(k.Functions()), "functions")
	b.ReportMetric(float64(k.MemoryBytes()), "held-B")
}
