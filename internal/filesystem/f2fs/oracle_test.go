package f2fs

import (
	"cmp"
	"encoding/hex"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// TestOracle is the test that decides whether the map is right: everything it
// calls free is overwritten, then fsck.f2fs must find nothing and every file must
// read as before. The kernels the tests run on may have no driver, so the files are
// copied and read by f2fs-tools. Another reader's map must be the same.
func TestOracle(t *testing.T) {
	for _, tc := range []struct {
		name string
		size quantity.Bytes // 120 MiB where not said
		mkfs string
	}{
		{name: "default"},
		{name: "odd size", size: 131*quantity.MiB + 3*4096 + 512},
		{name: "large NAT bitmap", mkfs: "-i"},
		{name: "new features", mkfs: "-O encrypt,extra_attr,project_quota,inode_checksum,inode_crtime,lost_found,verity," +
			"sb_checksum,compression"},
		{name: "casefold", mkfs: "-O casefold -C utf8"},
		{name: "large sections", size: 400 * quantity.MiB, mkfs: "-s 2 -z 2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			path := makeImage(t, cmp.Or(tc.size, 120*quantity.MiB), "-l Lab_ä "+tc.mkfs)
			populate(t, path)
			want := disktest.HashesF2FS(t, path)
			v := readFile(t, path)
			if v.Doubt != nil {
				t.Fatalf("doubt %+v", v.Doubt)
			}
			identity := []string{disktest.Blkid(t, path, "TYPE"), disktest.Blkid(t, path, "UUID"), "Lab_ä"}
			if diff := gocmp.Diff(identity, []string{v.Type, v.UUID, v.Label}); diff != "" {
				t.Errorf("identity (-blkid +ours):\n%s", diff)
			}
			checkSIT(t, path, v.Allocated)
			disktest.Scribble(t, path, v.Allocated)
			if diff := gocmp.Diff(want, disktest.HashesF2FS(t, path)); diff != "" {
				t.Errorf("files changed (-before +after):\n%s", diff)
			}
		})
	}
}

// TestKernel is the oracle test for a file system that the kernel wrote (testdata/guest.sh).
func TestKernel(t *testing.T) {
	path := disktest.Unpack(t, "testdata/unmounted.img.zst")
	v := readFile(t, path)
	if v.Doubt != nil {
		t.Fatalf("doubt %+v", v.Doubt)
	}
	checkSIT(t, path, v.Allocated)
	disktest.Scribble(t, path, v.Allocated)
	sums, err := os.ReadFile("testdata/unmounted.sums")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(string(sums)) {
		want = append(want, strings.Fields(line)[0])
	}
	slices.Sort(want)
	if diff := gocmp.Diff(want, slices.Sorted(maps.Values(disktest.HashesF2FS(t, path)))); diff != "" {
		t.Errorf("hashes of the files (-written +read):\n%s", diff)
	}
}

// TestFsynced has a disk that was cut off after fsync: its checkpoint is the one of the
// unmount before, and it is not clean. Deployed over it, what was captured in front of
// that must not bring the fsynced file back.
func TestFsynced(t *testing.T) {
	before := disktest.Unpack(t, "testdata/before-fsync.img.zst")
	after := disktest.Unpack(t, "testdata/after-fsync.img.zst")
	if v := readFile(t, after); v.Doubt == nil || v.Doubt.Reason != "fsynced files need recovery" ||
		v.Doubt.Remedy != remedyShutdown {
		t.Errorf("after fsync: doubt %+v", v.Doubt)
	}
	v := readFile(t, before)
	if v.Doubt != nil {
		t.Fatalf("before: doubt %+v", v.Doubt)
	}
	from, to := disktest.Open(t, before), disktest.Open(t, after)
	for _, e := range v.Allocated {
		b := make([]byte, e.Length)
		if _, err := from.ReadAt(b, int64(e.Start)); err != nil {
			t.Fatal(err)
		}
		if _, err := to.WriteAt(b, int64(e.Start)); err != nil {
			t.Fatal(err)
		}
	}
	if got := readFile(t, after); got.Doubt != nil {
		t.Errorf("after a deploy: doubt %+v", got.Doubt)
	}
}

// TestContainsPartclone compares with another reader's map.
func TestContainsPartclone(t *testing.T) {
	path := makeImage(t, 120*quantity.MiB, "")
	populate(t, path)
	used := disktest.Partclone(t, "f2fs", path)
	if missing := disktest.Subtract(used, readFile(t, path).Allocated); len(missing) > 0 {
		t.Errorf("partclone stores %d extents more, the first %+v", len(missing), missing[0])
	}
}

func makeImage(t testing.TB, size quantity.Bytes, args string) string {
	t.Helper()
	path := disktest.Image(t, size)
	disktest.Command(t, "mkfs.f2fs -q "+args+" DEV", "DEV", path)
	return path
}

// populate copies files into an image, twice, so that more than one checkpoint and
// more than one copy of the SIT are in use.
func populate(t testing.TB, path string) {
	t.Helper()
	for _, name := range []string{"first", "second"} {
		dir := t.TempDir()
		disktest.Fill(t, filepath.Join(dir, name), 60, 120*quantity.KiB)
		disktest.Command(t, "sload.f2fs -f DIR DEV", "DIR", dir, "DEV", path)
	}
	disktest.CheckF2FS(t, path)
}

var sitLine = regexp.MustCompile(`(?s)segno: +(\d+)\tvblocks: *(\d+)\tseg_type:\d.*?\n\n((?:  [0-9a-f]{2}.*?\n)*)`)

// checkSIT compares the main area's blocks in use with those that dump.f2fs prints. Of
// what it calls free only the next blocks of the six logs may be in the map.
func checkSIT(t *testing.T, path string, allocated []quantity.Extent) {
	t.Helper()
	dir := t.TempDir()
	disktest.DumpF2FS(t, dir, path, "-s", "0~-1")
	text, err := os.ReadFile(filepath.Join(dir, "dump_sit"))
	if err != nil {
		t.Fatal(err)
	}
	// All areas begin at multiples of a segment; the first extent may go on into the main area.
	main := allocated[0].End() / (2 * quantity.MiB) * 2 * quantity.MiB
	used := []quantity.Extent{{Length: main}}
	for _, m := range sitLine.FindAllStringSubmatch(string(text), -1) {
		segment, err := strconv.ParseInt(m[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		bitmap, err := hex.DecodeString(strings.Join(strings.Fields(m[3]), ""))
		if err != nil {
			t.Fatal(err)
		}
		for i := range len(bitmap) * 8 {
			if bitmap[i/8]&(0x80>>(i%8)) != 0 {
				at := main + quantity.Bytes(segment)*2*quantity.MiB + quantity.Bytes(i)*blockSize
				used = append(used, quantity.Extent{Start: at, Length: blockSize})
			}
		}
	}
	used = quantity.Normalize(used)
	if len(used) < 3 {
		t.Fatalf("dump.f2fs shows %v", used)
	}
	if missing := disktest.Subtract(used, allocated); len(missing) > 0 {
		t.Errorf("dump.f2fs shows %d extents more, the first %+v", len(missing), missing[0])
	}
	if more := quantity.Total(disktest.Subtract(allocated, used)); more > logs*blockSize {
		t.Errorf("the map has %v more than dump.f2fs shows", more)
	}
}

func readFile(t testing.TB, path string) filesystem.Volume {
	t.Helper()
	f := disktest.Open(t, path)
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	v, err := Read(f, quantity.Bytes(info.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return v
}
