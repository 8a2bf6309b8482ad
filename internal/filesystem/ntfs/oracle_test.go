package ntfs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"clonecast/internal/disktest"
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
				disktest.Fill(t, dir, 300, 60_000)
				want = disktest.Hashes(t, dir)
			})
			v := disktest.Volume(t, image, Read)
			if v.Doubt != nil {
				t.Fatalf("Doubt = %+v, want none", v.Doubt)
			}
			got := [3]string{v.Type, v.UUID, v.Label}
			if want := disktest.Identity(t, image); got != want {
				t.Errorf("identity = %q, blkid says %q", got, want)
			}
			disktest.Scribble(t, image, v.Allocated)
			disktest.Run(t, "", "ntfsresize", "-i", "-f", image)
			disktest.Run(t, "", "ntfsfix", "-n", image)
			mounted(t, image, func(dir string) {
				if diff := cmp.Diff(want, disktest.Hashes(t, dir)); diff != "" {
					t.Errorf("files changed (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestMatchesNtfsinfo compares the number of free clusters with another reader's.
func TestMatchesNtfsinfo(t *testing.T) {
	image := makeVolume(t, 64*quantity.MiB)
	mounted(t, image, func(dir string) { disktest.Fill(t, dir, 100, 60_000) })
	v := disktest.Volume(t, image, Read)
	info := disktest.Run(t, "", "ntfsinfo", "-m", "-f", image)
	var total, free int64
	for line := range strings.Lines(info) {
		fmt.Sscanf(strings.TrimSpace(line), "Volume Size in Clusters: %d", &total)
		fmt.Sscanf(strings.TrimSpace(line), "Free Clusters: %d", &free)
	}
	const backup = 512 // boot sector
	if got := quantity.Total(v.Allocated) - backup; total == 0 || got != quantity.Bytes(total-free)*v.BlockSize {
		t.Errorf("allocated %d bytes, ntfsinfo says %d of %d clusters free", int64(got), free, total)
	}
}

// TestFragmentedMFT provokes an attribute list in $MFT: on a volume full of
// small files with every other one deleted, $MFT grows into single free clusters.
func TestFragmentedMFT(t *testing.T) {
	const size = 31 * quantity.MiB
	image := makeVolume(t, size, "-c", "512", "-z", "1")
	var want map[string]string
	mounted(t, image, func(dir string) {
		fillWithHoles(t, dir)
		want = disktest.Hashes(t, dir)
	})
	if v := open(t, image); len(v.mft.runs) < 100 {
		t.Fatalf("$MFT has only %d runs: the volume did not get fragmented", len(v.mft.runs))
	} else if r, err := v.readRecord(recordMFT); err != nil {
		t.Fatal(err)
	} else if _, err := r.find(typeList, ""); err != nil {
		t.Fatalf("$MFT with %d runs has no attribute list: %v", len(v.mft.runs), err)
	}
	mutate(t, image, 300) // each takes 10 ms
	disktest.Scribble(t, image, disktest.Volume(t, image, Read).Allocated)
	mounted(t, image, func(dir string) {
		if diff := cmp.Diff(want, disktest.Hashes(t, dir)); diff != "" {
			t.Errorf("files changed (-want +got):\n%s", diff)
		}
	})
}

// fillWithHoles fills the volume with files of one cluster, deletes every other
// one, and then makes files that live in $MFT alone.
func fillWithHoles(t *testing.T, dir string) {
	t.Helper()
	filler := bytes.Repeat([]byte("x"), 1024)
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 18<<20), 0o644); err != nil {
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
	image := disktest.Image(t, size)
	disktest.Run(t, "", "mkntfs", append(append([]string{"-q", "-F", "-Q"}, args...), image)...)
	return image
}

// mounted mounts image with ntfs-3g, calls f, and unmounts it.
func mounted(t *testing.T, image string, f func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	disktest.Run(t, "", "ntfs-3g", image, dir)
	defer disktest.Run(t, "", "umount", dir)
	f(dir)
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
