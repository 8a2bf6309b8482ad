package probe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/quantity"
	"github.com/google/go-cmp/cmp"
)

// TestMatchesBlkid compares with blkid on what the formats' own tools make.
func TestMatchesBlkid(t *testing.T) {
	tests := map[string]struct {
		size quantity.Bytes
		make []string // IMAGE stands for the image, DIR for a directory of files
		map_ bool     // the allocation map is given
		typ  string   // where it is not blkid's
	}{
		"ext4":     {64 * quantity.MiB, []string{"mkfs.ext4", "-q", "-L", "root", "IMAGE"}, true, ""},
		"ext3":     {64 * quantity.MiB, []string{"mkfs.ext3", "-q", "IMAGE"}, true, ""},
		"ext2":     {64 * quantity.MiB, []string{"mkfs.ext2", "-q", "IMAGE"}, true, ""},
		"swap":     {8 * quantity.MiB, []string{"mkswap", "-q", "-L", "swap one", "IMAGE"}, true, ""},
		"ntfs":     {64 * quantity.MiB, []string{"mkntfs", "-q", "-F", "-Q", "-L", "Windows", "IMAGE"}, true, ""},
		"fat16":    {40 * quantity.MiB, []string{"mkfs.fat", "-F", "16", "-n", "BOOT", "IMAGE"}, true, "fat16"},
		"fat32":    {80 * quantity.MiB, []string{"mkfs.fat", "-F", "32", "IMAGE"}, true, "fat32"},
		"xfs":      {300 * quantity.MiB, []string{"mkfs.xfs", "-q", "-L", "data", "IMAGE"}, true, ""},
		"btrfs":    {128 * quantity.MiB, []string{"mkfs.btrfs", "-q", "-L", "pool one", "IMAGE"}, true, ""},
		"exfat":    {64 * quantity.MiB, []string{"mkfs.exfat", "-L", "camera", "IMAGE"}, true, ""},
		"f2fs":     {64 * quantity.MiB, []string{"mkfs.f2fs", "-q", "IMAGE"}, true, ""},
		"luks1":    {32 * quantity.MiB, []string{"sh", "-c", "echo secret | cryptsetup -q luksFormat --type luks1 --pbkdf-force-iterations 1000 IMAGE"}, false, ""},
		"luks2":    {32 * quantity.MiB, []string{"sh", "-c", "echo secret | cryptsetup -q luksFormat --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 IMAGE"}, false, ""},
		"squashfs": {0, []string{"mksquashfs", "DIR", "IMAGE", "-quiet", "-no-progress", "-noappend"}, false, ""},
		"iso9660":  {0, []string{"xorriso", "-as", "mkisofs", "-quiet", "-o", "IMAGE", "DIR"}, false, ""},
		"bcache":   {32 * quantity.MiB, []string{"make-bcache", "-B", "IMAGE"}, false, ""},
		"unknown":  {32 * quantity.MiB, []string{"true"}, false, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			image := makeImage(t, tt.size, tt.make)
			v := disktest.Volume(t, image, Read)
			want := [3]string{disktest.Blkid(t, image, "TYPE"), disktest.Blkid(t, image, "UUID"), disktest.Blkid(t, image, "LABEL")}
			if tt.typ != "" {
				want[0] = tt.typ
			}
			got := [3]string{v.Type, v.UUID, v.Label}
			if name == "bcache" || name == "iso9660" { // only named
				got[1], want[1], got[2], want[2] = "", "", "", ""
			}
			if got != want {
				t.Errorf("Read = %q, blkid says %q", got, want)
			}
			if (v.Doubt == nil) != tt.map_ || (v.Allocated != nil) != tt.map_ {
				t.Errorf("Doubt %+v, %d extents; want a map: %v", v.Doubt, len(v.Allocated), tt.map_)
			}
		})
	}
}

// TestMade checks formats whose tools need a kernel or do not exist for Linux,
// against blkid where it goes by the mark alone.
func TestMade(t *testing.T) {
	const size = 8 * quantity.MiB
	at := func(off int, s string) func([]byte) { return func(b []byte) { copy(b[off:], s) } }
	tests := map[string]struct {
		fill    func(b []byte)
		want    string
		refuse  bool
		byBlkid bool
	}{
		"BitLocker":       {at(0, "\xeb\x58\x90-FVE-FS-"), "BitLocker", true, false},
		"BitLocker Vista": {at(0, "\xeb\x52\x90-FVE-FS-"), "BitLocker", true, false},
		"ReFS":            {at(0, "\x00\x00\x00ReFS\x00"), "ReFS", false, true},
		"APFS":            {at(32, "NXSB"), "apfs", false, false},
		"HFS+":            {at(0x400, "H+\x00\x04"), "hfsplus", false, false},
		"LVM2 without number": {
			at(512, "LABELONE\x07\x00\x00\x00\x00\x00\x00\x00________LVM2 001"), "", false, true,
		},
		"LVM2": {func(b []byte) {
			copy(b[512:], "LABELONE\x01\x00\x00\x00\x00\x00\x00\x00________LVM2 001"+strings.Repeat("abcdefgh", 4))
		}, "LVM2_member", false, false},
		"md 1.2": {func(b []byte) {
			raidSuperblock(b, 0x1000)
		}, "linux_raid_member", false, true},
		"md 1.0": {func(b []byte) {
			raidSuperblock(b, int(size)-0x2000)
		}, "linux_raid_member", false, true},
		"md at a wrong place": {func(b []byte) {
			raidSuperblock(b, 0x1000)
			binary.LittleEndian.PutUint64(b[0x1000+0x90:], 77)
		}, "", false, true},
		"LUKS2, first header lost": {func(b []byte) {
			copy(b[0x4000:], "SKUL\xba\xbe\x00\x02")
			binary.BigEndian.PutUint64(b[0x4000+0x100:], 0x4000)
		}, "crypto_LUKS", false, true},
		"ZFS": {func(b []byte) {
			for i := range 8 {
				copy(b[128<<10+i<<10:], "\x0c\xb1\xba\x00\x00\x00\x00\x00")
			}
		}, "zfs_member", false, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			b := make([]byte, size)
			tt.fill(b)
			if err := os.WriteFile(image, b, 0o644); err != nil {
				t.Fatal(err)
			}
			v := disktest.Volume(t, image, Read)
			if v.Type != tt.want || v.Doubt == nil || v.Doubt.Refuse != tt.refuse {
				t.Errorf("Read = %q, Doubt %+v; want %q", v.Type, v.Doubt, tt.want)
			}
			if tt.refuse && !strings.Contains(v.Doubt.Remedy, "manage-bde -off C:") {
				t.Errorf("remedy %q does not give the command", v.Doubt.Remedy)
			}
			if tt.byBlkid {
				if got := disktest.Blkid(t, image, "TYPE"); got != tt.want {
					t.Errorf("blkid says %q, want %q", got, tt.want)
				}
			}
		})
	}
}

func raidSuperblock(b []byte, off int) {
	binary.LittleEndian.PutUint32(b[off:], 0xa92b4efc)
	binary.LittleEndian.PutUint32(b[off+4:], 1)
	binary.LittleEndian.PutUint64(b[off+0x90:], uint64(off/512))
	// Version 1 is checked by the sum of the 32-bit words of 256 bytes.
	var sum uint64
	for i := 0; i < 256; i += 4 {
		sum += uint64(binary.LittleEndian.Uint32(b[off+i:]))
	}
	binary.LittleEndian.PutUint32(b[off+0xd8:], uint32(sum)+uint32(sum>>32))
}

func TestAmbiguous(t *testing.T) {
	image := makeImage(t, 64*quantity.MiB, []string{"mkntfs", "-q", "-F", "-Q", "IMAGE"})
	patch(t, image, 0x10040, btrfsMagic)
	v := disktest.Volume(t, image, Read)
	if v.Doubt == nil || !strings.Contains(v.Doubt.Reason, "ambiguous: the partition looks like ntfs and btrfs") || v.Allocated != nil {
		t.Errorf("Read = %q, Doubt %+v", v.Type, v.Doubt)
	}
}

func TestCorrupt(t *testing.T) {
	image := makeImage(t, 64*quantity.MiB, []string{"mkntfs", "-q", "-F", "-Q", "IMAGE"})
	patch(t, image, 0x30, "\x88\x13\x00\x00\x00\x00\x00\x00") // $MFT elsewhere
	v := disktest.Volume(t, image, Read)
	if v.Type != "ntfs" || v.Doubt == nil || !strings.Contains(v.Doubt.Reason, "no FILE signature") || v.Doubt.Remedy == "" {
		t.Errorf("Read = %q, Doubt %+v", v.Type, v.Doubt)
	}
}

// failing gives an error from a certain byte on.
type failing struct {
	io.ReaderAt
	from int64
}

var errDisk = errors.New("input/output error")

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.from {
		return 0, errDisk
	}
	return f.ReaderAt.ReadAt(p, off)
}

func TestReadError(t *testing.T) {
	r := bytes.NewReader(make([]byte, 8<<20))
	if _, err := Read(failing{r, 4 << 20}, 8*quantity.MiB); !errors.Is(err, errDisk) {
		t.Errorf("Read = %v, want the disk's error", err)
	}
	if _, err := Read(bytes.NewReader(nil), 8*quantity.MiB); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Read of a short device = %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

func TestSmall(t *testing.T) {
	for _, size := range []quantity.Bytes{0, 1, 511, 512, 1024, 4096, 65536} {
		v, err := Read(bytes.NewReader(make([]byte, size)), size)
		if err != nil || v.Type != "" || v.Doubt == nil {
			t.Errorf("Read of %d zeros = %+v, %v", int64(size), v, err)
		}
	}
}

func TestSignatures(t *testing.T) {
	const size = 1*quantity.GiB + 12288
	type entry struct {
		Type   string
		Offset quantity.Bytes
	}
	got := map[entry]bool{}
	for _, s := range Signatures(size) {
		got[entry{s.Type, s.Offset}] = true
		if s.Offset < 0 || s.Offset+s.Length() > size || s.Length() < 2 {
			t.Errorf("%s at %d, %d bytes, lies outside", s.Type, int64(s.Offset), int64(s.Length()))
		}
	}
	for _, want := range []entry{
		{"linux_raid_member", size - 8192}, {"linux_raid_member", 1*quantity.GiB - 65536},
		{"zfs_member", 1*quantity.GiB - 128*quantity.KiB}, {"crypto_LUKS", 0x400000},
		{"btrfs", 64*quantity.MiB + 0x40}, {"gpt", size - 512}, {"ext4", 0x438}, {"swap", 4086},
	} {
		if !got[want] {
			t.Errorf("no signature %v", want)
		}
	}
	if diff := cmp.Diff(Signatures(size), Signatures(size)); diff != "" {
		t.Error(diff)
	}
}

func FuzzRead(f *testing.F) {
	for _, s := range Signatures(1 * quantity.MiB) {
		if s.Offset < 64<<10 {
			b := make([]byte, s.Offset+256)
			copy(b[s.Offset:], s.Magic)
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		size := quantity.Bytes(len(b))
		v, err := Read(bytes.NewReader(b), size)
		if err != nil {
			t.Fatalf("Read = %v, but the device can be read", err)
		}
		if (v.Doubt == nil) != (v.Allocated != nil) {
			t.Errorf("Doubt %v with map %v", v.Doubt, v.Allocated)
		}
	})
}

// The helpers below make and read images.

func makeImage(t *testing.T, size quantity.Bytes, command []string) string {
	t.Helper()
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	if size > 0 {
		if err := os.WriteFile(image, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(image, int64(size)); err != nil {
			t.Fatal(err)
		}
	}
	files := filepath.Join(dir, "files")
	if err := os.Mkdir(files, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(files, "a"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	var args []string
	for _, a := range command {
		args = append(args, strings.NewReplacer("IMAGE", image, "DIR", files).Replace(a))
	}
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v (make deps installs the tools)\n%s", strings.Join(args, " "), err, out)
	}
	return image
}

func patch(t *testing.T, image string, off int64, s string) {
	t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(s), off); err != nil {
		t.Fatal(err)
	}
}
