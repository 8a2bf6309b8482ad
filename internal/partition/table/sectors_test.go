package table_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem/probe"
	"clonecast/internal/partition"
	"clonecast/internal/partition/table"
	"clonecast/internal/quantity"
)

// knownOn is what the engine asks: whether a probe names what begins at a place.
func knownOn(r io.ReaderAt) func(quantity.Extent) bool {
	return func(e quantity.Extent) bool {
		v, err := probe.Read(io.NewSectionReader(r, int64(e.Start), int64(e.Length)), e.Length)
		return err == nil && v.Type != ""
	}
}

// TestSectorSize partitions disks with one size of sectors and looks at them with another.
func TestSectorSize(t *testing.T) {
	const size = 600 * quantity.MiB
	for _, tc := range []struct {
		name   string
		script string   // for sfdisk; places in bytes
		put    []string // by partition number from 1: mkfs command, "" leaves it as it is
		found  bool     // whether a look with the wrong size finds the right one
	}{
		{"MBR, ext4", "label: dos\nstart=1MiB, size=400MiB\n", []string{"mke2fs -q -t ext4"}, true},
		{"MBR, FAT", "label: dos\nstart=1MiB, size=64MiB, type=c\n", []string{"mkfs.vfat"}, true},
		{"MBR, NTFS", "label: dos\nstart=1MiB, size=64MiB, type=7\n", []string{"mkfs.ntfs -qF"}, true},
		{"MBR, swap", "label: dos\nstart=8MiB, size=64MiB, type=82\n", []string{"mkswap -q"}, true},
		{"MBR, one of two is known", "label: dos\nstart=1MiB, size=64MiB\nstart=80MiB, size=64MiB\n",
			[]string{"", "mkfs.xfs -q --unsupported"}, true},
		{"MBR, logical partitions", "label: dos\nstart=1MiB, size=300MiB, type=5\n" +
			"5 : start=2MiB, size=64MiB\n6 : size=100MiB\n", nil, true},
		{"GPT", "label: gpt\nstart=1MiB, size=64MiB\n", []string{""}, true},
		{"GPT, ext4", "label: gpt\nstart=1MiB, size=400MiB\n", []string{"mke2fs -q -t ext4"}, true},
		{"MBR, blank", "label: dos\nstart=1MiB, size=64MiB\nstart=80MiB, size=400MiB\n", nil, false},
		{"MBR, wiped", "label: dos\nstart=1MiB, size=400MiB\n", []string{"mke2fs -q -t ext4 -b 1024 DEV; wipefs -qa"},
			false},
		{"MBR, random", "label: dos\nstart=1MiB, size=64MiB\n",
			[]string{"dd if=/dev/urandom bs=1M count=64 status=none conv=notrunc of="}, false},
	} {
		for _, right := range []quantity.SectorSize{512, 4096} {
			wrong := 512 + 4096 - right
			t.Run(fmt.Sprintf("%s/%d", tc.name, right), func(t *testing.T) {
				path := disktest.Image(t, size)
				dev := disktest.Loop(t, path, right)
				disktest.Run(t, tc.script, "sfdisk", "-q", "--no-reread", "--no-tell-kernel", dev)
				disktest.Run(t, "", "blockdev", "--flushbufs", dev)
				f := disktest.Open(t, path)
				sound, err := table.Read(f, size, right)
				if err != nil {
					t.Fatal(err)
				}
				for i, mkfs := range tc.put {
					if mkfs != "" {
						putPartition(t, f, sound.Partitions[i], mkfs)
					}
				}
				known := knownOn(f)
				if got := table.SectorSize(f, size, right, known); got != right {
					t.Errorf("on a disk with sectors of %d bytes the table counts in %d", right, got)
				}
				want := wrong
				if tc.found {
					want = right
				}
				if got := table.SectorSize(f, size, wrong, known); got != want {
					t.Errorf("on a disk with sectors of %d bytes the table counts in %d, want %d", wrong, got, want)
				}
			})
		}
	}
}

// putPartition makes a file system in a file of the partition's size and puts it in its place.
func putPartition(t *testing.T, disk *os.File, p partition.Partition, mkfs string) {
	t.Helper()
	path := disktest.Image(t, p.Length)
	command := strings.ReplaceAll(mkfs, "DEV", path) + " " + path
	if strings.HasSuffix(mkfs, "=") {
		command = mkfs + path
	}
	disktest.Run(t, "", "sh", "-ec", command)
	content := disktest.Load(t, path)
	block := make([]byte, quantity.MiB)
	for at := quantity.Bytes(0); at < p.Length; at += quantity.MiB {
		if _, err := content.ReadAt(block, int64(at)); err != nil {
			t.Fatal(err)
		}
		if bytes.Count(block, []byte{0}) == len(block) {
			continue // as the disk
		}
		if _, err := disk.WriteAt(block, int64(p.Start+at)); err != nil {
			t.Fatal(err)
		}
	}
}

// Bare file systems, disks without anything and those that cannot be read are what they are.
func TestSectorSizeOfOthers(t *testing.T) {
	known := func(quantity.Extent) bool { return true }
	for name, command := range map[string]string{
		"blank": "true", "ext4": "mke2fs -q -t ext4", "FAT": "mkfs.vfat",
		"FAT with an MBR of its own": "mkfs.vfat --mbr=y",
	} {
		path := disktest.Image(t, diskSize)
		disktest.Run(t, "", "sh", "-ec", command+" "+path)
		f := disktest.Open(t, path)
		for _, sector := range []quantity.SectorSize{512, 4096} {
			if got := table.SectorSize(f, diskSize, sector, known); got != sector {
				t.Errorf("%s: a table counts in sectors of %d bytes", name, got)
			}
		}
		blind := &disktest.Faulty{ReaderAt: f, Bad: []quantity.Extent{{Length: diskSize}}}
		if got := table.SectorSize(blind, diskSize, 512, known); got != 512 {
			t.Errorf("unreadable: a table counts in sectors of %d bytes", got)
		}
	}
	// An old file system where the partition would begin with other sectors, but it would leave
	// the disk.
	path := disktest.Image(t, diskSize)
	disktest.Run(t, "label: dos\nstart=2048, size=100000\n", "sfdisk", "-q", path)
	old := func(e quantity.Extent) bool { return e.Start == 8*quantity.MiB }
	if got := table.SectorSize(disktest.Open(t, path), diskSize, 512, old); got != 512 {
		t.Errorf("a large partition: the table counts in sectors of %d bytes", got)
	}
	err := error(&partition.SectorSizeError{Disk: 512, Counted: 4096})
	var hint interface{ Hint() string }
	if !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "losetup -b 4096") ||
		!strings.Contains(hint.Hint(), "--whole-disk") {
		t.Errorf("%v: no way round is named", err)
	}
}
