package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// TestUnitsCommands parses the command line of each systemd unit as the program does, with what the file for its
// administrator suggests: each variable in it is a flag of the verb that the unit starts.
func TestUnitsCommands(t *testing.T) {
	for name, verb := range map[string]string{"pilotlight": "run", "pilotlight-agent": "agent", "pilotlight-server": "server"} {
		t.Run(name, func(t *testing.T) {
			parser, variables := commandLine(verb)
			suggested := regexp.MustCompile(`(?m)^#(PILOTLIGHT_[A-Z_]+)=(\S+)$`).FindAllStringSubmatch(packaged(t, "debian", name+".default"), -1)
			if len(suggested) == 0 {
				t.Error("nothing is suggested")
			}
			for _, s := range suggested {
				if !variables[s[1]] {
					t.Errorf("%s is no flag of %s", s[1], verb)
				}
				t.Setenv(s[1], s[2])
			}
			command := regexp.MustCompile(`(?m)^ExecStart=/usr/bin/pilotlight (.*)$`).FindStringSubmatch(packaged(t, "systemd", name+".service"))
			if command == nil {
				t.Fatal("the unit starts no pilotlight")
			}
			got, err := parser.Parse(strings.Fields(command[1]))
			if err != nil {
				t.Error(err)
			} else if got.Command() != verb {
				t.Errorf("the unit starts %q, want %q", got.Command(), verb)
			}
		})
	}
}

// TestManifestsCommands parses what the containers in Kubernetes are started with.
func TestManifestsCommands(t *testing.T) {
	for name, verb := range map[string]string{"agent.yaml": "agent", "server.yaml": "server"} {
		t.Run(name, func(t *testing.T) {
			type container struct {
				Args []string
				Env  []struct{ Name string }
			}
			var started []container
			for docs := yaml.NewDecoder(strings.NewReader(packaged(t, "kubernetes", name))); ; {
				var object struct {
					Spec struct {
						Template struct {
							Spec struct{ Containers []container }
						}
					}
				}
				if err := docs.Decode(&object); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				started = append(started, object.Spec.Template.Spec.Containers...)
			}
			if len(started) != 1 {
				t.Fatalf("%d containers", len(started))
			}
			parser, variables := commandLine(verb)
			for _, e := range started[0].Env {
				if !variables[e.Name] {
					t.Errorf("%s is no flag of %s", e.Name, verb)
				}
			}
			if got, err := parser.Parse(started[0].Args); err != nil || got.Command() != verb {
				t.Errorf("%q: %v", started[0].Args, err)
			}
		})
	}
}

// commandLine returns a parser of the program's command line, and the variables that are flags of a verb.
func commandLine(verb string) (parser *kong.Kong, variables map[string]bool) {
	parser = kong.Must(new(cli), kong.DefaultEnvars("PILOTLIGHT"), kong.Vars{"version": ""})
	variables = make(map[string]bool)
	for _, node := range parser.Model.Children {
		if node.Name != verb {
			continue
		}
		for _, f := range node.Flags {
			for _, variable := range f.Envs {
				variables[variable] = true
			}
		}
	}
	return parser, variables
}

// packaged returns a file of packaging.
func packaged(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../packaging", filepath.Join(path...)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
