package clone_test

import (
	"fmt"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/quantity"

	"github.com/google/go-cmp/cmp"
)

// TestLogicalVolumes is TestFileSystems for a disk whose partition holds logical volumes. Each is
// in one piece, one behind the other, so that a loop device can stand for it.
func TestLogicalVolumes(t *testing.T) {
	all := recipes()
	volumes := []recipe{all["ext4"], all["btrfs"], all["xfs"]}
	part := quantity.Extent{Start: quantity.MiB, Length: 2 * quantity.MiB}
	commands := []string{"pvcreate -y DEV", "vgcreate -s 1m lab DEV"}
	for i, v := range volumes {
		part.Length += v.size
		commands = append(commands, fmt.Sprintf("lvcreate -y -an -Zn -Wn -L %dm -n volume%d lab", v.size/quantity.MiB, i))
	}
	source := makeDisk(t, recipe{size: part.Length}, part)
	disktest.LVM(t, disktest.LoopPart(t, source, part), commands...)
	var want []map[string]string
	for i, v := range volumes {
		dev := disktest.LoopPart(t, source, volumePlace(volumes, i))
		disktest.Command(t, v.mkfs, "DEV", dev)
		want = append(want, v.fill(t, dev))
	}

	target := randomDisk(t, 2, part.End()+quantity.MiB)
	allocated := quantity.Total(reimage(t, source, target))
	if most := part.Length / 2; allocated > most {
		t.Errorf("%v of %v are stored, want at most %v", allocated, part.Length, most)
	}
	disktest.LVM(t, disktest.LoopPart(t, target, part), "vgck lab", "lvs lab/volume2")
	for i, v := range volumes {
		dev := disktest.LoopPart(t, target, volumePlace(volumes, i))
		disktest.Command(t, v.check, "DEV", dev)
		if diff := cmp.Diff(want[i], v.read(t, dev)); diff != "" {
			t.Errorf("files of volume %d (-captured +deployed):\n%s", i, diff)
		}
	}
}

// volumePlace is where a volume lies on the disk: the first begins 1 MiB behind the partition's
// start, which is where LVM puts its first extent.
func volumePlace(volumes []recipe, n int) quantity.Extent {
	at := 2 * quantity.MiB
	for _, v := range volumes[:n] {
		at += v.size
	}
	return quantity.Extent{Start: at, Length: volumes[n].size}
}
