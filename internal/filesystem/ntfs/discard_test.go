package ntfs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
	"github.com/google/go-cmp/cmp"
)

// TestDiscards puts the fill bytes over what the reader discards, and 0xA5 over what it
// calls free: only the memory files may change, to zeroes, and the log is empty.
func TestDiscards(t *testing.T) {
	const page, swap = 5<<20 + 3, 700_000
	image := makeVolume(t, 64*quantity.MiB, "-c", "4096")
	var want map[string]string
	mounted(t, image, func(dir string) {
		disktest.Fill(t, dir, 100, 60_000)
		fragment(t, dir)
		write(t, filepath.Join(dir, "PageFile.sys"), bytes.Repeat([]byte("p"), page))
		write(t, filepath.Join(dir, "swapfile.sys"), bytes.Repeat([]byte("s"), swap))
		write(t, filepath.Join(dir, "hiberfil.sys"), append([]byte("wake"), bytes.Repeat([]byte("h"), 100_000)...))
		write(t, filepath.Join(dir, "d0", "pagefile.sys"), bytes.Repeat([]byte("user's own"), 10_000))
		write(t, filepath.Join(dir, "pagefile.sys.bak"), bytes.Repeat([]byte("user's own"), 10_000))
		want = disktest.Hashes(t, dir)
	})
	named := bytes.Repeat([]byte("a named stream"), 1000)
	streams(t, image, func(dir string) { write(t, filepath.Join(dir, "PageFile.sys:kept"), named) })
	v := open(t, image)
	log, size := v.streamPlace(t, recordLogFile)
	overwrite(t, image, log, restartPageOf(size, 100, 1, true))
	overwrite(t, image, log+8192, bytes.Repeat([]byte("RCRD of an old disk "), 400))

	got := disktest.Volume(t, image, Read)
	sizes := map[string]quantity.Bytes{}
	for _, d := range got.Discarded {
		sizes[d.What] = quantity.Total(d.Extents)
		if d.What == "pagefile.sys" && len(d.Extents) < 2 {
			t.Errorf("pagefile.sys is in one piece: the test shows less than it should")
		}
	}
	round := func(n quantity.Bytes) quantity.Bytes { return (n + 4095) &^ 4095 }
	wantSizes := map[string]quantity.Bytes{
		"$LogFile": size, "pagefile.sys": round(page), "swapfile.sys": round(swap), "hiberfil.sys": round(100_004),
	}
	if diff := cmp.Diff(wantSizes, sizes); diff != "" {
		t.Fatalf("discarded (-want +got):\n%s", diff)
	}
	disktest.Scribble(t, image, got.Allocated)
	applyDiscards(t, image, got.Discarded)

	disktest.Run(t, "", "ntfsresize", "-i", "-f", image)
	disktest.Run(t, "", "ntfsfix", "-n", image)
	if code := ntfs3gProbe(t, image); code != 0 {
		t.Errorf("ntfs-3g.probe exits with %d", code)
	}
	if after := disktest.Volume(t, image, Read); after.Doubt != nil || !cmp.Equal(after.Allocated, got.Allocated) {
		t.Errorf("read again: doubt %+v, %d bytes allocated, want %d",
			after.Doubt, quantity.Total(after.Allocated), quantity.Total(got.Allocated))
	}
	mounted(t, image, func(dir string) {
		for name, size := range map[string]int{"PageFile.sys": page, "swapfile.sys": swap, "hiberfil.sys": 100_004} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil || !bytes.Equal(b, make([]byte, size)) {
				t.Errorf("%s is not %d zeroes: %d bytes, %v", name, size, len(b), err)
			}
		}
		after := disktest.Hashes(t, dir)
		for _, name := range []string{"/PageFile.sys", "/swapfile.sys", "/hiberfil.sys"} {
			delete(want, name)
			delete(after, name)
		}
		if diff := cmp.Diff(want, after); diff != "" {
			t.Errorf("other files changed (-want +got):\n%s", diff)
		}
	})
	streams(t, image, func(dir string) {
		if b, err := os.ReadFile(filepath.Join(dir, "PageFile.sys:kept")); err != nil || !bytes.Equal(b, named) {
			t.Errorf("the named stream of the page file is %.40q, %v", b, err)
		}
	})
}

// TestDiscardsNothing: data that is no page file's, or does not lie on the disk as it reads.
func TestDiscardsNothing(t *testing.T) {
	tests := map[string]func(t *testing.T, dir string){
		"no memory files": func(t *testing.T, dir string) { write(t, filepath.Join(dir, "a"), make([]byte, 50_000)) },
		"resident":        func(t *testing.T, dir string) { write(t, filepath.Join(dir, "pagefile.sys"), []byte("small")) },
		"a directory": func(t *testing.T, dir string) {
			if err := os.Mkdir(filepath.Join(dir, "pagefile.sys"), 0o755); err != nil {
				t.Fatal(err)
			}
		},
		"a hole": func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "swapfile.sys"), nil)
			if err := os.Truncate(filepath.Join(dir, "swapfile.sys"), 1<<20); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, files := range tests {
		t.Run(name, func(t *testing.T) {
			image := makeVolume(t, 24*quantity.MiB)
			mounted(t, image, func(dir string) { files(t, dir) })
			got := disktest.Volume(t, image, Read)
			if len(got.Discarded) != 1 || got.Discarded[0].What != "$LogFile" {
				t.Errorf("discarded %+v, want only $LogFile", got.Discarded)
			}
		})
	}
	t.Run("doubt", func(t *testing.T) {
		image := makeVolume(t, 24*quantity.MiB)
		volumeFlags(volumeDirty)(t, image)
		if got := disktest.Volume(t, image, Read); got.Doubt == nil || got.Discarded != nil {
			t.Errorf("doubt %+v, discarded %v, want nothing discarded of a dirty volume", got.Doubt, got.Discarded)
		}
	})
}

// fragment fills the volume with files and deletes every other one, so that what is
// written next has many pieces.
func fragment(t *testing.T, dir string) {
	t.Helper()
	for i := 0; ; i++ {
		name := filepath.Join(dir, fmt.Sprintf("x%d", i))
		if err := os.WriteFile(name, bytes.Repeat([]byte("x"), 256<<10), 0o644); err != nil {
			break // full
		}
	}
	for i := 0; ; i += 2 {
		if err := os.Remove(filepath.Join(dir, fmt.Sprintf("x%d", i))); err != nil {
			break // no more
		}
	}
}

func applyDiscards(t *testing.T, image string, discards []filesystem.Discard) {
	t.Helper()
	for _, d := range discards {
		for _, e := range d.Extents {
			overwrite(t, image, e.Start, bytes.Repeat([]byte{d.Fill}, int(e.Length)))
		}
	}
}

// streams mounts image so that named streams are files NAME:STREAM.
func streams(t *testing.T, image string, f func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	disktest.Run(t, "", "ntfs-3g", "-o", "streams_interface=windows", image, dir)
	defer disktest.Run(t, "", "umount", dir)
	f(dir)
}
