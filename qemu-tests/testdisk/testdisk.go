// Package testdisk makes the disks of the tests by the scripts in testdata/mkdisk, and judges disks with the tools of
// their file systems.
//
// Disks are kept under build/ by the hash of what they are made from, so that a second run finds them.
package testdisk

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"clonecast/qemu-tests/vm"
)

// What the two systems of a dual-boot disk say on the serial port when they have started.
const (
	LinuxStarted   = `LINUX-STARTED root 0b5e0005-1111-4a4a-8888-c10eca570005 files [0-9a-f]{32}`
	WindowsStarted = `WINDOWS-STARTED volume 1122334455667788`
	WindowsTag     = "windows" // the asset tag that chooses it
)

// Root returns the top folder of the project.
func Root(t vm.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatalf("%v", err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	t.Fatalf("no go.mod above the working directory")
	return ""
}

// Copy returns a fresh copy of a kept disk.
func Copy(t vm.T, original string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), filepath.Base(original))
	run(t, "", "cp", "--sparse=always", "--reflink=auto", original, path)
	return path
}

// DualBootOriginal returns the path of the kept dual-boot disk whose first partition starts at the sector;
// nobody may write it.
func DualBootOriginal(t vm.T, first int) string {
	t.Helper()
	scripts := []string{"dualboot.sh", "common.sh", "filler.pl"}
	return original(t, fmt.Sprintf("dualboot-%d", first), scripts, strconv.Itoa(first))
}

// DualBootUEFIOriginal returns the path of the kept dual-boot disk with a GPT, for UEFI firmware; nobody may write it.
func DualBootUEFIOriginal(t vm.T) string {
	t.Helper()
	return original(t, "dualboot-uefi", []string{"dualboot-uefi.sh", "common.sh", "filler.pl"})
}

// GrowOriginal returns the path of a kept disk whose last partition holds the file system; nobody may write it.
func GrowOriginal(t vm.T, filesystem string) string {
	t.Helper()
	return original(t, "grow-"+filesystem, []string{"grow.sh", "common.sh"}, filesystem)
}

// original makes a disk by the first of the scripts, unless it is there. The script is given the arguments, the folder
// of the Linux and the path.
func original(t vm.T, name string, scripts []string, args ...string) string {
	t.Helper()
	build := filepath.Join(Root(t), "build", "testdisks")
	if err := os.MkdirAll(build, 0o755); err != nil {
		t.Fatalf("%v", err)
	}
	unlock := lock(t, filepath.Join(build, "lock"))
	defer unlock()
	dir := filepath.Join(Root(t), "qemu-tests", "testdata", "mkdisk")
	deb := KernelPackage(t)

	linux := filepath.Join(build, "linux-"+hash(t, dir, "linux.sh", filepath.Base(deb)))
	make1(t, linux, func(temp string) { run(t, "", filepath.Join(dir, "linux.sh"), deb, temp) })
	disk := filepath.Join(build, fmt.Sprintf("%s-%s.img", name, hash(t, dir, append(scripts, filepath.Base(linux))...)))
	make1(t, disk, func(temp string) {
		t.Logf("making the disk %s", name)
		run(t, "", filepath.Join(dir, scripts[0]), append(args, linux, temp)...)
	})
	return disk
}

// make1 makes path by way of a temporary name, unless it exists.
func make1(t vm.T, path string, create func(temp string)) {
	t.Helper()
	if _, err := os.Stat(path); err == nil {
		return
	}
	os.RemoveAll(path + ".new")
	create(path + ".new")
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatalf("%v", err)
	}
}

// KernelVariable names the environment variable with the path of a Debian kernel package to use.
const KernelVariable = "CLONECAST_TEST_KERNEL"

var signedKernel = regexp.MustCompile(`^linux-image-6\.12\.(\d+)\+deb12-amd64 `)

// KernelPackage returns a Debian kernel package, fetched by apt at first use.
func KernelPackage(t vm.T) string {
	t.Helper()
	if path := os.Getenv(KernelVariable); path != "" {
		return path
	}
	cache := filepath.Join(Root(t), "build", "cache")
	if kept, _ := filepath.Glob(filepath.Join(cache, "linux-image-6.12.*+deb12-amd64_*.deb")); len(kept) > 0 {
		slices.Sort(kept)
		return kept[len(kept)-1]
	}
	newest, release := "", 0
	packages := run(t, "", "apt-cache", "search", "--names-only", `^linux-image-6\.12\..*\+deb12-amd64$`)
	for line := range strings.Lines(packages) {
		if m := signedKernel.FindStringSubmatch(line); m != nil {
			if n, _ := strconv.Atoi(m[1]); n > release {
				newest, release = strings.Fields(line)[0], n
			}
		}
	}
	if newest == "" {
		t.Fatalf("apt knows no linux-image-6.12…+deb12-amd64: run apt-get update, or name a kernel package in %s",
			KernelVariable)
	}
	t.Logf("fetching Debian's %s", newest)
	temp, err := os.MkdirTemp("", "clonecast-kernel")
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer os.RemoveAll(temp)
	run(t, temp, "apt-get", "-q", "download", newest)
	found, _ := filepath.Glob(filepath.Join(temp, "*.deb"))
	if len(found) != 1 {
		t.Fatalf("apt-get download %s left %d packages", newest, len(found))
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatalf("%v", err)
	}
	path := filepath.Join(cache, filepath.Base(found[0]))
	run(t, "", "cp", found[0], path+".new")
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatalf("%v", err)
	}
	return path
}

// hash of the named scripts' bytes; names that are no scripts count themselves.
func hash(t vm.T, dir string, names ...string) string {
	t.Helper()
	h := sha256.New()
	for _, name := range names {
		io.WriteString(h, name+"\x00")
		if f, err := os.Open(filepath.Join(dir, name)); err == nil {
			_, err = io.Copy(h, f)
			f.Close()
			if err != nil {
				t.Fatalf("%v", err)
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// lock keeps two test programs from making the same disk at once.
func lock(t vm.T, path string) (unlock func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatalf("%v", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatalf("lock %s: %v", path, err)
	}
	return func() { f.Close() }
}

// run runs a program that must succeed and returns its standard output.
func run(t vm.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", filepath.Base(name), strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out)
}
