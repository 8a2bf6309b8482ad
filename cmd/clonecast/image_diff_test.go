package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/quantity"
)

// change does to a mounted volume with 60 files what users do.
func change(t *testing.T, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	edit := func(name string, f func(b []byte) []byte) {
		t.Helper()
		b, err := os.ReadFile(file(name))
		must(err)
		must(os.WriteFile(file(name), f(b), 0o644))
	}
	edit("d1/file 1", func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
	edit("d2/file 2", func(b []byte) []byte { return append(b, "more"...) })
	edit("d4/file 4", func(b []byte) []byte { return b[:len(b)/2] })
	must(os.Remove(file("d5/file 5")))
	must(os.Rename(file("d0/file 7"), file("d0/renamed")))
	must(os.WriteFile(file("d0/new"), bytes.Repeat([]byte("new "), 5000), 0o644))
	must(os.WriteFile(file("d0/tiny"), []byte("x"), 0o644))
	// The same bytes in other blocks: no change.
	b, err := os.ReadFile(file("d1/file 8"))
	must(err)
	must(os.WriteFile(file("copy"), b, 0o644))
	must(os.Remove(file("d1/file 8")))
	must(os.Rename(file("copy"), file("d1/file 8")))
}

var changes = []string{
	"changed d1/file 1", "changed d2/file 2", "changed d4/file 4",
	"removed d5/file 5", "removed d0/file 7",
	"added d0/renamed", "added d0/new", "added d0/tiny",
}

func TestImageDiffFiles(t *testing.T) {
	for name, fs := range map[string]struct{ mkfs, mount string }{
		"ext4": {"mkfs.ext4 -q -F DEV", "mount -t ext4 DEV DIR"},
		"ext2": {"mkfs.ext2 -q -F -b 1024 DEV", "mount -t ext2 DEV DIR"},
		"ntfs": {"mkntfs -q -F -p 0 -H 16 -S 16 DEV", "ntfs-3g DEV DIR"},
	} {
		t.Run(name, func(t *testing.T) {
			image, dir := disktest.Image(t, 48*quantity.MiB), filepath.Join(t.TempDir(), "store")
			dev := disktest.Loop(t, image, 512) // of a block device, the end of umount is that of ntfs-3g, too
			capture := func(f func(t *testing.T, dir string)) {
				t.Helper()
				mnt := disktest.Mount(t, dev, fs.mount)
				f(t, mnt)
				disktest.Unmount(t, mnt)
				runHere(t, "", exitOK, []string{"disk", "capture", dev, "lab", "--store", dir})
			}
			disktest.Command(t, fs.mkfs, "DEV", dev)
			capture(func(t *testing.T, dir string) { disktest.Fill(t, dir, 60, 60_000) })
			capture(change)
			in := []string{"image", "diff", "lab@1", "lab@2", "--files", "--store", dir}
			runHere(t, "", exitOK, in, "    changed d1/file 1 (", "    added   d0/new (")
			out := runHere(t, "", exitOK, append(in, "--json"))
			lines := strings.Split(out, "\n")
			i := slices.IndexFunc(lines, func(s string) bool { return strings.HasPrefix(s, `{"type":"region"`) })
			var r diffRegion
			if err := json.Unmarshal([]byte(lines[max(0, i)]), &r); err != nil || r.Unknown != "" {
				t.Fatalf("%s: %v", out, err)
			}
			var got []string
			for _, f := range r.Files {
				got = append(got, f.Kind+" "+f.Path)
			}
			want := slices.Sorted(slices.Values(changes))
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("files %q, want %q", got, want)
			}
		})
	}
}

// A file system that cannot be listed is compared by its bytes, and the command says so.
func TestImageDiffWithoutFiles(t *testing.T) {
	image, dir := disktest.Image(t, 8*quantity.MiB), filepath.Join(t.TempDir(), "store")
	for i := range byte(2) {
		if err := os.WriteFile(image, bytes.Repeat([]byte{i}, 8<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		runHere(t, "", exitOK, []string{"disk", "capture", image, "lab", "--store", dir})
	}
	runHere(t, "", exitOK, []string{"image", "diff", "lab@1", "lab@2", "--files", "--store", dir},
		"8.0 MiB changed", "files are not compared: the files of")
}
