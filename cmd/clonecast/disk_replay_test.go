package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/quantity"

	"github.com/google/go-cmp/cmp"
)

// frozenDisk makes a disk whose partition holds a file system that was cut off after the files
// in it were made durable.
func frozenDisk(
	t *testing.T, size quantity.Bytes, mkfs, mount string,
) (path string, part quantity.Extent, files map[string]string) {
	t.Helper()
	part = quantity.Extent{Start: quantity.MiB, Length: size}
	path = disktest.Image(t, size+2*quantity.MiB)
	disktest.Run(t, "start=2048, size="+sectors(size)+"\n", "sfdisk", "-q", "-X", "dos", path)
	dev := disktest.LoopPart(t, path, part)
	disktest.Command(t, mkfs, "DEV", dev)
	path, files = disktest.Freeze(t, path, dev, mount, 60, 120*quantity.KiB)
	return path, part, files
}

func sectors(n quantity.Bytes) string {
	b, _ := json.Marshal(int64(n / 512))
	return string(b)
}

// replaySummary is what the tests look at in the summary of a capture.
type replaySummary struct {
	Replayed []struct {
		Disk, Partition  int
		Filesystem, Note string
	}
	Allocated int64 `json:"bytes_allocated"`
}

func summaryOf(t *testing.T, out string) replaySummary {
	t.Helper()
	var s replaySummary
	if err := json.Unmarshal([]byte(lastLine(out)), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestReplay captures file systems after a power cut. Without --replay nothing is changed and
// every block is stored; with it the journal is replayed and the map is used. Either way every
// file that was made durable must be on the disk that the image is deployed to.
func TestReplay(t *testing.T) {
	for name, tc := range map[string]struct {
		size               quantity.Bytes
		mkfs, mount, check string
	}{
		"ext4":  {64 * quantity.MiB, "mke2fs -q -t ext4 DEV", "mount -t ext4 -o init_itable=0 DEV DIR", "e2fsck -fn DEV"},
		"ext3":  {64 * quantity.MiB, "mke2fs -q -t ext3 DEV", "mount -t ext4 DEV DIR", "e2fsck -fn DEV"},
		"xfs":   {300 * quantity.MiB, "mkfs.xfs -q DEV", "mount -t xfs -o nouuid DEV DIR", "xfs_repair -n DEV"},
		"btrfs": {128 * quantity.MiB, "mkfs.btrfs -q DEV", "mount -t btrfs DEV DIR", "btrfs check --readonly DEV"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDisks(t)
			source, part, want := frozenDisk(t, tc.size, tc.mkfs, tc.mount)
			before := disktest.Run(t, "", "sha256sum", source)
			d.run(exitOK, "disk inspect "+source, "partition 1 is copied block by block", "or capture with --replay")
			whole := summaryOf(t, d.run(exitOK, "disk capture "+source+" whole --store @store --json"))
			if now := disktest.Run(t, "", "sha256sum", source); now != before || whole.Replayed != nil {
				t.Errorf("a capture without --replay changes the disk: %+v", whole)
			}
			cloned := summaryOf(t, d.run(exitOK,
				"disk capture "+source+" cloned --store @store --replay --policy 1=clone --json",
				"partition 1 ("+name+"): replaying its journal, which changes this disk",
				"its journal was replayed; the disk was changed"))
			if len(cloned.Replayed) != 1 || cloned.Replayed[0].Partition != 1 || cloned.Replayed[0].Note != "" ||
				cloned.Allocated > whole.Allocated/2 {
				t.Errorf("summary %+v, without --replay %+v", cloned, whole)
			}
			again := summaryOf(t, d.run(exitOK, "disk capture "+source+" cloned --store @store --replay --json"))
			if again.Replayed != nil {
				t.Errorf("a clean disk was replayed: %+v", again)
			}
			for _, image := range []string{"whole", "cloned"} {
				target := d.path("target")
				disktest.Run(t, "", "sh", "-ec", "rm -f $0; truncate -s $1 $0", target, sizeOf(t, source))
				if image == "cloned" { // what is free there must not matter
					disktest.Run(t, "", "sh", "-ec", "openssl enc -aes-128-ctr -pass pass:x -nosalt </dev/zero 2>/dev/null | "+
						"head -c $1 | dd of=$0 conv=notrunc bs=1M iflag=fullblock status=none", target, sizeOf(t, source))
				}
				d.run(exitOK, "disk deploy "+image+" @target --store @store --yes")
				dev := disktest.LoopPart(t, target, part)
				if image == "cloned" {
					disktest.Command(t, tc.check, "DEV", dev)
				}
				dir := disktest.Mount(t, dev, tc.mount)
				got := disktest.Hashes(t, dir)
				disktest.Unmount(t, dir)
				if diff := cmp.Diff(want, got); diff != "" || len(want) != 60 {
					t.Errorf("%s: files that were made durable (-then +now):\n%s", image, diff)
				}
			}
		})
	}
}

func sizeOf(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(info.Size())
	return string(b)
}

// TestReplayLogicalVolume replays the journal of a logical volume, which no partition stands for.
func TestReplayLogicalVolume(t *testing.T) {
	d := newDisks(t)
	const volume = 48 * quantity.MiB
	path := disktest.Image(t, 66*quantity.MiB)
	part := quantity.Extent{Start: quantity.MiB, Length: 64 * quantity.MiB}
	disktest.Run(t, "start=2048, size=131072\n", "sfdisk", "-q", "-X", "dos", path)
	disktest.LVM(t, disktest.LoopPart(t, path, part), "pvcreate -y DEV", "vgcreate -s 1m lab DEV",
		"lvcreate -y -an -Zn -Wn -L 48m -n root lab", "lvcreate -y -an -Zn -Wn -L 2m -n empty lab")
	extent := quantity.Extent{Start: part.Start + quantity.MiB, Length: volume} // LVM's first extent
	dev := disktest.LoopPart(t, path, extent)
	disktest.Run(t, "", "mke2fs", "-q", "-t", "ext4", dev)
	source, want := disktest.Freeze(t, path, dev, "mount -t ext4 DEV DIR", 60, 120*quantity.KiB)
	d.run(exitOK, "disk inspect "+source,
		"partition 1: logical volume root (ext4) is copied block by block: journal needs recovery",
		"or capture with --replay", "logical volume empty (unknown) is copied block by block: no known file system")
	s := summaryOf(t, d.run(exitOK, "disk capture "+source+" lab --store @store --replay --json",
		"logical volume root in partition 1 (ext4): its journal was replayed"))
	if len(s.Replayed) != 1 || s.Allocated > int64(volume/2) {
		t.Errorf("summary %+v", s)
	}
	disktest.Run(t, "", "truncate", "-s", "66M", d.path("target"))
	d.run(exitOK, "disk deploy lab @target --store @store --yes")
	dev = disktest.LoopPart(t, d.path("target"), extent)
	disktest.Run(t, "", "e2fsck", "-fn", dev)
	dir := disktest.Mount(t, dev, "mount -t ext4 DEV DIR")
	defer disktest.Unmount(t, dir)
	if diff := cmp.Diff(want, disktest.Hashes(t, dir)); diff != "" {
		t.Errorf("files that were made durable (-then +now):\n%s", diff)
	}
}

// TestReplayRefused looks at what --replay must not change, and at what it does not help.
func TestReplayRefused(t *testing.T) {
	d := newDisks(t)
	source, part, _ := frozenDisk(t, 64*quantity.MiB, "mke2fs -q -t ext4 DEV", "mount -t ext4 DEV DIR")
	before := disktest.Run(t, "", "sha256sum", source)
	for _, policy := range []string{"1=raw", "1=skip"} {
		d.run(exitOK, "disk capture "+source+" lab --store @store --replay --policy "+policy)
	}
	d.run(exitRefused, "disk capture "+source+" lab --store @store --replay --policy 9=skip", "no partition 9")
	d.run(exitRefused, "disk capture "+source+" lab --store @store --policy 1=clone", "journal needs recovery", "--replay")

	// A hibernated system on a second disk: neither of the two is changed, forced or not.
	hibernated := d.path("hibernated")
	disktest.Run(t, "", "sh", "-ec", "truncate -s 8M $0; mkswap -q $0; "+
		"printf 'S1SUSPEND\\000' | dd of=$0 bs=1 seek=4086 conv=notrunc status=none", hibernated)
	disktest.Run(t, "start=2048, size=4096\nstart=8192, size=131072\n", "sfdisk", "-q", "-X", "dos",
		mixed(t, d, source, hibernated))
	d.run(exitRefused, "disk capture @mixed lab --store @store --replay", "hibernated")
	const beside = "no journal may be replayed beside a hibernated system"
	d.run(exitRefused, "disk capture @mixed lab --store @store --replay --force", beside)
	d.run(exitRefused, "disk capture @mixed lab --store @store --replay --policy 1=skip", beside)
	d.run(exitRefused, "disk capture "+source+" lab --also @mixed --store @store --replay", "hibernated")
	if now := disktest.Run(t, "", "sha256sum", source); now != before {
		t.Error("the disk was changed")
	}

	// What is mounted is not mounted once more.
	dir := disktest.Mount(t, disktest.LoopPart(t, source, part), "mount -t ext4 DEV DIR")
	dev := strings.TrimSpace(disktest.Run(t, "", "findmnt", "-n", "-o", "SOURCE", dir))
	d.run(exitRefused, "disk capture "+dev+" lab --store @store --replay --force", "in use")
	disktest.Unmount(t, dir)

	// A journal that the kernel does not take: the partition is copied whole, with the reason.
	source, part, _ = frozenDisk(t, 64*quantity.MiB, "mke2fs -q -t ext4 DEV", "mount -t ext4 DEV DIR")
	disktest.Run(t, "clri <8>\n", "debugfs", "-w", disktest.LoopPart(t, source, part))
	s := summaryOf(t, d.run(exitOK, "disk capture "+source+" lab --store @store --replay --json",
		"did not help", "replay: mount it as ext4"))
	if len(s.Replayed) != 1 || s.Replayed[0].Note == "" || s.Allocated < int64(part.Length) {
		t.Errorf("summary %+v", s)
	}
}

// mixed makes a disk of room for a hibernated swap area and a copy of the partition of another.
func mixed(t *testing.T, d *disks, source, hibernated string) string {
	t.Helper()
	path := d.path("mixed")
	disktest.Run(t, "", "sh", "-ec", "truncate -s 70M $0; "+
		"dd if=$1 of=$0 bs=1M seek=1 count=2 conv=notrunc status=none; "+
		"dd if=$2 of=$0 bs=1M skip=1 seek=4 count=64 conv=notrunc status=none",
		path, hibernated, source)
	return path
}
