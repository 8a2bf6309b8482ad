package ext4

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

const treeSize = 4 * quantity.MiB

// tree is a small file system with files and directories; metadata is where its structures are.
func tree(t testing.TB, args ...string) (disk []byte, metadata int) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"a/b/c/deep", "a/long name of a file", "top"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes.Repeat([]byte(name), 2000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	image := disktest.Image(t, treeSize)
	args = append([]string{"-q", "-F", "-b", "1024", "-N", "64", "-d", dir}, args...)
	disktest.Run(t, "", "mke2fs", append(args, image)...)
	disk, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return disk, 160 << 10
}

func checkTree(t *testing.T, b []byte) (err error) {
	t.Helper()
	files, err := Files(bytes.NewReader(b), treeSize)
	if err != nil && files != nil {
		t.Error("Files returns files beside an error")
	}
	for _, f := range files {
		for _, e := range f.Extents {
			if e.Start < 0 || e.Length <= 0 || e.End() > treeSize {
				t.Fatalf("%s lies at %v", f.Path, e)
			}
		}
	}
	return err
}

// Damaged file systems: an error, or files that lie inside; never a panic or a loop.
func TestFilesOfDamagedFileSystem(t *testing.T) {
	for _, args := range [][]string{{"-t", "ext4", "-O", "^metadata_csum,^has_journal"}, {"-t", "ext2"}} {
		whole, metadata := tree(t, args...)
		if err := checkTree(t, whole); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		corrupted := 0
		for seed := range uint64(1500) {
			rnd := rand.New(rand.NewPCG(seed, 4))
			b := bytes.Clone(whole)
			for range 1 + rnd.IntN(40) {
				b[1024+rnd.IntN(metadata)] = byte(rnd.Uint32())
			}
			var corrupt *filesystem.CorruptError
			if err := checkTree(t, b); errors.As(err, &corrupt) {
				corrupted++
			}
		}
		if corrupted < 40 {
			t.Errorf("%v: only %d of 1500 damaged file systems are found out: the test has lost its bite", args, corrupted)
		}
	}
}

func TestFilesInline(t *testing.T) {
	whole, _ := tree(t, "-t", "ext4", "-O", "inline_data", "-I", "256")
	if err := checkTree(t, whole); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Files = %v, want ErrUnsupported", err)
	}
}

// FuzzFiles changes bytes of the structures of a file system with files.
func FuzzFiles(f *testing.F) {
	var disks [][]byte
	metadata := 0
	for _, args := range [][]string{{"-t", "ext4", "-O", "^metadata_csum,^has_journal"}, {"-t", "ext2"}} {
		var disk []byte
		disk, metadata = tree(f, args...)
		disks = append(disks, disk)
	}
	f.Add(false, []byte{})
	f.Add(true, []byte{0, 4, 0, 1, 1, 200, 3, 9})
	f.Fuzz(func(t *testing.T, second bool, patches []byte) {
		b := bytes.Clone(disks[0])
		if second {
			b = bytes.Clone(disks[1])
		}
		for ; len(patches) >= 4; patches = patches[4:] {
			b[1024+(int(patches[0])<<16|int(patches[1])<<8|int(patches[2]))%metadata] = patches[3]
		}
		_ = checkTree(t, b)
	})
}
