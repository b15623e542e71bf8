package flamegraph

import (
	"fmt"
	"path"
	"slices"

	"github.com/google/pprof/profile"
)

// FromProfile makes stacks of one sample type of a profile, index of its SampleType. Negative values, as a
// difference of profiles has them, are an error, and so is a sum that exceeds 2^63. A location without a
// function is named by its address.
func FromProfile(p *profile.Profile, sampleType int) (*Stacks, error) {
	s := new(Stacks)
	known := make(map[*profile.Location][]int32) // frames, outermost first
	var stack []int32
	for _, sample := range p.Sample {
		value := sample.Value[sampleType]
		if value < 0 {
			return nil, fmt.Errorf("a sample has the value %d: this is a difference of profiles, give the profiles themselves", value)
		}
		if s.total+value < 0 {
			return nil, fmt.Errorf("the sum of the values exceeds 2^63")
		}
		stack = stack[:0]
		for _, l := range slices.Backward(sample.Location) {
			if known[l] == nil {
				known[l] = s.location(l)
			}
			stack = append(stack, known[l]...)
		}
		s.Add(stack, value)
	}
	return s, nil
}

func (s *Stacks) location(l *profile.Location) []int32 {
	f := Frame{}
	if l.Mapping != nil {
		f.Binary = l.Mapping.File
	}
	if len(l.Line) == 0 {
		f.Function = fmt.Sprintf("%#x", l.Address)
		if f.Binary != "" {
			f.Function = path.Base(f.Binary) + "+" + f.Function
		}
		return []int32{s.Frame(f)}
	}
	var frames []int32
	for i, line := range slices.Backward(l.Line) {
		f.Function, f.File = "", ""
		if line.Function != nil {
			f.Function, f.File = line.Function.Name, line.Function.Filename
		}
		f.Line, f.Inlined = int(line.Line), i < len(l.Line)-1
		frames = append(frames, s.Frame(f))
	}
	return frames
}
