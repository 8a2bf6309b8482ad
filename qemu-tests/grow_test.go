package qemutests

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/quantity"
	"clonecast/qemu-tests/lab"
	"clonecast/qemu-tests/testdisk"
	"clonecast/qemu-tests/vm"
)

// growCase is a disk whose last partition is to fill a larger one.
type growCase struct {
	filesystem string
	started    string // what its system says; the group is its size in bytes, or in sectors as hexadecimal number
	source     string
	target     string
}

// TestGrow deploys images of disks of 8 GiB to disks of 20 GiB, in one go: a PC with four disks, four tasks. What the
// kernel of the appliance is also for comes first: a fifth disk, whose journal waits for replay, is captured.
func TestGrow(t *testing.T) {
	cases := []*growCase{
		{filesystem: "ext4", started: `LINUX-STARTED root 0b5e0021-1111-4a4a-8888-c10eca570021 files %s size (\d+)`},
		{filesystem: "xfs", started: `LINUX-STARTED root 0b5e0022-1111-4a4a-8888-c10eca570022 files %s size (\d+)`},
		{filesystem: "btrfs", started: `LINUX-STARTED root 0b5e0023-1111-4a4a-8888-c10eca570023 files %s size (\d+)`},
		{filesystem: "ntfs", started: `WINDOWS-STARTED volume 3344556677889900 sectors ([0-9A-F]{16})`},
	}
	net := lab.NewNetwork(t)
	server := net.NewServer(lab.FullDHCP)
	server.Start()
	pc := net.PC(1, lab.BlankDisk(t, 64<<20))
	dirty := newDirtyDisk(t)
	options := []vm.Option{vm.Disk(dirty.path, "dirty")}
	for _, c := range cases {
		c.source = testdisk.GrowOriginal(t, c.filesystem)
		lab.Clonecast(t, "disk", "capture", c.source, c.filesystem, "--store", filepath.Join(server.Data, "store")).OK(t)
		c.target = lab.BlankDisk(t, 20<<30)
		options = append(options, vm.Disk(c.target, c.filesystem))
	}
	machine := pc.Boot(options...)
	server.WaitRegistered(pc)
	server.Adopt(pc)
	replay := server.CaptureWith("dirty", pc, "--disk", "serial=dirty", "--replay")
	var ordered []string
	for i, c := range cases {
		flags := []string{"--disk", "serial=" + c.filesystem, "--grow", "last"}
		if i == len(cases)-1 {
			flags = append(flags, "--then", "poweroff")
		}
		ordered = append(ordered, server.DeployWith(c.filesystem, pc, flags...))
	}
	dirty.replayed(t, server.WaitTask(replay, nil), pc)
	for i, c := range cases {
		c.grown(t, server.WaitTask(ordered[i], nil), pc)
	}
	machine.Wait()
	dirty.judge(t)
	for _, c := range cases {
		c.judge(t)
	}
}

// dirtyDisk has an ext4 as a power cut left it, after files were made durable.
type dirtyDisk struct {
	path  string
	part  quantity.Extent
	files map[string]string // hashes
}

func newDirtyDisk(t *testing.T) *dirtyDisk {
	t.Helper()
	d := &dirtyDisk{part: quantity.Extent{Start: quantity.MiB, Length: 62 * quantity.MiB}}
	path := lab.BlankDisk(t, 64<<20)
	disktest.Run(t, "start=2048, size=126976\n", "sfdisk", "-q", "-X", "dos", path)
	dev := disktest.LoopPart(t, path, d.part)
	mustRun(t, "mke2fs", "-q", "-t", "ext4", dev)
	d.path, d.files = disktest.Freeze(t, path, dev, "mount -t ext4 DEV DIR", 30, 100*quantity.KiB)
	return d
}

// replayed judges what the appliance says of its work.
func (d *dirtyDisk) replayed(t *testing.T, task lab.Task, pc *lab.PC) {
	t.Helper()
	var result struct {
		Allocated quantity.Bytes `json:"bytes_allocated"`
		Replayed  []struct {
			Partition int
			Note      string
		}
	}
	task.Result(t, pc, &result)
	if len(result.Replayed) != 1 || result.Replayed[0].Partition != 1 || result.Replayed[0].Note != "" ||
		result.Allocated > d.part.Length/2 {
		t.Errorf("capture with replay: %+v", result)
	}
}

// judge looks at the disk that was captured: it is clean now, and has its files.
func (d *dirtyDisk) judge(t *testing.T) {
	t.Helper()
	dev := disktest.LoopPart(t, d.path, d.part)
	mustRun(t, "e2fsck", "-fn", dev)
	dir := disktest.Mount(t, dev, "mount -o ro DEV DIR")
	defer disktest.Unmount(t, dir)
	if got := disktest.Hashes(t, dir); !maps.Equal(got, d.files) {
		t.Errorf("%d files are there, %d were made durable", len(got), len(d.files))
	}
}

// grown judges what the appliance says of its work.
func (c *growCase) grown(t *testing.T, task lab.Task, pc *lab.PC) {
	t.Helper()
	var result struct {
		Grown []struct {
			Partition  int
			Filesystem string
			From, To   quantity.Bytes
			Volume     quantity.Bytes `json:"filesystem_bytes"`
			Note       string
		}
	}
	task.Result(t, pc, &result)
	last := lastPartition(t, c.source)
	t.Logf("%s: %+v", c.filesystem, result.Grown)
	if len(result.Grown) != 1 {
		t.Fatalf("%s: %d partitions grew, want 1", c.filesystem, len(result.Grown))
	}
	g := result.Grown[0]
	if g.Partition != last.Number || g.Filesystem != c.filesystem || int64(g.From) != last.Size || g.Note != "" {
		t.Errorf("%s: grown is %+v, want partition %d of %d bytes without a note", c.filesystem, g, last.Number, last.Size)
	}
	if g.Volume > g.To || g.Volume < g.To-quantity.MiB {
		t.Errorf("%s: the file system has %d bytes of the partition's %d", c.filesystem, g.Volume, g.To)
	}
}

// judge looks at the disk with the tools of tables and file systems, and boots it.
func (c *growCase) judge(t *testing.T) {
	t.Helper()
	before, after := testdisk.Partitions(t, c.source), testdisk.Partitions(t, c.target)
	was, is := &before[len(before)-1], after[len(after)-1]
	testdisk.CheckTable(t, c.target)
	if end := size(t, c.target); is.Start+is.Size < end-2<<20 {
		t.Errorf("%s: the last partition ends at %d, the disk at %d", c.filesystem, is.Start+is.Size, end)
	}
	if was.Size = is.Size; !slices.Equal(before, after) {
		t.Errorf("%s: partitions are %+v, want %+v", c.filesystem, after, before)
	}
	device := loopOf(t, c.target, is)
	testdisk.Check(t, c.filesystem, device)
	started, base := c.started, 16
	if c.filesystem == "ntfs" {
		want := testdisk.Tree(t, "ntfs", loopOf(t, c.source, lastPartition(t, c.source)))
		if got := testdisk.Tree(t, "ntfs", device); got != want {
			t.Errorf("ntfs: files are %s, want %s", got, want)
		}
	} else {
		started, base = fmt.Sprintf(c.started, sumOfFiles(t, c.source)), 10
	}
	pc := vm.Start(t, "grown-"+c.filesystem, vm.Snapshot(c.target, c.filesystem))
	words := pc.WaitLine(started)
	pc.Kill()
	reported, err := strconv.ParseInt(words[1], base, 64)
	if c.filesystem == "ntfs" {
		reported *= 512
	}
	// What a file system calls its size is without its metadata.
	if err != nil || reported > is.Size || reported < is.Size/100*97 {
		t.Errorf("%s: the system that booted says its file system has %d bytes (%v), the partition has %d",
			c.filesystem, reported, err, is.Size)
	}
}

func lastPartition(t *testing.T, disk string) testdisk.Partition {
	t.Helper()
	all := testdisk.Partitions(t, disk)
	return all[len(all)-1]
}

func loopOf(t *testing.T, disk string, p testdisk.Partition) string {
	t.Helper()
	return disktest.LoopPart(t, disk, quantity.Extent{Start: quantity.Bytes(p.Start), Length: quantity.Bytes(p.Size)})
}

// sumOfFiles is the sum over the files of a disk's last partition that its Linux reports.
func sumOfFiles(t *testing.T, disk string) string {
	t.Helper()
	dir := disktest.Mount(t, loopOf(t, disk, lastPartition(t, disk)), "mount -o ro DEV DIR")
	defer disktest.Unmount(t, dir)
	const sum = `cd "$0" && find docs data -type f | LC_ALL=C sort | xargs cat | md5sum`
	return strings.Fields(mustRun(t, "sh", "-c", sum, dir))[0]
}
