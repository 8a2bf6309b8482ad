package clone_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"clonecast/internal/clone"
	"clonecast/internal/clone/layout"
	"clonecast/internal/disktest"
	"clonecast/internal/image"
	"clonecast/internal/quantity"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// recipe is a file system as its own tools make it. In the commands DEV stands for the
// partition's device and DIR for the mount point.
type recipe struct {
	size      quantity.Bytes
	mkfs      string
	mount     string // "": files are copied with mtools
	check     string
	files     int
	longest   quantity.Bytes // of the files
	partclone string         // the program's name; "" where its map is wrong

	more func(t *testing.T, dir string) // does more to the files

	// Set where the files are neither mounted nor copied with mtools.
	copy   string // copies the files in DIR
	hashes func(t testing.TB, dev string) map[string]string
}

func recipes() map[string]recipe {
	out := map[string]recipe{}
	maps.Copy(out, extRecipes())
	maps.Copy(out, windowsRecipes())
	maps.Copy(out, xfsRecipes())
	maps.Copy(out, btrfsRecipes())
	maps.Copy(out, f2fsRecipes())
	return out
}

// extRecipes are the layouts that differ in where the bitmaps are and what they mean.
func extRecipes() map[string]recipe {
	out := map[string]recipe{}
	ext := func(name, partclone, args string) {
		out[name] = recipe{
			size: 48 * quantity.MiB, mkfs: "mke2fs -q -t " + args + " DEV", mount: "mount -t ext4 -o init_itable=0 DEV DIR",
			check: "e2fsck -fn DEV", files: 150, longest: 120 * quantity.KiB, partclone: partclone,
		}
	}
	ext("ext4", "extfs", "ext4 -b4096")
	ext("ext4 1k", "extfs", "ext4 -b1024")
	ext("ext4 2k", "extfs", "ext4 -b2048")
	ext("ext4 no 64bit", "extfs", "ext4 -O ^64bit")
	ext("ext4 uninit_bg", "extfs", "ext4 -b1024 -O ^metadata_csum,uninit_bg")
	ext("ext4 uninit_bg no 64bit", "extfs", "ext4 -b1024 -O ^metadata_csum,uninit_bg,^64bit")
	ext("ext4 no checksums", "extfs", "ext4 -b1024 -O ^metadata_csum,^uninit_bg")
	ext("ext4 meta_bg 1k", "extfs", "ext4 -b1024 -O meta_bg,^resize_inode")
	ext("ext4 meta_bg 4k", "extfs", "ext4 -b4096 -O meta_bg,^resize_inode")
	ext("ext4 meta_bg small groups", "extfs", "ext4 -b4096 -g 1024 -O meta_bg,^resize_inode")
	ext("ext4 bigalloc 1k", "", "ext4 -b1024 -C16384 -O bigalloc")
	ext("ext4 bigalloc 4k", "", "ext4 -b4096 -C65536 -O bigalloc")
	ext("ext4 sparse_super2", "extfs", "ext4 -b1024 -O sparse_super2,^resize_inode")
	ext("ext4 no sparse_super", "extfs", "ext4 -b1024 -O ^sparse_super,^resize_inode")
	ext("ext4 no flex_bg", "extfs", "ext4 -b1024 -O ^flex_bg")
	ext("ext4 no resize_inode", "extfs", "ext4 -b1024 -O ^resize_inode")
	ext("ext4 seed, orphan file", "extfs", "ext4 -O metadata_csum_seed,orphan_file")
	ext("ext4 no journal", "extfs", "ext4 -O ^has_journal")
	ext("ext3", "extfs", "ext3 -b1024")
	ext("ext2", "extfs", "ext2 -b1024")
	ext("ext2 revision 0", "extfs", "ext2 -b1024 -r0")
	odd := out["ext4 1k"]
	odd.size += 5*quantity.MiB + 3*quantity.KiB
	out["ext4 short last group"] = odd
	return out
}

// btrfsRecipes have no judge in partclone, which copies free blocks and leaves out second
// copies; the reader's own tests compare its map with what btrfs-progs print.
func btrfsRecipes() map[string]recipe {
	out := map[string]recipe{}
	for name, args := range map[string]string{
		"btrfs": "", "btrfs single": "-m single", "btrfs DUP data": "-m dup -d dup", "btrfs mixed": "--mixed -n 4096",
		"btrfs 64 KiB nodes": "-n 65536", "btrfs xxhash": "--csum xxhash", "btrfs blake2": "--csum blake2", "btrfs zstd": "",
	} {
		mount := "mount -t btrfs DEV DIR"
		if name == "btrfs zstd" {
			mount = "mount -t btrfs -o compress-force=zstd DEV DIR"
		}
		size := 160 * quantity.MiB
		if name == "btrfs DUP data" {
			size = 240 * quantity.MiB
		}
		out[name] = recipe{
			size: size, mkfs: "mkfs.btrfs -q -f " + args + " DEV", mount: mount,
			check: "btrfs check --readonly --check-data-csum DEV", files: 150, longest: 60 * quantity.KiB, more: snapshot,
		}
	}
	return out
}

// snapshot takes a snapshot of a btrfs, and deletes and writes files that are in it.
func snapshot(t *testing.T, dir string) {
	t.Helper()
	disktest.Run(t, "", "btrfs", "subvolume", "snapshot", "-r", dir, filepath.Join(dir, "snapshot"))
	disktest.Run(t, "", "rm", "-r", filepath.Join(dir, "d3"))
	disktest.Fill(t, filepath.Join(dir, "later"), 60, 60*quantity.KiB)
}

// f2fsRecipes are filled and read by f2fs-tools: not every kernel has the driver.
func f2fsRecipes() map[string]recipe {
	f2fs := func(partclone, args string) recipe {
		return recipe{
			size: 100 * quantity.MiB, mkfs: "mkfs.f2fs -q -f " + args + " DEV", check: "fsck.f2fs -f --dry-run DEV",
			copy: "sload.f2fs -f DIR DEV", hashes: disktest.HashesF2FS,
			files: 60, longest: 120 * quantity.KiB, partclone: partclone,
		}
	}
	return map[string]recipe{
		"f2fs":                  f2fs("f2fs", ""),
		"f2fs large NAT bitmap": f2fs("", "-i"), // partclone cannot read it
		"f2fs checksums":        f2fs("f2fs", "-O extra_attr,inode_checksum,sb_checksum"),
	}
}

// windowsRecipes are NTFS, FAT and exFAT.
func windowsRecipes() map[string]recipe {
	out := map[string]recipe{}
	for _, cluster := range []int{512, 4096, 65536, 2 << 20} {
		out[fmt.Sprintf("ntfs %d", cluster)] = recipe{
			size: max(64*quantity.MiB, quantity.Bytes(64*cluster)),
			mkfs: fmt.Sprintf("mkntfs -q -F -Q -c %d DEV", cluster), mount: "ntfs-3g DEV DIR",
			check: "ntfsresize -i -f DEV", files: min(150, 60<<20/cluster), longest: 120 * quantity.KiB, partclone: "ntfs",
		}
	}
	for _, cluster := range []string{"4K", "32K", "128K"} {
		out["exfat "+cluster] = recipe{
			size: 64 * quantity.MiB, mkfs: "mkfs.exfat -c " + cluster + " DEV", mount: "mount.exfat-fuse DEV DIR",
			check: "fsck.exfat -n DEV", files: 150, longest: 120 * quantity.KiB, partclone: "exfat",
		}
	}
	fat := func(name string, size quantity.Bytes, files int, partclone, args string) {
		out[name] = recipe{
			size: size, mkfs: "mkfs.fat -I " + args + " DEV", check: "fsck.fat -n DEV",
			files: files, longest: min(size/100, 120*quantity.KiB), partclone: partclone,
		}
	}
	fat("fat12", 1440*quantity.KiB, 60, "", "-F 12") // partclone takes free clusters for used
	fat("fat16", 40*quantity.MiB, 150, "fat", "-F 16")
	fat("fat32", 300*quantity.MiB, 150, "fat", "-F 32")
	fat("fat32 small", 40*quantity.MiB, 150, "fat", "-F 32 -s 1")
	fat("fat32 4 KiB sectors", 290*quantity.MiB, 150, "fat", "-F 32 -S 4096 -s 1")
	return out
}

func xfsRecipes() map[string]recipe {
	out := map[string]recipe{}
	for name, args := range map[string]string{
		"xfs": "-b size=4096", "xfs 1k": "-b size=1024", "xfs 4k sectors": "-s size=4096",
		"xfs rmapbt": "-m rmapbt=1,reflink=1", "xfs log su": "-l su=256k",
	} {
		out[name] = recipe{
			size: 300 * quantity.MiB, mkfs: "mkfs.xfs -q -f " + args + " DEV", mount: "mount -t xfs DEV DIR",
			check: "xfs_repair -n DEV", files: 150, longest: 120 * quantity.KiB, partclone: "xfs",
		}
	}
	for levels, holes := range map[int]int{2: 1000, 3: 12000} { // of the trees of free extents
		deep := out["xfs 1k"]
		deep.mkfs = "mkfs.xfs -q -f -b size=1024 -d agcount=2 DEV"
		deep.more = func(t *testing.T, dir string) { punchHoles(t, filepath.Join(dir, "punched"), holes) }
		out[fmt.Sprintf("xfs %d levels", levels)] = deep
	}
	return out
}

// punchHoles makes a file with n holes of a block of 1 KiB: as many free extents.
func punchHoles(t *testing.T, path string, n int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(bytes.Repeat([]byte("content "), 2*n*1024/8)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil { // blocks are given out now
		t.Fatal(err)
	}
	const mode = unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE
	for i := range n {
		if err := unix.Fallocate(int(f.Fd()), mode, int64(2*i*1024), 1024); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFileSystems is the test of the whole engine, one file system at a time: a disk
// that held random bytes is captured and deployed to one that holds other random
// bytes. The file system's own tools must find nothing, and every file must be as it
// was. What partclone stores must be stored too, and little more.
func TestFileSystems(t *testing.T) {
	for name, r := range recipes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			part := quantity.Extent{Start: quantity.MiB, Length: r.size}
			source := makeDisk(t, r, part)
			dev := disktest.LoopPart(t, source, part)
			disktest.Command(t, r.mkfs, "DEV", dev)
			want := r.fill(t, dev)

			target := randomDisk(t, 2, part.End()+quantity.MiB)
			allocated := reimage(t, source, target)
			r.checkAllocated(t, dev, allocated)
			dev = disktest.LoopPart(t, target, part)
			disktest.Command(t, r.check, "DEV", dev)
			if diff := cmp.Diff(want, r.read(t, dev)); diff != "" {
				t.Errorf("files (-captured +deployed):\n%s", diff)
			}
		})
	}
}

// makeDisk makes a disk of random bytes with one partition.
func makeDisk(t *testing.T, r recipe, part quantity.Extent) string {
	t.Helper()
	path := randomDisk(t, 1, part.End()+quantity.MiB)
	table := fmt.Sprintf("label: dos\nstart=%d, size=%d\n", part.Start/512, r.size/512)
	disktest.Run(t, table, "sfdisk", "-q", "--wipe=never", path)
	return path
}

func randomDisk(t *testing.T, seed byte, size quantity.Bytes) string {
	t.Helper()
	path := disktest.Image(t, size)
	f := disktest.Open(t, path)
	random := rand.NewChaCha8([32]byte{seed})
	b := make([]byte, quantity.MiB)
	for at := quantity.Bytes(0); at < size; at += quantity.MiB {
		_, _ = random.Read(b)
		if _, err := f.WriteAt(b[:min(quantity.MiB, size-at)], int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// reimage captures source, whose only partition must not need a raw copy, deploys it to
// target and returns what was captured of the partition.
func reimage(t *testing.T, source, target string) []quantity.Extent {
	t.Helper()
	disk := disktest.Open(t, source)
	g := clone.Geometry{Size: fileSize(t, disk), LogicalSector: 512, PhysicalSector: 512}
	layout, err := layout.Inspect(disk, g)
	if err != nil {
		t.Fatal(err)
	}
	if p := layout.Partitions[0]; p.Mode != image.ModeClone {
		t.Fatalf("partition of type %q is captured as %q: %s", p.Volume.Type, p.Mode, p.Reason)
	}
	store := &memStore{}
	if _, err := captureOne(disk, layout, store, captureOrder{Image: "test"}); err != nil {
		t.Fatal(err)
	}
	to := fileTarget{disktest.Open(t, target)}
	if _, err := deployOne(&store.manifest.Disks[0], to, g, store, deployOrder{}); err != nil {
		t.Fatal(err)
	}
	return layout.Partitions[0].Extents
}

// fileTarget is a disk in a file.
type fileTarget struct{ *os.File }

func (fileTarget) DropCache() error { return nil }

func (fileTarget) Trim(_, _ quantity.Bytes) error { return errors.ErrUnsupported }

func fileSize(t *testing.T, f *os.File) quantity.Bytes {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return quantity.Bytes(info.Size())
}

// fill writes files, deletes some and returns the hashes of the others.
func (r recipe) fill(t *testing.T, dev string) map[string]string {
	t.Helper()
	if r.mount != "" {
		dir := disktest.Mount(t, dev, r.mount)
		disktest.Fill(t, dir, r.files, r.longest)
		if r.more != nil {
			r.more(t, dir)
		}
		defer disktest.Unmount(t, dir)
		return disktest.Hashes(t, dir)
	}
	if r.copy != "" {
		dir := t.TempDir()
		disktest.Fill(t, dir, r.files, r.longest)
		disktest.Command(t, r.copy, "DEV", dev, "DIR", dir)
		return r.hashes(t, dev)
	}
	disktest.FillFAT(t, dev, r.files, r.longest)
	return disktest.HashesFAT(t, dev)
}

// read gives the hashes of all files.
func (r recipe) read(t *testing.T, dev string) map[string]string {
	t.Helper()
	if r.mount != "" {
		dir := disktest.Mount(t, dev, r.mount)
		defer disktest.Unmount(t, dir)
		return disktest.Hashes(t, dir)
	}
	if r.hashes != nil {
		return r.hashes(t, dev)
	}
	return disktest.HashesFAT(t, dev)
}

// checkAllocated compares what a capture stores with what partclone stores.
func (r recipe) checkAllocated(t *testing.T, dev string, allocated []quantity.Extent) {
	t.Helper()
	if r.partclone == "" {
		return
	}
	used := disktest.Partclone(t, r.partclone, dev)
	if missing := disktest.Subtract(used, allocated); len(missing) > 0 {
		t.Errorf("partclone.%s stores %v more in %d extents, the first %+v",
			r.partclone, quantity.Total(missing), len(missing), missing[0])
	}
	got, want := quantity.Total(allocated), quantity.Total(used)
	if got > want+want/50 {
		t.Errorf("%v are stored, partclone.%s stores %v", got, r.partclone, want)
	}
	t.Logf("%v of %v stored, by partclone %v", got, r.size, want)
}
