package qemutests

import (
	"fmt"
	"testing"

	"clonecast/qemu-tests/testdisk"
	"clonecast/qemu-tests/vm"
)

// TestDiskBoots shows that the tests' own disk is what it claims to be, before anything is judged by it.
func TestDiskBoots(t *testing.T) {
	for _, first := range []int{2048, 63} {
		t.Run(fmt.Sprint(first), func(t *testing.T) {
			disk := testdisk.DualBootOriginal(t, first)
			testdisk.Equal(t, disk, disk)
			if n := len(testdisk.MarksIn(t, disk)); n < 100_000 {
				t.Errorf("%d sectors of filler on the disk, want most of its free space", n)
			}
			bootBoth(t, "source", disk)
		})
	}
}

// bootBoth boots both systems from a disk, which stays as it is.
func bootBoth(t *testing.T, name, disk string) {
	t.Helper()
	linux := vm.Start(t, name+"-linux", vm.Snapshot(disk, name), vm.AssetTag("linux"))
	linux.WaitLine(testdisk.LinuxStarted)
	linux.Wait()
	windows := vm.Start(t, name+"-windows", vm.Snapshot(disk, name), vm.AssetTag(testdisk.WindowsTag))
	windows.WaitLine(testdisk.WindowsStarted)
	windows.Kill()
}
