package qemutests

import (
	"testing"

	"clonecast/qemu-tests/lab"
	"clonecast/qemu-tests/story"
	"clonecast/qemu-tests/testdisk"
)

// TestUEFI is the story with PCs that have UEFI firmware and a disk with a GPT: captured and deployed by UEFI network
// boot, both systems start on a disk of the same size and on a larger one, from firmware that never saw the disk.
func TestUEFI(t *testing.T) {
	say := func(format string, args ...any) { t.Logf("*** "+format, args...) }
	room := story.Open(t, testdisk.DualBootUEFIOriginal(t), lab.FullDHCP, say)
	room.Capture(t, say)
	if !sameFiles(t, room.Original, room.A.Disk) {
		t.Error("the capture changed the disk of PC A")
	}
	room.Deploy(t, say)
	size := story.Size(t, room.Original)
	testdisk.SameBytes(t, room.Original, room.B.Disk, testdisk.Area{Name: "GPT", Size: 34 * 512})
	backup := testdisk.Area{Name: "backup of the GPT", Offset: size - 33*512, Size: 33 * 512}
	testdisk.SameBytes(t, room.Original, room.B.Disk, backup)
	for _, pc := range []*lab.PC{room.B, room.C} {
		testdisk.Equal(t, room.Original, pc.Disk)
		testdisk.NoFreeSpace(t, room.Original, pc.Disk)
	}
	story.BootBoth(t, say, room.B, room.C)
}
