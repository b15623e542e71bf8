// Command boot runs a compiled Go test on another kernel: it packs the test, and what the test looks at, into an
// initramfs, boots the kernel in QEMU with it and passes on what the test prints and how it ended.
//
//	boot -kernel vmlinuz -init init [-with PATH]... TEST DIRECTORY [ARGUMENT...]
//
// The test runs in DIRECTORY with all files at the paths that they have here, so that it finds its sources'
// neighbours as it does under `go test`. sh and true are there, nothing else.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "boot:", err)
		os.Exit(1)
	}
}

type options struct {
	kernel, init string
	with         []string
	timeout      time.Duration
	test         string
	directory    string
	args         []string
}

func run(ctx context.Context) error {
	var o options
	flag.StringVar(&o.kernel, "kernel", "", "bzImage to boot")
	flag.StringVar(&o.init, "init", "", "compiled init of the folder beside this one")
	flag.DurationVar(&o.timeout, "timeout", 10*time.Minute, "give up after this long")
	flag.Func("with", "a file, or a directory with all below it, to take along; may be repeated", func(path string) error {
		path, err := filepath.Abs(path)
		o.with = append(o.with, path)
		return err
	})
	flag.Parse()
	if flag.NArg() < 2 || o.kernel == "" || o.init == "" {
		return errors.New("usage: boot -kernel FILE -init FILE [-with PATH]... TEST DIRECTORY [ARGUMENT...]")
	}
	var err error
	if o.test, err = filepath.Abs(flag.Arg(0)); err != nil {
		return err
	}
	if o.directory, err = filepath.Abs(flag.Arg(1)); err != nil {
		return err
	}
	o.args = flag.Args()[2:]
	image, err := os.CreateTemp("", "pilotlight-initramfs-")
	if err != nil {
		return err
	}
	defer os.Remove(image.Name())
	if err := errors.Join(pack(image, &o), image.Close()); err != nil {
		return fmt.Errorf("pack initramfs: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	return boot(ctx, image.Name(), &o)
}

func pack(w io.Writer, o *options) error {
	a := newArchive(w)
	if err := a.file("/init", o.init); err != nil {
		return err
	}
	if err := a.directory(o.directory); err != nil {
		return err
	}
	for _, name := range []string{"sh", "true"} {
		source, err := exec.LookPath(name)
		if err != nil {
			return err
		}
		if err := a.file("/bin/"+name, source); err != nil {
			return err
		}
	}
	for _, path := range append(o.with, o.test) {
		if err := a.tree(path); err != nil {
			return err
		}
	}
	return a.close()
}

// boot boots and waits for the end. A machine that ends without init's last line has failed, however it ended.
func boot(ctx context.Context, initramfs string, o *options) error {
	// What follows "--" are init's arguments, and what looks like a variable is in its environment.
	words := append([]string{"console=ttyS0", "quiet", "panic=-1", "REQUIRE_ALL=1", "PREBUILT=1", "--", o.directory, o.test}, o.args...)
	// Emulated, not by KVM: the same everywhere, also where this machine is a virtual one.
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1G",
		"-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", o.kernel, "-initrd", initramfs, "-append", strings.Join(words, " "))
	qemu.Stderr = os.Stderr
	out, err := qemu.StdoutPipe()
	if err != nil {
		return err
	}
	if err := qemu.Start(); err != nil {
		return err
	}
	status := -1
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r")
		if _, err := fmt.Sscanf(line, "EXIT STATUS %d", &status); err != nil {
			fmt.Println(line)
		}
	}
	switch err := errors.Join(lines.Err(), qemu.Wait(), ctx.Err()); {
	case err != nil:
		return fmt.Errorf("qemu: %w", err)
	case status < 0:
		return errors.New("the machine ended before the test did")
	case status > 0:
		return fmt.Errorf("%s: exit status %d", filepath.Base(o.test), status)
	}
	return nil
}
