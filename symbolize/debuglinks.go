package symbolize

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path"
	"strings"
)

// maxNotes bounds what is read of a section of notes, maxLink a link.
const (
	maxNotes = 64 << 10
	maxLink  = 4 << 10
)

// DebugLinks says where the rest of a file's debug information is.
type DebugLinks struct {
	// BuildID is the note of the linker (.note.gnu.build-id); nil if there is none.
	BuildID []byte
	// Link is the name in .gnu_debuglink, without a folder, and LinkCRC the CRC-32 of that file; "" if there is none.
	Link    string
	LinkCRC uint32
	// Alt is the path in .gnu_debugaltlink, which dwz writes, and AltBuildID the build ID of that file.
	Alt        string
	AltBuildID []byte
	// DebugBytes is the size of the file's own debug information, inflated; 0 if it has none.
	DebugBytes uint64
	// MiniDebug reports whether the file has symbols in .gnu_debugdata.
	MiniDebug bool
}

// ReadDebugLinks reads the links of an ELF file of any type. What is damaged it leaves out.
func ReadDebugLinks(r io.ReaderAt, size int64) (DebugLinks, error) {
	m, err := readAnyImage(r, size)
	if err != nil {
		return DebugLinks{}, err
	}
	var l DebugLinks
	if info := m.section(".debug_info"); info != nil && info.typ != elf.SHT_NOBITS {
		for _, name := range debugSections {
			l.DebugBytes += m.inflatedSize(m.section(name))
		}
	}
	l.MiniDebug = m.section(".gnu_debugdata") != nil
	for i := range m.sections {
		s := &m.sections[i]
		if s.typ == elf.SHT_NOTE && l.BuildID == nil {
			l.BuildID = buildID(m.head(s, maxNotes))
		}
	}
	if b := m.head(m.section(".gnu_debuglink"), maxLink); b != nil {
		name, _, _ := bytes.Cut(b, []byte{0})
		crcAt := (len(name) + 4) &^ 3
		// A name with a folder would lead out of those that are searched.
		if len(b) >= crcAt+4 && path.Base(string(name)) == string(name) && len(name) > 0 {
			l.Link, l.LinkCRC = string(name), binary.LittleEndian.Uint32(b[crcAt:])
		}
	}
	if name, id, ok := bytes.Cut(m.head(m.section(".gnu_debugaltlink"), maxLink), []byte{0}); ok {
		l.Alt, l.AltBuildID = string(name), bytes.Clone(id)
	}
	return l, nil
}

// inflatedSize returns the size that a section has, or says that it has when it is inflated.
func (m *image) inflatedSize(s *section) uint64 {
	switch {
	case s == nil || s.typ == elf.SHT_NOBITS:
		return 0
	case s.flags&elf.SHF_COMPRESSED == 0:
		return min(s.size, m.size)
	}
	head, err := m.compressionHead(s)
	if err != nil {
		return 0
	}
	return min(head.size, maxInflated)
}

// head returns up to n bytes of a section, nil if there are none.
func (m *image) head(s *section, n uint64) []byte {
	if s == nil {
		return nil
	}
	e, err := m.extentOf(s)
	if err != nil || e.size == 0 {
		return nil
	}
	b, err := m.readSome(e, 0, make([]byte, min(n, e.size)))
	if err != nil {
		return nil
	}
	return b
}

// buildID returns the build ID among notes (gABI chapter 5, "Note Section"), nil if it is not there.
func buildID(notes []byte) []byte {
	const typeBuildID = 3
	for len(notes) >= 12 {
		le := binary.LittleEndian
		name, desc, typ := uint64(le.Uint32(notes)), uint64(le.Uint32(notes[4:])), le.Uint32(notes[8:])
		descAt := 12 + (name+3)&^3
		end := descAt + desc
		if end > uint64(len(notes)) {
			return nil
		}
		if typ == typeBuildID && name == 4 && string(notes[12:16]) == "GNU\x00" {
			return bytes.Clone(notes[descAt:end])
		}
		notes = notes[min((end+3)&^3, uint64(len(notes))):]
	}
	return nil
}

// OpenDebug opens the file with the debug information of file, an absolute path below root, that has these links.
// It looks where GDB does ("Debugging Information in Separate Files"): by build ID below /usr/lib/debug/.build-id;
// then, by the name in .gnu_debuglink, beside the file, in .debug there, and below /usr/lib/debug. A file counts
// that has the same build ID or, if either has none, the CRC-32 of the link.
//
// The error is fs.ErrNotExist if there is none. The caller closes the file if it is an io.Closer. It returns the
// path too.
func OpenDebug(root fs.FS, file string, links DebugLinks) (*DebugFile, string, error) {
	dir := path.Dir(file)
	candidates := []string{buildIDPath(links.BuildID)}
	if links.Link != "" {
		candidates = append(candidates,
			path.Join(dir, links.Link), path.Join(dir, ".debug", links.Link), path.Join("/usr/lib/debug", dir, links.Link))
	}
	for _, name := range candidates {
		if name == "" || name == file {
			continue
		}
		f, err := openMatching(root, name, links.BuildID, func(f *DebugFile) bool {
			return links.Link != "" && name != candidates[0] && crcOf(f) == links.LinkCRC
		})
		if err == nil {
			return f, name, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errOtherFile) {
			return nil, "", err
		}
	}
	return nil, "", fmt.Errorf("debug information of %s: %w", file, fs.ErrNotExist)
}

// OpenAlt opens the file that dwz took out of debug, which has these links. It has to have the build ID that the
// link says.
func OpenAlt(root fs.FS, debug string, links DebugLinks) (*DebugFile, error) {
	if links.Alt == "" || len(links.AltBuildID) == 0 {
		return nil, fmt.Errorf("%s has no alternate file: %w", debug, fs.ErrNotExist)
	}
	name := links.Alt
	if !path.IsAbs(name) {
		name = path.Join(path.Dir(debug), name)
	}
	for _, name := range []string{name, buildIDPath(links.AltBuildID)} {
		f, err := openMatching(root, name, links.AltBuildID, func(*DebugFile) bool { return false })
		if err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errOtherFile) {
			return f, err
		}
	}
	return nil, fmt.Errorf("alternate file of %s: %w", debug, fs.ErrNotExist)
}

// buildIDPath returns the path of the debug information of a build ID, "" if that is too short to be one.
func buildIDPath(id []byte) string {
	if len(id) < 2 || len(id) > 64 {
		return ""
	}
	return fmt.Sprintf("/usr/lib/debug/.build-id/%x/%x.debug", id[:1], id[1:])
}

// errOtherFile is the error of a file that is there and is not the one that was wanted.
var errOtherFile = errors.New("is of another file")

// openMatching opens a file that has a build ID, or that otherwise accepts where one has none.
func openMatching(root fs.FS, name string, id []byte, otherwise func(*DebugFile) bool) (*DebugFile, error) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	// Opening a pipe would wait for its writer.
	if info, err := fs.Stat(root, name); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", name, errOtherFile)
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	debug, err := matching(f, id, otherwise)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
	}
	return debug, nil
}

func matching(f fs.File, id []byte, otherwise func(*DebugFile) bool) (*DebugFile, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	r, ok := f.(io.ReaderAt)
	if !ok || !info.Mode().IsRegular() {
		return nil, errOtherFile
	}
	debug := &DebugFile{r, info.Size()}
	links, err := ReadDebugLinks(r, debug.Size)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errOtherFile, err)
	}
	if len(id) > 0 && len(links.BuildID) > 0 {
		if !bytes.Equal(id, links.BuildID) {
			return nil, errOtherFile
		}
		return debug, nil
	}
	if !otherwise(debug) {
		return nil, errOtherFile
	}
	return debug, nil
}

// maxCRC bounds the files whose checksum is taken: it takes half a second a GB, and a sparse file can have any size.
const maxCRC = 1 << 30

// crcOf returns the CRC-32 of a file, as .gnu_debuglink has it; 0 if the file cannot be read or is too large.
func crcOf(f *DebugFile) uint32 {
	if f.Size > maxCRC {
		return 0
	}
	h := crc32.NewIEEE()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, f.Size)); err != nil {
		return 0
	}
	return h.Sum32()
}
