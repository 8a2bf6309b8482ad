package fat

import (
	"bytes"
	"errors"
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

// Names of all kinds, as mtools writes them.
func TestFilesNames(t *testing.T) {
	image := makeVolume(t, 40*quantity.MiB, "-F", "32", "-s", "1")
	dir := t.TempDir()
	deep := filepath.Join(dir, strings.Repeat("Ein langer Verzeichnisname/", 8))
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{
		"UPPER.TXT", "lower.txt", "Mixed.Txt", "no extension", "EXT.low", "Schüler Ω 日本.dat", "a",
		strings.Repeat("x", 200), "exactly13char", ".hidden", "two.dots.txt",
	} {
		for _, where := range []string{dir, deep} {
			if err := os.WriteFile(filepath.Join(where, name), bytes.Repeat([]byte(name), 100*i), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := disktest.Hashes(t, dir)
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	mcopy := append([]string{"LC_ALL=C.UTF-8", "mcopy", "-s", "-Q", "-i", image}, names...)
	disktest.Run(t, "", "env", append(mcopy, "::/")...)
	f := disktest.Open(t, image)
	files, err := Files(f, 40*quantity.MiB)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, disktest.HashesOf(t, f, files)); diff != "" {
		t.Errorf("files (-kernel's +ours):\n%s", diff)
	}
}

// tree is a small volume with files. In the regions that say where they are, bytes are
// changed by the tests: the boot sector, the FAT, the first directories.
type tree struct {
	size    quantity.Bytes
	whole   []byte
	regions []quantity.Extent
}

func makeTree(t testing.TB, size quantity.Bytes, width, sectors string) tree {
	t.Helper()
	image := makeVolume(t, size, "-F", width, "-s", sectors)
	disktest.FillFAT(t, image, 20, 20_000)
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	g, err := parseBoot(b[:bootSectorSize], size)
	if err != nil {
		t.Fatal(err)
	}
	return tree{size, b, []quantity.Extent{
		{Start: 0, Length: 64},
		{Start: g.fat, Length: 512},
		{Start: g.data - 512, Length: 8 * quantity.KiB},
	}}
}

func trees(t testing.TB) []tree {
	t.Helper()
	return []tree{
		makeTree(t, 8*quantity.MiB, "12", "8"),
		makeTree(t, 16*quantity.MiB, "16", "1"),
		makeTree(t, 40*quantity.MiB, "32", "1"),
	}
}

// patched reads the volume as it was made, but for the patches.
type patched struct {
	tree
	patches map[int64]byte
}

func (p *patched) ReadAt(b []byte, off int64) (int, error) {
	n, err := bytes.NewReader(p.whole).ReadAt(b, off)
	for at, v := range p.patches {
		if at >= off && at < off+int64(n) {
			b[at-off] = v
		}
	}
	return n, err
}

func (p *patched) set(region int, at int, v byte) {
	r := p.regions[region%len(p.regions)]
	p.patches[int64(r.Start)+int64(at)%int64(r.Length)] = v
}

func (p *patched) check(t *testing.T) error {
	t.Helper()
	files, err := Files(p, p.size)
	if err != nil && files != nil {
		t.Error("Files returns files beside an error")
	}
	for _, f := range files {
		for _, e := range f.Extents {
			if e.Start < 0 || e.Length <= 0 || e.End() > p.size {
				t.Fatalf("%s lies at %v", f.Path, e)
			}
		}
	}
	return err
}

// Damaged volumes: an error with a type, or files that lie inside; never a panic or a loop.
func TestFilesOfDamagedVolume(t *testing.T) {
	for _, disk := range trees(t) {
		if err := (&patched{tree: disk}).check(t); err != nil {
			t.Fatal(err)
		}
		corrupted := 0
		for seed := range uint64(1500) {
			rnd := rand.New(rand.NewPCG(seed, 4))
			p := patched{disk, map[int64]byte{}}
			for range 1 + rnd.IntN(4) {
				p.set(min(2, rnd.IntN(20)), rnd.IntN(8192), byte(rnd.Uint32()))
			}
			var corrupt *filesystem.CorruptError
			switch err := p.check(t); {
			case errors.As(err, &corrupt):
				corrupted++
			case err != nil && !errors.Is(err, filesystem.ErrNotFound):
				t.Fatalf("seed %d: %v has no type", seed, err)
			}
		}
		if corrupted < 30 {
			t.Errorf("%v: only %d of 1500 damaged volumes are found out: the test has lost its bite", disk.size, corrupted)
		}
	}
}

// FuzzFiles changes bytes of the structures of a volume with files.
func FuzzFiles(f *testing.F) {
	disks := trees(f)
	f.Add(uint8(0), []byte{})
	f.Add(uint8(2), []byte{0, 16, 8, 2, 1, 200, 3, 9})
	f.Fuzz(func(t *testing.T, disk uint8, patches []byte) {
		p := patched{disks[int(disk)%len(disks)], map[int64]byte{}}
		for ; len(patches) >= 4; patches = patches[4:] {
			p.set(int(patches[0]), int(patches[1])<<8|int(patches[2]), patches[3])
		}
		_ = p.check(t)
	})
}
