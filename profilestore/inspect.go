package profilestore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"time"
)

// ErrDamaged is the error of [Inspect] when something is not what was written.
var ErrDamaged = errors.New("damage was found")

// Inspect prints what a directory holds and verifies all of it: a data directory, one of its blocks, or one of its
// segments of dictionaries. It writes nothing and takes no lock: beside a store that is open it may meet a
// directory that is just being replaced.
func Inspect(w io.Writer, dir string) error {
	i := &inspector{w: w, fs: osFS{}}
	var err error
	switch filepath.Base(filepath.Dir(filepath.Clean(dir))) {
	case blocksDir:
		err = i.block(dir)
	case symbolsDir:
		err = i.segment(dir)
	default:
		err = i.store(dir)
	}
	if err == nil {
		err = i.werr
	}
	if err == nil && i.damaged > 0 {
		err = fmt.Errorf("%s: %w in %d places", dir, ErrDamaged, i.damaged)
	}
	return err
}

type inspector struct {
	w       io.Writer
	fs      fileSystem
	damaged int
	werr    error
}

func (i *inspector) printf(format string, args ...any) {
	if _, err := fmt.Fprintf(i.w, format, args...); err != nil && i.werr == nil {
		i.werr = err
	}
}

func (i *inspector) store(dir string) error {
	version, err := readFormat(i.fs, dir)
	if err != nil {
		return fmt.Errorf("%s is no profile store: %w", dir, err)
	}
	const oldest = 2 // that has these files
	if version < oldest {
		return fmt.Errorf("%s has format %d, this program inspects formats %d to %d", dir, version, oldest, formatVersion)
	}
	for _, kind := range []struct {
		name string
		show func(path string) error
	}{{walDir, i.log}, {symbolsDir, i.segment}, {blocksDir, i.block}} {
		names, err := i.fs.ReadDir(filepath.Join(dir, kind.name))
		if err != nil {
			return err
		}
		for _, name := range names {
			if _, ok := sequence(name); !ok {
				continue
			}
			if err := kind.show(filepath.Join(dir, kind.name, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	aside, err := i.fs.ReadDir(filepath.Join(dir, quarantineDir))
	for _, name := range aside {
		i.damage("put aside: %s", name)
	}
	return err
}

func (i *inspector) damage(format string, args ...any) {
	i.damaged++
	i.printf("  DAMAGED "+format+"\n", args...)
}

func (i *inspector) log(path string) (err error) {
	f, err := i.fs.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return err
	}
	records, profiles := 0, 0
	damage, err := readWAL(path, f, size, func(payload []byte) error {
		batch, err := UnmarshalBatch(payload)
		if err != nil {
			i.damage("record %d: %v", records, err)
		}
		records++
		profiles += len(batch)
		return nil
	})
	i.printf("log %s: %d profiles in %d batches, %d bytes\n", filepath.Base(path), profiles, records, size)
	for _, d := range damage {
		i.damage("%d bytes at %d: %s", d.Length, d.Offset, d.Reason)
	}
	return err
}

// tables verifies all ranges of the files of a directory.
func (i *inspector) tables(tables ...*table) {
	for _, t := range tables {
		if len(t.info.Ranges) == 0 {
			continue // not there
		}
		i.printf("  %-18s %9d rows  %10d bytes  %3d row groups\n", filepath.Base(t.path), t.info.Rows, t.info.size(), t.groups())
		for g := range t.groups() {
			if _, err := t.group(g); err != nil {
				i.damage("%v", err)
			}
		}
		if t.groups() == 0 {
			t.mu.Lock()
			err := t.open()
			t.mu.Unlock()
			if err != nil {
				i.damage("%v", err)
			}
		}
	}
}

func (i *inspector) segment(path string) error {
	var meta segmentMeta
	if err := i.meta("symbols", path, &meta); err != nil {
		return err
	}
	if meta.Sequence == 0 {
		return nil
	}
	s := newSegment(i.fs, path, meta)
	i.printf("symbols %012d, level %d: %d bytes\n", meta.Sequence, meta.Level, meta.size())
	i.tables(&s.mappings, &s.functions, &s.locations, &s.stacks, &s.labels)
	for _, d := range meta.Dictionaries {
		i.printf("  dictionary %d, %s of %s: functions %s, locations %s, stacks %s, label sets %s\n", d.ID, quoted(d.Service), date(d.Day), d.Functions, d.Locations, d.Stacks, d.Sets)
	}
	return s.release()
}

func quoted(service string) string {
	if service == "" {
		return "no service"
	}
	return fmt.Sprintf("%q", service)
}

func date(unixDay int64) string { return time.Unix(0, unixDay*day).UTC().Format(time.DateOnly) }

// String writes the ids of a piece.
func (p piece) String() string {
	if p.Count == 0 {
		return "none"
	}
	return fmt.Sprintf("%d-%d", p.First, p.First+p.Count-1)
}

// meta reads meta.json; one that is damaged is said, and leaves v as it is.
func (i *inspector) meta(kind, path string, v any) error {
	err := readMeta(i.fs, path, v)
	if d := (*damageError)(nil); errors.As(err, &d) {
		i.printf("%s %s\n", kind, filepath.Base(path))
		i.damage("%v", err)
		return nil
	}
	return err
}

func (i *inspector) block(path string) error {
	var meta blockMeta
	if err := i.meta("block", path, &meta); err != nil {
		return err
	}
	if meta.Sequence == 0 {
		return nil
	}
	s := &Store{fs: i.fs, series: make(map[string]*series)}
	b := newBlock(s, path, meta)
	i.printf("block %012d, level %d: %d profiles that start from %s to %s, %d bytes\n", meta.Sequence, meta.Level, meta.Profiles.Rows,
		time.Unix(0, meta.MinTime).UTC().Format(time.RFC3339), time.Unix(0, meta.MaxTime).UTC().Format(time.RFC3339), meta.size())
	before := i.damaged
	i.tables(&b.series, &b.profilesTable, &b.totals, &b.samples, &b.hours, &b.windows)
	if i.damaged == before {
		if err := i.rows(b); err != nil {
			i.damage("%v", err)
		}
	}
	return b.release()
}

// rows compares the samples of a block with its profiles and totals.
func (i *inspector) rows(b *block) error {
	t, err := b.profiles()
	if err != nil {
		return err
	}
	width := b.meta.Width
	var want columns
	for c := range width {
		want.values = append(want.values, c)
	}
	sums := make([][]int64, width)
	for c := range sums {
		sums[c] = make([]int64, len(t.rows))
	}
	r := b.reader(want)
	defer r.close()
	for _, id := range b.meta.Dictionaries {
		err := r.scan(id, math.MinInt64, math.MaxInt64, func(r *rows) error {
			for j, n := range r.profile {
				if int(n) >= len(t.rows) || t.rows[n].dictionary != id {
					return fmt.Errorf("%s: a row of profile %d in the section of dictionary %d", b.samples.path, n, id)
				}
				for c := range sums {
					sums[c][n] += r.values[c][j]
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for n := range t.rows {
		for c := range sums {
			for line := t.rows[n].total; line < t.rows[n].end; line++ {
				sums[c][n] -= t.values[c][line]
			}
			if sums[c][n] != 0 {
				return fmt.Errorf("%s: the samples of profile %s and its totals differ by %d", b.samples.path, t.rows[n].id, sums[c][n])
			}
		}
	}
	i.printf("  %d rows add up to the totals of %d profiles, %d dictionaries in %d sections\n", b.meta.Samples.Rows, len(t.rows), len(b.meta.Dictionaries), len(b.meta.Sections))
	return nil
}
