package profilestore

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// ID names one profile. A sender derives it from what the profile is (boot ID, agent start, window, process),
// so that a retry carries the same ID and is stored once. It is written as a UUID.
type ID [16]byte

// String writes the ID in UUID form: 8-4-4-4-12 hexadecimal digits.
func (id ID) String() string {
	var b [36]byte
	hex.Encode(b[0:8], id[0:4])
	hex.Encode(b[9:13], id[4:6])
	hex.Encode(b[14:18], id[6:8])
	hex.Encode(b[19:23], id[8:10])
	hex.Encode(b[24:36], id[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}

// ParseID reads what [ID.String] writes; upper-case digits are taken too.
func ParseID(s string) (ID, error) {
	var id ID
	bad := &Error{Code: BadRequest, Param: "id", Message: fmt.Sprintf("profile ID %.60q: write it as a UUID, 8-4-4-4-12 hexadecimal digits", s)}
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return ID{}, bad
	}
	digits := s[0:8] + s[9:13] + s[14:18] + s[19:23] + s[24:36]
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil {
		return ID{}, bad
	}
	return id, nil
}

// ProfileType says what the values of a profile are.
type ProfileType struct {
	Name                   string // kind of profile: "process_cpu"
	SampleType, SampleUnit string // "cpu", "nanoseconds"
	PeriodType, PeriodUnit string // "cpu", "nanoseconds"
}

// DefaultType is CPU time; the zero ProfileType in a [Query] means it.
var DefaultType = ProfileType{"process_cpu", "cpu", "nanoseconds", "cpu", "nanoseconds"}

// String joins the five fields with colons: process_cpu:cpu:nanoseconds:cpu:nanoseconds.
func (t ProfileType) String() string {
	return strings.Join([]string{t.Name, t.SampleType, t.SampleUnit, t.PeriodType, t.PeriodUnit}, ":")
}

// ParseProfileType reads what [ProfileType.String] writes. "" is the zero ProfileType.
func ParseProfileType(s string) (ProfileType, error) {
	if s == "" {
		return ProfileType{}, nil
	}
	f := strings.Split(s, ":")
	if len(f) != 5 || f[0] == "" || f[1] == "" || f[2] == "" {
		return ProfileType{}, &Error{Code: BadRequest, Param: "type", Message: fmt.Sprintf("profile type %.80q: write name:sample_type:sample_unit:period_type:period_unit, as in %s", s, DefaultType)}
	}
	return ProfileType{f[0], f[1], f[2], f[3], f[4]}, nil
}

// Encoded is one profile as it is sent and stored.
type Encoded struct {
	ID       ID     // zero: derived from the content
	Name     string // kind of profile, the first part of its [ProfileType]: "process_cpu"; a label name by its syntax
	Labels   Labels // of the series
	Time     int64  // Unix nanoseconds, start of the profile
	Duration time.Duration
	Pprof    []byte // pprof protobuf, gzipped or plain
}
