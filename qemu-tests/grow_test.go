package qemutests

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"clonecast/qemu-tests/lab"
	"clonecast/qemu-tests/story"
	"clonecast/qemu-tests/testdisk"
	"clonecast/qemu-tests/vm"
)

// grownDisk is the target: the image's disk has 8 GiB.
const grownDisk = 20 << 30

// TestGrow deploys an image of an 8 GiB disk to a PC with one of 20 GiB, and lets every partition take the room behind it. The
// appliance's kernel grows ext4, XFS and btrfs, the engine NTFS; the file systems' own tools judge, and both systems boot.
func TestGrow(t *testing.T) {
	say := func(format string, args ...any) { t.Logf("*** "+format, args...) }
	source := roomyDisk(t)
	net := lab.NewNetwork(t)
	server := net.NewServer(lab.FullDHCP)
	if err := os.MkdirAll(server.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	capture(t, source, "roomy", filepath.Join(server.Data, "store"))
	server.Start()
	pc := net.PC(1, lab.BlankDisk(t, grownDisk))
	running := pc.Boot(vm.Deadline(20 * time.Minute))
	server.WaitRegistered(pc, slow)
	server.Adopt(pc)
	var done struct {
		Grown []struct {
			Partition  int
			Filesystem string
			From, To   int64
			Volume     int64 `json:"filesystem_bytes"`
			Note       string
		}
	}
	server.WaitTask(server.DeployGrowing("roomy", "5,6,7,8", pc), 15*time.Minute, nil).Result(t, pc, &done)
	running.Wait(story.Patience)

	if len(done.Grown) != 4 {
		t.Fatalf("grown: %+v", done.Grown)
	}
	for _, g := range done.Grown {
		say("partition %d: %+v", g.Partition, g)
		if g.To < g.From+500<<20 || g.Volume < g.To-1<<20 {
			t.Errorf("partition %d did not grow as it should: %+v", g.Partition, g)
		}
	}
	mustRun(t, "sfdisk", "--verify", pc.Disk)
	for number, fs := range map[int]string{5: "ext4", 6: "xfs", 7: "btrfs", 8: "ntfs"} {
		p := partition(t, pc.Disk, number)
		path := sparsePartition(t, pc.Disk, p)
		testdisk.Check(t, fs, path)
		if was := partition(t, source, number); p.Start != was.Start || p.Size < was.Size+500<<20 {
			t.Errorf("partition %d is %+v, was %+v", number, p, was)
		}
		if id := testdisk.Identify(t, path); id != testdisk.Identify(t, sparsePartition(t, source, partition(t, source, number))) {
			t.Errorf("partition %d is now %+v", number, id)
		}
	}
	story.BootBoth(t, pc, say)
}

// roomyDisk is the dual-boot disk on 8 GiB: Windows and Linux as they are, then XFS, btrfs and NTFS, with room behind each.
func roomyDisk(t *testing.T) string {
	t.Helper()
	disk := testdisk.DualBoot(t, 2048)
	if err := os.Truncate(disk, 8<<30); err != nil {
		t.Fatal(err)
	}
	const gib = 2 << 20 // sectors
	table := fmt.Sprintf("label: dos\nlabel-id: 0x%s\n", strings.TrimSpace(mustRun(t, "blkid", "--probe", "--output", "value", "--match-tag", "PTUUID", disk)))
	windows, linux := partition(t, disk, 1), partition(t, disk, 5)
	extended := regexp.MustCompile(`2 : start= *(\d+)`).FindStringSubmatch(mustRun(t, "sfdisk", "--dump", disk))
	table += fmt.Sprintf("1 : start=%d, size=%d, type=7, bootable\n", windows.Start/512, windows.Size/512)
	table += fmt.Sprintf("2 : start=%s, size=%d, type=f\n", extended[1], 5*gib)
	table += fmt.Sprintf("5 : start=%d, size=%d, type=83\n", linux.Start/512, linux.Size/512)
	made := []struct {
		number, start, size int
		mkfs                string
	}{
		{6, gib, 300 << 11, "mkfs.xfs -q"},
		{7, 5 * gib / 2, 256 << 11, "mkfs.btrfs -q"},
		{8, 4 * gib, 64 << 11, "mkntfs -q -F -Q"},
	}
	for _, p := range made {
		table += fmt.Sprintf("%d : start=%d, size=%d, type=83\n", p.number, p.start, p.size)
	}
	mustRun(t, "sh", "-c", `printf '%s' "$0" | sfdisk -q --wipe=never "$1"`, table, disk)
	for _, p := range made {
		path := filepath.Join(t.TempDir(), "partition")
		mustRun(t, "sh", "-ec", fmt.Sprintf(`truncate -s %d "$0"; %s "$0"; dd if="$0" of="$1" bs=1M seek=%d conv=notrunc,sparse status=none`,
			p.size*512, p.mkfs, p.start>>11), path, disk)
	}
	return disk
}

// sparsePartition copies a partition into a file of its own, holes and all.
func sparsePartition(t *testing.T, disk string, p testdisk.Partition) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), fmt.Sprintf("partition-%d", p.Number))
	mustRun(t, "sh", "-ec", `dd if="$0" of="$1" bs=1M iflag=skip_bytes,count_bytes skip="$2" count="$3" conv=sparse status=none; truncate -s "$3" "$1"`,
		disk, path, fmt.Sprint(p.Start), fmt.Sprint(p.Size))
	return path
}
