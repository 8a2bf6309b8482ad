package probe

import (
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// piece is what a region of an image holds.
type piece struct {
	off   quantity.Bytes
	bytes []byte
}

// build makes an image of the format and gives its path and its marks.
func (s sample) build(t *testing.T) (image string, marks []piece) {
	t.Helper()
	image = disktest.Image(t, sampleSize)
	if s.fill != nil {
		f := disktest.Open(t, image)
		s.fill(func(off quantity.Bytes, b []byte) {
			if _, err := f.WriteAt(b, int64(off)); err != nil {
				t.Fatal(err)
			}
			marks = append(marks, piece{off, slices.Clone(b)})
		})
		return image, marks
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), make([]byte, 64<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	command := strings.NewReplacer("IMAGE", image, "DIR", dir).Replace(s.make)
	if strings.Contains(command, "LOOP") {
		command = strings.ReplaceAll(command, "LOOP", disktest.Loop(t, image, 512))
	}
	args := strings.Fields(command)
	disktest.Run(t, "yes", args[0], args[1:]...)
	if err := os.Truncate(image, int64(sampleSize)); err != nil { // some tools shorten it
		t.Fatal(err)
	}
	f := disktest.Open(t, image)
	for _, m := range s.marks {
		off := m.off
		if off < 0 {
			off += sampleSize
		}
		b := make([]byte, m.n)
		if err := filesystem.ReadFull(f, b, off); err != nil {
			t.Fatal(err)
		}
		marks = append(marks, piece{off, b})
	}
	return image, marks
}

// built keeps what marksOf gives: making 40 images takes a while.
var built sync.Map

// marksOf gives the marks of a format alone.
func marksOf(t *testing.T, name string) []piece {
	t.Helper()
	if marks, ok := built.Load(name); ok {
		return marks.([]piece)
	}
	image, marks := formats()[name].build(t)
	if err := os.Remove(image); err != nil {
		t.Fatal(err)
	}
	built.Store(name, marks)
	return marks
}

// judge asks blkid. ambivalent tells that it finds marks of several formats.
func judge(t *testing.T, image string) (typ string, ambivalent bool) {
	t.Helper()
	out, err := exec.Command("blkid", "-p", "-o", "value", "-s", "TYPE", image).Output()
	const nothing, several = 2, 8
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == several:
		return "", true
	case errors.As(err, &exit) && exit.ExitCode() == nothing, err == nil:
		return strings.TrimSpace(string(out)), false
	}
	t.Fatalf("blkid (make deps installs it): %v", err)
	return "", false
}

// put writes pieces and gives what was there.
func put(t *testing.T, f interface {
	io.ReaderAt
	io.WriterAt
}, pieces []piece) (old []piece) {
	t.Helper()
	for _, p := range pieces {
		b := make([]byte, len(p.bytes))
		if err := filesystem.ReadFull(f, b, p.off); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(p.bytes, int64(p.off)); err != nil {
			t.Fatal(err)
		}
		old = append(old, piece{p.off, b})
	}
	slices.Reverse(old) // pieces may overlap
	return old
}

// trusted lists formats whose maps are used: the lower layer of each pair.
func trusted() []string {
	out := []string{"ext4", "ntfs", "fat16", "fat32", "exfat", "xfs", "btrfs", "f2fs", "swap"}
	if os.Getenv("CLONECAST_LONG") != "" {
		out = append(out, "ext3", "ext2", "swap 64K")
	}
	return out
}

// readableOnly lists samples whose reader finds no more than the marks, and calls that corrupt.
func readableOnly() []string {
	return []string{
		"ext4", "ext3", "ext2", "jbd", "ntfs", "fat16", "fat32", "exfat", "xfs", "btrfs", "f2fs", "swap", "swap 64K",
	}
}

// TestMatrix puts the marks of each format onto an image of each one that is trusted, once over its
// marks, once under them, and asks blkid. What blkid calls ambivalent is never trusted, and what is
// trusted has the name that blkid gives.
func TestMatrix(t *testing.T) {
	marks := map[string][]piece{}
	images := map[string]string{}
	all := formats()
	for name, s := range all {
		if slices.Contains(trusted(), name) {
			images[name], marks[name] = s.build(t)
		} else {
			marks[name] = marksOf(t, name)
		}
	}
	t.Run("alone", func(t *testing.T) {
		for name, s := range all {
			checkAlone(t, name, s, marks[name])
		}
	})
	for _, lower := range trusted() {
		t.Run(lower, func(t *testing.T) {
			t.Parallel()
			f := disktest.Open(t, images[lower])
			v := disktest.Volume(t, images[lower], Read)
			if typ, ambivalent := judge(t, images[lower]); v.Doubt != nil || ambivalent || blkidName(v) != typ {
				t.Fatalf("Read = %s, doubt %+v; blkid says %q, ambivalent: %v", v.Type, v.Doubt, typ, ambivalent)
			}
			for _, upper := range slices.Sorted(maps.Keys(all)) {
				old := put(t, f, marks[upper])
				checkPair(t, images[lower], lower, "under", upper)
				if overlap(marks[upper], marks[lower]) {
					old = append(put(t, f, marks[lower]), old...)
					checkPair(t, images[lower], lower, "over", upper)
				} else if !sameKind(all[lower], all[upper]) {
					checkBothNamed(t, images[lower], v.Type, nameOf(all[upper]), upper)
				}
				put(t, f, old)
			}
			if v := disktest.Volume(t, images[lower], Read); v.Doubt != nil {
				t.Errorf("the image was not put back: %+v", v.Doubt)
			}
		})
	}
}

// sameKind tells whether no doubt can name both. An XFS may have its own log anywhere.
func sameKind(a, b sample) bool {
	return nameOf(a) == nameOf(b) || a.blkid == "xfs" && b.blkid == "xfs_external_log"
}

// nameOf is what probe calls the format.
func nameOf(s sample) string {
	if s.name != "" {
		return s.name
	}
	return s.blkid
}

// checkAlone holds the marks without anything else to what blkid says of them.
func checkAlone(t *testing.T, name string, s sample, marks []piece) {
	t.Helper()
	image := disktest.Image(t, sampleSize)
	put(t, disktest.Open(t, image), marks)
	if typ, ambivalent := judge(t, image); (typ != s.blkid || ambivalent) && !s.ignored {
		t.Errorf("%s: blkid says %q of the marks, ambivalent: %v; want %q", name, typ, ambivalent, s.blkid)
	}
	v := disktest.Volume(t, image, Read)
	if slices.Contains(readableOnly(), name) {
		return
	}
	if v.Type != nameOf(s) && blkidName(v) != s.blkid || v.Doubt == nil || strings.HasPrefix(v.Doubt.Reason, "ambiguous") {
		t.Errorf("%s: Read = %q, doubt %+v; want %q", name, v.Type, v.Doubt, nameOf(s))
	}
}

// checkPair asks blkid about an image with the marks of two formats.
func checkPair(t *testing.T, image, lower, order, upper string) {
	t.Helper()
	typ, ambivalent := judge(t, image)
	v := disktest.Volume(t, image, Read)
	if v.Doubt == nil && (ambivalent || typ != blkidName(v)) {
		t.Errorf("%s %s %s: trusted as %s; blkid says %q, ambivalent: %v", lower, order, upper, v.Type, typ, ambivalent)
	}
}

// checkBothNamed: where the marks lie apart, the doubt names both formats.
func checkBothNamed(t *testing.T, image, lower, upper, name string) {
	t.Helper()
	v := disktest.Volume(t, image, Read)
	if v.Doubt == nil || !strings.Contains(v.Doubt.Reason, lower) || !strings.Contains(v.Doubt.Reason, upper) {
		t.Errorf("%s and %s: Read = %s, doubt %+v; want both names", lower, name, v.Type, v.Doubt)
	}
}

// overlap tells whether a piece of one covers bytes of the other.
func overlap(a, b []piece) bool {
	for _, x := range a {
		for _, y := range b {
			if x.off < y.off+quantity.Bytes(len(y.bytes)) && y.off < x.off+quantity.Bytes(len(x.bytes)) {
				return true
			}
		}
	}
	return false
}

// blkidName is blkid's name for the type, which knows no widths of FAT.
func blkidName(v filesystem.Volume) string {
	if strings.HasPrefix(v.Type, "fat") {
		return "vfat"
	}
	return v.Type
}

// TestFresh makes each file system over the whole image of another. Where blkid is in no doubt about
// the outcome, neither is Read: a mark that mkfs leaves behind must not cost a user his map.
func TestFresh(t *testing.T) {
	all := formats()
	olds := append(trusted(), "luks 2", "md 1.2", "iso9660", "gfs2", "jfs", "reiserfs")
	images := map[string]string{}
	for _, old := range olds {
		images[old], _ = all[old].build(t)
	}
	for _, fresh := range trusted() {
		t.Run(fresh, func(t *testing.T) {
			t.Parallel()
			clear := 0
			for _, old := range olds {
				image := filepath.Join(t.TempDir(), "image")
				disktest.Run(t, "", "cp", "--sparse=always", images[old], image)
				args := strings.Fields(strings.ReplaceAll(all[fresh].make, "IMAGE", image))
				disktest.Run(t, "", args[0], args[1:]...)
				typ, ambivalent := judge(t, image)
				if ambivalent {
					continue
				}
				clear++
				if v := disktest.Volume(t, image, Read); v.Doubt != nil || blkidName(v) != typ {
					t.Errorf("%s over %s: Read = %s, doubt %+v; blkid says %q", fresh, old, v.Type, v.Doubt, typ)
				}
				if err := os.Remove(image); err != nil {
					t.Fatal(err)
				}
			}
			if clear < len(olds)/2 {
				t.Errorf("blkid is sure about %d of %d", clear, len(olds))
			}
		})
	}
}
