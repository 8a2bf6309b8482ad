package clone_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"clonecast/internal/clone"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/clone/layout"
	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/image"
	"clonecast/internal/kernelfs"
	"clonecast/internal/quantity"

	"github.com/google/go-cmp/cmp"
)

// growCase is a disk with one file system that is to grow.
type growCase struct {
	table string // sfdisk's input; START and SIZE are the partition's
	grow  string
	recipe
}

// TestGrowFileSystems deploys to a larger disk. The partition and its file system must
// fill it: the file system's own tools judge, and every file must be as it was. A second
// deploy must find its way, and a deploy without growing must put the old sizes back.
func TestGrowFileSystems(t *testing.T) {
	const start, larger = 8 * quantity.MiB, 150 * quantity.MiB
	gpt := "label: gpt\n1 : start=2048, size=2048, type=uefi\n3 : start=START, size=SIZE\n"
	logical := "label: dos\n1 : start=63, size=1000, type=7\n" +
		"2 : start=4096, size=EXTENDED, type=5\n5 : start=START, size=SIZE\n"
	ntfs, ntfs512, xfs := windowsRecipes()["ntfs 4096"], windowsRecipes()["ntfs 512"], xfsRecipes()["xfs"]
	ntfs.size, ntfs.files, ntfs512.size, ntfs512.files = 24*quantity.MiB, 40, 24*quantity.MiB, 40
	xfs.mount = "mount -t xfs -o nouuid DEV DIR"
	ext := extRecipes()["ext4"]
	for name, tc := range map[string]growCase{
		"NTFS, GPT":          {gpt, "last", ntfs},
		"NTFS, logical":      {logical, "5", ntfs},
		"NTFS 512, primary":  {"label: dos\nstart=START, size=SIZE, type=7\n", "1", ntfs512},
		"NTFS, no table":     {"", "0", ntfs},
		"XFS, GPT":           {gpt, "3", xfs},
		"btrfs, GPT":         {gpt, "last", btrfsRecipes()["btrfs"]},
		"ext4, logical":      {logical, "last", ext},
		"ext4, sparse_super": {gpt, "last", extRecipes()["ext4 sparse_super2"]},
	} {
		t.Run(name, func(t *testing.T) {
			part := quantity.Extent{Start: start, Length: tc.size}
			if tc.table == "" {
				part.Start = 0
			}
			source := disktest.Image(t, part.End()+2*quantity.MiB)
			if tc.table == "" {
				source = disktest.Image(t, part.End())
			} else {
				table := strings.NewReplacer("START", fmt.Sprint(int64(start/512)), "SIZE", fmt.Sprint(int64(tc.size/512)),
					"EXTENDED", fmt.Sprint(int64((start+tc.size)/512-4096))).Replace(tc.table)
				disktest.Run(t, table, "sfdisk", "-q", "--wipe=never", source)
			}
			dev := disktest.LoopPart(t, source, part)
			disktest.Command(t, tc.mkfs, "DEV", dev)
			want := tc.fill(t, dev)
			store := captureFile(t, source)

			target := disktest.Image(t, part.End()+larger)
			rule, err := image.ParseGrow(tc.grow)
			if err != nil {
				t.Fatal(err)
			}
			var grown deploy.Grown
			for _, run := range []string{"first", "second"} {
				grower := kernelfs.Disks{{Path: target, Sector: 512}}
				r := deployFile(t, store, target, deployOrder{Grow: rule, Grower: grower, Verify: true})
				grown = r.Grown[0]
				if run == "second" && (r.Written > r.Compared/2 || r.Kept < r.Compared/2) {
					t.Errorf("the second deploy wrote %v and kept %v of %v", r.Written, r.Kept, r.Compared)
				}
				t.Logf("%s deploy: %v compared, %v kept, %v written", run, r.Compared, r.Kept, r.Written)
				if len(r.Grown) != 1 || grown.To < part.Length+larger-2*quantity.MiB {
					t.Fatalf("%s deploy: %+v", run, r.Grown)
				}
				checkGrown(t, tc, target, part, grown, want)
			}
			if tc.table != "" {
				if out, err := disktest.Try("", "sfdisk", "--verify", target); err != nil || strings.Contains(out, "overlap") {
					t.Errorf("sfdisk --verify: %v\n%s", err, out)
				}
			}
			deployFile(t, store, target, deployOrder{})
			g := clone.Geometry{Size: fileSize(t, disktest.Open(t, target)), LogicalSector: 512}
			l, err := layout.Inspect(disktest.Open(t, target), g)
			p := l.Partitions[len(l.Partitions)-1]
			if err != nil || p.Length != part.Length && tc.table != "" || p.Mode != image.ModeClone {
				t.Errorf("deployed without growing: %+v, %v", p, err)
			}
		})
	}
}

// checkGrown looks at the partition and the file system that fills it.
func checkGrown(
	t *testing.T, tc growCase, target string, part quantity.Extent, grown deploy.Grown, want map[string]string,
) {
	t.Helper()
	g := clone.Geometry{Size: fileSize(t, disktest.Open(t, target)), LogicalSector: 512}
	l, err := layout.Inspect(disktest.Open(t, target), g)
	if err != nil {
		t.Fatal(err)
	}
	p := l.Partitions[len(l.Partitions)-1]
	if p.Start != part.Start || p.Length != grown.To || len(l.Table.Notes) != 0 {
		t.Fatalf("the partition is %d bytes at %d, want %d at %d; notes %q",
			p.Length, p.Start, grown.To, part.Start, l.Table.Notes)
	}
	where := quantity.Extent{Start: p.Start, Length: p.Length}
	dev := disktest.LoopPart(t, target, where)
	disktest.Command(t, tc.check, "DEV", dev)
	if diff := cmp.Diff(want, tc.read(t, dev)); diff != "" {
		t.Errorf("files (-captured +grown):\n%s", diff)
	}
	if grown.Volume == 0 {
		// Build machines lack CAP_SYS_RESOURCE, and no kernel grows sparse_super2.
		if !strings.HasPrefix(grown.Filesystem, "ext") || !strings.Contains(grown.Note, "the kernel") {
			t.Errorf("the file system did not grow: %+v", grown)
		}
		return
	}
	if grown.Volume < where.Length-64*quantity.KiB || grown.Note != "" {
		t.Errorf("the file system has %d bytes of %d: %s", grown.Volume, where.Length, grown.Note)
	}
	if grown.Filesystem != "ntfs" {
		return // internal/kernelfs fills them
	}
	dir := disktest.Mount(t, dev, tc.mount)
	defer disktest.Unmount(t, dir)
	name := filepath.Join(dir, "fill")
	if err := os.WriteFile(name, make([]byte, tc.size), 0o644); err != nil {
		t.Errorf("use the new room: %v", err)
	}
}

func captureFile(t *testing.T, source string) *memStore {
	t.Helper()
	disk := disktest.Open(t, source)
	layout, err := layout.Inspect(disk, clone.Geometry{Size: fileSize(t, disk), LogicalSector: 512, PhysicalSector: 512})
	if err != nil {
		t.Fatal(err)
	}
	store := &memStore{}
	if _, err := captureOne(disk, layout, store, captureOrder{Image: "test"}); err != nil {
		t.Fatal(err)
	}
	return store
}

func deployFile(t *testing.T, store *memStore, target string, opts deployOrder) deploy.Result {
	t.Helper()
	to := fileTarget{disktest.Open(t, target)}
	g := clone.Geometry{Size: fileSize(t, to.File), LogicalSector: 512}
	r, err := deployOne(&store.manifest.Disks[0], to, g, store, opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestPlanGrowth: who grows, by how much, and why not.
func TestPlanGrowth(t *testing.T) {
	const mib = quantity.MiB
	part := func(number int, start, length quantity.Bytes, fsType string) image.Partition {
		return image.Partition{Number: number, Mode: image.ModeClone, Filesystem: image.Filesystem{Type: fsType},
			Content: image.Content{Start: start, Length: length}}
	}
	windows := image.Disk{Size: 1000 * mib, LogicalSector: 512, TableKind: "mbr", Partitions: []image.Partition{
		part(1, mib, 100*mib, "ntfs"), part(2, 101*mib, 600*mib, "ntfs"), part(3, 701*mib, 298*mib, "ntfs")}}
	windows.Partitions[2].Type = recoveryMBR
	linux := image.Disk{Size: 1000 * mib, LogicalSector: 512, TableKind: "mbr",
		Table: []image.TableArea{{Data: make([]byte, 512)}, {Start: 500 * mib, Data: make([]byte, 512)}},
		Partitions: []image.Partition{
			part(1, mib, 400*mib, "ext4"), part(5, 501*mib, 300*mib, "xfs"), part(6, 900*mib, 90*mib, "vfat")}}
	linux.Partitions[2].Filesystem.Type = "fat32"
	raw := image.Disk{Size: 100 * mib, LogicalSector: 512, TableKind: "none",
		Partitions: []image.Partition{part(0, 0, 100*mib, "ext4")}}
	raw.Partitions[0].Mode, raw.Partitions[0].Reason = image.ModeRaw, "journal needs recovery"
	for name, tc := range map[string]struct {
		disk   image.Disk
		target quantity.Bytes
		grow   string
		want   []string
	}{
		"recovery behind Windows": {windows, 2000 * mib, "last", []string{
			"partition 2 (ntfs): stays at 600.0 MiB: partition 3 follows it",
		}},
		"the recovery by number": {windows, 2000 * mib, "3", []string{
			"partition 3 (ntfs): 298.0 MiB to 1.3 GiB",
		}},
		"as large as before": {windows, 1000 * mib, "2,3", []string{
			"partition 2 (ntfs): stays at 600.0 MiB: partition 3 follows it",
			"partition 3 (ntfs): 298.0 MiB to 299.0 MiB",
		}},
		"gaps": {linux, 2000 * mib, "1,5,6", []string{
			"partition 1 (ext4): 400.0 MiB to 499.0 MiB: the table of a logical partition follows it",
			"partition 5 (xfs): 300.0 MiB to 399.0 MiB: partition 6 follows it",
			"partition 6 (fat32): stays at 90.0 MiB: a FAT has no room for more clusters; " +
				"a larger one would move all files",
		}},
		"2 TiB": {windows, 3 * quantity.TiB, "3", []string{
			"partition 3 (ntfs): 298.0 MiB to 2.0 TiB: an MBR can describe 2.0 TiB of the disk",
		}},
		"raw": {raw, 200 * mib, "last", []string{
			"partition 0 (ext4): stays at 100.0 MiB: it was copied block by block: journal needs recovery",
		}},
		"nobody": {windows, 2000 * mib, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			rule, err := image.ParseGrow(tc.grow)
			if err != nil {
				t.Fatal(err)
			}
			plan, err := deploy.PlanGrowth(&tc.disk, clone.Geometry{Size: tc.target, LogicalSector: 512}, rule[0])
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, g := range plan {
				got = append(got, g.String())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
	var refused *clone.RefusedError
	g := clone.Geometry{Size: 2000 * mib, LogicalSector: 512}
	if _, err := deploy.PlanGrowth(&windows, g, image.GrowDisk{Numbers: []int{7}}); !errors.As(err, &refused) {
		t.Errorf("a partition that the image has not: %v", err)
	}
}

// TestGrowCut cuts the power at every write of a deploy that grows NTFS; the next deploy
// must end in the same disk.
func TestGrowCut(t *testing.T) {
	const start, size, larger = quantity.MiB, 8 * quantity.MiB, 16 * quantity.MiB
	source := disktest.Image(t, start+size)
	disktest.Run(t, "label: dos\nstart=2048, type=7\n", "sfdisk", "-q", source)
	dev := disktest.LoopPart(t, source, quantity.Extent{Start: start, Length: size})
	disktest.Run(t, "", "mkntfs", "-q", "-F", "-Q", "-c", "512", dev)
	store := captureFile(t, source)
	d, g := &store.manifest.Disks[0], clone.Geometry{Size: start + size + larger, LogicalSector: 512}
	opts := deployOrder{Grow: image.Grow{0: {Last: true}}}
	deploy := func(to *memDisk) error {
		r, err := deployOne(d, to, g, store, opts)
		if err == nil && r.Grown[0].Volume == 0 {
			t.Fatalf("nothing grew: %+v", r.Grown)
		}
		return err
	}
	before := randomBytes(9, int(g.Size))
	whole := &memDisk{b: before}
	if err := deploy(whole); err != nil {
		t.Fatal(err)
	}
	allocated := readNTFS(t, whole.b[start:]).Allocated
	for cut := 1; cut < whole.writes; cut++ {
		target := &memDisk{b: randomBytes(9, int(g.Size)), cutAt: cut}
		if err := deploy(target); !errors.Is(err, errCut) {
			t.Fatalf("cut after write %d: Deploy = %v, the cut went unreported", cut, err)
		}
		target.cutAt = 0
		if err := deploy(target); err != nil {
			t.Fatalf("rerun after write %d: %v", cut, err)
		}
		if v := readNTFS(t, target.b[start:]); v.Doubt != nil || !cmp.Equal(v.Allocated, allocated) {
			t.Errorf("rerun after write %d: doubt %+v, other allocation", cut, v.Doubt)
		}
		for _, e := range allocated {
			if string(target.b[start+e.Start:start+e.End()]) != string(whole.b[start+e.Start:start+e.End()]) {
				t.Errorf("rerun after write %d: bytes %d to %d differ", cut, e.Start, e.End())
			}
		}
	}
}

func readNTFS(t *testing.T, b []byte) filesystem.Volume {
	t.Helper()
	disk := &memDisk{b: b}
	l, err := layout.Inspect(disk, clone.Geometry{Size: quantity.Bytes(len(b)), LogicalSector: 512})
	if err != nil {
		t.Fatal(err)
	}
	return l.Partitions[0].Volume
}
