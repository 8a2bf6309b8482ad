package probe

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"clonecast/internal/disktest"
	"clonecast/internal/quantity"
)

// lvmExtent is the extent size of the volume groups of the tests.
const lvmExtent = quantity.MiB

// TestLVM is the oracle test for physical volumes: everything that the map calls free is
// overwritten, then each logical volume, taken out by what LVM itself says of its extents,
// must be sound, with every file as before.
func TestLVM(t *testing.T) {
	pv := disktest.Image(t, 200*quantity.MiB)
	dev := disktest.Loop(t, pv, 512)
	disktest.LVM(t, dev,
		"pvcreate -y --metadatacopies 2 DEV", "vgcreate -s 1m lab DEV",
		"lvcreate -y -an -Zn -Wn -L 20m -n gap lab", "lvcreate -y -an -Zn -Wn -L 8m -n swap lab",
		"lvcreate -y -an -Zn -Wn -L 4m -n plain lab",
		"lvremove -y lab/gap", "lvcreate -y -an -Zn -Wn -L 12m -n gone lab", "lvcreate -y -an -Zn -Wn -L 60m -n root lab",
		"lvcreate -y -an -Zn -Wn -L 50m -n dirty lab", "lvremove -y lab/gone", "lvextend -L 75m lab/root",
	)
	segments := lvmSegments(t, dev)
	if len(segments["root"]) < 2 {
		t.Fatalf("segments %v: root is in one piece", segments)
	}
	root := fillVolume(t, pv, segments["root"], "mke2fs -q -t ext4 -b 1024 DEV", "mount -t ext4 -o init_itable=0 DEV DIR")
	dirty := fillVolume(t, pv, segments["dirty"], "mke2fs -q -t ext4 DEV", "mount -t ext4 DEV DIR")
	disktest.Run(t, "", "debugfs", "-w", "-R", "feature +needs_recovery", dirty.path)
	dirty.putBack(t, pv)
	swap := newVolume(t, segments["swap"])
	disktest.Run(t, "", "mkswap", "-q", swap.path)
	swap.putBack(t, pv)

	v := disktest.Volume(t, pv, Read)
	if v.Doubt != nil || v.Type != "LVM2_member" || v.UUID != disktest.Blkid(t, pv, "UUID") {
		t.Fatalf("volume %+v, doubt %+v", v, v.Doubt)
	}
	// At most: both metadata areas, root's files, all of dirty and plain, headers and marks.
	if used := quantity.Total(v.Allocated); used < 54*quantity.MiB || used > 80*quantity.MiB {
		t.Errorf("%v are in use", used)
	}
	for _, d := range v.Discarded {
		missing := disktest.Subtract(d.Extents, v.Allocated)
		if len(missing) > 0 || !strings.Contains(d.What, "logical volume root") {
			t.Errorf("discarded %s: %v are not allocated", d.What, missing)
		}
	}
	disktest.Scribble(t, pv, v.Allocated)
	disktest.LVM(t, dev, "vgck lab", "pvck DEV")
	if diff := cmp.Diff(segments, lvmSegments(t, dev)); diff != "" {
		t.Errorf("segments (-before +after):\n%s", diff)
	}
	root.takeOut(t, pv)
	disktest.Run(t, "", "e2fsck", "-fn", root.path)
	root.check(t, "mount -t ext4 DEV DIR")
	if dirty.differs(t, pv) {
		t.Error("dirty, which must be copied whole, has changed")
	}
	before := disktest.Blkid(t, swap.path, "UUID")
	if swap.takeOut(t, pv); before == "" || disktest.Blkid(t, swap.path, "UUID") != before {
		t.Error("swap has lost its header")
	}
}

// TestLVMDoubts has physical volumes that LVM's own tools make and of which no map is given.
func TestLVMDoubts(t *testing.T) {
	for name, tc := range map[string]struct {
		commands []string
		reason   string
	}{
		"no volume group": {[]string{"pvcreate -y DEV"}, "belongs to no volume group"},
		"no metadata":     {[]string{"pvcreate -y --metadatacopies 0 DEV"}, "0 metadata areas"},
		"exported": {[]string{"pvcreate -y DEV", "vgcreate lab DEV", "vgexport lab"},
			`volume group lab is "EXPORTED"`},
		"zero": {[]string{
			"pvcreate -y DEV", "vgcreate lab DEV", "lvcreate -y -an -Zn -Wn --type zero -L 8m -n zero lab",
		}, `logical volume zero is of type "zero"`},
	} {
		t.Run(name, func(t *testing.T) {
			pv := disktest.Image(t, 64*quantity.MiB)
			disktest.LVM(t, disktest.Loop(t, pv, 512), tc.commands...)
			v := disktest.Volume(t, pv, Read)
			if v.Type != "LVM2_member" || v.Doubt == nil || !strings.Contains(v.Doubt.Reason, tc.reason) ||
				v.UUID != disktest.Blkid(t, pv, "UUID") {
				t.Errorf("volume %+v, doubt %+v, want %q", v, v.Doubt, tc.reason)
			}
		})
	}
}

// TestLVMRefuses: what forbids a capture on a logical volume forbids that of the disk.
func TestLVMRefuses(t *testing.T) {
	pv := disktest.Image(t, 64*quantity.MiB)
	dev := disktest.Loop(t, pv, 512)
	disktest.LVM(t, dev, "pvcreate -y DEV", "vgcreate -s 1m lab DEV", "lvcreate -y -an -Zn -Wn -L 8m -n windows lab")
	at := int64(lvmSegments(t, dev)["windows"][0].Start)
	patch(t, pv, at, "\xeb\x58\x90-FVE-FS-")
	v := disktest.Volume(t, pv, Read)
	if v.Doubt == nil || !v.Doubt.Refuse || v.Doubt.Remedy == "" ||
		!strings.HasPrefix(v.Doubt.Reason, "logical volume windows: BitLocker") {
		t.Errorf("volume %+v, doubt %+v", v, v.Doubt)
	}
	disktest.LVM(t, dev, "lvcreate -y -an -Zn -Wn -L 8m -n inner lab")
	patch(t, pv, at, strings.Repeat("\x00", 16))
	inner := disktest.Image(t, 8*quantity.MiB)
	disktest.LVM(t, disktest.Loop(t, inner, 512), "pvcreate -y DEV")
	b, err := os.ReadFile(inner)
	if err != nil {
		t.Fatal(err)
	}
	e := lvmSegments(t, dev)["inner"][0]
	patch(t, pv, int64(e.Start), string(b))
	if v := disktest.Volume(t, pv, Read); v.Doubt != nil || len(disktest.Subtract([]quantity.Extent{e}, v.Allocated)) > 0 {
		t.Errorf("a physical volume inside of a logical volume: %+v, doubt %+v", v, v.Doubt)
	}
}

var rangesColumn = regexp.MustCompile(`^[^:]*:(\d+)-(\d+)$`)

// lvmSegments gives the places of each logical volume's extents, as LVM reports them.
func lvmSegments(t *testing.T, dev string) map[string][]quantity.Extent {
	t.Helper()
	out := map[string][]quantity.Extent{}
	column := disktest.LVM(t, dev, "pvs --noheadings --nosuffix --units b -o pe_start")
	start, err := strconv.ParseInt(strings.TrimSpace(column), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	report := disktest.LVM(t, dev, "lvs --noheadings --segments -O lv_name,seg_start_pe -o lv_name,seg_pe_ranges")
	for line := range strings.Lines(report) {
		fields := strings.Fields(line)
		m := rangesColumn.FindStringSubmatch(fields[1])
		var first, last quantity.Bytes
		if _, err := fmt.Sscan(m[1]+" "+m[2], &first, &last); err != nil {
			t.Fatal(err)
		}
		out[fields[0]] = append(out[fields[0]], quantity.Extent{
			Start:  quantity.Bytes(start) + first*lvmExtent,
			Length: (last - first + 1) * lvmExtent,
		})
	}
	if len(out) == 0 {
		t.Fatalf("lvs reports %q", report)
	}
	return out
}

// testVolume is a logical volume in a file of its own.
type testVolume struct {
	path   string
	at     []quantity.Extent
	hashes map[string]string
}

func newVolume(t *testing.T, at []quantity.Extent) *testVolume {
	t.Helper()
	return &testVolume{path: disktest.Image(t, quantity.Total(at)), at: at}
}

// fillVolume makes a file system with files for a logical volume and puts it on the disk.
func fillVolume(t *testing.T, pv string, at []quantity.Extent, mkfs, mount string) *testVolume {
	t.Helper()
	v := newVolume(t, at)
	disktest.Command(t, mkfs, "DEV", v.path)
	dir := disktest.Mount(t, v.path, mount)
	disktest.Fill(t, dir, 150, 120*quantity.KiB)
	v.hashes = disktest.Hashes(t, dir)
	disktest.Unmount(t, dir)
	v.putBack(t, pv)
	return v
}

// putBack writes the volume to its extents on the disk, takeOut reads it from there.
func (v *testVolume) putBack(t *testing.T, pv string) { v.copy(t, v.path, pv, true) }
func (v *testVolume) takeOut(t *testing.T, pv string) { v.copy(t, pv, v.path, false) }

func (v *testVolume) copy(t *testing.T, from, to string, toDisk bool) {
	t.Helper()
	in, out := disktest.Open(t, from), disktest.Open(t, to)
	inside := quantity.Bytes(0)
	for _, e := range v.at {
		read, write := e.Start, inside
		if toDisk {
			read, write = inside, e.Start
		}
		from, to := io.NewSectionReader(in, int64(read), int64(e.Length)), io.NewOffsetWriter(out, int64(write))
		if _, err := io.Copy(to, from); err != nil {
			t.Fatal(err)
		}
		inside += e.Length
	}
}

// check compares the files with those that were written.
func (v *testVolume) check(t *testing.T, mount string) {
	t.Helper()
	dir := disktest.Mount(t, v.path, mount)
	defer disktest.Unmount(t, dir)
	if diff := cmp.Diff(v.hashes, disktest.Hashes(t, dir)); diff != "" {
		t.Errorf("files changed (-before +after):\n%s", diff)
	}
}

// differs tells whether the disk has something else than the volume.
func (v *testVolume) differs(t *testing.T, pv string) bool {
	t.Helper()
	now := &testVolume{path: filepath.Join(t.TempDir(), "now"), at: v.at}
	if err := os.WriteFile(now.path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	now.takeOut(t, pv)
	a, err := os.ReadFile(v.path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(now.path)
	if err != nil {
		t.Fatal(err)
	}
	return !bytes.Equal(a, b)
}
