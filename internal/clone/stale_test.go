package clone_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"clonecast/internal/clone"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/disktest"
	"clonecast/internal/filesystem/probe"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// TestStaleMarks deploys to disks that carry the marks of every format that is known, at every place, for the disk as a
// whole, for its partitions and for the gap between them. blkid and wipefs find nothing afterwards but what was
// deployed; a partition that is kept keeps its own.
func TestStaleMarks(t *testing.T) {
	const size = 24 * quantity.MiB
	script := "start=2048,size=16384\nstart=32768,size=8100\n" // 8 MiB, a gap of 7 MiB, 4 MiB, and 4 MiB behind
	for _, label := range []string{"dos", "gpt"} {
		t.Run(label, func(t *testing.T) {
			source := disktest.Image(t, size)
			disktest.Run(t, "label: "+label+"\n"+script, "sfdisk", "-q", source)
			fs := disktest.Image(t, 8*quantity.MiB)
			disktest.Run(t, "", "mke2fs", "-q", "-t", "ext4", fs)
			disktest.Run(t, "", "dd", "if="+fs, "of="+source, "bs=1M", "seek=1", "conv=notrunc", "status=none")
			store := captureFile(t, source)
			d, err := deploy.Keep(store.manifest.Disks[0], map[int]image.Mode{2: image.ModeSkip})
			if err != nil {
				t.Fatal(err)
			}
			kept := quantity.Extent{Start: 32768 * 512, Length: 8100 * 512}

			before := make([]byte, size)
			copy(before[kept.Start:kept.End()], randomBytes(3, int(kept.Length)))
			mark(before, 0, size)
			mark(before, quantity.MiB, 8*quantity.MiB)
			mark(before, 9*quantity.MiB, 7*quantity.MiB)
			mark(before, kept.Start, kept.Length)
			clear(before[:512]) // no table
			target := &memDisk{b: bytes.Clone(before)}
			g := clone.Geometry{Size: size, LogicalSector: 512}
			if _, err := deployOne(&d, target, g, store, deployOrder{Verify: true}); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(target.b[kept.Start:kept.End()], before[kept.Start:kept.End()]) {
				t.Error("the kept partition was changed")
			}
			clear(target.b[kept.Start:kept.End()]) // its marks, seen from the whole disk, are its own
			judge(t, target.b, "PTTYPE", label)
			judge(t, target.b[quantity.MiB:9*quantity.MiB], "TYPE", "ext4")
			judge(t, target.b[9*quantity.MiB:16*quantity.MiB], "TYPE", "")
		})
	}
}

// mark writes the magics of all formats into a part of a disk.
func mark(b []byte, start, length quantity.Bytes) {
	for _, s := range probe.Signatures(length) {
		copy(b[start+s.Offset:start+length], s.Magic)
	}
}

// judge lets blkid and wipefs say what they take bytes for.
func judge(t *testing.T, b []byte, tag, want string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "part")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := disktest.Blkid(t, path, tag); got != want {
		t.Errorf("blkid: %s is %q, want %q", tag, got, want)
	}
	for line := range strings.Lines(disktest.Run(t, "", "wipefs", "-n", "-O", "TYPE", "--noheadings", path)) {
		if found := strings.TrimSpace(line); found != want && found != "PMBR" {
			t.Errorf("wipefs finds %s, want %q alone", found, want)
		}
	}
}

// flippingDisk flips a bit of what is written to one byte.
type flippingDisk struct {
	*memDisk
	at int64
}

func (d *flippingDisk) WriteAt(b []byte, off int64) (int, error) {
	b = bytes.Clone(b)
	if i := d.at - off; i >= 0 && i < int64(len(b)) && b[i] != 0 {
		b[i] ^= 1
	}
	return d.memDisk.WriteAt(b, off)
}
