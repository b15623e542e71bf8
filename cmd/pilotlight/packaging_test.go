package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestUnitsCommands parses the command line of each systemd unit as the program does, with what the file for its
// administrator suggests: each variable in it is a flag of the verb that the unit starts.
func TestUnitsCommands(t *testing.T) {
	for name, verb := range map[string]string{"pilotlight": "run", "pilotlight-agent": "agent", "pilotlight-server": "server"} {
		t.Run(name, func(t *testing.T) {
			parser := kong.Must(new(cli), kong.DefaultEnvars("PILOTLIGHT"), kong.Vars{"version": ""})
			flags := make(map[string]bool)
			for _, node := range parser.Model.Children {
				if node.Name != verb {
					continue
				}
				for _, f := range node.Flags {
					for _, variable := range f.Envs {
						flags[variable] = true
					}
				}
			}
			suggested := regexp.MustCompile(`(?m)^#(PILOTLIGHT_[A-Z_]+)=(\S+)$`).FindAllStringSubmatch(packaged(t, "debian", name+".default"), -1)
			if len(suggested) == 0 {
				t.Error("nothing is suggested")
			}
			for _, s := range suggested {
				if !flags[s[1]] {
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

// packaged returns a file of packaging.
func packaged(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../packaging", filepath.Join(path...)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
