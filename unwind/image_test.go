package unwind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"testing"
)

// testFile describes an ELF file with code from 0x1000 on.
type testFile struct {
	machine    elf.Machine // 0: x86-64
	text       []byte      // nil: 4096 bytes of zeros
	ehFrame    []byte
	debugFrame []byte
	compressed bool   // debugFrame is a zlib stream with its header
	pclntab    []byte // .gopclntab
	plt        bool   // the last 64 bytes of the text are a section .plt
	entry      uint64
	noSections bool // .eh_frame is found by PT_GNU_EH_FRAME alone
}

const (
	testText = 0x1000
	testEH   = 0x100000
)

// put appends values in their own widths.
func put(b []byte, values ...any) []byte {
	w := bytes.NewBuffer(b)
	for _, v := range values {
		if err := binary.Write(w, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	return w.Bytes()
}

// image lays the file out: headers, contents, section names, section table.
func (f testFile) image() []byte {
	if f.machine == 0 {
		f.machine = elf.EM_X86_64
	}
	if f.text == nil {
		f.text = make([]byte, pageSize)
	}
	const headers = 64 + 3*56
	textOff := uint64(headers)
	ehOff := textOff + uint64(len(f.text))
	// .eh_frame_hdr: version, encodings (the pointer's an absolute address), the pointer.
	hdr := put(nil, [4]byte{1, pePtr, peOmit, peOmit}, uint64(testEH))
	hdrOff := ehOff + uint64(len(f.ehFrame))
	debugOff := hdrOff + uint64(len(hdr))
	load := func(flags elf.ProgFlag, off, addr, size uint64) elf.Prog64 {
		return elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(flags), Off: off, Vaddr: addr, Filesz: size, Memsz: size}
	}
	segments := []elf.Prog64{
		load(elf.PF_R|elf.PF_X, textOff, testText, uint64(len(f.text))),
		load(elf.PF_R, ehOff, testEH, uint64(len(f.ehFrame)+len(hdr))),
		{Type: uint32(elf.PT_GNU_EH_FRAME), Off: hdrOff, Vaddr: testEH + uint64(len(f.ehFrame)), Filesz: uint64(len(hdr))},
	}
	names := "\x00.eh_frame\x00.debug_frame\x00.gopclntab\x00.text\x00.plt\x00"
	sections := []elf.Section64{
		{},
		{Type: uint32(elf.SHT_STRTAB), Off: debugOff + uint64(len(f.debugFrame)), Size: uint64(len(names))},
	}
	if f.ehFrame != nil {
		sections = append(sections, elf.Section64{
			Name: 1, Type: uint32(elf.SHT_PROGBITS), Flags: uint64(elf.SHF_ALLOC), Addr: testEH, Off: ehOff, Size: uint64(len(f.ehFrame)),
		})
	} else {
		segments = segments[:1]
	}
	if f.debugFrame != nil {
		s := elf.Section64{Name: 11, Type: uint32(elf.SHT_PROGBITS), Off: debugOff, Size: uint64(len(f.debugFrame))}
		if f.compressed {
			s.Flags = uint64(elf.SHF_COMPRESSED)
		}
		sections = append(sections, s)
	}
	if f.pclntab != nil {
		off := debugOff + uint64(len(f.debugFrame)+len(names))
		sections = append(sections, elf.Section64{Name: 24, Type: uint32(elf.SHT_PROGBITS), Off: off, Size: uint64(len(f.pclntab))})
	}
	if f.plt {
		const code = uint64(elf.SHF_ALLOC | elf.SHF_EXECINSTR)
		n := uint64(len(f.text)) - 64
		sections = append(sections,
			elf.Section64{Name: 35, Type: uint32(elf.SHT_PROGBITS), Flags: code, Addr: testText, Off: textOff, Size: n},
			elf.Section64{Name: 41, Type: uint32(elf.SHT_PROGBITS), Flags: code, Addr: testText + n, Off: textOff + n, Size: 64})
	}
	if f.noSections {
		sections = nil
	}
	head := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_DYN), Machine: uint16(f.machine), Entry: f.entry, Phoff: 64, Ehsize: 64,
		Phentsize: 56, Phnum: uint16(len(segments)), Shentsize: 64, Shnum: uint16(len(sections)),
	}
	if len(sections) > 0 {
		head.Shstrndx = 1
		head.Shoff = debugOff + uint64(len(f.debugFrame)+len(names)+len(f.pclntab))
	}
	b := put(nil, head, segments)
	b = append(b, make([]byte, headers-len(b))...)
	b = append(append(append(append(b, f.text...), f.ehFrame...), hdr...), f.debugFrame...)
	return put(append(append(b, names...), f.pclntab...), sections)
}

// frameSection writes .eh_frame or .debug_frame.
type frameSection struct {
	b     []byte
	debug bool
	cie   int // position of the last
}

// entry appends an entry with its length, padded as compilers do.
func (s *frameSection) entry(id uint32, body []byte) {
	for (len(body)+8)%8 != 0 {
		body = append(body, cfaNop)
	}
	s.b = put(s.b, uint32(4+len(body)), id, body)
}

// addCIE appends a CIE for AMD64 with code alignment 1, data alignment -8, return address in column 16 and absolute
// addresses in FDEs. augmentation is "zR" and letters after it that have no data.
func (s *frameSection) addCIE(augmentation string, instructions ...byte) {
	s.addCIEFor(augmentation, 1, 16, instructions)
}

func (s *frameSection) addCIEFor(augmentation string, codeAlign, ra byte, instructions []byte) {
	s.cie = len(s.b)
	id := uint32(0)
	body := []byte{1}
	if s.debug {
		id, body = 0xffffffff, []byte{4}
	}
	body = append(append(body, augmentation...), 0)
	if s.debug {
		body = append(body, 8, 0)
	}
	body = append(body, codeAlign, 0x78, ra)
	if augmentation != "" {
		body = append(body, 1, pePtr)
	}
	s.entry(id, append(body, instructions...))
}

// addFDE appends an FDE of the last CIE.
func (s *frameSection) addFDE(start, size uint64, instructions ...byte) {
	id := uint32(s.cie)
	body := put(nil, start, size)
	if !s.debug {
		id = uint32(len(s.b) + 4 - s.cie)
		body = append(body, 0) // augmentation data
	}
	s.entry(id, append(body, instructions...))
}

// initialAMD64 is what each CIE begins with: CFA = rsp + 8, rip at CFA - 8.
var initialAMD64 = []byte{cfaDefCFA, amd64RSP, 8, cfaOffset<<6 | amd64RIP, 1}

// mustBuild builds the table of a file that a test made.
func mustBuild(t testing.TB, f testFile) *Table {
	t.Helper()
	b := f.image()
	table, err := Build(bytes.NewReader(b), int64(len(b)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	check(t, table)
	return table
}

// check fails the test if a table is not as its type says.
func check(t testing.TB, table *Table) {
	t.Helper()
	for _, r := range table.Rules {
		if !r.valid() {
			t.Fatalf("rule %+v", r)
		}
	}
	for i, p := range table.Pages {
		if uint64(p.First)+uint64(p.Count) > uint64(len(table.Rows)) {
			t.Fatalf("page %d: %+v of %d rows", i, p, len(table.Rows))
		}
		for j, r := range table.Rows[p.First : p.First+p.Count] {
			switch {
			case int(r.Rule) >= len(table.Rules), r.Offset >= pageSize, j == 0 && r.Offset != 0:
				t.Fatalf("page %d, row %d: %+v", i, j, r)
			case j > 0 && r.Offset <= table.Rows[p.First+uint32(j)-1].Offset:
				t.Fatalf("page %d, row %d: %+v is not after the one before", i, j, r)
			}
		}
	}
	end := uint64(0)
	for r := range table.Ranges() {
		if r.Start < end || r.End <= r.Start {
			t.Fatalf("range %#x to %#x after %#x", r.Start, r.End, end)
		}
		end = r.End
		for _, addr := range []uint64{r.Start, r.End - 1} {
			if rule, ok := table.Find(addr); !ok || rule != r.Rule {
				t.Fatalf("%#x: found %+v, %t, want %+v", addr, rule, ok, r.Rule)
			}
		}
	}
}
