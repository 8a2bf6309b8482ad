package qemutests

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"clonecast/qemu-tests/lab"
	"clonecast/qemu-tests/story"
	"clonecast/qemu-tests/testdisk"
	"clonecast/qemu-tests/vm"
)

// TestFaults lets disks fail under a running appliance, and cuts the power at random moments of deploys. What fails
// says why, no disk boots half a system, and the next order makes every disk right.
func TestFaults(t *testing.T) {
	say := func(format string, args ...any) { t.Logf("*** "+format, args...) }
	room := story.Open(t, testdisk.DualBootOriginal(t, 2048), lab.FullDHCP, say)
	say("a sector of A cannot be read")
	badSource(t, room)
	room.Capture(t, say)
	for _, pc := range []*lab.PC{room.B, room.C} {
		machine := pc.Boot()
		room.Server.WaitRegistered(pc)
		room.Server.Adopt(pc)
		machine.Kill()
	}
	say("a sector of B cannot be written")
	badTarget(t, room)
	say("the space under B's disk runs out")
	noSpace(t, room)
	say("the power fails at random moments")
	cuts := 6
	if os.Getenv("CLONECAST_LONG") != "" {
		cuts = 20
	}
	powerCuts(t, room, cuts)
}

// failed waits until the only operation of a task has failed and checks that the words are in what is said about it.
func failed(t *testing.T, room *story.Room, id string, words ...string) {
	t.Helper()
	task := room.Server.WaitTask(id, func(task lab.Task) bool { return task.State == "failed" || task.State == "done" })
	op := task.Runs[0].Operations[0]
	t.Logf("task %s is %s: %s (%s)", id, task.State, op.Error, op.Hint)
	if op.Hint == "" {
		t.Error("nothing is said about what to do")
	}
	for _, word := range words {
		if task.State != "failed" || !strings.Contains(op.Error, word) {
			t.Errorf("the task is %s: %q, want failed with %q", task.State, op.Error, word)
		}
	}
}

// badSource: a capture does not leave out what it cannot read. It fails and names the place.
func badSource(t *testing.T, room *story.Room) {
	bad := partition(t, room.A.Disk, 15).Start/512 + 4000
	pc := room.A.BootFaulty(vm.ReadFault, bad)
	room.Server.WaitRegistered(room.A)
	room.Server.Adopt(room.A)
	failed(t, room, room.Server.Capture(room.A, story.Image), "read disk", "input/output error")
	pc.Kill()
	if r := room.Server.CLI("image", "show", story.Image); r.Exit != 6 {
		t.Errorf("image show ended with exit code %d, want 6: there must be no version", r.Exit)
	}
}

// badTarget: a deploy that cannot write fails and names the place, and the disk boots nothing.
// A sound disk is then made right.
func badTarget(t *testing.T, room *story.Room) {
	bad := partition(t, room.Original, 15).Start/512 + 4000
	pc := room.B.BootFaulty(vm.WriteFault, bad)
	failed(t, room, room.Server.Deploy(story.Image, room.B), "write disk", "input/output error")
	pc.Kill()
	if boots(t, room.B.Disk) {
		t.Error("a disk whose deploy failed has a boot sector with its signature")
	}
	makeRight(t, room)
}

// noSpace: the file system under the virtual disk is full; to the PC that is a disk that fails.
func noSpace(t *testing.T, room *story.Room) {
	mount := t.TempDir()
	mustRun(t, "mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", mount)
	t.Cleanup(func() { mustRun(t, "umount", "-l", mount) })
	room.B.Disk = filepath.Join(mount, "disk.img")
	mustRun(t, "truncate", "-s", fmt.Sprint(story.Size(t, room.Original)), room.B.Disk)
	pc := room.B.Boot()
	failed(t, room, room.Server.Deploy(story.Image, room.B), "write disk")
	pc.Kill()
	if boots(t, room.B.Disk) {
		t.Error("a disk whose deploy failed has a boot sector with its signature")
	}
	mustRun(t, "mount", "-o", "remount,size=600m", mount)
	makeRight(t, room)
}

// makeRight orders a deploy to B, which must now succeed.
func makeRight(t *testing.T, room *story.Room) {
	t.Helper()
	task := room.Server.Deploy(story.Image, room.B)
	pc := room.B.Boot()
	room.Server.WaitTask(task, nil)
	pc.Wait()
	testdisk.Equal(t, room.Original, room.B.Disk)
}

// powerCuts: PCs B and C lose power again and again while they are deployed to. After each cut a disk boots nothing, or
// all is there; each deploy that is let finish gives the right disk. A finished disk is followed by a blank one.
func powerCuts(t *testing.T, room *story.Room, cuts int) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	victims := []*victim{{pc: room.B}, {pc: room.C}}
	for cut := 0; cut < cuts; {
		for _, v := range victims {
			v.start(t, room)
		}
		for _, v := range victims {
			v.began(t, room)
		}
		// Of two PCs that began side by side one loses power first.
		random.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
		for _, v := range victims {
			if v.attempts < maxCuts {
				time.Sleep(time.Duration(random.Int64N(int64(4 * time.Second))))
			} else {
				room.Server.WaitTask(v.task, nil)
			}
			if v.cut(t, room) {
				cut++
			}
		}
	}
	for _, v := range victims {
		if v.task != "" {
			v.start(t, room)
			room.Server.WaitTask(v.task, nil)
			v.cut(t, room)
		}
	}
}

// maxCuts is how often one deploy is cut before it is let finish: the server gives up a task that keeps failing to end.
const maxCuts = 5

// victim is a PC whose power fails.
type victim struct {
	pc       *lab.PC
	task     string // its deploy; empty when that is done
	attempts int    // how often it had begun before the PC was switched on
	machine  *vm.VM
}

// start switches the PC on, with a new disk and task if it has none.
func (v *victim) start(t *testing.T, room *story.Room) {
	t.Helper()
	v.attempts = 0
	if v.task == "" {
		v.pc.Disk = lab.BlankDisk(t, story.Size(t, room.Original))
		v.task = room.Server.Deploy(story.Image, v.pc)
	} else {
		v.attempts = attemptsOf(room.Server.Task(v.task))
	}
	v.machine = v.pc.Boot()
}

// began waits until the deploy runs.
func (v *victim) began(t *testing.T, room *story.Room) {
	t.Helper()
	room.Server.WaitTask(v.task, func(task lab.Task) bool { return attemptsOf(task) > v.attempts })
}

// cut ends the PC and tells whether that hit a running deploy.
// The disk must be right when the task is done, or when it boots.
func (v *victim) cut(t *testing.T, room *story.Room) (hit bool) {
	t.Helper()
	v.machine.Kill()
	task := room.Server.Task(v.task)
	done := task.State == "done"
	t.Logf("power cut at %s: task %s, %+v", v.pc.Name, task.State, task.Runs[0].Operations[0].Progress)
	if done || boots(t, v.pc.Disk) {
		testdisk.Equal(t, room.Original, v.pc.Disk)
	}
	if done {
		v.task = ""
	}
	return !done
}

// attemptsOf tells how often the first operation of a task was begun.
func attemptsOf(task lab.Task) int { return task.Runs[0].Operations[0].Attempts }
