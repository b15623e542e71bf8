package symbolize

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The DWARF reader is one of our own: the standard one wants each section whole in memory, allocates for every
// entry (4.8 s of CPU and 580 MB for a kernel's, before the first inlined call is looked at), and neither it nor
// what is built on it bounds what a hostile file makes it do. This one reads one unit at a time, skips what names
// no code, and looks at a dozen attributes. Numbers are those of DWARF 5 chapter 7; section numbers below are of it.

const (
	tagClassType         = 0x02
	tagLexicalBlock      = 0x0b
	tagCompileUnit       = 0x11
	tagStructureType     = 0x13
	tagUnionType         = 0x17
	tagCommonBlock       = 0x1a
	tagInlinedSubroutine = 0x1d
	tagModule            = 0x1e
	tagWithStmt          = 0x22
	tagCatchBlock        = 0x25
	tagSubprogram        = 0x2e
	tagTryBlock          = 0x32
	tagInterfaceType     = 0x38
	tagNamespace         = 0x39
	tagPartialUnit       = 0x3c
	tagTypeUnit          = 0x41
	tagSkeletonUnit      = 0x4a
)

const (
	attrSibling        = 0x01
	attrName           = 0x03
	attrStmtList       = 0x10
	attrLowPC          = 0x11
	attrHighPC         = 0x12
	attrLanguage       = 0x13
	attrCompDir        = 0x1b
	attrAbstractOrigin = 0x31
	attrDeclLine       = 0x3b
	attrSpecification  = 0x47
	attrRanges         = 0x55
	attrCallFile       = 0x58
	attrCallLine       = 0x59
	attrLinkageName    = 0x6e
	attrStrOffsetsBase = 0x72
	attrAddrBase       = 0x73
	attrRnglistsBase   = 0x74
	attrDwoName        = 0x76
	attrMIPSLinkage    = 0x2007
	attrGNUDwoName     = 0x2130
	attrGNUDwoID       = 0x2131
	attrGNURangesBase  = 0x2132
	attrGNUAddrBase    = 0x2133
)

const (
	formAddr          = 0x01
	formBlock2        = 0x03
	formBlock4        = 0x04
	formData2         = 0x05
	formData4         = 0x06
	formData8         = 0x07
	formString        = 0x08
	formBlock         = 0x09
	formBlock1        = 0x0a
	formData1         = 0x0b
	formFlag          = 0x0c
	formSdata         = 0x0d
	formStrp          = 0x0e
	formUdata         = 0x0f
	formRefAddr       = 0x10
	formRef1          = 0x11
	formRef2          = 0x12
	formRef4          = 0x13
	formRef8          = 0x14
	formRefUdata      = 0x15
	formIndirect      = 0x16
	formSecOffset     = 0x17
	formExprloc       = 0x18
	formFlagPresent   = 0x19
	formStrx          = 0x1a
	formAddrx         = 0x1b
	formRefSup4       = 0x1c
	formStrpSup       = 0x1d
	formData16        = 0x1e
	formLineStrp      = 0x1f
	formRefSig8       = 0x20
	formImplicitConst = 0x21
	formLoclistx      = 0x22
	formRnglistx      = 0x23
	formRefSup8       = 0x24
	formStrx1         = 0x25
	formStrx2         = 0x26
	formStrx3         = 0x27
	formStrx4         = 0x28
	formAddrx1        = 0x29
	formAddrx2        = 0x2a
	formAddrx3        = 0x2b
	formAddrx4        = 0x2c
	formGNUAddrIndex  = 0x1f01
	formGNUStrIndex   = 0x1f02
	formGNURefAlt     = 0x1f20
	formGNUStrpAlt    = 0x1f21
)

const (
	unitCompile      = 1
	unitType         = 2
	unitSkeleton     = 4
	unitSplitCompile = 5
	unitSplitType    = 6
)

const (
	// maxUnits bounds the units of a file. The largest programs have some tens of thousands.
	maxUnits = 1 << 20
	// maxUnitBytes bounds what is read of a unit at once. Those of large C++ files have 5 MB, what link-time
	// optimization makes of a program up to some ten times that.
	maxUnitBytes = 64 << 20
	// maxAbbrevs bounds the abbreviations of a unit, and maxAbbrevGap the numbers that are left out before one.
	maxAbbrevs   = 1 << 16
	maxAbbrevGap = 1 << 10
	// maxAttrs bounds the attributes of an abbreviation.
	maxAttrs = 1 << 10
)

// unit is a unit of .debug_info: a compilation unit, or what several share (section 7.5.1).
type unit struct {
	off, end  uint64 // in the section; off is that of the header
	die       uint64 // offset of the first entry
	abbrevOff uint64
	id        uint64 // of a skeleton or split unit
	version   uint8
	offSize   uint8 // 4, or 8 in 64-bit DWARF
	addrSize  uint8
	kind      uint8
}

// readUnitHeader reads the header at off of a section of units; limit is the section's size.
func readUnitHeader(info *window, off uint64) (unit, error) {
	var u unit
	b, err := info.bytes(off, 64)
	if err != nil {
		return u, err
	}
	c := cursor{b: b}
	u.off, u.offSize = off, 4
	length := c.u32()
	if length == 0xffffffff {
		u.offSize = 8
		length = c.u64()
	}
	size := info.blob.size()
	if rest := size - off - uint64(c.off); c.short || length > rest {
		return u, fmt.Errorf("unit at %#x: %d bytes, %d are left", off, length, rest)
	}
	u.end = off + uint64(c.off) + length
	version := c.u16()
	if version < 2 || version > 5 {
		return u, fmt.Errorf("unit at %#x: DWARF %d: versions 2 to 5 are read", off, version)
	}
	u.version, u.kind = uint8(version), unitCompile
	if version >= 5 {
		u.kind = uint8(c.u8())
		u.addrSize = uint8(c.u8())
		u.abbrevOff = c.uint(int(u.offSize))
		switch u.kind {
		case unitSkeleton, unitSplitCompile:
			u.id = c.u64()
		case unitType, unitSplitType:
			c.skip(8 + uint64(u.offSize))
		}
	} else {
		u.abbrevOff = c.uint(int(u.offSize))
		u.addrSize = uint8(c.u8())
	}
	u.die = off + uint64(c.off)
	if c.short || u.die > u.end {
		return u, fmt.Errorf("unit at %#x: %w in its header", off, io.ErrUnexpectedEOF)
	}
	if u.addrSize != 4 && u.addrSize != 8 {
		return u, fmt.Errorf("unit at %#x: addresses of %d bytes", off, u.addrSize)
	}
	return u, nil
}

// readUnits lists the units of a section.
func readUnits(info *window) ([]unit, error) {
	var units []unit
	for off := uint64(0); off < info.blob.size(); {
		u, err := readUnitHeader(info, off)
		if err != nil {
			return units, err
		}
		if len(units) == maxUnits {
			return units, fmt.Errorf("more than %d units: %w", maxUnits, errLimit)
		}
		units = append(units, u)
		off = u.end
	}
	return units, nil
}

// attr is an attribute of an abbreviation.
type attr struct {
	name, form uint16
	implicit   int64
}

// What the walk does with an entry and those below it.
const (
	dieSkip     = iota // names no code, nor do its children
	dieScope           // may have functions among its children
	dieFunction        // a subprogram
	dieInlined         // a call that was inlined
	dieUnit
)

// abbrev says what entries of a code look like (section 7.5.3).
type abbrev struct {
	defined  bool
	children bool
	hasCode  bool // has an attribute that says where its code is
	kind     uint8
	// sibling is where in the entry the offset of the next sibling is, as DW_FORM_ref4; -1 if there is none such.
	sibling int32
	attrs   []attr
	// skips is how to get over the attributes: bytes to skip and then the form of one whose size varies.
	skips []attrSkip
}

type attrSkip struct {
	bytes uint32
	form  uint16 // 0: nothing after the bytes
}

// abbrevTable holds abbreviations by code. Compilers number them from 1 on.
type abbrevTable struct {
	byCode []abbrev
	attrs  []attr // what abbrev.attrs are parts of
	skips  []attrSkip
}

func (t *abbrevTable) find(code uint64) *abbrev {
	if code < uint64(len(t.byCode)) && t.byCode[code].defined {
		return &t.byCode[code]
	}
	return nil
}

var errAttrs = errors.New("abbreviation is damaged")

// read reads the table at off for units of u's form, into the memory of the table before.
func (t *abbrevTable) read(w *window, off uint64, u *unit) error {
	err := w.parse(off, func(c *cursor) error { return t.parse(c, u) })
	if err != nil {
		return fmt.Errorf("abbreviations: %w", err)
	}
	return nil
}

func (t *abbrevTable) parse(c *cursor, u *unit) error {
	clear(t.byCode)
	t.byCode, t.attrs, t.skips = t.byCode[:0], t.attrs[:0], t.skips[:0]
	for {
		code := c.uleb()
		if code == 0 || c.short {
			return nil
		}
		if code > maxAbbrevs || code > uint64(len(t.byCode))+maxAbbrevGap {
			return fmt.Errorf("code %d: %w", code, errLimit)
		}
		tag := c.uleb()
		a := abbrev{defined: true, children: c.u8() != 0, kind: dieKind(tag), sibling: -1}
		if err := t.parseAttrs(c, u, &a); err != nil {
			return err
		}
		for uint64(len(t.byCode)) <= code {
			t.byCode = append(t.byCode, abbrev{})
		}
		t.byCode[code] = a
	}
}

func (t *abbrevTable) parseAttrs(c *cursor, u *unit, a *abbrev) error {
	firstAttr, firstSkip := len(t.attrs), len(t.skips)
	run, sized := uint32(0), true
	for {
		name, form := c.uleb(), c.uleb()
		if c.short || name == 0 && form == 0 {
			break
		}
		if name > 0xffff || form == 0 || form > 0xffff || len(t.attrs)-firstAttr == maxAttrs {
			return errAttrs
		}
		at := attr{name: uint16(name), form: uint16(form)}
		if form == formImplicitConst {
			at.implicit = c.sleb()
		}
		t.attrs = append(t.attrs, at)
		if name == attrLowPC || name == attrRanges {
			a.hasCode = true
		}
		if name == attrSibling && form == formRef4 && sized {
			a.sibling = int32(run)
		}
		if n, ok := formSize(at.form, u); ok {
			run += uint32(n)
			continue
		}
		t.skips = append(t.skips, attrSkip{run, at.form})
		run, sized = 0, false
	}
	if run > 0 {
		t.skips = append(t.skips, attrSkip{bytes: run})
	}
	a.attrs, a.skips = t.attrs[firstAttr:len(t.attrs):len(t.attrs)], t.skips[firstSkip:len(t.skips):len(t.skips)]
	return nil
}

// dieKind sorts the tags.
func dieKind(tag uint64) uint8 {
	switch tag {
	case tagCompileUnit, tagPartialUnit, tagSkeletonUnit, tagTypeUnit:
		return dieUnit
	case tagSubprogram:
		return dieFunction
	case tagInlinedSubroutine:
		return dieInlined
	case tagLexicalBlock, tagNamespace, tagModule, tagCommonBlock, tagCatchBlock, tagTryBlock, tagWithStmt,
		tagClassType, tagStructureType, tagUnionType, tagInterfaceType:
		return dieScope
	}
	return dieSkip
}

// formSize returns the size of an attribute if all of the form have the same.
func formSize(form uint16, u *unit) (int, bool) {
	switch form {
	case formFlagPresent, formImplicitConst:
		return 0, true
	case formData1, formFlag, formRef1, formStrx1, formAddrx1:
		return 1, true
	case formData2, formRef2, formStrx2, formAddrx2:
		return 2, true
	case formStrx3, formAddrx3:
		return 3, true
	case formData4, formRef4, formRefSup4, formStrx4, formAddrx4:
		return 4, true
	case formData8, formRef8, formRefSig8, formRefSup8:
		return 8, true
	case formData16:
		return 16, true
	case formAddr:
		return int(u.addrSize), true
	case formStrp, formSecOffset, formStrpSup, formLineStrp, formGNURefAlt, formGNUStrpAlt:
		return int(u.offSize), true
	case formRefAddr:
		if u.version == 2 {
			return int(u.addrSize), true
		}
		return int(u.offSize), true
	}
	return 0, false
}

var errForm = errors.New("attribute of a form that DWARF 5 does not have")

// skipForm gets over an attribute whose size varies.
func (c *cursor) skipForm(form uint16, u *unit) error {
	for {
		switch form {
		case formUdata, formRefUdata, formStrx, formAddrx, formLoclistx, formRnglistx, formGNUAddrIndex, formGNUStrIndex, formSdata:
			c.uleb()
		case formExprloc, formBlock:
			c.skip(c.uleb())
		case formBlock1:
			c.skip(c.u8())
		case formBlock2:
			c.skip(c.u16())
		case formBlock4:
			c.skip(c.u32())
		case formString:
			c.cstring()
		case formIndirect:
			form = uint16(min(c.uleb(), 0xffff))
			if n, ok := formSize(form, u); ok && form != formImplicitConst {
				c.skip(uint64(n))
				return nil
			}
			if c.short {
				return nil
			}
			continue
		default:
			return errForm
		}
		return nil
	}
}

// number reads an attribute that is a number, an offset or an index; of a string in place, its offset in the
// cursor. form is the form that it has in the end.
func (c *cursor) number(a attr, u *unit) (v uint64, form uint16, err error) {
	form = a.form
	for form == formIndirect {
		form = uint16(min(c.uleb(), 0xffff))
		if c.short {
			return 0, form, nil
		}
		if form == formImplicitConst {
			return 0, form, errForm
		}
	}
	switch form {
	case formImplicitConst:
		return uint64(a.implicit), form, nil
	case formFlagPresent:
		return 1, form, nil
	case formUdata, formRefUdata, formStrx, formAddrx, formLoclistx, formRnglistx, formGNUAddrIndex, formGNUStrIndex:
		return c.uleb(), form, nil
	case formSdata:
		return uint64(c.sleb()), form, nil
	case formString:
		at := c.off
		c.cstring()
		return uint64(at), form, nil
	case formData16:
		c.skip(16)
		return 0, form, nil
	}
	if n, ok := formSize(form, u); ok {
		return c.uint(n), form, nil
	}
	return 0, form, c.skipForm(form, u)
}

// skipAttrs gets over all attributes of an entry.
func (c *cursor) skipAttrs(a *abbrev, u *unit) error {
	for _, s := range a.skips {
		c.skip(uint64(s.bytes))
		if s.form == formExprloc && c.off < len(c.b) && c.b[c.off] < 0x80 {
			c.skip(uint64(c.b[c.off]) + 1)
			continue
		}
		if s.form != 0 {
			if err := c.skipForm(s.form, u); err != nil {
				return err
			}
		}
	}
	return nil
}

// siblingOf returns where in the unit the entry after this one and its children begins, if the entry says so.
func (c *cursor) siblingOf(a *abbrev) (off uint64, ok bool) {
	if a.sibling < 0 || len(c.b)-c.off < int(a.sibling)+4 {
		return 0, false
	}
	return uint64(binary.LittleEndian.Uint32(c.b[c.off+int(a.sibling):])), true
}
