package main

import (
	"os"
	"strings"
	"testing"

	"pilotlight/profilestore"
)

// TestCommands calls each command that ends by itself as a user does: a command
// that is not on the command line helps nobody.
func TestCommands(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	store, err := profilestore.Open(data, profilestore.Options{})
	if err == nil {
		err = store.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"version"}, "\n"},
		{[]string{"--version"}, "\n"},
		{[]string{"doctor", "--json"}, `"checks"`},
		{[]string{"inspect", "symbols", self, "0x1"}, "0x1: ??"},
		{[]string{"inspect", "block", data}, "0 profiles"},
		{[]string{"--help"}, "record"},
		{[]string{"run", "--help"}, "--retention"},
		{[]string{"record", "--help"}, "--output"},
		{[]string{"agent", "--help"}, "--off-file"},
		{[]string{"server", "--help"}, "--retention-size"},
		{[]string{"run", "--help"}, "--store-memory"},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			cmd, err := pilotlight(t.Context(), tc.args...)
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.Output()
			if err != nil && tc.args[0] != "doctor" { // which fails where the machine does
				t.Fatal(err)
			}
			if !strings.Contains(string(out), tc.want) {
				t.Errorf("printed %q, want %q in it", out, tc.want)
			}
		})
	}
}
