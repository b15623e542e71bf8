package bpf

import (
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"pilotlight/unwind"
)

func hostArch() unwind.Arch {
	return map[string]unwind.Arch{"amd64": unwind.AMD64, "arm64": unwind.ARM64}[runtime.GOARCH]
}

// TestBoundsOfTheObject compares what Go and C each say.
func TestBoundsOfTheObject(t *testing.T) {
	spec, err := loadSampler()
	if err != nil {
		t.Fatal(err)
	}
	if got := spec.Maps["shards"].InnerMap.ValueSize; got != shardBytes {
		t.Errorf("a shard has %d bytes, want %d", got, shardBytes)
	}
	if got := spec.Maps["shards"].MaxEntries; got != maxShards {
		t.Errorf("there are up to %d shards, want %d", got, maxShards)
	}
	for _, size := range []uintptr{unsafe.Sizeof(samplerProcess{}), unsafe.Sizeof(samplerMapping{})} {
		if size != unitWords*4 {
			t.Errorf("a struct of %d bytes, want %d", size, unitWords*4)
		}
	}
	if got := spec.Maps["rules"].ValueSize; uintptr(got) != unsafe.Sizeof(unwind.Rule{}) {
		t.Errorf("a rule has %d bytes, want %d", got, unsafe.Sizeof(unwind.Rule{}))
	}
}

func TestSpace(t *testing.T) {
	var s space
	if _, ok := s.alloc(1); ok {
		t.Fatal("a piece of no shard")
	}
	s.add(0)
	a, _ := s.alloc(shardWords - 16)
	b, _ := s.alloc(3)
	if b.at.word() != shardWords-16 || b.words != unitWords {
		t.Errorf("3 words got %+v", b)
	}
	if p, ok := s.alloc(16); ok {
		t.Errorf("16 words got %+v of the last 8", p)
	}
	s.add(1)
	c, ok := s.alloc(16)
	if !ok || c.at != 1<<16 {
		t.Errorf("16 words got %+v, want the start of shard 1", c)
	}
	s.free(b)
	s.free(a)
	if got := s.unused(); !slices.Equal(got, []int{0}) || s.used != 16 {
		t.Errorf("shards %v are unused, %d words used", got, s.used)
	}
	s.remove(0)
	s.free(c)
	if got := s.vacant(2); !slices.Equal(got, []int{0, 2}) {
		t.Errorf("the next shards are %v, want the one that was removed first", got)
	}
	s.add(0)
	if got := s.unused(); !slices.Equal(got, []int{0, 1}) {
		t.Errorf("shards %v are unused, want both", got)
	}
}

// TestSpaceAtRandom compares with a map of the words in use.
func TestSpaceAtRandom(t *testing.T) {
	var s space
	for _, number := range s.vacant(3) {
		s.add(number)
	}
	var inUse [3 * shardWords]bool
	mark := func(p piece, to bool) {
		for i := range p.words {
			if inUse[int(p.at)+i] == to {
				t.Fatalf("word %d of %+v: in use %v already", i, p, to)
			}
			inUse[int(p.at)+i] = to
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var pieces []piece
	full := 0
	for range 20_000 {
		if rng.IntN(100) < 55 {
			n := 1 + rng.IntN(1<<rng.IntN(15))
			p, ok := s.alloc(n)
			if !ok {
				full++
				continue
			}
			if p.words < n || p.at%unitWords != 0 || p.at.word()+p.words > shardWords {
				t.Fatalf("%d words got %+v", n, p)
			}
			mark(p, true)
			pieces = append(pieces, p)
		} else if len(pieces) > 0 {
			i := rng.IntN(len(pieces))
			mark(pieces[i], false)
			s.free(pieces[i])
			pieces[i] = pieces[len(pieces)-1]
			pieces = pieces[:len(pieces)-1]
		}
	}
	for _, p := range pieces {
		s.free(p)
	}
	if got := s.unused(); len(got) != 3 || s.used != 0 || full == 0 {
		t.Errorf("shards %v are unused and %d words used after all was freed; full %d times", got, s.used, full)
	}
}

func TestRuleBook(t *testing.T) {
	b := &ruleBook{memory: make([]byte, 3*16), numbers: map[unwind.Rule]uint16{}}
	rule := func(n int) unwind.Rule {
		return unwind.Rule{CFAOff: int32(n), FPOff: -2, RBXOff: -3, RAOff: -1, CFA: unwind.CFADeref, CFAReg: 7, CFAAdd: -4, FP: unwind.SaveAtCFA, RBX: unwind.SaveAtSP, RA: unwind.SaveAtFP}
	}
	for i, n := range []int{10, 11, 12, 10} {
		if got, ok := b.take(rule(n)); !ok || int(got) != i%3 {
			t.Errorf("rule %d has number %d, %v", n, got, ok)
		}
	}
	if got := *(*unwind.Rule)(unsafe.Pointer(&b.memory[16])); got != rule(11) {
		t.Errorf("the kernel reads %+v, want %+v", got, rule(11))
	}
	if _, ok := b.take(rule(13)); ok {
		t.Error("a fourth rule found room")
	}
	b.release([]uint16{0, 1, 2})
	if b.idle != 2 {
		t.Errorf("%d rules are idle, want 2", b.idle)
	}
	if got, ok := b.take(rule(12)); !ok || got != 2 {
		t.Errorf("an idle rule has number %d, %v, want its old one", got, ok)
	}
	unused := b.unused()
	if got, ok := b.take(rule(11)); !ok || got != 1 {
		t.Errorf("an idle rule has number %d, %v, want its old one", got, ok)
	}
	b.release([]uint16{1})
	b.reclaim(unused)
	if _, ok := b.take(rule(13)); ok || b.idle != 1 {
		t.Errorf("a rule was freed that was used since it was listed; %d are idle, want 1", b.idle)
	}
	b.reclaim(b.unused())
	if got, ok := b.take(rule(13)); !ok || got != 1 {
		t.Errorf("a new rule has number %d, %v, want the idle one's", got, ok)
	}
	if _, ok := b.take(rule(14)); ok {
		t.Error("a fourth rule found room")
	}
}

func TestAppendMappings(t *testing.T) {
	const page, directory = 1 << pageBits, pagesPerPiece << pageBits
	small := &table{firstPage: 2, pages: 3, directories: []piece{{at: 8}}}
	large := &table{firstPage: 0, pages: 2*pagesPerPiece + 1, directories: []piece{{at: 8}, {at: 16}, {at: 24}}}
	const none, code = samplerCodeKindCODE_NONE, samplerCodeKindCODE_TABLE
	const bias = 0x7f0000000000
	for _, tc := range []struct {
		name  string
		table *table
		code  Code
		want  []samplerMapping
	}{
		{"all of it", small, Code{Start: bias + 2*page, End: bias + 5*page}, []samplerMapping{{Start: bias + 2*page, End: bias + 5*page, Base: bias + 2*page, Directory: 8, Kind: code}}},
		{"a part", small, Code{Start: bias + 3*page, End: bias + 4*page}, []samplerMapping{{Start: bias + 3*page, End: bias + 4*page, Base: bias + 2*page, Directory: 8, Kind: code}}},
		{"more", small, Code{Start: bias + page, End: bias + 6*page}, []samplerMapping{
			{Start: bias + page, End: bias + 2*page, Kind: none},
			{Start: bias + 2*page, End: bias + 5*page, Base: bias + 2*page, Directory: 8, Kind: code},
			{Start: bias + 5*page, End: bias + 6*page, Kind: none}}},
		{"something else", small, Code{Start: bias + 7*page, End: bias + 8*page}, []samplerMapping{{Start: bias + 7*page, End: bias + 8*page, Kind: none}}},
		{"two directories", large, Code{Start: bias + page, End: bias + directory + page}, []samplerMapping{
			{Start: bias + page, End: bias + directory, Base: bias, Directory: 8, Kind: code},
			{Start: bias + directory, End: bias + directory + page, Base: bias + directory, Directory: 16, Kind: code}}},
		{"the last directory", large, Code{Start: bias + 2*directory, End: bias + 2*directory + 2*page}, []samplerMapping{
			{Start: bias + 2*directory, End: bias + 2*directory + page, Base: bias + 2*directory, Directory: 24, Kind: code},
			{Start: bias + 2*directory + page, End: bias + 2*directory + 2*page, Kind: none}}},
		{"frame pointers", small, Code{Start: bias + 2*page, End: bias + 5*page, Kind: CodeFramePointer}, []samplerMapping{{Start: bias + 2*page, End: bias + 5*page, Base: bias + 2*page, Directory: 8, Kind: samplerCodeKindCODE_FRAME_POINTER_TABLE}}},
		{"kept", &table{firstPage: 2, pages: 3, directories: []piece{{at: 8}}, kept: []unwind.Span{{Start: page, End: 2*page + 16}, {Start: 3 * page, End: 3*page + 32}, {Start: 6 * page, End: 7 * page}}},
			Code{Start: bias + 2*page, End: bias + 5*page, Kind: CodeFramePointer}, []samplerMapping{
				{Start: bias + 2*page, End: bias + 2*page + 16, Base: bias + 2*page, Directory: 8, Kind: samplerCodeKindCODE_KEPT},
				{Start: bias + 2*page + 16, End: bias + 3*page, Base: bias + 2*page, Directory: 8, Kind: samplerCodeKindCODE_FRAME_POINTER_TABLE},
				{Start: bias + 3*page, End: bias + 3*page + 32, Base: bias + 2*page, Directory: 8, Kind: samplerCodeKindCODE_KEPT},
				{Start: bias + 3*page + 32, End: bias + 5*page, Base: bias + 2*page, Directory: 8, Kind: samplerCodeKindCODE_FRAME_POINTER_TABLE}}},
		{"no page", &table{}, Code{Start: bias, End: bias + page}, []samplerMapping{{Start: bias, End: bias + page, Kind: none}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.code.Bias = bias
			if got := tc.table.appendMappings(nil, tc.code); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %+v\nwant %+v", got, tc.want)
			}
		})
	}
}

func TestCheckTableRefusesDamage(t *testing.T) {
	good := unwind.Table{Arch: hostArch(), Pages: []unwind.Page{{First: 0, Count: 1}}, Rows: []unwind.Row{{}}, Rules: []unwind.Rule{{}}}
	if err := checkTable(&good); err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(*unwind.Table){
		"processor": func(t *unwind.Table) { t.Arch = 0 },
		"rows":      func(t *unwind.Table) { t.Rows = nil },
		"rules":     func(t *unwind.Table) { t.Rules = nil },
		"page":      func(t *unwind.Table) { t.Pages = []unwind.Page{{First: 1<<32 - 1, Count: 1}} },
		"many rows": func(t *unwind.Table) {
			t.Pages, t.Rows = []unwind.Page{{Count: 4097}}, make([]unwind.Row, 4097)
		},
	} {
		bad := good
		damage(&bad)
		if err := checkTable(&bad); err == nil {
			t.Errorf("%s: a damaged table was accepted", name)
		}
	}
}
