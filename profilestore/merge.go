package profilestore

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"

	"github.com/google/pprof/profile"
	"github.com/prometheus/prometheus/model/labels"
)

// Merge merges the matching samples into one pprof profile with all sample types that the matching profiles
// share, the sample labels kept and the query's type as the default. Its time is the start of the first
// profile, its duration reaches to the end of the last. Without a matching sample the profile is valid and
// empty. The comments "file_key ..." are left out: they name mappings by numbers that a merge changes. A
// damaged profile is left out. Memory above Options.QueryBytes is an [Unprocessable] error.
func (s *Store) Merge(ctx context.Context, q Query) (*profile.Profile, error) {
	typ := q.Type
	if typ == (ProfileType{}) {
		typ = DefaultType
	}
	types, err := s.sharedTypes(ctx, &q, typ)
	if err != nil {
		return nil, err
	}
	mg := merger{limit: s.o.QueryBytes, errLimit: s.errQueryBytes()}
	var from, to, sum int64
	var buf []byte
	err = s.query(ctx, &q, false, func(m match) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		most := slices.Max(m.v.totalsOf(m.e))
		if most > math.MaxInt64-sum {
			return errOverflow
		}
		sum += most
		var err error
		buf, err = s.pprof(&m, buf, func(raw []byte) error {
			p, err := profile.ParseUncompressed(raw)
			if err != nil {
				return err
			}
			keepMatching(p, m.rest)
			if len(p.Sample) == 0 {
				return nil
			}
			keepTypes(p, m.series().types, types)
			if from == 0 || m.e.time < from {
				from = m.e.time
			}
			to = max(to, m.e.time+m.e.duration)
			return mg.add(p, int64(len(raw)))
		})
		if errors.Is(err, errDamaged) {
			return nil
		}
		return wrapStored(&m, err)
	})
	if err != nil {
		return nil, err
	}
	p, err := mg.merge()
	if err != nil {
		return nil, err
	}
	if p == nil {
		p = &profile.Profile{PeriodType: &profile.ValueType{Type: typ.PeriodType, Unit: typ.PeriodUnit}}
		p.SampleType = []*profile.ValueType{{Type: typ.SampleType, Unit: typ.SampleUnit}}
	}
	p.TimeNanos, p.DurationNanos = from, to-from
	p.DefaultSampleType = typ.SampleType
	p.Comments = slices.DeleteFunc(p.Comments, func(c string) bool { return strings.HasPrefix(c, "file_key ") })
	return p, nil
}

// sharedTypes are the types that all series of the answer have, in the order of the first one.
func (s *Store) sharedTypes(ctx context.Context, q *Query, typ ProfileType) ([]ProfileType, error) {
	var shared []ProfileType
	seen := make(map[*series]bool)
	err := s.query(ctx, q, false, func(m match) error {
		own := m.series()
		if seen[own] {
			return nil
		}
		seen[own] = true
		if shared == nil {
			shared = slices.Clone(own.types)
			return nil
		}
		shared = slices.DeleteFunc(shared, func(t ProfileType) bool { return own.typeIndex(t) < 0 && t != typ })
		return nil
	})
	return shared, err
}

// keepMatching drops the samples that the matchers do not want.
func keepMatching(p *profile.Profile, rest []*labels.Matcher) {
	if rest == nil {
		return
	}
	p.Sample = slices.DeleteFunc(p.Sample, func(sample *profile.Sample) bool {
		return !matchAll(rest, func(name string) string {
			if values := sample.Label[name]; len(values) > 0 {
				return validUTF8(values[0])
			}
			return ""
		})
	})
}

// keepTypes leaves only the values of the types wanted, in their order. All are there.
func keepTypes(p *profile.Profile, have, want []ProfileType) {
	if slices.Equal(have, want) {
		return
	}
	types := make([]*profile.ValueType, len(want))
	from := make([]int, len(want))
	for i, t := range want {
		from[i] = slices.Index(have, t)
		types[i] = p.SampleType[from[i]]
	}
	p.SampleType = types
	for _, sample := range p.Sample {
		values := make([]int64, len(want))
		for i, f := range from {
			values[i] = sample.Value[f]
		}
		sample.Value = values
	}
}

// merger merges some profiles at a time, so that they are not all in memory.
type merger struct {
	merged   *profile.Profile
	waiting  []*profile.Profile
	bytes    int64 // of waiting, encoded
	limit    int64
	errLimit error
}

func (mg *merger) add(p *profile.Profile, size int64) error {
	mg.waiting = append(mg.waiting, p)
	mg.bytes += size
	const atOnce = 8 << 20 // encoded; decoded some ten times as much
	if mg.bytes < atOnce {
		return nil
	}
	_, err := mg.merge()
	return err
}

// merge gives what is merged so far, nil when nothing is.
func (mg *merger) merge() (*profile.Profile, error) {
	if len(mg.waiting) == 0 {
		return mg.merged, nil
	}
	if mg.merged != nil {
		mg.waiting = append([]*profile.Profile{mg.merged}, mg.waiting...)
	}
	p, err := profile.Merge(mg.waiting)
	if err != nil {
		return nil, err
	}
	mg.merged, mg.waiting, mg.bytes = p, nil, 0
	size := int64(0)
	for _, sample := range p.Sample {
		// Three maps, and a key in the merger's table that is as long as the stack.
		size += 600 + 16*int64(len(sample.Location))
	}
	size += 300 * int64(len(p.Location)+len(p.Function))
	if size > mg.limit {
		return nil, mg.errLimit
	}
	return p, nil
}
