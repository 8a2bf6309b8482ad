package clone_test

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"clonecast/internal/blockdev"
	"clonecast/internal/clone"
	"clonecast/internal/clone/layout"
	"clonecast/internal/disktest"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// tableCase is a table made by the tools that make tables, on $D. S is the number of
// sectors in 4 MiB.
type tableCase struct {
	commands string
	repaired bool // the captured table has a bad copy: the deployed one is another, and sound
	bare     bool // no table: the whole disk is one partition
}

var tableCases = map[string]tableCase{
	"no table": {commands: "true", bare: true},
	"MBR, twenty logicals": {commands: `{ echo "label: dos"; echo "1 : start=63,size=$((S/8)),bootable"; ` +
		`echo "2 : start=$S,type=f"
		for i in $(seq 20); do echo "$((i+4)) : size=$((S/8+i))"; done; } | $SFDISK $D`},
	"MBR, logicals out of order, with gaps": {commands: `printf "label: dos\n1 : start=63,size=900\n` +
		`3 : start=$S,size=$((5*S)),type=5\n5 : start=$((S+100)),size=90\n6 : start=$((4*S)),size=90\n` +
		`7 : start=$((2*S)),size=90\n8 : start=$((3*S)),size=95\n9 : start=$((S+400)),size=90\n" | $SFDISK $D`},
	"MBR, logicals deleted": {commands: `{ echo "label: dos"; echo "4 : start=$S,type=5"; ` +
		`for i in 5 6 7 8 9; do echo "$i : size=$((S/8))"; done; } | $SFDISK $D
		$SFDISK --delete $D 5; $SFDISK --delete $D 7`},
	"MBR, empty container": {commands: `printf "label: dos\n1 : start=2048,size=500\n2 : start=$S,type=5\n" | $SFDISK $D`},
	"MBR by parted": {commands: `parted -s $D mklabel msdos mkpart primary 1MiB 5MiB mkpart extended 6MiB 20MiB ` +
		`mkpart logical 7MiB 9MiB mkpart logical 12MiB 14MiB`},
	"GPT": {commands: `printf "label: gpt\nstart=$S,size=900,type=U\n` +
		`size=$S,name=data\n7 : size=100\n" | $SFDISK $D`},
	"GPT, 8 entries":     {commands: `sgdisk -o -n 1:$S:+900 $D; sgdisk --resize-table=8 $D`},
	"GPT, 1024 entries":  {commands: `sgdisk -o -n 1:$S:+900 $D; sgdisk --resize-table=1024 $D`},
	"GPT, moved entries": {commands: `sgdisk -o -n 1:$S:+900 $D; sgdisk --move-main-table=50 $D`},
	"hybrid MBR":         {commands: `sgdisk -o -n 1:$S:+900 -n 2:$((2*S)):+900 $D; sgdisk --hybrid=1:2 $D`},
	"GPT by parted":      {commands: `parted -s $D mklabel gpt mkpart one 1MiB 5MiB mkpart two 6MiB 20MiB`},
	"GPT, bad primary": {repaired: true, commands: `sgdisk -o -n 1:$S:+900 $D; ` +
		`printf bad | dd of=$D bs=1 seek=$((SECTOR+60)) conv=notrunc status=none`},
	"GPT, bad backup": {repaired: true, commands: `sgdisk -o -n 1:$S:+900 $D; ` +
		`printf bad | dd of=$D bs=1 seek=$((BYTES-SECTOR+60)) conv=notrunc status=none`},
}

// sfdisk leaves the kernel out: partitions of a loop device would outlive it. parted does
// not, so that it makes its tables on files only.
const sfdisk = "sfdisk -q --no-reread --no-tell-kernel"

const tablesDisk = 28 * quantity.MiB

// newDevice makes a disk with some random bytes in every 256 KiB: a file, or a loop device
// where sectors are not those of files.
func newDevice(t *testing.T, seed byte, size quantity.Bytes, sector quantity.SectorSize) string {
	t.Helper()
	path := disktest.Image(t, size)
	f := disktest.Open(t, path)
	for at := 128 * quantity.KiB; at < size; at += 256 * quantity.KiB {
		if _, err := f.WriteAt(randomBytes(seed, 8192), int64(at)-4096); err != nil {
			t.Fatal(err)
		}
	}
	if sector == 512 {
		return path
	}
	return disktest.Loop(t, path, sector)
}

// TestTables captures disks with every kind of table and deploys them to disks that hold
// another GPT: of the same size, where the table must be the same byte for byte, and to a
// larger one. sfdisk must see the same on both, and sgdisk must find no fault in a GPT.
func TestTables(t *testing.T) {
	for name, tc := range tableCases {
		for _, sector := range []quantity.SectorSize{512, 4096} {
			if sector != 512 && strings.Contains(tc.commands, "parted") {
				continue
			}
			t.Run(fmt.Sprintf("%s/%d", name, sector), func(t *testing.T) {
				t.Parallel() // sgdisk waits a second after each change
				source := newDevice(t, 1, tablesDisk, sector)
				variables := fmt.Sprintf("D=%s S=%d SECTOR=%d BYTES=%d SFDISK='%s'\n",
					source, 4*quantity.MiB/quantity.Bytes(sector), sector, tablesDisk, sfdisk)
				disktest.Run(t, "", "sh", "-ec", variables+tc.commands)
				store := &memStore{}
				manifest := captureDevice(t, store, source)
				isGPT := manifest.Disks[0].TableKind == "gpt"
				sizes := []quantity.Bytes{tablesDisk}
				if isGPT || name == "MBR, twenty logicals" {
					sizes = append(sizes, tablesDisk+8*quantity.MiB)
				}
				if name == "GPT" {
					sizes = append(sizes, tablesDisk-8*quantity.MiB)
				}
				for _, size := range sizes {
					target := newDevice(t, 2, size, sector)
					disktest.Run(t, "label: gpt\n3 : start=2048,size=100\n", "sh", "-c", sfdisk+" "+target)
					deployDevice(t, store, &manifest.Disks[0], target)
					if tc.bare {
						continue
					}
					if want, got := sfdiskDump(t, source), sfdiskDump(t, target); got != want {
						t.Errorf("%v: sfdisk sees\n%s\nwant\n%s", size, got, want)
					}
					if size == tablesDisk && !tc.repaired {
						wantAreas(t, source, target, &manifest.Disks[0])
					}
					if isGPT && name != "hybrid MBR" {
						if out := disktest.Run(t, "", "sgdisk", "-v", target); !strings.Contains(out, "No problems found") {
							t.Errorf("%v: sgdisk says\n%s", size, out)
						}
					}
					if got, want := partedRows(t, target), partedRows(t, source); got != want && !tc.repaired {
						t.Errorf("%v: parted sees\n%s\nwant\n%s", size, got, want)
					}
				}
			})
		}
	}
}

func captureDevice(t *testing.T, store *memStore, path string) *image.Manifest {
	t.Helper()
	dev, err := blockdev.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	g := clone.Geometry{Size: dev.Size, LogicalSector: dev.LogicalSector, PhysicalSector: dev.PhysicalSector}
	l, err := layout.Inspect(dev, g)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := captureOne(dev, l, store, captureOrder{Image: "t"}); err != nil {
		t.Fatal(err)
	}
	return store.manifest
}

func deployDevice(t *testing.T, store *memStore, d *image.Disk, path string) {
	t.Helper()
	dev, err := blockdev.OpenExclusive(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	g := clone.Geometry{Size: dev.Size, LogicalSector: dev.LogicalSector, PhysicalSector: dev.PhysicalSector}
	if _, err := deployOne(d, dev, g, store, deployOrder{Verify: true}); err != nil {
		t.Fatal(err)
	}
	if r, err := deployOne(d, dev, g, store, deployOrder{}); err != nil || r.Written != 0 {
		t.Errorf("second deploy: %+v, %v", r, err)
	}
	l, err := layout.Inspect(dev, g)
	if err != nil || len(l.Table.Notes) != 0 {
		t.Errorf("inspected afterwards: notes %q, %v", l.Table.Notes, err)
	}
}

// sfdiskDump is what sfdisk sees, without the name of the device and what follows from the
// disk's size.
func sfdiskDump(t *testing.T, path string) string {
	t.Helper()
	out := strings.ReplaceAll(disktest.Run(t, "", "sfdisk", "--dump", path), path, "DISK")
	return regexp.MustCompile(`(?m)^last-lba: .*\n`).ReplaceAllString(out, "")
}

// partedRows is parted's list of partitions.
func partedRows(t *testing.T, path string) string {
	t.Helper()
	rows := strings.Split(disktest.Run(t, "", "parted", "-s", "-m", path, "unit", "s", "print"), "\n")
	return strings.Join(rows[2:], "\n")
}

// wantAreas compares table sectors and boot areas byte for byte.
func wantAreas(t *testing.T, source, target string, d *image.Disk) {
	t.Helper()
	from, to := disktest.Open(t, source), disktest.Open(t, target)
	check := func(what string, start, length quantity.Bytes) {
		a, b := make([]byte, length), make([]byte, length)
		if _, err := from.ReadAt(a, int64(start)); err != nil {
			t.Fatal(err)
		}
		if _, err := to.ReadAt(b, int64(start)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("the %s at byte %d is not the captured one", what, start)
		}
	}
	for _, a := range d.Table {
		check("table area", a.Start, quantity.Bytes(len(a.Data)))
	}
	for _, c := range d.Boot {
		check("boot area", c.Start, c.Length)
	}
}

// An MBR reaches 2 TiB of 512-byte sectors with its starts, and 4 TiB with its ends. What it
// says of such a disk is captured and deployed; the rest of a larger target stays unused.
func TestMBROnDisksBeyond2TiB(t *testing.T) {
	const size = 5 * quantity.TiB
	path := disktest.Image(t, size)
	script := "label: dos\nstart=2048,size=100\nstart=4294967000,size=200\n"
	disktest.Run(t, script, "sfdisk", "-q", path)
	// No tool makes it, and Linux reads it: a partition that begins before 2 TiB and ends behind.
	f := disktest.Open(t, path)
	entry := make([]byte, 16)
	if _, err := f.ReadAt(entry, 446+16); err != nil {
		t.Fatal(err)
	}
	copy(entry[12:], []byte{0, 16, 0, 0}) // 4096 sectors
	if _, err := f.WriteAt(entry, 446+16); err != nil {
		t.Fatal(err)
	}
	want := randomBytes(3, 1<<20)
	if _, err := f.WriteAt(want, 4294967000*512+1<<20); err != nil {
		t.Fatal(err)
	}
	store := &memStore{}
	manifest := captureDevice(t, store, path)
	target := disktest.Image(t, size+quantity.TiB)
	deployDevice(t, store, &manifest.Disks[0], target)
	if got, want := sfdiskDump(t, target), sfdiskDump(t, path); got != want {
		t.Errorf("sfdisk sees\n%s\nwant\n%s", got, want)
	}
	got := make([]byte, len(want))
	if _, err := disktest.Open(t, target).ReadAt(got, 4294967000*512+1<<20); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the content behind 2 TiB is not what was captured: %v", err)
	}
}

// A GPT's backup needs room behind the last partition, and nothing else of a disk's end does.
func TestGPTOnSmallerDisk(t *testing.T) {
	disk := tableDisk(t, 1, "label: gpt\nstart=2048,size=4096\n") // ends at 3 MiB
	store := &memStore{}
	captureTo(t, store, disk, inspected(t, disk, nil))
	for size, fits := range map[quantity.Bytes]bool{
		4 * quantity.MiB: true, 6177 * 512: true, 6176 * 512: false, 3 * quantity.MiB: false,
	} {
		target := &memDisk{b: randomBytes(9, int(size))}
		g := tableGeometry
		g.Size = size
		_, err := deployOne(&store.manifest.Disks[0], target, g, store, deployOrder{})
		var refused *clone.RefusedError
		if fits != (err == nil) || !fits && (!errors.As(err, &refused) || target.writes != 0) {
			t.Errorf("disk of %d bytes: Deploy = %v after %d writes", size, err, target.writes)
		}
	}
}
