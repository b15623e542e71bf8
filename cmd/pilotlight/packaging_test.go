package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

const packaging = "../../packaging"

// packagedVerbs are the verbs that packages start, by the name that their units and files have for each.
var packagedVerbs = map[string]string{"pilotlight": "run"}

func parser(t *testing.T) *kong.Kong {
	t.Helper()
	return kong.Must(new(cli), kong.DefaultEnvars("PILOTLIGHT"), kong.Vars{"version": ""})
}

// TestUnitsCommands parses the command lines of the systemd units as the program does.
func TestUnitsCommands(t *testing.T) {
	for name, verb := range packagedVerbs {
		unit, err := os.ReadFile(filepath.Join(packaging, "systemd", name+".service"))
		if err != nil {
			t.Fatal(err)
		}
		command := regexp.MustCompile(`(?m)^ExecStart=/usr/bin/pilotlight (.*)$`).FindSubmatch(unit)
		if command == nil {
			t.Fatalf("%s starts no pilotlight", name)
		}
		got, err := parser(t).Parse(strings.Fields(string(command[1])))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got.Command() != verb {
			t.Errorf("%s starts %q, want %q", name, got.Command(), verb)
		}
	}
}

// TestUnitsEnvironment holds that each variable in the files for administrators is a flag of the verb they are for, and
// that what they suggest is taken.
func TestUnitsEnvironment(t *testing.T) {
	for name, verb := range packagedVerbs {
		file, err := os.ReadFile(filepath.Join(packaging, "debian", name+".default"))
		if err != nil {
			t.Fatal(err)
		}
		flags := make(map[string]bool)
		for _, node := range parser(t).Model.Children {
			if node.Name != verb {
				continue
			}
			for _, f := range node.Flags {
				for _, variable := range f.Envs {
					flags[variable] = true
				}
			}
		}
		suggested := regexp.MustCompile(`(?m)^#(PILOTLIGHT_[A-Z_]+)=(\S+)$`).FindAllStringSubmatch(string(file), -1)
		if len(suggested) == 0 {
			t.Errorf("%s suggests nothing", name)
		}
		for _, s := range suggested {
			if !flags[s[1]] {
				t.Errorf("%s: %s is no flag of %s", name, s[1], verb)
			}
			t.Setenv(s[1], s[2])
		}
		if _, err := parser(t).Parse([]string{verb}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
