package xfs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"clonecast/internal/disktest"
	"clonecast/internal/quantity"
)

const mountCommand = "mount -o loop -t xfs DEV DIR"

// TestOracle is the test that decides whether the map is right: everything it calls
// free is overwritten, then xfs_repair must find nothing and every file must read as
// before.
func TestOracle(t *testing.T) {
	tests := map[string]struct {
		args   string
		levels int // of the deepest tree of free extents
		punch  int // holes of a block to punch into a file
	}{
		"default":        {"-b size=4096", 1, 0},
		"1k":             {"-b size=1024", 1, 0},
		"4k sectors":     {"-s size=4096", 1, 0},
		"rmapbt reflink": {"-m rmapbt=1,reflink=1 -i nrext64=1", 1, 0},
		"log su=256k":    {"-l su=256k", 1, 0},
		"grown":          {"-b size=4096 -d size=300m", 1, 0}, // the last group is short
		"own meta uuid":  {"-m uuid=11111111-2222-3333-4444-555555555555", 1, 0},
		"two levels":     {"-b size=1024", 2, 1000},
		"three levels":   {"-b size=1024 -d agcount=2", 3, 12000},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := disktest.Image(t, 350*quantity.MiB+quantity.KiB)
			disktest.Command(t, "mkfs.xfs -q -L Räume "+tt.args+" DEV", "DEV", path)
			dir := disktest.Mount(t, path, mountCommand)
			if name == "grown" {
				disktest.Command(t, "xfs_growfs DIR", "DIR", dir)
			}
			disktest.Fill(t, dir, 300, 120*quantity.KiB)
			punchHoles(t, filepath.Join(dir, "punched"), tt.punch)
			want := disktest.Hashes(t, dir)
			disktest.Unmount(t, dir)
			if name == "own meta uuid" {
				disktest.Command(t, "xfs_admin -U generate DEV", "DEV", path)
			}

			v := disktest.Volume(t, path, Read)
			if v.Doubt != nil {
				t.Fatalf("Doubt = %+v, want none", v.Doubt)
			}
			got := [3]string{v.Type, v.UUID, v.Label}
			if want := [3]string{"xfs", disktest.Blkid(t, path, "UUID"), "Räume"}; got != want {
				t.Errorf("identity = %q, want %q", got, want)
			}
			if got := deepest(t, path); got != tt.levels {
				t.Errorf("the deepest tree has %d levels, want %d", got, tt.levels)
			}
			disktest.Scribble(t, path, v.Allocated)
			disktest.Run(t, "", "xfs_repair", "-n", path)
			dir = disktest.Mount(t, path, mountCommand)
			if diff := cmp.Diff(want, disktest.Hashes(t, dir)); diff != "" {
				t.Errorf("files changed (-before +after):\n%s", diff)
			}
			disktest.Unmount(t, dir)
		})
	}
}

// TestVersion4 checks version 4 with the tools alone: kernels no longer mount it. The
// files are copied in by mkfs.xfs; xfs_db tells where they are.
func TestVersion4(t *testing.T) {
	for _, args := range []string{"-m crc=0 -s size=4096", "-m crc=0,finobt=0 -b size=1024 -l version=1 -d agcount=2"} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			path := disktest.Image(t, 310*quantity.MiB)
			names := makeVersion4(t, path, args)
			v := disktest.Volume(t, path, Read)
			if v.Doubt != nil {
				t.Fatalf("Doubt = %+v, want none", v.Doubt)
			}
			places := map[string][]quantity.Extent{}
			for _, name := range names {
				places[name] = blocksOf(t, path, name)
				if missing := disktest.Subtract(places[name], v.Allocated); len(missing) > 0 {
					t.Errorf("%s: %v are called free", name, missing)
				}
			}
			before := disktest.Partclone(t, "xfs", path)
			if missing := disktest.Subtract(before, v.Allocated); len(missing) > 0 {
				t.Errorf("partclone stores %v more", missing)
			}
			disktest.Scribble(t, path, v.Allocated)
			disktest.Run(t, "", "xfs_repair", "-n", path)
			for name, extents := range places {
				if diff := cmp.Diff(extents, blocksOf(t, path, name)); diff != "" {
					t.Errorf("%s moved (-before +after):\n%s", name, diff)
				}
			}
		})
	}
}

// makeVersion4 makes a file system of version 4 with files in it and gives their names.
func makeVersion4(t *testing.T, path, args string) []string {
	t.Helper()
	dir := t.TempDir()
	var proto strings.Builder
	proto.WriteString("/\n0 0\nd--755 0 0\n")
	var names []string
	for i := range 80 {
		name := fmt.Sprintf("file%d", i)
		content := filepath.Join(dir, name)
		if err := os.WriteFile(content, []byte(strings.Repeat(name, 1+i*i*10)), 0o644); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&proto, "%s ---644 0 0 %s\n", name, content)
		names = append(names, name)
	}
	proto.WriteString("$\n")
	list := filepath.Join(dir, "proto")
	if err := os.WriteFile(list, []byte(proto.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	disktest.Command(t, "mkfs.xfs -q "+args+" -p LIST DEV", "LIST", list, "DEV", path)
	return names
}

var bmapLine = regexp.MustCompile(`startblock (\d+) \((\d+)/(\d+)\) count (\d+)`)

// blocksOf asks xfs_db where a file is.
func blocksOf(t *testing.T, path, name string) []quantity.Extent {
	t.Helper()
	out := disktest.Run(t, "", "xfs_db", "-r", "-c", "path /"+name, "-c", "bmap", path)
	rd := openFile(t, path)
	var extents []quantity.Extent
	for _, m := range bmapLine.FindAllStringSubmatch(out, -1) {
		var n [3]uint64
		for i, s := range m[2:] {
			if _, err := fmt.Sscan(s, &n[i]); err != nil {
				t.Fatal(err)
			}
		}
		extents = append(extents, quantity.Extent{Start: rd.offset(n[0], n[1]), Length: rd.bytes(n[2])})
	}
	if len(extents) == 0 {
		t.Fatalf("xfs_db finds no blocks of %s:\n%s", name, out)
	}
	return quantity.Normalize(extents)
}

// punchHoles makes a file with n holes of a block of 1 KiB: as many free extents.
func punchHoles(t *testing.T, path string, n int) {
	t.Helper()
	const keepSize, punch, block = 1, 2, 1024
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(strings.Repeat("content ", 2*n*block/8)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil { // blocks are given out now
		t.Fatal(err)
	}
	for i := range n {
		if err := syscall.Fallocate(int(f.Fd()), keepSize|punch, int64(2*i*block), block); err != nil {
			t.Fatal(err)
		}
	}
}

// deepest asks xfs_db for the levels of the trees of free extents.
func deepest(t *testing.T, path string) int {
	t.Helper()
	most := 0
	for ag := range 8 {
		out, err := disktest.Try("", "xfs_db", "-r", "-c", fmt.Sprintf("agf %d", ag), "-c", "print bnolevel", path)
		var levels int
		if _, scanErr := fmt.Sscanf(out, "bnolevel = %d", &levels); err != nil || scanErr != nil {
			break // not so many groups
		}
		most = max(most, levels)
	}
	return most
}
