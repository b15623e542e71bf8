package profilestore

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Label is one name with its value.
type Label struct{ Name, Value string }

// Labels is a set of labels: sorted by name, no name twice, no empty value. Make one with [NewLabels].
type Labels []Label

// NewLabels sorts the map into Labels. An empty value means that the label is absent.
func NewLabels(m map[string]string) Labels {
	ls := make(Labels, 0, len(m))
	for name, value := range m {
		if value != "" {
			ls = append(ls, Label{name, value})
		}
	}
	slices.SortFunc(ls, func(a, b Label) int { return strings.Compare(a.Name, b.Name) })
	return ls
}

// Get returns the value of a label, "" when it is absent.
func (ls Labels) Get(name string) string {
	for _, l := range ls {
		if l.Name == name {
			return l.Value
		}
	}
	return ""
}

// String writes the labels as a selector that matches them: {a="1", b="2"}.
func (ls Labels) String() string {
	b := []byte{'{'}
	for i, l := range ls {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, l.Name...)
		b = append(b, '=')
		b = strconv.AppendQuote(b, l.Value)
	}
	return string(append(b, '}'))
}

// What labels of a series may be.
const (
	MaxLabels     = 32   // in a set
	MaxLabelName  = 128  // bytes of a name
	maxLabelValue = 4096 // bytes; a cgroup path is at most PATH_MAX
)

// check refuses what could not be selected again, or not be told apart from another set.
func (ls Labels) check() error {
	if len(ls) > MaxLabels {
		return fmt.Errorf("%d labels: send at most %d", len(ls), MaxLabels)
	}
	for i, l := range ls {
		if i > 0 && ls[i-1].Name >= l.Name {
			return fmt.Errorf("labels %q and %q are not in order: sort them by name and send each name once", ls[i-1].Name, l.Name)
		}
		if !validName(l.Name) || len(l.Name) > MaxLabelName {
			return fmt.Errorf("label name %.40q: use [a-zA-Z_][a-zA-Z0-9_]*, at most %d bytes", l.Name, MaxLabelName)
		}
		switch {
		case l.Value == "":
			return fmt.Errorf("label %s is empty: leave it out", l.Name)
		case len(l.Value) > maxLabelValue:
			return fmt.Errorf("label %s has %d bytes: send at most %d", l.Name, len(l.Value), maxLabelValue)
		case !utf8.ValidString(l.Value):
			return fmt.Errorf("label %s is not UTF-8: %.40q", l.Name, l.Value)
		}
	}
	return nil
}

// validName is PromQL's label name: what a selector can say without quotes.
func validName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
