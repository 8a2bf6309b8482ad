package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/quantity"
)

// disks runs disk commands as a user does, in a directory of its own.
type disks struct {
	t   *testing.T
	dir string
}

func newDisks(t *testing.T) *disks { return &disks{t, t.TempDir()} }

func (d *disks) path(name string) string { return filepath.Join(d.dir, name) }

// make makes a disk file with what the shell commands do to $D.
func (d *disks) make(name, commands string) []byte {
	d.t.Helper()
	disktest.Run(d.t, "", "sh", "-ec", "D="+d.path(name)+"; truncate -s 8M $D; "+commands)
	return d.read(name)
}

func (d *disks) read(name string) []byte {
	d.t.Helper()
	b, err := os.ReadFile(d.path(name))
	if err != nil {
		d.t.Fatal(err)
	}
	return b
}

// run is a command line in which @ before a name stands for the directory. It gives both outputs.
func (d *disks) run(code int, line string, wants ...string) string {
	d.t.Helper()
	var out, errs bytes.Buffer
	root := newRootCmd()
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetIn(strings.NewReader(""))
	root.SetArgs(strings.Fields(strings.ReplaceAll(line, " @", " "+d.dir+"/")))
	got := report(&errs, root.ExecuteContext(d.t.Context()))
	text := out.String() + errs.String()
	if got != code {
		d.t.Errorf("clonecast %s: exit code %d, want %d\n%s", line, got, code, text)
	}
	for _, want := range wants {
		if !strings.Contains(text, want) {
			d.t.Errorf("clonecast %s: no %q in\n%s", line, want, text)
		}
	}
	return out.String()
}

const fillRandom = "head -c 8M /dev/urandom >$D; "

func TestDiskPolicies(t *testing.T) {
	d := newDisks(t)
	partition := "printf 'start=64,size=4000,type=1\nstart=4160,size=4000\nstart=8192,size=4000\n' | sfdisk -q -X dos $D"
	source := d.make("source", fillRandom+partition+"; truncate -s 2048000 $D.p; mkfs.fat -F 12 $D.p >/dev/null; "+
		"dd if=$D.p of=$D seek=64 conv=notrunc status=none")
	before := d.make("target", fillRandom+partition)

	d.run(exitUsage, "disk capture @source lab --store @store --policy 3=swap", "not of the form")
	d.run(exitUsage, "disk capture @source lab --store @store --policy 2:3=skip", "there are 1")
	d.run(exitRefused, "disk capture @source lab --store @store --policy 2=format",
		"cannot make anew", "hint: FAT and swap")
	d.run(exitRefused, "disk capture @source lab --store @store --policy 9=skip", "no partition 9")
	d.run(exitOK, "disk inspect @source --policy 1=format,2=skip", "partition 1 is stored as an empty fat12",
		"partition 2 is not captured, and a deploy leaves it as it is")
	d.run(exitOK, "disk capture @source lab --store @store --policy 1=format --policy 2=skip", "captured")
	d.run(exitRefused, "disk deploy lab @target --store @store", "declined; nothing was written")
	out := d.run(exitOK, "disk deploy lab @target --store @store --yes --json")
	var summary struct {
		Saved []string `json:"saved_tables"`
	}
	if err := json.Unmarshal([]byte(lastLine(out)), &summary); err != nil ||
		len(summary.Saved) != 1 || summary.Saved[0] != d.path("target.old-table.json") {
		t.Fatalf("summary %s, %v", lastLine(out), err)
	}
	after := d.read("target")
	if kept := [2]int{4160 * 512, 8160 * 512}; !bytes.Equal(after[kept[0]:kept[1]], before[kept[0]:kept[1]]) {
		t.Error("the skipped partition was changed")
	}
	if raw := [2]int{8192 * 512, 12192 * 512}; !bytes.Equal(after[raw[0]:raw[1]], source[raw[0]:raw[1]]) ||
		!bytes.Equal(after[:512], source[:512]) {
		t.Error("the third partition and the table are not the source's")
	}

	// The same on a target that has the table already writes no second file.
	d.run(exitOK, "disk deploy lab @target --store @store --yes", "holds lab@1 already")
	d.run(exitRefused, "disk restore-table @target.old-table.json @target", "declined; nothing was written")
	d.make("other", "truncate -s 9M $D")
	d.run(exitRefused, "disk restore-table @target.old-table.json @other --yes", "choose the disk that it was saved from")
	d.run(exitOK, "disk restore-table @target.old-table.json @target --yes", "is what it was")
	if now := d.read("target"); !bytes.Equal(now[:64*512], before[:64*512]) {
		t.Error("the table was not put back")
	}
	d.run(exitNotFound, "disk restore-table @nothing @target --yes")
	d.run(exitFailed, "disk restore-table @store/format @target --yes", "saved table")

	// Kept by the deploy alone; another table than the one saved before goes to another file.
	d.run(exitOK, "disk capture @source all --store @store")
	d.run(exitRefused, "disk deploy all @target --store @store --yes --policy 3=raw", "a deploy cannot raw")
	d.run(exitOK, "disk deploy all @target --store @store --yes --policy 3=skip",
		"is saved in "+d.path("target.old-table.json"))
	if now := d.read("target"); !bytes.Equal(now[8192*512:12192*512], source[8192*512:12192*512]) {
		t.Error("the partition that the deploy was to skip was changed")
	}
	d.make("target", "printf 'start=2048,size=100\n' | sfdisk -q -X gpt --wipe always $D")
	d.run(exitOK, "disk deploy all @target --store @store --yes", "is saved in "+d.path("target.old-table.json.2"))
	d.make("target", fillRandom+partition)
	d.run(exitNotFound, "disk deploy all @target --store @store --yes --save-table @no/such",
		"--save-table FILE puts it elsewhere")
}

func TestSeveralDisks(t *testing.T) {
	d := newDisks(t)
	first := d.make("first", fillRandom+"printf 'start=64,size=4000\n' | sfdisk -q -X dos $D")
	second := d.make("second", fillRandom+"printf 'start=2048,size=4000\n' | sfdisk -q -X gpt $D")
	for _, name := range []string{"a", "b"} {
		d.make(name, fillRandom)
	}
	d.run(exitUsage, "disk capture @first two --also @second --store @store --policy 3:1=skip", "there are 2")
	d.run(exitOK, "disk capture @first two --also @second --store @store",
		"captured "+d.path("first")+" and "+d.path("second"), "partition 1 is copied block by block")
	d.run(exitRefused, "disk deploy two @a --store @store --yes", "holds 2 disks, targets are given for 1")
	d.run(exitRefused, "disk deploy two @a @a --store @store --yes", "are the same disk")
	d.run(exitNotFound, "disk deploy two @a @c --store @store --yes", "truncate -s 8388608 "+d.path("c"))
	d.run(exitUsage, "disk deploy two --store @store --yes", "either by PATH or with --rule")
	d.run(exitUsage, "disk deploy two @a @b --rule bus=nvme --store @store --yes", "either by PATH or with --rule")
	const none = `no disk fits the rule "serial=no-such-disk"`
	d.run(exitRefused, "disk deploy two --rule serial=no-such-disk --rule serial=neither --store @store --yes", none)
	d.run(exitRefused, "disk deploy two --rule serial=no-such-disk --store @store --yes", none)
	d.run(exitUsage, "disk deploy two --rule sda --store @store --yes", "is no condition")
	d.run(exitOK, "disk deploy two @a @b --store @store --yes",
		"deployed two@1 to "+d.path("a"), "deployed two@1 to "+d.path("b"))
	for name, want := range map[string][]byte{"a": first[:4064*512], "b": second[:6048*512]} {
		if got := d.read(name); !bytes.Equal(got[:len(want)], want) {
			t.Errorf("disk %s is not what was captured", name)
		}
	}
	if got, size := d.read("b"), int(8*quantity.MiB); !bytes.Equal(got[size-33*512:], second[size-33*512:]) {
		t.Error("the backup table of the second disk is not what was captured")
	}
}

// TestDiskGrow deploys a disk with XFS and NTFS to a larger one.
// What is compressed harder takes less room and deploys to the same disk.
func TestDiskCompression(t *testing.T) {
	d := newDisks(t)
	source := d.make("source", "(head -c 4k /dev/zero; find /usr/share/doc /usr/share/perl -type f | sort | xargs cat) | "+
		"head -c 8M >$D; truncate -s 8M $D")
	d.run(exitUsage, "disk capture @source lab --store @store --compression best", "neither fast, normal nor small")
	var sizes []int64
	for _, level := range []string{"fast", "normal", "small"} {
		var summary struct {
			Stored int64 `json:"bytes_stored"`
		}
		out := d.run(exitOK, "disk capture @source lab --store @"+level+" --json --compression "+level)
		if err := json.Unmarshal([]byte(lastLine(out)), &summary); err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, summary.Stored)
		d.make("target", "truncate -s 8M $D")
		d.run(exitOK, "disk deploy lab @target --yes --store @"+level)
		if !bytes.Equal(source, d.read("target")) {
			t.Errorf("--compression %s: the target is not the source", level)
		}
	}
	if !(sizes[0] > sizes[1] && sizes[1] > sizes[2]) {
		t.Errorf("fast, normal and small store %d bytes, want less each", sizes)
	}
}

func TestDiskGrow(t *testing.T) {
	const mib = quantity.MiB
	d := newDisks(t)
	d.make("source", "truncate -s 341M $D; "+
		"printf 'start=2048,size=614400\nstart=618496,size=65536,type=7\n' | sfdisk -q -X dos $D")
	xfs, ntfs := quantity.Extent{Start: mib, Length: 300 * mib}, quantity.Extent{Start: 302 * mib, Length: 32 * mib}
	disktest.Run(t, "", "mkfs.xfs", "-q", disktest.LoopPart(t, d.path("source"), xfs))
	disktest.Run(t, "", "mkntfs", "-q", "-F", "-Q", disktest.LoopPart(t, d.path("source"), ntfs))
	d.make("target", "truncate -s 1000M $D")
	d.run(exitOK, "disk capture @source lab --store @store")
	d.run(exitUsage, "disk deploy lab @target --store @store --yes --grow first",
		"neither \"last\" nor a partition's number")
	d.run(exitRefused, "disk deploy lab @target --store @store --yes --grow 2:1", "a partition of disk 2 was to grow")
	d.run(exitRefused, "disk deploy lab @target --store @store --yes --grow 3",
		"the image has none", "hint: see the image's partitions")
	d.run(exitOK, "disk deploy lab @target --store @store --dry-run --grow last",
		"grow    partition 2 (ntfs): 32.0 MiB to 698.0 MiB")
	out := d.run(exitOK, "disk deploy lab @target --store @store --yes --grow 1,2 --json")
	var summary struct {
		Grown []struct {
			Disk, Partition int
			From, To        quantity.Bytes
			Volume          quantity.Bytes `json:"filesystem_bytes"`
		}
	}
	if err := json.Unmarshal([]byte(lastLine(out)), &summary); err != nil || len(summary.Grown) != 2 {
		t.Fatalf("summary %s, %v", lastLine(out), err)
	}
	ntfs.Length, xfs.Length = 698*mib, 301*mib
	for i, want := range []quantity.Extent{xfs, ntfs} {
		if g := summary.Grown[i]; g.To != want.Length || g.Volume < want.Length-64*quantity.KiB ||
			g.Disk != 1 || g.Partition != i+1 {
			t.Errorf("grown %+v, want %v", g, want.Length)
		}
	}
	disktest.Run(t, "", "xfs_repair", "-n", disktest.LoopPart(t, d.path("target"), xfs))
	disktest.Run(t, "", "ntfsresize", "-i", "-f", disktest.LoopPart(t, d.path("target"), ntfs))
	d.run(exitOK, "disk inspect @target", "698.0 MiB", "301.0 MiB")
}

func TestDiskInspect(t *testing.T) {
	d := newDisks(t)
	d.make("mbr", "printf 'label: dos\nlabel-id: 0x12345678\nstart=63,size=1000,type=7,bootable\n"+
		"start=2048,size=12000,type=5\nstart=2148,size=500,type=83\nstart=8192,size=600,type=da\n' | sfdisk -q $D")
	got := d.run(exitOK, "disk inspect @mbr")
	want := d.path("mbr") + `, 8.0 MiB, mbr 12345678, sectors of 512 bytes

NO  START  SIZE       TYPE             FILE SYSTEM  LABEL  STORED     MODE
-   1      80.5 KiB   2 boot areas     -            -      80.5 KiB   raw
1*  63     500.0 KiB  HPFS/NTFS/exFAT  -            -      500.0 KiB  raw
5   2148   250.0 KiB  Linux            -            -      250.0 KiB  raw
-   2648   2.7 MiB    free             -            -      -          -
6   8192   300.0 KiB  0xda             -            -      300.0 KiB  raw
-   8792   3.7 MiB    free             -            -      -          -

a capture stores 1.1 MiB of 8.0 MiB; * marks the active partition
`
	if !strings.HasPrefix(got, want) {
		t.Errorf("inspect shows\n%s\nwant\n%s", got, want)
	}

	d.make("gpt", "printf 'label: gpt\nlabel-id: 0FC63DAF-8483-4772-8E79-3D69D8477DE4\n"+
		"start=2048,size=1000,type=U,name=\"EFI system\"\n' | sfdisk -q $D; "+
		"printf bad | dd of=$D bs=1 seek=570 conv=notrunc status=none")
	d.run(exitOK, "disk inspect @gpt", "gpt 0fc63daf-8483-4772-8e79-3d69d8477de4",
		"table: the backup table is used: gpt: primary header at byte 512: checksum does not match", "EFI System")
	var summary struct {
		Table      string
		Notes      []string `json:"table_notes"`
		Partitions []map[string]any
	}
	out := d.run(exitOK, "disk inspect @gpt --json")
	if err := json.Unmarshal([]byte(lastLine(out)), &summary); err != nil ||
		len(summary.Partitions) != 1 || len(summary.Notes) != 1 {
		t.Fatalf("%+v, %v", summary, err)
	}
	p := summary.Partitions[0]
	if p["type"] != "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" || p["name"] != "EFI system" || p["guid"] == "" ||
		p["start"] != 1048576.0 || p["mode"] != "raw" {
		t.Errorf("%v", p)
	}
	for _, key := range []string{
		"number", "start", "size", "filesystem", "uuid", "label", "allocated", "discarded", "mode", "reason",
	} {
		if _, ok := p[key]; !ok {
			t.Errorf("no %q in %v", key, p)
		}
	}
	d.make("none", "true")
	d.run(exitOK, "disk inspect @none", "no partition table", "0   0      8.0 MiB")
	d.make("loop", "printf 'label: dos\nstart=2048,size=8192,type=5\nstart=2248,size=100\n' | sfdisk -q $D; "+
		"printf '\\000\\000' | dd of=$D bs=1 seek=$((2048*512+510)) conv=notrunc status=none")
	d.run(exitFailed, "disk inspect @loop", "mbr: EBR at byte 1048576: it does not end in 55 AA")
}

func TestMountedDiskIsNotCaptured(t *testing.T) {
	d := newDisks(t)
	d.make("disk", "mke2fs -q -F $D")
	dev := disktest.LoopPart(t, d.path("disk"), quantity.Extent{Length: 8 * quantity.MiB})
	dir := disktest.Mount(t, dev, "mount -t ext2 DEV DIR")
	d.run(exitRefused, "disk capture "+dev+" lab --store @store", "in use", "umount")
	d.run(exitOK, "disk inspect "+dev)
	disktest.Unmount(t, dir)
	d.run(exitOK, "disk capture "+dev+" lab --store @store")
}
