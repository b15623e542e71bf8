package symbolize

import (
	"errors"
	"fmt"
	"io"
)

// Split DWARF (DWARF 5 section 7.3.2, and before it GNU's for DWARF 4) leaves in the executable a skeleton of each
// unit, with its addresses and lines. The entries are in a .dwo file for each unit, or in one .dwp for all.

// readSplit reads the unit of which x is the skeleton.
func (b *indexBuilder) readSplit(x *unitContext) error {
	if b.pack != nil {
		d, err := b.pack.unit(x.id)
		if d != nil || err != nil {
			return errors.Join(err, b.readSplitUnits(d, x))
		}
	}
	if b.opts.OpenSplit == nil {
		return fmt.Errorf("unit at %#x is in %.200s, which is not there", x.off, x.dwoName)
	}
	f, err := b.opts.OpenSplit(x.compDir, x.dwoName)
	if err != nil {
		return fmt.Errorf("split unit: %w", err)
	}
	err = b.readSplitFile(f, x)
	if c, ok := f.ReaderAt.(io.Closer); ok {
		err = errors.Join(err, c.Close())
	}
	if err != nil {
		return fmt.Errorf("split unit %.200s: %w", x.dwoName, err)
	}
	return nil
}

func (b *indexBuilder) readSplitFile(f *DebugFile, x *unitContext) error {
	m, err := readAnyImage(f, f.Size)
	if err != nil {
		return err
	}
	spilled, sources, functions := b.unpack.used, len(b.sources), len(b.functions.keys)
	d, err := b.openDebug(m, ".dwo")
	if err == nil {
		err = b.readSplitUnits(d, x)
	}
	// The file goes, its names stay.
	err = errors.Join(err, b.adoptNames(functions, sources))
	b.sources, b.unpack.used = b.sources[:sources], spilled
	return err
}

// readSplitUnits reads the unit of d that belongs to the skeleton x.
func (b *indexBuilder) readSplitUnits(d *debugInfo, x *unitContext) error {
	if d == nil {
		return nil
	}
	d.addresses = x.d
	d.alt = x.d.alt
	if err := d.list(); err != nil {
		b.note(err)
	}
	for _, u := range d.units {
		// Before DWARF 5 the id is an attribute; such files have one unit.
		if u.version >= 5 && u.id != x.id {
			continue
		}
		// The walk's context is replaced by that of the split unit.
		return b.walk.read(d, u, x)
	}
	return errors.New("the unit is not in it")
}

// maxPoolBytes bounds the names that are kept because they are in place or in split files.
const maxPoolBytes = 48 << 20

// adoptNames copies the names of functions from the given one on that are in sources from the given one on.
func (b *indexBuilder) adoptNames(functions, sources int) error {
	for i := functions; i < len(b.functions.keys); i++ {
		key := b.functions.keys[i]
		if uint64(key.name)>>stringRefBits <= uint64(sources) {
			continue
		}
		name, err := b.bytes(key.name)
		if err != nil {
			b.note(err)
		}
		ref, err := b.pooledString(name)
		if err != nil {
			return err
		}
		delete(b.functions.ids, key)
		key.name = ref
		b.functions.keys[i] = key
		// The same function of another file may have this key already: both numbers are used then.
		b.functions.ids[key] = uint32(i)
	}
	return nil
}

// pooledString keeps a string and returns where.
func (b *indexBuilder) pooledString(s []byte) (stringRef, error) {
	off, ok := b.pooled[string(s)]
	if !ok {
		if len(b.pool)+len(s) >= maxPoolBytes {
			return 0, fmt.Errorf("more than %d bytes of names in place: %w", maxPoolBytes, errLimit)
		}
		off = uint64(len(b.pool))
		b.pooled[string(s)] = off
		b.pool = append(append(b.pool, s...), 0)
	}
	return newStringRef(poolSource, off), nil
}

// splitPackage is a .dwp file.
type splitPackage struct {
	d     *debugInfo
	units map[uint64]contributions
}

// contributions are the parts of the sections of a package that belong to a unit.
type contributions struct {
	info, abbrev, strOffsets, rnglists extent
}

// maxPackageIndex bounds the index of a package.
const maxPackageIndex = 32 << 20

func (b *indexBuilder) openPackage(f *DebugFile) (*splitPackage, error) {
	m, err := readAnyImage(f, f.Size)
	if err != nil {
		return nil, err
	}
	index, err := b.unpack.open(m, ".debug_cu_index")
	if err != nil {
		return nil, err
	}
	if index.size() > maxPackageIndex {
		return nil, fmt.Errorf("index of %d bytes: %w", index.size(), errLimit)
	}
	raw := make([]byte, index.size())
	if err := index.in.read(index.at, 0, raw); err != nil {
		return nil, err
	}
	p := &splitPackage{units: make(map[uint64]contributions)}
	if err := p.readIndex(&cursor{b: raw}); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	if p.d, err = b.openDebug(m, ".dwo"); err != nil {
		return nil, err
	}
	return p, nil
}

// readIndex reads .debug_cu_index (section 7.3.5.3).
func (p *splitPackage) readIndex(c *cursor) error {
	version := c.u32() & 0xffff // from 5 on it has 16 bits, and 16 of padding
	columns, units, slots := c.u32(), c.u32(), c.u32()
	if version != 2 && version != 5 {
		return fmt.Errorf("version %d: 2 and 5 are read", version)
	}
	words := uint64(len(c.b)-c.off) / 4
	if columns > 16 || slots > words/3 || units > words || columns*(1+2*units) > words-3*slots {
		return io.ErrUnexpectedEOF
	}
	ids := cursor{b: c.b, off: c.off}
	rows := cursor{b: c.b, off: c.off + int(slots)*8}
	kinds := c.off + int(slots)*12
	offsets := kinds + int(columns)*4
	word := func(off int) uint64 { w := cursor{b: c.b, off: off}; return w.u32() }
	for range slots {
		id, row := ids.u64(), rows.u32()
		if row == 0 || row > units {
			continue
		}
		var part contributions
		for column := range int(columns) {
			at := offsets + (int(row-1)*int(columns)+column)*4
			e := extent{word(at), word(at + int(units*columns)*4)}
			switch word(kinds + column*4) { // both versions have the same numbers for these
			case 1:
				part.info = e
			case 3:
				part.abbrev = e
			case 6:
				part.strOffsets = e
			case 8:
				part.rnglists = e
			}
		}
		p.units[id] = part
	}
	return nil
}

// unit returns what the package has of a unit, nil if that is not in it.
func (p *splitPackage) unit(id uint64) (*debugInfo, error) {
	part, ok := p.units[id]
	if !ok {
		return nil, nil
	}
	d := &debugInfo{
		str: p.d.str, strSource: p.d.strSource,
		origins: make(map[uint64]uint32), others: make(map[int]*unitContext),
	}
	for _, s := range []struct {
		to, from *window
		at       extent
	}{
		{&d.info, &p.d.info, part.info}, {&d.abbrev, &p.d.abbrev, part.abbrev},
		{&d.strOffsets, &p.d.strOffsets, part.strOffsets}, {&d.rnglists, &p.d.rnglists, part.rnglists},
	} {
		at, ok := s.from.blob.at.slice(s.at.off, s.at.size)
		if !ok {
			return nil, fmt.Errorf("unit %#x of the package: %w", id, io.ErrUnexpectedEOF)
		}
		s.to.blob = blob{s.from.blob.in, at}
	}
	return d, nil
}
