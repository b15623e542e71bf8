package profilestore

import (
	"bytes"
	"sync/atomic"
	"testing"

	"github.com/google/pprof/profile"
)

// Locations that differ in one thing have different hashes, whatever it is: a profile with a hundred thousand that were alike
// would be compared with each other for minutes.
func TestLocationsHaveHashesOfTheirOwn(t *testing.T) {
	p := &profile.Profile{SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}}, PeriodType: &profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, Period: 1}
	add := func(change func(l *profile.Location, m *profile.Mapping, f *profile.Function)) {
		id := uint64(len(p.Location) + 1)
		m := &profile.Mapping{ID: id, Start: 0x1000, Limit: 0x9000, Offset: 0x100, File: "app", BuildID: "b"}
		f := &profile.Function{ID: id, Name: "f", SystemName: "_f", Filename: "f.c", StartLine: 7}
		l := &profile.Location{ID: id, Mapping: m, Address: 0x1234, Line: []profile.Line{{Function: f, Line: 9, Column: 3}}}
		change(l, m, f)
		p.Mapping, p.Function, p.Location = append(p.Mapping, m), append(p.Function, f), append(p.Location, l)
		p.Sample = append(p.Sample, &profile.Sample{Location: []*profile.Location{l}, Value: []int64{1}})
	}
	for _, change := range []func(l *profile.Location, m *profile.Mapping, f *profile.Function){
		func(*profile.Location, *profile.Mapping, *profile.Function) {},
		func(l *profile.Location, _ *profile.Mapping, _ *profile.Function) { l.Address++ },
		func(l *profile.Location, _ *profile.Mapping, _ *profile.Function) { l.IsFolded = true },
		func(l *profile.Location, _ *profile.Mapping, _ *profile.Function) { l.Mapping = nil },
		func(l *profile.Location, _ *profile.Mapping, _ *profile.Function) { l.Line = nil },
		func(l *profile.Location, _ *profile.Mapping, _ *profile.Function) { l.Line = append(l.Line, l.Line[0]) },
		func(l *profile.Location, _ *profile.Mapping, _ *profile.Function) { l.Line[0].Line++ },
		func(l *profile.Location, _ *profile.Mapping, _ *profile.Function) { l.Line[0].Column++ },
		func(_ *profile.Location, m *profile.Mapping, _ *profile.Function) { m.Start++ },
		func(_ *profile.Location, m *profile.Mapping, _ *profile.Function) { m.Limit++ },
		func(_ *profile.Location, m *profile.Mapping, _ *profile.Function) { m.Offset++ },
		func(_ *profile.Location, m *profile.Mapping, _ *profile.Function) { m.File = "lib" },
		func(_ *profile.Location, m *profile.Mapping, _ *profile.Function) { m.BuildID = "c" },
		func(_ *profile.Location, m *profile.Mapping, _ *profile.Function) { m.HasFunctions = true },
		func(_ *profile.Location, _ *profile.Mapping, f *profile.Function) { f.Name = "g" },
		func(_ *profile.Location, _ *profile.Mapping, f *profile.Function) { f.SystemName = "_g" },
		func(_ *profile.Location, _ *profile.Mapping, f *profile.Function) { f.Filename = "g.c" },
		func(_ *profile.Location, _ *profile.Mapping, f *profile.Function) { f.StartLine++ },
	} {
		add(change)
	}
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	var r profileReader
	if err := r.read(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	d := newDictionary(1, "", 0, new(atomic.Int64))
	stacks, _, _ := d.add(&r.decoded, nil, nil)
	hashes, seen := make(map[contentHash]int), make(map[uint32]bool)
	d.scratch.reset(&r.decoded)
	for i := range r.locations {
		hash := d.hashLocation(&r.decoded, &r.locations[i])
		if other, double := hashes[hash]; double {
			t.Errorf("locations %d and %d have the same hash", other, i)
		}
		hashes[hash], seen[stacks[i]] = i, true
	}
	if len(seen) != len(p.Sample) {
		t.Errorf("%d stacks, want %d", len(seen), len(p.Sample))
	}
	if again, _, _ := d.add(&r.decoded, nil, nil); len(d.locations) != len(p.Location) || len(again) != len(stacks) {
		t.Errorf("%d locations, want %d", len(d.locations), len(p.Location))
	}
}
