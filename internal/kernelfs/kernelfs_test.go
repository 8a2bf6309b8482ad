package kernelfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"

	"github.com/google/go-cmp/cmp"
)

// TestGrow makes a file system somewhere on a disk larger. Its own tools must find
// nothing, every file must be as it was, and the new room must be usable. ext4 is grown
// by qemu-tests: the kernel wants CAP_SYS_RESOURCE for it, which build machines lack.
func TestGrow(t *testing.T) {
	const start = 3*quantity.MiB + 512
	for name, tc := range map[string]struct {
		fsType     string
		from, to   quantity.Bytes
		mkfs       string
		mount      string
		check      string
		shortfall  quantity.Bytes // what the file system may leave unused at its end
		sectorSize quantity.SectorSize
	}{
		"xfs": {
			"xfs", 300 * quantity.MiB, 900*quantity.MiB + 3*512,
			"mkfs.xfs -q DEV", "mount -t xfs -o nouuid DEV DIR", "xfs_repair -n DEV", 4096, 512,
		},
		"xfs 4k": {
			"xfs", 300 * quantity.MiB, 900 * quantity.MiB,
			"mkfs.xfs -q -s size=4096 DEV", "mount -t xfs -o nouuid DEV DIR", "xfs_repair -n DEV", 4096, 4096,
		},
		"btrfs": {
			"btrfs", 256 * quantity.MiB, quantity.GiB + 5*512,
			"mkfs.btrfs -q DEV", "mount -t btrfs DEV DIR", "btrfs check DEV", 4096, 512,
		},
		"btrfs, single": {
			"btrfs", 128 * quantity.MiB, quantity.GiB,
			"mkfs.btrfs -q -m single DEV", "mount -t btrfs DEV DIR", "btrfs check DEV", 4096, 512,
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := disktest.Image(t, start+tc.to+quantity.MiB)
			if tc.sectorSize != 512 {
				path = disktest.Image(t, 4*quantity.MiB+tc.to+quantity.MiB)
			}
			at := quantity.Bytes(start)
			if tc.sectorSize != 512 {
				at = 4 * quantity.MiB
			}
			dev := disktest.LoopPart(t, path, quantity.Extent{Start: at, Length: tc.from})
			disktest.Command(t, tc.mkfs, "DEV", dev)
			dir := disktest.Mount(t, dev, tc.mount)
			disktest.Fill(t, dir, 60, 200*quantity.KiB)
			want := disktest.Hashes(t, dir)
			disktest.Unmount(t, dir)

			where := quantity.Extent{Start: at, Length: tc.to}
			for _, run := range []string{"first", "second"} {
				size, err := Disk{Path: path, Sector: tc.sectorSize}.Grow(context.Background(), tc.fsType, where)
				if err != nil {
					t.Fatal(err)
				}
				if size > tc.to || size <= tc.to-tc.shortfall {
					t.Errorf("%s Grow = %d bytes, want %d", run, size, tc.to)
				}
			}
			dev = disktest.LoopPart(t, path, where)
			disktest.Command(t, tc.check, "DEV", dev)
			dir = disktest.Mount(t, dev, tc.mount)
			if diff := cmp.Diff(want, disktest.Hashes(t, dir)); diff != "" {
				t.Errorf("files changed (-before +after):\n%s", diff)
			}
			if err := os.WriteFile(dir+"/new room", make([]byte, tc.from+tc.from/4), 0o644); err != nil {
				t.Errorf("use the new room: %v", err)
			}
			disktest.Unmount(t, dir)
			disktest.Command(t, tc.check, "DEV", dev)
		})
	}
}

// TestExtNeedsCapability: where the kernel refuses, the file system stays as it was.
func TestExtNeedsCapability(t *testing.T) {
	const from, to = 64 * quantity.MiB, 256 * quantity.MiB
	path := disktest.Image(t, to)
	disktest.Run(t, "", "mke2fs", "-q", "-t", "ext4", path, fmt.Sprint(int64(from/1024)))
	size, err := Disk{Path: path, Sector: 512}.Grow(context.Background(), "ext4", quantity.Extent{Length: to})
	var cannot *filesystem.UnchangedError
	switch {
	case err == nil && size != to: // this machine may: then it must be right
		t.Errorf("Grow = %d bytes, want %d", size, int64(to))
	case err != nil && (!errors.As(err, &cannot) || !strings.Contains(err.Error(), "CAP_SYS_RESOURCE")):
		t.Errorf("Grow = %v", err)
	}
	disktest.Run(t, "", "e2fsck", "-fn", path)
}

func TestSmallBtrfs(t *testing.T) {
	path := disktest.Image(t, 200*quantity.MiB)
	disktest.Run(t, "", "mkfs.btrfs", "-q", "-b", "128M", path)
	space := quantity.Extent{Length: 200 * quantity.MiB}
	_, err := Disk{Path: path, Sector: 512}.Grow(context.Background(), "btrfs", space)
	var cannot *filesystem.UnchangedError
	if !errors.As(err, &cannot) || !strings.Contains(err.Error(), "256.0 MiB at least") {
		t.Errorf("Grow = %v", err)
	}
	disktest.Run(t, "", "btrfs", "check", path)
}

func TestCannotGrow(t *testing.T) {
	path := disktest.Image(t, 16*quantity.MiB)
	for fsType, load := range map[string]func(string) error{
		"hfsplus": nil,
		"xfs":     nil, // there is none
		"btrfs":   func(string) error { return errors.New("no such module") },
	} {
		space := quantity.Extent{Length: 16 * quantity.MiB}
		_, err := Disk{Path: path, Sector: 512, Load: load}.Grow(context.Background(), fsType, space)
		var cannot *filesystem.UnchangedError
		if !errors.As(err, &cannot) {
			t.Errorf("%s: Grow = %v", fsType, err)
		}
	}
}
