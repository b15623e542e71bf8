package process

import (
	"slices"
	"strings"
)

// interpreter says how the command line of one is read: up to the script, which
// is the first argument that is neither an option nor an option's value. Letters
// are those of single-letter options, which may be joined ("-uBm").
type interpreter struct {
	names []string // base names, before a version: "python" stands for python3.11
	// values take the rest of their argument, or else the next one, as value;
	// attached take the rest only.
	values, attached string
	// inline carry the program itself, or say that it comes from standard input.
	inline string
	// script names the script, module names a module.
	script, module byte
	// long are the options with words that take the next argument as value;
	// longInline those that carry the program.
	long, longInline []string
	// words says that options with one dash are words too, as for java; plus that
	// options may begin with "+", as those of shells.
	words, plus bool
}

var interpreters = []interpreter{
	{names: []string{"python", "pypy"}, values: "WX", inline: "c", module: 'm',
		long: []string{"--check-hash-based-pycs"}},
	{names: []string{"node", "nodejs"}, values: "rC", inline: "ep",
		long: []string{"--require", "--import", "--loader", "--experimental-loader", "--conditions", "--env-file",
			"--env-file-if-exists", "--title", "--input-type", "--icu-data-dir", "--openssl-config",
			"--redirect-warnings", "--disable-warning", "--unhandled-rejections", "--diagnostic-dir",
			"--max-http-header-size", "--dns-result-order", "--inspect-port", "--experimental-config-file"},
		longInline: []string{"--eval", "--print"}},
	{names: []string{"ruby"}, values: "rICE", attached: "FKTWxi0", inline: "e",
		long: []string{"--encoding", "--external-encoding", "--internal-encoding"}},
	{names: []string{"perl"}, values: "I", attached: "MmCDFVxi0", inline: "eE"},
	{names: []string{"php"}, values: "cdztS", inline: "rBRE", script: 'f',
		long:       []string{"--php-ini", "--define", "--docroot", "--server", "--zend-extension"},
		longInline: []string{"--run", "--process-begin", "--process-code", "--process-end"}},
	{names: []string{"bash", "sh", "dash", "zsh", "ksh", "ash"}, values: "oO", inline: "cs", plus: true,
		long: []string{"--rcfile", "--init-file"}},
	{names: []string{"java"}, words: true,
		long: []string{"-cp", "-classpath", "--class-path", "-p", "--module-path", "--upgrade-module-path",
			"--add-modules", "--add-reads", "--add-exports", "--add-opens", "--limit-modules", "--patch-module",
			"--source", "--enable-native-access"}},
}

// interpreterOf returns the interpreter that an executable of that base name is,
// or nil. What may follow the name is a version: "3.11", "-8.2", "5.36.0".
func interpreterOf(name string) *interpreter {
	name = strings.TrimRight(name, "0123456789.-")
	for i := range interpreters {
		for _, n := range interpreters[i].names {
			if n == name {
				return &interpreters[i]
			}
		}
	}
	return nil
}

// program returns what the interpreter exe runs: the base name of a script or
// jar, the name of a Python module (its dots are not directories: "server" would
// not say http.server), the base name of a class. It returns "" if exe is no
// known interpreter, or if there is no name to be had.
func program(exe string, args []string) string {
	if len(args) == 0 {
		return ""
	}
	name := baseName(exe)
	// One file with many programs in it acts by the name it was called by.
	if name == "busybox" || exe == "" {
		name = strings.TrimPrefix(baseName(args[0]), "-")
	}
	in := interpreterOf(name)
	if in == nil {
		return ""
	}
	if in.words {
		return in.wordProgram(args[1:])
	}
	return in.letterProgram(args[1:])
}

func (in *interpreter) letterProgram(args []string) string {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		next := func() string {
			if i++; i < len(args) {
				return args[i]
			}
			return ""
		}
		switch {
		case arg == "-" || arg == "":
			return "" // the program comes from standard input
		case arg == "--":
			return scriptName(next())
		case strings.HasPrefix(arg, "--"):
			name, _, attached := strings.Cut(arg, "=")
			if slices.Contains(in.longInline, name) {
				return ""
			}
			if !attached && slices.Contains(in.long, name) {
				i++
			}
		case arg[0] == '-' || in.plus && arg[0] == '+':
			for j := 1; j < len(arg); j++ {
				letter, rest := arg[j], arg[j+1:]
				if strings.IndexByte(in.inline, letter) >= 0 {
					return ""
				}
				takes := strings.IndexByte(in.values, letter) >= 0 || letter == in.module || letter == in.script
				if takes && rest == "" {
					rest = next()
				}
				switch {
				case letter == in.module:
					return rest
				case letter == in.script:
					return scriptName(rest)
				}
				if takes || strings.IndexByte(in.attached, letter) >= 0 {
					break
				}
			}
		default:
			return scriptName(arg)
		}
	}
	return ""
}

// wordProgram reads a command line of java.
func (in *interpreter) wordProgram(args []string) string {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case slices.Contains(in.long, arg):
			i++
		case arg == "-jar":
			if i+1 < len(args) {
				return scriptName(args[i+1])
			}
		case arg == "-m" || arg == "--module":
			if i+1 < len(args) {
				return className(args[i+1])
			}
		case strings.HasPrefix(arg, "--module="):
			return className(arg[len("--module="):])
		case arg == "" || arg[0] == '-' || arg[0] == '@': // an option, a file of options
		case strings.HasSuffix(arg, ".java"):
			return scriptName(arg)
		default:
			return className(arg)
		}
	}
	return ""
}

// className returns the simple name of "org.example.Main", "org/example/Main"
// or "module/org.example.Main".
func className(s string) string {
	return s[strings.LastIndexAny(s, "./")+1:]
}

// scriptName returns the base name of a script. "." and ".." and a name that
// ends in a slash are directories, whose names say nothing.
func scriptName(path string) string {
	name := baseName(path)
	if name == "." || name == ".." {
		return ""
	}
	return name
}

// Interpreter returns the name of the interpreter that p runs, without a version,
// such as "python", "node" or "java"; empty if its executable is no known one.
func (p *Process) Interpreter() string {
	if in := interpreterOf(baseName(p.Exe)); in != nil {
		return in.names[0]
	}
	return ""
}
