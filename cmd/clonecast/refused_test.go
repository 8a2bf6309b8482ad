package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/image"

	"golang.org/x/sys/unix"
)

// loopOf attaches a loop device to a file of the directory.
func (d *disks) loopOf(name string) string {
	d.t.Helper()
	dev := strings.TrimSpace(disktest.Run(d.t, "", "losetup", "-f", "--show", d.path(name)))
	d.t.Cleanup(func() { disktest.Run(d.t, "", "losetup", "-d", dev) })
	return dev
}

// A disk that something else uses is neither source nor target, under whatever name; who reads only says so.
func TestDisksInUse(t *testing.T) {
	d := newDisks(t)
	ext4 := "mkfs.ext4 -q -F $D"
	d.make("a", ext4)
	d.make("b", ext4)
	d.run(exitOK, "disk capture @a lab --store @s", "captured")
	if err := os.Link(d.path("b"), d.path("hard")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("b", d.path("link")); err != nil {
		t.Fatal(err)
	}
	dev := d.loopOf("b")
	before := d.read("b")
	for _, name := range []string{"@b", "@hard", "@link"} {
		d.run(exitRefused, "disk deploy lab "+name+" --store @s --yes", "in use: "+dev+" is attached to it", "hint: ")
		d.run(exitOK, "disk capture "+name+" idle --store @s", "captured")
	}
	dir := t.TempDir()
	disktest.Run(t, "", "mount", dev, dir)
	t.Cleanup(func() { disktest.Run(t, "", "umount", dir) })
	for _, name := range []string{"@b", "@hard", "@link", dev} {
		d.run(exitRefused, "disk deploy lab "+name+" --store @s --yes", "mounted on "+dir)
		d.run(exitRefused, "disk capture "+name+" busy --store @s", "mounted on "+dir)
		d.run(exitOK, "disk capture "+name+" forced --store @s --force", "warning: ", "mounted on "+dir)
		d.run(exitOK, "disk inspect "+name, "warning: ", "mounted on "+dir)
		d.run(exitOK, "disk deploy lab "+name+" --store @s --dry-run", "warning: ", "mounted on "+dir)
		d.run(exitRefused, "multicast receive "+name+" --interface lo --code abcde-fghij-klmno-pqrst --yes",
			"mounted on "+dir)
	}
	if after := d.read("b"); !bytes.Equal(after[1<<20:], before[1<<20:]) { // the superblock counts mounts
		t.Error("a refused disk was changed")
	}
}

// Two disks of one command are two.
func TestSameDiskTwice(t *testing.T) {
	d := newDisks(t)
	d.make("a", "mkfs.ext4 -q -F $D")
	d.make("b", "mkfs.ext4 -q -F $D")
	d.make("t1", "true")
	d.make("t2", "true")
	d.run(exitOK, "disk capture @a duo --also @b --store @s", "captured")
	if err := os.Link(d.path("t1"), d.path("hard")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("t1", d.path("link")); err != nil {
		t.Fatal(err)
	}
	dev := d.loopOf("t1")
	for _, pair := range []string{"@t1 @t1", "@t1 @hard", "@link @t1", "@t1 " + dev, dev + " @t1", dev + " @hard",
		dev + " " + dev} {
		d.run(exitRefused, "disk deploy duo "+pair+" --store @s --yes", "are the same disk")
		a, b, _ := strings.Cut(pair, " ")
		d.run(exitRefused, "disk capture "+a+" twice --also "+b+" --store @s", "are the same disk")
	}
	d.run(exitOK, "disk deploy duo "+dev+" @t2 --store @s --yes", "deployed")
}

// What belongs to a store is no disk, no export and no file to receive.
func TestStoreIsNoDisk(t *testing.T) {
	d := newDisks(t)
	d.make("a", "mkfs.ext4 -q -F $D")
	d.run(exitOK, "disk capture @a lab --store @s", "captured")
	if err := os.Symlink("s", d.path("link")); err != nil {
		t.Fatal(err)
	}
	packs, err := filepath.Glob(d.path("s/packs/*"))
	if err != nil || len(packs) == 0 {
		t.Fatalf("packs: %q, %v", packs, err)
	}
	for _, path := range []string{"@s", "@s/format", "@link/format", packs[0], "@s/../s/format"} {
		d.run(exitRefused, "disk deploy lab "+path+" --store @s --yes", "belongs to the store")
		d.run(exitRefused, "disk capture "+path+" x --store @other", "belongs to the store")
	}
	d.run(exitRefused, "image export lab @s/new.cc --store @s", "belongs to the store")
	d.run(exitRefused, "multicast receive --file @link/new --interface lo --code abcde-fghij-klmno-pqrst",
		"belongs to the store")
	d.run(exitOK, "store check --read-data --store @s")
}

// A file in a container format is named, with the command that helps; it is neither captured nor overwritten.
func TestContainersAreRefused(t *testing.T) {
	d := newDisks(t)
	d.make("a", "mkfs.ext4 -q -F $D")
	d.run(exitOK, "disk capture @a lab --store @s", "captured")
	for _, c := range []struct{ make, name, hint string }{
		{"qemu-img convert -O qcow2 $D $D.x", "a qcow2 image", "qemu-img convert -O raw "},
		{"qemu-img convert -O vpc -o subformat=fixed,force_size=on $D $D.x", "a VHD image of fixed size",
			"qemu-img convert -f vpc -O raw "},
		{"gzip -c $D > $D.x", "compressed with gzip", "gunzip -c < "},
		{"cp ${D%/*}/lab.cc $D.x", "a version that clonecast exported", "clonecast image import "},
	} {
		d.run(exitOK, "image export lab @lab.cc --store @s")
		d.make("c", "cp ${D%/*}/a $D; "+c.make)
		before := d.read("c.x")
		for _, line := range []string{"disk capture @c.x x --store @s", "disk inspect @c.x",
			"disk deploy lab @c.x --store @s --yes", "disk deploy lab @c.x --store @s --dry-run"} {
			d.run(exitRefused, line, "is "+c.name+", not a disk", "hint: make a plain file of it: "+c.hint)
		}
		if !bytes.Equal(d.read("c.x"), before) {
			t.Errorf("%s was changed", c.name)
		}
		os.Remove(d.path("lab.cc"))
	}
}

// What can be checked at once is checked before anything is read or made.
func TestCheapChecksComeFirst(t *testing.T) {
	d := newDisks(t)
	d.make("a", "mkfs.ext4 -q -F $D")
	for _, line := range [][]string{
		{"--comment", strings.Repeat("x", image.MaxText+1)}, {"--comment", "Ger\xe4t"}, {"--compression",
			"best"}, {"--policy", "x"}, {"--also", d.dir},
	} {
		code, _, stderr := outcomeOf(t, append([]string{"disk", "capture", d.path("a"), "lab", "--store",
			d.path("s")}, line...)...)
		if code != exitUsage || strings.Contains(stderr, "compress") && line[0] != "--compression" {
			t.Errorf("capture %.40q: exit code %d, %.300s", line, code, stderr)
		}
		if _, err := os.Stat(d.path("s")); err == nil {
			t.Fatalf("capture %.40q made a store", line)
		}
	}
	d.run(exitOK, "disk capture @a lab --store @s")
	if err := unix.Mkfifo(d.path("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for line, code := range map[string]int{
		"disk capture @fifo x --store @s":                                              exitUsage,
		"disk deploy lab @fifo --store @s --yes":                                       exitUsage,
		"disk inspect @fifo":                                                           exitUsage,
		"disk capture @a x --store @fifo":                                              exitNotFound,
		"store check --store @fifo":                                                    exitNotFound,
		"image import @fifo --store @s":                                                exitUsage,
		"image export lab @fifo --store @s":                                            exitRefused,
		"multicast send --file @fifo --interface lo":                                   exitUsage,
		"build @fifo --output @o":                                                      exitUsage,
		"multicast receive @a --interface lo --key-file @fifo":                         exitUsage,
		"disk restore-table @fifo @a --yes":                                            exitFailed,
		"image list --server https://127.0.0.1:1 --ca @fifo":                           exitFailed,
		"multicast receive --file @fifo --interface lo --code abcde-fghij-klmno-pqrst": exitUsage,
		"multicast send lab --store @s --interface nosuch":                             exitNotFound,
		"multicast receive @none --interface lo --code abcde-fghij-klmno-pqrst":        exitNotFound,
		"image export lab @none/x --store @s":                                          exitNotFound,
		"disk capture @ x --store @s":                                                  exitUsage,
	} {
		d.run(code, line, "clonecast: error: ")
	}
}

// The name of a file may be no text at all; the version says where it is from, escaped.
func TestSourceWithoutUTF8Name(t *testing.T) {
	d := newDisks(t)
	d.make("a", "mkfs.ext4 -q -F $D")
	long := filepath.Join(strings.Repeat("/./", 500), d.dir, "Ger\xe4t\n\x1b.img")
	if err := os.Rename(d.path("a"), long); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{d.path("Ger\xe4t\n\x1b.img"), strings.Repeat("/.",
		1900) + d.path("Ger\xe4t\n\x1b.img")} {
		code, stdout, stderr := outcomeOf(t, "disk", "capture", path, "lab", "--store", d.path("s"))
		if code != exitOK || strings.ContainsAny(stdout+stderr, "\x1b\xe4") || !strings.Contains(stdout,
			`Ger\xe4t\n\x1b.img as lab@`) {
			t.Errorf("exit code %d, %q, %q", code, stdout, stderr)
		}
	}
	d.run(exitOK, "image show lab@1 --store @s", `Ger\xe4t\n\x1b.img`)
}

// The images of a store are listed, shown and found as those of a server.
func TestImagesOfAStore(t *testing.T) {
	d := newDisks(t)
	if err := os.Mkdir(d.path("empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	d.run(exitNotFound, "image list --store @empty", "not a clonecast store", "hint: ")
	d.make("a", "printf 'start=64,type=83\n' | sfdisk -q -X dos $D")
	d.run(exitOK, "disk capture @a lab --store @s --comment first")
	d.run(exitOK, "disk capture @a lab --store @s --comment second")
	d.run(exitOK, "disk capture @a win11 --store @s")
	d.run(exitOK, "image list --store @s", "lab@1", "first", "lab@2", "second", "win11@1")
	list := listOf[shelved](t, d.run(exitOK, "image list --store @s --json"), "version")
	if len(list) != 3 || list[1].String() != "lab@2" || list[1].Comment != "second" || len(list[1].ID) != 64 ||
		list[1].Size != 8<<20 {
		t.Errorf("image list: %+v", list)
	}
	d.run(exitOK, "image show lab --store @s", "lab@2  second", "mbr", "raw")
	d.run(exitOK, "image show lab@"+list[0].ID[:12]+" --store @s", "lab@1  first")
	var shown shownVersion
	if err := json.Unmarshal([]byte(d.run(exitOK, "image show lab@1 --store @s --json")), &shown); err != nil ||
		len(shown.Layout) != 1 || len(shown.Layout[0].Partitions) != 1 {
		t.Errorf("image show: %+v, %v", shown, err)
	}
	for _, line := range []string{"image show %s --store @s", "image delete %s --store @s --yes",
		"disk deploy %s @a --store @s --yes", "image export %s @x --store @s",
		"image diff lab %s --store @s", "multicast send %s --store @s --interface lo"} {
		for ref, hint := range map[string]string{"lab@7": "lab has the versions 1, 2",
			"lav": "did you mean lab? there are lab, win11", "server": "there are lab, win11"} {
			d.run(exitNotFound, strings.Replace(line, "%s", ref, 1), "no such image or version", "hint: "+hint)
		}
	}
	d.run(exitOK, "image delete lab@1 --store @s --yes", "deleted lab@1")
	d.run(exitOK, "image diff lab win11 --store @s", "no difference")
	d.run(exitOK, "image delete lab --store @s --yes", "deleted lab@2")
	d.run(exitNotFound, "image show lab --store @s", "hint: there is only win11")
	d.run(exitNotFound, "store stats --store @empty", "hint: ")
}
