package btrfs

import (
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// TestOracle is the test that decides whether the map is right: everything it
// calls free is overwritten, then btrfs check must find nothing and every file, of
// the snapshot too, must read as before.
func TestOracle(t *testing.T) {
	for _, tc := range []struct {
		name  string
		size  quantity.Bytes // 160 MiB where not said
		mkfs  string
		mount string // options
		tune  string // btrfstune, after the files are written
		image string // of testdata, instead of mkfs
	}{
		{name: "default"},
		{name: "single", mkfs: "-m single -d single"},
		{name: "DUP data", mkfs: "-m dup -d dup", size: 256 * quantity.MiB},
		{name: "mixed", mkfs: "--mixed -n 4096"},
		{name: "mixed DUP", mkfs: "--mixed -m dup -d dup"},
		{name: "zstd", mount: "compress-force=zstd"},
		{name: "small nodes", mkfs: "-n 4096"},
		{name: "large nodes", mkfs: "-n 65536"},
		{name: "xxhash", mkfs: "--csum xxhash"},
		{name: "sha256", mkfs: "--csum sha256"},
		{name: "blake2", mkfs: "--csum blake2"},
		{name: "first space cache", mkfs: "-R ^free-space-tree", mount: "space_cache"},
		{name: "fat metadata items", mkfs: "-O ^skinny-metadata,^no-holes"},
		{name: "quota", mkfs: "-R quota"},
		{name: "new UUID", tune: "-m"},
		// mkfs.btrfs -O block-group-tree of btrfs-progs 6.19, where it is the default; Debian's is older.
		{name: "block group tree", image: "block-group-tree"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var path string
			if tc.image != "" {
				path = disktest.Unpack(t, "testdata/"+tc.image+".img.zst")
			} else {
				path = makeImage(t, cmp.Or(tc.size, 160*quantity.MiB), "-L Lab_ä "+tc.mkfs)
			}
			want := populate(t, path, tc.mount)
			if tc.tune != "" {
				disktest.Run(t, "", "btrfstune", tc.tune, path)
			}
			v := readFile(t, path)
			if v.Doubt != nil {
				t.Fatalf("doubt %+v", v.Doubt)
			}
			identity := []string{disktest.Blkid(t, path, "TYPE"), disktest.Blkid(t, path, "UUID"), "Lab_ä"}
			if diff := gocmp.Diff(identity, []string{v.Type, v.UUID, v.Label}); diff != "" {
				t.Errorf("identity (-blkid +ours):\n%s", diff)
			}
			disktest.Scribble(t, path, v.Allocated)
			disktest.Run(t, "", "btrfs", "check", "--readonly", "--check-data-csum", path)
			dir := mount(t, path, "")
			if diff := gocmp.Diff(want, disktest.Hashes(t, dir)); diff != "" {
				t.Errorf("files changed (-before +after):\n%s", diff)
			}
			disktest.Unmount(t, dir)
		})
	}
}

// TestFragmented reads an extent tree of several levels, made of small nodes and
// many small extents.
func TestFragmented(t *testing.T) {
	path := makeImage(t, 160*quantity.MiB, "-n 4096")
	dir := mount(t, path, "nodatacow,max_inline=0")
	disktest.Fill(t, dir, 2500, 8*quantity.KiB)
	want := disktest.Hashes(t, dir)
	disktest.Unmount(t, dir)
	v := readFile(t, path)
	if v.Doubt != nil || len(v.Allocated) < 500 {
		t.Fatalf("%d extents, doubt %+v", len(v.Allocated), v.Doubt)
	}
	disktest.Scribble(t, path, v.Allocated)
	disktest.Run(t, "", "btrfs", "check", "--readonly", path)
	dir = mount(t, path, "")
	if diff := gocmp.Diff(want, disktest.Hashes(t, dir)); diff != "" {
		t.Errorf("files changed (-before +after):\n%s", diff)
	}
	disktest.Unmount(t, dir)
}

// TestPausedBalance reads a file system of which a part has moved.
func TestPausedBalance(t *testing.T) {
	path := makeImage(t, 512*quantity.MiB, "")
	want := populate(t, path, "")
	dir := mount(t, path, "skip_balance")
	for attempt := 0; !pauseBalance(dir); attempt++ {
		if attempt == 20 {
			t.Fatal("the balance was over each time before it could be paused")
		}
	}
	disktest.Unmount(t, dir)
	v := readFile(t, path)
	if v.Doubt != nil {
		t.Fatalf("doubt %+v", v.Doubt)
	}
	disktest.Scribble(t, path, v.Allocated)
	disktest.Run(t, "", "btrfs", "check", "--readonly", "--check-data-csum", path)
	dir = mount(t, path, "")
	if diff := gocmp.Diff(want, disktest.Hashes(t, dir)); diff != "" {
		t.Errorf("files changed (-before +after):\n%s", diff)
	}
	disktest.Unmount(t, dir)
}

// pauseBalance starts a balance and pauses it; false when it was over before.
func pauseBalance(dir string) bool {
	done := make(chan error, 1)
	go func() {
		_, err := disktest.Try("", "btrfs", "balance", "start", "--full-balance", dir)
		done <- err
	}()
	for {
		if _, err := disktest.Try("", "btrfs", "balance", "pause", dir); err == nil {
			<-done
			return true
		}
		select {
		case <-done:
			return false
		default:
		}
	}
}

// TestMirrors reads a file system that has all copies of the superblock.
func TestMirrors(t *testing.T) {
	v := readFile(t, makeImage(t, 257*quantity.GiB, ""))
	want := []quantity.Extent{
		{Start: 64 * quantity.MiB, Length: superblockSize},
		{Start: 256 * quantity.GiB, Length: superblockSize},
	}
	if missing := disktest.Subtract(want, v.Allocated); v.Doubt != nil || len(missing) > 0 {
		t.Errorf("doubt %+v, not in the map: %v", v.Doubt, missing)
	}
}

// TestMatchesDumpTree compares the map with what btrfs-progs print of the extent and
// chunk trees. partclone is no judge here: it copies whole system chunks and free
// blocks, and takes logical addresses of data for physical ones.
func TestMatchesDumpTree(t *testing.T) {
	for _, args := range []string{"", "--mixed -n 4096", "-m dup -d single -O ^skinny-metadata"} {
		path := makeImage(t, 160*quantity.MiB, args)
		populate(t, path, "")
		want := []quantity.Extent{{Length: quantity.MiB}, {Start: 64 * quantity.MiB, Length: 4 * quantity.KiB}}
		chunks := dumpChunks(t, path)
		for _, e := range dumpExtents(t, path, args) {
			for _, c := range chunks {
				if e.Start >= c.start && e.End() <= c.start+c.length {
					want = append(want, quantity.Extent{Start: e.Start - c.start + c.place, Length: e.Length})
				}
			}
		}
		if diff := gocmp.Diff(quantity.Normalize(want), readFile(t, path).Allocated); diff != "" {
			t.Errorf("mkfs.btrfs %s: map (-btrfs +ours):\n%s", args, diff)
		}
	}
}

// dumpedStripe is one copy of a chunk as btrfs-progs print it.
type dumpedStripe struct{ start, length, place quantity.Bytes }

func dumpChunks(t *testing.T, path string) []dumpedStripe {
	t.Helper()
	var out []dumpedStripe
	var c dumpedStripe
	for line := range strings.Lines(disktest.Run(t, "", "btrfs", "inspect-internal", "dump-tree", "-t", "chunk", path)) {
		line = strings.TrimSpace(line)
		var n int
		if _, at, ok := strings.Cut(line, "(FIRST_CHUNK_TREE CHUNK_ITEM "); ok {
			c.start = number(t, strings.TrimSuffix(strings.Fields(at)[0], ")"))
		} else if _, err := fmt.Sscanf(line, "length %d owner", &c.length); err == nil {
			continue
		} else if _, err := fmt.Sscanf(line, "stripe %d devid 1 offset %d", &n, &c.place); err == nil {
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		t.Fatal("btrfs inspect-internal shows no chunk")
	}
	return out
}

var extentLine = regexp.MustCompile(`key \((\d+) (EXTENT_ITEM|METADATA_ITEM) (\d+)\)`)

// dumpExtents gives the extents' logical addresses.
func dumpExtents(t *testing.T, path, args string) []quantity.Extent {
	t.Helper()
	nodeSize := 16 * quantity.KiB
	if strings.Contains(args, "-n 4096") {
		nodeSize = 4 * quantity.KiB
	}
	var out []quantity.Extent
	dump := disktest.Run(t, "", "btrfs", "inspect-internal", "dump-tree", "-t", "extent", path)
	for _, m := range extentLine.FindAllStringSubmatch(dump, -1) {
		e := quantity.Extent{Start: number(t, m[1]), Length: nodeSize}
		if m[2] == "EXTENT_ITEM" {
			e.Length = number(t, m[3])
		}
		out = append(out, e)
	}
	if len(out) < 100 {
		t.Fatalf("btrfs inspect-internal shows %d extents", len(out))
	}
	return out
}

func number(t *testing.T, s string) quantity.Bytes {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return quantity.Bytes(n)
}

func makeImage(t testing.TB, size quantity.Bytes, args string) string {
	t.Helper()
	path := disktest.Image(t, size)
	disktest.Command(t, "mkfs.btrfs -q "+args+" DEV", "DEV", path)
	return path
}

// mount mounts an image without barriers: a test need not survive a power cut.
func mount(t testing.TB, path, options string) string {
	t.Helper()
	return disktest.Mount(t, path, "mount -t btrfs -o nobarrier,"+options+" DEV DIR")
}

// populate writes files, takes a snapshot, deletes and writes some more, and gives
// the hashes of what is there then.
func populate(t testing.TB, path, options string) map[string]string {
	t.Helper()
	dir := mount(t, path, options)
	home := filepath.Join(dir, "home")
	disktest.Run(t, "", "btrfs", "subvolume", "create", home)
	disktest.Fill(t, home, 150, 120*quantity.KiB)
	disktest.Run(t, "", "btrfs", "subvolume", "snapshot", "-r", home, filepath.Join(dir, "snapshot"))
	disktest.Run(t, "", "rm", "-r", filepath.Join(home, "d3"))
	disktest.Fill(t, dir, 150, 40*quantity.KiB)
	disktest.Run(t, "", "sync", "-f", dir)
	disktest.Run(t, "", "rm", "-r", filepath.Join(dir, "d5"))
	// The next mount goes on with the release of a subvolume.
	disktest.Run(t, "", "btrfs", "subvolume", "snapshot", home, filepath.Join(dir, "gone"))
	disktest.Run(t, "", "sync", "-f", dir)
	disktest.Run(t, "", "btrfs", "subvolume", "delete", filepath.Join(dir, "gone"))
	want := disktest.Hashes(t, dir)
	disktest.Unmount(t, dir)
	return want
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
