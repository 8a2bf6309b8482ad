package ext4

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

const mountCommand = "mount -o loop,init_itable=0 -t ext4 DEV DIR"

// TestOracle is the test that decides whether the map is right: everything it
// calls free is overwritten, then e2fsck must find nothing and every file must read
// as before. The map must also be exactly the complement of dumpe2fs's free blocks.
func TestOracle(t *testing.T) {
	const size = 64 * quantity.MiB
	for _, tc := range []struct {
		name string
		size quantity.Bytes
		args string
		typ  string

		dirtyAgain bool
	}{
		{"default 4k", size, "-b4096", "ext4", true},
		{"1k", size, "-b1024", "ext4", true},
		{"2k", size, "-b2048", "ext4", false},
		{"no 64bit", size, "-O ^64bit", "ext4", false},
		{"uninit_bg", size, "-b1024 -O ^metadata_csum,uninit_bg", "ext4", false},
		{"uninit_bg no 64bit", size, "-b1024 -O ^metadata_csum,uninit_bg,^64bit", "ext4", false},
		{"no checksums", size, "-b1024 -O ^metadata_csum,^uninit_bg", "ext4", false},
		{"meta_bg 1k", size, "-b1024 -O meta_bg,^resize_inode", "ext4", false},
		{"meta_bg 4k", size, "-b4096 -O meta_bg,^resize_inode", "ext4", false},
		{"meta_bg 4k small groups", 270 * quantity.MiB, "-b4096 -g 1024 -O meta_bg,^resize_inode", "ext4", false},
		{"bigalloc 1k/16k", size, "-b1024 -C16384 -O bigalloc", "ext4", false},
		{"bigalloc 4k/64k", size, "-b4096 -C65536 -O bigalloc", "ext4", true},
		{"sparse_super2", size, "-b1024 -O sparse_super2,^resize_inode", "ext4", false},
		{"no sparse_super", size, "-b1024 -O ^sparse_super,^resize_inode", "ext4", false},
		{"no flex_bg", size, "-b1024 -O ^flex_bg", "ext4", false},
		{"no resize_inode", size, "-b1024 -O ^resize_inode", "ext4", false},
		{"seed and orphan file", size, "-O metadata_csum_seed,orphan_file", "ext4", false},
		{"mmp", size, "-O mmp -E mmp_update_interval=1", "ext4", false},
		{"no journal", size, "-O ^has_journal", "ext4", false},
		{"fast commit", size, "-O fast_commit -J size=8,fast_commit_size=256", "ext4", true},
		{"ext3", size, "-b1024", "ext3", true},
		{"ext3 4k", size, "-b4096", "ext3", false},
		{"ext3 large journal", size, "-b1024 -J size=16", "ext3", false},
		{"ext2", size, "-b1024", "ext2", false},
		{"revision 0", size, "-b1024 -r0", "ext2", false},
		{"short last group", size + 5*quantity.MiB + 3*quantity.KiB, "-b1024", "ext4", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := disktest.Image(t, tc.size)
			args := append([]string{"-q", "-t", tc.typ, "-L", "Lab ä"}, strings.Fields(tc.args)...)
			disktest.Run(t, "", "mke2fs", append(args, path)...)
			mnt := disktest.Mount(t, path, mountCommand)
			fill(t, mnt)
			want := disktest.Hashes(t, mnt)
			disktest.Unmount(t, mnt)

			v := disktest.Volume(t, path, Read)
			if v.Doubt != nil || v.Type != tc.typ {
				t.Fatalf("volume = %+v, doubt %+v, want %s without doubt", v, v.Doubt, tc.typ)
			}
			checkIdentity(t, path, v)
			checkFree(t, path, v)
			disktest.Scribble(t, path, v.Allocated)
			checkFiles(t, path, want)
			checkJournal(t, path, v)
			disktest.Run(t, "", "e2fsck", "-fn", path)
			mnt = disktest.Mount(t, path, mountCommand)
			if diff := cmp.Diff(want, disktest.Hashes(t, mnt)); diff != "" {
				t.Errorf("files changed (-before +after):\n%s", diff)
			}
			if tc.dirtyAgain {
				dirtyAgain(t, path, mnt)
			} else {
				disktest.Unmount(t, mnt)
			}
		})
	}
}

// fill writes 150 files, deletes every third, and writes one with holes.
func fill(t *testing.T, mnt string) {
	t.Helper()
	disktest.Fill(t, mnt, 150, 112*quantity.KiB)
	if err := os.Link(filepath.Join(mnt, "d1", "file 1"), filepath.Join(mnt, "another name")); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(mnt, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range int64(40) {
		if _, err := f.WriteAt([]byte("island"), i*50_000); err != nil {
			t.Fatal(err)
		}
	}
}

// checkFiles compares the files that we find with those of the kernel.
func checkFiles(t *testing.T, path string, want map[string]string) {
	t.Helper()
	f := disktest.Open(t, path)
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	files, err := Files(f, quantity.Bytes(info.Size()))
	if err != nil {
		t.Fatalf("Files = %v", err)
	}
	if diff := cmp.Diff(want, disktest.HashesOf(t, f, files)); diff != "" {
		t.Errorf("files (-kernel's +ours):\n%s", diff)
	}
}

func checkIdentity(t *testing.T, path string, v filesystem.Volume) {
	t.Helper()
	want := strings.Fields(disktest.Run(t, "", "blkid", "-p", "-o", "value", "-s", "TYPE", "-s", "UUID", path))
	got := []string{v.UUID, v.Type}
	if want[0] == v.Type {
		got = []string{v.Type, v.UUID}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("identity (-blkid +ours):\n%s", diff)
	}
	if v.Label != "Lab ä" {
		t.Errorf("label %q, want %q", v.Label, "Lab ä")
	}
}

var (
	blockSizeLine = regexp.MustCompile(`(?m)^Block size: +(\d+)$`)
	blocksLine    = regexp.MustCompile(`(?m)^Block count: +(\d+)$`)
	freeLine      = regexp.MustCompile(`(?m)^  Free blocks: ([0-9, -]+)$`)
)

func blockSize(t *testing.T, path string) quantity.Bytes {
	t.Helper()
	n, err := strconv.Atoi(blockSizeLine.FindStringSubmatch(disktest.Run(t, "", "dumpe2fs", "-h", path))[1])
	if err != nil {
		t.Fatal(err)
	}
	return quantity.Bytes(n)
}

// checkFree compares the map with the free blocks that dumpe2fs lists.
func checkFree(t *testing.T, path string, v filesystem.Volume) {
	t.Helper()
	dump := disktest.Run(t, "", "dumpe2fs", path)
	number := func(s string) quantity.Bytes {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return quantity.Bytes(n)
	}
	bs := blockSize(t, path)
	var free []quantity.Extent
	for _, line := range freeLine.FindAllStringSubmatch(dump, -1) {
		for _, run := range strings.Split(line[1], ", ") {
			first, last, ok := strings.Cut(run, "-")
			if !ok {
				last = first
			}
			// With bigalloc both ends are the first blocks of their clusters.
			start, end := number(first)*bs, number(last)*bs+v.BlockSize
			free = append(free, quantity.Extent{Start: start, Length: end - start})
		}
	}
	blocks := number(blocksLine.FindStringSubmatch(dump)[1])
	if n := len(free); n > 0 {
		free[n-1].Length = min(free[n-1].Length, blocks*bs-free[n-1].Start)
	}
	all := quantity.Normalize(append(slices.Clone(v.Allocated), free...))
	if diff := cmp.Diff([]quantity.Extent{{Start: 0, Length: blocks * bs}}, all); diff != "" {
		t.Errorf("allocated and free together (-want +got):\n%s", diff)
	}
	if got, want := quantity.Total(v.Allocated)+quantity.Total(quantity.Normalize(free)), blocks*bs; got != want {
		t.Errorf("allocated and free overlap: %d bytes together, want %d", got, want)
	}
}

// checkJournal empties the journal's discarded blocks, which must be all but the first of
// the journal that debugfs sees.
func checkJournal(t *testing.T, path string, v filesystem.Volume) {
	t.Helper()
	var discarded quantity.Bytes
	for _, d := range v.Discarded {
		if d.What != "journal" || d.Fill != 0 {
			t.Errorf("discards %+v", d)
		}
		discarded += quantity.Total(d.Extents)
	}
	if noJournal(t, path) {
		if discarded != 0 {
			t.Errorf("%d bytes of a journal discarded, there is none", discarded)
		}
		return
	}
	before := dumpJournal(t, path)
	bs := blockSize(t, path)
	if want := quantity.Bytes(len(before)) - bs; discarded != want {
		t.Fatalf("%d bytes of the journal discarded, want %d", discarded, want)
	}
	f := disktest.Open(t, path)
	for _, d := range v.Discarded {
		for _, e := range d.Extents {
			if _, err := f.WriteAt(make([]byte, e.Length), int64(e.Start)); err != nil {
				t.Fatal(err)
			}
		}
	}
	after := dumpJournal(t, path)
	if !bytes.Equal(before[:bs], after[:bs]) || bytes.Equal(before[bs:], after[bs:]) ||
		!bytes.Equal(after[bs:], make([]byte, discarded)) {
		t.Error("what was discarded is not the journal without its superblock")
	}
}

// dumpJournal gives the content of the journal's file.
func dumpJournal(t *testing.T, path string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "journal")
	disktest.Run(t, "", "debugfs", "-R", "dump <8> "+out, path)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// dirtyAgain writes to the mounted file system and freezes a copy of its disk: the
// journal must work as ever.
func dirtyAgain(t *testing.T, path, mnt string) {
	t.Helper()
	f, err := os.Create(filepath.Join(mnt, "synced"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("after the journal was emptied"); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	frozen := filepath.Join(t.TempDir(), "frozen.img")
	disktest.Run(t, "", "cp", "--sparse=always", path, frozen)
	disktest.Unmount(t, mnt)
	disktest.Run(t, "", "e2fsck", "-fn", path)
	disktest.Try("", "e2fsck", "-fp", frozen) // exits with 1 after a replay
	disktest.Run(t, "", "e2fsck", "-fn", frozen)
	if got := disktest.Run(t, "", "debugfs", "-R", "cat /synced", frozen); got != "after the journal was emptied" {
		t.Errorf("after a crash the synced file holds %q", got)
	}
}

func noJournal(t *testing.T, path string) bool {
	t.Helper()
	return !strings.Contains(disktest.Run(t, "", "dumpe2fs", "-h", path), "has_journal")
}

// TestFragmentedJournal adds a journal to a file system whose free blocks lie apart.
func TestFragmentedJournal(t *testing.T) {
	for _, fsType := range []string{"ext4", "ext3"} {
		t.Run(fsType, func(t *testing.T) {
			path := disktest.Image(t, 24*quantity.MiB)
			disktest.Run(t, "", "mke2fs", "-q", "-t", fsType, "-b1024", "-O", "^has_journal", "-N", "8192", path)
			mnt := disktest.Mount(t, path, mountCommand)
			var names []string
			for i := range 5000 {
				name := filepath.Join(mnt, fmt.Sprint(i))
				if err := os.WriteFile(name, make([]byte, 4096), 0o644); err != nil {
					break // full
				}
				names = append(names, name)
			}
			for i := 0; i < len(names); i += 2 {
				if err := os.Remove(names[i]); err != nil {
					t.Fatal(err)
				}
			}
			disktest.Unmount(t, mnt)
			disktest.Run(t, "", "tune2fs", "-J", "size=4", path)
			mnt = disktest.Mount(t, path, mountCommand)
			if err := os.Remove(filepath.Join(mnt, "1")); err != nil { // leaves a content in the journal
				t.Fatal(err)
			}
			disktest.Unmount(t, mnt)
			v := disktest.Volume(t, path, Read)
			if len(v.Discarded) != 1 || len(v.Discarded[0].Extents) < 100 {
				t.Fatalf("the journal was to have many pieces: %+v", v.Discarded)
			}
			checkJournal(t, path, v)
			disktest.Run(t, "", "e2fsck", "-fn", path)
		})
	}
}

// TestDirty copies the image while it is mounted, after fsync returned.
func TestDirty(t *testing.T) {
	for _, fsType := range []string{"ext4", "ext3", "ext2"} {
		t.Run(fsType, func(t *testing.T) {
			path := disktest.Image(t, 32*quantity.MiB)
			disktest.Run(t, "", "mke2fs", "-q", "-t", fsType, path)
			mnt := disktest.Mount(t, path, mountCommand)
			f, err := os.Create(filepath.Join(mnt, "synced"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Write(bytes.Repeat([]byte("x"), 1<<20)); err != nil {
				t.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
			f.Close()
			frozen := filepath.Join(t.TempDir(), "frozen.img")
			disktest.Run(t, "", "cp", "--sparse=always", path, frozen)
			v := disktest.Volume(t, frozen, Read)
			if v.Doubt == nil || v.Doubt.Reason == "" || v.Doubt.Remedy == "" || v.Allocated != nil || v.Type != fsType {
				t.Errorf("frozen while mounted: %+v, doubt %+v, want %s with a doubt", v, v.Doubt, fsType)
			}
			disktest.Unmount(t, mnt)
			if v := disktest.Volume(t, path, Read); v.Doubt != nil || len(v.Allocated) == 0 {
				t.Errorf("after unmounting: %+v, doubt %+v, want none", v, v.Doubt)
			}
		})
	}
}

func TestExternalJournal(t *testing.T) {
	path := disktest.Image(t, 8*quantity.MiB)
	disktest.Run(t, "", "mke2fs", "-q", "-b4096", "-O", "journal_dev", path)
	if v := disktest.Volume(t, path, Read); v.Type != "jbd" || v.Doubt == nil {
		t.Errorf("journal device: %+v, doubt %+v, want jbd with a doubt", v, v.Doubt)
	}
}

func BenchmarkRead8GiB(b *testing.B) {
	path := disktest.Image(b, 8*quantity.GiB)
	disktest.Run(b, "", "mke2fs", "-q", "-t", "ext4", path)
	f := disktest.Open(b, path)
	for b.Loop() {
		if _, err := Read(f, 8*quantity.GiB); err != nil {
			b.Fatal(err)
		}
	}
}
