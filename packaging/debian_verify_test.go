//go:build verify

package packaging_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// command runs a program in dir and returns what it printed.
func command(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}

// only returns the one file that a pattern matches.
func only(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %v, %v", pattern, found, err)
	}
	return found[0]
}

// TestVerifyDebianPackage boots a Debian 12 that has nothing but systemd, with its own kernel, in QEMU. There the package
// is installed, used, upgraded, removed and purged by testdata/lifecycle.sh.
func TestVerifyDebianPackage(t *testing.T) {
	if runtime.GOARCH != "amd64" && os.Getenv("REQUIRE_ALL") != "1" {
		t.Skip("the machine that is booted is an amd64")
	}
	for _, program := range []string{"mmdebstrap", "qemu-system-x86_64", "make"} {
		needProgram(t, program)
	}
	if os.Geteuid() != 0 && os.Getenv("REQUIRE_ALL") != "1" {
		t.Skip("making a Debian needs root")
	}
	dir := t.TempDir()
	command(t, "..", "make", "package", "ARCHES=amd64", "DIST="+dir)
	deb := only(t, filepath.Join(dir, "pilotlight_*_amd64.deb"))

	root := filepath.Join(dir, "root")
	begun := time.Now()
	command(t, ".", "mmdebstrap", "--variant=minbase", "--include=systemd-sysv,dbus,procps,init-system-helpers,initramfs-tools,linux-image-cloud-amd64",
		"bookworm", root)
	install(t, deb, filepath.Join(root, "root/pilotlight.deb"))
	install(t, "testdata/lifecycle.sh", filepath.Join(root, "root/lifecycle.sh"))
	write(t, filepath.Join(root, "etc/hostname"), "lifecycle\n")
	write(t, filepath.Join(root, "etc/systemd/system/lifecycle.service"), `[Unit]
After=multi-user.target
[Service]
Type=exec
ExecStart=/root/lifecycle.sh
ExecStopPost=/bin/systemctl poweroff --force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
`)
	wants := filepath.Join(root, "etc/systemd/system/default.target.wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../lifecycle.service", filepath.Join(wants, "lifecycle.service")); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(dir, "disk")
	command(t, ".", "mkfs.ext4", "-q", "-d", root, disk, "4G")
	t.Logf("Debian made in %v", time.Since(begun).Round(time.Second))

	begun = time.Now()
	checkLifecycle(t, root, disk)
	t.Logf("its life took %v, emulated", time.Since(begun).Round(time.Second))
}

// checkLifecycle boots the kernel in root with disk, and takes what the machine prints for results.
func checkLifecycle(t *testing.T, root, disk string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
	defer cancel()
	// Emulated, as testdata/kernel's machine: the same everywhere.
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "2G",
		"-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", only(t, filepath.Join(root, "boot/vmlinuz-*")), "-initrd", only(t, filepath.Join(root, "boot/initrd.img-*")),
		"-drive", "file="+disk+",format=raw,if=virtio",
		"-append", "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=no systemd.mask=serial-getty@ttyS0.service panic=-1")
	qemu.Stderr = os.Stderr
	out, err := qemu.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	passed, done := 0, false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		t.Log(line)
		switch word, _, _ := strings.Cut(line, ":"); word {
		case "ok":
			passed++
		case "FAILED":
			t.Error(line)
		case "done":
			done = true
		}
	}
	if err := qemu.Wait(); err != nil || !done {
		t.Errorf("the machine ended after %d points: %v, %v", passed, err, ctx.Err())
	}
	t.Logf("%d points held", passed)
}

// TestVerifyDebianLint has Debian's own checker look at the packages of both processors.
func TestVerifyDebianLint(t *testing.T) {
	for _, program := range []string{"lintian", "make"} {
		needProgram(t, program)
	}
	dir := t.TempDir()
	command(t, "..", "make", "package", "DIST="+dir)
	for _, arch := range []string{"amd64", "arm64"} {
		deb := only(t, filepath.Join(dir, "pilotlight_*_"+arch+".deb"))
		t.Logf("%s\n%s", deb, command(t, ".", "lintian", "--allow-root", "--fail-on=error,warning", deb))
	}
}

// TestVerifyDist makes a release twice, from two clones in two places, and compares all its bytes.
func TestVerifyDist(t *testing.T) {
	needProgram(t, "make")
	var sums [2]string
	for i := range sums {
		clone := filepath.Join(t.TempDir(), strings.Repeat("elsewhere/", i)+"clone")
		command(t, ".", "git", "clone", "-q", "..", clone)
		command(t, clone, "make", "dist")
		text, err := os.ReadFile(filepath.Join(clone, "bin/dist/SHA256SUMS"))
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = string(text)
		command(t, filepath.Join(clone, "bin/dist"), "sha256sum", "--check", "--quiet", "SHA256SUMS")
	}
	if sums[0] != sums[1] {
		t.Errorf("the first time\n%s\nthe second\n%s", sums[0], sums[1])
	}
	// For each processor an archive, a package and a list of parts.
	if n := strings.Count(sums[0], "\n"); n != 6 {
		t.Errorf("%d files:\n%s", n, sums[0])
	}
	t.Logf("\n%s", sums[0])
}

// TestVerifyImage builds the image with buildah, which asks no registry as there is nothing to ask for, and runs the
// binary in it.
func TestVerifyImage(t *testing.T) {
	for _, program := range []string{"buildah", "make"} {
		needProgram(t, program)
	}
	if os.Geteuid() != 0 && os.Getenv("REQUIRE_ALL") != "1" {
		t.Skip("buildah without user namespaces needs root")
	}
	t.Setenv("BUILDAH_ISOLATION", "chroot")
	store := t.TempDir()
	engine := "buildah --storage-driver vfs --root " + store + "/root --runroot " + store + "/run"
	t.Cleanup(func() { // what is mounted cannot be deleted
		if out, err := exec.Command("sh", "-c", engine+" umount --all && "+engine+" rm --all").CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	command(t, "..", "make", "image", "ENGINE="+engine, "VERSION=test")
	buildah := func(args ...string) string {
		t.Helper()
		return strings.TrimSpace(command(t, ".", append(strings.Fields(engine), args...)...))
	}
	container := buildah("from", "--pull-never", "pilotlight:test")
	got := buildah("inspect", "--format",
		`{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.Cmd}} {{index .OCIv1.Config.Labels "org.opencontainers.image.version"}}`, container)
	if want := "65534:65534 [/usr/bin/pilotlight] [server] test"; got != want {
		t.Errorf("the image is %q, want %q", got, want)
	}
	root := buildah("mount", container)
	for path, want := range map[string]string{
		"usr/bin/pilotlight": "0 0 755", "etc/passwd": "0 0 644", "etc/ssl/certs/ca-certificates.crt": "0 0 644",
		"var/lib/pilotlight": "65534 65534 775", "var/cache/pilotlight": "65534 65534 775",
	} {
		if got := strings.TrimSpace(command(t, root, "stat", "-c", "%u %g %a", path)); got != want {
			t.Errorf("%s: owner and mode %s, want %s", path, got, want)
		}
	}
	if version := buildah("run", container, "--", "/usr/bin/pilotlight", "version"); version != "test" {
		t.Errorf("the binary in the image is version %q", version)
	}
}
