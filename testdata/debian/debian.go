// Package debian unpacks packages of Debian for tests of what those hold: very large programs, and the debug information
// of what is installed.
package debian

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Keep names the environment variable with the folder in which unpacked packages are kept from one run to the next.
const Keep = "PILOTLIGHT_DEBUG_PACKAGES"

// Unpack downloads packages with apt-get and returns the folder that they are unpacked in, below the one that Keep names,
// else below temp. Nothing is installed. The error wraps exec.ErrNotFound where there is no apt-get.
func Unpack(temp string, packages ...string) (root string, err error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "", fmt.Errorf("this is no Debian: %w", err)
	}
	dir := os.Getenv(Keep)
	if dir == "" {
		dir = temp
	}
	root = filepath.Join(dir, strings.Join(packages, "+"))
	if _, err := os.Stat(root); !errors.Is(err, fs.ErrNotExist) {
		return root, err
	}
	debs, err := os.MkdirTemp(temp, "debs-")
	if err != nil {
		return "", err
	}
	if err := run(debs, "apt-get", append([]string{"-o", "APT::Sandbox::User=root", "download"}, packages...)...); err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil || len(found) != len(packages) {
		return "", fmt.Errorf("apt-get left %v of %v, %w", found, packages, err)
	}
	part := root + ".part"
	for _, deb := range found {
		if err := run(debs, "dpkg-deb", "-x", deb, part); err != nil {
			return "", err
		}
	}
	return root, os.Rename(part, root)
}

func run(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}
