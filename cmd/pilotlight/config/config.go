// Package config reads the configuration file: YAML, in which a key that is not
// known is an error. [Parse] is pure; [Watch] says when to read the file again.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/relabel"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"pilotlight/cmd/pilotlight/process"
)

// Config is what a configuration file says. The zero value is that of an empty
// one.
type Config struct {
	// RelabelConfigs are valid rules, as Prometheus has them.
	RelabelConfigs []*relabel.Config
	// ReadEnviron allows to read OTEL_SERVICE_NAME from processes' environments.
	ReadEnviron bool
	// Runtimes says where container runtimes listen.
	Runtimes Runtimes

	text []byte
}

// Equal reports whether both were read from the same text.
func (c *Config) Equal(other *Config) bool { return bytes.Equal(c.text, other.text) }

// Runtimes are sockets of container runtimes.
type Runtimes struct {
	Docker, Containerd, CRI Socket
}

// Socket is where a runtime listens.
type Socket struct {
	Given bool   // the file says where
	Path  string // of a Unix socket; empty if Given: there is none to be asked
}

// maxBytes bounds a file.
const maxBytes = 1 << 20

// Load reads the file at path. The error names it, and the line that is wrong.
func Load(path string) (*Config, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // or a pipe would keep it waiting
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if info.Mode()&fs.ModeNamedPipe != 0 {
		return nil, fmt.Errorf("read configuration: %s is a pipe, which cannot be read again: name a file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	c, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// file is the file as YAML has it.
type file struct {
	RelabelConfigs []rule       `yaml:"relabel_configs"`
	ReadEnviron    bool         `yaml:"read_environ"`
	Runtimes       fileRuntimes `yaml:"runtimes"`
}

type fileRuntimes struct {
	Docker     Socket `yaml:"docker"`
	Containerd Socket `yaml:"containerd"`
	CRI        Socket `yaml:"cri"`
}

// Parse reads a configuration. The error names the line that is wrong, or all of
// those that are.
func Parse(data []byte) (*Config, error) {
	if len(data) > maxBytes {
		return nil, fmt.Errorf("it is longer than %d bytes", maxBytes)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	var f file
	if err := dec.Decode(&f); err != nil && !errors.Is(err, io.EOF) { // which is an empty file
		return nil, explain(err)
	}
	var second yaml.Node
	switch err := dec.Decode(&second); {
	case err == nil:
		return nil, fmt.Errorf("line %d: a second document: put everything into the first", second.Line)
	case !errors.Is(err, io.EOF):
		return nil, explain(err)
	}
	c := &Config{ReadEnviron: f.ReadEnviron, Runtimes: Runtimes(f.Runtimes), text: data}
	nodes, err := ruleNodes(data)
	if err != nil {
		return nil, explain(err)
	}
	for i, n := range nodes {
		err := errors.New("nothing in it")
		if i < len(f.RelabelConfigs) && n.Tag != "!!null" { // which the decoder leaves out
			err = f.RelabelConfigs[i].check()
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: relabel_configs: rule %d: %w", n.Line, i+1, err)
		}
		c.RelabelConfigs = append(c.RelabelConfigs, &f.RelabelConfigs[i].Config)
	}
	return c, nil
}

// rule is a relabeling rule that remembers what is wrong with it: Prometheus's
// own errors do not say where.
type rule struct {
	relabel.Config
	err error
}

// UnmarshalYAML implements the form of Unmarshaler that keeps unknown keys
// errors.
func (r *rule) UnmarshalYAML(unmarshal func(any) error) error {
	err := unmarshal(&r.Config)
	var lines *yaml.TypeError
	if errors.As(err, &lines) {
		return err
	}
	r.err = err
	return nil
}

func (r *rule) check() error {
	if r.err != nil {
		return r.err
	}
	if err := r.Validate(model.LegacyValidation); err != nil {
		return err
	}
	if process.SampleLabel(r.TargetLabel) {
		return fmt.Errorf("target_label %s: samples have a label of that name, which it would hide: choose another", r.TargetLabel)
	}
	return nil
}

// ruleNodes returns the rules as they stand in the file, on their lines.
func ruleNodes(data []byte) ([]yaml.Node, error) {
	var f struct {
		RelabelConfigs []yaml.Node `yaml:"relabel_configs"`
	}
	err := yaml.Unmarshal(data, &f)
	return f.RelabelConfigs, err
}

const socketScheme = "unix://"

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *Socket) UnmarshalYAML(n *yaml.Node) error {
	var address string
	if err := n.Decode(&address); err != nil {
		return err
	}
	path := strings.TrimPrefix(address, socketScheme)
	if address != "" && (path == address || !strings.HasPrefix(path, "/")) {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf(`line %d: %.100q: write unix:///path/to/a.sock, or "" to ask none`, n.Line, address)}}
	}
	*s = Socket{Given: true, Path: path}
	return nil
}

var unknownKey = regexp.MustCompile(`field (.*) not found in type \S+$`)

// inWords says what Go's types mean in a configuration.
var inWords = strings.NewReplacer(
	"into config.fileRuntimes", "into docker, containerd and cri",
	"into config.file", "into settings",
	"into []config.rule", "into a list of rules",
	"into relabel.plain", "into a rule",
	"into model.LabelNames", "into a list of label names",
	"into bool", "into true or false",
	"into string", "into text",
	"into uint64", "into a number",
)

// explain says what is wrong in words that are in the file.
func explain(err error) error {
	var lines *yaml.TypeError
	if !errors.As(err, &lines) {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	said := make([]string, len(lines.Errors))
	for i, line := range lines.Errors {
		said[i] = inWords.Replace(unknownKey.ReplaceAllString(line, "unknown key $1"))
	}
	return errors.New(strings.Join(said, "; "))
}
