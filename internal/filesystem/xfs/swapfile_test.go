package xfs

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/quantity"
)

// TestSwapFiles looks for hibernated systems in swap files of file systems as a hibernated system
// leaves them: mounted. The kernel makes them.
func TestSwapFiles(t *testing.T) {
	for _, tc := range []struct {
		name, mkfs string
		files      int // many make a tree of inodes with levels
		pieces     int // of the swap file: many make a tree of extents
	}{
		{"one piece", "mkfs.xfs -q -m bigtime=1", 100, 1},
		{"many pieces", "mkfs.xfs -q", 100, 1500},
		{"many files, small blocks", "mkfs.xfs -q -b size=1024 -d agcount=2", 5000, 1500},
	} {
		for _, signature := range []string{"S1SUSPEND\x00", "SWAPSPACE2"} {
			t.Run(fmt.Sprintf("%s/%.9s", tc.name, signature), func(t *testing.T) {
				path := disktest.Image(t, 400*quantity.MiB)
				disktest.Run(t, "", "sh", "-ec", tc.mkfs+" "+path)
				dev := disktest.Loop(t, path, 512)
				dir := disktest.Mount(t, dev, "mount -t xfs DEV DIR")
				for i := range tc.files {
					if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				writeSwap(t, filepath.Join(dir, "any name"), signature, tc.pieces)
				disktest.Unmount(t, dir)
				if levels := inodeLevels(t, path); (levels > 1) != (tc.files > 1000) {
					t.Errorf("the tree of inodes has %d levels", levels)
				}
				if v := disktest.Volume(t, path, Read); v.Doubt != nil {
					t.Fatalf("clean: doubt %+v", v.Doubt)
				}
				frozen, _ := disktest.Freeze(t, path, dev, "mount -t xfs DEV DIR", 3, quantity.KiB)
				d := disktest.Volume(t, frozen, Read).Doubt
				hibernated := signature != "SWAPSPACE2"
				if d == nil || d.Hibernated != hibernated || d.Refuse != hibernated || d.Replay == hibernated {
					t.Fatalf("doubt %+v, hibernated is %v", d, hibernated)
				}
				if hibernated && !strings.Contains(d.Reason, "swap file (inode ") {
					t.Errorf("reason %q", d.Reason)
				}
				// The number is the one that the kernel calls the file by.
				if hibernated {
					mounted := disktest.Mount(t, disktest.Loop(t, path, 512), "mount -t xfs DEV DIR")
					inode := strings.TrimSpace(disktest.Run(t, "", "stat", "-c", "%i",
						filepath.Join(mounted, "any name")))
					disktest.Unmount(t, mounted)
					if !strings.Contains(d.Reason, "inode "+inode+")") {
						t.Errorf("reason %q, the kernel says inode %s", d.Reason, inode)
					}
				}
			})
		}
	}
}

// inodeLevels gives how many levels the tree of inodes has in the first group.
func inodeLevels(t *testing.T, path string) uint32 {
	t.Helper()
	rd := openFile(t, path)
	b := make([]byte, rd.sectorSize)
	if _, err := rd.r.ReadAt(b, int64(agiSector*rd.sectorSize)); err != nil {
		t.Fatal(err)
	}
	return binary.BigEndian.Uint32(b[agiLevels:])
}

// TestSwapFilesV4 looks into a file system that mkfs.xfs has filled: not every kernel mounts
// version 4.
func TestSwapFilesV4(t *testing.T) {
	for signature, want := range map[string]bool{"S1SUSPEND\x00": true, "SWAPSPACE2": false} {
		file := filepath.Join(t.TempDir(), "swap")
		writeSwap(t, file, signature, 1)
		proto := filepath.Join(t.TempDir(), "proto")
		tree := "boot 0 0\nd--755 0 0\nplain ---644 0 0 " + proto + "\nswap ---600 0 0 " + file + "\n$\n"
		if err := os.WriteFile(proto, []byte(tree), 0o600); err != nil {
			t.Fatal(err)
		}
		path := disktest.Image(t, 400*quantity.MiB)
		disktest.Run(t, "", "mkfs.xfs", "-q", "-m", "crc=0", "-p", proto, path)
		rd := openFile(t, path)
		found, err := rd.suspendedFile()
		if err != nil || (found != 0) != want {
			t.Errorf("%.9s: inode %d, %v", signature, found, err)
		}
	}
}

// writeSwap makes a swap area in a file, in so many pieces.
func writeSwap(t *testing.T, path, signature string, pieces int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, 4096)
	copy(page[1024:], "\x01\x00\x00\x00\xff\x03\x00\x00")
	copy(page[4086:], signature)
	for i := range pieces {
		if _, err := f.WriteAt(page, int64(i)*8192); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(32 << 20); err != nil {
		t.Fatal(err)
	}
}

// TestSwapFilesUnreadable: where it cannot be told whether a system is hibernated, no log may be
// replayed.
func TestSwapFilesUnreadable(t *testing.T) {
	path := disktest.Image(t, 400*quantity.MiB)
	disktest.Run(t, "", "mkfs.xfs", "-q", path)
	frozen, _ := disktest.Freeze(t, path, disktest.Loop(t, path, 512), "mount -t xfs DEV DIR", 3, quantity.KiB)
	f := disktest.Open(t, frozen)
	v, err := Read(f, 400*quantity.MiB)
	if err != nil || v.Doubt == nil || !v.Doubt.Replay {
		t.Fatalf("sound: %+v, %v", v.Doubt, err)
	}
	bad := &disktest.Faulty{ReaderAt: f, Bad: []quantity.Extent{{Start: agiSector * 512, Length: 512}}}
	v, err = Read(bad, 400*quantity.MiB)
	if err != nil || v.Doubt == nil || v.Doubt.Replay || v.Doubt.Refuse ||
		!strings.Contains(v.Doubt.Reason, "not known") {
		t.Errorf("unreadable header of inodes: %+v, %v, want a doubt without replay", v.Doubt, err)
	}
}
