package profilestore

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/gzip"
)

// The load of the figures: services with pods whose profiles have 797 stacks of mean depth 38 and two sample types,
// about 50 KB gzipped each.
const (
	loadStacks    = 797
	loadDepth     = 38
	loadFunctions = 1000
	loadPeriod    = 10_000_000
)

var loadWords = []string{
	"handle", "request", "parse", "encode", "decode", "buffer", "stream", "query", "index", "cache", "flush", "commit", "merge", "split", "route",
	"token", "session", "worker", "queue", "batch", "record", "segment", "cursor", "schema", "filter", "render", "fetch", "store", "load", "lock",
}

// profileSource makes the profiles of one service.
type profileSource interface {
	profile(t testing.TB, pod int) []byte
}

// loadService makes up the profiles of one service.
type loadService struct {
	r      *rand.Rand
	tables message    // all of a profile but its samples and times
	stacks [][]uint64 // location ids, leaf first
	pods   int
	news   float64 // share of the stacks that are new in each profile
	buf    bytes.Buffer
	gzip   *gzip.Writer
}

func newLoadService(t testing.TB, number, pods int, news float64) *loadService {
	t.Helper()
	s := &loadService{r: rand.New(rand.NewPCG(uint64(number), 7)), pods: pods, news: news}
	var err error
	if s.gzip, err = gzip.NewWriterLevel(nil, gzip.DefaultCompression); err != nil {
		t.Fatal(err)
	}
	strings := []string{"", "samples", "count", "cpu", "nanoseconds", fmt.Sprintf("/usr/bin/service%02d", number), fmt.Sprintf("%040x", s.r.Uint64()), "pid", "comm", "thread"}
	word := func() string { return loadWords[s.r.IntN(len(loadWords))] }
	m := message{}.bytes(fieldSampleType, message{}.num(1, 1).num(2, 2)).bytes(fieldSampleType, message{}.num(1, 3).num(2, 4))
	m = m.bytes(fieldMapping, message{}.num(1, 1).num(2, 0x400000).num(3, 0x4000000).num(5, 5).num(6, 6).num(7, 1))
	for id := uint64(1); id <= loadFunctions; id++ {
		if id%6 == 1 {
			strings = append(strings, fmt.Sprintf("/src/service%02d/%s/%s_%s.go", number, word(), word(), word()))
		}
		file := uint64(len(strings) - 1)
		for ; strings[file][0] != '/' || file < 10; file-- {
		}
		strings = append(strings, fmt.Sprintf("example.com/service%02d/%s.(*%s%s).%s%s%d", number, word(), word(), word(), word(), word(), s.r.IntN(100)))
		name := uint64(len(strings) - 1)
		m = m.bytes(fieldFunction, message{}.num(1, id).num(2, name).num(3, name).num(4, file).num(5, uint64(s.r.IntN(900))))
		m = m.bytes(fieldLocation, message{}.num(1, id).num(2, 1).num(3, 0x400000+id*uint64(200+s.r.IntN(400))).bytes(4, message{}.num(1, id).num(2, uint64(s.r.IntN(900)))))
	}
	for pod := range pods {
		strings = append(strings, fmt.Sprint(4000+number*100+pod))
	}
	strings = append(strings, "main", "worker", "gc")
	for _, text := range strings {
		m = m.bytes(fieldString, []byte(text))
	}
	s.tables = m.bytes(fieldPeriodType, message{}.num(1, 3).num(2, 4)).num(fieldPeriod, loadPeriod)
	for range loadStacks {
		s.stacks = append(s.stacks, s.stack())
	}
	return s
}

// stack goes on from a place in another one, as the stacks of a program do.
func (s *loadService) stack() []uint64 {
	depth := loadDepth - 12 + s.r.IntN(25)
	var callers []uint64
	if n := len(s.stacks); n > 0 {
		callers = s.stacks[s.r.IntN(n)]
	}
	own := min(1+int(s.r.ExpFloat64()*5), depth)
	stack := make([]uint64, 0, depth)
	for range own {
		stack = append(stack, 1+uint64(s.r.IntN(loadFunctions)))
	}
	if shared := depth - own; shared < len(callers) {
		return append(stack, callers[len(callers)-shared:]...)
	}
	for len(stack) < depth-len(callers) {
		stack = append(stack, 1+uint64(s.r.IntN(loadFunctions)))
	}
	return append(stack, callers...)
}

// profile makes the pprof of one pod.
func (s *loadService) profile(t testing.TB, pod int) []byte {
	for range int(s.news * loadStacks) {
		s.stacks[s.r.IntN(len(s.stacks))] = s.stack()
	}
	b := append(message{}, s.tables...)
	pid := s.pidString(pod)
	for i, stack := range s.stacks {
		var packed message
		for _, l := range stack {
			packed = appendVarint(packed, l)
		}
		n := uint64(1 + s.r.ExpFloat64()*3)
		thread := pid + uint64(s.pods-pod) + uint64(i%3)
		sample := message{}.bytes(1, packed).bytes(2, appendVarint(appendVarint(nil, n), n*loadPeriod))
		sample = sample.bytes(3, message{}.num(1, 7).num(2, pid)).bytes(3, message{}.num(1, 8).num(2, 5)).bytes(3, message{}.num(1, 9).num(2, thread))
		b = b.bytes(fieldSample, sample)
	}
	s.buf.Reset()
	s.gzip.Reset(&s.buf)
	if _, err := s.gzip.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := s.gzip.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(s.buf.Bytes())
}

// pidString is where the pid of a pod stands among the strings.
func (s *loadService) pidString(pod int) uint64 {
	count := uint64(0)
	c := cursor{b: s.tables}
	for f := (field{}); c.next(&f); {
		if f.n == fieldString {
			count++
		}
	}
	return count - 3 - uint64(s.pods-pod)
}

func appendVarint(b []byte, v uint64) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

// loadLabels are those of the series of a pod.
func loadLabels(service, pod int) Labels {
	return NewLabels(map[string]string{"service_name": fmt.Sprintf("service%02d", service), "pod": fmt.Sprintf("service%02d-%d", service, pod), "hostname": fmt.Sprintf("node%d", pod%3)})
}

func TestLoadShape(t *testing.T) {
	s := newLoadService(t, 1, 3, 0)
	body := s.profile(t, 2)
	var r profileReader
	if err := r.read(body); err != nil {
		t.Fatal(err)
	}
	d := newDictionary(1, "", 0, new(atomic.Int64))
	d.add(&r.decoded, nil, nil)
	t.Logf("%d bytes gzipped, %d plain, %d stacks, mean depth %.1f, %d nodes", len(body), len(r.raw), len(r.samples), float64(len(r.stack))/float64(len(r.samples)), len(d.callers))
	if n := len(r.stack) / len(r.samples); len(r.samples) != loadStacks || n < loadDepth-3 || n > loadDepth+3 {
		t.Errorf("%d stacks, mean depth %d", len(r.samples), n)
	}
	if got := d.value(0, "pid"); got != "4102" {
		t.Errorf("pid %q", got)
	}
}
