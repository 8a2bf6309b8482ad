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

	"github.com/google/go-cmp/cmp"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// TestMatchesBlkid compares with blkid on what the formats' own tools make.
func TestMatchesBlkid(t *testing.T) {
	tests := map[string]struct {
		size quantity.Bytes
		make []string // IMAGE stands for the image, DIR for a directory of files
		map_ bool     // the allocation map is given
		typ  string   // where it is not blkid's
	}{
		"ext4":  {64 * quantity.MiB, []string{"mkfs.ext4", "-q", "-L", "root", "IMAGE"}, true, ""},
		"ext3":  {64 * quantity.MiB, []string{"mkfs.ext3", "-q", "IMAGE"}, true, ""},
		"ext2":  {64 * quantity.MiB, []string{"mkfs.ext2", "-q", "IMAGE"}, true, ""},
		"swap":  {8 * quantity.MiB, []string{"mkswap", "-q", "-L", "swap one", "IMAGE"}, true, ""},
		"ntfs":  {64 * quantity.MiB, []string{"mkntfs", "-q", "-F", "-Q", "-L", "Windows", "IMAGE"}, true, ""},
		"fat16": {40 * quantity.MiB, []string{"mkfs.fat", "-F", "16", "-n", "BOOT", "IMAGE"}, true, "fat16"},
		"fat32": {80 * quantity.MiB, []string{"mkfs.fat", "-F", "32", "IMAGE"}, true, "fat32"},
		"xfs":   {300 * quantity.MiB, []string{"mkfs.xfs", "-q", "-L", "data", "IMAGE"}, true, ""},
		"btrfs": {128 * quantity.MiB, []string{"mkfs.btrfs", "-q", "-L", "pool one", "IMAGE"}, true, ""},
		"exfat": {64 * quantity.MiB, []string{"mkfs.exfat", "-L", "camera", "IMAGE"}, true, ""},
		"f2fs":  {64 * quantity.MiB, []string{"mkfs.f2fs", "-q", "IMAGE"}, true, ""},
		"luks1": {32 * quantity.MiB, []string{"sh", "-c", "echo secret | cryptsetup -q luksFormat --type luks1 " +
			"--pbkdf-force-iterations 1000 IMAGE"}, false, ""},
		"luks2": {32 * quantity.MiB, []string{"sh", "-c", "echo secret | cryptsetup -q luksFormat --type luks2 " +
			"--pbkdf pbkdf2 --pbkdf-force-iterations 1000 IMAGE"}, false, ""},
		"squashfs": {0, []string{"mksquashfs", "DIR", "IMAGE", "-quiet", "-no-progress", "-noappend"}, false, ""},
		"iso9660":  {0, []string{"xorriso", "-as", "mkisofs", "-quiet", "-o", "IMAGE", "DIR"}, false, ""},
		"bcache":   {32 * quantity.MiB, []string{"make-bcache", "-B", "IMAGE"}, false, ""},
		"unknown":  {32 * quantity.MiB, []string{"true"}, false, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			image := makeImage(t, tt.size, tt.make)
			v := disktest.Volume(t, image, Read)
			want := disktest.Identity(t, image)
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
		"HFS+": {func(b []byte) {
			copy(b[0x400:], "H+\x00\x04")
			copy(b[0x428:], "\x00\x00\x10\x00")
		}, "hfsplus", false, true},
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
	if v.Doubt == nil || v.Allocated != nil ||
		!strings.Contains(v.Doubt.Reason, "ambiguous: the partition looks like ntfs and btrfs") {
		t.Errorf("Read = %q, Doubt %+v", v.Type, v.Doubt)
	}
}

func TestCorrupt(t *testing.T) {
	image := makeImage(t, 64*quantity.MiB, []string{"mkntfs", "-q", "-F", "-Q", "IMAGE"})
	patch(t, image, 0x30, "\x88\x13\x00\x00\x00\x00\x00\x00") // $MFT elsewhere
	v := disktest.Volume(t, image, Read)
	if v.Type != "ntfs" || v.Doubt == nil || v.Doubt.Remedy == "" ||
		!strings.Contains(v.Doubt.Reason, "no FILE signature") {
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
		{"btrfs", 64*quantity.MiB + 0x40}, {"gpt", size - 512}, {"gpt", size - 4096}, {"ext4", 0x438}, {"swap", 4086},
		{"isw_raid_member", size - 1024}, {"isw_raid_member", size - 8192}, {"ddf_raid_member", size - 512},
		{"VMFS_volume_member", quantity.MiB}, {"VMFS", 2 * quantity.MiB}, {"nilfs2", size - 4096 + 6},
		{"drbd", size - 4096 + 60}, {"xfs_external_log", 0}, {"xfs_external_log", 511 * 512}, {"ufs", 65536 + 0x55c},
		{"gfs2", 65536}, {"zfs_member", 16 * quantity.KiB}, {"vfat", 0x1fe}, {"LVM2_member", 512},
	} {
		if !got[want] {
			t.Errorf("no signature %v", want)
		}
	}
	if diff := cmp.Diff(Signatures(size), Signatures(size)); diff != "" {
		t.Error(diff)
	}
}

// TestSignaturesEndFormats: no format that blkid finds stands where no signature is, so that a deploy
// that zeroes what Areas finds takes every one away.
func TestSignaturesEndFormats(t *testing.T) {
	areas := Areas(sampleSize)
	for name := range formats() {
		marks := marksOf(t, name)
		image := disktest.Image(t, sampleSize)
		f := disktest.Open(t, image)
		put(t, f, marks)
		before, _ := judge(t, image)
		for _, a := range areas {
			b := make([]byte, a.Length)
			if err := filesystem.ReadFull(f, b, a.Start); err != nil {
				t.Fatal(err)
			}
			for _, found := range a.Found(b) {
				put(t, f, []piece{{found.Offset, make([]byte, found.Length())}})
			}
		}
		typ, ambivalent := judge(t, image)
		if v := disktest.Volume(t, image, Read); typ != "" || ambivalent || v.Type != "" {
			t.Errorf("%s: blkid says %q before, %q after its marks are zeroed; Read = %q", name, before, typ, v.Type)
		}
	}
}

// TestDocumented: docs/filesystems.md names every format that is recognised.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../../docs/filesystems.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds(quantity.GiB) {
		if !strings.Contains(string(text), "`"+k.name+"`") {
			t.Errorf("docs/filesystems.md does not name %s", k.name)
		}
	}
}

// TestAreas holds the groups to Signatures.
func TestAreas(t *testing.T) {
	for _, size := range []quantity.Bytes{0, 4096, quantity.MiB, quantity.GiB + 12288, 300 * quantity.GiB} {
		areas := Areas(size)
		var all []Signature
		end := quantity.Bytes(-1)
		for _, a := range areas {
			if a.Start <= end || a.End() > size || a.Length > maxArea+64 {
				t.Errorf("area %v behind %d of %d", a.Extent, int64(end), int64(size))
			}
			end = a.End()
			for _, s := range a.Signatures {
				if s.Offset < a.Start || s.Offset+s.Length() > a.End() {
					t.Errorf("%s at %d lies outside of %v", s.Type, int64(s.Offset), a.Extent)
				}
			}
			all = append(all, a.Signatures...)
		}
		if diff := cmp.Diff(Signatures(size), all); diff != "" {
			t.Errorf("size %d: areas hold other signatures: %s", int64(size), diff)
		}
		if len(areas) > 30 {
			t.Errorf("size %d: %d areas", int64(size), len(areas))
		}
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
	for _, s := range madeByHand() {
		end := make([]byte, 128<<10) // for marks at the end
		s.fill(func(off quantity.Bytes, b []byte) {
			if off < 64<<10 {
				f.Add(append(make([]byte, off), b...))
			} else if back := sampleSize - off; back <= quantity.Bytes(len(end)) {
				copy(end[quantity.Bytes(len(end))-back:], b)
			}
		})
		f.Add(end)
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
		disktest.CheckVolume(t, v, nil, size)
	})
}

// FuzzTail puts any bytes behind a volume.
func FuzzTail(f *testing.F) {
	f.Add([]byte("verity\x00\x00\x01\x00\x00\x00"), int64(70<<20))
	f.Add([]byte("LUKS\xba\xbe"), int64(2<<30))
	f.Add([]byte("x"), int64(1))
	f.Fuzz(func(t *testing.T, b []byte, length int64) {
		const volume = 1 << 20
		size := volume + quantity.Bytes(max(length, 0)%(4<<30))
		v := filesystem.Volume{Type: "ext4", Size: volume, Allocated: []quantity.Extent{{Length: 4096}}}
		out, err := withTail(v, sparse{volume, b, size}, size)
		if err != nil {
			t.Fatal(err)
		}
		disktest.CheckVolume(t, out, nil, size)
		stored := out.Doubt != nil || quantity.Total(out.Allocated) > 4096
		if zero := len(bytes.Trim(b[:min(len(b), int(size-volume))], "\x00")) == 0; zero && stored {
			t.Errorf("a tail of zeroes: %+v, doubt %+v", out, out.Doubt)
		} else if !zero && !stored && len(out.Notes) == 0 {
			t.Errorf("a tail of %d bytes is dropped without a note", int64(size-volume))
		}
	})
}

// sparse is a partition of zeroes but for some bytes at one place.
type sparse struct {
	at    int64
	bytes []byte
	size  quantity.Bytes
}

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	n := int(min(int64(len(p)), max(int64(s.size)-off, 0)))
	clear(p[:n])
	for i := range p[:n] {
		if at := off + int64(i) - s.at; at >= 0 && at < int64(len(s.bytes)) {
			p[i] = s.bytes[at]
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
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
