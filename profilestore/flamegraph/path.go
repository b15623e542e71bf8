package flamegraph

import "strings"

// ParsePath reads a path of function names from the root, as the parameter root= carries it: names joined by
// ";", with "\" before each ";" and "\" that is part of a name. "" is the empty path: the whole tree.
func ParsePath(path string) []string {
	if path == "" {
		return nil
	}
	var functions []string
	var name strings.Builder
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == ';':
			functions = append(functions, name.String())
			name.Reset()
		case c == '\\' && i+1 < len(path):
			i++
			name.WriteByte(path[i])
		default:
			name.WriteByte(c)
		}
	}
	return append(functions, name.String())
}

// FormatPath writes what ParsePath reads. The path of a single function without a name cannot be told from
// the empty path.
func FormatPath(functions []string) string {
	escape := strings.NewReplacer(`\`, `\\`, `;`, `\;`)
	var b strings.Builder
	for i, f := range functions {
		if i > 0 {
			b.WriteByte(';')
		}
		escape.WriteString(&b, f)
	}
	return b.String()
}
