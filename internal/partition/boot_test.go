package partition_test

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/partition"
	"clonecast/internal/partition/table"
	"clonecast/internal/quantity"
)

// TestBootGap reads disks whose first partition begins far in, with and without something in the
// gap in front of it.
func TestBootGap(t *testing.T) {
	const size = 400 * quantity.MiB
	for _, tc := range []struct {
		name  string
		label string
		first quantity.Bytes // where the first partition begins
		put   map[quantity.Bytes]string
		asked quantity.Bytes
		want  string // boot areas by start and end
		left  string // what the note says
	}{
		{"usual place", "dos", quantity.MiB, nil, 0, "512-1M", ""},
		{"usual place", "gpt", quantity.MiB, nil, 0, "17408-1M", ""},
		{"a board's place", "dos", 16 * quantity.MiB, nil, 0, "512-16M", ""},
		{"a board's place", "gpt", 8 * quantity.MiB, nil, 0, "17408-8M", ""},
		{"far in", "dos", 300 * quantity.MiB, nil, 0, "512-1M", "299.0 MiB"},
		{"far in", "gpt", 300 * quantity.MiB, nil, 0, "17408-1M", "299.0 MiB"},
		{"far in, with GRUB", "gpt", 300 * quantity.MiB, map[quantity.Bytes]string{40 * 512: "GRUB"}, 0, "17408-1M",
			"299.0 MiB"},
		{"far in, with Allwinner's loader", "dos", 300 * quantity.MiB,
			map[quantity.Bytes]string{8*quantity.KiB + 4: "eGON.BT0"}, 0, "512-16M", "284.0 MiB"},
		{"far in, with Rockchip's loader", "gpt", 300 * quantity.MiB,
			map[quantity.Bytes]string{32 * quantity.KiB: "\x3b\x8c\xdc\xfc"}, 0, "17408-16M", "284.0 MiB"},
		{"far in, with U-Boot at 8 MiB", "gpt", 300 * quantity.MiB,
			map[quantity.Bytes]string{8 * quantity.MiB: tree(1000)}, 0, "17408-16M", "284.0 MiB"},
		{"far in, with no image at 8 MiB", "gpt", 300 * quantity.MiB,
			map[quantity.Bytes]string{8 * quantity.MiB: tree(1000)[:8]}, 0, "17408-1M", "299.0 MiB"},
		{"far in, with images of U-Boot", "dos", 300 * quantity.MiB,
			map[quantity.Bytes]string{20 * quantity.MiB: tree(5000), 30 * quantity.MiB: legacy(quantity.MiB - 64),
				40 * quantity.MiB: legacy(100)[1:]},
			0, "512-1M 20M-20979712 30M-31M", "298.0 MiB"},
		{"far in, with images behind their tree", "dos", 300 * quantity.MiB,
			map[quantity.Bytes]string{20 * quantity.MiB: tree(500) +
				"data-size\x00"}, 0, "512-1M 20M-64M", "255.0 MiB"},
		{"far in, with an image too long", "dos", 300 * quantity.MiB,
			map[quantity.Bytes]string{60 * quantity.MiB: legacy(quantity.GiB)}, 0, "512-1M 60M-64M", "295.0 MiB"},
		{"asked for", "dos", 300 * quantity.MiB, nil, 100 * quantity.MiB, "512-100M", "200.0 MiB"},
		{"all asked for", "gpt", 300 * quantity.MiB, nil, quantity.TiB, "17408-300M", ""},
	} {
		t.Run(tc.label+", "+tc.name, func(t *testing.T) {
			path := disktest.Image(t, size)
			disktest.Run(t, fmt.Sprintf("label: %s\n3 : start=%d, size=2048\n", tc.label, tc.first/512), "sfdisk",
				"-q", path)
			f := disktest.Open(t, path)
			for at, b := range tc.put {
				if _, err := f.WriteAt([]byte(b), int64(at)); err != nil {
					t.Fatal(err)
				}
			}
			got, err := table.Options{BootGap: tc.asked}.Read(f, size, 512)
			if err != nil {
				t.Fatal(err)
			}
			if err := got.Check(size); err != nil {
				t.Error(err)
			}
			if areas := bootAreas(got); areas != tc.want {
				t.Errorf("boot areas %s, want %s", areas, tc.want)
			}
			if left := strings.Join(got.Notes, "; "); !strings.HasPrefix(left, tc.left) ||
				(left == "") != (tc.left == "") {
				t.Errorf("notes %q, want %q", got.Notes, tc.left)
			}
		})
	}
}

// TestGapBehindEBR: the same goes for the room between an EBR and its logical partition.
func TestGapBehindEBR(t *testing.T) {
	const size = 400 * quantity.MiB
	path := disktest.Image(t, size)
	disktest.Run(t, "label: dos\nstart=63, size=100\nstart=40960, size=700000, type=5\nstart=43008, size=100\n",
		"sfdisk", "-qf", path)
	f := disktest.Open(t, path)
	got, err := table.Read(f, size, 512)
	if err != nil {
		t.Fatal(err)
	}
	if areas := bootAreas(got); areas != "512-32256 20972032-21M" || len(got.Notes) != 0 {
		t.Errorf("as sfdisk makes it: boot areas %s, notes %q", areas, got.Notes)
	}
	// The first logical partition was made smaller from its front.
	sector := make([]byte, 4)
	binary.LittleEndian.PutUint32(sector, 400000)
	if _, err := f.WriteAt(sector, 40960*512+446+8); err != nil {
		t.Fatal(err)
	}
	if got, err = table.Read(f, size, 512); err != nil {
		t.Fatal(err)
	}
	if areas := bootAreas(got); areas != "512-32256 20972032-22020608" || len(got.Notes) != 1 {
		t.Errorf("a logical partition far behind its EBR: boot areas %s, notes %q", areas, got.Notes)
	}
}

// TestGRUBFits makes the largest core image that GRUB has modules for: the usual gap must hold it.
func TestGRUBFits(t *testing.T) {
	modules, err := filepath.Glob("/usr/lib/grub/i386-pc/*.mod")
	if err != nil || len(modules) < 100 {
		t.Fatalf("%d modules of GRUB, %v (make deps installs the tools the tests need)", len(modules), err)
	}
	core := filepath.Join(t.TempDir(), "core.img")
	args := []string{"-O", "i386-pc", "-p", "/boot/grub", "-o", core}
	for _, name := range strings.Fields("biosdisk part_gpt part_msdos btrfs zfs zfscrypt luks luks2 lvm " +
		"raid6rec raid5rec mdraid1x dm_nv ldm ext2 xfs ntfs " +
		"f2fs normal linux search search_fs_uuid gfxterm png jpeg all_video http tftp") {
		args = append(args, name)
	}
	disktest.Run(t, "", "grub-mkimage", args...)
	info, err := os.Stat(core)
	if err != nil {
		t.Fatal(err)
	}
	if n := quantity.Bytes(info.Size()); n < 200*quantity.KiB || n > partition.BootUsual-64*quantity.KiB {
		t.Errorf("GRUB's core image has %v, the usual gap %v", n, partition.BootUsual)
	}
}

// bootAreas shows the boot areas by start and end, in MiB where they are whole.
func bootAreas(table partition.Table) string {
	show := func(b quantity.Bytes) string {
		if b%quantity.MiB == 0 {
			return fmt.Sprintf("%dM", b/quantity.MiB)
		}
		return fmt.Sprint(int64(b))
	}
	var out []string
	for _, a := range table.Areas {
		if a.Kind == partition.AreaBoot {
			out = append(out, show(a.Start)+"-"+show(a.Start+a.Length))
		}
	}
	return strings.Join(out, " ")
}

// tree is the start of a device tree of n bytes.
func tree(n uint32) string {
	b := make([]byte, 64)
	for i, word := range []uint32{0xd00dfeed, n, 56, n - 8, 40, 17, 16} {
		binary.BigEndian.PutUint32(b[4*i:], word)
	}
	return string(b)
}

// legacy is the header of an image of n bytes in U-Boot's old format.
func legacy(n quantity.Bytes) string {
	b := make([]byte, 64)
	binary.BigEndian.PutUint32(b, 0x27051956)
	binary.BigEndian.PutUint32(b[12:], uint32(n))
	binary.BigEndian.PutUint32(b[4:], crc32.ChecksumIEEE(b))
	return string(b)
}
