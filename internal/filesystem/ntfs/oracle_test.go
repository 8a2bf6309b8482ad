package ntfs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
	"github.com/google/go-cmp/cmp"
)

// TestScribble is the acceptance test of the reader: what it calls free is
// overwritten, and the volume must not notice.
func TestScribble(t *testing.T) {
	tests := map[string]struct {
		size quantity.Bytes
		mkfs []string
	}{
		"512 B clusters":  {40 * quantity.MiB, []string{"-c", "512"}},
		"4 KiB clusters":  {64*quantity.MiB + 3*512, []string{"-c", "4096", "-L", "Schülerdaten"}},
		"64 KiB clusters": {96 * quantity.MiB, []string{"-c", "65536"}},
		"4 KiB sectors":   {64 * quantity.MiB, []string{"-s", "4096"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			image := makeVolume(t, tt.size, tt.mkfs...)
			var want map[string]string
			mounted(t, image, func(dir string) {
				populate(t, dir, 300)
				want = hashTree(t, dir)
			})
			v := readImage(t, image)
			if v.Doubt != nil {
				t.Fatalf("Doubt = %+v, want none", v.Doubt)
			}
			got := [3]string{v.Type, v.UUID, v.Label}
			if want := [3]string{blkid(t, image, "TYPE"), blkid(t, image, "UUID"), blkid(t, image, "LABEL")}; got != want {
				t.Errorf("identity = %q, blkid says %q", got, want)
			}
			scribble(t, image, v.Allocated)
			tool(t, "ntfsresize", "-i", "-f", image)
			tool(t, "ntfsfix", "-n", image)
			mounted(t, image, func(dir string) {
				if diff := cmp.Diff(want, hashTree(t, dir)); diff != "" {
					t.Errorf("files changed (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestMatchesNtfsinfo compares the number of free clusters with another reader's.
func TestMatchesNtfsinfo(t *testing.T) {
	image := makeVolume(t, 64*quantity.MiB)
	mounted(t, image, func(dir string) { populate(t, dir, 100) })
	v := readImage(t, image)
	info := tool(t, "ntfsinfo", "-m", "-f", image)
	var total, free int64
	for line := range strings.Lines(info) {
		fmt.Sscanf(strings.TrimSpace(line), "Volume Size in Clusters: %d", &total)
		fmt.Sscanf(strings.TrimSpace(line), "Free Clusters: %d", &free)
	}
	tail := 64*quantity.MiB - quantity.Bytes(total)*v.BlockSize
	if got := quantity.Total(v.Allocated) - tail; total == 0 || got != quantity.Bytes(total-free)*v.BlockSize {
		t.Errorf("allocated %d bytes, ntfsinfo says %d of %d clusters free", int64(got), free, total)
	}
}

// TestFragmentedMFT provokes an attribute list in $MFT: on a volume full of
// small files with every other one deleted, $MFT grows into single free clusters.
func TestFragmentedMFT(t *testing.T) {
	const size = 40 * quantity.MiB
	image := makeVolume(t, size, "-c", "512", "-z", "1")
	var want map[string]string
	mounted(t, image, func(dir string) {
		fillWithHoles(t, dir)
		want = hashTree(t, dir)
	})
	if v := open(t, image); len(v.mft.runs) < 100 {
		t.Fatalf("$MFT has only %d runs: the volume did not get fragmented", len(v.mft.runs))
	} else if r, err := v.readRecord(recordMFT); err != nil {
		t.Fatal(err)
	} else if _, err := r.find(typeList, ""); err != nil {
		t.Fatalf("$MFT with %d runs has no attribute list: %v", len(v.mft.runs), err)
	}
	scribble(t, image, readImage(t, image).Allocated)
	mounted(t, image, func(dir string) {
		if diff := cmp.Diff(want, hashTree(t, dir)); diff != "" {
			t.Errorf("files changed (-want +got):\n%s", diff)
		}
	})
}

// fillWithHoles fills the volume with files of one cluster, deletes every other
// one, and then makes files that live in $MFT alone.
func fillWithHoles(t *testing.T, dir string) {
	t.Helper()
	filler := bytes.Repeat([]byte("x"), 1024)
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 26<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	var made []string
	for i := range 100000 {
		name := filepath.Join(dir, fmt.Sprintf("f%05d", i))
		if err := os.WriteFile(name, filler, 0o644); err != nil {
			os.Remove(name)
			break // full
		}
		made = append(made, name)
	}
	for i, name := range made {
		if i%2 == 0 {
			if err := os.Truncate(name, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range len(made) / 2 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("r%05d", i)), nil, 0o644); err != nil {
			break
		}
	}
}

// The helpers below make, mount and read volumes.

func makeVolume(t testing.TB, size quantity.Bytes, args ...string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "ntfs.img")
	if err := os.WriteFile(image, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, int64(size)); err != nil {
		t.Fatal(err)
	}
	tool(t, "mkntfs", append(append([]string{"-q", "-F", "-Q"}, args...), image)...)
	return image
}

// mounted mounts image with ntfs-3g, calls f, and unmounts it.
func mounted(t *testing.T, image string, f func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	tool(t, "ntfs-3g", image, dir)
	defer tool(t, "umount", dir)
	f(dir)
}

// populate writes n files of random size and content and deletes a third.
func populate(t *testing.T, dir string, n int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		sub := filepath.Join(dir, fmt.Sprintf("d%d", i%7))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, rng.IntN(60000))
		for j := range b {
			b[j] = byte(rng.Uint32())
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("file %d.bin", i)), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < n; i += 3 {
		if err := os.Remove(filepath.Join(dir, fmt.Sprintf("d%d", i%7), fmt.Sprintf("file %d.bin", i))); err != nil {
			t.Fatal(err)
		}
	}
}

func hashTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		out[strings.TrimPrefix(path, dir)] = hex.EncodeToString(sum[:])
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) == 0 {
		t.Fatal("no files to compare")
	}
	return out
}

// scribble overwrites every byte of image outside allocated with 0xA5.
func scribble(t *testing.T, image string, allocated []quantity.Extent) {
	t.Helper()
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	if free := quantity.Bytes(len(b)) - quantity.Total(allocated); free == 0 {
		t.Fatal("nothing is free: the test would show nothing")
	}
	end := quantity.Bytes(0)
	for _, e := range append(allocated, quantity.Extent{Start: quantity.Bytes(len(b))}) {
		for i := end; i < e.Start; i++ {
			b[i] = 0xA5
		}
		end = e.End()
	}
	if err := os.WriteFile(image, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func readImage(t testing.TB, image string) filesystem.Volume {
	t.Helper()
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	v, err := Read(bytes.NewReader(b), quantity.Bytes(len(b)))
	if err != nil {
		t.Fatalf("Read: %v", err)
	}
	return v
}

// open gives the volume in image with $MFT loaded.
func open(t testing.TB, image string) *volume {
	t.Helper()
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	v := &volume{r: bytes.NewReader(b), size: quantity.Bytes(len(b))}
	if v.geometry, err = readBoot(v.r, v.size); err != nil {
		t.Fatal(err)
	}
	if err := v.loadMFT(); err != nil {
		t.Fatal(err)
	}
	return v
}

func blkid(t *testing.T, image, tag string) string {
	t.Helper()
	out, err := exec.Command("blkid", "-p", "-o", "value", "-s", tag, image).Output()
	if err != nil {
		return "" // blkid's way to say that there is no such tag
	}
	return strings.TrimSuffix(string(out), "\n")
}

func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v (make deps installs the tools)\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
