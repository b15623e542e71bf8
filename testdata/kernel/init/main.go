// Command init is the first and only program of the virtual machine that boot starts: it mounts what the tests
// look at, runs the command given by its arguments, says how that ended in a last line, and powers off.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

func main() {
	status := 125 // as env(1) has it: the command was not run
	err := mount()
	if err == nil {
		status, err = run(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
	}
	// boot takes the exit status from this line, and its absence for a failure.
	fmt.Printf("\nEXIT STATUS %d\n", status)
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Fprintln(os.Stderr, "init: power off:", err)
	}
}

// mount mounts what a running system has and an initramfs has not.
func mount() error {
	// Nothing on it: what was taken along may lie below.
	if err := os.MkdirAll("/tmp", 0o777); err != nil {
		return err
	}
	for _, m := range []struct{ target, kind string }{
		{"/proc", "proc"}, {"/sys", "sysfs"}, {"/dev", "devtmpfs"}, {"/sys/fs/bpf", "bpf"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.target, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return nil
}

// run runs args: a working directory, a program, its arguments.
func run(args []string) (status int, err error) {
	if len(args) < 2 {
		return 125, errors.New("usage: init DIRECTORY PROGRAM [ARGUMENT...]")
	}
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Dir = args[0]
	cmd.Env = append(os.Environ(), "PATH=/usr/bin:/bin", "HOME=/tmp")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 125, err
	}
	return 0, nil
}
