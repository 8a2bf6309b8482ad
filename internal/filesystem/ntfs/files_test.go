package ntfs

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"

	"github.com/google/go-cmp/cmp"
)

// writeTree makes files of all kinds: in records and in clusters, with holes, in deep
// directories, with several names, with so many names and pieces that one record is too small.
func writeTree(t *testing.T, dir string) {
	t.Helper()
	disktest.Fill(t, dir, 200, 40_000)
	deep := filepath.Join(dir, strings.Repeat("a directory/", 12))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(deep, 0o755))
	must(os.WriteFile(filepath.Join(deep, "Schülerliste Ω 日本.txt"), []byte("in the record"), 0o644))
	must(os.WriteFile(filepath.Join(dir, "empty"), nil, 0o644))
	must(os.WriteFile(filepath.Join(dir, "names"), bytes.Repeat([]byte("many names "), 1000), 0o644))
	for i := range 30 {
		link := fmt.Sprintf("a rather long name for the same file, number %d", i)
		must(os.Link(filepath.Join(dir, "names"), filepath.Join(deep, link)))
	}
	f, err := os.Create(filepath.Join(dir, "pieces"))
	must(err)
	for i := range int64(300) {
		_, err := f.WriteAt([]byte("island"), i*70_000)
		must(err)
	}
	must(f.Close())
}

func TestFiles(t *testing.T) {
	for name, mkfs := range map[string][]string{
		"4 KiB clusters":  nil,
		"512 B clusters":  {"-c", "512"},
		"64 KiB clusters": {"-c", "65536"},
	} {
		t.Run(name, func(t *testing.T) {
			image := makeVolume(t, 96*quantity.MiB, mkfs...)
			var want map[string]string
			mounted(t, image, func(dir string) {
				writeTree(t, dir)
				want = disktest.Hashes(t, dir)
			})
			f := disktest.Open(t, image)
			files, err := Files(f, 96*quantity.MiB)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, disktest.HashesOf(t, f, files)); diff != "" {
				t.Errorf("files (-ntfs-3g's +ours):\n%s", diff)
			}
		})
	}
}

// Damaged volumes: an error with a type, or files that lie inside the volume; never a panic.
func TestFilesOfDamagedVolume(t *testing.T) {
	const size = 24 * quantity.MiB
	image := makeVolume(t, size)
	mounted(t, image, func(dir string) { disktest.Fill(t, dir, 60, 20_000) })
	whole, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	v := open(t, image)
	mft := v.clusterOffset(v.mftCluster)
	damaged := 0
	for seed := range uint64(1500) {
		rnd := rand.New(rand.NewPCG(seed, 9))
		b := bytes.Clone(whole[:mft+120*1024])
		for range 1 + rnd.IntN(4) {
			at := int(mft) + rnd.IntN(110*1024)
			if rnd.IntN(8) == 0 {
				at = rnd.IntN(512)
			}
			b[at] = byte(rnd.Uint32())
		}
		files, err := Files(&overlay{b, whole}, size)
		var corrupt *filesystem.CorruptError
		if err != nil {
			damaged++
			if !errors.As(err, &corrupt) && !errors.Is(err, filesystem.ErrNotFound) {
				t.Fatalf("seed %d: %v has no type", seed, err)
			}
		}
		for _, f := range files {
			for _, e := range f.Extents {
				if e.Start < 0 || e.Length <= 0 || e.End() > size {
					t.Fatalf("seed %d: %s lies at %v", seed, f.Path, e)
				}
			}
		}
	}
	if damaged < 100 {
		t.Errorf("only %d of 1500 damaged volumes are found out: the test has lost its bite", damaged)
	}
}

// overlay is a volume of which the first bytes are other ones.
type overlay struct{ first, rest []byte }

func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	if off < int64(len(o.first)) {
		n = copy(p, o.first[off:])
	}
	if n < len(p) {
		m, err := bytes.NewReader(o.rest).ReadAt(p[n:], off+int64(n))
		return n + m, err
	}
	return n, nil
}

// FuzzFiles changes bytes of the first records of a volume with files.
func FuzzFiles(f *testing.F) {
	const size = 3 * quantity.MiB
	image := makeVolume(f, size)
	dir := f.TempDir()
	disktest.Run(f, "", "ntfs-3g", image, dir)
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte(name), 3000), 0o644); err != nil {
			f.Fatal(err)
		}
	}
	disktest.Run(f, "", "umount", dir)
	whole, err := os.ReadFile(image)
	if err != nil {
		f.Fatal(err)
	}
	v := open(f, image)
	mft := v.clusterOffset(v.mftCluster)
	f.Add([]byte{})
	f.Add([]byte{0x00, 0x60, 0x16, 0x01, 0x00, 0x64, 0x40, 0xff})
	f.Fuzz(func(t *testing.T, patches []byte) {
		b := bytes.Clone(whole)
		for ; len(patches) >= 4; patches = patches[4:] {
			b[int(mft)+(int(patches[0])<<8|int(patches[1]))] = patches[3]
		}
		files, err := Files(bytes.NewReader(b), size)
		if err != nil && files != nil {
			t.Error("Files returns files beside an error")
		}
		for _, x := range files {
			for _, e := range x.Extents {
				if e.Start < 0 || e.Length <= 0 || e.End() > size {
					t.Fatalf("%s lies at %v", x.Path, e)
				}
			}
		}
	})
}
