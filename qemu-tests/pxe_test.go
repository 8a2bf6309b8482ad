package qemutests

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"clonecast/qemu-tests/lab"
	"clonecast/qemu-tests/story"
	"clonecast/qemu-tests/testdisk"
	"clonecast/qemu-tests/vm"
)

// TestMainJob is the whole story, in both DHCP modes and with both layouts, and what must be true of a server that has
// lived through it. The cases after the story share its captured image.
func TestMainJob(t *testing.T) {
	for _, c := range []struct {
		first int
		dhcp  string
		more  bool
	}{
		{2048, lab.FullDHCP, true},
		{63, lab.ProxyDHCP, false},
	} {
		t.Run(fmt.Sprintf("%s-%d", c.dhcp, c.first), func(t *testing.T) {
			say := func(format string, args ...any) { t.Logf("*** "+format, args...) }
			room := story.Open(t, testdisk.DualBootOriginal(t, c.first), c.dhcp, say)
			room.Capture(t, say)
			if !sameFiles(t, room.Original, room.A.Disk) {
				t.Error("the capture changed the disk of PC A")
			}
			room.Deploy(t, say)
			for _, pc := range []*lab.PC{room.B, room.C} {
				testdisk.Equal(t, room.Original, pc.Disk)
				testdisk.NoFreeSpace(t, room.Original, pc.Disk)
			}
			story.BootBoth(t, say, room.B, room.C)
			if !c.more {
				return
			}
			for _, step := range []struct {
				name string
				play func(*testing.T, *story.Room)
			}{
				{"a machine without task goes to its disk", noTaskBootsDisk},
				{"an unknown machine only registers", unknownOnlyRegisters},
				{"a deploy writes only what differs", upToDate},
				{"power cut in mid-deploy", powerCut},
				{"server crash in mid-deploy", restartInDeploy},
				{"server crash in mid-capture", restartInCapture},
				{"an appliance of another server", wrongCA},
			} {
				// Not subtests: all that the room starts reports to the test that opened it.
				begun := time.Now()
				say("%s", step.name)
				step.play(t, room)
				say("%s: took %.0f s", step.name, time.Since(begun).Seconds())
			}
		})
	}
}

func sameFiles(t *testing.T, a, b string) bool {
	t.Helper()
	return mustRun(t, "sh", "-c", `sha256sum <"$0"`, a) == mustRun(t, "sh", "-c", `sha256sum <"$0"`, b)
}

// noTaskBootsDisk: an adopted PC with nothing to do starts its own system, and no kernel of ours runs before it.
func noTaskBootsDisk(t *testing.T, room *story.Room) {
	pc := room.B.Boot()
	defer pc.Kill()
	pc.WaitLine(testdisk.LinuxStarted)
	for _, line := range pc.Lines() {
		if strings.Contains(line, "/vmlinuz") || strings.Contains(line, "clonecast-init") {
			t.Errorf("the appliance was loaded: %s", line)
		}
	}
}

// unknownOnlyRegisters: a PC that nobody adopted is known to the server, has no task, cannot be given one, and its disk
// stays as it is. It has only as much memory as the appliance of class qemu promises to do with.
func unknownOnlyRegisters(t *testing.T, room *story.Room) {
	stranger := room.Net.PC(9, lab.BlankDisk(t, 64<<20))
	pc := stranger.Boot(vm.Memory(128))
	m := room.Server.WaitRegistered(stranger)
	if m.State != "pending" {
		t.Errorf("a PC seen for the first time is %q, want pending", m.State)
	}
	r := room.Server.CLI("task", "run", "deploy", "--image", story.Image, "--machine", stranger.MAC, "--yes")
	if r.Exit == 0 {
		t.Error("a task was accepted for a machine that nobody adopted")
	}
	time.Sleep(5 * time.Second)
	pc.Kill()
	if out := mustRun(t, "du", "-k", stranger.Disk); !strings.HasPrefix(out, "0\t") {
		t.Errorf("the disk of a machine that nobody adopted was written: %s", out)
	}
}

// upToDate: a deploy to a disk that holds the version writes no byte; after files changed, only what they touch.
func upToDate(t *testing.T, room *story.Room) {
	deploy := func(limit int64) {
		task := room.Server.Deploy(story.Image, room.B)
		pc := room.B.Boot()
		var d story.Deployed
		room.Server.WaitTask(task, nil).Result(t, room.B, &d)
		pc.Wait()
		if d.Written > limit || d.Fetched > limit {
			t.Errorf("deploy wrote %d bytes and fetched %d, want at most %d", d.Written, d.Fetched, limit)
		}
	}
	deploy(0)
	before := snapshotChunks(t, room.B.Disk)
	changeFiles(t, room.B.Disk, 50)
	deploy(changedChunks(t, before, room.B.Disk) * chunkSize)
	testdisk.Equal(t, room.Original, room.B.Disk)
}

// powerCut: PC and server lose power in the middle of a deploy.
// Both start again, and the deploy finishes with what was missing.
func powerCut(t *testing.T, room *story.Room) {
	room.C.Disk = lab.BlankDisk(t, story.Size(t, room.Original))
	task := room.Server.Deploy(story.Image, room.C)
	pc := room.C.Boot()
	room.Server.WaitTask(task, func(lab.Task) bool { return written(t, room.C.Disk) > 16<<20 })
	pc.Kill()
	if boots(t, room.C.Disk) {
		t.Error("a disk cut in mid-deploy has a boot sector with its signature")
	}
	kept := written(t, room.C.Disk)
	room.Server.Kill()
	room.Server.Start()
	pc = room.C.Boot()
	var d story.Deployed
	room.Server.WaitTask(task, nil).Result(t, room.C, &d)
	pc.Wait()
	t.Logf("%d bytes on the disk at the cut; then %+v", kept, d)
	// A blank disk already holds the chunks that are all zero: what counts is more than that.
	if blank := room.Deployed; d.Kept <= blank.Kept || d.Fetched >= blank.Fetched || d.Written >= blank.Written {
		t.Errorf("the deploy after the cut is %+v, want less written and fetched, more kept than on a blank disk: %+v",
			d, blank)
	}
	testdisk.Equal(t, room.Original, room.C.Disk)
}

// restartInDeploy: the server crashes in the middle of a deploy and comes back; the PC, which stays on, carries on or
// begins anew, and its disk is right in the end.
func restartInDeploy(t *testing.T, room *story.Room) {
	room.C.Disk = lab.BlankDisk(t, story.Size(t, room.Original))
	task := room.Server.Deploy(story.Image, room.C)
	pc := room.C.Boot()
	room.Server.WaitTask(task, func(lab.Task) bool { return written(t, room.C.Disk) > 4<<20 })
	room.Server.Kill()
	if n := written(t, room.C.Disk); n >= room.Deployed.Written || boots(t, room.C.Disk) {
		t.Errorf("the crash did not hit in mid-deploy: %d of %d bytes were written, or the boot sector is there",
			n, room.Deployed.Written)
	}
	time.Sleep(3 * time.Second)
	room.Server.Start()
	room.Server.WaitTask(task, nil)
	pc.Wait()
	testdisk.Equal(t, room.Original, room.C.Disk)
}

// written tells how many bytes of a sparse file exist.
func written(t *testing.T, path string) int64 {
	t.Helper()
	var s syscall.Stat_t
	if err := syscall.Stat(path, &s); err != nil {
		t.Fatalf("stat %s: %v", path, err)
	}
	return s.Blocks * 512
}

// restartInCapture: the server crashes in the middle of a capture and comes back. The capture ends well or fails with a
// message; in no case is there a version that is not whole.
func restartInCapture(t *testing.T, room *story.Room) {
	const image = "second"
	// Two partitions lose their file systems, so that there is something to send for several seconds.
	fresh := int64(0)
	for _, n := range []int{1, 8} {
		p := partition(t, room.A.Disk, n)
		mustRun(t, "sh", "-c", `openssl enc -aes-128-ctr -K "$3" -iv 0 -nosalt -in /dev/zero 2>/dev/null | head -c "$1" |
			dd of="$0" bs=1M seek="$2" oflag=seek_bytes conv=notrunc status=none`,
			room.A.Disk, fmt.Sprint(p.Size), fmt.Sprint(p.Start), fmt.Sprint(n))
		fresh += p.Size
	}
	packs := func() (n int64) {
		fmt.Sscan(mustRun(t, "du", "-sb", filepath.Join(room.Server.Data, "store", "packs")), &n)
		return n
	}
	before := packs()
	task := room.Server.Capture(room.A, image)
	pc := room.A.Boot()
	room.Server.WaitTask(task, func(lab.Task) bool { return packs()-before > 4<<20 })
	room.Server.Kill()
	if n := packs() - before; n >= fresh {
		t.Errorf("the crash did not hit in mid-capture: %d of %d bytes were in the store", n, fresh)
	}
	store := filepath.Join(room.Server.Data, "store")
	if r := lab.Clonecast(t, "disk", "deploy", image, room.B.Disk, "--dry-run", "--store", store); r.Exit != 6 {
		t.Errorf("deploy ended with exit code %d after the crash, want 6: there must be no version", r.Exit)
	}
	room.Server.Start()
	room.Server.WaitTask(task, nil)
	pc.Wait()
	lab.Clonecast(t, "store", "check", "--read-data", "--store", room.Server.Data+"/store").OK(t)

	disk := lab.BlankDisk(t, story.Size(t, room.Original))
	lab.Clonecast(t, "disk", "deploy", image, disk, "--store", room.Server.Data+"/store", "--yes").OK(t)
	testdisk.Equal(t, room.A.Disk, disk)
}

// wrongCA: an appliance made for one server meets another one. It says that it does not trust it, and the other server
// learns nothing of the PC.
func wrongCA(t *testing.T, room *story.Room) {
	room.Server.Stop()
	other := room.Net.NewServerAt(filepath.Join(t.TempDir(), "data"), lab.FullDHCP,
		"--appliance", filepath.Join(room.Server.Data, "appliances", "qemu"))
	other.Start()
	victim := room.Net.PC(8, lab.BlankDisk(t, 64<<20))
	pc := victim.Boot()
	pc.WaitLine(`(?i)certificate`)
	time.Sleep(3 * time.Second)
	if m, found := other.Machine(victim); found {
		t.Errorf("the PC told the wrong server who it is: %+v", m)
	}
	pc.Kill()
}

// TestServerDiskFull captures while the server's disk has no room for it: the task fails and says why, there is no
// version, and when there is room the same order succeeds.
func TestServerDiskFull(t *testing.T) {
	say := func(format string, args ...any) { t.Logf("*** "+format, args...) }
	mount := t.TempDir()
	mustRun(t, "mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", mount)
	t.Cleanup(func() { mustRun(t, "umount", "-l", mount) })
	net := lab.NewNetwork(t)
	room := &story.Room{Net: net, Server: net.NewServerAt(filepath.Join(mount, "data"), lab.FullDHCP),
		Original: testdisk.DualBootOriginal(t, 2048), A: net.PC(1, testdisk.Copy(t, testdisk.DualBootOriginal(t, 2048)))}
	room.Server.Start()

	pc := room.A.Boot()
	room.Server.WaitRegistered(room.A)
	room.Server.Adopt(room.A)
	hasFailed := func(task lab.Task) bool { return task.State == "failed" }
	task := room.Server.WaitTask(room.Server.Capture(room.A, story.Image), hasFailed)
	op := task.Runs[0].Operations[0]
	if why := op.Error + op.Hint; !strings.Contains(why, "space") && !strings.Contains(why, "full") {
		t.Errorf("the task failed with %q, hint %q, want the cause", op.Error, op.Hint)
	}
	pc.Kill()
	if r := room.Server.CLI("image", "show", story.Image); r.Exit != 6 {
		t.Errorf("image show ended with exit code %d, want 6: there must be no version", r.Exit)
	}
	mustRun(t, "mount", "-o", "remount,size=500m", mount)
	room.Capture(t, say)
	disk := lab.BlankDisk(t, story.Size(t, room.Original))
	deploy(t, story.Image, disk, filepath.Join(room.Server.Data, "store"))
	testdisk.Equal(t, room.Original, disk)
}
