package profilestore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"pilotlight/profilestore/flamegraph"
)

// errQueryBytes says how to ask for less.
func (s *Store) errQueryBytes() error {
	return &Error{Code: Unprocessable, Message: fmt.Sprintf("the query needs more than the %d MB it may use: take a shorter range, or name a service in the query", s.o.QueryBytes>>20)}
}

var errOverflow = &Error{Code: Unprocessable, Message: "the sum of the values exceeds 2^63: take a shorter range"}

// errStored is for a profile that was checked when it came and cannot be read now: a defect of this program.
func errStored(m *match, err error) error {
	return fmt.Errorf("read profile %s in %s: %w", m.e.id, m.v.seg.path, err)
}

// query runs fn over the profiles of q.
func (s *Store) query(ctx context.Context, q *Query, anyType bool, fn func(m match) error) (err error) {
	views, release, err := s.views(q)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	return s.eachMatch(ctx, q, views, anyType, fn)
}

// Select merges the stacks of all matching samples. Memory above Options.QueryBytes is an [Unprocessable] error.
func (s *Store) Select(ctx context.Context, q Query) (*Result, error) {
	res := &Result{Unit: q.unit(), Stacks: new(flamegraph.Stacks)}
	r := reader{s: s}
	var (
		stack  []int32
		frames []flamegraph.Frame
		known  [][]int32 // by location of the profile: its frames, outermost first
	)
	err := s.query(ctx, &q, false, func(m match) error {
		matched := false
		var owner *pprofTables
		err := r.samples(ctx, &m, func(t *pprofTables, p *pprofSample) error {
			if owner != t {
				owner = t
				known = slices.Grow(known[:0], len(t.locations))[:len(t.locations)]
				clear(known)
			}
			stack = stack[:0]
			for _, l := range slices.Backward(p.locations) {
				if known[l] == nil {
					frames = t.frames(frames[:0], l)
					known[l] = make([]int32, len(frames))
					for i, f := range frames {
						known[l][i] = res.Stacks.Frame(f)
					}
				}
				stack = append(stack, known[l]...)
			}
			v := p.values[m.value]
			if v > math.MaxInt64-res.Stacks.Total() {
				return errOverflow
			}
			res.Stacks.Add(stack, v)
			if res.Stacks.Size() > s.o.QueryBytes {
				return s.errQueryBytes()
			}
			matched = true
			return nil
		})
		if errors.Is(err, errDamaged) {
			res.Damaged++
			return nil
		}
		if matched {
			res.Profiles++
		}
		return wrapStored(&m, err)
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

// wrapStored leaves errors alone that are not about the profile.
func wrapStored(m *match, err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, new(*Error)) {
		return err
	}
	return errStored(m, err)
}

func (q *Query) unit() string {
	if q.Type == (ProfileType{}) {
		return DefaultType.SampleUnit
	}
	return q.Type.SampleUnit
}

// group is the values of the labels in `by`, "" for an absent one.
type group string

func newGroup(by []string, get func(name string) string) group {
	var b []byte
	for _, name := range by {
		b = appendString(b, get(name))
	}
	return group(b)
}

func (g group) labels(by []string) Labels {
	d := decoder{b: []byte(g)}
	m := make(map[string]string, len(by))
	for _, name := range by {
		m[name] = string(d.bytes())
	}
	return NewLabels(m)
}

// sums calls fn with the sums of matching values for each group in each profile. Stored totals are used when
// the index tells that all samples match and are of one group.
func (s *Store) sums(ctx context.Context, q *Query, by []string, fn func(m *match, g group, value int64) error) error {
	r := reader{s: s}
	return s.query(ctx, q, false, func(m match) error {
		own := m.series().labels
		if m.exact() {
			one := true
			var g group
			for i, set := range m.sets {
				this := newGroup(by, func(name string) string {
					return cmp.Or(own.Get(name), m.v.setValue(set, name))
				})
				one = one && (i == 0 || this == g)
				g = this
			}
			if one {
				return fn(&m, g, m.total())
			}
		}
		sums := make(map[group]int64)
		err := r.samples(ctx, &m, func(_ *pprofTables, p *pprofSample) error {
			g := newGroup(by, func(name string) string { return cmp.Or(own.Get(name), p.get(name)) })
			sums[g] += p.values[m.value]
			return nil
		})
		if errors.Is(err, errDamaged) {
			return nil // counted; the answer is without it, as that of Select
		}
		if err != nil {
			return wrapStored(&m, err)
		}
		for g, value := range sums {
			if err := fn(&m, g, value); err != nil {
				return err
			}
		}
		return nil
	})
}

// Series sums the values per step, one series for each combination of values of the labels in by (series or
// sample labels), largest first. The steps are multiples of step since the epoch. A profile whose bytes are
// damaged still counts where the sums in the index suffice.
func (s *Store) Series(ctx context.Context, q Query, by []string, step time.Duration) ([]Series, error) {
	if step <= 0 {
		return nil, &Error{Code: BadRequest, Param: "step", Message: fmt.Sprintf("step %s: it must be positive, as in 30s", step)}
	}
	type line struct {
		sums  map[int64]int64
		total int64
	}
	lines := make(map[group]*line)
	size := int64(0)
	err := s.sums(ctx, &q, by, func(m *match, g group, value int64) error {
		l := lines[g]
		if l == nil {
			l = &line{sums: make(map[int64]int64)}
			lines[g] = l
			size += 200 + 2*int64(len(g)) // maps with their headers
		}
		at := m.e.time - mod(m.e.time, int64(step))
		if _, ok := l.sums[at]; !ok {
			size += 80 // twice in a map, and in the answer
		}
		if size > s.o.QueryBytes {
			return s.errQueryBytes()
		}
		if value > math.MaxInt64-l.total {
			return errOverflow
		}
		l.total += value
		l.sums[at] += value
		return nil
	})
	if err != nil {
		return nil, err
	}
	order := make([]group, 0, len(lines))
	for g := range lines {
		order = append(order, g)
	}
	slices.SortFunc(order, func(a, b group) int {
		return cmp.Or(cmp.Compare(lines[b].total, lines[a].total), strings.Compare(string(a), string(b)))
	})
	all := make([]Series, 0, len(order))
	for _, g := range order {
		one := Series{Labels: g.labels(by), Points: make([]Point, 0, len(lines[g].sums))}
		for at, value := range lines[g].sums {
			one.Points = append(one.Points, Point{at, value})
		}
		slices.SortFunc(one.Points, func(a, b Point) int { return cmp.Compare(a.Time, b.Time) })
		all = append(all, one)
	}
	return all, nil
}

// mod is never negative, also for times before 1970.
func mod(t, step int64) int64 {
	r := t % step
	if r < 0 {
		r += step
	}
	return r
}

// Services lists the values of service_name with their totals, largest first. Profiles without one are under "".
func (s *Store) Services(ctx context.Context, q Query) ([]Service, error) {
	byName := make(map[group]*Service)
	by := []string{"service_name"}
	err := s.sums(ctx, &q, by, func(m *match, g group, value int64) error {
		service := byName[g]
		if service == nil {
			service = &Service{Name: g.labels(by).Get(by[0]), First: m.e.time, Last: m.e.time}
			byName[g] = service
		}
		if value > math.MaxInt64-service.Value {
			return errOverflow
		}
		service.Value += value
		service.Profiles++
		service.First, service.Last = min(service.First, m.e.time), max(service.Last, m.e.time)
		return nil
	})
	if err != nil {
		return nil, err
	}
	all := make([]Service, 0, len(byName))
	for _, service := range byName {
		all = append(all, *service)
	}
	slices.SortFunc(all, func(a, b Service) int {
		return cmp.Or(cmp.Compare(b.Value, a.Value), strings.Compare(a.Name, b.Name))
	})
	return all, nil
}

// eachLabel calls fn for the labels of matching samples, their series' included, some of them more than once.
func (s *Store) eachLabel(ctx context.Context, q *Query, fn func(name, value string)) error {
	r := reader{s: s}
	type seen struct {
		v   *view
		set uint32
		own *series
	}
	done := make(map[seen]bool)
	return s.query(ctx, q, false, func(m match) error {
		own := m.series()
		emitOwn := func() {
			for _, l := range own.labels {
				fn(l.Name, l.Value)
			}
		}
		emit := func(name, value string) {
			if own.labels.Get(name) == "" {
				fn(name, value)
			}
		}
		if m.listed {
			for _, set := range m.sets {
				if k := (seen{m.v, set, own}); !done[k] {
					done[k] = true
					emitOwn()
					for pairs := m.v.set(set); len(pairs) > 0; pairs = pairs[2:] {
						emit(m.v.strings[pairs[0]], m.v.strings[pairs[1]])
					}
				}
			}
			return nil
		}
		err := r.samples(ctx, &m, func(_ *pprofTables, p *pprofSample) error {
			emitOwn()
			for _, l := range p.labels {
				emit(l.name, l.value)
			}
			return nil
		})
		if errors.Is(err, errDamaged) {
			return nil
		}
		return wrapStored(&m, err)
	})
}

// LabelNames lists the names of series and sample labels of the matching samples, sorted.
func (s *Store) LabelNames(ctx context.Context, q Query) ([]string, error) {
	names := make(map[string]struct{})
	err := s.eachLabel(ctx, &q, func(name, _ string) { names[strings.Clone(name)] = struct{}{} })
	return sortedKeys(names), err
}

// LabelValues lists the values of one label of the matching samples, sorted.
func (s *Store) LabelValues(ctx context.Context, q Query, name string) ([]string, error) {
	values := make(map[string]struct{})
	err := s.eachLabel(ctx, &q, func(n, value string) {
		if n == name {
			values[strings.Clone(value)] = struct{}{}
		}
	})
	return sortedKeys(values), err
}

func sortedKeys(m map[string]struct{}) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Types lists the types of the profiles with a matching sample, sorted; q.Type is not looked at.
func (s *Store) Types(ctx context.Context, q Query) ([]ProfileType, error) {
	seen := make(map[ProfileType]struct{})
	r := reader{s: s}
	err := s.query(ctx, &q, true, func(m match) error {
		ok, err := r.any(ctx, &m)
		if ok {
			for _, t := range m.series().types {
				seen[t] = struct{}{}
			}
		}
		return err
	})
	types := make([]ProfileType, 0, len(seen))
	for t := range seen {
		types = append(types, t)
	}
	slices.SortFunc(types, func(a, b ProfileType) int { return strings.Compare(a.String(), b.String()) })
	return types, err
}

var errFound = errors.New("found")

// any says whether at least one sample matches.
func (r *reader) any(ctx context.Context, m *match) (bool, error) {
	if m.listed {
		return true, nil
	}
	err := r.samples(ctx, m, func(*pprofTables, *pprofSample) error { return errFound })
	if errors.Is(err, errFound) {
		return true, nil
	}
	if errors.Is(err, errDamaged) {
		return false, nil
	}
	return false, wrapStored(m, err)
}

// Profiles lists single profiles with a matching sample, newest first, at most limit.
func (s *Store) Profiles(ctx context.Context, q Query, limit int) ([]ProfileInfo, error) {
	if limit <= 0 {
		return nil, &Error{Code: BadRequest, Param: "limit", Message: fmt.Sprintf("limit %d: it must be positive", limit)}
	}
	newest := func(a, b match) int {
		return cmp.Or(cmp.Compare(b.e.time, a.e.time), strings.Compare(string(a.e.id[:]), string(b.e.id[:])))
	}
	var all []match
	cut := func() {
		slices.SortFunc(all, newest)
		all = all[:min(limit, len(all))]
	}
	r := reader{s: s}
	err := s.query(ctx, &q, false, func(m match) error {
		ok, err := r.any(ctx, &m)
		if !ok {
			return err
		}
		if all = append(all, m); len(all) >= 2*limit {
			cut()
		}
		if int64(len(all))*250 > s.o.QueryBytes {
			return s.errQueryBytes()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	cut()
	infos := make([]ProfileInfo, 0, len(all))
	for _, m := range all {
		own := m.series()
		infos = append(infos, ProfileInfo{
			ID: m.e.id, Name: own.types[0].Name, Labels: slices.Clone(own.labels), Time: m.e.time,
			Duration: time.Duration(m.e.duration), Bytes: int(m.e.length), Value: m.total(),
		})
	}
	return infos, nil
}
