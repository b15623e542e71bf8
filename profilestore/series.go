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
)

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

// entryBytes is about what an entry of a map takes.
const entryBytes = 80

// sums calls fn with the sums of matching values for each group in each profile. size counts the memory that the query
// takes.
func (s *Store) sums(ctx context.Context, q Query, by []string, size *int64, fn func(c *chosen, g group, value int64) error) (err error) {
	v, err := s.view(q)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.release()) }()
	own := make(map[*series]*ownGroup)
	sets := make(map[groupKey]group)
	var last *ownGroup
	return v.each(ctx, false, func(c chosen) error {
		if last == nil || last.series != c.row.series {
			if last = own[c.row.series]; last == nil {
				last = newOwnGroup(c.row.series, by)
				own[c.row.series] = last
			}
		}
		if last.whole {
			sum, any := int64(0), false
			_, err := v.sets(ctx, &c, func(_, line uint32) error {
				sum += c.total(line, c.match.typ)
				any = true
				return nil
			})
			if err != nil || !any {
				return err
			}
			return fn(&c, last.group, sum)
		}
		syms, err := v.labelSets(ctx, &c)
		if syms == nil {
			return err
		}
		sums := make(map[group]int64)
		_, err = v.sets(ctx, &c, func(set, line uint32) error {
			key := groupKey{c.row.series, c.row.dictionary, set}
			g, ok := sets[key]
			if !ok {
				g = newGroup(by, func(name string) string { return cmp.Or(c.row.series.labels.Get(name), syms.value(set, name)) })
				sets[key] = g
				if *size += entryBytes + int64(len(g)); *size > v.limit {
					return s.errQueryBytes()
				}
			}
			sums[g] += c.total(line, c.match.typ)
			return nil
		})
		if err != nil {
			return err
		}
		for g, sum := range sums {
			if err := fn(&c, g, sum); err != nil {
				return err
			}
		}
		return nil
	})
}

// ownGroup is the group of a series whose labels decide it: then the label sets of samples need not be looked at.
type ownGroup struct {
	series *series
	group  group
	whole  bool
}

func newOwnGroup(own *series, by []string) *ownGroup {
	g := &ownGroup{series: own, whole: true}
	for _, name := range by {
		g.whole = g.whole && own.labels.Get(name) != ""
	}
	g.group = newGroup(by, own.labels.Get)
	return g
}

type groupKey struct {
	series     *series
	dictionary uint32
	set        uint32
}

// Series sums the values per step, one series for each combination of values of the labels in by (series or
// sample labels), largest first. The steps are multiples of step since the epoch. Samples are not read:
// a profile whose samples are damaged still counts.
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
	err := s.sums(ctx, q, by, &size, func(c *chosen, g group, value int64) error {
		l := lines[g]
		if l == nil {
			l = &line{sums: make(map[int64]int64)}
			lines[g] = l
			size += 200 + 2*int64(len(g)) // maps with their headers
		}
		at := c.row.time - mod(c.row.time, int64(step))
		if _, ok := l.sums[at]; !ok {
			size += entryBytes // twice in a map, and in the answer
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
	size := int64(0)
	err := s.sums(ctx, q, by, &size, func(c *chosen, g group, value int64) error {
		service := byName[g]
		if service == nil {
			service = &Service{Name: g.labels(by).Get(by[0]), First: c.row.time, Last: c.row.time}
			byName[g] = service
			if size += 2 * entryBytes; size > s.o.QueryBytes {
				return s.errQueryBytes()
			}
		}
		if value > math.MaxInt64-service.Value {
			return errOverflow
		}
		service.Value += value
		service.Profiles++
		service.First, service.Last = min(service.First, c.row.time), max(service.Last, c.row.time)
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

// eachLabel calls fn for the labels of matching samples, their series' included. With a name, only for labels of that
// name. fn says how many bytes it keeps.
func (s *Store) eachLabel(ctx context.Context, q Query, only string, fn func(name, value string) int64) (err error) {
	v, err := s.view(q)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.release()) }()
	owns := make(map[*series]bool)
	done := make(map[groupKey]bool)
	size := int64(0)
	return v.each(ctx, false, func(c chosen) error {
		own := c.row.series
		if owns[own] && only != "" && own.labels.Get(only) != "" {
			return nil
		}
		_, err := v.sets(ctx, &c, func(set, _ uint32) error {
			if !owns[own] {
				owns[own] = true
				for _, l := range own.labels {
					size += fn(l.Name, l.Value)
				}
			}
			key := groupKey{own, c.row.dictionary, set}
			if done[key] || only != "" && own.labels.Get(only) != "" {
				return nil
			}
			done[key] = true
			if size += entryBytes; size > v.limit {
				return s.errQueryBytes()
			}
			syms, err := v.labelSets(ctx, &c)
			if syms == nil {
				return err
			}
			for _, l := range syms.set(set) {
				if name := validUTF8(syms.strings[l.name]); l.text && name != "" && own.labels.Get(name) == "" {
					if value := syms.value(set, name); value != "" {
						size += fn(name, value)
					}
				}
			}
			return nil
		})
		return err
	})
}

// LabelNames lists the names of series and sample labels of the matching samples, sorted.
func (s *Store) LabelNames(ctx context.Context, q Query) ([]string, error) {
	names := make(map[string]struct{})
	err := s.eachLabel(ctx, q, "", func(name, _ string) int64 { return keep(names, name) })
	return sortedKeys(names), err
}

// LabelValues lists the values of one label of the matching samples, sorted.
func (s *Store) LabelValues(ctx context.Context, q Query, name string) ([]string, error) {
	values := make(map[string]struct{})
	err := s.eachLabel(ctx, q, name, func(n, value string) int64 {
		if n != name {
			return 0
		}
		return keep(values, value)
	})
	return sortedKeys(values), err
}

// keep adds a key, and says how many bytes that takes.
func keep(m map[string]struct{}, key string) int64 {
	before := len(m)
	m[key] = struct{}{}
	return int64(len(m)-before) * (entryBytes + int64(len(key)))
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
func (s *Store) Types(ctx context.Context, q Query) (_ []ProfileType, err error) {
	v, err := s.view(q)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, v.release()) }()
	seen := make(map[ProfileType]struct{})
	owns := make(map[*series]bool)
	err = v.each(ctx, true, func(c chosen) error {
		if owns[c.row.series] {
			return nil
		}
		ok, _, err := v.any(ctx, &c)
		if ok {
			owns[c.row.series] = true
			for _, t := range c.row.series.types {
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

// Profiles lists single profiles with a matching sample, newest first, at most limit.
func (s *Store) Profiles(ctx context.Context, q Query, limit int) (_ []ProfileInfo, err error) {
	if limit <= 0 {
		return nil, &Error{Code: BadRequest, Param: "limit", Message: fmt.Sprintf("limit %d: it must be positive", limit)}
	}
	v, err := s.view(q)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, v.release()) }()
	var all []chosen
	cut := func() {
		slices.SortFunc(all, func(a, b chosen) int { return newest(a.row, b.row) })
		all = all[:min(limit, len(all))]
	}
	err = v.each(ctx, false, func(c chosen) error {
		ok, _, err := v.any(ctx, &c)
		if !ok {
			return err
		}
		if all = append(all, c); len(all) >= 2*limit {
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
	for _, c := range all {
		info := ProfileInfo{
			ID: c.row.id, Name: c.row.series.types[0].Name, Labels: slices.Clone(c.row.series.labels), Time: c.row.time,
			Duration: time.Duration(c.row.duration), Bytes: int(c.row.bytes),
		}
		for line := c.row.total; line < c.row.end; line++ {
			info.Value += c.total(line, c.match.typ)
		}
		infos = append(infos, info)
	}
	return infos, nil
}
