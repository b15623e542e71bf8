package unwind

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"slices"
	"testing"
)

// smallTable has rules of several kinds, pages that are shared, pages without rows, and code that keeps frame pointers.
func smallTable(t testing.TB) *Table {
	var eh frameSection
	eh.addCIE("zR", initialAMD64...)
	eh.addFDE(testText, 0x40, cfaAdvanceLoc<<6|1, cfaDefCFAOffset, 16, cfaOffset<<6|amd64RBP, 2)
	eh.addFDE(testText+0x800, 0x3000, cfaRegister, amd64RIP, 5)
	table := mustBuild(t, testFile{ehFrame: eh.b, text: make([]byte, 8*pageSize)})
	table.Pages = append(table.Pages, Page{}, table.Pages[0])
	table.Kept = []Span{{testText, testText + 0x10}, {testText + 0x10, testText + 0x800}}
	return table
}

func encode(t testing.TB, table *Table) []byte {
	t.Helper()
	b, err := table.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadTable(t *testing.T) {
	small := smallTable(t)
	for name, table := range map[string]*Table{"small": small, "empty": {Arch: ARM64}} {
		got, err := ReadTable(encode(t, table))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got.Arch != table.Arch || got.FirstPage != table.FirstPage || !slices.Equal(got.Pages, table.Pages) ||
			!slices.Equal(got.Rows, table.Rows) || !slices.Equal(got.Rules, table.Rules) || !slices.Equal(got.Kept, table.Kept) {
			t.Errorf("%s: got %+v\nwant %+v", name, got, table)
		}
	}
	prefix := []byte("before")
	if b, err := small.AppendBinary(prefix); err != nil || !bytes.Equal(b[len(prefix):], encode(t, small)) {
		t.Errorf("after a prefix: %v", err)
	}
}

// TestReadTableDamaged has each single byte of a table changed, with its old checksum and with one that matches.
func TestReadTableDamaged(t *testing.T) {
	sound := encode(t, smallTable(t))
	for i := range sound {
		for _, x := range []byte{0x01, 0x80, 0xff} {
			b := slices.Clone(sound)
			b[i] ^= x
			if _, err := ReadTable(b); !errors.Is(err, ErrTableDamaged) {
				t.Fatalf("byte %d: got %v, want ErrTableDamaged", i, err)
			}
			sum(b)
			table, err := ReadTable(b)
			switch {
			case err == nil:
				check(t, table)
			case !errors.Is(err, ErrTableDamaged) && !errors.Is(err, ErrTableVersion):
				t.Fatalf("byte %d: %v", i, err)
			}
		}
	}
	for n := range sound {
		if _, err := ReadTable(sound[:n]); !errors.Is(err, ErrTableDamaged) {
			t.Fatalf("%d bytes: got %v, want ErrTableDamaged", n, err)
		}
	}
	b := slices.Clone(sound)
	b[4]++
	if _, err := ReadTable(sum(b)); !errors.Is(err, ErrTableVersion) {
		t.Errorf("next version: got %v, want ErrTableVersion", err)
	}
	b = sum(append(slices.Clone(sound), 0))
	if _, err := ReadTable(b); !errors.Is(err, ErrTableDamaged) {
		t.Errorf("a byte more: got %v, want ErrTableDamaged", err)
	}
}

// sum sets the checksum.
func sum(b []byte) []byte {
	binary.LittleEndian.PutUint32(b[len(b)-4:], castagnoli(b[:len(b)-4]))
	return b
}

// TestRuleLayout holds the sizes that the kernel's copies of rows and rules have.
func TestRuleLayout(t *testing.T) {
	rule, row := reflect.TypeFor[Rule](), reflect.TypeFor[Row]()
	if rule.Size() != ruleSize || row.Size() != 4 {
		t.Errorf("a rule has %d bytes, a row %d", rule.Size(), row.Size())
	}
	for name, off := range map[string]uintptr{"CFAOff": 0, "FPOff": 4, "RBXOff": 6, "RAOff": 8, "CFA": 10, "CFAReg": 11, "CFAAdd": 12, "FP": 13, "RBX": 14, "RA": 15} {
		if f, ok := rule.FieldByName(name); !ok || f.Offset != off {
			t.Errorf("%s is at %d, want %d", name, f.Offset, off)
		}
	}
}
