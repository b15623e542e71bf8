package symbolize

import (
	"errors"
	"fmt"
	"sort"
)

// debugInfo is the DWARF of one file: an executable's, a split one's, or what dwz took out of several.
type debugInfo struct {
	info, abbrev, str, lineStr, line, ranges, rnglists, addr, strOffsets window
	// strSource, lineStrSource and lineSource say where strings of these sections are, for string references.
	strSource, lineStrSource, lineSource uint64

	// units are listed when an entry refers to one of another unit.
	units  []unit
	listed bool
	alt    *debugInfo // .gnu_debugaltlink; may be nil
	// addresses is the file whose .debug_addr and .debug_ranges count: a split file's are in the executable.
	addresses *debugInfo
	// others holds contexts of units that entries of other units refer to.
	others map[int]*unitContext
	// origins has what entries that other units refer to are called, by offset.
	origins map[uint64]uint32
}

// unitContext is what is needed to read entries of a unit.
type unitContext struct {
	unit
	b       *indexBuilder
	d       *debugInfo
	abbrevs *abbrevTable

	lowPC          uint64
	strOffsetsBase uint64
	addrBase       uint64
	rnglistsBase   uint64
	rangesBase     uint64 // GNU split DWARF 4
	stmtList       uint64
	hasLines       bool
	hasAddrBase    bool
	language       uint64
	compDir        string
	dwoName        string
}

// stringRef is where a string is: the number of a source in the top byte, its offset below. 0 is no string.
type stringRef uint64

const stringRefBits = 56

// poolSource is the source of the strings in indexBuilder.pool.
const poolSource = 1<<(64-stringRefBits) - 1

func newStringRef(source, off uint64) stringRef {
	if source == 0 || off >= 1<<stringRefBits {
		return 0
	}
	return stringRef(source<<stringRefBits | off)
}

// list lists the units.
func (d *debugInfo) list() error {
	if d.listed {
		return nil
	}
	d.listed = true
	var err error
	d.units, err = readUnits(&d.info)
	return err
}

// unitAt returns the index of the unit that holds an offset. The units are listed.
func (d *debugInfo) unitAt(off uint64) (int, bool) {
	i := sort.Search(len(d.units), func(i int) bool { return d.units[i].off > off }) - 1
	if i < 0 || off < d.units[i].die || off >= d.units[i].end {
		return 0, false
	}
	return i, true
}

// dieValue is an attribute as it stands in the entry.
type dieValue struct {
	v    uint64
	form uint16 // 0: not there
}

// die is what is used of an entry.
type die struct {
	name, linkage, lowPC, highPC, ranges, origin, spec, declLine, callFile, callLine dieValue
}

// readDIE reads the attributes of an entry with c at the first of them.
func (x *unitContext) readDIE(c *cursor, a *abbrev, d *die) error {
	*d = die{}
	for _, at := range a.attrs {
		var field *dieValue
		switch at.name {
		case attrName:
			field = &d.name
		case attrLinkageName, attrMIPSLinkage:
			field = &d.linkage
		case attrLowPC:
			field = &d.lowPC
		case attrHighPC:
			field = &d.highPC
		case attrRanges:
			field = &d.ranges
		case attrAbstractOrigin:
			field = &d.origin
		case attrSpecification:
			field = &d.spec
		case attrDeclLine:
			field = &d.declLine
		case attrCallFile:
			field = &d.callFile
		case attrCallLine:
			field = &d.callLine
		default:
			if n, ok := formSize(at.form, &x.unit); ok {
				c.skip(uint64(n))
			} else if err := c.skipForm(at.form, &x.unit); err != nil {
				return err
			}
			continue
		}
		var err error
		if *field, err = x.value(c, at); err != nil {
			return err
		}
	}
	return nil
}

// value reads an attribute. Strings in place are kept, as what they are in is not.
func (x *unitContext) value(c *cursor, a attr) (dieValue, error) {
	v, form, err := c.number(a, &x.unit)
	if err == nil && form == formString && !c.short {
		var ref stringRef
		ref, err = x.b.pooledString((&cursor{b: c.b, off: int(v)}).cstring())
		v = uint64(ref)
	}
	return dieValue{v, form}, err
}

// readRoot reads the attributes of the unit itself, with c at the first of them. c.b begins at the unit's header.
func (x *unitContext) readRoot(c *cursor, a *abbrev) error {
	var lowPC, compDir, dwoName dieValue
	if x.kind == unitSplitCompile {
		// Split files have one table each, and units do not say where: right after its header (section 7.26).
		x.strOffsetsBase = 8
		if x.offSize == 8 {
			x.strOffsetsBase = 16
		}
	}
	for _, at := range a.attrs {
		value, err := x.value(c, at)
		if err != nil {
			return err
		}
		v := value.v
		switch at.name {
		case attrLowPC:
			lowPC = value
		case attrCompDir:
			compDir = value
		case attrDwoName, attrGNUDwoName:
			dwoName = value
		case attrStmtList:
			x.stmtList, x.hasLines = v, true
		case attrStrOffsetsBase:
			x.strOffsetsBase = v
		case attrAddrBase, attrGNUAddrBase:
			x.addrBase, x.hasAddrBase = v, true
		case attrRnglistsBase:
			x.rnglistsBase = v
		case attrGNURangesBase:
			x.rangesBase = v
		case attrGNUDwoID:
			x.id = v
		case attrLanguage:
			x.language = v
		}
	}
	if c.short {
		return errShortUnit
	}
	// What these refer to is known only now.
	var err error
	if lowPC.form != 0 {
		if x.lowPC, err = x.address(lowPC); err != nil {
			return err
		}
	}
	if compDir.form != 0 {
		if x.compDir, err = x.b.text(x.stringRef(compDir)); err != nil {
			return fmt.Errorf("compilation directory: %w", err)
		}
	}
	if dwoName.form != 0 {
		if x.dwoName, err = x.b.text(x.stringRef(dwoName)); err != nil {
			return fmt.Errorf("name of the split file: %w", err)
		}
	}
	return nil
}

// isC reports whether the unit is of C or assembly (table 7.17).
func (x *unitContext) isC() bool {
	switch x.language {
	case 0x01, 0x02, 0x0c, 0x1d, 0x2c, 0x8001: // C89, C, C99, C11, C17, Mips_Assembler
		return true
	}
	return false
}

var errShortUnit = errors.New("entries reach past their unit")

// stringRef returns where the string of an attribute is, or 0.
func (x *unitContext) stringRef(v dieValue) stringRef {
	d := x.d
	switch v.form {
	case formString:
		return stringRef(v.v) // pooled already
	case formStrp:
		return newStringRef(d.strSource, v.v)
	case formLineStrp:
		return newStringRef(d.lineStrSource, v.v)
	case formGNUStrpAlt, formStrpSup:
		if d.alt != nil {
			return newStringRef(d.alt.strSource, v.v)
		}
	case formStrx, formStrx1, formStrx2, formStrx3, formStrx4, formGNUStrIndex:
		size := uint64(x.offSize)
		at := x.strOffsetsBase + v.v*size
		b, err := d.strOffsets.bytes(at, int(size))
		if err != nil || uint64(len(b)) < size || v.v > 1<<32 {
			return 0
		}
		c := cursor{b: b}
		return newStringRef(d.strSource, c.uint(int(size)))
	}
	return 0
}

var errAddressForm = errors.New("address of a form that is none")

// address returns the address that an attribute is.
func (x *unitContext) address(v dieValue) (uint64, error) {
	switch v.form {
	case formAddr:
		return v.v, nil
	case formAddrx, formAddrx1, formAddrx2, formAddrx3, formAddrx4, formGNUAddrIndex:
		return x.indexedAddress(v.v)
	}
	return 0, errAddressForm
}

// indexedAddress reads an entry of .debug_addr (section 7.27).
func (x *unitContext) indexedAddress(index uint64) (uint64, error) {
	size := uint64(x.addrSize)
	if index > 1<<32 {
		return 0, fmt.Errorf("address %d of .debug_addr: %w", index, errLimit)
	}
	b, err := x.d.addresses.addr.bytes(x.addrBase+index*size, int(size))
	if err != nil {
		return 0, fmt.Errorf("address %d of .debug_addr: %w", index, err)
	}
	c := cursor{b: b}
	addr := c.uint(int(size))
	if c.short {
		return 0, fmt.Errorf("address %d of .debug_addr: %w", index, errShortUnit)
	}
	return addr, nil
}

// span is the addresses [lo, hi).
type span struct{ lo, hi uint64 }

// maxSpans bounds the ranges of one entry.
const maxSpans = 1 << 16

// spans appends the addresses of an entry to dst.
func (x *unitContext) spans(dst []span, d *die) ([]span, error) {
	if d.ranges.form != 0 {
		return x.rangeList(dst, d.ranges)
	}
	if d.lowPC.form == 0 || d.highPC.form == 0 {
		return dst, nil
	}
	lo, err := x.address(d.lowPC)
	if err != nil {
		return dst, err
	}
	hi, err := x.address(d.highPC)
	if errors.Is(err, errAddressForm) {
		hi, err = lo+d.highPC.v, nil // a length, since DWARF 4
	}
	if err != nil {
		return dst, err
	}
	return append(dst, span{lo, hi}), nil
}

func (x *unitContext) rangeList(dst []span, v dieValue) ([]span, error) {
	d, off := x.d, v.v
	if x.version < 5 {
		return x.oldRangeList(dst, off+x.rangesBase)
	}
	if v.form == formRnglistx {
		base, size := x.rnglistsBase, uint64(x.offSize)
		if base == 0 {
			base = 12 // after the header of the only table there is
			if size == 8 {
				base = 20
			}
		}
		if off > 1<<32 {
			return dst, errLimit
		}
		b, err := d.rnglists.bytes(base+off*size, int(size))
		if err != nil {
			return dst, fmt.Errorf("range list %d: %w", off, err)
		}
		c := cursor{b: b}
		off = base + c.uint(int(size))
	}
	first := len(dst)
	err := d.rnglists.parse(off, func(c *cursor) (err error) {
		dst, err = x.parseRangeList(c, dst[:first])
		return err
	})
	if err != nil {
		return dst[:first], fmt.Errorf("range list: %w", err)
	}
	return dst, nil
}

// parseRangeList reads a range list entry by entry (section 7.25).
func (x *unitContext) parseRangeList(c *cursor, dst []span) ([]span, error) {
	base, size := x.lowPC, int(x.addrSize)
	for first := len(dst); len(dst)-first < maxSpans; {
		var lo, hi uint64
		var err, err2 error
		switch kind := c.u8(); kind {
		case 0: // end of list
			return dst, nil
		case 1: // base_addressx
			if base, err = x.indexedAddress(c.uleb()); err != nil && !c.short {
				return dst, err
			}
			continue
		case 2: // startx_endx
			lo, err = x.indexedAddress(c.uleb())
			hi, err2 = x.indexedAddress(c.uleb())
		case 3: // startx_length
			lo, err = x.indexedAddress(c.uleb())
			hi = lo + c.uleb()
		case 4: // offset_pair
			lo = base + c.uleb()
			hi = base + c.uleb()
		case 5: // base_address
			base = c.uint(size)
			continue
		case 6: // start_end
			lo = c.uint(size)
			hi = c.uint(size)
		case 7: // start_length
			lo = c.uint(size)
			hi = lo + c.uleb()
		default:
			return dst, fmt.Errorf("entry of kind %d", kind)
		}
		if c.short {
			return dst, nil
		}
		if err := errors.Join(err, err2); err != nil {
			return dst, err
		}
		dst = append(dst, span{lo, hi})
	}
	return dst, fmt.Errorf("more than %d ranges: %w", maxSpans, errLimit)
}

// oldRangeList reads .debug_ranges, of DWARF 4 and before (DWARF 4 section 2.17.3).
func (x *unitContext) oldRangeList(dst []span, off uint64) ([]span, error) {
	first, size := len(dst), int(x.addrSize)
	err := x.d.addresses.ranges.parse(off, func(c *cursor) error {
		dst = dst[:first]
		base := x.lowPC
		for len(dst)-first < maxSpans {
			lo, hi := c.uint(size), c.uint(size)
			switch {
			case c.short || lo == 0 && hi == 0:
				return nil
			case lo == 1<<(8*size)-1:
				base = hi
			default:
				dst = append(dst, span{base + lo, base + hi})
			}
		}
		return fmt.Errorf("more than %d ranges: %w", maxSpans, errLimit)
	})
	if err != nil {
		return dst[:first], fmt.Errorf("range list: %w", err)
	}
	return dst, nil
}

// dieRef is a reference to an entry, by its offset in the section.
type dieRef struct {
	d   *debugInfo
	off uint64
}

// ref returns what an attribute refers to. ok is false where that is a type unit, which names no functions, or
// in a file that is not there.
func (x *unitContext) ref(v dieValue) (r dieRef, ok bool) {
	switch v.form {
	case formRef1, formRef2, formRef4, formRef8, formRefUdata:
		return dieRef{x.d, x.off + v.v}, true
	case formRefAddr:
		return dieRef{x.d, v.v}, true
	case formGNURefAlt, formRefSup4, formRefSup8:
		return dieRef{x.d.alt, v.v}, x.d.alt != nil
	}
	return dieRef{}, false
}
