package blockdev

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// attach makes a loop device over a path, with its partitions.
func attach(t *testing.T, path string, args ...string) string {
	t.Helper()
	dev := run(t, "losetup", append(append([]string{"-f", "--show"}, args...), path)...)
	t.Cleanup(func() { run(t, "losetup", "-d", dev) })
	return dev
}

// attachParts makes a loop device over a disk with an MBR, and its partitions also where the kernel reads
// no tables.
func attachParts(t *testing.T, path string, parts ...string) string {
	t.Helper()
	dev := attach(t, path, "-P")
	for i, part := range parts {
		name := fmt.Sprint(dev, "p", i+1)
		if _, err := os.Stat(name); err != nil {
			run(t, "addpart", append([]string{dev, fmt.Sprint(i + 1)}, strings.Fields(part)...)...)
		}
	}
	return dev
}

func mount(t *testing.T, dev string) string {
	t.Helper()
	dir := t.TempDir()
	run(t, "mount", dev, dir)
	t.Cleanup(func() { run(t, "umount", dir) })
	return dir
}

// verdict says how a disk can be opened.
type verdict struct{ write, read, users bool }

// check opens a disk in every way, and wants users named by all of texts where it is refused.
func check(t *testing.T, path string, want verdict, texts ...string) {
	t.Helper()
	try := func(name string, open func(string) (*Device, error), want bool) {
		t.Helper()
		d, err := open(path)
		if err == nil {
			d.Close()
		}
		var busy *BusyError
		if want && err != nil || !want && !(errors.As(err, &busy) && errors.Is(err, ErrBusy)) {
			t.Errorf("%s(%s) = %v, want success: %v", name, path, err, want)
		}
		for _, text := range texts {
			if err != nil && !strings.Contains(err.Error(), text) {
				t.Errorf("%s(%s) = %v, want it to say %q", name, path, err, text)
			}
		}
	}
	try("OpenExclusive", OpenExclusive, want.write)
	try("OpenUnused", OpenUnused, want.read)
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if users := d.Users(); (len(users) > 0) != want.users {
		t.Errorf("Users of %s = %q", path, users)
	}
}

var (
	free   = verdict{write: true, read: true}
	inUse  = verdict{users: true}
	silent = verdict{read: true} // somebody is there who changes nothing
)

func TestFileBehindLoopDevice(t *testing.T) {
	path := image(t, 8<<20)
	link := filepath.Join(t.TempDir(), "link")
	hard := path + ".hard"
	if err := errors.Join(os.Symlink(path, link), os.Link(path, hard)); err != nil {
		t.Fatal(err)
	}
	check(t, path, free)
	run(t, "mkfs.ext4", "-q", path)
	dev := attach(t, path)
	for _, p := range []string{path, link, hard} {
		check(t, p, silent, dev+" is attached to it")
	}
	check(t, dev, free)
	dir := mount(t, dev)
	for _, p := range []string{path, link, hard} {
		check(t, p, inUse, dev+" is attached to it", "mounted on "+dir)
	}
	check(t, dev, inUse, "mounted on "+dir)
}

func TestPartitionOfLoopDevice(t *testing.T) {
	path := image(t, 16<<20)
	run(t, "sh", "-c", "printf 'label: dos\nstart=2048,size=16384\nstart=18432\n' | sfdisk -q "+path)
	dev := attachParts(t, path, "2048 16384", "18432 14336")
	run(t, "mkfs.ext4", "-q", dev+"p1")
	check(t, path, silent)
	check(t, dev, free)
	dir := mount(t, dev+"p1")
	check(t, path, inUse, "mounted on "+dir)
	check(t, dev, inUse, "mounted on "+dir)
	check(t, dev+"p1", inUse, "mounted on "+dir)
	check(t, dev+"p2", free)
}

// A loop device over a loop device, over its partition, and beside it over the same file.
func TestStackedLoopDevices(t *testing.T) {
	path := image(t, 16<<20)
	run(t, "sh", "-c", "printf 'label: dos\nstart=2048\n' | sfdisk -q "+path)
	lower := attachParts(t, path, "2048 30720")
	upper := attach(t, lower+"p1")
	run(t, "mkfs.ext4", "-q", upper)
	beside := attach(t, path)
	check(t, lower, silent, upper+" is attached to it")
	dir := mount(t, upper)
	for _, p := range []string{path, lower, lower + "p1"} {
		check(t, p, inUse, upper+" is attached to it", "mounted on "+dir)
	}
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{path, path, true}, {path, lower, true}, {lower, path, true}, {path, lower + "p1", true}, {path, upper,
			true}, {upper, lower, true},
		{beside, lower, true}, {beside, upper, true}, {path, image(t, 1<<20), false}, {path, "/nonexistent", false},
	} {
		if got := Overlap(c.a, c.b); got != c.want {
			t.Errorf("Overlap(%s, %s) = %v", c.a, c.b, got)
		}
	}
}

func TestPartitionsDoNotOverlap(t *testing.T) {
	path := image(t, 16<<20)
	run(t, "sh", "-c", "printf 'label: dos\nstart=2048,size=16384\nstart=18432\n' | sfdisk -q "+path)
	dev := attachParts(t, path, "2048 16384", "18432 14336")
	for _, c := range []struct {
		a, b string
		want bool
	}{{dev + "p1", dev + "p2", false}, {dev + "p1", dev, true}, {dev + "p1", dev + "p1", true}, {dev + "p2", path,
		true}} {
		if got := Overlap(c.a, c.b) || Overlap(c.b, c.a); got != c.want {
			t.Errorf("Overlap(%s, %s) = %v", c.a, c.b, got)
		}
	}
}

func TestSwap(t *testing.T) {
	path := image(t, 4<<20)
	if err := os.WriteFile(path, make([]byte, 4<<20), 0o600); err != nil { // swap files have no holes
		t.Fatal(err)
	}
	dev := attach(t, path)
	run(t, "mkswap", dev)
	run(t, "swapon", dev)
	t.Cleanup(func() { run(t, "swapoff", dev) })
	check(t, path, inUse, "used as swap")
	check(t, dev, inUse, "used as swap")
}

// Two clones keep each other off one file, under every name; two captures may read it.
func TestTwoAtOnce(t *testing.T) {
	path := image(t, 1<<20)
	hard := path + ".hard"
	if err := os.Link(path, hard); err != nil {
		t.Fatal(err)
	}
	writer, err := OpenExclusive(path)
	if err != nil {
		t.Fatal(err)
	}
	check(t, hard, inUse, "locked")
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	reader, err := OpenUnused(path)
	if err != nil {
		t.Fatal(err)
	}
	check(t, hard, silent, "locked")
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	check(t, hard, free)
}

// vm is a qemu-storage-daemon that has the file open as a virtual PC has.
func vm(t *testing.T, path string, readOnly bool) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "monitor")
	cmd := exec.Command("qemu-storage-daemon", "--blockdev", fmt.Sprintf(
		"driver=file,node-name=disk,filename=%s,read-only=%t", path, readOnly),
		"--nbd-server", "addr.type=unix,addr.path="+socket, "--export", fmt.Sprintf(
			"type=nbd,id=e,node-name=disk,writable=%t", !readOnly),
		"--chardev", "stdio,id=c", "--monitor", "chardev=c")
	in, errIn := cmd.StdinPipe()
	out, errOut := cmd.StdoutPipe()
	cmd.Stderr = os.Stderr
	if err := errors.Join(errIn, errOut, cmd.Start()); err != nil {
		t.Fatalf("%v (make deps installs qemu-utils)", err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil { // its greeting comes when all is open
		t.Fatal(err)
	}
}

func TestRunningVirtualPC(t *testing.T) {
	path := image(t, 1<<20)
	t.Run("writes", func(t *testing.T) {
		vm(t, path, false)
		check(t, path, inUse, "locked by another process (qemu-storage-da")
	})
	t.Run("reads", func(t *testing.T) {
		vm(t, path, true)
		check(t, path, silent, "locked by another process (qemu-storage-da")
	})
	t.Run("comes later", func(t *testing.T) {
		d, err := OpenExclusive(path)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		out, err := exec.Command("qemu-io", "-f", "raw", "-c", "read 0 512", path).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "lock") {
			t.Errorf("qemu-io read while a clone writes: %v, %s", err, out)
		}
	})
}

// None of these is a disk, and none of them keeps anybody waiting.
func TestNotADisk(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{dir: "a directory", fifo: "a pipe", "/dev/null": "a character device"} {
		for _, open := range []func(string) (*Device, error){Open, OpenUnused, OpenExclusive} {
			var not *NotDiskError
			if _, err := open(path); !errors.As(err, &not) || !strings.Contains(err.Error(), want) {
				t.Errorf("open %s = %v, want %q", path, err, want)
			}
		}
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{`/mnt/a\040b`: "/mnt/a b", `\134040`: `\040`, `a\`: `a\`, `\9`: `\9`,
		"": ""} {
		if got := unescape(in); got != want {
			t.Errorf("unescape(%q) = %q, want %q", in, got, want)
		}
	}
}
