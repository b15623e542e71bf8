package profilestore

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/pprof/profile"
)

// recordedPrograms are those of testdata/recorded, by the names of their files.
var recordedPrograms = []string{"clang", "java", "node", "python", "server"}

// recordedService replays the windows of a recorded program as the profiles of one service, each time with other stacks among
// them that nobody has seen.
type recordedService struct {
	r       *rand.Rand
	windows []*profile.Profile
	number  int
	news    float64 // share of the stacks that are new in each profile
	made    int     // profiles up to now
	seed    maphash.Seed
	seen    map[uint64]bool // all stacks up to now
}

func newRecordedService(t testing.TB, number int, news float64) *recordedService {
	t.Helper()
	s := &recordedService{r: rand.New(rand.NewPCG(uint64(number), 8)), number: number, news: news, seed: maphash.MakeSeed(), seen: make(map[uint64]bool)}
	files, err := filepath.Glob(filepath.Join("testdata", "recorded", recordedPrograms[number%len(recordedPrograms)]+"-*.pb.gz"))
	if err != nil || len(files) == 0 {
		t.Fatalf("recorded profiles of service %d: %v, %v", number, files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p, err := profile.ParseData(data)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		s.own(p)
		p.Sample = slices.DeleteFunc(p.Sample, func(sample *profile.Sample) bool { return len(sample.Location) == 0 })
		for _, sample := range p.Sample {
			s.isNew(sample.Location)
		}
		s.windows = append(s.windows, p)
	}
	return s
}

// own gives the functions of a program names of this service, so that no two services share them, but for the kernel's.
func (s *recordedService) own(p *profile.Profile) {
	kernel := make(map[*profile.Function]bool)
	for _, l := range p.Location {
		for _, line := range l.Line {
			kernel[line.Function] = strings.HasPrefix(fileOf(l), "[kernel")
		}
	}
	for _, f := range p.Function {
		if !kernel[f] {
			f.Name, f.SystemName = fmt.Sprintf("service%02d::%s", s.number, f.Name), fmt.Sprintf("service%02d::%s", s.number, f.SystemName)
		}
	}
}

// fileOf is the file that a location is in, if any.
func fileOf(l *profile.Location) string {
	if l.Mapping == nil {
		return ""
	}
	return l.Mapping.File
}

// isNew reports whether a stack was not seen before.
func (s *recordedService) isNew(stack []*profile.Location) bool {
	var h maphash.Hash
	h.SetSeed(s.seed)
	for _, l := range stack {
		maphash.WriteComparable(&h, fileOf(l))
		maphash.WriteComparable(&h, l.Address)
		for _, line := range l.Line {
			maphash.WriteComparable(&h, line.Function.Name)
			maphash.WriteComparable(&h, line.Line)
		}
	}
	key := h.Sum64()
	if s.seen[key] {
		return false
	}
	s.seen[key] = true
	return true
}

// stack puts the innermost frames of one recorded stack on the callers of another one, until that is new.
func (s *recordedService) stack(of []*profile.Sample) []*profile.Location {
	for {
		callees, callers := of[s.r.IntN(len(of))].Location, of[s.r.IntN(len(of))].Location
		own := 1 + int(s.r.ExpFloat64()*5)
		stack := slices.Concat(callees[:min(own, len(callees))], callers[min(own, len(callers)-1):])
		if s.isNew(stack) {
			return stack
		}
	}
}

// profile makes the pprof of one pod: the next window that was recorded, for each pod another.
func (s *recordedService) profile(t testing.TB, pod int) []byte {
	window := s.windows[s.made%len(s.windows)]
	s.made++
	p := profile.Profile{
		SampleType: window.SampleType, DefaultSampleType: window.DefaultSampleType, Sample: slices.Clone(window.Sample), Mapping: window.Mapping,
		Location: window.Location, Function: window.Function, Comments: window.Comments, DurationNanos: window.DurationNanos, PeriodType: window.PeriodType, Period: window.Period,
	}
	pid := []string{fmt.Sprint(4000 + s.number*100 + pod)}
	for _, sample := range p.Sample {
		sample.Label["pid"] = pid
	}
	for _, i := range s.r.Perm(len(p.Sample))[:int(s.news*float64(len(p.Sample)))] {
		sample := *p.Sample[i]
		sample.Location = s.stack(window.Sample)
		p.Sample[i] = &sample
	}
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRecordedLoadShape(t *testing.T) {
	const news = 0.3
	for number, program := range recordedPrograms {
		s := newRecordedService(t, number, news)
		d := newDictionary(1, "", 0, new(atomic.Int64))
		known := make(map[uint32]bool)
		rounds := 5 * len(s.windows) // in each of the first some of what was recorded comes for the first time
		for i := range rounds {
			body := s.profile(t, i)
			var r profileReader
			if err := r.read(body); err != nil {
				t.Fatalf("%s: %v", program, err)
			}
			stacks, _, _ := d.add(&r.decoded, nil, nil)
			fresh := 0
			for _, stack := range stacks {
				if !known[stack] {
					fresh++
				}
				known[stack] = true
			}
			share := float64(fresh) / float64(len(stacks))
			if i < rounds-len(s.windows) {
				continue
			}
			t.Logf("%s: %d bytes gzipped, %d plain, %d stacks, %.1f %% of them new, mean depth %.1f", program, len(body), len(r.raw), len(stacks), 100*share, float64(len(r.stack))/float64(len(stacks)))
			if share < news-0.02 || share > news+0.02 {
				t.Errorf("%s: %.1f %% of the stacks of profile %d are new", program, 100*share, i)
			}
		}
	}
}
