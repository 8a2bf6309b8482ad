package qemutests

import (
	"testing"

	"clonecast/internal/multicast/packet"
	"clonecast/qemu-tests/lab"
	"clonecast/qemu-tests/story"
	"clonecast/qemu-tests/testdisk"
)

// TestCast captures PC A while the blank PCs B and C, which wait for it, become it in the same pass: both systems start
// on them, and there is a version as after any capture.
func TestCast(t *testing.T) {
	say := func(format string, args ...any) { t.Logf("*** "+format, args...) }
	const rate = "30M" // what emulated PCs can receive together
	room := story.Open(t, testdisk.DualBootOriginal(t, 2048), lab.FullDHCP, say, "--multicast-rate", rate)
	a, b, c := room.A.Boot(), room.B.Boot(), room.C.Boot()
	pcs := []*lab.PC{room.A, room.B, room.C}
	for _, pc := range pcs {
		room.Server.WaitRegistered(pc)
	}
	a.Pause() // until the others wait for it
	for _, pc := range pcs {
		room.Server.Adopt(pc)
	}
	say("cast A to B and C")
	task := room.Server.Cast(room.A, story.Image, room.B, room.C)
	room.Server.WaitTask(task, func(t lab.Task) bool {
		waiting := 0
		for _, r := range t.Runs {
			if op := r.Operations[0]; op.Kind == "follow" && op.State == "running" {
				waiting++
			}
		}
		return waiting == 2
	})
	a.Resume()
	done := room.Server.WaitTask(task, nil)
	a.Wait()
	b.Wait()
	c.Wait()
	done.Result(t, room.A, &room.Captured)
	if !sameFiles(t, room.Original, room.A.Disk) {
		t.Error("the capture changed the disk of PC A")
	}
	var multicast, unicast int64
	for _, pc := range pcs[1:] {
		var d story.Deployed
		done.Result(t, pc, &d)
		say("%s: %+v", pc.Name, d)
		// What a deploy writes at the end are the first chunks of partitions and the table.
		if d.Followed < d.Compared/3 || d.Written > d.Followed {
			t.Errorf("%s wrote %d bytes while the capture went on and %d afterwards, of %d",
				pc.Name, d.Followed, d.Written, d.Compared)
		}
		multicast, unicast = multicast+d.Cast.Multicast, unicast+d.Cast.Unicast
		if d.Cast.Cause == packet.ReasonStuck.Cause() {
			t.Errorf("%s was told to leave the group because it asked for too much; the rate was too high for it", pc.Name)
		}
		testdisk.Equal(t, room.Original, pc.Disk)
		testdisk.NoFreeSpace(t, room.Original, pc.Disk)
	}
	// An emulated PC may get so little time that it is less than half as fast as the other one, and must leave.
	if multicast <= 2*unicast {
		t.Errorf("%d bytes came by multicast and %d by unicast, want most by multicast", multicast, unicast)
	}
	story.BootBoth(t, say, pcs[1:]...)
	if r := room.Server.CLI("image", "show", story.Image+"@1"); r.Exit != 0 {
		t.Error("the capture has published no version")
	}
}
